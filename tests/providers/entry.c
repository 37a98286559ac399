/* What Python needs to drive the providers through ctypes: the table, the facts, nothing of its own. */
#include "grpo_accel/compute/torch.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT ga_status provider_open(int32_t kind, int32_t device, int32_t device_index, const char *directory,
    const ga_compute **compute_out, ga_error *error);
EXPORT const ga_torch_info *provider_info(void);
EXPORT const char *provider_schemas(void);

ga_status provider_open(int32_t kind, int32_t device, int32_t device_index, const char *directory,
    const ga_compute **compute_out, ga_error *error) {
    return ga_compute_open((ga_provider_kind)kind, device, device_index, directory, compute_out, error);
}

const ga_torch_info *provider_info(void) {
    return ga_compute_torch_info();
}

const char *provider_schemas(void) {
    return ga_compute_torch_schemas();
}
