/* Does a newly trained probe replace the one in use? */
#ifndef GA_PROBE_TRAIN_PROMOTE_H
#define GA_PROBE_TRAIN_PROMOTE_H

#include <stdbool.h>

#include "grpo_accel/base/correlation.h"
#include "probe/probe.h"
#include "probe/train/dataset.h"

/* Fewer groups kept by chance than these: rows that were kept by prediction judge, too. */
#define GA_PROMOTE_AUDITED_GROUPS_MIN 12

typedef struct ga_promote_options {
    double held_share; /* as in the training: the same prompts are held out */
    double tolerance;  /* loss of Spearman that still counts as "not worse", e.g. 0.03 */
    int32_t resamples; /* of the difference's interval; 0: none, its value decides */
    uint64_t seed;
} ga_promote_options;

typedef struct ga_promotion {
    bool promote;
    double candidate, current; /* Spearman within groups; NaN where there is none */
    ga_within difference;      /* candidate − current on the same groups; NaN where there is no current */
    int64_t groups;
    bool audited_only; /* judged on rows kept by chance alone */
    char reason[256];  /* in words */
} ga_promotion;

/*
 * Compares both on the newest prompts that were held out of the candidate's training (the report part of the
 * same split of the same dataset); where rows were pruned, on those kept by chance alone if they make up
 * enough groups. The candidate is promoted if it orders anything and the lower end of the 95 % interval of
 * the paired difference is not below −tolerance. The current probe may have trained on some of the prompts:
 * that favours it, which is the safe side. current NULL, or made for other features, model or steps: the
 * candidate is promoted if it orders anything. Not collective; one thread. GA_ERR_DATA, GA_ERR_MEMORY.
 */
ga_status ga_promote(ga_probe *candidate, ga_probe *current, const ga_dataset *dataset,
    const ga_promote_options *options, ga_promotion *promotion_out, ga_error *error);

#endif
