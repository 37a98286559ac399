#include "grpo_accel/select/extremes.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

typedef struct heap_entry {
    double distance;
    uint32_t tie;
    int32_t node;
} heap_entry;

typedef struct ordered_row {
    double weight;
    uint32_t tie;
    int32_t slot;
} ordered_row;

/*
 * Nodes: groups 0 … groups-1, then ranks. A set is optimal for its bounds when prices exist with
 *     weight + price of group ≥ price of rank for kept rows, ≤ for the others,
 * price of group > 0 only where the group stands at its floor, < 0 only where it stands at its cap.
 */
typedef struct matching {
    const ga_grid *grid;
    int32_t keep_per_rank;
    double *weight;     /* [count] in [0, 1], above 1 for rows that come first */
    ordered_row *order; /* [count] each rank's rows, best first, ties by chance */
    int32_t *member;    /* [count] each group's slots, ties in that order too */
    uint8_t *kept;      /* [count] */
    int32_t *held;      /* [groups] kept rows */
    int32_t *floor;     /* [groups] as raised so far */
    int32_t *cap;       /* [groups] as lowered so far */
    int32_t *visit;     /* [groups] order in which bounds are moved: by chance */
    uint8_t *stuck;     /* [nodes] on no path that any search to come could end, see finish_search() */
    double *price;      /* [nodes] */
    double *distance;   /* [nodes] of the current search; infinite: not reached */
    int32_t *via;       /* [nodes] slot of the row by which a node was reached */
    uint8_t *settled;   /* [nodes] */
    uint32_t *tie;      /* [nodes] */
    int32_t *reached;   /* [nodes] list of reached nodes */
    int32_t reached_count;
    bool giving;      /* the current search frees its group of a row; false: it wins it one */
    double length;    /* of the path that it found */
    heap_entry *heap; /* [count + 1]: each row is relaxed at most once a search */
    int32_t heap_count;
} matching;

static bool take_matching(ga_arena *arena, const ga_grid *grid, matching *m) {
    const size_t count = ga_size(grid->count);
    const size_t groups = ga_size(grid->groups);
    const size_t nodes = groups + ga_size(grid->ranks);
    m->weight = ga_arena_take(arena, count, sizeof *m->weight);
    m->order = ga_arena_take(arena, count, sizeof *m->order);
    m->member = ga_arena_take(arena, count, sizeof *m->member);
    m->kept = ga_arena_take(arena, count, sizeof *m->kept);
    m->held = ga_arena_take(arena, groups, sizeof *m->held);
    m->floor = ga_arena_take(arena, groups, sizeof *m->floor);
    m->cap = ga_arena_take(arena, groups, sizeof *m->cap);
    m->visit = ga_arena_take(arena, groups, sizeof *m->visit);
    m->stuck = ga_arena_take(arena, nodes, sizeof *m->stuck);
    m->price = ga_arena_take(arena, nodes, sizeof *m->price);
    m->distance = ga_arena_take(arena, nodes, sizeof *m->distance);
    m->via = ga_arena_take(arena, nodes, sizeof *m->via);
    m->settled = ga_arena_take(arena, nodes, sizeof *m->settled);
    m->tie = ga_arena_take(arena, nodes, sizeof *m->tie);
    m->reached = ga_arena_take(arena, nodes, sizeof *m->reached);
    m->heap = ga_arena_take(arena, count + 1, sizeof *m->heap);
    return m->weight != NULL && m->order != NULL && m->member != NULL && m->kept != NULL && m->held != NULL &&
           m->floor != NULL && m->cap != NULL && m->visit != NULL && m->stuck != NULL && m->price != NULL &&
           m->distance != NULL && m->via != NULL && m->settled != NULL && m->tie != NULL &&
           m->reached != NULL && m->heap != NULL;
}

/* Finite weights to [0, 1]; infinite ones so high that no sum of others outweighs one of them. */
static void normalise_weights(const double *weight, size_t count, double *normal_out) {
    double low = (double)INFINITY, high = -(double)INFINITY;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(weight[i])) {
            low = fmin(low, weight[i]);
            high = fmax(high, weight[i]);
        }
    }
    /* Halves, so that a range beyond the largest double stays finite. */
    const double range = 0.5 * high - 0.5 * low;
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(weight[i])) {
            normal_out[i] = (double)count + 1;
        } else {
            normal_out[i] = range > 0 ? (0.5 * weight[i] - 0.5 * low) / range : 0;
        }
    }
}

static int compare_order(const void *left, const void *right) {
    const ordered_row *a = left;
    const ordered_row *b = right;
    if (a->weight != b->weight) {
        return a->weight > b->weight ? -1 : 1;
    }
    if (a->tie != b->tie) {
        return a->tie < b->tie ? -1 : 1;
    }
    return (a->slot > b->slot) - (a->slot < b->slot);
}

/* Best c rows of each rank: the optimum without floors, with the last kept row's weight as the rank's price.
 */
static void take_best_of_ranks(matching *m, ga_random *random) {
    const ga_grid *grid = m->grid;
    const int32_t rows = grid->rows_per_rank;
    for (int32_t slot = 0; slot < grid->count; slot++) {
        m->order[slot] = (ordered_row){m->weight[slot], ga_random_u32(random), slot};
    }
    for (int32_t rank = 0; rank < grid->ranks; rank++) {
        ordered_row *own = m->order + (size_t)rank * ga_size(rows);
        qsort(own, ga_size(rows), sizeof *own, compare_order);
        for (int32_t i = 0; i < m->keep_per_rank; i++) {
            m->kept[own[i].slot] = 1;
            m->held[grid->group[own[i].slot]]++;
        }
        m->price[grid->groups + rank] = own[m->keep_per_rank - 1].weight;
    }
}

/* Members of each group in the ranks' order, so that ties inside a rank are broken by chance here too. */
static void order_members(matching *m) {
    int32_t *filled = m->visit; /* not yet in use: counts first, an order of groups later */
    for (int32_t i = 0; i < m->grid->count; i++) {
        const int32_t slot = m->order[i].slot;
        const int32_t group = m->grid->group[slot];
        m->member[m->grid->member_start[group] + filled[group]++] = slot;
    }
}

static void prepare_searches(matching *m, ga_random *random) {
    const int32_t nodes = m->grid->groups + m->grid->ranks;
    order_members(m);
    for (int32_t group = 0; group < m->grid->groups; group++) {
        m->visit[group] = group;
    }
    ga_random_shuffle(random, m->visit, (uint32_t)m->grid->groups);
    for (int32_t node = 0; node < nodes; node++) {
        m->distance[node] = (double)INFINITY;
        m->tie[node] = ga_random_u32(random);
    }
}

static bool comes_before(heap_entry a, heap_entry b) {
    return a.distance < b.distance || (a.distance == b.distance && a.tie < b.tie);
}

static void heap_push(matching *m, heap_entry entry) {
    int32_t i = m->heap_count++;
    while (i > 0 && comes_before(entry, m->heap[(i - 1) / 2])) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = entry;
}

static heap_entry heap_pop(matching *m) {
    const heap_entry top = m->heap[0];
    const heap_entry last = m->heap[--m->heap_count];
    int32_t i = 0;
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= m->heap_count) {
            break;
        }
        if (child + 1 < m->heap_count && comes_before(m->heap[child + 1], m->heap[child])) {
            child++;
        }
        if (!comes_before(m->heap[child], last)) {
            break;
        }
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

/* Reduced costs are ≥ 0 but for rounding. */
static void relax(matching *m, int32_t node, double distance, double reduced_cost, int32_t slot) {
    const double reached_at = distance + fmax(0, reduced_cost);
    if (m->settled[node] || m->stuck[node] || reached_at >= m->distance[node]) {
        return;
    }
    if (isinf(m->distance[node])) {
        m->reached[m->reached_count++] = node;
    }
    m->distance[node] = reached_at;
    m->via[node] = slot;
    heap_push(m, (heap_entry){reached_at, m->tie[node], node});
}

static double signed_cost(const matching *m, double cost) {
    return m->giving ? -cost : cost;
}

/*
 * A group that needs a row may take any of its rows that is not kept: that row's rank then has one too many.
 * When giving, all is the other way round: a group drops a kept row, and its rank then lacks one.
 */
static void relax_from_group(matching *m, int32_t group, double distance) {
    for (int32_t i = m->grid->member_start[group]; i < m->grid->member_start[group + 1]; i++) {
        const int32_t slot = m->member[i];
        const int32_t rank_node = m->grid->groups + ga_grid_rank(m->grid, slot);
        if (m->kept[slot] == m->giving) {
            const double cost = m->price[rank_node] - (m->weight[slot] + m->price[group]);
            relax(m, rank_node, distance, signed_cost(m, cost), slot);
        }
    }
}

/* A rank with one too many may drop any kept row: that row's group then needs one. */
static void relax_from_rank(matching *m, int32_t rank_node, double distance) {
    const int32_t first = (rank_node - m->grid->groups) * m->grid->rows_per_rank;
    for (int32_t i = first; i < first + m->grid->rows_per_rank; i++) {
        const int32_t slot = m->order[i].slot;
        const int32_t group = m->grid->group[slot];
        if (m->kept[slot] != m->giving) {
            const double cost = m->weight[slot] + m->price[group] - m->price[rank_node];
            relax(m, group, distance, signed_cost(m, cost), slot);
        }
    }
}

/* A path may end at a group that can spare a row, or, when giving, has room for one. */
static bool can_end(const matching *m, int32_t group) {
    return m->giving ? m->held[group] < m->cap[group] : m->held[group] > m->floor[group];
}

/* Cheapest way to move `start` by one row at the expense of a group that can bear it; that group, or -1. */
static int32_t search(matching *m, int32_t start) {
    int32_t end = -1;
    m->heap_count = 0;
    m->reached_count = 0;
    m->length = (double)INFINITY;
    relax(m, start, 0, 0, -1);
    while (m->heap_count > 0) {
        const heap_entry entry = heap_pop(m);
        if (entry.distance >= m->length) {
            break;
        }
        if (m->settled[entry.node]) {
            continue;
        }
        m->settled[entry.node] = 1;
        if (entry.node >= m->grid->groups) {
            relax_from_rank(m, entry.node, entry.distance);
            continue;
        }
        const double ended = entry.distance + fmax(0, signed_cost(m, -m->price[entry.node]));
        if (entry.node != start && can_end(m, entry.node) && ended < m->length) {
            m->length = ended;
            end = entry.node;
        }
        if (entry.distance < m->length) {
            relax_from_group(m, entry.node, entry.distance);
        }
    }
    return end;
}

/* Exchanges rows along the path that the search found. */
static void exchange_rows(matching *m, int32_t start, int32_t end) {
    m->held[end] += m->giving ? 1 : -1;
    m->held[start] += m->giving ? -1 : 1;
    for (int32_t group = end; group != start;) {
        const int32_t near = m->via[group];
        const int32_t far = m->via[m->grid->groups + ga_grid_rank(m->grid, near)];
        m->kept[near] = !m->kept[near];
        m->kept[far] = !m->kept[far];
        group = m->grid->group[far];
    }
}

/*
 * New prices for which the exchanged set is optimal; forgets the search. Where it found no end, all that it
 * reached stands at its bounds and stays as it is: no row leads out of it in the search's direction, so none
 * leads into it for a search in the other, and one in the same direction would never come out again.
 */
static void finish_search(matching *m, bool found) {
    for (int32_t i = 0; i < m->reached_count; i++) {
        const int32_t node = m->reached[i];
        if (!found) {
            m->stuck[node] = 1;
        } else if (m->settled[node]) {
            m->price[node] += signed_cost(m, fmax(0, m->length - m->distance[node]));
        }
        m->distance[node] = (double)INFINITY;
        m->settled[node] = 0;
    }
}

/* One row more, or less, for the group; false if no set does that without breaking another bound. */
static bool move_group(matching *m, int32_t group, bool giving) {
    m->giving = giving;
    const int32_t end = search(m, group);
    if (end >= 0) {
        exchange_rows(m, group, end);
    }
    finish_search(m, end >= 0);
    return end >= 0;
}

/* Floors to `level` where they are not yet; first those that cost nothing, so that nobody takes from them. */
static void raise_floors(matching *m, const int32_t *asked, int32_t level) {
    for (int32_t group = 0; group < m->grid->groups; group++) {
        if (m->held[group] >= level && asked[group] >= level) {
            m->floor[group] = level;
        }
    }
    for (int32_t i = 0; i < m->grid->groups; i++) {
        const int32_t group = m->visit[i];
        if (m->floor[group] < level && asked[group] >= level && !m->stuck[group] &&
            move_group(m, group, false)) {
            m->floor[group] = level;
        }
    }
}

/* Caps to `excess` above those asked for where they are not yet; first those that cost nothing. */
static void lower_caps(matching *m, const int32_t *asked, int32_t excess) {
    for (int32_t group = 0; group < m->grid->groups; group++) {
        if (m->held[group] <= asked[group] + excess) {
            m->cap[group] = asked[group] + excess;
        }
    }
    for (int32_t i = 0; i < m->grid->groups; i++) {
        const int32_t group = m->visit[i];
        if (m->held[group] > asked[group] + excess && !m->stuck[group] && move_group(m, group, true)) {
            m->cap[group] = asked[group] + excess;
        }
    }
}

/* Caps at which nothing has to move yet; returns how far the furthest group is above what was asked for. */
static int32_t start_caps(matching *m, const int32_t *asked) {
    int32_t largest = 0;
    for (int32_t group = 0; group < m->grid->groups; group++) {
        const int32_t excess = m->held[group] - asked[group];
        largest = excess > largest ? excess : largest;
        m->cap[group] = excess > 0 ? m->held[group] : asked[group];
    }
    return largest;
}

/* The highest floor asked for, or 0 where all are met already. */
static int32_t highest_floor(const matching *m, const int32_t *asked) {
    int32_t highest = 0;
    bool short_of_one = false;
    for (int32_t group = 0; group < m->grid->groups; group++) {
        highest = asked[group] > highest ? asked[group] : highest;
        short_of_one = short_of_one || m->held[group] < asked[group];
    }
    return short_of_one ? highest : 0;
}

static ga_status check_input(const ga_grid *grid, const double *weight, int32_t keep_per_rank,
    const ga_bounds *bounds, ga_error *error) {
    if (keep_per_rank < 1 || keep_per_rank > grid->rows_per_rank) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "can't keep %d of %d rows a rank", (int)keep_per_rank,
            (int)grid->rows_per_rank);
    }
    for (int32_t group = 0; group < grid->groups; group++) {
        if (bounds->floor[group] < 0 || bounds->floor[group] > bounds->cap[group]) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "can't keep %d to %d rows of a group",
                (int)bounds->floor[group], (int)bounds->cap[group]);
        }
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        if (isnan(weight[slot]) || (isinf(weight[slot]) && weight[slot] < 0)) {
            return GA_FAIL(error, GA_ERR_DATA, "weight of rank %d row %d is not a number",
                (int)ga_grid_rank(grid, slot), (int)(slot % grid->rows_per_rank));
        }
    }
    return GA_OK;
}

/* Caps from the highest excess downward, floors from 0 upward, one row at a time: so both give way evenly. */
static void move_bounds(matching *m, const ga_bounds *asked, ga_random *random) {
    const int32_t excess = start_caps(m, asked->cap);
    if (excess > 0 || highest_floor(m, asked->floor) > 0) {
        prepare_searches(m, random);
    }
    for (int32_t above = excess - 1; above >= 0; above--) {
        lower_caps(m, asked->cap, above);
    }
    const int32_t highest = highest_floor(m, asked->floor);
    if (highest == 0) {
        memcpy(m->floor, asked->floor, ga_size(m->grid->groups) * sizeof *m->floor);
    }
    for (int32_t level = 1; level <= highest; level++) {
        raise_floors(m, asked->floor, level);
    }
}

ga_status ga_bounds_make(const ga_grid *grid, int32_t min_group, int32_t max_group, ga_arena *arena,
    ga_bounds *bounds_out, ga_error *error) {
    int32_t *floor = ga_arena_take(arena, ga_size(grid->groups), sizeof *floor);
    int32_t *cap = ga_arena_take(arena, ga_size(grid->groups), sizeof *cap);
    if (floor == NULL || cap == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for bounds of %d groups", (int)grid->groups);
    }
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t size = ga_grid_group_size(grid, group);
        cap[group] = max_group > 0 && max_group < size ? max_group : size;
        floor[group] = min_group < cap[group] ? min_group : cap[group];
    }
    *bounds_out = (ga_bounds){floor, cap};
    return GA_OK;
}

ga_status ga_extremes_choose(const ga_grid *grid, const double *weight, int32_t keep_per_rank,
    ga_random random, ga_arena *arena, ga_bounds *bounds, uint8_t *kept_out, ga_error *error) {
    GA_TRY(check_input(grid, weight, keep_per_rank, bounds, error));
    matching m = {.grid = grid, .keep_per_rank = keep_per_rank};
    if (!take_matching(arena, grid, &m)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to choose among %d rows", (int)grid->count);
    }
    normalise_weights(weight, ga_size(grid->count), m.weight);
    take_best_of_ranks(&m, &random);
    move_bounds(&m, bounds, &random);
    memcpy(kept_out, m.kept, ga_size(grid->count) * sizeof *kept_out);
    memcpy(bounds->floor, m.floor, ga_size(grid->groups) * sizeof *bounds->floor);
    memcpy(bounds->cap, m.cap, ga_size(grid->groups) * sizeof *bounds->cap);
    return GA_OK;
}
