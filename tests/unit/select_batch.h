/* Batches of candidates for the tests of room select. */
#ifndef GA_TESTS_SELECT_BATCH_H
#define GA_TESTS_SELECT_BATCH_H

#include "tests/unit/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/select/plan.h"

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

enum { ROWS_MAX = 4096 };

/* A batch: rows in order of (rank, index), members of the groups spread over the ranks by chance. */
typedef struct batch {
    int32_t ranks;
    int32_t rows_per_rank;
    int32_t count;
    ga_candidate rows[ROWS_MAX];
} batch;

static inline batch *make_batch(ga_random *random, int32_t ranks, int32_t rows_per_rank, int32_t group_size) {
    batch *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->ranks = ranks;
    b->rows_per_rank = rows_per_rank;
    b->count = ranks * rows_per_rank;
    assert_true(b->count <= ROWS_MAX);
    int32_t order[ROWS_MAX];
    for (int32_t i = 0; i < b->count; i++) {
        order[i] = i;
    }
    ga_random_shuffle(random, order, (uint32_t)b->count);
    for (int32_t i = 0; i < b->count; i++) {
        const uint64_t group = (uint64_t)(order[i] / group_size);
        b->rows[i] = (ga_candidate){
            .group = 1000 + group * group * 77,
            .mean = (float)(0.3 * (double)group + (1 + (double)(group % 3)) * ga_random_normal(random)),
            .variance = (float)(0.1 + ga_random_uniform(random)),
            .rank = i / rows_per_rank,
            .index = i % rows_per_rank,
        };
    }
    return b;
}

static inline ga_plan_options default_options(const batch *b, int32_t keep_per_rank) {
    return (ga_plan_options){
        .policy = GA_POLICY_EXTREMES,
        .ranks = b->ranks,
        .keep_per_rank = keep_per_rank,
        .seed = 5,
        .batch = 17,
        .std_kind = GA_STD_GLOBAL,
    };
}

static inline ga_plan plan_of(const ga_plan_options *options, const batch *b, ga_arena *arena) {
    ga_error error;
    ga_error_clear(&error);
    ga_plan plan = {0};
    test_ok(ga_plan_make(options, b->rows, b->count, arena, &plan, &error), &error);
    return plan;
}

static inline ga_grid grid_of(const batch *b, ga_arena *arena) {
    ga_error error;
    ga_error_clear(&error);
    ga_grid grid = {0};
    test_ok(ga_grid_make(b->rows, b->count, b->ranks, arena, &grid, &error), &error);
    return grid;
}

static inline int kept_on_rank(const ga_plan *plan, const batch *b, int32_t rank) {
    int kept = 0;
    for (int32_t i = 0; i < b->count; i++) {
        kept += b->rows[i].rank == rank && plan->kept[i];
    }
    return kept;
}

static inline int32_t kept_of_group(const ga_grid *grid, const uint8_t *kept, int32_t group) {
    int32_t count = 0;
    for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
        count += kept[grid->member[i]];
    }
    return count;
}

static inline double sum_of_group(const ga_grid *grid, const double *values, int32_t group) {
    double sum = 0;
    for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
        sum += values[grid->member[i]];
    }
    return sum;
}

static inline double energy(const double *weight, const uint8_t *kept, int32_t count) {
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += kept[i] ? weight[i] : 0;
    }
    return sum;
}

#endif
