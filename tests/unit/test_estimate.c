#include "tests/unit/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/estimate/offsets.h"

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

enum { ROWS_MAX = 1024 };

static const ga_advantage_options DEFAULTS = {
    .estimator = GA_ESTIMATOR_SHRUNK,
    .clip = 10,
    .std_kind = GA_STD_GLOBAL,
    .epsilon = 1e-4,
    .tau2 = 0.1,
    .sigma_r2 = 0.5,
};

static ga_outcome kept_row(uint64_t group, double reward, double mean, double variance) {
    return (ga_outcome){.group = group,
        .reward = reward,
        .inclusion = 1,
        .mean = (float)mean,
        .variance = (float)variance,
        .kept = 1};
}

static ga_outcome pruned_row(uint64_t group, double mean, double variance) {
    ga_outcome row = kept_row(group, (double)NAN, mean, variance);
    row.kept = 0;
    return row;
}

static void number_rows(ga_outcome *rows, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        rows[i].rank = i / 9;
        rows[i].index = i % 9;
    }
}

static ga_advantage_report compute(const ga_advantage_options *options, const ga_outcome *rows, int32_t count,
    ga_arena *arena, double *advantage) {
    ga_error error;
    ga_error_clear(&error);
    ga_advantage_report report = {0};
    test_ok(ga_advantage_compute(options, rows, count, arena, advantage, &report, &error), &error);
    return report;
}

/* What the host computes when nobody is missing: written down plainly. */
static void host_formula(const ga_outcome *rows, int32_t count, ga_std_kind std_kind, double *advantage) {
    double sum = 0, square = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += rows[i].reward / count;
    }
    for (int32_t i = 0; i < count; i++) {
        square += (rows[i].reward - sum) * (rows[i].reward - sum) / count;
    }
    for (int32_t i = 0; i < count; i++) {
        double group_sum = 0, group_square = 0, size = 0;
        for (int32_t j = 0; j < count; j++) {
            size += rows[j].group == rows[i].group;
            group_sum += rows[j].group == rows[i].group ? rows[j].reward : 0;
        }
        const double mean = group_sum / size;
        for (int32_t j = 0; j < count; j++) {
            const double distance = rows[j].reward - mean;
            group_square += rows[j].group == rows[i].group ? distance * distance : 0;
        }
        const double sigma = sqrt(std_kind == GA_STD_GLOBAL ? square : group_square / size);
        advantage[i] = (rows[i].reward - mean) / (sigma + 1e-4);
    }
}

/* Under every estimator, with good, bad or no predictions, whatever π and sizes 1, K, 2K, 4K: the host's own.
 */
static void everything_kept_is_the_host(void **state) {
    (void)state;
    ga_random random = test_random(1);
    ga_arena *arena = ga_arena_create(0);
    for (int trial = 0; trial < 400; trial++) {
        ga_outcome rows[120];
        double advantage[120], expected[120];
        for (int32_t i = 0; i < 120; i++) {
            static const uint64_t groups[] = {7, 7, 7, 7, 9, 9, 3, 3, 1, 5};
            const uint64_t group = i == 0 ? 1234 : groups[i % 10];
            rows[i] = kept_row(group, 20.0 + (double)group * 0.1 + 0.3 * ga_random_normal(&random),
                ga_random_normal(&random), ga_random_uniform(&random));
            rows[i].inclusion = 0.1 + 0.9 * ga_random_uniform(&random);
            rows[i].mean = trial % 3 == 0 && i % 4 == 0 ? NAN : rows[i].mean;
        }
        number_rows(rows, 120);
        ga_advantage_options options = DEFAULTS;
        options.estimator = (ga_estimator)(trial % 4);
        options.std_kind = trial / 4 % 2 == 0 ? GA_STD_GLOBAL : GA_STD_GROUP;
        const ga_advantage_report report = compute(&options, rows, 120, arena, advantage);
        host_formula(rows, 120, options.std_kind, expected);
        for (int32_t i = 0; i < 120; i++) {
            assert_near(advantage[i], expected[i], 1e-12);
        }
        assert_int_equal(report.kept_count, 120);
        assert_int_equal(report.group_count, 6);
        assert_int_equal(report.fallback_group_count, 0);
        assert_near(report.shrink_mean, 1, 0);
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

/* One group of four, two kept with equal chances. */
static void closed_case(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[] = {
        kept_row(1, 3, 2, 0.5), kept_row(1, 1, 0.5, 0.5), pruned_row(1, 1, 0.5), pruned_row(1, 0.5, 0.5)};
    number_rows(rows, 4);
    double advantage[4];
    /* mean of m = 1; offset of the kept (1 + .5)/2 = .75; B = (.1 + .125)/(.1 + .25) = 9/14 */
    const double mean = 1 + 0.75 * 9.0 / 14.0;
    ga_advantage_report report = compute(&DEFAULTS, rows, 4, arena, advantage);
    assert_near(report.shrink_mean, 9.0 / 14.0, 1e-12);
    assert_near(report.baseline[3], mean, 1e-12);
    /* E r²: mean of m² + s² = 5.5/4 + .5; offset ((9 − 4.5) + (1 − .75))/2 */
    const double second = 5.5 / 4 + 0.5 + 9.0 / 14.0 * 4.75 / 2;
    const double sigma = sqrt(second - mean * mean);
    assert_near(report.sigma, sigma, 1e-12);
    assert_near(report.row_sigma[0], sigma + 1e-4, 1e-12);
    assert_near(advantage[0], (3 - mean) / (sigma + 1e-4), 1e-12);
    assert_near(advantage[1], (1 - mean) / (sigma + 1e-4), 1e-12);
    assert_true(advantage[2] == 0 && advantage[3] == 0);
    ga_advantage_options options = DEFAULTS;
    options.std_kind = GA_STD_GROUP;
    report = compute(&options, rows, 4, arena, advantage);
    assert_near(report.sigma, sigma, 1e-12);
    options.estimator = GA_ESTIMATOR_DIFFERENCE;
    report = compute(&options, rows, 4, arena, advantage);
    assert_near(report.baseline[0], 1.75, 1e-12);
    options.estimator = GA_ESTIMATOR_SURVIVORS;
    report = compute(&options, rows, 4, arena, advantage);
    assert_near(report.baseline[0], 2, 1e-12);
    assert_near(report.sigma, 1, 1e-12);
    assert_near(advantage[0], 1 / 1.0001, 1e-12);
    ga_arena_destroy(&arena);
}

/* Hájek: the row with π = ¼ counts four times, or clip times. */
static void weights_of_the_offset(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[] = {kept_row(1, 3, 2, 1), kept_row(1, 1, 2, 1), pruned_row(1, 2, 1)};
    rows[0].inclusion = 0.25;
    number_rows(rows, 3);
    double advantage[3];
    ga_advantage_options options = DEFAULTS;
    options.estimator = GA_ESTIMATOR_DIFFERENCE;
    ga_advantage_report report = compute(&options, rows, 3, arena, advantage);
    assert_near(report.baseline[0], 2 + (4.0 * 1 - 1) / 5, 1e-12);
    assert_int_equal(report.clipped_count, 0);
    options.clip = 2;
    report = compute(&options, rows, 3, arena, advantage);
    assert_near(report.baseline[0], 2 + (2.0 * 1 - 1) / 3, 1e-12);
    assert_int_equal(report.clipped_count, 1);
    const double plain = advantage[0];
    options.weighting = GA_WEIGHT_INVERSE;
    compute(&options, rows, 3, arena, advantage);
    assert_near(advantage[0], plain * 2 * 2 / 3, 1e-12);
    ga_arena_destroy(&arena);
}

static double shrink_of(double tau2, double sigma_r2, int32_t kept, int32_t size, ga_arena *arena) {
    ga_outcome rows[32];
    double advantage[32];
    ga_advantage_options options = DEFAULTS;
    for (int32_t i = 0; i < size; i++) {
        rows[i] = i < kept ? kept_row(1, i, i, 1) : pruned_row(1, i, 1);
    }
    number_rows(rows, size);
    options.tau2 = tau2;
    options.sigma_r2 = sigma_r2;
    return compute(&options, rows, size, arena, advantage).shrink_mean;
}

static void shrinkage_limits(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    assert_near(shrink_of(0, 1, 2, 9, arena), 2.0 / 9.0, 1e-12); /* no offsets: only what is known */
    assert_near(shrink_of(1, 0, 2, 9, arena), 1, 1e-12);         /* nothing but offsets: one row tells all */
    assert_near(shrink_of(1e9, 1, 2, 9, arena), 1, 1e-6);
    assert_near(shrink_of(0, 0, 2, 9, arena), 1, 1e-12);
    assert_near(shrink_of((double)NAN, 1, 2, 9, arena), 1, 1e-12); /* not known: plain difference */
    assert_near(shrink_of(1, (double)NAN, 2, 9, arena), 1, 1e-12);
    double before = 0;
    for (int32_t kept = 1; kept < 24; kept++) {
        const double now = shrink_of(0.2, 1, kept, 24, arena);
        assert_true(now > before && now < 1);
        before = now;
    }
    ga_arena_destroy(&arena);
}

static void missing_things(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[] = {
        kept_row(1, 4, 1, 1), kept_row(1, 2, 1, 1),
        pruned_row(1, (double)NAN, 1),                       /* no prediction: survivors */
        pruned_row(2, 1, 1), pruned_row(2, 2, 1),            /* nothing kept: predictions */
        kept_row(3, (double)NAN, 1, 1), pruned_row(3, 3, 1), /* kept, but the reward is lost */
        pruned_row(4, (double)NAN, 1),                       /* nothing at all */
    };
    double advantage[8];
    number_rows(rows, 8);
    for (int kind = GA_STD_GLOBAL; kind <= GA_STD_GROUP; kind++) {
        ga_advantage_options options = DEFAULTS;
        options.std_kind = (ga_std_kind)kind;
        const ga_advantage_report report = compute(&options, rows, 8, arena, advantage);
        assert_int_equal(report.kept_count, 2);
        assert_int_equal(report.unrewarded_count, 1);
        assert_int_equal(report.fallback_group_count, 2);
        assert_near(report.baseline[0], 3, 1e-12);
        assert_near(report.baseline[3], 1.5, 1e-12);
        assert_near(report.baseline[6], 2, 1e-12);
        assert_true(isnan(report.baseline[7]));
        assert_true(advantage[0] > 0 && advantage[1] < 0 && isfinite(advantage[0]));
        for (int i = 2; i < 8; i++) {
            assert_true(advantage[i] == 0);
        }
        assert_true(isfinite(report.sigma) && report.sigma > 0);
    }
    compute(&DEFAULTS, NULL, 0, arena, NULL);
    ga_arena_destroy(&arena);
}

/* Predictions that claim no spread can't make σ smaller than what is seen. */
static void sigma_has_a_floor(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[] = {
        kept_row(1, 0, 5, 0), kept_row(1, 10, -5, 0), pruned_row(1, 20, 0), pruned_row(1, -20, 0)};
    double advantage[4];
    number_rows(rows, 4);
    for (int estimator = 0; estimator < 2; estimator++) {
        for (int kind = GA_STD_GLOBAL; kind <= GA_STD_GROUP; kind++) {
            ga_advantage_options options = DEFAULTS;
            options.estimator = (ga_estimator)estimator;
            options.std_kind = (ga_std_kind)kind;
            const ga_advantage_report report = compute(&options, rows, 4, arena, advantage);
            const double mean = report.baseline[0];
            assert_true(report.sigma >= sqrt((mean * mean + (10 - mean) * (10 - mean)) / 4) - 1e-12);
        }
    }
    /* A second moment that would be negative: kept rows far nearer to the mean than predicted. */
    ga_outcome overdone[] = {
        kept_row(1, 0.1, 9, 4), kept_row(1, -0.1, -9, 4), pruned_row(1, 0, 0), pruned_row(1, 0, 0)};
    number_rows(overdone, 4);
    ga_advantage_options options = DEFAULTS;
    options.estimator = GA_ESTIMATOR_DIFFERENCE;
    const ga_advantage_report report = compute(&options, overdone, 4, arena, advantage);
    assert_near(report.sigma, sqrt(0.02 / 4), 1e-6);
    ga_arena_destroy(&arena);
}

typedef struct world {
    ga_outcome rows[ROWS_MAX];
    double true_reward[ROWS_MAX];
    double true_mean[ROWS_MAX]; /* of the row's group */
    int32_t count;
} world;

/* Groups of `size` with r = 3 + u_g + a + e, m = what a probe with offset o_g says; kept: the `keep` most
 * extreme. */
static void make_world(ga_random *random, world *w, int32_t groups, int32_t size, int32_t keep, double tau) {
    w->count = groups * size;
    for (int32_t g = 0; g < groups; g++) {
        const double level = 3 + ga_random_normal(random);
        const double offset = tau * ga_random_normal(random);
        double sum = 0;
        for (int32_t i = g * size; i < (g + 1) * size; i++) {
            const double seen = 0.7 * ga_random_normal(random);
            w->true_reward[i] = level + seen + sqrt(0.51) * ga_random_normal(random);
            w->rows[i] = kept_row((uint64_t)g, w->true_reward[i], level + seen - offset, 0.51);
            sum += w->true_reward[i];
        }
        for (int32_t i = g * size; i < (g + 1) * size; i++) {
            w->true_mean[i] = sum / size;
            int32_t more_extreme = 0;
            for (int32_t j = g * size; j < (g + 1) * size; j++) {
                more_extreme += fabs((double)w->rows[j].mean - level) > fabs((double)w->rows[i].mean - level);
            }
            if (more_extreme >= keep) {
                w->rows[i] = pruned_row((uint64_t)g, (double)w->rows[i].mean, 0.51);
            }
        }
    }
    number_rows(w->rows, w->count);
}

static double baseline_mean_square(const world *w, const ga_advantage_options *options, ga_arena *arena) {
    double advantage[ROWS_MAX], square = 0;
    const ga_advantage_report report = compute(options, w->rows, w->count, arena, advantage);
    for (int32_t i = 0; i < w->count; i++) {
        const double error = report.baseline[i] - w->true_mean[i];
        square += error * error / w->count;
    }
    return square;
}

/* 2 of 9 kept: shrunk beats difference beats survivors, each by a wide margin, and B by the log is right. */
static void estimators_rank_as_designed(void **state) {
    (void)state;
    ga_random random = test_random(2);
    ga_arena *arena = ga_arena_create(0);
    static world w;
    double square[3] = {0};
    ga_offsets offsets = ga_offsets_make(0);
    for (int trial = 0; trial < 60; trial++) {
        ga_advantage_options options = DEFAULTS;
        make_world(&random, &w, 100, 9, 2, 0.2);
        options.tau2 = 0.04;
        options.sigma_r2 = 0.51;
        for (int estimator = 0; estimator < 3; estimator++) {
            options.estimator = (ga_estimator)estimator;
            square[estimator] += baseline_mean_square(&w, &options, arena);
        }
        test_ok(ga_offsets_add(&offsets, w.rows, w.count, arena, NULL), NULL);
        ga_arena_reset(arena);
    }
    /* Mean squares: shrunk about .065, difference .51 (1/2 − 1/9) = .198, survivors .72. */
    assert_true(square[0] < 0.6 * square[1]);
    assert_true(square[1] < 0.5 * square[2]);
    assert_near(square[1] / 60, 0.198, 0.02);
    double tau2 = 0, sigma_r2 = 0;
    assert_true(ga_offsets_estimate(&offsets, &tau2, &sigma_r2));
    assert_near(tau2, 0.04, 0.03);
    assert_near(sigma_r2, 0.51, 0.04);
    ga_arena_destroy(&arena);
}

/* With predictions that are exact the baseline is too; then inverse weights have no bias and weight one has.
 */
static void inverse_weights_are_unbiased(void **state) {
    (void)state;
    enum { COUNT = 60, DRAWS = 4000 };
    ga_random random = test_random(3);
    ga_arena *arena = ga_arena_create(0);
    ga_outcome full[COUNT], rows[COUNT];
    double advantage[COUNT], all[COUNT], score[COUNT], truth = 0;
    for (int32_t i = 0; i < COUNT; i++) {
        const double reward = ldexp(ga_random_below(&random, 64), -4);
        full[i] = kept_row((uint64_t)(i / 12), reward, reward, 0);
    }
    number_rows(full, COUNT);
    ga_advantage_options options = DEFAULTS;
    host_formula(full, COUNT, GA_STD_GLOBAL, all);
    for (int32_t i = 0; i < COUNT; i++) {
        score[i] = all[i] + 0.3 * ga_random_normal(&random);
        truth += all[i] * score[i] / COUNT;
        full[i].inclusion = all[i] * score[i] > 0.5 ? 0.9 : 0.2; /* what a choice of extremes does */
    }
    double estimate[2] = {0}, square = 0;
    for (int draw = 0; draw < DRAWS; draw++) {
        int kept = 0;
        for (int32_t i = 0; i < COUNT; i++) {
            rows[i] = full[i];
            rows[i].kept = ga_random_uniform(&random) < full[i].inclusion;
            kept += rows[i].kept;
        }
        for (int weighting = 0; weighting < 2; weighting++) {
            double sum = 0;
            options.weighting = (ga_weighting)weighting;
            compute(&options, rows, COUNT, arena, advantage);
            for (int32_t i = 0; i < COUNT; i++) {
                sum += advantage[i] * score[i];
            }
            estimate[weighting] += sum / kept / DRAWS; /* the host's mean over kept rows */
            square += weighting == 1 ? (sum / kept - truth) * (sum / kept - truth) / DRAWS : 0;
        }
        ga_arena_reset(arena);
    }
    const double standard_error = sqrt(square / DRAWS);
    assert_near(estimate[1], truth, 5 * standard_error);
    assert_true(fabs(estimate[0] - truth) > 10 * standard_error);
    ga_arena_destroy(&arena);
}

static void order_does_not_matter(void **state) {
    (void)state;
    ga_random random = test_random(4);
    ga_arena *arena = ga_arena_create(0);
    static world w, shuffled;
    make_world(&random, &w, 20, 9, 3, 0.3);
    int32_t order[180];
    double advantage[180], again[180];
    for (int32_t i = 0; i < 180; i++) {
        order[i] = i;
    }
    ga_random_shuffle(&random, order, 180);
    for (int32_t i = 0; i < 180; i++) {
        shuffled.rows[i] = w.rows[order[i]];
    }
    const ga_advantage_report a = compute(&DEFAULTS, w.rows, 180, arena, advantage);
    const ga_advantage_report b = compute(&DEFAULTS, shuffled.rows, 180, arena, again);
    ga_offsets first = ga_offsets_make(3), second = ga_offsets_make(3);
    test_ok(ga_offsets_add(&first, w.rows, 180, arena, NULL), NULL);
    test_ok(ga_offsets_add(&second, shuffled.rows, 180, arena, NULL), NULL);
    assert_memory_equal(&first, &second, sizeof first);
    assert_true(a.sigma == b.sigma);
    for (int32_t i = 0; i < 180; i++) {
        assert_true(again[i] == advantage[order[i]]);
        assert_true(b.baseline[i] == a.baseline[order[i]]);
    }
    ga_arena_destroy(&arena);
}

static void offsets_fade_and_wait(void **state) {
    (void)state;
    ga_random random = test_random(5);
    ga_arena *arena = ga_arena_create(0);
    static world w;
    ga_offsets offsets = ga_offsets_make(4);
    double tau2 = -1, sigma_r2 = -1;
    assert_false(ga_offsets_estimate(&offsets, &tau2, &sigma_r2));
    make_world(&random, &w, 7, 9, 3, 0.3);
    test_ok(ga_offsets_add(&offsets, w.rows, w.count, arena, NULL), NULL);
    assert_false(ga_offsets_estimate(&offsets, &tau2, &sigma_r2));
    assert_near(tau2, -1, 0);
    for (int update = 0; update < 120; update++) {
        const double tau = update < 60 ? 2.0 : 0; /* offsets were large, now there are none */
        make_world(&random, &w, 60, 9, 4, tau);
        test_ok(ga_offsets_add(&offsets, w.rows, w.count, arena, NULL), NULL);
        if (update == 59) {
            assert_true(ga_offsets_estimate(&offsets, &tau2, &sigma_r2));
            assert_near(tau2, 4, 1.2);
        }
        ga_arena_reset(arena);
    }
    assert_true(ga_offsets_estimate(&offsets, &tau2, &sigma_r2));
    assert_near(tau2, 0, 0.06);
    assert_near(sigma_r2, 0.51, 0.1);
    /* An update without a reward changes nothing. */
    const ga_offsets before = offsets;
    const ga_outcome empty = pruned_row(1, 2, 3);
    test_ok(ga_offsets_add(&offsets, &empty, 1, arena, NULL), NULL);
    assert_memory_equal(&before, &offsets, sizeof before);
    assert_int_equal(ga_offsets_add(&offsets, NULL, 3, arena, NULL), GA_ERR_ARGUMENT);
    ga_arena_destroy(&arena);
}

static void refusals(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_error error;
    ga_error_clear(&error);
    ga_outcome row = kept_row(1, 2, 2, 1);
    double advantage = 42;
    row.inclusion = 0;
    row.rank = 3;
    assert_int_equal(ga_advantage_compute(&DEFAULTS, &row, 1, arena, &advantage, NULL, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "rank 3 row 0"));
    row.inclusion = (double)NAN;
    assert_int_equal(ga_advantage_compute(&DEFAULTS, &row, 1, arena, &advantage, NULL, NULL), GA_ERR_DATA);
    row.inclusion = 1;
    for (int i = 0; i < 8; i++) {
        ga_advantage_options options = DEFAULTS;
        options.clip = i == 0 ? 0.5 : options.clip;
        options.epsilon = i == 1 ? -1 : options.epsilon;
        options.tau2 = i == 2 ? -1 : options.tau2;
        options.sigma_r2 = i == 3 ? (double)INFINITY : options.sigma_r2;
        options.estimator = i == 4 ? (ga_estimator)9 : options.estimator;
        options.clip = i == 5 ? (double)NAN : options.clip;
        options.fixed_sigma = i == 6 ? -1 : i == 7 ? (double)INFINITY : 0;
        assert_int_equal(
            ga_advantage_compute(&options, &row, 1, arena, &advantage, NULL, NULL), GA_ERR_ARGUMENT);
    }
    assert_int_equal(ga_advantage_compute(NULL, &row, 1, arena, &advantage, NULL, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_advantage_compute(&DEFAULTS, NULL, 1, arena, &advantage, NULL, NULL), GA_ERR_ARGUMENT);
    assert_near(advantage, 42, 0);
    ga_estimator estimator = GA_ESTIMATOR_SHRUNK;
    ga_weighting weighting = GA_WEIGHT_ONE;
    test_ok(ga_estimator_parse("survivors", &estimator, NULL), NULL);
    test_ok(ga_weighting_parse("inverse", &weighting, NULL), NULL);
    assert_int_equal(estimator, GA_ESTIMATOR_SURVIVORS);
    assert_int_equal(weighting, GA_WEIGHT_INVERSE);
    assert_int_equal(ga_estimator_parse("mean", &estimator, NULL), GA_ERR_CONFIG);
    assert_int_equal(ga_weighting_parse(NULL, &weighting, NULL), GA_ERR_CONFIG);
    ga_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_kept_is_the_host),
        cmocka_unit_test(closed_case),
        cmocka_unit_test(weights_of_the_offset),
        cmocka_unit_test(shrinkage_limits),
        cmocka_unit_test(missing_things),
        cmocka_unit_test(sigma_has_a_floor),
        cmocka_unit_test(estimators_rank_as_designed),
        cmocka_unit_test(inverse_weights_are_unbiased),
        cmocka_unit_test(order_does_not_matter),
        cmocka_unit_test(offsets_fade_and_wait),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
