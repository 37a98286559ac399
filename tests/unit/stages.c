#include "tests/unit/stages.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/session/lessons.h"
#include "grpo_accel/session/session.h"
#include "probe/train/train.h"

const double stages_sigmas[STAGES_STEPS + 1] = {1.0, 0.9, 0.75, 0.6, 0.4, 0.2, 0.0};

#define MODEL "test/stages"

static void keep_line(void *user, int level, const char *line) {
    stages_job *j = user;
    if (level <= 1) {
        j->warnings++;
        (void)snprintf(j->warning, sizeof j->warning, "%s", line);
    }
}

/* `yaml`: all but version, run_dir and the input, which is the preview. */
void stages_open(stages_job *j, const char *yaml) {
    if (j->folder == NULL) {
        j->folder = test_folder_make();
    }
    char *config = test_path(j->folder, "accel.yaml");
    FILE *file = fopen(config, "w");
    assert_non_null(file);
    (void)fprintf(file, "version: 1\nrun_dir: %s/run\n%s", j->folder, yaml);
    assert_int_equal(fclose(file), 0);
    const ga_session_options options = {
        .size = sizeof options, .config_path = config, .log = keep_line, .log_user = j};
    ga_error error;
    test_ok(ga_session_open(&options, &j->session, &error), &error);
    free(config);
}

void stages_close(stages_job *j) {
    ga_session_close(&j->session, 1);
    test_folder_remove(j->folder);
}

/* ---- a host ---- */

/* What a row ends with; the same wherever it is asked for. */
double stages_reward(int32_t rank, uint64_t batch, int32_t row) {
    ga_random random = ga_random_make((uint64_t)rank * 1000 + (uint64_t)row, batch, GA_STREAM_TEST);
    return 0.5 + 0.2 * ga_random_normal(&random);
}

/* What is seen of it after `step` steps: better and better. */
double stages_preview(int32_t rank, uint64_t batch, int32_t row, int32_t step) {
    ga_random random =
        ga_random_make((uint64_t)rank * 1000 + (uint64_t)row, batch * 100 + (uint64_t)step, GA_STREAM_POLICY);
    return stages_reward(rank, batch, row) + 0.2 / step * ga_random_normal(&random);
}

static ga_batch_options batch_options(char text[2][64], const char **prompts, uint64_t number) {
    for (int32_t i = 0; i < 2; i++) {
        (void)snprintf(text[i], 64, "prompt %d of %d", (int)i, (int)number);
    }
    for (int32_t i = 0; i < STAGES_ROWS; i++) {
        prompts[i] = text[i % 2];
    }
    return (ga_batch_options){.size = sizeof(ga_batch_options),
        .rows = STAGES_ROWS,
        .steps_total = STAGES_STEPS,
        .model = MODEL,
        .sigmas = stages_sigmas,
        .prompts = prompts,
        .latent_channels = 2,
        .latent_height = 4,
        .latent_width = 4,
        .noise_begin_step = -1,
        .noise_end_step = -1};
}

ga_batch *stages_begin(ga_session *session) {
    char text[2][64];
    const char *prompts[STAGES_ROWS];
    const ga_batch_options options = batch_options(text, prompts, session->next_batch);
    ga_batch *batch = NULL;
    ga_error error;
    return ga_batch_begin(session, &options, &batch, &error) == GA_OK ? batch : NULL;
}

/* Previews of the rows that still run. */
ga_status stages_observe(ga_batch *batch) {
    double scores[STAGES_ROWS];
    for (int32_t i = 0; i < batch->kept_count; i++) {
        scores[i] = stages_preview(
            batch->session->rank, batch->number, batch->kept_rows[i], batch->steps[batch->look_now]);
    }
    ga_error error;
    return ga_batch_take_scores(batch, GA_INPUT_PREVIEW, 1, scores, &error);
}

void stages_give_rewards(ga_batch *batch) {
    for (int32_t i = 0; i < batch->kept_count; i++) {
        const int32_t row = batch->kept_rows[i];
        const double value = stages_reward(batch->session->rank, batch->number, row);
        (void)ga_batch_reward(batch, "avg", &row, &value, 1, NULL);
    }
}

/* All looks of a batch and its rewards; kept counts after each. */
ga_batch *stages_roll(stages_job *j, int32_t counts[STAGES_LOOKS_MAX]) {
    ga_batch *batch = stages_begin(j->session);
    assert_non_null(batch);
    const int32_t *steps = NULL;
    int32_t count = 0;
    assert_int_equal(ga_batch_get_steps(batch, &steps, &count), GA_OK);
    for (int32_t i = 0; i < count; i++) {
        ga_decision decision = {.size = sizeof decision};
        ga_error error;
        test_ok(stages_observe(batch), NULL);
        test_ok(ga_batch_decide(batch, &decision, &error), &error);
        counts[i] = decision.kept_count;
        assert_int_equal(decision.rows, STAGES_ROWS);
        assert_int_equal(decision.next_step, i + 1 < count ? steps[i + 1] : -1);
        for (int32_t k = 1; k < decision.kept_count; k++) {
            assert_true(decision.kept[k] > decision.kept[k - 1]);
        }
    }
    stages_give_rewards(batch);
    return batch;
}

/* Ends an update of the session's open batches, with everybody's rewards in the host's order. */
ga_status stages_end_update(ga_session *session, double *advantages) {
    const int32_t batches = session->batch_count;
    const int32_t count = session->world_size * batches * STAGES_ROWS;
    int64_t *groups = calloc((size_t)count, sizeof *groups);
    double *rewards = calloc((size_t)count, sizeof *rewards), *host = calloc((size_t)count, sizeof *host);
    for (int32_t i = 0; i < count; i++) {
        const int32_t rank = i / (batches * STAGES_ROWS), b = i / STAGES_ROWS % batches,
                      row = i % STAGES_ROWS;
        groups[i] = b * 2 + row % 2;
        rewards[i] = stages_reward(rank, session->batches[b]->number, row);
        host[i] = rewards[i] - 0.5;
    }
    const ga_update_options options = {.size = sizeof options,
        .count = count,
        .groups = groups,
        .rewards = rewards,
        .host_advantages = host,
        .prunable = 1};
    ga_error error;
    const ga_status status = ga_update_end(session, &options, advantages, &error);
    free(groups);
    free(rewards);
    free(host);
    return status;
}

void stages_update(stages_job *j, int32_t counts[STAGES_LOOKS_MAX]) {
    double advantages[STAGES_ROWS];
    (void)stages_roll(j, counts);
    test_ok(stages_end_update(j->session, advantages), NULL);
}

/* One probe for steps 2, 3 and 4, from a run that looked at all of them. */
void stages_make_probe(char *path, size_t bytes, stages_job *j) {
    int32_t counts[STAGES_LOOKS_MAX] = {0};
    stages_open(j, "mode: shadow\ndecision: {step: [2, 3, 4]}\nprobe: {inputs: [preview]}\n"
                   "retrain: {every_updates: 0}\n");
    for (int i = 0; i < 24; i++) {
        stages_update(j, counts);
    }
    ga_session_close(&j->session, 1);
    char *run = test_path(j->folder, "run");
    const ga_lessons_options source = {.path = run, .step = GA_LESSONS_ALL_STEPS};
    ga_lessons *lessons = NULL;
    ga_error error = {0};
    test_ok(ga_lessons_read(&source, &lessons, &error), &error);
    ga_train_options options = ga_train_options_default();
    options.model = MODEL;
    options.step_count = ga_lessons_steps(lessons, &options.steps);
    assert_int_equal(options.step_count, 3);
    assert_int_equal(ga_lessons_dataset(lessons)->rows, 24 * STAGES_ROWS * 3);
    options.steps_total = STAGES_STEPS;
    options.version = 1;
    options.network.architecture = GA_NETWORK_NONE;
    ga_probe *probe = NULL;
    ga_train_report report;
    test_ok(
        ga_train(ga_lessons_dataset(lessons), &options, NULL, ga_compute_native(), &probe, &report, &error),
        &error);
    (void)snprintf(path, bytes, "%s/probe.safetensors", j->folder);
    test_ok(ga_probe_save(probe, path, &error), &error);
    ga_probe_close(&probe);
    ga_lessons_free(&lessons);
    free(run);
}

void stages_racing_yaml(char *yaml, size_t bytes, const char *probe, const char *audit) {
    (void)snprintf(yaml, bytes,
        "mode: prune\ndecision: {step: [2, 3, 4], keep: [0.75, 0.5, 0.25], policy: extremes, audit: %s, "
        "min_group: 0, timeout_seconds: 10}\nprobe: {inputs: [preview], path: %s}\n"
        "retrain: {every_updates: 0}\n",
        audit, probe);
}
