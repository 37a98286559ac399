#include "grpo_accel/select/budget.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/select/inclusion.h"

/* Stands for a spread of 0, so that the whole budget is always spent. */
static const double RATIO_MIN = 1e-12;
/* A share this close below a whole number is that number. */
static const double CLOSE_TO_WHOLE = 1e-9;

typedef struct remainder_entry {
    double remainder;
    uint32_t tie;
    int32_t group;
} remainder_entry;

typedef struct spread {
    double *weight;         /* [groups] */
    double *low;            /* [groups] */
    double *high;           /* [groups] */
    remainder_entry *entry; /* [groups] */
} spread;

static int compare_entries(const void *left, const void *right) {
    const remainder_entry *a = left;
    const remainder_entry *b = right;
    if (a->remainder != b->remainder) {
        return a->remainder > b->remainder ? -1 : 1;
    }
    if (a->tie != b->tie) {
        return a->tie < b->tie ? -1 : 1;
    }
    return (a->group > b->group) - (a->group < b->group);
}

static bool take_spread(ga_arena *arena, size_t groups, spread *s) {
    s->weight = ga_arena_take(arena, groups, sizeof *s->weight);
    s->low = ga_arena_take(arena, groups, sizeof *s->low);
    s->high = ga_arena_take(arena, groups, sizeof *s->high);
    s->entry = ga_arena_take(arena, groups, sizeof *s->entry);
    return s->weight != NULL && s->low != NULL && s->high != NULL && s->entry != NULL;
}

static void weigh_group(
    const ga_grid *grid, const ga_values *values, const ga_bounds *bounds, int32_t group, spread *s) {
    const int32_t size = ga_grid_group_size(grid, group);
    double sum = 0;
    int32_t scored = 0;
    for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
        if (isfinite(values->value[grid->member[i]])) {
            sum += values->value[grid->member[i]];
            scored++;
        }
    }
    s->weight[group] = scored > 0 ? size * sqrt(sum / scored) : size;
    s->high[group] = bounds->cap[group];
    s->low[group] = fmin(s->high[group], fmax(bounds->floor[group], size - scored));
}

/* Weights in units of the largest, none of them 0; equal spreads where none is expected anywhere. */
static void normalise_weights(const ga_grid *grid, spread *s) {
    double largest = 0;
    for (int32_t group = 0; group < grid->groups; group++) {
        largest = fmax(largest, s->weight[group]);
    }
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t size = ga_grid_group_size(grid, group);
        s->weight[group] = largest > 0 ? fmax(s->weight[group] / largest, size * RATIO_MIN) : size;
    }
}

/* Whole numbers below the real shares; returns how many rows are left to give. */
static int32_t take_whole_parts(
    const ga_grid *grid, spread *s, double factor, int32_t total, ga_random *random, int32_t *share) {
    int32_t left = total;
    for (int32_t group = 0; group < grid->groups; group++) {
        const double real = fmin(s->high[group], fmax(s->low[group], factor * s->weight[group]));
        share[group] = (int32_t)floor(real + CLOSE_TO_WHOLE);
        s->entry[group] = (remainder_entry){fmax(0, real - share[group]), ga_random_u32(random), group};
        left -= share[group];
    }
    return left;
}

ga_status ga_budget_spread(const ga_grid *grid, const ga_values *values, const ga_bounds *bounds,
    int32_t total, ga_random random, ga_arena *arena, int32_t *share_out, ga_error *error) {
    spread s = {0};
    if (!take_spread(arena, ga_size(grid->groups), &s)) {
        return GA_FAIL(
            error, GA_ERR_MEMORY, "no memory to spread a budget over %d groups", (int)grid->groups);
    }
    for (int32_t group = 0; group < grid->groups; group++) {
        weigh_group(grid, values, bounds, group, &s);
    }
    normalise_weights(grid, &s);
    const double factor = ga_scale_factor(s.weight, s.low, s.high, grid->groups, total);
    int32_t left = take_whole_parts(grid, &s, factor, total, &random, share_out);
    qsort(s.entry, ga_size(grid->groups), sizeof *s.entry, compare_entries);
    for (int32_t i = 0; i < grid->groups && left > 0; i++) {
        const int32_t group = s.entry[i].group;
        if (share_out[group] < bounds->cap[group]) {
            share_out[group]++;
            left--;
        }
    }
    return GA_OK;
}
