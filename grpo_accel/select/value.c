#include "grpo_accel/select/value.h"

#include <math.h>

#include "grpo_accel/base/check.h"

static const double HOST_EPSILON = 1e-4;

/* Fills centred[] of one group; returns the group's sum of (m − m̄)² + s² and counts its scored rows. */
static double centre_group(const ga_grid *grid, int32_t group, double *centred, int32_t *scored_out) {
    const int32_t first = grid->member_start[group];
    const int32_t end = grid->member_start[group + 1];
    double sum = 0;
    int32_t scored = 0;
    for (int32_t i = first; i < end; i++) {
        const double mean = grid->mean[grid->member[i]];
        if (!isnan(mean)) {
            sum += mean;
            scored++;
        }
    }
    const double group_mean = scored > 0 ? sum / scored : 0;
    double square = 0;
    for (int32_t i = first; i < end; i++) {
        const int32_t slot = grid->member[i];
        centred[slot] = isnan(grid->mean[slot]) ? 0 : grid->mean[slot] - group_mean;
        square += centred[slot] * centred[slot] + grid->variance[slot];
    }
    *scored_out = scored;
    return square;
}

/* Population standard deviation that the rewards of all scored rows are expected to have. */
static double global_sigma(const ga_grid *grid) {
    double sum = 0, square = 0;
    int32_t scored = 0;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        if (!isnan(grid->mean[slot])) {
            sum += grid->mean[slot];
            scored++;
        }
    }
    const double mean = scored > 0 ? sum / scored : 0;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        if (!isnan(grid->mean[slot])) {
            square += (grid->mean[slot] - mean) * (grid->mean[slot] - mean) + grid->variance[slot];
        }
    }
    return scored > 0 ? sqrt(square / scored) : 0;
}

ga_status ga_values_compute(
    const ga_grid *grid, ga_std_kind std_kind, ga_arena *arena, ga_values *values_out, ga_error *error) {
    double *value = ga_arena_take(arena, ga_size(grid->count), sizeof *value);
    double *centred = ga_arena_take(arena, ga_size(grid->count), sizeof *centred);
    double *sigma = ga_arena_take(arena, ga_size(grid->count), sizeof *sigma);
    if (value == NULL || centred == NULL || sigma == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the values of %d rows", (int)grid->count);
    }
    const double sigma_of_all = global_sigma(grid);
    int32_t unscored_count = grid->count;
    for (int32_t group = 0; group < grid->groups; group++) {
        int32_t scored = 0;
        const double square = centre_group(grid, group, centred, &scored);
        const double own = scored > 0 ? sqrt(square / scored) : 0;
        unscored_count -= scored;
        for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
            const int32_t slot = grid->member[i];
            const double numerator = centred[slot] * centred[slot] + grid->variance[slot];
            sigma[slot] = (std_kind == GA_STD_GROUP ? own : sigma_of_all) + HOST_EPSILON;
            value[slot] =
                isnan(grid->mean[slot]) ? (double)INFINITY : numerator / (sigma[slot] * sigma[slot]);
        }
    }
    *values_out = (ga_values){value, centred, sigma, unscored_count};
    return GA_OK;
}
