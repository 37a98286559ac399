/* The collectives of a world, from ordered messages between two ranks. See world.h for the scheme. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/world_table.h"
#include "grpo_accel/base/check.h"

/* First rank of a group, and how many ranks it has. */
static int32_t group_first(const ga_world *world, int32_t group) {
    return group * world->group_ranks;
}

static int32_t group_count(const ga_world *world) {
    return (world->place.size + world->group_ranks - 1) / world->group_ranks;
}

static int32_t group_size(const ga_world *world, int32_t group) {
    const int32_t left = world->place.size - group_first(world, group);
    return left < world->group_ranks ? left : world->group_ranks;
}

static int32_t own_group(const ga_world *world) {
    return world->place.rank / world->group_ranks;
}

/* Who sends the bundle of `group` to this rank: the rank at the same place, wrapped in a short last group. */
static int32_t bundle_sender(const ga_world *world, int32_t group, int32_t receiver) {
    return group_first(world, group) + receiver % world->group_ranks % group_size(world, group);
}

/* What a look at a peer's oldest message says. */
typedef enum sight { SIGHT_NOTHING, SIGHT_HERE, SIGHT_GAVE_UP } sight;

static const char *kind_words(uint32_t kind) {
    switch (kind) {
    case GA_FRAME_PARCEL:
    case GA_FRAME_BUNDLE: return "a gather";
    case GA_FRAME_BROADCAST: return "a broadcast";
    default: return "something unknown";
    }
}

static ga_status check_frame(
    const ga_parcel *message, const ga_frame *frame, uint32_t kind, int32_t rank, ga_error *error) {
    if (frame->kind != kind) {
        return GA_FAIL(error, GA_ERR_MISMATCH,
            "rank %d does %s as collective %llu where this rank does %s (message of %zu bytes); do all ranks "
            "run the same version and the same calls?",
            rank, kind_words(frame->kind), (unsigned long long)frame->sequence, kind_words(kind),
            message->bytes);
    }
    return GA_OK;
}

/*
 * Looks for the message of the newest collective from `rank`, throwing older ones away. A newer one means
 * that the peer has given this collective up; it stays for the call that wants it.
 */
static ga_status look(ga_world *world, int32_t rank, uint32_t kind, sight *sight_out, ga_frame *frame_out,
    ga_parcel *content_out, ga_error *error) {
    for (;;) {
        ga_parcel message = {NULL, 0};
        GA_TRY(world->table->peek(world->state, rank, &message, error));
        if (message.data == NULL) {
            *sight_out = SIGHT_NOTHING;
            return GA_OK;
        }
        if (message.bytes < sizeof *frame_out) {
            return GA_FAIL(error, GA_ERR_WORLD, "rank %d sent %zu bytes that are no message of ours", rank,
                message.bytes);
        }
        memcpy(frame_out, message.data, sizeof *frame_out);
        if (frame_out->sequence < world->sequence) {
            world->table->drop(world->state, rank);
            continue;
        }
        if (frame_out->sequence > world->sequence) {
            *sight_out = SIGHT_GAVE_UP;
            return GA_OK;
        }
        GA_TRY(check_frame(&message, frame_out, kind, rank, error));
        *sight_out = SIGHT_HERE;
        content_out->data = (const char *)message.data + sizeof *frame_out;
        content_out->bytes = message.bytes - sizeof *frame_out;
        return GA_OK;
    }
}

/* Cuts a bundle into the parcels of its group. */
static ga_status open_bundle(ga_world *world, int32_t group, int32_t sender, const ga_frame *frame,
    const ga_parcel *bundle, ga_error *error) {
    const int32_t first = group_first(world, group), count = group_size(world, group);
    const size_t head_bytes = ga_size(count) * sizeof(uint64_t);
    size_t used_bytes = head_bytes;
    bool fits = frame->parcels == (uint32_t)count && bundle->bytes >= head_bytes;
    for (int32_t i = 0; fits && i < count; i++) {
        uint64_t bytes;
        memcpy(&bytes, (const char *)bundle->data + ga_size(i) * sizeof bytes, sizeof bytes);
        fits = bytes <= bundle->bytes - used_bytes;
        if (fits) {
            world->parcels[first + i] = (ga_parcel){(const char *)bundle->data + used_bytes, (size_t)bytes};
            used_bytes += (size_t)bytes;
        }
    }
    if (!fits || used_bytes != bundle->bytes) {
        return GA_FAIL(
            error, GA_ERR_WORLD, "rank %d sent a damaged bundle of %zu bytes", sender, bundle->bytes);
    }
    return GA_OK;
}

/* Looks once at every member of the own group that is missing. */
static ga_status look_in_group(ga_world *world, int32_t *missing_out, bool *gave_up_out, ga_error *error) {
    const int32_t first = group_first(world, own_group(world));
    int32_t missing = 0;
    for (int32_t rank = first; rank < first + group_size(world, own_group(world)); rank++) {
        if (world->parcels[rank].data != NULL) {
            continue;
        }
        ga_frame frame;
        sight seen = SIGHT_NOTHING;
        GA_TRY(look(world, rank, GA_FRAME_PARCEL, &seen, &frame, &world->parcels[rank], error));
        missing += seen != SIGHT_HERE;
        *gave_up_out = *gave_up_out || seen == SIGHT_GAVE_UP;
    }
    *missing_out = missing;
    return GA_OK;
}

/* Looks once for the bundle of every other group that is missing. */
static ga_status look_in_bundles(ga_world *world, int32_t *missing_out, bool *gave_up_out, ga_error *error) {
    int32_t missing = 0;
    for (int32_t group = 0; group < group_count(world); group++) {
        if (group == own_group(world) || world->parcels[group_first(world, group)].data != NULL) {
            continue;
        }
        ga_frame frame;
        ga_parcel bundle = {NULL, 0};
        sight seen = SIGHT_NOTHING;
        const int32_t sender = bundle_sender(world, group, world->place.rank);
        GA_TRY(look(world, sender, GA_FRAME_BUNDLE, &seen, &frame, &bundle, error));
        if (seen == SIGHT_HERE) {
            GA_TRY(open_bundle(world, group, sender, &frame, &bundle, error));
        }
        missing += seen != SIGHT_HERE;
        *gave_up_out = *gave_up_out || seen == SIGHT_GAVE_UP;
    }
    *missing_out = missing;
    return GA_OK;
}

static ga_status post_parcel(ga_world *world, const ga_parcel *parcel, ga_error *error) {
    const ga_frame frame = {world->sequence, GA_FRAME_PARCEL, 1};
    const ga_parcel pieces[2] = {{&frame, sizeof frame}, *parcel};
    const int32_t first = group_first(world, own_group(world));
    int32_t target_count = 0;
    for (int32_t rank = first; rank < first + group_size(world, own_group(world)); rank++) {
        if (rank != world->place.rank) {
            world->targets[target_count++] = rank;
        }
    }
    return world->table->post(world->state, world->targets, target_count, pieces, 2, error);
}

/* Sends the parcels of the own group to the ranks of other groups that expect them from this rank. */
static ga_status post_bundle(ga_world *world, ga_error *error) {
    const int32_t first = group_first(world, own_group(world)), count = group_size(world, own_group(world));
    const ga_frame frame = {world->sequence, GA_FRAME_BUNDLE, (uint32_t)count};
    world->pieces[0] = (ga_parcel){&frame, sizeof frame};
    world->pieces[1] = (ga_parcel){world->lengths, ga_size(count) * sizeof *world->lengths};
    for (int32_t i = 0; i < count; i++) {
        world->lengths[i] = world->parcels[first + i].bytes;
        world->pieces[i + 2] = world->parcels[first + i];
    }
    int32_t target_count = 0;
    for (int32_t rank = 0; rank < world->place.size; rank++) {
        if (rank / world->group_ranks != own_group(world) &&
            bundle_sender(world, own_group(world), rank) == world->place.rank) {
            world->targets[target_count++] = rank;
        }
    }
    return world->table->post(world->state, world->targets, target_count, world->pieces, count + 2, error);
}

static void add_late(ga_late *late, int32_t rank) {
    if (late->count < GA_LATE_RANKS_MAX) {
        late->ranks[late->count] = rank;
    }
    late->count++;
}

/* Names those whose parcels are not here. In the own group that is exact; of other groups only that someone
 * there is missing, so they are named only where nobody of the own group is. */
static ga_late find_late(const ga_world *world) {
    ga_late late = {.exact = true};
    const int32_t first = group_first(world, own_group(world));
    for (int32_t rank = first; rank < first + group_size(world, own_group(world)); rank++) {
        if (world->parcels[rank].data == NULL) {
            add_late(&late, rank);
        }
    }
    if (late.count > 0) {
        return late;
    }
    for (int32_t rank = 0; rank < world->place.size; rank++) {
        if (world->parcels[rank].data == NULL) {
            late.exact = false;
            add_late(&late, rank);
        }
    }
    return late;
}

static ga_status fail_late(
    const ga_world *world, const ga_late *late, double deadline_seconds, ga_error *error) {
    char words[160];
    ga_late_words(late, words, sizeof words);
    return GA_FAIL(error, GA_ERR_LATE, "rank %d: no answer from %s within %g s (collective %llu)",
        world->place.rank, words, deadline_seconds, (unsigned long long)world->sequence);
}

typedef ga_status (*look_function)(ga_world *world, int32_t *missing_out, bool *gave_up_out, ga_error *error);

/* Polls until nothing is missing, a peer has given up, or the deadline passes; *complete_out says which. */
static ga_status wait_for(
    ga_world *world, look_function look_once, ga_wait *wait, bool *complete_out, ga_error *error) {
    for (;;) {
        int32_t missing = 0;
        bool gave_up = false, sent = false;
        GA_TRY(look_once(world, &missing, &gave_up, error));
        GA_TRY(world->table->flush(world->state, world->sequence, &sent, error));
        *complete_out = missing == 0;
        if (missing == 0 || gave_up || !ga_wait_sleep(wait)) {
            return GA_OK;
        }
    }
}

/* Long messages go on only while their sender is in a call, and the receivers are waiting: so finish them. */
static ga_status finish_sending(ga_world *world, ga_wait *wait, ga_error *error) {
    bool sent = false;
    GA_TRY(world->table->flush(world->state, world->sequence, &sent, error));
    while (!sent && ga_wait_sleep(wait)) {
        GA_TRY(world->table->flush(world->state, world->sequence, &sent, error));
    }
    return GA_OK;
}

/* Own memory for the own parcel, and a pointer that is not NULL for an empty one. */
static ga_status keep_own(ga_world *world, const void *send, size_t bytes, ga_error *error) {
    if (world->own == NULL || world->own_bytes < bytes) {
        void *grown = realloc(world->own, bytes > 0 ? bytes : 1);
        if (grown == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %zu bytes to send", bytes);
        }
        world->own = grown;
        world->own_bytes = bytes;
    }
    if (bytes > 0) {
        memcpy(world->own, send, bytes);
    }
    memset(world->parcels, 0, ga_size(world->place.size) * sizeof *world->parcels);
    world->parcels[world->place.rank] = (ga_parcel){world->own, bytes};
    return GA_OK;
}

/* Checks that hold for every collective, and its number: counted even where it fails, so that the ranks stay
 * in step. */
static ga_status begin(ga_world *world, double deadline_seconds, ga_late *late_out, ga_error *error) {
    if (late_out != NULL) {
        *late_out = (ga_late){.exact = true};
    }
    if (world->process != getpid()) {
        return GA_FAIL(error, GA_ERR_WORLD, "a forked child has no part in its parent's world");
    }
    world->sequence++;
    if (!(deadline_seconds >= 0)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a deadline of %g seconds", deadline_seconds);
    }
    return GA_OK;
}

static ga_status end_late(
    const ga_world *world, double deadline_seconds, ga_late *late_out, ga_error *error) {
    const ga_late late = find_late(world);
    if (late_out != NULL) {
        *late_out = late;
    }
    return fail_late(world, &late, deadline_seconds, error);
}

ga_status ga_world_collect(ga_world *world, const void *send, size_t bytes, double deadline_seconds,
    const ga_parcel **parcels_out, ga_late *late_out, ga_error *error) {
    GA_TRY(begin(world, deadline_seconds, late_out, error));
    GA_TRY(keep_own(world, send, bytes, error));
    ga_wait wait = ga_wait_begin(world->clock, deadline_seconds);
    if (world->place.size > 1) {
        bool complete = false;
        GA_TRY(post_parcel(world, &world->parcels[world->place.rank], error));
        GA_TRY(wait_for(world, look_in_group, &wait, &complete, error));
        if (complete && group_count(world) > 1) {
            GA_TRY(post_bundle(world, error));
            GA_TRY(wait_for(world, look_in_bundles, &wait, &complete, error));
        }
        if (!complete) {
            return end_late(world, deadline_seconds, late_out, error);
        }
        GA_TRY(finish_sending(world, &wait, error));
    }
    *parcels_out = world->parcels;
    return GA_OK;
}

ga_status ga_world_gather(ga_world *world, const void *send, size_t bytes, void *recv,
    double deadline_seconds, ga_late *late_out, ga_error *error) {
    const ga_parcel *parcels = NULL;
    GA_TRY(ga_world_collect(world, send, bytes, deadline_seconds, &parcels, late_out, error));
    for (int32_t rank = 1; rank < world->place.size; rank++) {
        if (parcels[rank].bytes != parcels[0].bytes) {
            return GA_FAIL(error, GA_ERR_MISMATCH, "gather: rank %d sent %zu bytes, rank 0 %zu", rank,
                parcels[rank].bytes, parcels[0].bytes);
        }
    }
    for (int32_t rank = 0; bytes > 0 && rank < world->place.size; rank++) {
        memcpy((char *)recv + ga_size(rank) * bytes, parcels[rank].data, bytes);
    }
    return GA_OK;
}

ga_status ga_world_agree(ga_world *world, uint64_t value, double deadline_seconds, bool *agree_out,
    ga_late *late_out, ga_error *error) {
    const ga_parcel *parcels = NULL;
    GA_TRY(ga_world_collect(world, &value, sizeof value, deadline_seconds, &parcels, late_out, error));
    bool agree = true;
    for (int32_t rank = 0; rank < world->place.size; rank++) {
        agree = agree && parcels[rank].bytes == parcels[0].bytes &&
                memcmp(parcels[rank].data, parcels[0].data, parcels[0].bytes) == 0;
    }
    *agree_out = agree;
    return GA_OK;
}

/* Binomial tree: the parent of a rank is the rank without its highest bit. */
static int32_t tree_parent(int32_t rank) {
    int32_t bit = 1;
    while (bit <= rank / 2) {
        bit *= 2;
    }
    return rank - bit;
}

static ga_status post_to_children(ga_world *world, const void *data, size_t bytes, ga_error *error) {
    const ga_frame frame = {world->sequence, GA_FRAME_BROADCAST, 1};
    const ga_parcel pieces[2] = {{&frame, sizeof frame}, {data, bytes}};
    int32_t target_count = 0;
    for (int64_t bit = 1; world->place.rank + bit < world->place.size; bit *= 2) {
        if (bit > world->place.rank) {
            world->targets[target_count++] = (int32_t)(world->place.rank + bit);
        }
    }
    return world->table->post(world->state, world->targets, target_count, pieces, 2, error);
}

/* Waits for the parent's message and copies it. */
static ga_status receive_from_parent(ga_world *world, void *data, size_t bytes, double deadline_seconds,
    ga_wait *wait, ga_late *late_out, ga_error *error) {
    const int32_t parent = tree_parent(world->place.rank);
    ga_frame frame;
    ga_parcel content = {NULL, 0};
    sight seen = SIGHT_NOTHING;
    do {
        GA_TRY(look(world, parent, GA_FRAME_BROADCAST, &seen, &frame, &content, error));
    } while (seen == SIGHT_NOTHING && ga_wait_sleep(wait));
    if (seen != SIGHT_HERE) {
        const ga_late late = {.count = 1, .exact = parent == 0, .ranks = {parent}};
        if (late_out != NULL) {
            *late_out = late;
        }
        return fail_late(world, &late, deadline_seconds, error);
    }
    if (content.bytes != bytes) {
        return GA_FAIL(error, GA_ERR_MISMATCH, "broadcast: rank %d expects %zu bytes, rank %d sent %zu",
            world->place.rank, bytes, parent, content.bytes);
    }
    if (bytes > 0) {
        memcpy(data, content.data, bytes);
    }
    return GA_OK;
}

ga_status ga_world_broadcast(
    ga_world *world, void *data, size_t bytes, double deadline_seconds, ga_late *late_out, ga_error *error) {
    GA_TRY(begin(world, deadline_seconds, late_out, error));
    ga_wait wait = ga_wait_begin(world->clock, deadline_seconds);
    if (world->place.rank != 0) {
        GA_TRY(receive_from_parent(world, data, bytes, deadline_seconds, &wait, late_out, error));
    }
    GA_TRY(post_to_children(world, data, bytes, error));
    return finish_sending(world, &wait, error);
}
