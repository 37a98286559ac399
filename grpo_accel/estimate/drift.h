/*
 * Whether figures are still what they were when the probe was trained: histograms over bins of equal
 * probability, compared by the population stability index and the Kolmogorov-Smirnov distance.
 *
 *     PSI = Σ_b (p_b − q_b)·ln(p_b / q_b),     KS = max_b |P_b − Q_b|   (at the edges of the bins)
 *
 * with p now and q then. PSI of two samples of one distribution is about (bins − 1)(1/n + 1/m) by chance
 * alone, which is subtracted (not below 0). Usual reading: below .1 nothing, above .25 a shift.
 *
 * Not collective; no state.
 */
#ifndef GA_ESTIMATE_DRIFT_H
#define GA_ESTIMATE_DRIFT_H

#include <stdint.h>

/* Bins of a histogram: between the deciles of the reference. */
#define GA_DRIFT_BINS 10

/* Counts of values by bin; they may have faded, so they need not be whole. */
typedef struct ga_histogram {
    double count[GA_DRIFT_BINS];
} ga_histogram;

typedef struct ga_drift {
    double psi; /* chance subtracted */
    double ks;
    double rows; /* of the histogram that counts now */
} ga_drift;

/* NaN figures while either histogram is empty. A bin without rows counts as half a row. */
ga_drift ga_drift_compare(const ga_histogram *then, const ga_histogram *now);

#endif
