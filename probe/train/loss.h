/*
 * What the network minimises over a batch of whole groups, for each target:
 *
 *   centred  · Σ w e²                     squared error of group-centred scores, e = (s − s̄_g) − (t − t̄_g)
 * + ranked   · Σ_g W_g KL(p_g ‖ q_g)      listwise term (ListNet, Cao et al., ICML 2007): p and q are
 *                                         w-weighted softmaxes of targets and scores in the group
 * + raw      · Σ w (s − t)²               a small hold on the level
 * + variance · Σ w v^β ½(ln v + e'²/v)    negative log-likelihood of the residual, where the network answers
 * a log-variance l: v = floor + exp(l), e'² = e² · n/(n − 1)
 *
 * s: scores, t: targets in units of their spread inside groups and without their mean level, w: weights, W_g:
 * a group's sum of weights, n: its labelled rows. v^β counts as a constant (β-NLL, Seitzer et al., ICLR 2022:
 * rows that are hard to predict are not given up). With `hold_mean` the last term moves the log-variance
 * alone. Rows without a label for a target (NaN) take no part in it, groups of one row not in the last term.
 */
#ifndef GA_PROBE_TRAIN_LOSS_H
#define GA_PROBE_TRAIN_LOSS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ga_loss {
    double centred, ranked, raw;
    double variance;       /* weight of the last term */
    double variance_beta;  /* β, 0 … 1 */
    double variance_floor; /* > 0, in units of the spread inside groups, squared */
    bool hold_mean;
    double others; /* weight of the targets beyond the first, shared by them in equal parts */
} ga_loss;

/* centred 1, ranked 1, raw .05, variance .2 with β ½ and floor 10⁻³, the mean held, others ½. */
ga_loss ga_loss_default(void);

/* The paper's: squared error of the raw reward. */
ga_loss ga_loss_paper(void);

/* Rows sorted by group; begin: [groups + 1] from 0. */
typedef struct ga_loss_batch {
    int32_t groups;
    const int32_t *begin;
    int32_t targets;     /* 1 or more */
    bool variances;      /* log-variances stand behind the means */
    const float *target; /* [rows, targets]; NaN: no label */
    const float *weight; /* [rows] */
} ga_loss_batch;

/*
 * Sum of the loss over the batch, not divided by the sum of weights, so that parts of a batch add up; its
 * gradient goes to grad_answer. answer, grad_answer: [rows, targets · (variances ? 2 : 1)], the means first.
 * Any thread.
 */
double ga_loss_evaluate(
    const ga_loss *loss, const ga_loss_batch *batch, const float *answer, float *grad_answer);

#endif
