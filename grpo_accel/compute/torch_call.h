/*
 * Calls of aten operators: arguments are given one by one, PyTorch's dispatcher does the rest.
 *
 * A call collects the first thing that goes wrong; ga_torch_call_finish reports it, so that giving arguments
 * needs no checks in between. PyTorch owns what has been given as soon as the dispatcher is called; before
 * that finish frees it. Scalars of PyTorch can't be passed: operators are chosen so that none is needed.
 * Views are wrapped without a copy; their memory must outlive the call (on CUDA: stay allocated, the caching
 * allocator keeps the order of the stream). Any thread. Not collective.
 */
#ifndef GA_COMPUTE_TORCH_CALL_H
#define GA_COMPUTE_TORCH_CALL_H

#include "grpo_accel/compute/torch_symbols.h"

#define GA_TORCH_STACK 32
#define GA_TORCH_DIMS 4

/* Where and what: set once by ga_compute_torch before any other function here is called. */
typedef struct ga_torch_place {
    ga_torch_symbols symbols;
    int32_t float32, float16, bfloat16; /* PyTorch's codes */
    int32_t cpu, device;                /* device types */
    int32_t device_index;
    bool is_cuda;
} ga_torch_place;

extern ga_torch_place ga_torch;

/* Memory as a tensor. Strides in elements. */
typedef struct ga_torch_view {
    const void *data;
    int32_t dims;
    int32_t dtype; /* PyTorch's code */
    bool on_host;  /* in host memory although the device is another */
    int64_t sizes[GA_TORCH_DIMS], strides[GA_TORCH_DIMS];
} ga_torch_view;

/* fp32 on the device, contiguous; view2_strided: rows `stride` apart. */
ga_torch_view ga_torch_view1(const float *data, int64_t a);
ga_torch_view ga_torch_view2(const float *data, int64_t a, int64_t b);
ga_torch_view ga_torch_view2_strided(const float *data, int64_t rows, int64_t columns, int64_t stride);
ga_torch_view ga_torch_view3(const float *data, int64_t a, int64_t b, int64_t c);
ga_torch_view ga_torch_view4(const float *data, int64_t a, int64_t b, int64_t c, int64_t d);
/* [columns, rows] of a view [rows, columns]. */
ga_torch_view ga_torch_view_transposed(ga_torch_view view);
/* `count` floats in host memory, as a vector; or one as a number without dimension. */
ga_torch_view ga_torch_view_host(const float *data, int64_t count);
ga_torch_view ga_torch_view_number(const float *value);

/* The handle belongs to the caller: ga_torch_drop. */
ga_status ga_torch_wrap(const ga_torch_view *view, ga_torch_handle *handle_out, ga_error *error);
/* Frees a handle; NULL is allowed. */
void ga_torch_drop(ga_torch_handle handle);
/* Counts a handle that PyTorch gave us. */
void ga_torch_count_handles(int64_t change);
int64_t ga_torch_live_handles(void);
/* The error of a shim function that returned other than 0. */
ga_status ga_torch_fail(const char *what, ga_error *error);

/* target = source, with conversion; both views' memory stays the caller's. */
ga_status ga_torch_copy(const ga_torch_view *target, const ga_torch_view *source, ga_error *error);
/* target = the tensor's values; the handle is freed in any case. */
ga_status ga_torch_move(const ga_torch_view *target, ga_torch_handle source, ga_error *error);

typedef struct ga_torch_call {
    const char *name, *overload;
    ga_error *error;
    ga_status status;
    int32_t used;
    uint8_t kinds[GA_TORCH_STACK];
    uint64_t stack[GA_TORCH_STACK];
} ga_torch_call;

/* name "aten::silu", overload "out" or "". */
void ga_torch_call_begin(ga_torch_call *call, const char *name, const char *overload, ga_error *error);
void ga_torch_give_view(ga_torch_call *call, ga_torch_view view);
void ga_torch_give_optional_view(ga_torch_call *call, bool present, ga_torch_view view);
void ga_torch_give_handle(ga_torch_call *call, ga_torch_handle handle); /* takes it over */
void ga_torch_give_views(ga_torch_call *call, const ga_torch_view *views, int32_t count);
void ga_torch_give_handles(
    ga_torch_call *call, ga_torch_handle *handles, int32_t count); /* takes them over */
void ga_torch_give_int(ga_torch_call *call, int64_t value);
void ga_torch_give_float(ga_torch_call *call, double value);
void ga_torch_give_bool(ga_torch_call *call, bool value);
void ga_torch_give_none(ga_torch_call *call);
void ga_torch_give_ints(ga_torch_call *call, const int64_t *values, int32_t count);
void ga_torch_give_optional_ints(ga_torch_call *call, const int64_t *values, int32_t count);

/*
 * Calls the operator. `results` handles go to results_out and belong to the caller; undefined ones (of a
 * masked output) are handles too.
 */
ga_status ga_torch_call_finish(ga_torch_call *call, int32_t results, ga_torch_handle *results_out);
/* The same for an operator whose results are its own arguments: they are dropped. */
ga_status ga_torch_call_finish_in_place(ga_torch_call *call, int32_t results);

#endif
