/* Figures of judged rows against brute force and closed forms. */
#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>

#include "probe/train/curves.h"
#include "probe/train/evaluate.h"
#include "probe/train/figures.h"
#include "probe/train/reliability.h"

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

/* ---- rows with a known truth ---- */

/* Rows of `groups` groups of `size`; memory for all columns, to be filled. */
static ga_judged make_rows(int32_t groups, int64_t size) {
    const size_t rows = (size_t)groups * (size_t)size;
    ga_judged judged = {.rows = (int64_t)rows, .groups = groups};
    judged.begin = calloc((size_t)groups + 1, sizeof *judged.begin);
    judged.group = calloc(rows, sizeof *judged.group);
    judged.row = calloc(rows, sizeof *judged.row);
    judged.update = calloc(rows, sizeof *judged.update);
    judged.prediction = calloc(rows, sizeof *judged.prediction);
    judged.variance = calloc(rows, sizeof *judged.variance);
    judged.target = calloc(rows, sizeof *judged.target);
    for (size_t i = 0; i < rows; i++) {
        judged.group[i] = 100 + i / (size_t)size;
        judged.row[i] = (int64_t)i;
    }
    for (int32_t g = 0; g <= groups; g++) {
        judged.begin[g] = g * size;
    }
    return judged;
}

/* Calibrated Gaussian predictions of correlation `rho` inside groups, with offsets of variance `tau2` that
 * the prediction does not know; rewards have variance 1 inside a group. */
static ga_judged gaussian(uint64_t test_case, double rho, double tau2, int32_t groups, int64_t size) {
    ga_judged judged = make_rows(groups, size);
    ga_random random = test_random(test_case);
    judged.tau2 = tau2;
    for (int32_t g = 0; g < groups; g++) {
        const double known = ga_random_normal(&random), offset = sqrt(tau2) * ga_random_normal(&random);
        for (int64_t i = g * size; i < (g + 1) * size; i++) {
            const double signal = ga_random_normal(&random);
            judged.prediction[i] = known + rho * signal;
            judged.variance[i] = 1 - rho * rho;
            judged.target[i] =
                known + offset + rho * signal + sqrt(1 - rho * rho) * ga_random_normal(&random);
        }
    }
    return judged;
}

/* ---- energy ---- */

static double normal_above(double z) {
    return 0.5 * erfc(z / sqrt(2.0));
}

/* κ₂ of docs/statistics.md: the energy of the share κ with the largest |z|. */
static double extreme_energy(double share) {
    double low = 0, high = 10;
    for (int i = 0; i < 200; i++) {
        const double middle = 0.5 * (low + high);
        *(normal_above(middle) > share / 2 ? &low : &high) = middle;
    }
    const double density = exp(-0.5 * low * low) / sqrt(2 * 3.14159265358979323846);
    return 2 * (low * density + normal_above(low));
}

/* E(ρ) = κ + ρ²(κ₂ − κ) */
static void energy_follows_the_closed_form(void **state) {
    (void)state;
    const double rhos[] = {0, 0.4, 0.63, 1.0};
    for (int r = 0; r < 4; r++) {
        ga_judged judged = gaussian(200 + (uint64_t)r, rhos[r], 0.3, 40, 500);
        for (int std = 0; std < 2; std++) {
            ga_energy_point points[GA_ENERGY_POINTS];
            test_ok(ga_judge_energy(&judged, (ga_std_kind)std, 1, points, NULL), NULL);
            for (int p = 0; p < GA_ENERGY_POINTS; p++) {
                const double keep = points[p].keep, best = extreme_energy(keep);
                const double expected = keep + rhos[r] * rhos[r] * (best - keep);
                assert_near(points[p].probe.value, expected, 0.02);
                assert_near(points[p].oracle, best, 0.02);
                assert_near(points[p].random, keep, 1e-9);
                assert_true(points[p].probe.value <= points[p].oracle + 1e-12);
                assert_true(points[p].probe.low <= points[p].probe.value &&
                            points[p].probe.high >= points[p].probe.value);
            }
            assert_near(points[2].keep, 0.25, 0);
            assert_near(points[5].keep, 0.5, 0);
        }
        ga_judged_destroy(&judged);
    }
}

/* One group has all the spread: the host that divides by one σ keeps its rows, the host that divides by the
 * group's σ takes both alike. */
static void energy_knows_by_what_the_host_divides(void **state) {
    (void)state;
    ga_judged judged = make_rows(2, 4);
    const double wide[4] = {-10, -1, 1, 10}, narrow[4] = {-0.10, -0.01, 0.01, 0.10};
    for (int i = 0; i < 4; i++) {
        judged.prediction[i] = judged.target[i] = wide[i];
        judged.prediction[4 + i] = judged.target[4 + i] = narrow[i];
    }
    ga_energy_point points[GA_ENERGY_POINTS];
    test_ok(ga_judge_energy(&judged, GA_STD_GLOBAL, 1, points, NULL), NULL);
    assert_near(points[2].probe.value, 200 / 202.0202, 1e-6);
    test_ok(ga_judge_energy(&judged, GA_STD_GROUP, 1, points, NULL), NULL);
    assert_near(points[5].probe.value, 200 / 202.0, 1e-6); /* the ends of both groups */
    for (int64_t i = 0; i < judged.rows; i++) {
        judged.target[i] = 1;
    }
    assert_int_equal(ga_judge_energy(&judged, GA_STD_GLOBAL, 1, points, NULL), GA_ERR_DATA);
    assert_int_equal(ga_judge_energy(&judged, GA_STD_GROUP, 1, points, NULL), GA_ERR_DATA);
    ga_judged_destroy(&judged);
}

/* ---- best of n ---- */

/* Expected shortfall of the best of k, by all subsets of a group of six. */
static void best_of_n_by_brute_force(void **state) {
    (void)state;
    enum { SIZE = 6 };
    ga_judged judged = make_rows(1, SIZE);
    const double target[SIZE] = {3, 3, 1, 0, -2, 2.5}, prediction[SIZE] = {0.1, 0.5, 0.9, 0.2, 0.8, 0.3};
    memcpy(judged.target, target, sizeof target);
    memcpy(judged.prediction, prediction, sizeof prediction);
    double mean = 0, square = 0;
    for (int i = 0; i < SIZE; i++) {
        mean += target[i] / SIZE;
        square += target[i] * target[i] / SIZE;
    }
    const double sd = sqrt(square - mean * mean);
    ga_best_point points[GA_BEST_POINTS];
    test_ok(ga_judge_best(&judged, 1, 50, points, NULL), NULL);
    for (int p = 0; p < 3; p++) {
        const int k = points[p].k;
        double subsets = 0, hits = 0, shortfall = 0;
        for (unsigned set = 0; set < 1u << SIZE; set++) {
            double best = -INFINITY;
            int size = 0;
            for (int i = 0; i < SIZE; i++) {
                size += (set >> i & 1u) != 0;
                best = (set >> i & 1u) != 0 ? fmax(best, target[i]) : best;
            }
            subsets += size == k;
            hits += size == k && best == 3;
            shortfall += size == k ? (3 - best) / sd : 0;
        }
        assert_near(points[p].recall_random, hits / subsets, 1e-12);
        assert_near(points[p].regret_random, shortfall / subsets, 1e-12);
    }
    assert_near(points[0].regret.value, (3 - 1) / sd, 1e-12); /* predicted best: 1 */
    assert_near(points[1].regret.value, (3 - 1) / sd, 1e-12); /* and −2 */
    assert_near(points[2].regret.value, 0, 1e-12);            /* and 3, 2.5 */
    assert_true(points[0].recall.value == 0 && points[2].recall.value == 1);
    assert_true(points[3].k == 8 && points[3].recall.groups == 0 && isnan(points[3].regret.value));
    ga_judged_destroy(&judged);
}

/* The share of the best-of-n gain is ρ (docs/statistics.md). */
static void regret_of_one_gives_the_correlation(void **state) {
    (void)state;
    ga_judged judged = gaussian(210, 0.6, 0, 3000, 16);
    ga_best_point points[GA_BEST_POINTS];
    test_ok(ga_judge_best(&judged, 1, 200, points, NULL), NULL);
    assert_near(1 - points[0].regret.value / points[0].regret_random, 0.6, 0.03);
    assert_near(points[0].recall_random, 1.0 / 16, 1e-9);
    assert_near(points[3].recall_random, 0.5, 1e-9);
    for (int p = 0; p < GA_BEST_POINTS; p++) {
        assert_true(points[p].recall.value > points[p].recall_random);
        assert_true(points[p].regret.value < points[p].regret_random);
        assert_int_equal(points[p].recall.groups, 3000);
    }
    ga_judged_destroy(&judged);
}

/* ---- quarters ---- */

/* Average precision by counting, without ties. */
static double average_precision_by_count(const double *score, const bool *positive, int count) {
    double sum = 0, positives = 0;
    for (int i = 0; i < count; i++) {
        double above = 0, right = 0;
        for (int j = 0; j < count && positive[i]; j++) {
            above += score[j] >= score[i];
            right += score[j] >= score[i] && positive[j];
        }
        positives += positive[i];
        sum += positive[i] ? right / above : 0;
    }
    return sum / positives;
}

static void average_precision_by_brute_force(void **state) {
    (void)state;
    ga_judged judged = gaussian(220, 0.5, 0, 1, 16);
    bool best[16], worst[16];
    double minus[16];
    for (int i = 0; i < 16; i++) {
        int above = 0, below = 0;
        for (int j = 0; j < 16; j++) {
            above += judged.target[j] > judged.target[i];
            below += judged.target[j] < judged.target[i];
        }
        best[i] = above < 4;
        worst[i] = below < 4;
        minus[i] = -judged.prediction[i];
    }
    ga_quarter top, bottom;
    test_ok(ga_judge_quarter(&judged, true, 1, 0, &top, NULL), NULL);
    test_ok(ga_judge_quarter(&judged, false, 1, 0, &bottom, NULL), NULL);
    assert_near(top.average_precision.value, average_precision_by_count(judged.prediction, best, 16), 1e-12);
    assert_near(bottom.average_precision.value, average_precision_by_count(minus, worst, 16), 1e-12);
    assert_near(top.positives, 0.25, 1e-12);
    /* a quarter taken: as many as there are positives */
    int right = 0;
    for (int i = 0; i < 16; i++) {
        int above = 0;
        for (int j = 0; j < 16; j++) {
            above += judged.prediction[j] > judged.prediction[i];
        }
        right += above < 4 && best[i];
    }
    assert_near(top.curve[4].taken, 0.25, 1e-12);
    assert_near(top.curve[4].precision, right / 4.0, 1e-12);
    assert_near(top.curve[4].recall, right / 4.0, 1e-12);
    assert_near(top.curve[4].fall_out, (4 - right) / 12.0, 1e-12);
    ga_judged_destroy(&judged);
}

/* The area under the curve's points is the AUC; equal predictions give the diagonal. */
static void curves_agree_with_their_areas(void **state) {
    (void)state;
    ga_judged judged = gaussian(221, 0.7, 0, 500, 20);
    ga_quarter quarter;
    test_ok(ga_judge_quarter(&judged, true, 1, 100, &quarter, NULL), NULL);
    double area = 0, recall = 0, fall_out = 0;
    for (int p = 0; p < GA_CURVE_POINTS; p++) {
        const ga_curve_point *point = &quarter.curve[p];
        area += (point->fall_out - fall_out) * 0.5 * (point->recall + recall);
        recall = point->recall;
        fall_out = point->fall_out;
    }
    assert_near(recall, 1, 1e-9);
    assert_near(fall_out, 1, 1e-9);
    assert_near(area, quarter.auc.value, 0.01);
    assert_near(quarter.curve[GA_CURVE_POINTS - 1].precision, quarter.positives, 1e-9);
    for (int64_t i = 0; i < judged.rows; i++) {
        judged.prediction[i] = 0;
    }
    test_ok(ga_judge_quarter(&judged, true, 1, 0, &quarter, NULL), NULL);
    for (int p = 0; p < GA_CURVE_POINTS; p++) {
        assert_near(quarter.curve[p].recall, quarter.curve[p].taken, 1e-9);
        assert_near(quarter.curve[p].precision, quarter.positives, 1e-9);
    }
    assert_near(quarter.average_precision.value, quarter.positives, 1e-9);
    ga_judged_destroy(&judged);
}

/* ---- spread over groups ---- */

static void distribution_counts_every_group(void **state) {
    (void)state;
    ga_judged judged = gaussian(230, 0.3, 0, 200, 8);
    for (int64_t i = 0; i < 8; i++) {
        judged.target[i] = -judged.prediction[i];        /* the worst group */
        judged.target[8 + i] = judged.prediction[8 + i]; /* the best */
        judged.target[16 + i] = 1;                       /* not to be ordered */
    }
    ga_distribution d;
    test_ok(ga_judge_distribution(&judged, &d, NULL), NULL);
    assert_int_equal(d.groups, 199);
    int64_t sum = 0;
    for (int i = 0; i < GA_HISTOGRAM; i++) {
        sum += d.histogram[i];
    }
    assert_int_equal(sum, 199);
    assert_near(d.decile[0], -1, 1e-12);
    assert_near(d.decile[GA_DECILES - 1], 1, 1e-12);
    for (int i = 1; i < GA_DECILES; i++) {
        assert_true(d.decile[i] >= d.decile[i - 1]);
    }
    int64_t negative = 0;
    for (int i = 0; i < GA_HISTOGRAM / 2; i++) {
        negative += d.histogram[i];
    }
    assert_near(d.below_zero, (double)negative / 199, 1e-9);
    assert_true(d.sd > 0.2 && d.sd < 0.5);
    ga_worst_group worst[GA_WORST_MAX];
    int32_t count = 0;
    test_ok(ga_judge_worst(&judged, worst, &count, NULL), NULL);
    assert_int_equal(count, GA_WORST_MAX);
    assert_true(worst[0].group == 100 && worst[0].row == 0 && worst[0].rows == 8);
    assert_near(worst[0].spearman, -1, 1e-12);
    for (int i = 1; i < count; i++) {
        assert_true(worst[i].spearman >= worst[i - 1].spearman);
    }
    ga_judged_destroy(&judged);
}

/* ---- reliability ---- */

static void stated_intervals_cover(void **state) {
    (void)state;
    ga_judged judged = gaussian(240, 0.6, 0.5, 2000, 16);
    ga_reliability r;
    test_ok(ga_judge_reliability(&judged, &r, NULL), NULL);
    for (int l = 0; l < GA_COVERAGE_LEVELS; l++) {
        assert_near(r.reward_coverage[l].share.value, r.reward_coverage[l].level, 0.02);
        assert_near(r.within_coverage[l].share.value, r.within_coverage[l].level, 0.01);
        assert_true(r.reward_coverage[l].share.low < r.reward_coverage[l].share.high);
    }
    assert_near(r.slope.value, 1, 0.03);
    assert_true(r.slope.low < 1 && r.slope.high > 1);
    assert_int_equal(r.bins, GA_RELIABILITY_BINS);
    int64_t rows = 0;
    for (int b = 0; b < r.bins; b++) {
        rows += r.within[b].reward.rows;
        assert_near(r.within[b].reward.value, r.within[b].prediction, 0.1);
        assert_true(b == 0 || r.reward[b].prediction > r.reward[b - 1].prediction);
    }
    assert_int_equal(rows, judged.rows);
    /* too narrow an interval and twice too large predictions are seen */
    for (int64_t i = 0; i < judged.rows; i++) {
        judged.variance[i] *= 0.25;
    }
    for (int32_t g = 0; g < judged.groups; g++) {
        const double mean = ga_judged_group_mean(&judged, g, judged.prediction);
        for (int64_t i = judged.begin[g]; i < judged.begin[g + 1]; i++) {
            judged.prediction[i] = mean + 2 * (judged.prediction[i] - mean);
        }
    }
    test_ok(ga_judge_reliability(&judged, &r, NULL), NULL);
    assert_near(r.slope.value, 0.5, 0.02);
    assert_true(r.within_coverage[2].share.value < 0.75);
    ga_judged_destroy(&judged);
}

/* The linearised interval of a ratio covers as often as it says. */
static void ratio_intervals_cover(void **state) {
    (void)state;
    int covered = 0;
    ga_random random = test_random(241);
    for (int try = 0; try < 400; try++) {
        double over[60], under[60];
        for (int g = 0; g < 60; g++) {
            under[g] = 1 + 9 * ga_random_uniform(&random);
            over[g] = 0.3 * under[g] + sqrt(under[g]) * ga_random_normal(&random);
        }
        const ga_within ratio = ga_ratio_of_sums(over, under, 60);
        covered += ratio.low <= 0.3 && ratio.high >= 0.3;
    }
    assert_in_range(covered, 360, 395);
    const double nothing[2] = {0, 0};
    assert_true(isnan(ga_ratio_of_sums(nothing, nothing, 2).value));
}

static void drift_is_seen_where_it_is(void **state) {
    (void)state;
    ga_judged judged = gaussian(250, 0.8, 0, 400, 16);
    ga_random random = test_random(251);
    for (int64_t i = 0; i < judged.rows; i++) {
        judged.update[i] = (uint32_t)((399 - i / 16) / 4); /* the newest first, 100 updates */
        if (judged.update[i] >= 50) {
            judged.target[i] = 1 + 3 * ga_random_normal(&random); /* what is predicted is lost */
            judged.prediction[i] += 2;
        }
    }
    ga_drift_bin bins[GA_DRIFT_BINS];
    int32_t count = 0;
    test_ok(ga_judge_drift(&judged, 1, 100, bins, &count, NULL), NULL);
    assert_int_equal(count, GA_DRIFT_BINS);
    int64_t rows = 0;
    for (int b = 0; b < count; b++) {
        rows += bins[b].rows;
        assert_int_equal(bins[b].update_first, 10 * b);
        assert_int_equal(bins[b].update_last, 10 * b + 9);
        if (b < 5) {
            assert_true(bins[b].spearman.value > 0.7 && fabs(bins[b].slope.value - 1) < 0.15);
            assert_true(bins[b].shift < 0.3);
        } else {
            assert_true(fabs(bins[b].spearman.value) < 0.2 && fabs(bins[b].slope.value) < 0.4);
            assert_true(bins[b].shift > 0.5 && bins[b].bias < -0.4);
        }
    }
    assert_int_equal(rows, judged.rows);
    assert_true(bins[0].shift == 0);
    /* one update: one span */
    memset(judged.update, 0, (size_t)judged.rows * sizeof *judged.update);
    test_ok(ga_judge_drift(&judged, 1, 0, bins, &count, NULL), NULL);
    assert_int_equal(count, 1);
    assert_int_equal(bins[0].rows, judged.rows);
    ga_judged_destroy(&judged);
}

/* Rewards = state + noise after the decision: r is the state's share, √r the best correlation there is. */
static void the_ceiling_is_the_root_of_the_retest(void **state) {
    (void)state;
    ga_judged judged = make_rows(200, 96);
    double *again = calloc((size_t)judged.rows, sizeof *again);
    ga_random random = test_random(260);
    for (int64_t i = 0; i < judged.rows; i++) {
        const double known = sqrt(0.54) * ga_random_normal(&random);
        judged.prediction[i] = known; /* the best there is */
        judged.target[i] = known + sqrt(0.46) * ga_random_normal(&random);
        again[i] = i % 3 == 0 ? NAN : known + sqrt(0.46) * ga_random_normal(&random);
    }
    ga_ceiling c;
    test_ok(ga_judge_ceiling(&judged, again, 1, 200, &c, NULL), NULL);
    assert_near(c.retest.value, 0.54, 0.03);
    assert_near(c.ceiling.value, sqrt(0.54), 0.02);
    assert_true(c.ceiling.low <= c.ceiling.value && c.ceiling.value <= c.ceiling.high);
    ga_within best;
    test_ok(ga_within_estimate(GA_WITHIN_PEARSON, judged.prediction, judged.target, judged.group,
                (size_t)judged.rows, 1, 0, &best, NULL),
        NULL);
    assert_near(best.value, c.ceiling.value, 0.02);
    for (int64_t i = 0; i < judged.rows; i++) {
        again[i] = NAN;
    }
    assert_int_equal(ga_judge_ceiling(&judged, again, 1, 0, &c, NULL), GA_ERR_DATA);
    free(again);
    ga_judged_destroy(&judged);
}

/* ---- comparisons ---- */

static void comparisons_are_paired_with_the_probe(void **state) {
    (void)state;
    ga_judged judged = gaussian(270, 0.7, 0.2, 120, 16);
    double *other = calloc((size_t)judged.rows, sizeof *other);
    int32_t *label = calloc((size_t)judged.rows, sizeof *label);
    ga_random random = test_random(271);
    for (int64_t i = 0; i < judged.rows; i++) {
        other[i] = judged.prediction[i] + 0.3 * ga_random_normal(&random);
        label[i] = (int32_t)(i / 16 % 3);
    }
    ga_baseline baseline;
    test_ok(ga_judge_against(&judged, other, 1, 300, &baseline, NULL), NULL);
    ga_within own;
    test_ok(ga_within_estimate(GA_WITHIN_SPEARMAN, judged.prediction, judged.target, judged.group,
                (size_t)judged.rows, 1, 0, &own, NULL),
        NULL);
    assert_near(baseline.difference.value, own.value - baseline.spearman.value, 1e-12);
    assert_true(baseline.difference.low > 0);
    assert_true(baseline.pooled_spearman > baseline.spearman.value);
    /* slices are the groups with the label, and together all of them */
    double sum = 0;
    for (int32_t value = 0; value < 3; value++) {
        ga_within slice;
        test_ok(ga_judge_slice(&judged, label, value, 1, 50, &slice, NULL), NULL);
        assert_int_equal(slice.groups, 40);
        sum += slice.value / 3;
    }
    assert_near(sum, own.value, 1e-12);
    ga_within none;
    assert_int_equal(ga_judge_slice(&judged, label, 7, 1, 0, &none, NULL), GA_ERR_DATA);
    free(label);
    free(other);
    ga_judged_destroy(&judged);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(energy_follows_the_closed_form),
        cmocka_unit_test(energy_knows_by_what_the_host_divides),
        cmocka_unit_test(best_of_n_by_brute_force),
        cmocka_unit_test(regret_of_one_gives_the_correlation),
        cmocka_unit_test(average_precision_by_brute_force),
        cmocka_unit_test(curves_agree_with_their_areas),
        cmocka_unit_test(distribution_counts_every_group),
        cmocka_unit_test(stated_intervals_cover),
        cmocka_unit_test(ratio_intervals_cover),
        cmocka_unit_test(drift_is_seen_where_it_is),
        cmocka_unit_test(the_ceiling_is_the_root_of_the_retest),
        cmocka_unit_test(comparisons_are_paired_with_the_probe),
    };
    return cmocka_run_group_tests_name("evaluate", tests, NULL, NULL);
}
