#include "grpo_accel/session/logbook.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/log.h"

/* Latents have the run's shape; images the first one's, if one came in time. */
static void describe_finals(ga_session *session, ga_record_layout *layout) {
    const ga_shapes *shapes = &session->shapes;
    if (session->config->record.finals == GA_CONFIG_FINALS_LATENT) {
        session->final_shape[0] = shapes->latent_channels;
        session->final_shape[1] = shapes->latent_height;
        session->final_shape[2] = shapes->latent_width;
        layout->final_kind = GA_RECORD_FINAL_LATENT;
    } else if (session->config->record.finals == GA_CONFIG_FINALS_IMAGE) {
        layout->final_kind = session->final_shape[0] > 0 ? GA_RECORD_FINAL_IMAGE : GA_RECORD_FINAL_NONE;
        if (layout->final_kind == GA_RECORD_FINAL_NONE) {
            ga_log_once(&session->warned[GA_WARNING_FINALS], GA_LOG_WARNING,
                "no final image came in the first update: this run stores none (record.finals)");
        }
    }
    memcpy(layout->final_shape, session->final_shape, sizeof layout->final_shape);
}

static ga_record_layout layout_of(ga_session *session) {
    ga_record_layout layout;
    memset(&layout, 0, sizeof layout);
    (void)snprintf(layout.run_id, sizeof layout.run_id, "%016llx", (unsigned long long)session->fingerprint);
    (void)snprintf(layout.model, sizeof layout.model, "%s", session->shapes.model);
    layout.config_fingerprint = session->config->fingerprint;
    layout.rank = session->rank;
    layout.world_size = session->world_size;
    layout.candidate_count = session->shapes.candidate_count;
    for (int32_t i = 0; i < layout.candidate_count; i++) {
        layout.candidate_steps[i] = session->shapes.candidate_steps[i];
        layout.candidate_sigmas[i] = session->shapes.candidate_sigmas[i];
    }
    layout.scorer_count = session->scorer_count;
    for (int32_t i = 0; i < session->scorer_count; i++) {
        (void)snprintf(layout.scorers[i], sizeof layout.scorers[i], "%s", session->scorers[i].text);
    }
    layout.features = session->schema;
    describe_finals(session, &layout);
    layout.prompt_text = session->config->record.prompts == GA_CONFIG_PROMPTS_TEXT;
    return layout;
}

static void warn(ga_session *session, const char *what, const ga_error *why) {
    ga_log_once(&session->warned[GA_WARNING_RECORD], GA_LOG_WARNING, "%s: %s", what, why->message);
}

/* Opened at the first update's end: only then the scorers' names, which are columns, are known. */
static bool open_record(ga_session *session) {
    if (session->record != NULL || !session->config->record.enabled || !session->prepared) {
        return session->record != NULL;
    }
    char folder[4096];
    (void)snprintf(folder, sizeof folder, "%s/record", session->config->run_dir);
    const ga_record_options options = {.folder = folder,
        .layout = layout_of(session),
        .segment_rows = (int32_t)session->config->record.segment_rows};
    ga_error why = {0};
    if (ga_record_open(&options, &session->record, &why) != GA_OK) {
        warn(session, "nothing is logged", &why);
        return false;
    }
    session->final_bytes = ga_record_final_values(&options.layout) * ga_record_final_bytes(&options.layout);
    return true;
}

static void fill_row(const ga_batch *batch, int32_t i, double advantage, float *rewards, ga_record_row *out) {
    const ga_session *session = batch->session;
    const bool kept = batch->kept[i] != 0;
    memset(out, 0, sizeof *out);
    out->row = batch->row[i];
    out->row.update = session->next_update;
    const int32_t met = batch->looks_met[i];
    out->step = (uint16_t)(met > 0 ? batch->steps[met - 1] : ga_session_decision_step(session));
    out->steps_total = (uint16_t)session->shapes.steps_total;
    out->probe_version = batch->probe_version;
    for (int32_t c = 0; c < GA_RECORD_CANDIDATES_MAX; c++) {
        out->prediction[c] = NAN;
        out->variance[c] = NAN;
    }
    out->inclusion = (float)batch->inclusion[i];
    out->kept = kept;
    out->audit = batch->audited && kept;
    out->advantage = (float)advantage;
    out->reward_combined = kept ? (float)batch->combined[i] : NAN;
    for (int32_t s = 0; s < session->scorer_count; s++) {
        rewards[s] = kept && batch->reward[s] != NULL ? (float)batch->reward[s][i] : NAN;
    }
    out->rewards = rewards;
    out->prompt = batch->prompts[i];
    if (kept) {
        out->final = ga_ends_row(&batch->finals, i, session->final_bytes);
        out->state = ga_ends_row(&batch->states, i, session->final_bytes);
    }
}

/* What one look of the batch saw, into the rows that met it. */
static void fill_look(const ga_look *look, ga_record_row *rows) {
    const size_t values = ga_size(look->block.schema->values_per_row);
    for (int32_t i = 0; i < look->block.rows; i++) {
        ga_record_row *out = &rows[look->row[i]];
        out->prediction[look->candidate] = look->prediction[look->row[i]];
        out->variance[look->candidate] = look->variance[look->row[i]];
        out->features[look->candidate] =
            look->observed != 0 ? &look->block.values[ga_size(i) * values] : NULL;
    }
}

static void write_batch(const ga_batch *batch, const double *advantages) {
    ga_session *session = batch->session;
    const size_t scorers = ga_size(session->scorer_count);
    ga_record_row *rows = ga_arena_take(batch->arena, ga_size(batch->rows), sizeof *rows);
    float *rewards = ga_arena_take(batch->arena, ga_size(batch->rows) * (scorers + 1), sizeof *rewards);
    ga_error why = {0};
    if (rows == NULL || rewards == NULL) {
        (void)GA_FAIL(&why, GA_ERR_MEMORY, "no memory for the rows of a batch");
        warn(session, "a batch is not logged", &why);
        return;
    }
    for (int32_t i = 0; i < batch->rows; i++) {
        fill_row(batch, i, advantages[i], rewards + (size_t)i * (scorers + 1), &rows[i]);
    }
    for (int32_t i = 0; i < batch->look_count; i++) {
        fill_look(&batch->look[i], rows);
    }
    const ga_record_batch figures = {.batch = batch->number,
        .update = session->next_update,
        .rows = (uint32_t)batch->rows,
        .mode = batch->pruned ? GA_RECORD_MODE_PRUNE : GA_RECORD_MODE_SHADOW,
        .audited = batch->audited,
        .seconds_denoise = batch->seconds[GA_PHASE_DENOISE],
        .seconds_signal = batch->seconds[GA_PHASE_SIGNAL],
        .seconds_reward = batch->seconds[GA_PHASE_REWARD],
        .seconds_own = batch->own_seconds,
        .seconds_preview = batch->seconds[GA_PHASE_PREVIEW],
        .seconds_lookahead = batch->seconds[GA_PHASE_LOOKAHEAD],
        .seconds_distilled = batch->seconds[GA_PHASE_DISTILLED],
        .seconds_features = ga_batch_feature_seconds(batch)};
    if (ga_record_append(session->record, rows, batch->rows, &why) != GA_OK ||
        ga_record_append_batch(session->record, &figures, &why) != GA_OK ||
        ga_record_status(session->record, &why) != GA_OK) {
        warn(session, "rows of the record may be lost", &why);
    }
}

void ga_logbook_write(ga_session *session, const double *advantages) {
    if (!open_record(session)) {
        return;
    }
    for (int32_t i = 0, start = 0; i < session->batch_count; start += session->batches[i]->rows, i++) {
        write_batch(session->batches[i], advantages + start);
    }
}

void ga_logbook_flush(ga_session *session) {
    ga_error why = {0};
    if (session->record != NULL && ga_record_flush(session->record, &why) != GA_OK) {
        warn(session, "the record is behind", &why);
    }
}

void ga_logbook_count(ga_session *session) {
    if (session->record == NULL) {
        return;
    }
    const ga_record_counters counters = ga_record_count(session->record);
    session->metrics.record_rows = counters.rows_written + counters.rows_pending;
    session->metrics.record_segments = counters.segments;
    session->metrics.record_bytes = counters.bytes;
    session->metrics.record_dropped = counters.rows_dropped;
}
