/* Groups whose rows can't be told apart: ga_feature_shared_state of feature.h. */
#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/feature/feature.h"

/* Part of an input's root mean square that two values may differ by and still be the same. */
#define SAME_PART (1.0 / 256.0)

/* A row and its group, to be sorted. */
typedef struct member {
    uint64_t group;
    int32_t row;
} member;

static int compare_members(const void *a, const void *b) {
    const member *left = a, *right = b;
    if (left->group != right->group) {
        return left->group < right->group ? -1 : 1;
    }
    return (left->row > right->row) - (left->row < right->row);
}

/* Scores may be equal by chance (0 or 1), and prompts are equal in a group. */
static bool tells_of_state(ga_input input) {
    return input == GA_INPUT_ATTENTION || input == GA_INPUT_X0 || input == GA_INPUT_CFG ||
           input == GA_INPUT_HIDDEN;
}

static const ga_half *values_of(const ga_feature_block *block, const ga_input_shape *shape, int32_t row) {
    return block->values + (ptrdiff_t)row * block->schema->values_per_row + shape->offset;
}

static int32_t count_of(const ga_input_shape *shape) {
    return shape->channels * shape->height * shape->width;
}

/* Root mean square of an input's finite values over all rows, times SAME_PART. */
static double tolerance_of(const ga_feature_block *block, const ga_input_shape *shape) {
    double square = 0;
    int64_t count = 0;
    for (int32_t row = 0; row < block->rows; row++) {
        const ga_half *values = values_of(block, shape, row);
        for (int32_t i = 0; i < count_of(shape); i++) {
            const double value = (double)ga_half_to_float(values[i]);
            if (isfinite(value)) {
                square += value * value;
                count++;
            }
        }
    }
    return count > 0 ? SAME_PART * sqrt(square / (double)count) : 0;
}

/* False also where a value is NaN: what is not known is not the same. */
static bool same_values(const ga_half *a, const ga_half *b, int32_t count, double tolerance) {
    for (int32_t i = 0; i < count; i++) {
        const double difference = (double)ga_half_to_float(a[i]) - (double)ga_half_to_float(b[i]);
        if (!(fabs(difference) <= tolerance)) {
            return false;
        }
    }
    return true;
}

static bool same_state(
    const ga_feature_block *block, int32_t row, int32_t other, const double tolerances[GA_INPUT_COUNT]) {
    for (int32_t i = 0; i < block->schema->input_count; i++) {
        const ga_input_shape *shape = &block->schema->inputs[i];
        if (tells_of_state(shape->input) &&
            !same_values(values_of(block, shape, row), values_of(block, shape, other), count_of(shape),
                tolerances[i])) {
            return false;
        }
    }
    return true;
}

static bool has_nan(const ga_feature_block *block, int32_t row) {
    for (int32_t i = 0; i < block->schema->input_count; i++) {
        const ga_input_shape *shape = &block->schema->inputs[i];
        const ga_half *values = values_of(block, shape, row);
        for (int32_t j = 0; tells_of_state(shape->input) && j < count_of(shape); j++) {
            if ((values[j] & 0x7fffu) > 0x7c00u) {
                return true;
            }
        }
    }
    return false;
}

/* Members first … end−1 are one group. */
static void judge_group(const ga_feature_block *block, const member *members, int32_t first, int32_t end,
    const double tolerances[GA_INPUT_COUNT], ga_shared_state *state) {
    if (end - first < 2) {
        return;
    }
    bool shared = true;
    for (int32_t i = first; i < end; i++) {
        if (has_nan(block, members[i].row)) {
            return;
        }
        shared = shared && same_state(block, members[first].row, members[i].row, tolerances);
    }
    state->groups++;
    state->shared_groups += shared;
    state->shared_rows += shared ? end - first : 0;
}

static bool has_state(const ga_feature_schema *schema) {
    for (int32_t i = 0; i < schema->input_count; i++) {
        if (tells_of_state(schema->inputs[i].input)) {
            return true;
        }
    }
    return false;
}

ga_status ga_feature_shared_state(
    const ga_feature_block *block, const uint64_t *group_keys, ga_shared_state *shared_out, ga_error *error) {
    ga_shared_state state = {0, 0, 0};
    if (block->rows < 1 || !has_state(block->schema)) {
        *shared_out = state;
        return GA_OK;
    }
    member *members = malloc((size_t)block->rows * sizeof *members);
    if (members == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "features: no memory for the groups of %d rows", block->rows);
    }
    for (int32_t i = 0; i < block->rows; i++) {
        members[i] = (member){group_keys[i], i};
    }
    qsort(members, (size_t)block->rows, sizeof *members, compare_members);
    double tolerances[GA_INPUT_COUNT] = {0};
    for (int32_t i = 0; i < block->schema->input_count; i++) {
        tolerances[i] = tolerance_of(block, &block->schema->inputs[i]);
    }
    for (int32_t first = 0; first < block->rows;) {
        int32_t end = first + 1;
        while (end < block->rows && members[end].group == members[first].group) {
            end++;
        }
        judge_group(block, members, first, end, tolerances, &state);
        first = end;
    }
    free(members);
    *shared_out = state;
    return GA_OK;
}
