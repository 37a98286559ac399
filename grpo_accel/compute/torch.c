#include "grpo_accel/compute/torch.h"

#include <pthread.h>
#include <string.h>

#include "grpo_accel/compute/torch_attention.h"
#include "grpo_accel/compute/torch_check.h"
#include "grpo_accel/compute/torch_memory.h"
#include "grpo_accel/compute/torch_ops.h"
#include "grpo_accel/compute/torch_run.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows, and ga_torch until is_open */
static bool is_open;
static ga_torch_info info = {.library = "", .version = "", .backport = "", .missing = ""};

static ga_compute table = {.version = GA_COMPUTE_VERSION,
    .name = "torch",
    .sgemm = ga_torch_sgemm,
    .conv_workspace_floats = ga_torch_conv_workspace_floats,
    .conv_forward = ga_torch_conv_forward,
    .conv_backward = ga_torch_conv_backward,
    .group_norm_forward = ga_torch_group_norm_forward,
    .group_norm_backward = ga_torch_group_norm_backward,
    .silu_forward = ga_torch_silu_forward,
    .silu_backward = ga_torch_silu_backward,
    .linear_forward = ga_torch_linear_forward,
    .linear_backward = ga_torch_linear_backward,
    .mean_pool_forward = ga_torch_mean_pool_forward,
    .mean_pool_backward = ga_torch_mean_pool_backward,
    .channel_shift_forward = ga_torch_channel_shift_forward,
    .channel_shift_backward = ga_torch_channel_shift_backward,
    .accumulate = ga_torch_accumulate,
    .adamw = ga_torch_adamw,
    .allocate = ga_torch_allocate,
    .release = ga_torch_release,
    .upload = ga_torch_upload,
    .download = ga_torch_download,
    .zero = ga_torch_zero,
    .run = ga_torch_run,
    .channel_scale_forward = ga_torch_channel_scale_forward,
    .channel_scale_backward = ga_torch_channel_scale_backward,
    .copy_columns = ga_torch_copy_columns,
    .lerp = ga_torch_lerp,
    .attention = ga_torch_attention};

static void settle(const ga_torch_symbols *symbols, const ga_torch_options *options) {
    ga_torch.symbols = *symbols;
    ga_torch.float32 = symbols->dtype_float32();
    ga_torch.float16 = symbols->dtype_float16();
    ga_torch.bfloat16 = symbols->dtype_bfloat16();
    ga_torch.cpu = symbols->device_type_cpu();
    ga_torch.is_cuda = options->device == GA_DEVICE_CUDA;
    ga_torch.device = ga_torch.is_cuda ? symbols->device_type_cuda() : ga_torch.cpu;
    ga_torch.device_index = ga_torch.is_cuda ? options->device_index : 0;
    table.device = options->device;
    table.device_index = ga_torch.device_index;
}

static ga_status prepare(void *unused, ga_error *error) {
    (void)unused;
    GA_TRY(ga_torch_elements_prepare(error));
    return ga_torch_check(&table, ga_compute_native(), error);
}

static ga_status open_locked(const ga_torch_options *options, ga_error *error) {
    const int32_t index = options->device == GA_DEVICE_CUDA ? options->device_index : 0;
    if (is_open) {
        return table.device == options->device && table.device_index == index
                   ? GA_OK
                   : GA_FAIL(error, GA_ERR_ARGUMENT,
                         "provider torch: device %d:%d was asked for, but this process uses %d:%d; one "
                         "device "
                         "a process",
                         options->device, index, table.device, table.device_index);
    }
    ga_torch_symbols symbols;
    GA_TRY(ga_torch_symbols_find(options, &symbols, &info, error));
    settle(&symbols, options);
    const ga_status status = ga_torch_run(prepare, NULL, error);
    if (status != GA_OK) {
        ga_torch_elements_forget(); /* the next attempt may be for another device */
        return status;
    }
    is_open = true;
    info.open = true;
    return GA_OK;
}

ga_status ga_compute_torch(const ga_torch_options *options, const ga_compute **compute_out, ga_error *error) {
    const bool known = options->device == GA_DEVICE_CPU || options->device == GA_DEVICE_CUDA;
    if (!known || options->device_index < 0 || options->device_index > 127) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "provider torch: device %d with index %d is not known",
            options->device, options->device_index);
    }
    pthread_mutex_lock(&lock);
    const ga_status status = open_locked(options, error);
    pthread_mutex_unlock(&lock);
    if (status == GA_OK) {
        *compute_out = &table;
    }
    return status;
}

ga_status ga_compute_open(ga_provider_kind kind, int32_t device, int32_t device_index,
    const char *torch_directory, const ga_compute **compute_out, ga_error *error) {
    const ga_torch_options options = {torch_directory, device, device_index};
    if (kind == GA_PROVIDER_TORCH) {
        return ga_compute_torch(&options, compute_out, error);
    }
    if (kind == GA_PROVIDER_AUTO && device == GA_DEVICE_CUDA &&
        ga_compute_torch(&options, compute_out, NULL) == GA_OK) {
        return GA_OK;
    }
    *compute_out = ga_compute_native();
    return GA_OK;
}

const ga_torch_info *ga_compute_torch_info(void) {
    pthread_mutex_lock(&lock);
    info.live_handles = ga_torch_live_handles();
    pthread_mutex_unlock(&lock);
    return &info;
}
