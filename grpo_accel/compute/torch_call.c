#include "grpo_accel/compute/torch_call.h"

#include <stdatomic.h>
#include <string.h>

#include "grpo_accel/base/check.h"

/* The oldest version whose signatures the calls are written for: 2.10, so that a newer PyTorch may adapt. */
#define WRITTEN_FOR_VERSION ((uint64_t)2 << 56 | (uint64_t)10 << 48)

/* What a slot of the stack owns. */
enum {
    OWNS_NOTHING = 0,
    OWNS_TENSOR,
    OWNS_NUMBERS,
    OWNS_TENSORS,
    OWNS_OPTIONAL_TENSOR,
    OWNS_OPTIONAL_NUMBERS
};

ga_torch_place ga_torch;

static atomic_int_least64_t live_handles;

void ga_torch_count_handles(int64_t change) {
    atomic_fetch_add_explicit(&live_handles, change, memory_order_relaxed);
}

int64_t ga_torch_live_handles(void) {
    return atomic_load_explicit(&live_handles, memory_order_relaxed);
}

/* ---- views ---- */

static ga_torch_view contiguous(const float *data, int32_t dims, int64_t a, int64_t b, int64_t c, int64_t d) {
    ga_torch_view view = {.data = data, .dims = dims, .dtype = ga_torch.float32, .sizes = {a, b, c, d}};
    int64_t stride = 1;
    for (int32_t dim = dims - 1; dim >= 0; dim--) {
        view.strides[dim] = stride;
        stride *= view.sizes[dim];
    }
    return view;
}

ga_torch_view ga_torch_view1(const float *data, int64_t a) {
    return contiguous(data, 1, a, 1, 1, 1);
}

ga_torch_view ga_torch_view2(const float *data, int64_t a, int64_t b) {
    return contiguous(data, 2, a, b, 1, 1);
}

ga_torch_view ga_torch_view2_strided(const float *data, int64_t rows, int64_t columns, int64_t stride) {
    ga_torch_view view = contiguous(data, 2, rows, columns, 1, 1);
    view.strides[0] = stride;
    return view;
}

ga_torch_view ga_torch_view3(const float *data, int64_t a, int64_t b, int64_t c) {
    return contiguous(data, 3, a, b, c, 1);
}

ga_torch_view ga_torch_view4(const float *data, int64_t a, int64_t b, int64_t c, int64_t d) {
    return contiguous(data, 4, a, b, c, d);
}

ga_torch_view ga_torch_view_transposed(ga_torch_view view) {
    ga_torch_view other = view;
    for (int dim = 0; dim < 2; dim++) {
        other.sizes[dim] = view.sizes[1 - dim];
        other.strides[dim] = view.strides[1 - dim];
    }
    return other;
}

ga_torch_view ga_torch_view_host(const float *data, int64_t count) {
    ga_torch_view view = contiguous(data, 1, count, 1, 1, 1);
    view.on_host = true;
    return view;
}

ga_torch_view ga_torch_view_number(const float *value) {
    ga_torch_view view = contiguous(value, 0, 1, 1, 1, 1);
    view.on_host = true;
    return view;
}

/* ---- handles ---- */

ga_status ga_torch_fail(const char *what, ga_error *error) {
    const char *text = ga_torch.symbols.exception_text != NULL ? ga_torch.symbols.exception_text() : NULL;
    if (text == NULL || text[0] == '\0') {
        text = "PyTorch printed the reason on standard error";
    }
    const bool no_room = strstr(text, "out of memory") != NULL;
    return GA_FAIL(
        error, no_room ? GA_ERR_MEMORY : GA_ERR_DATA, "provider torch: %s failed: %.300s", what, text);
}

ga_status ga_torch_wrap(const ga_torch_view *view, ga_torch_handle *handle_out, ga_error *error) {
    /* the shim takes void * for memory that is only read as well */
    void *data;
    memcpy(&data, &view->data, sizeof data);
    const int32_t device = view->on_host ? ga_torch.cpu : ga_torch.device;
    const int32_t index = view->on_host || !ga_torch.is_cuda ? 0 : ga_torch.device_index;
    if (ga_torch.symbols.from_blob(
            data, view->dims, view->sizes, view->strides, 0, view->dtype, device, index, handle_out) != 0) {
        return ga_torch_fail("wrapping memory as a tensor", error);
    }
    ga_torch_count_handles(1);
    return GA_OK;
}

void ga_torch_drop(ga_torch_handle handle) {
    if (handle != NULL) {
        (void)ga_torch.symbols.delete_tensor(handle);
        ga_torch_count_handles(-1);
    }
}

ga_status ga_torch_move(const ga_torch_view *target, ga_torch_handle source, ga_error *error) {
    ga_torch_handle wrapped;
    ga_status status = ga_torch_wrap(target, &wrapped, error);
    if (status == GA_OK) {
        if (ga_torch.symbols.copy(wrapped, source, 0) != 0) {
            status = ga_torch_fail("copying a result", error);
        }
        ga_torch_drop(wrapped);
    }
    ga_torch_drop(source);
    return status;
}

ga_status ga_torch_copy(const ga_torch_view *target, const ga_torch_view *source, ga_error *error) {
    ga_torch_handle wrapped;
    GA_TRY(ga_torch_wrap(source, &wrapped, error));
    return ga_torch_move(target, wrapped, error);
}

/* ---- arguments ---- */

void ga_torch_call_begin(ga_torch_call *call, const char *name, const char *overload, ga_error *error) {
    memset(call, 0, sizeof *call); /* arguments that a newer version appends read as None, 0, false */
    call->name = name;
    call->overload = overload;
    call->error = error;
}

static void push(ga_torch_call *call, uint64_t bits, uint8_t kind) {
    if (!GA_INVARIANT(call->used < GA_TORCH_STACK)) {
        call->status = GA_FAIL(call->error, GA_ERR_BUG, "too many arguments for %s", call->name);
        return;
    }
    call->stack[call->used] = bits;
    call->kinds[call->used] = kind;
    call->used++;
}

static uint64_t bits_of_handle(ga_torch_handle handle) {
    return (uint64_t)(uintptr_t)handle;
}

/* A heap slot as the dispatcher wants it for an optional that is present; it is PyTorch's to delete. */
static uint64_t *new_value(ga_torch_call *call, uint64_t bits) {
    uint64_t *value = NULL;
    if (ga_torch.symbols.new_value != NULL) {
        if (ga_torch.symbols.new_value(&value) != 0) {
            value = NULL;
        }
    } else {
        value = ga_torch.symbols.operator_new(sizeof *value);
    }
    if (value == NULL) {
        call->status = ga_torch_fail("making an optional argument", call->error);
        return NULL;
    }
    *value = bits;
    return value;
}

static void delete_value(uint64_t *value) {
    if (ga_torch.symbols.new_value != NULL && ga_torch.symbols.delete_value != NULL) {
        (void)ga_torch.symbols.delete_value(value);
    } else if (ga_torch.symbols.operator_delete != NULL) {
        ga_torch.symbols.operator_delete(value);
    }
}

void ga_torch_give_handle(ga_torch_call *call, ga_torch_handle handle) {
    push(call, bits_of_handle(handle), OWNS_TENSOR);
}

void ga_torch_give_view(ga_torch_call *call, ga_torch_view view) {
    ga_torch_handle handle;
    if (call->status == GA_OK) {
        call->status = ga_torch_wrap(&view, &handle, call->error);
        if (call->status == GA_OK) {
            ga_torch_give_handle(call, handle);
        }
    }
}

void ga_torch_give_optional_view(ga_torch_call *call, bool present, ga_torch_view view) {
    if (!present) {
        ga_torch_give_none(call);
        return;
    }
    ga_torch_handle handle;
    if (call->status == GA_OK) {
        call->status = ga_torch_wrap(&view, &handle, call->error);
    }
    if (call->status != GA_OK) {
        return;
    }
    uint64_t *value = new_value(call, bits_of_handle(handle));
    if (value == NULL) {
        ga_torch_drop(handle);
        return;
    }
    push(call, (uint64_t)(uintptr_t)value, OWNS_OPTIONAL_TENSOR);
}

static ga_torch_list new_list(ga_torch_call *call, const uint64_t *values, int32_t count) {
    ga_torch_list list;
    if (ga_torch.symbols.new_list((size_t)count, &list) != 0) {
        call->status = ga_torch_fail("making a list", call->error);
        return NULL;
    }
    for (int32_t i = 0; i < count; i++) {
        if (ga_torch.symbols.list_push_back(list, values[i]) != 0) {
            call->status = ga_torch_fail("filling a list", call->error);
            (void)ga_torch.symbols.delete_list(list);
            return NULL;
        }
    }
    return list;
}

void ga_torch_give_ints(ga_torch_call *call, const int64_t *values, int32_t count) {
    uint64_t bits[8] = {0};
    for (int32_t i = 0; i < count && i < 8; i++) {
        bits[i] = (uint64_t)values[i];
    }
    const ga_torch_list list = call->status == GA_OK ? new_list(call, bits, count) : NULL;
    if (list != NULL) {
        push(call, (uint64_t)(uintptr_t)list, OWNS_NUMBERS);
    }
}

void ga_torch_give_optional_ints(ga_torch_call *call, const int64_t *values, int32_t count) {
    if (values == NULL) {
        ga_torch_give_none(call);
        return;
    }
    ga_torch_give_ints(call, values, count);
    if (call->status != GA_OK) {
        return;
    }
    uint64_t *value = new_value(call, call->stack[call->used - 1]);
    if (value != NULL) {
        call->stack[call->used - 1] = (uint64_t)(uintptr_t)value;
        call->kinds[call->used - 1] = OWNS_OPTIONAL_NUMBERS;
    }
}

static void drop_all(ga_torch_handle *handles, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        ga_torch_drop(handles[i]);
    }
}

void ga_torch_give_handles(ga_torch_call *call, ga_torch_handle *handles, int32_t count) {
    uint64_t bits[8] = {0};
    for (int32_t i = 0; i < count && i < 8; i++) {
        bits[i] = bits_of_handle(handles[i]);
    }
    const ga_torch_list list = call->status == GA_OK ? new_list(call, bits, count) : NULL;
    if (list == NULL) {
        drop_all(handles, count);
        return;
    }
    push(call, (uint64_t)(uintptr_t)list, OWNS_TENSORS);
}

void ga_torch_give_views(ga_torch_call *call, const ga_torch_view *views, int32_t count) {
    ga_torch_handle handles[8];
    int32_t wrapped = 0;
    while (call->status == GA_OK && wrapped < count && wrapped < 8) {
        call->status = ga_torch_wrap(&views[wrapped], &handles[wrapped], call->error);
        wrapped += call->status == GA_OK;
    }
    ga_torch_give_handles(call, handles, wrapped);
}

void ga_torch_give_int(ga_torch_call *call, int64_t value) {
    push(call, (uint64_t)value, OWNS_NOTHING);
}

void ga_torch_give_float(ga_torch_call *call, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    push(call, bits, OWNS_NOTHING);
}

void ga_torch_give_bool(ga_torch_call *call, bool value) {
    push(call, value ? 1 : 0, OWNS_NOTHING);
}

void ga_torch_give_none(ga_torch_call *call) {
    push(call, 0, OWNS_NOTHING);
}

/* ---- the call ---- */

/* Deleting a list forgets the handles in it; the dispatcher alone takes them over. */
static void drop_list(ga_torch_list list) {
    size_t count = 0;
    (void)ga_torch.symbols.list_size(list, &count);
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = 0;
        if (ga_torch.symbols.list_get_item(list, i, &bits) == 0) {
            ga_torch_drop((ga_torch_handle)(uintptr_t)bits);
        }
    }
    (void)ga_torch.symbols.delete_list(list);
}

/* What a call owns that never reached the dispatcher. */
static void free_arguments(const ga_torch_call *call) {
    for (int32_t i = 0; i < call->used; i++) {
        void *owned = (void *)(uintptr_t)call->stack[i];
        uint64_t *value = owned;
        switch (call->kinds[i]) {
        case OWNS_TENSOR: ga_torch_drop(owned); break;
        case OWNS_NUMBERS: (void)ga_torch.symbols.delete_list(owned); break;
        case OWNS_TENSORS: drop_list(owned); break;
        case OWNS_OPTIONAL_TENSOR:
            ga_torch_drop((ga_torch_handle)(uintptr_t)*value);
            delete_value(value);
            break;
        case OWNS_OPTIONAL_NUMBERS:
            (void)ga_torch.symbols.delete_list((ga_torch_list)(uintptr_t)*value);
            delete_value(value);
            break;
        default: break;
        }
    }
}

static int64_t tensors_given(const ga_torch_call *call) {
    int64_t count = 0;
    for (int32_t i = 0; i < call->used; i++) {
        size_t listed = 0;
        if (call->kinds[i] == OWNS_TENSORS) {
            (void)ga_torch.symbols.list_size((ga_torch_list)(uintptr_t)call->stack[i], &listed);
        }
        count += (int64_t)listed + (call->kinds[i] == OWNS_TENSOR || call->kinds[i] == OWNS_OPTIONAL_TENSOR);
    }
    return count;
}

ga_status ga_torch_call_finish(ga_torch_call *call, int32_t results, ga_torch_handle *results_out) {
    if (call->status != GA_OK) {
        free_arguments(call);
        return call->status;
    }
    ga_torch_count_handles(-tensors_given(call)); /* consumed, whether it goes well or not */
    if (ga_torch.symbols.call_dispatcher(call->name, call->overload, call->stack, WRITTEN_FOR_VERSION) != 0) {
        return ga_torch_fail(call->name, call->error);
    }
    for (int32_t i = 0; i < results; i++) {
        results_out[i] = (ga_torch_handle)(uintptr_t)call->stack[i];
    }
    ga_torch_count_handles(results);
    return GA_OK;
}

ga_status ga_torch_call_finish_in_place(ga_torch_call *call, int32_t results) {
    ga_torch_handle returned[4];
    GA_TRY(ga_torch_call_finish(call, results, returned));
    drop_all(returned, results);
    return GA_OK;
}
