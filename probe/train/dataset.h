/*
 * What a probe learns from: columns of the log as arrays, split by prompt and by time, never by row.
 *
 * Not collective. Views are the caller's memory; parts own theirs.
 */
#ifndef GA_PROBE_TRAIN_DATASET_H
#define GA_PROBE_TRAIN_DATASET_H

#include <stdbool.h>

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "probe/grouped.h"

/* A view of columns, row i everywhere the same rollout. */
typedef struct ga_dataset {
    const ga_feature_schema *schema;
    int64_t rows;
    const ga_half *features; /* [rows, values_per_row] */
    const float *reward;     /* [rows]; NaN where pruned: no label */
    const uint64_t *group;   /* [rows] key of (batch, prompt) */
    const uint64_t *prompt;  /* [rows] key of the prompt alone */
    const uint32_t *update;  /* [rows] age */
    const float *inclusion;  /* [rows] probability in (0, 1] that the row was kept */
    const uint8_t *audit;    /* [rows] 1: kept by chance alone; NULL: none */
    const float *sigma;      /* [rows] noise level at the decision */
} ga_dataset;

/* GA_ERR_ARGUMENT when columns are missing. */
ga_status ga_dataset_check(const ga_dataset *dataset, ga_error *error);

/* May row `row` serve as an example? Reward and features finite, π in (0, 1], σ ≥ 0. */
bool ga_dataset_usable(const ga_dataset *dataset, int64_t row);

/* Usable rows sorted by group (then by number), as fits take them. */
typedef struct ga_part {
    int64_t count;
    int64_t *rows;      /* [count] numbers in the dataset */
    float *target;      /* [count] */
    float *weight;      /* [count] 1/π, clipped, mean 1 */
    int64_t *begin;     /* [groups + 1] */
    int32_t *fold;      /* [groups] */
    ga_grouped grouped; /* view of the above */
} ga_part;

/* All usable rows; only audited ones where `audited_only`. weight_max clips 1/π before it is scaled to
 * mean 1. GA_ERR_MEMORY. An empty part is no error. */
ga_status ga_part_all(
    const ga_dataset *dataset, bool audited_only, double weight_max, ga_part *part_out, ga_error *error);

/* Empty is allowed. */
void ga_part_destroy(ga_part *part);

/* `train` fits; `tune` stops the training; `report` is seen by neither and gives the figures; `held` = tune
 * and report. No prompt is on both sides of train and held. */
typedef struct ga_split {
    ga_part train, tune, report, held;
} ga_split;

/*
 * Holds out the prompts seen last until they have `held_share` of the groups: the newest alternates between
 * report and tune; older rows of the same prompts go with them. The same data gives the same split.
 * GA_ERR_DATA when there are too few groups to learn and to judge (4 for train, 2 for tune and report each,
 * of two rows or more), GA_ERR_MEMORY.
 */
ga_status ga_dataset_split(
    const ga_dataset *dataset, double held_share, double weight_max, ga_split *split_out, ga_error *error);

void ga_split_destroy(ga_split *split);

#endif
