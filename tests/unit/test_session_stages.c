/* Batches with several looks: racing, candidates, resting. */
#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/record/reader.h"
#include "grpo_accel/record/verify.h"
#include "grpo_accel/session/session.h"
#include "tests/unit/stages.h"

static ga_record_table *read_record(stages_job *j) {
    ga_session_close(&j->session, 1);
    char *run = test_path(j->folder, "run");
    ga_record_table *table = NULL;
    ga_error error = {0};
    test_ok(ga_record_read(run, NULL, &table, &error), &error);
    ga_record_report report;
    test_ok(ga_record_verify(run, &report, &error), &error);
    assert_int_equal(report.count, 0);
    ga_record_report_free(&report);
    free(run);
    return table;
}

/* ---- alone ---- */

#define RANDOM(step, keep)                                                                                   \
    "mode: prune\ndecision: {step: " step ", keep: " keep ", policy: random, audit: 0}\n"                    \
    "probe: {inputs: [preview]}\nretrain: {every_updates: 0}\n"

static void the_first_update_looks_and_stops_nothing(void **state) {
    (void)state;
    stages_job j = {0};
    stages_open(&j, RANDOM("[2, 4]", "[0.75, 0.4]"));
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_update(&j, counts);
    assert_int_equal(counts[0], STAGES_ROWS);
    assert_int_equal(counts[1], STAGES_ROWS);
    assert_int_equal(j.warnings, 0);
    stages_close(&j);
}

static void two_stages_by_chance_multiply_their_shares(void **state) {
    (void)state;
    stages_job j = {0};
    double advantages[STAGES_ROWS];
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_open(&j, RANDOM("[2, 4]", "[0.75, 0.4]"));
    stages_update(&j, counts);
    for (int i = 0; i < 10; i++) {
        ga_batch *batch = stages_roll(&j, counts);
        assert_int_equal(counts[0], 9); /* ¾ of 12 */
        assert_int_equal(counts[1], 5); /* .4 of 12, rounded */
        assert_true(batch->audited);
        assert_int_equal(ga_batch_row_steps(batch), 5 * STAGES_STEPS + 4 * 5 + 3 * 3);
        assert_int_equal(ga_batch_rows_observed(batch), STAGES_ROWS + 9);
        for (int32_t row = 0; row < STAGES_ROWS; row++) {
            const ga_outcome outcome = ga_batch_outcome(batch, row);
            const bool met_both = batch->looks_met[row] == 2;
            const double expected = met_both ? 0.75 * (5.0 / 9.0) : 0.75;
            assert_true(fabs(outcome.inclusion - expected) < 1e-12);
            assert_int_equal(outcome.steps_run, batch->kept[row] ? STAGES_STEPS : met_both ? 5 : 3);
            assert_int_equal(outcome.observed, 1);
        }
        test_ok(stages_end_update(j.session, advantages), NULL);
        int32_t zeros = 0;
        for (int32_t row = 0; row < STAGES_ROWS; row++) {
            zeros += advantages[row] == 0.0;
        }
        assert_int_equal(zeros, 7);
    }
    assert_int_equal(j.warnings, 0);
    stages_close(&j);
}

static void a_record_has_what_each_look_saw(void **state) {
    (void)state;
    stages_job j = {0};
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_open(&j, RANDOM("[2, 3, 5]", "[0.75, 0.5, 0.25]"));
    for (int i = 0; i < 6; i++) {
        stages_update(&j, counts);
    }
    ga_record_table *table = read_record(&j);
    assert_int_equal(table->layout.candidate_count, 3);
    static const int32_t steps[] = {2, 3, 5};
    for (int32_t c = 0; c < 3; c++) {
        assert_int_equal(table->layout.candidate_steps[c], steps[c]);
        assert_true(table->layout.candidate_sigmas[c] == stages_sigmas[steps[c]]);
    }
    int32_t stopped[6] = {0};
    assert_int_equal(table->rows, 6 * STAGES_ROWS);
    for (int64_t row = STAGES_ROWS; row < table->rows; row++) {
        const int32_t step = table->step[row];
        stopped[step] += table->kept[row] == 0;
        assert_int_equal(isfinite(table->reward[row]) != 0, table->kept[row]);
        for (int32_t c = 0; c < 3; c++) {
            const bool met = steps[c] <= step;
            assert_int_equal(table->complete[row * 3 + c] != 0, met);
            if (met) {
                const ga_half half = table->features[row * 3 + c];
                const double seen = stages_preview(0, table->batch[row], table->index[row], steps[c]);
                assert_true(fabs((double)ga_half_to_float(half) - seen) < 2e-3 * (1 + fabs(seen)));
            }
        }
        const double inclusion = (double)table->inclusion[row];
        const double expected[] = {0.75, 0.5, 0.25};
        assert_true(fabs(inclusion - expected[step == 2 ? 0 : step == 3 ? 1 : 2]) < 1e-6);
    }
    assert_int_equal(stopped[2], 5 * 3);
    assert_int_equal(stopped[3], 5 * 3);
    assert_int_equal(stopped[5], 5 * 3);
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

/* The second look is not seen: what runs then runs to its end, and what the first decided stands. */
static void a_look_without_signals_keeps_what_still_runs(void **state) {
    (void)state;
    stages_job j = {0};
    double advantages[STAGES_ROWS];
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_open(&j, RANDOM("[2, 3, 4]", "[0.75, 0.5, 0.25]"));
    stages_update(&j, counts);
    ga_batch *batch = stages_begin(j.session);
    assert_non_null(batch);
    ga_decision decision = {.size = sizeof decision};
    ga_error error;
    test_ok(stages_observe(batch), NULL);
    test_ok(ga_batch_decide(batch, &decision, &error), &error);
    assert_int_equal(decision.kept_count, 9);
    double scores[STAGES_ROWS] = {0};
    assert_int_equal(ga_batch_observe_preview(batch, scores, &error), GA_OK);
    batch->look[1].observed = 0; /* as if nothing had come */
    test_ok(ga_batch_decide(batch, &decision, &error), &error);
    assert_int_equal(decision.kept_count, 9);
    assert_string_equal(decision.reason, "no scores");
    assert_int_equal(decision.next_step, 4);
    test_ok(stages_observe(batch), NULL);
    test_ok(ga_batch_decide(batch, &decision, &error), &error);
    assert_int_equal(decision.kept_count, 9); /* the third does not make up for it */
    assert_int_equal(decision.pruned, 1);
    assert_int_equal(decision.next_step, -1);
    assert_int_equal(ga_batch_decide(batch, &decision, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_observe_preview(batch, scores, &error), GA_ERR_ARGUMENT);
    for (int32_t row = 0; row < STAGES_ROWS; row++) {
        assert_true(fabs(batch->inclusion[row] - 0.75) < 1e-12);
    }
    assert_int_equal(j.warnings, 1);
    test_ok(stages_end_update(j.session, advantages), NULL);
    stages_update(&j, counts);
    assert_int_equal(counts[2], 3); /* the next batch is as ever */
    stages_close(&j);
}

static void a_batch_may_rest(void **state) {
    (void)state;
    stages_job j = {0};
    double advantages[4 * STAGES_ROWS];
    int32_t counts[STAGES_LOOKS_MAX] = {0}, rested = 0;
    bool rests[40];
    stages_open(&j, "mode: shadow\ndecision: {step: [2, 4]}\nprobe: {inputs: [preview]}\n"
                    "retrain: {every_updates: 0}\n");
    j.session->strategy.explore_share = 0.5;
    for (int i = 0; i < 40; i++) {
        ga_batch *batch = stages_roll(&j, counts);
        rests[i] = batch->look_count == 0;
        rested += rests[i];
        if (rests[i]) {
            ga_decision decision = {.size = sizeof decision};
            ga_error error;
            double scores[STAGES_ROWS] = {0};
            assert_string_equal(batch->reason, "rests");
            assert_int_equal(ga_batch_decision_step(batch), -1);
            assert_int_equal(ga_batch_decide(batch, &decision, &error), GA_ERR_ARGUMENT);
            assert_int_equal(ga_batch_observe_preview(batch, scores, &error), GA_ERR_ARGUMENT);
            assert_int_equal(ga_batch_outcome(batch, 0).observed, 0);
        }
        if (i % 4 == 3) {
            test_ok(stages_end_update(j.session, advantages), NULL);
        }
    }
    assert_true(rested >= 8 && rested <= 32);
    for (uint64_t i = 0; i < 40; i++) { /* drawn by (seed, batch), whatever happened since */
        assert_int_equal(ga_strategy_look(j.session, i).count == 0, rests[i]);
    }
    ga_record_table *table = read_record(&j);
    for (int64_t row = 0; row < table->rows; row++) {
        assert_int_equal(table->kept[row], 1);
        assert_int_equal(table->audit[row], 1);
        assert_int_equal(table->complete[row * 2] == 0, rests[table->batch[row]]);
        assert_int_equal(table->complete[row * 2 + 1] == 0, rests[table->batch[row]]);
        assert_int_equal(table->step[row], rests[table->batch[row]] ? 2 : 4);
    }
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

/* Hundreds of batches with three looks take no more memory than the first few. */
static void memory_stays_flat(void **state) {
    (void)state;
    stages_job j = {0};
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    size_t held = 0;
    stages_open(&j, RANDOM("[2, 3, 5]", "[0.75, 0.5, 0.25]"));
    for (int i = 0; i < 300; i++) {
        stages_update(&j, counts);
        assert_int_equal(j.session->spare_arena_count, 1);
        const size_t now = ga_arena_held_bytes(j.session->spare_arenas[0]);
        held = i == 5 ? now : held;
        assert_true(i < 5 || now == held);
    }
    stages_close(&j);
}

/* ---- strategies ---- */

static void shares_never_bring_rows_back(void **state) {
    (void)state;
    const ga_strategy strategy = {.stage_count = 3, .keep = {0.5, 0.75, 0.01}};
    assert_int_equal(ga_strategy_keep_count(&strategy, 0, 9), 5);
    assert_int_equal(ga_strategy_keep_count(&strategy, 1, 9), 5);
    assert_int_equal(ga_strategy_keep_count(&strategy, 2, 9), 1);
    assert_int_equal(ga_strategy_keep_count(&strategy, 0, 1), 1);
}

static void candidates_spread_over_sigma(void **state) {
    (void)state;
    int32_t steps[GA_CANDIDATES_MAX];
    double sigmas[21];
    for (int i = 0; i <= 20; i++) {
        sigmas[i] = 1.0 - i / 20.0;
    }
    ga_batch_options options = {
        .steps_total = 20, .sigmas = sigmas, .noise_begin_step = 1, .noise_end_step = 4};
    assert_int_equal(ga_strategy_candidates(&options, steps), 4);
    assert_int_equal(steps[0], 4);  /* behind the noise */
    assert_int_equal(steps[3], 12); /* half of the sixteen that remain */
    for (int i = 1; i < 4; i++) {
        const int32_t apart = steps[i] - steps[i - 1];
        assert_true(apart == 2 || apart == 3);
    }
    options.noise_begin_step = 0;
    options.noise_end_step = 20; /* all steps are noisy: nothing to wait for */
    assert_int_equal(ga_strategy_candidates(&options, steps), 4);
    assert_int_equal(steps[0], 1);
    /* a schedule that falls late has its candidates late */
    for (int i = 0; i <= 20; i++) {
        sigmas[i] = 1.0 - pow(i / 20.0, 4);
    }
    assert_int_equal(ga_strategy_candidates(&options, steps), 4);
    assert_true(steps[1] >= 6);
    options = (ga_batch_options){.steps_total = 2, .sigmas = stages_sigmas, .noise_begin_step = -1};
    assert_int_equal(ga_strategy_candidates(&options, steps), 1);
    options.steps_total = 1;
    assert_int_equal(ga_strategy_candidates(&options, steps), 0);
}

static void a_run_finds_its_candidates(void **state) {
    (void)state;
    stages_job j = {0};
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_open(&j, "mode: shadow\ndecision: {step: auto}\nprobe: {inputs: [preview]}\nretrain: "
                    "{every_updates: 0}\n");
    assert_int_equal(ga_session_decision_step(j.session), -1);
    stages_update(&j, counts);
    assert_int_equal(ga_session_decision_step(j.session), 1);
    assert_int_equal(j.session->shapes.candidate_count, 3); /* steps 1 to 3 of 6 */
    assert_int_equal(counts[2], STAGES_ROWS);
    stages_close(&j);
}

/* ---- with a probe ---- */

/* π of a chain: at each stage (1 − ε)·π⁰ + ε·c/B, and c/B alone once a decision was an audit. */
static void assert_inclusion(const ga_batch *batch, int32_t row, double audit) {
    static const int32_t counts[] = {STAGES_ROWS, 9, 6, 3};
    double low = 1, high = 1;
    for (int32_t stage = 0; stage < batch->looks_met[row]; stage++) {
        const double share = (double)counts[stage + 1] / counts[stage];
        const bool chance = stage > 0 && batch->audited;
        low *= chance ? share : audit * share;
        high *= chance ? share : 1 - audit + audit * share;
    }
    assert_true(batch->inclusion[row] >= low - 1e-12 && batch->inclusion[row] <= high + 1e-12);
    const bool by_order = !batch->by_chance;
    if (by_order && batch->kept[row] != 0) {
        assert_true(fabs(batch->inclusion[row] - high) < 1e-12);
    }
}

static void racing_keeps_the_extremes(void **state) {
    (void)state;
    stages_job maker = {0}, j = {0};
    char path[1024], yaml[2048];
    double advantages[STAGES_ROWS], kept_square = 0, all_square = 0;
    int32_t counts[STAGES_LOOKS_MAX] = {0}, audits = 0;
    stages_make_probe(path, sizeof path, &maker);
    stages_racing_yaml(yaml, sizeof yaml, path, "0.25");
    stages_open(&j, yaml);
    stages_update(&j, counts);
    assert_non_null(j.session->probe);
    for (int i = 0; i < 40; i++) {
        ga_batch *batch = stages_roll(&j, counts);
        assert_int_equal(counts[0], 9);
        assert_int_equal(counts[1], 6);
        assert_int_equal(counts[2], 3);
        audits += batch->audited;
        for (int32_t row = 0; row < STAGES_ROWS; row++) {
            const double deviation = stages_reward(0, batch->number, row) - 0.5;
            const ga_outcome outcome = ga_batch_outcome(batch, row);
            assert_inclusion(batch, row, 0.25);
            for (int32_t c = 0; c < GA_CANDIDATES_MAX; c++) {
                assert_int_equal(isfinite(outcome.candidate_mean[c]) != 0, c < batch->looks_met[row]);
            }
            assert_true(outcome.mean == outcome.candidate_mean[batch->looks_met[row] - 1]);
            if (!batch->by_chance) {
                kept_square += batch->kept[row] ? deviation * deviation / 3 : 0;
                all_square += deviation * deviation / STAGES_ROWS;
            }
        }
        test_ok(stages_end_update(j.session, advantages), NULL);
    }
    assert_true(audits >= 3 && audits <= 20);
    assert_true(kept_square > 1.6 * all_square);
    assert_int_equal(j.warnings, 0);
    ga_record_table *table = read_record(&j);
    for (int64_t row = STAGES_ROWS; row < table->rows; row++) {
        for (int32_t c = 0; c < 3; c++) {
            const bool met = table->layout.candidate_steps[c] <= table->step[row];
            assert_int_equal(isfinite(table->prediction[row * 3 + c]) != 0, met);
            assert_int_equal(isfinite(table->variance[row * 3 + c]) != 0, met);
        }
    }
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
    test_folder_remove(maker.folder);
}

/* Kept rows weighed by 1/π sum to the whole, whatever was predicted: over many seeds. */
static void the_product_is_the_chance_to_be_kept(void **state) {
    (void)state;
    stages_job maker = {0}, j = {0};
    char path[1024], yaml[2048];
    double advantages[STAGES_ROWS], sum = 0, square = 0;
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_make_probe(path, sizeof path, &maker);
    stages_racing_yaml(yaml, sizeof yaml, path, "0.5");
    stages_open(&j, yaml);
    stages_update(&j, counts);
    const int draws = 1500;
    for (int i = 0; i < draws; i++) {
        ga_batch *batch = stages_roll(&j, counts);
        double whole = 0, estimate = 0;
        for (int32_t row = 0; row < STAGES_ROWS; row++) {
            const double value = stages_reward(0, batch->number, row);
            whole += value / STAGES_ROWS;
            estimate += batch->kept[row] ? value / batch->inclusion[row] / STAGES_ROWS : 0;
        }
        sum += estimate - whole;
        square += (estimate - whole) * (estimate - whole);
        test_ok(stages_end_update(j.session, advantages), NULL);
    }
    const double mean = sum / draws, error = sqrt((square / draws - mean * mean) / draws);
    if (!(fabs(mean) < 3.5 * error)) {
        fail_msg("bias %g with standard error %g", mean, error);
    }
    stages_close(&j);
    test_folder_remove(maker.folder);
}

static void a_probe_for_one_step_does_not_race(void **state) {
    (void)state;
    stages_job maker = {0}, j = {0};
    char path[1024], yaml[2048];
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_make_probe(path, sizeof path, &maker);
    (void)snprintf(yaml, sizeof yaml,
        "mode: prune\ndecision: {step: [2, 5], keep: [0.5, 0.25]}\nprobe: {inputs: [preview], path: %s}\n"
        "retrain: {every_updates: 0}\n",
        path);
    stages_open(&j, yaml);
    stages_update(&j, counts);
    assert_null(j.session->probe);
    assert_non_null(strstr(j.warning, "nothing is pruned until a new probe is trained"));
    stages_update(&j, counts);
    assert_int_equal(counts[0], STAGES_ROWS);
    assert_int_equal(counts[1], STAGES_ROWS);
    stages_close(&j);
    test_folder_remove(maker.folder);
}

/* The newest rows were pruned at one step: the window grows until the others were seen, too, and without them
 * there would be no probe, as below. */
static void a_training_sees_every_step_that_its_probe_is_for(void **state) {
    (void)state;
    stages_job j = {0};
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_open(&j, "mode: shadow\ndecision: {step: [2, 3, 4]}\nprobe: {inputs: [preview]}\n"
                    "retrain: {every_updates: 36, window_rows: 96, background: false}\n");
    for (int i = 0; i < 38; i++) {
        j.session->strategy.prune = i >= 12 && i < 36;
        j.session->strategy.stage_count = 1;
        j.session->strategy.candidate[0] = 0;
        stages_update(&j, counts);
    }
    assert_non_null(j.session->probe);
    stages_close(&j);
}

/* Where the record never saw a step often enough there is no probe that claims it. */
static void a_step_that_was_never_seen_gives_no_probe(void **state) {
    (void)state;
    stages_job j = {0};
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_open(&j, "mode: shadow\ndecision: {step: [2, 3, 4]}\nprobe: {inputs: [preview]}\n"
                    "retrain: {every_updates: 24, window_rows: 96, background: false}\n");
    for (int i = 0; i < 26; i++) {
        j.session->strategy.prune = i >= 2 && i < 24;
        j.session->strategy.stage_count = 1;
        j.session->strategy.candidate[0] = 0;
        stages_update(&j, counts);
    }
    assert_null(j.session->probe);
    stages_close(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_update_looks_and_stops_nothing),
        cmocka_unit_test(two_stages_by_chance_multiply_their_shares),
        cmocka_unit_test(a_record_has_what_each_look_saw),
        cmocka_unit_test(a_look_without_signals_keeps_what_still_runs),
        cmocka_unit_test(a_batch_may_rest),
        cmocka_unit_test(memory_stays_flat),
        cmocka_unit_test(shares_never_bring_rows_back),
        cmocka_unit_test(candidates_spread_over_sigma),
        cmocka_unit_test(a_run_finds_its_candidates),
        cmocka_unit_test(racing_keeps_the_extremes),
        cmocka_unit_test(the_product_is_the_chance_to_be_kept),
        cmocka_unit_test(a_probe_for_one_step_does_not_race),
        cmocka_unit_test(a_training_sees_every_step_that_its_probe_is_for),
        cmocka_unit_test(a_step_that_was_never_seen_gives_no_probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
