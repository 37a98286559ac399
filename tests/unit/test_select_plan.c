#include "tests/unit/select_batch.h"

/* A random batch, random options, every policy in turn. */
typedef struct plan_case {
    batch *b;
    ga_plan_options options;
    ga_plan plan;
    ga_grid grid;
} plan_case;

static plan_case make_case(ga_random *random, int trial, ga_arena *arena) {
    const int32_t ranks = 1 + (int32_t)ga_random_below(random, 12);
    const int32_t rows = 1 + (int32_t)ga_random_below(random, 9);
    plan_case c = {.b = make_batch(random, ranks, rows, 1 + (int32_t)ga_random_below(random, 30))};
    c.options = default_options(c.b, (int32_t)ga_random_below(random, 12) - 1);
    c.options.policy = (ga_policy_kind)(trial % GA_POLICY_COUNT);
    c.options.min_group = (int32_t)ga_random_below(random, 4);
    c.options.max_group = (int32_t)ga_random_below(random, 3) * (int32_t)ga_random_below(random, 8);
    c.options.min_inclusion = 0.2 * ga_random_uniform(random);
    c.options.audit_share = trial % 3 == 0 ? 0.2 : 0;
    c.options.std_kind = trial % 2 == 0 ? GA_STD_GLOBAL : GA_STD_GROUP;
    c.options.threshold = (ga_threshold){(ga_threshold_kind)(trial / 6 % 3), ga_random_uniform(random)};
    c.options.batch = (uint64_t)trial;
    c.options.stage = trial / 5 % 3;
    c.options.chance_before = c.options.stage > 0 && trial % 4 == 0;
    for (int32_t i = 0; i < c.b->count; i++) {
        c.b->rows[i].mean = ga_random_below(random, 30) == 0 ? NAN : c.b->rows[i].mean;
    }
    c.plan = plan_of(&c.options, c.b, arena);
    c.grid = grid_of(c.b, arena);
    return c;
}

/* Quotas exact; floors and caps kept but for those counted; group counts within one of their expectation. */
static void assert_promises(const plan_case *c) {
    const ga_plan *plan = &c->plan;
    assert_true(plan->keep_per_rank >= 1 && plan->keep_per_rank <= c->b->rows_per_rank);
    for (int32_t rank = 0; rank < c->b->ranks; rank++) {
        assert_int_equal(kept_on_rank(plan, c->b, rank), plan->keep_per_rank);
    }
    int32_t below = 0, above = 0;
    for (int32_t group = 0; group < c->grid.groups; group++) {
        const int32_t size = ga_grid_group_size(&c->grid, group);
        const int32_t cap =
            c->options.max_group > 0 && c->options.max_group < size ? c->options.max_group : size;
        const int32_t asked = cap < c->options.min_group ? cap : c->options.min_group;
        const int32_t held = kept_of_group(&c->grid, plan->kept, group);
        below += held < asked;
        above += held > cap;
        if (plan->audited) {
            assert_true(fabs(held - size * (double)plan->keep_per_rank / c->b->rows_per_rank) < 1);
        } else if (c->options.audit_share == 0) {
            assert_true(fabs(held - sum_of_group(&c->grid, plan->inclusion, group)) < 1 + 1e-9);
        }
    }
    assert_true(plan->audited || (below <= plan->lowered_floor_count && above <= plan->raised_cap_count));
    for (int32_t i = 0; i < c->b->count; i++) {
        assert_true(plan->inclusion[i] >= 0 && plan->inclusion[i] <= 1);
        assert_true(plan->inclusion[i] > 0 || !plan->kept[i]);
    }
}

/* The same rows in another order of arrival: the same plan. */
static void assert_order_irrelevant(const plan_case *c, ga_random *random, ga_arena *arena) {
    batch *shuffled = calloc(1, sizeof *shuffled);
    assert_non_null(shuffled);
    int32_t order[ROWS_MAX];
    for (int32_t i = 0; i < c->b->count; i++) {
        order[i] = i;
    }
    ga_random_shuffle(random, order, (uint32_t)c->b->count);
    for (int32_t i = 0; i < c->b->count; i++) {
        shuffled->rows[i] = c->b->rows[order[i]];
    }
    shuffled->count = c->b->count;
    const ga_plan again = plan_of(&c->options, shuffled, arena);
    assert_true(again.checksum == c->plan.checksum);
    for (int32_t i = 0; i < c->b->count; i++) {
        assert_int_equal(again.kept[i], c->plan.kept[order[i]]);
        assert_true(again.inclusion[i] == c->plan.inclusion[order[i]]);
    }
    free(shuffled);
}

/* Thousands of random batches under every policy and at every stage. */
static void plans_hold_their_promises(void **state) {
    (void)state;
    ga_random random = test_random(50);
    ga_arena *arena = ga_arena_create(0);
    int lowered = 0, raised = 0;
    for (int trial = 0; trial < 6000; trial++) {
        plan_case c = make_case(&random, trial, arena);
        assert_promises(&c);
        assert_order_irrelevant(&c, &random, arena);
        const bool plain = c.options.min_group == 0 && c.options.max_group == 0;
        const double by_chance = (double)c.plan.keep_per_rank / c.b->rows_per_rank;
        for (int32_t i = 0; i < c.b->count; i++) {
            if (c.options.chance_before) {
                assert_true(c.plan.audited && c.plan.inclusion[i] == by_chance);
            } else if (c.options.policy == GA_POLICY_NEYMAN && plain) {
                assert_true(c.plan.inclusion[i] >= fmin(by_chance, c.options.min_inclusion) - 1e-12);
            }
            assert_true(c.plan.inclusion[i] >= c.options.audit_share * by_chance - 1e-12);
        }
        lowered += c.plan.lowered_floor_count > 0;
        raised += c.plan.raised_cap_count > 0;
        free(c.b);
        ga_arena_reset(arena);
    }
    assert_true(lowered > 200 && raised > 200);
    ga_arena_destroy(&arena);
}

/* Every policy, with floors, caps and audits: how often each row is kept is the probability that is stated.
 */
static void frequencies_are_the_stated_probabilities(void **state) {
    (void)state;
    enum { BATCHES = 5000, ROWS = 30 };
    ga_random random = test_random(57);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 6, 5, 7);
    b->rows[3].mean = NAN;
    for (int run = 0; run < 2 * GA_POLICY_COUNT; run++) {
        ga_plan_options options = default_options(b, 2);
        options.policy = (ga_policy_kind)(run / 2);
        options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 0.6};
        options.audit_share = run % 2 == 0 ? 0.25 : 0.1;
        options.min_inclusion = 0.1;
        options.min_group = run % 2;
        options.max_group = run % 2 == 0 ? 0 : 3;
        options.seed = test_seed();
        int hits[ROWS] = {0};
        double sum[ROWS] = {0}, spread[ROWS] = {0};
        for (int i = 0; i < BATCHES; i++) {
            options.batch = (uint64_t)i;
            const ga_plan plan = plan_of(&options, b, arena);
            for (int row = 0; row < ROWS; row++) {
                hits[row] += plan.kept[row];
                sum[row] += plan.inclusion[row];
                spread[row] += plan.inclusion[row] * (1 - plan.inclusion[row]);
            }
            ga_arena_reset(arena);
        }
        for (int row = 0; row < ROWS; row++) {
            assert_near(hits[row], sum[row], 5 * sqrt(spread[row]) + 1e-6 * BATCHES);
        }
    }
    free(b);
    ga_arena_destroy(&arena);
}

/* Rows of a rank, and rows of a group, never favour each other: no two of them are kept together more often
 * than if they were drawn apart. */
static void rows_that_compete_exclude_each_other(void **state) {
    (void)state;
    enum { BATCHES = 20000, ROWS = 20 };
    ga_random random = test_random(58);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 4, 5, 6);
    ga_plan_options options = default_options(b, 2);
    options.policy = GA_POLICY_NEYMAN;
    options.min_inclusion = 0.1;
    options.seed = test_seed();
    static int together[ROWS][ROWS];
    double inclusion[ROWS] = {0};
    memset(together, 0, sizeof together);
    for (int i = 0; i < BATCHES; i++) {
        options.batch = (uint64_t)i;
        const ga_plan plan = plan_of(&options, b, arena);
        for (int row = 0; row < ROWS; row++) {
            inclusion[row] = plan.inclusion[row];
            for (int other = 0; other < row; other++) {
                together[row][other] += plan.kept[row] && plan.kept[other];
            }
        }
        ga_arena_reset(arena);
    }
    int pairs = 0, clearly_negative = 0;
    for (int row = 0; row < ROWS; row++) {
        for (int other = 0; other < row; other++) {
            const bool compete =
                b->rows[row].rank == b->rows[other].rank || b->rows[row].group == b->rows[other].group;
            const double apart = inclusion[row] * inclusion[other];
            const double error = sqrt(apart * (1 - apart) / BATCHES);
            if (compete) {
                assert_true(together[row][other] / (double)BATCHES <= apart + 4.5 * error);
                clearly_negative += together[row][other] / (double)BATCHES < apart - 4.5 * error;
                pairs++;
            }
        }
    }
    assert_true(clearly_negative > pairs / 2);
    free(b);
    ga_arena_destroy(&arena);
}

static void audits_are_chance_alone(void **state) {
    (void)state;
    enum { BATCHES = 6000 };
    ga_random random = test_random(51);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 6, 6, 12);
    ga_plan_options options = default_options(b, 2);
    options.audit_share = 0.25;
    options.min_group = 2;
    int audits = 0, hits[36] = {0};
    uint8_t usual[36] = {0};
    for (int i = 0; i < BATCHES; i++) {
        options.batch = (uint64_t)i;
        const ga_plan plan = plan_of(&options, b, arena);
        audits += plan.audited;
        for (int row = 0; row < 36; row++) {
            hits[row] += plan.audited && plan.kept[row];
            if (!plan.audited) {
                usual[row] = plan.kept[row];
            }
            assert_near(
                plan.inclusion[row], usual[row] * 0.75 + 0.25 / 3, plan.audited && i == 0 ? 1 : 1e-12);
        }
        ga_arena_reset(arena);
    }
    assert_near(audits / (double)BATCHES, 0.25, 0.03);
    for (int row = 0; row < 36; row++) {
        assert_near(hits[row] / (double)audits, 1.0 / 3.0, 0.07);
    }
    free(b);
    ga_arena_destroy(&arena);
}

/* Ranks and rows under other numbers: where scores tell all rows apart, the same rows are kept. */
static void numbers_of_ranks_mean_nothing(void **state) {
    (void)state;
    ga_random random = test_random(61);
    ga_arena *arena = ga_arena_create(0);
    static const ga_policy_kind policies[] = {
        GA_POLICY_EXTREMES, GA_POLICY_TOPK, GA_POLICY_THRESHOLD, GA_POLICY_BUDGET, GA_POLICY_NEYMAN};
    for (int trial = 0; trial < 1000; trial++) {
        batch *b = make_batch(&random, 6, 5, 8);
        ga_plan_options options = default_options(b, 2);
        options.policy = policies[trial % 5];
        options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 0.5};
        /* where caps have to give way, chance says whose */
        options.max_group = trial % 2 == 0 || options.policy == GA_POLICY_NEYMAN ? 0 : 4;
        options.min_inclusion = 0.1;
        const ga_plan plan = plan_of(&options, b, arena);
        int32_t rank_of[6] = {0, 1, 2, 3, 4, 5}, index_of[5] = {0, 1, 2, 3, 4};
        ga_random_shuffle(&random, rank_of, 6);
        ga_random_shuffle(&random, index_of, 5);
        for (int32_t i = 0; i < b->count; i++) {
            b->rows[i].rank = rank_of[b->rows[i].rank];
            b->rows[i].index = index_of[b->rows[i].index];
        }
        const ga_plan again = plan_of(&options, b, arena);
        for (int32_t i = 0; i < b->count; i++) {
            /* a draw by chance goes by row number; its probabilities don't */
            assert_near(again.inclusion[i], plan.inclusion[i], 1e-12);
            assert_true(options.policy == GA_POLICY_NEYMAN || again.kept[i] == plan.kept[i]);
        }
        free(b);
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

/* One batch on 1, 2, 4, … ranks: the same audits, the same c/B by chance, and with all of a group's rows
 * worth the same wherever they are, the same number of rows of each group. */
static void layouts_agree_where_quotas_allow(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.count = 64};
    for (uint64_t number = 0; number < 300; number++) {
        bool audited = false;
        for (int32_t ranks = 1; ranks <= 16; ranks *= 2) {
            b.ranks = ranks;
            b.rows_per_rank = 64 / ranks;
            for (int32_t i = 0; i < 64; i++) {
                b.rows[i] = (ga_candidate){.group = (uint64_t)(i % 4),
                    .mean = (float)(i % 8 < 4 ? -1 - i % 4 : 1 + i % 4),
                    .variance = 0.5f,
                    .rank = i / b.rows_per_rank,
                    .index = i % b.rows_per_rank};
            }
            ga_plan_options options = default_options(&b, b.rows_per_rank / 4);
            options.audit_share = 0.3;
            options.batch = number;
            options.policy = number % 2 == 0 ? GA_POLICY_EXTREMES : GA_POLICY_BUDGET;
            const ga_plan plan = plan_of(&options, &b, arena);
            assert_true(ranks == 1 || plan.audited == audited);
            audited = plan.audited;
            const ga_grid grid = grid_of(&b, arena);
            static const int32_t by_value[] = {0, 0, 0, 16}, by_spread[] = {2, 3, 5, 6};
            for (int32_t group = 0; group < 4 && !audited; group++) {
                const int32_t held = kept_of_group(&grid, plan.kept, group);
                assert_int_equal(held, number % 2 == 0 ? by_value[group] : by_spread[group]);
            }
            ga_arena_reset(arena);
        }
    }
    ga_arena_destroy(&arena);
}

/* Equal scores: nobody is preferred by rank, index or order, under any policy. */
static void equal_scores_are_left_to_chance(void **state) {
    (void)state;
    enum { BATCHES = 3000 };
    ga_random random = test_random(53);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 4, 6, 8);
    for (int32_t i = 0; i < b->count; i++) {
        b->rows[i].mean = 0.5f;
        b->rows[i].variance = 0.25f;
        /* each group twice on each rank, whatever the index: symmetric but for position */
        b->rows[i].group = (uint64_t)(i % 6 / 2);
    }
    for (int run = 0; run < 3 * GA_POLICY_COUNT; run++) {
        ga_plan_options options = default_options(b, 2);
        options.policy = (ga_policy_kind)(run / 3);
        options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 2.0 / 3.0};
        options.min_group = run % 3 == 1 ? 2 : 0;
        options.max_group = run % 3 == 2 ? 3 : 0;
        int hits[24] = {0};
        for (int i = 0; i < BATCHES; i++) {
            options.batch = (uint64_t)i;
            const ga_plan plan = plan_of(&options, b, arena);
            for (int row = 0; row < 24; row++) {
                hits[row] += plan.kept[row];
            }
            ga_arena_reset(arena);
        }
        for (int row = 0; row < 24; row++) {
            assert_near(hits[row] / (double)BATCHES, 1.0 / 3.0, 5 * sqrt(2.0 / 9 / BATCHES));
        }
    }
    free(b);
    ga_arena_destroy(&arena);
}

static void unscored_rows_are_kept_first(void **state) {
    (void)state;
    ga_random random = test_random(54);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 4, 6, 8);
    for (int32_t rank = 0; rank < 4; rank++) {
        for (int32_t i = 0; i < rank + 1; i++) {
            b->rows[6 * rank + i].mean = i % 2 == 0 ? NAN : INFINITY;
        }
    }
    b->rows[5].variance = -1;
    static const ga_policy_kind policies[] = {GA_POLICY_EXTREMES, GA_POLICY_TOPK, GA_POLICY_THRESHOLD};
    for (int i = 0; i < 3; i++) {
        ga_plan_options options = default_options(b, 3);
        options.policy = policies[i];
        options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 0.5};
        const ga_plan plan = plan_of(&options, b, arena);
        assert_int_equal(plan.unscored_count, 1 + 2 + 3 + 4 + 1);
        for (int32_t rank = 0; rank < 3; rank++) {
            for (int32_t row = 0; row < rank + 1; row++) {
                assert_true(plan.kept[6 * rank + row]);
            }
        }
        assert_true(plan.kept[5]);
        assert_int_equal(plan.kept[18] + plan.kept[19] + plan.kept[20] + plan.kept[21], 3);
    }
    for (int32_t i = 0; i < b->count; i++) {
        b->rows[i].mean = NAN;
    }
    const ga_plan_options options = default_options(b, 3);
    assert_int_equal(plan_of(&options, b, arena).unscored_count, 24);
    free(b);
    ga_arena_destroy(&arena);
}

/*
 * Groups of every kind: K members beside 2K and 4K (a prompt drawn more than once), of one and of two rows,
 * on one rank only, all rows one group, some scores missing.
 */
static void odd_groups(void **state) {
    (void)state;
    ga_random random = test_random(55);
    ga_arena *arena = ga_arena_create(0);
    for (int trial = 0; trial < 1200; trial++) {
        batch *b = make_batch(&random, 8, 8, 1);
        for (int32_t i = 0; i < b->count; i++) {
            /* 8 rows alone on rank 0; elsewhere groups of 1, 2, 8, 16 and 29, or one of all */
            static const int32_t last[] = {9, 11, 19, 35, 64};
            int32_t kind = 0;
            while (i >= last[kind]) {
                kind++;
            }
            b->rows[i].group = (uint64_t)(i < 8 ? 50 : (trial % 3 == 0 ? 7 : 60 + kind));
            b->rows[i].mean = trial % 5 == 0 && i % 11 == 0 ? NAN : b->rows[i].mean;
        }
        ga_plan_options options = default_options(b, 3);
        options.policy = (ga_policy_kind)(trial % GA_POLICY_COUNT);
        options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 0.7};
        options.min_group = trial % 4;
        options.max_group = trial % 7 == 0 ? 5 : 0;
        options.std_kind = trial % 2 == 0 ? GA_STD_GROUP : GA_STD_GLOBAL;
        options.batch = (uint64_t)trial;
        const plan_case c = {
            .b = b, .options = options, .plan = plan_of(&options, b, arena), .grid = grid_of(b, arena)};
        assert_promises(&c);
        assert_int_equal(c.plan.unscored_count, trial % 5 == 0 ? 6 : 0);
        /* The group on one rank only gets that rank's quota, whatever else is asked. */
        assert_int_equal(
            kept_of_group(&c.grid, c.plan.kept, 50 == c.grid.group_key[0] ? 0 : 1), c.plan.keep_per_rank);
        free(b);
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

/* A group of one has advantage 0 whatever its reward: it goes first. Rows of a pair are worth the same. */
static void ones_and_pairs(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 2, .rows_per_rank = 4, .count = 8};
    /* on each rank: a row alone, far from all others, one of a pair, and two of a group of four */
    static const float mean[] = {100, 1, 0, 0.5f, -100, -1, 0.2f, 0.1f};
    static const float variance[] = {9, 0.1f, 0.3f, 0.3f, 9, 5, 0.3f, 0.3f};
    for (int32_t i = 0; i < 8; i++) {
        static const uint64_t group[] = {1, 3, 4, 4, 2, 3, 4, 4};
        b.rows[i] = (ga_candidate){
            .group = group[i], .mean = mean[i], .variance = variance[i], .rank = i / 4, .index = i % 4};
    }
    for (int kind = GA_STD_GLOBAL; kind <= GA_STD_GROUP; kind++) {
        ga_plan_options options = default_options(&b, 3);
        options.std_kind = (ga_std_kind)kind;
        ga_plan plan = plan_of(&options, &b, arena);
        assert_true(!plan.kept[0] && !plan.kept[4]);
        const ga_grid grid = grid_of(&b, arena);
        const ga_value_options units = {.std_kind = options.std_kind, .whole = true};
        ga_values values;
        test_ok(ga_values_compute(&grid, &units, arena, &values, NULL), NULL);
        assert_true(values.value[0] == 0 && values.value[4] == 0);
        assert_near(values.value[1], values.value[5], 1e-12);
        options.min_group = 1; /* a floor keeps even what is worth nothing, as far as quotas go */
        options.keep_per_rank = 2;
        plan = plan_of(&options, &b, arena);
        assert_true(plan.kept[0] && plan.kept[4] && plan.lowered_floor_count == 0);
    }
    ga_arena_destroy(&arena);
}

/* The same rows in the same order on twice as many ranks: same rows, same checksum, where quotas allow it. */
static void checksum_does_not_count_ranks(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    batch b = {.ranks = 2, .rows_per_rank = 4, .count = 8};
    for (int32_t i = 0; i < 8; i++) {
        /* the two best of each four stand one in each half of it */
        b.rows[i] =
            (ga_candidate){.group = (uint64_t)(i % 2), .mean = i % 2 == 0 ? (float)i : 100.0f * (float)i};
    }
    uint64_t checksum[3];
    for (int k = 0; k < 3; k++) {
        b.ranks = 1 << k;
        b.rows_per_rank = 8 >> k;
        for (int32_t i = 0; i < 8; i++) {
            b.rows[i].mean = i % 2 == 0 ? 0 : (i % 4 == 1 ? 5.0f : -5.0f);
            b.rows[i].rank = i / b.rows_per_rank;
            b.rows[i].index = i % b.rows_per_rank;
        }
        const ga_plan_options options = default_options(&b, b.rows_per_rank / 2);
        const ga_plan plan = plan_of(&options, &b, arena);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(plan.kept[i], i % 2);
        }
        checksum[k] = plan.checksum;
    }
    assert_true(checksum[0] == checksum[1] && checksum[1] == checksum[2]);
    ga_plan_options options = default_options(&b, 1);
    options.batch++;
    assert_true(plan_of(&options, &b, arena).checksum != checksum[2]);
    ga_arena_destroy(&arena);
}

static void assert_refused(
    const ga_plan_options *options, const batch *b, ga_status expected, const char *words) {
    ga_arena *arena = ga_arena_create(0);
    ga_error error;
    ga_error_clear(&error);
    ga_plan plan = {.count = -7};
    assert_int_equal(ga_plan_make(options, b->rows, b->count, arena, &plan, &error), expected);
    assert_non_null(strstr(error.message, words));
    assert_int_equal(plan.count, -7);
    ga_arena_destroy(&arena);
}

static void refusals(void **state) {
    (void)state;
    ga_random random = test_random(56);
    batch *b = make_batch(&random, 3, 4, 4);
    ga_plan_options options = default_options(b, 2);
    options.min_group = -1;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "min_group");
    options = default_options(b, 2);
    options.audit_share = NAN;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "audit");
    options = default_options(b, 2);
    options.policy = GA_POLICY_COUNT;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "unknown policy 6");
    options = default_options(b, 2);
    options.max_group = -1;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "max_group");
    options = default_options(b, 2);
    options.stage = 3;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "decision 3");
    options = default_options(b, 2);
    options.min_inclusion = 1.5;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "inclusion");
    options = default_options(b, 2);
    options.policy = GA_POLICY_THRESHOLD;
    options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 1.5};
    assert_refused(&options, b, GA_ERR_ARGUMENT, "quantile");
    options = default_options(b, 2);
    options.ranks = 5;
    assert_refused(&options, b, GA_ERR_DATA, "every rank needs equal batches");
    options.ranks = 0;
    assert_refused(&options, b, GA_ERR_ARGUMENT, "0 ranks");
    options = default_options(b, 2);
    b->rows[3].index = 4;
    assert_refused(&options, b, GA_ERR_DATA, "rank 0 row 4 is outside");
    b->rows[3].index = 2;
    assert_refused(&options, b, GA_ERR_DATA, "rank 0 row 2 is there twice");
    b->rows[3].rank = -1;
    assert_refused(&options, b, GA_ERR_DATA, "rank -1");
    b->count = 0;
    assert_refused(&options, b, GA_ERR_DATA, "0 rows");
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_hold_their_promises),
        cmocka_unit_test(frequencies_are_the_stated_probabilities),
        cmocka_unit_test(rows_that_compete_exclude_each_other),
        cmocka_unit_test(audits_are_chance_alone),
        cmocka_unit_test(numbers_of_ranks_mean_nothing),
        cmocka_unit_test(layouts_agree_where_quotas_allow),
        cmocka_unit_test(equal_scores_are_left_to_chance),
        cmocka_unit_test(unscored_rows_are_kept_first),
        cmocka_unit_test(odd_groups),
        cmocka_unit_test(ones_and_pairs),
        cmocka_unit_test(checksum_does_not_count_ranks),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
