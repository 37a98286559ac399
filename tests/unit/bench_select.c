/* Seconds a plan takes, at sizes from one node to a thousand ranks; prints a table, asserts nothing about
 * time. */
#include <stdio.h>
#include <stdlib.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/select/plan.h"

enum { REPEATS = 5 };

typedef struct bench_case {
    const char *name;
    ga_policy_kind policy;
    int32_t ranks;
    int32_t rows_per_rank;
    int32_t keep_per_rank;
    int32_t min_group;
    double spread_ratio; /* spread of the last group over the first: how unevenly groups are kept without
                            floors */
} bench_case;

static const bench_case CASES[] = {
    {"extremes, global σ", GA_POLICY_EXTREMES, 64, 9, 2, 0, 4},
    {"extremes, floor 2", GA_POLICY_EXTREMES, 64, 9, 2, 2, 4},
    {"random, floor 2", GA_POLICY_RANDOM, 64, 9, 2, 2, 4},
    {"extremes, global σ", GA_POLICY_EXTREMES, 1024, 16, 4, 0, 4},
    {"extremes, floor 2", GA_POLICY_EXTREMES, 1024, 16, 4, 2, 4},
    {"extremes, floor 2, few kept", GA_POLICY_EXTREMES, 1024, 16, 2, 2, 4},
    {"extremes, floor 2: impossible", GA_POLICY_EXTREMES, 1024, 16, 1, 2, 4},
    {"extremes, floor 6 of 24: tight", GA_POLICY_EXTREMES, 1024, 16, 4, 6, 100},
    {"extremes, floor 9: impossible", GA_POLICY_EXTREMES, 1024, 16, 4, 9, 100},
    {"random", GA_POLICY_RANDOM, 1024, 16, 4, 0, 4},
    {"random, floor 2", GA_POLICY_RANDOM, 1024, 16, 4, 2, 4},
};

static ga_candidate *make_rows(const bench_case *c) {
    const int32_t count = c->ranks * c->rows_per_rank;
    ga_random random = ga_random_make(1, 0, GA_STREAM_TEST);
    ga_candidate *rows = calloc((size_t)count, sizeof *rows);
    int32_t *order = calloc((size_t)count, sizeof *order);
    if (rows == NULL || order == NULL) {
        free(rows);
        free(order);
        return NULL;
    }
    for (int32_t i = 0; i < count; i++) {
        order[i] = i;
    }
    ga_random_shuffle(&random, order, (uint32_t)count);
    for (int32_t i = 0; i < count; i++) {
        const int32_t group = order[i] / 24;
        const double spread = 1 + (c->spread_ratio - 1) * 24 * group / count;
        rows[i] = (ga_candidate){.group = (uint64_t)group,
            .mean = (float)(spread * ga_random_normal(&random)),
            .variance = (float)(spread * spread),
            .rank = i / c->rows_per_rank,
            .index = i % c->rows_per_rank};
    }
    free(order);
    return rows;
}

static int run_case(const bench_case *c) {
    const ga_clock *clock = ga_clock_system();
    ga_candidate *rows = make_rows(c);
    ga_arena *arena = ga_arena_create(1u << 20);
    ga_plan_options options = {.policy = c->policy, .ranks = c->ranks, .keep_per_rank = c->keep_per_rank};
    options.min_group = c->min_group;
    double best_seconds = 1e9;
    ga_plan plan = {0};
    ga_status status = rows != NULL && arena != NULL ? GA_OK : GA_ERR_MEMORY;
    for (int i = 0; i < REPEATS && status == GA_OK; i++) {
        ga_arena_reset(arena);
        options.batch = (uint64_t)i;
        const double start = ga_clock_now(clock);
        status = ga_plan_make(&options, rows, c->ranks * c->rows_per_rank, arena, &plan, NULL);
        const double seconds = ga_clock_now(clock) - start;
        best_seconds = seconds < best_seconds ? seconds : best_seconds;
    }
    printf("%-32s %5d × %2d, %d kept: %9.1f us, %d floors lowered\n", c->name, (int)c->ranks,
        (int)c->rows_per_rank, (int)c->keep_per_rank, 1e6 * best_seconds, (int)plan.lowered_floor_count);
    ga_arena_destroy(&arena);
    free(rows);
    return status == GA_OK ? 0 : 1;
}

int main(void) {
    int failures = 0;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        failures += run_case(&CASES[i]);
    }
    return failures == 0 ? 0 : 1;
}
