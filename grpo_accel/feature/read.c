#include "grpo_accel/feature/read.h"

#include <string.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/compute/tensor.h"

ga_status ga_read_check(const ga_tensor *view, const char *name, int32_t dims, ga_error *error) {
    GA_TRY(ga_tensor_check(view, name, error));
    const bool readable = view->dtype == GA_F32 || view->dtype == GA_F16 || view->dtype == GA_BF16;
    if (!readable || view->dims != dims || view->data == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "%s: %s of %d dimensions; expected f32, f16 or bf16 of %d dimensions", name,
            ga_dtype_name(view->dtype), view->dims, dims);
    }
    for (int32_t i = 0; i < dims; i++) {
        if (view->shape[i] < 1 || view->shape[i] > INT32_MAX / 2) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "%s: dimension %d is %lld", name, i, (long long)view->shape[i]);
        }
    }
    return GA_OK;
}

ga_status ga_read_check_host(const ga_tensor *view, const char *name, int32_t dims, ga_error *error) {
    GA_TRY(ga_read_check(view, name, dims, error));
    if (view->device != GA_DEVICE_CPU) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s is on device %d:%d; hand in a copy on the CPU", name,
            view->device, view->device_index);
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

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* What ga_half_to_float gives, without a jump, so that loops become vector code: the exponent is moved by a
 * multiplication, which is exact for subnormal numbers too, and that of infinity and NaN filled up. */
static inline float half_value(uint16_t half) {
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13, sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t special = 0u - (uint32_t)((half & 0x7c00u) == 0x7c00u);
    return float_of(bits_of(float_of(magnitude) * 0x1p112f) | (special & 0x7f800000u) | sign);
}

static void read_half(
    const uint16_t *from, int64_t stride, int32_t count, float scale, float *restrict values) {
    if (stride == 1) {
        for (int32_t i = 0; i < count; i++) {
            values[i] = scale * half_value(from[i]);
        }
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        values[i] = scale * ga_half_to_float(from[i * stride]);
    }
}

static void read_bfloat(
    const uint16_t *from, int64_t stride, int32_t count, float scale, float *restrict values) {
    if (stride == 1) {
        for (int32_t i = 0; i < count; i++) {
            values[i] = scale * float_of((uint32_t)from[i] << 16);
        }
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        values[i] = scale * ga_bfloat_to_float(from[i * stride]);
    }
}

void ga_read_run(
    const ga_tensor *view, int64_t offset, int64_t stride, int32_t count, float scale, float *values_out) {
    switch (view->dtype) {
    case GA_F32: read_float((const float *)view->data + offset, stride, count, scale, values_out); return;
    case GA_F16: read_half((const uint16_t *)view->data + offset, stride, count, scale, values_out); return;
    default: read_bfloat((const uint16_t *)view->data + offset, stride, count, scale, values_out); return;
    }
}
