#include "grpo_accel/session/watch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/session/watch_state.h"

enum {
    EARLY_UPDATES = 16, /* without a probe: looked at more often, so many updates long */
    /* between two trainings that drift asks for; twice as many after each that brings no new probe */
    TRAINING_PAUSE_UPDATES = 10,
    TRAINING_PAUSE_UPDATES_MAX = 640
};

static const double EARLY_FACTOR = 4.0; /* how much more often */
static const double RISK_GAMMA = 0.05;
static const double ENTRY_SHARE = 0.5; /* of the break-even correlation, see doubt_entry */

/* Shares that are tried where decision.keep is auto. */
static const double KEEP_GRID[] = {0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75};

/* ---- options ---- */

static void add_option(ga_watch *watch, int32_t candidate, int32_t keep_count) {
    if (watch->option_count < GA_WATCH_OPTIONS_MAX) {
        const ga_watch_options *o = &watch->options;
        ga_course *course = &watch->option[watch->option_count++].course;
        *course = (ga_course){.steps_total = o->steps_total, .stage_count = 1};
        course->step[0] = o->candidate_steps[candidate];
        course->candidate[0] = candidate;
        course->keep[0] = (double)keep_count / o->rows;
        course->train_share = o->train_share;
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
    *course = (ga_course){
        .steps_total = o->steps_total, .stage_count = o->told.stage_count, .train_share = o->train_share};
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

/* ---- verdict ---- */

/* Agreement of predictions and rewards in the window, at the option's last decision. */
static ga_agreement_figures agreement_of(const ga_watch *watch, int32_t option, double confidence) {
    const ga_course *course = &watch->option[option].course;
    ga_agreement sums = {0};
    for (int32_t i = 0; i < watch->part_count; i++) {
        if (ga_watch_part_counts(watch, i)) {
            ga_agreement_join(&sums, &watch->agreement[i][course->candidate[course->stage_count - 1]]);
        }
    }
    return ga_agreement_read(&sums, confidence);
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
    const double rho = agreement_of(watch, verdict->option, watch->options.guard.confidence).rho;
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
    const bool open =
        verdict->answer == GA_GUARD_PAYS || (verdict->answer == GA_GUARD_COSTS_MORE && watch->current >= 0);
    if (ended && open && verdict->cost_ratio < 1) {
        verdict->answer = GA_GUARD_UNCORRELATED;
        (void)snprintf(verdict->reason, sizeof verdict->reason,
            "predictions of kept rows correlate with their rewards by %.2f (at most %.2f) within groups, "
            "%.2f are needed",
            figures->rho, figures->rho_high, needed);
    }
}

/*
 * The best of many options, weighed again after every update, looks good by chance now and then. So pruning
 * begins only where the window's correlation agrees, which all options share: its lower bound must reach half
 * of the break-even of the closed form.
 */
static void doubt_entry(const ga_watch *watch, ga_verdict *verdict) {
    if (verdict->answer != GA_GUARD_PAYS || watch->current >= 0) {
        return;
    }
    const double confidence = 1.0 - (1.0 - watch->options.guard.confidence) / GA_CANDIDATES_MAX;
    const ga_agreement_figures figures = agreement_of(watch, verdict->option, confidence);
    const double needed = ENTRY_SHARE * (isfinite(verdict->break_even_rho) ? verdict->break_even_rho : 1.0);
    if (!(figures.rho_low >= needed)) {
        verdict->answer = GA_GUARD_UNCORRELATED;
        (void)snprintf(verdict->reason, sizeof verdict->reason,
            "predictions correlate with rewards by %.2f (at least %.2f) within groups, at least %.2f is "
            "needed",
            figures.rho, figures.rho_low, needed);
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

/* While nothing is pruned the stages are those of the configuration, so that ranks agree on all of it. */
static void set_strategy(ga_watch *watch) {
    const double explore_share = watch->strategy.explore_share;
    watch->strategy = watch->options.told;
    watch->strategy.explore_share = explore_share;
    watch->strategy.prune = watch->current >= 0;
    if (watch->current >= 0) {
        const ga_course *course = &watch->option[watch->current].course;
        watch->strategy.stage_count = course->stage_count;
        for (int32_t stage = 0; stage < course->stage_count; stage++) {
            watch->strategy.candidate[stage] = course->candidate[stage];
            watch->strategy.keep[stage] = course->keep[stage];
        }
    }
}

static void switch_to(ga_watch *watch, int32_t option, ga_watch_report *report, const char *what) {
    watch->current = option;
    watch->patience = watch->others = (ga_patience){0};
    watch->told = option < 0 ? 1U << report->verdict.answer : 0U;
    watch->trend = (ga_trend){0};
    if (report->verdict.answer == GA_GUARD_UNCORRELATED) {
        watch->probe_failed = true;
        ga_watch_forget(watch); /* it speaks of a time when predictions were worth something */
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

/* Mode auto: from shadow to pruning, from one option to another, and back. What repeats itself without a new
 * measurement says nothing; while rows are pruned every update measures seconds and agreement. */
static void step_auto(ga_watch *watch, ga_watch_report *report) {
    const ga_verdict *verdict = &report->verdict;
    const bool pays = verdict->answer == GA_GUARD_PAYS;
    const bool pruning = watch->current >= 0;
    const int32_t updates = watch->options.guard.patience;
    const bool news = pruning || watch->fresh;
    if (news && ga_patience_take(&watch->patience, pruning, pays, updates)) {
        switch_to(watch, pruning ? -1 : verdict->option, report,
            pruning ? "back to shadow" : "pruning from the next batch on");
    } else if (pruning) {
        const bool other = pays && verdict->option != watch->current;
        if (watch->fresh && ga_patience_take(&watch->others, false, other, updates)) {
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

static bool is_course_of(const ga_course *course, const ga_strategy *strategy) {
    bool same = strategy->prune && course->stage_count == strategy->stage_count;
    for (int32_t stage = 0; same && stage < course->stage_count; stage++) {
        same = course->candidate[stage] == strategy->candidate[stage] &&
               course->keep[stage] >= strategy->keep[stage] && course->keep[stage] <= strategy->keep[stage];
    }
    return same;
}

void ga_watch_follow(ga_watch *watch, const ga_strategy *strategy) {
    int32_t option = -1;
    for (int32_t i = 0; i < watch->option_count && option < 0; i++) {
        option = is_course_of(&watch->option[i].course, strategy) ? i : -1;
    }
    watch->strategy.explore_share = strategy->explore_share;
    if (option != watch->current) {
        watch->current = option;
        watch->patience = watch->others = (ga_patience){0};
        watch->trend = (ga_trend){0};
        watch->told = 0;
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
    if (update->scores.psi >= watch->options.guard.drift_max) {
        ask_for_training(watch, report, "scores have drifted");
    } else if (update->features.psi >= watch->options.guard.drift_max) {
        ask_for_training(watch, report, "features have drifted");
    } else if (watch->probe_failed) {
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
        watch->probe_failed = false;
        if (!watch->had_probe) {
            ga_watch_forget(watch);
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
    if (watch->options.plan.policy != GA_POLICY_RANDOM) {
        doubt_entry(watch, &report->verdict);
    }
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
    follow_probe(watch, update);
    watch->update = update->update;
    GA_TRY(ga_watch_learn(watch, update, arena, error));
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
