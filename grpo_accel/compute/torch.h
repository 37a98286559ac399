/*
 * The provider `torch`: the table of operations computed by the PyTorch that is in the process, on the CPU or
 * on one CUDA device.
 *
 * Nothing is linked: libtorch_cpu.so is looked for among the loaded libraries, or loaded from a folder that
 * the caller names, and some forty functions of PyTorch's C shim (torch/csrc/inductor/aoti_torch/c/shim.h,
 * torch/csrc/stable/c/shim.h) are looked up in it. PyTorch 2.10 and newer have them all; for 2.6 … 2.9 a
 * back-port library brings those that are missing (environment GRPO_ACCEL_TORCH_COMPAT, or beside this
 * library). Operators are called by name through the dispatcher, never with a random generator and never with
 * autograd; jobs run on a thread of their own (ga_compute.run), so autocast, grad mode and inference mode of
 * the caller neither matter nor change.
 */
#ifndef GA_COMPUTE_TORCH_H
#define GA_COMPUTE_TORCH_H

#include "grpo_accel/compute/compute.h"

/* The name of the back-port library beside ours. */
#define GA_TORCH_BACKPORT_FILE "libgrpo_accel_torch_compat.so"

typedef enum ga_provider_kind {
    GA_PROVIDER_AUTO = 0,
    GA_PROVIDER_TORCH = 1,
    GA_PROVIDER_NATIVE = 2
} ga_provider_kind;

typedef struct ga_torch_options {
    const char
        *directory; /* the torch/lib folder to load from where no PyTorch is loaded; NULL: don't load */
    int32_t device; /* ga_device */
    int32_t device_index;
} ga_torch_options;

/* What the last search for PyTorch found. All texts live as long as the process. */
typedef struct ga_torch_info {
    const char *library;     /* path of libtorch_cpu.so; "" where none was found */
    const char *version;     /* "2.13.0", "2.6 … 2.8" where the library can't say more; "" where none */
    const char *backport;    /* path of the back-port in use; "" where none */
    const char *missing;     /* functions that were looked for and not found, comma-separated */
    int32_t functions_found; /* of … */
    int32_t functions_wanted;
    int64_t live_handles; /* tensors that this provider holds at the moment */
    bool open;            /* ga_compute_torch has given out its table */
} ga_torch_info;

/*
 * The table of the provider. *compute_out: static storage, the same at each call. One device a process: a
 * second call with another one is refused (ARGUMENT). At the first call the operators are compared with the
 * native provider on small exact inputs, see torch_check.h.
 * Errors: MISSING with what was looked for where and what to do; ARGUMENT.
 * Not collective. Any thread.
 */
ga_status ga_compute_torch(const ga_torch_options *options, const ga_compute **compute_out, ga_error *error);

/*
 * The table for tensors on `device`. AUTO: torch for a CUDA device if it is to be had, else native, whose
 * caller copies; native for the CPU. `torch_directory`: as ga_torch_options.directory, NULL allowed.
 * Errors: as ga_compute_torch, but for AUTO and NATIVE none.
 */
ga_status ga_compute_open(ga_provider_kind kind, int32_t device, int32_t device_index,
    const char *torch_directory, const ga_compute **compute_out, ga_error *error);

/* Never NULL; empty texts before the first call of ga_compute_torch. */
const ga_torch_info *ga_compute_torch_info(void);

/*
 * The operators that are called, one line each: "name\tsignature\n", in PyTorch's notation, as written for.
 * Python compares them with str(torch.ops.aten.….…​._schema): the shim can't print them. Static
 * storage.
 */
const char *ga_compute_torch_schemas(void);

#endif
