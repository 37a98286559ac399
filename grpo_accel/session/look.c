#include "grpo_accel/session/look.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/session/batch.h"

static ga_status take_memory(ga_batch *batch, ga_look *look, ga_error *error) {
    const size_t rows = ga_size(batch->rows);
    const ga_feature_schema *schema = &batch->session->schema;
    const size_t values = rows * ga_size(schema->values_per_row);
    look->row = ga_arena_take(batch->arena, rows, sizeof *look->row);
    look->prediction = ga_arena_take(batch->arena, rows, sizeof *look->prediction);
    look->variance = ga_arena_take(batch->arena, rows, sizeof *look->variance);
    look->block = (ga_feature_block){
        .schema = schema, .rows = 0, .values = ga_arena_take(batch->arena, values + 1, sizeof(ga_half))};
    if (look->row == NULL || look->prediction == NULL || look->variance == NULL ||
        look->block.values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d rows of features of batch %llu",
            (int)batch->rows, (unsigned long long)batch->number);
    }
    return GA_OK;
}

/* The rows that run now are those of the look whose turn it is, if there is one. */
static void begin_look(ga_batch *batch) {
    if (batch->look_now == batch->look_count) {
        return;
    }
    ga_look *look = &batch->look[batch->look_now];
    memcpy(look->row, batch->kept_rows, ga_size(batch->kept_count) * sizeof *look->row);
    look->block.rows = batch->kept_count;
    ga_feature_clear(&look->block); /* what is not observed is not known, and not zero */
}

ga_status ga_batch_make_looks(ga_batch *batch, ga_error *error) {
    const ga_session *session = batch->session;
    const ga_strategy_looks looks = ga_strategy_look(session, batch->number);
    batch->strategy = session->strategy;
    batch->look_count = looks.count;
    batch->decisions = looks.decisions;
    batch->idle = looks.idle;
    for (int32_t i = 0; i < looks.count; i++) {
        ga_look *look = &batch->look[i];
        GA_TRY(take_memory(batch, look, error));
        look->candidate = looks.candidate[i];
        look->sigma = session->shapes.candidate_sigmas[look->candidate];
        batch->steps[i] = session->shapes.candidate_steps[look->candidate];
        for (int32_t row = 0; row < batch->rows; row++) {
            look->prediction[row] = NAN;
            look->variance[row] = NAN;
        }
    }
    begin_look(batch);
    return GA_OK;
}

ga_status ga_batch_current_look(ga_batch *batch, ga_look **look_out, ga_error *error) {
    if (batch->look_now == batch->look_count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "batch %llu %s", (unsigned long long)batch->number,
            batch->look_count == 0 ? "rests: nothing is observed in it" : "has had its last decision");
    }
    *look_out = &batch->look[batch->look_now];
    return GA_OK;
}

void ga_batch_turn(ga_batch *batch) {
    const ga_look *look = &batch->look[batch->look_now];
    for (int32_t i = 0; i < look->block.rows; i++) {
        batch->looks_met[look->row[i]]++;
    }
    batch->look_now++;
    begin_look(batch);
}

/* ---- what rows have run ---- */

int32_t ga_batch_steps_run(const ga_batch *batch, int32_t row) {
    if (batch->kept[row] != 0) {
        return batch->session->shapes.steps_total;
    }
    return batch->steps[batch->looks_met[row] - 1] + 1;
}

int64_t ga_batch_row_steps(const ga_batch *batch) {
    int64_t steps = 0;
    for (int32_t row = 0; row < batch->rows; row++) {
        steps += ga_batch_steps_run(batch, row);
    }
    return steps;
}

int64_t ga_batch_rows_observed(const ga_batch *batch) {
    int64_t rows = 0;
    for (int32_t i = 0; i < batch->look_count; i++) {
        rows += batch->look[i].observed != 0 ? batch->look[i].block.rows : 0;
    }
    return rows;
}

static bool was_observed(const ga_batch *batch, int32_t row) {
    for (int32_t i = 0; i < batch->looks_met[row]; i++) {
        if (batch->look[i].observed != 0) {
            return true;
        }
    }
    return false;
}

ga_outcome ga_batch_outcome(const ga_batch *batch, int32_t row) {
    ga_outcome outcome = {.reward = (double)NAN,
        .inclusion = batch->inclusion[row],
        .mean = batch->prediction[row],
        .variance = batch->variance[row],
        .rank = batch->session->rank,
        .index = row,
        .kept = batch->kept[row],
        .audit = batch->audited,
        .observed = was_observed(batch, row),
        .steps_run = (uint16_t)ga_batch_steps_run(batch, row)};
    for (int32_t i = 0; i < GA_CANDIDATES_MAX; i++) {
        outcome.candidate_mean[i] = NAN;
    }
    for (int32_t i = 0; i < batch->look_count; i++) {
        outcome.candidate_mean[batch->look[i].candidate] = batch->look[i].prediction[row];
    }
    return outcome;
}
