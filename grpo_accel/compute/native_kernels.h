/*
 * Plain loops over arrays: no handles, no checks, no memory of their own. The caller has checked shapes;
 * pointers marked restrict must not overlap. Formulas and layouts as in compute.h.
 */
#ifndef GA_COMPUTE_NATIVE_KERNELS_H
#define GA_COMPUTE_NATIVE_KERNELS_H

#include "grpo_accel/compute/compute.h"

int32_t ga_kernel_conv_out_height(const ga_conv *conv);
int32_t ga_kernel_conv_out_width(const ga_conv *conv);

/*
 * input [rows, channels, height, width] → columns [channels · kernel², rows · out_height · out_width]: the
 * convolution becomes weight · columns. Padding is written as zero. conv->rows rows are taken.
 */
void ga_kernel_im2col(const ga_conv *conv, const float *restrict input, float *restrict columns);

/* The adjoint of im2col: adds each column value to the input position it came from; input is overwritten. */
void ga_kernel_col2im(const ga_conv *conv, const float *restrict columns, float *restrict input);

/* planes [channels, rows, positions] + bias[channels] (NULL: none) → maps [rows, channels, positions]. */
void ga_kernel_planes_to_maps(int32_t rows, int32_t channels, int32_t positions, const float *restrict planes,
    const float *restrict bias, float *restrict maps);
void ga_kernel_maps_to_planes(
    int32_t rows, int32_t channels, int32_t positions, const float *restrict maps, float *restrict planes);

/* sums[row] += sum over columns of values[rows, columns]. */
void ga_kernel_add_row_sums(
    int32_t rows, int64_t columns, const float *restrict values, float *restrict sums);
/* sums[column] += sum over rows of values[rows, columns]. */
void ga_kernel_add_column_sums(
    int32_t rows, int32_t columns, const float *restrict values, float *restrict sums);

void ga_kernel_group_norm_forward(const ga_group_norm *norm, const float *restrict input,
    const float *restrict scale, const float *restrict shift, float *restrict output,
    float *restrict mean_out, float *restrict rstd_out);
void ga_kernel_group_norm_backward(const ga_group_norm *norm, const float *restrict input,
    const float *restrict scale, const float *restrict mean, const float *restrict rstd,
    const float *restrict grad_output, float *restrict grad_scale, float *restrict grad_shift,
    float *restrict grad_input);

/* output may be input; grad_input may be grad_output. */
void ga_kernel_silu_forward(int64_t count, const float *input, float *output);
void ga_kernel_silu_backward(int64_t count, const float *input, const float *grad_output, float *grad_input);

void ga_kernel_mean_pool_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *restrict input, float *restrict output);
void ga_kernel_mean_pool_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *restrict grad_output, float *restrict grad_input);

void ga_kernel_channel_shift_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *restrict shift, float *restrict values);
void ga_kernel_channel_shift_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *restrict grad_values, float *restrict grad_shift);

void ga_kernel_accumulate(int64_t count, float alpha, const float *restrict source, float *restrict target);

void ga_kernel_adamw(const ga_adamw *adamw, int64_t count, const float *restrict gradient,
    float *restrict parameter, float *restrict first_moment, float *restrict second_moment);

#endif
