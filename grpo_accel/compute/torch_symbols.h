/*
 * PyTorch's C shim: own prototypes of the functions that are used, and where they are found.
 *
 * The headers of PyTorch are C++; the binary interface is plain C: an error is an int32_t (0: fine), a tensor
 * an owning opaque handle, an argument of an operator 64 bits.
 */
#ifndef GA_COMPUTE_TORCH_SYMBOLS_H
#define GA_COMPUTE_TORCH_SYMBOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/compute/torch.h"

typedef struct ga_torch_tensor_opaque *ga_torch_handle;
typedef struct ga_torch_list_opaque *ga_torch_list;

/* X(member, symbol, where, result, parameters). where: CORE since 2.6; BACKPORT since 2.10, or in the
 * back-port; OPTIONAL newer, with a way around; CUDA in libtorch_cuda.so. */
#define GA_TORCH_FUNCTIONS(X)                                                                                \
    X(get_data_ptr, "aoti_torch_get_data_ptr", CORE, int32_t, (ga_torch_handle, void **))                    \
    X(empty_strided, "aoti_torch_empty_strided", CORE, int32_t,                                              \
        (int64_t, const int64_t *, const int64_t *, int32_t, int32_t, int32_t, ga_torch_handle *))           \
    X(from_blob, "aoti_torch_create_tensor_from_blob", CORE, int32_t,                                        \
        (void *, int64_t, const int64_t *, const int64_t *, int64_t, int32_t, int32_t, int32_t,              \
            ga_torch_handle *))                                                                              \
    X(delete_tensor, "aoti_torch_delete_tensor_object", CORE, int32_t, (ga_torch_handle))                    \
    X(copy, "aoti_torch_copy_", CORE, int32_t, (ga_torch_handle, ga_torch_handle, int32_t))                  \
    X(zero, "aoti_torch_zero_", CORE, int32_t, (ga_torch_handle))                                            \
    X(grad_mode_is_enabled, "aoti_torch_grad_mode_is_enabled", CORE, bool, (void))                           \
    X(grad_mode_set_enabled, "aoti_torch_grad_mode_set_enabled", CORE, void, (bool))                         \
    X(dtype_float32, "aoti_torch_dtype_float32", CORE, int32_t, (void))                                      \
    X(dtype_float16, "aoti_torch_dtype_float16", CORE, int32_t, (void))                                      \
    X(dtype_bfloat16, "aoti_torch_dtype_bfloat16", CORE, int32_t, (void))                                    \
    X(device_type_cpu, "aoti_torch_device_type_cpu", CORE, int32_t, (void))                                  \
    X(device_type_cuda, "aoti_torch_device_type_cuda", CORE, int32_t, (void))                                \
    X(call_dispatcher, "torch_call_dispatcher", BACKPORT, int32_t,                                           \
        (const char *, const char *, uint64_t *, uint64_t))                                                  \
    X(new_list, "torch_new_list_reserve_size", BACKPORT, int32_t, (size_t, ga_torch_list *))                 \
    X(list_push_back, "torch_list_push_back", BACKPORT, int32_t, (ga_torch_list, uint64_t))                  \
    X(list_size, "torch_list_size", BACKPORT, int32_t, (ga_torch_list, size_t *))                            \
    X(list_get_item, "torch_list_get_item", BACKPORT, int32_t, (ga_torch_list, size_t, uint64_t *))          \
    X(delete_list, "torch_delete_list", BACKPORT, int32_t, (ga_torch_list))                                  \
    X(exception_text, "torch_exception_get_what_without_backtrace", OPTIONAL, const char *, (void))          \
    X(new_value, "torch_new_stable_ivalue", OPTIONAL, int32_t, (uint64_t **))                                \
    X(delete_value, "torch_delete_stable_ivalue", OPTIONAL, int32_t, (uint64_t *))                           \
    X(abi_version, "aoti_torch_abi_version", OPTIONAL, uint64_t, (void))                                     \
    X(operator_new, "_Znwm", OPTIONAL, void *, (size_t))                                                     \
    X(operator_delete, "_ZdlPv", OPTIONAL, void, (void *))                                                   \
    X(current_stream, "aoti_torch_get_current_cuda_stream", CUDA, int32_t, (int32_t, void **))               \
    X(new_stream_guard, "aoti_torch_create_cuda_stream_guard", CUDA, int32_t, (void *, int32_t, void **))    \
    X(delete_stream_guard, "aoti_torch_delete_cuda_stream_guard", CUDA, int32_t, (void *))

typedef struct ga_torch_symbols {
#define GA_TORCH_MEMBER(member, symbol, where, result, parameters) result(*member) parameters;
    GA_TORCH_FUNCTIONS(GA_TORCH_MEMBER)
#undef GA_TORCH_MEMBER
} ga_torch_symbols;

/*
 * Finds PyTorch and fills *symbols_out and *info_out (library, version, backport, missing, functions_*;
 * filled on failure too, its texts belong to this file). Not thread-safe: the caller holds a lock. Errors:
 * MISSING.
 */
ga_status ga_torch_symbols_find(
    const ga_torch_options *options, ga_torch_symbols *symbols_out, ga_torch_info *info_out, ga_error *error);

#endif
