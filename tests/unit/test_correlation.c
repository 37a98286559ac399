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

static void both_quarters_are_areas_of_their_own(void **state) {
    (void)state;
    /* the worst two of eight are told apart perfectly, the best two not at all */
    const double target[8] = {1, 2, 3, 4, 5, 6, 7, 8}, prediction[8] = {1, 2, 5, 5, 5, 5, 5, 5};
    const uint64_t group[8] = {0};
    ga_within w;
    test_ok(
        ga_within_estimate(GA_WITHIN_AUC_BOTTOM_QUARTER, prediction, target, group, 8, 1, 0, &w, NULL), NULL);
    assert_true(w.value == 1.0);
    test_ok(
        ga_within_estimate(GA_WITHIN_AUC_TOP_QUARTER, prediction, target, group, 8, 1, 0, &w, NULL), NULL);
    assert_true(fabs(w.value - (2.0 + 4.0 * 0.5) / 6.0) < 1e-12); /* 4 ties, 2 below */
    /* the bottom quarter is the top quarter upside down */
    ga_random random = test_random(77);
    double x[60], y[60], minus_x[60], minus_y[60];
    uint64_t key[60];
    for (int i = 0; i < 60; i++) {
        key[i] = (uint64_t)(i / 12);
        y[i] = (double)ga_random_below(&random, 6);
        x[i] = y[i] + 2.0 * ga_random_normal(&random);
        minus_x[i] = -x[i];
        minus_y[i] = -y[i];
    }
    ga_within up;
    test_ok(ga_within_estimate(GA_WITHIN_AUC_BOTTOM_QUARTER, x, y, key, 60, 1, 0, &w, NULL), NULL);
    test_ok(ga_within_estimate(GA_WITHIN_AUC_TOP_QUARTER, minus_x, minus_y, key, 60, 1, 0, &up, NULL), NULL);
    assert_true(fabs(w.value - up.value) < 1e-12);
}

/* Groups of a Gaussian pair of predictors, `rho` and `other_rho` inside the group. */
static void fill_pair(ga_random *random, double rho, double other_rho, double *x, double *other, double *y,
    uint64_t *group, size_t groups) {
    for (size_t i = 0; i < groups * 16; i++) {
        const double truth = ga_random_normal(random), noise = ga_random_normal(random);
        group[i] = i / 16;
        y[i] = truth;
        x[i] = rho * truth + sqrt(1 - rho * rho) * noise;
        other[i] = other_rho * truth + sqrt(1 - other_rho * other_rho) * noise; /* shares the noise */
    }
}

static void differences_are_paired(void **state) {
    (void)state;
    enum { GROUPS = 60, ROWS = 16 * GROUPS };
    static double x[ROWS], other[ROWS], y[ROWS];
    static uint64_t group[ROWS];
    ga_random random = test_random(78);
    fill_pair(&random, 0.6, 0.5, x, other, y, group, GROUPS);
    ga_within a, b, difference;
    test_ok(ga_within_estimate(GA_WITHIN_SPEARMAN, x, y, group, ROWS, 1, 500, &a, NULL), NULL);
    test_ok(ga_within_estimate(GA_WITHIN_SPEARMAN, other, y, group, ROWS, 1, 500, &b, NULL), NULL);
    test_ok(ga_within_compare(GA_WITHIN_SPEARMAN, x, other, y, group, ROWS, 1, 500, &difference, NULL), NULL);
    assert_true(fabs(difference.value - (a.value - b.value)) < 1e-12);
    assert_int_equal(difference.rows, ROWS);
    /* what both have in common does not widen the interval */
    assert_true(difference.high - difference.low < 0.7 * (a.high - a.low));
    assert_true(difference.low > 0);
    test_ok(ga_within_compare(GA_WITHIN_SPEARMAN, x, x, y, group, ROWS, 1, 500, &difference, NULL), NULL);
    assert_true(difference.value == 0 && difference.low == 0 && difference.high == 0);
    /* a row that one of them lacks counts for neither */
    other[0] = NAN;
    test_ok(ga_within_compare(GA_WITHIN_SPEARMAN, x, other, y, group, ROWS, 1, 0, &difference, NULL), NULL);
    assert_int_equal(difference.rows, ROWS - 1);
    assert_int_equal(ga_within_compare(GA_WITHIN_SPEARMAN, x, NULL, y, group, ROWS, 1, 0, &difference, NULL),
        GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_within_compare(GA_WITHIN_SPEARMAN, x, x, y, group, 0, 1, 0, &difference, NULL), GA_ERR_DATA);
}

static void differences_cover(void **state) {
    (void)state;
    enum { GROUPS = 40, ROWS = 16 * GROUPS, TRIES = 200 };
    static double x[ROWS], other[ROWS], y[ROWS];
    static uint64_t group[ROWS];
    ga_random random = test_random(79);
    int covered = 0;
    for (int i = 0; i < TRIES; i++) {
        fill_pair(&random, 0.5, 0.5, x, other, y, group, GROUPS);
        for (int j = 0; j < ROWS; j++) {
            other[j] = 0.5 * y[j] + sqrt(0.75) * ga_random_normal(&random); /* the same skill, other noise */
        }
        ga_within d;
        test_ok(ga_within_compare(GA_WITHIN_SPEARMAN, x, other, y, group, ROWS, (uint64_t)i, 300, &d, NULL),
            NULL);
        covered += d.low <= 0 && d.high >= 0;
    }
    assert_in_range(covered, (int)(0.88 * TRIES), (int)(0.99 * TRIES));
}

static void means_over_groups_leave_out_what_is_not_there(void **state) {
    (void)state;
    const double values[5] = {1, NAN, 3, INFINITY, 5};
    ga_within w;
    test_ok(ga_bootstrap_mean(values, 5, 1, 200, &w, NULL), NULL);
    assert_true(w.value == 3 && w.groups == 3 && w.low >= 1 && w.high <= 5 && w.low < w.high);
    assert_int_equal(ga_bootstrap_mean(values + 1, 1, 1, 200, &w, NULL), GA_ERR_DATA);
    assert_int_equal(ga_bootstrap_mean(NULL, 1, 1, 200, &w, NULL), GA_ERR_ARGUMENT);
    /* the statistics of single groups, by key */
    const double target[6] = {1, 2, 3, 3, 2, 1}, prediction[6] = {1, 2, 3, 1, 2, 3};
    const uint64_t group[6] = {9, 9, 9, 4, 4, 4};
    ga_within_group found[6];
    size_t count = 0;
    test_ok(ga_within_groups(GA_WITHIN_SPEARMAN, prediction, target, group, 6, found, &count, NULL), NULL);
    assert_int_equal(count, 2);
    assert_true(found[0].group == 4 && found[0].rows == 3);
    assert_near(found[0].value, -1, 1e-12);
    assert_true(found[1].group == 9);
    assert_near(found[1].value, 1, 1e-12);
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
        cmocka_unit_test(both_quarters_are_areas_of_their_own),
        cmocka_unit_test(differences_are_paired),
        cmocka_unit_test(differences_cover),
        cmocka_unit_test(means_over_groups_leave_out_what_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
