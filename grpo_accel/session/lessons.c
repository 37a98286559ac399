#include "grpo_accel/session/lessons.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/record/reader.h"

struct ga_lessons {
    ga_record_table *table;
    ga_dataset dataset;
    /* owned columns of the rows that were decided after the step, in the table's order */
    ga_half *features;
    float *reward, *inclusion, *sigma;
    uint64_t *group, *prompt;
    uint32_t *update;
    uint8_t *audit;
};

/* Which candidate of the table was taken after the step; −1: none. */
static int32_t find_candidate(const ga_record_table *table, int32_t step) {
    for (int32_t i = 0; i < table->layout.candidate_count; i++) {
        if (step == 0 || table->layout.candidate_steps[i] == step) {
            return i;
        }
    }
    return -1;
}

static bool take_memory(ga_lessons *lessons) {
    const size_t rows = ga_size(lessons->table->rows) + 1;
    const size_t values = ga_size(lessons->table->layout.features.values_per_row);
    lessons->features = calloc(rows * (values + 1), sizeof *lessons->features);
    lessons->reward = calloc(rows, sizeof *lessons->reward);
    lessons->inclusion = calloc(rows, sizeof *lessons->inclusion);
    lessons->sigma = calloc(rows, sizeof *lessons->sigma);
    lessons->group = calloc(rows, sizeof *lessons->group);
    lessons->prompt = calloc(rows, sizeof *lessons->prompt);
    lessons->update = calloc(rows, sizeof *lessons->update);
    lessons->audit = calloc(rows, sizeof *lessons->audit);
    return lessons->features != NULL && lessons->reward != NULL && lessons->inclusion != NULL &&
           lessons->sigma != NULL && lessons->group != NULL && lessons->prompt != NULL &&
           lessons->update != NULL && lessons->audit != NULL;
}

static void copy_row(ga_lessons *lessons, int64_t from, int32_t candidate) {
    const ga_record_table *table = lessons->table;
    const size_t values = ga_size(table->layout.features.values_per_row);
    const size_t candidates = ga_size(table->layout.candidate_count);
    const size_t to = ga_size(lessons->dataset.rows++);
    const size_t source = (ga_size(from) * candidates + ga_size(candidate)) * values;
    memcpy(&lessons->features[to * values], &table->features[source], values * sizeof(ga_half));
    lessons->reward[to] = table->reward[from];
    lessons->inclusion[to] = table->inclusion[from];
    lessons->sigma[to] = (float)table->layout.candidate_sigmas[candidate];
    lessons->group[to] = table->group[from];
    lessons->prompt[to] = ga_digest64(table->prompt_hash[from], sizeof table->prompt_hash[from]);
    lessons->update[to] = table->update[from];
    lessons->audit[to] = table->audit[from];
}

static ga_status fill(ga_lessons *lessons, const ga_lessons_options *options, ga_error *error) {
    const ga_record_read_options window = {.newest_rows = options->newest_rows};
    GA_TRY(ga_record_read(options->path, &window, &lessons->table, error));
    const ga_record_table *table = lessons->table;
    const int32_t candidate = find_candidate(table, options->step);
    if (candidate < 0) {
        return GA_FAIL(error, GA_ERR_DATA, "%s has no signals after step %d (it has them after step %d)",
            options->path, (int)options->step, (int)table->layout.candidate_steps[0]);
    }
    if (!take_memory(lessons)) {
        return GA_FAIL(
            error, GA_ERR_MEMORY, "no memory for the %lld rows of %s", (long long)table->rows, options->path);
    }
    for (int64_t row = 0; row < table->rows; row++) {
        copy_row(lessons, row, candidate);
    }
    lessons->dataset.schema = &table->layout.features;
    lessons->dataset.features = lessons->features;
    lessons->dataset.reward = lessons->reward;
    lessons->dataset.group = lessons->group;
    lessons->dataset.prompt = lessons->prompt;
    lessons->dataset.update = lessons->update;
    lessons->dataset.inclusion = lessons->inclusion;
    lessons->dataset.audit = lessons->audit;
    lessons->dataset.sigma = lessons->sigma;
    return GA_OK;
}

ga_status ga_lessons_read(const ga_lessons_options *options, ga_lessons **lessons_out, ga_error *error) {
    ga_lessons *lessons = calloc(1, sizeof *lessons);
    if (lessons == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to read %s", options->path);
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

const ga_record_table *ga_lessons_table(const ga_lessons *lessons) {
    return lessons->table;
}

void ga_lessons_free(ga_lessons **lessons_pointer) {
    if (lessons_pointer == NULL || *lessons_pointer == NULL) {
        return;
    }
    ga_lessons *lessons = *lessons_pointer;
    ga_record_table_free(&lessons->table);
    free(lessons->features);
    free(lessons->reward);
    free(lessons->inclusion);
    free(lessons->sigma);
    free(lessons->group);
    free(lessons->prompt);
    free(lessons->update);
    free(lessons->audit);
    free(lessons);
    *lessons_pointer = NULL;
}
