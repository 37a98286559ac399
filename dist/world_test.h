/*
 * A scripted world for tests: every rank is a thread of this process, time is made up, and messages are
 * delayed, lost or altered as the script says. The code under test is the same as over MPI but for the
 * transport.
 *
 * Time stands still while any rank runs and jumps to the next wake-up when all of them sleep on their world's
 * clock; so a test of a deadline of minutes takes microseconds and ends the same way each time.
 */
#ifndef GA_DIST_WORLD_TEST_H
#define GA_DIST_WORLD_TEST_H

#include <stdint.h>

#include "dist/world.h"

typedef struct ga_world_script {
    int32_t size;
    int32_t direct_ranks_max; /* as in ga_world_options */
    /* Seconds from `from` to `to` for the message of collective `number` (1, 2, …); negative: it is lost.
     * NULL: 1 µs. Called with the world locked: no calls into the world. */
    double (*delay_seconds)(void *user, int32_t from, int32_t to, uint64_t number);
    /* May change the bytes of a message on its way; the first 16 are the world's frame. NULL: nothing. */
    void (*alter)(void *user, int32_t from, int32_t to, uint64_t number, void *data, size_t bytes);
    void *user;
} ga_world_script;

/*
 * Runs rank_main once per rank, each in a thread of its own with a world of its own. rank_main may close the
 * world or hand it on, and then sets *world to NULL; otherwise it is let go of. Returns when all have
 * returned. The world's clock (ga_world_clock) is the made-up one: sleep on it to be late.
 */
ga_status ga_world_script_run(const ga_world_script *script, void (*rank_main)(ga_world **world, void *user),
    void *user, ga_error *error);

#endif
