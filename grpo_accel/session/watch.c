#include "grpo_accel/session/watch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/session/replan.h"

enum {
    PARTS_PER_BATCH = 16,      /* a batch never fills more of the window */
    MEASURED_ROWS_MAX = 32768, /* of an update; larger batches only one by one */
    RESAMPLES = 300,
    EARLY_UPDATES = 16, /* without a probe: looked at more often, so many updates long */
    /* between two trainings that drift asks for; twice as many after each that brings no new probe */
    TRAINING_PAUSE_UPDATES = 10,
    TRAINING_PAUSE_UPDATES_MAX = 640
};

static const double EARLY_FACTOR = 4.0; /* how much more often */
static const double RISK_GAMMA = 0.05;

/* Shares that are tried where decision.keep is auto. */
static const double KEEP_GRID[] = {0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75};

struct ga_watch {
    ga_watch_options options;
    ga_option option[GA_WATCH_OPTIONS_MAX];
    int32_t option_count;
    /* a ring of parts: [GA_WATCH_PARTS, option_count] each */
    ga_energy_part *parts;
    ga_loss_sums *losses;
    ga_agreement agreement[GA_WATCH_PARTS][GA_CANDIDATES_MAX]; /* of the batch whose first part lies there */
    int32_t part_count, next_part;
    ga_arena *scratch; /* of one option's plan */

    ga_risk risk;
    ga_trend trend;
    ga_patience patience;
    ga_patience others; /* verdicts in a row for another option than the one that prunes */
    int32_t current;    /* option that prunes; −1: none */
    uint32_t probe_version;
    bool had_probe;
    int64_t observed_rows;     /* with a reward, since the run began */
    int64_t rows_wanted;       /* for the next first training */
    int32_t updates_gathering; /* without a probe, once costs are known */
    int32_t updates_since_training, training_pause;
    uint32_t told; /* bits of answers that a line has told since the last switch */
    ga_strategy strategy;
};

/* ---- options ---- */

static void add_option(ga_watch *watch, int32_t candidate, int32_t keep_count) {
    if (watch->option_count < GA_WATCH_OPTIONS_MAX) {
        const ga_watch_options *o = &watch->options;
        ga_course *course = &watch->option[watch->option_count++].course;
        *course = (ga_course){.steps_total = o->steps_total, .stage_count = 1};
        course->step[0] = o->candidate_steps[candidate];
        course->candidate[0] = candidate;
        course->keep[0] = (double)keep_count / o->rows;
    }
}

/* Each count of kept rows that the grid gives, once, ascending. */
static void add_grid(ga_watch *watch, int32_t candidate) {
    const int32_t rows = watch->options.rows;
    int32_t last = 0;
    for (size_t i = 0; i < sizeof KEEP_GRID / sizeof *KEEP_GRID; i++) {
        const int32_t wanted = (int32_t)lround(KEEP_GRID[i] * rows);
        const int32_t count = wanted < 1 ? 1 : wanted;
        if (count > last && count < rows) {
            add_option(watch, candidate, count);
            last = count;
        }
    }
}

static void add_told(ga_watch *watch) {
    const ga_watch_options *o = &watch->options;
    ga_course *course = &watch->option[watch->option_count++].course;
    *course = (ga_course){.steps_total = o->steps_total, .stage_count = o->told.stage_count};
    for (int32_t stage = 0; stage < o->told.stage_count; stage++) {
        course->candidate[stage] = o->told.candidate[stage];
        course->step[stage] = o->candidate_steps[o->told.candidate[stage]];
        course->keep[stage] = (double)ga_strategy_keep_count(&o->told, stage, o->rows) / o->rows;
    }
}

static void list_options(ga_watch *watch) {
    const ga_watch_options *o = &watch->options;
    const bool open = o->step_open || o->keep_open;
    if (!open || o->told.stage_count > 1 || o->kind == GA_WATCH_PRUNE) {
        add_told(watch);
        return;
    }
    for (int32_t i = 0; i < o->candidate_count; i++) {
        if (!o->step_open && i != o->told.candidate[0]) {
            continue;
        }
        if (o->keep_open) {
            add_grid(watch, i);
        } else {
            add_option(watch, i, ga_strategy_keep_count(&o->told, 0, o->rows));
        }
    }
}

static ga_status check(const ga_watch_options *o, ga_error *error) {
    bool valid = o->ranks > 0 && o->rows > 0 && o->steps_total > 0 && o->candidate_count > 0 &&
                 o->candidate_count <= GA_CANDIDATES_MAX && o->told.stage_count > 0 &&
                 o->told.stage_count <= GA_STAGES_MAX;
    for (int32_t stage = 0; valid && stage < o->told.stage_count; stage++) {
        valid = o->told.candidate[stage] >= 0 && o->told.candidate[stage] < o->candidate_count;
    }
    return valid ? GA_OK
                 : GA_FAIL(error, GA_ERR_ARGUMENT, "guard of %d ranks, %d rows, %d candidates, %d stages",
                       (int)o->ranks, (int)o->rows, (int)o->candidate_count, (int)o->told.stage_count);
}

ga_status ga_watch_create(const ga_watch_options *options, ga_watch **watch_out, ga_error *error) {
    GA_TRY(check(options, error));
    ga_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the guard");
    }
    watch->options = *options;
    watch->risk = ga_risk_make(options->lost_extremes_max, RISK_GAMMA);
    watch->current = options->kind == GA_WATCH_PRUNE ? 0 : -1;
    watch->rows_wanted = options->rows_wanted;
    watch->updates_since_training = watch->training_pause = TRAINING_PAUSE_UPDATES;
    watch->strategy = options->told;
    watch->strategy.prune = options->kind == GA_WATCH_PRUNE;
    watch->strategy.explore_share = 1.0;
    list_options(watch);
    const size_t places = (size_t)GA_WATCH_PARTS * (ga_size(watch->option_count) + 1);
    watch->parts = calloc(places, sizeof *watch->parts);
    watch->losses = calloc(places, sizeof *watch->losses);
    watch->scratch = ga_arena_create(0);
    if (watch->parts == NULL || watch->losses == NULL || watch->scratch == NULL) {
        ga_watch_destroy(&watch);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the guard");
    }
    *watch_out = watch;
    return GA_OK;
}

void ga_watch_destroy(ga_watch **watch) {
    if (watch == NULL || *watch == NULL) {
        return;
    }
    free((*watch)->parts);
    free((*watch)->losses);
    ga_arena_destroy(&(*watch)->scratch);
    free(*watch);
    *watch = NULL;
}

const ga_option *ga_watch_options_of(const ga_watch *watch, int32_t *count_out) {
    *count_out = watch->option_count;
    return watch->option;
}

/* ---- evidence ---- */

/* The rows of the update's batch `number`, rank after rank. */
static ga_outcome *gather_batch(
    const ga_watch *watch, const ga_watch_update *update, int32_t batch, ga_arena *arena) {
    const int32_t rows = watch->options.rows, ranks = watch->options.ranks;
    ga_outcome *gathered = ga_arena_take(arena, ga_size(rows) * ga_size(ranks), sizeof *gathered);
    for (int32_t rank = 0; rank < ranks && gathered != NULL; rank++) {
        const int64_t first = ((int64_t)rank * update->batches + batch) * rows;
        memcpy(gathered + (int64_t)rank * rows, update->outcomes + first, ga_size(rows) * sizeof *gathered);
    }
    return gathered;
}

/* Were this batch's rows looked at, and those with a reward kept by chance alone? */
static bool is_evidence(const ga_outcome *rows, int32_t count) {
    int32_t kept = 0, audited = 0, observed = 0;
    for (int32_t i = 0; i < count; i++) {
        kept += rows[i].kept != 0;
        audited += rows[i].audit != 0;
        observed += rows[i].observed != 0;
    }
    return observed == count && kept > 0 && (kept == count || audited == count);
}

/* Room in the ring for the parts of a batch, zeroed; returns the first place. They may go round the end, so
 * they are asked for one by one. */
static int32_t take_part(ga_watch *watch) {
    const int32_t place = watch->next_part;
    const size_t first = ga_size(place) * ga_size(watch->option_count);
    memset(watch->parts + first, 0, ga_size(watch->option_count) * sizeof *watch->parts);
    memset(watch->losses + first, 0, ga_size(watch->option_count) * sizeof *watch->losses);
    memset(watch->agreement[place], 0, sizeof watch->agreement[place]);
    watch->next_part = (place + 1) % GA_WATCH_PARTS;
    watch->part_count += watch->part_count < GA_WATCH_PARTS;
    return place;
}

/* What one option would have done, into parts and losses of a batch [part_count, option_count]. */
static ga_status measure_option(ga_watch *watch, const ga_replan *replan, int32_t option,
    ga_energy_part *parts, ga_loss_sums *losses, ga_error *error) {
    if (!ga_replan_can(replan, &watch->option[option].course)) {
        return GA_OK;
    }
    const ga_status status = ga_replan_measure(replan, &watch->option[option].course, &watch->options.plan,
        watch->scratch, watch->option_count, parts + option, losses + option, error);
    ga_arena_reset(watch->scratch);
    return status;
}

/* A row as the agreement counts it, with its prediction at `candidate`; −1: the newest. */
static ga_agreement_row agreement_row(const ga_outcome *row, int32_t candidate) {
    return (ga_agreement_row){.group = row->group,
        .prediction = (double)(candidate >= 0 ? row->candidate_mean[candidate] : row->mean),
        .reward = row->kept ? row->reward : (double)NAN,
        .deviation = sqrt((double)row->variance)};
}

static ga_status add_agreement(const ga_outcome *outcomes, int32_t count, int32_t candidate, ga_arena *arena,
    ga_agreement *sums, ga_error *error) {
    ga_agreement_row *rows = ga_arena_take(arena, ga_size(count) + 1, sizeof *rows);
    if (rows == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the agreement of %d rows", (int)count);
    }
    for (int32_t i = 0; i < count; i++) {
        rows[i] = agreement_row(&outcomes[i], candidate);
    }
    ga_agreement_add(sums, rows, count);
    return GA_OK;
}

/* The loss of the pruning in force on an audited batch steers the level. */
static void learn_risk(ga_watch *watch, const ga_loss_sums *losses, int32_t part_count) {
    ga_loss_sums sums = {0};
    for (int32_t i = 0; i < part_count && watch->current >= 0; i++) {
        const ga_loss_sums *part = &losses[i * watch->option_count + watch->current];
        sums.weight += part->weight;
        sums.lost += part->lost;
    }
    if (sums.weight > 0) {
        ga_risk_learn(&watch->risk, ga_loss_share(&sums));
    }
}

/* A batch's figures as they go into the window. */
typedef struct measured {
    ga_energy_part *parts; /* [part_count, option_count] */
    ga_loss_sums *losses;
    int32_t part_count;
    ga_agreement agreement[GA_CANDIDATES_MAX];
} measured;

static void put_measured(ga_watch *watch, const measured *batch) {
    const size_t options = ga_size(watch->option_count);
    for (int32_t i = 0; i < batch->part_count; i++) {
        const int32_t place = take_part(watch);
        memcpy(watch->parts + ga_size(place) * options, batch->parts + ga_size(i) * options,
            options * sizeof *batch->parts);
        memcpy(watch->losses + ga_size(place) * options, batch->losses + ga_size(i) * options,
            options * sizeof *batch->losses);
        if (i == 0) {
            memcpy(watch->agreement[place], batch->agreement, sizeof batch->agreement);
        }
    }
}

static ga_status measure_options(
    ga_watch *watch, const ga_replan *replan, ga_arena *arena, measured *batch, ga_error *error) {
    const size_t places = ga_size(replan->part_count) * ga_size(watch->option_count);
    batch->part_count = replan->part_count;
    batch->parts = ga_arena_take(arena, places + 1, sizeof *batch->parts);
    batch->losses = ga_arena_take(arena, places + 1, sizeof *batch->losses);
    if (batch->parts == NULL || batch->losses == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the guard's figures");
    }
    for (int32_t option = 0; option < watch->option_count; option++) {
        GA_TRY(measure_option(watch, replan, option, batch->parts, batch->losses, error));
    }
    return GA_OK;
}

static bool can_any(const ga_watch *watch, const ga_replan *replan) {
    bool can = false;
    for (int32_t option = 0; option < watch->option_count && !can; option++) {
        can = ga_replan_can(replan, &watch->option[option].course);
    }
    return can;
}

static ga_status measure_batch(
    ga_watch *watch, const ga_replan_batch *rows, ga_arena *arena, bool *measured_out, ga_error *error) {
    ga_replan replan = {0};
    measured batch = {0};
    GA_TRY(ga_replan_make(rows, &watch->options.plan, PARTS_PER_BATCH, arena, &replan, error));
    if (!can_any(watch, &replan)) {
        return GA_OK;
    }
    GA_TRY(measure_options(watch, &replan, arena, &batch, error));
    for (int32_t candidate = 0; candidate < watch->options.candidate_count; candidate++) {
        GA_TRY(add_agreement(rows->rows, rows->count, candidate, arena, &batch.agreement[candidate], error));
    }
    learn_risk(watch, batch.losses, batch.part_count);
    put_measured(watch, &batch);
    *measured_out = true;
    return GA_OK;
}

/* Every batch of the update that is evidence, as far as the measuring may take; says whether there was one.
 */
static ga_status measure_update(
    ga_watch *watch, const ga_watch_update *update, ga_arena *arena, bool *measured_out, ga_error *error) {
    const int32_t count = watch->options.rows * watch->options.ranks;
    int64_t rows = 0;
    for (int32_t batch = 0; batch < update->batches; batch++) {
        ga_outcome *gathered = gather_batch(watch, update, batch, arena);
        if (gathered == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the guard's %d rows", (int)count);
        }
        if (!is_evidence(gathered, count) || (rows > 0 && rows + count > MEASURED_ROWS_MAX)) {
            continue;
        }
        const ga_replan_batch evidence = {.rows = gathered,
            .count = count,
            .rows_per_rank = watch->options.rows,
            .number = update->first_batch + (uint64_t)batch,
            .tau2 = update->tau2,
            .sigma_r2 = update->sigma_r2};
        GA_TRY(measure_batch(watch, &evidence, arena, measured_out, error));
        rows += count;
    }
    return GA_OK;
}

/* The step whose predictions the trend is about; −1: each row's newest. */
static int32_t focus_of(const ga_watch *watch) {
    if (watch->current < 0) {
        return -1;
    }
    const ga_course *course = &watch->option[watch->current].course;
    return course->candidate[course->stage_count - 1];
}

static ga_status follow_trend(
    ga_watch *watch, const ga_watch_update *update, ga_arena *arena, ga_error *error) {
    ga_agreement sums = {0};
    GA_TRY(add_agreement(update->outcomes, update->count, focus_of(watch), arena, &sums, error));
    if (sums.freedom > 0) {
        ga_trend_add(&watch->trend, &sums);
    }
    return GA_OK;
}

static void read_options(ga_watch *watch) {
    for (int32_t option = 0; option < watch->option_count; option++) {
        ga_loss_sums sums = {0};
        for (int32_t i = 0; i < watch->part_count; i++) {
            const ga_loss_sums *part = &watch->losses[i * watch->option_count + option];
            sums.weight += part->weight;
            sums.squares += part->squares;
            sums.lost += part->lost;
        }
        watch->option[option].losses = sums;
    }
}

static ga_status estimate_options(ga_watch *watch, ga_arena *arena, ga_error *error) {
    ga_energy *energies = ga_arena_take(arena, ga_size(watch->option_count) + 1, sizeof *energies);
    if (energies == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the guard's figures");
    }
    GA_TRY(ga_energy_estimate(watch->parts, watch->part_count, watch->option_count,
        watch->options.guard.confidence, watch->options.plan.seed, RESAMPLES, energies, error));
    for (int32_t option = 0; option < watch->option_count; option++) {
        watch->option[option].energy = energies[option];
    }
    read_options(watch);
    return GA_OK;
}

static void forget_evidence(ga_watch *watch) {
    watch->part_count = watch->next_part = 0;
    watch->trend = (ga_trend){0};
    for (int32_t option = 0; option < watch->option_count; option++) {
        watch->option[option].energy = (ga_energy){
            .value = (double)NAN, .snr2 = (double)NAN, .snr2_low = (double)NAN, .snr2_high = (double)NAN};
        watch->option[option].losses = (ga_loss_sums){0};
    }
}

/* ---- verdict ---- */

/* Agreement of predictions and rewards in the window, at the option's last decision. */
static ga_agreement_figures agreement_of(const ga_watch *watch, int32_t option) {
    const ga_course *course = &watch->option[option].course;
    ga_agreement sums = {0};
    for (int32_t i = 0; i < watch->part_count; i++) {
        ga_agreement_join(&sums, &watch->agreement[i][course->candidate[course->stage_count - 1]]);
    }
    return ga_agreement_read(&sums, watch->options.guard.confidence);
}

/*
 * The correlation from which an option pays. The closed form takes groups of one spread and normal rewards
 * for granted; what was measured knows better: with E = κ + aρ² and a from the window's own worth and
 * correlation, ρ* = ρ·√((C − κ)/(E − κ)). The smaller of both.
 */
static double rho_needed(const ga_watch *watch, const ga_verdict *verdict) {
    const ga_option *option = &watch->option[verdict->option];
    const double keep = option->course.keep[option->course.stage_count - 1];
    const double worth = option->energy.snr2 - keep, price = verdict->cost_ratio - keep;
    const double rho = agreement_of(watch, verdict->option).rho;
    if (!(worth > 0 && price > 0 && rho > 0)) {
        return verdict->break_even_rho;
    }
    return fmin(rho * sqrt(price / worth), verdict->break_even_rho);
}

/* Kept rows speak before audited ones: predictions that no longer order rewards as far as break-even needs.
 */
static void listen_to_trend(ga_watch *watch, ga_verdict *verdict, ga_agreement_figures *figures) {
    const double needed = verdict->option >= 0 ? rho_needed(watch, verdict) : (double)NAN;
    const bool ended = ga_trend_has_ended(&watch->trend, needed, watch->options.guard.confidence, figures);
    if (ended && (verdict->answer == GA_GUARD_PAYS || verdict->answer == GA_GUARD_COSTS_MORE)) {
        verdict->answer = GA_GUARD_UNCORRELATED;
        (void)snprintf(verdict->reason, sizeof verdict->reason,
            "predictions of kept rows correlate with their rewards by %.2f (at most %.2f) within groups, "
            "%.2f are needed",
            figures->rho, figures->rho_high, needed);
    }
}

/* Looks that cost no more than slowdown_max of the rollouts; all of them until the first costs are known. */
static double share_to_explore(const ga_watch *watch, double look_share, bool has_probe) {
    if (watch->options.kind != GA_WATCH_AUTO || !(look_share > 0)) {
        return 1.0;
    }
    const bool early = !has_probe && watch->updates_gathering <= EARLY_UPDATES;
    return fmin(1.0, (early ? EARLY_FACTOR : 1.0) * watch->options.slowdown_max / look_share);
}

static void set_strategy(ga_watch *watch) {
    ga_strategy *strategy = &watch->strategy;
    strategy->prune = watch->current >= 0;
    if (watch->current >= 0) {
        const ga_course *course = &watch->option[watch->current].course;
        strategy->stage_count = course->stage_count;
        for (int32_t stage = 0; stage < course->stage_count; stage++) {
            strategy->candidate[stage] = course->candidate[stage];
            strategy->keep[stage] = course->keep[stage];
        }
    }
}

static void switch_to(ga_watch *watch, int32_t option, ga_watch_report *report, const char *what) {
    const bool leaves = option < 0;
    watch->current = option;
    watch->patience = watch->others = (ga_patience){0};
    watch->told = leaves ? 1U << report->verdict.answer : 0U;
    watch->trend = (ga_trend){0};
    if (leaves) {
        watch->risk.level = watch->risk.alpha;
    }
    if (report->verdict.answer == GA_GUARD_UNCORRELATED) {
        forget_evidence(watch); /* it speaks of a time when predictions were worth something */
    }
    set_strategy(watch);
    report->changed = true;
    (void)snprintf(report->line, sizeof report->line, "%s: %s", what, report->verdict.reason);
}

/* Why nothing is pruned, told once for each answer between two switches. */
static void tell(ga_watch *watch, ga_watch_report *report, const char *what) {
    const uint32_t bit = 1U << report->verdict.answer;
    if ((watch->told & bit) == 0) {
        watch->told |= bit;
        (void)snprintf(report->line, sizeof report->line, "%s: %s", what, report->verdict.reason);
    }
}

static bool is_refusal(ga_guard_answer answer) {
    return answer == GA_GUARD_SHARED || answer == GA_GUARD_COSTS_MORE || answer == GA_GUARD_LOSES ||
           answer == GA_GUARD_UNCORRELATED;
}

/* Mode auto: from shadow to pruning, from one option to another, and back. */
static void step_auto(ga_watch *watch, ga_watch_report *report) {
    const ga_verdict *verdict = &report->verdict;
    const bool pays = verdict->answer == GA_GUARD_PAYS;
    const bool pruning = watch->current >= 0;
    const int32_t updates = watch->options.guard.patience;
    if (ga_patience_take(&watch->patience, pruning, pays, updates)) {
        switch_to(watch, pruning ? -1 : verdict->option, report,
            pruning ? "back to shadow" : "pruning from the next batch on");
    } else if (pruning) {
        const bool other = pays && verdict->option != watch->current;
        if (ga_patience_take(&watch->others, false, other, updates)) {
            switch_to(watch, verdict->option, report, "pruning otherwise from the next batch on");
        }
    } else if (is_refusal(verdict->answer)) {
        tell(watch, report, "nothing is pruned");
    }
}

/* Mode prune does as told, and says once that it does not pay. */
static void step_told(ga_watch *watch, ga_watch_report *report) {
    if (watch->options.kind != GA_WATCH_PRUNE) {
        return;
    }
    /* shared states and hosts that can't be pruned for have warnings of their own */
    const bool refusal = is_refusal(report->verdict.answer) && report->verdict.answer != GA_GUARD_SHARED;
    watch->patience.pays_not = refusal ? watch->patience.pays_not + 1 : 0;
    if (watch->patience.pays_not >= watch->options.guard.patience && watch->told == 0) {
        tell(watch, report, "pruning goes on as the configuration says, but does not pay");
        report->warns = report->line[0] != '\0';
    }
}

void ga_watch_restart(ga_watch *watch) {
    forget_evidence(watch);
    watch->patience = watch->others = (ga_patience){0};
    watch->risk.level = watch->risk.alpha;
    watch->told = 0;
    if (watch->options.kind == GA_WATCH_AUTO) {
        watch->current = -1;
        set_strategy(watch);
    }
}

/* ---- trainings ---- */

static void ask_for_training(ga_watch *watch, ga_watch_report *report, const char *reason) {
    report->wants_training = true;
    report->training_reason = reason;
    if (watch->updates_since_training > watch->training_pause) {
        watch->training_pause = 2 * watch->training_pause < TRAINING_PAUSE_UPDATES_MAX
                                    ? 2 * watch->training_pause
                                    : TRAINING_PAUSE_UPDATES_MAX;
    }
    watch->updates_since_training = 0;
}

static void weigh_training(ga_watch *watch, const ga_watch_update *update, ga_watch_report *report) {
    watch->updates_since_training++;
    if (!update->has_probe) {
        if (watch->options.kind == GA_WATCH_AUTO && watch->observed_rows >= watch->rows_wanted) {
            watch->rows_wanted = 2 * watch->observed_rows;
            ask_for_training(watch, report, "enough rows were seen for a first probe");
        }
        return;
    }
    if (!watch->options.on_drift || watch->updates_since_training <= watch->training_pause) {
        return;
    }
    const bool ended = report->changed && report->verdict.answer == GA_GUARD_UNCORRELATED;
    if (update->scores.psi >= watch->options.guard.drift_max) {
        ask_for_training(watch, report, "scores have drifted");
    } else if (update->features.psi >= watch->options.guard.drift_max) {
        ask_for_training(watch, report, "features have drifted");
    } else if (ended) {
        ask_for_training(watch, report, "predictions no longer order rewards");
    }
}

/* ---- the whole ---- */

static void count_rows(ga_watch *watch, const ga_watch_update *update, double look_share) {
    for (int32_t i = 0; i < update->count; i++) {
        const ga_outcome *row = &update->outcomes[i];
        watch->observed_rows += row->observed && row->kept && isfinite(row->reward);
    }
    watch->updates_gathering += !update->has_probe && look_share > 0;
}

static void follow_probe(ga_watch *watch, const ga_watch_update *update) {
    if (update->probe_version != watch->probe_version) {
        watch->probe_version = update->probe_version;
        watch->training_pause = TRAINING_PAUSE_UPDATES;
        watch->trend = (ga_trend){0};
        if (!watch->had_probe) {
            forget_evidence(watch);
        }
        watch->had_probe = update->has_probe;
    }
}

static const char SHARED[] = "all rows of a group are in the same state where they are looked at (same "
                             "initial noise, a shared prefix, "
                             "or noise only later): set decision.step behind the first noisy step";

/* Is every way to prune blind? What looks at shared states is not weighed. */
static bool hide_shared(ga_watch *watch, uint32_t shared_candidates) {
    bool all = shared_candidates != 0;
    for (int32_t i = 0; i < watch->option_count; i++) {
        ga_option *option = &watch->option[i];
        bool shared = false;
        for (int32_t stage = 0; stage < option->course.stage_count; stage++) {
            shared |= (shared_candidates >> option->course.candidate[stage] & 1U) != 0;
        }
        option->energy.parts = shared ? 0 : option->energy.parts;
        all &= shared;
    }
    return all;
}

static void judge(ga_watch *watch, const ga_watch_update *update, ga_watch_report *report) {
    const bool blind = hide_shared(watch, update->shared_candidates);
    const ga_guard_evidence evidence = {.seconds = update->seconds,
        .has_probe = update->has_probe || watch->options.plan.policy == GA_POLICY_RANDOM,
        .obstacle = update->obstacle != NULL ? update->obstacle
                    : blind                  ? SHARED
                                             : NULL,
        .risk = watch->risk};
    report->verdict =
        ga_guard_judge(&watch->options.guard, &evidence, watch->option, watch->option_count, watch->current);
    listen_to_trend(watch, &report->verdict, &report->agreement);
    if (report->verdict.option >= 0) {
        const ga_option *option = &watch->option[report->verdict.option];
        report->energy = option->energy;
        report->lost_share = ga_loss_share(&option->losses);
    }
}

static bool fits(const ga_watch *watch, const ga_watch_update *update) {
    return update->count == 0 ||
           (update->batches > 0 &&
               update->count == (int64_t)update->batches * watch->options.rows * watch->options.ranks);
}

ga_status ga_watch_take(ga_watch *watch, const ga_watch_update *update, ga_arena *arena,
    ga_watch_report *report_out, ga_error *error) {
    if (!fits(watch, update)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "the guard was handed %d rows of %d batches",
            (int)update->count, (int)update->batches);
    }
    ga_watch_report report = {.energy = {.value = (double)NAN, .snr2 = (double)NAN},
        .lost_share = (double)NAN,
        .look_share =
            ga_look_share(&update->seconds, watch->options.steps_total, watch->options.candidate_count)};
    bool fresh = false;
    follow_probe(watch, update);
    if (update->count > 0) {
        GA_TRY(measure_update(watch, update, arena, &fresh, error));
        GA_TRY(follow_trend(watch, update, arena, error));
    }
    if (fresh) {
        GA_TRY(estimate_options(watch, arena, error));
    }
    count_rows(watch, update, report.look_share);
    judge(watch, update, &report);
    if (update->count == 0) {
        /* nothing was learned, so nothing changes */
    } else if (watch->options.kind == GA_WATCH_AUTO) {
        step_auto(watch, &report);
    } else {
        step_told(watch, &report);
    }
    weigh_training(watch, update, &report);
    watch->strategy.explore_share = share_to_explore(watch, report.look_share, update->has_probe);
    report.level = watch->risk.level;
    report.parts = watch->part_count;
    report.strategy = watch->strategy;
    *report_out = report;
    return GA_OK;
}
