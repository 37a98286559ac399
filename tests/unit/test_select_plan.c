#include "tests/unit/select_batch.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
