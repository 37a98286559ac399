/* How long a plan takes, at sizes from one node to a thousand ranks: medians of the wall clock and of the
 * thread's own CPU clock, which a busy machine leaves alone; prints a table, asserts nothing about time. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/select/plan.h"

enum { REPEATS = 21 };

typedef struct bench_case {
    const char *policy;
    int32_t ranks;
    int32_t rows_per_rank;
    int32_t keep_per_rank;
    int32_t min_group;
    int32_t max_group;
    double spread_ratio; /* spread of the last group over the first: how unevenly groups are kept without
                            bounds */
} bench_case;

/* Groups of 24. */
static const bench_case CASES[] = {
    {"extremes", 64, 9, 2, 0, 0, 4},
    {"extremes", 64, 9, 2, 2, 0, 4},
    {"extremes", 64, 9, 2, 2, 6, 4},
    {"neyman", 64, 9, 2, 0, 0, 4},
    {"neyman", 64, 9, 2, 2, 0, 4},
    {"topk", 64, 9, 2, 0, 0, 4},
    {"topk", 64, 9, 2, 2, 0, 4},
    {"random", 64, 9, 2, 0, 0, 4},
    {"random", 64, 9, 2, 2, 0, 4},
    {"threshold", 64, 9, 2, 0, 0, 4},
    {"threshold", 64, 9, 2, 2, 0, 4},
    {"budget", 64, 9, 2, 0, 0, 4},
    {"budget", 64, 9, 2, 2, 0, 4},
    {"extremes", 1024, 16, 4, 0, 0, 4},
    {"extremes", 1024, 16, 4, 2, 0, 4},
    {"extremes", 1024, 16, 4, 2, 8, 4},
    {"neyman", 1024, 16, 4, 0, 0, 4},
    {"neyman", 1024, 16, 4, 2, 0, 4},
    {"topk", 1024, 16, 4, 0, 0, 4},
    {"topk", 1024, 16, 4, 2, 0, 4},
    {"random", 1024, 16, 4, 0, 0, 4},
    {"random", 1024, 16, 4, 2, 0, 4},
    {"threshold", 1024, 16, 4, 0, 0, 4},
    {"threshold", 1024, 16, 4, 2, 0, 4},
    {"budget", 1024, 16, 4, 0, 0, 4},
    {"budget", 1024, 16, 4, 2, 0, 4},
    /* hard ones: bounds that quotas nearly or quite forbid */
    {"extremes", 1024, 16, 2, 2, 0, 4},
    {"extremes", 1024, 16, 1, 2, 0, 4},
    {"extremes", 1024, 16, 4, 6, 0, 100},
    {"extremes", 1024, 16, 4, 0, 6, 100},
    {"neyman", 1024, 16, 4, 6, 0, 100},
    {"budget", 1024, 16, 4, 0, 0, 100},
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

static int compare_seconds(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double cpu_now(void) {
    struct timespec now = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double median(double *values) {
    qsort(values, REPEATS, sizeof *values, compare_seconds);
    return values[REPEATS / 2];
}

/* Medians in seconds: [0] wall clock, [1] CPU. */
static ga_status time_case(
    const bench_case *c, const ga_candidate *rows, ga_arena *arena, ga_plan *plan, double medians[2]) {
    const ga_clock *clock = ga_clock_system();
    ga_plan_options options = {.ranks = c->ranks,
        .keep_per_rank = c->keep_per_rank,
        .min_group = c->min_group,
        .max_group = c->max_group,
        .min_inclusion = 0.05,
        .threshold = {GA_THRESHOLD_QUANTILE, 1 - (double)c->keep_per_rank / c->rows_per_rank}};
    double wall[REPEATS] = {0}, cpu[REPEATS] = {0};
    ga_status status = ga_policy_parse(c->policy, &options.policy, NULL);
    for (int i = 0; i < REPEATS && status == GA_OK; i++) {
        ga_arena_reset(arena);
        options.batch = (uint64_t)i;
        const double wall_start = ga_clock_now(clock), cpu_start = cpu_now();
        status = ga_plan_make(&options, rows, c->ranks * c->rows_per_rank, arena, plan, NULL);
        cpu[i] = cpu_now() - cpu_start;
        wall[i] = ga_clock_now(clock) - wall_start;
    }
    medians[0] = median(wall);
    medians[1] = median(cpu);
    return status;
}

static int run_case(const bench_case *c) {
    ga_candidate *rows = make_rows(c);
    ga_arena *arena = ga_arena_create(1u << 20);
    ga_plan plan = {0};
    double medians[2] = {0};
    ga_status status = GA_ERR_MEMORY;
    if (rows != NULL && arena != NULL) {
        status = time_case(c, rows, arena, &plan, medians);
    }
    printf("%-9s %5d × %2d, %d kept, floor %d, cap %d, spreads 1 to %3.0f: %8.2f ms, CPU %8.2f ms, bounds "
           "broken: %d\n",
        c->policy, (int)c->ranks, (int)c->rows_per_rank, (int)c->keep_per_rank, (int)c->min_group,
        (int)c->max_group, c->spread_ratio, 1e3 * medians[0], 1e3 * medians[1],
        (int)(plan.lowered_floor_count + plan.raised_cap_count));
    ga_arena_destroy(&arena);
    free(rows);
    return status == GA_OK ? 0 : 1;
}

int main(void) {
    int failures = 0;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        failures += run_case(&CASES[i]);
        fflush(stdout);
    }
    return failures == 0 ? 0 : 1;
}
