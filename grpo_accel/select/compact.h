/*
 * A plan as index lists for one rank's tensors: which rows go on, and where each row went.
 */
#ifndef GA_SELECT_COMPACT_H
#define GA_SELECT_COMPACT_H

#include "grpo_accel/select/plan.h"

/* Arrays belong to the arena. */
typedef struct ga_compact {
    int32_t rows; /* of the full batch */
    int32_t kept; /* of the compact batch */
    const int32_t
        *gather; /* [kept] row of the full batch that stands at each place of the compact one; ascending */
    const int32_t *scatter; /* [rows] place of each row in the compact batch; -1: pruned */
} ga_compact;

/*
 * The lists of `rank`. candidates: those that the plan was made from, in the same order.
 * GA_ERR_ARGUMENT, GA_ERR_DATA (the plan's rows of this rank don't match), GA_ERR_MEMORY.
 */
ga_status ga_compact_make(const ga_candidate *candidates, const ga_plan *plan, int32_t rank, ga_arena *arena,
    ga_compact *compact_out, ga_error *error);

/*
 * The same for a batch that holds `copies` of all rows one after the other, as guidance does with its
 * conditional and unconditional half, whichever comes first: row i of copy k is k * rows + i.
 * GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_compact_repeat(
    const ga_compact *compact, int32_t copies, ga_arena *arena, ga_compact *repeated_out, ga_error *error);

#endif
