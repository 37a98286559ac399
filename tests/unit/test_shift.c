/* Drift of features and scores against what a probe learned from, and what measured seconds say of training.
 */
#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/session/costs.h"
#include "grpo_accel/session/shift.h"
#include "probe/parts.h"
#include "tests/unit/support.h"

enum { ROWS = 100, VALUES = 5 };

/* A map of four cells and a score. */
static ga_feature_schema schema_of(void) {
    return (ga_feature_schema){.input_count = 2,
        .inputs = {{GA_INPUT_X0, 1, 2, 2, 0}, {GA_INPUT_PREVIEW, 1, 1, 1, 4}},
        .values_per_row = VALUES,
        .id = 7};
}

static void figures_of_a_row(void **state) {
    (void)state;
    const ga_feature_schema schema = schema_of();
    const float values[VALUES] = {1, -1, 3, -3, -0.5F};
    ga_half row[VALUES];
    float figures[GA_INPUT_COUNT];
    ga_half_from_float_array(values, row, VALUES);
    ga_reference_pool(&schema, row, figures);
    assert_true(fabs((double)figures[GA_INPUT_X0] - sqrt(5)) < 1e-6);
    assert_true(figures[GA_INPUT_PREVIEW] == -0.5F);
    assert_true(isnan(figures[GA_INPUT_HIDDEN]));
    row[2] = ga_half_from_float(NAN);
    ga_reference_pool(&schema, row, figures);
    assert_true(isnan(figures[GA_INPUT_X0]));
}

static void columns_know_ties(void **state) {
    (void)state;
    float values[101];
    for (int i = 0; i < 100; i++) {
        values[i] = i < 70 ? 0.0F : 1.0F; /* a detector that finds something or nothing */
    }
    values[100] = NAN;
    const ga_reference_column column = ga_reference_read(values, 101);
    assert_true(column.rows == 100.0F);
    double sum = 0, zeros = 0;
    for (int bin = 0; bin < GA_REFERENCE_BINS; bin++) {
        sum += (double)column.shares[bin];
        zeros += bin <= ga_reference_bin(column.edges, 0.0F) ? (double)column.shares[bin] : 0.0;
    }
    assert_true(fabs(sum - 1) < 1e-5 && fabs(zeros - 0.7) < 1e-5);
    assert_true(ga_reference_read(values + 100, 1).rows == 0.0F);
}

/* One look: maps and scores around `centre`. */
static void look(ga_shift *shift, ga_random *random, double centre) {
    static const ga_feature_schema *schema = NULL;
    static ga_feature_schema made;
    made = schema_of();
    schema = &made;
    ga_half values[ROWS * VALUES];
    for (int i = 0; i < ROWS * VALUES; i++) {
        values[i] = ga_half_from_float((float)(centre + ga_random_normal(random)));
    }
    const ga_feature_block block = {.schema = schema, .rows = ROWS, .values = values};
    ga_shift_look(shift, &block, 1);
}

static void take(ga_shift *shift, ga_random *random, double centre) {
    ga_outcome outcomes[ROWS];
    uint64_t counts[GA_SHIFT_COUNTS];
    for (int i = 0; i < ROWS; i++) {
        outcomes[i] = (ga_outcome){.group = (uint64_t)i,
            .candidate_mean = {NAN, (float)(centre + ga_random_normal(random)), NAN, NAN}};
    }
    for (int i = 0; i < GA_SHIFT_COUNTS; i++) {
        counts[i] = shift->counts[i];
    }
    ga_shift_take(shift, outcomes, ROWS, counts);
}

/* The reference of normal features and scores at steps 3 and 5. */
static void fill_reference(ga_random *random, ga_reference *reference) {
    memset(reference, 0, sizeof *reference);
    reference->step_count = 2;
    reference->steps[0] = 3;
    reference->steps[1] = 5;
    for (int step = 0; step < 2; step++) {
        for (int column = 0; column < GA_REFERENCE_COLUMNS; column++) {
            float values[500];
            for (int i = 0; i < 500; i++) {
                double square = 0;
                for (int k = 0; k < 4; k++) {
                    const double z = ga_random_normal(random);
                    square += z * z / 4;
                }
                values[i] = (float)(column == 1 + GA_INPUT_X0 ? sqrt(square) : ga_random_normal(random));
            }
            reference->columns[step][column] = ga_reference_read(values, 500);
        }
    }
}

static void run_shift(const ga_reference *reference, ga_random *random, int32_t *steps) {
    ga_shift *shift = calloc(1, sizeof *shift);
    ga_drift scores, features;
    int32_t input = 0;
    assert_non_null(shift);
    ga_shift_reset(shift, reference, steps, 2);
    ga_shift_read(shift, &scores, &features, &input);
    assert_true(isnan(scores.psi) && isnan(features.psi) && input == -1);
    for (int i = 0; i < 12; i++) {
        look(shift, random, 0.0);
        take(shift, random, 0.0);
    }
    ga_shift_read(shift, &scores, &features, &input);
    assert_true(scores.psi < 0.1 && features.psi < 0.1 && scores.ks < 0.15);
    for (int i = 0; i < 12; i++) {
        look(shift, random, 1.5);
        take(shift, random, 0.0);
    }
    ga_shift_read(shift, &scores, &features, &input);
    assert_true(scores.psi < 0.1 && features.psi > 0.5);
    assert_true(input == GA_INPUT_X0 || input == GA_INPUT_PREVIEW);
    for (int i = 0; i < 12; i++) {
        take(shift, random, 1.5);
    }
    ga_shift_read(shift, &scores, &features, &input);
    assert_true(scores.psi > 0.5 && scores.ks > 0.3);
    free(shift);
}

static void drift_from_a_probes_reference(void **state) {
    (void)state;
    ga_random random = test_random(21);
    int32_t steps[2] = {3, 5};
    ga_reference reference;
    fill_reference(&random, &reference);
    run_shift(&reference, &random, steps);
}

/* Groups of 25 rows that are alike, other ones after each update: no drift, however few they are. */
static void few_prompts_are_no_drift(void **state) {
    (void)state;
    int32_t steps[2] = {3, 5};
    for (uint64_t seed = 0; seed < 20; seed++) {
        ga_random random = test_random(40 + seed);
        ga_shift *shift = calloc(1, sizeof *shift);
        assert_non_null(shift);
        ga_shift_reset(shift, NULL, steps, 2);
        for (int update = 0; update < 30; update++) {
            ga_outcome outcomes[ROWS];
            const uint64_t counts[GA_SHIFT_COUNTS] = {0};
            double level = 0;
            for (int i = 0; i < ROWS; i++) {
                level = i % 25 == 0 ? ga_random_normal(&random) : level;
                outcomes[i] = (ga_outcome){.group = (uint64_t)(i / 25),
                    .candidate_mean = {NAN, (float)(level + 0.2 * ga_random_normal(&random)), NAN, NAN}};
            }
            ga_shift_take(shift, outcomes, ROWS, counts);
            ga_drift scores, features;
            int32_t input = 0;
            ga_shift_read(shift, &scores, &features, &input);
            assert_false(scores.psi >= 0.25);
        }
        free(shift);
    }
}

/* A probe that says nothing of its rows is compared with the first ones that it sees. */
static void drift_without_a_reference(void **state) {
    (void)state;
    ga_random random = test_random(22);
    int32_t steps[2] = {3, 5};
    run_shift(NULL, &random, steps);
}

static void a_reference_travels_in_the_probes_file(void **state) {
    (void)state;
    ga_random random = test_random(23);
    char *folder = test_folder_make(), *path = test_path(folder, "probe.safetensors");
    const ga_feature_schema schema = schema_of();
    ga_probe *probe = NULL, *read = NULL;
    ga_error error;
    test_ok(ga_probe_create(&schema, ga_compute_native(), &probe, &error), &error);
    (void)strcpy(probe->info.model, "test");
    probe->info.step_count = 2;
    probe->info.steps[0] = 3;
    probe->info.steps[1] = 5;
    probe->info.steps_total = 10;
    probe->reward_scale = 1.0;
    assert_null(ga_probe_get_reference(probe));
    test_ok(ga_probe_save(probe, path, &error), &error);
    test_ok(ga_probe_open(path, ga_compute_native(), &read, &error), &error);
    assert_null(ga_probe_get_reference(read)); /* as in older files */
    ga_probe_close(&read);
    fill_reference(&random, &probe->reference);
    test_ok(ga_probe_save(probe, path, &error), &error);
    test_ok(ga_probe_open(path, ga_compute_native(), &read, &error), &error);
    assert_non_null(ga_probe_get_reference(read));
    assert_memory_equal(ga_probe_get_reference(read), &probe->reference, sizeof probe->reference);
    ga_probe_close(&read);
    probe->reference.columns[1][2].edges[4] = -1e9F; /* not ascending */
    test_ok(ga_probe_save(probe, path, &error), &error);
    ga_error_clear(&error);
    assert_int_equal(ga_probe_open(path, ga_compute_native(), &read, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "reference"));
    ga_probe_close(&probe);
    free(path);
    test_folder_remove(folder);
}

/* Training that takes 2 s a trained row, and 1 s a begun one whatever becomes of it. */
static void fixed_costs_are_told_from_those_of_a_row(void **state) {
    (void)state;
    ga_costs costs = ga_costs_make(128);
    assert_true(isnan(ga_costs_training_seconds(&costs)));
    for (int i = 0; i < 10; i++) {
        ga_costs_age(&costs);
        ga_costs_add_training(&costs, 300, 100, 100);
    }
    assert_true(fabs(ga_costs_training_seconds(&costs) - 3) < 1e-9); /* all of it, as far as is known */
    assert_true(ga_costs_training_fixed_share(&costs) == 0.0);
    for (int i = 0; i < 200; i++) {
        ga_costs_age(&costs);
        ga_costs_add_training(&costs, 100 + 2 * 25, 100, 25);
    }
    /* long after the change: the share of the fixed part is remembered */
    assert_true(fabs(ga_costs_training_seconds(&costs) - 3) < 1e-6);
    assert_true(fabs(ga_costs_training_fixed_share(&costs) - 1.0 / 3) < 1e-6);
    ga_costs_add_training(&costs, 1e6, 100, 25); /* an evaluation */
    assert_true(fabs(ga_costs_training_seconds(&costs) - 3) < 1e-6);
    assert_true(fabs(ga_costs_training_fixed_share(&costs) - 1.0 / 3) < 1e-6);
    ga_costs_add_training(&costs, 0, 100, 25);
    ga_costs_add_training(&costs, 5, 0, 0);
    ga_costs_add(&costs, GA_COST_LOOK, 3, 6);
    assert_true(ga_costs_row_seconds(&costs, GA_COST_LOOK) == 0.5);
    for (int i = 0; i < 9; i++) {
        ga_costs_add(&costs, GA_COST_LOOK, i == 4 ? 900.0 : 3.0, 6);
    }
    assert_true(ga_costs_row_seconds(&costs, GA_COST_LOOK) == 0.5);
}

/* The first pruned update is followed by an evaluation: pruning is not blamed for it. */
static void an_evaluation_is_no_fixed_cost(void **state) {
    (void)state;
    ga_costs costs = ga_costs_make(128);
    for (int i = 0; i < 15; i++) {
        ga_costs_age(&costs);
        ga_costs_add_training(&costs, 10, 100, 100);
    }
    for (int i = 0; i < 12; i++) {
        ga_costs_age(&costs);
        ga_costs_add_training(&costs, i % 10 == 0 ? 100 : 3, 100, 30);
        assert_true(ga_costs_training_fixed_share(&costs) < 1e-6);
    }
    assert_true(fabs(ga_costs_training_seconds(&costs) - 0.1) < 1e-6);
}

/* A forward that takes as long for few rows as for many: found after four batches, and forgotten slowly while
 * nothing is pruned, so that it is tried again one day. */
static void a_forward_that_does_not_get_shorter_is_seen(void **state) {
    (void)state;
    ga_costs costs = ga_costs_make(128);
    for (int i = 0; i < 20; i++) {
        ga_costs_age(&costs);
        ga_costs_add_denoising(&costs, 8, 400, 400);
    }
    assert_true(ga_costs_denoising_fixed_share(&costs) == 0.0);
    for (int i = 0; i < 4; i++) {
        ga_costs_age(&costs);
        ga_costs_add_denoising(&costs, 7.9, 200, 400);
    }
    assert_true(ga_costs_denoising_fixed_share(&costs) > 0.95);
    assert_true(fabs(ga_costs_row_step_seconds(&costs) - 0.02) < 1e-3);
    double before = ga_costs_denoising_fixed_share(&costs);
    for (int i = 0; i < 300; i++) {
        ga_costs_age(&costs);
        ga_costs_add_denoising(&costs, 8, 400, 400);
        assert_true(ga_costs_denoising_fixed_share(&costs) < before);
        before = ga_costs_denoising_fixed_share(&costs);
    }
    assert_true(before < 0.25);
    for (int i = 0; i < 4; i++) { /* another machine */
        ga_costs_age(&costs);
        ga_costs_add_denoising(&costs, 4, 200, 400);
    }
    assert_true(ga_costs_denoising_fixed_share(&costs) < 1e-6);
}

/* A machine whose seconds jump by half: what is in truth proportional is rarely taken for fixed. */
static void noise_is_no_fixed_cost(void **state) {
    (void)state;
    double most = 0.0, sum = 0.0;
    int32_t count = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        ga_random random = test_random(30 + seed);
        ga_costs costs = ga_costs_make(128);
        for (int i = 0; i < 80; i++) {
            const double full = i < 30 ? 400 : 220;
            ga_costs_age(&costs);
            ga_costs_add_denoising(&costs, full * exp(0.3 * ga_random_normal(&random)), full, 400);
            most = fmax(most, ga_costs_denoising_fixed_share(&costs));
            sum += ga_costs_denoising_fixed_share(&costs);
            count++;
        }
    }
    assert_true(sum / count < 0.05);
    assert_true(most < 1.0 + 1e-9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_of_a_row),
        cmocka_unit_test(columns_know_ties),
        cmocka_unit_test(drift_from_a_probes_reference),
        cmocka_unit_test(drift_without_a_reference),
        cmocka_unit_test(few_prompts_are_no_drift),
        cmocka_unit_test(a_reference_travels_in_the_probes_file),
        cmocka_unit_test(fixed_costs_are_told_from_those_of_a_row),
        cmocka_unit_test(an_evaluation_is_no_fixed_cost),
        cmocka_unit_test(a_forward_that_does_not_get_shorter_is_seen),
        cmocka_unit_test(noise_is_no_fixed_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
