#include "grpo_accel/select/grid.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"

typedef struct keyed_slot {
    uint64_t key;
    int32_t slot;
} keyed_slot;

static int compare_keyed(const void *left, const void *right) {
    const keyed_slot *a = left;
    const keyed_slot *b = right;
    if (a->key != b->key) {
        return a->key < b->key ? -1 : 1;
    }
    return (a->slot > b->slot) - (a->slot < b->slot);
}

typedef struct columns {
    int32_t *slot_of_input;
    int32_t *group;
    double *mean;
    double *variance;
    uint64_t *group_key;
    int32_t *member_start;
    int32_t *member;
    keyed_slot *keyed;
    uint8_t *seen;
} columns;

static bool take_columns(ga_arena *arena, size_t count, columns *c) {
    c->slot_of_input = ga_arena_take(arena, count, sizeof *c->slot_of_input);
    c->group = ga_arena_take(arena, count, sizeof *c->group);
    c->mean = ga_arena_take(arena, count, sizeof *c->mean);
    c->variance = ga_arena_take(arena, count, sizeof *c->variance);
    c->group_key = ga_arena_take(arena, count, sizeof *c->group_key);
    c->member_start = ga_arena_take(arena, count + 1, sizeof *c->member_start);
    c->member = ga_arena_take(arena, count, sizeof *c->member);
    c->keyed = ga_arena_take(arena, count, sizeof *c->keyed);
    c->seen = ga_arena_take(arena, count, sizeof *c->seen);
    return c->slot_of_input != NULL && c->group != NULL && c->mean != NULL && c->variance != NULL &&
           c->group_key != NULL && c->member_start != NULL && c->member != NULL && c->keyed != NULL &&
           c->seen != NULL;
}

static ga_status place_rows(
    const ga_candidate *candidates, int32_t count, int32_t ranks, columns *c, ga_error *error) {
    const int32_t rows_per_rank = count / ranks;
    for (int32_t i = 0; i < count; i++) {
        const ga_candidate *row = &candidates[i];
        if (row->rank < 0 || row->rank >= ranks || row->index < 0 || row->index >= rows_per_rank) {
            return GA_FAIL(error, GA_ERR_DATA,
                "rank %d row %d is outside of %d ranks × %d rows: every rank needs the same number of rows",
                (int)row->rank, (int)row->index, (int)ranks, (int)rows_per_rank);
        }
        const int32_t slot = row->rank * rows_per_rank + row->index;
        if (c->seen[slot]) {
            return GA_FAIL(
                error, GA_ERR_DATA, "rank %d row %d is there twice", (int)row->rank, (int)row->index);
        }
        const bool scored = isfinite(row->mean) && isfinite(row->variance) && row->variance >= 0;
        c->seen[slot] = 1;
        c->slot_of_input[i] = slot;
        c->mean[slot] = scored ? (double)row->mean : (double)NAN;
        c->variance[slot] = scored ? (double)row->variance : 0;
        c->keyed[slot] = (keyed_slot){row->group, slot};
    }
    return GA_OK;
}

/* Numbers the groups by ascending key; returns how many. */
static int32_t number_groups(int32_t count, columns *c) {
    qsort(c->keyed, ga_size(count), sizeof *c->keyed, compare_keyed);
    int32_t groups = 0;
    for (int32_t i = 0; i < count; i++) {
        if (i == 0 || c->keyed[i].key != c->keyed[i - 1].key) {
            c->group_key[groups] = c->keyed[i].key;
            c->member_start[groups] = i;
            groups++;
        }
        c->member[i] = c->keyed[i].slot;
        c->group[c->keyed[i].slot] = groups - 1;
    }
    c->member_start[groups] = count;
    return groups;
}

ga_status ga_grid_make(const ga_candidate *candidates, int32_t count, int32_t ranks, ga_arena *arena,
    ga_grid *grid_out, ga_error *error) {
    if (candidates == NULL || arena == NULL || grid_out == NULL || ranks < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "plan without candidates or with %d ranks", (int)ranks);
    }
    if (count < ranks || count % ranks != 0) {
        return GA_FAIL(error, GA_ERR_DATA,
            "%d rows can't be the same number on each of %d ranks: every rank needs equal batches",
            (int)count, (int)ranks);
    }
    columns c = {0};
    if (!take_columns(arena, ga_size(count), &c)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a plan of %d rows", (int)count);
    }
    GA_TRY(place_rows(candidates, count, ranks, &c, error));
    *grid_out = (ga_grid){
        .count = count,
        .ranks = ranks,
        .rows_per_rank = count / ranks,
        .groups = number_groups(count, &c),
        .slot_of_input = c.slot_of_input,
        .group = c.group,
        .mean = c.mean,
        .variance = c.variance,
        .group_key = c.group_key,
        .member_start = c.member_start,
        .member = c.member,
    };
    return GA_OK;
}
