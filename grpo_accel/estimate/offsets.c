#include "grpo_accel/estimate/offsets.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"

static const double GROUPS_MIN = 8;
static const double FREEDOM_MIN = 8;

typedef struct residual {
    uint64_t group;
    double value;
} residual;

static int compare_residuals(const void *left, const void *right) {
    const residual *a = left;
    const residual *b = right;
    if (a->group != b->group) {
        return a->group < b->group ? -1 : 1;
    }
    return (a->value > b->value) - (a->value < b->value);
}

ga_offsets ga_offsets_make(double half_life_updates) {
    return (ga_offsets){.fade = half_life_updates > 0 ? exp2(-1 / half_life_updates) : 1};
}

static void add_group(ga_offsets *offsets, const residual *residuals, int32_t n) {
    double mean = 0;
    for (int32_t i = 0; i < n; i++) {
        mean += residuals[i].value / n;
    }
    for (int32_t i = 0; i < n; i++) {
        const double distance = residuals[i].value - mean;
        offsets->within_square += distance * distance;
    }
    offsets->within_freedom += n - 1;
    offsets->offset_square += n * mean * mean;
    offsets->group_count += 1;
    offsets->row_count += n;
}

static ga_offsets faded(const ga_offsets *offsets) {
    ga_offsets result = *offsets;
    result.within_square *= offsets->fade;
    result.within_freedom *= offsets->fade;
    result.offset_square *= offsets->fade;
    result.group_count *= offsets->fade;
    result.row_count *= offsets->fade;
    return result;
}

/* Residuals of rows with a reward and a prediction, sorted; returns how many. */
static int32_t collect_residuals(const ga_outcome *outcomes, int32_t count, residual *residuals) {
    int32_t used = 0;
    for (int32_t i = 0; i < count; i++) {
        const double value = outcomes[i].reward - (double)outcomes[i].mean;
        if (outcomes[i].kept && isfinite(value)) {
            residuals[used++] = (residual){outcomes[i].group, value};
        }
    }
    if (used > 0) {
        qsort(residuals, ga_size(used), sizeof *residuals, compare_residuals);
    }
    return used;
}

ga_status ga_offsets_add(
    ga_offsets *offsets, const ga_outcome *outcomes, int32_t count, ga_arena *arena, ga_error *error) {
    if (offsets == NULL || arena == NULL || count < 0 || (count > 0 && outcomes == NULL)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "offsets of %d rows: an argument is missing", (int)count);
    }
    residual *residuals = ga_arena_take(arena, ga_size(count), sizeof *residuals);
    if (residuals == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for offsets of %d rows", (int)count);
    }
    const int32_t used = collect_residuals(outcomes, count, residuals);
    if (used == 0) {
        return GA_OK; /* an update that tells nothing makes nothing older */
    }
    ga_offsets result = faded(offsets);
    int32_t first = 0;
    for (int32_t i = 1; i <= used; i++) {
        if (i == used || residuals[i].group != residuals[first].group) {
            add_group(&result, residuals + first, i - first);
            first = i;
        }
    }
    *offsets = result;
    return GA_OK;
}

bool ga_offsets_estimate(const ga_offsets *offsets, double *tau2_out, double *sigma_r2_out) {
    if (offsets->group_count < GROUPS_MIN || offsets->within_freedom < FREEDOM_MIN) {
        return false;
    }
    const double sigma_r2 = offsets->within_square / offsets->within_freedom;
    const double excess = offsets->offset_square - offsets->group_count * sigma_r2;
    *tau2_out = fmax(0, excess / offsets->row_count);
    *sigma_r2_out = sigma_r2;
    return true;
}
