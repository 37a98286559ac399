#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dist/exchange.h"
#include "dist/launch.h"
#include "dist/reduce.h"
#include "dist/world.h"
#include "dist/world_test.h"

#define RANKS_MAX 12
#define ROWS 3
#define STEPS 6

/* What one rank saw in one call. cmocka's assertions belong to the main thread, so ranks only take notes. */
typedef struct note {
    ga_status status;
    ga_error error;
    ga_exchange_report report;
    ga_candidate rows[RANKS_MAX * ROWS];
    ga_late late;
    double seconds;
} note;

/* A play: what every rank does, and who deviates how. */
typedef struct play {
    int32_t size;
    int32_t direct_ranks_max;
    double deadline_seconds;
    int32_t late_rank; /* -1: none */
    double late_seconds;
    int32_t odd_rank; /* -1: none */
    const char *odd_field;
    int32_t lost_from; /* its messages of collective lost_number are lost; -1: none */
    int32_t lost_to;
    uint64_t lost_number;
    bool jitter;
    note notes[STEPS][RANKS_MAX];
} play;

static play *play_make(int32_t size) {
    play *made = calloc(1, sizeof *made);
    assert_non_null(made);
    made->size = size;
    made->deadline_seconds = 10;
    made->late_rank = made->odd_rank = made->lost_from = -1;
    return made;
}

static void sleep_on(ga_world *world, double seconds) {
    const ga_clock *clock = ga_world_clock(world);
    clock->sleep_seconds(clock->user, seconds);
}

static ga_candidate make_row(int32_t rank, int32_t index, uint64_t batch) {
    return (ga_candidate){.group = batch * 100 + (uint64_t)index,
        .mean = (float)(rank * 10 + index) + (float)batch * 0.001f,
        .variance = 0.5f,
        .rank = rank,
        .index = index};
}

static void deviate(const play *on, int32_t rank, uint64_t batch, ga_exchange_header *header) {
    if (rank != on->odd_rank || batch != 2) {
        return;
    }
    if (strcmp(on->odd_field, "fingerprint") == 0) {
        header->fingerprint ^= 1;
    } else if (strcmp(on->odd_field, "batch") == 0) {
        header->batch += 1;
    } else if (strcmp(on->odd_field, "probe_version") == 0) {
        header->probe_version += 1;
    } else if (strcmp(on->odd_field, "rows") == 0) {
        header->rows -= 1;
    }
}

/* STEPS exchanges; the late rank is late before the second one, after which all wait until it is back. */
static void exchange_steps(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    for (int32_t step = 0; step < STEPS; step++) {
        note *kept = &on->notes[step][rank];
        ga_exchange_header header = {.batch = (uint64_t)step + 1,
            .fingerprint = 77,
            .probe_version = 4,
            .rows = ROWS,
            .flags = 1u << (unsigned)rank | 0x80000000u};
        ga_candidate rows[ROWS];
        for (int32_t i = 0; i < ROWS; i++) {
            rows[i] = make_row(rank, i, header.batch);
        }
        if (rank == on->odd_rank && step == 1 && strcmp(on->odd_field, "row") == 0) {
            rows[1].index = 99;
        }
        deviate(on, rank, (uint64_t)step + 1, &header);
        if (step == 1 && rank == on->late_rank) {
            sleep_on(*world, on->late_seconds);
        }
        ga_error_clear(&kept->error);
        kept->status = ga_exchange_batch(
            *world, &header, rows, on->deadline_seconds, kept->rows, &kept->report, &kept->error);
        kept->late = kept->report.late;
        if (step == 1 && on->late_seconds > 0 && rank != on->late_rank) {
            sleep_on(*world, on->late_seconds - kept->report.seconds);
        }
    }
}

static double script_delay(void *user, int32_t from, int32_t to, uint64_t number) {
    const play *on = user;
    if (from == on->lost_from && to == on->lost_to && number == on->lost_number) {
        return -1;
    }
    return on->jitter ? 1e-3 * (double)((from * 7 + to * 13 + (int32_t)number * 5) % 11) : 0;
}

static void run_play(play *on, void (*rank_main)(ga_world **, void *)) {
    ga_error error;
    ga_error_clear(&error);
    const ga_world_script script = {.size = on->size,
        .direct_ranks_max = on->direct_ranks_max,
        .delay_seconds = script_delay,
        .user = on};
    test_ok(ga_world_script_run(&script, rank_main, on, &error), &error);
}

/* Everybody holds every row, in rank order, and says the same digest. */
static void assert_complete(const play *on, int32_t step) {
    for (int32_t rank = 0; rank < on->size; rank++) {
        const note *kept = &on->notes[step][rank];
        test_ok(kept->status, &kept->error);
        assert_true(kept->report.digest == on->notes[step][0].report.digest);
        assert_int_equal(kept->report.differing_rank, -1);
        assert_int_equal(kept->report.late.count, 0);
        assert_int_equal(kept->report.flags_all, on->size == 1 ? 0x80000001u : 0x80000000u);
        assert_int_equal(kept->report.flags_any, 0x80000000u | ((1u << (unsigned)on->size) - 1));
        for (int32_t i = 0; i < on->size * ROWS; i++) {
            const ga_candidate expected = make_row(i / ROWS, i % ROWS, (uint64_t)step + 1);
            assert_memory_equal(&kept->rows[i], &expected, sizeof expected);
        }
    }
}

static void every_rank_gets_all_rows(void **state) {
    (void)state;
    const int32_t direct[] = {0, 1, 2};
    for (size_t d = 0; d < 3; d++) {
        for (int32_t size = 1; size <= RANKS_MAX; size++) {
            play *on = play_make(size);
            on->direct_ranks_max = direct[d];
            on->jitter = true;
            run_play(on, exchange_steps);
            for (int32_t step = 0; step < STEPS; step++) {
                assert_complete(on, step);
            }
            free(on);
        }
    }
}

static void a_late_rank_is_named_and_found_again(void **state) {
    (void)state;
    play *on = play_make(4);
    on->late_rank = 2;
    on->late_seconds = 60;
    run_play(on, exchange_steps);
    assert_complete(on, 0);
    for (int32_t rank = 0; rank < 4; rank++) {
        const note *kept = &on->notes[1][rank];
        if (rank == 2) { /* its peers' rows were there; that they gave up shows at the update */
            test_ok(kept->status, &kept->error);
            continue;
        }
        assert_int_equal(kept->status, GA_ERR_LATE);
        assert_int_equal(kept->late.count, 1);
        assert_true(kept->late.exact);
        assert_int_equal(kept->late.ranks[0], 2);
        assert_non_null(strstr(kept->error.message, "no answer from rank 2 within 10 s"));
        assert_true(kept->report.seconds >= 10 && kept->report.seconds < 10.01);
    }
    for (int32_t step = 2; step < STEPS; step++) {
        assert_complete(on, step);
    }
    free(on);
}

/* In groups, the late rank is known by number inside its group and by group outside. */
static void a_late_rank_is_named_in_groups(void **state) {
    (void)state;
    play *on = play_make(9);
    on->direct_ranks_max = 1;
    on->late_rank = 4;
    on->late_seconds = 60;
    run_play(on, exchange_steps);
    for (int32_t rank = 0; rank < 9; rank++) {
        const note *kept = &on->notes[1][rank];
        if (rank == 4) {
            continue;
        }
        assert_int_equal(kept->status, GA_ERR_LATE);
        const bool same_group = rank / 3 == 1;
        assert_int_equal(kept->late.exact, same_group);
        assert_int_equal(kept->late.count, same_group ? 1 : 3);
        assert_int_equal(kept->late.ranks[0], same_group ? 4 : 3);
    }
    for (int32_t step = 2; step < STEPS; step++) {
        assert_complete(on, step);
    }
    free(on);
}

static void a_lost_message_costs_one_exchange(void **state) {
    (void)state;
    play *on = play_make(3);
    on->lost_from = 0;
    on->lost_to = 1;
    on->lost_number = 3;
    run_play(on, exchange_steps);
    for (int32_t rank = 0; rank < 3; rank++) {
        const note *kept = &on->notes[2][rank];
        assert_int_equal(kept->status, rank == 1 ? GA_ERR_LATE : GA_OK);
    }
    assert_int_equal(on->notes[2][1].late.ranks[0], 0);
    /* rank 1 waited a deadline, the others went on: the next exchange finds them at most that far apart */
    assert_int_equal(on->notes[4][1].status, GA_OK);
    assert_complete(on, 4);
    assert_complete(on, 5);
    free(on);
}

static void a_mismatch_is_the_same_verdict_everywhere(void **state) {
    (void)state;
    const char *const fields[] = {"fingerprint", "batch", "probe_version", "rows"};
    for (size_t f = 0; f < 4; f++) {
        for (int32_t odd = 0; odd < 4; odd++) {
            play *on = play_make(4);
            on->odd_rank = odd;
            on->odd_field = fields[f];
            run_play(on, exchange_steps);
            for (int32_t rank = 0; rank < 4; rank++) {
                const note *kept = &on->notes[1][rank];
                assert_int_equal(kept->status, GA_ERR_MISMATCH);
                assert_int_equal(kept->report.differing_rank, odd);
                assert_string_equal(kept->report.differing_field, fields[f]);
                assert_string_equal(kept->error.message, on->notes[1][0].error.message);
                assert_non_null(strstr(kept->error.message, fields[f]));
            }
            assert_complete(on, 0);
            assert_complete(on, 2);
            free(on);
        }
    }
}

static void a_row_of_somebody_else_is_refused(void **state) {
    (void)state;
    play *on = play_make(3);
    on->odd_rank = 1;
    on->odd_field = "row";
    run_play(on, exchange_steps);
    for (int32_t rank = 0; rank < 3; rank++) {
        assert_int_equal(on->notes[1][rank].status, GA_ERR_DATA);
        assert_int_equal(on->notes[1][rank].report.differing_rank, 1);
        assert_non_null(strstr(on->notes[1][rank].error.message, "row 1 from rank 1"));
    }
    assert_complete(on, 2);
    free(on);
}

/* Cuts, lengthens in place or scrambles what rank 0 sends to rank 1 as collective 2. */
static void scramble(void *user, int32_t from, int32_t to, uint64_t number, void *data, size_t bytes) {
    ga_random *random = user;
    if (from == 0 && to == 1 && number == 2) {
        unsigned char *changed = data;
        for (int i = 0; i < 4; i++) {
            changed[8 + ga_random_below(random, (uint32_t)bytes - 8)] ^=
                (unsigned char)(1 + ga_random_below(random, 255));
        }
    }
}

/* Whatever the bytes are, rank 1 gets rows or an error, never another crash; the next exchange is whole. */
static void scrambled_messages_do_no_harm(void **state) {
    (void)state;
    int refused_count = 0;
    ga_random random = test_random(11);
    for (int trial = 0; trial < 60; trial++) {
        play *on = play_make(4);
        const ga_world_script script = {
            .size = 4, .direct_ranks_max = trial % 2 == 0 ? 0 : 1, .alter = scramble, .user = &random};
        ga_error error;
        ga_error_clear(&error);
        on->deadline_seconds = 1;
        test_ok(ga_world_script_run(&script, exchange_steps, on, &error), &error);
        refused_count += on->notes[1][1].status != GA_OK;
        assert_complete(on, 5);
        free(on);
    }
    assert_true(refused_count > 20);
}

/* One 64-bit value at one place of what `from` sends as collective 2. */
typedef struct forgery {
    int32_t from;
    size_t offset;
    uint64_t value;
} forgery;

static void forge(void *user, int32_t from, int32_t to, uint64_t number, void *data, size_t bytes) {
    const forgery *wanted = user;
    (void)to;
    if (number == 2 && from == wanted->from && bytes >= wanted->offset + sizeof wanted->value) {
        memcpy((char *)data + wanted->offset, &wanted->value, sizeof wanted->value);
    }
}

static play *run_forged(int32_t direct_ranks_max, forgery *wanted) {
    play *on = play_make(4);
    on->deadline_seconds = 1;
    const ga_world_script script = {
        .size = 4, .direct_ranks_max = direct_ranks_max, .alter = forge, .user = wanted};
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_world_script_run(&script, exchange_steps, on, &error), &error);
    return on;
}

/* Lengths of a bundle that point past its end, also by an overflow, are refused before they are used. */
static void forged_bundles_are_refused(void **state) {
    (void)state;
    const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 100, 1u << 20, 0};
    for (size_t i = 0; i < 4; i++) {
        for (size_t at = 0; at < 2; at++) {
            /* frame, then the lengths of ranks 0 and 1; rank 0 sends its bundle to rank 2, its parcel to rank
             * 1 */
            play *on = run_forged(1, &(forgery){.from = 0, .offset = 16 + 8 * at, .value = lengths[i]});
            assert_int_equal(on->notes[1][2].status, GA_ERR_WORLD);
            assert_non_null(strstr(on->notes[1][2].error.message, "rank 0 sent a damaged bundle"));
            free(on);
        }
    }
}

/* Adds 2^63 to both lengths of rank 0's bundle (frame 16, lengths 16, parcels 2 · 112 bytes): their sum is
 * right again after the overflow. */
static void forge_overflow(void *user, int32_t from, int32_t to, uint64_t number, void *data, size_t bytes) {
    (void)user;
    (void)to;
    if (number == 2 && from == 0 && bytes == 256) {
        ((unsigned char *)data)[16 + 7] ^= 0x80;
        ((unsigned char *)data)[24 + 7] ^= 0x80;
    }
}

static void lengths_that_overflow_are_refused(void **state) {
    (void)state;
    play *on = play_make(4);
    const ga_world_script script = {.size = 4, .direct_ranks_max = 1, .alter = forge_overflow};
    test_ok(ga_world_script_run(&script, exchange_steps, on, NULL), NULL);
    assert_int_equal(on->notes[1][2].status, GA_ERR_WORLD);
    assert_non_null(strstr(on->notes[1][2].error.message, "rank 0 sent a damaged bundle"));
    free(on);
}

/* Another layout, another row size or a wrong count of rows is named as the sender's. */
static void forged_heads_are_refused(void **state) {
    (void)state;
    const forgery heads[] = {{2, 16, 0}, {2, 20, 0}, {2, 16 + 8 + 20, UINT64_MAX}};
    const char *const fields[] = {"message", "message", "rows"};
    for (size_t i = 0; i < 3; i++) {
        forgery wanted = heads[i];
        play *on = run_forged(0, &wanted);
        for (int32_t rank = 0; rank < 4; rank++) {
            if (rank == 2) {
                continue;
            }
            assert_int_equal(on->notes[1][rank].status, GA_ERR_MISMATCH);
            assert_int_equal(on->notes[1][rank].report.differing_rank, 2);
            assert_string_equal(on->notes[1][rank].report.differing_field, fields[i]);
        }
        assert_complete(on, 3);
        free(on);
    }
}

static void one_gathers_while_others_exchange(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    note *kept = &on->notes[0][rank];
    const ga_exchange_header header = {.batch = 1};
    uint32_t value = 0, values[RANKS_MAX];
    kept->status = rank == 1
                       ? ga_world_gather(*world, &value, sizeof value, values, 5, NULL, &kept->error)
                       : ga_exchange_batch(*world, &header, NULL, 5, kept->rows, &kept->report, &kept->error);
}

static void a_short_parcel_is_no_exchange(void **state) {
    (void)state;
    play *on = play_make(3);
    run_play(on, one_gathers_while_others_exchange);
    for (int32_t rank = 0; rank < 3; rank++) {
        assert_int_equal(on->notes[0][rank].status, GA_ERR_MISMATCH);
    }
    assert_non_null(strstr(on->notes[0][0].error.message, "rank 1 sent 4 bytes of another kind"));
    free(on);
}

static void skip_one(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    for (int32_t step = 0; step < 3; step++) {
        note *kept = &on->notes[step][rank];
        uint64_t values[RANKS_MAX];
        const uint64_t own = (uint64_t)rank;
        if (step == 1 && rank == 0) {
            ga_world_skip(*world);
            continue;
        }
        const double begin_seconds = ga_clock_now(ga_world_clock(*world));
        kept->status = ga_world_gather(*world, &own, sizeof own, values, 5, &kept->late, &kept->error);
        kept->seconds = ga_clock_now(ga_world_clock(*world)) - begin_seconds;
    }
}

/* Peers see from the next message that a rank has left one out, and need not wait for the deadline. */
static void a_skipped_collective_is_seen_at_once(void **state) {
    (void)state;
    play *on = play_make(3);
    run_play(on, skip_one);
    for (int32_t rank = 1; rank < 3; rank++) {
        assert_int_equal(on->notes[1][rank].status, GA_ERR_LATE);
        assert_int_equal(on->notes[1][rank].late.ranks[0], 0);
        assert_true(on->notes[1][rank].seconds < 0.1);
    }
    for (int32_t rank = 0; rank < 3; rank++) {
        test_ok(on->notes[2][rank].status, &on->notes[2][rank].error);
    }
    free(on);
}

static void mixed_calls(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    uint64_t values[RANKS_MAX], value = 5;
    note *first = &on->notes[0][rank];
    first->status =
        rank == 1 ? ga_world_broadcast(*world, &value, sizeof value, 2, &first->late, &first->error)
                  : ga_world_gather(*world, &value, sizeof value, values, 2, &first->late, &first->error);
    sleep_on(*world, 3);
    note *second = &on->notes[1][rank];
    second->status = ga_world_gather(*world, &value, rank == 1 ? 4 : 8, values, 2, NULL, &second->error);
    note *third = &on->notes[2][rank];
    third->status = ga_world_gather(*world, &value, sizeof value, values, 2, NULL, &third->error);
}

static void different_calls_are_a_mismatch(void **state) {
    (void)state;
    play *on = play_make(3);
    run_play(on, mixed_calls);
    assert_int_equal(on->notes[0][1].status, GA_ERR_MISMATCH);
    assert_non_null(strstr(on->notes[0][1].error.message, "rank 0 does a gather as collective 1"));
    assert_int_equal(on->notes[0][0].status, GA_ERR_LATE);
    for (int32_t rank = 0; rank < 3; rank++) {
        assert_int_equal(on->notes[1][rank].status, GA_ERR_MISMATCH);
        assert_non_null(strstr(on->notes[1][rank].error.message, "rank 1 sent 4 bytes, rank 0 8"));
        test_ok(on->notes[2][rank].status, &on->notes[2][rank].error);
    }
    free(on);
}

/* Broadcast, agreement, sums and the largest, then a close that all reach. */
static void other_collectives(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    note *kept = &on->notes[0][rank];
    double values[3] = {rank == 0 ? 1.5 : 0, rank == 0 ? 2.5 : 0, rank == 0 ? -1 : 0};
    bool same = false, different = true;
    kept->status = ga_world_broadcast(*world, values, sizeof values, 5, NULL, &kept->error);
    kept->seconds = values[0] + values[1] + values[2];
    (void)ga_world_agree(*world, 42, 5, &same, NULL, &kept->error);
    (void)ga_world_agree(*world, rank == 1 ? 43 : 42, 5, &different, NULL, &kept->error);
    on->notes[1][rank].status = same && different == (ga_world_size(*world) == 1) ? GA_OK : GA_ERR_BUG;
    float floats[2] = {0.1f * (float)(rank + 1), 1e8f * (rank % 2 == 0 ? 1.0f : -1.0f)};
    on->notes[2][rank].status = ga_reduce_sum_f32(*world, floats, 2, 5, NULL, &kept->error);
    on->notes[2][rank].seconds = (double)floats[0];
    double doubles[2] = {0.1 * (rank + 1), rank == 2 ? NAN : 1};
    on->notes[3][rank].status = ga_reduce_sum_f64(*world, doubles, 1, 5, NULL, &kept->error);
    on->notes[3][rank].seconds = doubles[0];
    double largest[2] = {rank == 1 ? 9 : rank, rank == 2 ? NAN : 1};
    on->notes[4][rank].status = ga_reduce_max_f64(*world, largest, 2, 5, NULL, &kept->error);
    on->notes[4][rank].seconds = largest[0] + (isnan(largest[1]) ? 100 : 0);
    on->notes[5][rank].status = ga_world_close(world, 5, &kept->error);
}

static void broadcast_agree_and_reduce(void **state) {
    (void)state;
    for (int32_t size = 1; size <= RANKS_MAX; size++) {
        play *on = play_make(size);
        on->jitter = true;
        on->direct_ranks_max = size % 2 == 0 ? 0 : 1;
        run_play(on, other_collectives);
        double sum = 0;
        float float_sum = 0;
        double wide_sum = 0;
        for (int32_t rank = 0; rank < size; rank++) {
            sum += 0.1 * (rank + 1);
            wide_sum += (double)(0.1f * (float)(rank + 1));
        }
        float_sum = (float)wide_sum;
        for (int32_t rank = 0; rank < size; rank++) {
            for (int32_t step = 0; step < 6; step++) {
                test_ok(on->notes[step][rank].status, &on->notes[0][rank].error);
            }
            assert_true(on->notes[0][rank].seconds == 3.0);
            assert_true(on->notes[2][rank].seconds == (double)float_sum);
            assert_true(on->notes[3][rank].seconds == sum);
            const double largest = size == 1 ? 0 : size - 1 > 9 ? size - 1 : 9;
            assert_true(on->notes[4][rank].seconds == largest + (size > 2 ? 100 : 0));
        }
        free(on);
    }
}

static void update_steps(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    for (uint32_t step = 0; step < 2; step++) {
        note *kept = &on->notes[step][rank];
        ga_outcome rows[2], all[RANKS_MAX * 2];
        memset(rows, 0, sizeof rows);
        for (int32_t i = 0; i < 2; i++) {
            rows[i] = (ga_outcome){.group = 1,
                .reward = i == 0 ? (double)NAN : (double)rank,
                .inclusion = 0.5,
                .rank = rank,
                .index = i,
                .kept = (uint8_t)i};
        }
        const ga_update_header header = {.update = step,
            .fingerprint = 9,
            .batches = step == 1 && rank == on->odd_rank ? 3 : 2,
            .rows = 2,
            .checksum = rank == 2 ? 6 : 5,
            .probe_version_ready = rank == 1 ? 7 : 8,
            .flags = 0,
            .figures = {(float)rank, rank == 1 ? 2.5F : NAN, NAN},
            .counts = {1, [GA_UPDATE_COUNTS - 1] = (uint16_t)rank},
            .note = {(unsigned char)(40 + rank), [GA_UPDATE_NOTE_BYTES - 1] = 9}};
        kept->status = ga_exchange_update(*world, &header, rows, 600, all, &kept->report, &kept->error);
        if (kept->status == GA_OK) {
            kept->seconds = all[2 * (ga_world_size(*world) - 1) + 1].reward;
            kept->late.count = isnan(all[0].reward) && all[1].kept == 1 && all[0].kept == 0;
        }
    }
}

static void an_update_tells_what_all_kept(void **state) {
    (void)state;
    play *on = play_make(4);
    on->odd_rank = 3;
    run_play(on, update_steps);
    for (int32_t rank = 0; rank < 4; rank++) {
        const note *kept = &on->notes[0][rank];
        test_ok(kept->status, &kept->error);
        assert_int_equal(kept->report.probe_version_ready, 7);
        assert_false(kept->report.checksums_agree);
        assert_int_equal(kept->report.checksum_rank, 2);
        assert_true(kept->seconds == 3.0);
        assert_true(kept->report.figure_max[0] == 3.0F); /* the slowest rank's */
        assert_true(kept->report.figure_max[1] == 2.5F); /* only one knows */
        assert_true(isnan(kept->report.figure_max[2]));
        assert_int_equal(kept->report.count_sum[0], 4);
        assert_int_equal(kept->report.first_note[0], 40); /* rank 0's, on all */
        assert_int_equal(kept->report.first_note[GA_UPDATE_NOTE_BYTES - 1], 9);
        assert_int_equal(kept->report.count_sum[GA_UPDATE_COUNTS - 1], 0 + 1 + 2 + 3);
        assert_int_equal(kept->late.count, 1);
        assert_int_equal(on->notes[1][rank].status, GA_ERR_MISMATCH);
        assert_string_equal(on->notes[1][rank].report.differing_field, "batches");
        assert_int_equal(on->notes[1][rank].report.differing_rank, 3);
    }
    free(on);
}

static void late_ranks_in_words(void **state) {
    (void)state;
    char text[120];
    ga_late_words(&(ga_late){.count = 1, .exact = true, .ranks = {3}}, text, sizeof text);
    assert_string_equal(text, "rank 3");
    ga_late_words(&(ga_late){.count = 3, .exact = true, .ranks = {1, 4, 7}}, text, sizeof text);
    assert_string_equal(text, "ranks 1, 4 and 7");
    ga_late late = {.count = 64, .exact = false};
    for (int32_t i = 0; i < GA_LATE_RANKS_MAX; i++) {
        late.ranks[i] = 64 + i;
    }
    ga_late_words(&late, text, sizeof text);
    assert_non_null(strstr(text, "some of ranks 64, 65"));
    assert_non_null(strstr(text, "79, … (64 ranks)"));
    ga_late_words(&late, text, 12);
    assert_string_equal(text, "some of ran");
}

/* A launcher's variables must not reach a test that opens a world of its own. */
static void forget_launchers(void) {
    const char *const names[] = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE",
        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)unsetenv(names[i]);
    }
}

static void one_process_is_a_world(void **state) {
    (void)state;
    forget_launchers();
    const ga_transport kinds[] = {GA_TRANSPORT_AUTO, GA_TRANSPORT_MPI, GA_TRANSPORT_LOCAL};
    for (size_t k = 0; k < 3; k++) {
        ga_error error;
        ga_error_clear(&error);
        ga_world *world = NULL;
        test_ok(ga_world_open(&(ga_world_options){.transport = kinds[k]}, &world, &error), &error);
        assert_int_equal(ga_world_size(world), 1);
        assert_int_equal(ga_world_rank(world), 0);
        assert_int_equal(ga_world_local_rank(world), 0);
        assert_string_equal(ga_world_transport_name(world), "local");
        const ga_exchange_header header = {.batch = 1, .rows = 1};
        const ga_candidate row = make_row(0, 0, 1);
        ga_candidate all;
        ga_exchange_report report;
        test_ok(ga_exchange_batch(world, &header, &row, 0, &all, &report, &error), &error);
        assert_memory_equal(&all, &row, sizeof row);
        int value = 3;
        test_ok(ga_world_broadcast(world, &value, sizeof value, 0, NULL, &error), &error);
        assert_int_equal(ga_world_gather(world, &value, 4, &value, -1, NULL, &error), GA_ERR_ARGUMENT);
        assert_int_equal(ga_world_gather(world, &value, 4, &value, NAN, NULL, NULL), GA_ERR_ARGUMENT);
        test_ok(ga_world_close(&world, 1, NULL), NULL);
        assert_null(world);
        test_ok(ga_world_close(&world, 1, NULL), NULL);
    }
}

static void many_processes_without_a_launcher_are_refused(void **state) {
    (void)state;
    forget_launchers();
    ga_error error;
    ga_error_clear(&error);
    ga_world *world = NULL;
    (void)setenv("RANK", "1", 1);
    (void)setenv("WORLD_SIZE", "8", 1);
    assert_int_equal(ga_world_open(NULL, &world, &error), GA_ERR_MISSING);
    assert_non_null(strstr(error.message, "mpirun -np 8"));
    test_ok(ga_world_open(&(ga_world_options){.transport = GA_TRANSPORT_LOCAL}, &world, NULL), NULL);
    assert_int_equal(ga_world_size(world), 1);
    ga_world_abandon(&world);
    assert_null(world);
    ga_world_abandon(&world);
    ga_error_clear(&error);
    assert_int_equal(
        ga_world_open(&(ga_world_options){.transport = GA_TRANSPORT_NCCL}, &world, &error), GA_ERR_MISSING);
    assert_non_null(strstr(error.message, "nccl"));
    forget_launchers();
}

static void a_forked_child_has_no_world(void **state) {
    (void)state;
    forget_launchers();
    ga_world *world = NULL;
    test_ok(ga_world_open(NULL, &world, NULL), NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int value = 1;
        const bool dead = ga_world_gather(world, &value, 4, &value, 1, NULL, NULL) == GA_ERR_WORLD &&
                          ga_world_broadcast(world, &value, 4, 1, NULL, NULL) == GA_ERR_WORLD &&
                          ga_world_close(&world, 1, NULL) == GA_ERR_WORLD && world == NULL;
        _exit(dead ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    test_ok(ga_world_close(&world, 1, NULL), NULL);
}

/* An environment of up to 24 variables. */
typedef struct variables {
    char names[24][48];
    char values[24][160];
    int count;
} variables;

static const char *variables_get(void *user, const char *name) {
    const variables *held = user;
    for (int i = 0; i < held->count; i++) {
        if (strcmp(held->names[i], name) == 0) {
            return held->values[i];
        }
    }
    return NULL;
}

static bool variables_set(void *user, const char *name, const char *value) {
    variables *held = user;
    assert_true(held->count < 24);
    (void)snprintf(held->names[held->count], sizeof held->names[0], "%s", name);
    (void)snprintf(held->values[held->count++], sizeof held->values[0], "%s", value);
    return true;
}

static void set_ompi(variables *held, const char *rank, const char *size, const char *local_size) {
    held->count = 0;
    (void)variables_set(held, "OMPI_COMM_WORLD_RANK", rank);
    (void)variables_set(held, "OMPI_COMM_WORLD_SIZE", size);
    (void)variables_set(held, "OMPI_COMM_WORLD_LOCAL_RANK", "1");
    (void)variables_set(held, "OMPI_COMM_WORLD_LOCAL_SIZE", local_size);
    (void)variables_set(held, "OMPI_MCA_ess_base_jobid", "1275658241");
    (void)variables_set(
        held, "OMPI_MCA_orte_hnp_uri", "1275658240.0;tcp://192.0.2.2,10.1.1.1:34091;tcp6://[fd00::2]:1");
}

static ga_status launch(variables *held, ga_launch_report *report, ga_error *error) {
    const ga_environment environment = {variables_get, variables_set, held};
    ga_error_clear(error);
    return ga_launch_environment(
        &(ga_launch_options){.environment = &environment, .cores_allowed = 4, .cores_online = 8}, report,
        error);
}

static void open_mpi_becomes_torch(void **state) {
    (void)state;
    variables held;
    ga_launch_report report;
    ga_error error;
    set_ompi(&held, "3", "4", "4");
    test_ok(launch(&held, &report, &error), &error);
    assert_string_equal(variables_get(&held, "RANK"), "3");
    assert_string_equal(variables_get(&held, "WORLD_SIZE"), "4");
    assert_string_equal(variables_get(&held, "LOCAL_RANK"), "1");
    assert_string_equal(variables_get(&held, "LOCAL_WORLD_SIZE"), "4");
    assert_string_equal(variables_get(&held, "MASTER_ADDR"), "127.0.0.1");
    assert_string_equal(report.place.launcher, "Open MPI");
    assert_string_equal(report.warning, "");
    const int port = atoi(variables_get(&held, "MASTER_PORT"));
    assert_in_range(port, 20000, 29999);
    set_ompi(&held, "0", "4", "4"); /* another rank, the same port */
    test_ok(launch(&held, &report, &error), &error);
    assert_int_equal(atoi(variables_get(&held, "MASTER_PORT")), port);
    const int count = held.count; /* a second call changes nothing */
    test_ok(launch(&held, &report, &error), &error);
    assert_int_equal(held.count, count);
    set_ompi(&held, "0", "4", "4"); /* another job, very likely another port */
    (void)snprintf(held.values[4], sizeof held.values[4], "%s", "1275658242");
    test_ok(launch(&held, &report, &error), &error);
    assert_int_not_equal(atoi(variables_get(&held, "MASTER_PORT")), port);
}

static void what_is_set_stays(void **state) {
    (void)state;
    variables held;
    ga_launch_report report;
    ga_error error;
    set_ompi(&held, "0", "16", "8");
    (void)variables_set(&held, "MASTER_ADDR", "gpu7");
    (void)variables_set(&held, "MASTER_PORT", "1234");
    (void)variables_set(&held, "LOCAL_RANK", "0");
    test_ok(launch(&held, &report, &error), &error);
    assert_string_equal(variables_get(&held, "MASTER_ADDR"), "gpu7");
    assert_string_equal(variables_get(&held, "MASTER_PORT"), "1234");
    assert_string_equal(variables_get(&held, "LOCAL_RANK"), "0");
}

static void several_machines_need_an_address(void **state) {
    (void)state;
    variables held;
    ga_launch_report report;
    ga_error error;
    set_ompi(&held, "9", "16", "8");
    test_ok(launch(&held, &report, &error), &error);
    assert_string_equal(variables_get(&held, "MASTER_ADDR"), "192.0.2.2");
    set_ompi(&held, "9", "16", "8"); /* others need not be where mpirun is */
    (void)variables_set(&held, "OMPI_MCA_orte_local_daemon_uri", "1275658240.1;tcp://192.0.2.9:1");
    test_ok(launch(&held, &report, &error), &error);
    assert_string_equal(variables_get(&held, "MASTER_ADDR"), "192.0.2.2");
    set_ompi(&held, "0", "16", "8"); /* rank 0 on another machine than mpirun */
    (void)variables_set(&held, "OMPI_MCA_orte_local_daemon_uri", "1275658240.1;tcp://192.0.2.9:1");
    assert_int_equal(launch(&held, &report, &error), GA_ERR_CONFIG);
    assert_non_null(strstr(error.message, "MASTER_ADDR"));
    held.count = 0;
    (void)variables_set(&held, "PMI_RANK", "2");
    (void)variables_set(&held, "PMI_SIZE", "4");
    assert_int_equal(launch(&held, &report, &error), GA_ERR_CONFIG);
    assert_non_null(strstr(error.message, "MASTER_ADDR"));
}

static void slurm_lists_name_the_first_host(void **state) {
    (void)state;
    const char *const lists[][2] = {{"gpu[007-012,020]", "gpu007"}, {"a1,b2", "a1"}, {"solo", "solo"},
        {"x[3]-ib,y", "x3-ib"}, {"n[12,15-17],m[1-2]", "n12"}};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        variables held = {.count = 0};
        ga_launch_report report;
        ga_error error;
        (void)variables_set(&held, "SLURM_PROCID", "5");
        (void)variables_set(&held, "SLURM_STEP_NUM_TASKS", "16");
        (void)variables_set(&held, "SLURM_LOCALID", "1");
        (void)variables_set(&held, "SLURM_STEP_NODELIST", lists[i][0]);
        (void)variables_set(&held, "SLURM_JOB_ID", "77");
        test_ok(launch(&held, &report, &error), &error);
        assert_string_equal(variables_get(&held, "MASTER_ADDR"), lists[i][1]);
        assert_string_equal(variables_get(&held, "RANK"), "5");
        assert_null(variables_get(&held, "LOCAL_WORLD_SIZE"));
    }
    const char *const broken[] = {"gpu[", "gpu[]", "[", "gpu[007", ",", "gpu[-3]"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        variables held = {.count = 0};
        ga_launch_report report;
        ga_error error;
        (void)variables_set(&held, "SLURM_PROCID", "5");
        (void)variables_set(&held, "SLURM_STEP_NUM_TASKS", "16");
        (void)variables_set(&held, "SLURM_STEP_NODELIST", broken[i]);
        assert_int_equal(launch(&held, &report, &error), GA_ERR_CONFIG);
    }
}

static void contradictions_are_refused(void **state) {
    (void)state;
    variables held;
    ga_launch_report report;
    ga_error error;
    const char *const wrong[][2] = {{"WORLD_SIZE", "8"}, {"RANK", "2"}, {"WORLD_SIZE", "four"},
        {"RANK", "-1"}, {"WORLD_SIZE", "99999999999999999999"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        set_ompi(&held, "1", "4", "4");
        (void)variables_set(&held, wrong[i][0], wrong[i][1]);
        const int count = held.count;
        assert_int_equal(launch(&held, &report, &error), GA_ERR_CONFIG);
        assert_non_null(strstr(error.message, wrong[i][0]));
        assert_int_equal(held.count, count);
    }
    set_ompi(&held, "4", "4", "4");
    assert_int_equal(launch(&held, &report, &error), GA_ERR_CONFIG);
    set_ompi(&held, "0", "0", "4");
    assert_int_equal(launch(&held, &report, &error), GA_ERR_CONFIG);
    set_ompi(&held, "1x", "4", "4");
    assert_int_equal(launch(&held, &report, &error), GA_ERR_CONFIG);
}

static void the_first_rank_is_known_even_among_contradictions(void **state) {
    (void)state;
    variables held = {.count = 0};
    const ga_environment environment = {variables_get, variables_set, &held};
    assert_true(ga_launch_is_first(&environment));
    (void)variables_set(&held, "RANK", "0");
    assert_true(ga_launch_is_first(&environment));
    (void)variables_set(&held, "OMPI_COMM_WORLD_RANK", "3"); /* the launcher's own comes before torch's */
    assert_false(ga_launch_is_first(&environment));
}

static void no_launcher_sets_nothing(void **state) {
    (void)state;
    variables held = {.count = 0};
    ga_launch_report report;
    ga_error error;
    test_ok(launch(&held, &report, &error), &error);
    assert_int_equal(held.count, 0);
    assert_int_equal(report.place.size, 1);
    assert_string_equal(report.place.launcher, "none");
    (void)variables_set(&held, "SLURM_PROCID", "0"); /* a batch script, not a task of srun */
    (void)variables_set(&held, "SLURM_NTASKS", "8");
    test_ok(launch(&held, &report, &error), &error);
    assert_int_equal(report.place.size, 1);
    (void)variables_set(&held, "RANK", "3"); /* torchrun: all is set */
    (void)variables_set(&held, "WORLD_SIZE", "8");
    (void)variables_set(&held, "LOCAL_RANK", "3");
    const int count = held.count;
    test_ok(launch(&held, &report, &error), &error);
    assert_int_equal(held.count, count);
    assert_int_equal(report.place.rank, 3);
    assert_false(report.place.mpi);
}

static void one_core_is_warned_of(void **state) {
    (void)state;
    variables held;
    ga_launch_report report;
    set_ompi(&held, "3", "4", "4");
    const ga_environment environment = {variables_get, variables_set, &held};
    ga_launch_options options = {.environment = &environment, .cores_allowed = 1, .cores_online = 64};
    test_ok(ga_launch_environment(&options, &report, NULL), NULL);
    assert_non_null(strstr(report.warning, "--bind-to none"));
    options.cores_online = 1;
    test_ok(ga_launch_environment(&options, &report, NULL), NULL);
    assert_string_equal(report.warning, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_all_rows),
        cmocka_unit_test(a_late_rank_is_named_and_found_again),
        cmocka_unit_test(a_late_rank_is_named_in_groups),
        cmocka_unit_test(a_lost_message_costs_one_exchange),
        cmocka_unit_test(a_mismatch_is_the_same_verdict_everywhere),
        cmocka_unit_test(a_row_of_somebody_else_is_refused),
        cmocka_unit_test(scrambled_messages_do_no_harm),
        cmocka_unit_test(forged_bundles_are_refused),
        cmocka_unit_test(lengths_that_overflow_are_refused),
        cmocka_unit_test(forged_heads_are_refused),
        cmocka_unit_test(a_short_parcel_is_no_exchange),
        cmocka_unit_test(a_skipped_collective_is_seen_at_once),
        cmocka_unit_test(different_calls_are_a_mismatch),
        cmocka_unit_test(broadcast_agree_and_reduce),
        cmocka_unit_test(an_update_tells_what_all_kept),
        cmocka_unit_test(late_ranks_in_words),
        cmocka_unit_test(one_process_is_a_world),
        cmocka_unit_test(many_processes_without_a_launcher_are_refused),
        cmocka_unit_test(a_forked_child_has_no_world),
        cmocka_unit_test(open_mpi_becomes_torch),
        cmocka_unit_test(what_is_set_stays),
        cmocka_unit_test(several_machines_need_an_address),
        cmocka_unit_test(slurm_lists_name_the_first_host),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(no_launcher_sets_nothing),
        cmocka_unit_test(the_first_rank_is_known_even_among_contradictions),
        cmocka_unit_test(one_core_is_warned_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
