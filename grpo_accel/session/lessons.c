#include "grpo_accel/session/lessons.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/record/reader.h"
#include "grpo_accel/record/stream.h"
#include "grpo_accel/session/lesson_clean.h"
#include "grpo_accel/session/lesson_labels.h"
#include "grpo_accel/session/projection.h"

#define MEMORY_BYTES ((size_t)64 << 20)

/* Rows that are fetched in one go. */
#define FETCH_ROWS 256

struct ga_lessons {
    ga_record_table *table;
    ga_record_stream *stream; /* NULL once all features are in memory */
    ga_feature_schema schema;
    int32_t candidates[GA_RECORD_CANDIDATES_MAX], steps[GA_RECORD_CANDIDATES_MAX];
    int32_t step_count;
    int32_t scorers[GA_TARGETS_MAX]; /* [target_count] of the table; −1: the combined reward */
    const char *target_names[GA_TARGETS_MAX];
    ga_dataset dataset;
    ga_lesson_labels labels;
    ga_more_labels more, clean_more; /* views of labels */
    ga_lesson_clean *clean;          /* NULL: no finals to learn from */
    ga_dataset clean_dataset;
    /* owned columns, row i · step_count + step */
    ga_half *features;
    float *reward, *inclusion, *sigma, *targets;
    uint64_t *group, *prompt;
    uint32_t *update;
    int32_t *step;
    uint8_t *audit, *complete, *mine;
    uint64_t *row_prompt; /* [rows of the table], for clean; so is row_mine, NULL in one process */
    uint8_t *row_mine;
};

/* ---- what is asked for ---- */

static bool is_wanted_step(const ga_lessons_options *options, int32_t place, int32_t step) {
    if (options->steps == NULL) {
        return options->step == GA_LESSONS_ALL_STEPS || options->step == step ||
               (options->step == 0 && place == 0);
    }
    for (int32_t i = 0; i < options->step_count; i++) {
        if (options->steps[i] == step) {
            return true;
        }
    }
    return false;
}

static ga_status choose_steps(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    const ga_record_layout *layout = &lessons->table->layout;
    for (int32_t i = 0; i < layout->candidate_count; i++) {
        if (is_wanted_step(options, i, layout->candidate_steps[i])) {
            lessons->candidates[lessons->step_count] = i;
            lessons->steps[lessons->step_count++] = layout->candidate_steps[i];
        }
    }
    const int32_t asked = options->steps != NULL ? options->step_count : 1;
    if (lessons->step_count < asked) {
        return GA_FAIL(error, GA_ERR_DATA, "%.300s has no signals after step %d (it has them after step %d)",
            options->path, (int)(options->steps != NULL ? options->steps[asked - 1] : options->step),
            (int)layout->candidate_steps[0]);
    }
    return GA_OK;
}

static int32_t find_scorer(const ga_record_layout *layout, const char *name, size_t length) {
    for (int32_t i = 0; i < layout->scorer_count; i++) {
        if (strlen(layout->scorers[i]) == length && strncmp(layout->scorers[i], name, length) == 0) {
            return i;
        }
    }
    return -1;
}

static void add_target(ga_lessons *lessons, int32_t scorer) {
    int32_t *count = &lessons->dataset.target_count;
    for (int32_t i = 1; i < *count; i++) {
        if (lessons->scorers[i] == scorer) {
            return;
        }
    }
    if (*count < GA_TARGETS_MAX) {
        lessons->scorers[*count] = scorer;
        lessons->target_names[(*count)++] = scorer < 0 ? "combined" : lessons->table->layout.scorers[scorer];
    }
}

/* Target 0 is the reward; the others are scorers by name. */
static ga_status choose_targets(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    const ga_record_layout *layout = &lessons->table->layout;
    add_target(lessons, -1);
    if (options->targets == NULL) {
        return GA_OK;
    }
    for (int32_t i = 0; i < layout->scorer_count && strcmp(options->targets, "all") == 0; i++) {
        if (strcmp(layout->scorers[i], GA_LESSONS_RETEST) != 0) {
            add_target(lessons, i);
        }
    }
    if (strcmp(options->targets, "all") == 0) {
        return GA_OK;
    }
    for (const char *name = options->targets; *name != 0;) {
        const size_t length = strcspn(name, ",");
        const int32_t scorer = find_scorer(layout, name, length);
        if (scorer >= 0) {
            add_target(lessons, scorer);
        } else if (length != strlen("combined") || strncmp(name, "combined", length) != 0) {
            return GA_FAIL(error, GA_ERR_DATA, "%.300s has no scorer \"%.*s\"", options->path,
                (int)(length < 64 ? length : 64), name);
        }
        name += length + (name[length] == ',' ? 1 : 0);
    }
    return GA_OK;
}

/* ---- small columns ---- */

static bool take_memory(ga_lessons *lessons, bool shared) {
    const size_t rows = ga_size(lessons->dataset.rows) + 1;
    const size_t targets = ga_size(lessons->dataset.target_count);
    lessons->reward = calloc(rows, sizeof *lessons->reward);
    lessons->inclusion = calloc(rows, sizeof *lessons->inclusion);
    lessons->sigma = calloc(rows, sizeof *lessons->sigma);
    lessons->targets = targets > 1 ? calloc(rows * targets, sizeof *lessons->targets) : NULL;
    lessons->group = calloc(rows, sizeof *lessons->group);
    lessons->prompt = calloc(rows, sizeof *lessons->prompt);
    lessons->update = calloc(rows, sizeof *lessons->update);
    lessons->step = calloc(rows, sizeof *lessons->step);
    lessons->audit = calloc(rows, sizeof *lessons->audit);
    lessons->complete = calloc(rows, sizeof *lessons->complete);
    lessons->mine = shared ? calloc(rows, sizeof *lessons->mine) : NULL;
    return lessons->reward != NULL && lessons->inclusion != NULL && lessons->sigma != NULL &&
           (lessons->targets != NULL || targets <= 1) && lessons->group != NULL && lessons->prompt != NULL &&
           lessons->update != NULL && lessons->step != NULL && lessons->audit != NULL &&
           lessons->complete != NULL && (lessons->mine != NULL || !shared);
}

static void copy_targets(ga_lessons *lessons, int64_t from, int64_t to) {
    const ga_record_table *table = lessons->table;
    const int32_t count = lessons->dataset.target_count;
    for (int32_t k = 0; k < count && lessons->targets != NULL; k++) {
        const int32_t scorer = lessons->scorers[k];
        lessons->targets[to * count + k] =
            scorer < 0 ? table->reward[from] : table->rewards[from * table->layout.scorer_count + scorer];
    }
}

/* Row `from` of the table at place `place` of the steps. */
static void copy_row(ga_lessons *lessons, const ga_lessons_options *options, int64_t from, int32_t place) {
    const ga_record_table *table = lessons->table;
    const int32_t candidate = lessons->candidates[place];
    const int64_t to = from * lessons->step_count + place;
    const uint32_t inputs = ga_projection_inputs(&lessons->schema);
    const uint32_t there = table->complete[from * table->layout.candidate_count + candidate];
    lessons->reward[to] = table->reward[from];
    copy_targets(lessons, from, to);
    lessons->inclusion[to] = table->inclusion[from];
    lessons->sigma[to] = (float)table->layout.candidate_sigmas[candidate];
    lessons->group[to] = lessons->step_count == 1
                             ? table->group[from]
                             : ga_digest_join(table->group[from], (uint64_t)lessons->steps[place]);
    lessons->prompt[to] = ga_digest64(table->prompt_hash[from], sizeof table->prompt_hash[from]);
    lessons->update[to] = table->update[from];
    lessons->step[to] = lessons->steps[place];
    lessons->audit[to] = table->audit[from];
    lessons->complete[to] = (there & inputs) == inputs ? 1 : 0;
    if (lessons->mine != NULL) {
        lessons->mine[to] = lessons->prompt[to] % (uint64_t)options->ranks == (uint64_t)options->rank;
    }
}

static ga_status fill_columns(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    const ga_record_table *table = lessons->table;
    lessons->dataset.rows = table->rows * lessons->step_count;
    if (!take_memory(lessons, options->ranks > 1)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the %lld rows of %.300s",
            (long long)lessons->dataset.rows, options->path);
    }
    for (int64_t row = 0; row < table->rows; row++) {
        for (int32_t place = 0; place < lessons->step_count; place++) {
            copy_row(lessons, options, row, place);
        }
    }
    return GA_OK;
}

/* ---- features ---- */

static ga_status fetch(void *user, const int64_t *rows, int64_t count, ga_half *values_out, ga_error *error) {
    const ga_lessons *lessons = user;
    int64_t table_rows[FETCH_ROWS];
    int32_t places[FETCH_ROWS];
    for (int64_t first = 0; first < count; first += FETCH_ROWS) {
        const int64_t now = count - first < FETCH_ROWS ? count - first : FETCH_ROWS;
        for (int64_t i = 0; i < now; i++) {
            table_rows[i] = rows[first + i] / lessons->step_count;
            places[i] = (int32_t)(rows[first + i] % lessons->step_count);
        }
        GA_TRY(ga_record_stream_read(lessons->stream, table_rows, places, now,
            values_out + first * lessons->schema.values_per_row, error));
    }
    return GA_OK;
}

static ga_status open_stream(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    const ga_record_stream_options stream = {.schema = &lessons->schema,
        .candidates = lessons->candidates,
        .candidate_count = lessons->step_count,
        .cache_bytes = options->memory_bytes};
    return ga_record_stream_open(lessons->table, &stream, &lessons->stream, error);
}

/* Everything that this process brings, when it fits; the stream is closed then. */
static ga_status load_features(ga_lessons *lessons, size_t values, ga_error *error) {
    const int64_t rows = lessons->dataset.rows;
    lessons->features = calloc((size_t)rows * values + 1, sizeof *lessons->features);
    if (lessons->features == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the features of %lld rows", (long long)rows);
    }
    for (int64_t row = 0; row < rows; row++) {
        if (lessons->complete[row] != 0 && (lessons->mine == NULL || lessons->mine[row] != 0)) {
            GA_TRY(fetch(lessons, &row, 1, lessons->features + (size_t)row * values, error));
        }
    }
    ga_record_stream_close(&lessons->stream);
    return GA_OK;
}

static ga_status give_features(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    const size_t values = ga_size(lessons->schema.values_per_row);
    const size_t bytes = ga_size(lessons->dataset.rows) * values * sizeof(ga_half);
    const size_t limit = options->memory_bytes > 0 ? options->memory_bytes : MEMORY_BYTES;
    GA_TRY(open_stream(lessons, options, error));
    ga_dataset *dataset = &lessons->dataset;
    if (bytes <= limit) {
        GA_TRY(load_features(lessons, values, error));
        dataset->features = lessons->features;
        return GA_OK;
    }
    dataset->fetch = fetch;
    dataset->user = lessons;
    dataset->window_rows = ga_record_stream_window(lessons->stream) * lessons->step_count;
    return GA_OK;
}

/* ---- labels under other prompts ---- */

/* What a row of the table has, out of the columns with a row for each step. */
static ga_status give_row_columns(ga_lessons *lessons, ga_error *error) {
    const size_t rows = ga_size(lessons->table->rows), steps = ga_size(lessons->step_count);
    lessons->row_prompt = calloc(rows + 1, sizeof *lessons->row_prompt);
    lessons->row_mine = lessons->mine != NULL ? calloc(rows + 1, sizeof *lessons->row_mine) : NULL;
    if (lessons->row_prompt == NULL || (lessons->row_mine == NULL && lessons->mine != NULL)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the prompts of %zu rows", rows);
    }
    for (size_t row = 0; row < rows; row++) {
        lessons->row_prompt[row] = lessons->prompt[row * steps];
        if (lessons->mine != NULL) {
            lessons->row_mine[row] = lessons->mine[row * steps];
        }
    }
    return GA_OK;
}

static ga_status give_labels(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    if (options->relabels <= 0) {
        return GA_OK;
    }
    const size_t memory = options->memory_bytes > 0 ? options->memory_bytes : MEMORY_BYTES;
    GA_TRY(ga_lesson_labels_read(
        options->path, lessons->table, &lessons->schema, options->relabels, &lessons->labels, error));
    GA_TRY(give_row_columns(lessons, error));
    GA_TRY(ga_lesson_clean_make(lessons->table, &lessons->schema, lessons->row_prompt, lessons->row_mine,
        memory, &lessons->clean, error));
    lessons->more = ga_lesson_labels_view(&lessons->labels, lessons->step_count);
    lessons->dataset.more = &lessons->more;
    if (lessons->clean != NULL) {
        lessons->clean_more = ga_lesson_labels_view(&lessons->labels, 1);
        lessons->clean_dataset = *ga_lesson_clean_dataset(lessons->clean);
        lessons->clean_dataset.more = &lessons->clean_more;
    }
    return GA_OK;
}

/* ---- all ---- */

static void give_columns(ga_lessons *lessons) {
    ga_dataset *dataset = &lessons->dataset;
    dataset->schema = &lessons->schema;
    dataset->complete = lessons->complete;
    dataset->reward = lessons->reward;
    dataset->targets = lessons->targets;
    dataset->target_names = lessons->target_names;
    dataset->group = lessons->group;
    dataset->prompt = lessons->prompt;
    dataset->update = lessons->update;
    dataset->inclusion = lessons->inclusion;
    dataset->audit = lessons->audit;
    dataset->sigma = lessons->sigma;
    dataset->step = lessons->step;
    dataset->mine = lessons->mine;
}

static ga_status fill(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    const ga_record_read_options window = {.newest_rows = options->newest_rows, .narrow = true};
    GA_TRY(ga_record_read(options->path, &window, &lessons->table, error));
    const ga_feature_schema *full = &lessons->table->layout.features;
    const uint32_t inputs = options->inputs != 0 ? options->inputs : ga_projection_inputs(full);
    GA_TRY(choose_steps(lessons, options, error));
    GA_TRY(choose_targets(lessons, options, error));
    GA_TRY(ga_projection_make(full, inputs, &lessons->schema, error));
    GA_TRY(fill_columns(lessons, options, error));
    GA_TRY(give_features(lessons, options, error));
    GA_TRY(give_labels(lessons, options, error));
    give_columns(lessons);
    return GA_OK;
}

ga_status ga_lessons_read(const ga_lessons_options *options, ga_lessons **lessons_out, ga_error *error) {
    ga_lessons *lessons = calloc(1, sizeof *lessons);
    if (lessons == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to read %.300s", options->path);
    }
    const ga_status status = fill(lessons, options, error);
    if (status != GA_OK) {
        ga_lessons_free(&lessons);
        return status;
    }
    *lessons_out = lessons;
    return GA_OK;
}

const ga_dataset *ga_lessons_dataset(const ga_lessons *lessons) {
    return &lessons->dataset;
}

const ga_dataset *ga_lessons_clean(const ga_lessons *lessons) {
    return lessons->clean != NULL ? &lessons->clean_dataset : NULL;
}

const ga_record_table *ga_lessons_table(const ga_lessons *lessons) {
    return lessons->table;
}

int32_t ga_lessons_steps(const ga_lessons *lessons, const int32_t **steps_out) {
    *steps_out = lessons->steps;
    return lessons->step_count;
}

void ga_lessons_free(ga_lessons **lessons_pointer) {
    if (lessons_pointer == NULL || *lessons_pointer == NULL) {
        return;
    }
    ga_lessons *lessons = *lessons_pointer;
    ga_record_stream_close(&lessons->stream);
    ga_lesson_clean_free(&lessons->clean);
    ga_lesson_labels_free(&lessons->labels);
    ga_record_table_free(&lessons->table);
    free(lessons->features);
    free(lessons->reward);
    free(lessons->inclusion);
    free(lessons->sigma);
    free(lessons->targets);
    free(lessons->group);
    free(lessons->prompt);
    free(lessons->update);
    free(lessons->step);
    free(lessons->audit);
    free(lessons->complete);
    free(lessons->mine);
    free(lessons->row_prompt);
    free(lessons->row_mine);
    free(lessons);
    *lessons_pointer = NULL;
}
