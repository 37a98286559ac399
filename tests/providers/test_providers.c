/*
 * The providers against each other: every operation over random shapes, gradients by differences, training,
 * attention, jobs, memory.
 *
 * usage: test_providers [--torch FOLDER] [--bench]
 * FOLDER is PyTorch's torch/lib. Without one that can be loaded the program prints why and exits with 77.
 */
#include "tests/providers/attention_case.h"
#include "tests/providers/bench.h"
#include "tests/providers/operations.h"
#include "tests/providers/small_network.h"

#include "grpo_accel/compute/torch_check.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77

/* AddressSanitizer keeps freed memory back, so what is resident says nothing; it counts leaks itself. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOLDS_FREED_MEMORY 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(HOLDS_FREED_MEMORY)
#define RESIDENT_PAGES_MAX INT64_MAX
#else
#define RESIDENT_PAGES_MAX 512 /* a handle is larger than 200 bytes: 10,000 of them are more */
#endif
#define CASES_OF_EACH 25

static void operations_agree(void **state) {
    (void)state;
    ga_random random = test_random(100);
    for (size_t maker = 0; maker < case_maker_count; maker++) {
        for (int i = 0; i < CASES_OF_EACH; i++) {
            case_shape shape = {{0}};
            const pair_case test = case_makers[maker].make(&random, &shape);
            pair_compare(&test, &random);
        }
    }
}

/* ---- gradients by differences ---- */

static double dot(const float *a, const float *b, size_t count) {
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

/* Σ weights · layer(inputs + step · direction of input `which`) */
static double moved(const ga_compute *compute, const layer_case *layer, float *const *inputs, int32_t which,
    const float *direction, float step, const float *weights) {
    float *hosts[PAIR_ARRAYS];
    pair_case test = {layer->name, layer->forward, &layer->shape, layer->inputs + 1, {0}, 0, 0};
    for (int32_t i = 0; i <= layer->inputs; i++) {
        test.floats[i] = i < layer->inputs ? layer->floats[i] : layer->output_floats;
        hosts[i] = calloc(test.floats[i] + 1, sizeof(float));
        for (size_t k = 0; i < layer->inputs && k < test.floats[i]; k++) {
            hosts[i][k] = inputs[i][k] + (i == which ? step * direction[k] : 0.0f);
        }
    }
    pair_run(compute, &test, hosts);
    const double value = dot(hosts[layer->inputs], weights, layer->output_floats);
    for (int32_t i = 0; i <= layer->inputs; i++) {
        free(hosts[i]);
    }
    return value;
}

/* Gradients of every input, for the loss Σ weights · output. The caller frees. */
static void gradients_of(const ga_compute *compute, const layer_case *layer, float *const *inputs,
    const float *weights, float **gradients_out) {
    float *hosts[PAIR_ARRAYS];
    pair_case test = {layer->name, layer->backward, &layer->shape, 2 * layer->inputs + 1, {0}, 0, 0};
    for (int32_t i = 0; i < test.arrays; i++) {
        const int32_t input = i < layer->inputs ? i : i - layer->inputs - 1;
        const bool is_weights = i == layer->inputs;
        test.floats[i] = is_weights ? layer->output_floats : layer->floats[input];
        hosts[i] = calloc(test.floats[i] + 1, sizeof(float));
        if (i <= layer->inputs) {
            memcpy(hosts[i], is_weights ? weights : inputs[i], test.floats[i] * sizeof(float));
        }
    }
    pair_run(compute, &test, hosts);
    for (int32_t i = 0; i < test.arrays; i++) {
        if (i > layer->inputs) {
            gradients_out[i - layer->inputs - 1] = hosts[i];
        } else {
            free(hosts[i]);
        }
    }
}

static void check_differences(const ga_compute *compute, const layer_case *layer, ga_random *random) {
    float *inputs[4], *gradients[4];
    for (int32_t i = 0; i < layer->inputs; i++) {
        inputs[i] = pair_random(random, layer->floats[i]);
    }
    float *weights = pair_random(random, layer->output_floats);
    gradients_of(compute, layer, inputs, weights, gradients);
    const float step = 1.0f / 256.0f;
    for (int32_t i = 0; i < layer->inputs; i++) {
        float *direction = pair_random(random, layer->floats[i]);
        const double difference = (moved(compute, layer, inputs, i, direction, step, weights) -
                                      moved(compute, layer, inputs, i, direction, -step, weights)) /
                                  (2.0 * (double)step);
        const double expected = dot(gradients[i], direction, layer->floats[i]);
        const double size = sqrt(dot(gradients[i], gradients[i], layer->floats[i]));
        if (!(fabs(difference - expected) <= 1e-2 * (size + 1.0))) {
            fail_msg("%s on %s, input %d: gradient gives %.6g, differences %.6g", layer->name, compute->name,
                i, expected, difference);
        }
        free(direction);
    }
    for (int32_t i = 0; i < layer->inputs; i++) {
        free(inputs[i]);
        free(gradients[i]);
    }
    free(weights);
}

static void gradients_equal_differences(void **state) {
    (void)state;
    ga_random random = test_random(101);
    for (size_t which = 0; which < layer_case_count; which++) {
        for (int i = 0; i < 8; i++) {
            const layer_case layer = layer_case_make(which, &random);
            check_differences(pair_native, &layer, &random);
            check_differences(pair_torch, &layer, &random);
        }
    }
}

/* ---- training ---- */

static void two_hundred_steps_stay_together(void **state) {
    (void)state;
    ga_random random = test_random(102);
    const small_network network = {24, 8, 8};
    const size_t parameters = small_network_parameters(&network);
    float *inputs = pair_random(&random, 24 * 3 * 64), *targets = pair_random(&random, 24);
    float *start = pair_random(&random, parameters);
    float *weights[2], predictions[2][24], loss[2] = {0};
    const ga_compute *const tables[2] = {pair_native, pair_torch};
    for (int i = 0; i < 2; i++) {
        weights[i] = malloc(parameters * sizeof(float));
        for (size_t k = 0; k < parameters; k++) {
            weights[i][k] = 0.2f * start[k];
        }
        small_network_train(tables[i], &network, 200, inputs, targets, weights[i], predictions[i], NULL);
        for (int row = 0; row < 24; row++) {
            loss[i] += (predictions[i][row] - targets[row]) * (predictions[i][row] - targets[row]) / 24.0f;
        }
    }
    pair_near("predictions", predictions[1], predictions[0], 24, 1e-3);
    pair_near("weights", weights[1], weights[0], parameters, 1e-3);
    assert_true(loss[0] < 0.5f); /* it does learn: the targets' variance is 1 */
    float *owned[] = {inputs, targets, start, weights[0], weights[1]};
    for (size_t i = 0; i < 5; i++) {
        free(owned[i]);
    }
}

/* ---- attention ---- */

static attention_case random_attention(ga_random *random) {
    attention_case test = {.rows = 1 + (int32_t)ga_random_below(random, 3),
        .heads = 1 + (int32_t)ga_random_below(random, 4),
        .image_tokens = 2 + (int32_t)ga_random_below(random, 30),
        .text_tokens = 1 + (int32_t)ga_random_below(random, 12),
        .head_size = 4 + (int32_t)ga_random_below(random, 13),
        .dtype = (ga_dtype)ga_random_below(random, 3),
        .masked = ga_random_below(random, 3) != 0,
        .hidden = ga_random_below(random, 2) != 0,
        .statistics = 1 + ga_random_below(random, 63)};
    test.image_keys = ga_random_below(random, 2) != 0 ? test.image_tokens + 3 : 0;
    test.token_stride = test.head_size + (int32_t)ga_random_below(random, 3);
    return test;
}

static void attention_is_what_the_definitions_say(void **state) {
    (void)state;
    ga_random random = test_random(103);
    for (int i = 0; i < 120; i++) {
        const attention_case test = random_attention(&random);
        attention_case_check(&test, &random, 1e-5);
    }
    attention_case_check_nan();
    attention_case_check_hidden();
}

/* More logits than a tile holds: 16 heads × 2100 keys × 520 queries. */
static void attention_takes_tiles(void **state) {
    (void)state;
    ga_random random = test_random(104);
    const attention_case test = {.rows = 1,
        .heads = 16,
        .image_tokens = 520,
        .text_tokens = 4,
        .image_keys = 2096,
        .head_size = 4,
        .token_stride = 4,
        .dtype = GA_F16,
        .statistics = 0x3f};
    attention_case_check(&test, &random, 1e-5);
}

static ga_status ask_attention(void *user, ga_error *error) {
    float unused;
    return pair_torch->attention(user, &unused, error);
}

static void impossible_attention_is_refused(void **state) {
    (void)state;
    float q[8] = {0};
    ga_tensor view = {.data = q, .shape = {1, 1, 2, 4}, .strides = {8, 8, 4, 1}, .dims = 4, .dtype = GA_F32};
    ga_attention_op op = {1, 1, 2, 2, 4, &view, NULL, &view, NULL, NULL, 1};
    ga_error error = {0};
    op.statistics = 0;
    assert_int_equal(pair_torch->run(ask_attention, &op, NULL), GA_ERR_ARGUMENT);
    op.statistics = 1u << 6;
    assert_int_equal(pair_torch->run(ask_attention, &op, NULL), GA_ERR_ARGUMENT);
    op.statistics = 1;
    op.rows = 2;
    assert_int_equal(pair_torch->run(ask_attention, &op, &error), GA_ERR_ARGUMENT);
    op.rows = 1;
    const uint8_t content[2] = {GA_TEXT_HIDDEN, GA_TEXT_HIDDEN + 1};
    op.content = content;
    ga_error_clear(&error);
    assert_int_equal(pair_torch->run(ask_attention, &op, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "text token 1"));
    op.content = NULL;
    view.strides[3] = -1;
    assert_int_equal(pair_torch->run(ask_attention, &op, NULL), GA_ERR_ARGUMENT);
    view.strides[3] = 1;
    view.device = pair_torch->device == GA_DEVICE_CPU ? GA_DEVICE_CUDA : GA_DEVICE_CPU;
    ga_error_clear(&error);
    assert_int_equal(pair_torch->run(ask_attention, &op, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "device"));
}

/* ---- errors and memory ---- */

static void impossible_shapes_are_refused_alike(void **state) {
    (void)state;
    const ga_compute *const tables[2] = {pair_native, pair_torch};
    float x[4] = {0};
    for (int i = 0; i < 2; i++) {
        const ga_compute *c = tables[i];
        const ga_conv bad_kernel = {1, 1, 1, 4, 4, 5, 1};
        const ga_group_norm bad_norm = {1, 3, 2, 4, 0.0f};
        const ga_gemm bad_gemm = {.m = 2, .n = 2, .k = 2, .lda = 1, .ldb = 2, .ldc = 2};
        const ga_adamw bad_step = {.step = 0};
        assert_int_equal(c->conv_workspace_floats(&bad_kernel), 0);
        assert_int_equal(c->conv_forward(&bad_kernel, x, x, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->conv_backward(&bad_kernel, x, x, x, x, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->group_norm_forward(&bad_norm, x, x, x, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->group_norm_backward(&bad_norm, x, x, x, x, x, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->sgemm(&bad_gemm, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->adamw(&bad_step, 1, x, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->silu_forward(-1, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->lerp(-1, 0.5f, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->linear_forward(1, 0, 1, x, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->channel_scale_backward(1, 1, 0, x, x, x, x, NULL), GA_ERR_ARGUMENT);
        assert_int_equal(c->copy_columns(1, 2, 1, x, 2, x, NULL), GA_ERR_ARGUMENT);
        /* no rows is no work */
        const ga_conv no_rows = {0, 1, 1, 4, 4, 3, 1};
        assert_int_equal(c->conv_forward(&no_rows, x, x, x, x, x, NULL), GA_OK);
        assert_int_equal(c->linear_backward(0, 2, 2, x, x, x, x, x, x, NULL), GA_OK);
        assert_int_equal(c->mean_pool_forward(0, 2, 2, x, x, NULL), GA_OK);
    }
}

static int64_t resident_pages(void) {
    long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &total, &resident), 2);
    fclose(file);
    return resident;
}

static ga_status many_calls(void *user, ga_error *error) {
    float *x = user; /* 64 floats on the device */
    const ga_compute *c = pair_torch;
    const ga_conv conv = {1, 1, 1, 2, 2, 3, 1};
    const ga_adamw adamw = {1, 0.001f, 0.9f, 0.99f, 1e-6f, 0.0f};
    for (int i = 0; i < 1250; i++) {
        GA_TRY(c->conv_forward(&conv, x, x + 8, x + 20, x, x + 32, error));
        GA_TRY(c->conv_backward(&conv, x, x + 8, x + 32, x, x + 40, x + 52, x + 24, error));
        GA_TRY(c->linear_forward(2, 2, 2, x, x + 4, x + 20, x + 32, error));
        GA_TRY(c->linear_backward(2, 2, 2, x, x + 4, x + 32, x + 40, x + 52, x + 24, error));
        GA_TRY(c->adamw(&adamw, 4, x, x + 4, x + 32, x + 40, error));
        GA_TRY(c->lerp(4, 0.9f, x, x + 4, error));
        GA_TRY(c->mean_pool_forward(1, 2, 2, x, x + 8, error));
        GA_TRY(c->channel_shift_forward(1, 2, 2, x, x + 32, error));
    }
    return GA_OK;
}

static ga_status allocate_64(void *user, ga_error *error) {
    return pair_torch->allocate(64, user, error);
}

static void ten_thousand_calls_leave_nothing_behind(void **state) {
    (void)state;
    float *memory;
    ga_error error = {0};
    test_ok(pair_torch->run(allocate_64, &memory, &error), &error);
    test_ok(pair_torch->run(many_calls, memory, &error), &error); /* caches fill */
    const int64_t handles = ga_compute_torch_info()->live_handles, pages = resident_pages();
    test_ok(pair_torch->run(many_calls, memory, &error), &error);
    assert_int_equal(ga_compute_torch_info()->live_handles, handles);
    assert_true(resident_pages() - pages < RESIDENT_PAGES_MAX);
    pair_torch->release(memory);
    assert_int_equal(ga_compute_torch_info()->live_handles, handles - 1);
}

/* ---- jobs ---- */

typedef struct jumping {
    int calls;
    pthread_t threads[2];
} jumping;

static ga_status nested(void *user, ga_error *error) {
    jumping *j = user;
    j->threads[j->calls++] = pthread_self();
    return j->calls < 2 ? pair_torch->run(nested, user, error)
                        : GA_FAIL(error, GA_ERR_DATA, "said in the job");
}

static void jobs_have_a_thread_of_their_own(void **state) {
    (void)state;
    jumping j = {0};
    ga_error error = {0};
    assert_int_equal(pair_torch->run(nested, &j, &error), GA_ERR_DATA);
    assert_string_equal(error.message, "said in the job");
    assert_int_equal(j.calls, 2);
    assert_true(pthread_equal(j.threads[0], j.threads[1]));
    assert_false(pthread_equal(j.threads[0], pthread_self()));
}

static ga_status add_one(void *user, ga_error *error) {
    (void)error;
    (*(int64_t *)user)++; /* jobs never overlap: no lock */
    return GA_OK;
}

static void *add_many(void *user) {
    for (int i = 0; i < 2000; i++) {
        if (pair_torch->run(add_one, user, NULL) != GA_OK) {
            return user;
        }
    }
    return NULL;
}

static void callers_take_turns(void **state) {
    (void)state;
    pthread_t threads[4];
    int64_t count = 0;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, &count), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(count, 8000);
}

static void a_fork_gets_a_thread_of_its_own(void **state) {
    (void)state;
    int64_t count = 0;
    test_ok(pair_torch->run(add_one, &count, NULL), NULL);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20); /* a hang must not outlive the test */
        _exit(pair_torch->run(add_one, &count, NULL) == GA_OK && count == 2 ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    test_ok(pair_torch->run(add_one, &count, NULL), NULL);
    assert_int_equal(count, 2);
}

/* ---- opening ---- */

static void one_device_a_process(void **state) {
    (void)state;
    const ga_compute *table = NULL;
    ga_error error = {0};
    const ga_torch_options same = {NULL, pair_torch->device, pair_torch->device_index};
    test_ok(ga_compute_torch(&same, &table, &error), &error);
    assert_ptr_equal(table, pair_torch);
    ga_torch_options other = same;
    other.device = same.device == GA_DEVICE_CPU ? GA_DEVICE_CUDA : GA_DEVICE_CPU;
    assert_int_equal(ga_compute_torch(&other, &table, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "one device"));
    other.device = 9;
    assert_int_equal(ga_compute_torch(&other, &table, NULL), GA_ERR_ARGUMENT);
    assert_ptr_equal(table, pair_torch);
    test_ok(ga_compute_open(GA_PROVIDER_NATIVE, GA_DEVICE_CPU, 0, NULL, &table, NULL), NULL);
    assert_ptr_equal(table, pair_native);
    test_ok(ga_compute_open(GA_PROVIDER_AUTO, GA_DEVICE_CPU, 0, NULL, &table, NULL), NULL);
    assert_ptr_equal(table, pair_native);
    test_ok(ga_compute_open(GA_PROVIDER_TORCH, pair_torch->device, 0, NULL, &table, NULL), NULL);
    assert_ptr_equal(table, pair_torch);
    const ga_torch_info *info = ga_compute_torch_info();
    assert_true(info->open && info->version[0] == '2' && strstr(info->library, "libtorch_cpu.so") != NULL);
    assert_non_null(strstr(ga_compute_torch_schemas(), "aten::_fused_adamw_("));
}

static ga_status forgetful_adamw(const ga_adamw *adamw, int64_t count, const float *gradient,
    float *parameter, float *first_moment, float *second_moment, ga_error *error) {
    const ga_adamw first = {
        1, adamw->learning_rate, adamw->beta1, adamw->beta2, adamw->epsilon, adamw->weight_decay};
    return pair_native->adamw(&first, count, gradient, parameter, first_moment, second_moment, error);
}

static ga_status shifted_conv(const ga_conv *conv, const float *input, const float *weight, const float *bias,
    float *workspace, float *output, ga_error *error) {
    (void)bias;
    return pair_native->conv_forward(conv, input, weight, NULL, workspace, output, error);
}

/* Tables that do one thing otherwise are found out, by the operator's name. */
static void another_behaviour_is_refused(void **state) {
    (void)state;
    ga_error error = {0};
    ga_compute other = *pair_native;
    test_ok(ga_torch_check(&other, pair_native, &error), &error);
    other.adamw = forgetful_adamw;
    assert_int_equal(ga_torch_check(&other, pair_native, &error), GA_ERR_MISSING);
    assert_non_null(strstr(error.message, "operator _fused_adamw_"));
    ga_error_clear(&error);
    other.conv_forward = shifted_conv;
    assert_int_equal(ga_torch_check(&other, pair_native, &error), GA_ERR_MISSING);
    assert_non_null(strstr(error.message, "operator convolution "));
}

/* Before anything is loaded: what is missing is said. */
static bool missing_is_said(void) {
    const ga_compute *table = NULL;
    ga_error error = {0};
    ga_torch_options options = {NULL, GA_DEVICE_CPU, 0};
    bool right = ga_compute_torch(&options, &table, &error) == GA_ERR_MISSING &&
                 strstr(error.message, "import torch first") != NULL;
    options.directory = "/nonexistent";
    ga_error_clear(&error);
    right = right && ga_compute_torch(&options, &table, &error) == GA_ERR_MISSING &&
            strstr(error.message, "/nonexistent/libtorch_cpu.so") != NULL;
    right = right && ga_compute_torch_info()->library[0] == '\0' && !ga_compute_torch_info()->open;
    right = right && ga_compute_open(GA_PROVIDER_AUTO, GA_DEVICE_CUDA, 0, NULL, &table, NULL) == GA_OK &&
            table == ga_compute_native();
    return right &&
           ga_compute_open(GA_PROVIDER_TORCH, GA_DEVICE_CPU, 0, NULL, &table, NULL) == GA_ERR_MISSING;
}

int main(int argc, char **argv) {
    const char *directory = NULL;
    bool bench = false;
    for (int i = 1; i < argc; i++) {
        directory = strcmp(argv[i], "--torch") == 0 && i + 1 < argc ? argv[++i] : directory;
        bench = bench || strcmp(argv[i], "--bench") == 0;
    }
    if (!missing_is_said()) {
        fprintf(stderr, "a missing PyTorch is not reported as it should be\n");
        return 1;
    }
    const ga_torch_options options = {directory, GA_DEVICE_CPU, 0};
    ga_error error = {0};
    pair_native = ga_compute_native();
    if (ga_compute_torch(&options, &pair_torch, &error) != GA_OK) {
        printf("skipped: %s\n", error.message);
        return SKIPPED;
    }
    if (bench) {
        bench_providers();
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_agree),
        cmocka_unit_test(gradients_equal_differences),
        cmocka_unit_test(two_hundred_steps_stay_together),
        cmocka_unit_test(attention_is_what_the_definitions_say),
        cmocka_unit_test(attention_takes_tiles),
        cmocka_unit_test(impossible_attention_is_refused),
        cmocka_unit_test(impossible_shapes_are_refused_alike),
        cmocka_unit_test(ten_thousand_calls_leave_nothing_behind),
        cmocka_unit_test(jobs_have_a_thread_of_their_own),
        cmocka_unit_test(callers_take_turns),
        cmocka_unit_test(a_fork_gets_a_thread_of_its_own),
        cmocka_unit_test(one_device_a_process),
        cmocka_unit_test(another_behaviour_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
