/* How a probe grows with the rows that it learns from: the same training on parts of the training prompts. */
#ifndef GA_PROBE_TRAIN_LEARNING_H
#define GA_PROBE_TRAIN_LEARNING_H

#include "probe/train/train.h"

typedef struct ga_learning_point {
    double share;         /* of the training prompts */
    int64_t rows, groups; /* that were learned from */
    ga_probe_kind chosen;
    ga_within
        spearman[GA_PROBE_KIND_COUNT]; /* within groups, on the held-out prompts; groups 0: not trained */
    double residual; /* of the chosen kind: standard deviation of the reward around its prediction inside a
                        held-out group */
} ga_learning_point;

/*
 * Trains on `share` of the training prompts, drawn by options->seed (a larger share contains a smaller one);
 * the prompts that judge are the same for every share. Not collective; takes a training's time.
 * GA_ERR_DATA (too few groups are left), GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_learning_measure(const ga_dataset *dataset, const ga_train_options *options,
    const ga_train_callbacks *callbacks, const ga_compute *compute, double share,
    ga_learning_point *point_out, ga_error *error);

#endif
