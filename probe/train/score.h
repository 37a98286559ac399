/*
 * Scores of many rows of a dataset, whose features may have to be fetched: a block of rows at a time.
 */
#ifndef GA_PROBE_TRAIN_SCORE_H
#define GA_PROBE_TRAIN_SCORE_H

#include "probe/probe.h"
#include "probe/train/dataset.h"

/*
 * ga_probe_score_rows over rows [count] of the dataset: before calibration, score_out orders rows inside a
 * group, level_out is constant there; NaN both where a feature is not usable. Not collective; the probe's
 * thread. Errors of ga_dataset_features, GA_ERR_MEMORY; the outputs are void then.
 */
ga_status ga_dataset_score(ga_probe *probe, const ga_dataset *dataset, const int64_t *rows, int64_t count,
    float *score_out, float *level_out, ga_error *error);

#endif
