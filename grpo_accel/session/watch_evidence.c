/* The evidence of a watch: batches planned again, the window of their figures, the trend of kept rows. */
#include <math.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/session/replan.h"
#include "grpo_accel/session/watch_state.h"

enum {
    PARTS_PER_BATCH = 16,      /* a batch never fills more of the window */
    MEASURED_ROWS_MAX = 32768, /* of an update; larger batches only one by one */
    RESAMPLES = 200
};

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
    watch->part_update[place] = watch->update;
    watch->part_version[place] = watch->probe_version;
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

/* The loss of the pruning in force on an audited batch steers the level; a batch of which nothing is pruned
 * loses nothing, and leads the level back up to α. */
static void learn_risk(ga_watch *watch, const ga_loss_sums *losses, int32_t part_count) {
    ga_loss_sums sums = {0};
    for (int32_t i = 0; i < part_count && watch->current >= 0; i++) {
        const ga_loss_sums *part = &losses[i * watch->option_count + watch->current];
        sums.weight += part->weight;
        sums.lost += part->lost;
    }
    if (sums.weight > 0) {
        ga_risk_learn(&watch->risk, ga_loss_share(&sums));
    } else if (watch->current < 0 && watch->risk.level < watch->risk.alpha) {
        ga_risk_learn(&watch->risk, 0.0);
        watch->risk.level = fmin(watch->risk.level, watch->risk.alpha);
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
        ga_replan_batch evidence = {.rows = gathered,
            .count = count,
            .rows_per_rank = watch->options.rows,
            .number = update->first_batch + (uint64_t)batch,
            .estimator = watch->options.estimator,
            .train_share = watch->options.train_share,
            .noise_end_step = update->noise_end_step};
        evidence.estimator.tau2 = update->tau2;
        evidence.estimator.sigma_r2 = update->sigma_r2;
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

/* ---- what counts ---- */

bool ga_watch_part_counts(const ga_watch *watch, int32_t part) {
    const bool young = watch->part_update[part] + GA_WATCH_EVIDENCE_UPDATES > watch->update;
    return young && (!watch->newest_probe || watch->part_version[part] == watch->probe_version);
}

/* Predictions of a probe that is no longer in use say little of the one that is, but more than nothing. */
static void choose_probe(ga_watch *watch) {
    int32_t parts = 0;
    for (int32_t i = 0; i < watch->part_count; i++) {
        parts += watch->part_version[i] == watch->probe_version;
    }
    watch->newest_probe = parts >= watch->options.guard.parts_min;
}

/* Extremes of a group stand or fall together, so a part is one unit of the effective number. */
static void read_losses(ga_watch *watch, int32_t option) {
    ga_loss_sums sums = {0};
    for (int32_t i = 0; i < watch->part_count; i++) {
        const ga_loss_sums *part = &watch->losses[i * watch->option_count + option];
        if (ga_watch_part_counts(watch, i)) {
            sums.weight += part->weight;
            sums.squares += part->weight * part->weight;
            sums.lost += part->lost;
        }
    }
    watch->option[option].losses = sums;
}

/* The newest update that measured the option; 0: none. */
static uint32_t newest_of(const ga_watch *watch, int32_t option) {
    uint32_t newest = 0;
    for (int32_t i = 0; i < watch->part_count; i++) {
        const bool counts = watch->parts[i * watch->option_count + option].all > 0;
        newest = counts && watch->part_update[i] > newest ? watch->part_update[i] : newest;
    }
    return newest;
}

/* While one option prunes, figures that others have from before it began do not compete with its own. */
static void shelve_stale(ga_watch *watch) {
    const uint32_t now = watch->current >= 0 ? newest_of(watch, watch->current) : 0;
    for (int32_t option = 0; option < watch->option_count && now > 0; option++) {
        if (newest_of(watch, option) + GA_WATCH_STALE_UPDATES < now) {
            watch->option[option].energy.parts = 0;
        }
    }
}

static ga_status estimate_options(ga_watch *watch, ga_arena *arena, ga_error *error) {
    const size_t options = ga_size(watch->option_count);
    ga_energy *energies = ga_arena_take(arena, options + 1, sizeof *energies);
    ga_energy_part *parts = ga_arena_take(arena, ga_size(watch->part_count) * options + 1, sizeof *parts);
    int32_t count = 0;
    if (energies == NULL || parts == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the guard's figures");
    }
    choose_probe(watch);
    for (int32_t i = 0; i < watch->part_count; i++) {
        if (ga_watch_part_counts(watch, i)) {
            memcpy(parts + ga_size(count++) * options, watch->parts + ga_size(i) * options,
                options * sizeof *parts);
        }
    }
    GA_TRY(ga_energy_estimate(parts, count, watch->option_count, watch->options.guard.confidence,
        watch->options.plan.seed, RESAMPLES, energies, error));
    for (int32_t option = 0; option < watch->option_count; option++) {
        watch->option[option].energy = energies[option];
        read_losses(watch, option);
    }
    shelve_stale(watch);
    return GA_OK;
}

void ga_watch_forget(ga_watch *watch) {
    watch->part_count = watch->next_part = 0;
    watch->newest_probe = false;
    watch->trend = (ga_trend){0};
    for (int32_t option = 0; option < watch->option_count; option++) {
        watch->option[option].energy = (ga_energy){
            .value = (double)NAN, .snr2 = (double)NAN, .snr2_low = (double)NAN, .snr2_high = (double)NAN};
        watch->option[option].losses = (ga_loss_sums){0};
    }
}

ga_status ga_watch_learn(ga_watch *watch, const ga_watch_update *update, ga_arena *arena, ga_error *error) {
    watch->fresh = false;
    if (update->count == 0) {
        return GA_OK;
    }
    GA_TRY(measure_update(watch, update, arena, &watch->fresh, error));
    GA_TRY(follow_trend(watch, update, arena, error));
    return watch->fresh ? estimate_options(watch, arena, error) : GA_OK;
}
