/* Room whatif: tables, places, calibration, figures and synthetic groups, from literals and closed forms. */
#include "tests/unit/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/estimate/energy.h"
#include "grpo_accel/whatif/parts.h"
#include "grpo_accel/whatif/recipe.h"
#include "grpo_accel/whatif/sweep.h"

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

/* ---- tables ---- */

static ga_whatif_table *parse(const char *text) {
    ga_whatif_table *table = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_whatif_parse_csv("t.csv", text, strlen(text), &table, &error), &error);
    return table;
}

static void refused(const char *text, const char *where) {
    ga_whatif_table *table = NULL;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_whatif_parse_csv("t.csv", text, strlen(text), &table, &error), GA_ERR_DATA);
    assert_null(table);
    if (strncmp(error.message, where, strlen(where)) != 0) {
        fail_msg("'%s' should begin with '%s'", error.message, where);
    }
}

static void test_csv_reads_what_it_should(void **state) {
    (void)state;
    ga_whatif_table *table = parse("\xef\xbb\xbf reward , note,group,score,rank,batch\r\n"
                                   "1.5,\"a, \"\"b\"\"\",red fox,-2e-1,3,7\r\n\n"
                                   "2,x,18446744073709551615,nan,0,7.0\r\n"
                                   "-1,,red fox,,1,8");
    assert_int_equal(table->rows, 3);
    assert_int_equal(table->score_count, 1);
    assert_near(table->reward[0], 1.5, 0);
    assert_near(table->score[0][0], -0.2, 0);
    assert_true(isnan(table->score[0][1]) && isnan(table->score[0][2]));
    assert_int_equal(table->rank[0], 3);
    assert_true(table->group[0] == table->group[2] && table->group[0] != table->group[1]);
    assert_true(table->group[1] == UINT64_MAX);
    assert_true(table->batch[0] == 7 && table->batch[1] != 7 && table->batch[2] == 8); /* 7.0 is text */
    ga_whatif_table_free(&table);
}

/* A column that nobody asks for may hold long texts, quoted line ends and zero bytes. */
static void test_csv_passes_over_what_it_ignores(void **state) {
    (void)state;
    enum { LONG = 100000 };
    static char text[LONG + 200];
    int length = snprintf(text, sizeof text, "group,\"a\nprompt\",score,reward\n1,\"");
    memset(text + length, 'x', LONG);
    length += LONG;
    length += snprintf(text + length, sizeof text - (size_t)length, "\",2,3\n1,\"one\r\ntwo\",4,bad\n");
    refused(text, "t.csv:5:8: not a finite number: 'bad'");
    memcpy(strstr(text, "bad"), "5.0", 3);
    ga_whatif_table *table = parse(text);
    assert_int_equal(table->rows, 2);
    assert_true(table->score[0][0] == 2 && table->reward[0] == 3 && table->reward[1] == 5);
    ga_whatif_table_free(&table);
    const char zero[] = "group,note,score,reward\n1,\0,2,3\n";
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_whatif_parse_csv("t.csv", zero, sizeof zero - 1, &table, &error), &error);
    ga_whatif_table_free(&table);
}

static void test_csv_tells_names_apart(void **state) {
    (void)state;
    static const char *const names[] = {"1e3", "1000", "01", "1", "0x10", "16", "-1", "18446744073709551615",
        "18446744073709551616", "1.0", "+1", "00", "0"};
    enum { COUNT = sizeof names / sizeof names[0] };
    char text[1024];
    int length = snprintf(text, sizeof text, "group,score,reward\n");
    for (int i = 0; i < COUNT; i++) {
        length += snprintf(text + length, sizeof text - (size_t)length, "%s,0,%d\n", names[i], i);
    }
    ga_whatif_table *table = parse(text);
    for (int i = 0; i < COUNT; i++) {
        for (int k = 0; k < i; k++) {
            assert_true(table->group[i] != table->group[k]);
        }
    }
    assert_true(table->group[1] == 1000 && table->group[3] == 1 && table->group[7] == UINT64_MAX);
    ga_whatif_table_free(&table);
}

static void test_csv_says_where_it_is_wrong(void **state) {
    (void)state;
    refused("", "t.csv:1:");
    refused("group,score\n1,2\n", "t.csv:1:1: the header has no column of this name: 'reward'");
    refused("group,score,reward,score\n", "t.csv:1:20: the column is there twice");
    refused("group,score,reward\n", "t.csv:2:1:");
    refused("group,score,reward\n1,2,3\n1,two,3\n", "t.csv:3:3: not a finite number: 'two'");
    refused("group,score,reward\n1,2,inf\n", "t.csv:2:5: not a finite number");
    refused("group,score,reward\n1,2,1e308\n", "t.csv:2:5: too large a number");
    refused("group,score,reward\n1,-1e308,2\n", "t.csv:2:3: too large a number");
    refused("group,score,reward\n1,2,\n", "t.csv:2:5: a number is missing");
    refused("group,score,reward\n1,2\n", "t.csv:2:3: 2 cells where the header has 3");
    refused("group,score,reward\n1,2,3,4\n", "t.csv:2:7: 4 cells where the header has 3");
    refused("group,score,reward\n,2,3\n", "t.csv:2:1: an empty name of: 'group'");
    refused("group,score,reward\n1,\"2,3\n", "t.csv:2:3:");
    refused("group,score,reward,rank\n1,2,3,-1\n", "t.csv:2:7: a rank is a whole number from 0");
    refused("group,score,reward,score3\n1,2,3,4\n", "t.csv:1:1: the header has score3");
}

/* Whatever bytes come: an answer or an error, never a crash. */
static void test_csv_survives_damage(void **state) {
    (void)state;
    const char *good = "group,score,reward,batch,rank\n1,.5,1,0,0\n\"a\",.25,2,0,1\n2,1,3,1,0\n";
    ga_random random = test_random(1);
    int accepted = 0;
    for (int i = 0; i < 20000; i++) {
        char text[128];
        const size_t length = strlen(good);
        memcpy(text, good, length);
        const uint32_t changes = 1 + ga_random_below(&random, 4);
        for (uint32_t k = 0; k < changes; k++) {
            text[ga_random_below(&random, (uint32_t)length)] = (char)ga_random_below(&random, 256);
        }
        ga_whatif_table *table = NULL;
        ga_error error;
        ga_error_clear(&error);
        const ga_status status = ga_whatif_parse_csv("t.csv", text, length, &table, &error);
        assert_true((status == GA_OK) == (table != NULL));
        accepted += table != NULL;
        ga_whatif_table_free(&table);
    }
    assert_true(accepted > 1000 && accepted < 19000);
}

/* ---- places ---- */

static ga_frame frame_of(const ga_whatif_table *table) {
    ga_frame frame;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_frame_make(table, &frame, &error), &error);
    return frame;
}

static void test_rows_are_dealt_evenly(void **state) {
    (void)state;
    ga_whatif_table *table = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_whatif_table_create(23, 1, false, &table, &error), &error);
    for (int32_t i = 0; i < 23; i++) {
        table->batch[i] = i < 20 ? 5 : 9; /* the last batch has 3 rows */
        table->group[i] = (uint64_t)(i % 4);
    }
    ga_frame frame = frame_of(table);
    assert_int_equal(frame.batch_count, 2);
    assert_int_equal(frame.group_count, 4 + 3);
    int32_t rank[20], index[20], count[6] = {0};
    ga_dealt dealt = {.rank = rank, .index = index};
    test_ok(ga_frame_deal(&frame, 0, 6, false, 1, &dealt, &error), &error);
    assert_true(dealt.ranks == 6 && dealt.rows_per_rank == 3 && dealt.left_out == 2);
    for (int32_t i = 0; i < 20; i++) {
        assert_true(rank[i] >= -1 && rank[i] < 6);
        if (rank[i] >= 0) {
            count[rank[i]]++;
        }
    }
    for (int32_t k = 0; k < 6; k++) {
        assert_int_equal(count[k], 3);
    }
    test_ok(ga_frame_deal(&frame, 1, 6, false, 1, &dealt, &error), &error);
    assert_true(dealt.ranks == 3 && dealt.rows_per_rank == 1 && dealt.left_out == 0);
    ga_frame_free(&frame);
    ga_whatif_table_free(&table);
}

static void test_a_rank_column_is_followed(void **state) {
    (void)state;
    ga_whatif_table *table = parse("group,score,reward,rank\n"
                                   "1,0,0,8\n1,0,1,2\n2,0,2,8\n2,0,3,8\n2,0,4,2\n");
    ga_frame frame = frame_of(table);
    ga_error error;
    ga_error_clear(&error);
    int32_t rank[5], index[5];
    ga_dealt dealt = {.rank = rank, .index = index};
    test_ok(ga_frame_deal(&frame, 0, 0, false, 1, &dealt, &error), &error);
    assert_true(dealt.ranks == 2 && dealt.rows_per_rank == 2 && dealt.left_out == 1);
    const int32_t ranks[5] = {1, 0, 1, -1, 0}; /* places: by group, then position */
    for (int32_t i = 0; i < 5; i++) {
        assert_int_equal(rank[i], ranks[i]);
    }
    assert_int_equal(ga_frame_deal(&frame, 0, 1, false, 1, &dealt, &error), GA_ERR_DATA);
    ga_frame_free(&frame);
    ga_whatif_table_free(&table);
}

/* ---- calibration ---- */

static void test_lines_come_from_the_other_batches(void **state) {
    (void)state;
    /* batch 1: r = 1 + 2 s; batch 2: r = 5 + 3 s with groups 0.5 up and down */
    ga_whatif_table *table = parse("batch,group,score,reward\n"
                                   "1,1,0,1\n1,1,1,3\n1,2,2,5\n1,2,4,9\n"
                                   "2,1,0,5.5\n2,1,1,8.5\n2,2,0,4.5\n2,2,1,7.5\n");
    ga_frame frame = frame_of(table);
    ga_line lines[2];
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_line_fit(&frame, 0, lines, &error), &error);
    assert_near(lines[1].b, 2, 1e-12);
    assert_near(lines[1].a, 1, 1e-12);
    assert_near(lines[1].sigma_r2, 0, 1e-12);
    assert_near(lines[1].tau2, 0, 1e-12);
    assert_near(lines[0].b, 3, 1e-12);
    assert_near(lines[0].a, 5, 1e-12);
    assert_near(lines[0].tau2, 0.25, 1e-12);
    ga_frame_free(&frame);
    ga_whatif_table_free(&table);
}

/* ---- figures ---- */

static ga_replay_report replay(const ga_whatif_table *table, const ga_replay_options *options) {
    ga_frame frame = frame_of(table);
    ga_replay_lines lines;
    ga_replay_report report;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_replay_lines_fit(&frame, &lines, &error), &error);
    test_ok(ga_replay_run(&frame, &lines, options, &report, &error), &error);
    ga_replay_lines_free(&lines);
    ga_frame_free(&frame);
    return report;
}

static ga_replay_options default_options(ga_policy_kind policy, int32_t keep) {
    return (ga_replay_options){.policy = policy,
        .threshold = {GA_THRESHOLD_QUANTILE, 0.5},
        .stage_count = 1,
        .keep_per_rank = {keep},
        .ranks = 1,
        .clip = 1e9,
        .seed = 3,
        .repeat = 1};
}

/* Batch 1 has more rows, batch 2 more on each rank. */
static void test_the_layout_is_that_of_the_most_rows_a_rank(void **state) {
    (void)state;
    ga_whatif_table *table = parse("batch,group,score,reward,rank\n"
                                   "1,1,0,0,0\n1,1,1,1,1\n1,1,2,3,2\n1,1,4,4,3\n"
                                   "2,1,0,0,0\n2,1,1,1,0\n2,1,2,2,0\n");
    ga_frame frame = frame_of(table);
    int32_t ranks = 0, rows = 0;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_frame_layout(&frame, 0, false, &ranks, &rows, &error), &error);
    assert_true(ranks == 4 && rows == 3);
    ga_frame_free(&frame);
    ga_replay_options o = default_options(GA_POLICY_TOPK, 1);
    o.ranks = 0;
    const ga_replay_report report = replay(table, &o);
    assert_int_equal(report.short_batches, 1); /* one row a rank of batch 1: nothing of it is stopped */
    assert_near(report.going_share[0], (1 + 1.0 / 3) / 2, 1e-12);
    ga_whatif_table_free(&table);
}

/* A level that all rewards share changes no figure, though predictions are single precision. */
static void test_a_shared_level_is_no_matter(void **state) {
    (void)state;
    const ga_synthetic world = {.batches = 4,
        .groups = 4,
        .group_size = 12,
        .seed = 5,
        .mean_spread = 1,
        .signal_count = 1,
        .signal = {{.spearman = 0.6, .offset = 0.3, .sd_keep = 1}}};
    ga_whatif_table *table = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_synthetic_make(&world, &table, &error), &error);
    ga_replay_options o = default_options(GA_POLICY_EXTREMES, 2);
    o.ranks = 8;
    const ga_replay_report plain = replay(table, &o);
    for (int32_t i = 0; i < table->rows; i++) {
        table->reward[i] += 1e8;
    }
    const ga_replay_report lifted = replay(table, &o);
    for (int k = 0; k < GA_FIGURE_COUNT; k++) {
        assert_near(lifted.value[k], plain.value[k], 1e-5);
    }
    ga_whatif_table_free(&table);
}

/* One rank, one group 0, 1, 2, 5 (mean 2), scores in the same order: everything by hand. */
static void test_figures_by_hand(void **state) {
    (void)state;
    ga_whatif_table *table = parse("group,score,reward\n1,0,0\n1,1,1\n1,2,2\n1,5,5\n");
    ga_replay_options o = default_options(GA_POLICY_TOPK, 2);
    ga_replay_report r = replay(table, &o);
    /* A = −2, −1, 0, 3; kept 2 and 5 */
    assert_near(r.value[GA_FIGURE_ENERGY], 9.0 / 14, 1e-12);
    assert_near(r.value[GA_FIGURE_RMSE + 2], (3.5 - 2) / sqrt(3.5), 1e-12);
    assert_near(r.value[GA_FIGURE_SHIFT + 2], (3.5 - 2) / sqrt(3.5), 1e-12);
    /* survivors: Â = −1.5, 1.5; Σ ÂA = 4.5, Σ Â² = 4.5 */
    assert_near(r.value[GA_FIGURE_SNR2 + 2], 4.5 / 14, 1e-9);
    /* the line is exact: no error, and all signal of the kept rows is there */
    assert_near(r.value[GA_FIGURE_RMSE], 0, 1e-6);
    assert_near(r.value[GA_FIGURE_SNR2 + 1], 9.0 / 14, 1e-6);
    assert_near(r.value[GA_FIGURE_TOP], 1, 0);
    assert_near(r.value[GA_FIGURE_BOTTOM], 0, 0);
    assert_near(r.keep_share, 0.5, 0);
    o = default_options(GA_POLICY_EXTREMES, 2);
    r = replay(table, &o);
    assert_near(r.value[GA_FIGURE_ENERGY], 13.0 / 14, 1e-12);
    assert_near(r.value[GA_FIGURE_BOTTOM], 1, 0);
    ga_whatif_table_free(&table);
}

static void test_everything_kept_is_everything(void **state) {
    (void)state;
    const ga_synthetic world = {.batches = 4,
        .groups = 3,
        .group_size = 8,
        .seed = 9,
        .sd_spread = 0.4,
        .mean_spread = 1,
        .signal_count = 1,
        .signal = {{.spearman = 0.5, .offset = 0.4, .sd_keep = 1}}};
    ga_whatif_table *table = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_synthetic_make(&world, &table, &error), &error);
    for (int std = GA_STD_GLOBAL; std <= GA_STD_GROUP; std++) {
        ga_replay_options o = default_options(GA_POLICY_RANDOM, 6);
        o.ranks = 4;
        o.std_kind = (ga_std_kind)std;
        o.resamples = 50;
        const ga_replay_report r = replay(table, &o);
        assert_near(r.value[GA_FIGURE_ENERGY], 1, 1e-12);
        for (int k = 0; k < 4; k++) {
            assert_near(r.value[GA_FIGURE_SNR2 + k], 1, 1e-6);
        }
        for (int k = 0; k < 3; k++) {
            assert_near(r.value[GA_FIGURE_RMSE + k], 0, 1e-9);
        }
        assert_near(r.low[GA_FIGURE_ENERGY], 1, 1e-9);
        assert_near(r.high[GA_FIGURE_ENERGY], 1, 1e-9);
    }
    ga_whatif_table_free(&table);
}

/* Groups and batches that say nothing: figures are there or NaN, never wrong. */
static void test_degenerate_tables(void **state) {
    (void)state;
    ga_whatif_table *flat = parse("batch,group,score,reward\n1,1,0,2\n1,1,1,2\n2,1,0,2\n2,1,3,2\n");
    ga_replay_options o = default_options(GA_POLICY_EXTREMES, 1);
    ga_replay_report r = replay(flat, &o);
    for (int k = 0; k < GA_FIGURE_COUNT; k++) {
        assert_true(isnan(r.value[k]));
    }
    ga_whatif_table_free(&flat);
    ga_whatif_table *blind = parse("group,score,reward\n1,,1\n1,nan,3\n2,1,2\n2,1,5\n");
    o.resamples = 20;
    r = replay(blind, &o);
    assert_int_equal(r.unscored, 2);
    assert_true(r.value[GA_FIGURE_ENERGY] >= 0 && r.value[GA_FIGURE_ENERGY] <= 1);
    ga_whatif_table_free(&blind);
    ga_whatif_table *single = parse("group,score,reward\n1,1,1\n");
    r = replay(single, &o);
    assert_true(isnan(r.value[GA_FIGURE_ENERGY]));
    ga_whatif_table_free(&single);
}

static void test_wrong_options_are_refused(void **state) {
    (void)state;
    ga_whatif_table *table = parse("group,score,reward\n1,0,0\n1,1,1\n");
    ga_frame frame = frame_of(table);
    ga_replay_lines lines;
    ga_replay_report report;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_replay_lines_fit(&frame, &lines, &error), &error);
    ga_replay_options o = default_options(GA_POLICY_TOPK, 0);
    assert_int_equal(ga_replay_run(&frame, &lines, &o, &report, NULL), GA_ERR_ARGUMENT);
    o = default_options(GA_POLICY_TOPK, 1);
    o.score[0] = 1;
    assert_int_equal(ga_replay_run(&frame, &lines, &o, &report, NULL), GA_ERR_ARGUMENT);
    o.score[0] = 0;
    o.ranks = 0;
    assert_int_equal(ga_replay_run(&frame, &lines, &o, &report, NULL), GA_ERR_ARGUMENT);
    ga_replay_lines_free(&lines);
    ga_frame_free(&frame);
    ga_whatif_table_free(&table);
}

/* ---- synthetic groups ---- */

static ga_synthetic gaussian_world(int32_t groups, int32_t size, double spearman) {
    return (ga_synthetic){.batches = 20,
        .groups = groups,
        .group_size = size,
        .seed = 11,
        .mean_spread = 1,
        .signal_count = 1,
        .signal = {{.spearman = spearman, .offset = 0.3, .sd_keep = 1}}};
}

/* The world has the Spearman that was asked for, in small groups, whatever the shape and the spreads. */
static void test_worlds_have_the_rho_asked_for(void **state) {
    (void)state;
    for (int shape = GA_SHAPE_GAUSSIAN; shape <= GA_SHAPE_SKEWED; shape++) {
        for (int k = 0; k < 3; k++) {
            ga_synthetic world = gaussian_world(60, k == 0 ? 6 : 24, 0.3 + 0.25 * k);
            world.shape = (ga_shape)shape;
            world.skew = 0.5;
            world.sd_spread = 0.46;
            world.signal[0].rho_spread = 0.2 * k;
            ga_whatif_table *table = NULL;
            ga_error error;
            ga_error_clear(&error);
            test_ok(ga_synthetic_make(&world, &table, &error), &error);
            ga_frame frame = frame_of(table);
            ga_within rho;
            test_ok(ga_replay_rho(&frame, 0, 1, &rho, &error), &error);
            assert_near(rho.value, world.signal[0].spearman, 0.025);
            ga_frame_free(&frame);
            ga_whatif_table_free(&table);
        }
    }
    assert_near(ga_copula_spearman(0.5, 0), 6 / 3.14159265358979 * asin(0.25), 1e-12);
    assert_near(ga_copula_spearman(1, 24), 1, 1e-12);
    assert_near(ga_copula_spearman(ga_copula_rho(0.7, 24), 24), 0.7, 1e-9);
}

/* A larger world of large groups, in one group a rank, so that quotas don't bind: closed forms hold. */
static ga_case closed_case(ga_policy_kind policy, double spearman, int32_t keep) {
    ga_case c = {.options = default_options(policy, keep),
        .shares = {.before = {0.2}, .signal = {0}, .after = 0.5},
        .worth = GA_FIGURE_SNR2};
    ga_synthetic world = gaussian_world(1, 400, spearman);
    world.signal[0].offset = 0;
    world.mean_spread = 0;
    c.options.std_kind = GA_STD_GROUP;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_cases_run_on_synthetic(&world, 2, &c, 1, &error), &error);
    return c;
}

static void test_closed_forms(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        const double spearman = 0.2 + 0.3 * i, pearson = ga_copula_rho(spearman, 400);
        for (int k = 0; k < 3; k++) {
            const int32_t keep = 100 + 100 * k; /* κ = ¼, ½, ¾ of 400 */
            const double kappa = keep / 400.0;
            const ga_case extremes = closed_case(GA_POLICY_EXTREMES, spearman, keep);
            assert_near(
                extremes.report.value[GA_FIGURE_ENERGY], ga_energy_of_extremes(pearson, kappa), 0.015);
            const ga_case top = closed_case(GA_POLICY_TOPK, spearman, keep);
            /* shift of a survivors' mean: ρ·λ, λ = φ(c)/κ; its energy at κ = ½ is ½ whatever ρ is */
            const double cut = ga_normal_quantile(1 - kappa);
            const double lambda = exp(-cut * cut / 2) / sqrt(2 * 3.14159265358979) / kappa;
            assert_near(top.report.value[GA_FIGURE_SHIFT + 2], pearson * lambda, 0.015);
            const double square = 1 + pearson * pearson * cut * lambda; /* E z² above c is 1 + cλ */
            assert_near(top.report.value[GA_FIGURE_ENERGY], kappa * square, 0.015);
            const ga_case chance = closed_case(GA_POLICY_RANDOM, spearman, keep);
            assert_near(chance.report.value[GA_FIGURE_ENERGY], kappa, 0.015);
            assert_near(chance.cost, 0.5 * (0.2 + 0.8 * kappa) + 0.5 * kappa, 1e-5);
        }
    }
}

/* Break-even of statistics §5: about ρ .43, .34, .23 at κ = ½ and s = .2 for f = .2, .5, .78. */
static void test_break_even(void **state) {
    (void)state;
    const double after[3] = {0.2, 0.5, 0.78}, expected[3] = {0.43, 0.34, 0.23};
    for (int k = 0; k < 3; k++) {
        ga_case c = {.options = default_options(GA_POLICY_EXTREMES, 200),
            .shares = {.before = {0.2}, .signal = {0}, .after = after[k]},
            .worth = GA_FIGURE_SNR2};
        ga_synthetic world = gaussian_world(1, 400, 0.3);
        ga_error error;
        ga_error_clear(&error);
        test_ok(ga_cases_run_on_synthetic(&world, 1, &c, 1, &error), &error);
        assert_near(c.break_even_rho, expected[k], 0.01);
    }
    const ga_shares race = {.before = {0.2, 0.5}, .signal = {0.01, 0.02}, .reward = 0.1, .after = 0};
    const double keep[2] = {0.5, 0.25};
    assert_near(ga_shares_cost(&race, 2, keep),
        (0.2 + 0.5 * 0.3 + 0.25 * 0.5 + 0.01 + 0.5 * 0.02 + 0.25 * 0.1) / 1.1, 1e-5);
}

/* Two decisions: counts stay exact, the later score is the surer one, and shares of both are paid. */
static void test_two_decisions(void **state) {
    (void)state;
    ga_synthetic world = gaussian_world(12, 24, 0.4);
    world.signal_count = 2;
    world.signal[1] = world.signal[0];
    world.signal[1].spearman = 0.8;
    ga_case c = {.options = default_options(GA_POLICY_EXTREMES, 5),
        .shares = {.before = {0.2, 0.4}, .signal = {0.01, 0.01}, .after = 0.5},
        .worth = GA_FIGURE_SNR2};
    c.options.ranks = 32;
    ga_case late = c;
    c.options.stage_count = 2;
    c.options.score[1] = 1;
    c.options.keep_per_rank[1] = 2;
    late.options.score[0] = 1;
    late.options.keep_per_rank[0] = 2;
    late.shares.before[0] = 0.4;
    ga_case cases[2] = {c, late};
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_cases_run_on_synthetic(&world, 1, cases, 2, &error), &error);
    assert_near(cases[0].report.keep_share, 2.0 / 9, 1e-12);
    assert_near(cases[0].rho[0].value, 0.4, 0.03);
    assert_near(cases[0].rho[1].value, 0.8, 0.03);
    assert_true(cases[0].cost < cases[1].cost);
    assert_true(cases[0].report.value[GA_FIGURE_ENERGY] < cases[1].report.value[GA_FIGURE_ENERGY]);
    world.signal[1].spearman = 0.3;
    assert_int_equal(ga_cases_run_on_synthetic(&world, 1, cases, 2, NULL), GA_ERR_ARGUMENT);
}

/* One decision and two are compared on the same rewards, and on the same score where both look at it. */
static ga_within rho_of(const char *text) {
    ga_whatif_table *table = parse(text);
    ga_frame frame = frame_of(table);
    ga_within rho;
    test_ok(ga_replay_rho(&frame, 0, 1, &rho, NULL), NULL);
    ga_frame_free(&frame);
    ga_whatif_table_free(&table);
    return rho;
}

/* Pairs are in the right order or in the wrong one; a single group has a figure and no interval. */
static void test_rho_of_few_rows_and_groups(void **state) {
    (void)state;
    ga_within rho = rho_of("group,score,reward\n1,1,1\n1,2,5\n2,3,9\n2,4,8\n3,1,1\n3,2,2\n4,7,1\n4,7,2\n");
    assert_near(rho.value, 0.25, 1e-12); /* +1, −1, +1, and 0 for equal scores */
    assert_int_equal(rho.groups, 4);
    assert_int_equal(rho.rows, 8);
    assert_true(rho.low < 0.25 && rho.high > 0.25);
    /* equal rewards and rows without a score tell nothing; a triple with one counts as a pair */
    rho = rho_of("group,score,reward\n1,1,3\n1,2,3\n2,,1\n2,1,2\n3,1,5\n3,nan,7\n3,2,6\n");
    assert_near(rho.value, 1, 1e-12);
    assert_int_equal(rho.groups, 1);
    assert_true(isnan(rho.low) && isnan(rho.high));
    rho = rho_of("group,score,reward\n1,1,1\n1,2,3\n1,3,2\n");
    assert_near(rho.value, 0.5, 1e-12);
    assert_true(isnan(rho.low) && isnan(rho.high));
    rho = rho_of("group,score,reward\n1,1,1\n2,2,3\n");
    assert_true(isnan(rho.value) && rho.groups == 0);
}

static void test_more_signals_change_no_reward(void **state) {
    (void)state;
    ga_synthetic world = gaussian_world(12, 24, 0.7);
    ga_whatif_table *one = NULL, *three = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_synthetic_make(&world, &one, &error), &error);
    world.signal_count = 3;
    world.signal[1] = world.signal[2] = world.signal[0];
    world.signal[0].spearman = 0.3;
    world.signal[1].spearman = 0.5;
    test_ok(ga_synthetic_make(&world, &three, &error), &error);
    assert_int_equal(one->rows, three->rows);
    assert_memory_equal(one->reward, three->reward, (size_t)one->rows * sizeof *one->reward);
    assert_memory_equal(one->score[0], three->score[2], (size_t)one->rows * sizeof *one->reward);
    assert_memory_not_equal(three->score[0], three->score[1], (size_t)one->rows * sizeof *one->reward);
    ga_whatif_table_free(&one);
    ga_whatif_table_free(&three);
}

static void test_recipes_are_worlds(void **state) {
    (void)state;
    for (int32_t i = 0; i < ga_recipe_count; i++) {
        const ga_recipe *recipe = NULL;
        test_ok(ga_recipe_find(ga_recipes[i].name, &recipe, NULL), NULL);
        ga_synthetic world = recipe->world;
        world.signal_count = 1;
        for (int32_t k = 0; k < recipe->signal_count; k++) {
            world.signal[0] = recipe->signals[k].signal;
            ga_whatif_table *table = NULL;
            ga_error error;
            ga_error_clear(&error);
            test_ok(ga_synthetic_make(&world, &table, &error), &error);
            ga_whatif_table_free(&table);
        }
    }
    const ga_recipe *none = NULL;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_recipe_find("nowhere", &none, &error), GA_ERR_CONFIG);
    assert_non_null(strstr(error.message, "flux-imagereward"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv_reads_what_it_should),
        cmocka_unit_test(test_csv_passes_over_what_it_ignores),
        cmocka_unit_test(test_csv_tells_names_apart),
        cmocka_unit_test(test_csv_says_where_it_is_wrong),
        cmocka_unit_test(test_csv_survives_damage),
        cmocka_unit_test(test_rows_are_dealt_evenly),
        cmocka_unit_test(test_a_rank_column_is_followed),
        cmocka_unit_test(test_the_layout_is_that_of_the_most_rows_a_rank),
        cmocka_unit_test(test_lines_come_from_the_other_batches),
        cmocka_unit_test(test_a_shared_level_is_no_matter),
        cmocka_unit_test(test_figures_by_hand),
        cmocka_unit_test(test_everything_kept_is_everything),
        cmocka_unit_test(test_degenerate_tables),
        cmocka_unit_test(test_wrong_options_are_refused),
        cmocka_unit_test(test_worlds_have_the_rho_asked_for),
        cmocka_unit_test(test_closed_forms),
        cmocka_unit_test(test_break_even),
        cmocka_unit_test(test_two_decisions),
        cmocka_unit_test(test_rho_of_few_rows_and_groups),
        cmocka_unit_test(test_more_signals_change_no_reward),
        cmocka_unit_test(test_recipes_are_worlds),
    };
    return cmocka_run_group_tests_name("whatif", tests, NULL, NULL);
}
