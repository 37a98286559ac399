#include "grpo_accel/session/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/capture/tap.h"
#include "grpo_accel/feature/feature.h"

/* ---- when ---- */

/* Is noise added after `step` steps, but not in all of them? */
static bool is_before_noise_ends(const ga_batch_options *options, int32_t step) {
    const bool known = options->noise_begin_step >= 0 && options->noise_begin_step < options->noise_end_step;
    const bool all = options->noise_begin_step == 0 && options->noise_end_step >= options->steps_total;
    return known && !all && step < options->noise_end_step;
}

/* The step that decision.sigma means in this schedule; past the last where there is none. */
static int32_t step_of_sigma(double sigma, const ga_batch_options *options) {
    int32_t step = 1;
    while (step < options->steps_total && !(options->sigmas[step] <= sigma)) {
        step++;
    }
    return is_before_noise_ends(options, step) ? options->noise_end_step : step;
}

/* The run's candidate steps in this schedule, some perhaps past its end; returns how many. */
static int32_t choose_steps(const ga_session *session, const ga_batch_options *options, int32_t *steps) {
    const ga_config *config = session->config;
    if (config->decision.sigma > 0) {
        steps[0] = step_of_sigma(config->decision.sigma, options);
        return 1;
    }
    const ga_config_steps *given =
        config->decision.step.count > 0 ? &config->decision.step : &config->decision.candidates;
    if (given->count == 0) {
        return ga_strategy_candidates(options, steps);
    }
    memcpy(steps, given->values, (size_t)given->count * sizeof *steps);
    return given->count;
}

static ga_status check_steps(const ga_session *session, const ga_batch_options *options, const int32_t *steps,
    int32_t count, ga_error *error) {
    const double sigma = session->config->decision.sigma;
    if (count > 0 && steps[count - 1] < options->steps_total) {
        return GA_OK;
    }
    if (sigma > 0) {
        return GA_FAIL(error, GA_ERR_DATA,
            "decision.sigma %.3g: no step of %d is at or below it, behind the noisy steps (they end after "
            "step %d) and before the end: nothing could be saved",
            sigma, (int)options->steps_total, (int)options->noise_end_step);
    }
    if (count == 0) {
        return GA_FAIL(
            error, GA_ERR_DATA, "a rollout has %d step: nothing could be saved", (int)options->steps_total);
    }
    return GA_FAIL(error, GA_ERR_DATA,
        "decision.%s is %d, but a rollout has only %d steps: nothing could be saved",
        session->config->decision.step.count > 0 ? "step" : "candidates", (int)steps[count - 1],
        (int)options->steps_total);
}

/* "3", "2, 4 and 7" */
static void steps_in_words(const ga_shapes *shapes, char *text, size_t bytes) {
    size_t used = 0;
    for (int32_t i = 0; i < shapes->candidate_count && used < bytes; i++) {
        const char *before = i == 0 ? "" : i + 1 < shapes->candidate_count ? ", " : " and ";
        const int length =
            snprintf(text + used, bytes - used, "%s%d", before, (int)shapes->candidate_steps[i]);
        used += length > 0 ? (size_t)length : 0;
    }
}

static void tell_of_steps(ga_session *session, const ga_batch_options *options) {
    const ga_shapes *shapes = &session->shapes;
    const double sigma = session->config->decision.sigma;
    if (session->rank != 0) {
        return;
    }
    if (sigma > 0) {
        const int32_t step = shapes->candidate_steps[0];
        const bool moved = step > 1 && options->sigmas[step - 1] <= sigma;
        ga_log(GA_LOG_INFO, "decision.sigma %.3g: decisions after step %d of %d, at sigma %.3g%s", sigma,
            (int)step, (int)options->steps_total, shapes->candidate_sigmas[0],
            moved ? ", behind the noisy steps" : "");
    } else if (session->config->decision.step.count == 0) {
        char words[64];
        steps_in_words(shapes, words, sizeof words);
        ga_log(
            GA_LOG_INFO, "decision.step auto: looks after steps %s of %d", words, (int)options->steps_total);
    }
}

static void warn_of_noise(ga_session *session, const ga_batch_options *options) {
    const int32_t step = session->shapes.candidate_steps[0];
    if (session->rank == 0 && is_before_noise_ends(options, step)) {
        ga_log_once(&session->warned[GA_WARNING_NOISE], GA_LOG_WARNING,
            "the decision after step %d comes before the noise of steps %d to %d: what is predicted there is "
            "only partly settled; decide after step %d or later",
            (int)step, (int)options->noise_begin_step, (int)options->noise_end_step - 1,
            (int)options->noise_end_step);
    }
}

/* ---- shapes ---- */

static ga_shapes shapes_of(const int32_t *steps, int32_t count, const ga_batch_options *o) {
    ga_shapes shapes;
    memset(&shapes, 0, sizeof shapes); /* compared and digested as bytes */
    (void)snprintf(shapes.model, sizeof shapes.model, "%s", o->model != NULL ? o->model : "");
    shapes.rows = o->rows;
    shapes.steps_total = o->steps_total;
    shapes.latent_channels = o->latent_channels;
    shapes.latent_height = o->latent_height;
    shapes.latent_width = o->latent_width;
    shapes.token_height = o->token_height;
    shapes.token_width = o->token_width;
    shapes.block_count = o->block_count;
    shapes.hidden_values = o->hidden_values;
    shapes.prompt_values = o->prompt_values;
    shapes.scores_per_preview = o->scores_per_preview > 0 ? o->scores_per_preview : 1;
    shapes.candidate_count = count;
    for (int32_t i = 0; i < count; i++) {
        shapes.candidate_steps[i] = steps[i];
        shapes.candidate_sigmas[i] = o->sigmas[steps[i]];
    }
    return shapes;
}

static ga_status choose_blocks(ga_session *session, const ga_batch_options *options, ga_error *error) {
    if ((session->config->probe.inputs & GA_INPUT_BIT(GA_INPUT_ATTENTION)) == 0) {
        return GA_OK;
    }
    const ga_config_blocks *blocks = &session->config->probe.blocks;
    free(session->blocks); /* of an attempt that failed */
    session->block_count = 0;
    session->blocks = calloc((size_t)options->block_count + 1, sizeof *session->blocks);
    if (session->blocks == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d blocks", (int)options->block_count);
    }
    ga_tap_selection selection = {
        .kind = (ga_tap_kind)blocks->choice, .count = blocks->count, .names = blocks->names};
    return ga_tap_choose(&selection, options->block_names, options->block_count, session->blocks,
        &session->block_count, error);
}

/* What the host has to say for these inputs. */
static ga_status check_widths(const ga_session *session, ga_error *error) {
    const uint32_t inputs = session->config->probe.inputs;
    const bool without_hidden =
        (inputs & GA_INPUT_BIT(GA_INPUT_HIDDEN)) != 0 && session->shapes.hidden_values < 1;
    const bool without_prompt =
        (inputs & GA_INPUT_BIT(GA_INPUT_PROMPT)) != 0 && session->shapes.prompt_values < 1;
    if (without_hidden || without_prompt) {
        return GA_FAIL(error, GA_ERR_DATA, "this host gives no %s; take it out of probe.inputs",
            without_hidden ? "hidden states (input hidden)" : "pooled text embedding (input prompt)");
    }
    return GA_OK;
}

static ga_status make_schema(ga_session *session, ga_error *error) {
    GA_TRY(check_widths(session, error));
    const ga_shapes *shapes = &session->shapes;
    const ga_feature_options options = {
        .inputs = session->config->probe.inputs,
        .map_size = (int32_t)session->config->probe.map_size,
        .attention_blocks = session->block_count,
        .attention_statistics = session->config->probe.statistics,
        .token_height = shapes->token_height,
        .token_width = shapes->token_width,
        .latent_channels = shapes->latent_channels,
        .latent_height = shapes->latent_height,
        .latent_width = shapes->latent_width,
        .hidden_values = shapes->hidden_values,
        .prompt_values = shapes->prompt_values,
        .preview_scores = shapes->scores_per_preview,
        .lookahead_scores = shapes->scores_per_preview,
        .distilled_scores = shapes->scores_per_preview,
    };
    return ga_feature_schema_make(&options, &session->schema, error);
}

/* A probe that was made for something else is put aside, with its reason, and the session learns a new one.
 */
static void check_probe(ga_session *session) {
    if (session->probe == NULL) {
        return;
    }
    ga_error why = {0};
    if (ga_session_probe_fits(session, session->probe, &why) != GA_OK) {
        if (session->rank == 0) {
            ga_log(GA_LOG_WARNING, "nothing is pruned until a new probe is trained: %s", why.message);
        }
        ga_session_drop_probe(session);
    }
}

ga_status ga_session_probe_fits(const ga_session *session, const ga_probe *probe, ga_error *error) {
    const ga_shapes *shapes = &session->shapes;
    for (int32_t i = 0; i < shapes->candidate_count; i++) {
        const ga_probe_requirement requirement = {
            .schema = &session->schema,
            .model = shapes->model,
            .step = shapes->candidate_steps[i],
            .steps_total = shapes->steps_total,
        };
        GA_TRY(ga_probe_match(probe, &requirement, error));
    }
    return GA_OK;
}

/* Later batches keep the first one's steps, and are checked against all that it fixed. */
static ga_status find_shapes(
    const ga_session *session, const ga_batch_options *options, ga_shapes *shapes_out, ga_error *error) {
    int32_t steps[GA_CANDIDATES_MAX] = {0};
    int32_t count = session->shapes.candidate_count;
    if (session->prepared) {
        memcpy(steps, session->shapes.candidate_steps, sizeof steps);
    } else {
        count = choose_steps(session, options, steps);
    }
    GA_TRY(check_steps(session, options, steps, count, error));
    *shapes_out = shapes_of(steps, count, options);
    return GA_OK;
}

ga_status ga_session_prepare(ga_session *session, const ga_batch_options *options, ga_error *error) {
    ga_shapes shapes;
    GA_TRY(find_shapes(session, options, &shapes, error));
    if (session->prepared) {
        warn_of_noise(session, options);
        return memcmp(&shapes, &session->shapes, sizeof shapes) == 0
                   ? GA_OK
                   : GA_FAIL(error, GA_ERR_DATA,
                         "batch %llu has other shapes than the first one (%d rows against %d, or another "
                         "model, resolution or schedule)",
                         (unsigned long long)session->next_batch, (int)shapes.rows,
                         (int)session->shapes.rows);
    }
    session->shapes = shapes;
    GA_TRY(choose_blocks(session, options, error));
    GA_TRY(make_schema(session, error));
    session->fingerprint = ga_digest_join(session->config->fingerprint, ga_digest64(&shapes, sizeof shapes));
    session->prepared = true;
    tell_of_steps(session, options);
    warn_of_noise(session, options);
    check_probe(session);
    return GA_OK;
}
