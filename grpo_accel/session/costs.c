#include "grpo_accel/session/costs.h"

#include <math.h>

ga_costs ga_costs_make(double half_life_updates) {
    return (ga_costs){.decay = exp2(-1.0 / half_life_updates)};
}

void ga_costs_add(ga_costs *costs, ga_cost cost, double seconds, double rows) {
    if (seconds > 0 && rows > 0) {
        costs->seconds[cost] += seconds;
        costs->rows[cost] += rows;
    }
}

void ga_costs_add_denoising(ga_costs *costs, double seconds, double row_steps) {
    if (seconds > 0 && row_steps > 0) {
        costs->denoise_seconds += seconds;
        costs->row_steps += row_steps;
    }
}

void ga_costs_age(ga_costs *costs) {
    for (int i = 0; i < GA_COST_COUNT; i++) {
        costs->seconds[i] *= costs->decay;
        costs->rows[i] *= costs->decay;
    }
    costs->denoise_seconds *= costs->decay;
    costs->row_steps *= costs->decay;
    costs->training.weight *= costs->decay;
    costs->training.x *= costs->decay;
    costs->training.u *= costs->decay;
    costs->training.xx *= costs->decay;
    costs->training.xu *= costs->decay;
}

double ga_costs_row_step_seconds(const ga_costs *costs) {
    return costs->row_steps > 0 ? costs->denoise_seconds / costs->row_steps : (double)NAN;
}

double ga_costs_row_seconds(const ga_costs *costs, ga_cost cost) {
    return costs->rows[cost] > 0 ? costs->seconds[cost] / costs->rows[cost] : (double)NAN;
}

double ga_costs_row_steps(const ga_costs *costs, ga_cost cost) {
    return ga_costs_row_seconds(costs, cost) / ga_costs_row_step_seconds(costs);
}

/* ---- training ---- */

/* Spread of the trained share from which a regression says anything. */
static const double SHARE_VARIANCE_MIN = 1e-3;
static const double OUTLIER = 4.0;

/* The share of the fixed part, where the sums tell it. */
static void read_fixed_share(ga_training_cost *t) {
    const double x = t->x / t->weight, u = t->u / t->weight;
    const double variance = t->xx / t->weight - x * x;
    if (variance < SHARE_VARIANCE_MIN || !(u > 0)) {
        return;
    }
    const double slope = fmax(0.0, (t->xu / t->weight - x * u) / variance);
    const double fixed = fmax(0.0, u - slope * x);
    t->fixed_share = fixed / (fixed + slope);
}

void ga_costs_add_training(ga_costs *costs, double seconds, double begun_rows, double trained_rows) {
    ga_training_cost *t = &costs->training;
    if (!(seconds > 0 && begun_rows > 0)) {
        return;
    }
    const double usual = t->weight > 2 ? t->u / t->weight : (double)INFINITY;
    const double x = trained_rows / begun_rows;
    const double u = fmin(seconds / begun_rows, OUTLIER * usual);
    t->weight += 1;
    t->x += x;
    t->u += u;
    t->xx += x * x;
    t->xu += x * u;
    read_fixed_share(t);
}

/* a + b: of a row that is begun and trained on. */
static double whole_seconds(const ga_training_cost *t) {
    const double share = t->fixed_share + (1 - t->fixed_share) * (t->x / t->weight);
    return t->weight > 0 && share > 0 ? t->u / t->weight / share : (double)NAN;
}

double ga_costs_training_seconds(const ga_costs *costs) {
    return (1 - costs->training.fixed_share) * whole_seconds(&costs->training);
}

double ga_costs_fixed_seconds(const ga_costs *costs) {
    return costs->training.fixed_share * whole_seconds(&costs->training);
}
