#include "grpo_accel/whatif/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/whatif/parts.h"

static const double HOST_EPSILON = 1e-4; /* flow-grpo's addition to σ */
/* A bootstrap looks at no more groups than this, nor less than RESAMPLES_MIN times at each. */
static const int64_t BOOTSTRAP_VISITS = 20000000;
enum { RESAMPLES_MIN = 200, PARTS_MAX = 1 << 20 };

/* One batch while it is replayed. Arrays have one entry a place of the batch. */
typedef struct batch_work {
    const ga_frame *frame;
    const ga_replay_lines *lines;
    const ga_replay_options *options;
    ga_arena *arena;
    uint64_t seed; /* of this repeat */
    int32_t batch;
    int32_t first; /* place of the frame */
    int32_t rows;
    ga_dealt dealt;
    double centre; /* mean reward of the batch: what plan and advantages see is measured from it */
    double *truth; /* A; 0 where left out */
    uint8_t *kept;
    double *inclusion;
    float *mean; /* newest prediction */
    float *variance;
    ga_candidate *candidates;
    int32_t *running; /* place of each candidate */
    ga_candidate *stopped;
    ga_outcome *outcomes;
    int32_t *outcome_of; /* place → outcome; −1: left out */
    double *advantage;
    double *group_mean, *group_sd; /* [groups of the batch] the truth; NaN: no row on a rank */
} batch_work;

static bool take(batch_work *w, int32_t groups) {
    const size_t n = ga_size(w->rows), g = ga_size(groups);
    ga_arena *arena = w->arena;
    w->dealt.rank = ga_arena_take(arena, n, sizeof(int32_t));
    w->dealt.index = ga_arena_take(arena, n, sizeof(int32_t));
    w->truth = ga_arena_take(arena, n, sizeof *w->truth);
    w->kept = ga_arena_take(arena, n, sizeof *w->kept);
    w->inclusion = ga_arena_take(arena, n, sizeof *w->inclusion);
    w->mean = ga_arena_take(arena, n, sizeof *w->mean);
    w->variance = ga_arena_take(arena, n, sizeof *w->variance);
    w->candidates = ga_arena_take(arena, n, sizeof *w->candidates);
    w->running = ga_arena_take(arena, n, sizeof *w->running);
    w->stopped = ga_arena_take(arena, n, sizeof *w->stopped);
    w->outcomes = ga_arena_take(arena, n, sizeof *w->outcomes);
    w->outcome_of = ga_arena_take(arena, n, sizeof *w->outcome_of);
    w->advantage = ga_arena_take(arena, n, sizeof *w->advantage);
    w->group_mean = ga_arena_take(arena, g, sizeof *w->group_mean);
    w->group_sd = ga_arena_take(arena, g, sizeof *w->group_sd);
    return w->dealt.rank != NULL && w->dealt.index != NULL && w->truth != NULL && w->kept != NULL &&
           w->inclusion != NULL && w->mean != NULL && w->variance != NULL && w->candidates != NULL &&
           w->running != NULL && w->stopped != NULL && w->outcomes != NULL && w->outcome_of != NULL &&
           w->advantage != NULL && w->group_mean != NULL && w->group_sd != NULL;
}

static double reward_at(const batch_work *w, int32_t i) {
    return w->frame->table->reward[w->frame->row[w->first + i]];
}

/* First place of a group of the batch, relative to the batch. */
static int32_t start_of(const batch_work *w, int32_t group) {
    return w->frame->group_start[w->frame->group_first[w->batch] + group] - w->first;
}

/* Mean, deviation and A of one group. */
static void find_truth(batch_work *w, int32_t group) {
    const int32_t first = start_of(w, group), end = start_of(w, group + 1);
    double n = 0, mean = 0, square = 0;
    for (int32_t i = first; i < end; i++) {
        if (w->dealt.rank[i] >= 0) {
            n += 1;
            mean += (reward_at(w, i) - mean) / n;
        }
    }
    for (int32_t i = first; i < end; i++) {
        w->truth[i] = w->dealt.rank[i] >= 0 ? reward_at(w, i) - mean : 0;
        square += w->truth[i] * w->truth[i];
    }
    const double sd = n > 0 ? sqrt(square / n) : 0;
    w->group_mean[group] = n > 0 ? mean : (double)NAN;
    w->group_sd[group] = n > 0 && sd > 1e-12 * (1 + fabs(mean)) ? sd : 0;
    for (int32_t i = first; i < end && w->options->std_kind == GA_STD_GROUP; i++) {
        w->truth[i] = w->group_sd[group] > 0 ? w->truth[i] / sd : 0;
    }
}

/*
 * Predictions are single precision, so a level that all rewards share (1e6, say) would drown what tells rows
 * apart; nothing of a plan or an advantage depends on it but an absolute threshold.
 */
static double find_centre(const batch_work *w) {
    double n = 0, mean = 0;
    for (int32_t i = 0; i < w->rows; i++) {
        if (w->dealt.rank[i] >= 0) {
            n += 1;
            mean += (reward_at(w, i) - mean) / n;
        }
    }
    return mean;
}

static ga_threshold centred_threshold(const batch_work *w) {
    ga_threshold threshold = w->options->threshold;
    threshold.value -= threshold.kind == GA_THRESHOLD_ABSOLUTE ? w->centre : 0;
    return threshold;
}

static void predict(batch_work *w, int32_t stage) {
    const int32_t which = w->options->score[stage];
    const double *score = w->frame->table->score[which];
    const ga_line *line = &w->lines->line[which][w->batch];
    for (int32_t i = 0; i < w->rows; i++) {
        if (w->kept[i]) {
            const double s = score[w->frame->row[w->first + i]];
            w->mean[i] = (float)(line->a + line->b * s - w->centre);
            w->variance[i] = isfinite(w->mean[i]) && isfinite(line->sigma_r2) ? (float)line->sigma_r2 : 0.0f;
        }
    }
}

/*
 * Rows still running become candidates, those stopped before stand by. Indices on a rank are dense: places
 * are in no order of ranks, so the rank's rows are numbered in the order of their places.
 */
static ga_status list_candidates(batch_work *w, int32_t *running_out, int32_t *stopped_out, ga_error *error) {
    int32_t *next = ga_arena_take(w->arena, ga_size(w->dealt.ranks), sizeof *next);
    if (next == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d ranks", (int)w->dealt.ranks);
    }
    int32_t running = 0, stopped = 0;
    for (int32_t i = 0; i < w->rows; i++) {
        if (w->dealt.rank[i] < 0) {
            continue;
        }
        const ga_candidate candidate = {.group = (uint64_t)w->frame->group[w->first + i],
            .mean = w->mean[i],
            .variance = w->variance[i],
            .rank = w->dealt.rank[i]};
        if (w->kept[i]) {
            w->candidates[running] = candidate;
            w->candidates[running].index = next[candidate.rank]++;
            w->running[running++] = i;
        } else {
            w->stopped[stopped++] = candidate;
        }
    }
    *running_out = running;
    *stopped_out = stopped;
    return GA_OK;
}

static ga_status decide(
    batch_work *w, int32_t stage, bool *chance_before, ga_replay_report *report, ga_error *error) {
    const ga_replay_options *o = w->options;
    int32_t running = 0, stopped = 0;
    predict(w, stage);
    GA_TRY(list_candidates(w, &running, &stopped, error));
    const ga_plan_options options = {.policy = o->policy,
        .ranks = w->dealt.ranks,
        .keep_per_rank = o->keep_per_rank[stage],
        .min_group = o->min_group,
        .max_group = o->max_group,
        .min_inclusion = o->min_inclusion,
        .audit_share = o->audit_share,
        .seed = w->seed,
        .batch = (uint64_t)w->batch,
        .stage = stage,
        .chance_before = *chance_before,
        .std_kind = o->std_kind,
        .threshold = centred_threshold(w),
        .stopped = stopped > 0 ? w->stopped : NULL,
        .stopped_count = stopped};
    ga_plan plan;
    GA_TRY(ga_plan_make(&options, w->candidates, running, w->arena, &plan, error));
    for (int32_t i = 0; i < running; i++) {
        w->kept[w->running[i]] = plan.kept[i];
        w->inclusion[w->running[i]] *= plan.inclusion[i];
    }
    *chance_before = *chance_before || plan.audited;
    report->lowered_floors += plan.lowered_floor_count;
    report->raised_caps += plan.raised_cap_count;
    report->unscored += stage == 0 ? plan.unscored_count : 0;
    return GA_OK;
}

/* What the ranks would tell each other at the end of the update; returns how many rows. */
static int32_t list_outcomes(batch_work *w, bool audited) {
    int32_t count = 0;
    for (int32_t i = 0; i < w->rows; i++) {
        w->outcome_of[i] = -1;
        if (w->dealt.rank[i] < 0) {
            continue;
        }
        w->outcome_of[i] = count;
        w->outcomes[count++] = (ga_outcome){.group = (uint64_t)w->frame->group[w->first + i],
            .reward = w->kept[i] ? reward_at(w, i) - w->centre : (double)NAN,
            .inclusion = w->kept[i] ? w->inclusion[i] : 1,
            .mean = w->mean[i],
            .variance = w->variance[i],
            .rank = w->dealt.rank[i],
            .index = w->dealt.index[i],
            .kept = w->kept[i],
            .audit = audited ? 1 : 0,
            .observed = 1};
    }
    return count;
}

/* Adds one estimator's sums: the weights are in the advantage already. */
static void add_estimate(
    const batch_work *w, int which, const ga_advantage_report *report, int32_t group, ga_part *part) {
    const int32_t first = start_of(w, group), end = start_of(w, group + 1);
    double mean = (double)NAN;
    for (int32_t i = first; i < end; i++) {
        const int32_t at = w->outcome_of[i];
        if (at < 0) {
            continue;
        }
        mean = report->baseline[at];
        if (w->kept[i]) {
            const double host = w->advantage[at];
            const double own =
                host * report->row_sigma[at] * (w->group_sd[group] > 0 ? 1 / w->group_sd[group] : 0);
            const double estimate = w->options->std_kind == GA_STD_GROUP ? own : host;
            part->product[which] += estimate * w->truth[i];
            part->square[which] += estimate * estimate;
            part->host_product[which] += host * w->truth[i];
            part->host_square[which] += host * host;
        }
    }
    if (which < 3 && part->known > 0) {
        part->error[which] = (mean - (w->group_mean[group] - w->centre)) / w->group_sd[group];
    }
}

static ga_status estimate(batch_work *w, int32_t count, ga_part *parts, int32_t groups, ga_error *error) {
    static const ga_estimator estimators[4] = {
        GA_ESTIMATOR_SHRUNK, GA_ESTIMATOR_DIFFERENCE, GA_ESTIMATOR_SURVIVORS, GA_ESTIMATOR_SHRUNK};
    const ga_line *line = &w->lines->line[w->options->score[w->options->stage_count - 1]][w->batch];
    for (int which = 0; which < 4; which++) {
        const ga_advantage_options options = {.estimator = estimators[which],
            .weighting = which == 3 ? GA_WEIGHT_INVERSE : GA_WEIGHT_ONE,
            .clip = w->options->clip,
            .std_kind = w->options->std_kind,
            .epsilon = HOST_EPSILON,
            .tau2 = line->tau2,
            .sigma_r2 = line->sigma_r2};
        ga_advantage_report report;
        GA_TRY(ga_advantage_compute(&options, w->outcomes, count, w->arena, w->advantage, &report, error));
        for (int32_t g = 0; g < groups; g++) {
            add_estimate(w, which, &report, g, &parts[g]);
        }
    }
    return GA_OK;
}

static int compare_doubles(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* The reward that the best (worst) quarter of a group's n rows reaches; sorted: scratch. */
static void add_quarters(const batch_work *w, int32_t group, double *sorted, ga_part *part) {
    const int32_t first = start_of(w, group), end = start_of(w, group + 1);
    int32_t n = 0;
    for (int32_t i = first; i < end; i++) {
        if (w->dealt.rank[i] >= 0) {
            sorted[n++] = reward_at(w, i);
        }
    }
    if (n == 0 || !(w->group_sd[group] > 0)) {
        return;
    }
    qsort(sorted, ga_size(n), sizeof *sorted, compare_doubles);
    const int32_t quarter = (n + 3) / 4;
    const double high = sorted[n - quarter], low = sorted[quarter - 1];
    for (int32_t i = first; i < end; i++) {
        if (w->dealt.rank[i] >= 0) {
            part->top += reward_at(w, i) >= high;
            part->kept_top += reward_at(w, i) >= high && w->kept[i];
            part->bottom += reward_at(w, i) <= low;
            part->kept_bottom += reward_at(w, i) <= low && w->kept[i];
        }
    }
}

static void begin_part(const batch_work *w, int32_t group, double *scratch, ga_part *part) {
    *part = (ga_part){0};
    int32_t kept = 0;
    for (int32_t i = start_of(w, group); i < start_of(w, group + 1); i++) {
        const double square = w->truth[i] * w->truth[i];
        part->all += square;
        part->kept += w->kept[i] ? square : 0;
        kept += w->kept[i];
    }
    part->known = kept > 0 && w->group_sd[group] > 0 ? 1 : 0;
    add_quarters(w, group, scratch, part);
}

static int32_t count_kept(const batch_work *w) {
    int32_t kept = 0;
    for (int32_t i = 0; i < w->rows; i++) {
        kept += w->kept[i];
    }
    return kept;
}

/* Batches of as few rows a rank as are to be kept, or fewer: nothing of them can be stopped. */
static void note_layout(const batch_work *w, ga_replay_report *report) {
    const ga_replay_options *o = w->options;
    const int32_t rows = w->dealt.rows_per_rank, keep = o->keep_per_rank[o->stage_count - 1];
    report->left_out += w->dealt.left_out;
    report->ranks = w->dealt.ranks > report->ranks ? w->dealt.ranks : report->ranks;
    report->rows_per_rank = rows > report->rows_per_rank ? rows : report->rows_per_rank;
    report->short_batches += o->policy != GA_POLICY_THRESHOLD && rows <= keep;
}

/* going_share: [stage_count] of the begun rows that go on after each decision. */
static ga_status replay_batch(
    batch_work *w, ga_part *parts, ga_replay_report *report, double *going_share, ga_error *error) {
    const int32_t groups = w->frame->group_first[w->batch + 1] - w->frame->group_first[w->batch];
    w->first = w->frame->batch_start[w->batch];
    w->rows = w->frame->batch_start[w->batch + 1] - w->first;
    double *scratch = ga_arena_take(w->arena, ga_size(w->rows), sizeof *scratch);
    if (scratch == NULL || !take(w, groups)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a batch of %d rows", (int)w->rows);
    }
    GA_TRY(ga_frame_deal(w->frame, w->batch, w->options->ranks, w->options->deal, w->seed, &w->dealt, error));
    for (int32_t g = 0; g < groups; g++) {
        find_truth(w, g);
    }
    w->centre = find_centre(w);
    for (int32_t i = 0; i < w->rows; i++) {
        w->kept[i] = w->dealt.rank[i] >= 0;
        w->inclusion[i] = 1;
    }
    const double placed = fmax(1, count_kept(w));
    bool chance = false; /* the batch's first decision was by chance alone */
    for (int32_t stage = 0; stage < w->options->stage_count; stage++) {
        GA_TRY(decide(w, stage, &chance, report, error));
        going_share[stage] = count_kept(w) / placed;
    }
    for (int32_t g = 0; g < groups; g++) {
        begin_part(w, g, scratch, &parts[g]);
    }
    const int32_t count = list_outcomes(w, chance);
    GA_TRY(estimate(w, count, parts, groups, error));
    note_layout(w, report);
    return GA_OK;
}

/* ---- all batches ---- */

static ga_status check_options(
    const ga_frame *frame, const ga_replay_lines *lines, const ga_replay_options *o, ga_error *error) {
    if (frame == NULL || lines == NULL || o == NULL || o->stage_count < 1 ||
        o->stage_count > GA_WHATIF_STAGES_MAX || o->repeat < 1 || o->resamples < 0 || o->ranks < 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "replay needs a frame, lines, 1 to %d decisions, repeat ≥ 1, resamples ≥ 0, ranks ≥ 0",
            GA_WHATIF_STAGES_MAX);
    }
    for (int32_t k = 0; k < o->stage_count; k++) {
        const bool score_ok = o->score[k] >= 0 && o->score[k] < frame->table->score_count;
        if (!score_ok || o->keep_per_rank[k] < 1 ||
            (k > 0 && (o->keep_per_rank[k] > o->keep_per_rank[k - 1] || o->score[k] <= o->score[k - 1]))) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "decision %d keeps %d rows a rank by score %d of %d: scores ascend, kept rows don't",
                (int)k + 1, (int)o->keep_per_rank[k], (int)o->score[k] + 1, (int)frame->table->score_count);
        }
    }
    return GA_OK;
}

ga_status ga_replay_lines_fit(const ga_frame *frame, ga_replay_lines *lines_out, ga_error *error) {
    ga_replay_lines lines = {{NULL}};
    ga_status status = GA_OK;
    for (int32_t k = 0; k < frame->table->score_count && status == GA_OK; k++) {
        lines.line[k] = calloc(ga_size(frame->batch_count), sizeof *lines.line[k]);
        status = lines.line[k] == NULL
                     ? GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d calibrations", (int)frame->batch_count)
                     : ga_line_fit(frame, k, lines.line[k], error);
    }
    if (status != GA_OK) {
        ga_replay_lines_free(&lines);
        return status;
    }
    *lines_out = lines;
    return GA_OK;
}

void ga_replay_lines_free(ga_replay_lines *lines) {
    for (int32_t k = 0; lines != NULL && k < GA_WHATIF_SCORES_MAX; k++) {
        free(lines->line[k]);
        lines->line[k] = NULL;
    }
}

/* The user's own seed first, then seeds that have nothing to do with it or its neighbours. */
static uint64_t seed_of(uint64_t seed, int32_t repeat) {
    const uint64_t words[2] = {seed, (uint64_t)repeat};
    return repeat == 0 ? seed : ga_digest64(words, sizeof words);
}

/* Sums of figures over batches and repeats. */
typedef struct totals {
    double sum[GA_FIGURE_COUNT], count[GA_FIGURE_COUNT];
    double going[GA_WHATIF_STAGES_MAX], batches;
} totals;

static void add_figures(totals *t, const ga_part *parts, int32_t groups, const double *going_share) {
    double figures[GA_FIGURE_COUNT];
    ga_parts_figures(parts, NULL, groups, figures);
    for (int k = 0; k < GA_FIGURE_COUNT; k++) {
        t->sum[k] += isnan(figures[k]) ? 0 : figures[k];
        t->count[k] += isnan(figures[k]) ? 0 : 1;
    }
    for (int k = 0; k < GA_WHATIF_STAGES_MAX; k++) {
        t->going[k] += going_share[k];
    }
    t->batches += 1;
}

/* All batches once. parts: [groups of the frame]. */
static ga_status replay_once(
    batch_work *w, ga_part *parts, totals *t, ga_replay_report *report, ga_error *error) {
    for (int32_t b = 0; b < w->frame->batch_count; b++) {
        double going_share[GA_WHATIF_STAGES_MAX] = {0};
        ga_part *own = parts + w->frame->group_first[b];
        ga_arena_reset(w->arena);
        w->batch = b;
        GA_TRY(replay_batch(w, own, report, going_share, error));
        add_figures(t, own, w->frame->group_first[b + 1] - w->frame->group_first[b], going_share);
    }
    return GA_OK;
}

/* Repeats whose groups are remembered for the intervals. */
static int32_t remembered(const ga_frame *frame, const ga_replay_options *o) {
    const int32_t room = PARTS_MAX / frame->group_count;
    return o->repeat < room ? o->repeat : room > 1 ? room : 1;
}

static ga_status repeat_all(batch_work *w, ga_part *parts, int32_t kept_repeats, totals *t,
    ga_replay_report *report, ga_error *error) {
    for (int32_t r = 0; r < w->options->repeat; r++) {
        /* beyond the remembered ones the last place is used again */
        const int32_t slot = r < kept_repeats ? r : kept_repeats - 1;
        ga_replay_report other = {0};
        w->seed = seed_of(w->options->seed, r);
        GA_TRY(replay_once(
            w, parts + ga_size((int64_t)slot * w->frame->group_count), t, r == 0 ? report : &other, error));
    }
    return GA_OK;
}

static ga_status find_intervals(const ga_frame *frame, const ga_replay_options *o, const ga_part *parts,
    int32_t kept_repeats, ga_replay_report *report, ga_error *error) {
    memcpy(report->low, report->value, sizeof report->low);
    memcpy(report->high, report->value, sizeof report->high);
    if (o->resamples == 0) {
        return GA_OK;
    }
    const int64_t affordable = BOOTSTRAP_VISITS / ((int64_t)kept_repeats * frame->group_count);
    const int64_t least = o->resamples < RESAMPLES_MIN ? o->resamples : RESAMPLES_MIN;
    const int64_t draws = affordable < least ? least : affordable < o->resamples ? affordable : o->resamples;
    double low[GA_FIGURE_COUNT], high[GA_FIGURE_COUNT];
    GA_TRY(ga_parts_intervals(frame, parts, kept_repeats, o->seed, (int32_t)draws, low, high, error));
    for (int k = 0; k < GA_FIGURE_COUNT; k++) {
        report->low[k] += low[k];
        report->high[k] += high[k];
    }
    return GA_OK;
}

ga_status ga_replay_run(const ga_frame *frame, const ga_replay_lines *lines, const ga_replay_options *options,
    ga_replay_report *report_out, ga_error *error) {
    GA_TRY(check_options(frame, lines, options, error));
    const int32_t kept_repeats = remembered(frame, options);
    ga_replay_report report = {0};
    totals t = {0};
    batch_work w = {.frame = frame, .lines = lines, .options = options, .arena = ga_arena_create(1 << 20)};
    ga_part *parts = calloc(ga_size((int64_t)kept_repeats * frame->group_count), sizeof *parts);
    ga_status status = w.arena == NULL || parts == NULL
                           ? GA_FAIL(error, GA_ERR_MEMORY, "no memory to replay %d rows", (int)frame->count)
                           : repeat_all(&w, parts, kept_repeats, &t, &report, error);
    if (status == GA_OK) {
        for (int k = 0; k < GA_FIGURE_COUNT; k++) {
            report.value[k] = t.count[k] > 0 ? t.sum[k] / t.count[k] : (double)NAN;
        }
        for (int32_t k = 0; k < options->stage_count; k++) {
            report.going_share[k] = t.going[k] / t.batches;
        }
        report.keep_share = report.going_share[options->stage_count - 1];
        /* where even the largest batch keeps all, that is what was asked for */
        report.short_batches = report.short_batches < frame->batch_count ? report.short_batches : 0;
        status = find_intervals(frame, options, parts, kept_repeats, &report, error);
    }
    free(parts);
    ga_arena_destroy(&w.arena);
    if (status == GA_OK) {
        *report_out = report;
    }
    return status;
}
