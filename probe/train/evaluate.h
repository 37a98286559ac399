/*
 * How good a probe is on rows it was not trained on: within prompt groups first, with intervals over groups;
 * pooled figures beside them, labelled as such.
 */
#ifndef GA_PROBE_TRAIN_EVALUATE_H
#define GA_PROBE_TRAIN_EVALUATE_H

#include "grpo_accel/base/correlation.h"
#include "probe/probe.h"
#include "probe/train/curves.h"
#include "probe/train/dataset.h"
#include "probe/train/figures.h"
#include "probe/train/judged.h"
#include "probe/train/reliability.h"

typedef struct ga_evaluate_options {
    uint64_t seed;
    int32_t resamples; /* 0: no intervals */
    bool audited_only; /* only rows that were kept by chance: the honest choice once rows are pruned */
} ga_evaluate_options;

/* A predictor to compare with, on the same rows. */
typedef struct ga_baseline {
    ga_within spearman;     /* within groups */
    ga_within difference;   /* the probe's Spearman − its own, paired over groups */
    double pooled_spearman; /* over all rows; NaN where it is not defined */
} ga_baseline;

typedef struct ga_evaluation {
    int64_t rows, groups;
    ga_within within[GA_WITHIN_KIND_COUNT]; /* by ga_within_kind */
    double pooled_spearman, pooled_pearson,
        pooled_auc;          /* over all rows: mostly how well the prompt is known */
    ga_baseline prompt_mean; /* the group's true mean: pooled it looks good, within it is worth nothing */
    ga_baseline ridge;       /* the probe's own ridge */
    ga_baseline random;
    ga_distribution distribution;
    ga_worst_group worst[GA_WORST_MAX];
    int32_t worst_count;
    ga_quarter top, bottom;
    ga_best_point best[GA_BEST_POINTS];
    ga_energy_point energy[2][GA_ENERGY_POINTS]; /* by ga_std_kind: what the host divides advantages by */
    ga_reliability reliability;
    ga_drift_bin drift[GA_DRIFT_BINS];
    int32_t drift_count;
} ga_evaluation;

/* Not collective; one thread (it scores with the probe). GA_ERR_DATA when no group can be ordered,
 * GA_ERR_ARGUMENT (another schema), GA_ERR_MEMORY. */
ga_status ga_evaluate(ga_probe *probe, const ga_dataset *dataset, const ga_evaluate_options *options,
    ga_evaluation *evaluation_out, ga_error *error);

/* The same for rows that ga_judge has scored with this probe; options->audited_only is not looked at. */
ga_status ga_evaluate_judged(ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged,
    const ga_evaluate_options *options, ga_evaluation *evaluation_out, ga_error *error);

/* Another predictor's scores [rows] of judged rows, NaN where it has none, beside the probe's. Not
 * collective. GA_ERR_DATA when no group can be ordered, GA_ERR_MEMORY. */
ga_status ga_judge_against(const ga_judged *judged, const double *score, uint64_t seed, int32_t resamples,
    ga_baseline *baseline_out, ga_error *error);

/* Spearman within groups of the judged rows whose label [rows of the dataset] has the value. Not collective.
 * GA_ERR_DATA when no group can be ordered, GA_ERR_MEMORY. */
ga_status ga_judge_slice(const ga_judged *judged, const int32_t *label, int32_t value, uint64_t seed,
    int32_t resamples, ga_within *within_out, ga_error *error);

/*
 * Within-group figure of scores [part->count] over the parts of all processes. group keys come from
 * `dataset`. Collective when `reduce` has a sum. GA_ERR_DATA, GA_ERR_MEMORY.
 */
ga_status ga_evaluate_part(ga_within_kind kind, const ga_dataset *dataset, const ga_part *part,
    const float *score, uint64_t seed, int32_t resamples, const ga_reduce *reduce, ga_within *within_out,
    ga_error *error);

#endif
