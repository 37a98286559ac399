/*
 * The candidates of a batch as a grid of ranks × rows, whatever the order in which they arrived.
 *
 * A row's slot is rank * rows_per_rank + index; groups are numbered by ascending key. Everything in this room
 * works on slots, so that a plan can't depend on the order of arrival.
 */
#ifndef GA_SELECT_GRID_H
#define GA_SELECT_GRID_H

#include <stdint.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

typedef struct ga_grid {
    int32_t count; /* ranks * rows_per_rank */
    int32_t ranks;
    int32_t rows_per_rank;
    int32_t groups;
    const int32_t *slot_of_input; /* [count] slot of the candidate at that place of the input */
    const int32_t *group;         /* [count] by slot */
    const double *mean;           /* [count] by slot; NaN: not scored */
    const double *variance;       /* [count] by slot; 0 where not scored */
    const uint64_t *group_key;    /* [groups] ascending */
    const int32_t *member_start;  /* [groups + 1] into member */
    const int32_t *member;        /* [count] slots, by group, then ascending */
} ga_grid;

static inline int32_t ga_grid_rank(const ga_grid *grid, int32_t slot) {
    return slot / grid->rows_per_rank;
}

static inline int32_t ga_grid_group_size(const ga_grid *grid, int32_t group) {
    return grid->member_start[group + 1] - grid->member_start[group];
}

/*
 * Arranges candidates[count]. Every rank 0 … ranks-1 must have the same number of rows B ≥ 1 with indices
 * 0 … B-1. A mean that is not finite, or a variance that is negative or not finite, makes a row "not scored".
 * Arrays belong to the arena. GA_ERR_ARGUMENT, GA_ERR_DATA (names the rank and row), GA_ERR_MEMORY.
 */
ga_status ga_grid_make(const ga_candidate *candidates, int32_t count, int32_t ranks, ga_arena *arena,
    ga_grid *grid_out, ga_error *error);

#endif
