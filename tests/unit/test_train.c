#include "tests/unit/support.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "probe/parts.h"
#include "probe/train/evaluate.h"
#include "probe/train/learning.h"
#include "probe/train/promote.h"
#include "probe/train/train.h"

/* ---- a world with a known truth ---- */

/* What the reward depends on inside a group. */
typedef enum planted {
    PLANTED_NOTHING,
    PLANTED_PREVIEW, /* a linear function of the preview's score */
    PLANTED_LINEAR,  /* the preview and the mean of a map */
    PLANTED_SHAPE    /* whether neighbouring pixels of a map agree: no pooled statistic shows it */
} planted;

typedef struct world {
    ga_feature_schema schema;
    ga_dataset dataset;
    ga_half *features;
    float *reward, *inclusion, *sigma;
    uint64_t *group, *prompt;
    uint32_t *update;
    uint8_t *audit;
} world;

#define CHANNELS 3
#define SIDE 8
#define GROUP_ROWS 16

static ga_feature_schema make_schema(bool maps) {
    ga_feature_schema schema;
    memset(&schema, 0, sizeof schema);
    const int32_t map_values = maps ? CHANNELS * SIDE * SIDE : 0;
    if (maps) {
        schema.inputs[schema.input_count++] =
            (ga_input_shape){.input = GA_INPUT_X0, .channels = CHANNELS, .height = SIDE, .width = SIDE};
    }
    schema.inputs[schema.input_count++] = (ga_input_shape){
        .input = GA_INPUT_PROMPT, .channels = 2, .height = 1, .width = 1, .offset = map_values};
    schema.inputs[schema.input_count++] = (ga_input_shape){
        .input = GA_INPUT_PREVIEW, .channels = 1, .height = 1, .width = 1, .offset = map_values + 2};
    schema.values_per_row = map_values + 3;
    schema.id = maps ? 77 : 78;
    return schema;
}

/* A checkerboard or a plain of small amplitude under noise: sign +1 when neighbours disagree. */
static void draw_map(ga_random *random, double strength, float *map) {
    const int phase = (int)ga_random_below(random, 2);
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            /* alternating columns or alternating rows: the same histogram, another direction */
            const int line = strength > 0.0 ? x : y;
            const double sign = (line + phase) % 2 == 0 ? 1.0 : -1.0;
            map[y * SIDE + x] = (float)(fabs(strength) * sign + 0.3 * ga_random_normal(random));
        }
    }
}

/* One row: features as floats, and the reward without the group's offset. */
static double draw_row(ga_random *random, planted what, bool maps, const double *prompt, float *row) {
    double shape = ga_random_normal(random), level = ga_random_normal(random);
    const double preview = ga_random_normal(random);
    for (int c = 0; c < CHANNELS && maps; c++) {
        draw_map(random, c == 0 ? shape : ga_random_normal(random), row + c * SIDE * SIDE);
        for (int i = 0; i < SIDE * SIDE && c == 1; i++) {
            row[SIDE * SIDE + i] += (float)level;
        }
    }
    float *scalars = row + (maps ? CHANNELS * SIDE * SIDE : 0);
    scalars[0] = (float)prompt[0];
    scalars[1] = (float)prompt[1];
    scalars[2] = (float)(preview + prompt[0]);
    const double noise = ga_random_normal(random);
    switch (what) {
    case PLANTED_PREVIEW: return 0.2 * preview + 0.1 * noise;
    case PLANTED_LINEAR: return 0.2 * preview + 0.3 * level + 0.1 * noise;
    case PLANTED_SHAPE: return 0.5 * shape + 0.15 * noise;
    default: return 0.3 * noise;
    }
}

static world make_world(uint64_t test_case, planted what, int32_t groups, bool maps) {
    world w;
    memset(&w, 0, sizeof w);
    w.schema = make_schema(maps);
    const size_t rows = (size_t)groups * GROUP_ROWS, values = (size_t)w.schema.values_per_row;
    w.features = malloc(rows * values * sizeof *w.features);
    w.reward = malloc(rows * sizeof *w.reward);
    w.inclusion = malloc(rows * sizeof *w.inclusion);
    w.sigma = malloc(rows * sizeof *w.sigma);
    w.group = malloc(rows * sizeof *w.group);
    w.prompt = malloc(rows * sizeof *w.prompt);
    w.update = malloc(rows * sizeof *w.update);
    w.audit = calloc(rows, 1);
    float *row = malloc(values * sizeof *row);
    ga_random random = test_random(test_case);
    for (size_t i = 0; i < rows; i++) {
        const size_t group = i / GROUP_ROWS;
        ga_random of_prompt = test_random(1000 + group / 2); /* two groups a prompt */
        const double prompt[2] = {ga_random_normal(&of_prompt), ga_random_normal(&of_prompt)};
        w.reward[i] = (float)(draw_row(&random, what, maps, prompt, row) + 2.0 + prompt[1]);
        ga_half_from_float_array(row, w.features + i * values, values);
        w.inclusion[i] = 1.0f;
        w.sigma[i] = 0.7f;
        w.group[i] = 900 + group;
        w.prompt[i] = 50 + group / 2;
        w.update[i] = (uint32_t)(group / 4);
    }
    free(row);
    w.dataset = (ga_dataset){.rows = (int64_t)rows,
        .features = w.features,
        .reward = w.reward,
        .group = w.group,
        .prompt = w.prompt,
        .update = w.update,
        .inclusion = w.inclusion,
        .audit = w.audit,
        .sigma = w.sigma};
    return w;
}

static void world_free(world *w) {
    void *owned[] = {
        w->features, w->reward, w->inclusion, w->sigma, w->group, w->prompt, w->update, w->audit};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) {
        free(owned[i]);
    }
}

static const int32_t decision_steps[] = {3};

static ga_train_options options_for_tests(void) {
    ga_train_options options = ga_train_options_default();
    options.model = "shapes/sd3";
    options.steps = decision_steps;
    options.step_count = 1;
    options.steps_total = 10;
    options.version = 5;
    options.seed = 11;
    options.seconds_max = 0.0;
    options.resamples = 200;
    return options;
}

static ga_status train_world(world *w, const ga_train_options *options, const ga_train_callbacks *callbacks,
    ga_probe **probe, ga_train_report *report, ga_error *error) {
    w->dataset.schema = &w->schema;
    return ga_train(&w->dataset, options, callbacks, ga_compute_native(), probe, report, error);
}

/* ---- split ---- */

static void prompts_never_sit_on_both_sides(void **state) {
    (void)state;
    world w = make_world(1, PLANTED_NOTHING, 40, false);
    w.dataset.schema = &w.schema;
    for (int64_t i = 0; i < w.dataset.rows; i += 7) {
        w.reward[i] = NAN;
    }
    /* an old group of the newest prompt must go where the new one goes */
    for (int64_t i = 0; i < GROUP_ROWS; i++) {
        w.prompt[i] = w.prompt[w.dataset.rows - 1];
    }
    ga_split split;
    ga_error error = {0};
    test_ok(ga_dataset_split(&w.dataset, 0.3, 10.0, &split, &error), &error);
    const ga_part *parts[3] = {&split.train, &split.tune, &split.report};
    int64_t rows = 0;
    for (int p = 0; p < 3; p++) {
        rows += parts[p]->count;
        for (int64_t i = 0; i < parts[p]->count; i++) {
            assert_true(isfinite(w.reward[parts[p]->rows[i]]));
            for (int q = 0; q < p; q++) {
                for (int64_t k = 0; k < parts[q]->count; k++) {
                    assert_true(w.prompt[parts[p]->rows[i]] != w.prompt[parts[q]->rows[k]]);
                }
            }
        }
    }
    assert_int_equal(rows, w.dataset.rows - (w.dataset.rows + 6) / 7);
    assert_int_equal(split.held.count, split.tune.count + split.report.count);
    /* held-out prompts are the newest ones: all of the training part is older, but for ties in one update */
    uint32_t newest_train = 0, newest_report = 0;
    for (int64_t i = 0; i < split.train.count; i++) {
        newest_train =
            w.update[split.train.rows[i]] > newest_train ? w.update[split.train.rows[i]] : newest_train;
    }
    for (int64_t i = 0; i < split.report.count; i++) {
        newest_report =
            w.update[split.report.rows[i]] > newest_report ? w.update[split.report.rows[i]] : newest_report;
    }
    assert_true(newest_train < newest_report);
    ga_split_destroy(&split);
    world_free(&w);
}

static void unusable_rows_are_left_out(void **state) {
    (void)state;
    world w = make_world(2, PLANTED_NOTHING, 6, false);
    w.dataset.schema = &w.schema;
    w.reward[0] = INFINITY;
    w.inclusion[1] = 0.0f;
    w.inclusion[2] = NAN;
    w.inclusion[3] = 1.5f;
    w.sigma[4] = NAN;
    w.features[5 * w.schema.values_per_row] = 0x7c00;     /* infinite */
    w.features[6 * w.schema.values_per_row + 2] = 0x7e01; /* NaN */
    w.inclusion[7] = 0.01f;
    w.audit[9] = 1;
    ga_part part;
    test_ok(ga_part_all(&w.dataset, false, 10.0, &part, NULL), NULL);
    assert_int_equal(part.count, w.dataset.rows - 7);
    assert_int_equal(part.rows[0], 7);
    assert_int_equal(part.grouped.groups, 6);
    assert_true(fabsf(part.weight[0] / part.weight[1] - 10.0f) < 1e-4f); /* 1/π = 100, clipped at 10 */
    double sum = 0.0;
    for (int64_t i = 0; i < part.count; i++) {
        sum += (double)part.weight[i];
    }
    assert_true(fabs(sum - (double)part.count) < 1e-3);
    ga_part_destroy(&part);
    test_ok(ga_part_all(&w.dataset, true, 10.0, &part, NULL), NULL);
    assert_int_equal(part.count, 1);
    assert_int_equal(part.rows[0], 9);
    ga_part_destroy(&part);
    world_free(&w);
}

static void too_little_data_is_refused_in_words(void **state) {
    (void)state;
    ga_train_options options = options_for_tests();
    ga_probe *probe = NULL;
    ga_train_report report;
    const int32_t few[] = {0, 1, 4};
    for (int i = 0; i < 3; i++) {
        world w = make_world(3, PLANTED_PREVIEW, few[i], false);
        ga_error error = {0};
        assert_int_equal(train_world(&w, &options, NULL, &probe, &report, &error), GA_ERR_DATA);
        assert_non_null(strstr(error.message, "groups"));
        assert_null(probe);
        world_free(&w);
    }
    /* one row a group, and groups without spread */
    world single = make_world(4, PLANTED_PREVIEW, 8, false);
    for (int64_t i = 0; i < single.dataset.rows; i++) {
        single.group[i] = (uint64_t)i;
    }
    assert_int_equal(train_world(&single, &options, NULL, &probe, &report, NULL), GA_ERR_DATA);
    world_free(&single);
    world flat = make_world(5, PLANTED_PREVIEW, 40, true);
    for (int64_t i = 0; i < flat.dataset.rows; i++) {
        flat.reward[i] = 1.0f;
    }
    ga_error error = {0};
    assert_int_equal(train_world(&flat, &options, NULL, &probe, &report, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "differ"));
    assert_null(probe);
    flat.dataset.reward = NULL;
    assert_int_equal(train_world(&flat, &options, NULL, &probe, &report, NULL), GA_ERR_ARGUMENT);
    world_free(&flat);
}

/* ---- training ---- */

static void the_plain_preview_wins_where_it_is_the_truth(void **state) {
    (void)state;
    world w = make_world(7, PLANTED_PREVIEW, 60, false);
    const ga_train_options options = options_for_tests();
    ga_probe *probe = NULL;
    ga_train_report report;
    ga_error error = {0};
    test_ok(train_world(&w, &options, NULL, &probe, &report, &error), &error);
    const ga_probe_info *info = ga_probe_get_info(probe);
    /* reward = .2·preview + .1·noise: Pearson .894, Spearman a little less */
    assert_true(info->spearman > 0.75 && info->spearman <= 1.0);
    assert_true(info->spearman_low < info->spearman && info->spearman < info->spearman_high);
    assert_int_equal(report.scalar, GA_INPUT_PREVIEW);
    assert_true(report.candidates[GA_PROBE_SCALAR].report.value > 0.75);
    assert_true(
        report.candidates[GA_PROBE_NETWORK].tune.value >= report.candidates[GA_PROBE_RIDGE].tune.value);
    assert_true(fabs(sqrt(info->calibration.sigma_r2) - 0.1) < 0.02);
    assert_true(info->trained_rows + info->held_rows == w.dataset.rows);
    assert_string_equal(info->model, "shapes/sd3");
    assert_int_equal(info->version, 5);
    assert_true(info->sigma_low == (double)0.7f && info->sigma_high == (double)0.7f);
    ga_probe_close(&probe);
    world_free(&w);
}

static void the_ridge_finds_what_is_linear_in_the_maps(void **state) {
    (void)state;
    world w = make_world(8, PLANTED_LINEAR, 60, true);
    ga_train_options options = options_for_tests();
    options.network.architecture = GA_NETWORK_NONE;
    ga_probe *probe = NULL;
    ga_train_report report;
    ga_error error = {0};
    test_ok(train_world(&w, &options, NULL, &probe, &report, &error), &error);
    assert_int_equal(report.chosen, GA_PROBE_RIDGE);
    assert_int_equal(report.end, GA_TRAIN_END_NONE);
    assert_true(report.candidates[GA_PROBE_RIDGE].report.value > 0.85);
    assert_true(report.candidates[GA_PROBE_SCALAR].report.value < 0.7);
    const ga_calibration *calibration = &ga_probe_get_info(probe)->calibration;
    assert_true(fabs(calibration->slope - 1.0) < 0.1);
    /* the level is linear in the prompt's second value, which the ridge sees: little is left between groups
     */
    assert_true(calibration->tau2 < 0.3);
    assert_true(isfinite(report.lambda_level));
    ga_probe_close(&probe);
    world_free(&w);
}

static void the_network_beats_the_ridge_on_what_is_not_linear(void **state) {
    (void)state;
    world w = make_world(9, PLANTED_SHAPE, 100, true);
    ga_train_options options = options_for_tests();
    options.rounds_max = 25;
    ga_probe *probe = NULL;
    ga_train_report report;
    ga_error error = {0};
    test_ok(train_world(&w, &options, NULL, &probe, &report, &error), &error);
    assert_true(report.candidates[GA_PROBE_RIDGE].report.value < 0.3);
    assert_true(report.candidates[GA_PROBE_NETWORK].report.value > 0.6);
    assert_int_equal(report.chosen, GA_PROBE_NETWORK);
    assert_non_null(strstr(report.reason, "network"));
    assert_int_equal(ga_probe_get_info(probe)->kind, GA_PROBE_NETWORK);
    ga_probe_close(&probe);
    world_free(&w);
}

static void noise_gives_no_skill_and_no_false_confidence(void **state) {
    (void)state;
    world w = make_world(10, PLANTED_NOTHING, 80, false);
    ga_train_options options = options_for_tests();
    options.rounds_max = 6;
    ga_probe *probe = NULL;
    ga_train_report report;
    ga_error error = {0};
    test_ok(train_world(&w, &options, NULL, &probe, &report, &error), &error);
    const ga_probe_info *info = ga_probe_get_info(probe);
    assert_true(fabs(info->spearman) < 0.3);
    assert_true(fabs(sqrt(info->calibration.sigma_r2) - 0.3) < 0.03); /* all of the variance is left */
    ga_probe_close(&probe);
    world_free(&w);
}

/* Saved bytes are the strictest comparison of two probes. */
static void assert_same_probe(const ga_probe *a, const ga_probe *b) {
    char *folder = test_folder_make();
    char *path_a = test_path(folder, "a.safetensors"), *path_b = test_path(folder, "b.safetensors");
    test_ok(ga_probe_save(a, path_a, NULL), NULL);
    test_ok(ga_probe_save(b, path_b, NULL), NULL);
    FILE *file_a = fopen(path_a, "rb"), *file_b = fopen(path_b, "rb");
    int byte_a, byte_b;
    do {
        byte_a = fgetc(file_a);
        byte_b = fgetc(file_b);
        assert_int_equal(byte_a, byte_b);
    } while (byte_a != EOF);
    fclose(file_a);
    fclose(file_b);
    free(path_a);
    free(path_b);
    test_folder_remove(folder);
}

static void the_same_seed_gives_the_same_probe(void **state) {
    (void)state;
    world w = make_world(11, PLANTED_SHAPE, 40, true);
    ga_train_options options = options_for_tests();
    options.rounds_max = 3;
    ga_probe *a = NULL, *b = NULL;
    ga_train_report report;
    test_ok(train_world(&w, &options, NULL, &a, &report, NULL), NULL);
    test_ok(train_world(&w, &options, NULL, &b, &report, NULL), NULL);
    assert_same_probe(a, b);
    ga_probe_close(&a);
    ga_probe_close(&b);
    world_free(&w);
}

/* One process alone, whose sums are counted. */
typedef struct echo {
    int64_t calls;
} echo;

static ga_status echo_sum(void *user, double *values, int64_t count, ga_error *error) {
    (void)values;
    (void)count;
    (void)error;
    ((echo *)user)->calls++;
    return GA_OK;
}

static ga_status failing_sum(void *user, double *values, int64_t count, ga_error *error) {
    (void)values;
    (void)count;
    return ++((echo *)user)->calls > 9 ? GA_FAIL(error, GA_ERR_WORLD, "rank 1 is gone") : GA_OK;
}

static void reduce_is_asked_for_every_sum_and_its_failure_ends_the_training(void **state) {
    (void)state;
    world w = make_world(12, PLANTED_LINEAR, 40, true);
    ga_train_options options = options_for_tests();
    options.rounds_max = 2;
    ga_probe *alone = NULL, *reduced = NULL, *none = NULL;
    ga_train_report report;
    echo counter = {0}, failing = {0};
    const ga_train_callbacks callbacks = {.reduce = {.sum = echo_sum, .user = &counter, .ranks = 1}};
    const ga_train_callbacks broken = {.reduce = {.sum = failing_sum, .user = &failing, .ranks = 1}};
    test_ok(train_world(&w, &options, NULL, &alone, &report, NULL), NULL);
    test_ok(train_world(&w, &options, &callbacks, &reduced, &report, NULL), NULL);
    assert_true(counter.calls > report.steps);
    assert_same_probe(alone, reduced);
    ga_error error = {0};
    assert_int_equal(train_world(&w, &options, &broken, &none, &report, &error), GA_ERR_WORLD);
    assert_string_equal(error.message, "rank 1 is gone");
    assert_null(none);
    ga_probe_close(&alone);
    ga_probe_close(&reduced);
    world_free(&w);
}

/* Two threads that stand for two processes. */
typedef struct two_ranks {
    pthread_barrier_t barrier;
    double *values[2];
    int64_t counts[2];
} two_ranks;

typedef struct rank_of_two {
    two_ranks *both;
    int32_t rank;
    world world;
    ga_probe *probe;
    ga_train_report report;
    ga_status status;
} rank_of_two;

static ga_status sum_of_two(void *user, double *values, int64_t count, ga_error *error) {
    rank_of_two *own = user;
    two_ranks *both = own->both;
    both->values[own->rank] = values;
    both->counts[own->rank] = count;
    pthread_barrier_wait(&both->barrier);
    const bool same = both->counts[0] == both->counts[1];
    for (int64_t i = own->rank == 0 && same ? 0 : count; i < count; i++) {
        both->values[0][i] += both->values[1][i];
        both->values[1][i] = both->values[0][i];
    }
    pthread_barrier_wait(&both->barrier);
    return same ? GA_OK : GA_FAIL(error, GA_ERR_WORLD, "the ranks sum arrays of different length");
}

static void *train_on_rank(void *user) {
    rank_of_two *own = user;
    ga_train_options options = options_for_tests();
    options.rounds_max = 2;
    const ga_train_callbacks callbacks = {
        .reduce = {.sum = sum_of_two, .user = own, .rank = own->rank, .ranks = 2}};
    own->status = train_world(&own->world, &options, &callbacks, &own->probe, &own->report, NULL);
    return NULL;
}

static void two_ranks_get_the_same_probe(void **state) {
    (void)state;
    two_ranks both;
    assert_int_equal(pthread_barrier_init(&both.barrier, NULL, 2), 0);
    /* different prompts, different amounts of rows, different noise levels */
    rank_of_two ranks[2] = {{.both = &both, .rank = 0, .world = make_world(19, PLANTED_LINEAR, 44, true)},
        {.both = &both, .rank = 1, .world = make_world(20, PLANTED_LINEAR, 30, true)}};
    pthread_t threads[2];
    for (int64_t i = 0; i < ranks[1].world.dataset.rows; i++) {
        ranks[1].world.prompt[i] += 100000;
        ranks[1].world.group[i] += (uint64_t)1 << 60;
        ranks[1].world.sigma[i] = 0.8f;
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, train_on_rank, &ranks[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(ranks[i].status, GA_OK);
    }
    assert_same_probe(ranks[0].probe, ranks[1].probe);
    const ga_probe_info *info = ga_probe_get_info(ranks[0].probe);
    assert_int_equal(info->trained_rows + info->held_rows, 74 * GROUP_ROWS);
    assert_true(info->sigma_low == (double)0.7f && info->sigma_high == (double)0.8f);
    assert_true(info->spearman > 0.8);
    for (int i = 0; i < 2; i++) {
        ga_probe_close(&ranks[i].probe);
        world_free(&ranks[i].world);
    }
    pthread_barrier_destroy(&both.barrier);
}

typedef struct watcher {
    int rounds, asked, stop_after;
    test_clock *clock;
} watcher;

static bool watch_stop(void *user) {
    watcher *w = user;
    w->clock->now_seconds += 1.0;
    return ++w->asked > w->stop_after;
}

static void watch_progress(void *user, const ga_train_progress *progress) {
    watcher *w = user;
    w->rounds++;
    assert_int_equal(progress->round, w->rounds);
    assert_true(isfinite(progress->loss) && progress->spearman <= progress->spearman_best);
}

static void training_ends_in_time_or_when_told(void **state) {
    (void)state;
    world w = make_world(13, PLANTED_LINEAR, 40, false);
    ga_train_options options = options_for_tests();
    test_clock clock;
    test_clock_init(&clock);
    options.clock = &clock.clock;
    options.seconds_max = 7.5;
    ga_probe *probe = NULL;
    ga_train_report report;
    watcher patient = {.stop_after = 1000000, .clock = &clock};
    ga_train_callbacks callbacks = {.stop = watch_stop, .progress = watch_progress, .user = &patient};
    test_ok(train_world(&w, &options, &callbacks, &probe, &report, NULL), NULL);
    assert_int_equal(report.end, GA_TRAIN_END_SECONDS);
    assert_int_equal(report.steps, 9); /* a second a step: the ninth sees 8 > 7.5 */
    assert_int_equal(report.rounds, patient.rounds);
    ga_probe_close(&probe);
    options.seconds_max = 0.0;
    watcher hasty = {.stop_after = 0, .clock = &clock};
    callbacks.user = &hasty;
    test_ok(train_world(&w, &options, &callbacks, &probe, &report, NULL), NULL);
    assert_int_equal(report.end, GA_TRAIN_END_STOP);
    assert_int_equal(report.steps, 1);
    ga_probe_close(&probe);
    world_free(&w);
}

static void options_are_checked(void **state) {
    (void)state;
    world w = make_world(14, PLANTED_LINEAR, 40, false);
    ga_probe *probe = NULL;
    ga_train_report report;
    ga_train_options bad[5];
    for (int i = 0; i < 5; i++) {
        bad[i] = options_for_tests();
    }
    const int32_t late[] = {11};
    bad[0].model = NULL;
    bad[1].steps = late;
    bad[2].held_share = 1.0;
    bad[3].weight_max = 0.5;
    bad[4].step_count = GA_PROBE_STEPS_MAX + 1;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(train_world(&w, &bad[i], NULL, &probe, &report, NULL), GA_ERR_ARGUMENT);
    }
    world_free(&w);
}

/* ---- evaluation and promotion ---- */

static void evaluation_agrees_with_the_plant(void **state) {
    (void)state;
    world w = make_world(15, PLANTED_LINEAR, 60, true), fresh = make_world(16, PLANTED_LINEAR, 60, true);
    ga_train_options options = options_for_tests();
    options.network.architecture = GA_NETWORK_NONE;
    ga_probe *probe = NULL;
    ga_train_report report;
    test_ok(train_world(&w, &options, NULL, &probe, &report, NULL), NULL);
    fresh.dataset.schema = &fresh.schema;
    const ga_evaluate_options how = {.seed = 3, .resamples = 200};
    ga_evaluation e;
    ga_error error = {0};
    test_ok(ga_evaluate(probe, &fresh.dataset, &how, &e, &error), &error);
    assert_int_equal(e.rows, fresh.dataset.rows);
    assert_int_equal(e.groups, 60);
    assert_true(e.within[GA_WITHIN_SPEARMAN].value > 0.85);
    assert_true(e.within[GA_WITHIN_PEARSON].value > 0.9);
    assert_true(e.within[GA_WITHIN_KENDALL].value > 0.7);
    assert_true(e.within[GA_WITHIN_AUC_MEDIAN].value > 0.9);
    assert_true(e.within[GA_WITHIN_AUC_TOP_QUARTER].value > 0.9);
    assert_true(e.within[GA_WITHIN_PAIRWISE].value > 0.85);
    assert_true(e.within[GA_WITHIN_SPEARMAN].low < e.within[GA_WITHIN_SPEARMAN].value);
    assert_true(e.prompt_mean.spearman.value == 0.0 && e.prompt_mean.pooled_spearman > 0.5);
    assert_true(fabs(e.random.spearman.value) < 0.15);
    assert_true(fabs(e.ridge.spearman.value - e.within[GA_WITHIN_SPEARMAN].value) < 1e-12);
    const ga_energy_point *energy = e.energy[GA_STD_GLOBAL];
    assert_true(energy[5].probe.value > 0.75 && energy[2].probe.value > 0.5);
    assert_true(energy[2].probe.value < energy[5].probe.value);
    assert_true(fabs(e.reliability.slope.value - 1.0) < 0.1);
    assert_true(e.reliability.reward_coverage[2].share.value > 0.8);
    assert_true(e.random.difference.low > 0.7 && e.ridge.difference.value == 0.0);
    assert_int_equal(e.distribution.groups, 60);
    assert_true(e.drift_count == GA_DRIFT_BINS && e.worst_count == GA_WORST_MAX);
    assert_true(e.top.auc.value == e.within[GA_WITHIN_AUC_TOP_QUARTER].value);
    assert_true(e.bottom.auc.value == e.within[GA_WITHIN_AUC_BOTTOM_QUARTER].value);
    /* only audited rows */
    const ga_evaluate_options audited = {.seed = 3, .audited_only = true};
    for (int64_t i = 0; i < 4 * GROUP_ROWS; i++) {
        fresh.audit[i] = 1;
    }
    test_ok(ga_evaluate(probe, &fresh.dataset, &audited, &e, &error), &error);
    assert_int_equal(e.groups, 4);
    memset(fresh.audit, 0, (size_t)fresh.dataset.rows);
    assert_int_equal(ga_evaluate(probe, &fresh.dataset, &audited, &e, NULL), GA_ERR_DATA);
    fresh.schema.id++;
    assert_int_equal(ga_evaluate(probe, &fresh.dataset, &how, &e, NULL), GA_ERR_ARGUMENT);
    ga_probe_close(&probe);
    world_free(&w);
    world_free(&fresh);
}

static void a_worse_candidate_is_kept_out(void **state) {
    (void)state;
    world good = make_world(17, PLANTED_LINEAR, 60, true), bad = make_world(18, PLANTED_NOTHING, 60, true);
    ga_train_options options = options_for_tests();
    options.network.architecture = GA_NETWORK_NONE;
    ga_probe *useful = NULL, *useless = NULL;
    ga_train_report report;
    test_ok(train_world(&good, &options, NULL, &useful, &report, NULL), NULL);
    test_ok(train_world(&bad, &options, NULL, &useless, &report, NULL), NULL);
    const ga_promote_options how = {.held_share = 0.3, .tolerance = 0.01, .seed = 1};
    ga_promotion promotion;
    test_ok(ga_promote(useless, useful, &good.dataset, &how, &promotion, NULL), NULL);
    assert_false(promotion.promote);
    /* the useless one may have hit on the preview, which is a part of the truth */
    assert_true(promotion.current > 0.8 && promotion.candidate < 0.75);
    assert_non_null(strstr(promotion.reason, "kept out"));
    test_ok(ga_promote(useful, useless, &good.dataset, &how, &promotion, NULL), NULL);
    assert_true(promotion.promote);
    assert_non_null(strstr(promotion.reason, "promoted"));
    test_ok(ga_promote(useful, useful, &good.dataset, &how, &promotion, NULL), NULL);
    assert_true(promotion.promote && promotion.candidate == promotion.current);
    test_ok(ga_promote(useful, NULL, &good.dataset, &how, &promotion, NULL), NULL);
    assert_true(promotion.promote && isnan(promotion.current));
    strcpy(useless->info.model, "another");
    test_ok(ga_promote(useful, useless, &good.dataset, &how, &promotion, NULL), NULL);
    assert_true(promotion.promote);
    assert_non_null(strstr(promotion.reason, "another model"));
    ga_probe_close(&useful);
    ga_probe_close(&useless);
    world_free(&good);
    world_free(&bad);
}

/* Where rows were pruned, the rows kept by chance decide, and the interval of the paired difference does. */
static void promotion_looks_at_rows_kept_by_chance(void **state) {
    (void)state;
    world good = make_world(19, PLANTED_LINEAR, 160, true), bad = make_world(20, PLANTED_NOTHING, 60, true);
    ga_train_options options = options_for_tests();
    options.network.architecture = GA_NETWORK_NONE;
    ga_probe *useful = NULL, *useless = NULL;
    ga_train_report report;
    test_ok(train_world(&good, &options, NULL, &useful, &report, NULL), NULL);
    test_ok(train_world(&bad, &options, NULL, &useless, &report, NULL), NULL);
    ga_promote_options how = {.held_share = 0.5, .tolerance = 0.03, .resamples = 300, .seed = 1};
    ga_promotion promotion;
    test_ok(ga_promote(useless, useful, &good.dataset, &how, &promotion, NULL), NULL);
    assert_false(promotion.promote || promotion.audited_only);
    assert_true(promotion.difference.high < 0.0 && promotion.difference.low < promotion.difference.high);
    const int64_t all_groups = promotion.groups;
    /* half of the groups lose rows to a prediction; the others are kept by chance */
    for (int64_t i = 0; i < good.dataset.rows; i++) {
        const bool audited = i / GROUP_ROWS % 4 < 2; /* whole prompts: two groups each */
        good.audit[i] = audited ? 1 : 0;
        good.reward[i] = audited || i % 3 != 0 ? good.reward[i] : NAN;
    }
    test_ok(ga_promote(useless, useful, &good.dataset, &how, &promotion, NULL), NULL);
    assert_true(promotion.audited_only && promotion.groups < all_groups);
    assert_true(promotion.groups >= GA_PROMOTE_AUDITED_GROUPS_MIN);
    assert_non_null(strstr(promotion.reason, "kept by chance"));
    assert_false(promotion.promote);
    memset(good.audit, 0, (size_t)good.dataset.rows); /* too few kept by chance: all judge */
    test_ok(ga_promote(useful, useless, &good.dataset, &how, &promotion, NULL), NULL);
    assert_true(promotion.promote && !promotion.audited_only && promotion.difference.low > 0.0);
    /* an interval that reaches below the tolerance is not "not worse" */
    how.tolerance = -2.0;
    test_ok(ga_promote(useful, useless, &good.dataset, &how, &promotion, NULL), NULL);
    assert_false(promotion.promote);
    ga_probe_close(&useful);
    ga_probe_close(&useless);
    world_free(&good);
    world_free(&bad);
}

/* The same prompts judge whatever share is learned from, and more rows do not hurt. */
static void the_learning_curve_keeps_its_judges(void **state) {
    (void)state;
    world w = make_world(21, PLANTED_LINEAR, 120, true);
    ga_train_options options = options_for_tests();
    options.network.architecture = GA_NETWORK_NONE;
    const int32_t steps[] = {3};
    options.model = "m";
    options.steps = steps;
    options.step_count = 1;
    options.steps_total = 10;
    const ga_train_callbacks callbacks = {.stop = NULL};
    ga_learning_point few, all;
    w.dataset.schema = &w.schema;
    test_ok(
        ga_learning_measure(&w.dataset, &options, &callbacks, ga_compute_native(), 0.25, &few, NULL), NULL);
    test_ok(
        ga_learning_measure(&w.dataset, &options, &callbacks, ga_compute_native(), 1.0, &all, NULL), NULL);
    assert_int_equal(few.spearman[GA_PROBE_RIDGE].groups, all.spearman[GA_PROBE_RIDGE].groups);
    assert_true(few.groups >= all.groups / 5 && few.groups <= all.groups / 3);
    assert_int_equal(few.rows, few.groups * GROUP_ROWS);
    assert_true(all.spearman[GA_PROBE_RIDGE].value > few.spearman[GA_PROBE_RIDGE].value - 0.05);
    assert_true(all.residual > 0.05 && all.residual < few.residual * 1.2);
    assert_int_equal(all.spearman[GA_PROBE_NETWORK].groups, 0);
    assert_int_equal(
        ga_learning_measure(&w.dataset, &options, &callbacks, ga_compute_native(), 0.0, &few, NULL),
        GA_ERR_ARGUMENT);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_never_sit_on_both_sides),
        cmocka_unit_test(unusable_rows_are_left_out),
        cmocka_unit_test(too_little_data_is_refused_in_words),
        cmocka_unit_test(the_plain_preview_wins_where_it_is_the_truth),
        cmocka_unit_test(the_ridge_finds_what_is_linear_in_the_maps),
        cmocka_unit_test(the_network_beats_the_ridge_on_what_is_not_linear),
        cmocka_unit_test(noise_gives_no_skill_and_no_false_confidence),
        cmocka_unit_test(the_same_seed_gives_the_same_probe),
        cmocka_unit_test(reduce_is_asked_for_every_sum_and_its_failure_ends_the_training),
        cmocka_unit_test(two_ranks_get_the_same_probe),
        cmocka_unit_test(training_ends_in_time_or_when_told),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(evaluation_agrees_with_the_plant),
        cmocka_unit_test(a_worse_candidate_is_kept_out),
        cmocka_unit_test(promotion_looks_at_rows_kept_by_chance),
        cmocka_unit_test(the_learning_curve_keeps_its_judges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
