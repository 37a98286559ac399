#include "tests/unit/support.h"

#include <math.h>

#include "grpo_accel/estimate/advantage.h"

/*
 * A Gaussian policy whose gradient is known: a row's first action a ~ N(θ₁, 1), which the probe sees, its
 * second b ~ N(θ₂, 1), which it doesn't; reward r = level + C1·a + C2·b + C3·a². ∇E r = (C1 + 2·C3·θ₁, C2),
 * score function (a − θ₁, b − θ₂).
 */
enum { GROUPS = 6, SIZE = 8, ROWS = GROUPS * SIZE, UPDATES = 10000 };

static const double THETA1 = 0.3, THETA2 = -0.2, C1 = 0.8, C2 = 0.6, C3 = 0.3;

typedef enum prediction { CALIBRATED, ABSURD, NOISE } prediction;

static double slope_of(prediction kind) {
    return kind == CALIBRATED ? C1 + 2 * C3 * THETA1 : kind == ABSURD ? -3 : 0; /* d E m / d θ₁ */
}

typedef struct world {
    ga_outcome full[ROWS]; /* with every reward */
    ga_outcome rows[ROWS]; /* as kept */
    double score[ROWS][2];
} world;

static double predict(ga_random *random, prediction kind, double level, double a) {
    switch (kind) {
    case CALIBRATED: return level + C1 * a + C3 * a * a + C2 * THETA2;
    case ABSURD: return 4 - 3 * a;
    case NOISE: break;
    }
    return 5 * ga_random_normal(random);
}

/* The half with the most extreme predictions is kept with .85, the rest with .15. */
static void set_inclusion(world *w, int32_t first) {
    double mean = 0;
    for (int32_t i = first; i < first + SIZE; i++) {
        mean += (double)w->full[i].mean / SIZE;
    }
    for (int32_t i = first; i < first + SIZE; i++) {
        int32_t before = 0;
        for (int32_t j = first; j < first + SIZE; j++) {
            before += fabs((double)w->full[j].mean - mean) > fabs((double)w->full[i].mean - mean);
        }
        w->full[i].inclusion = before < SIZE / 2 ? 0.85 : 0.15;
    }
}

static void draw_world(ga_random *random, prediction kind, world *w) {
    for (int32_t i = 0; i < ROWS; i++) {
        const double level = 0.5 * (i / SIZE);
        const double u = ga_random_normal(random), v = ga_random_normal(random);
        const double a = THETA1 + u, b = THETA2 + v;
        w->score[i][0] = u;
        w->score[i][1] = v;
        w->full[i] = (ga_outcome){.group = (uint64_t)(i / SIZE),
            .reward = level + C1 * a + C2 * b + C3 * a * a,
            .mean = (float)predict(random, kind, level, a),
            .variance = (float)(C2 * C2),
            .rank = i % 4,
            .index = i / 4,
            .kept = 1};
    }
    for (int32_t first = 0; first < ROWS; first += SIZE) {
        set_inclusion(w, first);
    }
    for (int32_t i = 0; i < ROWS; i++) {
        w->rows[i] = w->full[i];
        w->rows[i].kept = ga_random_uniform(random) < w->full[i].inclusion;
        w->rows[i].reward = w->rows[i].kept ? w->full[i].reward : (double)NAN;
    }
}

typedef struct figure {
    double sum, square, count;
} figure;

static void add(figure *f, double value) {
    f->sum += value;
    f->square += value * value;
    f->count++;
}

static double mean_of(const figure *f) {
    return f->sum / f->count;
}

static double variance_of(const figure *f) {
    return f->square / f->count - mean_of(f) * mean_of(f);
}

static double error_of(const figure *f) {
    return sqrt(variance_of(f) / f->count);
}

/* The exact combination: nothing in it depends on which rows are kept, or on a row's own actions. */
static ga_advantage_options unbiased(void) {
    return (ga_advantage_options){.estimator = GA_ESTIMATOR_PREDICTED,
        .weighting = GA_WEIGHT_INVERSE,
        .clip = (double)INFINITY,
        .std_kind = GA_STD_GLOBAL,
        .tau2 = (double)NAN,
        .sigma_r2 = (double)NAN,
        .fixed_sigma = 2,
        .leave_one_out = true};
}

/* The host's mean over rows whose advantage isn't 0. */
static void host_gradient(const world *w, const double *advantage, double *gradient) {
    int32_t trained = 0;
    gradient[0] = gradient[1] = 0;
    for (int32_t i = 0; i < ROWS; i++) {
        trained += advantage[i] != 0;
        gradient[0] += advantage[i] * w->score[i][0];
        gradient[1] += advantage[i] * w->score[i][1];
    }
    gradient[0] /= trained > 0 ? trained : 1;
    gradient[1] /= trained > 0 ? trained : 1;
}

/* Over many updates, in reward units. */
static void simulate(const ga_advantage_options *options, prediction kind, figure *gradient_out) {
    ga_random random =
        ga_random_make(20261124, (uint64_t)kind, GA_STREAM_TEST); /* 3 errors are for one seed */
    ga_arena *arena = ga_arena_create(0);
    static world w;
    double advantage[ROWS], gradient[2];
    for (int update = 0; update < UPDATES; update++) {
        draw_world(&random, kind, &w);
        ga_error error;
        ga_error_clear(&error);
        test_ok(ga_advantage_compute(options, w.rows, ROWS, arena, advantage, NULL, &error), &error);
        host_gradient(&w, advantage, gradient);
        add(&gradient_out[0], gradient[0] * options->fixed_sigma);
        add(&gradient_out[1], gradient[1] * options->fixed_sigma);
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

static void assert_within_three_errors(const figure *f, double truth) {
    const double errors = (mean_of(f) - truth) / error_of(f);
    printf("# %.4f, true %.4f: %+.2f standard errors of %.4f\n", mean_of(f), truth, errors, error_of(f));
    assert_true(fabs(errors) <= 3);
    assert_true(error_of(f) < 0.05); /* or it would prove nothing */
}

static void gradient_is_unbiased_for_any_prediction(void **state) {
    (void)state;
    const ga_advantage_options options = unbiased();
    for (int kind = CALIBRATED; kind <= NOISE; kind++) {
        figure gradient[2] = {{0}};
        simulate(&options, (prediction)kind, gradient);
        assert_within_three_errors(&gradient[0], C1 + 2 * C3 * THETA1);
        assert_within_three_errors(&gradient[1], C2);
    }
}

/* m̄_g holds the row's own prediction: the gradient lacks 1/G of that of the mean prediction, as the host's
 * lacks 1/G of its own. */
static void own_prediction_in_the_baseline_costs_its_share(void **state) {
    (void)state;
    ga_advantage_options options = unbiased();
    options.leave_one_out = false;
    for (int kind = CALIBRATED; kind <= NOISE; kind++) {
        figure gradient[2] = {{0}};
        simulate(&options, (prediction)kind, gradient);
        const double truth = C1 + 2 * C3 * THETA1;
        assert_within_three_errors(&gradient[0], truth - slope_of((prediction)kind) / SIZE);
        assert_within_three_errors(&gradient[1], C2);
        const bool detectable = kind != NOISE;
        assert_true(!detectable || fabs(mean_of(&gradient[0]) - truth) > 5 * error_of(&gradient[0]));
    }
}

static void other_combinations_are_biased(void **state) {
    (void)state;
    const double truth = C1 + 2 * C3 * THETA1;
    for (int which = 0; which < 3; which++) {
        ga_advantage_options options = unbiased();
        options.weighting = which == 0 ? GA_WEIGHT_ONE : options.weighting;
        options.clip = which == 1 ? 1.5 : options.clip;
        options.estimator = which == 2 ? GA_ESTIMATOR_SURVIVORS : options.estimator;
        options.leave_one_out = which != 2;
        figure gradient[2] = {{0}};
        simulate(&options, CALIBRATED, gradient);
        printf(
            "# %.4f, true %.4f, standard error %.4f\n", mean_of(&gradient[0]), truth, error_of(&gradient[0]));
        assert_true(fabs(mean_of(&gradient[0]) - truth) > 5 * error_of(&gradient[0]));
    }
}

/* Only the first action trains: it lies before the decision. */
static void prefix_credit_is_unbiased_for_any_prediction(void **state) {
    (void)state;
    ga_advantage_options plain = unbiased(), credit = unbiased();
    credit.prefix_credit = true;
    credit.weighting = GA_WEIGHT_ONE; /* makes no difference */
    for (int kind = CALIBRATED; kind <= NOISE; kind++) {
        figure gradient[2] = {{0}}, without[2] = {{0}};
        simulate(&credit, (prediction)kind, gradient);
        simulate(&plain, (prediction)kind, without);
        assert_within_three_errors(&gradient[0], C1 + 2 * C3 * THETA1);
        if (kind == CALIBRATED) {
            assert_true(variance_of(&gradient[0]) < 0.85 * variance_of(&without[0]));
        }
    }
}

static void what_the_clip_leaves_out_is_reported(void **state) {
    (void)state;
    ga_random random = ga_random_make(5, 6, GA_STREAM_TEST);
    ga_arena *arena = ga_arena_create(0);
    static world w;
    double advantage[ROWS];
    ga_advantage_options options = unbiased();
    options.clip = 2;
    figure difference = {0}, truth = {0};
    for (int update = 0; update < UPDATES; update++) {
        draw_world(&random, CALIBRATED, &w);
        ga_advantage_report report;
        test_ok(ga_advantage_compute(&options, w.rows, ROWS, arena, advantage, &report, NULL), NULL);
        double left_out = 0;
        for (int32_t i = 0; i < ROWS; i++) {
            double others = 0;
            for (int32_t j = i / SIZE * SIZE; j < (i / SIZE + 1) * SIZE; j++) {
                others += j != i ? (double)w.full[j].mean / (SIZE - 1) : 0;
            }
            const double weight = fmin(1 / w.full[i].inclusion, options.clip);
            left_out += (1 - w.full[i].inclusion * weight) * fabs(w.full[i].reward - others) / 2 / ROWS;
        }
        add(&truth, left_out);
        add(&difference, report.clip_left_out - left_out);
        assert_true(report.clip_shift == 0); /* a baseline of predictions has no weights */
        ga_arena_reset(arena);
    }
    assert_within_three_errors(&difference, 0);
    assert_true(mean_of(&truth) > 20 * error_of(&difference));
    ga_arena_destroy(&arena);
}

/* Rows of one group with rewards 1 … 4, predicted 0; the first kept with π = 1/8. */
static void clip_of_a_baseline(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[5] = {{0}};
    double advantage[5];
    for (int32_t i = 0; i < 5; i++) {
        rows[i] = (ga_outcome){.reward = i + 1, .inclusion = i == 0 ? 0.125 : 1, .index = i, .kept = i < 4};
    }
    ga_advantage_options options = unbiased();
    options.estimator = GA_ESTIMATOR_DIFFERENCE;
    options.leave_one_out = false;
    options.clip = 3;
    ga_advantage_report report;
    test_ok(ga_advantage_compute(&options, rows, 5, arena, advantage, &report, NULL), NULL);
    const double clipped = (3.0 * 1 + 2 + 3 + 4) / 6, whole = (8.0 * 1 + 2 + 3 + 4) / 11;
    assert_true(fabs(report.baseline[0] - clipped) < 1e-12);
    assert_true(fabs(report.clip_shift - (clipped - whole) / 2) < 1e-12);
    assert_true(fabs(report.clip_left_out - 5 * (clipped - 1) / 2 / 5) < 1e-12);
    assert_true(report.shrink_min == 1 && report.shrink_max == 1 && report.clipped_count == 1);
    options.weighting = GA_WEIGHT_ONE;
    test_ok(ga_advantage_compute(&options, rows, 5, arena, advantage, &report, NULL), NULL);
    assert_true(report.clip_left_out == 0 && report.clip_shift > 0);
    ga_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_is_unbiased_for_any_prediction),
        cmocka_unit_test(own_prediction_in_the_baseline_costs_its_share),
        cmocka_unit_test(other_combinations_are_biased),
        cmocka_unit_test(prefix_credit_is_unbiased_for_any_prediction),
        cmocka_unit_test(what_the_clip_leaves_out_is_reported),
        cmocka_unit_test(clip_of_a_baseline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
