/*
 * The operations of the table by aten operators, in three files: torch_layers.c (what a network is made of),
 * torch_elements.c (value by value, and the optimiser) and torch_product.c (matrices). As ga_compute
 * describes them; called inside ga_torch_run. Results are written to the caller's memory, by the operator
 * itself where it has an out variant.
 */
#ifndef GA_COMPUTE_TORCH_OPS_H
#define GA_COMPUTE_TORCH_OPS_H

#include "grpo_accel/compute/torch_call.h"

/* Sets up constants on the device; once, before other operations. */
ga_status ga_torch_elements_prepare(ga_error *error);
/* Frees them: before another device is tried. */
void ga_torch_elements_forget(void);

/*
 * target[i] += alpha · source[i] for `count` pairs of one shape each, at most 4; the handles are freed in any
 * case. Shapes of a pair are equal and contiguous.
 */
ga_status ga_torch_add_to(
    int32_t count, const ga_torch_view *targets, ga_torch_handle *sources, double alpha, ga_error *error);
/* target += alpha · a · b, with broadcasting to the target's shape. */
ga_status ga_torch_add_product(
    ga_torch_view target, ga_torch_view a, ga_torch_view b, float alpha, ga_error *error);
/* target += alpha · a, with broadcasting to the target's shape. */
ga_status ga_torch_add_broadcast(ga_torch_view target, ga_torch_view a, float alpha, ga_error *error);
/* target = a · b, a / b or the larger of both; "aten::mul", "aten::div", "aten::maximum". */
ga_status ga_torch_combine(
    const char *name, ga_torch_view a, ga_torch_view b, ga_torch_view target, ga_error *error);
/* target = sum or mean ("aten::sum" "IntList_out", "aten::mean" "out") over dimension `dim`, which target
 * lacks. */
ga_status ga_torch_reduce(const char *name, const char *overload, ga_torch_view source, int64_t dim,
    ga_torch_view target, ga_error *error);
/* target[m, n] = a[m, k] · b[k, n], for views of any strides; "aten::mm", or "aten::bmm" for 3 dimensions. */
ga_status ga_torch_multiply(
    const char *name, ga_torch_view a, ga_torch_view b, ga_torch_view target, ga_error *error);

ga_status ga_torch_sgemm(const ga_gemm *gemm, const float *a, const float *b, float *c, ga_error *error);
ga_status ga_torch_linear_forward(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
    const float *weight, const float *bias, float *output, ga_error *error);
ga_status ga_torch_linear_backward(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
    const float *weight, const float *grad_output, float *grad_weight, float *grad_bias, float *grad_input,
    ga_error *error);

size_t ga_torch_conv_workspace_floats(const ga_conv *conv);
ga_status ga_torch_conv_forward(const ga_conv *conv, const float *input, const float *weight,
    const float *bias, float *workspace, float *output, ga_error *error);
ga_status ga_torch_conv_backward(const ga_conv *conv, const float *input, const float *weight,
    const float *grad_output, float *workspace, float *grad_weight, float *grad_bias, float *grad_input,
    ga_error *error);
ga_status ga_torch_group_norm_forward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *shift, float *output, float *mean_out, float *rstd_out, ga_error *error);
ga_status ga_torch_group_norm_backward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *mean, const float *rstd, const float *grad_output, float *grad_scale, float *grad_shift,
    float *grad_input, ga_error *error);
ga_status ga_torch_mean_pool_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *input, float *output, ga_error *error);
ga_status ga_torch_mean_pool_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *grad_output, float *grad_input, ga_error *error);
ga_status ga_torch_channel_shift_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *shift, float *values, ga_error *error);
ga_status ga_torch_channel_shift_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *grad_values, float *grad_shift, ga_error *error);
ga_status ga_torch_channel_scale_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *scale, float *values, ga_error *error);
ga_status ga_torch_channel_scale_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *scale, const float *input, float *grad_values, float *grad_scale, ga_error *error);

ga_status ga_torch_silu_forward(int64_t count, const float *input, float *output, ga_error *error);
ga_status ga_torch_silu_backward(
    int64_t count, const float *input, const float *grad_output, float *grad_input, ga_error *error);
ga_status ga_torch_accumulate(
    int64_t count, float alpha, const float *source, float *target, ga_error *error);
ga_status ga_torch_lerp(int64_t count, float decay, const float *source, float *target, ga_error *error);
ga_status ga_torch_copy_columns(int32_t rows, int32_t count, int32_t source_stride, const float *source,
    int32_t target_stride, float *target, ga_error *error);
ga_status ga_torch_adamw(const ga_adamw *adamw, int64_t count, const float *gradient, float *parameter,
    float *first_moment, float *second_moment, ga_error *error);

#endif
