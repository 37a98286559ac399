#include "tests/unit/select_batch.h"

#include "grpo_accel/select/budget.h"

/* ---- values ---- */

static ga_values values_of(const ga_grid *grid, const ga_value_options *options, ga_arena *arena) {
    ga_values values = {0};
    test_ok(ga_values_compute(grid, options, arena, &values, NULL), NULL);
    return values;
}

static void values_by_hand(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 2, .rows_per_rank = 3, .count = 6};
    const float mean[] = {1, 3, NAN, 10, 14, 12};
    const float variance[] = {1, 1, 1, 4, 4, 4};
    for (int32_t i = 0; i < 6; i++) {
        b.rows[i] = (ga_candidate){.group = (uint64_t)(i / 3),
            .mean = mean[i],
            .variance = variance[i],
            .rank = i / 3,
            .index = i % 3};
    }
    const ga_grid grid = grid_of(&b, arena);
    ga_value_options options = {.std_kind = GA_STD_GROUP};
    ga_values values = values_of(&grid, &options, arena);
    assert_int_equal(values.unscored_count, 1);
    /* group 0: deviations ∓1, variance 1 → σ² = 2; group 1: ∓2, 0, variance 4 → σ² = 20/3 */
    double own[] = {sqrt(2) + 1e-4, sqrt(20.0 / 3.0) + 1e-4};
    assert_near(values.value[0], 2 / (own[0] * own[0]), 1e-12);
    assert_near(values.value[4], 8 / (own[1] * own[1]), 1e-12);
    assert_near(values.value[5], 4 / (own[1] * own[1]), 1e-12);
    assert_true(isinf(values.value[2]));
    assert_near(values.sigma[2], own[0], 1e-12);
    /* With G = 3 known: a row's expected squared advantage has s²(1 − 1/3), and so has the group's σ². */
    options.whole = true;
    values = values_of(&grid, &options, arena);
    own[0] = sqrt(1 + 2.0 / 3.0) + 1e-4;
    own[1] = sqrt(8.0 / 3.0 + 8.0 / 3.0) + 1e-4;
    assert_near(values.value[0], (1 + 2.0 / 3.0) / (own[0] * own[0]), 1e-12);
    assert_near(values.value[4], (4 + 8.0 / 3.0) / (own[1] * own[1]), 1e-12);
    options = (ga_value_options){.std_kind = GA_STD_GLOBAL};
    values = values_of(&grid, &options, arena);
    /* mean 8, squared deviations 49 25 4 36 16, variances 1 1 4 4 4 → σ² = 144/5 */
    const double all = sqrt(144.0 / 5.0) + 1e-4;
    assert_near(values.sigma[0], all, 1e-12);
    assert_near(values.value[0], 2 / (all * all), 1e-12);
    assert_near(values.value[4], 8 / (all * all), 1e-12);
    ga_arena_destroy(&arena);
}

/* The value is the mean of what it predicts: squared advantages of rewards drawn around the predictions. */
static void values_are_expected_squared_advantages(void **state) {
    (void)state;
    enum { DRAWS = 40000, ROWS = 5 };
    ga_random random = test_random(12);
    ga_arena *arena = ga_arena_create(0);
    const double mean[ROWS] = {0, 1, 2, 5, -3}, variance[ROWS] = {1, 4, 0.25, 2, 9};
    batch b = {.ranks = 1, .rows_per_rank = ROWS, .count = ROWS};
    for (int32_t i = 0; i < ROWS; i++) {
        b.rows[i] = (ga_candidate){.group = i < 3 ? 1 : (i < 4 ? 2 : 3),
            .mean = (float)mean[i],
            .variance = (float)variance[i],
            .index = i};
    }
    const ga_grid grid = grid_of(&b, arena);
    const ga_value_options options = {.std_kind = GA_STD_GLOBAL, .whole = true};
    const ga_values values = values_of(&grid, &options, arena);
    double square[3] = {0};
    for (int draw = 0; draw < DRAWS; draw++) {
        double reward[3], group_mean = 0;
        for (int i = 0; i < 3; i++) {
            reward[i] = mean[i] + sqrt(variance[i]) * ga_random_normal(&random);
            group_mean += reward[i] / 3;
        }
        for (int i = 0; i < 3; i++) {
            square[i] += (reward[i] - group_mean) * (reward[i] - group_mean) / DRAWS;
        }
    }
    for (int i = 0; i < 3; i++) {
        const double sigma = values.sigma[i];
        /* exact for equal variances; the two outer terms differ by s̄² against their own otherwise */
        const double own = variance[i] * (1 - 2.0 / 3) + (1 + 4 + 0.25) / 9;
        assert_near(values.value[i] * sigma * sigma, (mean[i] - 1) * (mean[i] - 1) + own, 1e-9);
        assert_near(values.value[i] * sigma * sigma, square[i], 0.1);
    }
    /* Groups of one are worth nothing: their advantage is 0 whatever the reward. */
    assert_true(values.value[3] == 0 && values.value[4] == 0);
    ga_arena_destroy(&arena);
}

/* Rows stopped earlier count as if they still ran, in any order; without them G is not known. */
static void stopped_rows_still_count(void **state) {
    (void)state;
    ga_random random = test_random(13);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 4, 6, 8);
    b->rows[7].mean = NAN;
    const ga_grid grid = grid_of(b, arena);
    batch half = {.ranks = 4, .rows_per_rank = 3, .count = 12};
    ga_candidate stopped[12], backward[12];
    for (int32_t i = 0; i < 24; i++) {
        const int32_t place = i / 6 * 3 + i % 6 % 3;
        if (i % 6 < 3) {
            half.rows[place] = b->rows[i];
        } else {
            stopped[place] = b->rows[i];
        }
    }
    for (int32_t i = 0; i < 12; i++) {
        backward[i] = stopped[11 - i];
    }
    const ga_grid rest = grid_of(&half, arena);
    for (int kind = GA_STD_GLOBAL; kind <= GA_STD_GROUP; kind++) {
        ga_value_options options = {.std_kind = (ga_std_kind)kind, .whole = true};
        const ga_values all = values_of(&grid, &options, arena);
        options.stopped = stopped;
        options.stopped_count = 12;
        const ga_values forth = values_of(&rest, &options, arena);
        options.stopped = backward;
        const ga_values back = values_of(&rest, &options, arena);
        for (int32_t slot = 0; slot < 12; slot++) {
            const int32_t whole_slot = slot / 3 * 6 + slot % 3;
            if (isinf(all.value[whole_slot])) {
                assert_true(isinf(forth.value[slot]));
                continue;
            }
            assert_near(forth.value[slot], all.value[whole_slot], 1e-9);
            assert_true(forth.value[slot] == back.value[slot]);
        }
    }
    free(b);
    ga_arena_destroy(&arena);
}

/* ---- budget ---- */

static void budgets_follow_spread(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 1, .rows_per_rank = 40, .count = 40};
    for (int32_t i = 0; i < 40; i++) {
        /* ten rows a group; spreads 0, 1, 2 and 5 around means far apart */
        static const float spread[] = {0, 1, 2, 5};
        const float side = i % 2 == 0 ? 1.0f : -1.0f;
        b.rows[i] = (ga_candidate){.group = (uint64_t)(i / 10),
            .mean = 100.0f * (float)(i / 10) + side * spread[i / 10],
            .index = i};
    }
    const ga_grid grid = grid_of(&b, arena);
    const ga_value_options units = {.std_kind = GA_STD_GLOBAL, .whole = true};
    ga_values values = values_of(&grid, &units, arena);
    ga_bounds bounds;
    int32_t share[4];
    const struct {
        int32_t total, min_group, max_group;
        int32_t expected[4];
    } cases[] = {
        {8, 0, 0, {0, 1, 2, 5}}, {16, 0, 0, {0, 2, 4, 10}},
        {25, 0, 0, {0, 5, 10, 10}},  /* 16/3 and 32/3 of what the full group leaves: 10 is all there is */
        {33, 0, 0, {3, 10, 10, 10}}, /* nobody else is left */
        {8, 1, 0, {1, 1, 2, 4}}, {8, 0, 3, {0, 2, 3, 3}},
        {3, 2, 0, {2, 2, 2, 2}},  /* floors come first; the quotas then lower them */
        {20, 0, 4, {4, 4, 4, 4}}, /* more than the caps hold; the quotas then raise them */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_ok(ga_bounds_make(&grid, cases[i].min_group, cases[i].max_group, arena, &bounds, NULL), NULL);
        test_ok(
            ga_budget_spread(&grid, &values, &bounds, cases[i].total, test_random(14), arena, share, NULL),
            NULL);
        assert_memory_equal(share, cases[i].expected, sizeof share);
    }
    /* In units of the group's own σ only a group without any spread is worth less. */
    const ga_value_options own_units = {.std_kind = GA_STD_GROUP, .whole = true};
    values = values_of(&grid, &own_units, arena);
    test_ok(ga_bounds_make(&grid, 0, 0, arena, &bounds, NULL), NULL);
    test_ok(ga_budget_spread(&grid, &values, &bounds, 12, test_random(14), arena, share, NULL), NULL);
    const int32_t even[] = {0, 4, 4, 4};
    assert_memory_equal(share, even, sizeof share);
    /* Rows that nobody scored have to be kept: their group gets at least as many. */
    for (int32_t i = 0; i < 6; i++) {
        b.rows[i].mean = NAN;
    }
    ga_arena_reset(arena);
    const ga_grid partly = grid_of(&b, arena);
    values = values_of(&partly, &units, arena);
    test_ok(ga_bounds_make(&partly, 0, 0, arena, &bounds, NULL), NULL);
    test_ok(ga_budget_spread(&partly, &values, &bounds, 14, test_random(14), arena, share, NULL), NULL);
    const int32_t with_unscored[] = {6, 1, 2, 5};
    assert_memory_equal(share, with_unscored, sizeof share);
    ga_arena_destroy(&arena);
}

/* Ties of remainders go by chance: over many draws equal groups get the same. */
static void budget_ties_are_left_to_chance(void **state) {
    (void)state;
    enum { DRAWS = 3000 };
    ga_random random = test_random(15);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 3, 6, 6);
    for (int32_t i = 0; i < 18; i++) {
        b->rows[i] = (ga_candidate){.group = (uint64_t)(i / 6), .variance = 1, .rank = i / 6, .index = i % 6};
    }
    const ga_grid grid = grid_of(b, arena);
    const ga_value_options units = {.std_kind = GA_STD_GLOBAL, .whole = true};
    const ga_values values = values_of(&grid, &units, arena);
    ga_bounds bounds;
    test_ok(ga_bounds_make(&grid, 0, 0, arena, &bounds, NULL), NULL);
    double sum[3] = {0};
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        int32_t share[3];
        const ga_random stream = ga_random_make(test_seed(), draw, GA_STREAM_ROUNDING);
        test_ok(ga_budget_spread(&grid, &values, &bounds, 7, stream, arena, share, NULL), NULL);
        assert_int_equal(share[0] + share[1] + share[2], 7);
        for (int g = 0; g < 3; g++) {
            assert_true(share[g] == 2 || share[g] == 3);
            sum[g] += share[g];
        }
    }
    for (int g = 0; g < 3; g++) {
        assert_near(sum[g] / DRAWS, 7.0 / 3.0, 5 * sqrt(2.0 / 9 / DRAWS));
    }
    free(b);
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

/* Neyman: in proportion to the root of the value, no less than the least probability, no more than 1. */
static void neyman_follows_the_root_of_the_value(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 1, .rows_per_rank = 6, .count = 6};
    for (int32_t i = 0; i < 6; i++) {
        static const float mean[] = {-3, -1, 0, 0, 1, 3};
        b.rows[i] = (ga_candidate){.group = 4, .mean = mean[i], .index = i};
    }
    ga_plan_options options = default_options(&b, 2);
    options.policy = GA_POLICY_NEYMAN;
    options.min_inclusion = 0.05;
    const ga_plan plan = plan_of(&options, &b, arena);
    /* 2 − 2 · .05 spread as 3 : 1 : 1 : 3 */
    const double expected[] = {0.7125, 0.2375, 0.05, 0.05, 0.2375, 0.7125};
    for (int i = 0; i < 6; i++) {
        assert_near(plan.inclusion[i], expected[i], 1e-12);
    }
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

/* The batch's count above the threshold, in equal quotas: exactly the rows above it where they are spread
 * evenly, the best of each rank otherwise. */
static void thresholds_count_over_all_ranks(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 4, .rows_per_rank = 5, .count = 20};
    for (int32_t i = 0; i < 20; i++) {
        /* rows 0 … 4 of a rank score its number + 0 … 4, in two groups with means 3 and 4 below */
        b.rows[i] = (ga_candidate){.group = (uint64_t)(i % 2),
            .mean = (float)(i / 5 + i % 5),
            .variance = 1,
            .rank = i / 5,
            .index = i % 5};
    }
    ga_plan_options options = default_options(&b, 1);
    options.policy = GA_POLICY_THRESHOLD;
    const struct {
        ga_threshold threshold;
        int32_t quota;
    } cases[] = {
        {{GA_THRESHOLD_ABSOLUTE, 5}, 2},    /* 0, 1, 2, 3 rows a rank are above it: 6 / 4, rounded up */
        {{GA_THRESHOLD_ABSOLUTE, 0}, 5},    /* all */
        {{GA_THRESHOLD_ABSOLUTE, 7}, 1},    /* one row of all: one each */
        {{GA_THRESHOLD_ABSOLUTE, 8}, 1},    /* none: one each all the same */
        {{GA_THRESHOLD_QUANTILE, 0.4}, 3},  /* 12 of 20 */
        {{GA_THRESHOLD_QUANTILE, 0.55}, 3}, /* 9 of 20: 3 a rank */
        {{GA_THRESHOLD_QUANTILE, 0}, 5},
        {{GA_THRESHOLD_QUANTILE, 1}, 1},
        {{GA_THRESHOLD_ADVANTAGE, -100}, 5},
        {{GA_THRESHOLD_ADVANTAGE, 100}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        options.threshold = cases[i].threshold;
        const ga_plan plan = plan_of(&options, &b, arena);
        assert_int_equal(plan.keep_per_rank, cases[i].quota);
        for (int32_t row = 0; row < 20; row++) {
            assert_int_equal(plan.kept[row], row % 5 >= 5 - cases[i].quota);
        }
    }
    /* In advantage units each group is measured against its own mean: one far better group gains nothing. */
    for (int32_t i = 0; i < 20; i++) {
        b.rows[i].group = (uint64_t)(i / 10);
        b.rows[i].mean = (float)(i / 10 * 1000 + (i % 5 < 2 ? 1 : -1));
    }
    options.std_kind = GA_STD_GROUP;
    options.threshold = (ga_threshold){GA_THRESHOLD_ADVANTAGE, 0};
    const ga_plan plan = plan_of(&options, &b, arena);
    for (int32_t row = 0; row < 20; row++) {
        assert_int_equal(plan.kept[row], row % 5 < 2);
    }
    ga_arena_destroy(&arena);
}

/* A budget is given to groups first: a group without any expected spread gets nothing, floors aside. */
static void budget_drops_groups_without_spread(void **state) {
    (void)state;
    ga_random random = test_random(62);
    ga_arena *arena = ga_arena_create(0);
    for (int trial = 0; trial < 300; trial++) {
        batch *b = make_batch(&random, 3, 32, 24);
        for (int32_t i = 0; i < b->count; i++) {
            b->rows[i].variance = b->rows[i].group == 1000 ? 0 : 0.5f;
            b->rows[i].mean = b->rows[i].group == 1000 ? 7 : b->rows[i].mean;
        }
        ga_plan_options options = default_options(b, 8);
        options.policy = GA_POLICY_BUDGET;
        options.min_group = trial % 2;
        options.std_kind = trial % 3 == 0 ? GA_STD_GROUP : GA_STD_GLOBAL;
        const ga_plan plan = plan_of(&options, b, arena);
        const ga_grid grid = grid_of(b, arena);
        ga_values values;
        const ga_value_options units = {.std_kind = options.std_kind, .whole = true};
        test_ok(ga_values_compute(&grid, &units, arena, &values, NULL), NULL);
        double weight[4], sum = 0;
        for (int32_t group = 0; group < grid.groups; group++) {
            weight[group] = sqrt(sum_of_group(&grid, values.value, group) / 24);
            sum += weight[group];
        }
        for (int32_t group = 0; group < grid.groups; group++) {
            /* Each rank has rows enough of every group, so that every share can be given. */
            const int32_t held = kept_of_group(&grid, plan.kept, group);
            assert_true(fabs(held - 24 * weight[group] / sum) <= (trial % 2 == 0 ? 1 : 2));
            assert_true(group > 0 || held == trial % 2);
        }
        free(b);
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_by_hand),
        cmocka_unit_test(values_are_expected_squared_advantages),
        cmocka_unit_test(stopped_rows_still_count),
        cmocka_unit_test(budgets_follow_spread),
        cmocka_unit_test(budget_ties_are_left_to_chance),
        cmocka_unit_test(policies_by_name),
        cmocka_unit_test(policies_choose_what_they_say),
        cmocka_unit_test(neyman_follows_the_root_of_the_value),
        cmocka_unit_test(host_units_decide_between_groups),
        cmocka_unit_test(thresholds_count_over_all_ranks),
        cmocka_unit_test(budget_drops_groups_without_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
