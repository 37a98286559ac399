#include "probe/train/labels.h"

#include <stdlib.h>
#include <string.h>

static int64_t count_labels(const ga_more_labels *more, int64_t places) {
    int64_t count = 0;
    for (int64_t i = 0; i < places; i++) {
        count += more->count[i];
    }
    return count;
}

static bool take_memory(int64_t places, int64_t labels, ga_kept_labels *kept) {
    const size_t rows = (size_t)places + 1, size = (size_t)labels + 1;
    kept->begin = calloc(rows, sizeof *kept->begin);
    kept->count = calloc(rows, sizeof *kept->count);
    kept->reward = calloc(size, sizeof *kept->reward);
    kept->prompt = calloc(size, sizeof *kept->prompt);
    kept->vector = calloc(size, sizeof *kept->vector);
    return kept->begin != NULL && kept->count != NULL && kept->reward != NULL && kept->prompt != NULL &&
           kept->vector != NULL;
}

static void copy_labels(const ga_more_labels *more, int64_t places, const uint64_t *prompts,
    int32_t prompt_count, ga_kept_labels *kept) {
    for (int64_t i = 0; i < places; i++) {
        kept->begin[i] = kept->label_count;
        for (int64_t k = more->begin[i]; k < more->begin[i] + more->count[i]; k++) {
            if (ga_prompts_have(prompts, prompt_count, more->prompt[k])) {
                kept->reward[kept->label_count] = more->reward[k];
                kept->prompt[kept->label_count] = more->prompt[k];
                kept->vector[kept->label_count++] = more->vector[k];
                kept->count[i]++;
            }
        }
    }
}

ga_status ga_labels_keep(
    const ga_dataset *dataset, const ga_part *part, ga_kept_labels *kept_out, ga_error *error) {
    ga_kept_labels kept;
    memset(&kept, 0, sizeof kept);
    const ga_more_labels *more = dataset->more;
    if (more == NULL) {
        *kept_out = kept;
        return GA_OK;
    }
    const int64_t places = dataset->rows / more->share;
    const int64_t labels = count_labels(more, places);
    uint64_t *prompts;
    int32_t prompt_count;
    GA_TRY(ga_part_prompts(part, &prompts, &prompt_count, error));
    if (!take_memory(places, labels, &kept)) {
        free(prompts);
        ga_labels_free(&kept);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %lld labels", (long long)labels);
    }
    copy_labels(more, places, prompts, prompt_count, &kept);
    free(prompts);
    kept.view = *more;
    kept.view.begin = kept.begin;
    kept.view.count = kept.count;
    kept.view.reward = kept.reward;
    kept.view.prompt = kept.prompt;
    kept.view.vector = kept.vector;
    *kept_out = kept;
    return GA_OK;
}

void ga_labels_free(ga_kept_labels *kept) {
    free(kept->begin);
    free(kept->count);
    free(kept->reward);
    free(kept->prompt);
    free(kept->vector);
    memset(kept, 0, sizeof *kept);
}
