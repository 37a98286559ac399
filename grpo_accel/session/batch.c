#include "grpo_accel/session/batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/session/decide.h"
#include "grpo_accel/session/mode.h"
#include "grpo_accel/session/prepare.h"
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
    batch->row = ga_arena_take(batch->arena, rows, sizeof *batch->row);
    batch->prompts = ga_arena_take(batch->arena, rows, sizeof *batch->prompts);
    batch->prediction = ga_arena_take(batch->arena, rows, sizeof *batch->prediction);
    batch->variance = ga_arena_take(batch->arena, rows, sizeof *batch->variance);
    batch->kept = ga_arena_take(batch->arena, rows, sizeof *batch->kept);
    batch->inclusion = ga_arena_take(batch->arena, rows, sizeof *batch->inclusion);
    batch->kept_rows = ga_arena_take(batch->arena, rows, sizeof *batch->kept_rows);
    batch->combined = ga_arena_take(batch->arena, rows, sizeof *batch->combined);
    batch->looks_met = ga_arena_take(batch->arena, rows, sizeof *batch->looks_met);
    const bool complete = batch->row != NULL && batch->prompts != NULL && batch->prediction != NULL &&
                          batch->variance != NULL && batch->kept != NULL && batch->inclusion != NULL &&
                          batch->kept_rows != NULL && batch->combined != NULL && batch->looks_met != NULL;
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
    batch->reason = batch->look_count > 0 ? "not decided" : "rests";
}

/* Steps from here on add no noise; −1: not known. */
static int32_t noise_end(const ga_batch_options *options) {
    const bool known = options->noise_begin_step >= 0 && options->noise_begin_step < options->noise_end_step;
    return known ? options->noise_end_step : -1;
}

static ga_status fill_batch(ga_batch *batch, const ga_batch_options *options, ga_error *error) {
    ga_session *session = batch->session;
    batch->arena = session->spare_arena_count > 0 ? session->spare_arenas[--session->spare_arena_count]
                                                  : ga_arena_create(0);
    if (batch->arena == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a batch");
    }
    GA_TRY(take_memory(batch, error));
    GA_TRY(name_rows(batch, options, error));
    start_kept(batch);
    return ga_batch_make_looks(batch, error);
}

ga_status ga_batch_open(
    ga_session *session, const ga_batch_options *options, ga_batch **batch_out, ga_error *error) {
    session->taught.current = false;
    if (session->mode == GA_MODE_OFF || session->mode == GA_MODE_PASS_THROUGH) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "the session is off: there is nothing to begin");
    }
    if (session->batch_count == GA_SESSION_BATCHES_MAX) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%d batches were begun and no update ended: is the tracker's update wrapped?",
            (int)session->batch_count);
    }
    ga_mode_batch_begins(session);
    GA_TRY(ga_session_prepare(session, options, error));
    ga_batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a batch");
    }
    batch->session = session;
    batch->number = session->next_batch;
    batch->rows = options->rows;
    batch->noise_end_step = noise_end(options);
    const ga_status status = fill_batch(batch, options, error);
    if (status != GA_OK) {
        ga_batch_free(batch);
        return status;
    }
    for (int32_t i = 0; i < batch->rows; i++) {
        batch->row[i].row_id = session->next_row++;
    }
    for (int32_t i = 0; i < batch->idle; i++) {
        ga_world_skip(session->world);
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

/* ---- deciding ---- */

void ga_batch_choose(ga_batch *batch) {
    const double started_seconds = ga_clock_now(batch->session->clock);
    ga_decide(batch);
    batch->own_seconds += ga_clock_now(batch->session->clock) - started_seconds;
}

void ga_batch_miss(ga_session *session) {
    session->taught.current = false;
    const ga_strategy_looks looks = ga_strategy_look(session, session->next_batch++);
    for (int32_t i = 0; i < looks.decisions + looks.idle; i++) {
        ga_world_skip(session->world);
    }
}

void ga_batch_skip_rest(ga_batch *batch) {
    for (int32_t i = batch->look_now; i < batch->decisions && ga_decide_collective(batch->session); i++) {
        ga_world_skip(batch->session->world);
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
