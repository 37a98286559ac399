/* Every signal through the public functions of a session: into the record, the decision and the metrics. */
#include "tests/unit/support.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/grpo_accel.h"
#include "grpo_accel/record/reader.h"
#include "grpo_accel/record/verify.h"
#include "grpo_accel/session/session.h"

enum {
    ROWS = 6,
    STEPS = 10,
    CHANNELS = 2,
    SIZE = 4,
    PLANE = SIZE * SIZE,
    HIDDEN = 5,
    PROMPT = 3,
    SCORERS = 2
};

static const double SIGMAS[STEPS + 1] = {1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1, 0.0};

typedef struct job {
    char *folder;
    ga_session *session;
    int infos, warnings;
    char warning[512];
    char info[512];
} job;

static void keep_line(void *user, int level, const char *line) {
    job *j = user;
    j->warnings += level <= 1;
    j->infos += level == 2;
    (void)snprintf(level <= 1 ? j->warning : j->info, sizeof j->warning, "%s", line);
}

static void open_job(job *j, const char *yaml) {
    *j = (job){.folder = test_folder_make()};
    char *config = test_path(j->folder, "accel.yaml");
    FILE *file = fopen(config, "w");
    assert_non_null(file);
    (void)fprintf(
        file, "version: 1\nmode: shadow\nretrain: {every_updates: 0}\nrun_dir: %s/run\n%s", j->folder, yaml);
    assert_int_equal(fclose(file), 0);
    const ga_session_options options = {
        .size = sizeof options, .config_path = config, .log = keep_line, .log_user = j};
    ga_error error;
    test_ok(ga_session_open(&options, &j->session, &error), &error);
    free(config);
}

static void end_job(job *j) {
    ga_session_close(&j->session, 1);
    test_folder_remove(j->folder);
}

static ga_batch_options batch_options(void) {
    static const char *const prompts[ROWS] = {"a", "b", "a", "b", "a", "b"};
    return (ga_batch_options){.size = sizeof(ga_batch_options),
        .rows = ROWS,
        .steps_total = STEPS,
        .model = "test/1",
        .sigmas = SIGMAS,
        .prompts = prompts,
        .latent_channels = CHANNELS,
        .latent_height = SIZE,
        .latent_width = SIZE,
        .hidden_values = HIDDEN,
        .prompt_values = PROMPT,
        .scores_per_preview = SCORERS,
        .noise_begin_step = -1,
        .noise_end_step = -1};
}

static ga_batch *begin(job *j, const ga_batch_options *options) {
    ga_batch *batch = NULL;
    ga_error error;
    test_ok(ga_batch_begin(j->session, options, &batch, &error), &error);
    return batch;
}

static ga_tensor view(float *values, int32_t dims, int64_t a, int64_t b, int64_t c, int64_t d) {
    const int64_t shape[] = {a, b, c, d};
    ga_tensor tensor = {.data = values, .dims = dims, .dtype = GA_F32};
    int64_t stride = 1;
    for (int32_t i = dims - 1; i >= 0; i--) {
        tensor.shape[i] = shape[i];
        tensor.strides[i] = stride;
        stride *= shape[i];
    }
    return tensor;
}

static ga_decision decide(ga_batch *batch) {
    ga_decision decision = {.size = sizeof decision};
    ga_error error;
    test_ok(ga_batch_decide(batch, &decision, &error), &error);
    return decision;
}

static void end_update(job *j) {
    double rewards[ROWS] = {0}, host[ROWS] = {0}, advantages[ROWS];
    int64_t groups[ROWS] = {0};
    const ga_update_options options = {.size = sizeof options,
        .count = ROWS,
        .groups = groups,
        .rewards = rewards,
        .host_advantages = host,
        .prunable = 1};
    ga_error error;
    test_ok(ga_update_end(j->session, &options, advantages, &error), &error);
}

/* Closes the session and reads what it logged. */
static ga_record_table *read_record(job *j) {
    ga_session_close(&j->session, 1);
    char *run = test_path(j->folder, "run");
    ga_record_table *table = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_read(run, NULL, &table, &error), &error);
    ga_record_report report;
    test_ok(ga_record_verify(run, &report, &error), &error);
    assert_int_equal(report.count, 0);
    ga_record_report_free(&report);
    free(run);
    return table;
}

static const ga_half *feature(const ga_record_table *table, int64_t row, ga_input input) {
    const ga_feature_schema *schema = &table->layout.features;
    for (int32_t i = 0; i < schema->input_count; i++) {
        if (schema->inputs[i].input == input) {
            return table->features + row * schema->values_per_row + schema->inputs[i].offset;
        }
    }
    fail_msg("input %d is not in the record", (int)input);
    return NULL;
}

static void expect_half(ga_half value, double expected) {
    if (fabs((double)ga_half_to_float(value) - expected) > 1e-3 * (1.0 + fabs(expected))) {
        fail_msg("%g instead of %g", (double)ga_half_to_float(value), expected);
    }
}

/* ---- signals ---- */

static const char CHEAP[] =
    "decision: {step: 3}\n"
    "probe: {inputs: [cfg, hidden, prompt, preview, lookahead, distilled], map_size: 4, "
    "preview: {scorers: [avg, shapes]}}\n";

static float conditional[ROWS * CHANNELS * PLANE], unconditional[ROWS * CHANNELS * PLANE];
static float hidden[ROWS * HIDDEN], prompt[ROWS * PROMPT];

static void fill_signals(void) {
    for (int i = 0; i < ROWS * CHANNELS * PLANE; i++) {
        conditional[i] = (float)(i % 11) * 0.25f;
        unconditional[i] = (float)(i % 7) * 0.5f;
    }
    for (int i = 0; i < ROWS * HIDDEN; i++) {
        hidden[i] = (float)i * 0.125f - 1.0f;
    }
    for (int i = 0; i < ROWS * PROMPT; i++) {
        prompt[i] = 2.0f - (float)i * 0.25f;
    }
}

/* 3 + input + row / 8 + column / 4 */
static void observe_scores(ga_batch *batch, int32_t input) {
    double scores[ROWS * SCORERS];
    for (int i = 0; i < ROWS * SCORERS; i++) {
        scores[i] = 3 + input + (i / SCORERS) * 0.125 + (i % SCORERS) * 0.25;
    }
    ga_error error;
    test_ok(ga_batch_observe_scores(batch, input, SCORERS, scores, &error), &error);
}

static void observe_tensors(ga_batch *batch) {
    ga_error error;
    fill_signals();
    const ga_tensor c = view(conditional, 4, ROWS, CHANNELS, SIZE, SIZE);
    const ga_tensor u = view(unconditional, 4, ROWS, CHANNELS, SIZE, SIZE);
    const ga_tensor h = view(hidden, 2, ROWS, HIDDEN, 0, 0), p = view(prompt, 2, ROWS, PROMPT, 0, 0);
    test_ok(ga_batch_observe_guidance(batch, &c, &u, &error), &error);
    test_ok(ga_batch_observe_vectors(batch, GA_VECTORS_HIDDEN, &h, &error), &error);
    test_ok(ga_batch_observe_vectors(batch, GA_VECTORS_PROMPT, &p, &error), &error);
}

static void expect_row(const ga_record_table *table, int64_t row) {
    const ga_half *difference = feature(table, row, GA_INPUT_CFG);
    for (int k = 0; k < PLANE; k++) {
        double expected = 0;
        for (int c = 0; c < CHANNELS; c++) {
            const int64_t place = (row * CHANNELS + c) * PLANE + k;
            expected += fabs((double)conditional[place] - (double)unconditional[place]) / CHANNELS;
        }
        expect_half(difference[k], expected);
    }
    for (int k = 0; k < HIDDEN; k++) {
        expect_half(feature(table, row, GA_INPUT_HIDDEN)[k], (double)hidden[row * HIDDEN + k]);
    }
    for (int k = 0; k < PROMPT; k++) {
        expect_half(feature(table, row, GA_INPUT_PROMPT)[k], (double)prompt[row * PROMPT + k]);
    }
    for (int input = GA_SCORES_PREVIEW; input <= GA_SCORES_DISTILLED; input++) {
        for (int k = 0; k < SCORERS; k++) {
            expect_half(feature(table, row, (ga_input)input)[k], 3 + input + (double)row * 0.125 + k * 0.25);
        }
    }
}

static void every_signal_reaches_the_record(void **state) {
    (void)state;
    job j;
    open_job(&j, CHEAP);
    const ga_batch_options options = batch_options();
    ga_batch *batch = begin(&j, &options);
    observe_tensors(batch);
    for (int input = GA_SCORES_PREVIEW; input <= GA_SCORES_DISTILLED; input++) {
        observe_scores(batch, input);
    }
    assert_string_equal(decide(batch).reason, "shadow");
    end_update(&j);
    assert_int_equal(j.warnings, 0);
    ga_record_table *table = read_record(&j);
    assert_int_equal(table->rows, ROWS);
    for (int64_t row = 0; row < ROWS; row++) {
        expect_row(table, row);
        assert_int_equal(table->final_present[row], 0);
    }
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

/* One of six is missing: said once, NaN in the record, and nothing is pruned for it. */
static void a_missing_signal_is_not_scored(void **state) {
    (void)state;
    job j;
    open_job(&j, CHEAP);
    const ga_batch_options options = batch_options();
    ga_batch *batch = begin(&j, &options);
    observe_tensors(batch);
    observe_scores(batch, GA_SCORES_PREVIEW);
    observe_scores(batch, GA_SCORES_DISTILLED);
    assert_int_equal(decide(batch).kept_count, ROWS);
    assert_int_equal(j.warnings, 1);
    assert_non_null(strstr(j.warning, "not every signal"));
    end_update(&j);
    ga_record_table *table = read_record(&j);
    assert_true(isnan(ga_half_to_float(feature(table, 0, GA_INPUT_LOOKAHEAD)[0])));
    assert_true(isfinite(ga_half_to_float(feature(table, 0, GA_INPUT_DISTILLED)[0])));
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    job j;
    open_job(&j, CHEAP);
    const ga_batch_options options = batch_options();
    ga_batch *batch = begin(&j, &options);
    double scores[ROWS * 3] = {0};
    float values[ROWS * 8] = {0};
    ga_error error;
    const ga_tensor wide = view(values, 2, ROWS, 8, 0, 0), latent = view(values, 4, ROWS, 2, 2, 2);
    assert_int_equal(ga_batch_observe_preview(batch, scores, &error), GA_ERR_ARGUMENT); /* two scorers */
    assert_int_equal(ga_batch_observe_scores(batch, GA_SCORES_PREVIEW, 3, scores, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_observe_scores(batch, GA_INPUT_CFG, 2, scores, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_observe_vectors(batch, GA_VECTORS_HIDDEN, &wide, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_observe_vectors(batch, GA_INPUT_X0, &wide, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_observe_guidance(batch, &latent, &wide, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_observe_latent(batch, &latent, &latent, 0.5, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "input x0 is not wanted"));
    assert_int_equal(ga_batch_observe_guidance(NULL, &latent, &latent, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_decision_step(NULL), -1);
    end_job(&j);

    open_job(&j, CHEAP);
    ga_batch_options narrow = batch_options();
    narrow.hidden_values = 0;
    batch = NULL;
    assert_int_equal(ga_batch_begin(j.session, &narrow, &batch, &error), GA_ERR_DATA);
    assert_null(batch);
    assert_non_null(strstr(error.message, "take it out of probe.inputs"));
    end_job(&j);
}

/* ---- when ---- */

/* The step at which a batch is decided, whose sampler adds noise in steps begin … end − 1; −1: refused. */
static int32_t step_for(const char *yaml, int32_t noise_begin, int32_t noise_end, uint64_t *fingerprint) {
    job j;
    open_job(&j, yaml);
    ga_session_info info = {.size = sizeof info};
    assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
    assert_int_equal(info.decision_step, -1); /* nobody knows before the first batch */
    ga_batch_options options = batch_options();
    options.noise_begin_step = noise_begin;
    options.noise_end_step = noise_end;
    ga_batch *batch = NULL;
    ga_error error;
    int32_t step = -1;
    const ga_status status = ga_batch_begin(j.session, &options, &batch, &error);
    if (status == GA_OK) {
        step = ga_batch_decision_step(batch);
        assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
        assert_int_equal(info.decision_step, step);
        *fingerprint = j.session->fingerprint;
        assert_true(j.session->shapes.candidate_sigmas[0] == SIGMAS[step]);
        assert_int_equal(j.warnings, 0);
        assert_non_null(strstr(j.info, "decision.sigma"));
        options.noise_end_step = options.noise_begin_step = -1; /* a later batch says less: the step stays */
        assert_int_equal(ga_batch_decision_step(begin(&j, &options)), step);
    } else {
        assert_int_equal(status, GA_ERR_DATA);
        assert_non_null(strstr(error.message, "nothing could be saved"));
    }
    end_job(&j);
    return step;
}

static void sigma_says_when(void **state) {
    (void)state;
    static const char HIGH[] = "decision: {sigma: 0.7}\nprobe: {inputs: [preview]}\n";
    static const char LOW[] = "decision: {sigma: 0.05}\nprobe: {inputs: [preview]}\n";
    static const char FIRST[] = "decision: {sigma: 1.0}\nprobe: {inputs: [preview]}\n";
    uint64_t free_of_noise = 0, moved = 0, same = 0;
    assert_int_equal(step_for(HIGH, -1, -1, &free_of_noise), 4);
    assert_int_equal(step_for(FIRST, -1, -1, &same), 1); /* a decision needs a step before it */
    assert_int_equal(step_for(HIGH, 0, 2, &same), 4);    /* behind the window anyway */
    assert_true(same == free_of_noise);
    assert_int_equal(step_for(HIGH, 3, 6, &moved), 6);
    assert_true(moved != free_of_noise); /* ranks that decide at other steps notice */
    assert_int_equal(step_for(HIGH, 5, 7, &moved), 7);
    assert_int_equal(step_for(HIGH, 0, STEPS, &same), 4); /* noise in all steps: nowhere to go */
    assert_int_equal(step_for(LOW, -1, -1, &same), -1);
    assert_int_equal(step_for(HIGH, 3, STEPS, &same), -1);
}

static void a_fixed_step_before_noise_is_warned_of_once(void **state) {
    (void)state;
    job j;
    open_job(&j, "decision: {step: 4}\nprobe: {inputs: [preview]}\n");
    ga_batch_options options = batch_options();
    options.noise_begin_step = 3;
    options.noise_end_step = 6;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ga_batch_decision_step(begin(&j, &options)), 4);
    }
    assert_int_equal(j.warnings, 1);
    assert_non_null(strstr(j.warning, "decide after step 6 or later"));
    end_job(&j);
    open_job(&j, "decision: {step: 4}\nprobe: {inputs: [preview]}\n");
    options.noise_begin_step = 0;
    options.noise_end_step = STEPS;
    (void)begin(&j, &options);
    assert_int_equal(j.warnings, 0); /* samplers whose steps are all noisy exist */
    end_job(&j);
}

/* ---- ends ---- */

typedef struct late_final {
    ga_batch *batch;
    const int32_t *rows;
    int32_t count;
    ga_tensor tensor;
    ga_status status;
} late_final;

static void *bring_final(void *user) {
    late_final *late = user;
    late->status = ga_batch_final(late->batch, late->rows, late->count, &late->tensor, NULL);
    return NULL;
}

static ga_status final_from_thread(ga_batch *batch, const int32_t *rows, int32_t count, ga_tensor tensor) {
    late_final late = {batch, rows, count, tensor, GA_ERR_BUG};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, bring_final, &late), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return late.status;
}

static void latents_and_states_are_stored(void **state) {
    (void)state;
    job j;
    open_job(&j, "decision: {step: 3}\nprobe: {inputs: [preview]}\nrecord: {finals: latent}\n");
    ga_session_info info = {.size = sizeof info};
    assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
    assert_int_equal(info.finals, 1);
    const ga_batch_options options = batch_options();
    static float states[ROWS * CHANNELS * PLANE], finals[3 * CHANNELS * PLANE];
    for (int i = 0; i < ROWS * CHANNELS * PLANE; i++) {
        states[i] = (float)i * 0.25f;
        finals[i % (3 * CHANNELS * PLANE)] = -(float)(i % (3 * CHANNELS * PLANE)) * 0.5f;
    }
    ga_error error;
    ga_batch *batch = begin(&j, &options);
    const ga_tensor s = view(states, 4, ROWS, CHANNELS, SIZE, SIZE);
    test_ok(ga_batch_state(batch, &s, &error), &error);
    observe_scores(batch, GA_SCORES_PREVIEW);
    (void)decide(batch);
    static const int32_t some[] = {4, 1}, one[] = {2}, beyond[] = {ROWS};
    assert_int_equal(final_from_thread(batch, some, 2, view(finals, 4, 2, CHANNELS, SIZE, SIZE)), GA_OK);
    assert_int_equal(
        final_from_thread(batch, one, 1, view(finals + 2 * CHANNELS * PLANE, 4, 1, CHANNELS, SIZE, SIZE)),
        GA_OK);
    const ga_tensor odd = view(finals, 4, 1, CHANNELS, SIZE, 2),
                    single = view(finals, 4, 1, CHANNELS, SIZE, SIZE);
    assert_int_equal(ga_batch_final(batch, one, 1, &odd, &error), GA_ERR_DATA);
    assert_int_equal(ga_batch_final(batch, some, 2, &single, &error), GA_ERR_DATA);
    assert_int_equal(ga_batch_final(batch, beyond, 1, &single, &error), GA_ERR_ARGUMENT);
    end_update(&j);
    ga_record_table *table = read_record(&j);
    static const int32_t place_of[ROWS] = {-1, 1, 2, -1, 0, -1};
    const int64_t values = (int64_t)CHANNELS * PLANE;
    for (int64_t row = 0; row < ROWS; row++) {
        assert_int_equal(table->final_present[row], place_of[row] >= 0);
        for (int64_t k = 0; k < values; k++) {
            ga_half end;
            memcpy(&end, table->finals + (row * values + k) * 2, sizeof end);
            if (place_of[row] < 0) {
                assert_true(isnan(ga_half_to_float(end)));
            } else {
                expect_half(end, (double)finals[place_of[row] * values + k]);
            }
            expect_half(table->states[row * values + k], (double)states[row * values + k]);
        }
    }
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

static void images_are_stored_as_bytes(void **state) {
    (void)state;
    job j;
    open_job(&j, "decision: {step: 3}\nprobe: {inputs: [preview]}\nrecord: {finals: image}\n");
    const ga_batch_options options = batch_options();
    ga_batch *batch = begin(&j, &options);
    observe_scores(batch, GA_SCORES_PREVIEW);
    (void)decide(batch);
    enum { HEIGHT = 2, WIDTH = 5, PIXELS = HEIGHT * WIDTH };
    float image[3 * PIXELS];
    for (int i = 0; i < 3 * PIXELS; i++) {
        image[i] = (float)i / 19.0f - 0.11f; /* from below 0 to above 1 */
    }
    image[7] = NAN;
    static const int32_t rows[] = {3};
    assert_int_equal(final_from_thread(batch, rows, 1, view(image, 4, 1, 3, HEIGHT, WIDTH)), GA_OK);
    assert_int_equal(final_from_thread(batch, rows, 1, view(image, 4, 1, 3, WIDTH, HEIGHT)), GA_ERR_DATA);
    end_update(&j);
    ga_record_table *table = read_record(&j);
    assert_int_equal(table->layout.final_kind, GA_RECORD_FINAL_IMAGE);
    assert_null(table->states);
    for (int row = 0; row < ROWS; row++) {
        assert_int_equal(table->final_present[row], row == 3);
        for (int i = 0; i < 3 * PIXELS; i++) {
            const double value = (double)image[i % 3 * PIXELS + i / 3];
            const double bounded = isnan(value) || value < 0 ? 0 : value > 1 ? 1 : value;
            assert_int_equal(table->finals[row * 3 * PIXELS + i], row == 3 ? (int)(bounded * 255 + 0.5) : 0);
        }
    }
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

/* Images that never come cost a warning and nothing else. */
static void finals_that_never_come_are_told_once(void **state) {
    (void)state;
    job j;
    open_job(&j, "decision: {step: 3}\nprobe: {inputs: [preview]}\nrecord: {finals: image}\n");
    const ga_batch_options options = batch_options();
    for (int i = 0; i < 2; i++) {
        ga_batch *batch = begin(&j, &options);
        observe_scores(batch, GA_SCORES_PREVIEW);
        (void)decide(batch);
        end_update(&j);
    }
    assert_int_equal(j.warnings, 1);
    ga_record_table *table = read_record(&j);
    assert_int_equal(table->rows, 2 * ROWS);
    assert_null(table->finals);
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

/* ---- costs ---- */

static double number_of(const job *j, const char *key) {
    char quoted[64];
    (void)snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = strstr(ga_session_metrics_json(j->session), quoted);
    return at != NULL ? strtod(at + strlen(quoted), NULL) : (double)NAN;
}

static void costs_are_in_steps_of_a_row(void **state) {
    (void)state;
    job j;
    open_job(&j, "decision: {step: 3}\nprobe: {inputs: [preview]}\n");
    const ga_batch_options options = batch_options();
    for (int i = 0; i < 3; i++) {
        ga_batch *batch = begin(&j, &options);
        observe_scores(batch, GA_SCORES_PREVIEW);
        (void)decide(batch);
        static const double seconds[] = {6.0, 1.5, 0.3, 1.2, 0.3, 0.0, 0.6};
        for (int32_t phase = 0; phase < 7; phase++) {
            assert_int_equal(ga_batch_seconds(batch, phase, seconds[phase]), GA_OK);
        }
        assert_int_equal(ga_batch_seconds(batch, 7, 1.0), GA_ERR_ARGUMENT);
        end_update(&j);
        /* 6 s for 6 rows of 10 steps: a step of a row takes 0.1 s */
        assert_true(fabs(number_of(&j, "cost/row_step_seconds") - 0.1) < 1e-9);
        assert_true(fabs(number_of(&j, "cost/preview_row_steps") - 2.0) < 1e-9);
        assert_true(fabs(number_of(&j, "cost/lookahead_row_steps") - 0.5) < 1e-9);
        assert_true(fabs(number_of(&j, "cost/features_row_steps") - 1.0) < 1e-9);
        assert_true(fabs(number_of(&j, "cost/reward_row_steps") - 0.5) < 1e-9);
        assert_true(isnan(number_of(&j, "cost/distilled_row_steps"))); /* it took no time */
        assert_true(number_of(&j, "seconds/preview") == 1.2 && number_of(&j, "seconds/features") == 0.6);
    }
    ga_record_table *table = read_record(&j);
    assert_true(table->batches[2].seconds_signal == 1.5 && table->batches[2].seconds_preview == 1.2);
    assert_true(table->batches[2].seconds_lookahead == 0.3 && table->batches[2].seconds_features == 0.6);
    ga_record_table_free(&table);
    test_folder_remove(j.folder);
}

static void one_odd_batch_does_not_count(void **state) {
    (void)state;
    ga_costs costs = ga_costs_make(1.0);
    assert_true(isnan(ga_costs_row_step_seconds(&costs)));
    ga_costs_add_denoising(&costs, 8.0, 8.0, 8.0);
    ga_costs_add(&costs, GA_COST_PREVIEW, 4.0, 1.0);
    assert_true(ga_costs_row_steps(&costs, GA_COST_PREVIEW) == 4.0);
    ga_costs_age(&costs);
    ga_costs_add(&costs, GA_COST_PREVIEW, 1.0, 1.0);
    ga_costs_add(&costs, GA_COST_PREVIEW, 2.0, 2.0);
    assert_true(ga_costs_row_steps(&costs, GA_COST_PREVIEW) == 1.0);
    assert_true(isnan(ga_costs_row_steps(&costs, GA_COST_REWARD)));
}

/* ---- what the adapter is told ---- */

static void the_adapter_is_told_what_to_do(void **state) {
    (void)state;
    job j;
    open_job(&j,
        "probe: {inputs: [distilled, lookahead], hidden_block: \"blocks.7\", preview: {scorers: [avg, "
        "shapes], decoder: models/tiny}, lookahead: {steps: 3, guided: false}, distilled: {rank: 4, "
        "every_updates: 5, seconds: 2.5, pairs: 99}}\nrecord: {finals: image, enabled: false}\n");
    ga_session_info info = {.size = sizeof info};
    assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
    assert_int_equal(info.inputs, GA_INPUT_BIT(GA_INPUT_LOOKAHEAD) | GA_INPUT_BIT(GA_INPUT_DISTILLED));
    assert_string_equal(info.preview_scorers, "avg,shapes");
    assert_string_equal(info.preview_decoder, "models/tiny");
    assert_string_equal(info.hidden_block, "blocks.7");
    assert_int_equal(info.lookahead_steps, 3);
    assert_int_equal(info.lookahead_guided, 0);
    assert_int_equal(info.distilled, 1);
    assert_null(info.distilled_lora);
    assert_int_equal(info.distilled_rank, 4);
    assert_int_equal(info.distilled_every_updates, 5);
    assert_int_equal(info.distilled_pairs, 99);
    assert_true(info.distilled_seconds == 2.5);
    assert_int_equal(info.finals, 0); /* there is no record to put them in */
    end_job(&j);
    open_job(&j, "");
    assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
    assert_null(info.preview_scorers);
    assert_null(info.preview_decoder);
    assert_string_equal(info.hidden_block, "middle");
    assert_int_equal(info.distilled, 0);
    end_job(&j);
    assert_non_null(strchr(ga_torch_schemas(), '\t'));
}

/* No PyTorch in this process: the native provider does the work, and it is said once. */
static void without_torch_native_computes(void **state) {
    (void)state;
    job j;
    open_job(&j, "decision: {step: 3}\nprobe: {inputs: [preview], provider: torch}\n");
    const ga_batch_options options = batch_options();
    for (int i = 0; i < 2; i++) {
        ga_batch *batch = begin(&j, &options);
        observe_scores(batch, GA_SCORES_PREVIEW);
        assert_string_equal(decide(batch).reason, "shadow");
    }
    assert_int_equal(j.warnings, 1);
    assert_non_null(strstr(j.warning, "native computes"));
    assert_ptr_equal(j.session->compute, ga_compute_native());
    end_job(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_signal_reaches_the_record),
        cmocka_unit_test(a_missing_signal_is_not_scored),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(sigma_says_when),
        cmocka_unit_test(a_fixed_step_before_noise_is_warned_of_once),
        cmocka_unit_test(latents_and_states_are_stored),
        cmocka_unit_test(images_are_stored_as_bytes),
        cmocka_unit_test(finals_that_never_come_are_told_once),
        cmocka_unit_test(costs_are_in_steps_of_a_row),
        cmocka_unit_test(one_odd_batch_does_not_count),
        cmocka_unit_test(the_adapter_is_told_what_to_do),
        cmocka_unit_test(without_torch_native_computes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
