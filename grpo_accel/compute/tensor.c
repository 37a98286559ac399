#include "grpo_accel/compute/tensor.h"

#include <string.h>

#include "grpo_accel/compute/half.h"

size_t ga_dtype_bytes(int32_t dtype) {
    switch (dtype) {
    case GA_F32: return 4;
    case GA_F16:
    case GA_BF16: return 2;
    case GA_F64:
    case GA_I64: return 8;
    default: return 0;
    }
}

const char *ga_dtype_name(int32_t dtype) {
    switch (dtype) {
    case GA_F32: return "f32";
    case GA_F16: return "f16";
    case GA_BF16: return "bf16";
    case GA_F64: return "f64";
    case GA_I64: return "i64";
    default: return "unknown";
    }
}

ga_tensor ga_tensor_make(void *data, ga_dtype dtype, int32_t dims, const int64_t *shape) {
    ga_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.data = data;
    tensor.dtype = (int32_t)dtype;
    tensor.device = GA_DEVICE_CPU;
    if (dims < 0 || dims > GA_TENSOR_DIMS_MAX) {
        tensor.dims = -1;
        return tensor;
    }
    tensor.dims = dims;
    int64_t stride = 1;
    for (int32_t dim = dims - 1; dim >= 0; dim--) {
        tensor.shape[dim] = shape[dim];
        tensor.strides[dim] = stride;
        if (shape[dim] < 0 || __builtin_mul_overflow(stride, shape[dim] > 0 ? shape[dim] : 1, &stride)) {
            tensor.dims = -1;
            return tensor;
        }
    }
    return tensor;
}

int64_t ga_tensor_count(const ga_tensor *tensor) {
    if (tensor->dims < 0 || tensor->dims > GA_TENSOR_DIMS_MAX) {
        return -1;
    }
    int64_t count = 1;
    for (int32_t dim = 0; dim < tensor->dims; dim++) {
        if (tensor->shape[dim] < 0 || __builtin_mul_overflow(count, tensor->shape[dim], &count)) {
            return -1;
        }
    }
    return count;
}

bool ga_tensor_is_contiguous(const ga_tensor *tensor) {
    if (ga_tensor_count(tensor) <= 0) {
        return ga_tensor_count(tensor) == 0;
    }
    int64_t stride = 1;
    for (int32_t dim = tensor->dims - 1; dim >= 0; dim--) {
        if (tensor->shape[dim] != 1 && tensor->strides[dim] != stride) {
            return false;
        }
        stride *= tensor->shape[dim];
    }
    return true;
}

static bool reach_of(const ga_tensor *tensor, int64_t *lowest, int64_t *highest) {
    *lowest = 0;
    *highest = 0;
    for (int32_t dim = 0; dim < tensor->dims; dim++) {
        int64_t last;
        if (__builtin_mul_overflow(tensor->shape[dim] - 1, tensor->strides[dim], &last)) {
            return false;
        }
        int64_t *end = last < 0 ? lowest : highest;
        if (__builtin_add_overflow(*end, last, end)) {
            return false;
        }
    }
    /* element offsets become byte offsets sooner or later: eight bytes is the largest element */
    return *highest <= INT64_MAX / 8 - 8 && *lowest >= -(INT64_MAX / 8 - 8);
}

ga_status ga_tensor_check(const ga_tensor *tensor, const char *name, ga_error *error) {
    if (tensor == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: no tensor given", name);
    }
    if (tensor->dims < 0 || tensor->dims > GA_TENSOR_DIMS_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s has %d dimensions; 0 to %d can be read", name,
            tensor->dims, GA_TENSOR_DIMS_MAX);
    }
    if (ga_dtype_bytes(tensor->dtype) == 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s has unknown dtype %d", name, tensor->dtype);
    }
    if (tensor->device != GA_DEVICE_CPU && tensor->device != GA_DEVICE_CUDA) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s is on unknown device %d", name, tensor->device);
    }
    const int64_t count = ga_tensor_count(tensor);
    if (count < 0) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "%s has a negative size, or more elements than can be counted", name);
    }
    int64_t lowest, highest;
    if (count > 0 && !reach_of(tensor, &lowest, &highest)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s has strides that leave the address space", name);
    }
    if (count > 0 && tensor->data == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s has %lld elements but no data", name, (long long)count);
    }
    return GA_OK;
}

ga_status ga_tensor_reach(
    const ga_tensor *tensor, int64_t *lowest_out, int64_t *highest_out, ga_error *error) {
    GA_TRY(ga_tensor_check(tensor, "tensor", error));
    int64_t lowest = 0;
    int64_t highest = -1;
    if (ga_tensor_count(tensor) > 0) {
        (void)reach_of(tensor, &lowest, &highest); /* ga_tensor_check has seen it succeed */
    }
    *lowest_out = lowest;
    *highest_out = highest;
    return GA_OK;
}

ga_status ga_tensor_check_bounds(
    const ga_tensor *tensor, size_t held_bytes, const char *name, ga_error *error) {
    GA_TRY(ga_tensor_check(tensor, name, error));
    int64_t lowest, highest;
    GA_TRY(ga_tensor_reach(tensor, &lowest, &highest, error));
    const uint64_t needed_bytes = (uint64_t)(highest + 1) * ga_dtype_bytes(tensor->dtype);
    if (lowest < 0 || needed_bytes > held_bytes) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "%s reaches from element %lld to %lld of %s, but only %zu bytes are held; check shape and "
            "strides",
            name, (long long)lowest, (long long)highest, ga_dtype_name(tensor->dtype), held_bytes);
    }
    return GA_OK;
}

ga_status ga_tensor_select(
    const ga_tensor *tensor, int32_t dim, int64_t index, ga_tensor *view_out, ga_error *error) {
    GA_TRY(ga_tensor_check(tensor, "tensor", error));
    if (dim < 0 || dim >= tensor->dims || index < 0 || index >= tensor->shape[dim]) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "index %lld of dimension %d is outside a tensor of %d dimensions", (long long)index, dim,
            tensor->dims);
    }
    ga_tensor view = *tensor;
    if (view.data != NULL) {
        view.data = (char *)view.data + index * tensor->strides[dim] * (int64_t)ga_dtype_bytes(tensor->dtype);
    }
    for (int32_t next = dim; next + 1 < view.dims; next++) {
        view.shape[next] = view.shape[next + 1];
        view.strides[next] = view.strides[next + 1];
    }
    view.dims--;
    *view_out = view;
    return GA_OK;
}

/* One run along the last dimension: count elements from `source`, `stride` elements apart. */
static void convert_run(
    const void *source, int32_t dtype, int64_t stride, int64_t count, float *restrict target) {
    switch (dtype) {
    case GA_F32: {
        const float *values = source;
        for (int64_t i = 0; i < count; i++) {
            target[i] = values[i * stride];
        }
        break;
    }
    case GA_F16: {
        const ga_half *values = source;
        for (int64_t i = 0; i < count; i++) {
            target[i] = ga_half_to_float(values[i * stride]);
        }
        break;
    }
    case GA_BF16: {
        const uint16_t *values = source;
        for (int64_t i = 0; i < count; i++) {
            target[i] = ga_bfloat_to_float(values[i * stride]);
        }
        break;
    }
    default: {
        const double *values = source;
        for (int64_t i = 0; i < count; i++) {
            target[i] = (float)values[i * stride];
        }
        break;
    }
    }
}

/* Moves `index` to the next run (all dimensions but the last); false after the last one. */
static bool next_run(const ga_tensor *tensor, int64_t *index, int64_t *offset) {
    for (int32_t dim = tensor->dims - 2; dim >= 0; dim--) {
        index[dim]++;
        *offset += tensor->strides[dim];
        if (index[dim] < tensor->shape[dim]) {
            return true;
        }
        *offset -= index[dim] * tensor->strides[dim];
        index[dim] = 0;
    }
    return false;
}

ga_status ga_tensor_to_float(const ga_tensor *tensor, float *values_out, ga_error *error) {
    GA_TRY(ga_tensor_check(tensor, "tensor", error));
    if (tensor->device != GA_DEVICE_CPU) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "tensor is on device %d; only CPU memory can be gathered here",
            tensor->device);
    }
    if (tensor->dtype == GA_I64) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "tensor is i64; features are f32, f16, bf16 or f64");
    }
    const int64_t count = ga_tensor_count(tensor);
    if (count == 0) {
        return GA_OK;
    }
    if (ga_tensor_is_contiguous(tensor)) {
        convert_run(tensor->data, tensor->dtype, 1, count, values_out);
        return GA_OK;
    }
    const int64_t element_bytes = (int64_t)ga_dtype_bytes(tensor->dtype);
    const int64_t run = tensor->shape[tensor->dims - 1]; /* not contiguous: there is a dimension */
    const int64_t run_stride = tensor->strides[tensor->dims - 1];
    int64_t index[GA_TENSOR_DIMS_MAX] = {0};
    int64_t offset = 0;
    float *target = values_out;
    do {
        convert_run(
            (const char *)tensor->data + offset * element_bytes, tensor->dtype, run_stride, run, target);
        target += run;
    } while (next_run(tensor, index, &offset));
    return GA_OK;
}
