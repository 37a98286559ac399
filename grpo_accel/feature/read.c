#include "grpo_accel/feature/read.h"

#include "grpo_accel/compute/half.h"
#include "grpo_accel/compute/tensor.h"

ga_status ga_read_check(const ga_tensor *view, const char *name, int32_t dims, ga_error *error) {
    GA_TRY(ga_tensor_check(view, name, error));
    const bool readable = view->dtype == GA_F32 || view->dtype == GA_F16 || view->dtype == GA_BF16;
    if (view->device != GA_DEVICE_CPU || !readable || view->dims != dims || view->data == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "%s: %s of %d dimensions on device %d; expected f32, f16 or bf16 of %d dimensions on the CPU",
            name, ga_dtype_name(view->dtype), view->dims, view->device, dims);
    }
    for (int32_t i = 0; i < dims; i++) {
        if (view->shape[i] < 1 || view->shape[i] > INT32_MAX / 2) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "%s: dimension %d is %lld", name, i, (long long)view->shape[i]);
        }
    }
    return GA_OK;
}

static void read_float(
    const float *from, int64_t stride, int32_t count, float scale, float *restrict values) {
    if (stride == 1) {
        for (int32_t i = 0; i < count; i++) {
            values[i] = scale * from[i];
        }
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        values[i] = scale * from[i * stride];
    }
}

void ga_read_run(
    const ga_tensor *view, int64_t offset, int64_t stride, int32_t count, float scale, float *values_out) {
    if (view->dtype == GA_F32) {
        read_float((const float *)view->data + offset, stride, count, scale, values_out);
        return;
    }
    const uint16_t *from = (const uint16_t *)view->data + offset;
    if (view->dtype == GA_F16) {
        for (int32_t i = 0; i < count; i++) {
            values_out[i] = scale * ga_half_to_float(from[i * stride]);
        }
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        values_out[i] = scale * ga_bfloat_to_float(from[i * stride]);
    }
}
