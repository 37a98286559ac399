/* Tables from HDF5: datasets by name, or a run's record. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/record/columns.h"
#include "grpo_accel/record/files.h"
#include "grpo_accel/record/reader.h"
#include "grpo_accel/whatif/table.h"

/* ---- datasets by name ---- */

typedef enum named { GROUP, SCORE, REWARD, BATCH, RANK, SCORE2, SCORE3, NAMED_COUNT } named;

static ga_status check_value(
    const char *path, const char *name, int64_t row, double value, bool may_be_missing, ga_error *error) {
    if (fabs(value) <= GA_WHATIF_VALUE_MAX || (may_be_missing && isnan(value))) {
        return GA_OK;
    }
    if (isfinite(value)) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%.200s: dataset %s, row %lld: %g is too large a number (at most 1e18 either way)", path, name,
            (long long)row, value);
    }
    return GA_FAIL(error, GA_ERR_DATA, "%.200s: dataset %s, row %lld: %g is not a finite number", path, name,
        (long long)row, value);
}

static ga_status check_rank(const char *path, int64_t row, double rank, ga_error *error) {
    if (rank >= 0 && rank <= INT32_MAX && floor(rank) == rank) {
        return GA_OK;
    }
    return GA_FAIL(error, GA_ERR_DATA, "%.200s: dataset rank, row %lld: %g is no whole number from 0", path,
        (long long)row, rank);
}

static ga_status fill_from_named(
    const char *path, const ga_record_named *columns, ga_whatif_table *table, ga_error *error) {
    for (int32_t i = 0; i < table->rows; i++) {
        table->group[i] = columns[GROUP].keys[i];
        table->batch[i] = columns[BATCH].keys != NULL ? columns[BATCH].keys[i] : 0;
        table->reward[i] = columns[REWARD].values[i];
        GA_TRY(check_value(path, "reward", i, table->reward[i], false, error));
        for (int32_t k = 0; k < table->score_count; k++) {
            const ga_record_named *column = &columns[k == 0 ? SCORE : k == 1 ? SCORE2 : SCORE3];
            table->score[k][i] = column->values[i];
            GA_TRY(check_value(path, column->name, i, column->values[i], true, error));
        }
        if (table->rank != NULL) {
            GA_TRY(check_rank(path, i, columns[RANK].values[i], error));
            table->rank[i] = (int32_t)columns[RANK].values[i];
        }
    }
    return GA_OK;
}

static ga_status table_from_named(const char *path, const ga_record_named *columns, int64_t rows,
    ga_whatif_table **table_out, ga_error *error) {
    if (columns[GROUP].keys == NULL || columns[SCORE].values == NULL || columns[REWARD].values == NULL) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%.200s: needs the datasets group, score and reward; %s is missing", path,
            columns[GROUP].keys == NULL     ? "group"
            : columns[SCORE].values == NULL ? "score"
                                            : "reward");
    }
    if (rows < 1 || (columns[SCORE3].values != NULL && columns[SCORE2].values == NULL)) {
        return GA_FAIL(error, GA_ERR_DATA, "%.200s: %s", path,
            rows < 1 ? "no rows in it" : "dataset score3 without score2");
    }
    const int32_t stages = columns[SCORE3].values != NULL ? 3 : columns[SCORE2].values != NULL ? 2 : 1;
    ga_whatif_table *table = NULL;
    GA_TRY(ga_whatif_table_create(rows, stages, columns[RANK].values != NULL, &table, error));
    const ga_status status = fill_from_named(path, columns, table, error);
    if (status != GA_OK) {
        ga_whatif_table_free(&table);
        return status;
    }
    *table_out = table;
    return GA_OK;
}

/* ---- a record ---- */

/* Which value of a row is the score of a stage. */
typedef struct picked {
    const ga_record_table *record;
    const ga_whatif_read_options *options;
    ga_input input; /* GA_INPUT_COUNT: the prediction */
    int32_t offset; /* of the input's value in a row's features */
    int32_t stage_count;
    int32_t candidates[GA_WHATIF_STAGES_MAX];
} picked;

static ga_status find_input(picked *p, ga_error *error) {
    const char *name = p->options->score;
    p->input = GA_INPUT_COUNT;
    if (name == NULL || strcmp(name, "prediction") == 0) {
        return GA_OK;
    }
    const ga_feature_schema *schema = &p->record->layout.features;
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        if (strcmp(name, ga_record_input_name(shape->input)) == 0 && shape->channels == 1 &&
            shape->height == 1 && shape->width == 1) {
            p->input = shape->input;
            p->offset = shape->offset;
            return GA_OK;
        }
    }
    return GA_FAIL(error, GA_ERR_ARGUMENT,
        "--score %.64s: the record has no such input of one value a row; prediction always works", name);
}

static double score_at(const picked *p, int64_t row, int32_t candidate) {
    const ga_record_table *record = p->record;
    const int64_t at = row * record->layout.candidate_count + candidate;
    if (p->input == GA_INPUT_COUNT) {
        return (double)record->prediction[at];
    }
    const ga_half bits = record->features[at * record->layout.features.values_per_row + p->offset];
    return (double)ga_half_to_float(bits);
}

/* The last candidate that any row has a score for; the last of all where none has. */
static int32_t last_scored(const picked *p) {
    for (int32_t c = p->record->layout.candidate_count - 1; c > 0; c--) {
        for (int64_t i = 0; i < p->record->rows; i++) {
            if (isfinite(score_at(p, i, c))) {
                return c;
            }
        }
    }
    return 0;
}

static ga_status find_stages(picked *p, ga_error *error) {
    const ga_record_layout *layout = &p->record->layout;
    if (p->options->stage_count == 0) {
        p->stage_count = 1;
        p->candidates[0] = last_scored(p);
        return GA_OK;
    }
    p->stage_count = p->options->stage_count;
    for (int32_t k = 0; k < p->stage_count; k++) {
        p->candidates[k] = -1;
        for (int32_t c = 0; c < layout->candidate_count; c++) {
            if (layout->candidate_steps[c] == p->options->stages[k]) {
                p->candidates[k] = c;
            }
        }
        if (p->candidates[k] < 0 || (k > 0 && p->options->stages[k] <= p->options->stages[k - 1])) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "step %d: the record has signals after %d steps first and %d last; give ascending ones of "
                "them",
                (int)p->options->stages[k], (int)layout->candidate_steps[0],
                (int)layout->candidate_steps[layout->candidate_count - 1]);
        }
    }
    return GA_OK;
}

static bool is_scored(const picked *p, int64_t row) {
    for (int32_t k = 0; k < p->stage_count; k++) {
        if (!isfinite(score_at(p, row, p->candidates[k]))) {
            return false;
        }
    }
    return true;
}

/* Rows are ordered by (update, batch): one batch from `first`, its end, and whether all of it is known. */
static int64_t end_of_batch(const picked *p, int64_t first, bool *known_out) {
    const ga_record_table *record = p->record;
    int64_t i = first;
    bool known = true;
    for (; i < record->rows && record->batch[i] == record->batch[first]; i++) {
        known = known && isfinite((double)record->reward[i]) && is_scored(p, i);
    }
    *known_out = known;
    return i;
}

static void copy_rows(const picked *p, int64_t first, int64_t end, ga_whatif_table *table, int32_t *filled) {
    for (int64_t i = first; i < end; i++) {
        const int32_t to = (*filled)++;
        table->batch[to] = p->record->batch[i];
        table->group[to] = p->record->group[i];
        table->rank[to] = p->record->rank[i];
        table->reward[to] = (double)p->record->reward[i];
        for (int32_t k = 0; k < p->stage_count; k++) {
            table->score[k][to] = score_at(p, i, p->candidates[k]);
        }
    }
}

static int64_t count_known(const picked *p, int64_t *skipped_out) {
    int64_t rows = 0;
    for (int64_t i = 0; i < p->record->rows;) {
        bool known = false;
        const int64_t end = end_of_batch(p, i, &known);
        rows += known ? end - i : 0;
        *skipped_out += !known;
        i = end;
    }
    return rows;
}

/*
 * What the record's seconds say, as shares of full denoising of the rows in the same batches. The seconds of
 * signals are those of all candidate steps, each of which a shadow batch looks at.
 */
static void read_costs(const picked *p, ga_whatif_source *source) {
    const ga_record_table *record = p->record;
    double denoise = 0, signal = 0, reward = 0;
    for (int64_t i = 0; i < record->batch_count; i++) {
        const ga_record_batch *batch = &record->batches[i];
        if (batch->mode == GA_RECORD_MODE_SHADOW) { /* every row ran every step */
            denoise += batch->seconds_denoise;
            signal += batch->seconds_signal + batch->seconds_own;
            reward += batch->seconds_reward;
        }
    }
    source->signal =
        denoise > 0 ? signal / denoise / fmax(1, p->record->layout.candidate_count) : (double)NAN;
    source->reward = denoise > 0 ? reward / denoise : (double)NAN;
}

static ga_status table_from_record(
    const char *path, picked *p, ga_whatif_table **table_out, ga_whatif_source *source, ga_error *error) {
    GA_TRY(find_input(p, error));
    GA_TRY(find_stages(p, error));
    const int64_t rows = count_known(p, &source->skipped_batches);
    if (rows == 0) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%.200s: no batch of the record has rewards and scores of all its rows; replay needs a run in "
            "mode "
            "shadow%s",
            path, p->input == GA_INPUT_COUNT ? " with a probe, or --score preview" : "");
    }
    ga_whatif_table *table = NULL;
    GA_TRY(ga_whatif_table_create(rows, p->stage_count, true, &table, error));
    int32_t filled = 0;
    for (int64_t i = 0; i < p->record->rows;) {
        bool known = false;
        const int64_t end = end_of_batch(p, i, &known);
        if (known) {
            copy_rows(p, i, end, table, &filled);
        }
        i = end;
    }
    for (int32_t k = 0; k < p->stage_count; k++) {
        source->steps[k] = p->record->layout.candidate_steps[p->candidates[k]];
    }
    source->steps_total = p->record->rows > 0 ? p->record->steps_total[0] : 0;
    (void)snprintf(source->score, sizeof source->score, "%s",
        p->input == GA_INPUT_COUNT ? "prediction" : ga_record_input_name(p->input));
    read_costs(p, source);
    *table_out = table;
    return GA_OK;
}

static ga_status read_record(const char *path, const ga_whatif_read_options *options,
    ga_whatif_table **table_out, ga_whatif_source *source, ga_error *error) {
    ga_record_table *record = NULL;
    const bool narrow = options->score == NULL || strcmp(options->score, "prediction") == 0;
    GA_TRY(ga_record_read(path, &(ga_record_read_options){.narrow = narrow}, &record, error));
    picked p = {.record = record, .options = options};
    source->is_record = true;
    const ga_status status = table_from_record(path, &p, table_out, source, error);
    ga_record_table_free(&record);
    return status;
}

/* ---- which it is ---- */

static ga_status read_named(const char *path, ga_whatif_table **table_out, ga_error *error) {
    ga_record_named columns[NAMED_COUNT] = {{"group", true, NULL, NULL}, {"score", false, NULL, NULL},
        {"reward", false, NULL, NULL}, {"batch", true, NULL, NULL}, {"rank", false, NULL, NULL},
        {"score2", false, NULL, NULL}, {"score3", false, NULL, NULL}};
    int64_t rows = 0;
    GA_TRY(ga_record_read_named(path, columns, NAMED_COUNT, &rows, error));
    const ga_status status = table_from_named(path, columns, rows, table_out, error);
    for (int k = 0; k < NAMED_COUNT; k++) {
        free(columns[k].values);
        free(columns[k].keys);
    }
    return status;
}

/* A file with a dataset `score` is a table, another one may be a record's segment. */
static ga_status read_hdf5(const char *path, const ga_whatif_read_options *options,
    ga_whatif_table **table_out, ga_whatif_source *source, ga_error *error) {
    ga_record_named score = {.name = "score"};
    int64_t rows = 0;
    GA_TRY(ga_record_read_named(path, &score, 1, &rows, error));
    const bool is_table = score.values != NULL;
    free(score.values);
    if (is_table) {
        return read_named(path, table_out, error);
    }
    ga_error why;
    ga_error_clear(&why);
    const ga_status status = read_record(path, options, table_out, source, &why);
    if (status == GA_ERR_FILE) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%.200s: neither a table (dataset score is missing) nor a record (%.160s)", path, why.message);
    }
    return status == GA_OK ? GA_OK : GA_FAIL(error, status, "%s", why.message);
}

static ga_status read_bytes(
    const char *path, ga_whatif_table **table_out, bool *is_hdf5_out, ga_error *error) {
    static const char signature[] = "\x89HDF\r\n\x1a\n";
    void *bytes = NULL;
    size_t size = 0;
    GA_TRY(ga_record_file_read(path, &bytes, &size, error));
    *is_hdf5_out = size >= 8 && memcmp(bytes, signature, 8) == 0;
    const ga_status status = *is_hdf5_out ? GA_OK : ga_whatif_parse_csv(path, bytes, size, table_out, error);
    free(bytes);
    return status;
}

ga_status ga_whatif_read(const char *path, const ga_whatif_read_options *options, ga_whatif_table **table_out,
    ga_whatif_source *source_out, ga_error *error) {
    if (path == NULL || options == NULL || table_out == NULL || source_out == NULL ||
        options->stage_count < 0 || options->stage_count > GA_WHATIF_STAGES_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a table without a path, or with more than %d decisions",
            GA_WHATIF_STAGES_MAX);
    }
    ga_whatif_source source = {.signal = (double)NAN, .reward = (double)NAN, .score = "score"};
    struct stat found;
    bool is_hdf5 = false;
    if (stat(path, &found) == 0 && S_ISDIR(found.st_mode)) {
        GA_TRY(read_record(path, options, table_out, &source, error));
    } else {
        GA_TRY(read_bytes(path, table_out, &is_hdf5, error));
        if (is_hdf5) {
            GA_TRY(read_hdf5(path, options, table_out, &source, error));
        }
    }
    *source_out = source;
    return GA_OK;
}
