/*
 * How good a probe is on rows it was not trained on: within prompt groups first, with intervals over groups;
 * pooled figures beside them, labelled as such.
 */
#ifndef GA_PROBE_TRAIN_EVALUATE_H
#define GA_PROBE_TRAIN_EVALUATE_H

#include "grpo_accel/base/correlation.h"
#include "probe/probe.h"
#include "probe/train/dataset.h"

#define GA_WITHIN_KINDS 6

typedef struct ga_evaluate_options {
    uint64_t seed;
    int32_t resamples; /* 0: no intervals */
    bool audited_only; /* only rows that were kept by chance: the honest choice once rows are pruned */
} ga_evaluate_options;

/* A predictor to compare with. */
typedef struct ga_baseline {
    ga_within spearman;     /* within groups */
    double pooled_spearman; /* over all rows; NaN where it is not defined */
} ga_baseline;

typedef struct ga_evaluation {
    int64_t rows, groups;
    ga_within within[GA_WITHIN_KINDS]; /* by ga_within_kind */
    double pooled_spearman, pooled_pearson,
        pooled_auc;          /* over all rows: mostly how well the prompt is known */
    ga_baseline prompt_mean; /* the group's true mean: pooled it looks good, within it is worth nothing */
    ga_baseline ridge;       /* the probe's own ridge */
    ga_baseline random;
    /* Σ A² of the kept rows over Σ A² of all, A = reward − group mean, keeping the quarter or half of all
     * rows whose prediction is furthest from its group's; equal predictions in random order. NaN without
     * spread. */
    double kept_energy_quarter, kept_energy_half;
    double calibration_slope; /* of the reward on the prediction inside groups, 1 is right; ≥ 0 */
    double coverage90;        /* share of rewards inside the 90 % interval that the probe states */
} ga_evaluation;

/* Not collective; one thread (it scores with the probe). GA_ERR_DATA when no group can be ordered,
 * GA_ERR_ARGUMENT (another schema), GA_ERR_MEMORY. */
ga_status ga_evaluate(ga_probe *probe, const ga_dataset *dataset, const ga_evaluate_options *options,
    ga_evaluation *evaluation_out, ga_error *error);

/*
 * Within-group figure of scores [part->count] over the parts of all processes. group keys come from
 * `dataset`. Collective when `reduce` has a sum. GA_ERR_DATA, GA_ERR_MEMORY.
 */
ga_status ga_evaluate_part(ga_within_kind kind, const ga_dataset *dataset, const ga_part *part,
    const float *score, uint64_t seed, int32_t resamples, const ga_reduce *reduce, ga_within *within_out,
    ga_error *error);

#endif
