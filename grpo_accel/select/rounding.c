#include "grpo_accel/select/rounding.h"

#include <math.h>
#include <stdbool.h>

#include "grpo_accel/base/check.h"

static const int64_t ONE = INT64_C(1) << 40;
/* A rank's sum this close to an integer (1e-9 rows) is that integer. */
static const int64_t SNAP = INT64_C(1) << 10;

/* Nodes: ranks 0 … ranks-1, then groups. Edges: slots. */
typedef struct rounding {
    const ga_grid *grid;
    ga_random random;
    int64_t *unit;        /* [count] probability in 1/ONE; decided at 0 and ONE */
    int32_t *start;       /* [nodes + 1] into edge */
    int32_t *edge;        /* [2 count] undecided edges of each node, first `degree` of its part */
    int32_t *degree;      /* [nodes] undecided edges */
    int32_t *place[2];    /* [count] where the edge stands in its rank's and its group's part */
    int32_t *path_node;   /* [nodes + 1] the walk: node, edge, node, … */
    int32_t *path_edge;   /* [nodes + 1] */
    int32_t *path_place;  /* [nodes] place in the walk, -1: not on it */
    int32_t path_length;  /* edges on the walk */
    bool path_starts_end; /* the walk's first node has no other undecided edge */
} rounding;

static bool take_rounding(ga_arena *arena, const ga_grid *grid, rounding *r) {
    const size_t count = ga_size(grid->count);
    const size_t nodes = ga_size(grid->ranks) + ga_size(grid->groups);
    r->unit = ga_arena_take(arena, count, sizeof *r->unit);
    r->start = ga_arena_take(arena, nodes + 1, sizeof *r->start);
    r->edge = ga_arena_take(arena, 2 * count, sizeof *r->edge);
    r->degree = ga_arena_take(arena, nodes, sizeof *r->degree);
    r->place[0] = ga_arena_take(arena, count, sizeof *r->place[0]);
    r->place[1] = ga_arena_take(arena, count, sizeof *r->place[1]);
    r->path_node = ga_arena_take(arena, nodes + 1, sizeof *r->path_node);
    r->path_edge = ga_arena_take(arena, nodes + 1, sizeof *r->path_edge);
    r->path_place = ga_arena_take(arena, nodes, sizeof *r->path_place);
    return r->unit != NULL && r->start != NULL && r->edge != NULL && r->degree != NULL &&
           r->place[0] != NULL && r->place[1] != NULL && r->path_node != NULL && r->path_edge != NULL &&
           r->path_place != NULL;
}

/* The rank (side 0) or group (side 1) at an end of the edge. */
static int32_t end_of(const rounding *r, int32_t slot, int side) {
    return side == 0 ? ga_grid_rank(r->grid, slot) : r->grid->ranks + r->grid->group[slot];
}

static int32_t opposite_end(const rounding *r, int32_t slot, int32_t node) {
    return end_of(r, slot, node < r->grid->ranks ? 1 : 0);
}

/* Rounding errors of a rank's sum go to its undecided rows, so that an integer sum is one exactly. */
static void snap_rank(rounding *r, int32_t rank) {
    const int32_t first = rank * r->grid->rows_per_rank;
    const int32_t end = first + r->grid->rows_per_rank;
    int64_t sum = 0;
    for (int32_t slot = first; slot < end; slot++) {
        sum += r->unit[slot];
    }
    int64_t missing = (sum + ONE / 2) / ONE * ONE - sum;
    if (missing > SNAP || missing < -SNAP) {
        return;
    }
    for (int32_t slot = first; slot < end && missing != 0; slot++) {
        if (r->unit[slot] > 0 && r->unit[slot] < ONE) {
            const int64_t raised = r->unit[slot] + missing;
            const int64_t bounded = raised < 0 ? 0 : (raised > ONE ? ONE : raised);
            missing -= bounded - r->unit[slot];
            r->unit[slot] = bounded;
        }
    }
}

static ga_status quantise(rounding *r, const double *inclusion, ga_error *error) {
    for (int32_t slot = 0; slot < r->grid->count; slot++) {
        if (!(inclusion[slot] >= 0 && inclusion[slot] <= 1)) {
            return GA_FAIL(error, GA_ERR_DATA, "inclusion probability of rank %d row %d is outside of [0, 1]",
                (int)ga_grid_rank(r->grid, slot), (int)(slot % r->grid->rows_per_rank));
        }
        r->unit[slot] = (int64_t)llround(inclusion[slot] * (double)ONE);
    }
    for (int32_t rank = 0; rank < r->grid->ranks; rank++) {
        snap_rank(r, rank);
    }
    return GA_OK;
}

static void insert_edge(rounding *r, int32_t slot) {
    for (int side = 0; side < 2; side++) {
        const int32_t node = end_of(r, slot, side);
        r->place[side][slot] = r->start[node] + r->degree[node]++;
        r->edge[r->place[side][slot]] = slot;
    }
}

static void remove_edge(rounding *r, int32_t slot) {
    for (int side = 0; side < 2; side++) {
        const int32_t node = end_of(r, slot, side);
        const int32_t last = r->edge[r->start[node] + --r->degree[node]];
        r->edge[r->place[side][slot]] = last;
        r->place[side][last] = r->place[side][slot];
    }
}

/* Undecided rows as edges, in an order by chance: which rows exclude each other shall not follow position. */
static ga_status build_graph(rounding *r, ga_arena *arena, ga_error *error) {
    const ga_grid *grid = r->grid;
    int32_t *order = ga_arena_take(arena, ga_size(grid->count), sizeof *order);
    if (order == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to round %d rows", (int)grid->count);
    }
    for (int32_t rank = 0; rank <= grid->ranks; rank++) {
        r->start[rank] = rank * grid->rows_per_rank;
    }
    for (int32_t group = 0; group <= grid->groups; group++) {
        r->start[grid->ranks + group] = grid->count + grid->member_start[group];
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        order[slot] = slot;
    }
    ga_random_shuffle(&r->random, order, (uint32_t)grid->count);
    for (int32_t i = 0; i < grid->count; i++) {
        if (r->unit[order[i]] > 0 && r->unit[order[i]] < ONE) {
            insert_edge(r, order[i]);
        }
    }
    for (int32_t node = 0; node < grid->ranks + grid->groups; node++) {
        r->path_place[node] = -1;
    }
    return GA_OK;
}

/* An undecided edge of the node other than the one by which the walk came; -1 if there is none. */
static int32_t next_edge(const rounding *r, int32_t node, int32_t came_by) {
    for (int32_t i = r->degree[node] - 1; i >= 0; i--) {
        const int32_t slot = r->edge[r->start[node] + i];
        if (slot != came_by) {
            return slot;
        }
    }
    return -1;
}

static int64_t room(const rounding *r, int32_t place, bool upward) {
    const int64_t unit = r->unit[r->path_edge[place]];
    return upward ? ONE - unit : unit;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Shifts edges from … to-1 of the walk alternately until at least one of them is decided. */
static void shift_edges(rounding *r, int32_t from, int32_t to) {
    int64_t up = ONE, down = ONE;
    for (int32_t i = from; i < to; i++) {
        const bool even = (i - from) % 2 == 0;
        up = smaller(up, room(r, i, even));
        down = smaller(down, room(r, i, !even));
    }
    const bool go_up = ga_random_uniform(&r->random) * (double)(up + down) < (double)down;
    const int64_t step = go_up ? up : -down;
    for (int32_t i = from; i < to; i++) {
        r->unit[r->path_edge[i]] += (i - from) % 2 == 0 ? step : -step;
    }
}

/* Shifts, takes decided edges out of the graph, and cuts the walk before the first of them. */
static void settle_edges(rounding *r, int32_t from, int32_t to) {
    int32_t cut = to;
    shift_edges(r, from, to);
    for (int32_t i = to - 1; i >= from; i--) {
        const int64_t unit = r->unit[r->path_edge[i]];
        if (unit == 0 || unit == ONE) {
            remove_edge(r, r->path_edge[i]);
            cut = i;
        }
    }
    for (int32_t i = cut + 1; i <= to; i++) {
        if (r->path_place[r->path_node[i]] == i) {
            r->path_place[r->path_node[i]] = -1;
        }
    }
    r->path_length = cut;
}

/* The walk can't go on at its head: from there it is walked backward, so that both ends are dead ends at
 * last. */
static void reverse_walk(rounding *r) {
    const int32_t length = r->path_length;
    for (int32_t i = 0; i < (length + 1) / 2; i++) {
        const int32_t node = r->path_node[i];
        r->path_node[i] = r->path_node[length - i];
        r->path_node[length - i] = node;
    }
    for (int32_t i = 0; i < length / 2; i++) {
        const int32_t slot = r->path_edge[i];
        r->path_edge[i] = r->path_edge[length - 1 - i];
        r->path_edge[length - 1 - i] = slot;
    }
    for (int32_t i = 0; i <= length; i++) {
        r->path_place[r->path_node[i]] = i;
    }
    r->path_starts_end = true;
}

/* Goes along an edge; a node that is already on the walk closes a cycle, which is settled at once. */
static void follow_edge(rounding *r, int32_t slot, int32_t node) {
    const int32_t place = r->path_place[node];
    r->path_edge[r->path_length] = slot;
    r->path_length++;
    r->path_node[r->path_length] = node;
    if (place < 0) {
        r->path_place[node] = r->path_length;
    } else {
        settle_edges(r, place, r->path_length);
    }
}

/* Walks from a node until none of the walk's edges is undecided. */
static void round_from(rounding *r, int32_t node) {
    r->path_length = 0;
    r->path_node[0] = node;
    r->path_place[node] = 0;
    r->path_starts_end = false;
    for (;;) {
        const int32_t head = r->path_node[r->path_length];
        const int32_t slot = next_edge(r, head, r->path_length > 0 ? r->path_edge[r->path_length - 1] : -1);
        if (slot >= 0) {
            follow_edge(r, slot, opposite_end(r, slot, head));
        } else if (r->path_length == 0) {
            r->path_place[head] = -1;
            return;
        } else if (r->path_starts_end) {
            settle_edges(r, 0, r->path_length);
        } else {
            reverse_walk(r);
        }
    }
}

ga_status ga_rounding_draw(const ga_grid *grid, const double *inclusion, ga_random random, ga_arena *arena,
    uint8_t *kept_out, ga_error *error) {
    rounding r = {.grid = grid, .random = random};
    if (!take_rounding(arena, grid, &r)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to round %d rows", (int)grid->count);
    }
    GA_TRY(quantise(&r, inclusion, error));
    GA_TRY(build_graph(&r, arena, error));
    for (int32_t node = 0; node < grid->ranks + grid->groups; node++) {
        while (r.degree[node] > 0) {
            round_from(&r, node);
        }
    }
    for (int32_t slot = 0; slot < grid->count; slot++) {
        kept_out[slot] = r.unit[slot] == ONE;
    }
    return GA_OK;
}
