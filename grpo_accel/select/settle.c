#include "grpo_accel/select/settle.h"

#include <math.h>
#include <stdbool.h>

#include "grpo_accel/base/check.h"

/* Less than this, in rows, is nothing: no path is sought for it and none goes through it. */
static const double NOTHING = 1e-13;

/* Nodes: groups 0 … groups-1, then ranks. */
typedef struct settling {
    const ga_grid *grid;
    const ga_bounds *bounds;
    const double *least;
    double *inclusion;
    double *sum;    /* [groups] */
    int32_t *via;   /* [nodes] slot by which a node was reached, -1: not reached, -2: the start */
    int32_t *queue; /* [nodes] reached nodes in order */
    int32_t queued;
    bool giving;  /* the start has too much; false: too little */
    bool to_zero; /* rows may be lowered below their least */
} settling;

static bool take_settling(ga_arena *arena, settling *s) {
    const size_t nodes = ga_size(s->grid->groups) + ga_size(s->grid->ranks);
    s->sum = ga_arena_take(arena, ga_size(s->grid->groups), sizeof *s->sum);
    s->via = ga_arena_take(arena, nodes, sizeof *s->via);
    s->queue = ga_arena_take(arena, nodes, sizeof *s->queue);
    for (size_t node = 0; s->via != NULL && node < nodes; node++) {
        s->via[node] = -1;
    }
    return s->sum != NULL && s->via != NULL && s->queue != NULL;
}

static double distance_from_bounds(const settling *s, int32_t group) {
    if (s->sum[group] < s->bounds->floor[group]) {
        return s->bounds->floor[group] - s->sum[group];
    }
    return fmax(0, s->sum[group] - s->bounds->cap[group]);
}

/* How far the row can be raised, or lowered. */
static double capacity(const settling *s, int32_t slot, bool raise) {
    const double lowest = s->to_zero ? 0 : s->least[slot];
    return raise ? 1 - s->inclusion[slot] : s->inclusion[slot] - lowest;
}

/* What a group at the end of a path can bear: rows that it can spare, or, when giving, has place for. */
static double spare(const settling *s, int32_t group) {
    return s->giving ? s->bounds->cap[group] - s->sum[group] : s->sum[group] - s->bounds->floor[group];
}

static void reach(settling *s, int32_t node, int32_t slot) {
    if (s->via[node] == -1) {
        s->via[node] = slot;
        s->queue[s->queued++] = node;
    }
}

static void reach_from_group(settling *s, int32_t group) {
    for (int32_t i = s->grid->member_start[group]; i < s->grid->member_start[group + 1]; i++) {
        const int32_t slot = s->grid->member[i];
        if (capacity(s, slot, !s->giving) > NOTHING) {
            reach(s, s->grid->groups + ga_grid_rank(s->grid, slot), slot);
        }
    }
}

static void reach_from_rank(settling *s, int32_t node) {
    const int32_t first = (node - s->grid->groups) * s->grid->rows_per_rank;
    for (int32_t slot = first; slot < first + s->grid->rows_per_rank; slot++) {
        if (capacity(s, slot, s->giving) > NOTHING) {
            reach(s, s->grid->group[slot], slot);
        }
    }
}

/* The nearest group that can bear what the start lacks or has too much; -1: none. */
static int32_t search(settling *s, int32_t start) {
    s->queued = 0;
    reach(s, start, -2);
    for (int32_t i = 0; i < s->queued; i++) {
        const int32_t node = s->queue[i];
        if (node >= s->grid->groups) {
            reach_from_rank(s, node);
        } else if (node != start && spare(s, node) > NOTHING) {
            return node;
        } else {
            reach_from_group(s, node);
        }
    }
    return -1;
}

/* The two rows by which the path comes to `group`: near is the group's own, far that of the group before. */
static void step_back(const settling *s, int32_t group, int32_t *near, int32_t *far) {
    *near = s->via[group];
    *far = s->via[s->grid->groups + ga_grid_rank(s->grid, *near)];
}

static void move_along(settling *s, int32_t start, int32_t end) {
    double amount = fmin(distance_from_bounds(s, start), spare(s, end));
    int32_t near, far;
    for (int32_t group = end; group != start; group = s->grid->group[far]) {
        step_back(s, group, &near, &far);
        amount = fmin(amount, fmin(capacity(s, near, s->giving), capacity(s, far, !s->giving)));
    }
    const double change = s->giving ? -amount : amount;
    for (int32_t group = end; group != start; group = s->grid->group[far]) {
        step_back(s, group, &near, &far);
        s->inclusion[near] = fmin(1, fmax(0, s->inclusion[near] - change));
        s->inclusion[far] = fmin(1, fmax(0, s->inclusion[far] + change));
    }
    s->sum[start] += change;
    s->sum[end] -= change;
}

/* One path for the group; false if there is none. */
static bool settle_once(settling *s, int32_t group) {
    s->giving = s->sum[group] > s->bounds->cap[group];
    const int32_t end = search(s, group);
    if (end >= 0) {
        move_along(s, group, end);
    }
    for (int32_t i = 0; i < s->queued; i++) {
        s->via[s->queue[i]] = -1;
    }
    return end >= 0;
}

ga_status ga_settle_bounds(const ga_grid *grid, const double *least, const ga_bounds *bounds, ga_arena *arena,
    double *inclusion, ga_error *error) {
    settling s = {.grid = grid, .bounds = bounds, .least = least, .inclusion = inclusion};
    if (!take_settling(arena, &s)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to settle %d groups", (int)grid->groups);
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        s.sum[grid->group[slot]] += inclusion[slot];
    }
    for (int way = 0; way < 2; way++) {
        s.to_zero = way == 1;
        for (int32_t group = 0; group < grid->groups; group++) {
            while (distance_from_bounds(&s, group) > NOTHING && settle_once(&s, group)) {
            }
        }
    }
    return GA_OK;
}
