/* The guard over long runs of a made-up job: what it turns on, what it refuses, how soon it turns back. */
#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/session/watch.h"

enum {
    RANKS = 4,
    ROWS = 9,
    GROUP = 12,
    BATCHES = 2,
    BATCH_ROWS = RANKS * ROWS,
    UPDATE_ROWS = BATCHES * BATCH_ROWS,
    STEPS = 20,
    CANDIDATES = 4
};

static const int32_t STEPS_OF[CANDIDATES] = {3, 5, 7, 9};

/* A job: how well its probe predicts after each step, and what things cost. */
typedef struct job {
    ga_watch *watch;
    ga_watch_options options;
    ga_strategy strategy;
    ga_watch_report report;
    ga_arena *arena;
    ga_random random;
    double rho[CANDIDATES]; /* correlation that predictions have */
    double claimed;         /* the spread that they have, if > 0, whatever their correlation */
    ga_seconds seconds;
    bool has_probe;
    uint32_t probe_version, shared_candidates;
    ga_drift scores;
    uint32_t update;
    uint64_t batch;
    int64_t looked_rows, rows, kept_rows;
    bool rests; /* no batch is looked at while nothing is pruned */
    int32_t switches;
    char lines[4][512]; /* the first ones */
    int32_t line_count;
} job;

static ga_watch_options options_of(ga_watch_kind kind) {
    return (ga_watch_options){.kind = kind,
        .ranks = RANKS,
        .rows = ROWS,
        .steps_total = STEPS,
        .candidate_count = CANDIDATES,
        .candidate_steps = {3, 5, 7, 9},
        .told = {.stage_count = 1, .candidate = {0}, .keep = {0.5}, .explore_share = 1.0},
        .step_open = true,
        .keep_open = true,
        .plan = {.policy = GA_POLICY_EXTREMES, .audit_share = 0.1, .seed = 5, .std_kind = GA_STD_GLOBAL},
        .guard =
            {.confidence = 0.95, .enter_margin = 0.02, .parts_min = 12, .drift_max = 0.25, .patience = 2},
        .estimator = {.clip = 10, .epsilon = 1e-4},
        .lost_extremes_max = 0.4,
        .slowdown_max = 0.02,
        .rows_wanted = 192,
        .on_drift = true};
}

/* Training takes half of an iteration; a look costs a tenth of a step. */
static ga_seconds usual_seconds(void) {
    return (ga_seconds){.step = 0.02,
        .signal = {0.002, 0.002, 0.002, 0.002},
        .reward = 0.02,
        .train = 0.42,
        .fixed = 0.0,
        .own = 0.0002};
}

static void open_job(job *j, ga_watch_options options, uint64_t seed) {
    ga_error error;
    memset(j, 0, sizeof *j);
    j->options = options;
    test_ok(ga_watch_create(&options, &j->watch, &error), &error);
    j->arena = ga_arena_create(0);
    j->random = ga_random_make(test_seed(), seed, GA_STREAM_TEST);
    j->seconds = usual_seconds();
    j->has_probe = true;
    j->probe_version = 1;
    j->strategy = options.told;
    j->strategy.prune = options.kind == GA_WATCH_PRUNE;
    j->scores = (ga_drift){NAN, NAN, 0};
    const double rho[CANDIDATES] = {0.3, 0.5, 0.7, 0.8};
    memcpy(j->rho, rho, sizeof rho);
}

static void close_job(job *j) {
    ga_watch_destroy(&j->watch);
    ga_arena_destroy(&j->arena);
}

/* Rewards and predictions of a batch, dealt to ranks; every group with a spread of its own. */
static void roll_rows(job *j, ga_outcome *rows) {
    double mean[BATCH_ROWS / GROUP], spread[BATCH_ROWS / GROUP];
    for (int g = 0; g < BATCH_ROWS / GROUP; g++) {
        mean[g] = ga_random_normal(&j->random);
        spread[g] = 0.3 + ga_random_uniform(&j->random);
    }
    int32_t deal[BATCH_ROWS];
    for (int32_t i = 0; i < BATCH_ROWS; i++) {
        deal[i] = i;
    }
    ga_random_shuffle(&j->random, deal, BATCH_ROWS);
    for (int32_t i = 0; i < BATCH_ROWS; i++) {
        const int g = deal[i] % (BATCH_ROWS / GROUP);
        const double t = ga_random_normal(&j->random);
        rows[i] = (ga_outcome){.group = j->batch * 100 + (uint64_t)g,
            .reward = mean[g] + spread[g] * t,
            .inclusion = 1.0,
            .mean = NAN,
            .variance = NAN,
            .rank = i / ROWS,
            .kept = 1,
            .audit = 1};
        for (int c = 0; c < CANDIDATES; c++) {
            const double rho = j->rho[c], size = j->claimed > 0 ? j->claimed : rho;
            const double z = rho * t + sqrt(1 - rho * rho) * ga_random_normal(&j->random);
            rows[i].candidate_mean[c] = (float)(mean[g] + spread[g] * size * z);
        }
    }
}

static void look_everywhere(job *j, ga_outcome *rows) {
    const bool looks = ga_random_uniform(&j->random) < j->strategy.explore_share && !j->rests;
    for (int32_t i = 0; i < BATCH_ROWS; i++) {
        rows[i].observed = looks;
        j->looked_rows += looks * CANDIDATES;
        for (int c = 0; c < CANDIDATES; c++) {
            rows[i].candidate_mean[c] = looks && j->has_probe ? rows[i].candidate_mean[c] : NAN;
        }
        rows[i].mean = rows[i].candidate_mean[CANDIDATES - 1];
        rows[i].variance = 0.3F;
    }
}

/* One stage of the strategy; what an earlier one stopped has no prediction at this step. */
static void stop_rows(job *j, ga_outcome *rows, int32_t stage, bool *chance) {
    ga_candidate candidates[BATCH_ROWS];
    int32_t place[BATCH_ROWS], count = 0, index = 0;
    for (int32_t i = 0; i < BATCH_ROWS; i++) {
        index = i % ROWS == 0 ? 0 : index;
        if (rows[i].kept) {
            rows[i].mean = rows[i].candidate_mean[j->strategy.candidate[stage]];
            place[count] = i;
            candidates[count++] = (ga_candidate){rows[i].group, rows[i].mean, 0.3F, rows[i].rank, index++};
        }
    }
    ga_plan_options options = j->options.plan;
    options.ranks = RANKS;
    options.keep_per_rank = ga_strategy_keep_count(&j->strategy, stage, ROWS);
    options.batch = j->batch;
    options.stage = stage;
    options.chance_before = *chance;
    ga_plan plan;
    ga_error error;
    test_ok(ga_plan_make(&options, candidates, count, j->arena, &plan, &error), &error);
    for (int32_t i = 0; i < count; i++) {
        rows[place[i]].kept = plan.kept[i];
        rows[place[i]].inclusion *= plan.inclusion[i];
    }
    *chance |= plan.audited;
}

static void prune_batch(job *j, ga_outcome *rows) {
    bool chance = false, first = false;
    for (int32_t i = 0; i < BATCH_ROWS; i++) {
        float seen[GA_CANDIDATES_MAX] = {NAN, NAN, NAN, NAN};
        for (int32_t stage = 0; stage < j->strategy.stage_count; stage++) {
            seen[j->strategy.candidate[stage]] = rows[i].candidate_mean[j->strategy.candidate[stage]];
        }
        memcpy(rows[i].candidate_mean, seen, sizeof seen);
        rows[i].observed = 1;
        rows[i].variance = 0.3F;
    }
    for (int32_t stage = 0; stage < j->strategy.stage_count; stage++) {
        stop_rows(j, rows, stage, &chance);
        first = stage == 0 ? chance : first;
        for (int32_t i = 0; i < BATCH_ROWS && stage + 1 < j->strategy.stage_count; i++) {
            if (!rows[i].kept) {
                rows[i].candidate_mean[j->strategy.candidate[stage + 1]] = NAN;
            }
        }
    }
    for (int32_t i = 0; i < BATCH_ROWS; i++) {
        rows[i].audit = first;
        rows[i].reward = rows[i].kept ? rows[i].reward : (double)NAN;
    }
}

/* Rank after rank, batch after batch, as the host has them. */
static void place_rows(const ga_outcome *rows, int32_t batch, ga_outcome *all) {
    for (int32_t i = 0; i < BATCH_ROWS; i++) {
        ga_outcome *to = &all[(i / ROWS * BATCHES + batch) * ROWS + i % ROWS];
        *to = rows[i];
        to->index = batch * ROWS + i % ROWS;
    }
}

static void take(job *j, const ga_outcome *all, uint64_t first_batch) {
    const ga_watch_update update = {.update = j->update,
        .outcomes = all,
        .count = UPDATE_ROWS,
        .batches = BATCHES,
        .first_batch = first_batch,
        .seconds = j->seconds,
        .has_probe = j->has_probe,
        .probe_version = j->probe_version,
        .shared_candidates = j->shared_candidates,
        .scores = j->scores,
        .features = {NAN, NAN, 0},
        .tau2 = 0.01,
        .sigma_r2 = 0.3};
    ga_error error;
    test_ok(ga_watch_take(j->watch, &update, j->arena, &j->report, &error), &error);
    j->strategy = j->report.strategy;
    j->switches += j->report.changed;
    if (j->report.line[0] != '\0' && j->line_count < 4) {
        (void)strcpy(j->lines[j->line_count++], j->report.line);
    }
}

static void update(job *j) {
    ga_outcome all[UPDATE_ROWS], rows[BATCH_ROWS];
    const uint64_t first = j->batch;
    for (int32_t b = 0; b < BATCHES; b++) {
        roll_rows(j, rows);
        if (j->strategy.prune && j->has_probe) {
            prune_batch(j, rows);
        } else {
            look_everywhere(j, rows);
        }
        for (int32_t i = 0; i < BATCH_ROWS; i++) {
            j->rows++;
            j->kept_rows += rows[i].kept;
        }
        place_rows(rows, b, all);
        j->batch++;
    }
    take(j, all, first);
    j->update++;
    ga_arena_reset(j->arena);
}

/* Updates until the strategy prunes, or no longer does; −1: not within `most`. */
static int32_t updates_until(job *j, bool prunes, int32_t most) {
    for (int32_t i = 1; i <= most; i++) {
        update(j);
        if (j->strategy.prune == prunes) {
            return i;
        }
    }
    return -1;
}

static void a_good_probe_turns_pruning_on_and_keeps_it(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        job j;
        open_job(&j, options_of(GA_WATCH_AUTO), seed);
        const int32_t after = updates_until(&j, true, 200);
        assert_true(after > 0);
        assert_non_null(strstr(j.lines[j.line_count - 1], "pruning from the next batch on: keeping"));
        int32_t shadow = 0;
        for (int i = 0; i < 200; i++) {
            update(&j);
            shadow += !j.strategy.prune;
        }
        assert_true(j.report.verdict.gain > 1.1);
        assert_true(shadow <= 30);
        assert_true((double)j.kept_rows < 0.75 * (double)j.rows);
        close_job(&j);
    }
}

static void a_random_probe_never_does(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        job j;
        open_job(&j, options_of(GA_WATCH_AUTO), 10 + seed);
        memset(j.rho, 0, sizeof j.rho);
        j.claimed = 0.6; /* and it thinks a lot of itself */
        assert_int_equal(updates_until(&j, true, 300), -1);
        assert_int_equal(j.switches, 0);
        /* every look is paid out of the two hundredths */
        const double looking = (double)j.looked_rows * j.seconds.signal[0];
        assert_true(looking < 0.03 * (double)j.rows * (STEPS * j.seconds.step + j.seconds.reward));
        assert_true(looking > 0);
        close_job(&j);
    }
}

/* A window of w updates must lie behind the change with about z²/ρ_min² kept rows: here some 16 rows are kept
 * an update, so 16 updates and the patience bound it. */
static void a_probe_of_noise_is_found(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        job j;
        open_job(&j, options_of(GA_WATCH_AUTO), 20 + seed);
        assert_true(updates_until(&j, true, 200) > 0);
        for (int i = 0; i < 30; i++) {
            update(&j);
        }
        if (!j.strategy.prune) {
            assert_true(updates_until(&j, true, 200) > 0);
        }
        memset(j.rho, 0, sizeof j.rho);
        j.claimed = 0.7;
        const int32_t after = updates_until(&j, false, 40);
        assert_true(after > 0 && after <= 18);
        assert_int_equal(updates_until(&j, true, 200), -1); /* and it stays there */
        close_job(&j);
    }
}

static void expensive_looks_are_refused_with_the_reason(void **state) {
    (void)state;
    job j;
    open_job(&j, options_of(GA_WATCH_AUTO), 30);
    for (int c = 0; c < CANDIDATES; c++) {
        j.seconds.signal[c] = 40 * j.seconds.step;
    }
    assert_int_equal(updates_until(&j, true, 100), -1);
    assert_int_equal(j.line_count, 1);
    assert_non_null(strstr(j.lines[0], "nothing is pruned: "));
    assert_non_null(strstr(j.lines[0], "looking at a row costs 40.01 of its steps"));
    assert_true(j.strategy.explore_share < 0.02);
    close_job(&j);
}

static void shared_states_are_refused(void **state) {
    (void)state;
    job j;
    open_job(&j, options_of(GA_WATCH_AUTO), 31);
    j.shared_candidates = 0xF;
    assert_int_equal(updates_until(&j, true, 60), -1);
    assert_int_equal(j.report.verdict.answer, GA_GUARD_SHARED);
    assert_non_null(strstr(j.lines[0], "set decision.step behind the first noisy step"));
    j.shared_candidates = 0x3; /* later looks can tell rows apart */
    assert_true(updates_until(&j, true, 200) > 0);
    assert_true(j.strategy.candidate[0] >= 2);
    j.shared_candidates = 0xF;
    assert_int_equal(updates_until(&j, false, 3), 2);
    close_job(&j);
}

static void drift_asks_for_a_training_and_not_for_ever(void **state) {
    (void)state;
    job j;
    open_job(&j, options_of(GA_WATCH_SHADOW), 32);
    update(&j);
    assert_false(j.report.wants_training);
    j.scores = (ga_drift){0.4, 0.2, 300};
    int32_t asked[8] = {0}, count = 0;
    for (int i = 0; i < 100 && count < 8; i++) {
        update(&j);
        if (j.report.wants_training) {
            assert_string_equal(j.report.training_reason, "scores have drifted");
            asked[count++] = i;
        }
    }
    assert_true(count >= 2 && count <= 4);
    assert_true(asked[0] == 0 && asked[1] >= 10 && asked[2] - asked[1] > asked[1] - asked[0]);
    close_job(&j);
    ga_watch_options options = options_of(GA_WATCH_SHADOW);
    options.on_drift = false;
    open_job(&j, options, 32);
    j.scores = (ga_drift){0.4, 0.2, 300};
    for (int i = 0; i < 30; i++) {
        update(&j);
        assert_false(j.report.wants_training);
    }
    close_job(&j);
}

static void the_first_training_comes_when_enough_was_seen(void **state) {
    (void)state;
    job j;
    open_job(&j, options_of(GA_WATCH_AUTO), 33);
    j.has_probe = false;
    j.probe_version = 0;
    int32_t asked = 0;
    for (int i = 0; i < 60; i++) {
        update(&j);
        asked += j.report.wants_training;
    }
    assert_true(asked >= 1 && asked <= 6);
    assert_int_equal(j.report.verdict.answer, GA_GUARD_NO_PROBE);
    assert_false(j.strategy.prune);
    j.has_probe = true;
    j.probe_version = 1;
    assert_true(updates_until(&j, true, 200) > 0);
    close_job(&j);
}

/* No measured seconds: everything is looked at, nothing is pruned. */
static void without_seconds_nothing_is_known(void **state) {
    (void)state;
    job j;
    open_job(&j, options_of(GA_WATCH_AUTO), 34);
    j.seconds = (ga_seconds){.step = NAN, .reward = NAN, .train = NAN, .fixed = NAN, .own = NAN};
    assert_int_equal(updates_until(&j, true, 30), -1);
    assert_int_equal(j.report.verdict.answer, GA_GUARD_NO_COST);
    assert_true(j.strategy.explore_share == 1.0);
    close_job(&j);
}

static void mode_prune_does_as_told_and_warns_once(void **state) {
    (void)state;
    ga_watch_options options = options_of(GA_WATCH_PRUNE);
    options.step_open = options.keep_open = false;
    job j;
    open_job(&j, options, 35);
    memset(j.rho, 0, sizeof j.rho);
    j.claimed = 0.6;
    int32_t warnings = 0;
    for (int i = 0; i < 200; i++) {
        update(&j);
        warnings += j.report.warns;
        assert_true(j.strategy.prune);
    }
    assert_int_equal(warnings, 1);
    assert_non_null(strstr(j.lines[0], "does not pay"));
    close_job(&j);
}

static void racing_is_turned_on_and_off(void **state) {
    (void)state;
    ga_watch_options options = options_of(GA_WATCH_AUTO);
    options.step_open = options.keep_open = false;
    options.told.stage_count = 2;
    options.told.candidate[0] = 1;
    options.told.candidate[1] = 3;
    options.told.keep[0] = 0.7;
    options.told.keep[1] = 0.4;
    job j;
    open_job(&j, options, 36);
    assert_true(updates_until(&j, true, 200) > 0);
    assert_int_equal(j.strategy.stage_count, 2);
    assert_int_equal(j.strategy.candidate[1], 3);
    for (int i = 0; i < 100; i++) {
        update(&j);
    }
    assert_true(j.strategy.prune);
    memset(j.rho, 0, sizeof j.rho);
    j.claimed = 0.7;
    const int32_t after = updates_until(&j, false, 40);
    assert_true(after > 0 && after <= 18);
    close_job(&j);
}

/* The same measurement judged again is no repetition. */
static void patience_needs_news(void **state) {
    (void)state;
    job j;
    open_job(&j, options_of(GA_WATCH_AUTO), 40);
    for (int i = 0; i < 200 && !(j.report.verdict.answer == GA_GUARD_PAYS && i > 0); i++) {
        update(&j);
    }
    assert_int_equal(j.report.verdict.answer, GA_GUARD_PAYS);
    assert_false(j.strategy.prune);
    j.rests = true;
    assert_int_equal(updates_until(&j, true, 50), -1);
    assert_int_equal(j.report.verdict.answer, GA_GUARD_PAYS);
    j.rests = false;
    assert_true(updates_until(&j, true, 100) > 0);
    close_job(&j);
}

/* What an older probe was worth is forgotten once the newer one has been measured: the window holds 128 parts
 * of three a batch, and does not need to be new. */
static void another_probe_is_judged_by_its_own_predictions(void **state) {
    (void)state;
    ga_watch_options options = options_of(GA_WATCH_SHADOW); /* every batch is looked at */
    options.step_open = options.keep_open = false;
    options.told.candidate[0] = 3;
    job j;
    open_job(&j, options, 41);
    for (int i = 0; i < 60; i++) {
        update(&j);
    }
    const double good = j.report.energy.snr2;
    j.probe_version = 2;
    memset(j.rho, 0, sizeof j.rho);
    j.claimed = 0.6;
    for (int i = 0; i < 8; i++) { /* 48 of the 128 parts */
        update(&j);
    }
    assert_true(j.report.energy.snr2 < good - 0.05);
    assert_true(j.report.energy.snr2 < 0.6);
    close_job(&j);
}

/* A probe that failed inside the pause between trainings is replaced after it. */
static void a_wish_for_a_training_is_not_lost(void **state) {
    (void)state;
    job j;
    open_job(&j, options_of(GA_WATCH_AUTO), 42);
    assert_true(updates_until(&j, true, 200) > 0);
    j.scores = (ga_drift){0.4, 0.2, 300};
    for (int i = 0; i < 40 && !j.report.wants_training; i++) {
        update(&j);
    }
    assert_true(j.report.wants_training); /* and now there is a pause */
    j.scores = (ga_drift){NAN, NAN, 0};
    memset(j.rho, 0, sizeof j.rho);
    j.claimed = 0.7;
    int32_t asked = 0;
    for (int i = 0; i < 60; i++) {
        update(&j);
        asked += j.report.wants_training;
        assert_true(!j.report.wants_training ||
                    strcmp(j.report.training_reason, "predictions no longer order rewards") == 0);
    }
    assert_true(asked >= 1 && asked <= 3);
    j.probe_version = 2;
    for (int i = 0; i < 40; i++) {
        update(&j);
        assert_false(j.report.wants_training);
    }
    close_job(&j);
}

/* In audited batches of racing runs the last survivors are measured: the window does not stay as it was. */
static void racing_is_measured_while_it_prunes(void **state) {
    (void)state;
    ga_watch_options options = options_of(GA_WATCH_PRUNE);
    options.step_open = options.keep_open = false;
    options.plan.audit_share = 0.3;
    options.told = (ga_strategy){
        .prune = true, .stage_count = 2, .candidate = {1, 3}, .keep = {0.7, 0.4}, .explore_share = 1.0};
    job j;
    open_job(&j, options, 43);
    for (int i = 0; i < 60; i++) {
        update(&j);
    }
    assert_true(j.report.parts > 40);
    assert_true(j.report.energy.snr2 > 0.4 && j.report.energy.snr2 < 1.0);
    assert_true(isfinite(j.report.lost_share));
    close_job(&j);
}

/* What the run does with its kept rows is judged. */
static void the_second_stage_is_judged(void **state) {
    (void)state;
    double worth[2];
    for (int i = 0; i < 2; i++) {
        ga_watch_options options = options_of(GA_WATCH_SHADOW);
        options.step_open = options.keep_open = false;
        options.train_share = i == 0 ? 1.0 : 0.5;
        job j;
        open_job(&j, options, 44);
        for (int u = 0; u < 40; u++) {
            update(&j);
        }
        worth[i] = j.report.energy.snr2;
        close_job(&j);
    }
    assert_true(worth[1] < worth[0] - 0.02); /* half of the kept rows train: less signal */
}

static void equal_figures_give_equal_verdicts(void **state) {
    (void)state;
    job a, b;
    open_job(&a, options_of(GA_WATCH_AUTO), 37);
    open_job(&b, options_of(GA_WATCH_AUTO), 37);
    for (int i = 0; i < 120; i++) {
        update(&a);
        update(&b);
        assert_int_equal(a.strategy.prune, b.strategy.prune);
        assert_true(a.strategy.explore_share == b.strategy.explore_share);
        assert_int_equal(a.report.verdict.option, b.report.verdict.option);
        assert_string_equal(a.report.verdict.reason, b.report.verdict.reason);
    }
    /* what another rank's proposal puts in force is what goes on from there */
    ga_strategy shadow = a.strategy;
    assert_true(shadow.prune);
    shadow.prune = false;
    ga_watch_follow(b.watch, &shadow);
    update(&b);
    assert_false(b.strategy.prune);
    ga_watch_follow(b.watch, &a.strategy);
    update(&b);
    assert_true(b.strategy.prune);
    assert_int_equal(b.strategy.candidate[0], a.strategy.candidate[0]);
    assert_true(b.strategy.keep[0] == a.strategy.keep[0]);
    close_job(&a);
    close_job(&b);
}

static void wrong_arguments_are_refused(void **state) {
    (void)state;
    ga_error error = {0};
    ga_watch *watch = NULL;
    ga_watch_options options = options_of(GA_WATCH_AUTO);
    options.candidate_count = 9;
    assert_int_equal(ga_watch_create(&options, &watch, &error), GA_ERR_ARGUMENT);
    options = options_of(GA_WATCH_AUTO);
    options.told.candidate[0] = 7;
    ga_error_clear(&error);
    assert_int_equal(ga_watch_create(&options, &watch, &error), GA_ERR_ARGUMENT);
    job j;
    open_job(&j, options_of(GA_WATCH_AUTO), 38);
    const ga_watch_update update_of_odd_size = {.count = 7, .batches = 1};
    ga_error_clear(&error);
    assert_int_equal(
        ga_watch_take(j.watch, &update_of_odd_size, j.arena, &j.report, &error), GA_ERR_ARGUMENT);
    const ga_watch_update nothing = {.count = 0, .seconds = j.seconds, .has_probe = true, .probe_version = 1};
    test_ok(ga_watch_take(j.watch, &nothing, j.arena, &j.report, &error), &error);
    close_job(&j);
    assert_int_equal(STEPS_OF[0], j.options.candidate_steps[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_probe_turns_pruning_on_and_keeps_it),
        cmocka_unit_test(a_random_probe_never_does),
        cmocka_unit_test(a_probe_of_noise_is_found),
        cmocka_unit_test(expensive_looks_are_refused_with_the_reason),
        cmocka_unit_test(shared_states_are_refused),
        cmocka_unit_test(drift_asks_for_a_training_and_not_for_ever),
        cmocka_unit_test(the_first_training_comes_when_enough_was_seen),
        cmocka_unit_test(without_seconds_nothing_is_known),
        cmocka_unit_test(mode_prune_does_as_told_and_warns_once),
        cmocka_unit_test(racing_is_turned_on_and_off),
        cmocka_unit_test(patience_needs_news),
        cmocka_unit_test(another_probe_is_judged_by_its_own_predictions),
        cmocka_unit_test(a_wish_for_a_training_is_not_lost),
        cmocka_unit_test(racing_is_measured_while_it_prunes),
        cmocka_unit_test(the_second_stage_is_judged),
        cmocka_unit_test(equal_figures_give_equal_verdicts),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
