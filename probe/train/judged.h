/*
 * Rows with what a probe says of them and what came of them, group after group: all figures are computed from
 * this.
 */
#ifndef GA_PROBE_TRAIN_JUDGED_H
#define GA_PROBE_TRAIN_JUDGED_H

#include "probe/probe.h"
#include "probe/train/dataset.h"

/* Arrays are owned; rows of a group stand together, groups in the order of their first row. All finite. */
typedef struct ga_judged {
    int64_t rows;
    int32_t groups;
    int64_t *begin;     /* [groups + 1] */
    uint64_t *group;    /* [rows] key */
    int64_t *row;       /* [rows] number in the dataset */
    uint32_t *update;   /* [rows] */
    double *prediction; /* [rows] calibrated reward */
    double *variance;   /* [rows] of the reward inside its group, reward² */
    double *target;     /* [rows] reward */
    double tau2;        /* variance of the groups' offsets that the probe states, reward² */
} ga_judged;

/*
 * Scores all usable rows of the dataset (only audited ones where asked). Rows that the probe can't score are
 * left out. Freed with ga_judged_destroy; nothing on failure. Not collective; one thread: it scores with the
 * probe. GA_ERR_ARGUMENT (features of another layout), GA_ERR_DATA (no row is left, or σ out of the probe's
 * range), GA_ERR_MEMORY.
 */
ga_status ga_judge(
    ga_probe *probe, const ga_dataset *dataset, bool audited_only, ga_judged *judged_out, ga_error *error);

/* Empty is allowed. */
void ga_judged_destroy(ga_judged *judged);

/* Calibrated predictions of another probe for the same rows, NaN where it has none: mean_out [rows]. Errors
 * as ga_judge. */
ga_status ga_judged_score(
    ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged, double *mean_out, ga_error *error);

/* Calibrated predictions of one of the probe's targets (0 … target_count − 1) for the same rows: mean_out
 * [rows]. Errors as ga_judge. */
ga_status ga_judged_score_target(ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged,
    int32_t target, double *mean_out, ga_error *error);

/* The order that the probe's ridge alone gives the same rows: score_out [rows]. A scalar probe has no other.
 */
ga_status ga_judged_ridge(
    ga_probe *probe, const ga_dataset *dataset, const ga_judged *judged, double *score_out, ga_error *error);

/* One value of each row's features, such as the preview's score: value_out [rows]. `offset` is its place in a
 * row. GA_ERR_ARGUMENT, GA_ERR_MEMORY. */
ga_status ga_judged_feature(
    const ga_dataset *dataset, const ga_judged *judged, int32_t offset, double *value_out, ga_error *error);

/* Mean of values [rows] over the rows of a group. */
double ga_judged_group_mean(const ga_judged *judged, int32_t group, const double *values);

#endif
