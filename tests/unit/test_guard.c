#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/estimate/agreement.h"
#include "grpo_accel/estimate/breakeven.h"
#include "grpo_accel/estimate/drift.h"
#include "grpo_accel/estimate/energy.h"
#include "grpo_accel/estimate/guard.h"
#include "grpo_accel/estimate/risk.h"

static void near(double value, double expected, double tolerance) {
    if (!(fabs(value - expected) <= tolerance)) {
        fail_msg("%.9g is not within %.3g of %.9g", value, tolerance, expected);
    }
}

/* ---- energy ---- */

static void quantiles_invert_the_normal(void **state) {
    (void)state;
    near(ga_normal_quantile(0.975), 1.959963984540054, 1e-12);
    near(ga_normal_quantile(0.25), -0.6744897501960817, 1e-12);
    near(ga_normal_quantile(1e-10), -6.361340902404056, 1e-9);
    assert_true(ga_normal_quantile(0.5) == 0.0);
    assert_true(isinf(ga_normal_quantile(1)) && isinf(ga_normal_quantile(0)));
    assert_true(isnan(ga_normal_quantile(1.5)) && isnan(ga_normal_quantile(NAN)));
    for (double p = 0.001; p < 1; p += 0.0173) {
        near(0.5 * erfc(-ga_normal_quantile(p) / sqrt(2)), p, 1e-13);
    }
}

/* E = κ + ρ²(κ₂ − κ): .50 + .43ρ² at ½, .33 + .48ρ² at ⅓, .25 + .47ρ² at ¼. */
static void closed_form_of_extremes(void **state) {
    (void)state;
    near(ga_energy_ceiling(0.5) - 0.5, 0.43, 0.005);
    near(ga_energy_ceiling(1.0 / 3) - 1.0 / 3, 0.48, 0.006);
    near(ga_energy_ceiling(0.25) - 0.25, 0.47, 0.006);
    near(ga_energy_of_extremes(0, 0.3), 0.3, 1e-15);
    near(ga_energy_of_extremes(1, 0.3), ga_energy_ceiling(0.3), 1e-15);
    near(ga_energy_of_extremes(0.7, 1.0), 1.0, 1e-15);
    assert_true(isnan(ga_energy_ceiling(0)));
}

typedef struct pair {
    double prediction, reward;
    int32_t index;
} pair;

static int by_distance(const void *left, const void *right) {
    const double a = fabs(((const pair *)left)->prediction), b = fabs(((const pair *)right)->prediction);
    return (a < b) - (a > b);
}

/* Large normal groups with correlation rho, extremes kept: parts of one option. */
static void fill_parts(ga_random *random, double rho, int32_t group, double keep, ga_energy_part *part) {
    pair *rows = calloc((size_t)group, sizeof *rows);
    for (int32_t i = 0; i < group; i++) {
        rows[i].prediction = ga_random_normal(random);
        rows[i].reward = rho * rows[i].prediction + sqrt(1 - rho * rho) * ga_random_normal(random);
    }
    qsort(rows, (size_t)group, sizeof *rows, by_distance);
    for (int32_t i = 0; i < group; i++) {
        ga_energy_add(part, rows[i].reward, rows[i].reward, i < (int32_t)(keep * group));
    }
    free(rows);
}

static void measured_energy_is_the_closed_form(void **state) {
    (void)state;
    ga_random random = test_random(1);
    ga_energy_part parts[60][2];
    memset(parts, 0, sizeof parts);
    for (int i = 0; i < 60; i++) {
        fill_parts(&random, 0.6, 400, 0.5, &parts[i][0]);
        fill_parts(&random, 0.6, 400, 0.25, &parts[i][1]);
    }
    ga_energy energies[2];
    ga_error error;
    test_ok(ga_energy_estimate(&parts[0][0], 60, 2, 0.95, 7, 400, energies, &error), &error);
    for (int i = 0; i < 2; i++) {
        const double expected = ga_energy_of_extremes(0.6, i == 0 ? 0.5 : 0.25);
        near(energies[i].value, expected, 0.02);
        near(energies[i].snr2, energies[i].value, 1e-12);
        assert_true(energies[i].low < energies[i].value && energies[i].value < energies[i].high);
        assert_int_equal(energies[i].parts, 60);
    }
}

/* A one-sided bound at 0.9 lies below the truth in about nine of ten samples. */
static void bootstrap_bounds_hold(void **state) {
    (void)state;
    ga_random random = test_random(2);
    const double truth = ga_energy_of_extremes(0.5, 0.5);
    int held = 0;
    for (int sample = 0; sample < 200; sample++) {
        ga_energy_part parts[40];
        memset(parts, 0, sizeof parts);
        for (int i = 0; i < 40; i++) {
            fill_parts(&random, 0.5, 24, 0.5, &parts[i]);
        }
        ga_energy energy;
        ga_error error;
        test_ok(ga_energy_estimate(parts, 40, 1, 0.9, (uint64_t)sample, 200, &energy, &error), &error);
        held += energy.low <= truth;
    }
    assert_true(held >= 165 && held <= 195);
}

static void energy_takes_what_comes(void **state) {
    (void)state;
    ga_energy energy[2];
    ga_error error;
    test_ok(ga_energy_estimate(NULL, 0, 2, 0.95, 1, 100, energy, &error), &error);
    assert_true(isnan(energy[0].value) && isnan(energy[1].snr2_low) && energy[0].parts == 0);
    const ga_energy_part odd[3] = {{NAN, 1, 1, 1}, {0, 0, 0, 0}, {-1, 1, 1, 2}};
    test_ok(ga_energy_estimate(odd, 3, 1, 0.95, 1, 100, energy, &error), &error);
    assert_int_equal(energy[0].parts, 1);
    assert_true(energy[0].value == 0.5);
    assert_true(energy[0].snr2 == 0.0); /* points the wrong way */
    ga_error_clear(&error);
    assert_int_equal(ga_energy_estimate(odd, 3, 1, 1.5, 1, 100, energy, &error), GA_ERR_ARGUMENT);
    /* A wrong estimate halves nothing of the energy but of the signal. */
    ga_energy_part part = {0};
    ga_energy_add(&part, 2, 2, true);
    ga_energy_add(&part, 2, -1, true);
    ga_energy_add(&part, 1, 99, false);
    test_ok(ga_energy_estimate(&part, 1, 1, 0.95, 1, 0, energy, &error), &error);
    near(energy[0].value, 8.0 / 9, 1e-15);
    near(energy[0].snr2, 4.0 / 45, 1e-15);
}

/* ---- break-even ---- */

/* Seconds of an iteration in which training takes the share f and a look the share v of the rollout. */
static ga_seconds seconds_of(double f, double v) {
    ga_seconds seconds = {.step = (1 - f) / 20, .train = f, .own = 0, .reward = NAN, .fixed = NAN};
    for (int i = 0; i < GA_CANDIDATES_MAX; i++) {
        seconds.signal[i] = (1 - f) * v;
    }
    return seconds;
}

static ga_course course_of(int32_t step, double keep) {
    return (ga_course){.steps_total = 20, .stage_count = 1, .step = {step}, .candidate = {0}, .keep = {keep}};
}

/* C = (1 − f)[s + (1 − s)κ + v] + fκ with s = (t + 1)/T; ρ* of statistics: .43, .34, .23 at s .2, κ ½. */
static void break_even_is_that_of_the_tables(void **state) {
    (void)state;
    const double f[] = {0.2, 0.5, 0.78}, rho[] = {0.43, 0.34, 0.23};
    for (int i = 0; i < 3; i++) {
        const ga_course course = course_of(3, 0.5);
        for (double v = 0; v < 0.2; v += 0.05) {
            const ga_seconds seconds = seconds_of(f[i], v);
            near(ga_cost_ratio(&seconds, &course), (1 - f[i]) * (0.2 + 0.8 * 0.5 + v) + f[i] * 0.5, 1e-12);
        }
        const ga_seconds seconds = seconds_of(f[i], 0);
        const double ratio = ga_cost_ratio(&seconds, &course);
        near(ga_break_even_rho(ratio, 0.5), rho[i], 0.006);
        near(ga_energy_of_extremes(ga_break_even_rho(ratio, 0.5), 0.5), ratio, 1e-12);
    }
    assert_true(isnan(ga_break_even_rho(1.2, 0.5))); /* no probe can */
    assert_true(ga_break_even_rho(0.3, 0.5) == 0.0); /* chance can */
}

static void stages_add_up(void **state) {
    (void)state;
    const ga_seconds seconds = {
        .step = 1, .signal = {0.5, 0.25, 0, 0}, .reward = 2, .train = 3, .fixed = 4, .own = 0.1};
    const ga_course course = {
        .steps_total = 10, .stage_count = 2, .step = {2, 5}, .candidate = {0, 1}, .keep = {0.75, 0.4}};
    /* 3 steps whole, 3 for three quarters, 4 for two fifths */
    const double expected = 3 + 3 * 0.75 + 4 * 0.4 + 0.5 + 0.25 * 0.75 + 0.1 + 4 + 0.4 * 5;
    near(ga_course_seconds(&seconds, &course), expected, 1e-12);
    near(ga_full_seconds(&seconds, 10), 19, 1e-12);
    near(ga_cost_ratio(&seconds, &course), expected / 19, 1e-12);
    near(ga_look_share(&seconds, 10, 2), 0.85 / 12, 1e-12);
    /* half of the kept rows train */
    ga_course halved = course;
    halved.train_share = 0.5;
    near(ga_course_seconds(&seconds, &halved), expected - 0.4 * 1.5, 1e-12);
    /* a forward of which nothing falls with its rows: no stopped row saves anything of it */
    const ga_seconds waiting = {
        .step = 0, .forward = 1, .reward = NAN, .train = NAN, .fixed = NAN, .own = 0.1};
    near(ga_course_seconds(&waiting, &course), 10.1, 1e-12);
    near(ga_cost_ratio(&waiting, &course), 1.01, 1e-12);
    const ga_seconds unknown = {.step = NAN};
    assert_true(isnan(ga_cost_ratio(&unknown, &course)));
    assert_true(isnan(ga_look_share(&unknown, 10, 2)));
}

/* ---- drift ---- */

/* Normal values by the deciles of the standard normal. */
static ga_histogram histogram_of(ga_random *random, int32_t count, double shift) {
    ga_histogram histogram = {{0}};
    for (int32_t i = 0; i < count; i++) {
        const double value = shift + ga_random_normal(random);
        int bin = 0;
        while (bin < GA_DRIFT_BINS - 1 && value > ga_normal_quantile((bin + 1) / (double)GA_DRIFT_BINS)) {
            bin++;
        }
        histogram.count[bin] += 1;
    }
    return histogram;
}

static void drift_is_seen_and_chance_is_not(void **state) {
    (void)state;
    ga_random random = test_random(3);
    ga_histogram then = {{0}};
    for (int i = 0; i < GA_DRIFT_BINS; i++) {
        then.count[i] = 100;
    }
    const ga_histogram same = histogram_of(&random, 400, 0), moved = histogram_of(&random, 400, 0.8);
    const ga_drift none = ga_drift_compare(&then, &same, 1000, 400),
                   some = ga_drift_compare(&then, &moved, 1000, 400);
    assert_true(none.psi < 0.05 && none.ks < 0.08);
    assert_true(some.psi > 0.3 && some.ks > 0.2);
    const ga_histogram empty = {{0}};
    assert_true(isnan(ga_drift_compare(&then, &empty, 1000, 400).psi));
    assert_true(isnan(ga_drift_compare(&then, &same, 0, 400).psi));
    /* as many rows, but of few prompts: chance can do that */
    assert_true(ga_drift_compare(&then, &moved, 12, 400).psi == 0.0);
}

/* Two halves of known shares: PSI by hand. */
static void drift_by_hand(void **state) {
    (void)state;
    ga_histogram then = {{0}}, now = {{0}};
    for (int i = 0; i < GA_DRIFT_BINS; i++) {
        then.count[i] = 1e6;
        now.count[i] = i < 5 ? 1.5e6 : 0.5e6;
    }
    const ga_drift drift = ga_drift_compare(&then, &now, 1e7, 1e7);
    near(drift.psi, 5 * (0.05 * log(1.5)) + 5 * (-0.05 * log(0.5)), 1e-5);
    near(drift.ks, 0.25, 1e-12);
}

/* ---- risk ---- */

static void bound_of_losses(void **state) {
    (void)state;
    ga_loss_sums sums = {0};
    assert_true(ga_risk_bound(&sums) == 1.0 && isnan(ga_loss_share(&sums)));
    for (int i = 0; i < 9; i++) {
        ga_loss_add(&sums, 2.0, i < 3);
    }
    near(ga_risk_bound(&sums), 0.9 / 3 + 0.1, 1e-12);
    near(ga_loss_share(&sums), 1.0 / 3, 1e-12);
    const ga_risk risk = ga_risk_make(0.2, 0.1), wide = ga_risk_make(0.5, 0.1);
    assert_false(ga_risk_allows(&risk, &sums));
    assert_true(ga_risk_allows(&wide, &sums));
}

/* A ladder of kept shares; an extreme row of quality z, seen with correlation rho, is lost when its
 * prediction does not reach the ladder's cut. */
enum { LADDER = 20 };

static bool is_lost(double prediction, int rung) {
    return fabs(prediction) < 2.5 * rung / LADDER; /* rung 0 loses nothing */
}

static double extreme_prediction(ga_random *random, double rho) {
    double z;
    do {
        z = ga_random_normal(random);
    } while (fabs(z) < 1.96);
    return rho * z + sqrt(1 - rho * rho) * ga_random_normal(random);
}

/* The strongest pruning that the newest `count` predictions of extremes allow. */
static int strongest(const ga_risk *risk, const double *predictions, int count) {
    for (int rung = LADDER; rung > 0; rung--) {
        ga_loss_sums sums = {0};
        for (int i = 0; i < count; i++) {
            ga_loss_add(&sums, 1.0, is_lost(predictions[i], rung));
        }
        if (ga_risk_allows(risk, &sums)) {
            return rung;
        }
    }
    return 0;
}

/* Exchangeable rows: the mean loss on the next one is at most alpha, and not far below. */
static void conformal_bound_covers(void **state) {
    (void)state;
    ga_random random = test_random(4);
    const ga_risk risk = ga_risk_make(0.2, 0.05);
    double lost = 0;
    const int trials = 4000;
    for (int trial = 0; trial < trials; trial++) {
        double seen[30];
        for (int i = 0; i < 30; i++) {
            seen[i] = extreme_prediction(&random, 0.7);
        }
        lost += is_lost(extreme_prediction(&random, 0.7), strongest(&risk, seen, 30));
    }
    const double error = sqrt(0.2 * 0.8 / trials);
    assert_true(lost / trials <= 0.2 + 3 * error);
    assert_true(lost / trials > 0.1);
}

/* Mean loss of the adaptive level over a run whose correlation follows `rho_of`. */
static double adaptive_loss(double (*rho_of)(int), int rows, ga_random *random) {
    ga_risk risk = ga_risk_make(0.2, 0.05);
    double window[60], lost = 0;
    for (int i = 0; i < rows; i++) {
        const double prediction = extreme_prediction(random, rho_of(i));
        const int count = i < 60 ? i : 60;
        const bool loss = is_lost(prediction, strongest(&risk, window, count));
        lost += loss;
        ga_risk_learn(&risk, loss);
        window[i % 60] = prediction;
    }
    return lost / rows;
}

static double abrupt(int i) {
    return i < 1000 ? 0.8 : 0.2;
}

static double slow(int i) {
    return 0.9 - 0.8 * i / 2000;
}

static double steady(int i) {
    (void)i;
    return 0.6;
}

/* Whatever the drift: the mean loss over T rows is within (1 + γ)/(γT) of alpha. */
static void adaptive_level_covers_under_drift(void **state) {
    (void)state;
    ga_random random = test_random(5);
    const double reach = 1.05 / (0.05 * 2000);
    near(adaptive_loss(abrupt, 2000, &random), 0.2, reach);
    near(adaptive_loss(slow, 2000, &random), 0.2, reach);
    near(adaptive_loss(steady, 2000, &random), 0.2, reach);
}

/* ---- agreement ---- */

enum { ROWS = 24 };

/* Groups whose prediction has slope 1 and correlation rho; the middle is not kept. */
static ga_agreement agreement_of(ga_random *random, double rho, int groups, bool select) {
    ga_agreement sums = {0};
    for (int group = 0; group < groups; group++) {
        ga_agreement_row rows[ROWS];
        for (int i = 0; i < ROWS; i++) {
            const double z = ga_random_normal(random);
            const double residual = sqrt(1 - rho * rho) * ga_random_normal(random);
            const bool kept = !select || fabs(z) > 1.2;
            rows[i] = (ga_agreement_row){.group = (uint64_t)group,
                .prediction = 3 * group + rho * z,
                .reward = kept ? 3 * group + rho * z + residual : (double)NAN,
                .deviation = sqrt(1 - rho * rho)};
        }
        ga_agreement_add(&sums, rows, ROWS);
    }
    return sums;
}

static void selection_by_prediction_does_not_matter(void **state) {
    (void)state;
    ga_random random = test_random(6);
    for (double rho = 0.2; rho < 0.9; rho += 0.3) {
        const ga_agreement all = agreement_of(&random, rho, 200, false),
                           kept = agreement_of(&random, rho, 600, true);
        const ga_agreement_figures a = ga_agreement_read(&all, 0.95), k = ga_agreement_read(&kept, 0.95);
        near(a.rho, rho, 0.04);
        near(k.rho, rho, 0.04);
        near(k.slope, 1.0, 4 * k.slope_error);
        near(k.coverage, 0.9, 0.03);
        assert_true(k.rho_low < k.rho && k.rho < k.rho_high);
    }
    const ga_agreement none = {0};
    assert_true(isnan(ga_agreement_read(&none, 0.95).rho));
}

static void agreement_ignores_order(void **state) {
    (void)state;
    ga_random random = test_random(7);
    ga_agreement_row rows[ROWS], turned[ROWS];
    for (int i = 0; i < ROWS; i++) {
        rows[i] = (ga_agreement_row){(uint64_t)(i % 3), ga_random_normal(&random),
            i % 5 == 0 ? (double)NAN : ga_random_normal(&random), 1};
        turned[ROWS - 1 - i] = rows[i];
    }
    ga_agreement one = {0}, other = {0};
    ga_agreement_add(&one, rows, ROWS);
    ga_agreement_add(&other, turned, ROWS);
    assert_memory_equal(&one, &other, sizeof one);
}

/* ---- verdict ---- */

static const ga_guard_options GUARD = {
    .confidence = 0.95, .enter_margin = 0.02, .parts_min = 12, .drift_max = 0.25, .patience = 2};

static ga_option option_of(double keep, double snr2, double half_width) {
    ga_option option = {.course = course_of(3, keep),
        .energy = {.value = snr2,
            .low = snr2 - half_width,
            .high = snr2 + half_width,
            .snr2 = snr2,
            .snr2_low = snr2 - half_width,
            .snr2_high = snr2 + half_width,
            .parts = 40}};
    for (int i = 0; i < 99; i++) {
        ga_loss_add(&option.losses, 1.0, i < 5);
    }
    return option;
}

static ga_guard_evidence evidence_of(double f, double v) {
    return (ga_guard_evidence){
        .seconds = seconds_of(f, v), .has_probe = true, .risk = ga_risk_make(0.2, 0.05)};
}

static void verdicts(void **state) {
    (void)state;
    ga_guard_evidence evidence = evidence_of(0.5, 0.01);
    ga_option options[2] = {option_of(0.5, 0.67, 0.02), option_of(0.25, 0.45, 0.02)};
    /* C = .5·(.6 + .01) + .25 = .555; and .5·(.4 + .01) + .125 = .33 */
    ga_verdict verdict = ga_guard_judge(&GUARD, &evidence, options, 2, -1);
    assert_int_equal(verdict.answer, GA_GUARD_PAYS);
    assert_int_equal(verdict.option, 1);
    near(verdict.gain, 0.45 / 0.33, 0.01);
    assert_non_null(strstr(verdict.reason, "keeping 0.25 after step 3"));

    options[1].losses.lost = 60; /* the better one loses too many extremes */
    verdict = ga_guard_judge(&GUARD, &evidence, options, 2, -1);
    assert_int_equal(verdict.answer, GA_GUARD_PAYS);
    assert_int_equal(verdict.option, 0);
    options[0].losses.lost = 60;
    verdict = ga_guard_judge(&GUARD, &evidence, options, 2, -1);
    assert_int_equal(verdict.answer, GA_GUARD_LOSES);
    assert_non_null(strstr(verdict.reason, "true extremes"));

    options[0] = option_of(0.5, 0.50, 0.02); /* no better than chance */
    options[1] = option_of(0.25, 0.25, 0.02);
    verdict = ga_guard_judge(&GUARD, &evidence, options, 2, -1);
    assert_int_equal(verdict.answer, GA_GUARD_COSTS_MORE);
    evidence = evidence_of(0.2, 0.9); /* an expensive preview: nothing needs to be measured */
    verdict = ga_guard_judge(&GUARD, &evidence, options, 2, -1);
    assert_int_equal(verdict.answer, GA_GUARD_COSTS_MORE);
    assert_non_null(strstr(verdict.reason, "looking at a row costs 18.00 of its steps"));

    evidence = evidence_of(0.5, 0.01);
    evidence.has_probe = false;
    assert_int_equal(ga_guard_judge(&GUARD, &evidence, options, 2, -1).answer, GA_GUARD_NO_PROBE);
    evidence.has_probe = true;
    options[0].energy.parts = options[1].energy.parts = 5;
    assert_int_equal(ga_guard_judge(&GUARD, &evidence, options, 2, -1).answer, GA_GUARD_GATHERING);
    evidence.obstacle = "all rows of a group are in the same state";
    verdict = ga_guard_judge(&GUARD, &evidence, options, 2, -1);
    assert_int_equal(verdict.answer, GA_GUARD_SHARED);
    assert_string_equal(verdict.reason, evidence.obstacle);
    evidence.obstacle = NULL;
    evidence.seconds.step = NAN;
    assert_int_equal(ga_guard_judge(&GUARD, &evidence, options, 2, -1).answer, GA_GUARD_NO_COST);
}

/* Just above 1: not enough to begin, enough to go on. */
static void entering_needs_a_margin(void **state) {
    (void)state;
    const ga_guard_evidence evidence = evidence_of(0.5, 0.0);
    const double cost = ga_cost_ratio(&evidence.seconds, &(ga_course){20, 1, {3}, {0}, {0.5}, 1.0});
    ga_option option = option_of(0.5, 1.05 * cost, 0.045 * cost);
    assert_int_equal(ga_guard_judge(&GUARD, &evidence, &option, 1, -1).answer, GA_GUARD_COSTS_MORE);
    assert_int_equal(ga_guard_judge(&GUARD, &evidence, &option, 1, 0).answer, GA_GUARD_PAYS);
}

static void a_probe_of_noise_ends_the_trend(void **state) {
    (void)state;
    ga_random random = test_random(8);
    ga_trend trend = {0};
    ga_agreement_figures figures;
    for (int update = 0; update < 60; update++) {
        const ga_agreement sums = agreement_of(&random, 0.6, 4, true);
        ga_trend_add(&trend, &sums);
        assert_false(ga_trend_has_ended(&trend, 0.3, 0.95, &figures));
    }
    near(figures.rho, 0.6, 0.1);
    int update = 0;
    bool ended = false;
    while (!ended && update < 32) {
        ga_agreement noise = {0};
        for (uint64_t group = 0; group < 4; group++) {
            ga_agreement_row rows[ROWS];
            for (int i = 0; i < ROWS; i++) {
                const double z = ga_random_normal(&random);
                rows[i] = (ga_agreement_row){
                    group, 0.6 * z, fabs(z) > 1.2 ? ga_random_normal(&random) : (double)NAN, 1};
            }
            ga_agreement_add(&noise, rows, ROWS);
        }
        ga_trend_add(&trend, &noise);
        ended = ga_trend_has_ended(&trend, 0.3, 0.95, &figures);
        update++;
    }
    assert_true(ended && update <= 16); /* about 23 kept rows an update, z²/ρ² = 64 rows and a spread */
    assert_true(figures.rho_high < 0.3);
    assert_false(ga_trend_has_ended(&trend, NAN, 0.95, &figures));
}

static void patience_needs_repetition(void **state) {
    (void)state;
    ga_patience patience = {0};
    assert_false(ga_patience_take(&patience, false, true, 2));
    assert_false(ga_patience_take(&patience, false, false, 2));
    assert_false(ga_patience_take(&patience, false, true, 2));
    assert_true(ga_patience_take(&patience, false, true, 2));
    assert_false(ga_patience_take(&patience, true, false, 2));
    assert_false(ga_patience_take(&patience, true, true, 2));
    assert_false(ga_patience_take(&patience, true, false, 2));
    assert_true(ga_patience_take(&patience, true, false, 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_invert_the_normal),
        cmocka_unit_test(closed_form_of_extremes),
        cmocka_unit_test(measured_energy_is_the_closed_form),
        cmocka_unit_test(bootstrap_bounds_hold),
        cmocka_unit_test(energy_takes_what_comes),
        cmocka_unit_test(break_even_is_that_of_the_tables),
        cmocka_unit_test(stages_add_up),
        cmocka_unit_test(drift_is_seen_and_chance_is_not),
        cmocka_unit_test(drift_by_hand),
        cmocka_unit_test(bound_of_losses),
        cmocka_unit_test(conformal_bound_covers),
        cmocka_unit_test(adaptive_level_covers_under_drift),
        cmocka_unit_test(selection_by_prediction_does_not_matter),
        cmocka_unit_test(agreement_ignores_order),
        cmocka_unit_test(verdicts),
        cmocka_unit_test(entering_needs_a_margin),
        cmocka_unit_test(a_probe_of_noise_ends_the_trend),
        cmocka_unit_test(patience_needs_repetition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
