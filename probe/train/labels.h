/* Labels under other prompts that a training may see. */
#ifndef GA_PROBE_TRAIN_LABELS_H
#define GA_PROBE_TRAIN_LABELS_H

#include "probe/train/dataset.h"

/* Some of a dataset's labels. Owns its arrays; vectors are those of the dataset. */
typedef struct ga_kept_labels {
    ga_more_labels view;
    int64_t label_count;
    int64_t *begin;
    int32_t *count;
    float *reward;
    uint64_t *prompt;
    int32_t *vector;
} ga_kept_labels;

/*
 * The labels whose prompt is one of the part's: a prompt that judges must not teach, not even by pictures of
 * others. Nothing, without an error, where the dataset has none. Freed with ga_labels_free. GA_ERR_MEMORY.
 */
ga_status ga_labels_keep(
    const ga_dataset *dataset, const ga_part *part, ga_kept_labels *kept_out, ga_error *error);

/* Empty is allowed. */
void ga_labels_free(ga_kept_labels *kept);

#endif
