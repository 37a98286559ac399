#include "tests/unit/support.h"

#include <math.h>

#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/estimate/downsample.h"
#include "grpo_accel/estimate/transfer.h"

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

enum { ROWS = 48, RANKS = 4, GROUPS = 6 };

/* Rows dealt to ranks in turn, groups of eight; `share` of them kept. */
static void draw_rows(ga_random *random, ga_outcome *rows, double share) {
    for (int32_t i = 0; i < ROWS; i++) {
        const double seen = ga_random_normal(random);
        const bool kept = ga_random_uniform(random) < share;
        const double reward = 20 + i % GROUPS + seen + 0.5 * ga_random_normal(random);
        rows[i] = (ga_outcome){.group = (uint64_t)(i % GROUPS),
            .reward = kept ? reward : (double)NAN,
            .inclusion = 0.2 + 0.8 * ga_random_uniform(random),
            .mean = (float)(19 + i % GROUPS + seen),
            .variance = 0.25F,
            .rank = i % RANKS,
            .index = i / RANKS,
            .kept = kept};
    }
}

static ga_advantage_options options_of(int estimator, int std_kind) {
    return (ga_advantage_options){.estimator = (ga_estimator)estimator,
        .clip = 10,
        .std_kind = (ga_std_kind)std_kind,
        .epsilon = 1e-4,
        .tau2 = 0.1,
        .sigma_r2 = 0.3,
        .leave_one_out = true};
}

/* Ordinary leave-one-out where everything is kept: distance from the mean of the others, σ as ever. */
static void leave_one_out_of_whole_groups(void **state) {
    (void)state;
    ga_random random = test_random(11);
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[ROWS];
    double apart[ROWS], plain[ROWS];
    for (int trial = 0; trial < 80; trial++) {
        draw_rows(&random, rows, 2);
        ga_advantage_options options = options_of(trial % 3, trial / 3 % 2); /* `predicted` below */
        ga_advantage_report report;
        test_ok(ga_advantage_compute(&options, rows, ROWS, arena, apart, &report, NULL), NULL);
        options.leave_one_out = false;
        test_ok(ga_advantage_compute(&options, rows, ROWS, arena, plain, NULL, NULL), NULL);
        for (int32_t i = 0; i < ROWS; i++) {
            double others = 0;
            for (int32_t j = i % GROUPS; j < ROWS; j += GROUPS) {
                others += j != i ? rows[j].reward / 7 : 0;
            }
            assert_near(apart[i], (rows[i].reward - others) / report.row_sigma[i], 1e-12);
            assert_near(apart[i], plain[i] * 8 / 7, 1e-12);
        }
        ga_arena_reset(arena);
    }
    ga_arena_destroy(&arena);
}

/* Whatever a kept row's own reward and prediction are, its baseline stays; under every estimator. */
static void leave_one_out_leaves_the_own_row_out(void **state) {
    (void)state;
    ga_random random = test_random(12);
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[ROWS];
    double advantage[ROWS];
    int changed = 0;
    for (int trial = 0; trial < 400; trial++) {
        draw_rows(&random, rows, 0.4);
        ga_advantage_options options = options_of(trial % 4, trial / 4 % 2);
        const int32_t row = (int32_t)ga_random_below(&random, ROWS);
        int32_t kept = 0;
        for (int32_t j = row % GROUPS; j < ROWS; j += GROUPS) {
            kept += rows[j].kept;
        }
        if (!rows[row].kept || (kept == 1 && trial % 4 == GA_ESTIMATOR_SURVIVORS)) {
            continue;
        }
        ga_advantage_report before, after;
        test_ok(ga_advantage_compute(&options, rows, ROWS, arena, advantage, &before, NULL), NULL);
        rows[row].reward += 3;
        rows[row].mean -= 2;
        rows[row].inclusion = 0.9;
        test_ok(ga_advantage_compute(&options, rows, ROWS, arena, advantage, &after, NULL), NULL);
        assert_near(after.baseline[row], before.baseline[row], 1e-9);
        assert_near(advantage[row] * after.row_sigma[row], rows[row].reward - after.baseline[row], 1e-9);
        changed++;
        ga_arena_reset(arena);
    }
    assert_true(changed > 80);
    ga_arena_destroy(&arena);
}

/* Three rows, one kept: the others are known by their predictions; with none, a row is its own baseline. */
static void alone_among_the_kept(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[] = {{.reward = 5, .inclusion = 1, .mean = 9, .kept = 1},
        {.mean = 1, .index = 1, .reward = (double)NAN}, {.mean = 2, .index = 2, .reward = (double)NAN}};
    double advantage[3];
    ga_advantage_report report;
    for (int estimator = 0; estimator < 4; estimator++) {
        const ga_advantage_options options = options_of(estimator, GA_STD_GLOBAL);
        test_ok(ga_advantage_compute(&options, rows, 3, arena, advantage, &report, NULL), NULL);
        const bool survivors = estimator == GA_ESTIMATOR_SURVIVORS;
        assert_near(report.baseline[0], survivors ? 5 : 1.5, 1e-12);
        test_ok(ga_advantage_compute(&options, rows, 1, arena, advantage, &report, NULL), NULL);
        assert_true(advantage[0] == 0 && report.baseline[0] == 5); /* a group of one */
    }
    ga_arena_destroy(&arena);
}

/* Pruned rows teach by their predicted distance; without predictions they stay silent. */
static void credit_of_pruned_rows(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[] = {
        {.reward = 4, .inclusion = 0.5, .mean = 3, .kept = 1},
        {.mean = 1, .index = 1, .reward = (double)NAN},
        {.group = 1, .reward = 1, .inclusion = 1, .mean = NAN, .index = 2, .kept = 1},
        {.group = 1, .mean = 1, .index = 3, .reward = (double)NAN},
    };
    double advantage[4];
    ga_advantage_report report;
    ga_advantage_options options = options_of(GA_ESTIMATOR_PREDICTED, GA_STD_GLOBAL);
    options.leave_one_out = false;
    options.prefix_credit = true;
    options.epsilon = 0;
    options.fixed_sigma = 2;
    test_ok(ga_advantage_compute(&options, rows, 4, arena, advantage, &report, NULL), NULL);
    /* m̄ = 2: Â = ±1/2; A = 1; A' = ½ + 2 (1 − ½); three of four rows teach */
    assert_near(advantage[0], 0.75 * 1.5, 1e-12);
    assert_near(advantage[1], 0.75 * -0.5, 1e-12);
    assert_true(advantage[2] == 0 && advantage[3] == 0);
    assert_int_equal(report.credited_count, 1);
    assert_int_equal(report.fallback_group_count, 1);
    ga_arena_destroy(&arena);
}

/* ---- the second stage ---- */

/* The best sum of squares with as many rows of each rank, by brute force over one rank. */
static double best_of_rank(const double *advantage, const ga_outcome *rows, int32_t rank, int32_t trained) {
    double best = 0;
    for (uint32_t set = 0; set < 1u << (ROWS / RANKS); set++) {
        double sum = 0;
        int32_t size = 0, used = 0;
        for (int32_t i = 0; i < ROWS; i++) {
            if (rows[i].rank == rank && (set >> size++ & 1u) != 0) {
                sum += advantage[i] * advantage[i];
                used += advantage[i] != 0;
            }
        }
        best = used <= trained && sum > best ? sum : best;
    }
    return best;
}

static void the_largest_advantages_train(void **state) {
    (void)state;
    ga_random random = test_random(13);
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[ROWS];
    double before[ROWS], after[ROWS];
    draw_rows(&random, rows, 1);
    for (int trial = 0; trial < 6; trial++) {
        int32_t has[RANKS] = {0}, trains[RANKS] = {0}, trained = 0, smallest = ROWS;
        for (int32_t i = 0; i < ROWS; i++) {
            before[i] = after[i] = ga_random_uniform(&random) < 0.7 ? ga_random_normal(&random) : 0;
            has[rows[i].rank] += before[i] != 0;
        }
        const ga_downsample_options options = {.share = 0.5, .multiple = 1 + trial % 2};
        test_ok(ga_downsample_advantages(&options, rows, ROWS, arena, after, &trained, NULL), NULL);
        for (int32_t rank = 0; rank < RANKS; rank++) {
            double sum = 0;
            smallest = has[rank] < smallest ? has[rank] : smallest;
            for (int32_t i = 0; i < ROWS; i++) {
                assert_true(after[i] == 0 || after[i] == before[i]);
                trains[rank] += rows[i].rank == rank && after[i] != 0;
                sum += rows[i].rank == rank ? after[i] * after[i] : 0;
            }
            assert_int_equal(trains[rank], trained);
            assert_near(sum, best_of_rank(before, rows, rank, trained), 1e-12);
        }
        assert_true(trained % options.multiple == 0 && fabs(trained - 0.5 * smallest) <= options.multiple);
    }
    ga_arena_destroy(&arena);
}

/* Seven rows a rank in batches of four: four train, however near seven the share comes. */
static void downsampling_gives_whole_multiples(void **state) {
    (void)state;
    enum { EACH = 7 };
    ga_arena *arena = ga_arena_create(0);
    const double shares[] = {0.01, 0.5, 0.95, 1};
    for (int k = 0; k < 4; k++) {
        ga_outcome rows[2 * EACH] = {{0}};
        double advantage[2 * EACH];
        int32_t trained = -1, left[2] = {0};
        for (int32_t i = 0; i < 2 * EACH; i++) {
            rows[i].rank = i / EACH;
            rows[i].index = i % EACH;
            advantage[i] = i + 1;
        }
        const ga_downsample_options options = {.share = shares[k], .multiple = 4};
        test_ok(ga_downsample_advantages(&options, rows, 2 * EACH, arena, advantage, &trained, NULL), NULL);
        for (int32_t i = 0; i < 2 * EACH; i++) {
            left[rows[i].rank] += advantage[i] != 0;
        }
        assert_true(trained == 4 && left[0] == 4 && left[1] == 4);
    }
    ga_arena_destroy(&arena);
}

static void downsampling_at_its_edges(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[6] = {{0}};
    for (int32_t i = 0; i < 6; i++) {
        rows[i].rank = i / 3;
        rows[i].index = i % 3;
    }
    int32_t trained = -1;
    ga_downsample_options options = {.share = 1, .multiple = 1};
    double all[] = {1, -2, 3, 1, 1, 1};
    test_ok(ga_downsample_advantages(&options, rows, 6, arena, all, &trained, NULL), NULL);
    assert_true(trained == 3 && all[0] == 1 && all[5] == 1);
    options.share = 0.01; /* one at least; ties go to the first row, whatever the order of the outcomes */
    ga_outcome reversed[6];
    double ties[] = {1, -2, 2, 1, 1, 1}, backwards[6];
    for (int32_t i = 0; i < 6; i++) {
        reversed[i] = rows[5 - i];
        backwards[i] = ties[5 - i];
    }
    test_ok(ga_downsample_advantages(&options, rows, 6, arena, ties, &trained, NULL), NULL);
    test_ok(ga_downsample_advantages(&options, reversed, 6, arena, backwards, NULL, NULL), NULL);
    assert_true(
        trained == 1 && ties[0] == 0 && ties[1] == -2 && ties[2] == 0 && ties[3] == 1 && ties[4] == 0);
    for (int32_t i = 0; i < 6; i++) {
        assert_true(ties[i] == backwards[5 - i]);
    }
    options.multiple = 5; /* more than there are: all of the rank that has fewest, as many of the other */
    double few[] = {1, 2, 0, 1, 2, 3};
    test_ok(ga_downsample_advantages(&options, rows, 6, arena, few, &trained, NULL), NULL);
    assert_true(trained == 2 && few[3] == 0 && few[4] == 2 && few[5] == 3 && few[0] == 1);
    double none[6] = {0};
    test_ok(ga_downsample_advantages(&options, rows, 6, arena, none, NULL, NULL), NULL);
    test_ok(ga_downsample_advantages(&options, NULL, 0, arena, NULL, &trained, NULL), NULL);
    options = (ga_downsample_options){.share = 0.2, .multiple = 1};
    double idle[] = {1, 2, 3, 0, 0, 0}; /* equal counts could only be 0: the host's own rows train */
    test_ok(ga_downsample_advantages(&options, rows, 6, arena, idle, &trained, NULL), NULL);
    assert_true(trained == 0 && idle[0] == 1 && idle[1] == 2 && idle[2] == 3 && idle[3] == 0);
    const double shares[] = {0, -1, 1.5, (double)NAN};
    for (int i = 0; i < 4; i++) {
        options.share = shares[i];
        assert_int_equal(
            ga_downsample_advantages(&options, rows, 6, arena, few, NULL, NULL), GA_ERR_ARGUMENT);
    }
    options = (ga_downsample_options){.share = 1, .multiple = 0};
    assert_int_equal(ga_downsample_advantages(&options, rows, 6, arena, few, NULL, NULL), GA_ERR_ARGUMENT);
    ga_arena_destroy(&arena);
}

/* ---- predictions of another reward ---- */

static void predictions_of_a_multiple(void **state) {
    (void)state;
    ga_random random = test_random(14);
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[ROWS], shuffled[ROWS];
    draw_rows(&random, rows, 0.6);
    for (int32_t i = 0; i < ROWS; i++) {
        rows[i].reward = rows[i].kept ? 7 - 3 * (double)rows[i].mean : (double)NAN;
        shuffled[ROWS - 1 - i] = rows[i];
    }
    ga_transfer transfer, again;
    test_ok(ga_transfer_predictions(rows, ROWS, arena, &transfer, NULL), NULL);
    test_ok(ga_transfer_predictions(shuffled, ROWS, arena, &again, NULL), NULL);
    assert_true(transfer.known && transfer.slope == again.slope && transfer.level == again.level);
    assert_near(transfer.slope, -3, 1e-6);
    assert_near(transfer.level, 7, 1e-4);
    for (int32_t i = 0; i < ROWS; i++) {
        assert_true(!rows[i].kept || fabs((double)rows[i].mean - rows[i].reward) < 1e-4);
        assert_true(rows[i].mean == shuffled[ROWS - 1 - i].mean && rows[i].variance >= 0);
    }
    ga_arena_destroy(&arena);
}

/* A reward that shares half of its spread with the predicted one, extremes kept: nearer than the survivors.
 */
static void predictions_of_another_reward_help(void **state) {
    (void)state;
    enum { SIZE = 24, MANY = 16 * SIZE };
    ga_random random = test_random(15);
    ga_arena *arena = ga_arena_create(0);
    static ga_outcome rows[MANY];
    double advantage[MANY], truth[MANY / SIZE], square[2] = {0};
    for (int update = 0; update < 60; update++) {
        for (int32_t g = 0; g < MANY / SIZE; g++) {
            const double level = ga_random_normal(&random);
            truth[g] = 0;
            for (int32_t i = g * SIZE; i < (g + 1) * SIZE; i++) {
                const double seen = ga_random_normal(&random);
                const double reward = level + 0.7 * seen + 0.7 * ga_random_normal(&random);
                truth[g] += reward / SIZE;
                const bool kept = seen > 0.9; /* the best, as a policy that bends every mean does */
                rows[i] = (ga_outcome){.group = (uint64_t)g,
                    .reward = kept ? reward : (double)NAN,
                    .inclusion = 1,
                    .mean = (float)(0.5 + 2 * seen),
                    .variance = 1,
                    .index = i,
                    .kept = kept};
            }
        }
        for (int moved = 0; moved < 2; moved++) {
            ga_transfer transfer = {.tau2 = (double)NAN, .sigma_r2 = (double)NAN};
            if (moved == 1) {
                test_ok(ga_transfer_predictions(rows, MANY, arena, &transfer, NULL), NULL);
                assert_true(transfer.known && transfer.sigma_r2 > 0.2 && transfer.sigma_r2 < 1);
            }
            ga_advantage_options options = options_of(moved ? 0 : GA_ESTIMATOR_SURVIVORS, GA_STD_GLOBAL);
            options.leave_one_out = false;
            options.tau2 = transfer.tau2;
            options.sigma_r2 = transfer.sigma_r2;
            ga_advantage_report report;
            test_ok(ga_advantage_compute(&options, rows, MANY, arena, advantage, &report, NULL), NULL);
            for (int32_t g = 0; g < MANY / SIZE; g++) {
                const double error = report.baseline[g * SIZE] - truth[g];
                square[moved] += isnan(error) ? 0 : error * error;
            }
        }
        ga_arena_reset(arena);
    }
    assert_true(square[1] < 0.25 * square[0]);
    ga_arena_destroy(&arena);
}

static void too_little_to_transfer(void **state) {
    (void)state;
    ga_random random = test_random(16);
    ga_arena *arena = ga_arena_create(0);
    ga_outcome rows[ROWS];
    ga_transfer transfer;
    draw_rows(&random, rows, 0);
    rows[0].kept = rows[GROUPS].kept = 1;
    rows[0].reward = rows[GROUPS].reward = 1;
    test_ok(ga_transfer_predictions(rows, ROWS, arena, &transfer, NULL), NULL);
    assert_true(!transfer.known && isnan(rows[5].mean) && isnan(transfer.tau2));
    draw_rows(&random, rows, 2);
    for (int32_t i = 0; i < ROWS; i++) {
        rows[i].mean = 3; /* a prediction that tells no row from another */
    }
    test_ok(ga_transfer_predictions(rows, ROWS, arena, &transfer, NULL), NULL);
    assert_true(!transfer.known && isnan(rows[5].mean));
    test_ok(ga_transfer_predictions(NULL, 0, arena, &transfer, NULL), NULL);
    assert_int_equal(ga_transfer_predictions(NULL, 1, arena, &transfer, NULL), GA_ERR_ARGUMENT);
    ga_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leave_one_out_of_whole_groups),
        cmocka_unit_test(leave_one_out_leaves_the_own_row_out),
        cmocka_unit_test(alone_among_the_kept),
        cmocka_unit_test(credit_of_pruned_rows),
        cmocka_unit_test(the_largest_advantages_train),
        cmocka_unit_test(downsampling_gives_whole_multiples),
        cmocka_unit_test(downsampling_at_its_edges),
        cmocka_unit_test(predictions_of_a_multiple),
        cmocka_unit_test(predictions_of_another_reward_help),
        cmocka_unit_test(too_little_to_transfer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
