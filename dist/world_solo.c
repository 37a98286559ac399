/* A world of one: no messages, so nothing to send and nobody to wait for. */
#include "dist/world_table.h"

static ga_status solo_post(void *state, const int32_t *ranks, int32_t rank_count, const ga_parcel *pieces,
    int32_t piece_count, ga_error *error) {
    (void)state;
    (void)ranks;
    (void)pieces;
    (void)piece_count;
    return rank_count == 0 ? GA_OK : GA_FAIL(error, GA_ERR_BUG, "a message in a world of one");
}

static ga_status solo_peek(void *state, int32_t rank, ga_parcel *message_out, ga_error *error) {
    (void)state;
    (void)message_out;
    return GA_FAIL(error, GA_ERR_BUG, "waiting for rank %d in a world of one", rank);
}

static void solo_drop(void *state, int32_t rank) {
    (void)state;
    (void)rank;
}

static ga_status solo_flush(void *state, uint64_t since, bool *done_out, ga_error *error) {
    (void)state;
    (void)since;
    (void)error;
    *done_out = true;
    return GA_OK;
}

static ga_status solo_close(void *state, bool quiet, ga_error *error) {
    (void)state;
    (void)quiet;
    (void)error;
    return GA_OK;
}

static void solo_abandon(void *state, bool child) {
    (void)state;
    (void)child;
}

ga_status ga_world_solo_open(
    const ga_launch_place *place, const ga_world_options *options, ga_world **world_out, ga_error *error) {
    static const ga_world_table table = {GA_WORLD_TABLE_VERSION, "local", solo_post, solo_peek, solo_drop,
        solo_flush, solo_close, solo_abandon};
    ga_launch_place alone = *place;
    alone.rank = 0;
    alone.size = 1;
    return ga_world_make(&table, NULL, &alone, options, world_out, error);
}
