/*
 * Are predictions right as numbers, and do they stay so: reliability diagram, coverage of stated intervals,
 * slope, drift over policy updates, and how well a reward predicts itself.
 *
 * Not collective; any thread.
 */
#ifndef GA_PROBE_TRAIN_RELIABILITY_H
#define GA_PROBE_TRAIN_RELIABILITY_H

#include "grpo_accel/base/correlation.h"
#include "probe/train/judged.h"

/* Rows whose predictions are alike. */
#define GA_RELIABILITY_BINS 10
typedef struct ga_reliability_bin {
    double prediction; /* mean */
    ga_within reward;  /* mean, interval over groups by linearisation; groups that have rows here */
} ga_reliability_bin;

#define GA_COVERAGE_LEVELS 4
typedef struct ga_coverage {
    double level;    /* .5, .8, .9, .95 */
    ga_within share; /* of rewards inside the interval of that level */
} ga_coverage;

typedef struct ga_reliability {
    int32_t bins; /* at most GA_RELIABILITY_BINS, of about equally many rows; the same for both */
    ga_reliability_bin reward[GA_RELIABILITY_BINS];  /* rewards as they are, over all prompts */
    ga_reliability_bin within[GA_RELIABILITY_BINS];  /* prediction and reward less their group's means */
    ga_coverage reward_coverage[GA_COVERAGE_LEVELS]; /* of a single reward: variance inside + of the offset */
    ga_coverage within_coverage[GA_COVERAGE_LEVELS]; /* inside the group, its mean known */
    ga_within slope; /* of the reward on the prediction inside groups: 1 is right. NaN where predictions are
                        all equal inside groups */
} ga_reliability;

/* GA_ERR_DATA without rows, GA_ERR_MEMORY. */
ga_status ga_judge_reliability(const ga_judged *judged, ga_reliability *reliability_out, ga_error *error);

/* A span of policy updates. */
#define GA_DRIFT_BINS 10
typedef struct ga_drift_bin {
    uint32_t update_first, update_last;
    int64_t rows;
    ga_within spearman; /* within groups; groups 0: none can be ordered */
    ga_within slope;
    double bias;  /* mean of reward − prediction */
    double shift; /* population stability index of the predictions against the first span: Σ (p − q) ln(p/q)
                     over tenths of the first span's; below .1 little, above .25 much */
} ga_drift_bin;

/* Spans of about equally many rows, whole updates each. Rows of a group have one update. GA_ERR_MEMORY. */
ga_status ga_judge_drift(const ga_judged *judged, uint64_t seed, int32_t resamples,
    ga_drift_bin bins_out[GA_DRIFT_BINS], int32_t *count_out, ga_error *error);

/*
 * Where the sampler is noisy after the decision no prediction can be perfect. `again` [rows] is the reward of
 * a second end of the same rollout from the state at the decision (NaN: none): its within-group Pearson with
 * the first is r, and √r is the largest correlation that a prediction can have (docs/statistics.md).
 */
typedef struct ga_ceiling {
    ga_within retest;  /* r */
    ga_within ceiling; /* √r; 0 where r is not above 0 */
} ga_ceiling;

/* GA_ERR_DATA where no group has second rewards, GA_ERR_MEMORY. */
ga_status ga_judge_ceiling(const ga_judged *judged, const double *again, uint64_t seed, int32_t resamples,
    ga_ceiling *ceiling_out, ga_error *error);

#endif
