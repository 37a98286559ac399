#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/correlation.h"

enum { ROWS_MAX = 4096 };

/* cmocka's own compares in single precision. */
#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

static ga_within within(ga_within_kind kind, const double *prediction, const double *target,
    const uint64_t *group, size_t count, int32_t resamples) {
    ga_error error;
    ga_error_clear(&error);
    ga_within result = {0};
    test_ok(
        ga_within_estimate(kind, prediction, target, group, count, 1, resamples, &result, &error), &error);
    return result;
}

static double one_group(ga_within_kind kind, const double *prediction, const double *target, size_t count) {
    const uint64_t group[16] = {0};
    return within(kind, prediction, target, group, count, 0).value;
}

/* Worked by hand; the tied case agrees with R's cor(). */
static void known_values(void **state) {
    (void)state;
    const double prediction[] = {1, 2, 3, 4, 5};
    const double target[] = {2, 1, 4, 3, 5};
    assert_near(one_group(GA_WITHIN_SPEARMAN, prediction, target, 5), 0.8, 1e-12);
    assert_near(one_group(GA_WITHIN_PEARSON, prediction, target, 5), 0.8, 1e-12);
    assert_near(one_group(GA_WITHIN_KENDALL, prediction, target, 5), 0.6, 1e-12);
    assert_near(one_group(GA_WITHIN_PAIRWISE, prediction, target, 5), 0.8, 1e-12);
    /* positives 4 and 5 → predictions 3 and 5 against 1, 2, 4: 5 of 6 pairs. */
    assert_near(one_group(GA_WITHIN_AUC_MEDIAN, prediction, target, 5), 5.0 / 6.0, 1e-12);
    assert_near(one_group(GA_WITHIN_AUC_TOP_QUARTER, prediction, target, 5), 5.0 / 6.0, 1e-12);
    const double tied_prediction[] = {1, 1, 2, 2};
    const double tied_target[] = {1, 2, 2, 3};
    /* ranks 1.5 1.5 3.5 3.5 and 1 2.5 2.5 4: 3 / √(4 · 4.5) */
    assert_near(one_group(GA_WITHIN_SPEARMAN, tied_prediction, tied_target, 4), 3.0 / sqrt(18.0), 1e-12);
    /* 3 concordant pairs, 4 with different predictions, 5 with different targets */
    assert_near(one_group(GA_WITHIN_KENDALL, tied_prediction, tied_target, 4), 3.0 / sqrt(20.0), 1e-12);
    assert_near(one_group(GA_WITHIN_PAIRWISE, tied_prediction, tied_target, 4), 0.8, 1e-12);
}

static void binary_targets_still_count(void **state) {
    (void)state;
    const double prediction[] = {1, 2, 3, 4};
    const double mostly_good[] = {0, 1, 1, 1};
    const double mostly_bad[] = {0, 0, 0, 0.5};
    for (ga_within_kind kind = GA_WITHIN_AUC_MEDIAN; kind <= GA_WITHIN_PAIRWISE; kind++) {
        assert_near(one_group(kind, prediction, mostly_good, 4), 1, 1e-12);
        assert_near(one_group(kind, prediction, mostly_bad, 4), 1, 1e-12);
    }
}

static void constant_predictions_show_no_skill(void **state) {
    (void)state;
    const double prediction[] = {7, 7, 7, 7};
    const double target[] = {1, 2, 3, 4};
    const double expected[] = {0, 0, 0, 0.5, 0.5, 0.5};
    for (ga_within_kind kind = GA_WITHIN_SPEARMAN; kind <= GA_WITHIN_PAIRWISE; kind++) {
        assert_near(one_group(kind, prediction, target, 4), expected[kind], 1e-12);
    }
}

static void unusable_rows_and_groups_are_left_out(void **state) {
    (void)state;
    const double prediction[] = {1, 2, 3, NAN, 1, 2, 3, 1, 2, 5, INFINITY, 3, 2, 1};
    const double target[] = {1, 2, 3, -9, 4, 4, 4, 1, 2, NAN, -50, 1, 2, 3};
    const uint64_t group[] = {1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 1, 4, 4, 4};
    const ga_within result = within(GA_WITHIN_SPEARMAN, prediction, target, group, 14, 50);
    /* group 2 has no spread, group 3 two rows; 1 is perfect and 4 reversed */
    assert_int_equal(result.groups, 2);
    assert_int_equal(result.rows, 6);
    assert_near(result.value, 0, 1e-12);
    assert_near(result.low, -1, 1e-12);
    assert_near(result.high, 1, 1e-12);
}

/* A pooled figure rewards knowing the prompt, a within-group one does not. */
static void prompt_knowledge_is_worth_nothing_within(void **state) {
    (void)state;
    ga_random random = test_random(3);
    static double prediction[ROWS_MAX], target[ROWS_MAX];
    static uint64_t group[ROWS_MAX];
    for (size_t i = 0; i < ROWS_MAX; i++) {
        group[i] = i / 16;
        prediction[i] = (double)(group[i] * 7 % 64) + 0.1 * ga_random_normal(&random);
        target[i] = (double)(group[i] * 7 % 64) + ga_random_normal(&random);
    }
    const ga_within result = within(GA_WITHIN_SPEARMAN, prediction, target, group, ROWS_MAX, 500);
    assert_true(fabs(result.value) < 0.08);
    assert_true(result.low < result.value && result.value < result.high);
    assert_true(result.high - result.low < 0.15);
    double pooled = 0;
    test_ok(ga_pooled_estimate(GA_POOLED_SPEARMAN, prediction, target, ROWS_MAX, &pooled, NULL), NULL);
    assert_true(pooled > 0.95);
    test_ok(ga_pooled_estimate(GA_POOLED_PEARSON, prediction, target, ROWS_MAX, &pooled, NULL), NULL);
    assert_true(pooled > 0.95);
    test_ok(ga_pooled_estimate(GA_POOLED_AUC_TOP_QUARTER, prediction, target, ROWS_MAX, &pooled, NULL), NULL);
    assert_true(pooled > 0.95);
}

/* The interval of a 95 % bootstrap covers the true value in about 95 of 100 repetitions. */
static void interval_covers(void **state) {
    (void)state;
    ga_random random = test_random(4);
    enum { GROUPS = 60, SIZE = 8, TRIALS = 200 };
    double prediction[GROUPS * SIZE], target[GROUPS * SIZE];
    uint64_t group[GROUPS * SIZE];
    int covered = 0;
    for (int trial = 0; trial < TRIALS; trial++) {
        for (size_t i = 0; i < GROUPS * SIZE; i++) {
            group[i] = i % GROUPS;
            prediction[i] = ga_random_normal(&random);
            target[i] = ga_random_normal(&random);
        }
        const ga_within result = within(GA_WITHIN_KENDALL, prediction, target, group, GROUPS * SIZE, 400);
        covered += result.low <= 0 && 0 <= result.high;
    }
    assert_true(covered >= 175);
    assert_true(covered < TRIALS);
}

static void order_does_not_matter(void **state) {
    (void)state;
    ga_random random = test_random(5);
    enum { COUNT = 300 };
    double prediction[COUNT], target[COUNT], prediction_shuffled[COUNT], target_shuffled[COUNT];
    uint64_t group[COUNT], group_shuffled[COUNT];
    int32_t order[COUNT];
    for (int32_t i = 0; i < COUNT; i++) {
        order[i] = i;
        group[i] = ga_random_below(&random, 20);
        prediction[i] = ga_random_normal(&random);
        target[i] = (double)ga_random_below(&random, 5);
    }
    ga_random_shuffle(&random, order, COUNT);
    for (int i = 0; i < COUNT; i++) {
        prediction_shuffled[i] = prediction[order[i]];
        target_shuffled[i] = target[order[i]];
        group_shuffled[i] = group[order[i]];
    }
    for (ga_within_kind kind = GA_WITHIN_SPEARMAN; kind <= GA_WITHIN_PAIRWISE; kind++) {
        const ga_within a = within(kind, prediction, target, group, COUNT, 100);
        const ga_within b = within(kind, prediction_shuffled, target_shuffled, group_shuffled, COUNT, 100);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

static void refusals(void **state) {
    (void)state;
    ga_within result = {.value = 42};
    ga_error error;
    ga_error_clear(&error);
    const double flat[] = {1, 1, 1};
    const double column[] = {1, 2, 3};
    const uint64_t group[] = {0, 0, 0};
    double value = 42;
    assert_int_equal(
        ga_within_estimate(GA_WITHIN_PEARSON, column, flat, group, 3, 0, 10, &result, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "no group"));
    assert_int_equal(
        ga_within_estimate(GA_WITHIN_PEARSON, NULL, NULL, NULL, 0, 0, 10, &result, NULL), GA_ERR_DATA);
    assert_int_equal(
        ga_within_estimate(GA_WITHIN_PEARSON, NULL, flat, group, 3, 0, 10, &result, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_within_estimate(GA_WITHIN_PEARSON, column, flat, group, 3, 0, -1, &result, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_within_estimate((ga_within_kind)99, column, column, group, 3, 0, 1, &result, NULL),
        GA_ERR_ARGUMENT);
    assert_int_equal(ga_pooled_estimate(GA_POOLED_PEARSON, column, flat, 3, &value, NULL), GA_ERR_DATA);
    assert_int_equal(ga_pooled_estimate(GA_POOLED_PEARSON, column, NULL, 3, &value, NULL), GA_ERR_ARGUMENT);
    assert_near(result.value, 42, 0);
    assert_near(value, 42, 0);
}

static void large_values_do_not_overflow(void **state) {
    (void)state;
    const double prediction[] = {-1e300, 0, 1e300};
    const double target[] = {-1e-300, 0, 1e-300};
    assert_near(one_group(GA_WITHIN_PEARSON, prediction, target, 3), 1, 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(binary_targets_still_count),
        cmocka_unit_test(constant_predictions_show_no_skill),
        cmocka_unit_test(unusable_rows_and_groups_are_left_out),
        cmocka_unit_test(prompt_knowledge_is_worth_nothing_within),
        cmocka_unit_test(interval_covers),
        cmocka_unit_test(order_does_not_matter),
        cmocka_unit_test(refusals),
        cmocka_unit_test(large_values_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
