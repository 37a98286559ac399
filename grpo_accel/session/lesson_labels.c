#include "grpo_accel/session/lesson_labels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/record/relabels.h"
#include "grpo_accel/record/stream.h"
#include "grpo_accel/session/projection.h"

/* A row of the table by its identity. */
typedef struct row_place {
    uint64_t row_id;
    int64_t row;
} row_place;

/* One label on its way to its row; donor: a row that has the prompt. */
typedef struct joined_label {
    int64_t row, donor, number;
    uint64_t prompt;
    float reward;
    int32_t vector;
} joined_label;

static int by_identity(const void *a, const void *b) {
    const row_place *left = a, *right = b;
    return (left->row_id > right->row_id) - (left->row_id < right->row_id);
}

static int by_prompt(const void *a, const void *b) {
    const joined_label *left = a, *right = b;
    if (left->prompt != right->prompt) {
        return left->prompt < right->prompt ? -1 : 1;
    }
    return (left->number > right->number) - (left->number < right->number);
}

static int by_row(const void *a, const void *b) {
    const joined_label *left = a, *right = b;
    if (left->row != right->row) {
        return left->row < right->row ? -1 : 1;
    }
    return (left->number > right->number) - (left->number < right->number);
}

/* ---- joining ---- */

static int64_t find_row(const row_place *places, int64_t count, uint64_t row_id) {
    const row_place key = {.row_id = row_id};
    const row_place *found = bsearch(&key, places, ga_size(count), sizeof key, by_identity);
    return found != NULL ? found->row : -1;
}

static row_place *make_places(const ga_record_table *table) {
    row_place *places = malloc((ga_size(table->rows) + 1) * sizeof *places);
    for (int64_t row = 0; row < table->rows && places != NULL; row++) {
        places[row] = (row_place){.row_id = table->row_id[row], .row = row};
    }
    if (places != NULL) {
        qsort(places, ga_size(table->rows), sizeof *places, by_identity);
    }
    return places;
}

/* Labels whose row is in the table, whose reward is a number and whose prompt's features were logged. */
static ga_status join_labels(const ga_relabels *relabels, const ga_record_table *table,
    joined_label **joined_out, int64_t *count_out, ga_error *error) {
    row_place *places = make_places(table);
    joined_label *joined = malloc((ga_size(relabels->count) + 1) * sizeof *joined);
    int64_t count = 0;
    for (int64_t i = 0; i < relabels->count && places != NULL && joined != NULL; i++) {
        const int64_t row = find_row(places, table->rows, relabels->row_id[i]);
        const int64_t donor = find_row(places, table->rows, relabels->donor_row_id[i]);
        if (row >= 0 && donor >= 0 && isfinite(relabels->reward[i]) &&
            (table->complete[donor * table->layout.candidate_count] & GA_INPUT_BIT(GA_INPUT_PROMPT)) != 0) {
            joined[count++] = (joined_label){.row = row,
                .donor = donor,
                .number = i,
                .prompt = ga_digest64(relabels->prompt_hash[i], sizeof relabels->prompt_hash[i]),
                .reward = relabels->reward[i]};
        }
    }
    const bool made = places != NULL && joined != NULL;
    free(places);
    if (!made) {
        free(joined);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to join %lld labels", (long long)relabels->count);
    }
    *joined_out = joined;
    *count_out = count;
    return GA_OK;
}

/* ---- the prompts' vectors ---- */

static ga_status read_vectors(
    const ga_record_table *table, const int64_t *donors, ga_lesson_labels *labels, ga_error *error) {
    ga_feature_schema schema;
    GA_TRY(ga_projection_make(&table->layout.features, GA_INPUT_BIT(GA_INPUT_PROMPT), &schema, error));
    const int32_t first = 0;
    const ga_record_stream_options options = {
        .schema = &schema, .candidates = &first, .candidate_count = 1, .cache_bytes = (size_t)8 << 20};
    ga_record_stream *stream = NULL;
    GA_TRY(ga_record_stream_open(table, &options, &stream, error));
    labels->vectors = malloc(ga_size(labels->vector_count) * ga_record_stream_state_bytes(stream) + 1);
    const ga_status status =
        labels->vectors != NULL
            ? ga_record_stream_read(stream, donors, NULL, labels->vector_count, labels->vectors, error)
            : GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d prompts", labels->vector_count);
    ga_record_stream_close(&stream);
    return status;
}

/* Numbers the prompts in the order of their keys and reads a vector for each. */
static ga_status give_vectors(const ga_record_table *table, joined_label *joined, int64_t count,
    ga_lesson_labels *labels, ga_error *error) {
    int64_t *donors = malloc((ga_size(count) + 1) * sizeof *donors);
    if (donors == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the prompts of %lld labels", (long long)count);
    }
    qsort(joined, ga_size(count), sizeof *joined, by_prompt);
    for (int64_t i = 0; i < count; i++) {
        if (i == 0 || joined[i].prompt != joined[i - 1].prompt) {
            donors[labels->vector_count++] = joined[i].donor;
        }
        joined[i].vector = labels->vector_count - 1;
    }
    const ga_status status = read_vectors(table, donors, labels, error);
    free(donors);
    return status;
}

/* ---- columns ---- */

static bool take_memory(const ga_record_table *table, int64_t count, ga_lesson_labels *labels) {
    const size_t rows = ga_size(table->rows) + 1, size = ga_size(count) + 1;
    labels->begin = calloc(rows, sizeof *labels->begin);
    labels->row_count = calloc(rows, sizeof *labels->row_count);
    labels->reward = calloc(size, sizeof *labels->reward);
    labels->prompt = calloc(size, sizeof *labels->prompt);
    labels->vector = calloc(size, sizeof *labels->vector);
    return labels->begin != NULL && labels->row_count != NULL && labels->reward != NULL &&
           labels->prompt != NULL && labels->vector != NULL;
}

static ga_status fill_columns(const ga_record_table *table, joined_label *joined, int64_t count,
    int32_t per_row, ga_lesson_labels *labels, ga_error *error) {
    if (!take_memory(table, count, labels)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %lld labels", (long long)count);
    }
    qsort(joined, ga_size(count), sizeof *joined, by_row);
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = joined[i].row;
        if (labels->row_count[row] == 0) {
            labels->begin[row] = labels->count;
        }
        if (labels->row_count[row] < per_row) {
            labels->row_count[row]++;
            labels->reward[labels->count] = joined[i].reward;
            labels->prompt[labels->count] = joined[i].prompt;
            labels->vector[labels->count++] = joined[i].vector;
        }
    }
    return GA_OK;
}

static ga_status check_inputs(const ga_feature_schema *schema, ga_error *error) {
    const uint32_t inputs = ga_projection_inputs(schema);
    const uint32_t pictures = GA_INPUT_BIT(GA_INPUT_X0) | GA_INPUT_BIT(GA_INPUT_HIDDEN);
    return (inputs & GA_INPUT_BIT(GA_INPUT_PROMPT)) != 0 && (inputs & pictures) != 0
               ? GA_OK
               : GA_FAIL(error, GA_ERR_DATA,
                     "labels under other prompts need the inputs prompt, and x0 or hidden; log them "
                     "(probe.inputs) or train with --relabels 0");
}

ga_status ga_lesson_labels_read(const char *path, const ga_record_table *table,
    const ga_feature_schema *schema, int32_t per_row, ga_lesson_labels *labels_out, ga_error *error) {
    ga_relabels relabels;
    joined_label *joined = NULL;
    int64_t count = 0;
    ga_lesson_labels labels;
    memset(&labels, 0, sizeof labels);
    GA_TRY(check_inputs(schema, error));
    GA_TRY(ga_relabels_read(path, &relabels, error));
    ga_status status = join_labels(&relabels, table, &joined, &count, error);
    ga_relabels_free(&relabels);
    if (status == GA_OK) {
        status = give_vectors(table, joined, count, &labels, error);
    }
    if (status == GA_OK) {
        status = fill_columns(table, joined, count, per_row, &labels, error);
    }
    free(joined);
    if (status != GA_OK) {
        ga_lesson_labels_free(&labels);
        return status;
    }
    *labels_out = labels;
    return GA_OK;
}

ga_more_labels ga_lesson_labels_view(const ga_lesson_labels *labels, int32_t share) {
    return (ga_more_labels){.share = share,
        .begin = labels->begin,
        .count = labels->row_count,
        .reward = labels->reward,
        .prompt = labels->prompt,
        .vector = labels->vector,
        .vectors = labels->vectors,
        .vector_count = labels->vector_count};
}

void ga_lesson_labels_free(ga_lesson_labels *labels) {
    free(labels->begin);
    free(labels->row_count);
    free(labels->reward);
    free(labels->prompt);
    free(labels->vector);
    free(labels->vectors);
    memset(labels, 0, sizeof *labels);
}
