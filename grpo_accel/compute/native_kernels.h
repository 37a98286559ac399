/*
 * Plain loops over arrays: no handles, no checks, no memory of their own. The caller has checked shapes;
 * arrays must not overlap unless said. Formulas and layouts as in compute.h.
 */
#ifndef GA_COMPUTE_NATIVE_KERNELS_H
#define GA_COMPUTE_NATIVE_KERNELS_H

#include "grpo_accel/compute/compute.h"

/*
 * input [rows, channels, height, width] → columns [channels · kernel², rows · out_height · out_width]: the
 * convolution becomes weight · columns. Padding is written as zero. conv->rows rows are taken.
 */
void ga_kernel_im2col(const ga_conv *conv, const float *input, float *columns);

/* The adjoint of im2col: adds each column value to the input position it came from; input is overwritten. */
void ga_kernel_col2im(const ga_conv *conv, const float *columns, float *input);

/* planes [channels, rows, positions] + bias[channels] (NULL: none) → maps [rows, channels, positions]. */
void ga_kernel_planes_to_maps(
    int32_t rows, int32_t channels, int32_t positions, const float *planes, const float *bias, float *maps);
void ga_kernel_maps_to_planes(
    int32_t rows, int32_t channels, int32_t positions, const float *maps, float *planes);

/* sums[row] += sum over columns of values[rows, columns]. */
void ga_kernel_add_row_sums(int32_t rows, int64_t columns, const float *values, float *sums);
/* sums[column] += sum over rows of values[rows, columns]. */
void ga_kernel_add_column_sums(int32_t rows, int32_t columns, const float *values, float *sums);

void ga_kernel_group_norm_forward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *shift, float *output, float *mean_out, float *rstd_out);
void ga_kernel_group_norm_backward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *mean, const float *rstd, const float *grad_output, float *grad_scale, float *grad_shift,
    float *grad_input);

/* output may be input; grad_input may be grad_output. */
void ga_kernel_silu_forward(int64_t count, const float *input, float *output);
void ga_kernel_silu_backward(int64_t count, const float *input, const float *grad_output, float *grad_input);

void ga_kernel_mean_pool_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *input, float *output);
void ga_kernel_mean_pool_backward(
    int32_t rows, int32_t channels, int32_t positions, const float *grad_output, float *grad_input);

void ga_kernel_channel_shift_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *shift, float *values);
void ga_kernel_channel_shift_backward(
    int32_t rows, int32_t channels, int32_t positions, const float *grad_values, float *grad_shift);

void ga_kernel_channel_scale_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *scale, float *values);
void ga_kernel_channel_scale_backward(int32_t rows, int32_t channels, int32_t positions, const float *scale,
    const float *input, float *grad_values, float *grad_scale);

/* Columns of source and target may belong to one array as long as they don't overlap. */
void ga_kernel_copy_columns(int32_t rows, int32_t count, int32_t source_stride, const float *source,
    int32_t target_stride, float *target);

void ga_kernel_lerp(int64_t count, float decay, const float *source, float *target);

void ga_kernel_accumulate(int64_t count, float alpha, const float *source, float *target);

void ga_kernel_adamw(const ga_adamw *adamw, int64_t count, const float *gradient, float *parameter,
    float *first_moment, float *second_moment);

#endif
