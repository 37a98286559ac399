/*
 * What a transport gives to a world: ordered messages between two ranks, nothing that waits.
 *
 * Seen by dist/ only. Between two ranks messages arrive in the order in which they were posted. All functions
 * are called by one thread; none may block.
 */
#ifndef GA_DIST_WORLD_TABLE_H
#define GA_DIST_WORLD_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "dist/launch.h"
#include "dist/world.h"

#define GA_WORLD_TABLE_VERSION 1u

typedef struct ga_world_table {
    uint32_t version; /* GA_WORLD_TABLE_VERSION */
    const char *name;
    /* Copies the pieces, one after the other, into a message of its own and starts sending it to `ranks`. */
    ga_status (*post)(void *state, const int32_t *ranks, int32_t rank_count, const ga_parcel *pieces,
        int32_t piece_count, ga_error *error);
    /* The oldest message from `rank` that was not dropped; data NULL: not here yet. Valid until dropped. */
    ga_status (*peek)(void *state, int32_t rank, ga_parcel *message_out, ga_error *error);
    /* Done with the message that peek showed. */
    void (*drop)(void *state, int32_t rank);
    /* Goes on with sends; *done_out: no message of collective number `since` or later is under way any more.
     */
    ga_status (*flush)(void *state, uint64_t since, bool *done_out, ga_error *error);
    /* Ends the transport on all ranks and frees it. `quiet`: no message is under way on any rank. */
    ga_status (*close)(void *state, bool quiet, ga_error *error);
    /* Frees what no pending message needs. `child`: in a forked child, where the library must not be called.
     */
    void (*abandon)(void *state, bool child);
} ga_world_table;

/* Beginning of each message. */
typedef struct ga_frame {
    uint64_t sequence; /* number of the collective */
    uint32_t kind;     /* ga_frame_kind */
    uint32_t parcels;  /* GA_FRAME_BUNDLE: how many lengths, then parcels, follow; else 1 */
} ga_frame;

typedef enum ga_frame_kind {
    GA_FRAME_PARCEL = 0x67613031,
    GA_FRAME_BUNDLE = 0x67613032,
    GA_FRAME_BROADCAST = 0x67613033
} ga_frame_kind;

struct ga_world {
    const ga_world_table *table;
    void *state;
    const ga_clock *clock;
    ga_launch_place place;
    pid_t process;
    int32_t group_ranks; /* ranks in a group, the last group may have fewer; = size: one group */
    uint64_t sequence;   /* of the newest collective */
    ga_parcel *parcels;  /* [size] of the newest gather; data NULL: not here */
    uint64_t *lengths;   /* [group_ranks] lengths of a bundle's parcels */
    ga_parcel *pieces;   /* [group_ranks + 2] of a message to be posted */
    int32_t *targets;    /* [size] */
    void *own;           /* copy of the own parcel, so that every parcel lives equally long */
    size_t own_bytes;    /* capacity of `own` */
};

/* A world over a transport; takes `state` over on success only. rank and size are those of `place`. */
ga_status ga_world_make(const ga_world_table *table, void *state, const ga_launch_place *place,
    const ga_world_options *options, ga_world **world_out, ga_error *error);

/* A world of this process alone. */
ga_status ga_world_solo_open(
    const ga_launch_place *place, const ga_world_options *options, ga_world **world_out, ga_error *error);

/* Over MPI, see world_mpi.c. */
ga_status ga_world_mpi_open(
    const ga_launch_place *place, const ga_world_options *options, ga_world **world_out, ga_error *error);

/* Is MPI up already because the host (mpi4py) initialised it? */
bool ga_world_mpi_is_up(void);

/* Polling with back-off: begin, then _sleep until it says that the deadline has passed. */
typedef struct ga_wait {
    const ga_clock *clock;
    double until_seconds;
    double pause_seconds;
} ga_wait;
ga_wait ga_wait_begin(const ga_clock *clock, double deadline_seconds);
/* Sleeps 50 µs, later up to 1 ms, never past the deadline; false, without sleeping, when it has passed. */
bool ga_wait_sleep(ga_wait *wait);

#endif
