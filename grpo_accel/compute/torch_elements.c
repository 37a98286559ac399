#include "grpo_accel/compute/shape.h"
#include "grpo_accel/compute/torch_memory.h"
#include "grpo_accel/compute/torch_ops.h"

/* 1 on the device: the factor of a sum that is written as a product. */
static float *one_on_device;

ga_status ga_torch_elements_prepare(ga_error *error) {
    if (one_on_device != NULL) {
        return GA_OK;
    }
    const float one = 1.0f;
    float *memory;
    GA_TRY(ga_torch_allocate(1, &memory, error));
    const ga_status status = ga_torch_upload(1, &one, memory, error);
    if (status != GA_OK) {
        ga_torch_release(memory);
        return status;
    }
    one_on_device = memory;
    return GA_OK;
}

void ga_torch_elements_forget(void) {
    ga_torch_release(one_on_device);
    one_on_device = NULL;
}

/* ---- sums ---- */

/*
 * parameter −= rate · (gradient + decay · parameter): plain stochastic descent. Its factors are floats, where
 * aten::add has a Scalar, which the shim can't pass; with a negative rate it is the fused sum that we need.
 */
static void give_descent(ga_torch_call *call, double decay, double rate) {
    ga_torch_give_handles(call, NULL, 0); /* no momentum */
    ga_torch_give_float(call, decay);
    ga_torch_give_float(call, 0.0);
    ga_torch_give_float(call, rate);
    ga_torch_give_float(call, 0.0);
    ga_torch_give_bool(call, false); /* nesterov */
    ga_torch_give_bool(call, false); /* maximize */
    ga_torch_give_bool(call, false); /* is_first_step */
    ga_torch_give_none(call);        /* grad_scale */
    ga_torch_give_none(call);        /* found_inf */
}

ga_status ga_torch_add_to(
    int32_t count, const ga_torch_view *targets, ga_torch_handle *sources, double alpha, ga_error *error) {
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::_fused_sgd_", "", error);
    ga_torch_give_views(&call, targets, count);
    ga_torch_give_handles(&call, sources, count);
    give_descent(&call, 0.0, -alpha);
    return ga_torch_call_finish_in_place(&call, 0);
}

static ga_status descend(
    int64_t count, const float *source, float *target, double decay, double rate, ga_error *error) {
    const ga_torch_view to = ga_torch_view1(target, count), from = ga_torch_view1(source, count);
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::_fused_sgd_", "", error);
    ga_torch_give_views(&call, &to, 1);
    ga_torch_give_views(&call, &from, 1);
    give_descent(&call, decay, rate);
    return ga_torch_call_finish_in_place(&call, 0);
}

ga_status ga_torch_accumulate(
    int64_t count, float alpha, const float *source, float *target, ga_error *error) {
    GA_TRY(ga_shape_check_count("accumulate", count, error));
    return count == 0 ? GA_OK : descend(count, source, target, 0.0, -(double)alpha, error);
}

/* target += (1 − decay) · (source − target) */
ga_status ga_torch_lerp(int64_t count, float decay, const float *source, float *target, ga_error *error) {
    GA_TRY(ga_shape_check_count("lerp", count, error));
    return count == 0 ? GA_OK : descend(count, source, target, -1.0, -(1.0 - (double)decay), error);
}

ga_status ga_torch_add_product(
    ga_torch_view target, ga_torch_view a, ga_torch_view b, float alpha, ga_error *error) {
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::_foreach_addcmul_", "Tensor", error);
    ga_torch_give_views(&call, &target, 1);
    ga_torch_give_views(&call, &a, 1);
    ga_torch_give_views(&call, &b, 1);
    ga_torch_give_view(&call, ga_torch_view_host(&alpha, 1));
    return ga_torch_call_finish_in_place(&call, 0);
}

ga_status ga_torch_add_broadcast(ga_torch_view target, ga_torch_view a, float alpha, ga_error *error) {
    return ga_torch_add_product(target, a, ga_torch_view1(one_on_device, 1), alpha, error);
}

ga_status ga_torch_combine(
    const char *name, ga_torch_view a, ga_torch_view b, ga_torch_view target, ga_error *error) {
    ga_torch_call call;
    ga_torch_call_begin(&call, name, "out", error);
    ga_torch_give_view(&call, a);
    ga_torch_give_view(&call, b);
    ga_torch_give_view(&call, target);
    return ga_torch_call_finish_in_place(&call, 1);
}

ga_status ga_torch_reduce(const char *name, const char *overload, ga_torch_view source, int64_t dim,
    ga_torch_view target, ga_error *error) {
    ga_torch_call call;
    ga_torch_call_begin(&call, name, overload, error);
    ga_torch_give_view(&call, source);
    ga_torch_give_optional_ints(&call, &dim, 1);
    ga_torch_give_bool(&call, false); /* keepdim */
    ga_torch_give_none(&call);        /* dtype */
    ga_torch_give_view(&call, target);
    return ga_torch_call_finish_in_place(&call, 1);
}

/* ---- value by value ---- */

ga_status ga_torch_silu_forward(int64_t count, const float *input, float *output, ga_error *error) {
    GA_TRY(ga_shape_check_count("silu", count, error));
    if (count == 0) {
        return GA_OK;
    }
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::silu", "out", error);
    ga_torch_give_view(&call, ga_torch_view1(input, count));
    ga_torch_give_view(&call, ga_torch_view1(output, count));
    return ga_torch_call_finish_in_place(&call, 1);
}

ga_status ga_torch_silu_backward(
    int64_t count, const float *input, const float *grad_output, float *grad_input, ga_error *error) {
    GA_TRY(ga_shape_check_count("silu", count, error));
    if (count == 0) {
        return GA_OK;
    }
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::silu_backward", "grad_input", error);
    ga_torch_give_view(&call, ga_torch_view1(grad_output, count));
    ga_torch_give_view(&call, ga_torch_view1(input, count));
    ga_torch_give_view(&call, ga_torch_view1(grad_input, count));
    return ga_torch_call_finish_in_place(&call, 1);
}

ga_status ga_torch_copy_columns(int32_t rows, int32_t count, int32_t source_stride, const float *source,
    int32_t target_stride, float *target, ga_error *error) {
    GA_TRY(ga_shape_check_columns(rows, count, source_stride, target_stride, error));
    if (rows == 0 || count == 0) {
        return GA_OK;
    }
    const ga_torch_view from = ga_torch_view2_strided(source, rows, count, source_stride);
    const ga_torch_view to = ga_torch_view2_strided(target, rows, count, target_stride);
    return ga_torch_copy(&to, &from, error);
}

/* ---- the optimiser ---- */

/* A step count as PyTorch wants it: a float on the device. The operator doesn't count by itself. */
static ga_status new_step(int64_t step, ga_torch_handle *step_out, ga_error *error) {
    ga_torch_handle handle;
    const int64_t none = 0;
    if (ga_torch.symbols.empty_strided(
            0, &none, &none, ga_torch.float32, ga_torch.device, ga_torch.device_index, &handle) != 0) {
        return ga_torch_fail("making a step count", error);
    }
    ga_torch_count_handles(1);
    const float value = (float)step;
    ga_torch_handle returned;
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::fill_", "Tensor", error);
    ga_torch_give_handle(&call, handle);
    ga_torch_give_view(&call, ga_torch_view_number(&value));
    GA_TRY(ga_torch_call_finish(&call, 1, &returned));
    *step_out = returned; /* fill_ gives its own argument back */
    return GA_OK;
}

ga_status ga_torch_adamw(const ga_adamw *adamw, int64_t count, const float *gradient, float *parameter,
    float *first_moment, float *second_moment, ga_error *error) {
    GA_TRY(ga_shape_check_adamw(adamw, count, error));
    if (count == 0) {
        return GA_OK;
    }
    ga_torch_handle step;
    GA_TRY(new_step(adamw->step, &step, error));
    const ga_torch_view lists[] = {ga_torch_view1(parameter, count), ga_torch_view1(gradient, count),
        ga_torch_view1(first_moment, count), ga_torch_view1(second_moment, count)};
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::_fused_adamw_", "", error);
    for (int i = 0; i < 4; i++) {
        ga_torch_give_views(&call, &lists[i], 1);
    }
    ga_torch_give_handles(&call, NULL, 0); /* max_exp_avg_sqs */
    ga_torch_give_handles(&call, &step, 1);
    ga_torch_give_float(&call, (double)adamw->learning_rate);
    ga_torch_give_float(&call, (double)adamw->beta1);
    ga_torch_give_float(&call, (double)adamw->beta2);
    ga_torch_give_float(&call, (double)adamw->weight_decay);
    ga_torch_give_float(&call, (double)adamw->epsilon);
    ga_torch_give_bool(&call, false); /* amsgrad */
    ga_torch_give_bool(&call, false); /* maximize */
    ga_torch_give_none(&call);        /* grad_scale */
    ga_torch_give_none(&call);        /* found_inf */
    return ga_torch_call_finish_in_place(&call, 0);
}
