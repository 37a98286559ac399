/*
 * What the network minimises over a batch of whole groups:
 *
 *   centred · Σ w ((s − s̄_g) − (t − t̄_g))² / Σ w     squared error of group-centred scores
 * + ranked  · Σ_g W_g KL(p_g ‖ q_g) / Σ w             listwise term (ListNet, Cao et al., ICML 2007): p and q
 * are w-weighted softmaxes of targets and scores in the group
 * + raw     · Σ w (s + bias − t)² / Σ w               a small hold on the level
 *
 * s: scores, t: targets in units of their spread inside groups, w: weights, W_g: a group's sum of weights.
 */
#ifndef GA_PROBE_TRAIN_LOSS_H
#define GA_PROBE_TRAIN_LOSS_H

#include <stdint.h>

typedef struct ga_loss {
    double centred, ranked, raw;
} ga_loss;

/* Rows sorted by group; begin: [groups + 1] from 0. */
typedef struct ga_loss_batch {
    int32_t groups;
    const int32_t *begin;
    const float *target;
    const float *weight;
    double bias;
} ga_loss_batch;

/* Value of the loss; its gradient by score goes to grad_score[rows]. Any thread. */
double ga_loss_evaluate(
    const ga_loss *loss, const ga_loss_batch *batch, const float *score, float *grad_score);

#endif
