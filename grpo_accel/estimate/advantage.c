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
    double weight; /* min(1/π, clip); 0 where there is no reward */
    int32_t rank;
    int32_t index;
    int32_t input; /* place among the outcomes */
} row;

typedef struct group {
    int32_t first; /* rows [first, end) */
    int32_t end;
    int32_t kept;
    bool survivors_only; /* T is the mean over kept rows */
    double shrink;       /* B */
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
} work;

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
    if (options->estimator != GA_ESTIMATOR_SHRUNK || kept == size || isnan(tau2) || isnan(sigma_r2)) {
        return 1;
    }
    if (kept == 0) {
        return 0;
    }
    const double denominator = tau2 + sigma_r2 / kept;
    return denominator > 0 ? (tau2 + sigma_r2 / size) / denominator : 1;
}

static void close_group(work *w, int32_t first, int32_t end) {
    group *g = &w->groups[w->group_count++];
    *g = (group){.first = first, .end = end};
    bool predicted = true;
    for (int32_t i = first; i < end; i++) {
        g->kept += is_kept(&w->rows[i]);
        predicted = predicted && !isnan(w->rows[i].mean);
    }
    g->survivors_only =
        w->options->estimator == GA_ESTIMATOR_SURVIVORS || !predicted || g->kept == end - first;
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

/* Mean over kept rows of the reward's distance from `centre`, or of its square. */
static double mean_of_kept(const work *w, const group *g, double centre, bool squared) {
    double sum = 0;
    for (int32_t i = g->first; i < g->end; i++) {
        if (is_kept(&w->rows[i])) {
            const double distance = w->rows[i].reward - centre;
            sum += squared ? distance * distance : distance;
        }
    }
    return g->kept > 0 ? sum / g->kept : 0;
}

/* T(r − centre) or T((r − centre)²) of a group. */
static double estimate(const work *w, const group *g, double centre, bool squared) {
    if (g->survivors_only) {
        return mean_of_kept(w, g, centre, squared);
    }
    double expected_sum = 0, offset_sum = 0, weight_sum = 0;
    for (int32_t i = g->first; i < g->end; i++) {
        const row *r = &w->rows[i];
        const double predicted = r->mean - centre;
        const double seen = r->reward - centre;
        const double expected = squared ? predicted * predicted + r->variance : predicted;
        expected_sum += expected;
        if (is_kept(r)) {
            offset_sum += r->weight * ((squared ? seen * seen : seen) - expected);
            weight_sum += r->weight;
        }
    }
    const double offset = weight_sum > 0 ? g->shrink * offset_sum / weight_sum : 0;
    return expected_sum / (g->end - g->first) + offset;
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

static double kept_square(const work *w, const group *g, double centre) {
    return mean_of_kept(w, g, centre, true) * g->kept;
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

static double advantage_of(const work *w, const group *g, const row *r) {
    if (!is_kept(r)) {
        return 0;
    }
    const double divisor = g->sigma + w->options->epsilon;
    const double advantage = divisor > 0 ? (r->reward - g->mean) / divisor : 0;
    if (w->options->weighting == GA_WEIGHT_ONE) {
        return advantage;
    }
    return advantage * r->weight * w->kept_count / w->count;
}

static void write_rows(const work *w, double *advantage, double *baseline, double *row_sigma) {
    for (int32_t k = 0; k < w->group_count; k++) {
        const group *g = &w->groups[k];
        for (int32_t i = g->first; i < g->end; i++) {
            const int32_t input = w->rows[i].input;
            advantage[input] = advantage_of(w, g, &w->rows[i]);
            baseline[input] = g->mean;
            row_sigma[input] = g->sigma + w->options->epsilon;
        }
    }
}

static ga_advantage_report summarise(const work *w, const double *baseline, const double *row_sigma) {
    ga_advantage_report report = {
        .count = w->count,
        .kept_count = w->kept_count,
        .group_count = w->group_count,
        .unrewarded_count = w->unrewarded_count,
        .clipped_count = w->clipped_count,
        .baseline = baseline,
        .row_sigma = row_sigma,
    };
    double square = 0, shrink_sum = 0;
    int32_t partly_kept = 0;
    for (int32_t k = 0; k < w->group_count; k++) {
        const group *g = &w->groups[k];
        const int32_t size = g->end - g->first;
        const bool partly = g->kept > 0 && g->kept < size;
        square += g->sigma * g->sigma * size;
        partly_kept += partly;
        shrink_sum += partly ? g->shrink : 0;
        report.fallback_group_count +=
            w->options->estimator != GA_ESTIMATOR_SURVIVORS && g->survivors_only && g->kept < size;
    }
    report.sigma = w->count > 0 ? sqrt(square / w->count) : 0;
    report.shrink_mean = partly_kept > 0 ? shrink_sum / partly_kept : 1;
    return report;
}

static bool is_variance(double value) {
    return isnan(value) || (value >= 0 && isfinite(value));
}

static ga_status check_options(const ga_advantage_options *options, ga_error *error) {
    const bool kinds_ok = (int)options->estimator >= 0 && options->estimator <= GA_ESTIMATOR_SURVIVORS &&
                          (int)options->weighting >= 0 && options->weighting <= GA_WEIGHT_INVERSE &&
                          (options->std_kind == GA_STD_GLOBAL || options->std_kind == GA_STD_GROUP);
    if (!kinds_ok) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "unknown estimator %d, weighting %d or standard deviation %d",
            (int)options->estimator, (int)options->weighting, (int)options->std_kind);
    }
    const bool values_ok = options->clip >= 1 && isfinite(options->clip) && options->epsilon >= 0 &&
                           isfinite(options->epsilon) && is_variance(options->tau2) &&
                           is_variance(options->sigma_r2);
    if (!values_ok) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "advantage needs a finite clip ≥ 1 (%g), epsilon ≥ 0 (%g), variances ≥ 0 or NaN (%g, %g)",
            options->clip, options->epsilon, options->tau2, options->sigma_r2);
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
    if (options->std_kind == GA_STD_GLOBAL) {
        estimate_global_sigma(&w);
    } else {
        estimate_group_sigmas(&w);
    }
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
    static const char *const names[] = {"shrunk", "difference", "survivors"};
    const int found = find_name(name, names, 3);
    if (found < 0) {
        return GA_FAIL(error, GA_ERR_CONFIG, "unknown estimator '%s': use shrunk, difference or survivors",
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
