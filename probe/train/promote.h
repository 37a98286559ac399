/* Does a newly trained probe replace the one in use? */
#ifndef GA_PROBE_TRAIN_PROMOTE_H
#define GA_PROBE_TRAIN_PROMOTE_H

#include <stdbool.h>

#include "probe/probe.h"
#include "probe/train/dataset.h"

typedef struct ga_promote_options {
    double held_share; /* as in the training: the same prompts are held out */
    double tolerance;  /* loss of Spearman that still counts as "not worse", e.g. 0.01 */
    uint64_t seed;
} ga_promote_options;

typedef struct ga_promotion {
    bool promote;
    double candidate, current; /* Spearman within groups; NaN where there is none */
    int64_t groups;
    char reason[256]; /* in words */
} ga_promotion;

/*
 * Compares both on the newest prompts that were held out of the candidate's training (the report part of the
 * same split of the same dataset). The current probe may have trained on some of them: that favours it, which
 * is the safe side. current NULL, or made for other features, model or steps: the candidate is promoted if it
 * orders anything. Not collective; one thread. GA_ERR_DATA, GA_ERR_MEMORY.
 */
ga_status ga_promote(ga_probe *candidate, ga_probe *current, const ga_dataset *dataset,
    const ga_promote_options *options, ga_promotion *promotion_out, ga_error *error);

#endif
