/*
 * What stopping rows early costs and saves, from measured seconds, and what a probe must be worth for it.
 *
 * A row's whole life is T denoising steps, decoding and reward, and its part of the training. A row that is
 * stopped after step t has run t + 1 steps (the step of the decision is whole) and has been looked at. Over
 * stages j with steps t_j and kept shares κ_j (κ_{−1} = 1, never increasing), per row that is begun:
 *
 *     seconds = step·[(t_1 + 1) + Σ_{j>1} κ_{j−1}(t_j − t_{j−1}) + κ_n(T − t_n − 1)] + forward·T
 *             + Σ_j signal_j·κ_{j−1} + own + κ_n(reward + θ·train) + fixed
 *     full    = (step + forward)·T + reward + train + fixed,            C = seconds / full,
 *
 * θ the share of the rows that run to their end which trains. `forward` and `fixed` do not fall with the
 * rows: a forward that waits for launches takes as long for few rows as for many, and then C nears 1 or
 * exceeds it.
 *
 * Pruning pays while the share of the gradient's squared signal-to-noise that it keeps exceeds C
 * (energy.h): speed-up at equal signal = snr2 / C. With one stage, t = s·T − 1, f the share of reward and
 * training, and v the cost of looking in full rollouts this is C = (1 − f)[s + (1 − s)κ + v] + fκ.
 *
 * Not collective; no state.
 */
#ifndef GA_ESTIMATE_BREAKEVEN_H
#define GA_ESTIMATE_BREAKEVEN_H

#include <stdint.h>

#include "grpo_accel/base/flow.h"

#define GA_COURSE_STAGES_MAX 3

/* Seconds, each ≥ 0; NaN: not measured (counts as 0 but for `step`, without which nothing is known). */
typedef struct ga_seconds {
    double step;    /* one denoising step of one row: the part that a stopped row saves */
    double forward; /* one denoising step, for each begun row, whether or not it still runs */
    double signal[GA_CANDIDATES_MAX]; /* looking at one row, at each candidate step */
    double reward;                    /* decoding and scoring a row that ran to its end, as serial time */
    double train;                     /* training on a row */
    double fixed; /* a row that is begun, whatever becomes of it: what the host does beside these */
    double own;   /* our own work for a row that is begun, signals not counted */
} ga_seconds;

/* What happens to the rows of a batch. Plain data. */
typedef struct ga_course {
    int32_t steps_total;                     /* T */
    int32_t stage_count;                     /* 1 … GA_COURSE_STAGES_MAX */
    int32_t step[GA_COURSE_STAGES_MAX];      /* denoising steps done at the decision, ascending */
    int32_t candidate[GA_COURSE_STAGES_MAX]; /* whose signal is taken there */
    double keep[GA_COURSE_STAGES_MAX];       /* κ: share of the begun rows that goes on, (0, 1] */
    double train_share;                      /* θ: of the rows that run to their end; 0 stands for all */
} ga_course;

/* Seconds per begun row under the course, and with every row run to its end without looking; NaN where
 * seconds->step is not known. */
double ga_course_seconds(const ga_seconds *seconds, const ga_course *course);
double ga_full_seconds(const ga_seconds *seconds, int32_t steps_total);

/* C; NaN where it is not known. */
double ga_cost_ratio(const ga_seconds *seconds, const ga_course *course);

/* Share of a full rollout (denoising, decoding, reward) that looking at `candidate_count` steps costs a row,
 * our own work with it; NaN where it is not known. */
double ga_look_share(const ga_seconds *seconds, int32_t steps_total, int32_t candidate_count);

/*
 * ρ*: the correlation within groups from which extremes, normal rewards and the last stage's kept share pay,
 * E(ρ*) = cost_ratio. 0 where chance alone pays, NaN where not even ρ = 1 does, or nothing is known.
 */
double ga_break_even_rho(double cost_ratio, double keep);

#endif
