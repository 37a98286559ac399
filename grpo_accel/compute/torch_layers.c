#include "grpo_accel/compute/shape.h"
#include "grpo_accel/compute/torch_memory.h"
#include "grpo_accel/compute/torch_ops.h"

/* ---- convolution ---- */

/* PyTorch brings its own room; 1, because 0 says that a shape is impossible. */
size_t ga_torch_conv_workspace_floats(const ga_conv *conv) {
    return ga_shape_conv_is_possible(conv) ? 1 : 0;
}

static ga_torch_view conv_input(const ga_conv *conv, const float *data) {
    return ga_torch_view4(data, conv->rows, conv->in_channels, conv->height, conv->width);
}

static ga_torch_view conv_weight(const ga_conv *conv, const float *data) {
    return ga_torch_view4(data, conv->out_channels, conv->in_channels, conv->kernel, conv->kernel);
}

static ga_torch_view conv_output(const ga_conv *conv, const float *data) {
    return ga_torch_view4(
        data, conv->rows, conv->out_channels, ga_shape_conv_out_height(conv), ga_shape_conv_out_width(conv));
}

/* stride, padding, dilation, transposed, output_padding, groups */
static void give_geometry(ga_torch_call *call, const ga_conv *conv) {
    const int64_t stride[2] = {conv->stride, conv->stride};
    const int64_t padding[2] = {conv->kernel / 2, conv->kernel / 2};
    const int64_t ones[2] = {1, 1}, zeros[2] = {0, 0};
    ga_torch_give_ints(call, stride, 2);
    ga_torch_give_ints(call, padding, 2);
    ga_torch_give_ints(call, ones, 2);
    ga_torch_give_bool(call, false);
    ga_torch_give_ints(call, zeros, 2);
    ga_torch_give_int(call, 1);
}

ga_status ga_torch_conv_forward(const ga_conv *conv, const float *input, const float *weight,
    const float *bias, float *workspace, float *output, ga_error *error) {
    (void)workspace;
    GA_TRY(ga_shape_check_conv(conv, error));
    if (conv->rows == 0) {
        return GA_OK;
    }
    ga_torch_call call;
    ga_torch_handle result;
    ga_torch_call_begin(&call, "aten::convolution", "", error);
    ga_torch_give_view(&call, conv_input(conv, input));
    ga_torch_give_view(&call, conv_weight(conv, weight));
    ga_torch_give_optional_view(&call, bias != NULL, ga_torch_view1(bias, conv->out_channels));
    give_geometry(&call, conv);
    GA_TRY(ga_torch_call_finish(&call, 1, &result));
    const ga_torch_view target = conv_output(conv, output);
    return ga_torch_move(&target, result, error);
}

/* What a backward operator gave, in the order of its mask: to overwrite, to add, to add. */
typedef struct layer_gradients {
    ga_torch_view input, scale, shift;
    bool wanted[3];
} layer_gradients;

static void give_mask(ga_torch_call *call, const bool wanted[3]) {
    const int64_t mask[3] = {wanted[0], wanted[1], wanted[2]};
    ga_torch_give_ints(call, mask, 3);
}

/* Puts the three results where they belong, and frees them. */
static ga_status take_gradients(const layer_gradients *to, ga_torch_handle results[3], ga_error *error) {
    ga_torch_view targets[2];
    ga_torch_handle sources[2];
    int32_t count = 0;
    const ga_torch_view *parameters[2] = {&to->scale, &to->shift};
    for (int i = 0; i < 2; i++) {
        if (to->wanted[1 + i]) {
            targets[count] = *parameters[i];
            sources[count++] = results[1 + i];
        } else {
            ga_torch_drop(results[1 + i]); /* undefined, but a handle */
        }
    }
    ga_status status = GA_OK;
    if (count > 0) {
        status = ga_torch_add_to(count, targets, sources, 1.0, error);
    }
    if (!to->wanted[0] || status != GA_OK) {
        ga_torch_drop(results[0]);
        return status;
    }
    return ga_torch_move(&to->input, results[0], error);
}

ga_status ga_torch_conv_backward(const ga_conv *conv, const float *input, const float *weight,
    const float *grad_output, float *workspace, float *grad_weight, float *grad_bias, float *grad_input,
    ga_error *error) {
    (void)workspace;
    GA_TRY(ga_shape_check_conv(conv, error));
    const layer_gradients to = {.input = conv_input(conv, grad_input),
        .scale = conv_weight(conv, grad_weight),
        .shift = ga_torch_view1(grad_bias, conv->out_channels),
        .wanted = {grad_input != NULL, grad_weight != NULL, grad_bias != NULL}};
    if (conv->rows == 0 || !(to.wanted[0] || to.wanted[1] || to.wanted[2])) {
        return GA_OK;
    }
    const int64_t bias_sizes = conv->out_channels;
    ga_torch_call call;
    ga_torch_handle results[3];
    ga_torch_call_begin(&call, "aten::convolution_backward", "", error);
    ga_torch_give_view(&call, conv_output(conv, grad_output));
    ga_torch_give_view(&call, conv_input(conv, input));
    ga_torch_give_view(&call, conv_weight(conv, weight));
    ga_torch_give_optional_ints(&call, grad_bias != NULL ? &bias_sizes : NULL, 1);
    give_geometry(&call, conv);
    give_mask(&call, to.wanted);
    GA_TRY(ga_torch_call_finish(&call, 3, results));
    return take_gradients(&to, results, error);
}

/* ---- group norm ---- */

static void give_norm_sizes(ga_torch_call *call, const ga_group_norm *norm) {
    ga_torch_give_int(call, norm->rows);
    ga_torch_give_int(call, norm->channels);
    ga_torch_give_int(call, norm->positions);
    ga_torch_give_int(call, norm->groups);
}

ga_status ga_torch_group_norm_forward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *shift, float *output, float *mean_out, float *rstd_out, ga_error *error) {
    GA_TRY(ga_shape_check_group_norm(norm, error));
    if (norm->rows == 0) {
        return GA_OK;
    }
    ga_torch_call call;
    ga_torch_handle results[3];
    ga_torch_call_begin(&call, "aten::native_group_norm", "", error);
    ga_torch_give_view(&call, ga_torch_view3(input, norm->rows, norm->channels, norm->positions));
    ga_torch_give_optional_view(&call, true, ga_torch_view1(scale, norm->channels));
    ga_torch_give_optional_view(&call, true, ga_torch_view1(shift, norm->channels));
    give_norm_sizes(&call, norm);
    ga_torch_give_float(&call, (double)norm->epsilon);
    GA_TRY(ga_torch_call_finish(&call, 3, results));
    const ga_torch_view targets[3] = {ga_torch_view3(output, norm->rows, norm->channels, norm->positions),
        ga_torch_view2(mean_out, norm->rows, norm->groups),
        ga_torch_view2(rstd_out, norm->rows, norm->groups)};
    ga_status status = GA_OK;
    for (int i = 0; i < 3; i++) {
        const ga_status moved = ga_torch_move(&targets[i], results[i], error);
        status = status == GA_OK ? moved : status;
    }
    return status;
}

ga_status ga_torch_group_norm_backward(const ga_group_norm *norm, const float *input, const float *scale,
    const float *mean, const float *rstd, const float *grad_output, float *grad_scale, float *grad_shift,
    float *grad_input, ga_error *error) {
    GA_TRY(ga_shape_check_group_norm(norm, error));
    if (norm->rows == 0) {
        return GA_OK;
    }
    const layer_gradients to = {
        .input = ga_torch_view3(grad_input, norm->rows, norm->channels, norm->positions),
        .scale = ga_torch_view1(grad_scale, norm->channels),
        .shift = ga_torch_view1(grad_shift, norm->channels),
        .wanted = {true, true, true}};
    ga_torch_call call;
    ga_torch_handle results[3];
    ga_torch_call_begin(&call, "aten::native_group_norm_backward", "", error);
    ga_torch_give_view(&call, ga_torch_view3(grad_output, norm->rows, norm->channels, norm->positions));
    ga_torch_give_view(&call, ga_torch_view3(input, norm->rows, norm->channels, norm->positions));
    ga_torch_give_view(&call, ga_torch_view2(mean, norm->rows, norm->groups));
    ga_torch_give_view(&call, ga_torch_view2(rstd, norm->rows, norm->groups));
    ga_torch_give_optional_view(&call, true, ga_torch_view1(scale, norm->channels));
    give_norm_sizes(&call, norm);
    give_mask(&call, to.wanted);
    GA_TRY(ga_torch_call_finish(&call, 3, results));
    return take_gradients(&to, results, error);
}

/* ---- channels: planes [rows · channels] of positions ---- */

static int64_t planes_of(int32_t rows, int32_t channels) {
    return (int64_t)rows * channels;
}

ga_status ga_torch_mean_pool_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *input, float *output, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("mean pool", rows, channels, positions, error));
    const int64_t planes = planes_of(rows, channels);
    return planes == 0 ? GA_OK
                       : ga_torch_reduce("aten::mean", "out", ga_torch_view2(input, planes, positions), 1,
                             ga_torch_view1(output, planes), error);
}

ga_status ga_torch_mean_pool_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *grad_output, float *grad_input, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("mean pool", rows, channels, positions, error));
    const int64_t planes = planes_of(rows, channels);
    if (planes == 0) {
        return GA_OK;
    }
    const float share = 1.0f / (float)positions;
    ga_torch_view repeated = ga_torch_view2(grad_output, planes, positions);
    repeated.strides[0] = 1;
    repeated.strides[1] = 0;
    return ga_torch_combine("aten::mul", repeated, ga_torch_view_number(&share),
        ga_torch_view2(grad_input, planes, positions), error);
}

ga_status ga_torch_channel_shift_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *shift, float *values, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel shift", rows, channels, positions, error));
    const int64_t planes = planes_of(rows, channels);
    return planes == 0 ? GA_OK
                       : ga_torch_add_broadcast(ga_torch_view2(values, planes, positions),
                             ga_torch_view2(shift, planes, 1), 1.0f, error);
}

ga_status ga_torch_channel_shift_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *grad_values, float *grad_shift, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel shift", rows, channels, positions, error));
    const int64_t planes = planes_of(rows, channels);
    return planes == 0
               ? GA_OK
               : ga_torch_reduce("aten::sum", "IntList_out", ga_torch_view2(grad_values, planes, positions),
                     1, ga_torch_view1(grad_shift, planes), error);
}

/* values += values · scale */
ga_status ga_torch_channel_scale_forward(
    int32_t rows, int32_t channels, int32_t positions, const float *scale, float *values, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel scale", rows, channels, positions, error));
    const int64_t planes = planes_of(rows, channels);
    const ga_torch_view view = ga_torch_view2(values, planes, positions);
    return planes == 0 ? GA_OK
                       : ga_torch_add_product(view, view, ga_torch_view2(scale, planes, 1), 1.0f, error);
}

static ga_status sum_of_products(ga_torch_view a, ga_torch_view b, ga_torch_view sums, ga_error *error) {
    float *products;
    GA_TRY(ga_torch_allocate_scratch((size_t)(a.sizes[0] * a.sizes[1]), &products, error));
    const ga_torch_view view = ga_torch_view2(products, a.sizes[0], a.sizes[1]);
    ga_status status = ga_torch_combine("aten::mul", a, b, view, error);
    if (status == GA_OK) {
        status = ga_torch_reduce("aten::sum", "IntList_out", view, 1, sums, error);
    }
    ga_torch_release(products);
    return status;
}

ga_status ga_torch_channel_scale_backward(int32_t rows, int32_t channels, int32_t positions,
    const float *scale, const float *input, float *grad_values, float *grad_scale, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("channel scale", rows, channels, positions, error));
    const int64_t planes = planes_of(rows, channels);
    if (planes == 0) {
        return GA_OK;
    }
    const ga_torch_view grad = ga_torch_view2(grad_values, planes, positions);
    GA_TRY(sum_of_products(
        grad, ga_torch_view2(input, planes, positions), ga_torch_view1(grad_scale, planes), error));
    return ga_torch_add_product(grad, grad, ga_torch_view2(scale, planes, 1), 1.0f, error);
}
