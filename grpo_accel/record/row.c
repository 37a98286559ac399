#include "grpo_accel/record/row.h"

#include <string.h>

#define ROW_COLUMN(name, type, kind, field)                                                                  \
    { name, type, kind, offsetof(ga_record_row, field), 1 }
#define BATCH_COLUMN(name, type, field, since)                                                               \
    { name, type, GA_COLUMN_ONE, offsetof(ga_record_batch, field), since }

const ga_record_column ga_record_columns[GA_COLUMN_COUNT] = {
    ROW_COLUMN("row_id", GA_COLUMN_U64, GA_COLUMN_ONE, row.row_id),
    ROW_COLUMN("batch", GA_COLUMN_U64, GA_COLUMN_ONE, row.batch),
    ROW_COLUMN("group", GA_COLUMN_U64, GA_COLUMN_ONE, row.group),
    ROW_COLUMN("prompt_hash", GA_COLUMN_U8, GA_COLUMN_HASH, row.prompt_hash),
    ROW_COLUMN("rank", GA_COLUMN_I32, GA_COLUMN_ONE, row.rank),
    ROW_COLUMN("index", GA_COLUMN_I32, GA_COLUMN_ONE, row.index),
    ROW_COLUMN("update", GA_COLUMN_U32, GA_COLUMN_ONE, row.update),
    ROW_COLUMN("step", GA_COLUMN_U16, GA_COLUMN_ONE, step),
    ROW_COLUMN("steps_total", GA_COLUMN_U16, GA_COLUMN_ONE, steps_total),
    ROW_COLUMN("probe_version", GA_COLUMN_U32, GA_COLUMN_ONE, probe_version),
    ROW_COLUMN("prediction", GA_COLUMN_F32, GA_COLUMN_CANDIDATES, prediction),
    ROW_COLUMN("variance", GA_COLUMN_F32, GA_COLUMN_CANDIDATES, variance),
    ROW_COLUMN("inclusion", GA_COLUMN_F32, GA_COLUMN_ONE, inclusion),
    ROW_COLUMN("kept", GA_COLUMN_U8, GA_COLUMN_ONE, kept),
    ROW_COLUMN("audit", GA_COLUMN_U8, GA_COLUMN_ONE, audit),
    ROW_COLUMN("advantage", GA_COLUMN_F32, GA_COLUMN_ONE, advantage),
    ROW_COLUMN("reward/combined", GA_COLUMN_F32, GA_COLUMN_ONE, reward_combined),
    {"final_present", GA_COLUMN_U8, GA_COLUMN_ONE, offsetof(ga_record_row, final_present), 2},
};

const ga_record_column ga_record_batch_columns[GA_BATCH_COLUMN_COUNT] = {
    BATCH_COLUMN("batches/batch", GA_COLUMN_U64, batch, 1),
    BATCH_COLUMN("batches/update", GA_COLUMN_U32, update, 1),
    BATCH_COLUMN("batches/rows", GA_COLUMN_U32, rows, 1),
    BATCH_COLUMN("batches/rank", GA_COLUMN_I32, rank, 1),
    BATCH_COLUMN("batches/mode", GA_COLUMN_U8, mode, 1),
    BATCH_COLUMN("batches/audited", GA_COLUMN_U8, audited, 1),
    BATCH_COLUMN("batches/seconds_denoise", GA_COLUMN_F64, seconds_denoise, 1),
    BATCH_COLUMN("batches/seconds_signal", GA_COLUMN_F64, seconds_signal, 1),
    BATCH_COLUMN("batches/seconds_reward", GA_COLUMN_F64, seconds_reward, 1),
    BATCH_COLUMN("batches/seconds_own", GA_COLUMN_F64, seconds_own, 1),
    BATCH_COLUMN("batches/seconds_preview", GA_COLUMN_F64, seconds_preview, 2),
    BATCH_COLUMN("batches/seconds_lookahead", GA_COLUMN_F64, seconds_lookahead, 2),
    BATCH_COLUMN("batches/seconds_distilled", GA_COLUMN_F64, seconds_distilled, 2),
    BATCH_COLUMN("batches/seconds_features", GA_COLUMN_F64, seconds_features, 2),
};

size_t ga_column_bytes(ga_column_type type) {
    switch (type) {
    case GA_COLUMN_U8: return 1;
    case GA_COLUMN_U16: return 2;
    case GA_COLUMN_U32:
    case GA_COLUMN_I32:
    case GA_COLUMN_F32: return 4;
    case GA_COLUMN_U64:
    case GA_COLUMN_F64: return 8;
    }
    return 0;
}

int32_t ga_column_values(ga_column_kind kind, int32_t candidate_count) {
    switch (kind) {
    case GA_COLUMN_ONE: return 1;
    case GA_COLUMN_HASH: return 16;
    case GA_COLUMN_CANDIDATES: return candidate_count;
    }
    return 0;
}

const char *ga_record_input_name(ga_input input) {
    static const char *const names[GA_INPUT_COUNT] = {
        "attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled"};
    const int position = (int)input;
    return position >= 0 && position < GA_INPUT_COUNT ? names[position] : NULL;
}

size_t ga_record_final_values(const ga_record_layout *layout) {
    if (layout->final_kind == GA_RECORD_FINAL_NONE) {
        return 0;
    }
    return (size_t)layout->final_shape[0] * (size_t)layout->final_shape[1] * (size_t)layout->final_shape[2];
}

size_t ga_record_final_bytes(const ga_record_layout *layout) {
    return layout->final_kind == GA_RECORD_FINAL_LATENT ? sizeof(ga_half) : 1;
}

bool ga_record_has_states(const ga_record_layout *layout) {
    return layout->final_kind == GA_RECORD_FINAL_LATENT;
}

static ga_status check_scorers(const ga_record_layout *layout, ga_error *error) {
    if (layout->scorer_count < 0 || layout->scorer_count > GA_RECORD_SCORERS_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: %d scorers; at most %d can be logged",
            layout->scorer_count, GA_RECORD_SCORERS_MAX);
    }
    for (int32_t i = 0; i < layout->scorer_count; i++) {
        const char *name = layout->scorers[i];
        const size_t length = strnlen(name, GA_RECORD_NAME_BYTES);
        /* a name becomes a link in the file: "/" would open a folder, "." means the folder itself */
        if (length == 0 || length == GA_RECORD_NAME_BYTES || strchr(name, '/') != NULL || name[0] == '.' ||
            strcmp(name, "combined") == 0) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "record: scorer %d is named '%.63s'; a name has 1 to %d bytes, no '/', no leading '.', and "
                "is not 'combined'",
                i, name, GA_RECORD_NAME_BYTES - 1);
        }
        for (int32_t j = 0; j < i; j++) {
            if (strcmp(name, layout->scorers[j]) == 0) {
                return GA_FAIL(error, GA_ERR_ARGUMENT, "record: two scorers are named '%s'", name);
            }
        }
    }
    return GA_OK;
}

static ga_status check_features(const ga_feature_schema *schema, ga_error *error) {
    if (schema->input_count < 0 || schema->input_count > GA_INPUT_COUNT) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: a feature schema of %d inputs", schema->input_count);
    }
    int64_t offset = 0;
    int previous = -1; /* a file has no order of its own: inputs stand in the order of ga_input */
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        const char *name = ga_record_input_name(shape->input);
        if (name == NULL || (int)shape->input <= previous || shape->channels < 1 || shape->height < 1 ||
            shape->width < 1 || shape->offset != offset) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "record: input %d of the feature schema (%s) is not valid",
                i, name != NULL ? name : "unknown");
        }
        previous = (int)shape->input;
        offset += (int64_t)shape->channels * shape->height * shape->width;
        if (offset > INT32_MAX) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "record: more than 2^31 feature values a row");
        }
    }
    if (schema->values_per_row != offset) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: the schema says %d values a row, its inputs have %d",
            schema->values_per_row, (int)offset);
    }
    return GA_OK;
}

static ga_status check_final(const ga_record_layout *layout, ga_error *error) {
    if (layout->final_kind == GA_RECORD_FINAL_NONE) {
        return GA_OK;
    }
    if (layout->final_kind != GA_RECORD_FINAL_LATENT && layout->final_kind != GA_RECORD_FINAL_IMAGE) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: finals of kind %d", layout->final_kind);
    }
    for (int i = 0; i < 3; i++) {
        if (layout->final_shape[i] < 1 || layout->final_shape[i] > 1 << 16) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "record: dimension %d of a final is %d", i, layout->final_shape[i]);
        }
    }
    if (ga_record_final_values(layout) > (size_t)1 << 28) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: a final of more than 2^28 values");
    }
    return GA_OK;
}

ga_status ga_record_layout_check(const ga_record_layout *layout, ga_error *error) {
    if (layout->candidate_count < 1 || layout->candidate_count > GA_RECORD_CANDIDATES_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: %d candidate steps; between 1 and %d can be logged",
            layout->candidate_count, GA_RECORD_CANDIDATES_MAX);
    }
    if (layout->rank < 0 || layout->world_size < 1 || layout->rank >= layout->world_size) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "record: rank %d of a world of %d", layout->rank, layout->world_size);
    }
    if (memchr(layout->run_id, 0, sizeof layout->run_id) == NULL ||
        memchr(layout->model, 0, sizeof layout->model) == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: run_id or model has no end");
    }
    GA_TRY(check_scorers(layout, error));
    GA_TRY(check_features(&layout->features, error));
    return check_final(layout, error);
}
