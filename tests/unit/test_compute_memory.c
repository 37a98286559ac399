/* Version 2 of the table: memory of the device, jobs, scaling of channels, columns, moving average. */
#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/compute.h"

#define ROWS 2
#define CHANNELS 3
#define POSITIONS 4
#define COUNT (ROWS * CHANNELS * POSITIONS)
#define PLANES (ROWS * CHANNELS)

static void fill(ga_random *random, float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)ga_random_normal(random);
    }
}

static void assert_near(double actual, double expected, double tolerance) {
    if (!(fabs(actual - expected) <= tolerance * (1.0 + fabs(expected)))) {
        fail_msg("%.9g differs from %.9g by more than %g", actual, expected, tolerance);
    }
}

static void arrays_are_zeroed_copied_and_freed(void **state) {
    (void)state;
    const ga_compute *compute = ga_compute_native();
    const float host[5] = {1.0f, -2.0f, 3.0f, -4.0f, 5.0f};
    float back[5] = {0};
    float *memory = NULL;
    ga_error error = {0};
    test_ok(compute->allocate(7, &memory, &error), &error);
    for (int i = 0; i < 7; i++) {
        assert_true(memory[i] == 0.0f);
    }
    assert_int_equal((uintptr_t)memory % 64, 0);
    test_ok(compute->upload(5, host, memory + 2, &error), &error);
    test_ok(compute->download(5, memory + 2, back, &error), &error);
    assert_memory_equal(host, back, sizeof host);
    test_ok(compute->zero(3, memory + 2, &error), &error);
    test_ok(compute->download(5, memory + 2, back, &error), &error);
    assert_true(back[0] == 0.0f && back[2] == 0.0f && back[3] == -4.0f);
    test_ok(compute->zero(0, NULL, &error), &error);
    compute->release(memory);
    compute->release(NULL);
    test_ok(compute->allocate(0, &memory, &error), &error);
    compute->release(memory);
    float *untouched = memory;
    assert_int_equal(compute->allocate(SIZE_MAX / 2, &untouched, &error), GA_ERR_MEMORY);
    assert_ptr_equal(untouched, memory);
    assert_int_equal(compute->zero(SIZE_MAX / 2, memory, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(compute->device, GA_DEVICE_CPU);
}

typedef struct counted {
    int calls;
    ga_status answer;
} counted;

static ga_status count_call(void *user, ga_error *error) {
    counted *c = user;
    if (c->calls++ == 0) {
        return ga_compute_native()->run(count_call, user, error); /* a nested job runs directly */
    }
    return c->answer == GA_OK ? GA_OK : GA_FAIL(error, c->answer, "the job's own words");
}

static void jobs_run_and_keep_their_error(void **state) {
    (void)state;
    ga_error error = {0};
    counted well = {.answer = GA_OK}, badly = {.answer = GA_ERR_DATA};
    test_ok(ga_compute_native()->run(count_call, &well, &error), &error);
    assert_int_equal(well.calls, 2);
    assert_int_equal(ga_compute_native()->run(count_call, &badly, &error), GA_ERR_DATA);
    assert_string_equal(error.message, "the job's own words");
}

typedef struct scaling {
    float input[COUNT], scale[PLANES], weights[COUNT];
} scaling;

/* Σ weights · scaled input */
static double scaling_function(const scaling *s) {
    float values[COUNT];
    memcpy(values, s->input, sizeof values);
    test_ok(
        ga_compute_native()->channel_scale_forward(ROWS, CHANNELS, POSITIONS, s->scale, values, NULL), NULL);
    double sum = 0.0;
    for (int i = 0; i < COUNT; i++) {
        sum += (double)values[i] * (double)s->weights[i];
    }
    return sum;
}

static double difference(scaling *s, float *value) {
    const float middle = *value, step = 1.0f / 64.0f;
    *value = middle + step;
    const double above = scaling_function(s);
    *value = middle - step;
    const double below = scaling_function(s);
    *value = middle;
    return (above - below) / (2.0 * (double)step);
}

static void channel_scale_and_its_gradients(void **state) {
    (void)state;
    ga_random random = test_random(20);
    scaling s;
    fill(&random, s.input, COUNT);
    fill(&random, s.scale, PLANES);
    fill(&random, s.weights, COUNT);
    float values[COUNT], grad[COUNT], grad_scale[PLANES];
    memcpy(values, s.input, sizeof values);
    const ga_compute *compute = ga_compute_native();
    test_ok(compute->channel_scale_forward(ROWS, CHANNELS, POSITIONS, s.scale, values, NULL), NULL);
    for (int i = 0; i < COUNT; i++) {
        assert_near((double)values[i], (double)s.input[i] * (1.0 + (double)s.scale[i / POSITIONS]), 1e-6);
    }
    memcpy(grad, s.weights, sizeof grad);
    test_ok(
        compute->channel_scale_backward(ROWS, CHANNELS, POSITIONS, s.scale, s.input, grad, grad_scale, NULL),
        NULL);
    for (int i = 0; i < COUNT; i++) {
        assert_near((double)grad[i], difference(&s, &s.input[i]), 1e-3);
    }
    for (int i = 0; i < PLANES; i++) {
        assert_near((double)grad_scale[i], difference(&s, &s.scale[i]), 1e-3);
    }
    assert_int_equal(compute->channel_scale_forward(1, 0, 1, s.scale, values, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        compute->channel_scale_backward(-1, 1, 1, s.scale, s.input, grad, grad_scale, NULL), GA_ERR_ARGUMENT);
}

static void columns_are_joined_and_cut(void **state) {
    (void)state;
    const ga_compute *compute = ga_compute_native();
    const float left[6] = {1, 2, 3, 4, 5, 6}, right[3] = {7, 8, 9};
    float joined[3 * 4];
    for (int i = 0; i < 12; i++) {
        joined[i] = -1.0f;
    }
    test_ok(compute->copy_columns(3, 2, 2, left, 4, joined, NULL), NULL);
    test_ok(compute->copy_columns(3, 1, 1, right, 4, joined + 2, NULL), NULL);
    const float expected[12] = {1, 2, 7, -1, 3, 4, 8, -1, 5, 6, 9, -1};
    assert_memory_equal(joined, expected, sizeof expected);
    float cut[3 * 2];
    test_ok(compute->copy_columns(3, 2, 4, joined + 1, 2, cut, NULL), NULL);
    const float expected_cut[6] = {2, 7, 4, 8, 6, 9};
    assert_memory_equal(cut, expected_cut, sizeof expected_cut);
    test_ok(compute->copy_columns(0, 2, 2, NULL, 4, joined, NULL), NULL);
    assert_int_equal(compute->copy_columns(3, 3, 2, left, 4, joined, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(compute->copy_columns(3, 3, 3, left, 2, joined, NULL), GA_ERR_ARGUMENT);
}

static void lerp_is_the_moving_average(void **state) {
    (void)state;
    const ga_compute *compute = ga_compute_native();
    float average[2] = {0.0f, 4.0f};
    const float source[2] = {1.0f, 2.0f};
    for (int step = 1; step <= 20; step++) {
        test_ok(compute->lerp(2, 0.9f, source, average, NULL), NULL);
        assert_near((double)average[0], 1.0 - pow(0.9, step), 1e-5);
        assert_near((double)average[1], 2.0 + 2.0 * pow(0.9, step), 1e-5);
    }
    assert_int_equal(compute->lerp(-1, 0.9f, source, average, NULL), GA_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_are_zeroed_copied_and_freed),
        cmocka_unit_test(jobs_run_and_keep_their_error),
        cmocka_unit_test(channel_scale_and_its_gradients),
        cmocka_unit_test(columns_are_joined_and_cut),
        cmocka_unit_test(lerp_is_the_moving_average),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
