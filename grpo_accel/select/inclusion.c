#include "grpo_accel/select/inclusion.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/select/settle.h"

enum { SWEEPS_MAX = 60, STEPS_MAX = 200 };

/* Rows by which a group may miss a bound for what comes after the sweeps to settle. */
static const double CLOSE_TO_BOUND = 1e-9;
/* Stands for an infinite weight: so much more than the largest finite one that the cap at 1 decides. */
static const double RATIO_MAX = 1e12;
/* Stands for 0, so that a rank reaches its quota even where fewer of its rows than that have a weight. */
static const double RATIO_MIN = 1e-12;
/* Where bounds leave no choice factors grow without end; beyond this they would overflow. */
static const double FACTOR_MAX = 1e100;

typedef struct fit {
    const ga_grid *grid;
    const ga_inclusion_limits *limits;
    double *ratio;        /* [count] weight in units of the largest */
    double *low;          /* [count] */
    double *high;         /* [count] */
    double *p;            /* [count] */
    double *group_factor; /* [groups] b */
    double *rank_factor;  /* [ranks] a */
    double *part[3];      /* [count] weight, low, high of one rank or group */
} fit;

static bool take_fit(ga_arena *arena, fit *f) {
    const size_t count = ga_size(f->grid->count);
    f->ratio = ga_arena_take(arena, count, sizeof *f->ratio);
    f->low = ga_arena_take(arena, count, sizeof *f->low);
    f->high = ga_arena_take(arena, count, sizeof *f->high);
    f->p = ga_arena_take(arena, count, sizeof *f->p);
    f->group_factor = ga_arena_take(arena, ga_size(f->grid->groups), sizeof *f->group_factor);
    f->rank_factor = ga_arena_take(arena, ga_size(f->grid->ranks), sizeof *f->rank_factor);
    for (int i = 0; i < 3; i++) {
        f->part[i] = ga_arena_take(arena, count, sizeof *f->part[i]);
    }
    return f->ratio != NULL && f->low != NULL && f->high != NULL && f->p != NULL && f->group_factor != NULL &&
           f->rank_factor != NULL && f->part[0] != NULL && f->part[1] != NULL && f->part[2] != NULL;
}

static double clip(double value, double low, double high) {
    return value < low ? low : (value > high ? high : value);
}

/* Factors between which the sum passes the target; false if *above is the answer. */
static bool bracket_factor(const double *weight, const double *low, const double *high, int32_t count,
    double target, double *below, double *above) {
    double low_sum = 0, high_sum = 0, weight_sum = 0, first = (double)INFINITY, last = 0;
    for (int32_t i = 0; i < count; i++) {
        const bool moves = low[i] < high[i] && weight[i] > 0;
        low_sum += low[i];
        high_sum += moves ? high[i] : low[i];
        weight_sum += moves ? weight[i] : 0;
        first = moves ? fmin(first, low[i] / weight[i]) : first;
        last = moves ? fmax(last, high[i] / weight[i]) : last;
    }
    if (target <= low_sum || target >= high_sum) {
        *above = target <= low_sum && isfinite(first) ? first : last;
        return false;
    }
    *below = (target - low_sum) / weight_sum; /* clip(a·w, l, h) ≤ l + a·w */
    *above = last;
    return true;
}

double ga_scale_factor(
    const double *weight, const double *low, const double *high, int32_t count, double target) {
    double below = 0, above = 0;
    if (!bracket_factor(weight, low, high, count, target, &below, &above)) {
        return above;
    }
    double factor = below;
    for (int step = 0; step < STEPS_MAX; step++) {
        double sum = 0, slope = 0;
        for (int32_t i = 0; i < count; i++) {
            const double scaled = factor * weight[i];
            sum += clip(scaled, low[i], high[i]);
            slope += scaled > low[i] && scaled < high[i] ? weight[i] : 0;
        }
        if (fabs(target - sum) <= 1e-15 * target) {
            break;
        }
        if (sum < target) {
            below = factor;
        } else {
            above = factor;
        }
        /* Newton's step, exact once the clipped entries are the right ones; the bracket in between. */
        const double newton = slope > 0 ? factor + (target - sum) / slope : 0;
        const double next = newton > below && newton < above ? newton : sqrt(below) * sqrt(above);
        if (next == factor) {
            break;
        }
        factor = next;
    }
    return factor;
}

static ga_status start_from_weights(fit *f, const double *weight, ga_error *error) {
    const ga_grid *grid = f->grid;
    double largest = 0;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        if (isnan(weight[slot]) || weight[slot] < 0) {
            return GA_FAIL(error, GA_ERR_DATA, "weight of rank %d row %d is negative or not a number",
                (int)ga_grid_rank(grid, slot), (int)(slot % grid->rows_per_rank));
        }
        largest = isfinite(weight[slot]) ? fmax(largest, weight[slot]) : largest;
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        const double finite_ratio = largest > 0 ? weight[slot] / largest : 1;
        f->ratio[slot] = isinf(weight[slot]) ? RATIO_MAX : fmax(RATIO_MIN, finite_ratio);
    }
    return GA_OK;
}

/* Range of each probability; all factors at 1. */
static void set_ranges(fit *f) {
    const ga_grid *grid = f->grid;
    const double by_chance = (double)f->limits->keep_per_rank / (double)grid->rows_per_rank;
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t size = ga_grid_group_size(grid, group);
        const int32_t cap = f->limits->bounds != NULL ? f->limits->bounds->cap[group] : size;
        const double low = fmin(fmin(f->limits->least, by_chance), (double)cap / (double)size);
        for (int32_t i = grid->member_start[group]; i < grid->member_start[group + 1]; i++) {
            f->low[grid->member[i]] = low;
            f->high[grid->member[i]] = 1;
        }
        f->group_factor[group] = 1;
    }
}

/* Each rank's factor, and with it the probabilities. */
static void project_ranks(fit *f) {
    const int32_t rows = f->grid->rows_per_rank;
    for (int32_t rank = 0; rank < f->grid->ranks; rank++) {
        const int32_t first = rank * rows;
        double *weight = f->part[0];
        for (int32_t i = 0; i < rows; i++) {
            weight[i] = f->ratio[first + i] * f->group_factor[f->grid->group[first + i]];
        }
        f->rank_factor[rank] =
            ga_scale_factor(weight, f->low + first, f->high + first, rows, f->limits->keep_per_rank);
        for (int32_t i = 0; i < rows; i++) {
            f->p[first + i] = clip(f->rank_factor[rank] * weight[i], f->low[first + i], f->high[first + i]);
        }
    }
}

/* One group's factor; returns by how much its sum changes. */
static double project_group(fit *f, int32_t group) {
    const ga_grid *grid = f->grid;
    const int32_t size = ga_grid_group_size(grid, group);
    double before = 0, plain = 0;
    for (int32_t i = 0; i < size; i++) {
        const int32_t slot = grid->member[grid->member_start[group] + i];
        f->part[0][i] = f->ratio[slot] * f->rank_factor[ga_grid_rank(grid, slot)];
        f->part[1][i] = f->low[slot];
        f->part[2][i] = f->high[slot];
        before += f->p[slot];
        plain += clip(f->part[0][i], f->low[slot], f->high[slot]);
    }
    const double target = clip(plain, f->limits->bounds->floor[group], f->limits->bounds->cap[group]);
    const double factor =
        target == plain ? 1 : ga_scale_factor(f->part[0], f->part[1], f->part[2], size, target);
    f->group_factor[group] = clip(factor, 1 / FACTOR_MAX, FACTOR_MAX);
    return fabs(target - before);
}

static double project_groups(fit *f) {
    double worst = 0;
    for (int32_t group = 0; group < f->grid->groups; group++) {
        worst = fmax(worst, project_group(f, group));
    }
    return worst;
}

/* Ranks and groups in turn, until the groups are within their bounds or as close as this gets. */
static void solve(fit *f) {
    project_ranks(f);
    for (int sweep = 0; f->limits->bounds != NULL && sweep < SWEEPS_MAX; sweep++) {
        if (project_groups(f) <= CLOSE_TO_BOUND) {
            return;
        }
        project_ranks(f);
    }
}

ga_status ga_inclusion_fit(const ga_grid *grid, const double *weight, const ga_inclusion_limits *limits,
    ga_arena *arena, double *inclusion_out, ga_error *error) {
    fit f = {.grid = grid, .limits = limits};
    if (!take_fit(arena, &f)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for probabilities of %d rows", (int)grid->count);
    }
    GA_TRY(start_from_weights(&f, weight, error));
    set_ranges(&f);
    solve(&f);
    if (limits->bounds != NULL) {
        GA_TRY(ga_settle_bounds(grid, f.low, limits->bounds, arena, f.p, error));
    }
    memcpy(inclusion_out, f.p, ga_size(grid->count) * sizeof *inclusion_out);
    return GA_OK;
}

void ga_inclusion_mix_audit(
    double *inclusion, int32_t count, double audit_share, int32_t keep_per_rank, int32_t rows_per_rank) {
    const double by_chance = (double)keep_per_rank / (double)rows_per_rank;
    for (int32_t i = 0; i < count; i++) {
        inclusion[i] = (1 - audit_share) * inclusion[i] + audit_share * by_chance;
    }
}
