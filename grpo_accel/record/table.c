#include "grpo_accel/record/table.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

/* In the order of ga_record_columns. */
static const size_t column_places[] = {offsetof(ga_record_table, row_id), offsetof(ga_record_table, batch),
    offsetof(ga_record_table, group), offsetof(ga_record_table, prompt_hash), offsetof(ga_record_table, rank),
    offsetof(ga_record_table, index), offsetof(ga_record_table, update), offsetof(ga_record_table, step),
    offsetof(ga_record_table, steps_total), offsetof(ga_record_table, probe_version),
    offsetof(ga_record_table, prediction), offsetof(ga_record_table, variance),
    offsetof(ga_record_table, inclusion), offsetof(ga_record_table, kept), offsetof(ga_record_table, audit),
    offsetof(ga_record_table, advantage), offsetof(ga_record_table, reward),
    offsetof(ga_record_table, final_present)};
_Static_assert(sizeof column_places / sizeof *column_places == GA_COLUMN_COUNT, "a column has no array");

void *ga_record_table_column(const ga_record_table *table, int column) {
    void *array = NULL;
    memcpy(&array, (const char *)table + column_places[column], sizeof array);
    return array;
}

/* rows × values × bytes, zeroed; never NULL for 0 rows; false where memory is out. */
static bool make_array(void **array_out, int64_t rows, size_t values, size_t bytes) {
    size_t count = 0;
    if (!ga_multiply_size(ga_size(rows), values, &count)) {
        return false;
    }
    void *array = calloc(count > 0 ? count : 1, bytes);
    if (array == NULL) {
        return false;
    }
    *array_out = array;
    return true;
}

static bool make_columns(ga_record_table *table) {
    for (int i = 0; i < GA_COLUMN_COUNT; i++) {
        const ga_record_column *column = &ga_record_columns[i];
        void *array = NULL;
        const int32_t values = ga_column_values(column->kind, table->layout.candidate_count);
        if (!make_array(&array, table->rows, (size_t)values, ga_column_bytes(column->type))) {
            return false;
        }
        memcpy((char *)table + column_places[i], &array, sizeof array);
    }
    return true;
}

/* Features and finals: most of a record's bytes. */
static bool make_wide_arrays(ga_record_table *table) {
    const ga_record_layout *layout = &table->layout;
    const size_t values = (size_t)layout->candidate_count * (size_t)layout->features.values_per_row;
    const size_t final_bytes = ga_record_final_values(layout) * ga_record_final_bytes(layout);
    void *array = NULL;
    if (!make_array(&array, table->rows, values, sizeof(ga_half))) {
        return false;
    }
    table->features = array;
    if (final_bytes > 0) {
        if (!make_array(&array, table->rows, final_bytes, 1)) {
            return false;
        }
        table->finals = array;
    }
    if (ga_record_has_states(layout)) {
        if (!make_array(&array, table->rows, final_bytes, 1)) {
            return false;
        }
        table->states = array;
    }
    return true;
}

static bool make_other_arrays(ga_record_table *table) {
    const ga_record_layout *layout = &table->layout;
    void *rewards = NULL, *complete = NULL, *source = NULL, *place = NULL, *prompts = NULL;
    const bool made = make_array(&rewards, table->rows, (size_t)layout->scorer_count, sizeof(float)) &&
                      make_array(&complete, table->rows, (size_t)layout->candidate_count, sizeof(uint8_t)) &&
                      make_array(&source, table->rows, 1, sizeof(int32_t)) &&
                      make_array(&place, table->rows, 1, sizeof(int32_t)) &&
                      (table->prompt_bytes == 0 || make_array(&prompts, table->rows, table->prompt_bytes, 1));
    table->rewards = rewards;
    table->complete = complete;
    table->source = source;
    table->place = place;
    table->prompts = prompts;
    return made;
}

static bool make_batches(ga_record_table *table) {
    void *array = NULL;
    if (!make_array(&array, table->batch_count, 1, sizeof(ga_record_batch))) {
        return false;
    }
    table->batches = array;
    return true;
}

ga_status ga_record_table_create(const ga_record_layout *layout, const ga_record_size *size,
    ga_record_table **table_out, ga_error *error) {
    ga_record_table *table = calloc(1, sizeof *table);
    if (table == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for a table");
    }
    table->layout = *layout;
    table->rows = size->rows;
    table->batch_count = size->batches;
    table->prompt_bytes = size->prompt_bytes;
    if (!make_columns(table) || !make_other_arrays(table) || !make_batches(table) ||
        (!size->narrow && !make_wide_arrays(table))) {
        ga_record_table_free(&table);
        return GA_FAIL(
            error, GA_ERR_MEMORY, "record: no memory for a table of %lld rows", (long long)size->rows);
    }
    *table_out = table;
    return GA_OK;
}

void ga_record_table_narrow(ga_record_table *table) {
    free(table->features);
    free(table->finals);
    free(table->states);
    table->features = NULL;
    table->finals = NULL;
    table->states = NULL;
}

void ga_record_table_free(ga_record_table **table_pointer) {
    ga_record_table *table = *table_pointer;
    if (table == NULL) {
        return;
    }
    for (int i = 0; i < GA_COLUMN_COUNT; i++) {
        free(ga_record_table_column(table, i));
    }
    for (int32_t i = 0; i < table->source_count; i++) {
        free(table->sources[i].path);
    }
    ga_record_table_narrow(table);
    free(table->rewards);
    free(table->complete);
    free(table->source);
    free(table->place);
    free(table->sources);
    free(table->prompts);
    free(table->batches);
    free(table);
    *table_pointer = NULL;
}
