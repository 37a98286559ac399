#include "grpo_accel/select/value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

static const double HOST_EPSILON = 1e-4;

/* Of a group, or of all rows. */
typedef struct moments {
    int32_t rows;
    int32_t scored;
    double mean;     /* of m: a sum at first */
    double variance; /* mean of s²: a sum at first */
    double square;   /* Σ (m − mean)² */
} moments;

static void add_row(moments *m, double mean, double variance) {
    m->rows++;
    if (!isnan(mean)) {
        m->scored++;
        m->mean += mean;
        m->variance += variance;
    }
}

static void close_sums(moments *m) {
    m->mean = m->scored > 0 ? m->mean / m->scored : 0;
    m->variance = m->scored > 0 ? m->variance / m->scored : 0;
}

static void add_square(moments *m, double mean) {
    m->square += isnan(mean) ? 0 : (mean - m->mean) * (mean - m->mean);
}

/* 1/G, or 0 where nobody knows G. */
static double share_of_one(const moments *m, bool whole) {
    return whole && m->rows > 0 ? 1.0 / m->rows : 0;
}

/* Standard deviation that the rewards of these rows are expected to have. */
static double expected_sigma(const moments *m, bool whole) {
    return m->scored > 0 ? sqrt(m->square / m->scored + m->variance * (1 - share_of_one(m, whole))) : 0;
}

static int compare_stopped(const void *left, const void *right) {
    const ga_candidate *a = left;
    const ga_candidate *b = right;
    if (a->group != b->group) {
        return a->group < b->group ? -1 : 1;
    }
    if (a->mean != b->mean) {
        return a->mean < b->mean ? -1 : 1;
    }
    return (a->variance > b->variance) - (a->variance < b->variance);
}

/* A copy of the stopped rows in an order of their own, so that sums don't depend on how they were given. */
static ga_candidate *sort_stopped(const ga_value_options *options, ga_arena *arena) {
    const size_t count = ga_size(options->stopped_count);
    ga_candidate *sorted = ga_arena_take(arena, count + 1, sizeof *sorted);
    for (size_t i = 0; sorted != NULL && i < count; i++) {
        sorted[i] = options->stopped[i];
        if (!isfinite(sorted[i].mean) || !isfinite(sorted[i].variance) || sorted[i].variance < 0) {
            sorted[i].mean = -INFINITY; /* in order; unlike a NaN */
            sorted[i].variance = 0;
        }
    }
    if (sorted != NULL) {
        qsort(sorted, count, sizeof *sorted, compare_stopped);
    }
    return sorted;
}

static double mean_of(const ga_candidate *row) {
    return isfinite(row->mean) ? (double)row->mean : (double)NAN;
}

/* The group's stopped rows are sorted[*next … end): moves *next to the end. Keys ascend on both sides. */
static int32_t end_of_group(const ga_candidate *sorted, int32_t count, uint64_t key, int32_t *next) {
    while (*next < count && sorted[*next].group < key) {
        ++*next;
    }
    int32_t end = *next;
    while (end < count && sorted[end].group == key) {
        end++;
    }
    return end;
}

static moments moments_of_group(
    const ga_grid *grid, int32_t group, const ga_candidate *stopped, int32_t stopped_count) {
    moments m = {0};
    for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
        add_row(&m, grid->mean[grid->member[i]], grid->variance[grid->member[i]]);
    }
    for (int32_t i = 0; i < stopped_count; i++) {
        add_row(&m, mean_of(&stopped[i]), stopped[i].variance);
    }
    close_sums(&m);
    for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
        add_square(&m, grid->mean[grid->member[i]]);
    }
    for (int32_t i = 0; i < stopped_count; i++) {
        add_square(&m, mean_of(&stopped[i]));
    }
    return m;
}

static moments moments_of_all(const ga_grid *grid, const ga_candidate *stopped, int32_t stopped_count) {
    moments m = {0};
    for (int32_t slot = 0; slot < grid->count; slot++) {
        add_row(&m, grid->mean[slot], grid->variance[slot]);
    }
    for (int32_t i = 0; i < stopped_count; i++) {
        add_row(&m, mean_of(&stopped[i]), stopped[i].variance);
    }
    close_sums(&m);
    for (int32_t slot = 0; slot < grid->count; slot++) {
        add_square(&m, grid->mean[slot]);
    }
    for (int32_t i = 0; i < stopped_count; i++) {
        add_square(&m, mean_of(&stopped[i]));
    }
    return m;
}

typedef struct columns {
    double *value;
    double *centred;
    double *sigma;
} columns;

static void fill_group(
    const ga_grid *grid, int32_t group, const moments *m, double sigma, double share, columns *out) {
    for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
        const int32_t slot = grid->member[i];
        const bool scored = !isnan(grid->mean[slot]);
        const double centred = scored ? grid->mean[slot] - m->mean : 0;
        const double numerator =
            centred * centred + grid->variance[slot] * (1 - 2 * share) + m->variance * share;
        out->centred[slot] = centred;
        out->sigma[slot] = sigma;
        /* A group of one: its two terms in s² cancel but for rounding. */
        out->value[slot] = scored ? fmax(0, numerator) / (sigma * sigma) : (double)INFINITY;
    }
}

ga_status ga_values_compute(const ga_grid *grid, const ga_value_options *options, ga_arena *arena,
    ga_values *values_out, ga_error *error) {
    columns c = {0};
    c.value = ga_arena_take(arena, ga_size(grid->count), sizeof *c.value);
    c.centred = ga_arena_take(arena, ga_size(grid->count), sizeof *c.centred);
    c.sigma = ga_arena_take(arena, ga_size(grid->count), sizeof *c.sigma);
    ga_candidate *stopped = sort_stopped(options, arena);
    if (c.value == NULL || c.centred == NULL || c.sigma == NULL || stopped == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the values of %d rows", (int)grid->count);
    }
    const moments all = moments_of_all(grid, stopped, options->stopped_count);
    const double sigma_of_all = expected_sigma(&all, options->whole);
    int32_t unscored_count = 0;
    for (int32_t group = 0, next = 0; group < grid->groups; group++) {
        const int32_t end = end_of_group(stopped, options->stopped_count, grid->group_key[group], &next);
        const moments m = moments_of_group(grid, group, stopped + next, end - next);
        const double own = expected_sigma(&m, options->whole);
        const double sigma = (options->std_kind == GA_STD_GROUP ? own : sigma_of_all) + HOST_EPSILON;
        fill_group(grid, group, &m, sigma, share_of_one(&m, options->whole), &c);
        next = end;
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        unscored_count += isnan(grid->mean[slot]);
    }
    *values_out = (ga_values){c.value, c.centred, c.sigma, unscored_count};
    return GA_OK;
}
