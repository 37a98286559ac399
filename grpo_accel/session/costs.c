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
}

double ga_costs_row_step_seconds(const ga_costs *costs) {
    return costs->row_steps > 0 ? costs->denoise_seconds / costs->row_steps : (double)NAN;
}

double ga_costs_row_steps(const ga_costs *costs, ga_cost cost) {
    const double row_seconds = costs->rows[cost] > 0 ? costs->seconds[cost] / costs->rows[cost] : (double)NAN;
    return row_seconds / ga_costs_row_step_seconds(costs);
}
