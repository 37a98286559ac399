#include "dist/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/world_table.h"
#include "grpo_accel/base/check.h"

#define DIRECT_RANKS_MAX 64
#define PAUSE_MIN_SECONDS 50e-6
#define PAUSE_MAX_SECONDS 1e-3

ga_wait ga_wait_begin(const ga_clock *clock, double deadline_seconds) {
    const double now_seconds = ga_clock_now(clock);
    return (ga_wait){clock, now_seconds + deadline_seconds, PAUSE_MIN_SECONDS};
}

bool ga_wait_sleep(ga_wait *wait) {
    const double left_seconds = wait->until_seconds - ga_clock_now(wait->clock);
    if (!(left_seconds > 0)) {
        return false;
    }
    const double pause_seconds = wait->pause_seconds < left_seconds ? wait->pause_seconds : left_seconds;
    wait->clock->sleep_seconds(wait->clock->user, pause_seconds);
    wait->pause_seconds =
        wait->pause_seconds * 1.5 < PAUSE_MAX_SECONDS ? wait->pause_seconds * 1.5 : PAUSE_MAX_SECONDS;
    return true;
}

/* One group up to `direct_ranks_max`, then groups of ⌈√size⌉: 2·√size messages a rank, the fewest with two
 * rounds. */
static int32_t choose_group_ranks(int32_t size, int32_t direct_ranks_max) {
    if (size <= (direct_ranks_max > 0 ? direct_ranks_max : DIRECT_RANKS_MAX)) {
        return size;
    }
    int32_t group_ranks = 1;
    while ((int64_t)group_ranks * group_ranks < size) {
        group_ranks++;
    }
    return group_ranks;
}

static void free_world(ga_world *world) {
    free(world->parcels);
    free(world->lengths);
    free(world->pieces);
    free(world->targets);
    free(world->own);
    free(world);
}

ga_status ga_world_make(const ga_world_table *table, void *state, const ga_launch_place *place,
    const ga_world_options *options, ga_world **world_out, ga_error *error) {
    GA_REQUIRE(error, table->version == GA_WORLD_TABLE_VERSION && place->size > 0);
    ga_world *world = calloc(1, sizeof *world);
    if (world == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a world of %d ranks", place->size);
    }
    const size_t size = ga_size(place->size);
    world->table = table;
    world->state = state;
    world->clock = options->clock != NULL ? options->clock : ga_clock_system();
    world->place = *place;
    world->process = getpid();
    world->group_ranks = choose_group_ranks(place->size, options->direct_ranks_max);
    world->parcels = calloc(size, sizeof *world->parcels);
    world->lengths = calloc(ga_size(world->group_ranks), sizeof *world->lengths);
    world->pieces = calloc(ga_size(world->group_ranks) + 2, sizeof *world->pieces);
    world->targets = calloc(size, sizeof *world->targets);
    if (world->parcels == NULL || world->lengths == NULL || world->pieces == NULL || world->targets == NULL) {
        free_world(world);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a world of %d ranks", place->size);
    }
    *world_out = world;
    return GA_OK;
}

#if !defined(GA_HAVE_MPI)
bool ga_world_mpi_is_up(void) {
    return false;
}

ga_status ga_world_mpi_open(
    const ga_launch_place *place, const ga_world_options *options, ga_world **world_out, ga_error *error) {
    (void)options;
    (void)world_out;
    return GA_FAIL(error, GA_ERR_MISSING,
        "rank %d of %d (%s): this build has no MPI, so the ranks can't agree and nothing is pruned; "
        "install Open MPI's development files and build again with -Dmpi=enabled",
        place->rank, place->size, place->launcher);
}
#endif

/* One rank, or an honest answer for several that nothing connects. */
static ga_status open_without_launcher(
    const ga_launch_place *place, const ga_world_options *options, ga_world **world_out, ga_error *error) {
    if (place->size > 1) {
        return GA_FAIL(error, GA_ERR_MISSING,
            "WORLD_SIZE is %d but no mpirun stands around this process, so the ranks can't agree and nothing "
            "is pruned; start with: mpirun -np %d grpo-accel run …",
            place->size, place->size);
    }
    return ga_world_solo_open(place, options, world_out, error);
}

ga_status ga_world_open(const ga_world_options *options, ga_world **world_out, ga_error *error) {
    static const ga_world_options defaults = {.transport = GA_TRANSPORT_AUTO};
    const ga_world_options *chosen = options != NULL ? options : &defaults;
    ga_launch_place place;
    GA_TRY(ga_launch_read(NULL, &place, error));
    switch (chosen->transport) {
    case GA_TRANSPORT_AUTO:
    case GA_TRANSPORT_MPI:
        if (ga_world_mpi_is_up() || (place.mpi && place.size > 1)) {
            return ga_world_mpi_open(&place, chosen, world_out, error);
        }
        return open_without_launcher(&place, chosen, world_out, error);
    case GA_TRANSPORT_LOCAL: return ga_world_solo_open(&place, chosen, world_out, error);
    case GA_TRANSPORT_NCCL:
    case GA_TRANSPORT_TORCH:
        return GA_FAIL(error, GA_ERR_MISSING,
            "distributed.transport: %s is not in this version; use auto, mpi or local",
            chosen->transport == GA_TRANSPORT_NCCL ? "nccl" : "torch");
    }
    return GA_FAIL(error, GA_ERR_ARGUMENT, "unknown transport %d", (int)chosen->transport);
}

/* Everybody here, and everything sent: then older messages have been taken from the transport on all ranks.
 */
static ga_status settle(ga_world *world, double deadline_seconds, ga_error *error) {
    bool agree = false;
    ga_wait wait = ga_wait_begin(world->clock, deadline_seconds);
    GA_TRY(ga_world_agree(world, UINT64_C(0x636c6f7365), deadline_seconds, &agree, NULL, error));
    bool done = false;
    GA_TRY(world->table->flush(world->state, 0, &done, error));
    while (!done && ga_wait_sleep(&wait)) {
        GA_TRY(world->table->flush(world->state, 0, &done, error));
    }
    return done ? GA_OK : GA_FAIL(error, GA_ERR_LATE, "close: a rank did not take its last message");
}

ga_status ga_world_close(ga_world **world, double deadline_seconds, ga_error *error) {
    if (*world == NULL) {
        return GA_OK;
    }
    if ((*world)->process != getpid()) {
        ga_world_abandon(world);
        return GA_FAIL(error, GA_ERR_WORLD, "a forked child can't close its parent's world");
    }
    const ga_status settled = settle(*world, deadline_seconds, error);
    const ga_status closed = (*world)->table->close((*world)->state, settled == GA_OK, error);
    free_world(*world);
    *world = NULL;
    return settled != GA_OK ? settled : closed;
}

void ga_world_abandon(ga_world **world) {
    if (*world == NULL) {
        return;
    }
    (*world)->table->abandon((*world)->state, (*world)->process != getpid());
    free_world(*world);
    *world = NULL;
}

int32_t ga_world_rank(const ga_world *world) {
    return world->place.rank;
}

int32_t ga_world_size(const ga_world *world) {
    return world->place.size;
}

int32_t ga_world_local_rank(const ga_world *world) {
    return world->place.local_rank;
}

const char *ga_world_transport_name(const ga_world *world) {
    return world->table->name;
}

const ga_clock *ga_world_clock(const ga_world *world) {
    return world->clock;
}

void ga_world_skip(ga_world *world) {
    world->sequence++;
}

static size_t append(char *text, size_t bytes, size_t used, const char *words) {
    const int written = used < bytes ? snprintf(text + used, bytes - used, "%s", words) : 0;
    return used + (written > 0 ? (size_t)written : 0);
}

void ga_late_words(const ga_late *late, char *text, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    text[0] = '\0';
    const int32_t shown = late->count < GA_LATE_RANKS_MAX ? late->count : GA_LATE_RANKS_MAX;
    size_t used = append(text, bytes, 0, late->exact ? "" : "some of ");
    used = append(text, bytes, used, late->count == 1 ? "rank " : "ranks ");
    for (int32_t i = 0; i < shown; i++) {
        char number[32];
        const bool last = i + 1 == late->count;
        (void)snprintf(number, sizeof number, "%s%d", i == 0 ? "" : last ? " and " : ", ", late->ranks[i]);
        used = append(text, bytes, used, number);
    }
    if (late->count > shown) {
        char rest[48];
        (void)snprintf(rest, sizeof rest, ", … (%d ranks)", late->count);
        (void)append(text, bytes, used, rest);
    }
}
