#include "grpo_accel/compute/native_kernels.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/compute/shape.h"

/* The outputs whose input position first + stride · i lies inside 0 … length-1: [*begin, *end). */
static void inside_range(
    int32_t first, int32_t stride, int32_t length, int32_t outputs, int32_t *begin, int32_t *end) {
    *begin = first < 0 ? (-first + stride - 1) / stride : 0;
    const int32_t limit = length > first ? (length - first + stride - 1) / stride : 0;
    *end = limit < outputs ? limit : outputs;
}

/* One kernel tap of a convolution: by how much it looks aside, and the outputs of a line that it reaches. */
typedef struct kernel_tap {
    int32_t height, width, stride; /* of the input */
    int32_t out_height, out_width;
    int32_t y, x;       /* offset of the input from the output's position */
    int32_t begin, end; /* outputs of a line whose input lies inside */
} kernel_tap;

static kernel_tap tap_of(const ga_conv *conv, int32_t number) {
    const int32_t padding = conv->kernel / 2;
    kernel_tap tap = {.height = conv->height,
        .width = conv->width,
        .stride = conv->stride,
        .out_height = ga_shape_conv_out_height(conv),
        .out_width = ga_shape_conv_out_width(conv),
        .y = number / conv->kernel - padding,
        .x = number % conv->kernel - padding};
    inside_range(tap.x, tap.stride, tap.width, tap.out_width, &tap.begin, &tap.end);
    return tap;
}

/* Stride 1: the plane as a whole, moved aside; then the column that came around the edge is cleared. */
static void gather_moved(const kernel_tap *tap, const float *restrict plane, float *restrict target) {
    const ptrdiff_t count = (ptrdiff_t)tap->height * tap->width;
    const ptrdiff_t move = (ptrdiff_t)tap->y * tap->width + tap->x;
    const ptrdiff_t first = move < 0 ? -move : 0, end = move > 0 ? count - move : count;
    if (end <= first) {
        memset(target, 0, (size_t)count * sizeof *target);
        return;
    }
    memset(target, 0, (size_t)first * sizeof *target);
    memcpy(target + first, plane + first + move, (size_t)(end - first) * sizeof *target);
    memset(target + end, 0, (size_t)(count - end) * sizeof *target);
    for (int32_t y = 0; y < tap->height && tap->x != 0; y++) {
        target[(ptrdiff_t)y * tap->width + (tap->x < 0 ? 0 : tap->width - 1)] = 0.0f;
    }
}

/* A plane [height, width] → out_height · out_width columns. */
static void gather_tap(const kernel_tap *tap, const float *restrict plane, float *restrict target) {
    const int32_t out_width = tap->out_width;
    for (int32_t y = 0; y < tap->out_height; y++, target += out_width) {
        const int32_t source_y = y * tap->stride + tap->y;
        if (source_y < 0 || source_y >= tap->height) {
            memset(target, 0, (size_t)out_width * sizeof *target);
            continue;
        }
        const float *line = plane + (ptrdiff_t)source_y * tap->width + tap->x;
        for (int32_t x = 0; x < tap->begin; x++) {
            target[x] = 0.0f;
        }
        for (int32_t x = tap->begin; x < tap->end; x++) {
            target[x] = line[(ptrdiff_t)x * tap->stride];
        }
        for (int32_t x = tap->end; x < out_width; x++) {
            target[x] = 0.0f;
        }
    }
}

static void add_line(int32_t begin, int32_t end, const float *restrict source, float *restrict line) {
    for (int32_t x = begin; x < end; x++) {
        line[x] += source[x];
    }
}

static void scatter_tap(const kernel_tap *tap, const float *restrict source, float *restrict plane) {
    for (int32_t y = 0; y < tap->out_height; y++, source += tap->out_width) {
        const int32_t target_y = y * tap->stride + tap->y;
        if (target_y < 0 || target_y >= tap->height) {
            continue;
        }
        float *line = plane + (ptrdiff_t)target_y * tap->width + tap->x;
        if (tap->stride == 1) {
            add_line(tap->begin, tap->end, source, line);
            continue;
        }
        for (int32_t x = tap->begin; x < tap->end; x++) {
            line[(ptrdiff_t)x * tap->stride] += source[x];
        }
    }
}

void ga_kernel_im2col(const ga_conv *conv, const float *restrict input, float *restrict columns) {
    const size_t plane = (size_t)conv->height * (size_t)conv->width;
    const size_t outputs = (size_t)ga_shape_conv_out_height(conv) * (size_t)ga_shape_conv_out_width(conv);
    for (int32_t channel = 0; channel < conv->in_channels; channel++) {
        for (int32_t number = 0; number < conv->kernel * conv->kernel; number++) {
            const kernel_tap tap = tap_of(conv, number);
            for (int32_t row = 0; row < conv->rows; row++, columns += outputs) {
                const size_t source = ((size_t)row * (size_t)conv->in_channels + (size_t)channel) * plane;
                if (conv->stride == 1) {
                    gather_moved(&tap, input + source, columns);
                } else {
                    gather_tap(&tap, input + source, columns);
                }
            }
        }
    }
}

void ga_kernel_col2im(const ga_conv *conv, const float *restrict columns, float *restrict input) {
    const size_t plane = (size_t)conv->height * (size_t)conv->width;
    const size_t outputs = (size_t)ga_shape_conv_out_height(conv) * (size_t)ga_shape_conv_out_width(conv);
    memset(input, 0, (size_t)conv->rows * (size_t)conv->in_channels * plane * sizeof *input);
    for (int32_t channel = 0; channel < conv->in_channels; channel++) {
        for (int32_t number = 0; number < conv->kernel * conv->kernel; number++) {
            const kernel_tap tap = tap_of(conv, number);
            for (int32_t row = 0; row < conv->rows; row++, columns += outputs) {
                const size_t target = ((size_t)row * (size_t)conv->in_channels + (size_t)channel) * plane;
                scatter_tap(&tap, columns, input + target);
            }
        }
    }
}

void ga_kernel_planes_to_maps(int32_t rows, int32_t channels, int32_t positions, const float *restrict planes,
    const float *restrict bias, float *restrict maps) {
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t channel = 0; channel < channels; channel++) {
            const float *source = planes + ((size_t)channel * (size_t)rows + (size_t)row) * (size_t)positions;
            const float add = bias == NULL ? 0.0f : bias[channel];
            for (int32_t i = 0; i < positions; i++) {
                maps[i] = source[i] + add;
            }
            maps += positions;
        }
    }
}

void ga_kernel_maps_to_planes(
    int32_t rows, int32_t channels, int32_t positions, const float *restrict maps, float *restrict planes) {
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t channel = 0; channel < channels; channel++) {
            float *target = planes + ((size_t)channel * (size_t)rows + (size_t)row) * (size_t)positions;
            memcpy(target, maps, (size_t)positions * sizeof *maps);
            maps += positions;
        }
    }
}

/* Sum in double over four lanes: exact enough for any length, and the lanes hide the latency of an addition.
 */
static double sum_of(const float *restrict values, int64_t count) {
    double lane[4] = {0.0, 0.0, 0.0, 0.0};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (int k = 0; k < 4; k++) {
            lane[k] += (double)values[i + k];
        }
    }
    for (; i < count; i++) {
        lane[0] += (double)values[i];
    }
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/* Σ (a − a_center) · (b − b_center) */
static double sum_of_products(
    const float *restrict a, double a_center, const float *restrict b, double b_center, int64_t count) {
    double lane[4] = {0.0, 0.0, 0.0, 0.0};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (int k = 0; k < 4; k++) {
            lane[k] += ((double)a[i + k] - a_center) * ((double)b[i + k] - b_center);
        }
    }
    for (; i < count; i++) {
        lane[0] += ((double)a[i] - a_center) * ((double)b[i] - b_center);
    }
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

void ga_kernel_add_row_sums(
    int32_t rows, int64_t columns, const float *restrict values, float *restrict sums) {
    for (int32_t row = 0; row < rows; row++) {
        sums[row] += (float)sum_of(values + (int64_t)row * columns, columns);
    }
}

void ga_kernel_add_column_sums(
    int32_t rows, int32_t columns, const float *restrict values, float *restrict sums) {
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t column = 0; column < columns; column++) {
            sums[column] += values[(size_t)row * (size_t)columns + (size_t)column];
        }
    }
}

/* output = (input − mean) · rstd · scale + shift over one channel. */
static void normalise_channel(const float *restrict input, int32_t positions, float mean, float rstd,
    float scale, float shift, float *restrict output) {
    for (int32_t i = 0; i < positions; i++) {
        output[i] = (input[i] - mean) * rstd * scale + shift;
    }
}

void ga_kernel_group_norm_forward(const ga_group_norm *norm, const float *restrict input,
    const float *restrict scale, const float *restrict shift, float *restrict output,
    float *restrict mean_out, float *restrict rstd_out) {
    const int32_t group_channels = norm->channels / norm->groups;
    const int64_t group_values = (int64_t)group_channels * norm->positions;
    for (int64_t slice = 0; slice < (int64_t)norm->rows * norm->groups; slice++) {
        const float *values = input + slice * group_values;
        const double mean = sum_of(values, group_values) / (double)group_values;
        const double variance =
            sum_of_products(values, mean, values, mean, group_values) / (double)group_values;
        mean_out[slice] = (float)mean;
        rstd_out[slice] = (float)(1.0 / sqrt(variance + (double)norm->epsilon));
        const int32_t first = (int32_t)(slice % norm->groups) * group_channels;
        for (int32_t channel = 0; channel < group_channels; channel++) {
            const int64_t at = slice * group_values + (int64_t)channel * norm->positions;
            normalise_channel(input + at, norm->positions, mean_out[slice], rstd_out[slice],
                scale[first + channel], shift[first + channel], output + at);
        }
    }
}

/* One group of one row. With x̂ = (x − mean)·rstd and g = dy·scale: dx = rstd·(g − ⟨g⟩ − x̂·⟨g·x̂⟩). */
static void group_norm_backward_slice(const float *restrict input, const float *restrict scale, float mean,
    float rstd, const float *restrict grad_output, int32_t channels, int32_t positions,
    float *restrict grad_scale, float *restrict grad_shift, float *restrict grad_input) {
    double sum_g = 0.0;
    double sum_gx = 0.0;
    for (int32_t channel = 0; channel < channels; channel++) {
        const int64_t at = (int64_t)channel * positions;
        const double sum_dy = sum_of(grad_output + at, positions);
        const double sum_dyx =
            sum_of_products(grad_output + at, 0.0, input + at, (double)mean, positions) * (double)rstd;
        grad_shift[channel] += (float)sum_dy;
        grad_scale[channel] += (float)sum_dyx;
        sum_g += sum_dy * (double)scale[channel];
        sum_gx += sum_dyx * (double)scale[channel];
    }
    const double count = (double)channels * (double)positions;
    const float mean_g = (float)(sum_g / count);
    const float mean_gx = (float)(sum_gx / count);
    for (int32_t channel = 0; channel < channels; channel++) {
        const int64_t at = (int64_t)channel * positions;
        for (int32_t i = 0; i < positions; i++) {
            const float normal = (input[at + i] - mean) * rstd;
            grad_input[at + i] = rstd * (grad_output[at + i] * scale[channel] - mean_g - normal * mean_gx);
        }
    }
}

void ga_kernel_group_norm_backward(const ga_group_norm *norm, const float *restrict input,
    const float *restrict scale, const float *restrict mean, const float *restrict rstd,
    const float *restrict grad_output, float *restrict grad_scale, float *restrict grad_shift,
    float *restrict grad_input) {
    const int32_t group_channels = norm->channels / norm->groups;
    const int64_t group_values = (int64_t)group_channels * norm->positions;
    for (int64_t slice = 0; slice < (int64_t)norm->rows * norm->groups; slice++) {
        const int32_t first = (int32_t)(slice % norm->groups) * group_channels;
        const int64_t at = slice * group_values;
        group_norm_backward_slice(input + at, scale + first, mean[slice], rstd[slice], grad_output + at,
            group_channels, norm->positions, grad_scale + first, grad_shift + first, grad_input + at);
    }
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/*
 * 1 / (1 + e^−x), relative error below 3e-7; NaN stays NaN. e^y as 2^n · e^r: n by adding 1.5 · 2²³, which
 * rounds to a whole number, e^r by its Taylor series, |r| ≤ ln(2)/2. No calls and no jumps, so that loops
 * over it become vector code, which expf keeps them from.
 */
static inline float sigmoid(float x) {
    const float rounder = 12582912.0f;
    const uint32_t highest = 0x42ae0000u, infinite = 0x7f800000u; /* 87: beyond it e^y leaves fp32 */
    const uint32_t size = bits_of(x) & 0x7fffffffu, sign = ~bits_of(x) & 0x80000000u; /* of −x */
    const uint32_t beyond = 0u - (uint32_t)((size > highest) & (size <= infinite));
    const float y = float_of((size & ~beyond) | (highest & beyond) | sign);
    const float shifted = y * 1.44269504f + rounder;
    const float n = shifted - rounder;
    const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    float series = 1.0f / 720.0f;
    series = series * r + 1.0f / 120.0f;
    series = series * r + 1.0f / 24.0f;
    series = series * r + 1.0f / 6.0f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const float power = float_of((bits_of(shifted) - 0x4b400000u + 127u) << 23);
    const uint32_t vanished = beyond & (0u - (uint32_t)(sign == 0u));
    return float_of(bits_of(1.0f / (1.0f + series * power)) & ~vanished);
}

void ga_kernel_silu_forward(int64_t count, const float *input, float *output) {
    for (int64_t i = 0; i < count; i++) {
        output[i] = input[i] * sigmoid(input[i]);
    }
}

/* d(x·s)/dx = s·(1 + x·(1 − s)) with s = sigmoid(x) */
void ga_kernel_silu_backward(int64_t count, const float *input, const float *grad_output, float *grad_input) {
    for (int64_t i = 0; i < count; i++) {
        const float s = sigmoid(input[i]);
        grad_input[i] = grad_output[i] * s * (1.0f + input[i] * (1.0f - s));
    }
}

void ga_kernel_mean_pool_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *restrict input, float *restrict output) {
    for (int64_t plane = 0; plane < (int64_t)rows * channels; plane++) {
        output[plane] = (float)(sum_of(input + plane * positions, positions) / (double)positions);
    }
}

void ga_kernel_mean_pool_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *restrict grad_output, float *restrict grad_input) {
    for (int64_t plane = 0; plane < (int64_t)rows * channels; plane++) {
        const float share = grad_output[plane] / (float)positions;
        for (int32_t i = 0; i < positions; i++) {
            grad_input[plane * positions + i] = share;
        }
    }
}

void ga_kernel_channel_shift_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *restrict shift, float *restrict values) {
    for (int64_t plane = 0; plane < (int64_t)rows * channels; plane++) {
        for (int32_t i = 0; i < positions; i++) {
            values[plane * positions + i] += shift[plane];
        }
    }
}

void ga_kernel_channel_shift_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *restrict grad_values, float *restrict grad_shift) {
    for (int64_t plane = 0; plane < (int64_t)rows * channels; plane++) {
        grad_shift[plane] = (float)sum_of(grad_values + plane * positions, positions);
    }
}

void ga_kernel_channel_scale_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *restrict scale, float *restrict values) {
    for (int64_t plane = 0; plane < (int64_t)rows * channels; plane++) {
        const float factor = 1.0f + scale[plane];
        for (int32_t i = 0; i < positions; i++) {
            values[plane * positions + i] *= factor;
        }
    }
}

void ga_kernel_channel_scale_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *restrict scale, const float *restrict input, float *restrict grad_values,
    float *restrict grad_scale) {
    for (int64_t plane = 0; plane < (int64_t)rows * channels; plane++) {
        float *grad = grad_values + plane * positions;
        grad_scale[plane] = (float)sum_of_products(grad, 0.0, input + plane * positions, 0.0, positions);
        for (int32_t i = 0; i < positions; i++) {
            grad[i] *= 1.0f + scale[plane];
        }
    }
}

void ga_kernel_copy_columns(int32_t rows, int32_t count, int32_t source_stride, const float *source,
    int32_t target_stride, float *target) {
    for (int32_t row = 0; row < rows; row++) {
        memcpy(target + (ptrdiff_t)row * target_stride, source + (ptrdiff_t)row * source_stride,
            (size_t)count * sizeof *target);
    }
}

void ga_kernel_lerp(int64_t count, float decay, const float *restrict source, float *restrict target) {
    for (int64_t i = 0; i < count; i++) {
        target[i] = decay * target[i] + (1.0f - decay) * source[i];
    }
}

void ga_kernel_accumulate(int64_t count, float alpha, const float *restrict source, float *restrict target) {
    for (int64_t i = 0; i < count; i++) {
        target[i] += alpha * source[i];
    }
}

void ga_kernel_adamw(const ga_adamw *adamw, int64_t count, const float *restrict gradient,
    float *restrict parameter, float *restrict first_moment, float *restrict second_moment) {
    const double correction1 = 1.0 - pow((double)adamw->beta1, (double)adamw->step);
    const double correction2 = 1.0 - pow((double)adamw->beta2, (double)adamw->step);
    const float step_size = (float)((double)adamw->learning_rate / correction1);
    const float root_correction2 = (float)sqrt(correction2);
    const float keep = 1.0f - adamw->learning_rate * adamw->weight_decay;
    for (int64_t i = 0; i < count; i++) {
        const float g = gradient[i];
        first_moment[i] += (1.0f - adamw->beta1) * (g - first_moment[i]);
        second_moment[i] = adamw->beta2 * second_moment[i] + (1.0f - adamw->beta2) * g * g;
        const float denominator = sqrtf(second_moment[i]) / root_correction2 + adamw->epsilon;
        parameter[i] = parameter[i] * keep - step_size * first_moment[i] / denominator;
    }
}
