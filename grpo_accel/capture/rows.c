#include "grpo_accel/capture/rows.h"

#include <stdbool.h>

#include "grpo_accel/compute/tensor.h"

/* Rows first … first + count − 1 of the first dimension. */
static ga_status take_rows(
    const ga_tensor *tensor, int64_t first, int64_t count, ga_tensor *view_out, ga_error *error) {
    const size_t bytes = ga_dtype_bytes(tensor->dtype);
    int64_t offset = 0;
    if (bytes == 0 || __builtin_mul_overflow(first, tensor->strides[0], &offset) ||
        __builtin_mul_overflow(offset, (int64_t)bytes, &offset)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "rows of a tensor of dtype %s, stride %lld",
            ga_dtype_name(tensor->dtype), (long long)tensor->strides[0]);
    }
    ga_tensor view = *tensor;
    view.shape[0] = count;
    view.data = tensor->data == NULL ? NULL : (char *)tensor->data + offset;
    *view_out = view;
    return GA_OK;
}

/* Where the wanted half begins; −1: there is none. */
static int64_t half_begin(ga_guidance_order order, int32_t batch_rows, bool conditional) {
    switch (order) {
    case GA_GUIDANCE_NONE: return conditional ? 0 : -1;
    case GA_GUIDANCE_COND_FIRST: return conditional ? 0 : batch_rows;
    case GA_GUIDANCE_COND_LAST: return conditional ? batch_rows : 0;
    case GA_GUIDANCE_GUESS: break;
    }
    return -1;
}

static ga_status check_rows(
    const ga_tensor *tensor, int32_t batch_rows, ga_guidance_order *order, ga_error *error) {
    if (tensor->dims < 1 || tensor->dims > GA_TENSOR_DIMS_MAX || batch_rows < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a tensor of %d dimensions for a batch of %d rows",
            tensor->dims, batch_rows);
    }
    if (*order == GA_GUIDANCE_GUESS) {
        *order = tensor->shape[0] == batch_rows ? GA_GUIDANCE_NONE : GA_GUIDANCE_COND_LAST;
    }
    const int64_t expected = *order == GA_GUIDANCE_NONE ? batch_rows : 2 * (int64_t)batch_rows;
    if (tensor->shape[0] != expected) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a tensor of %lld rows for a batch of %d; expected %lld under this guidance",
            (long long)tensor->shape[0], batch_rows, (long long)expected);
    }
    return GA_OK;
}

ga_status ga_rows_conditional(const ga_tensor *tensor, int32_t batch_rows, ga_guidance_order order,
    ga_tensor *view_out, ga_error *error) {
    GA_TRY(check_rows(tensor, batch_rows, &order, error));
    return take_rows(tensor, half_begin(order, batch_rows, true), batch_rows, view_out, error);
}

ga_status ga_rows_unconditional(const ga_tensor *tensor, int32_t batch_rows, ga_guidance_order order,
    ga_tensor *view_out, ga_error *error) {
    GA_TRY(check_rows(tensor, batch_rows, &order, error));
    const int64_t first = half_begin(order, batch_rows, false);
    if (first < 0) {
        return GA_FAIL(error, GA_ERR_DATA, "the host runs without guidance: there are no unconditional rows");
    }
    return take_rows(tensor, first, batch_rows, view_out, error);
}

ga_status ga_rows_invert(
    const int32_t *host_rows, int32_t host_count, int32_t batch_rows, int32_t *row_of_out, ga_error *error) {
    for (int32_t i = 0; i < host_count; i++) {
        const bool inside = host_rows[i] >= 0 && host_rows[i] < batch_rows;
        bool repeated = false;
        for (int32_t j = 0; j < i && inside; j++) {
            repeated = repeated || host_rows[j] == host_rows[i];
        }
        if (!inside || repeated) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "row %d of the host's tensor is said to be row %d of %d%s",
                i, host_rows[i], batch_rows, repeated ? ", as another is" : "");
        }
    }
    for (int32_t i = 0; i < batch_rows; i++) {
        row_of_out[i] = -1;
    }
    for (int32_t i = 0; i < host_count; i++) {
        row_of_out[host_rows[i]] = i;
    }
    return GA_OK;
}
