#include "grpo_accel/compute/torch_memory.h"

#include <pthread.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"

/* Which tensor holds the array that begins at a pointer. */
typedef struct held_array {
    float *memory;
    ga_torch_handle handle;
} held_array;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static held_array *held;
static size_t held_count, held_room;

static bool remember(float *memory, ga_torch_handle handle) {
    pthread_mutex_lock(&lock);
    if (held_count == held_room) {
        const size_t room = held_room == 0 ? 64 : 2 * held_room;
        held_array *larger = realloc(held, room * sizeof *held);
        if (larger == NULL) {
            pthread_mutex_unlock(&lock);
            return false;
        }
        held = larger;
        held_room = room;
    }
    held[held_count++] = (held_array){memory, handle};
    pthread_mutex_unlock(&lock);
    return true;
}

/* From the end: what was allocated last is mostly released first. */
static ga_torch_handle forget(const float *memory) {
    ga_torch_handle handle = NULL;
    pthread_mutex_lock(&lock);
    for (size_t i = held_count; i > 0 && handle == NULL; i--) {
        if (held[i - 1].memory == memory) {
            handle = held[i - 1].handle;
            held[i - 1] = held[--held_count];
        }
    }
    pthread_mutex_unlock(&lock);
    return handle;
}

ga_status ga_torch_allocate_scratch(size_t floats, float **memory_out, ga_error *error) {
    if (floats > (size_t)INT64_MAX / sizeof(float)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "an array of %zu floats can't be counted in bytes", floats);
    }
    const int64_t size = floats == 0 ? 1 : (int64_t)floats; /* an empty tensor has no address */
    const int64_t stride = 1;
    ga_torch_handle handle;
    if (ga_torch.symbols.empty_strided(
            1, &size, &stride, ga_torch.float32, ga_torch.device, ga_torch.device_index, &handle) != 0) {
        ga_error reason = {0};
        (void)ga_torch_fail("allocating", &reason);
        return GA_FAIL(error, GA_ERR_MEMORY, "%zu floats: %.400s", floats, reason.message);
    }
    ga_torch_count_handles(1);
    void *memory = NULL;
    if (ga_torch.symbols.get_data_ptr(handle, &memory) != 0 || memory == NULL || !remember(memory, handle)) {
        ga_torch_drop(handle);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for an array of %zu floats", floats);
    }
    *memory_out = memory;
    return GA_OK;
}

ga_status ga_torch_allocate(size_t floats, float **memory_out, ga_error *error) {
    float *memory;
    GA_TRY(ga_torch_allocate_scratch(floats, &memory, error));
    const ga_status status = ga_torch_zero(floats, memory, error);
    if (status != GA_OK) {
        ga_torch_release(memory);
        return status;
    }
    *memory_out = memory;
    return GA_OK;
}

void ga_torch_release(float *memory) {
    if (memory != NULL) {
        ga_torch_drop(forget(memory));
    }
}

/* Between host memory and the device; PyTorch waits for the device unless told not to. */
static ga_status copy(
    size_t floats, const float *from, bool from_host, const float *to, bool to_host, ga_error *error) {
    if (floats > (size_t)INT64_MAX / sizeof(float)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a copy of %zu floats is impossible", floats);
    }
    if (floats == 0) {
        return GA_OK;
    }
    ga_torch_view source = ga_torch_view1(from, (int64_t)floats);
    ga_torch_view target = ga_torch_view1(to, (int64_t)floats);
    source.on_host = from_host;
    target.on_host = to_host;
    return ga_torch_copy(&target, &source, error);
}

ga_status ga_torch_upload(size_t floats, const float *host, float *memory, ga_error *error) {
    return copy(floats, host, true, memory, false, error);
}

ga_status ga_torch_download(size_t floats, const float *memory, float *host, ga_error *error) {
    return copy(floats, memory, false, host, true, error);
}

ga_status ga_torch_zero(size_t floats, float *memory, ga_error *error) {
    if (floats > (size_t)INT64_MAX / sizeof(float)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%zu floats can't be zeroed", floats);
    }
    if (floats == 0) {
        return GA_OK;
    }
    const ga_torch_view view = ga_torch_view1(memory, (int64_t)floats);
    ga_torch_handle handle;
    GA_TRY(ga_torch_wrap(&view, &handle, error));
    const ga_status status =
        ga_torch.symbols.zero(handle) == 0 ? GA_OK : ga_torch_fail("zeroing an array", error);
    ga_torch_drop(handle);
    return status;
}
