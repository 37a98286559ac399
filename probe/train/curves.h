/*
 * How well a group's best and worst quarter are found: areas, average precision and the curves behind them.
 *
 * Positives of a group of n rows are its best (worst) ceil(n/4), ties included; where ties would make every
 * row a positive, only those beyond the tie are. Not collective; any thread.
 */
#ifndef GA_PROBE_TRAIN_CURVES_H
#define GA_PROBE_TRAIN_CURVES_H

#include "grpo_accel/base/correlation.h"
#include "probe/train/judged.h"

/*
 * One point of the ROC and of the precision-recall curve: of each group the share `taken` of its rows that
 * are predicted best (worst), equal predictions mixed evenly. Means over groups.
 */
#define GA_CURVE_POINTS 20
typedef struct ga_curve_point {
    double taken;     /* .05 … 1 */
    double recall;    /* of the positives; the true positive rate */
    double fall_out;  /* of the negatives; the false positive rate */
    double precision; /* positives among those taken */
} ga_curve_point;

typedef struct ga_quarter {
    ga_within auc;               /* within groups; ½ is chance */
    ga_within average_precision; /* within groups: Σ precision · step of recall */
    double positives;            /* mean share of positives: what chance gives for precision */
    ga_curve_point curve[GA_CURVE_POINTS];
} ga_quarter;

/* `top`: the best quarter, else the worst. GA_ERR_DATA when no group has spread in its rewards,
 * GA_ERR_MEMORY. */
ga_status ga_judge_quarter(const ga_judged *judged, bool top, uint64_t seed, int32_t resamples,
    ga_quarter *quarter_out, ga_error *error);

#endif
