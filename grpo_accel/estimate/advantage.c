#include "grpo_accel/estimate/advantage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

/* A row as the estimators see it. */
typedef struct row {
    uint64_t group;
    double reward;
    double mean;
    double variance;
    double inverse; /* 1/π; 0 where there is no reward */
    double weight;  /* min(1/π, clip) */
    int32_t rank;
    int32_t index;
    int32_t input; /* place among the outcomes */
} row;

typedef struct group {
    int32_t first; /* rows [first, end) */
    int32_t end;
    int32_t kept;
    bool predicted;      /* every row */
    bool survivors_only; /* T is the mean over kept rows */
    double shrink;       /* B */
    double centre;       /* m̄_g; 0 where a prediction is missing */
    double mean;         /* μ̂_g */
    double sigma;        /* σ̂ */
} group;

typedef struct work {
    const ga_advantage_options *options;
    row *rows; /* [count] by group, rank, index */
    int32_t count;
    int32_t kept_count;
    group *groups;
    int32_t group_count;
    int32_t unrewarded_count;
    int32_t clipped_count;
    int32_t credited_count;
} work;

/* What T is made of: sums over a group, or over a group without one of its rows. */
typedef struct sums {
    int32_t size;
    int32_t kept;
    double expected; /* Σ E f */
    double weight;   /* Σ_kept w */
    double offset;   /* Σ_kept w (f − E f) */
    double seen;     /* Σ_kept f */
} sums;

static int compare_rows(const void *left, const void *right) {
    const row *a = left;
    const row *b = right;
    if (a->group != b->group) {
        return a->group < b->group ? -1 : 1;
    }
    if (a->rank != b->rank) {
        return a->rank < b->rank ? -1 : 1;
    }
    return (a->index > b->index) - (a->index < b->index);
}

static bool is_kept(const row *r) {
    return r->weight > 0;
}

/* One row; counts what is odd about it. */
static ga_status read_outcome(work *w, const ga_outcome *outcome, int32_t input, ga_error *error) {
    const bool rewarded = outcome->kept && isfinite(outcome->reward);
    const bool predicted = isfinite(outcome->mean) && isfinite(outcome->variance) && outcome->variance >= 0;
    if (outcome->kept && !(outcome->inclusion > 0 && outcome->inclusion <= 1)) {
        return GA_FAIL(error, GA_ERR_DATA,
            "rank %d row %d was kept with inclusion probability %g, not in (0, 1]", (int)outcome->rank,
            (int)outcome->index, outcome->inclusion);
    }
    const double inverse = rewarded ? 1 / outcome->inclusion : 0;
    w->kept_count += rewarded;
    w->unrewarded_count += outcome->kept && !rewarded;
    w->clipped_count += inverse > w->options->clip;
    w->rows[input] = (row){
        .group = outcome->group,
        .reward = rewarded ? outcome->reward : 0,
        .mean = predicted ? (double)outcome->mean : (double)NAN,
        .variance = predicted ? (double)outcome->variance : 0,
        .inverse = inverse,
        .weight = fmin(inverse, w->options->clip),
        .rank = outcome->rank,
        .index = outcome->index,
        .input = input,
    };
    return GA_OK;
}

/* B; 1 where everything is kept, or the variances are not known. */
static double shrinkage(const ga_advantage_options *options, int32_t size, int32_t kept) {
    const double tau2 = options->tau2;
    const double sigma_r2 = options->sigma_r2;
    if (options->estimator == GA_ESTIMATOR_PREDICTED) {
        return 0;
    }
    if (options->estimator != GA_ESTIMATOR_SHRUNK || kept == size || isnan(tau2) || isnan(sigma_r2)) {
        return 1;
    }
    if (kept == 0) {
        return 0;
    }
    const double denominator = tau2 + sigma_r2 / kept;
    return denominator > 0 ? (tau2 + sigma_r2 / size) / denominator : 1;
}

/* Do rewards say all there is to say? Looking at a group's rewards because all happen to be kept would make
 * the baseline `predicted` depend on who is kept. */
static bool is_complete(const work *w, const group *g) {
    return w->options->estimator == GA_ESTIMATOR_PREDICTED ? w->kept_count == w->count
                                                           : g->kept == g->end - g->first;
}

static void close_group(work *w, int32_t first, int32_t end) {
    group *g = &w->groups[w->group_count++];
    *g = (group){.first = first, .end = end};
    double sum = 0;
    for (int32_t i = first; i < end; i++) {
        g->kept += is_kept(&w->rows[i]);
        sum += w->rows[i].mean;
    }
    g->predicted = !isnan(sum);
    g->centre = g->predicted ? sum / (end - first) : 0;
    g->survivors_only = w->options->estimator == GA_ESTIMATOR_SURVIVORS || !g->predicted || is_complete(w, g);
    g->shrink = g->survivors_only ? 1 : shrinkage(w->options, end - first, g->kept);
}

static void find_groups(work *w) {
    qsort(w->rows, ga_size(w->count), sizeof *w->rows, compare_rows);
    int32_t first = 0;
    for (int32_t i = 1; i <= w->count; i++) {
        if (i == w->count || w->rows[i].group != w->rows[first].group) {
            close_group(w, first, i);
            first = i;
        }
    }
}

/* Has the group anything to tell: a kept row, or predictions of all rows? */
static bool is_informed(const group *g) {
    return g->kept > 0 || !g->survivors_only;
}

/* Adds a row to the sums (sign 1) or takes it out (−1); f is the distance from `centre`, or its square. */
static void add_row(sums *s, const row *r, double centre, bool squared, bool clipped, int32_t sign) {
    const double predicted = isnan(r->mean) ? 0 : r->mean - centre;
    const double expected = squared ? predicted * predicted + r->variance : predicted;
    s->size += sign;
    s->expected += sign * expected;
    if (is_kept(r)) {
        const double distance = r->reward - centre;
        const double seen = squared ? distance * distance : distance;
        const double weight = clipped ? r->weight : r->inverse;
        s->kept += sign;
        s->weight += sign * weight;
        s->offset += sign * weight * (seen - expected);
        s->seen += sign * seen;
    }
}

static sums sum_group(const work *w, const group *g, double centre, bool squared, bool clipped) {
    sums s = {0};
    for (int32_t i = g->first; i < g->end; i++) {
        add_row(&s, &w->rows[i], centre, squared, clipped, 1);
    }
    return s;
}

/* T of the rows that the sums are over; 0 where they tell nothing. */
static double value_of(const group *g, const sums *s, double shrink) {
    if (g->survivors_only) {
        return s->kept > 0 ? s->seen / s->kept : 0;
    }
    const double offset = s->kept > 0 ? shrink * s->offset / s->weight : 0;
    return s->expected / s->size + offset;
}

/* T(r − centre) or T((r − centre)²) of a group. */
static double estimate(const work *w, const group *g, double centre, bool squared) {
    const sums s = sum_group(w, g, centre, squared, true);
    return value_of(g, &s, g->shrink);
}

/* Two passes: the second works with small numbers. */
static void estimate_means(work *w) {
    for (int32_t k = 0; k < w->group_count; k++) {
        group *g = &w->groups[k];
        if (!is_informed(g)) {
            g->mean = (double)NAN;
            continue;
        }
        const double rough = estimate(w, g, 0, false);
        g->mean = rough + estimate(w, g, rough, false);
    }
}

/* How many rows of the group count in a mean over all rows: under `survivors` only those that are there. */
static double share_of(const work *w, const group *g) {
    if (!is_informed(g)) {
        return 0;
    }
    return w->options->estimator == GA_ESTIMATOR_SURVIVORS ? g->kept : g->end - g->first;
}

/* Σ_kept (r − centre)² */
static double kept_square(const work *w, const group *g, double centre) {
    return sum_group(w, g, centre, true, true).seen;
}

/* One σ̂ for all rows. */
static void estimate_global_sigma(work *w) {
    double rows = 0, mean_sum = 0, square = 0, shown = 0;
    for (int32_t k = 0; k < w->group_count; k++) {
        const double share = share_of(w, &w->groups[k]);
        rows += share;
        mean_sum += share > 0 ? share * w->groups[k].mean : 0;
    }
    const double mean = rows > 0 ? mean_sum / rows : 0;
    for (int32_t k = 0; k < w->group_count; k++) {
        const group *g = &w->groups[k];
        const double share = share_of(w, g);
        square += share > 0 ? share * estimate(w, g, mean, true) : 0;
        shown += kept_square(w, g, mean);
    }
    const double sigma = rows > 0 ? sqrt(fmax(square, shown) / rows) : 0;
    for (int32_t k = 0; k < w->group_count; k++) {
        w->groups[k].sigma = sigma;
    }
}

static void estimate_group_sigmas(work *w) {
    for (int32_t k = 0; k < w->group_count; k++) {
        group *g = &w->groups[k];
        const double share = share_of(w, g);
        if (share > 0) {
            const double shown = kept_square(w, g, g->mean) / share;
            g->sigma = sqrt(fmax(shown, estimate(w, g, g->mean, true)));
        }
    }
}

static void estimate_sigmas(work *w) {
    if (w->options->fixed_sigma > 0) {
        for (int32_t k = 0; k < w->group_count; k++) {
            w->groups[k].sigma = w->options->fixed_sigma;
        }
    } else if (w->options->std_kind == GA_STD_GLOBAL) {
        estimate_global_sigma(w);
    } else {
        estimate_group_sigmas(w);
    }
}

/* μ̂ of the others of the row's group, `all` being the group's sums about μ̂_g; μ̂_g where they tell
 * nothing. */
static double baseline_without(const work *w, const group *g, const row *r, const sums *all) {
    sums others = *all;
    add_row(&others, r, g->mean, false, true, -1);
    if (others.size == 0 || (g->survivors_only && others.kept == 0)) {
        return g->mean;
    }
    return g->mean + value_of(g, &others, shrinkage(w->options, others.size, others.kept));
}

/* Â_i without its divisor: the predicted distance from the group's mean, or from that of the others. */
static double predicted_distance(const work *w, const group *g, const row *r) {
    const int32_t size = g->end - g->first;
    if (!w->options->prefix_credit || !g->predicted) {
        return 0;
    }
    const double distance = r->mean - g->centre;
    return w->options->leave_one_out && size > 1 ? distance * size / (size - 1) : distance;
}

static bool is_weighted(const ga_advantage_options *options) {
    return options->prefix_credit || options->weighting == GA_WEIGHT_INVERSE;
}

/* Before κ, which needs the number of all rows that have an advantage. */
static double advantage_of(work *w, const row *r, double baseline, double predicted, double divisor) {
    if (divisor <= 0) {
        return 0;
    }
    if (!is_kept(r)) {
        w->credited_count += predicted != 0;
        return predicted / divisor;
    }
    const double correction = r->reward - baseline - predicted;
    return (predicted + (is_weighted(w->options) ? r->weight : 1) * correction) / divisor;
}

static void write_rows(work *w, double *advantage, double *baseline, double *row_sigma) {
    for (int32_t k = 0; k < w->group_count; k++) {
        const group *g = &w->groups[k];
        const double divisor = g->sigma + w->options->epsilon;
        const sums all = sum_group(w, g, g->mean, false, true);
        for (int32_t i = g->first; i < g->end; i++) {
            const row *r = &w->rows[i];
            const bool apart = w->options->leave_one_out && is_kept(r);
            const double own_baseline = apart ? baseline_without(w, g, r, &all) : g->mean;
            advantage[r->input] = advantage_of(w, r, own_baseline, predicted_distance(w, g, r), divisor);
            baseline[r->input] = own_baseline;
            row_sigma[r->input] = divisor;
        }
    }
    const double taught = w->kept_count + w->credited_count;
    for (int32_t i = 0; i < w->count && is_weighted(w->options); i++) {
        advantage[i] *= taught / w->count;
    }
}

/* Root mean square over rows of what the clip does to the baselines, in σ̂. */
static double clip_shift(const work *w) {
    double square = 0;
    for (int32_t k = 0; k < w->group_count && w->clipped_count > 0; k++) {
        const group *g = &w->groups[k];
        if (!g->survivors_only && g->sigma > 0) {
            const sums clipped = sum_group(w, g, g->mean, false, true);
            const sums whole = sum_group(w, g, g->mean, false, false);
            const double shift =
                (value_of(g, &clipped, g->shrink) - value_of(g, &whole, g->shrink)) / g->sigma;
            square += shift * shift * (g->end - g->first);
        }
    }
    return w->count > 0 ? sqrt(square / w->count) : 0;
}

static double clip_left_out(const work *w, const double *baseline, const double *row_sigma) {
    double sum = 0;
    for (int32_t k = 0; k < w->group_count && is_weighted(w->options); k++) {
        const group *g = &w->groups[k];
        for (int32_t i = g->first; i < g->end; i++) {
            const row *r = &w->rows[i];
            if (r->inverse > r->weight && row_sigma[r->input] > 0) {
                const double weighted = r->reward - baseline[r->input] - predicted_distance(w, g, r);
                sum += (r->inverse - r->weight) * fabs(weighted) / row_sigma[r->input];
            }
        }
    }
    return w->count > 0 ? sum / w->count : 0;
}

static void summarise_shrinkage(const work *w, ga_advantage_report *report) {
    double sum = 0;
    int32_t partly_kept = 0;
    report->shrink_mean = report->shrink_min = report->shrink_max = 1;
    for (int32_t k = 0; k < w->group_count; k++) {
        const group *g = &w->groups[k];
        if (g->kept > 0 && g->kept < g->end - g->first) {
            sum += g->shrink;
            report->shrink_min = partly_kept > 0 ? fmin(report->shrink_min, g->shrink) : g->shrink;
            report->shrink_max = partly_kept > 0 ? fmax(report->shrink_max, g->shrink) : g->shrink;
            partly_kept++;
        }
    }
    report->shrink_mean = partly_kept > 0 ? sum / partly_kept : 1;
}

static ga_advantage_report summarise(const work *w, const double *baseline, const double *row_sigma) {
    ga_advantage_report report = {
        .count = w->count,
        .kept_count = w->kept_count,
        .group_count = w->group_count,
        .unrewarded_count = w->unrewarded_count,
        .clipped_count = w->clipped_count,
        .credited_count = w->credited_count,
        .clip_left_out = clip_left_out(w, baseline, row_sigma),
        .clip_shift = clip_shift(w),
        .baseline = baseline,
        .row_sigma = row_sigma,
    };
    double square = 0;
    for (int32_t k = 0; k < w->group_count; k++) {
        const group *g = &w->groups[k];
        const int32_t size = g->end - g->first;
        square += g->sigma * g->sigma * size;
        report.fallback_group_count +=
            w->options->estimator != GA_ESTIMATOR_SURVIVORS && !g->predicted && g->kept < size;
    }
    report.sigma = w->count > 0 ? sqrt(square / w->count) : 0;
    summarise_shrinkage(w, &report);
    return report;
}

static bool is_variance(double value) {
    return isnan(value) || (value >= 0 && isfinite(value));
}

static ga_status check_options(const ga_advantage_options *options, ga_error *error) {
    const bool kinds_ok = (int)options->estimator >= 0 && options->estimator <= GA_ESTIMATOR_PREDICTED &&
                          (int)options->weighting >= 0 && options->weighting <= GA_WEIGHT_INVERSE &&
                          (options->std_kind == GA_STD_GLOBAL || options->std_kind == GA_STD_GROUP);
    if (!kinds_ok) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "unknown estimator %d, weighting %d or standard deviation %d",
            (int)options->estimator, (int)options->weighting, (int)options->std_kind);
    }
    const bool values_ok = options->clip >= 1 && options->epsilon >= 0 && isfinite(options->epsilon) &&
                           options->fixed_sigma >= 0 && isfinite(options->fixed_sigma) &&
                           is_variance(options->tau2) && is_variance(options->sigma_r2);
    if (!values_ok) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "advantage needs a clip ≥ 1 (%g), epsilon ≥ 0 (%g), a fixed σ > 0 or 0 (%g), variances ≥ 0 or "
            "NaN "
            "(%g, %g)",
            options->clip, options->epsilon, options->fixed_sigma, options->tau2, options->sigma_r2);
    }
    return GA_OK;
}

ga_status ga_advantage_compute(const ga_advantage_options *options, const ga_outcome *outcomes, int32_t count,
    ga_arena *arena, double *advantage_out, ga_advantage_report *report_out, ga_error *error) {
    if (options == NULL || arena == NULL || count < 0 ||
        (count > 0 && (outcomes == NULL || advantage_out == NULL))) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "advantages of %d rows: an argument is missing", (int)count);
    }
    GA_TRY(check_options(options, error));
    const size_t rows = ga_size(count);
    work w = {.options = options, .count = count};
    w.rows = ga_arena_take(arena, rows, sizeof *w.rows);
    w.groups = ga_arena_take(arena, rows, sizeof *w.groups);
    double *baseline = ga_arena_take(arena, rows, sizeof *baseline);
    double *row_sigma = ga_arena_take(arena, rows, sizeof *row_sigma);
    if (w.rows == NULL || w.groups == NULL || baseline == NULL || row_sigma == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for advantages of %d rows", (int)count);
    }
    for (int32_t i = 0; i < count; i++) {
        GA_TRY(read_outcome(&w, &outcomes[i], i, error));
    }
    if (count > 0) {
        find_groups(&w);
    }
    estimate_means(&w);
    estimate_sigmas(&w);
    write_rows(&w, advantage_out, baseline, row_sigma);
    if (report_out != NULL) {
        *report_out = summarise(&w, baseline, row_sigma);
    }
    return GA_OK;
}

/* Place of `name` in names[count]; -1: not among them. */
static int find_name(const char *name, const char *const *names, int count) {
    for (int i = 0; name != NULL && i < count; i++) {
        if (strcmp(name, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

ga_status ga_estimator_parse(const char *name, ga_estimator *estimator_out, ga_error *error) {
    static const char *const names[] = {"shrunk", "difference", "survivors", "predicted"};
    const int found = find_name(name, names, 4);
    if (found < 0) {
        return GA_FAIL(error, GA_ERR_CONFIG,
            "unknown estimator '%s': use shrunk, difference, survivors or predicted",
            name != NULL ? name : "");
    }
    *estimator_out = (ga_estimator)found;
    return GA_OK;
}

ga_status ga_weighting_parse(const char *name, ga_weighting *weighting_out, ga_error *error) {
    static const char *const names[] = {"one", "inverse"};
    const int found = find_name(name, names, 2);
    if (found < 0) {
        return GA_FAIL(
            error, GA_ERR_CONFIG, "unknown weights '%s': use one or inverse", name != NULL ? name : "");
    }
    *weighting_out = (ga_weighting)found;
    return GA_OK;
}
