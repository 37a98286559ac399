/* train under mpirun: the ranks as a sum of arrays, with a deadline. */
#ifndef GA_COMMAND_TRAIN_RANKS_H
#define GA_COMMAND_TRAIN_RANKS_H

#include "dist/world.h"
#include "probe/grouped.h"

/* The user of the sum. */
typedef struct ga_train_ranks {
    ga_world *world;
    double timeout_seconds;
} ga_train_ranks;

/*
 * Joins the ranks of the job; alone, a world of one. Collective. Errors of ga_world_open. Ended with
 * ga_train_ranks_end.
 */
ga_status ga_train_ranks_begin(double timeout_seconds, ga_train_ranks *ranks_out, ga_error *error);

/* Sums over `ranks`, which must outlive it; without `sum` where there is one rank. */
ga_reduce ga_train_ranks_reduce(ga_train_ranks *ranks);

/* GA_ERR_MISMATCH on every rank unless all have the same value: `what` says of what. Collective. */
ga_status ga_train_ranks_agree(ga_train_ranks *ranks, uint64_t value, const char *what, ga_error *error);

/* After success waits for the others; after an error leaves at once, so that mpirun ends the rest. */
ga_status ga_train_ranks_end(ga_train_ranks *ranks, bool success, ga_error *error);

#endif
