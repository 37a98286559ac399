#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/grpo_accel.h"
#include "grpo_accel/record/load.h"
#include "grpo_accel/record/reader.h"
#include "grpo_accel/record/verify.h"
#include "grpo_accel/session/versions.h"
#include "probe/probe.h"

enum {
    ROWS = 12,
    GROUP_SIZE = 6,
    STEPS = 5,
    STEP = 2,
    HEADS = 2,
    TOKENS = 16,
    TEXT = 5,
    SIZE = 4,
    CHANNELS = 3
};

static const double SIGMAS[STEPS + 1] = {1.0, 0.8, 0.6, 0.4, 0.2, 0.0};
static const char *const BLOCKS[] = {"blocks.0", "blocks.1", "blocks.2"};

typedef struct job {
    char *folder;
    char *config;
    ga_session *session;
    ga_random random;
    int32_t batches;
    bool kind_is_other; /* the host computes advantages that can't be pruned for */
    int warnings;
    char warning[512];
} job;

static void keep_warning(void *user, int level, const char *line) {
    job *j = user;
    if (level <= 1) {
        j->warnings++;
        (void)snprintf(j->warning, sizeof j->warning, "%s", line);
    }
}

static void open_job(job *j, const char *yaml, const char *const *overrides, size_t override_count) {
    if (j->folder == NULL) {
        j->folder = test_folder_make();
        j->random = test_random(77);
    }
    j->config = test_path(j->folder, "accel.yaml");
    FILE *file = fopen(j->config, "w");
    assert_non_null(file);
    (void)fprintf(file, "version: 1\nrun_dir: %s/run\n%s", j->folder, yaml);
    assert_int_equal(fclose(file), 0);
    const ga_session_options options = {.size = sizeof options,
        .config_path = j->config,
        .overrides = overrides,
        .override_count = override_count,
        .log = keep_warning,
        .log_user = j};
    ga_error error;
    test_ok(ga_session_open(&options, &j->session, &error), &error);
}

static void close_job(job *j) {
    ga_session_close(&j->session, 1);
    assert_null(j->session);
    free(j->config);
    j->config = NULL;
}

static void end_job(job *j) {
    close_job(j);
    test_folder_remove(j->folder);
}

static ga_tensor view(float *data, int32_t dims, const int64_t *shape) {
    ga_tensor tensor = {.data = data, .dims = dims, .dtype = GA_F32};
    int64_t stride = 1;
    for (int32_t d = dims - 1; d >= 0; d--) {
        tensor.shape[d] = shape[d];
        tensor.strides[d] = stride;
        stride *= shape[d];
    }
    return tensor;
}

static void fill(job *j, float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)ga_random_normal(&j->random);
    }
}

/* Two groups, dealt alternately. */
static void prompts_of(int32_t batch, char text[2][64], const char **prompts) {
    for (int32_t i = 0; i < ROWS; i++) {
        (void)snprintf(text[i % 2], 64, "prompt %d", (int)(batch * 2 + i % 2));
        prompts[i] = text[i % 2];
    }
}

static ga_status begin(job *j, int32_t rows, ga_batch **batch_out, ga_error *error) {
    char text[2][64];
    const char *prompts[ROWS];
    prompts_of(j->batches, text, prompts);
    const ga_batch_options options = {.size = sizeof options,
        .rows = rows,
        .steps_total = STEPS,
        .model = "test/1",
        .sigmas = SIGMAS,
        .prompts = prompts,
        .latent_channels = CHANNELS,
        .latent_height = SIZE,
        .latent_width = SIZE,
        .token_height = SIZE,
        .token_width = SIZE,
        .block_count = 3,
        .text_tokens = TEXT,
        .block_names = BLOCKS};
    const ga_status status = ga_batch_begin(j->session, &options, batch_out, error);
    j->batches += status == GA_OK;
    return status;
}

static void observe_attention(job *j, ga_batch *batch) {
    static float query[ROWS * HEADS * TOKENS * 8], key_image[ROWS * HEADS * TOKENS * 8],
        key_text[ROWS * HEADS * TEXT * 8];
    uint8_t content[ROWS * TEXT];
    memset(content, 1, sizeof content);
    const int64_t image_shape[] = {ROWS, HEADS, TOKENS, 8}, text_shape[] = {ROWS, HEADS, TEXT, 8};
    const int32_t *blocks;
    int32_t count;
    ga_error error;
    assert_int_equal(ga_batch_blocks(batch, &blocks, &count), GA_OK);
    assert_int_equal(count, 3);
    for (int32_t tap = 0; tap < count; tap++) {
        fill(j, query, ROWS * HEADS * TOKENS * 8);
        fill(j, key_image, ROWS * HEADS * TOKENS * 8);
        fill(j, key_text, ROWS * HEADS * TEXT * 8);
        const ga_tensor q = view(query, 4, image_shape), k = view(key_image, 4, image_shape),
                        t = view(key_text, 4, text_shape);
        test_ok(ga_batch_observe_attention(batch, tap, &q, &k, &t, content, &error), &error);
    }
}

static void observe_latent(job *j, ga_batch *batch) {
    static float latent[ROWS * CHANNELS * SIZE * SIZE], velocity[ROWS * CHANNELS * SIZE * SIZE];
    const int64_t shape[] = {ROWS, CHANNELS, SIZE, SIZE};
    ga_error error;
    fill(j, latent, ROWS * CHANNELS * SIZE * SIZE);
    fill(j, velocity, ROWS * CHANNELS * SIZE * SIZE);
    const ga_tensor x = view(latent, 4, shape), v = view(velocity, 4, shape);
    test_ok(ga_batch_observe_latent(batch, &x, &v, SIGMAS[STEP], &error), &error);
}

/* One batch whose preview tells most of the reward; decides, and reports the rewards of kept rows. */
static ga_batch *roll(job *j, double *reward, ga_decision *decision) {
    ga_error error;
    ga_batch *batch = NULL;
    double preview[ROWS];
    test_ok(begin(j, ROWS, &batch, &error), &error);
    for (int32_t i = 0; i < ROWS; i++) {
        reward[i] = 0.5 + 0.1 * (i % 2) + 0.15 * ga_random_normal(&j->random);
        preview[i] = reward[i] + 0.05 * ga_random_normal(&j->random);
    }
    observe_attention(j, batch);
    observe_latent(j, batch);
    test_ok(ga_batch_observe_preview(batch, preview, &error), &error);
    decision->size = sizeof *decision;
    test_ok(ga_batch_decide(batch, decision, &error), &error);
    double values[ROWS];
    for (int32_t i = 0; i < decision->kept_count; i++) {
        values[i] = reward[decision->kept[i]];
    }
    test_ok(ga_batch_reward(batch, "avg", decision->kept, values, decision->kept_count, &error), &error);
    test_ok(ga_batch_reward(batch, "shapes", decision->kept, values, decision->kept_count, &error), &error);
    /* stopped rows save half of their steps */
    const double batch_seconds = 0.75 * (1.0 + (double)decision->kept_count / ROWS);
    assert_int_equal(ga_batch_seconds(batch, 0, batch_seconds), GA_OK);
    return batch;
}

/* What flow-grpo computes: reward minus its group's mean, over one population standard deviation. */
static void host_advantages(const double *reward, const int64_t *group, int32_t count, double *advantage) {
    double mean = 0, square = 0;
    for (int32_t i = 0; i < count; i++) {
        mean += reward[i] / count;
    }
    for (int32_t i = 0; i < count; i++) {
        square += (reward[i] - mean) * (reward[i] - mean) / count;
    }
    for (int32_t i = 0; i < count; i++) {
        double sum = 0;
        int32_t members = 0;
        for (int32_t k = 0; k < count; k++) {
            sum += group[k] == group[i] ? reward[k] : 0;
            members += group[k] == group[i];
        }
        advantage[i] = (reward[i] - sum / members) / (sqrt(square) + 1e-4);
    }
}

/* One update of one batch; the advantages come back. */
static int32_t update(job *j, double *host, double *advantage, uint8_t *kept) {
    double reward[ROWS];
    int64_t group[ROWS];
    ga_decision decision;
    ga_error error;
    (void)roll(j, reward, &decision);
    const int32_t kept_count = decision.kept_count;
    memset(kept, 0, ROWS);
    for (int32_t i = 0; i < kept_count; i++) {
        kept[decision.kept[i]] = 1;
    }
    for (int32_t i = 0; i < ROWS; i++) {
        group[i] = i % 2;
        reward[i] = kept[i] ? reward[i] : (double)decision.prediction[i];
    }
    host_advantages(reward, group, ROWS, host);
    const ga_update_options options = {.size = sizeof options,
        .count = ROWS,
        .groups = group,
        .rewards = reward,
        .host_advantages = host,
        .host_std = 0,
        .prunable = j->kind_is_other ? 0 : 1};
    test_ok(ga_update_end(j->session, &options, advantage, &error), &error);
    return kept_count;
}

static const char SHADOW[] =
    "mode: shadow\ndecision: {step: 2}\nprobe: {inputs: [attention, x0, preview], map_size: 4}\n"
    "retrain: {every_updates: 0}\n";

static void shadow_keeps_everything_and_logs_it(void **state) {
    (void)state;
    job j = {0};
    double host[ROWS], advantage[ROWS];
    uint8_t kept[ROWS];
    open_job(&j, SHADOW, NULL, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(update(&j, host, advantage, kept), ROWS);
        assert_memory_equal(host, advantage, sizeof host);
    }
    assert_non_null(strstr(ga_session_metrics_json(j.session), "\"prune/rate\": 0"));
    close_job(&j);
    assert_int_equal(j.warnings, 0);

    ga_record_table *table;
    ga_error error;
    ga_error_clear(&error);
    char *run = test_path(j.folder, "run");
    test_ok(ga_record_read(run, NULL, &table, &error), &error);
    assert_int_equal(table->rows, 3 * ROWS);
    for (int64_t i = 0; i < table->rows; i++) {
        assert_int_equal(table->kept[i], 1);
        assert_int_equal(table->update[i], i / ROWS);
        assert_true(isfinite(table->reward[i]));
        assert_true(isnan(table->prediction[i]));
    }
    ga_record_table_free(&table);
    free(run);
    test_folder_remove(j.folder);
}

static const char PRUNE[] = "mode: prune\ndecision: {step: 2, keep: 0.34, policy: extremes, audit: 0.0}\n"
                            "probe: {inputs: [attention, x0, preview], map_size: 4}\n"
                            "retrain: {every_updates: 12, background: false}\n";

static void prune_learns_then_stops_rows(void **state) {
    (void)state;
    job j = {0};
    double host[ROWS], advantage[ROWS];
    uint8_t kept[ROWS];
    open_job(&j, PRUNE, NULL, 0);
    int32_t pruned_updates = 0;
    double distance_kept = 0, distance_all = 0;
    for (int i = 0; i < 20; i++) {
        const int32_t kept_count = update(&j, host, advantage, kept);
        if (i < 12) {
            assert_int_equal(kept_count, ROWS);
        }
        if (kept_count == ROWS) {
            continue;
        }
        assert_int_equal(kept_count, 4);
        pruned_updates++;
        for (int row = 0; row < ROWS; row++) {
            assert_true(kept[row] || advantage[row] == 0.0);
            distance_kept += kept[row] ? fabs(advantage[row]) / 4 : 0;
            distance_all += fabs(host[row]) / ROWS;
        }
    }
    assert_true(pruned_updates >= 6);
    assert_true(distance_kept > 1.2 * distance_all); /* extremes were kept */
    ga_session_info info = {.size = sizeof info};
    assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
    assert_true(info.probe_version >= 1);
    close_job(&j);
    if (j.warnings != 0) {
        fail_msg("%s", j.warning);
    }

    /* The same folder goes on where it stopped: newest probe, next update, next batch. */
    open_job(&j, PRUNE, NULL, 0);
    assert_int_equal(update(&j, host, advantage, kept), ROWS); /* the host's tracker is not known yet */
    assert_int_equal(update(&j, host, advantage, kept), 4);
    assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
    assert_int_equal(info.updates, 22);
    end_job(&j);
}

static void random_policy_needs_no_probe(void **state) {
    (void)state;
    job j = {0};
    double host[ROWS], advantage[ROWS];
    uint8_t kept[ROWS];
    const char *overrides[] = {"decision.policy=random", "decision.keep=0.5", "retrain.every_updates=0"};
    open_job(&j, PRUNE, overrides, 3);
    int times[ROWS] = {0};
    assert_int_equal(update(&j, host, advantage, kept), ROWS);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(update(&j, host, advantage, kept), ROWS / 2);
        for (int row = 0; row < ROWS; row++) {
            times[row] += kept[row];
        }
    }
    for (int row = 0; row < ROWS; row++) {
        assert_true(times[row] > 5 && times[row] < 35);
    }
    end_job(&j);
}

/* Another kind of advantages than rewards less their group's mean: nothing may be pruned, and it is said
 * once. */
static void other_kinds_of_advantages_are_never_pruned_for(void **state) {
    (void)state;
    job j = {.kind_is_other = true};
    double host[ROWS], advantage[ROWS];
    uint8_t kept[ROWS];
    const char *overrides[] = {"decision.policy=random", "retrain.every_updates=0"};
    open_job(&j, PRUNE, overrides, 2);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(update(&j, host, advantage, kept), ROWS);
        assert_memory_equal(host, advantage, sizeof host);
    }
    assert_int_equal(j.warnings, 1);
    end_job(&j);
}

/* What was not observed is not a number in the record, so that no probe learns from it. */
static void missing_signals_are_not_zero(void **state) {
    (void)state;
    job j = {0};
    ga_error error;
    ga_batch *batch = NULL;
    open_job(&j, SHADOW, NULL, 0);
    test_ok(begin(&j, ROWS, &batch, &error), &error);
    observe_latent(&j, batch);
    ga_decision decision = {.size = sizeof decision};
    test_ok(ga_batch_decide(batch, &decision, &error), &error);
    double reward[ROWS] = {0}, host[ROWS] = {0}, advantage[ROWS];
    int64_t group[ROWS] = {0};
    const ga_update_options options = {.size = sizeof options,
        .count = ROWS,
        .groups = group,
        .rewards = reward,
        .host_advantages = host,
        .prunable = 1};
    test_ok(ga_update_end(j.session, &options, advantage, &error), &error);
    close_job(&j);
    char *run = test_path(j.folder, "run");
    ga_record_table *table;
    ga_error_clear(&error);
    test_ok(ga_record_read(run, NULL, &table, &error), &error);
    const ga_feature_schema *schema = &table->layout.features;
    for (int32_t i = 0; i < schema->input_count; i++) {
        const float value = ga_half_to_float(table->features[schema->inputs[i].offset]);
        assert_int_equal(isfinite(value) != 0, schema->inputs[i].input == GA_INPUT_X0);
    }
    ga_record_table_free(&table);
    free(run);
    test_folder_remove(j.folder);
}

static void faults_leave_everything_unpruned(void **state) {
    (void)state;
    job j = {0};
    ga_error error;
    ga_batch *batch = NULL;
    const char *overrides[] = {"decision.policy=random", "retrain.every_updates=0"};
    open_job(&j, PRUNE, overrides, 2);
    double own_host[ROWS], own_advantage[ROWS];
    uint8_t kept[ROWS];
    assert_int_equal(update(&j, own_host, own_advantage, kept), ROWS);

    /* nothing observed: no scores, all rows kept, one warning */
    test_ok(begin(&j, ROWS, &batch, &error), &error);
    ga_decision decision = {.size = sizeof decision};
    test_ok(ga_batch_decide(batch, &decision, &error), &error);
    assert_int_equal(decision.kept_count, ROWS);
    assert_int_equal(j.warnings, 1);
    assert_int_equal(ga_batch_decide(batch, &decision, &error), GA_ERR_ARGUMENT);

    /* another number of rows: refused by name, the session lives on */
    ga_batch *other = NULL;
    assert_int_equal(begin(&j, ROWS - 1, &other, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "other shapes"));

    /* the host's rows are not ours: its own advantages, and zeros for nobody */
    double reward[3] = {1, 2, 3}, host[3] = {-1, 0, 1}, advantage[3] = {9, 9, 9};
    const int64_t group[3] = {0, 0, 0};
    const ga_update_options options = {
        .size = sizeof options, .count = 3, .groups = group, .rewards = reward, .host_advantages = host};
    assert_int_equal(ga_update_end(j.session, &options, advantage, &error), GA_ERR_DATA);
    assert_memory_equal(host, advantage, sizeof host);

    /* a batch that could not begin is counted, and the next update is pruned again */
    ga_batch_missed(j.session);
    ga_batch_missed(NULL);
    ga_session_info info = {.size = sizeof info};
    assert_int_equal(ga_session_get_info(j.session, &info), GA_OK);
    assert_int_equal(info.updates, 2);
    (void)update(&j, own_host, own_advantage, kept);
    assert_int_equal(update(&j, own_host, own_advantage, kept), ROWS / 3);
    end_job(&j);
}

static void wrong_arguments_are_answered(void **state) {
    (void)state;
    ga_error error;
    ga_session *session = NULL;
    assert_int_equal(ga_session_open(NULL, &session, &error), GA_ERR_ARGUMENT);
    ga_session_options options = {.size = 3};
    assert_int_equal(ga_session_open(&options, &session, &error), GA_ERR_ARGUMENT);
    options.size = sizeof options;
    options.config_path = "/nowhere/accel.yaml";
    assert_int_equal(ga_session_open(&options, &session, &error), GA_ERR_FILE);
    assert_null(session);
    assert_int_equal(ga_batch_begin(NULL, NULL, NULL, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_batch_decide(NULL, NULL, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_update_end(NULL, NULL, NULL, &error), GA_ERR_ARGUMENT);
    ga_session_close(NULL, 1);
    ga_session_close(&session, 1);
    ga_batch_abandon(NULL);
    assert_int_equal(ga_abi_version(), GA_ABI_VERSION);
}

/* A build without HDF5 watches and prunes all the same, and says once that nothing is logged. */
static void without_hdf5_nothing_is_logged(void **state) {
    (void)state;
    job j = {0};
    double host[ROWS], advantage[ROWS];
    uint8_t kept[ROWS];
    const char *overrides[] = {"decision.policy=random", "decision.keep=0.5", "retrain.every_updates=0"};
    open_job(&j, PRUNE, overrides, 3);
    assert_int_equal(update(&j, host, advantage, kept), ROWS);
    assert_memory_equal(host, advantage, sizeof host);
    assert_int_equal(update(&j, host, advantage, kept), ROWS / 2);
    assert_int_equal(j.warnings, 1);
    assert_non_null(strstr(j.warning, "HDF5"));
    end_job(&j);
}

static bool has_hdf5(void) {
    ga_record_table *table = NULL;
    const uint8_t byte = 0;
    return ga_segment_load(&byte, 1, "nothing", &table, NULL) != GA_ERR_MISSING;
}

static uint32_t version_in_use(job *j) {
    ga_session_info info = {.size = sizeof info};
    assert_int_equal(ga_session_get_info(j->session, &info), GA_OK);
    return info.probe_version;
}

/* `grpo-accel rollback` while the job runs: the older probe is taken, kept, and taken again on a new start.
 */
static void a_rollback_reaches_the_running_job(void **state) {
    (void)state;
    job j = {0};
    double host[ROWS], advantage[ROWS];
    uint8_t kept[ROWS];
    open_job(&j, PRUNE, NULL, 0);
    for (int i = 0; i < 14; i++) {
        (void)update(&j, host, advantage, kept);
    }
    assert_int_equal(version_in_use(&j), 1);
    char first[1024], second[1024];
    char *run = test_path(j.folder, "run");
    assert_true(ga_versions_path(run, 1, first, sizeof first));
    assert_true(ga_versions_path(run, 2, second, sizeof second));
    ga_probe *copy = NULL;
    test_ok(ga_probe_open(first, ga_compute_native(), &copy, NULL), NULL);
    ga_probe_set_version(copy, 2);
    test_ok(ga_probe_save(copy, second, NULL), NULL);
    ga_probe_close(&copy);
    assert_int_equal(ga_versions_current(run), 1); /* a file alone is not in use */
    (void)update(&j, host, advantage, kept);
    assert_int_equal(version_in_use(&j), 1);
    test_ok(ga_versions_use(run, 2, NULL), NULL);
    for (int i = 0; i < 2; i++) {
        (void)update(&j, host, advantage, kept);
    }
    assert_int_equal(version_in_use(&j), 2);
    test_ok(ga_versions_use(run, 1, NULL), NULL); /* back to the older one */
    for (int i = 0; i < 3; i++) {
        (void)update(&j, host, advantage, kept);
    }
    assert_int_equal(version_in_use(&j), 1);
    close_job(&j);
    open_job(&j, PRUNE, NULL, 0);
    assert_int_equal(version_in_use(&j), 1);
    free(run);
    end_job(&j);
}

int main(void) {
    const struct CMUnitTest with_record[] = {
        cmocka_unit_test(shadow_keeps_everything_and_logs_it),
        cmocka_unit_test(prune_learns_then_stops_rows),
        cmocka_unit_test(a_rollback_reaches_the_running_job),
        cmocka_unit_test(random_policy_needs_no_probe),
        cmocka_unit_test(other_kinds_of_advantages_are_never_pruned_for),
        cmocka_unit_test(missing_signals_are_not_zero),
        cmocka_unit_test(faults_leave_everything_unpruned),
        cmocka_unit_test(wrong_arguments_are_answered),
    };
    const struct CMUnitTest without_record[] = {
        cmocka_unit_test(without_hdf5_nothing_is_logged),
        cmocka_unit_test(wrong_arguments_are_answered),
    };
    return has_hdf5() ? cmocka_run_group_tests(with_record, NULL, NULL)
                      : cmocka_run_group_tests(without_record, NULL, NULL);
}
