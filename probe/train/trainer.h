/*
 * What the steps of a training share. For train.c, prepare.c and candidates.c only.
 */
#ifndef GA_PROBE_TRAIN_TRAINER_H
#define GA_PROBE_TRAIN_TRAINER_H

#include "probe/parts.h"
#include "probe/train/fit.h"
#include "probe/train/train.h"

typedef struct ga_trainer {
    const ga_dataset *dataset;
    const ga_train_options *options;
    ga_train_callbacks callbacks;
    const ga_compute *compute;
    double started_seconds;
    ga_split split;
    ga_part learn; /* groups of split.train that the ridge learns from: all, or as many as its memory takes */
    ga_probe *probe;
    ga_half *features;    /* [GA_TRAINER_BLOCK_ROWS, values_per_row] fetched */
    uint8_t *varies;      /* [pooled_count] */
    float *penalty;       /* [pooled_count] of the ridge, relative */
    float *pooled;        /* [learn rows, pooled_count] standardised */
    float *score, *level; /* [rows of the largest part] */
    float *ridge_copy;    /* [2 · pooled_count] the fitted ridge, while others are tried in its place */
    int32_t scalar_place; /* in a pooled row; -1: none */
    float scalar_sign;
    ga_train_report report;
} ga_trainer;

/* Rows that are fetched together. */
#define GA_TRAINER_BLOCK_ROWS 64

/* Calls `visit` for each row of the part in order, with its place in the part and its features. Not
 * collective. Errors of ga_dataset_features. */
typedef void (*ga_trainer_visit)(ga_trainer *t, int64_t place, const ga_half *features, void *user);
ga_status ga_trainer_each(ga_trainer *t, const ga_dataset *dataset, const ga_part *part,
    ga_trainer_visit visit, void *user, ga_error *error);

/* prepare.c: memory, the unit of the rewards, moments and standardised pooled rows of `learn`. Collective. */
ga_status ga_trainer_prepare(ga_trainer *t, ga_error *error);

/* phases.c: trains the probe's network, first on finals where there are some, then on the signals.
 * Collective. */
ga_status ga_trainer_fit_network(ga_trainer *t, ga_error *error);

/* candidates.c: fits ridge, scalar and network, judges them, and makes the probe the best of them.
 * Collective. */
ga_status ga_trainer_choose(ga_trainer *t, ga_error *error);

/* reference.c: what the newest rows of the held-out prompts look like to the finished probe, kept or not, at
 * each step. Collective. */
ga_status ga_trainer_refer(ga_trainer *t, ga_error *error);

#endif
