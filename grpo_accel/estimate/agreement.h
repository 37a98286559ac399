/*
 * How well predictions agree with rewards within groups, from the rows that happened to be kept.
 *
 * Choosing rows by their prediction leaves the reward given the prediction as it is. So slope b and residual
 * variance σ_r² of a regression of r on m inside groups (each group's kept rows about their own mean) are
 * those of all rows, and with the variance V of the predictions inside groups over all rows, kept or not,
 *
 *     ρ = b·√V / √(b²V + σ_r²)
 *
 * is the correlation within groups before selection: Pearson's correction for selection on the predictor
 * (Pearson 1903; Thorndike, "Personnel Selection", 1949, case 2). It takes a straight line of equal spread
 * for granted; audited rows (base/correlation.h) don't, but are few. Its standard error is that of b; ρ grows
 * with b, so bounds of b are bounds of ρ.
 *
 * Not collective; no state.
 */
#ifndef GA_ESTIMATE_AGREEMENT_H
#define GA_ESTIMATE_AGREEMENT_H

#include <stdint.h>

/* Sums of one update: they add up. Plain data. */
typedef struct ga_agreement {
    double freedom;     /* Σ over groups (kept rows − 1) */
    double xx, xy, yy;  /* Σ over kept rows, about the group's mean: prediction and reward */
    double all_freedom; /* Σ over groups (rows with a prediction − 1) */
    double all_xx;      /* Σ over them */
    double covered;     /* kept rows whose reward lies in the prediction's 90 % interval */
    double rows;        /* kept rows with a prediction, a variance and a reward */
} ga_agreement;

/* A row: NaN where it has no prediction or no reward. */
typedef struct ga_agreement_row {
    uint64_t group;
    double prediction;
    double reward;
    double deviation; /* standard deviation of the reward around its prediction; NaN: not known */
} ga_agreement_row;

/* Adds rows[count]; sorts them. The result does not depend on their order. */
void ga_agreement_add(ga_agreement *sums, ga_agreement_row *rows, int32_t count);

void ga_agreement_join(ga_agreement *sums, const ga_agreement *more);

/* NaN figures where fewer than 3 degrees of freedom or no spread of the predictions. */
typedef struct ga_agreement_figures {
    double slope, slope_error;
    double rho, rho_low, rho_high; /* one-sided bounds, each at `confidence` */
    double coverage;               /* of 90 % intervals */
    double rows;
} ga_agreement_figures;

ga_agreement_figures ga_agreement_read(const ga_agreement *sums, double confidence);

#endif
