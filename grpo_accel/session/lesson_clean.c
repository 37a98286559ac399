#include "grpo_accel/session/lesson_clean.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/feature/pool.h"
#include "grpo_accel/record/stream.h"
#include "grpo_accel/session/projection.h"

struct ga_lesson_clean {
    const ga_record_table *table;
    const ga_feature_schema *schema;
    const ga_input_shape *x0, *prompt_shape; /* in the schema; prompt_shape NULL: no such input */
    ga_record_stream *finals, *prompts;      /* NULL once all features are in memory */
    ga_half *final;                          /* [values of a final] */
    float *map, *pooled;                     /* one channel of a final, and what it becomes */
    ga_half *features;
    float *sigma;
    uint8_t *complete;
    ga_dataset dataset;
};

static const ga_input_shape *find_input(const ga_feature_schema *schema, ga_input input) {
    for (int32_t i = 0; i < schema->input_count; i++) {
        if (schema->inputs[i].input == input) {
            return &schema->inputs[i];
        }
    }
    return NULL;
}

static bool is_possible(const ga_record_layout *layout, const ga_input_shape *x0) {
    return x0 != NULL && layout->final_kind == GA_RECORD_FINAL_LATENT &&
           layout->final_shape[0] == x0->channels && layout->final_shape[1] >= x0->height &&
           layout->final_shape[2] >= x0->width;
}

/* ---- one row ---- */

static ga_status put_final(ga_lesson_clean *clean, int64_t row, ga_half *values, ga_error *error) {
    const ga_record_layout *layout = &clean->table->layout;
    const int32_t height = layout->final_shape[1], width = layout->final_shape[2];
    const size_t plane = ga_size(height) * ga_size(width);
    const size_t cells = ga_size(clean->x0->height) * ga_size(clean->x0->width);
    GA_TRY(ga_record_stream_read(clean->finals, &row, NULL, 1, clean->final, error));
    for (size_t channel = 0; channel < ga_size(clean->x0->channels); channel++) {
        ga_half_to_float_array(clean->final + channel * plane, clean->map, plane);
        GA_TRY(ga_pool_area(
            clean->map, height, width, clean->x0->height, clean->x0->width, clean->pooled, error));
        for (size_t i = 0; i < cells; i++) {
            values[ga_size(clean->x0->offset) + channel * cells + i] = ga_half_from_float(clean->pooled[i]);
        }
    }
    return GA_OK;
}

static ga_status put_row(ga_lesson_clean *clean, int64_t row, ga_half *values, ga_error *error) {
    for (int32_t i = 0; i < clean->schema->values_per_row; i++) {
        values[i] = GA_RECORD_HALF_NAN;
    }
    GA_TRY(put_final(clean, row, values, error));
    return clean->prompt_shape != NULL ? ga_record_stream_read(clean->prompts, &row, NULL, 1,
                                             values + clean->prompt_shape->offset, error)
                                       : GA_OK;
}

static ga_status fetch(void *user, const int64_t *rows, int64_t count, ga_half *values_out, ga_error *error) {
    ga_lesson_clean *clean = user;
    for (int64_t i = 0; i < count; i++) {
        GA_TRY(put_row(clean, rows[i], values_out + i * clean->schema->values_per_row, error));
    }
    return GA_OK;
}

/* ---- all rows ---- */

static ga_status open_streams(ga_lesson_clean *clean, size_t memory_bytes, ga_error *error) {
    const ga_record_stream_options finals = {.cache_bytes = memory_bytes};
    GA_TRY(ga_record_stream_open(clean->table, &finals, &clean->finals, error));
    if (clean->prompt_shape == NULL) {
        return GA_OK;
    }
    ga_feature_schema schema;
    const int32_t first = 0;
    GA_TRY(ga_projection_make(&clean->table->layout.features, GA_INPUT_BIT(GA_INPUT_PROMPT), &schema, error));
    const ga_record_stream_options prompts = {
        .schema = &schema, .candidates = &first, .candidate_count = 1, .cache_bytes = memory_bytes};
    return ga_record_stream_open(clean->table, &prompts, &clean->prompts, error);
}

static ga_status take_memory(ga_lesson_clean *clean, ga_error *error) {
    const ga_record_layout *layout = &clean->table->layout;
    const size_t rows = ga_size(clean->table->rows) + 1;
    const size_t plane = ga_size(layout->final_shape[1]) * ga_size(layout->final_shape[2]);
    clean->final = malloc(ga_record_final_values(layout) * sizeof *clean->final);
    clean->map = malloc(2 * plane * sizeof *clean->map);
    clean->sigma = malloc(rows * sizeof *clean->sigma);
    clean->complete = calloc(rows, sizeof *clean->complete);
    if (clean->final == NULL || clean->map == NULL || clean->sigma == NULL || clean->complete == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the finals of %zu rows", rows - 1);
    }
    clean->pooled = clean->map + plane;
    return GA_OK;
}

static void fill_columns(ga_lesson_clean *clean, const uint64_t *prompt, const uint8_t *mine) {
    const ga_record_table *table = clean->table;
    for (int64_t row = 0; row < table->rows; row++) {
        const uint8_t there = table->complete[row * table->layout.candidate_count];
        clean->sigma[row] = GA_LESSON_CLEAN_SIGMA;
        clean->complete[row] = table->final_present[row] != 0 &&
                               (clean->prompt_shape == NULL || (there & GA_INPUT_BIT(GA_INPUT_PROMPT)) != 0);
    }
    clean->dataset = (ga_dataset){.schema = clean->schema,
        .rows = table->rows,
        .complete = clean->complete,
        .partial = true,
        .reward = table->reward,
        .group = table->group,
        .prompt = prompt,
        .update = table->update,
        .inclusion = table->inclusion,
        .audit = table->audit,
        .sigma = clean->sigma,
        .mine = mine};
}

static ga_status give_features(ga_lesson_clean *clean, size_t memory_bytes, ga_error *error) {
    const ga_dataset *dataset = &clean->dataset;
    const size_t values = ga_size(clean->schema->values_per_row);
    if (ga_size(dataset->rows) * values * sizeof(ga_half) > memory_bytes) {
        clean->dataset.fetch = fetch;
        clean->dataset.user = clean;
        clean->dataset.window_rows = ga_record_stream_window(clean->finals);
        return GA_OK;
    }
    clean->features = calloc(ga_size(dataset->rows) * values + 1, sizeof *clean->features);
    if (clean->features == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %lld finals", (long long)dataset->rows);
    }
    for (int64_t row = 0; row < dataset->rows; row++) {
        if (clean->complete[row] != 0 && (dataset->mine == NULL || dataset->mine[row] != 0)) {
            GA_TRY(put_row(clean, row, clean->features + ga_size(row) * values, error));
        }
    }
    clean->dataset.features = clean->features;
    ga_record_stream_close(&clean->finals);
    ga_record_stream_close(&clean->prompts);
    return GA_OK;
}

static ga_status fill(ga_lesson_clean *clean, const uint64_t *prompt, const uint8_t *mine,
    size_t memory_bytes, ga_error *error) {
    GA_TRY(take_memory(clean, error));
    GA_TRY(open_streams(clean, memory_bytes, error));
    fill_columns(clean, prompt, mine);
    return give_features(clean, memory_bytes, error);
}

ga_status ga_lesson_clean_make(const ga_record_table *table, const ga_feature_schema *schema,
    const uint64_t *prompt, const uint8_t *mine, size_t memory_bytes, ga_lesson_clean **clean_out,
    ga_error *error) {
    const ga_input_shape *x0 = find_input(schema, GA_INPUT_X0);
    if (!is_possible(&table->layout, x0)) {
        *clean_out = NULL;
        return GA_OK;
    }
    ga_lesson_clean *clean = calloc(1, sizeof *clean);
    if (clean == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a run's finals");
    }
    clean->table = table;
    clean->schema = schema;
    clean->x0 = x0;
    clean->prompt_shape = find_input(schema, GA_INPUT_PROMPT);
    const ga_status status = fill(clean, prompt, mine, memory_bytes, error);
    if (status != GA_OK) {
        ga_lesson_clean_free(&clean);
        return status;
    }
    *clean_out = clean;
    return GA_OK;
}

const ga_dataset *ga_lesson_clean_dataset(const ga_lesson_clean *clean) {
    return &clean->dataset;
}

void ga_lesson_clean_free(ga_lesson_clean **clean_pointer) {
    ga_lesson_clean *clean = *clean_pointer;
    if (clean == NULL) {
        return;
    }
    ga_record_stream_close(&clean->finals);
    ga_record_stream_close(&clean->prompts);
    free(clean->final);
    free(clean->map);
    free(clean->features);
    free(clean->sigma);
    free(clean->complete);
    free(clean);
    *clean_pointer = NULL;
}
