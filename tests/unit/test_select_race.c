/* Several decisions in a batch: each plans the rows that still run. */
#include "tests/unit/select_batch.h"

enum { RACE_RANKS = 6, RACE_ROWS = 8, RACE_COUNT = RACE_RANKS * RACE_ROWS };

/* One batch on its way through its decisions, by row of the full batch. */
typedef struct race {
    uint8_t running[RACE_COUNT];
    double inclusion[RACE_COUNT]; /* product over stages */
    bool audited;                 /* the first decision was an audit */
    bool by_chance;               /* any of them */
    double surprise, variance; /* Σ (kept − π) and Σ π(1 − π) of the last decision, rows still running */
} race;

/* Rows still running with dense indices on each rank; `row_of` each one's place in the full batch. */
static int32_t gather_running(const batch *full, const race *r, ga_candidate *rows, int32_t *row_of) {
    int32_t count = 0;
    for (int32_t rank = 0; rank < RACE_RANKS; rank++) {
        int32_t index = 0;
        for (int32_t i = rank * RACE_ROWS; i < (rank + 1) * RACE_ROWS; i++) {
            if (r->running[i]) {
                rows[count] = full->rows[i];
                rows[count].index = index++;
                row_of[count++] = i;
            }
        }
    }
    return count;
}

static void run_stage(const batch *full, ga_plan_options options, race *r, ga_arena *arena) {
    ga_candidate rows[RACE_COUNT], stopped[RACE_COUNT];
    int32_t row_of[RACE_COUNT];
    const int32_t count = gather_running(full, r, rows, row_of);
    for (int32_t i = 0; i < RACE_COUNT; i++) {
        if (!r->running[i]) {
            stopped[options.stopped_count++] = full->rows[i];
        }
    }
    options.stopped = stopped;
    options.chance_before = r->by_chance;
    ga_plan plan;
    test_ok(ga_plan_make(&options, rows, count, arena, &plan, NULL), NULL);
    r->audited = options.stage == 0 ? plan.audited : r->audited;
    r->by_chance = r->by_chance || plan.audited;
    r->surprise = r->variance = 0;
    int32_t kept[RACE_RANKS] = {0};
    for (int32_t i = 0; i < count; i++) {
        r->running[row_of[i]] = plan.kept[i];
        r->inclusion[row_of[i]] *= plan.inclusion[i];
        r->surprise += (i % 3 + 1) * (plan.kept[i] - plan.inclusion[i]);
        r->variance += (i % 3 + 1) * (i % 3 + 1) * plan.inclusion[i] * (1 - plan.inclusion[i]);
        kept[rows[i].rank] += plan.kept[i];
    }
    for (int32_t rank = 0; rank < RACE_RANKS; rank++) {
        assert_int_equal(kept[rank], options.keep_per_rank);
    }
}

/* Predictions that get better from stage to stage. */
static void predict(const batch *truth, int stage, ga_random *random, batch *seen) {
    for (int32_t i = 0; i < RACE_COUNT; i++) {
        seen->rows[i] = truth->rows[i];
        seen->rows[i].mean += (float)((2 - stage) * ga_random_normal(random));
        seen->rows[i].variance = (float)(0.2 + (2 - stage) * (2 - stage));
    }
}

/*
 * Two and three decisions in a row, thousands of batches: counts exact at each, and with the product of their
 * probabilities the total over kept rows is an unbiased estimate of the total over all.
 */
static void assert_race_unbiased(ga_policy_kind policy, int stages, int bounds) {
    enum { BATCHES = 4000 };
    static const int32_t keep[] = {6, 4, 2};
    ga_random random = test_random((uint64_t)(600 + 10 * (int)policy + 3 * stages + bounds));
    ga_arena *arena = ga_arena_create(0);
    batch *truth = make_batch(&random, RACE_RANKS, RACE_ROWS, 8);
    batch *seen = make_batch(&random, RACE_RANKS, RACE_ROWS, 8);
    double total = 0, sum = 0, square = 0, surprise = 0, variance = 0;
    int audits = 0;
    for (int32_t i = 0; i < RACE_COUNT; i++) {
        total += 1 + truth->rows[i].mean;
    }
    for (int batch_number = 0; batch_number < BATCHES; batch_number++) {
        race r = {0};
        for (int32_t i = 0; i < RACE_COUNT; i++) {
            r.running[i] = 1;
            r.inclusion[i] = 1;
        }
        for (int stage = 0; stage < stages; stage++) {
            predict(truth, stage, &random, seen);
            ga_plan_options options = default_options(truth, keep[stage]);
            options.policy = policy;
            options.batch = (uint64_t)batch_number;
            options.stage = stage;
            options.audit_share = 0.4;
            options.min_inclusion = 0.2;
            options.min_group = bounds;
            options.max_group = bounds * 7;
            run_stage(seen, options, &r, arena);
            surprise += stage > 0 ? r.surprise : 0;
            variance += stage > 0 ? r.variance : 0;
            assert_true(!r.audited || r.by_chance);
        }
        double estimate = 0;
        for (int32_t i = 0; i < RACE_COUNT; i++) {
            estimate += r.running[i] ? (1 + truth->rows[i].mean) / r.inclusion[i] : 0;
            const double chance = (double)keep[stages - 1] / RACE_ROWS;
            assert_true(!r.audited || !r.running[i] || r.inclusion[i] <= 1);
            assert_true(r.inclusion[i] > 0 && (r.inclusion[i] < 1 || chance == 1));
        }
        audits += r.audited;
        sum += estimate;
        square += estimate * estimate;
        ga_arena_reset(arena);
    }
    const double mean = sum / BATCHES;
    const double error = sqrt((square / BATCHES - mean * mean) / BATCHES);
    assert_near(mean, total, 3 * error);
    assert_true(error < 0.2 * fabs(total));
    /* Later decisions keep each running row as often as they say, given what came before. Sums of a rank
     * are fixed, so the spread is below that of independent draws. */
    assert_near(surprise, 0, 4 * sqrt(variance));
    if (policy != GA_POLICY_RANDOM) {
        assert_near(audits, 0.4 * BATCHES, 5 * sqrt(0.24 * BATCHES));
    }
    free(truth);
    free(seen);
    ga_arena_destroy(&arena);
}

static void races_are_unbiased(void **state) {
    (void)state;
    static const ga_policy_kind policies[] = {
        GA_POLICY_EXTREMES, GA_POLICY_NEYMAN, GA_POLICY_TOPK, GA_POLICY_RANDOM, GA_POLICY_BUDGET};
    for (int i = 0; i < 5; i++) {
        assert_race_unbiased(policies[i], 2, i % 2);
        assert_race_unbiased(policies[i], 3, 1 - i % 2);
    }
}

/* The decisions of a batch draw from different streams; the first one's is that of a batch with only one. */
static void stages_draw_apart(void **state) {
    (void)state;
    enum { BATCHES = 2000 };
    ga_random random = test_random(59);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 5, 4, 5);
    ga_plan_options options = default_options(b, 2);
    options.policy = GA_POLICY_RANDOM;
    options.audit_share = 0.3;
    int same[3] = {0};
    for (int i = 0; i < BATCHES; i++) {
        uint64_t checksum[3];
        options.batch = (uint64_t)i;
        for (int stage = 0; stage < 3; stage++) {
            options.stage = stage;
            checksum[stage] = plan_of(&options, b, arena).checksum;
            same[stage] += stage > 0 && checksum[stage] == checksum[stage - 1];
        }
        ga_arena_reset(arena);
    }
    /* 6^5 equally likely sets, but for what the groups have to say */
    assert_true(same[1] < 20 && same[2] < 20);
    free(b);
    ga_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(races_are_unbiased),
        cmocka_unit_test(stages_draw_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
