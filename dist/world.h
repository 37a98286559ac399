/*
 * The ranks of a job as one object: all-gather, broadcast and agreement, each with a deadline.
 *
 * No call waits longer than its deadline for a peer, and none spins: waiting is polling with a back-off of
 * 50 µs to 1 ms. After a deadline the world stays usable: every collective has a number, messages carry it,
 * and what arrives for a number that was given up is thrown away. The rule for callers is only this: every
 * rank makes the same calls in the same order, each once, whatever the earlier ones returned.
 *
 * How a gather works. Up to `direct_ranks_max` ranks, each rank sends its parcel to every other one, so a
 * rank that is waiting knows exactly whose parcel is missing. Beyond that the ranks form groups of about
 * √size: a parcel goes round its group, then each rank sends its group's bundle to one rank of every other
 * group, so a rank sends about 2·√size messages; missing ranks outside the own group are then known by group
 * only. Parcels are messages and not an MPI collective because a collective can neither say who is missing
 * nor carry parcels of different lengths, and a difference in length is one of the mistakes to be reported.
 *
 * A world belongs to one thread at a time. It is dead in forked children: calls there return GA_ERR_WORLD
 * and touch nothing.
 */
#ifndef GA_DIST_WORLD_H
#define GA_DIST_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/status.h"

typedef struct ga_world ga_world;

typedef enum ga_transport {
    GA_TRANSPORT_AUTO = 0,  /* MPI where a launcher started more than one process, else local */
    GA_TRANSPORT_MPI = 1,   /* host memory, own communicator */
    GA_TRANSPORT_NCCL = 2,  /* not in this version: GA_ERR_MISSING */
    GA_TRANSPORT_TORCH = 3, /* not in this version: GA_ERR_MISSING */
    GA_TRANSPORT_LOCAL = 4  /* this process alone, whatever the launcher says */
} ga_transport;

typedef struct ga_world_options {
    ga_transport transport;
    const ga_clock *clock;        /* borrowed for the life of the world; NULL: the system's */
    int32_t direct_ranks_max;     /* largest world, and largest group, without bundles; 0: 64 */
    double open_deadline_seconds; /* for making the communicator, after MPI itself is up; 0: 120 */
} ga_world_options;

#define GA_LATE_RANKS_MAX 16

/* Who did not answer. */
typedef struct ga_late {
    int32_t count;                    /* ranks whose parcels are missing; 0: nobody is late */
    bool exact;                       /* false: only that some of these `count` ranks are missing */
    int32_t ranks[GA_LATE_RANKS_MAX]; /* the first of them, ascending */
} ga_late;

/* What one rank sent: a view of the world's memory, valid until the next collective call. */
typedef struct ga_parcel {
    const void *data;
    size_t bytes;
} ga_parcel;

/*
 * Joins the job's ranks. Collective for MPI.
 * A process that no launcher started, or alone in its job, gets a world of one and MPI is never initialised.
 * GA_ERR_MISSING: several processes, but no transport between them (build without MPI, torchrun without
 * mpirun); GA_ERR_CONFIG: the launchers' variables contradict each other; GA_ERR_LATE; GA_ERR_WORLD.
 * MPI_Init itself, where nobody called it before, waits for all ranks without a deadline.
 */
ga_status ga_world_open(const ga_world_options *options, ga_world **world_out, ga_error *error);

/*
 * Ends the world on the success path: waits up to the deadline for all ranks to be here and for what is still
 * on its way, finalizes MPI if it was initialised by ga_world_open, frees everything and sets *world to NULL,
 * also where it returns an error. Collective. NULL is allowed.
 * A process that leaves with exit code 0 without this makes mpirun end the job, so a host script that
 * succeeded comes here even after errors of ours.
 */
ga_status ga_world_close(ga_world **world, double deadline_seconds, ga_error *error);

/*
 * Lets go of the world while an error is ending the process: frees what no pending message needs, does not
 * finalize, so that mpirun sees the failed process and ends the job. Not collective. NULL is allowed.
 */
void ga_world_abandon(ga_world **world);

int32_t ga_world_rank(const ga_world *world);
int32_t ga_world_size(const ga_world *world);
int32_t ga_world_local_rank(const ga_world *world); /* on its machine */
const char *ga_world_transport_name(const ga_world *world);
const ga_clock *ga_world_clock(const ga_world *world);

/*
 * Everybody's parcel to everybody; lengths may differ. parcels_out: one per rank, own included, in rank
 * order; array and data belong to the world and are valid until its next collective call. Collective.
 * GA_ERR_LATE: see *late_out; the parcels that did arrive are not handed out, so that no rank acts on less
 * than all. A rank that was itself late may succeed where its peers have given up. GA_ERR_MISMATCH: a rank
 * makes another kind of call. late_out may be NULL; it is always written.
 */
ga_status ga_world_collect(ga_world *world, const void *send, size_t bytes, double deadline_seconds,
    const ga_parcel **parcels_out, ga_late *late_out, ga_error *error);

/*
 * All-gather of equal lengths: recv (size · bytes, rank order) is written on success only.
 * Collective. GA_ERR_MISMATCH, the same on every rank, where lengths differ; else as ga_world_collect.
 */
ga_status ga_world_gather(ga_world *world, const void *send, size_t bytes, void *recv,
    double deadline_seconds, ga_late *late_out, ga_error *error);

/*
 * Copies `bytes` bytes of `data` from rank 0 to every rank, down a binomial tree; written on success only.
 * Collective. A rank that has the data waits, within the deadline, until long messages to the ranks
 * below are taken, and succeeds anyhow. GA_ERR_LATE names the rank above in
 * the tree; GA_ERR_MISMATCH where lengths differ.
 */
ga_status ga_world_broadcast(
    ga_world *world, void *data, size_t bytes, double deadline_seconds, ga_late *late_out, ga_error *error);

/* Do all ranks hold the same value? Collective; the same answer on every rank that gets one. */
ga_status ga_world_agree(ga_world *world, uint64_t value, double deadline_seconds, bool *agree_out,
    ga_late *late_out, ga_error *error);

/*
 * Counts a collective in which this rank can't take part, so that it stays in step with the others: they get
 * GA_ERR_LATE for it. Not collective, no message.
 */
void ga_world_skip(ga_world *world);

/* "rank 3", "ranks 1, 4 and 7", "some of ranks 8, 9, … (64 ranks)" into text; at most `bytes` with its end.
 */
void ga_late_words(const ga_late *late, char *text, size_t bytes);

#endif
