/*
 * What a policy costs, in shares that a user knows, by the cost model of a run (estimate/breakeven.h).
 */
#ifndef GA_WHATIF_COST_H
#define GA_WHATIF_COST_H

#include "grpo_accel/whatif/table.h"

/* Shares are of one full denoising of a row, but for `after`. */
typedef struct ga_shares {
    double before[GA_WHATIF_STAGES_MAX]; /* denoising that a row which a decision stops has run, in (0, 1] */
    double signal[GA_WHATIF_STAGES_MAX]; /* looking at one row at that decision, ≥ 0 */
    double reward;                       /* decoding and scoring a row that ran to its end, ≥ 0 */
    double after; /* f: share of an iteration of full rollouts spent after rollout and reward, in [0, 1) */
} ga_shares;

/*
 * C: seconds of an iteration over those with full rollouts of the same rows, keep[k] of the begun rows going
 * on after decision k. With one decision and reward 0 this is (1 − f)[s + (1 − s)κ + v] + fκ.
 */
double ga_shares_cost(const ga_shares *shares, int32_t stage_count, const double *keep);

#endif
