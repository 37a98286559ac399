#include "probe/train/loss.h"

#include <math.h>

/* One group of a batch. */
typedef struct loss_group {
    int32_t first, end;
    double weight, score_mean, target_mean, score_max, target_max;
} loss_group;

static loss_group group_of(const ga_loss_batch *batch, int32_t group, const float *score) {
    loss_group g = {.first = batch->begin[group],
        .end = batch->begin[group + 1],
        .score_max = -INFINITY,
        .target_max = -INFINITY};
    for (int32_t i = g.first; i < g.end; i++) {
        const double w = (double)batch->weight[i];
        g.weight += w;
        g.score_mean += w * (double)score[i];
        g.target_mean += w * (double)batch->target[i];
        g.score_max = fmax(g.score_max, (double)score[i]);
        g.target_max = fmax(g.target_max, (double)batch->target[i]);
    }
    if (g.weight > 0.0) {
        g.score_mean /= g.weight;
        g.target_mean /= g.weight;
    }
    return g;
}

/* d/ds_i Σ w(e − ē)² = 2 w_i (e_i − ē), because centring is a projection. */
static double add_centred(
    const ga_loss_batch *batch, const loss_group *g, const float *score, double factor, float *grad) {
    double sum = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        const double w = (double)batch->weight[i];
        const double e = ((double)score[i] - g->score_mean) - ((double)batch->target[i] - g->target_mean);
        sum += w * e * e;
        grad[i] += (float)(factor * 2.0 * w * e);
    }
    return factor * sum;
}

/* d/ds_i KL(p ‖ q) = q_i − p_i */
static double add_ranked(
    const ga_loss_batch *batch, const loss_group *g, const float *score, double factor, float *grad) {
    double p_sum = 0.0, q_sum = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        p_sum += (double)batch->weight[i] * exp((double)batch->target[i] - g->target_max);
        q_sum += (double)batch->weight[i] * exp((double)score[i] - g->score_max);
    }
    if (!(p_sum > 0.0) || !(q_sum > 0.0)) {
        return 0.0;
    }
    const double p_log = g->target_max + log(p_sum), q_log = g->score_max + log(q_sum);
    double divergence = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        const double w = (double)batch->weight[i];
        const double p = w * exp((double)batch->target[i] - p_log);
        const double q = w * exp((double)score[i] - q_log);
        divergence += p * (((double)batch->target[i] - p_log) - ((double)score[i] - q_log));
        grad[i] += (float)(factor * g->weight * (q - p));
    }
    return factor * g->weight * divergence;
}

static double add_raw(
    const ga_loss_batch *batch, const loss_group *g, const float *score, double factor, float *grad) {
    double sum = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        const double w = (double)batch->weight[i];
        const double e = (double)score[i] + batch->bias - (double)batch->target[i];
        sum += w * e * e;
        grad[i] += (float)(factor * 2.0 * w * e);
    }
    return factor * sum;
}

double ga_loss_evaluate(
    const ga_loss *loss, const ga_loss_batch *batch, const float *score, float *grad_score) {
    const int32_t rows = batch->begin[batch->groups];
    double weight = 0.0;
    for (int32_t i = 0; i < rows; i++) {
        grad_score[i] = 0.0f;
        weight += (double)batch->weight[i];
    }
    if (!(weight > 0.0)) {
        return 0.0;
    }
    double value = 0.0;
    for (int32_t group = 0; group < batch->groups; group++) {
        const loss_group g = group_of(batch, group, score);
        value += add_centred(batch, &g, score, loss->centred / weight, grad_score);
        value += add_ranked(batch, &g, score, loss->ranked / weight, grad_score);
        value += add_raw(batch, &g, score, loss->raw / weight, grad_score);
    }
    return value;
}
