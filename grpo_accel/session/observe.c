/* What the host hands over at a look becomes features of the rows that still run. */
#include "grpo_accel/capture/capture.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/session/batch.h"
#include "grpo_accel/session/provider.h"

static bool wants(const ga_batch *batch, ga_input input) {
    return (batch->session->config->probe.inputs & GA_INPUT_BIT(input)) != 0;
}

static const char *const input_names[] = {
    "attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled"};
_Static_assert(sizeof input_names / sizeof *input_names == GA_INPUT_COUNT, "an input has no name");

/* The look that an input is for. */
static ga_status need(ga_batch *batch, ga_input input, ga_look **look_out, ga_error *error) {
    if (!wants(batch, input)) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "input %s is not wanted: probe.inputs has none", input_names[input]);
    }
    return ga_batch_current_look(batch, look_out, error);
}

/* Books time that began at `started_seconds`, and an input as complete. */
static void book(ga_batch *batch, ga_look *look, ga_input input, bool complete, double started_seconds) {
    const double seconds = ga_clock_now(batch->session->clock) - started_seconds;
    batch->own_seconds += seconds;
    batch->feature_seconds += seconds;
    look->observed |= complete ? GA_INPUT_BIT(input) : 0u;
}

/* What room capture checked, as room feature takes it. */
static ga_attention_views views_of(const ga_capture_attention *captured, uint32_t statistics) {
    return (ga_attention_views){.rows = captured->rows,
        .heads = captured->heads,
        .image_tokens = captured->image_tokens,
        .text_tokens = captured->text_tokens,
        .head_size = captured->head_size,
        .query = &captured->query,
        .key_image = captured->has_image_keys ? &captured->key_image : NULL,
        .key_text = &captured->key_text,
        .content = captured->content,
        .statistics = statistics};
}

/* The grid of a block's image tokens: the run's own, or a finer one of the same shape, as a UNet's outer
 * blocks have; what fits neither is refused by who takes the maps. */
static int32_t finer(const ga_shapes *shapes, int32_t image_tokens) {
    const int64_t coarse = (int64_t)shapes->token_height * shapes->token_width;
    int32_t times = 1;
    while (coarse > 0 && coarse * times * times < image_tokens) {
        times++;
    }
    return coarse * times * times == image_tokens ? times : 1;
}

ga_status ga_batch_take_attention(ga_batch *batch, int32_t tap, const ga_tensor *query,
    const ga_tensor *key_image, const ga_tensor *key_text, const uint8_t *content, ga_error *error) {
    ga_session *session = batch->session;
    ga_look *look = NULL;
    if (!wants(batch, GA_INPUT_ATTENTION) || tap < 0 || tap >= session->block_count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention of tap %d is not wanted (%d blocks are tapped)",
            (int)tap, (int)session->block_count);
    }
    GA_TRY(ga_batch_current_look(batch, &look, error));
    const double started_seconds = ga_clock_now(session->clock);
    ga_session_meet_device(session, query->device, query->device_index);
    ga_capture_attention captured;
    GA_TRY(
        ga_capture_attention_take(query, key_image, key_text, content, look->block.rows, &captured, error));
    const ga_attention_views views = views_of(&captured, session->config->probe.statistics);
    const int32_t times = finer(&session->shapes, views.image_tokens);
    GA_TRY(ga_feature_put_attention(&look->block, tap, &views, times * session->shapes.token_height,
        times * session->shapes.token_width, session->compute, batch->arena, error));
    look->taps_observed++;
    book(batch, look, GA_INPUT_ATTENTION, look->taps_observed == session->block_count, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_latent(
    ga_batch *batch, const ga_tensor *latent, const ga_tensor *velocity, double sigma, ga_error *error) {
    ga_look *look = NULL;
    GA_TRY(need(batch, GA_INPUT_X0, &look, error));
    const double started_seconds = ga_clock_now(batch->session->clock);
    ga_capture_latent captured;
    GA_TRY(ga_capture_latent_take(latent, velocity, sigma, look->block.rows, &captured, error));
    GA_TRY(ga_feature_put_x0(
        &look->block, &captured.latent, &captured.velocity, captured.sigma, batch->arena, error));
    book(batch, look, GA_INPUT_X0, true, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_guidance(
    ga_batch *batch, const ga_tensor *conditional, const ga_tensor *unconditional, ga_error *error) {
    ga_look *look = NULL;
    GA_TRY(need(batch, GA_INPUT_CFG, &look, error));
    const double started_seconds = ga_clock_now(batch->session->clock);
    GA_TRY(ga_feature_put_guidance(&look->block, conditional, unconditional, batch->arena, error));
    book(batch, look, GA_INPUT_CFG, true, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_vectors(ga_batch *batch, ga_input input, const ga_tensor *vectors, ga_error *error) {
    ga_look *look = NULL;
    GA_TRY(need(batch, input, &look, error));
    const double started_seconds = ga_clock_now(batch->session->clock);
    GA_TRY(ga_feature_put_vectors(&look->block, input, vectors, batch->arena, error));
    book(batch, look, input, true, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_scores(
    ga_batch *batch, ga_input input, int32_t count, const double *values, ga_error *error) {
    ga_look *look = NULL;
    GA_TRY(need(batch, input, &look, error));
    GA_TRY(ga_feature_put_scalars(&look->block, input, values, count, error));
    look->observed |= GA_INPUT_BIT(input);
    return GA_OK;
}

double ga_batch_feature_seconds(const ga_batch *batch) {
    const double host_seconds = batch->seconds[GA_PHASE_FEATURES];
    return host_seconds > batch->feature_seconds ? host_seconds : batch->feature_seconds;
}
