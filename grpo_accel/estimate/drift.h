/*
 * Whether figures are still what they were when the probe was trained: histograms over bins of equal
 * probability, compared by the population stability index and the Kolmogorov-Smirnov distance.
 *
 *     PSI = Σ_b (p_b − q_b)·ln(p_b / q_b),     KS = max_b |P_b − Q_b|   (at the edges of the bins)
 *
 * with p now and q then. By chance alone PSI of two samples of n and m independent rows of one distribution
 * is about (1/n + 1/m) times a χ² of bins − 1 degrees of freedom; its mean and two standard deviations are
 * subtracted (not below 0), so what is left is a shift and not chance. Rows of a prompt are alike, so n and m
 * are not the rows: they are effective numbers (rows over the design effect, Kish 1965; at most so many
 * independent rows as there are prompts, where rows of one are all but equal). Usual reading: below .1
 * nothing, above .25 a shift.
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
    double psi; /* beyond chance */
    double ks;
    double rows; /* of the histogram that counts now */
} ga_drift;

/* then_rows, now_rows: effective numbers of independent rows. NaN figures while either histogram is empty or
 * a number not above 0. A bin without rows counts as half a row. */
ga_drift ga_drift_compare(
    const ga_histogram *then, const ga_histogram *now, double then_rows, double now_rows);

#endif
