/* Every public function: checks its arguments, calls on. What each one does stands in grpo_accel.h. */
#include "grpo_accel/base/check.h"
#include "grpo_accel/compute/torch.h"
#include "grpo_accel/session/batch.h"
#include "grpo_accel/session/session.h"
#include "grpo_accel/session/update.h"

#define NEEDS(error, condition)                                                                              \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            return GA_FAIL((error), GA_ERR_ARGUMENT, "%s: needs %s", __func__, #condition);                  \
        }                                                                                                    \
    } while (0)

const char *ga_status_text(ga_status status) {
    return ga_status_name(status);
}

const char *ga_version(void) {
    return GA_VERSION;
}

const char *ga_torch_schemas(void) {
    return ga_compute_torch_schemas();
}

int32_t ga_abi_version(void) {
    return GA_ABI_VERSION;
}

ga_status ga_session_open(const ga_session_options *options, ga_session **session_out, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, session_out != NULL);
    NEEDS(error, options != NULL && options->size == sizeof *options);
    NEEDS(error, options->overrides != NULL || options->override_count == 0);
    return ga_session_create(options, session_out, error);
}

void ga_session_close(ga_session **session, int32_t in_step) {
    ga_session_destroy(session, in_step != 0);
}

ga_status ga_session_get_info(const ga_session *session, ga_session_info *info) {
    if (session == NULL || info == NULL || info->size != sizeof *info) {
        return GA_ERR_ARGUMENT;
    }
    const ga_config *config = session->config;
    const bool works = session->mode == GA_MODE_SHADOW || session->mode == GA_MODE_PRUNE;
    const ga_mode in_force = session->strategy.prune ? GA_MODE_PRUNE : GA_MODE_SHADOW;
    info->mode = (int32_t)(works ? in_force : session->mode);
    info->rank = session->rank;
    info->world_size = session->world_size;
    info->decision_step = ga_session_decision_step(session);
    info->inputs = session->config->probe.inputs;
    info->probe_version = session->probe_version;
    info->std_kind = (int32_t)session->config->advantage.std;
    info->updates = ga_int32(session->next_update);
    info->wandb = session->config->metrics.wandb != GA_CONFIG_WANDB_FALSE;
    info->run_dir = session->config->run_dir;
    info->preview_scorers = config->probe.preview.scorers.count > 0 ? session->preview_scorers : NULL;
    info->preview_decoder = config->probe.preview.decoder;
    info->lookahead_steps = (int32_t)config->probe.lookahead.steps;
    info->lookahead_guided = config->probe.lookahead.guided;
    info->hidden_block = config->probe.hidden_block;
    info->distilled_lora = config->probe.distilled.lora;
    info->distilled = (config->probe.inputs & GA_INPUT_BIT(GA_INPUT_DISTILLED)) != 0;
    info->distilled_rank = (int32_t)config->probe.distilled.rank;
    info->distilled_every_updates = (int32_t)config->probe.distilled.every_updates;
    info->distilled_pairs = (int32_t)config->probe.distilled.pairs;
    info->distilled_seconds = config->probe.distilled.seconds;
    info->finals = config->record.enabled ? (int32_t)config->record.finals : 0;
    info->drop_stopped_rows = config->advantage.drop_stopped_rows;
    return GA_OK;
}

ga_status ga_session_set_host(ga_session *session, int32_t host_std, int32_t prunable, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, session != NULL && (host_std == 0 || host_std == 1));
    session->host_std = host_std == 0 ? GA_STD_GLOBAL : GA_STD_GROUP;
    session->host_ready = prunable != 0;
    return GA_OK;
}

const char *ga_session_metrics_json(ga_session *session) {
    return session == NULL || session->metrics.json[0] == '\0' ? "{}" : session->metrics.json;
}

ga_status ga_batch_begin(
    ga_session *session, const ga_batch_options *options, ga_batch **batch_out, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, session != NULL && batch_out != NULL);
    NEEDS(error, options != NULL && options->size == sizeof *options);
    NEEDS(error, options->rows > 0 && options->rows <= 65536);
    NEEDS(error, options->steps_total > 0 && options->steps_total <= 10000);
    NEEDS(error, options->sigmas != NULL && options->prompts != NULL);
    NEEDS(error, options->block_count >= 0 && (options->block_names != NULL || options->block_count == 0));
    NEEDS(error, options->hidden_values >= 0 && options->prompt_values >= 0);
    NEEDS(error, options->scores_per_preview >= 0);
    NEEDS(error, options->latent_channels > 0 && options->latent_height > 0 && options->latent_width > 0);
    return ga_batch_open(session, options, batch_out, error);
}

ga_status ga_batch_blocks(const ga_batch *batch, const int32_t **blocks_out, int32_t *count_out) {
    if (batch == NULL || blocks_out == NULL || count_out == NULL) {
        return GA_ERR_ARGUMENT;
    }
    *blocks_out = batch->session->blocks;
    *count_out = batch->session->block_count;
    return GA_OK;
}

ga_status ga_batch_observe_attention(ga_batch *batch, int32_t tap, const ga_tensor *query,
    const ga_tensor *key_image, const ga_tensor *key_text, const uint8_t *content, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && query != NULL && key_text != NULL);
    return ga_batch_take_attention(batch, tap, query, key_image, key_text, content, error);
}

ga_status ga_batch_observe_latent(
    ga_batch *batch, const ga_tensor *latent, const ga_tensor *velocity, double sigma, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && latent != NULL && velocity != NULL);
    return ga_batch_take_latent(batch, latent, velocity, sigma, error);
}

ga_status ga_batch_get_steps(const ga_batch *batch, const int32_t **steps_out, int32_t *count_out) {
    if (batch == NULL || steps_out == NULL || count_out == NULL) {
        return GA_ERR_ARGUMENT;
    }
    *steps_out = batch->steps;
    *count_out = batch->look_count;
    return GA_OK;
}

int32_t ga_batch_decision_step(const ga_batch *batch) {
    return batch != NULL && batch->look_count > 0 ? batch->steps[0] : -1;
}

ga_status ga_batch_observe_guidance(
    ga_batch *batch, const ga_tensor *conditional, const ga_tensor *unconditional, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && conditional != NULL && unconditional != NULL);
    return ga_batch_take_guidance(batch, conditional, unconditional, error);
}

ga_status ga_batch_observe_vectors(
    ga_batch *batch, int32_t input, const ga_tensor *vectors, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && vectors != NULL);
    NEEDS(error, input == GA_VECTORS_HIDDEN || input == GA_VECTORS_PROMPT);
    return ga_batch_take_vectors(batch, (ga_input)input, vectors, error);
}

ga_status ga_batch_observe_scores(
    ga_batch *batch, int32_t input, int32_t count, const double *values, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && values != NULL && count > 0);
    NEEDS(error, input >= GA_SCORES_PREVIEW && input <= GA_SCORES_DISTILLED);
    return ga_batch_take_scores(batch, (ga_input)input, count, values, error);
}

ga_status ga_batch_observe_preview(ga_batch *batch, const double *scores, ga_error *error) {
    return ga_batch_observe_scores(batch, GA_SCORES_PREVIEW, 1, scores, error);
}

ga_status ga_batch_state(ga_batch *batch, const ga_tensor *latent, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && latent != NULL);
    return ga_batch_take_state(batch, latent, error);
}

ga_status ga_batch_final(
    ga_batch *batch, const int32_t *rows, int32_t count, const ga_tensor *finals, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && finals != NULL && count >= 0 && (count == 0 || rows != NULL));
    return ga_batch_take_final(batch, rows, count, finals, error);
}

ga_status ga_batch_decide(ga_batch *batch, ga_decision *decision_out, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL);
    NEEDS(error, decision_out != NULL && decision_out->size == sizeof *decision_out);
    NEEDS(error, batch->look_now < batch->look_count);
    ga_batch_choose(batch);
    decision_out->rows = batch->rows;
    decision_out->kept_count = batch->kept_count;
    decision_out->kept = batch->kept_rows;
    decision_out->prediction = batch->prediction;
    decision_out->audited = batch->audited;
    decision_out->pruned = batch->pruned;
    decision_out->reason = batch->reason;
    decision_out->next_step = batch->look_now < batch->look_count ? batch->steps[batch->look_now] : -1;
    return GA_OK;
}

uint64_t ga_batch_plan_checksum(const ga_batch *batch) {
    return batch != NULL ? batch->plan_checksum : 0;
}

ga_status ga_batch_reward(ga_batch *batch, const char *scorer, const int32_t *rows, const double *values,
    int32_t count, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, batch != NULL && scorer != NULL);
    NEEDS(error, count >= 0 && (count == 0 || (rows != NULL && values != NULL)));
    return ga_batch_take_reward(batch, scorer, rows, values, count, error);
}

ga_status ga_batch_seconds(ga_batch *batch, int32_t phase, double seconds) {
    if (batch == NULL || phase < 0 || phase >= GA_PHASE_COUNT) {
        return GA_ERR_ARGUMENT;
    }
    (void)pthread_mutex_lock(&batch->session->lock);
    batch->seconds[phase] += seconds;
    (void)pthread_mutex_unlock(&batch->session->lock);
    return GA_OK;
}

void ga_batch_abandon(ga_batch *batch) {
    if (batch == NULL) {
        return;
    }
    ga_batch_skip_rest(batch);
    ga_batch_drop(batch);
}

void ga_batch_missed(ga_session *session) {
    if (session != NULL && session->mode != GA_MODE_OFF && session->mode != GA_MODE_PASS_THROUGH) {
        ga_batch_miss(session);
    }
}

ga_status ga_update_end(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, session != NULL && advantages_out != NULL);
    NEEDS(error, options != NULL && options->size == sizeof *options);
    NEEDS(error, options->count > 0 && options->count <= INT32_MAX);
    NEEDS(error, options->groups != NULL && options->rewards != NULL && options->host_advantages != NULL);
    return ga_update_finish(session, options, advantages_out, error);
}

ga_status ga_update_again(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error) {
    ga_error_clear(error);
    NEEDS(error, session != NULL && advantages_out != NULL);
    NEEDS(error, options != NULL && options->size == sizeof *options);
    NEEDS(error, options->count > 0 && options->count <= INT32_MAX);
    NEEDS(error, options->groups != NULL && options->rewards != NULL && options->host_advantages != NULL);
    return ga_taught_again(session, options, advantages_out, error);
}
