#include "grpo_accel/compute/shape.h"
#include "grpo_accel/compute/torch_memory.h"
#include "grpo_accel/compute/torch_ops.h"

ga_status ga_torch_multiply(
    const char *name, ga_torch_view a, ga_torch_view b, ga_torch_view target, ga_error *error) {
    return ga_torch_combine(name, a, b, target, error);
}

/* op(X) [rows, columns] of a matrix that is stored with rows `stride` apart. */
static ga_torch_view operand(
    const float *data, bool transpose, int64_t rows, int64_t columns, int64_t stride) {
    return transpose ? ga_torch_view_transposed(ga_torch_view2_strided(data, columns, rows, stride))
                     : ga_torch_view2_strided(data, rows, columns, stride);
}

/* C = beta · C where beta isn't 1. */
static ga_status scale(ga_torch_view target, float beta, ga_error *error) {
    if (beta == 1.0f) {
        return GA_OK;
    }
    return ga_torch_combine("aten::mul", target, ga_torch_view_number(&beta), target, error);
}

/* C = alpha · product + beta · C */
static ga_status add_scaled(ga_torch_view c, const float *product, const ga_gemm *gemm, ga_error *error) {
    const ga_torch_view from = ga_torch_view2(product, gemm->m, gemm->n);
    if (gemm->beta == 0.0f) { /* never reads C */
        return ga_torch_combine("aten::mul", from, ga_torch_view_number(&gemm->alpha), c, error);
    }
    GA_TRY(scale(c, gemm->beta, error));
    return ga_torch_add_broadcast(c, from, gemm->alpha, error);
}

ga_status ga_torch_sgemm(const ga_gemm *gemm, const float *a, const float *b, float *c, ga_error *error) {
    GA_TRY(ga_shape_check_gemm(gemm, error));
    if (gemm->m == 0 || gemm->n == 0) {
        return GA_OK;
    }
    const ga_torch_view left = operand(a, gemm->transpose_a, gemm->m, gemm->k, gemm->lda);
    const ga_torch_view right = operand(b, gemm->transpose_b, gemm->k, gemm->n, gemm->ldb);
    const ga_torch_view target = ga_torch_view2_strided(c, gemm->m, gemm->n, gemm->ldc);
    if (gemm->k > 0 && gemm->alpha == 1.0f && gemm->beta == 0.0f) {
        return ga_torch_multiply("aten::mm", left, right, target, error);
    }
    float *product;
    GA_TRY(ga_torch_allocate((size_t)gemm->m * (size_t)gemm->n, &product, error));
    ga_status status = gemm->k == 0 ? GA_OK
                                    : ga_torch_multiply("aten::mm", left, right,
                                          ga_torch_view2(product, gemm->m, gemm->n), error);
    if (status == GA_OK) {
        status = add_scaled(target, product, gemm, error);
    }
    ga_torch_release(product);
    return status;
}

/* ---- linear ---- */

ga_status ga_torch_linear_forward(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
    const float *weight, const float *bias, float *output, ga_error *error) {
    GA_TRY(ga_shape_check_sizes("linear", rows, inputs, outputs, error));
    if (rows == 0) {
        return GA_OK;
    }
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::linear", "out", error);
    ga_torch_give_view(&call, ga_torch_view2(input, rows, inputs));
    ga_torch_give_view(&call, ga_torch_view2(weight, outputs, inputs));
    ga_torch_give_optional_view(&call, bias != NULL, ga_torch_view1(bias, outputs));
    ga_torch_give_view(&call, ga_torch_view2(output, rows, outputs));
    return ga_torch_call_finish_in_place(&call, 1);
}

static ga_status grad_weight_of(
    ga_torch_view grad_output, ga_torch_view input, ga_torch_handle *grad_out, ga_error *error) {
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::mm", "", error);
    ga_torch_give_view(&call, ga_torch_view_transposed(grad_output));
    ga_torch_give_view(&call, input);
    return ga_torch_call_finish(&call, 1, grad_out);
}

static ga_status grad_bias_of(ga_torch_view grad_output, ga_torch_handle *grad_out, ga_error *error) {
    const int64_t rows_dim = 0;
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::sum", "dim_IntList", error);
    ga_torch_give_view(&call, grad_output);
    ga_torch_give_optional_ints(&call, &rows_dim, 1);
    ga_torch_give_bool(&call, false); /* keepdim */
    ga_torch_give_none(&call);        /* dtype */
    return ga_torch_call_finish(&call, 1, grad_out);
}

/* Adds the gradients of weight and bias, in one call. */
static ga_status add_parameter_gradients(
    ga_torch_view input, ga_torch_view grad_output, float *grad_weight, float *grad_bias, ga_error *error) {
    ga_torch_view targets[2];
    ga_torch_handle sources[2];
    int32_t count = 0;
    ga_status status = GA_OK;
    if (grad_weight != NULL) {
        targets[count] = ga_torch_view2(grad_weight, grad_output.sizes[1], input.sizes[1]);
        status = grad_weight_of(grad_output, input, &sources[count], error);
        count += status == GA_OK;
    }
    if (grad_bias != NULL && status == GA_OK) {
        targets[count] = ga_torch_view1(grad_bias, grad_output.sizes[1]);
        status = grad_bias_of(grad_output, &sources[count], error);
        count += status == GA_OK;
    }
    if (status == GA_OK && count > 0) {
        return ga_torch_add_to(count, targets, sources, 1.0, error);
    }
    for (int32_t i = 0; i < count; i++) {
        ga_torch_drop(sources[i]);
    }
    return status;
}

ga_status ga_torch_linear_backward(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
    const float *weight, const float *grad_output, float *grad_weight, float *grad_bias, float *grad_input,
    ga_error *error) {
    GA_TRY(ga_shape_check_sizes("linear", rows, inputs, outputs, error));
    if (rows == 0) {
        return GA_OK;
    }
    const ga_torch_view grad = ga_torch_view2(grad_output, rows, outputs);
    GA_TRY(add_parameter_gradients(ga_torch_view2(input, rows, inputs), grad, grad_weight, grad_bias, error));
    if (grad_input == NULL) {
        return GA_OK;
    }
    return ga_torch_multiply("aten::mm", grad, ga_torch_view2(weight, outputs, inputs),
        ga_torch_view2(grad_input, rows, inputs), error);
}
