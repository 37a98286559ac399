/* evaluate: which rows the probe has learned from. On those it looks better than it is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/command/evaluate.h"
#include "grpo_accel/session/lesson_runs.h"

static bool is_judged(const ga_dataset *dataset, bool audited_only, int64_t row) {
    const bool audited = dataset->audit != NULL && dataset->audit[row] != 0;
    return (!audited_only || audited) && ga_dataset_usable(dataset, row);
}

/* Takes the labels off rows that are marked; returns how many of those that would be judged lose theirs. */
static int64_t hide_labels(const ga_dataset *dataset, bool audited_only, const uint8_t *mark, float *reward) {
    int64_t hidden = 0;
    for (int64_t i = 0; i < dataset->rows; i++) {
        hidden += mark[i] != 0 && is_judged(dataset, audited_only, i);
        reward[i] = mark[i] != 0 ? NAN : dataset->reward[i];
    }
    return hidden;
}

static int64_t count_known(const ga_dataset *dataset, bool audited_only, const uint8_t *mark) {
    int64_t known = 0;
    for (int64_t i = 0; i < dataset->rows; i++) {
        known += mark[i] != 0 && is_judged(dataset, audited_only, i);
    }
    return known;
}

static ga_status choose(const ga_lessons *lessons, const uint8_t *mark, bool all_rows, float *reward,
    ga_evaluated *found, ga_error *error) {
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    if (all_rows) {
        memcpy(reward, dataset->reward, ga_size(dataset->rows) * sizeof *reward);
        found->learned_rows = count_known(dataset, found->audited_only, mark);
        found->in_sample = found->learned_rows > 0 ? GA_SAMPLE_IN : GA_SAMPLE_OUT;
        return GA_OK;
    }
    found->left_out_rows = hide_labels(dataset, found->audited_only, mark, reward);
    found->in_sample = GA_SAMPLE_OUT;
    ga_dataset rest = *dataset;
    rest.reward = reward;
    for (int64_t i = 0; i < rest.rows; i++) {
        if (is_judged(&rest, found->audited_only, i)) {
            return GA_OK;
        }
    }
    return found->left_out_rows == 0 ? GA_OK /* nothing there to be judged, which ga_judge says better */
                                     : GA_FAIL(error, GA_ERR_DATA,
                                           "%.200s: the probe has learned from all of its %lld rows; judge "
                                           "it on a newer record, or "
                                           "with --all-rows",
                                           found->data, (long long)found->left_out_rows);
}

ga_status ga_evaluated_choose_rows(const ga_probe *probe, const ga_lessons *lessons, bool all_rows,
    float *reward, ga_evaluated *found, ga_error *error) {
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    const ga_learned *learned = ga_probe_get_learned(probe);
    if (learned == NULL) {
        memcpy(reward, dataset->reward, ga_size(dataset->rows) * sizeof *reward);
        found->in_sample = GA_SAMPLE_UNKNOWN;
        return GA_OK;
    }
    uint8_t *mark = calloc(ga_size(dataset->rows) + 1, sizeof *mark);
    if (mark == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    ga_status status = ga_lesson_runs_mark(lessons, learned, mark, error);
    if (status == GA_OK) {
        status = choose(lessons, mark, all_rows, reward, found, error);
    }
    free(mark);
    return status;
}

ga_status ga_evaluated_sample_of(const ga_probe *other, const ga_lessons *lessons, const ga_judged *judged,
    ga_sample *sample_out, ga_error *error) {
    const ga_learned *learned = ga_probe_get_learned(other);
    ga_sample sample = learned == NULL ? GA_SAMPLE_UNKNOWN : GA_SAMPLE_OUT;
    uint8_t *mark = calloc(ga_size(ga_lessons_dataset(lessons)->rows) + 1, sizeof *mark);
    if (mark == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    const ga_status status = learned != NULL ? ga_lesson_runs_mark(lessons, learned, mark, error) : GA_OK;
    for (int64_t i = 0; i < judged->rows && status == GA_OK; i++) {
        sample = mark[judged->row[i]] != 0 ? GA_SAMPLE_IN : sample;
    }
    free(mark);
    if (status == GA_OK) {
        *sample_out = sample;
    }
    return status;
}
