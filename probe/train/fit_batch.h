/*
 * Minibatches of whole groups for the training loop: which groups, and their rows as the network takes them.
 */
#ifndef GA_PROBE_TRAIN_FIT_BATCH_H
#define GA_PROBE_TRAIN_FIT_BATCH_H

#include "grpo_accel/base/random.h"
#include "probe/train/fit.h"
#include "probe/train/loss.h"

/* One minibatch, of this process: rows may be 0 while another process has some. Owns its arrays. */
typedef struct ga_fit_batch {
    int32_t rows, groups;
    int32_t own_rows; /* the rest are pictures of those under other prompts, each a group of its own */
    float *maps, *scalars, *prompt, *log_sigma; /* standardised, disturbed; one block of memory, at maps */
    float *base;          /* [rows, targets] what the ridges say, in units of the scales */
    float *target;        /* [rows, targets] labels less level and bias; NaN: none */
    float *weight;        /* [rows] */
    float *answer, *grad; /* [rows, outputs] */
    int32_t *begin;       /* [groups + 1] */
    int32_t *picture;     /* [rows] the row whose maps it shows */
    ga_random *noise;     /* [groups] what disturbs it: the same in any process */
    int64_t *number;      /* [rows] in the dataset; with `place` one block, at number */
    int64_t *place;       /* [rows] in the part */
    ga_half *features;    /* [rows, values_per_row] */
} ga_fit_batch;

/* Draws minibatches one after the other. Owns its arrays. */
typedef struct ga_fit_source {
    const ga_fit *fit;
    const ga_probe *probe;
    int32_t batch_rows;                   /* of all processes together, without those under other prompts */
    int32_t room_rows;                    /* with them */
    int32_t room_pictures;                /* rows with maps of their own */
    double bias[GA_NETWORK_TARGETS_MAX];  /* mean of label − level − ridge, in units of the scales */
    double reward_mean, reward_deviation; /* of all training rows, for oversample_low */
    int32_t *order;                       /* [all_groups] of this pass */
    uint64_t epoch;
    int32_t next_group, next_row;
    float *row, *pooled;   /* scratch of a row; one block, at row */
    ga_input_shape prompt; /* in the schema; channels 0 without it */
    ga_fit_batch batch;
} ga_fit_source;

/* Collective when reduce has a sum. GA_ERR_MEMORY. Free it with ga_fit_source_destroy, also on failure. */
ga_status ga_fit_source_create(
    const ga_fit *fit, const ga_probe *probe, ga_fit_source *source, ga_error *error);

/* Empty is allowed. */
void ga_fit_source_destroy(ga_fit_source *source);

/* Takes up a pass where another source left it. */
ga_status ga_fit_source_seek(
    ga_fit_source *source, uint64_t epoch, int32_t next_group, int32_t next_row, ga_error *error);

/* Fills source->batch. Errors of ga_dataset_features. */
ga_status ga_fit_source_next(ga_fit_source *source, ga_error *error);

#endif
