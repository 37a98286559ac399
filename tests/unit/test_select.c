#include "tests/unit/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/select/compact.h"
#include "grpo_accel/select/extremes.h"
#include "grpo_accel/select/inclusion.h"
#include "grpo_accel/select/plan.h"
#include "grpo_accel/select/rounding.h"

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

enum { ROWS_MAX = 4096 };

/* A batch: rows in order of (rank, index), members of the groups spread over the ranks by chance. */
typedef struct batch {
    int32_t ranks;
    int32_t rows_per_rank;
    int32_t count;
    ga_candidate rows[ROWS_MAX];
} batch;

static batch *make_batch(ga_random *random, int32_t ranks, int32_t rows_per_rank, int32_t group_size) {
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

static ga_plan_options default_options(const batch *b, int32_t keep_per_rank) {
    return (ga_plan_options){
        .policy = GA_POLICY_EXTREMES,
        .ranks = b->ranks,
        .keep_per_rank = keep_per_rank,
        .seed = 5,
        .batch = 17,
        .std_kind = GA_STD_GLOBAL,
    };
}

static ga_plan plan_of(const ga_plan_options *options, const batch *b, ga_arena *arena) {
    ga_error error;
    ga_error_clear(&error);
    ga_plan plan = {0};
    test_ok(ga_plan_make(options, b->rows, b->count, arena, &plan, &error), &error);
    return plan;
}

static ga_grid grid_of(const batch *b, ga_arena *arena) {
    ga_error error;
    ga_error_clear(&error);
    ga_grid grid = {0};
    test_ok(ga_grid_make(b->rows, b->count, b->ranks, arena, &grid, &error), &error);
    return grid;
}

static int kept_on_rank(const ga_plan *plan, const batch *b, int32_t rank) {
    int kept = 0;
    for (int32_t i = 0; i < b->count; i++) {
        kept += b->rows[i].rank == rank && plan->kept[i];
    }
    return kept;
}

static int32_t kept_of_group(const ga_grid *grid, const uint8_t *kept, int32_t group) {
    int32_t count = 0;
    for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
        count += kept[grid->member[i]];
    }
    return count;
}

static double energy(const double *weight, const uint8_t *kept, int32_t count) {
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += kept[i] ? weight[i] : 0;
    }
    return sum;
}

/* ---- extremes against brute force ---- */

enum { SMALL_MAX = 12 };

typedef struct best {
    int32_t floors[SMALL_MAX]; /* ascending */
    double energy;
    bool found;
} best;

static int compare_int32(const void *left, const void *right) {
    const int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

/* Each group's count, cut at the floor that was asked for; ascending. */
static void sorted_floors(const ga_grid *grid, const uint8_t *kept, int32_t min_group, int32_t *floors) {
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t held = kept_of_group(grid, kept, group);
        floors[group] = held < min_group ? held : min_group;
    }
    qsort(floors, (size_t)grid->groups, sizeof *floors, compare_int32);
}

static bool quota_holds(const ga_grid *grid, const uint8_t *kept, int32_t keep) {
    for (int32_t rank = 0; rank < grid->ranks; rank++) {
        int32_t count = 0;
        for (int32_t i = 0; i < grid->rows_per_rank; i++) {
            count += kept[rank * grid->rows_per_rank + i];
        }
        if (count != keep) {
            return false;
        }
    }
    return true;
}

/* The largest energy among all sets that keep these floors, or the max-min floors if `floor` is NULL. */
static best brute_force(
    const ga_grid *grid, const double *weight, int32_t keep, int32_t min_group, const int32_t *floor) {
    best found = {0};
    for (unsigned set = 0; set < 1u << grid->count; set++) {
        uint8_t kept[SMALL_MAX];
        for (int32_t i = 0; i < grid->count; i++) {
            kept[i] = (uint8_t)(set >> i & 1u);
        }
        if (!quota_holds(grid, kept, keep)) {
            continue;
        }
        bool floors_hold = true;
        for (int32_t group = 0; floor != NULL && group < grid->groups; group++) {
            floors_hold = floors_hold && kept_of_group(grid, kept, group) >= floor[group];
        }
        int32_t floors[SMALL_MAX];
        sorted_floors(grid, kept, min_group, floors);
        int better_floors = 0;
        for (int32_t i = 0; i < grid->groups && better_floors == 0 && found.found; i++) {
            better_floors = compare_int32(&floors[i], &found.floors[i]);
        }
        if (floors_hold && (!found.found || better_floors > 0)) {
            memcpy(found.floors, floors, sizeof floors);
        }
        if (floors_hold && (!found.found || energy(weight, kept, grid->count) > found.energy)) {
            found.energy = energy(weight, kept, grid->count);
        }
        found.found = found.found || floors_hold;
    }
    return found;
}

static void extremes_equal_brute_force(void **state) {
    (void)state;
    ga_random random = test_random(10);
    ga_arena *arena = ga_arena_create(0);
    int lowered_cases = 0, raised_cases = 0;
    for (int trial = 0; trial < 600; trial++) {
        static const int32_t shapes[][2] = {{1, 6}, {2, 3}, {2, 5}, {3, 3}, {3, 4}, {4, 2}, {5, 2}, {2, 4}};
        const int32_t *shape = shapes[trial % 8];
        batch *b = make_batch(&random, shape[0], shape[1], 1);
        for (int32_t i = 0; i < b->count; i++) {
            b->rows[i].group = ga_random_below(&random, 2 + ga_random_below(&random, 5));
        }
        const ga_grid grid = grid_of(b, arena);
        const int32_t keep = 1 + (int32_t)ga_random_below(&random, (uint32_t)shape[1]);
        const int32_t min_group = (int32_t)ga_random_below(&random, 4);
        double weight[SMALL_MAX];
        for (int32_t i = 0; i < b->count; i++) {
            weight[i] = trial % 3 == 0 ? ga_random_below(&random, 3) : ga_random_normal(&random);
        }
        uint8_t kept[SMALL_MAX], kept_free[SMALL_MAX];
        int32_t floor[SMALL_MAX];
        test_ok(ga_extremes_choose(&grid, weight, keep, min_group, random, arena, kept, floor, NULL), NULL);
        const best most_even = brute_force(&grid, weight, keep, min_group, NULL);
        const best expected = brute_force(&grid, weight, keep, min_group, floor);
        assert_true(expected.found);
        assert_true(quota_holds(&grid, kept, keep));
        assert_near(energy(weight, kept, grid.count), expected.energy, 1e-9);
        int32_t granted[SMALL_MAX];
        memcpy(granted, floor, sizeof granted);
        qsort(granted, (size_t)grid.groups, sizeof *granted, compare_int32);
        for (int32_t group = 0; group < grid.groups; group++) {
            assert_true(kept_of_group(&grid, kept, group) >= floor[group]);
            assert_int_equal(granted[group], most_even.floors[group]);
            const int32_t size = ga_grid_group_size(&grid, group);
            lowered_cases += floor[group] < (size < min_group ? size : min_group);
        }
        test_ok(ga_extremes_choose(&grid, weight, keep, 0, random, arena, kept_free, floor, NULL), NULL);
        raised_cases += memcmp(kept, kept_free, (size_t)grid.count) != 0;
        ga_arena_reset(arena);
        free(b);
    }
    /* The cases that matter did occur. */
    assert_true(lowered_cases > 50);
    assert_true(raised_cases > 50);
    ga_arena_destroy(&arena);
}

/* Groups that a rank holds alone, long chains of exchanges: group k sits on ranks k and k+1 only. */
static void floors_travel_along_a_chain(void **state) {
    (void)state;
    enum { RANKS = 40 };
    ga_arena *arena = ga_arena_create(0);
    batch *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->ranks = RANKS;
    b->rows_per_rank = 2;
    b->count = 2 * RANKS;
    for (int32_t i = 0; i < b->count; i++) {
        b->rows[i] = (ga_candidate){.group = (uint64_t)((i + 1) / 2), .rank = i / 2, .index = i % 2};
    }
    const ga_grid grid = grid_of(b, arena);
    /* One row a rank and RANKS + 1 groups: all but one group can have a row. Every rank prefers its second.
     */
    double weight[2 * RANKS];
    uint8_t kept[2 * RANKS];
    int32_t floor[RANKS + 1];
    for (int32_t i = 0; i < b->count; i++) {
        weight[i] = i % 2 == 1 ? 1 : 0;
    }
    test_ok(ga_extremes_choose(&grid, weight, 1, 1, test_random(1), arena, kept, floor, NULL), NULL);
    assert_near(energy(weight, kept, b->count), RANKS, 0);
    assert_int_equal(floor[0], 0);
    /* The last group's only row is far too bad, but now it is the first group that everybody can spare. */
    weight[b->count - 1] = -100;
    b->rows[0].group = 1;
    ga_arena_reset(arena);
    const ga_grid shifted = grid_of(b, arena);
    test_ok(ga_extremes_choose(&shifted, weight, 1, 1, test_random(1), arena, kept, floor, NULL), NULL);
    for (int32_t group = 0; group < shifted.groups; group++) {
        assert_int_equal(floor[group], 1);
        assert_int_equal(kept_of_group(&shifted, kept, group), 1);
    }
    free(b);
    ga_arena_destroy(&arena);
}

static void infinite_weights_come_first(void **state) {
    (void)state;
    ga_random random = test_random(11);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 6, 5, 6);
    const ga_grid grid = grid_of(b, arena);
    double weight[30];
    uint8_t kept[30];
    int32_t floor[30];
    for (int32_t i = 0; i < 30; i++) {
        weight[i] = i % 5 == 2 ? (double)INFINITY : 1e300 * ga_random_uniform(&random) - 5e299;
    }
    test_ok(ga_extremes_choose(&grid, weight, 2, 2, random, arena, kept, floor, NULL), NULL);
    for (int32_t i = 2; i < 30; i += 5) {
        assert_true(kept[i]);
    }
    weight[7] = (double)NAN;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(
        ga_extremes_choose(&grid, weight, 2, 2, random, arena, kept, floor, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "rank 1 row 2"));
    assert_int_equal(
        ga_extremes_choose(&grid, weight, 0, 2, random, arena, kept, floor, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_extremes_choose(&grid, weight, 6, 2, random, arena, kept, floor, NULL), GA_ERR_ARGUMENT);
    free(b);
    ga_arena_destroy(&arena);
}

/* ---- values ---- */

static void values_by_hand(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->ranks = 2;
    b->rows_per_rank = 3;
    b->count = 6;
    const float mean[] = {1, 3, NAN, 10, 14, 12};
    const float variance[] = {1, 1, 1, 4, 4, 4};
    for (int32_t i = 0; i < 6; i++) {
        b->rows[i] = (ga_candidate){.group = (uint64_t)(i / 3),
            .mean = mean[i],
            .variance = variance[i],
            .rank = i / 3,
            .index = i % 3};
    }
    const ga_grid grid = grid_of(b, arena);
    ga_values values;
    test_ok(ga_values_compute(&grid, GA_STD_GROUP, arena, &values, NULL), NULL);
    assert_int_equal(values.unscored_count, 1);
    /* group 0: deviations ∓1, variance 1 → σ² = 2; group 1: ∓2, 0, variance 4 → σ² = 20/3 */
    const double own[] = {sqrt(2) + 1e-4, sqrt(20.0 / 3.0) + 1e-4};
    assert_near(values.value[0], 2 / (own[0] * own[0]), 1e-12);
    assert_near(values.value[4], 8 / (own[1] * own[1]), 1e-12);
    assert_near(values.value[5], 4 / (own[1] * own[1]), 1e-12);
    assert_true(isinf(values.value[2]));
    assert_near(values.sigma[2], own[0], 1e-12);
    test_ok(ga_values_compute(&grid, GA_STD_GLOBAL, arena, &values, NULL), NULL);
    /* mean 8, squared deviations 49 25 4 36 16, variances 1 1 4 4 4 → σ² = 144/5 */
    const double all = sqrt(144.0 / 5.0) + 1e-4;
    assert_near(values.sigma[0], all, 1e-12);
    assert_near(values.value[0], 2 / (all * all), 1e-12);
    assert_near(values.value[4], 8 / (all * all), 1e-12);
    free(b);
    ga_arena_destroy(&arena);
}

/* ---- rounding ---- */

static void random_inclusion(
    ga_random *random, const ga_grid *grid, int32_t keep, ga_arena *arena, double *out) {
    double weight[ROWS_MAX];
    int32_t floor[ROWS_MAX] = {0};
    for (int32_t i = 0; i < grid->count; i++) {
        weight[i] = 0.05 + ga_random_uniform(random) * (ga_random_below(random, 5) == 0 ? 20 : 1);
    }
    test_ok(ga_inclusion_fit(grid, weight, keep, floor, arena, out, NULL), NULL);
}

/* Exact quotas, group counts within one of expectation, over many shapes. */
static void rounding_keeps_sums(void **state) {
    (void)state;
    ga_random random = test_random(20);
    ga_arena *arena = ga_arena_create(0);
    for (int trial = 0; trial < 2000; trial++) {
        const int32_t ranks = 1 + (int32_t)ga_random_below(&random, 20);
        const int32_t rows = 1 + (int32_t)ga_random_below(&random, 9);
        batch *b = make_batch(&random, ranks, rows, 1 + (int32_t)ga_random_below(&random, 12));
        const ga_grid grid = grid_of(b, arena);
        const int32_t keep = 1 + (int32_t)ga_random_below(&random, (uint32_t)rows);
        double inclusion[ROWS_MAX];
        uint8_t kept[ROWS_MAX];
        random_inclusion(&random, &grid, keep, arena, inclusion);
        test_ok(ga_rounding_draw(&grid, inclusion, ga_random_make(3, (uint64_t)trial, GA_STREAM_ROUNDING),
                    arena, kept, NULL),
            NULL);
        assert_true(quota_holds(&grid, kept, keep));
        for (int32_t group = 0; group < grid.groups; group++) {
            double sum = 0;
            for (int32_t i = grid.member_start[group]; i < grid.member_start[group + 1]; i++) {
                sum += inclusion[grid.member[i]];
            }
            const int32_t held = kept_of_group(&grid, kept, group);
            assert_true(held >= floor(sum + 1e-9 - 1e-8) && held <= ceil(sum + 1e-8));
        }
        for (int32_t i = 0; i < grid.count; i++) {
            assert_true(inclusion[i] > 0 || !kept[i]);
            assert_true(inclusion[i] < 1 || kept[i]);
        }
        ga_arena_reset(arena);
        free(b);
    }
    ga_arena_destroy(&arena);
}

/* P(kept) = π row by row: no frequency is further off than 5 standard errors. */
static void rounding_meets_probabilities(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    ga_random random = test_random(21);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 8, 6, 7);
    const ga_grid grid = grid_of(b, arena);
    double inclusion[ROWS_MAX];
    int hits[48] = {0};
    random_inclusion(&random, &grid, 2, arena, inclusion);
    ga_arena *scratch = ga_arena_create(0);
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        uint8_t kept[48];
        test_ok(ga_rounding_draw(&grid, inclusion, ga_random_make(test_seed(), draw, GA_STREAM_ROUNDING),
                    scratch, kept, NULL),
            NULL);
        for (int i = 0; i < 48; i++) {
            hits[i] += kept[i];
        }
        ga_arena_reset(scratch);
    }
    for (int i = 0; i < 48; i++) {
        const double error = sqrt(inclusion[i] * (1 - inclusion[i]) / DRAWS);
        assert_near(hits[i] / (double)DRAWS, inclusion[i], 5 * error + 1e-9);
    }
    ga_arena_destroy(&scratch);
    free(b);
    ga_arena_destroy(&arena);
}

/* Sums that are no integers end on one side or the other, with the right odds. */
static void rounding_of_open_sums(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    ga_arena *arena = ga_arena_create(0);
    const ga_candidate rows[] = {{.group = 1}, {.group = 1, .index = 1}, {.group = 2, .index = 2}};
    ga_grid grid;
    test_ok(ga_grid_make(rows, 3, 1, arena, &grid, NULL), NULL);
    const double inclusion[] = {0.5, 0.25, 0.6}; /* 1.35 in all */
    int hits[3] = {0}, twos = 0;
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        uint8_t kept[3];
        test_ok(ga_rounding_draw(&grid, inclusion, ga_random_make(test_seed(), draw, GA_STREAM_ROUNDING),
                    arena, kept, NULL),
            NULL);
        const int count = kept[0] + kept[1] + kept[2];
        assert_true(count == 1 || count == 2);
        assert_true(kept[0] + kept[1] <= 1);
        twos += count == 2;
        for (int i = 0; i < 3; i++) {
            hits[i] += kept[i];
        }
    }
    assert_near(twos / (double)DRAWS, 0.35, 0.02);
    for (int i = 0; i < 3; i++) {
        assert_near(hits[i] / (double)DRAWS, inclusion[i], 0.02);
    }
    const double wrong[] = {0.5, 1.25, NAN};
    uint8_t kept[3] = {9, 9, 9};
    assert_int_equal(ga_rounding_draw(&grid, wrong, test_random(0), arena, kept, NULL), GA_ERR_DATA);
    assert_int_equal(kept[0], 9);
    ga_arena_destroy(&arena);
}

/* ---- inclusion ---- */

static void inclusion_meets_quotas_and_floors(void **state) {
    (void)state;
    ga_random random = test_random(30);
    ga_arena *arena = ga_arena_create(0);
    for (int trial = 0; trial < 300; trial++) {
        batch *b = make_batch(&random, 8, 6, 6);
        const ga_grid grid = grid_of(b, arena);
        double weight[48], inclusion[48];
        uint8_t kept[48];
        int32_t floor[48];
        const int32_t keep = 2 + (int32_t)ga_random_below(&random, 4);
        for (int32_t i = 0; i < 48; i++) {
            weight[i] = trial % 2 == 0 ? 1 : ga_random_uniform(&random) * ga_random_below(&random, 3);
        }
        test_ok(ga_extremes_choose(&grid, weight, keep, 2, random, arena, kept, floor, NULL), NULL);
        test_ok(ga_inclusion_fit(&grid, weight, keep, floor, arena, inclusion, NULL), NULL);
        for (int32_t rank = 0; rank < 8; rank++) {
            double sum = 0;
            for (int32_t i = 0; i < 6; i++) {
                assert_true(inclusion[6 * rank + i] >= 0 && inclusion[6 * rank + i] <= 1);
                sum += inclusion[6 * rank + i];
            }
            assert_near(sum, keep, 1e-9);
        }
        for (int32_t group = 0; group < grid.groups; group++) {
            double sum = 0;
            for (int32_t i = grid.member_start[group]; i < grid.member_start[group + 1]; i++) {
                sum += inclusion[grid.member[i]];
            }
            /* Equal weights leave room; weights of 0 need not. */
            assert_true(sum >= floor[group] - (trial % 2 == 0 ? 1e-9 : 0.05));
        }
        ga_arena_reset(arena);
        free(b);
    }
    ga_arena_destroy(&arena);
}

static void inclusion_is_in_proportion(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    const ga_candidate rows[] = {
        {.group = 1}, {.group = 1, .index = 1}, {.group = 1, .index = 2}, {.group = 1, .index = 3}};
    const int32_t floor[] = {0};
    ga_grid grid;
    double inclusion[4];
    test_ok(ga_grid_make(rows, 4, 1, arena, &grid, NULL), NULL);
    const double plain[] = {1, 2, 3, 4};
    test_ok(ga_inclusion_fit(&grid, plain, 2, floor, arena, inclusion, NULL), NULL);
    assert_near(inclusion[0], 0.2, 1e-12);
    assert_near(inclusion[3], 0.8, 1e-12);
    const double steep[] = {1, 1, 2, 100};
    test_ok(ga_inclusion_fit(&grid, steep, 2, floor, arena, inclusion, NULL), NULL);
    assert_near(inclusion[0], 0.25, 1e-12);
    assert_near(inclusion[2], 0.5, 1e-12);
    assert_near(inclusion[3], 1, 0);
    const double sure[] = {0, 0, (double)INFINITY, 0};
    test_ok(ga_inclusion_fit(&grid, sure, 2, floor, arena, inclusion, NULL), NULL);
    assert_near(inclusion[0], 1.0 / 3.0, 1e-9);
    assert_near(inclusion[2], 1, 0);
    ga_inclusion_mix_audit(inclusion, 4, 0.1, 2, 4);
    assert_near(inclusion[2], 0.95, 1e-12);
    const double wrong[] = {1, -1, 1, 1};
    assert_int_equal(ga_inclusion_fit(&grid, wrong, 2, floor, arena, inclusion, NULL), GA_ERR_DATA);
    ga_arena_destroy(&arena);
}

/* ---- policies ---- */

static void policies_by_name(void **state) {
    (void)state;
    ga_policy_kind kind = GA_POLICY_COUNT;
    const ga_policy *policy = NULL;
    const char *const offered[] = {"extremes", "neyman", "topk", "random", "threshold", "budget"};
    for (int i = 0; i < GA_POLICY_COUNT; i++) {
        test_ok(ga_policy_parse(offered[i], &kind, NULL), NULL);
        assert_int_equal(kind, i);
        test_ok(ga_policy_find(kind, &policy, NULL), NULL);
        assert_string_equal(policy->name, offered[i]);
    }
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_policy_parse("best", &kind, &error), GA_ERR_CONFIG);
    assert_non_null(strstr(error.message, "unknown policy 'best'"));
    assert_int_equal(kind, GA_POLICY_BUDGET);
    assert_int_equal(ga_policy_find((ga_policy_kind)77, &policy, NULL), GA_ERR_ARGUMENT);
    ga_threshold_kind threshold = GA_THRESHOLD_ABSOLUTE;
    test_ok(ga_threshold_parse("advantage", &threshold, NULL), NULL);
    assert_int_equal(threshold, GA_THRESHOLD_ADVANTAGE);
    assert_int_equal(ga_threshold_parse("relative", &threshold, NULL), GA_ERR_CONFIG);
}

/* On one rank: extremes keeps both ends, topk the upper one. */
static void policies_choose_what_they_say(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 1, .rows_per_rank = 6, .count = 6};
    for (int32_t i = 0; i < 6; i++) {
        b.rows[i] = (ga_candidate){.group = 4, .mean = (float)(i * i), .variance = 0.5f, .index = i};
    }
    ga_plan_options options = default_options(&b, 3);
    ga_plan plan = plan_of(&options, &b, arena);
    const uint8_t both_ends[] = {1, 0, 0, 0, 1, 1}; /* mean 9.2: distances 9.2, 8.2, 5.2, .2, 6.8, 15.8 */
    const uint8_t expected[] = {1, 1, 0, 0, 0, 1};
    assert_true(memcmp(plan.kept, both_ends, 6) != 0);
    assert_memory_equal(plan.kept, expected, 6);
    options.policy = GA_POLICY_TOPK;
    plan = plan_of(&options, &b, arena);
    const uint8_t top[] = {0, 0, 0, 1, 1, 1};
    assert_memory_equal(plan.kept, top, 6);
    options.policy = GA_POLICY_THRESHOLD;
    options.threshold = (ga_threshold){GA_THRESHOLD_ABSOLUTE, 16};
    plan = plan_of(&options, &b, arena);
    const uint8_t above[] = {0, 0, 0, 0, 1, 1};
    assert_memory_equal(plan.kept, above, 6);
    assert_int_equal(plan.keep_per_rank, 2);
    options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 0.5};
    plan = plan_of(&options, &b, arena);
    assert_memory_equal(plan.kept, top, 6);
    options.threshold = (ga_threshold){GA_THRESHOLD_ADVANTAGE, 1.0};
    plan = plan_of(&options, &b, arena);
    assert_int_equal(plan.keep_per_rank, 1);
    assert_true(plan.kept[5]);
    options.threshold = (ga_threshold){GA_THRESHOLD_ABSOLUTE, 1e9};
    assert_int_equal(plan_of(&options, &b, arena).keep_per_rank, 1);
    ga_arena_destroy(&arena);
}

/* With one σ for all, spread decides between groups; with the group's own, every group is worth the same. */
static void host_units_decide_between_groups(void **state) {
    (void)state;
    ga_random random = test_random(40);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 24, 8, 24);
    for (int32_t i = 0; i < b->count; i++) {
        const double spread = b->rows[i].group == 1000 ? 3 : 0.2;
        b->rows[i].mean = (float)(spread * ga_random_normal(&random));
        b->rows[i].variance = (float)(0.1 * spread * spread);
    }
    ga_plan_options options = default_options(b, 2);
    const ga_grid grid = grid_of(b, arena);
    const ga_plan global = plan_of(&options, b, arena);
    options.std_kind = GA_STD_GROUP;
    const ga_plan own = plan_of(&options, b, arena);
    assert_true(kept_of_group(&grid, global.kept, 0) >= 15);
    assert_true(kept_of_group(&grid, own.kept, 0) <= 12);
    free(b);
    ga_arena_destroy(&arena);
}

/* ---- plans ---- */

/* Thousands of random batches under every policy: quotas exact, floors kept unless lowered, order irrelevant.
 */
static void plans_hold_their_promises(void **state) {
    (void)state;
    ga_random random = test_random(50);
    ga_arena *arena = ga_arena_create(0);
    static const ga_policy_kind policies[] = {
        GA_POLICY_EXTREMES, GA_POLICY_TOPK, GA_POLICY_RANDOM, GA_POLICY_THRESHOLD};
    for (int trial = 0; trial < 3000; trial++) {
        const int32_t ranks = 1 + (int32_t)ga_random_below(&random, 12);
        const int32_t rows = 1 + (int32_t)ga_random_below(&random, 9);
        batch *b = make_batch(&random, ranks, rows, 1 + (int32_t)ga_random_below(&random, 30));
        ga_plan_options options = default_options(b, (int32_t)ga_random_below(&random, 12) - 1);
        options.policy = policies[trial % 4];
        options.min_group = (int32_t)ga_random_below(&random, 4);
        options.audit_share = trial % 3 == 0 ? 0.2 : 0;
        options.std_kind = trial % 2 == 0 ? GA_STD_GLOBAL : GA_STD_GROUP;
        options.threshold = (ga_threshold){(ga_threshold_kind)(trial / 4 % 3), ga_random_uniform(&random)};
        options.batch = (uint64_t)trial;
        for (int32_t i = 0; i < b->count; i++) {
            b->rows[i].mean = ga_random_below(&random, 30) == 0 ? NAN : b->rows[i].mean;
        }
        const ga_plan plan = plan_of(&options, b, arena);
        assert_true(plan.keep_per_rank >= 1 && plan.keep_per_rank <= rows);
        for (int32_t rank = 0; rank < ranks; rank++) {
            assert_int_equal(kept_on_rank(&plan, b, rank), plan.keep_per_rank);
        }
        const ga_grid grid = grid_of(b, arena);
        int32_t below = 0;
        for (int32_t group = 0; group < grid.groups; group++) {
            const int32_t size = ga_grid_group_size(&grid, group);
            below += kept_of_group(&grid, plan.kept, group) <
                     (size < options.min_group ? size : options.min_group);
        }
        assert_true(plan.audited || below <= plan.lowered_floor_count);
        batch *shuffled = calloc(1, sizeof *shuffled);
        assert_non_null(shuffled);
        int32_t order[ROWS_MAX];
        for (int32_t i = 0; i < b->count; i++) {
            order[i] = i;
        }
        ga_random_shuffle(&random, order, (uint32_t)b->count);
        for (int32_t i = 0; i < b->count; i++) {
            shuffled->rows[i] = b->rows[order[i]];
        }
        shuffled->count = b->count;
        const ga_plan again = plan_of(&options, shuffled, arena);
        assert_true(again.checksum == plan.checksum);
        for (int32_t i = 0; i < b->count; i++) {
            assert_int_equal(again.kept[i], plan.kept[order[i]]);
            assert_true(again.inclusion[i] == plan.inclusion[order[i]]);
            assert_true(plan.inclusion[i] >= 0 && plan.inclusion[i] <= 1);
            assert_true(plan.inclusion[i] > 0 || !plan.kept[i]);
        }
        free(shuffled);
        free(b);
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

static void audits_are_chance_alone(void **state) {
    (void)state;
    enum { BATCHES = 6000 };
    ga_random random = test_random(51);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 6, 6, 12);
    ga_plan_options options = default_options(b, 2);
    options.audit_share = 0.25;
    options.min_group = 2;
    int audits = 0, hits[36] = {0};
    uint8_t usual[36] = {0};
    for (int i = 0; i < BATCHES; i++) {
        options.batch = (uint64_t)i;
        const ga_plan plan = plan_of(&options, b, arena);
        audits += plan.audited;
        for (int row = 0; row < 36; row++) {
            hits[row] += plan.audited && plan.kept[row];
            if (!plan.audited) {
                usual[row] = plan.kept[row];
            }
            assert_near(
                plan.inclusion[row], usual[row] * 0.75 + 0.25 / 3, plan.audited && i == 0 ? 1 : 1e-12);
        }
        ga_arena_reset(arena);
    }
    assert_near(audits / (double)BATCHES, 0.25, 0.03);
    for (int row = 0; row < 36; row++) {
        assert_near(hits[row] / (double)audits, 1.0 / 3.0, 0.07);
    }
    free(b);
    ga_arena_destroy(&arena);
}

/* Random with floors: frequencies are the probabilities that the plan states. */
static void random_with_floors_states_its_probabilities(void **state) {
    (void)state;
    enum { BATCHES = 8000 };
    ga_random random = test_random(52);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 6, 5, 3);
    b->rows[0].group = 999999; /* a group of its own: sure to be kept; its old one now needs both its rows */
    ga_plan_options options = default_options(b, 4);
    options.policy = GA_POLICY_RANDOM;
    options.min_group = 2;
    int hits[30] = {0};
    double inclusion[30] = {0};
    for (int i = 0; i < BATCHES; i++) {
        options.batch = (uint64_t)i;
        const ga_plan plan = plan_of(&options, b, arena);
        assert_false(plan.audited);
        assert_int_equal(plan.lowered_floor_count, 0);
        for (int row = 0; row < 30; row++) {
            hits[row] += plan.kept[row];
            inclusion[row] = plan.inclusion[row];
        }
        ga_arena_reset(arena);
    }
    assert_near(inclusion[0], 1, 1e-9);
    for (int row = 0; row < 30; row++) {
        assert_near(hits[row] / (double)BATCHES, inclusion[row], 0.03);
    }
    options.min_group = 0;
    const ga_plan plain = plan_of(&options, b, arena);
    assert_true(plain.audited);
    assert_near(plain.inclusion[7], 0.8, 1e-12);
    free(b);
    ga_arena_destroy(&arena);
}

/* Equal scores: nobody is preferred by rank, index or order. */
static void equal_scores_are_left_to_chance(void **state) {
    (void)state;
    enum { BATCHES = 4000 };
    ga_random random = test_random(53);
    ga_arena *arena = ga_arena_create(0);
    for (int32_t min_group = 0; min_group <= 2; min_group += 2) {
        batch *b = make_batch(&random, 4, 6, 8);
        for (int32_t i = 0; i < b->count; i++) {
            b->rows[i].mean = 0.5f;
            b->rows[i].variance = 0.25f;
            /* each group once or twice on each rank, whatever the index: symmetric but for position */
            b->rows[i].group = (uint64_t)(i % 6 / 2);
        }
        ga_plan_options options = default_options(b, 2);
        options.min_group = min_group;
        int hits[24] = {0};
        for (int i = 0; i < BATCHES; i++) {
            options.batch = (uint64_t)i;
            const ga_plan plan = plan_of(&options, b, arena);
            for (int row = 0; row < 24; row++) {
                hits[row] += plan.kept[row];
            }
            ga_arena_reset(arena);
        }
        for (int row = 0; row < 24; row++) {
            assert_near(hits[row] / (double)BATCHES, 1.0 / 3.0, 0.04);
        }
        free(b);
    }
    ga_arena_destroy(&arena);
}

static void unscored_rows_are_kept_first(void **state) {
    (void)state;
    ga_random random = test_random(54);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 4, 6, 8);
    for (int32_t rank = 0; rank < 4; rank++) {
        for (int32_t i = 0; i < rank + 1; i++) {
            b->rows[6 * rank + i].mean = i % 2 == 0 ? NAN : INFINITY;
        }
    }
    b->rows[5].variance = -1;
    static const ga_policy_kind policies[] = {GA_POLICY_EXTREMES, GA_POLICY_TOPK, GA_POLICY_THRESHOLD};
    for (int i = 0; i < 3; i++) {
        ga_plan_options options = default_options(b, 3);
        options.policy = policies[i];
        options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 0.5};
        const ga_plan plan = plan_of(&options, b, arena);
        assert_int_equal(plan.unscored_count, 1 + 2 + 3 + 4 + 1);
        for (int32_t rank = 0; rank < 3; rank++) {
            for (int32_t row = 0; row < rank + 1; row++) {
                assert_true(plan.kept[6 * rank + row]);
            }
        }
        assert_true(plan.kept[5]);
        assert_int_equal(plan.kept[18] + plan.kept[19] + plan.kept[20] + plan.kept[21], 3);
    }
    for (int32_t i = 0; i < b->count; i++) {
        b->rows[i].mean = NAN;
    }
    const ga_plan_options options = default_options(b, 3);
    assert_int_equal(plan_of(&options, b, arena).unscored_count, 24);
    free(b);
    ga_arena_destroy(&arena);
}

/* Groups of every kind: one row, two rows, twice the usual size, one rank only, all rows one group. */
static void odd_groups(void **state) {
    (void)state;
    ga_random random = test_random(55);
    ga_arena *arena = ga_arena_create(0);
    for (int trial = 0; trial < 200; trial++) {
        batch *b = make_batch(&random, 6, 8, 1);
        for (int32_t i = 0; i < b->count; i++) {
            const int32_t rank = b->rows[i].rank;
            const int32_t lonely = i % 8 == 0 ? 100 + i : 7;
            b->rows[i].group = (uint64_t)(rank == 0 ? 50 : (trial % 2 == 0 ? lonely : i / 4));
        }
        ga_plan_options options = default_options(b, 3);
        options.min_group = trial % 4;
        options.std_kind = trial % 3 == 0 ? GA_STD_GROUP : GA_STD_GLOBAL;
        options.batch = (uint64_t)trial;
        const ga_plan plan = plan_of(&options, b, arena);
        const ga_grid grid = grid_of(b, arena);
        for (int32_t group = 0; group < grid.groups; group++) {
            const int32_t size = ga_grid_group_size(&grid, group);
            const int32_t asked = size < options.min_group ? size : options.min_group;
            if (plan.lowered_floor_count == 0) {
                assert_true(kept_of_group(&grid, plan.kept, group) >= asked);
            }
            if (grid.group_key[group] == 50) {
                assert_int_equal(kept_of_group(&grid, plan.kept, group), 3);
            }
        }
        free(b);
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

/* The same rows in the same order on twice as many ranks: same rows, same checksum, where quotas allow it. */
static void checksum_does_not_count_ranks(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 2, .rows_per_rank = 4, .count = 8};
    for (int32_t i = 0; i < 8; i++) {
        /* the two best of each four stand one in each half of it */
        b.rows[i] =
            (ga_candidate){.group = (uint64_t)(i % 2), .mean = i % 2 == 0 ? (float)i : 100.0f * (float)i};
    }
    uint64_t checksum[3];
    for (int k = 0; k < 3; k++) {
        b.ranks = 1 << k;
        b.rows_per_rank = 8 >> k;
        for (int32_t i = 0; i < 8; i++) {
            b.rows[i].mean = i % 2 == 0 ? 0 : (i % 4 == 1 ? 5.0f : -5.0f);
            b.rows[i].rank = i / b.rows_per_rank;
            b.rows[i].index = i % b.rows_per_rank;
        }
        const ga_plan_options options = default_options(&b, b.rows_per_rank / 2);
        const ga_plan plan = plan_of(&options, &b, arena);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(plan.kept[i], i % 2);
        }
        checksum[k] = plan.checksum;
    }
    assert_true(checksum[0] == checksum[1] && checksum[1] == checksum[2]);
    ga_plan_options options = default_options(&b, 1);
    options.batch++;
    assert_true(plan_of(&options, &b, arena).checksum != checksum[2]);
    ga_arena_destroy(&arena);
}

static void assert_refused(
    const ga_plan_options *options, const batch *b, ga_status expected, const char *words) {
    ga_arena *arena = ga_arena_create(0);
    ga_error error;
    ga_error_clear(&error);
    ga_plan plan = {.count = -7};
    assert_int_equal(ga_plan_make(options, b->rows, b->count, arena, &plan, &error), expected);
    assert_non_null(strstr(error.message, words));
    assert_int_equal(plan.count, -7);
    ga_arena_destroy(&arena);
}

static void refusals(void **state) {
    (void)state;
    ga_random random = test_random(56);
    batch *b = make_batch(&random, 3, 4, 4);
    ga_plan_options options = default_options(b, 2);
    options.min_group = -1;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "min_group");
    options = default_options(b, 2);
    options.audit_share = NAN;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "audit");
    options = default_options(b, 2);
    options.policy = GA_POLICY_COUNT;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "unknown policy 6");
    options = default_options(b, 2);
    options.max_group = -1;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "max_group");
    options = default_options(b, 2);
    options.stage = 3;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "decision 3");
    options = default_options(b, 2);
    options.min_inclusion = 1.5;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "inclusion");
    options = default_options(b, 2);
    options.policy = GA_POLICY_THRESHOLD;
    options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 1.5};
    assert_refused(&options, b, GA_ERR_ARGUMENT, "quantile");
    options = default_options(b, 2);
    options.ranks = 5;
    assert_refused(&options, b, GA_ERR_DATA, "every rank needs equal batches");
    options.ranks = 0;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "0 ranks");
    options = default_options(b, 2);
    b->rows[3].index = 4;
    assert_refused(&options, b, GA_ERR_DATA, "rank 0 row 4 is outside");
    b->rows[3].index = 2;
    assert_refused(&options, b, GA_ERR_DATA, "rank 0 row 2 is there twice");
    b->rows[3].rank = -1;
    assert_refused(&options, b, GA_ERR_DATA, "rank -1");
    b->count = 0;
    assert_refused(&options, b, GA_ERR_DATA, "0 rows");
    free(b);
}

/* ---- compact ---- */

static void compact_lists(void **state) {
    (void)state;
    ga_random random = test_random(60);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 5, 7, 7);
    const ga_plan_options options = default_options(b, 3);
    const ga_plan plan = plan_of(&options, b, arena);
    for (int32_t rank = 0; rank < 5; rank++) {
        ga_compact compact, doubled;
        test_ok(ga_compact_make(b->rows, &plan, rank, arena, &compact, NULL), NULL);
        assert_int_equal(compact.rows, 7);
        assert_int_equal(compact.kept, 3);
        int32_t next = 0;
        for (int32_t row = 0; row < 7; row++) {
            if (plan.kept[7 * rank + row]) {
                assert_int_equal(compact.gather[next], row);
                assert_int_equal(compact.scatter[row], next++);
            } else {
                assert_int_equal(compact.scatter[row], -1);
            }
        }
        test_ok(ga_compact_repeat(&compact, 2, arena, &doubled, NULL), NULL);
        assert_int_equal(doubled.rows, 14);
        assert_int_equal(doubled.kept, 6);
        for (int32_t i = 0; i < 6; i++) {
            assert_int_equal(doubled.gather[i], compact.gather[i % 3] + (i < 3 ? 0 : 7));
            assert_int_equal(doubled.scatter[doubled.gather[i]], i);
        }
    }
    ga_compact compact = {.kept = -7};
    assert_int_equal(ga_compact_make(b->rows, &plan, 5, arena, &compact, NULL), GA_ERR_DATA);
    assert_int_equal(ga_compact_make(NULL, &plan, 0, arena, &compact, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(compact.kept, -7);
    compact.rows = INT32_MAX;
    assert_int_equal(ga_compact_repeat(&compact, 2, arena, &compact, NULL), GA_ERR_ARGUMENT);
    free(b);
    ga_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extremes_equal_brute_force),
        cmocka_unit_test(floors_travel_along_a_chain),
        cmocka_unit_test(infinite_weights_come_first),
        cmocka_unit_test(values_by_hand),
        cmocka_unit_test(rounding_keeps_sums),
        cmocka_unit_test(rounding_meets_probabilities),
        cmocka_unit_test(rounding_of_open_sums),
        cmocka_unit_test(inclusion_meets_quotas_and_floors),
        cmocka_unit_test(inclusion_is_in_proportion),
        cmocka_unit_test(policies_by_name),
        cmocka_unit_test(policies_choose_what_they_say),
        cmocka_unit_test(host_units_decide_between_groups),
        cmocka_unit_test(plans_hold_their_promises),
        cmocka_unit_test(audits_are_chance_alone),
        cmocka_unit_test(random_with_floors_states_its_probabilities),
        cmocka_unit_test(equal_scores_are_left_to_chance),
        cmocka_unit_test(unscored_rows_are_kept_first),
        cmocka_unit_test(odd_groups),
        cmocka_unit_test(checksum_does_not_count_ranks),
        cmocka_unit_test(refusals),
        cmocka_unit_test(compact_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
