#include "grpo_accel/session/provider.h"

#include "grpo_accel/base/log.h"
#include "grpo_accel/compute/torch.h"

/* The probe's parameters live in the memory of its provider. */
static ga_status move_probe(ga_session *session, const ga_compute *compute, ga_error *error) {
    if (session->probe == NULL) {
        return GA_OK;
    }
    ga_probe *moved = NULL;
    GA_TRY(ga_probe_open(session->probe_path, compute, &moved, error));
    ga_probe_close(&session->probe);
    session->probe = moved;
    return GA_OK;
}

static ga_status adopt(ga_session *session, int32_t device, int32_t device_index, ga_error *error) {
    static const ga_provider_kind kinds[] = {GA_PROVIDER_AUTO, GA_PROVIDER_TORCH, GA_PROVIDER_NATIVE};
    const ga_compute *compute = NULL;
    GA_TRY(
        ga_compute_open(kinds[session->config->probe.provider], device, device_index, NULL, &compute, error));
    GA_TRY(move_probe(session, compute, error));
    session->compute = compute;
    return GA_OK;
}

void ga_session_meet_device(ga_session *session, int32_t device, int32_t device_index) {
    const ga_config_provider wanted = session->config->probe.provider;
    const bool waits = wanted == GA_CONFIG_PROVIDER_AUTO && device == (int32_t)GA_DEVICE_CPU;
    if (session->provider_chosen || wanted == GA_CONFIG_PROVIDER_NATIVE || waits) {
        return;
    }
    session->provider_chosen = true;
    ga_error why = {0};
    if (adopt(session, device, device_index, &why) != GA_OK) {
        ga_log_once(&session->warned[GA_WARNING_PROVIDER], GA_LOG_WARNING,
            "the provider torch can't be used, native computes: %s", why.message);
    } else if (session->rank == 0) {
        ga_log(GA_LOG_INFO, "features and probe are computed by provider %s", session->compute->name);
    }
}
