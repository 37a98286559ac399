/* The provider `native`: checks shapes, then plain loops and OpenBLAS on the CPU. */
#include <string.h>

#include "grpo_accel/compute/blas.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/compute/native_kernels.h"
#include "grpo_accel/compute/native_memory.h"
#include "grpo_accel/compute/shape.h"

/* Floats of columns that one product is made over: 1 MiB stays in the second-level cache. */
#define COLUMN_FLOATS_WANTED ((int64_t)262144)

/* C *= beta where there is nothing to multiply; BLAS libraries differ in what they do for k = 0. */
static void scale_only(const ga_gemm *gemm, float *c) {
    for (int32_t row = 0; row < gemm->m; row++) {
        float *line = c + (ptrdiff_t)row * gemm->ldc;
        for (int32_t column = 0; column < gemm->n; column++) {
            line[column] = gemm->beta == 0.0f ? 0.0f : line[column] * gemm->beta;
        }
    }
}

static ga_status native_sgemm(
    const ga_gemm *gemm, const float *a, const float *b, float *c, ga_error *error) {
    GA_TRY(ga_shape_check_gemm(gemm, error));
    if (gemm->m == 0 || gemm->n == 0) {
        return GA_OK;
    }
    if (gemm->k == 0) {
        scale_only(gemm, c);
        return GA_OK;
    }
    ga_blas_multiply(gemm, a, b, c);
    return GA_OK;
}

static int64_t conv_positions(const ga_conv *conv) {
    return (int64_t)ga_shape_conv_out_height(conv) * ga_shape_conv_out_width(conv);
}

static int64_t conv_taps(const ga_conv *conv) {
    return (int64_t)conv->in_channels * conv->kernel * conv->kernel;
}

/* Rows that one product takes together. */
static int32_t conv_chunk_rows(const ga_conv *conv) {
    const int64_t wanted = COLUMN_FLOATS_WANTED / (conv_taps(conv) * conv_positions(conv));
    const int64_t rows = wanted < conv->rows ? wanted : conv->rows;
    return rows < 1 ? 1 : (int32_t)rows;
}

static size_t native_conv_workspace_floats(const ga_conv *conv) {
    if (!ga_shape_conv_is_possible(conv)) {
        return 0;
    }
    return (size_t)(conv_chunk_rows(conv) * conv_positions(conv) * (conv_taps(conv) + conv->out_channels));
}

/* The part of a convolution that one product takes: `conv` with fewer rows, and where its rows begin. */
typedef struct conv_chunk {
    ga_conv conv;
    int32_t positions, taps, columns;
    size_t input_at, output_at;
} conv_chunk;

static conv_chunk chunk_at(const ga_conv *conv, int32_t first_row, int32_t rows) {
    conv_chunk chunk = {.conv = *conv};
    chunk.conv.rows = rows < conv->rows - first_row ? rows : conv->rows - first_row;
    chunk.positions = (int32_t)conv_positions(conv);
    chunk.taps = (int32_t)conv_taps(conv);
    chunk.columns = chunk.conv.rows * chunk.positions;
    const size_t plane = (size_t)conv->height * (size_t)conv->width;
    chunk.input_at = (size_t)first_row * (size_t)conv->in_channels * plane;
    chunk.output_at = (size_t)first_row * (size_t)conv->out_channels * (size_t)chunk.positions;
    return chunk;
}

static ga_status native_conv_forward(const ga_conv *conv, const float *input, const float *weight,
    const float *bias, float *workspace, float *output, ga_error *error) {
    GA_TRY(ga_shape_check_conv(conv, error));
    const int32_t chunk_rows = conv_chunk_rows(conv);
    for (int32_t row = 0; row < conv->rows; row += chunk_rows) {
        const conv_chunk chunk = chunk_at(conv, row, chunk_rows);
        float *columns = workspace;
        float *planes = workspace + (size_t)chunk.taps * (size_t)chunk.columns;
        ga_kernel_im2col(&chunk.conv, input + chunk.input_at, columns);
        const ga_gemm gemm = {.m = conv->out_channels,
            .n = chunk.columns,
            .k = chunk.taps,
            .lda = chunk.taps,
            .ldb = chunk.columns,
            .ldc = chunk.columns,
            .alpha = 1.0f};
        ga_blas_multiply(&gemm, weight, columns, planes);
        ga_kernel_planes_to_maps(
            chunk.conv.rows, conv->out_channels, chunk.positions, planes, bias, output + chunk.output_at);
    }
    return GA_OK;
}

/* grad_weight[out, taps] += grad_planes[out, columns] · columns[taps, columns]ᵀ */
static void conv_grad_weight(
    const conv_chunk *chunk, const float *columns, const float *grad_planes, float *grad_weight) {
    const ga_gemm gemm = {.transpose_b = true,
        .m = chunk->conv.out_channels,
        .n = chunk->taps,
        .k = chunk->columns,
        .lda = chunk->columns,
        .ldb = chunk->columns,
        .ldc = chunk->taps,
        .alpha = 1.0f,
        .beta = 1.0f};
    ga_blas_multiply(&gemm, grad_planes, columns, grad_weight);
}

/* columns[taps, columns] = weight[out, taps]ᵀ · grad_planes[out, columns], then back to the input. */
static void conv_grad_input(const conv_chunk *chunk, const float *weight, const float *grad_planes,
    float *columns, float *grad_input) {
    const ga_gemm gemm = {.transpose_a = true,
        .m = chunk->taps,
        .n = chunk->columns,
        .k = chunk->conv.out_channels,
        .lda = chunk->taps,
        .ldb = chunk->columns,
        .ldc = chunk->columns,
        .alpha = 1.0f};
    ga_blas_multiply(&gemm, weight, grad_planes, columns);
    ga_kernel_col2im(&chunk->conv, columns, grad_input);
}

static ga_status native_conv_backward(const ga_conv *conv, const float *input, const float *weight,
    const float *grad_output, float *workspace, float *grad_weight, float *grad_bias, float *grad_input,
    ga_error *error) {
    GA_TRY(ga_shape_check_conv(conv, error));
    const int32_t chunk_rows = conv_chunk_rows(conv);
    for (int32_t row = 0; row < conv->rows; row += chunk_rows) {
        const conv_chunk chunk = chunk_at(conv, row, chunk_rows);
        float *columns = workspace;
        float *planes = workspace + (size_t)chunk.taps * (size_t)chunk.columns;
        ga_kernel_maps_to_planes(
            chunk.conv.rows, conv->out_channels, chunk.positions, grad_output + chunk.output_at, planes);
        if (grad_bias != NULL) {
            ga_kernel_add_row_sums(conv->out_channels, chunk.columns, planes, grad_bias);
        }
        if (grad_weight != NULL) {
            ga_kernel_im2col(&chunk.conv, input + chunk.input_at, columns);
            conv_grad_weight(&chunk, columns, planes, grad_weight);
        }
        if (grad_input != NULL) {
            conv_grad_input(&chunk, weight, planes, columns, grad_input + chunk.input_at);
        }
    }
    return GA_OK;
}

static ga_status native_group_norm_forward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *shift, float *output, float *mean_out, float *rstd_out, ga_error *error) {
    GA_TRY(ga_shape_check_group_norm(norm, error));
    ga_kernel_group_norm_forward(norm, input, scale, shift, output, mean_out, rstd_out);
    return GA_OK;
}

static ga_status native_group_norm_backward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *mean, const float *rstd, const float *grad_output, float *grad_scale, float *grad_shift,
    float *grad_input, ga_error *error) {
    GA_TRY(ga_shape_check_group_norm(norm, error));
    ga_kernel_group_norm_backward(
        norm, input, scale, mean, rstd, grad_output, grad_scale, grad_shift, grad_input);
    return GA_OK;
}

static ga_status native_silu_forward(int64_t count, const float *input, float *output, ga_error *error) {
    GA_TRY(ga_shape_check_count("silu", count, error));
    ga_kernel_silu_forward(count, input, output);
    return GA_OK;
}

static ga_status native_silu_backward(
    int64_t count, const float *input, const float *grad_output, float *grad_input, ga_error *error) {
    GA_TRY(ga_shape_check_count("silu", count, error));
    ga_kernel_silu_backward(count, input, grad_output, grad_input);
    return GA_OK;
}

static ga_status native_linear_forward(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
    const float *weight, const float *bias, float *output, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("linear", rows, inputs, outputs, error));
    for (int32_t row = 0; row < rows && bias != NULL; row++) {
        memcpy(output + (size_t)row * (size_t)outputs, bias, (size_t)outputs * sizeof *bias);
    }
    const ga_gemm gemm = {.transpose_b = true,
        .m = rows,
        .n = outputs,
        .k = inputs,
        .lda = inputs,
        .ldb = inputs,
        .ldc = outputs,
        .alpha = 1.0f,
        .beta = bias != NULL ? 1.0f : 0.0f};
    return native_sgemm(&gemm, input, weight, output, error);
}

static ga_status native_linear_backward(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
    const float *weight, const float *grad_output, float *grad_weight, float *grad_bias, float *grad_input,
    ga_error *error) {
    GA_TRY(ga_shape_check_sizes("linear", rows, inputs, outputs, error));
    const ga_gemm weights = {.transpose_a = true,
        .m = outputs,
        .n = inputs,
        .k = rows,
        .lda = outputs,
        .ldb = inputs,
        .ldc = inputs,
        .alpha = 1.0f,
        .beta = 1.0f};
    if (grad_weight != NULL) {
        GA_TRY(native_sgemm(&weights, grad_output, input, grad_weight, error));
    }
    if (grad_bias != NULL) {
        ga_kernel_add_column_sums(rows, outputs, grad_output, grad_bias);
    }
    if (grad_input == NULL) {
        return GA_OK;
    }
    const ga_gemm inputs_back = {
        .m = rows, .n = inputs, .k = outputs, .lda = outputs, .ldb = inputs, .ldc = inputs, .alpha = 1.0f};
    return native_sgemm(&inputs_back, grad_output, weight, grad_input, error);
}

static ga_status native_mean_pool_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *input, float *output, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("mean pool", rows, channels, positions, error));
    ga_kernel_mean_pool_forward(rows, channels, positions, input, output);
    return GA_OK;
}

static ga_status native_mean_pool_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *grad_output, float *grad_input, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("mean pool", rows, channels, positions, error));
    ga_kernel_mean_pool_backward(rows, channels, positions, grad_output, grad_input);
    return GA_OK;
}

static ga_status native_channel_shift_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *shift, float *values, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel shift", rows, channels, positions, error));
    ga_kernel_channel_shift_forward(rows, channels, positions, shift, values);
    return GA_OK;
}

static ga_status native_channel_shift_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *grad_values, float *grad_shift, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel shift", rows, channels, positions, error));
    ga_kernel_channel_shift_backward(rows, channels, positions, grad_values, grad_shift);
    return GA_OK;
}

static ga_status native_channel_scale_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *scale, float *values, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel scale", rows, channels, positions, error));
    ga_kernel_channel_scale_forward(rows, channels, positions, scale, values);
    return GA_OK;
}

static ga_status native_channel_scale_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *scale, const float *input, float *grad_values, float *grad_scale, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel scale", rows, channels, positions, error));
    ga_kernel_channel_scale_backward(rows, channels, positions, scale, input, grad_values, grad_scale);
    return GA_OK;
}

static ga_status native_copy_columns(int32_t rows, int32_t count, int32_t source_stride, const float *source,
    int32_t target_stride, float *target, ga_error *error) {
    GA_TRY(ga_shape_check_columns(rows, count, source_stride, target_stride, error));
    ga_kernel_copy_columns(rows, count, source_stride, source, target_stride, target);
    return GA_OK;
}

static ga_status native_lerp(
    int64_t count, float decay, const float *source, float *target, ga_error *error) {
    GA_TRY(ga_shape_check_count("lerp", count, error));
    ga_kernel_lerp(count, decay, source, target);
    return GA_OK;
}

static ga_status native_accumulate(
    int64_t count, float alpha, const float *source, float *target, ga_error *error) {
    GA_TRY(ga_shape_check_count("accumulate", count, error));
    ga_kernel_accumulate(count, alpha, source, target);
    return GA_OK;
}

static ga_status native_adamw(const ga_adamw *adamw, int64_t count, const float *gradient, float *parameter,
    float *first_moment, float *second_moment, ga_error *error) {
    GA_TRY(ga_shape_check_adamw(adamw, count, error));
    ga_kernel_adamw(adamw, count, gradient, parameter, first_moment, second_moment);
    return GA_OK;
}

const ga_compute *ga_compute_native(void) {
    static const ga_compute table = {.version = GA_COMPUTE_VERSION,
        .name = "native",
        .sgemm = native_sgemm,
        .conv_workspace_floats = native_conv_workspace_floats,
        .conv_forward = native_conv_forward,
        .conv_backward = native_conv_backward,
        .group_norm_forward = native_group_norm_forward,
        .group_norm_backward = native_group_norm_backward,
        .silu_forward = native_silu_forward,
        .silu_backward = native_silu_backward,
        .linear_forward = native_linear_forward,
        .linear_backward = native_linear_backward,
        .mean_pool_forward = native_mean_pool_forward,
        .mean_pool_backward = native_mean_pool_backward,
        .channel_shift_forward = native_channel_shift_forward,
        .channel_shift_backward = native_channel_shift_backward,
        .accumulate = native_accumulate,
        .adamw = native_adamw,
        .device = GA_DEVICE_CPU,
        .allocate = ga_native_allocate,
        .release = ga_native_release,
        .upload = ga_native_upload,
        .download = ga_native_download,
        .zero = ga_native_zero,
        .run = ga_native_run,
        .channel_scale_forward = native_channel_scale_forward,
        .channel_scale_backward = native_channel_scale_backward,
        .copy_columns = native_copy_columns,
        .lerp = native_lerp};
    ga_blas_prepare();
    return &table;
}
