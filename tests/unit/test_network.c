#include "tests/unit/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "probe/network.h"
#include "probe/parts.h"

#define CASE_ROWS 3

typedef struct network_case {
    ga_network network;
    ga_network_pass *pass;
    ga_network_input input;
    float *parameters, *gradients, *maps, *scalars, *prompt;
    float log_sigma[CASE_ROWS], grad[CASE_ROWS * 2 * GA_NETWORK_TARGETS_MAX],
        output[CASE_ROWS * 2 * GA_NETWORK_TARGETS_MAX];
} network_case;

static float *normals(ga_random *random, size_t count) {
    float *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)ga_random_normal(random);
    }
    return values;
}

static void case_make(network_case *c, const ga_network_options *options, ga_network_shape shape) {
    memset(c, 0, sizeof *c);
    ga_random random = test_random(1);
    ga_error error = {0};
    test_ok(ga_network_plan(options, &shape, &c->network, &error), &error);
    const size_t parameters = (size_t)c->network.parameter_count;
    c->parameters = malloc(parameters * sizeof(float));
    c->gradients = calloc(parameters, sizeof(float));
    ga_network_initialise(&c->network, 9, c->parameters);
    c->maps = normals(&random, CASE_ROWS * (size_t)(shape.map_channels * shape.height * shape.width));
    c->scalars = normals(&random, CASE_ROWS * (size_t)shape.scalars);
    c->prompt = normals(&random, CASE_ROWS * (size_t)shape.prompt);
    for (int i = 0; i < CASE_ROWS; i++) {
        c->log_sigma[i] = (float)(-0.5 * i);
    }
    for (int i = 0; i < CASE_ROWS * c->network.outputs; i++) {
        c->grad[i] = (float)ga_random_normal(&random);
    }
    c->input = (ga_network_input){.rows = CASE_ROWS,
        .maps = c->maps,
        .scalars = c->scalars,
        .prompt = c->prompt,
        .log_sigma = c->log_sigma};
    test_ok(
        ga_network_pass_create(&c->network, ga_compute_native(), CASE_ROWS, CASE_ROWS, true, &c->pass, NULL),
        NULL);
}

static void case_free(network_case *c) {
    ga_network_pass_destroy(&c->pass);
    assert_null(c->pass);
    ga_network_pass_destroy(&c->pass);
    free(c->parameters);
    free(c->gradients);
    free(c->maps);
    free(c->scalars);
    free(c->prompt);
}

/* Moves also what starts at zero, so that nothing is hidden behind it. */
static void case_disturb(network_case *c, double deviation) {
    ga_random random = test_random(2);
    for (int64_t i = 0; i < c->network.parameter_count; i++) {
        c->parameters[i] += (float)(deviation * ga_random_normal(&random));
    }
}

static double case_value(network_case *c) {
    test_ok(ga_network_forward(c->pass, c->parameters, &c->input, c->output, NULL), NULL);
    double sum = 0.0;
    for (int i = 0; i < CASE_ROWS * c->network.outputs; i++) {
        sum += (double)c->grad[i] * (double)c->output[i];
    }
    return sum;
}

/* Every tensor of the network: its first, middle and last value, by central differences in fp32. */
static void check_gradients(network_case *c) {
    case_disturb(c, 0.1);
    (void)case_value(c);
    test_ok(ga_network_backward(c->pass, c->parameters, c->grad, c->gradients, NULL), NULL);
    for (int32_t t = 0; t < c->network.tensor_count; t++) {
        const ga_network_tensor *tensor = &c->network.tensors[t];
        double largest = 0.0;
        for (int k = 0; k < 3; k++) {
            const int64_t at = tensor->offset + k * (tensor->count - 1) / 2;
            const float middle = c->parameters[at], step = 4e-3f;
            c->parameters[at] = middle + step;
            const double above = case_value(c);
            c->parameters[at] = middle - step;
            const double below = case_value(c);
            c->parameters[at] = middle;
            const double expected = (above - below) / (2.0 * (double)step), actual = (double)c->gradients[at];
            if (!(fabs(actual - expected) < 3e-3 + 2e-2 * fabs(expected))) {
                fail_msg("%s, place %d: gradient %g, difference %g", tensor->name, k, actual, expected);
            }
        }
        for (int64_t i = 0; i < tensor->count; i++) {
            largest = fmax(largest, fabs((double)c->gradients[tensor->offset + i]));
        }
        if (!(largest > 0.0)) {
            fail_msg("%s takes no part", tensor->name);
        }
    }
}

static ga_network_options small_options(ga_network_architecture architecture) {
    ga_network_options options = ga_network_options_default();
    const int32_t channels[GA_NETWORK_LEVELS_MAX] = {8, 12, 10, 7, 4};
    memcpy(options.channels, channels, sizeof channels);
    options.architecture = architecture;
    options.condition_width = 6;
    options.hidden = 9;
    return options;
}

static void gradients_by_differences(void **state) {
    (void)state;
    const ga_network_shape shapes[] = {{3, 8, 8, 2, 3}, {2, 5, 3, 1, 0}, {4, 16, 16, 0, 5}, {1, 1, 2, 1, 1},
        {2, 1, 9, 3, 0}, {0, 0, 0, 4, 2}};
    const ga_network_architecture architectures[] = {GA_NETWORK_JOINED, GA_NETWORK_PAPER, GA_NETWORK_FIRST};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (size_t k = 0; k < 3; k++) {
            ga_network_options options = small_options(architectures[k]);
            options.blocks_per_level = 1 + (int32_t)(i % 3);
            options.targets = 1 + (int32_t)(i % 2);
            options.heteroscedastic = i % 4 != 3;
            options.condition = i % 2 == 0 ? GA_NETWORK_CONDITION_HEAD : GA_NETWORK_CONDITION_BLOCKS;
            /* the paper needs maps, and blocks for σ to enter */
            if (architectures[k] == GA_NETWORK_PAPER && shapes[i].height * shapes[i].width <= 2) {
                continue;
            }
            network_case c;
            case_make(&c, &options, shapes[i]);
            check_gradients(&c);
            case_free(&c);
        }
    }
}

static const int32_t shown[CASE_ROWS] = {1, 0, 1};

/* Rows that show the same picture share its way through the blocks, forward and back. */
static void pictures_are_shared(void **state) {
    (void)state;
    const ga_network_options options = small_options(GA_NETWORK_JOINED);
    network_case c;
    case_make(&c, &options, (ga_network_shape){3, 8, 8, 2, 3});
    assert_true(c.network.shares_pictures);
    c.input.picture = shown;
    c.input.pictures = 2;
    check_gradients(&c);
    (void)case_value(&c);
    float alone[CASE_ROWS * 4];
    memcpy(alone, c.output, sizeof(float) * (size_t)(CASE_ROWS * c.network.outputs));
    const size_t map = 3 * 8 * 8;
    float *maps = malloc(CASE_ROWS * map * sizeof(float));
    for (int i = 0; i < CASE_ROWS; i++) {
        memcpy(maps + (size_t)i * map, c.maps + (size_t)shown[i] * map, map * sizeof(float));
    }
    c.input.picture = NULL;
    c.input.maps = maps;
    (void)case_value(&c);
    for (int i = 0; i < CASE_ROWS * c.network.outputs; i++) {
        assert_float_equal(c.output[i], alone[i], 1e-5);
    }
    const int32_t wrong[CASE_ROWS] = {0, 2, 0};
    c.input.picture = wrong;
    assert_int_equal(ga_network_forward(c.pass, c.parameters, &c.input, c.output, NULL), GA_ERR_ARGUMENT);
    free(maps);
    case_free(&c);
}

static void a_new_network_answers_zero_and_rows_do_not_mix(void **state) {
    (void)state;
    const ga_network_options options = ga_network_options_default();
    network_case c;
    case_make(&c, &options, (ga_network_shape){3, 8, 8, 2, 4});
    assert_int_equal(c.network.outputs, 2);
    (void)case_value(&c);
    for (int i = 0; i < CASE_ROWS * 2; i++) {
        assert_true(c.output[i] == 0.0f);
    }
    case_disturb(&c, 0.05);
    (void)case_value(&c);
    const float first = c.output[0], second = c.output[1];
    c.input.rows = 1;
    test_ok(ga_network_forward(c.pass, c.parameters, &c.input, c.output, NULL), NULL);
    assert_true(fabsf(c.output[0] - first) < 1e-5f && fabsf(c.output[1] - second) < 1e-5f);
    c.input.rows = 4;
    assert_int_equal(ga_network_forward(c.pass, c.parameters, &c.input, c.output, NULL), GA_ERR_ARGUMENT);
    c.input.rows = 0;
    test_ok(ga_network_forward(c.pass, c.parameters, &c.input, c.output, NULL), NULL);
    test_ok(ga_network_backward(c.pass, c.parameters, c.grad, c.gradients, NULL), NULL);
    ga_network_pass *none = NULL;
    assert_int_equal(
        ga_network_pass_create(&c.network, ga_compute_native(), 0, 0, false, &none, NULL), GA_ERR_ARGUMENT);
    case_free(&c);
}

/* The same map under another prompt gets another answer, in another order: what a detector must be able to.
 */
static void the_prompt_changes_what_a_map_is_worth(void **state) {
    (void)state;
    const ga_network_options options = small_options(GA_NETWORK_JOINED);
    network_case c;
    case_make(&c, &options, (ga_network_shape){3, 8, 8, 0, 4});
    case_disturb(&c, 0.3);
    const size_t map = 3 * 8 * 8;
    memcpy(c.maps + 2 * map, c.maps, map * sizeof *c.maps); /* maps a, b, a */
    memcpy(c.prompt + 4, c.prompt, 4 * sizeof *c.prompt);   /* prompts p, p, q */
    for (int i = 0; i < CASE_ROWS; i++) {
        c.log_sigma[i] = -0.4f;
    }
    (void)case_value(&c);
    const float a_p = c.output[0], b_p = c.output[2], a_q = c.output[4];
    memcpy(c.maps, c.maps + map, map * sizeof *c.maps); /* b under q in row 0 */
    memcpy(c.prompt, c.prompt + 8, 4 * sizeof *c.prompt);
    (void)case_value(&c);
    const float b_q = c.output[0];
    assert_true(fabsf(a_p - a_q) > 1e-3f);
    assert_true(fabsf((a_p - b_p) - (a_q - b_q)) > 1e-4f); /* not a mere shift of the level */
    case_free(&c);
}

static void the_paper_sees_neither_scalars_nor_prompt(void **state) {
    (void)state;
    ga_network_options options = ga_network_options_default();
    options.architecture = GA_NETWORK_PAPER;
    network_case c;
    case_make(&c, &options, (ga_network_shape){20, 16, 16, 5, 4});
    assert_int_equal(c.network.outputs, 1); /* no variance */
    assert_int_equal(c.network.shape.scalars + c.network.shape.prompt, 0);
    assert_int_equal(c.network.block_count, 3);
    assert_true(c.network.parameter_count < 1000000);
    case_disturb(&c, 0.05);
    const double before = case_value(&c);
    c.input.scalars = NULL;
    c.input.prompt = NULL;
    assert_true(case_value(&c) == before);
    c.log_sigma[0] += 1.0f;
    assert_true(case_value(&c) != before);
    case_free(&c);
}

static void depth_and_width_follow_the_options(void **state) {
    (void)state;
    ga_network_options options = ga_network_options_default();
    ga_network *network = malloc(sizeof *network);
    const ga_network_shape shape = {20, 8, 8, 3, 256};
    test_ok(ga_network_plan(&options, &shape, network, NULL), NULL);
    assert_int_equal(network->block_count, 2); /* 8 → 4 → 2, never below */
    assert_true(network->norm.height == 2 && network->norm.width == 2 && network->norm.channels == 48);
    assert_true(network->parameter_count < 1000000);
    options.blocks_per_level = 2;
    test_ok(ga_network_plan(&options, &shape, network, NULL), NULL);
    assert_int_equal(network->block_count, 5); /* one at full resolution, then two a level */
    assert_true(network->blocks[0].stride == 1 && network->blocks[0].skip < 0);
    assert_true(network->blocks[1].stride == 2 && network->blocks[2].stride == 1);
    options.levels = 1;
    test_ok(ga_network_plan(&options, &shape, network, NULL), NULL);
    assert_true(network->block_count == 1 && network->norm.height == 8);
    options.targets = GA_NETWORK_TARGETS_MAX;
    test_ok(ga_network_plan(&options, &shape, network, NULL), NULL);
    assert_int_equal(network->outputs, 2 * GA_NETWORK_TARGETS_MAX);
    options = ga_network_options_default();
    options.levels = GA_NETWORK_LEVELS_MAX; /* the deepest there may be fits its arrays */
    options.channels[4] = 64;
    options.blocks_per_level = 4;
    const ga_network_shape large = {4, 64, 64, 0, 0};
    test_ok(ga_network_plan(&options, &large, network, NULL), NULL);
    assert_true(network->block_count == 19 && network->tensor_count <= GA_NETWORK_TENSORS_MAX);
    free(network);
}

static void impossible_networks_are_refused_in_words(void **state) {
    (void)state;
    ga_network *network = malloc(sizeof *network);
    const ga_network_shape shape = {2, 16, 16, 1, 1}, flat = {0, 0, 0, 3, 1};
    ga_network_options bad[10];
    const char *words[10] = {"levels", "levels", "channels", "blocks", "hidden", "condition", "targets",
        "none", "parameters", "architecture"};
    for (int i = 0; i < 10; i++) {
        bad[i] = ga_network_options_default();
    }
    bad[0].levels = 0;
    bad[1].levels = GA_NETWORK_LEVELS_MAX + 1;
    bad[2].channels[1] = 0;
    bad[3].blocks_per_level = 5;
    bad[4].hidden = 0;
    bad[5].condition_width = -1;
    bad[6].targets = GA_NETWORK_TARGETS_MAX + 1;
    bad[7].architecture = GA_NETWORK_NONE;
    bad[8].channels[2] = 1024;
    bad[8].channels[3] = 1024;
    bad[9].architecture = (ga_network_architecture)17;
    for (int i = 0; i < 10; i++) {
        ga_error error = {0};
        assert_int_equal(ga_network_plan(&bad[i], &shape, network, &error), GA_ERR_ARGUMENT);
        assert_non_null(strstr(error.message, words[i]));
    }
    ga_network_options paper = ga_network_options_default();
    paper.architecture = GA_NETWORK_PAPER;
    ga_error error = {0};
    assert_int_equal(ga_network_plan(&paper, &flat, network, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "maps"));
    free(network);
}

static void architectures_have_names(void **state) {
    (void)state;
    for (int i = 0; i < GA_NETWORK_ARCHITECTURE_COUNT; i++) {
        ga_network_architecture back = GA_NETWORK_ARCHITECTURE_COUNT;
        assert_true(ga_network_architecture_from_name(
            ga_network_architecture_name((ga_network_architecture)i), &back));
        assert_int_equal(back, i);
    }
    ga_network_architecture back = GA_NETWORK_PAPER;
    assert_false(ga_network_architecture_from_name("tower", &back));
    assert_int_equal(back, GA_NETWORK_PAPER);
    assert_string_equal(ga_network_architecture_name((ga_network_architecture)99), "unknown");
}

static void start_values_repeat_and_differ_by_seed(void **state) {
    (void)state;
    const ga_network_options options = ga_network_options_default();
    network_case c;
    case_make(&c, &options, (ga_network_shape){3, 8, 8, 2, 1});
    const size_t bytes = (size_t)c.network.parameter_count * sizeof(float);
    float *other = malloc(bytes);
    ga_network_initialise(&c.network, 9, other);
    assert_memory_equal(c.parameters, other, bytes);
    ga_network_initialise(&c.network, 5, other);
    assert_true(memcmp(c.parameters, other, bytes) != 0);
    free(other);
    case_free(&c);
}

/* ---- files of format 1 ---- */

static const char *golden_folder(void) {
    const char *folder = getenv("GA_GOLDEN");
    return folder != NULL ? folder : "tests/golden";
}

/* What a program before this one said of 16 rows of a fixed pattern. */
static void check_golden(const char *name, ga_probe_kind kind) {
    char file[64];
    ga_error error = {0};
    ga_probe *probe = NULL;
    snprintf(file, sizeof file, "%s.safetensors", name);
    char *path = test_path(golden_folder(), file);
    test_ok(ga_probe_open(path, ga_compute_native(), &probe, &error), &error);
    const ga_probe_info *info = ga_probe_get_info(probe);
    assert_int_equal(info->kind, kind);
    assert_true(info->target_count == 1 && info->version == 7 && info->held_groups == 20);
    assert_string_equal(info->target_names[0], "reward");
    ga_half values[16 * 52];
    float mean[16], variance[16];
    assert_int_equal(info->schema.values_per_row, 52);
    for (int i = 0; i < 16 * 52; i++) {
        values[i] = ga_half_from_float((float)((i * 37 + 11) % 64) / 16.0f - 2.0f);
    }
    const ga_feature_schema schema = info->schema;
    const ga_feature_block block = {.schema = &schema, .rows = 16, .values = values};
    test_ok(ga_probe_score(probe, &block, 0.65, mean, variance, &error), &error);
    free(path);
    snprintf(file, sizeof file, "%s.txt", name);
    path = test_path(golden_folder(), file);
    FILE *expected = fopen(path, "r");
    assert_non_null(expected);
    for (int i = 0; i < 16; i++) {
        double value;
        assert_int_equal(fscanf(expected, "%lf", &value), 1);
        assert_true(fabs((double)mean[i] - value) < 2e-5 * (1.0 + fabs(value)));
        assert_true(variance[i] == 0.04f);
    }
    fclose(expected);
    free(path);
    ga_probe_close(&probe);
}

static void files_of_format_1_still_score_the_same(void **state) {
    (void)state;
    check_golden("probe_1_ridge", GA_PROBE_RIDGE);
    check_golden("probe_1_network", GA_PROBE_NETWORK);
}

/* ---- files with all that is new ---- */

static ga_feature_schema wide_schema(void) {
    ga_feature_schema schema;
    memset(&schema, 0, sizeof schema);
    const ga_input_shape shapes[] = {{.input = GA_INPUT_X0, .channels = 2, .height = 4, .width = 4},
        {.input = GA_INPUT_PROMPT, .channels = 300, .height = 1, .width = 1, .offset = 32},
        {.input = GA_INPUT_PREVIEW, .channels = 2, .height = 1, .width = 1, .offset = 332}};
    memcpy(schema.inputs, shapes, sizeof shapes);
    schema.input_count = 3;
    schema.values_per_row = 334;
    schema.id = 42;
    return schema;
}

static ga_probe *several_targets(ga_network_architecture architecture) {
    const ga_feature_schema schema = wide_schema();
    const char *names[] = {"combined", "shapes", "length"};
    ga_network_options options = small_options(architecture);
    ga_probe *probe = NULL;
    ga_random random = test_random(3);
    ga_error error = {0};
    test_ok(ga_probe_create(&schema, ga_compute_native(), &probe, &error), &error);
    test_ok(ga_probe_set_targets(probe, 3, names, &error), &error);
    test_ok(ga_probe_add_network(probe, &options, &error), &error);
    for (int64_t i = 0; i < probe->network.parameter_count; i++) {
        probe->parameters[i] = (float)(0.2 * ga_random_normal(&random));
    }
    for (int32_t target = 0; target < 3; target++) {
        const ga_ridge *ridge = ga_probe_ridge(probe, target);
        for (int32_t i = 0; i < ridge->count; i++) {
            ridge->within[i] = (float)(0.01 * ga_random_normal(&random));
            ridge->level[i] = (float)(0.01 * ga_random_normal(&random));
        }
        *ga_probe_calibration(probe, target) = (ga_calibration){.slope = 0.5 + target,
            .intercept = -1.0 * target,
            .sigma_r2 = 0.02 * (1 + target),
            .tau2 = 0.01,
            .variance_factor = target == 1 ? 0.0 : 1.5};
    }
    probe->others[0].scale = 3.0;
    probe->others[1].scale = 0.25;
    probe->variance_floor = 1e-3;
    probe->info.step_count = 1;
    probe->info.steps[0] = 2;
    probe->info.steps_total = 9;
    probe->info.sigma_low = 0.5;
    probe->info.sigma_high = 0.9;
    return probe;
}

static void all_targets_are_saved_and_scored(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "p.safetensors");
    ga_probe *probe = several_targets(GA_NETWORK_JOINED), *back = NULL;
    const ga_feature_schema schema = probe->info.schema;
    ga_half values[5 * 334];
    float mean[15], variance[15], mean_back[15], variance_back[15], first[5], first_variance[5];
    ga_random random = test_random(4);
    for (int i = 0; i < 5 * 334; i++) {
        values[i] = ga_half_from_float((float)ga_random_normal(&random));
    }
    const ga_feature_block block = {.schema = &schema, .rows = 5, .values = values};
    ga_error error = {0};
    test_ok(ga_probe_save(probe, path, &error), &error);
    test_ok(ga_probe_open(path, ga_compute_native(), &back, &error), &error);
    test_ok(ga_probe_score_all(probe, &block, 0.6, mean, variance, &error), &error);
    test_ok(ga_probe_score_all(back, &block, 0.6, mean_back, variance_back, &error), &error);
    test_ok(ga_probe_score(back, &block, 0.6, first, first_variance, &error), &error);
    assert_memory_equal(mean, mean_back, sizeof mean);
    assert_memory_equal(variance, variance_back, sizeof variance);
    for (int i = 0; i < 5; i++) {
        assert_true(first[i] == mean[3 * i] && first_variance[i] == variance[3 * i]);
        assert_true(variance[3 * i + 1] == 0.04f); /* one for all: its own did not prove itself */
        assert_true(variance[3 * i] > 0.0f && variance[3 * i] != variance[(3 * i + 3) % 15]);
    }
    assert_string_equal(ga_probe_get_info(back)->target_names[2], "length");
    assert_int_equal(ga_probe_get_info(back)->network.architecture, GA_NETWORK_JOINED);
    assert_int_equal(ga_probe_get_info(back)->network.hidden, 9);
    ga_probe_close(&probe);
    ga_probe_close(&back);
    free(path);
    test_folder_remove(folder);
}

/* The probe of the paper stands alone: its ridge is not asked. */
static void the_paper_stands_without_a_ridge(void **state) {
    (void)state;
    ga_probe *probe = several_targets(GA_NETWORK_PAPER);
    const ga_feature_schema schema = probe->info.schema;
    ga_half values[334] = {0};
    const ga_feature_block block = {.schema = &schema, .rows = 1, .values = values};
    float mean[3], again[3], variance[3];
    test_ok(ga_probe_score_all(probe, &block, 0.6, mean, variance, NULL), NULL);
    for (int32_t i = 0; i < probe->ridge.count; i++) {
        probe->ridge.within[i] = 100.0f;
    }
    test_ok(ga_probe_score_all(probe, &block, 0.6, again, NULL, NULL), NULL);
    assert_memory_equal(mean, again, sizeof mean);
    assert_true(variance[0] == 0.02f && !ga_probe_has_ridge(probe));
    ga_probe_close(&probe);
}

static void targets_are_set_once_with_good_names(void **state) {
    (void)state;
    const ga_feature_schema schema = wide_schema();
    ga_probe *probe = NULL;
    const char *bad[] = {"fine", ""};
    const char *good[] = {"a", "b"};
    test_ok(ga_probe_create(&schema, ga_compute_native(), &probe, NULL), NULL);
    assert_int_equal(ga_probe_set_targets(probe, 0, NULL, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_probe_set_targets(probe, GA_NETWORK_TARGETS_MAX + 1, NULL, NULL), GA_ERR_ARGUMENT);
    test_ok(ga_probe_set_targets(probe, 2, good, NULL), NULL);
    assert_int_equal(ga_probe_set_targets(probe, 2, good, NULL), GA_ERR_ARGUMENT);
    ga_probe_close(&probe);
    test_ok(ga_probe_create(&schema, ga_compute_native(), &probe, NULL), NULL);
    assert_int_equal(ga_probe_set_targets(probe, 2, bad, NULL), GA_ERR_ARGUMENT);
    ga_probe_close(&probe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_by_differences),
        cmocka_unit_test(pictures_are_shared),
        cmocka_unit_test(a_new_network_answers_zero_and_rows_do_not_mix),
        cmocka_unit_test(the_prompt_changes_what_a_map_is_worth),
        cmocka_unit_test(the_paper_sees_neither_scalars_nor_prompt),
        cmocka_unit_test(depth_and_width_follow_the_options),
        cmocka_unit_test(impossible_networks_are_refused_in_words),
        cmocka_unit_test(architectures_have_names),
        cmocka_unit_test(start_values_repeat_and_differ_by_seed),
        cmocka_unit_test(files_of_format_1_still_score_the_same),
        cmocka_unit_test(all_targets_are_saved_and_scored),
        cmocka_unit_test(the_paper_stands_without_a_ridge),
        cmocka_unit_test(targets_are_set_once_with_good_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
