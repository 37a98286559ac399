/* Racing with the ranks of a scripted world: late, mismatched, blind and absent ones. */
#include <math.h>
#include <stdlib.h>

#include "dist/world_test.h"
#include "grpo_accel/session/session.h"
#include "tests/unit/stages.h"

enum { RANKS_MAX = 4, BATCHES_MAX = 8 };

typedef enum fault {
    FAULT_NONE,
    FAULT_LATE,     /* rank 1 is late at stage 1 of batch 2 */
    FAULT_MISMATCH, /* it has another probe there */
    FAULT_BLIND,    /* it sees nothing there */
    FAULT_MISSED,   /* it can't begin batch 2 */
    FAULT_ABANDONED /* its batch 2 ends after the first decision */
} fault;

enum { FAULTY_BATCH = 2, FAULTY_STAGE = 1 };

/* What one rank saw of one batch. */
typedef struct note {
    int32_t counts[STAGES_LOOKS_MAX];
    const char *reasons[STAGES_LOOKS_MAX];
    bool audited;
    double inclusion[STAGES_ROWS];
    uint8_t kept[STAGES_ROWS], looks_met[STAGES_ROWS];
    ga_status update;
    double advantages[RANKS_MAX * STAGES_ROWS];
} note;

typedef struct play {
    int32_t ranks;
    fault fault;
    stages_job jobs[RANKS_MAX];
    note notes[BATCHES_MAX][RANKS_MAX];
} play;

static void sleep_on(ga_session *session, double seconds) {
    session->clock->sleep_seconds(session->clock->user, seconds);
}

/* Stages of one batch as one rank plays them; true: the batch was ended early. */
static bool play_batch(const play *on, ga_session *session, ga_batch *batch, bool faulty, note *seen) {
    for (int32_t stage = 0; stage < batch->look_count; stage++) {
        const bool now = faulty && stage == FAULTY_STAGE;
        if (now && on->fault == FAULT_LATE) {
            sleep_on(session, 25);
        }
        if (now && on->fault == FAULT_ABANDONED) {
            return true;
        }
        session->probe_version += now && on->fault == FAULT_MISMATCH;
        if (!now || on->fault != FAULT_BLIND) {
            (void)stages_observe(batch);
        }
        ga_decision decision = {.size = sizeof decision};
        ga_error error;
        (void)ga_batch_decide(batch, &decision, &error);
        session->probe_version -= now && on->fault == FAULT_MISMATCH;
        seen->counts[stage] = decision.kept_count;
        seen->reasons[stage] = decision.reason;
    }
    stages_give_rewards(batch);
    seen->audited = batch->audited;
    memcpy(seen->inclusion, batch->inclusion, sizeof seen->inclusion);
    memcpy(seen->kept, batch->kept, sizeof seen->kept);
    memcpy(seen->looks_met, batch->looks_met, sizeof seen->looks_met);
    return false;
}

/* A batch an update, so that each update shows what became of its batch. */
static void play_rank(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    ga_session *session = on->jobs[rank].session;
    ga_world_abandon(&session->world);
    session->world = *world;
    session->clock = ga_world_clock(*world);
    session->rank = rank;
    session->world_size = on->ranks;
    for (int32_t b = 0; b < BATCHES_MAX; b++) {
        note *seen = &on->notes[b][rank];
        const bool faulty = rank == 1 && b == FAULTY_BATCH;
        ga_batch *batch = NULL;
        if (faulty && on->fault == FAULT_MISSED) {
            ga_batch_missed(session);
        } else {
            batch = stages_begin(session);
        }
        if (batch != NULL && play_batch(on, session, batch, faulty, seen)) {
            ga_batch_abandon(batch);
            batch = NULL;
        }
        if (batch != NULL) {
            seen->update = stages_end_update(session, seen->advantages);
        } else { /* the host had a batch all the same */
            double none[RANKS_MAX * STAGES_ROWS] = {0}, advantages[RANKS_MAX * STAGES_ROWS];
            const int64_t groups[RANKS_MAX * STAGES_ROWS] = {0};
            const ga_update_options options = {.size = sizeof options,
                .count = on->ranks * STAGES_ROWS,
                .groups = groups,
                .rewards = none,
                .host_advantages = none,
                .prunable = 1};
            seen->update = ga_update_end(session, &options, advantages, NULL);
        }
        session->late_in_a_row = 0;
    }
    *world = session->world;
    session->world = NULL;
}

static play *run_play(int32_t ranks, fault what, const char *probe, const char *audit) {
    play *on = calloc(1, sizeof *on);
    assert_non_null(on);
    on->ranks = ranks;
    on->fault = what;
    char yaml[2048];
    stages_racing_yaml(yaml, sizeof yaml, probe, audit);
    for (int32_t rank = 0; rank < ranks; rank++) {
        stages_open(&on->jobs[rank], yaml);
    }
    const ga_world_script script = {.size = ranks};
    ga_error error = {0};
    test_ok(ga_world_script_run(&script, play_rank, on, &error), &error);
    return on;
}

static void end_play(play *on) {
    for (int32_t rank = 0; rank < on->ranks; rank++) {
        stages_close(&on->jobs[rank]);
    }
    free(on);
}

/* Every rank kept as many as it should at each stage. */
static void assert_pruned(const play *on, int32_t batch) {
    static const int32_t counts[] = {9, 6, 3};
    for (int32_t rank = 0; rank < on->ranks; rank++) {
        const note *seen = &on->notes[batch][rank];
        assert_int_equal(seen->update, GA_OK);
        for (int32_t stage = 0; stage < 3; stage++) {
            assert_int_equal(seen->counts[stage], counts[stage]);
        }
        assert_int_equal(seen->audited, on->notes[batch][0].audited);
        assert_memory_equal(seen->advantages, on->notes[batch][0].advantages,
            (size_t)on->ranks * STAGES_ROWS * sizeof(double));
        for (int32_t row = 0; row < STAGES_ROWS; row++) {
            assert_int_equal(seen->advantages[rank * STAGES_ROWS + row] != 0.0, seen->kept[row]);
            assert_true(seen->inclusion[row] <= 1 && (seen->kept[row] == 0 || seen->inclusion[row] > 0));
        }
    }
}

static void ranks_race_together(void **state) {
    (void)state;
    stages_job maker = {0};
    char path[1024];
    stages_make_probe(path, sizeof path, &maker);
    for (int32_t ranks = 2; ranks <= RANKS_MAX; ranks += 2) {
        play *on = run_play(ranks, FAULT_NONE, path, "0.3");
        for (int32_t batch = 1; batch < BATCHES_MAX; batch++) {
            assert_pruned(on, batch);
        }
        assert_int_equal(on->jobs[0].warnings, 0);
        end_play(on);
    }
    test_folder_remove(maker.folder);
}

/* What a fault at stage 1 of one batch leaves: stage 0 stands, the others keep what ran, and from the next
 * update on all is as before. */
static void assert_fault(fault what, int32_t ranks, const char *path, const char *reason) {
    play *on = run_play(ranks, what, path, "0");
    for (int32_t batch = 1; batch < BATCHES_MAX; batch++) {
        if (batch != FAULTY_BATCH) {
            assert_pruned(on, batch);
        }
    }
    for (int32_t rank = 0; rank < ranks; rank++) {
        const note *seen = &on->notes[FAULTY_BATCH][rank];
        assert_int_equal(seen->counts[0], 9);
        if (reason != NULL && rank != 1) {
            assert_string_equal(seen->reasons[FAULTY_STAGE], reason);
        }
        if (what != FAULT_LATE || rank != 1) { /* who is late may find the others' parcels there */
            assert_int_equal(seen->counts[1], 9);
            assert_int_equal(seen->counts[2], 9);
        }
        assert_int_equal(seen->update, GA_OK);
        for (int32_t row = 0; row < STAGES_ROWS; row++) {
            assert_int_equal(seen->advantages[rank * STAGES_ROWS + row] != 0.0, seen->kept[row]);
        }
    }
    end_play(on);
}

static void a_late_rank_costs_one_batch_its_later_stages(void **state) {
    (void)state;
    stages_job maker = {0};
    char path[1024];
    stages_make_probe(path, sizeof path, &maker);
    assert_fault(FAULT_LATE, 2, path, "late");
    assert_fault(FAULT_LATE, 4, path, "late");
    test_folder_remove(maker.folder);
}

static void a_mismatch_costs_one_batch_its_later_stages(void **state) {
    (void)state;
    stages_job maker = {0};
    char path[1024];
    stages_make_probe(path, sizeof path, &maker);
    assert_fault(FAULT_MISMATCH, 2, path, "mismatch");
    assert_fault(FAULT_MISMATCH, 4, path, "mismatch");
    test_folder_remove(maker.folder);
}

static void a_blind_rank_costs_one_batch_its_later_stages(void **state) {
    (void)state;
    stages_job maker = {0};
    char path[1024];
    stages_make_probe(path, sizeof path, &maker);
    assert_fault(FAULT_BLIND, 2, path, "a rank has no scores");
    assert_fault(FAULT_BLIND, 4, path, "a rank has no scores");
    test_folder_remove(maker.folder);
}

/* The others wait in vain at each stage that they had planned, and all are in step again. */
static void ranks_without_a_batch_stay_in_step(void **state) {
    (void)state;
    static const fault faults[] = {FAULT_MISSED, FAULT_ABANDONED};
    stages_job maker = {0};
    char path[1024];
    stages_make_probe(path, sizeof path, &maker);
    for (size_t i = 0; i < 2; i++) {
        play *on = run_play(3, faults[i], path, "0");
        for (int32_t batch = 1; batch < BATCHES_MAX; batch++) {
            if (batch != FAULTY_BATCH) {
                assert_pruned(on, batch);
            }
        }
        assert_string_equal(on->notes[FAULTY_BATCH][0].reasons[1], "late");
        assert_int_equal(on->notes[FAULTY_BATCH][0].update, GA_ERR_MISMATCH);
        end_play(on);
    }
    test_folder_remove(maker.folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_race_together),
        cmocka_unit_test(a_late_rank_costs_one_batch_its_later_stages),
        cmocka_unit_test(a_mismatch_costs_one_batch_its_later_stages),
        cmocka_unit_test(a_blind_rank_costs_one_batch_its_later_stages),
        cmocka_unit_test(ranks_without_a_batch_stay_in_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
