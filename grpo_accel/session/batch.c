#include "grpo_accel/session/batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/capture/capture.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/session/decide.h"
#include "grpo_accel/session/prepare.h"
#include "grpo_accel/session/provider.h"
#include "grpo_accel/session/update.h"

/* ---- beginning ---- */

/* Key of (batch, prompt): the same prompt drawn again in another batch is another group at the decision. */
static uint64_t group_key(uint64_t batch, const uint8_t hash[16]) {
    return ga_digest_join(batch, ga_digest64(hash, 16));
}

static ga_status name_rows(ga_batch *batch, const ga_batch_options *options, ga_error *error) {
    ga_session *session = batch->session;
    for (int32_t i = 0; i < batch->rows; i++) {
        const char *prompt = options->prompts[i];
        if (prompt == NULL) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "row %d of batch %llu has no prompt", (int)i,
                (unsigned long long)batch->number);
        }
        batch->prompts[i] = ga_arena_text(batch->arena, prompt);
        if (batch->prompts[i] == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the prompts of batch %llu",
                (unsigned long long)batch->number);
        }
        ga_row *row = &batch->row[i];
        row->batch = batch->number;
        row->rank = session->rank;
        row->index = i;
        ga_digest128(prompt, strlen(prompt), row->prompt_hash);
        row->group = group_key(batch->number, row->prompt_hash);
    }
    return GA_OK;
}

static ga_status take_memory(ga_batch *batch, ga_error *error) {
    const size_t rows = ga_size(batch->rows);
    const ga_feature_schema *schema = &batch->session->schema;
    batch->row = ga_arena_take(batch->arena, rows, sizeof *batch->row);
    batch->prompts = ga_arena_take(batch->arena, rows, sizeof *batch->prompts);
    batch->prediction = ga_arena_take(batch->arena, rows, sizeof *batch->prediction);
    batch->variance = ga_arena_take(batch->arena, rows, sizeof *batch->variance);
    batch->kept = ga_arena_take(batch->arena, rows, sizeof *batch->kept);
    batch->inclusion = ga_arena_take(batch->arena, rows, sizeof *batch->inclusion);
    batch->kept_rows = ga_arena_take(batch->arena, rows, sizeof *batch->kept_rows);
    batch->combined = ga_arena_take(batch->arena, rows, sizeof *batch->combined);
    batch->block = (ga_feature_block){.schema = schema,
        .rows = batch->rows,
        .values = ga_arena_take(batch->arena, rows * ga_size(schema->values_per_row) + 1, sizeof(ga_half))};
    const bool complete = batch->row != NULL && batch->prompts != NULL && batch->prediction != NULL &&
                          batch->variance != NULL && batch->kept != NULL && batch->inclusion != NULL &&
                          batch->kept_rows != NULL && batch->combined != NULL && batch->block.values != NULL;
    if (!complete) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d rows of batch %llu", (int)batch->rows,
            (unsigned long long)batch->number);
    }
    return GA_OK;
}

/* Until the decision every row is kept, so that a batch that never decides is logged as what it was. */
static void start_kept(ga_batch *batch) {
    for (int32_t i = 0; i < batch->rows; i++) {
        batch->prediction[i] = NAN;
        batch->variance[i] = NAN;
        batch->combined[i] = NAN;
        batch->kept[i] = 1;
        batch->inclusion[i] = 1.0;
        batch->kept_rows[i] = i;
    }
    batch->kept_count = batch->rows;
    batch->audited = true;
    batch->reason = "not decided";
}

static ga_status fill_batch(ga_batch *batch, const ga_batch_options *options, ga_error *error) {
    ga_session *session = batch->session;
    batch->arena = session->spare_arena_count > 0 ? session->spare_arenas[--session->spare_arena_count]
                                                  : ga_arena_create(0);
    if (batch->arena == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a batch");
    }
    GA_TRY(take_memory(batch, error));
    ga_feature_clear(&batch->block); /* what is not observed is not known, and not zero */
    GA_TRY(name_rows(batch, options, error));
    start_kept(batch);
    return GA_OK;
}

ga_status ga_batch_open(
    ga_session *session, const ga_batch_options *options, ga_batch **batch_out, ga_error *error) {
    if (session->mode == GA_MODE_OFF || session->mode == GA_MODE_PASS_THROUGH) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "the session is off: there is nothing to begin");
    }
    if (session->batch_count == GA_SESSION_BATCHES_MAX) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%d batches were begun and no update ended: is the tracker's update wrapped?",
            (int)session->batch_count);
    }
    GA_TRY(ga_session_prepare(session, options, error));
    ga_batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a batch");
    }
    batch->session = session;
    batch->number = session->next_batch;
    batch->rows = options->rows;
    const ga_status status = fill_batch(batch, options, error);
    if (status != GA_OK) {
        ga_batch_free(batch);
        return status;
    }
    for (int32_t i = 0; i < batch->rows; i++) {
        batch->row[i].row_id = session->next_row++;
    }
    session->next_batch++;
    session->batches[session->batch_count++] = batch;
    *batch_out = batch;
    return GA_OK;
}

void ga_batch_free(ga_batch *batch) {
    if (batch == NULL) {
        return;
    }
    ga_session *session = batch->session;
    ga_ends_free(&batch->finals);
    ga_ends_free(&batch->states);
    if (batch->arena != NULL && session->spare_arena_count < GA_SESSION_BATCHES_MAX) {
        ga_arena_reset(batch->arena);
        session->spare_arenas[session->spare_arena_count++] = batch->arena;
    } else {
        ga_arena_destroy(&batch->arena);
    }
    free(batch);
}

/* ---- observing ---- */

static bool wants(const ga_batch *batch, ga_input input) {
    return (batch->session->config->probe.inputs & GA_INPUT_BIT(input)) != 0;
}

static const char *const input_names[] = {
    "attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled"};
_Static_assert(sizeof input_names / sizeof *input_names == GA_INPUT_COUNT, "an input has no name");

static ga_status need(const ga_batch *batch, ga_input input, ga_error *error) {
    return wants(batch, input) ? GA_OK
                               : GA_FAIL(error, GA_ERR_ARGUMENT,
                                     "input %s is not wanted: probe.inputs has none", input_names[input]);
}

/* Books time that began at `started_seconds`, and an input as complete. */
static void book(ga_batch *batch, ga_input input, bool complete, double started_seconds) {
    const double seconds = ga_clock_now(batch->session->clock) - started_seconds;
    batch->own_seconds += seconds;
    batch->feature_seconds += seconds;
    batch->observed |= complete ? GA_INPUT_BIT(input) : 0u;
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

ga_status ga_batch_take_attention(ga_batch *batch, int32_t tap, const ga_tensor *query,
    const ga_tensor *key_image, const ga_tensor *key_text, const uint8_t *content, ga_error *error) {
    ga_session *session = batch->session;
    if (!wants(batch, GA_INPUT_ATTENTION) || tap < 0 || tap >= session->block_count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention of tap %d is not wanted (%d blocks are tapped)",
            (int)tap, (int)session->block_count);
    }
    const double started_seconds = ga_clock_now(session->clock);
    ga_session_meet_device(session, query->device, query->device_index);
    ga_capture_attention captured;
    GA_TRY(ga_capture_attention_take(query, key_image, key_text, content, batch->rows, &captured, error));
    const ga_attention_views views = views_of(&captured, session->config->probe.statistics);
    GA_TRY(ga_feature_put_attention(&batch->block, tap, &views, session->shapes.token_height,
        session->shapes.token_width, session->compute, batch->arena, error));
    batch->taps_observed++;
    book(batch, GA_INPUT_ATTENTION, batch->taps_observed == session->block_count, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_latent(
    ga_batch *batch, const ga_tensor *latent, const ga_tensor *velocity, double sigma, ga_error *error) {
    GA_TRY(need(batch, GA_INPUT_X0, error));
    const double started_seconds = ga_clock_now(batch->session->clock);
    ga_capture_latent captured;
    GA_TRY(ga_capture_latent_take(latent, velocity, sigma, batch->rows, &captured, error));
    GA_TRY(ga_feature_put_x0(
        &batch->block, &captured.latent, &captured.velocity, captured.sigma, batch->arena, error));
    book(batch, GA_INPUT_X0, true, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_guidance(
    ga_batch *batch, const ga_tensor *conditional, const ga_tensor *unconditional, ga_error *error) {
    GA_TRY(need(batch, GA_INPUT_CFG, error));
    const double started_seconds = ga_clock_now(batch->session->clock);
    GA_TRY(ga_feature_put_guidance(&batch->block, conditional, unconditional, batch->arena, error));
    book(batch, GA_INPUT_CFG, true, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_vectors(ga_batch *batch, ga_input input, const ga_tensor *vectors, ga_error *error) {
    GA_TRY(need(batch, input, error));
    const double started_seconds = ga_clock_now(batch->session->clock);
    GA_TRY(ga_feature_put_vectors(&batch->block, input, vectors, batch->arena, error));
    book(batch, input, true, started_seconds);
    return GA_OK;
}

ga_status ga_batch_take_scores(
    ga_batch *batch, ga_input input, int32_t count, const double *values, ga_error *error) {
    GA_TRY(need(batch, input, error));
    GA_TRY(ga_feature_put_scalars(&batch->block, input, values, count, error));
    batch->observed |= GA_INPUT_BIT(input);
    return GA_OK;
}

double ga_batch_feature_seconds(const ga_batch *batch) {
    const double host_seconds = batch->seconds[GA_PHASE_FEATURES];
    return host_seconds > batch->feature_seconds ? host_seconds : batch->feature_seconds;
}

/* ---- deciding ---- */

void ga_batch_choose(ga_batch *batch) {
    const double started_seconds = ga_clock_now(batch->session->clock);
    ga_decide(batch);
    batch->own_seconds += ga_clock_now(batch->session->clock) - started_seconds;
}

void ga_batch_miss(ga_session *session) {
    session->next_batch++;
    if (ga_decide_collective(session)) {
        ga_world_skip(session->world);
    }
}

/* ---- rewards ---- */

/* Column of a scorer's name, made at its first report; -1: there is no room for another. Under the lock. */
static int32_t scorer_column(ga_session *session, const char *name) {
    for (int32_t i = 0; i < session->scorer_count; i++) {
        if (strcmp(session->scorers[i].text, name) == 0) {
            return i;
        }
    }
    if (session->scorer_count == GA_SESSION_SCORERS_MAX || strlen(name) >= sizeof session->scorers[0].text) {
        return -1;
    }
    (void)strcpy(session->scorers[session->scorer_count].text, name);
    return session->scorer_count++;
}

/* Where the rewards of one scorer go; NULL with an error where they can't. Under the lock. */
static double *reward_column(ga_batch *batch, const char *scorer, ga_error *error) {
    if (strcmp(scorer, "avg") == 0) {
        return batch->combined;
    }
    const int32_t column = scorer_column(batch->session, scorer);
    if (column < 0) {
        (void)GA_FAIL(error, GA_ERR_DATA,
            "scorer %.80s: at most %d scorers with names of up to 63 bytes are logged", scorer,
            (int)GA_SESSION_SCORERS_MAX);
        return NULL;
    }
    if (batch->reward[column] == NULL) {
        batch->reward[column] = ga_arena_take(batch->arena, ga_size(batch->rows), sizeof(double));
        for (int32_t i = 0; i < batch->rows && batch->reward[column] != NULL; i++) {
            batch->reward[column][i] = NAN;
        }
    }
    return batch->reward[column];
}

ga_status ga_batch_take_reward(ga_batch *batch, const char *scorer, const int32_t *rows, const double *values,
    int32_t count, ga_error *error) {
    for (int32_t i = 0; i < count; i++) {
        if (rows[i] < 0 || rows[i] >= batch->rows) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "scorer %.80s: row %d of a batch of %d", scorer,
                (int)rows[i], (int)batch->rows);
        }
    }
    (void)pthread_mutex_lock(&batch->session->lock);
    double *column = reward_column(batch, scorer, error);
    for (int32_t i = 0; i < count && column != NULL; i++) {
        column[rows[i]] = values[i];
    }
    (void)pthread_mutex_unlock(&batch->session->lock);
    return column != NULL ? GA_OK : GA_ERR_DATA;
}
