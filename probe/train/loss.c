#include "probe/train/loss.h"

#include <math.h>
#include <string.h>

/* Beyond this a log-variance has no gradient: exp must stay finite. */
#define LOG_VARIANCE_MAX 12.0

/* One target of a batch: column `column` of the answers. */
typedef struct loss_view {
    const ga_loss *loss;
    const ga_loss_batch *batch;
    const float *answer;
    float *grad;
    int32_t column, width; /* of answers */
    double factor;         /* of the target */
} loss_view;

/* One group of a target; only rows with a label count. */
typedef struct loss_group {
    int32_t first, end, labelled;
    double weight, score_mean, target_mean, score_max, target_max;
} loss_group;

ga_loss ga_loss_default(void) {
    const ga_loss loss = {.centred = 1.0,
        .ranked = 1.0,
        .raw = 0.05,
        .variance = 0.2,
        .variance_beta = 0.5,
        .variance_floor = 1e-3,
        .hold_mean = true,
        .others = 0.5};
    return loss;
}

ga_loss ga_loss_paper(void) {
    ga_loss loss = ga_loss_default();
    loss.centred = 0.0;
    loss.ranked = 0.0;
    loss.raw = 1.0;
    loss.variance = 0.0;
    return loss;
}

static double target_of(const loss_view *view, int32_t row) {
    return (double)view->batch->target[(int64_t)row * view->batch->targets + view->column];
}

static double score_of(const loss_view *view, int32_t row) {
    return (double)view->answer[(int64_t)row * view->width + view->column];
}

static float *grad_of(const loss_view *view, int32_t row) {
    return &view->grad[(int64_t)row * view->width + view->column];
}

static bool labelled(const loss_view *view, int32_t row) {
    return isfinite(target_of(view, row)) != 0;
}

static loss_group group_of(const loss_view *view, int32_t group) {
    loss_group g = {.first = view->batch->begin[group],
        .end = view->batch->begin[group + 1],
        .score_max = -INFINITY,
        .target_max = -INFINITY};
    for (int32_t i = g.first; i < g.end; i++) {
        if (!labelled(view, i)) {
            continue;
        }
        const double w = (double)view->batch->weight[i];
        g.labelled++;
        g.weight += w;
        g.score_mean += w * score_of(view, i);
        g.target_mean += w * target_of(view, i);
        g.score_max = fmax(g.score_max, score_of(view, i));
        g.target_max = fmax(g.target_max, target_of(view, i));
    }
    if (g.weight > 0.0) {
        g.score_mean /= g.weight;
        g.target_mean /= g.weight;
    }
    return g;
}

static double centred_error(const loss_view *view, const loss_group *g, int32_t row) {
    return (score_of(view, row) - g->score_mean) - (target_of(view, row) - g->target_mean);
}

/* d/ds_i Σ w(e − ē)² = 2 w_i (e_i − ē), because centring is a projection. */
static double add_centred(const loss_view *view, const loss_group *g) {
    const double factor = view->factor * view->loss->centred;
    double sum = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        if (labelled(view, i)) {
            const double w = (double)view->batch->weight[i], e = centred_error(view, g, i);
            sum += w * e * e;
            *grad_of(view, i) += (float)(factor * 2.0 * w * e);
        }
    }
    return factor * sum;
}

/* d/ds_i KL(p ‖ q) = q_i − p_i */
static double add_ranked(const loss_view *view, const loss_group *g) {
    const double factor = view->factor * view->loss->ranked * g->weight;
    double p_sum = 0.0, q_sum = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        if (labelled(view, i)) {
            const double w = (double)view->batch->weight[i];
            p_sum += w * exp(target_of(view, i) - g->target_max);
            q_sum += w * exp(score_of(view, i) - g->score_max);
        }
    }
    if (!(p_sum > 0.0) || !(q_sum > 0.0)) {
        return 0.0;
    }
    const double p_log = g->target_max + log(p_sum), q_log = g->score_max + log(q_sum);
    double divergence = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        if (labelled(view, i)) {
            const double w = (double)view->batch->weight[i];
            const double p = w * exp(target_of(view, i) - p_log), q = w * exp(score_of(view, i) - q_log);
            divergence += p * ((target_of(view, i) - p_log) - (score_of(view, i) - q_log));
            *grad_of(view, i) += (float)(factor * (q - p));
        }
    }
    return factor * divergence;
}

static double add_raw(const loss_view *view, const loss_group *g) {
    const double factor = view->factor * view->loss->raw;
    double sum = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        if (labelled(view, i)) {
            const double w = (double)view->batch->weight[i], e = score_of(view, i) - target_of(view, i);
            sum += w * e * e;
            *grad_of(view, i) += (float)(factor * 2.0 * w * e);
        }
    }
    return factor * sum;
}

/* dL/de_i = w v^β c e_i / v; through the centring: minus w_i / W of their sum. */
static void move_mean(const loss_view *view, const loss_group *g, double grad_sum) {
    for (int32_t i = g->first; i < g->end; i++) {
        if (labelled(view, i)) {
            *grad_of(view, i) -= (float)((double)view->batch->weight[i] / g->weight * grad_sum);
        }
    }
}

static double add_variance(const loss_view *view, const loss_group *g) {
    const ga_loss *loss = view->loss;
    const double factor = view->factor * loss->variance;
    const double correction = (double)g->labelled / (double)(g->labelled - 1);
    double sum = 0.0, grad_sum = 0.0;
    for (int32_t i = g->first; i < g->end; i++) {
        if (!labelled(view, i)) {
            continue;
        }
        const int64_t place = (int64_t)i * view->width + view->batch->targets + view->column;
        const double log_variance = fmin((double)view->answer[place], LOG_VARIANCE_MAX);
        const double grown = exp(log_variance), v = loss->variance_floor + grown;
        const double e = centred_error(view, g, i), squared = correction * e * e;
        const double w = factor * (double)view->batch->weight[i] * pow(v, loss->variance_beta);
        sum += w * 0.5 * (log(v) + squared / v);
        if (log_variance < LOG_VARIANCE_MAX) {
            view->grad[place] += (float)(w * 0.5 * (1.0 / v - squared / (v * v)) * grown);
        }
        if (!loss->hold_mean) {
            const double grad = w * correction * e / v;
            *grad_of(view, i) += (float)grad;
            grad_sum += grad;
        }
    }
    if (!loss->hold_mean && g->weight > 0.0) {
        move_mean(view, g, grad_sum);
    }
    return sum;
}

double ga_loss_evaluate(
    const ga_loss *loss, const ga_loss_batch *batch, const float *answer, float *grad_answer) {
    const int32_t width = batch->targets * (batch->variances ? 2 : 1);
    memset(grad_answer, 0, (size_t)batch->begin[batch->groups] * (size_t)width * sizeof *grad_answer);
    double value = 0.0;
    for (int32_t target = 0; target < batch->targets; target++) {
        const loss_view view = {.loss = loss,
            .batch = batch,
            .answer = answer,
            .grad = grad_answer,
            .column = target,
            .width = width,
            .factor = target == 0 ? 1.0 : loss->others / (double)(batch->targets - 1)};
        for (int32_t group = 0; group < batch->groups; group++) {
            const loss_group g = group_of(&view, group);
            value += add_centred(&view, &g) + add_ranked(&view, &g) + add_raw(&view, &g);
            value += batch->variances && g.labelled > 1 ? add_variance(&view, &g) : 0.0;
        }
    }
    return value;
}
