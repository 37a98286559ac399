#include "grpo_accel/capture/rows.h"

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

ga_status ga_rows_conditional(
    const ga_tensor *tensor, int32_t batch_rows, ga_tensor *view_out, ga_error *error) {
    if (tensor->dims < 1 || tensor->dims > GA_TENSOR_DIMS_MAX || batch_rows < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a tensor of %d dimensions for a batch of %d rows",
            tensor->dims, batch_rows);
    }
    const int64_t held = tensor->shape[0];
    if (held != batch_rows && held != 2 * (int64_t)batch_rows) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a tensor of %lld rows for a batch of %d; expected as many, or twice as many under guidance",
            (long long)held, batch_rows);
    }
    return take_rows(tensor, held - batch_rows, batch_rows, view_out, error);
}
