/*
 * The training loop of the network: minibatches of whole groups, AdamW, averaged weights, stopped on the
 * tuning prompts.
 *
 * Everything that is large (parameters, moments, averages, activations) lives on the provider's device and
 * each step runs inside compute->run; callbacks and sums over processes are called from the caller's thread,
 * outside of it. A feature that is NaN counts as unknown: as the mean of all rows.
 *
 * What is guaranteed of the result: the same data, options and seed give the same bits again on the native
 * provider with one thread. With `reduce`, a minibatch holds the same groups, disturbed alike, whatever the
 * number of processes (ga_part_shuffle), so results differ by the rounding of sums alone. A run that was
 * continued from a state gives what an uninterrupted one would have given, bit for bit on the native
 * provider. `seconds_max` and `stop` end a run where time says: those can only be repeated by continuing.
 */
#ifndef GA_PROBE_TRAIN_FIT_H
#define GA_PROBE_TRAIN_FIT_H

#include "probe/parts.h"
#include "probe/train/train.h"

/* Points of a learning curve that are kept; more rounds are not run. */
#define GA_FIT_ROUNDS_MAX 4096

/* Where a training stands between two steps. Arrays [parameter_count] in host memory; a view. */
typedef struct ga_fit_state {
    uint64_t fingerprint; /* of network, data and options: a state of another training is refused */
    int64_t parameter_count;
    const float *parameters, *first_moment, *second_moment;
    const float *average; /* of the parameters over time */
    const float *best;    /* the average that ordered the tuning groups best */
    double best_spearman;
    int64_t step;         /* steps done */
    int32_t round;        /* rounds finished and judged */
    int32_t round_steps;  /* steps done of the next one */
    double round_loss;    /* their sum of losses */
    int32_t without_gain; /* rounds since the best */
    uint64_t epoch;       /* passes begun over the groups */
    int32_t next_group;   /* place in the order of this pass */
    int32_t next_row;     /* in that group, where a group has more rows than a batch */
    int32_t curve_count;
    const ga_train_progress *curve; /* [curve_count] a point for each round */
} ga_fit_state;

/* Called after each round, and once more when a training is stopped inside one. An error ends the training.
 */
typedef ga_status (*ga_fit_checkpoint)(void *user, const ga_fit_state *state, ga_error *error);

/* Everything the loop reads. */
typedef struct ga_fit {
    const ga_dataset *dataset;
    const ga_part *train, *tune;
    const float *pooled;      /* [train rows, pooled_count] standardised, in the order of the part; NULL: made
                                 from the features when they are needed */
    const float *train_score; /* [train rows] of the ridge, in units of the reward */
    const float *train_level; /* [train rows] */
    const ga_train_options *options;
    const ga_train_callbacks *callbacks;
    double started_seconds;        /* on the options' clock: the budget counts from here */
    const float *start_parameters; /* [parameter_count] a head start; NULL: drawn from the seed */
    const ga_fit_state *resume;    /* go on from here; NULL: from the start */
    ga_fit_checkpoint checkpoint;  /* NULL: none */
    void *checkpoint_user;
} ga_fit;

/* How it went. `curve` is the caller's, freed with ga_fit_report_destroy. */
typedef struct ga_fit_report {
    ga_train_end end;
    int32_t rounds;
    int64_t steps;
    double loss; /* of the last round */
    double best_spearman;
    int32_t curve_count;
    ga_train_progress *curve; /* [curve_count], a point for each round */
} ga_fit_report;

void ga_fit_report_destroy(ga_fit_report *report);

/*
 * Trains probe->parameters (GA_PROBE_NETWORK, moments, ridges and scales set) and leaves there the averaged
 * weights that ordered the tuning groups best; on those they are never worse than where they started: the
 * ridge. Collective when reduce has a sum. Nothing in report_out on failure. GA_ERR_MEMORY, GA_ERR_DATA,
 * GA_ERR_ARGUMENT (a state of another training), GA_ERR_BUG; errors of ga_dataset_features, of a checkpoint.
 */
ga_status ga_fit_network(const ga_fit *fit, ga_probe *probe, ga_fit_report *report_out, ga_error *error);

/*
 * Ridges and scales of the targets beyond the first: rows with a label, otherwise as for the first. pooled:
 * [train rows, pooled_count] standardised; varies, penalty as ga_ridge_fit takes them. A target without a
 * spread inside any group keeps a ridge of zeros and scale 1. Collective when `reduce` has a sum.
 * GA_ERR_MEMORY, GA_ERR_DATA.
 */
ga_status ga_fit_targets(const ga_dataset *dataset, const ga_part *train, const float *pooled,
    const uint8_t *varies, const float *penalty, const ga_reduce *reduce, ga_probe *probe, ga_error *error);

/*
 * Calibrates every target on the held-out part: slope, intercept, residual variances (the network's own where
 * they are worth it), group offsets; fills info.calibration and info.residual_variance. A target beyond the
 * first with too few labels keeps slope 0. Collective when `reduce` has a sum. GA_ERR_DATA, GA_ERR_MEMORY.
 */
ga_status ga_fit_calibrate(const ga_dataset *dataset, const ga_part *held, const ga_reduce *reduce,
    ga_probe *probe, ga_error *error);

#endif
