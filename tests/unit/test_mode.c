/* Mode auto in whole sessions: alone, and with the ranks of a scripted world. */
#include <math.h>
#include <stdlib.h>

#include "dist/world_test.h"
#include "grpo_accel/session/mode.h"
#include "tests/unit/stages.h"

enum { RANKS = 2, BATCHES = 2, UPDATES = 120 };

static const char LEARNS[] = "mode: auto\ndecision: {step: auto, keep: auto, audit: 0.2}\n"
                             "probe: {inputs: [preview]}\nguard: {lost_extremes_max: 0.7}\n"
                             "retrain: {every_updates: 1000, background: false}\n";

/* A rollout's step takes 10 ms a row, a look `look` of them, training as long as the rollout. */
static void report_seconds(ga_batch *batch, double look) {
    const double step = 0.01;
    assert_int_equal(ga_batch_seconds(batch, 0, step * (double)ga_batch_row_steps(batch)), GA_OK);
    assert_int_equal(ga_batch_seconds(batch, 1, look * step * (double)ga_batch_rows_observed(batch)), GA_OK);
    assert_int_equal(ga_batch_seconds(batch, 2, step * batch->kept_count), GA_OK);
}

static void end_update(stages_job *j) {
    double advantages[RANKS * BATCHES * STAGES_ROWS];
    test_ok(stages_end_update(j->session, advantages), NULL);
}

/* One update; the host trains for as long as its kept rows ask for. */
static void update(stages_job *j, test_clock *clock, double look) {
    int32_t counts[STAGES_LOOKS_MAX] = {0}, kept = 0;
    for (int b = 0; b < BATCHES; b++) {
        ga_batch *batch = stages_roll(j, counts);
        report_seconds(batch, look);
        kept += batch->kept_count;
    }
    end_update(j);
    clock->now_seconds += 0.1 * kept;
}

static void it_learns_then_prunes(void **state) {
    (void)state;
    stages_job j = {0};
    test_clock clock;
    test_clock_init(&clock);
    stages_open(&j, LEARNS);
    j.session->clock = &clock.clock;
    int32_t learned = -1, pruned = -1;
    for (int i = 0; i < UPDATES; i++) {
        update(&j, &clock, 0.1);
        learned = learned < 0 && j.session->probe_version > 0 ? i : learned;
        pruned = pruned < 0 && j.session->strategy.prune ? i : pruned;
    }
    assert_true(learned > 0 && pruned > learned);
    assert_true(j.session->strategy.prune);
    const char *json = ga_session_metrics_json(j.session);
    assert_non_null(strstr(json, "\"guard/answer\": \"pays\""));
    assert_non_null(strstr(json, "\"prune/mode\": \"prune\""));
    assert_non_null(strstr(json, "\"guard/prunes\": true"));
    assert_non_null(ga_probe_get_reference(j.session->probe));
    const ga_guard_metrics *m = &j.session->metrics.guard;
    assert_true(m->speed_up_low > 0.98 && m->cost_ratio < 1.0 && m->energy > m->keep);
    assert_true(fabs(m->seconds.step - 0.01) < 1e-6);
    assert_true(fabs(m->seconds.signal[0] - 0.001) < 2e-4);
    assert_true(fabs(m->seconds.train - 0.1) < 0.02); /* of a trained row, pruned or not */
    assert_int_equal(j.warnings, 0);
    stages_close(&j);
}

static void an_expensive_preview_is_refused(void **state) {
    (void)state;
    stages_job j = {0};
    test_clock clock;
    test_clock_init(&clock);
    stages_open(&j, LEARNS);
    j.session->clock = &clock.clock;
    int64_t looked = 0, rows = 0;
    for (int i = 0; i < UPDATES; i++) {
        update(&j, &clock, 60.0);
        assert_false(j.session->strategy.prune);
        looked += j.session->strategy.explore_share > 0.1;
        rows++;
    }
    assert_string_equal(j.session->metrics.guard.answer, "costs more");
    assert_non_null(strstr(j.session->metrics.guard.reason, "looking at a row costs 60.0"));
    assert_true(looked <= 2 && rows == UPDATES); /* until it knew */
    stages_close(&j);
}

/* A host whose forward takes as long for few rows as for many, and trains on all rows alike: pruning is
 * tried, found to save nothing, and left alone, but for another try now and then. */
static void a_host_that_gets_no_faster_is_not_pruned(void **state) {
    (void)state;
    stages_job j = {0};
    test_clock clock;
    test_clock_init(&clock);
    stages_open(&j, LEARNS);
    j.session->clock = &clock.clock;
    int32_t pruned = 0, tried = 0;
    for (int i = 0; i < UPDATES; i++) {
        int32_t counts[STAGES_LOOKS_MAX] = {0};
        tried += j.session->strategy.prune;
        for (int b = 0; b < BATCHES; b++) {
            ga_batch *batch = stages_roll(&j, counts);
            assert_int_equal(ga_batch_seconds(batch, 0, 0.01 * STAGES_ROWS * STAGES_STEPS), GA_OK);
            assert_int_equal(
                ga_batch_seconds(batch, 1, 0.001 * (double)ga_batch_rows_observed(batch)), GA_OK);
        }
        end_update(&j);
        clock.now_seconds += 2.0;
        pruned += i >= UPDATES / 2 && j.session->strategy.prune;
    }
    assert_true(tried > 0 && tried <= 16);
    assert_int_equal(pruned, 0);
    assert_string_equal(j.session->metrics.guard.answer, "costs more");
    assert_true(j.session->metrics.guard.seconds.forward > 0.3 * 0.01);
    stages_close(&j);
}

/* A shared machine: seconds jump by a third, and now and then by ten. What pays goes on. */
static void noisy_seconds_do_not_flap(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        stages_job j = {0};
        test_clock clock;
        test_clock_init(&clock);
        stages_open(&j, LEARNS);
        j.session->clock = &clock.clock;
        ga_random random = test_random(50 + seed);
        int32_t switches = 0, pruned = 0;
        for (int i = 0; i < UPDATES; i++) {
            int32_t counts[STAGES_LOOKS_MAX] = {0}, kept = 0;
            const bool prunes = j.session->strategy.prune;
            for (int b = 0; b < BATCHES; b++) {
                const double jump = ga_random_uniform(&random) < 0.05 ? 10 : 1;
                const double step = 0.01 * jump * exp(0.3 * ga_random_normal(&random));
                ga_batch *batch = stages_roll(&j, counts);
                (void)ga_batch_seconds(batch, 0, step * (double)ga_batch_row_steps(batch));
                (void)ga_batch_seconds(batch, 1, 0.1 * step * (double)ga_batch_rows_observed(batch));
                (void)ga_batch_seconds(batch, 2, step * batch->kept_count);
                kept += batch->kept_count;
            }
            end_update(&j);
            clock.now_seconds += 0.1 * kept * exp(0.3 * ga_random_normal(&random)) + (i % 10 == 0 ? 30 : 0);
            switches += j.session->strategy.prune != prunes;
            pruned += j.session->strategy.prune;
        }
        print_message("seed %d: %d switches, %d pruned of %d\n", (int)seed, switches, pruned, UPDATES);
        assert_true(switches >= 1 && switches <= 3);
        assert_true(pruned > UPDATES / 2);
        stages_close(&j);
    }
}

/* ---- two ranks ---- */

typedef struct play {
    stages_job jobs[RANKS];
    bool shared;   /* every row of a group looks the same */
    uint64_t lost; /* number of the collective for which rank 0 does not hear rank 1; 0: none */
    ga_strategy strategies[UPDATES][RANKS];
    char reasons[RANKS][256];
    double step_seconds[RANKS];
    double ended_seconds[RANKS];
} play;

/* Latents that differ between the two groups alone. */
static void show_shared_states(ga_batch *batch) {
    float latent[STAGES_ROWS * 2 * 4 * 4], velocity[STAGES_ROWS * 2 * 4 * 4] = {0};
    for (int32_t i = 0; i < STAGES_ROWS * 32; i++) {
        latent[i] = (float)(i / 32 % 2) + 0.1F * (float)(i % 32);
    }
    ga_tensor x = {.data = latent,
        .dims = 4,
        .dtype = GA_F32,
        .shape = {STAGES_ROWS, 2, 4, 4},
        .strides = {32, 16, 4, 1}};
    ga_tensor v = x;
    v.data = velocity;
    const double sigma = stages_sigmas[batch->steps[batch->look_now]];
    ga_error error;
    test_ok(ga_batch_observe_latent(batch, &x, &v, sigma, &error), &error);
}

static void look_at(const play *on, ga_batch *batch) {
    while (batch->look_now < batch->look_count) {
        if (on->shared) {
            show_shared_states(batch);
        } else {
            test_ok(stages_observe(batch), NULL);
        }
        ga_error error;
        ga_decision decision = {.size = sizeof decision};
        test_ok(ga_batch_decide(batch, &decision, &error), &error);
    }
    stages_give_rewards(batch);
}

static void play_rank(ga_world **world, void *user) {
    play *on = user;
    const int32_t rank = ga_world_rank(*world);
    ga_session *session = on->jobs[rank].session;
    ga_world_abandon(&session->world);
    session->world = *world;
    session->clock = ga_world_clock(*world);
    session->rank = rank;
    session->world_size = RANKS;
    for (int u = 0; u < UPDATES; u++) {
        int32_t kept = 0;
        for (int b = 0; b < BATCHES; b++) {
            ga_batch *batch = stages_begin(session);
            look_at(on, batch);
            report_seconds(batch, 0.1);
            kept += batch->kept_count;
            (void)ga_batch_seconds(batch, 0, rank == 1 ? 0.01 * (double)ga_batch_row_steps(batch) : 0.0);
        }
        double advantages[RANKS * BATCHES * STAGES_ROWS];
        (void)stages_end_update(session, advantages);
        session->clock->sleep_seconds(session->clock->user, 0.1 * kept);
        on->strategies[u][rank] = session->strategy;
    }
    on->ended_seconds[rank] = ga_clock_now(session->clock);
    on->step_seconds[rank] = session->metrics.guard.seconds.step;
    (void)snprintf(on->reasons[rank], sizeof on->reasons[rank], "%s", session->metrics.guard.reason);
    *world = session->world;
    session->world = NULL;
}

static double lose_one(void *user, int32_t from, int32_t to, uint64_t number) {
    const play *on = user;
    return from == 1 && to == 0 && number == on->lost ? -1.0 : 1e-6;
}

static play *run_play(bool shared, uint64_t lost) {
    play *on = calloc(1, sizeof *on);
    assert_non_null(on);
    on->shared = shared;
    on->lost = lost;
    stages_job maker = {0};
    char path[1024], yaml[2048];
    stages_make_probe(path, sizeof path, &maker);
    (void)snprintf(yaml, sizeof yaml,
        "mode: auto\ndecision: {step: auto, candidates: [2, 3, 4], keep: auto, audit: 0.2}\n"
        "probe: {inputs: [%s], path: %s}\nguard: {lost_extremes_max: 0.7}\n"
        "retrain: {every_updates: 1000}\nrecord: {enabled: %s}\n",
        shared ? "x0" : "preview", shared ? "null" : path, shared ? "true" : "false");
    for (int rank = 0; rank < RANKS; rank++) {
        stages_open(&on->jobs[rank], yaml);
    }
    const ga_world_script script = {.size = RANKS, .delay_seconds = lose_one, .user = on};
    ga_error error;
    test_ok(ga_world_script_run(&script, play_rank, on, &error), &error);
    for (int rank = 0; rank < RANKS; rank++) {
        ga_session_close(&on->jobs[rank].session, 1);
        test_folder_remove(on->jobs[rank].folder);
    }
    test_folder_remove(maker.folder);
    return on;
}

static bool same(const ga_strategy *a, const ga_strategy *b) {
    return a->prune == b->prune && a->stage_count == b->stage_count && a->candidate[0] == b->candidate[0] &&
           a->keep[0] == b->keep[0] && a->explore_share == b->explore_share;
}

static void two_ranks_come_to_the_same_verdict(void **state) {
    (void)state;
    play *on = run_play(false, 0);
    int32_t pruned = 0;
    for (int u = 0; u < UPDATES; u++) {
        assert_true(same(&on->strategies[u][0], &on->strategies[u][1]));
        pruned += on->strategies[u][0].prune;
    }
    assert_true(pruned > UPDATES / 2);
    assert_string_equal(on->reasons[0], on->reasons[1]);
    assert_true(fabs(on->step_seconds[0] - 0.02) < 1e-6); /* the slower rank's */
    assert_true(on->step_seconds[0] == on->step_seconds[1]);
    free(on);
}

static void shared_states_are_refused_by_all(void **state) {
    (void)state;
    play *on = run_play(true, 0);
    for (int u = 0; u < UPDATES; u++) {
        assert_false(on->strategies[u][0].prune || on->strategies[u][1].prune);
    }
    assert_string_equal(on->reasons[0], on->reasons[1]);
    assert_non_null(strstr(on->reasons[0], "set decision.step behind the first noisy step"));
    free(on);
}

/* An update counts four collectives whatever is in force: one for each batch, outcomes, probe. A rank that
 * misses outcomes knows less than its peer, and rank 0's word counts. */
static void a_rank_that_missed_an_update_does_not_go_its_own_way(void **state) {
    (void)state;
    for (uint64_t update = 2; update < 12; update += 3) {
        play *on = run_play(false, 4 * update + 3);
        int32_t pruned = 0;
        for (int u = 0; u < UPDATES; u++) {
            assert_int_equal(on->strategies[u][0].prune, on->strategies[u][1].prune);
            pruned += on->strategies[u][0].prune;
        }
        assert_true(on->strategies[UPDATES - 1][0].prune && pruned > UPDATES / 4);
        free(on);
    }
}

/* The update in which pruning comes into force, heard of by one rank alone: for one update their batches
 * differ, and from the next on they are the same again; nobody waits longer than the deadlines say. */
static void a_rank_that_missed_the_switch_follows_one_update_later(void **state) {
    (void)state;
    play *whole = run_play(false, 0);
    int32_t first = 0;
    while (first < UPDATES && !whole->strategies[first][0].prune) {
        first++;
    }
    assert_true(first > 2 && first < UPDATES - 2);
    play *on = run_play(false, 4 * (uint64_t)first + 3);
    assert_false(on->strategies[first][0].prune);
    assert_true(on->strategies[first][1].prune);
    for (int u = first + 1; u < UPDATES; u++) {
        assert_true(same(&on->strategies[u][0], &on->strategies[u][1]));
    }
    assert_true(on->strategies[first + 1][0].prune);
    /* 60 s at the outcomes, 10 s at the probe, 10 s at the first decision behind */
    const double longer = on->ended_seconds[1] - whole->ended_seconds[1];
    assert_true(longer < 90.0);
    free(whole);
    free(on);
}

/* The host orders rows in a way that is not known: nothing is learned, and looking is bounded all the same.
 */
static void an_update_that_is_not_matched_bounds_exploration(void **state) {
    (void)state;
    stages_job j = {0};
    test_clock clock;
    test_clock_init(&clock);
    stages_open(&j, LEARNS);
    j.session->clock = &clock.clock;
    for (int i = 0; i < 24; i++) {
        int32_t counts[STAGES_LOOKS_MAX] = {0};
        report_seconds(stages_roll(&j, counts), 60.0);
        const double odd[STAGES_ROWS + 1] = {0};
        double advantages[STAGES_ROWS + 1];
        const int64_t groups[STAGES_ROWS + 1] = {0};
        const ga_update_options options = {.size = sizeof options,
            .count = STAGES_ROWS + 1,
            .groups = groups,
            .rewards = odd,
            .host_advantages = odd,
            .prunable = 1};
        assert_int_equal(ga_update_end(j.session, &options, advantages, NULL), GA_ERR_DATA);
        clock.now_seconds += 1.0;
    }
    assert_true(j.session->strategy.explore_share < 0.1);
    stages_close(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_learns_then_prunes),
        cmocka_unit_test(an_expensive_preview_is_refused),
        cmocka_unit_test(a_host_that_gets_no_faster_is_not_pruned),
        cmocka_unit_test(noisy_seconds_do_not_flap),
        cmocka_unit_test(two_ranks_come_to_the_same_verdict),
        cmocka_unit_test(shared_states_are_refused_by_all),
        cmocka_unit_test(a_rank_that_missed_an_update_does_not_go_its_own_way),
        cmocka_unit_test(a_rank_that_missed_the_switch_follows_one_update_later),
        cmocka_unit_test(an_update_that_is_not_matched_bounds_exploration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
