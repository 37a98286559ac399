/*
 * The rows of a table in order: batches, their groups, and a place for each row on the ranks.
 */
#ifndef GA_WHATIF_FRAME_H
#define GA_WHATIF_FRAME_H

#include "grpo_accel/whatif/table.h"

/*
 * A row's place is its position by (batch, group, position in the table). Owned; freed with ga_frame_free.
 * The table is the caller's and must outlive it.
 */
typedef struct ga_frame {
    const ga_whatif_table *table;
    int32_t count;        /* places = rows */
    int32_t *row;         /* [count] the table's row */
    int32_t batch_count;  /* by ascending key */
    int32_t *batch_start; /* [batch_count + 1] places */
    int32_t *group_first; /* [batch_count + 1] its groups */
    int32_t group_count;
    int32_t *group_start; /* [group_count + 1] places */
    int32_t *group;       /* [count] group of each place */
} ga_frame;

/* GA_ERR_ARGUMENT, GA_ERR_MEMORY. */
ga_status ga_frame_make(const ga_whatif_table *table, ga_frame *frame_out, ga_error *error);
void ga_frame_free(ga_frame *frame);

/* Who stands where in a batch. Arrays have one entry a place of the batch. */
typedef struct ga_dealt {
    int32_t ranks;
    int32_t rows_per_rank; /* B */
    int32_t left_out;      /* rows that no rank got */
    int32_t *rank;         /* −1: left out */
    int32_t *index;
} ga_dealt;

/*
 * Places the rows of one batch on ranks; the caller gives rank and index arrays of the batch's size.
 *
 * With a rank column (and not `deal`): as the table says. A rank's rows stand in the table's order; rows
 * beyond the smallest number that a rank of the batch has are left out, because a batch has as many rows on
 * every rank. Otherwise rows are dealt by chance, keyed by (seed, batch): B = rows/ranks rounded down, what
 * is over is left out; a batch of fewer rows than ranks stands on as many ranks as it has rows.
 *
 * GA_ERR_DATA: more than `ranks` different ranks (ranks 0: any number). GA_ERR_MEMORY.
 */
ga_status ga_frame_deal(const ga_frame *frame, int32_t batch, int32_t ranks, bool deal, uint64_t seed,
    ga_dealt *dealt, ga_error *error);

/* The most ranks, and the most rows a rank (B), that a batch of the frame has. Errors as ga_frame_deal. */
ga_status ga_frame_layout(const ga_frame *frame, int32_t ranks, bool deal, int32_t *ranks_out,
    int32_t *rows_per_rank_out, ga_error *error);

#endif
