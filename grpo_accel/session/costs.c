#include "grpo_accel/session/costs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS_MIN = 4 }; /* of each kind, before they are compared */

/* Work that counts as all of it, and as less. */
static const double FULL_SHARE = 0.98, PRUNED_SHARE = 0.9;

/* Updates without pruning in which full points still correct the comparison (a busy machine is busy in both),
 * and after which pruned points begin anew. */
static const double FREEZE_UPDATES = 16, RENEW_UPDATES = 32;

/* ---- medians ---- */

static void put(ga_cost_ring *ring, double value) {
    ring->value[ring->next] = value;
    ring->next = (ring->next + 1) % GA_COST_POINTS;
    ring->count += ring->count < GA_COST_POINTS;
}

static int ascending(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Of values[count], which are sorted; NaN of none. */
static double middle(double *values, int32_t count) {
    if (count == 0) {
        return (double)NAN;
    }
    qsort(values, (size_t)count, sizeof *values, ascending);
    return 0.5 * (values[(count - 1) / 2] + values[count / 2]);
}

static double median(const ga_cost_ring *ring) {
    double values[GA_COST_POINTS];
    memcpy(values, ring->value, sizeof values);
    return middle(values, ring->count);
}

/* Standard error of the median of values[count] around it, by their median absolute deviation. */
static double median_error(const double *values, int32_t count, double around) {
    const double normal = 1.4826, of_medians = 1.2533;
    double away[GA_COST_POINTS];
    for (int32_t i = 0; i < count; i++) {
        away[i] = fabs(values[i] - around);
    }
    return normal * of_medians * middle(away, count) / sqrt((double)count);
}

/* ---- full and pruned ---- */

/* Compares the pruned points with the full ones. */
static void compare(ga_cost_line *line) {
    const int32_t count = line->pruned_u.count;
    const double full = median(&line->full);
    if (line->full.count < POINTS_MIN || count < POINTS_MIN || !(full > 0)) {
        return;
    }
    double shares[GA_COST_POINTS], sorted[GA_COST_POINTS], less = 0.0;
    for (int32_t i = 0; i < count; i++) {
        const double x = line->pruned_x.value[i];
        shares[i] = (line->pruned_u.value[i] / full - x) / (1 - x);
        less += (1 - x) / count;
    }
    memcpy(sorted, shares, sizeof sorted);
    const double share = middle(sorted, count);
    const double full_error = median_error(line->full.value, line->full.count, full) / full / less;
    const double error = hypot(median_error(shares, count, share), full_error);
    line->share = fmin(1.0, fmax(0.0, share - error));
}

static void add_point(ga_cost_line *line, double u, double x) {
    put(&line->newest_x, x);
    put(&line->newest_u, u);
    if (x >= FULL_SHARE) {
        put(&line->full, u);
    } else if (x <= PRUNED_SHARE) {
        if (line->idle_updates > RENEW_UPDATES) {
            line->pruned_x = line->pruned_u = (ga_cost_ring){0};
        }
        put(&line->pruned_x, x);
        put(&line->pruned_u, u);
        line->idle_updates = 0.0;
    }
    if (line->idle_updates <= FREEZE_UPDATES) {
        compare(line);
    }
}

static double fixed_share(const ga_cost_line *line, double half_life_updates) {
    return line->share * exp2(-line->idle_updates / half_life_updates);
}

static double whole(const ga_cost_line *line, double half_life_updates) {
    const double share = fixed_share(line, half_life_updates);
    double values[GA_COST_POINTS];
    for (int32_t i = 0; i < line->newest_u.count; i++) {
        values[i] = line->newest_u.value[i] / fmax(1e-9, share + (1 - share) * line->newest_x.value[i]);
    }
    return middle(values, line->newest_u.count);
}

/* ---- all of it ---- */

ga_costs ga_costs_make(double half_life_updates) {
    return (ga_costs){.half_life_updates = half_life_updates};
}

void ga_costs_add(ga_costs *costs, ga_cost cost, double seconds, double rows) {
    if (seconds > 0 && rows > 0) {
        put(&costs->row[cost], seconds / rows);
    }
}

void ga_costs_add_denoising(ga_costs *costs, double seconds, double row_steps, double full_row_steps) {
    if (seconds > 0 && row_steps > 0 && full_row_steps > 0) {
        add_point(&costs->denoising, seconds / full_row_steps, row_steps / full_row_steps);
    }
}

void ga_costs_add_training(ga_costs *costs, double seconds, double begun_rows, double trained_rows) {
    if (seconds > 0 && begun_rows > 0) {
        add_point(&costs->training, seconds / begun_rows, trained_rows / begun_rows);
    }
}

void ga_costs_age(ga_costs *costs) {
    costs->denoising.idle_updates += 1;
    costs->training.idle_updates += 1;
}

double ga_costs_row_step_seconds(const ga_costs *costs) {
    return whole(&costs->denoising, costs->half_life_updates);
}

double ga_costs_training_seconds(const ga_costs *costs) {
    return whole(&costs->training, costs->half_life_updates);
}

double ga_costs_denoising_fixed_share(const ga_costs *costs) {
    return fixed_share(&costs->denoising, costs->half_life_updates);
}

double ga_costs_training_fixed_share(const ga_costs *costs) {
    return fixed_share(&costs->training, costs->half_life_updates);
}

double ga_costs_row_seconds(const ga_costs *costs, ga_cost cost) {
    return median(&costs->row[cost]);
}

double ga_costs_row_steps(const ga_costs *costs, ga_cost cost) {
    return ga_costs_row_seconds(costs, cost) / ga_costs_row_step_seconds(costs);
}
