#include "tests/unit/support.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/compute.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/compute/tensor.h"

/* ---- half and bfloat ---- */

/* Value of a half by its definition, in double. */
static double half_by_definition(uint16_t bits) {
    const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
    const int exponent = (bits >> 10) & 0x1f;
    const int mantissa = bits & 0x3ff;
    if (exponent == 0x1f) {
        return mantissa == 0 ? sign * (double)INFINITY : (double)NAN;
    }
    return exponent == 0 ? sign * ldexp(mantissa, -24) : sign * ldexp(1024 + mantissa, exponent - 25);
}

static void half_round_trip_of_all_values(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const float value = ga_half_to_float((ga_half)bits);
        const double expected = half_by_definition((uint16_t)bits);
        if (isnan(expected)) {
            assert_true(isnan(value));
            assert_true(isnan(ga_half_to_float(ga_half_from_float(value))));
        } else {
            assert_true((double)value == expected);
            assert_int_equal(ga_half_from_float(value), bits);
        }
    }
}

static void half_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 0x7bff; bits++) {
        const double low = half_by_definition((uint16_t)bits);
        const double high = half_by_definition((uint16_t)(bits + 1));
        const float middle = (float)((low + high) / 2);
        assert_int_equal(ga_half_from_float(middle), (bits & 1u) == 0 ? bits : bits + 1);
        assert_int_equal(ga_half_from_float(nextafterf(middle, 0.0f)), bits);
        assert_int_equal(ga_half_from_float(nextafterf(middle, INFINITY)), bits + 1);
    }
    assert_int_equal(ga_half_from_float(65519.0f), 0x7bff);
    assert_int_equal(ga_half_from_float(65520.0f), 0x7c00);
    assert_int_equal(ga_half_from_float(-INFINITY), 0xfc00);
    assert_int_equal(ga_half_from_float(1e-30f), 0);
}

static void bfloat_round_trip_of_all_values(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const float value = ga_bfloat_to_float((uint16_t)bits);
        if (isnan(value)) {
            assert_true(isnan(ga_bfloat_to_float(ga_bfloat_from_float(value))));
        } else {
            assert_int_equal(ga_bfloat_from_float(value), bits);
        }
    }
    assert_int_equal(ga_bfloat_from_float(1.00390625f), 0x3f80); /* halfway between 1 and the next: even */
    assert_int_equal(ga_bfloat_from_float(1.01171875f), 0x3f82);
}

/* ---- tensors ---- */

#define STORE_COUNT 240

/* A small integer at every place of the store, so that all dtypes hold it exactly. */
static double value_at(int64_t place) {
    return (double)(place % 200) - 100.0;
}

static void fill_store(void *store, ga_dtype dtype) {
    for (int64_t i = 0; i < STORE_COUNT; i++) {
        switch (dtype) {
        case GA_F32: ((float *)store)[i] = (float)value_at(i); break;
        case GA_F16: ((uint16_t *)store)[i] = ga_half_from_float((float)value_at(i)); break;
        case GA_BF16: ((uint16_t *)store)[i] = ga_bfloat_from_float((float)value_at(i)); break;
        default: ((double *)store)[i] = value_at(i); break;
        }
    }
}

typedef struct view_case {
    int32_t dims;
    int64_t shape[4], strides[4];
    int64_t first;
} view_case;

/* Contiguous, transposed, every second, reversed, broadcast, no dimension, size-one dimensions, empty. */
static const view_case view_cases[] = {
    {3, {4, 5, 6}, {30, 6, 1}, 0},
    {3, {6, 5, 4}, {1, 6, 30}, 0},
    {3, {2, 3, 3}, {60, 12, 2}, 7},
    {2, {5, 6}, {-6, -1}, 29},
    {3, {4, 3, 2}, {2, 0, 1}, 3},
    {0, {0}, {0}, 17},
    {4, {1, 7, 1, 3}, {999, 3, -5, 1}, 2},
    {1, {9}, {26}, 0},
    {3, {3, 0, 2}, {1, 1, 1}, 0},
};

static ga_tensor view_of(const view_case *view, void *store, ga_dtype dtype) {
    ga_tensor tensor = ga_tensor_make(store, dtype, view->dims, view->shape);
    memcpy(tensor.strides, view->strides, (size_t)view->dims * sizeof view->strides[0]);
    tensor.data = (char *)store + view->first * (int64_t)ga_dtype_bytes((int32_t)dtype);
    return tensor;
}

static void check_gathered(const view_case *view, const float *gathered, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = i;
        int64_t place = view->first;
        for (int32_t dim = view->dims - 1; dim >= 0; dim--) {
            place += rest % view->shape[dim] * view->strides[dim];
            rest /= view->shape[dim];
        }
        assert_true((double)gathered[i] == value_at(place));
    }
}

static void tensor_to_float_gathers_every_dtype_and_stride(void **state) {
    (void)state;
    const ga_dtype dtypes[] = {GA_F32, GA_F16, GA_BF16, GA_F64};
    double store[STORE_COUNT];
    float gathered[STORE_COUNT];
    for (size_t d = 0; d < 4; d++) {
        fill_store(store, dtypes[d]);
        for (size_t v = 0; v < sizeof view_cases / sizeof view_cases[0]; v++) {
            const ga_tensor tensor = view_of(&view_cases[v], store, dtypes[d]);
            ga_error error = {0};
            test_ok(ga_tensor_to_float(&tensor, gathered, &error), &error);
            check_gathered(&view_cases[v], gathered, ga_tensor_count(&tensor));
        }
    }
}

static void tensor_knows_contiguous_reach_and_bounds(void **state) {
    (void)state;
    float store[STORE_COUNT] = {0};
    ga_error error = {0};
    int64_t lowest, highest;
    const ga_tensor whole = view_of(&view_cases[0], store, GA_F32);
    assert_true(ga_tensor_is_contiguous(&whole));
    test_ok(ga_tensor_check_bounds(&whole, 120 * sizeof(float), "whole", &error), &error);
    assert_int_equal(ga_tensor_check_bounds(&whole, 120 * sizeof(float) - 1, "whole", NULL), GA_ERR_ARGUMENT);
    const ga_tensor reversed = view_of(&view_cases[3], store, GA_F32);
    assert_false(ga_tensor_is_contiguous(&reversed));
    test_ok(ga_tensor_reach(&reversed, &lowest, &highest, &error), &error);
    assert_int_equal(lowest, -29);
    assert_int_equal(highest, 0);
    assert_int_equal(ga_tensor_check_bounds(&reversed, sizeof store, "reversed", &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "reversed"));
    const ga_tensor ones = view_of(&view_cases[6], store, GA_F32);
    assert_true(ga_tensor_is_contiguous(&ones));
    const ga_tensor empty = view_of(&view_cases[8], store, GA_F32);
    assert_true(ga_tensor_is_contiguous(&empty));
    test_ok(ga_tensor_reach(&empty, &lowest, &highest, NULL), NULL);
    assert_int_equal(highest, -1);
}

static void tensor_select_drops_a_dimension(void **state) {
    (void)state;
    float store[STORE_COUNT];
    fill_store(store, GA_F32);
    ga_tensor view = view_of(&view_cases[0], store, GA_F32);
    ga_error error = {0};
    float gathered[24];
    test_ok(ga_tensor_select(&view, 1, 3, &view, &error), &error);
    test_ok(ga_tensor_to_float(&view, gathered, &error), &error);
    const view_case expected = {2, {4, 6}, {30, 1}, 18};
    check_gathered(&expected, gathered, 24);
    assert_int_equal(ga_tensor_select(&view, 2, 0, &view, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_tensor_select(&view, 0, 4, &view, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_tensor_select(&view, -1, 0, &view, NULL), GA_ERR_ARGUMENT);
}

static void bad_tensors_are_refused(void **state) {
    (void)state;
    float store[4] = {0};
    float out[4] = {7.0f, 7.0f, 7.0f, 7.0f};
    const int64_t shape[2] = {2, 2};
    const ga_tensor good = ga_tensor_make(store, GA_F32, 2, shape);
    ga_tensor bad[8];
    for (size_t i = 0; i < 8; i++) {
        bad[i] = good;
    }
    bad[0].dims = 7;
    bad[1].dims = -1;
    bad[2].dtype = 99;
    bad[3].dtype = GA_I64;
    bad[4].device = GA_DEVICE_CUDA;
    bad[5].shape[0] = -2;
    bad[6].shape[0] = INT64_MAX;
    bad[7].strides[0] = INT64_MAX / 2;
    for (size_t i = 0; i < 8; i++) {
        ga_error error = {0};
        assert_int_equal(ga_tensor_to_float(&bad[i], out, &error), GA_ERR_ARGUMENT);
        assert_true(error.message[0] != '\0');
        assert_true(out[0] == 7.0f);
    }
    ga_tensor no_data = good;
    no_data.data = NULL;
    assert_int_equal(ga_tensor_to_float(&no_data, out, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_tensor_check(NULL, "nothing", NULL), GA_ERR_ARGUMENT);
    const int64_t huge[3] = {INT64_MAX, INT64_MAX, 2};
    assert_int_equal(ga_tensor_make(store, GA_F32, 3, huge).dims, -1);
    assert_int_equal(ga_tensor_make(store, GA_F32, 9, huge).dims, -1);
}

/* ---- kernels ---- */

static float *random_floats(ga_random *random, size_t count) {
    float *values = malloc((count > 0 ? count : 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)ga_random_normal(random);
    }
    return values;
}

static double dot(const float *a, const float *b, size_t count) {
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

static void assert_near(double actual, double expected, double tolerance) {
    if (!(fabs(actual - expected) <= tolerance * (1.0 + fabs(expected)))) {
        fail_msg("%.9g differs from %.9g by more than %g", actual, expected, tolerance);
    }
}

static void check_gemm_case(const ga_gemm *gemm, ga_random *random) {
    const size_t a_floats = (size_t)(gemm->transpose_a ? gemm->k : gemm->m) * (size_t)gemm->lda;
    const size_t b_floats = (size_t)(gemm->transpose_b ? gemm->n : gemm->k) * (size_t)gemm->ldb;
    const size_t c_floats = (size_t)gemm->m * (size_t)gemm->ldc;
    float *a = random_floats(random, a_floats);
    float *b = random_floats(random, b_floats);
    float *c = random_floats(random, c_floats);
    float *before = malloc((c_floats + 1) * sizeof *before);
    memcpy(before, c, c_floats * sizeof *c);
    for (size_t i = 0; i < c_floats && gemm->beta == 0.0f; i++) {
        c[i] = (int32_t)(i % (size_t)gemm->ldc) < gemm->n ? NAN : c[i];
    }
    ga_error error = {0};
    test_ok(ga_compute_native()->sgemm(gemm, a, b, c, &error), &error);
    for (int32_t i = 0; i < gemm->m; i++) {
        for (int32_t j = 0; j < gemm->ldc; j++) {
            const size_t at = (size_t)i * (size_t)gemm->ldc + (size_t)j;
            if (j >= gemm->n) {
                assert_true(c[at] == before[at]); /* what lies between the rows is not ours */
                continue;
            }
            double sum = 0.0;
            for (int32_t k = 0; k < gemm->k; k++) {
                sum += (double)a[gemm->transpose_a ? k * gemm->lda + i : i * gemm->lda + k] *
                       (double)b[gemm->transpose_b ? j * gemm->ldb + k : k * gemm->ldb + j];
            }
            assert_near((double)c[at],
                (double)gemm->alpha * sum +
                    (gemm->beta == 0.0f ? 0.0 : (double)gemm->beta * (double)before[at]),
                1e-4);
        }
    }
    free(a);
    free(b);
    free(c);
    free(before);
}

static void sgemm_equals_a_triple_loop(void **state) {
    (void)state;
    ga_random random = test_random(1);
    for (int flags = 0; flags < 4; flags++) {
        for (int round = 0; round < 12; round++) {
            ga_gemm gemm = {.transpose_a = (flags & 1) != 0, .transpose_b = (flags & 2) != 0};
            gemm.m = (int32_t)ga_random_below(&random, 40);
            gemm.n = (int32_t)ga_random_below(&random, 40);
            gemm.k = (int32_t)ga_random_below(&random, 70);
            gemm.lda = 1 + (gemm.transpose_a ? gemm.m : gemm.k) + (int32_t)ga_random_below(&random, 3);
            gemm.ldb = 1 + (gemm.transpose_b ? gemm.k : gemm.n) + (int32_t)ga_random_below(&random, 3);
            gemm.ldc = 1 + gemm.n + (int32_t)ga_random_below(&random, 3);
            gemm.alpha = 0.7f;
            gemm.beta = round % 2 == 0 ? 0.0f : 0.5f;
            check_gemm_case(&gemm, &random);
        }
    }
    ga_gemm no_depth = {.m = 3, .n = 4, .k = 0, .lda = 1, .ldb = 4, .ldc = 5, .alpha = 1.0f};
    check_gemm_case(&no_depth, &random);
    no_depth.ldc = 3;
    assert_int_equal(ga_compute_native()->sgemm(&no_depth, NULL, NULL, NULL, NULL), GA_ERR_ARGUMENT);
}

/* Convolution by its definition. */
static void conv_by_definition(
    const ga_conv *conv, const float *input, const float *weight, const float *bias, double *output) {
    const int32_t out_h = (conv->height + conv->stride - 1) / conv->stride;
    const int32_t out_w = (conv->width + conv->stride - 1) / conv->stride;
    const int32_t pad = conv->kernel / 2;
    for (int32_t index = 0; index < conv->rows * conv->out_channels * out_h * out_w; index++) {
        const int32_t x = index % out_w, y = index / out_w % out_h;
        const int32_t channel = index / (out_w * out_h) % conv->out_channels;
        const int32_t row = index / (out_w * out_h * conv->out_channels);
        double sum = bias == NULL ? 0.0 : (double)bias[channel];
        for (int32_t in = 0; in < conv->in_channels; in++) {
            for (int32_t tap = 0; tap < conv->kernel * conv->kernel; tap++) {
                const int32_t sy = y * conv->stride + tap / conv->kernel - pad;
                const int32_t sx = x * conv->stride + tap % conv->kernel - pad;
                if (sy >= 0 && sy < conv->height && sx >= 0 && sx < conv->width) {
                    sum +=
                        (double)
                            input[((row * conv->in_channels + in) * conv->height + sy) * conv->width + sx] *
                        (double)
                            weight[(channel * conv->in_channels + in) * conv->kernel * conv->kernel + tap];
                }
            }
        }
        output[index] = sum;
    }
}

/* Convolution is linear in input and in weight, so <grad, conv(input + d)> − <grad, conv(input)> =
 * <grad_input, d> holds exactly for every direction d: no step size to choose. */
static void check_conv_case(const ga_conv *conv, ga_random *random) {
    const ga_compute *compute = ga_compute_native();
    const size_t in_floats = (size_t)(conv->rows * conv->in_channels * conv->height * conv->width);
    const size_t weights = (size_t)(conv->out_channels * conv->in_channels * conv->kernel * conv->kernel);
    const int32_t out_h = (conv->height + conv->stride - 1) / conv->stride;
    const int32_t out_w = (conv->width + conv->stride - 1) / conv->stride;
    const size_t out_floats = (size_t)(conv->rows * conv->out_channels * out_h * out_w);
    float *input = random_floats(random, in_floats), *weight = random_floats(random, weights);
    float *bias = random_floats(random, (size_t)conv->out_channels);
    float *output = random_floats(random, out_floats), *grad = random_floats(random, out_floats);
    float *grad_input = random_floats(random, in_floats);
    float *grad_weight = calloc(weights, sizeof(float));
    float *grad_bias = calloc((size_t)conv->out_channels, sizeof(float));
    float *workspace = malloc(compute->conv_workspace_floats(conv) * sizeof(float));
    double *expected = malloc(out_floats * sizeof(double));
    ga_error error = {0};
    test_ok(compute->conv_forward(conv, input, weight, bias, workspace, output, &error), &error);
    conv_by_definition(conv, input, weight, bias, expected);
    for (size_t i = 0; i < out_floats; i++) {
        assert_near((double)output[i], expected[i], 1e-4);
    }
    test_ok(compute->conv_backward(
                conv, input, weight, grad, workspace, grad_weight, grad_bias, grad_input, &error),
        &error);
    float *direction = random_floats(random, in_floats > weights ? in_floats : weights);
    test_ok(compute->conv_forward(conv, direction, weight, NULL, workspace, output, &error), &error);
    assert_near(dot(grad_input, direction, in_floats), dot(grad, output, out_floats), 1e-3);
    test_ok(compute->conv_forward(conv, input, direction, NULL, workspace, output, &error), &error);
    assert_near(dot(grad_weight, direction, weights), dot(grad, output, out_floats), 1e-3);
    for (int32_t channel = 0; channel < conv->out_channels; channel++) {
        double sum = 0.0;
        for (size_t i = 0; i < out_floats; i++) {
            sum += (int32_t)(i / (size_t)(out_h * out_w)) % conv->out_channels == channel ? (double)grad[i]
                                                                                          : 0.0;
        }
        assert_near((double)grad_bias[channel], sum, 1e-4);
    }
    float *owned[] = {
        input, weight, bias, output, grad, grad_input, grad_weight, grad_bias, workspace, direction};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) {
        free(owned[i]);
    }
    free(expected);
}

static void convolution_and_its_gradients(void **state) {
    (void)state;
    ga_random random = test_random(2);
    const ga_conv cases[] = {
        {.rows = 2, .in_channels = 3, .out_channels = 4, .height = 8, .width = 8, .kernel = 3, .stride = 1},
        {.rows = 2, .in_channels = 3, .out_channels = 2, .height = 8, .width = 6, .kernel = 3, .stride = 2},
        {.rows = 3, .in_channels = 2, .out_channels = 5, .height = 5, .width = 7, .kernel = 3, .stride = 2},
        {.rows = 1, .in_channels = 4, .out_channels = 3, .height = 5, .width = 4, .kernel = 1, .stride = 2},
        {.rows = 2, .in_channels = 4, .out_channels = 3, .height = 3, .width = 4, .kernel = 1, .stride = 1},
        {.rows = 2, .in_channels = 2, .out_channels = 2, .height = 1, .width = 1, .kernel = 3, .stride = 2},
        {.rows = 2, .in_channels = 1, .out_channels = 1, .height = 1, .width = 2, .kernel = 3, .stride = 1},
        /* more rows than one chunk of columns holds */
        {.rows = 37,
            .in_channels = 16,
            .out_channels = 3,
            .height = 16,
            .width = 16,
            .kernel = 3,
            .stride = 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_conv_case(&cases[i], &random);
    }
    ga_conv bad = cases[0];
    bad.kernel = 5;
    ga_error error = {0};
    assert_int_equal(ga_compute_native()->conv_workspace_floats(&bad), 0);
    assert_int_equal(
        ga_compute_native()->conv_forward(&bad, NULL, NULL, NULL, NULL, NULL, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "kernel 5"));
    bad = cases[0];
    bad.in_channels = INT32_MAX;
    assert_int_equal(ga_compute_native()->conv_backward(&bad, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        GA_ERR_ARGUMENT);
}

/* A function of one array whose gradient is asked for: Σ weights · outputs. */
typedef double (*scalar_function)(void *user);

/* Central differences of `function` in every value of `values`, against `gradient`. */
static void check_gradient(scalar_function function, void *user, float *values, const float *gradient,
    size_t count, double tolerance) {
    for (size_t i = 0; i < count; i++) {
        const float middle = values[i];
        const float step = 1e-2f;
        values[i] = middle + step;
        const double above = function(user);
        values[i] = middle - step;
        const double below = function(user);
        values[i] = middle;
        assert_near((double)gradient[i], (above - below) / (2.0 * (double)step), tolerance);
    }
}

typedef struct norm_case {
    ga_group_norm norm;
    float *input, *scale, *shift, *grad, *output, *mean, *rstd;
    size_t count;
} norm_case;

static double norm_function(void *user) {
    norm_case *c = user;
    test_ok(ga_compute_native()->group_norm_forward(
                &c->norm, c->input, c->scale, c->shift, c->output, c->mean, c->rstd, NULL),
        NULL);
    return dot(c->grad, c->output, c->count);
}

static void group_norm_normalises_and_its_gradients(void **state) {
    (void)state;
    ga_random random = test_random(3);
    norm_case c = {
        .norm = {.rows = 3, .channels = 6, .groups = 2, .positions = 5, .epsilon = 1e-5f}, .count = 90};
    c.input = random_floats(&random, 90);
    c.scale = random_floats(&random, 6);
    c.shift = random_floats(&random, 6);
    c.grad = random_floats(&random, 90);
    c.output = random_floats(&random, 90);
    c.mean = random_floats(&random, 6);
    c.rstd = random_floats(&random, 6);
    float grad_scale[6] = {0}, grad_shift[6] = {0}, grad_input[90];
    (void)norm_function(&c);
    double sum = 0.0, squares = 0.0;
    for (int i = 15; i < 30; i++) { /* row 0, group 1 */
        const double normal = ((double)c.output[i] - (double)c.shift[i / 5]) / (double)c.scale[i / 5];
        sum += normal;
        squares += normal * normal;
    }
    assert_near(sum, 0.0, 1e-4);
    assert_near(squares / 15.0, 1.0, 1e-3);
    test_ok(ga_compute_native()->group_norm_backward(
                &c.norm, c.input, c.scale, c.mean, c.rstd, c.grad, grad_scale, grad_shift, grad_input, NULL),
        NULL);
    check_gradient(norm_function, &c, c.input, grad_input, 90, 2e-3);
    check_gradient(norm_function, &c, c.scale, grad_scale, 6, 1e-3);
    check_gradient(norm_function, &c, c.shift, grad_shift, 6, 1e-3);
    c.norm.groups = 4;
    assert_int_equal(ga_compute_native()->group_norm_forward(
                         &c.norm, c.input, c.scale, c.shift, c.output, c.mean, c.rstd, NULL),
        GA_ERR_ARGUMENT);
    float *owned[] = {c.input, c.scale, c.shift, c.grad, c.output, c.mean, c.rstd};
    for (size_t i = 0; i < 7; i++) {
        free(owned[i]);
    }
}

static void constant_group_stays_finite(void **state) {
    (void)state;
    const ga_group_norm norm = {.rows = 1, .channels = 2, .groups = 1, .positions = 3, .epsilon = 1e-5f};
    const float input[6] = {4.0f, 4.0f, 4.0f, 4.0f, 4.0f, 4.0f};
    const float scale[2] = {1.0f, 1.0f}, shift[2] = {0.5f, -0.5f};
    float output[6], mean[1], rstd[1], grad_scale[2] = {0}, grad_shift[2] = {0}, grad_input[6];
    test_ok(
        ga_compute_native()->group_norm_forward(&norm, input, scale, shift, output, mean, rstd, NULL), NULL);
    test_ok(ga_compute_native()->group_norm_backward(
                &norm, input, scale, mean, rstd, input, grad_scale, grad_shift, grad_input, NULL),
        NULL);
    for (int i = 0; i < 6; i++) {
        assert_true(output[i] == shift[i / 3]);
        assert_true(isfinite(grad_input[i]));
    }
}

typedef struct silu_case {
    float input[41], grad[41], output[41];
} silu_case;

static double silu_function(void *user) {
    silu_case *c = user;
    test_ok(ga_compute_native()->silu_forward(41, c->input, c->output, NULL), NULL);
    return dot(c->grad, c->output, 41);
}

static void silu_and_its_gradient(void **state) {
    (void)state;
    silu_case c;
    ga_random random = test_random(4);
    for (int i = 0; i < 41; i++) {
        c.input[i] = (float)(i - 20) * 0.35f;
        c.grad[i] = (float)ga_random_normal(&random);
    }
    float grad_input[41];
    test_ok(ga_compute_native()->silu_backward(41, c.input, c.grad, grad_input, NULL), NULL);
    check_gradient(silu_function, &c, c.input, grad_input, 41, 1e-3);
    float ends[3] = {-200.0f, 0.0f, 200.0f};
    test_ok(ga_compute_native()->silu_forward(3, ends, ends, NULL), NULL);
    assert_true(ends[0] == 0.0f && ends[1] == 0.0f && ends[2] == 200.0f);
    assert_int_equal(ga_compute_native()->silu_forward(-1, ends, ends, NULL), GA_ERR_ARGUMENT);
}

typedef struct linear_case {
    float input[4 * 5], weight[3 * 5], bias[3], grad[4 * 3], output[4 * 3];
} linear_case;

static double linear_function(void *user) {
    linear_case *c = user;
    test_ok(
        ga_compute_native()->linear_forward(4, 5, 3, c->input, c->weight, c->bias, c->output, NULL), NULL);
    return dot(c->grad, c->output, 12);
}

static void linear_and_its_gradients(void **state) {
    (void)state;
    linear_case c;
    ga_random random = test_random(5);
    for (size_t i = 0; i < sizeof c / sizeof(float); i++) {
        ((float *)&c)[i] = (float)ga_random_normal(&random);
    }
    (void)linear_function(&c);
    double expected = (double)c.bias[2];
    for (int i = 0; i < 5; i++) {
        expected += (double)c.input[5 + i] * (double)c.weight[10 + i];
    }
    assert_near((double)c.output[3 + 2], expected, 1e-5);
    float grad_weight[15] = {0}, grad_bias[3] = {0}, grad_input[20];
    test_ok(ga_compute_native()->linear_backward(
                4, 5, 3, c.input, c.weight, c.grad, grad_weight, grad_bias, grad_input, NULL),
        NULL);
    check_gradient(linear_function, &c, c.input, grad_input, 20, 1e-3);
    check_gradient(linear_function, &c, c.weight, grad_weight, 15, 1e-3);
    check_gradient(linear_function, &c, c.bias, grad_bias, 3, 1e-3);
    test_ok(ga_compute_native()->linear_forward(4, 5, 3, c.input, c.weight, NULL, c.output, NULL), NULL);
    assert_near((double)c.output[5], expected - (double)c.bias[2], 1e-5);
    assert_int_equal(ga_compute_native()->linear_forward(4, 0, 3, c.input, c.weight, NULL, c.output, NULL),
        GA_ERR_ARGUMENT);
}

static void pool_shift_and_accumulate(void **state) {
    (void)state;
    const ga_compute *compute = ga_compute_native();
    float maps[2 * 3 * 4], pooled[6], spread[24];
    for (int i = 0; i < 24; i++) {
        maps[i] = (float)(i * i);
    }
    test_ok(compute->mean_pool_forward(2, 3, 4, maps, pooled, NULL), NULL);
    for (int plane = 0; plane < 6; plane++) {
        const float *values = maps + 4 * plane;
        assert_near(
            (double)pooled[plane], (double)(values[0] + values[1] + values[2] + values[3]) / 4.0, 1e-6);
    }
    test_ok(compute->mean_pool_backward(2, 3, 4, pooled, spread, NULL), NULL);
    assert_near(dot(spread, maps, 24), dot(pooled, pooled, 6), 1e-6); /* the adjoint of the mean */
    test_ok(compute->channel_shift_forward(2, 3, 4, pooled, spread, NULL), NULL);
    assert_near((double)spread[23], (double)pooled[5] * 1.25, 1e-6);
    float sums[6];
    test_ok(compute->channel_shift_backward(2, 3, 4, maps, sums, NULL), NULL);
    assert_near((double)sums[4], (double)pooled[4] * 4.0, 1e-6);
    test_ok(compute->accumulate(6, -4.0f, pooled, sums, NULL), NULL);
    assert_near((double)sums[4], 0.0, 1e-3);
    assert_int_equal(compute->mean_pool_forward(1, 1, 0, maps, pooled, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(compute->channel_shift_forward(1, 0, 1, pooled, maps, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(compute->accumulate(-1, 1.0f, pooled, sums, NULL), GA_ERR_ARGUMENT);
}

/* Algorithm 2 of Loshchilov and Hutter, in double, as written there (with PyTorch's place of epsilon). */
static void adamw_equals_a_literal_reference(void **state) {
    (void)state;
    ga_random random = test_random(6);
    float *parameter = random_floats(&random, 7);
    float first[7] = {0}, second[7] = {0};
    double p[7], m[7] = {0}, v[7] = {0};
    for (int i = 0; i < 7; i++) {
        p[i] = (double)parameter[i];
    }
    ga_adamw adamw = {
        .learning_rate = 3e-2f, .beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-6f, .weight_decay = 0.1f};
    for (adamw.step = 1; adamw.step <= 30; adamw.step++) {
        float *gradient = random_floats(&random, 7);
        test_ok(ga_compute_native()->adamw(&adamw, 7, gradient, parameter, first, second, NULL), NULL);
        for (int i = 0; i < 7; i++) {
            const double g = (double)gradient[i];
            p[i] -= 0.03 * 0.1 * p[i];
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.99 * v[i] + 0.01 * g * g;
            const double m_hat = m[i] / (1.0 - pow(0.9, (double)adamw.step));
            const double v_hat = v[i] / (1.0 - pow(0.99, (double)adamw.step));
            p[i] -= 0.03 * m_hat / (sqrt(v_hat) + 1e-6);
            assert_near((double)parameter[i], p[i], 2e-5);
        }
        free(gradient);
    }
    adamw.step = 0;
    assert_int_equal(
        ga_compute_native()->adamw(&adamw, 7, first, parameter, first, second, NULL), GA_ERR_ARGUMENT);
    free(parameter);
}

static void no_rows_is_no_work(void **state) {
    (void)state;
    const ga_compute *compute = ga_compute_native();
    float untouched = 3.0f;
    const ga_conv conv = {
        .in_channels = 2, .out_channels = 2, .height = 4, .width = 4, .kernel = 3, .stride = 1};
    float *workspace = malloc(compute->conv_workspace_floats(&conv) * sizeof(float));
    test_ok(compute->conv_forward(&conv, NULL, NULL, NULL, workspace, &untouched, NULL), NULL);
    test_ok(compute->linear_forward(0, 2, 2, NULL, &untouched, NULL, &untouched, NULL), NULL);
    test_ok(compute->mean_pool_forward(0, 2, 2, NULL, &untouched, NULL), NULL);
    assert_true(untouched == 3.0f);
    assert_int_equal(compute->version, GA_COMPUTE_VERSION);
    free(workspace);
}

/* Nobody shares this process's OpenBLAS: then it is ours to set. */
static void blas_of_our_own_uses_one_thread(void **state) {
    (void)state;
    (void)ga_compute_native();
    void *address = dlsym(RTLD_DEFAULT, "openblas_get_num_threads");
    int (*count)(void) = NULL;
    if (address == NULL) {
        skip(); /* linked statically: not to be seen from here */
    }
    memcpy(&count, &address, sizeof count);
    assert_int_equal(count(), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_round_trip_of_all_values),
        cmocka_unit_test(half_rounds_to_nearest_even),
        cmocka_unit_test(bfloat_round_trip_of_all_values),
        cmocka_unit_test(tensor_to_float_gathers_every_dtype_and_stride),
        cmocka_unit_test(tensor_knows_contiguous_reach_and_bounds),
        cmocka_unit_test(tensor_select_drops_a_dimension),
        cmocka_unit_test(bad_tensors_are_refused),
        cmocka_unit_test(sgemm_equals_a_triple_loop),
        cmocka_unit_test(convolution_and_its_gradients),
        cmocka_unit_test(group_norm_normalises_and_its_gradients),
        cmocka_unit_test(constant_group_stays_finite),
        cmocka_unit_test(silu_and_its_gradient),
        cmocka_unit_test(linear_and_its_gradients),
        cmocka_unit_test(pool_shift_and_accumulate),
        cmocka_unit_test(adamw_equals_a_literal_reference),
        cmocka_unit_test(no_rows_is_no_work),
        cmocka_unit_test(blas_of_our_own_uses_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
