/*
 * The back-port: the functions of PyTorch's stable C shim that 2.6 … 2.9 don't have yet, under the same names
 * and with the same contracts, so that the provider `torch` runs there unchanged.
 *
 * Built against the user's PyTorch (meson option torch_compat) and for that version alone; the C code finds
 * it with dlopen and never links it. Arguments that the shim can't pass, Scalars above all, are refused here
 * too: the provider must need the same on every version.
 */
#include <torch/library.h>

namespace {

using Bits = uint64_t;
using List = std::vector<Bits>;

thread_local std::string last_error;

at::Tensor take_tensor(Bits bits) {
    std::unique_ptr<at::Tensor> owned(reinterpret_cast<at::Tensor *>(bits));
    TORCH_CHECK(owned != nullptr, "a tensor is missing");
    return std::move(*owned);
}

Bits give_tensor(at::Tensor tensor) {
    return reinterpret_cast<Bits>(new at::Tensor(std::move(tensor)));
}

c10::IValue take_list(const c10::Type &element, Bits bits) {
    std::unique_ptr<List> owned(reinterpret_cast<List *>(bits));
    TORCH_CHECK(owned != nullptr, "a list is missing");
    switch (element.kind()) {
    case c10::TypeKind::TensorType: {
        c10::List<at::Tensor> tensors;
        for (Bits item : *owned) {
            tensors.push_back(take_tensor(item));
        }
        return tensors;
    }
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: {
        c10::List<int64_t> numbers;
        for (Bits item : *owned) {
            numbers.push_back(static_cast<int64_t>(item));
        }
        return numbers;
    }
    case c10::TypeKind::BoolType: {
        c10::List<bool> flags;
        for (Bits item : *owned) {
            flags.push_back(item != 0);
        }
        return flags;
    }
    default: TORCH_CHECK(false, "a list of ", element.str(), " can't be passed");
    }
}

/* One argument, by the type that the operator's signature gives it. */
c10::IValue take_value(const c10::Type &type, Bits bits) {
    switch (type.kind()) {
    case c10::TypeKind::TensorType: return take_tensor(bits);
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return static_cast<int64_t>(bits);
    case c10::TypeKind::BoolType: return (bits & 0xff) != 0;
    case c10::TypeKind::FloatType: {
        double value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
    case c10::TypeKind::ListType: return take_list(*type.containedType(0), bits);
    case c10::TypeKind::OptionalType: {
        if (bits == 0) {
            return c10::IValue();
        }
        std::unique_ptr<Bits> held(reinterpret_cast<Bits *>(bits));
        return take_value(*type.containedType(0), *held);
    }
    default: TORCH_CHECK(false, "an argument of type ", type.str(), " can't be passed");
    }
}

void call(const char *name, const char *overload, Bits *values) {
    const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
    std::vector<c10::IValue> stack;
    for (const c10::Argument &argument : handle.schema().arguments()) {
        stack.push_back(take_value(*argument.type(), values[stack.size()]));
    }
    handle.callBoxed(stack);
    for (size_t i = 0; i < stack.size(); i++) {
        TORCH_CHECK(stack[i].isTensor(), name, " gives back what is no tensor");
        values[i] = give_tensor(std::move(stack[i]).toTensor());
    }
}

/* Runs `work`; an exception becomes 1 and the thread's error text. */
template <typename Work>
int32_t guarded(Work work) {
    try {
        work();
        return 0;
    } catch (const c10::Error &error) {
        last_error = error.what_without_backtrace();
    } catch (const std::exception &error) {
        last_error = error.what();
    }
    return 1;
}

} // namespace

#define GA_BACKPORT extern "C" __attribute__((visibility("default")))

GA_BACKPORT int32_t torch_call_dispatcher(const char *, const char *, Bits *, uint64_t);
GA_BACKPORT int32_t torch_new_list_reserve_size(size_t, List **);
GA_BACKPORT int32_t torch_list_push_back(List *, Bits);
GA_BACKPORT int32_t torch_list_size(List *, size_t *);
GA_BACKPORT int32_t torch_list_get_item(List *, size_t, Bits *);
GA_BACKPORT int32_t torch_delete_list(List *);
GA_BACKPORT int32_t torch_new_stable_ivalue(Bits **);
GA_BACKPORT int32_t torch_delete_stable_ivalue(Bits *);
GA_BACKPORT const char *torch_exception_get_what_without_backtrace();

int32_t torch_call_dispatcher(const char *name, const char *overload, Bits *stack, uint64_t) {
    return guarded([&] { call(name, overload, stack); });
}

int32_t torch_new_list_reserve_size(size_t size, List **list_out) {
    return guarded([&] {
        auto list = std::make_unique<List>();
        list->reserve(size);
        *list_out = list.release();
    });
}

int32_t torch_list_push_back(List *list, Bits item) {
    return guarded([&] { list->push_back(item); });
}

int32_t torch_list_size(List *list, size_t *size_out) {
    *size_out = list->size();
    return 0;
}

int32_t torch_list_get_item(List *list, size_t index, Bits *item_out) {
    return guarded([&] { *item_out = list->at(index); });
}

int32_t torch_delete_list(List *list) {
    delete list;
    return 0;
}

int32_t torch_new_stable_ivalue(Bits **value_out) {
    return guarded([&] { *value_out = new Bits(0); });
}

int32_t torch_delete_stable_ivalue(Bits *value) {
    delete value;
    return 0;
}

const char *torch_exception_get_what_without_backtrace() {
    return last_error.c_str();
}
