/*
 * A bound on the share of true extremes that pruning loses.
 *
 * Conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster, ICLR 2024): with n exchangeable losses
 * in [0, 1] that never fall as pruning gets stronger, the strongest pruning with
 *
 *     (n/(n+1))·R̂_n + 1/(n+1) ≤ α
 *
 * has expected loss ≤ α on the next row. Here a loss is 1 where a truly extreme row is stopped; rows are
 * audited ones, weighted by 1/π, n is an effective number (Kish 1965) (Σw)²/Σw², w the weight of a unit: a
 * row, or the rows of a group together where the caller sums `squares` so.
 *
 * The policy moves, so a window of the newest rows is not exchangeable with the next. Therefore α is steered
 * by what happens (Gibbs, Candès, "Adaptive conformal inference under distribution shift", NeurIPS 2021): the
 * level that is used moves by γ(α − loss) with each new loss. Where every step chooses by the level in use
 * from a ladder of nested prunings of which one loses nothing, the mean loss over any T losses is within (1 +
 * γ)/(γT) of α whatever the drift.
 *
 * The session keeps to the formulas and not to all of these conditions, so there it is a rule that steers
 * towards α, and no guarantee: its options (steps and shares) are not nested and the best of many is taken, a
 * change waits for guard.patience_updates, the rows of a batch depend on one another, and extremes are those
 * of a batch's known rows.
 *
 * Not collective; no state but the caller's.
 */
#ifndef GA_ESTIMATE_RISK_H
#define GA_ESTIMATE_RISK_H

#include <stdbool.h>
#include <stdint.h>

/* Plain data. */
typedef struct ga_risk {
    double alpha; /* α: wanted, [0, 1] */
    double gamma; /* γ: how fast the level follows, > 0 */
    double level; /* α_t: used; may leave [0, 1]: below 0 nothing may be pruned, above 1 everything */
} ga_risk;

ga_risk ga_risk_make(double alpha, double gamma);

/* A loss in [0, 1] of the pruning in force, by one row or the mean over several. */
void ga_risk_learn(ga_risk *risk, double loss);

/* Sums over truly extreme rows. Plain data; fade or add them as sums. */
typedef struct ga_loss_sums {
    double weight;  /* Σ w */
    double squares; /* Σ w² */
    double lost;    /* Σ w over rows that the pruning stops */
} ga_loss_sums;

void ga_loss_add(ga_loss_sums *sums, double weight, bool lost);

/* Share lost; NaN without rows. */
double ga_loss_share(const ga_loss_sums *sums);

/* (n/(n+1))·R̂ + 1/(n+1); 1 without rows. */
double ga_risk_bound(const ga_loss_sums *sums);

/* Is this pruning allowed: its bound ≤ the level in use. */
bool ga_risk_allows(const ga_risk *risk, const ga_loss_sums *sums);

#endif
