/*
 * Which shapes an operation of the table can be asked for: one rule for every provider.
 *
 * Each check returns GA_ERR_ARGUMENT with the numbers in the message. No state; any thread; not collective.
 */
#ifndef GA_COMPUTE_SHAPE_H
#define GA_COMPUTE_SHAPE_H

#include "grpo_accel/compute/compute.h"

bool ga_shape_conv_is_possible(const ga_conv *conv);
int32_t ga_shape_conv_out_height(const ga_conv *conv);
int32_t ga_shape_conv_out_width(const ga_conv *conv);

ga_status ga_shape_check_gemm(const ga_gemm *gemm, ga_error *error);
ga_status ga_shape_check_conv(const ga_conv *conv, ga_error *error);
ga_status ga_shape_check_group_norm(const ga_group_norm *norm, ga_error *error);
ga_status ga_shape_check_count(const char *name, int64_t count, ga_error *error);
/* rows × a × b values, rows may be 0. */
ga_status ga_shape_check_sizes(const char *name, int32_t rows, int32_t a, int32_t b, ga_error *error);
ga_status ga_shape_check_columns(
    int32_t rows, int32_t count, int32_t source_stride, int32_t target_stride, ga_error *error);
ga_status ga_shape_check_adamw(const ga_adamw *adamw, int64_t count, ga_error *error);

#endif
