/*
 * The training loop of the network, on top of a ridge that stays as it is.
 */
#ifndef GA_PROBE_TRAIN_FIT_H
#define GA_PROBE_TRAIN_FIT_H

#include "probe/parts.h"
#include "probe/train/train.h"

/* Everything the loop reads. */
typedef struct ga_fit {
    const ga_dataset *dataset;
    const ga_part *train, *tune;
    const float *pooled;      /* [train rows, pooled_count] standardised, in the order of the part */
    const float *train_score; /* [train rows] of the ridge, in units of the reward */
    const float *train_level; /* [train rows] */
    const ga_train_options *options;
    const ga_train_callbacks *callbacks;
    double started_seconds; /* on the options' clock: the budget counts from here */
} ga_fit;

/*
 * Trains probe->parameters (GA_PROBE_NETWORK, moments and ridge set) and leaves there the averaged weights
 * that ordered the tuning groups best; they are never worse on those than the ridge. Fills rounds, steps and
 * end of the report. Collective when reduce has a sum. GA_ERR_MEMORY, GA_ERR_DATA.
 */
ga_status ga_fit_network(const ga_fit *fit, ga_probe *probe, ga_train_report *report, ga_error *error);

#endif
