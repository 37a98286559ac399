#include "tests/unit/support.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "probe/parts.h"
#include "probe/train/fit.h"
#include "probe/train/fit_batch.h"
#include "probe/train/score.h"

/* ---- loss ---- */

#define LOSS_ROWS 12
#define LOSS_TARGETS 2

static double loss_at(const ga_loss *loss, const ga_loss_batch *batch, const float *answer) {
    float ignored[LOSS_ROWS * LOSS_TARGETS * 2];
    return ga_loss_evaluate(loss, batch, answer, ignored);
}

static void loss_gradient_by_differences(void **state) {
    (void)state;
    ga_random random = test_random(6);
    const int32_t begin[] = {0, 5, 6, 6, 12}; /* one row alone, one group empty */
    float answer[LOSS_ROWS * LOSS_TARGETS * 2], grad[LOSS_ROWS * LOSS_TARGETS * 2];
    float target[LOSS_ROWS * LOSS_TARGETS], weight[LOSS_ROWS];
    for (int i = 0; i < LOSS_ROWS * LOSS_TARGETS * 2; i++) {
        answer[i] = (float)ga_random_normal(&random);
    }
    for (int i = 0; i < LOSS_ROWS * LOSS_TARGETS; i++) {
        target[i] = i % 7 == 3 ? NAN : (float)ga_random_normal(&random); /* some labels are missing */
    }
    for (int i = 0; i < LOSS_ROWS; i++) {
        weight[i] = (float)(0.5 + ga_random_uniform(&random));
    }
    const ga_loss terms[] = {{.centred = 1.0, .others = 1.0}, {.ranked = 1.0, .others = 0.5},
        {.raw = 1.0, .others = 1.0}, {.variance = 1.0, .variance_floor = 0.01, .others = 1.0},
        {.variance = 1.0, .variance_floor = 0.01, .others = 1.0, .hold_mean = true},
        {.centred = 1.0, .ranked = 1.0, .raw = 0.05, .variance = 0.2, .variance_floor = 1e-3, .others = 0.5}};
    for (int t = 0; t < 6; t++) {
        const bool held = terms[t].hold_mean; /* the mean is a constant of that term */
        for (int variances = 0; variances < 2; variances++) {
            const ga_loss_batch batch = {.groups = 4,
                .begin = begin,
                .targets = LOSS_TARGETS,
                .variances = variances == 1,
                .target = target,
                .weight = weight};
            const int width = LOSS_TARGETS * (variances + 1);
            (void)ga_loss_evaluate(&terms[t], &batch, answer, grad);
            for (int i = 0; i < LOSS_ROWS * width; i++) {
                if (held && variances == 1 && i % width < LOSS_TARGETS) {
                    continue;
                }
                const float middle = answer[i];
                answer[i] = middle + 1e-3f;
                const double above = loss_at(&terms[t], &batch, answer);
                answer[i] = middle - 1e-3f;
                const double below = loss_at(&terms[t], &batch, answer);
                answer[i] = middle;
                assert_true(fabs((above - below) / 2e-3 - (double)grad[i]) < 3e-3);
            }
        }
    }
}

static void loss_is_zero_at_the_targets_and_ignores_the_level(void **state) {
    (void)state;
    const int32_t begin[] = {0, 3, 6};
    const float target[] = {1.0f, 2.0f, 4.0f, -1.0f, 0.0f, 3.0f};
    const float weight[] = {1.0f, 2.0f, 1.0f, 1.0f, 1.0f, 3.0f};
    float shifted[6], grad[6];
    for (int i = 0; i < 6; i++) {
        shifted[i] = target[i] + (i < 3 ? 10.0f : -20.0f);
    }
    const ga_loss_batch batch = {
        .groups = 2, .begin = begin, .targets = 1, .target = target, .weight = weight};
    const ga_loss order = {.centred = 1.0, .ranked = 1.0}, level = {.raw = 1.0};
    assert_true(fabs(ga_loss_evaluate(&order, &batch, shifted, grad)) < 1e-9);
    for (int i = 0; i < 6; i++) {
        assert_true(fabsf(grad[i]) < 1e-5f);
    }
    assert_true(ga_loss_evaluate(&level, &batch, shifted, grad) > 100.0);
    const float nothing[6] = {0};
    const ga_loss_batch weightless = {
        .groups = 2, .begin = begin, .targets = 1, .target = target, .weight = nothing};
    assert_true(ga_loss_evaluate(&order, &weightless, shifted, grad) == 0.0);
}

/* β weighs rows by a power of their variance that has no gradient of its own. */
static void a_row_that_is_hard_to_predict_keeps_its_weight(void **state) {
    (void)state;
    const int32_t begin[] = {0, 3};
    const float answer[] = {0.1f, -1.0f, 0.4f, 0.5f, -0.3f, 2.0f}, target[] = {0.3f, -0.5f, 1.0f};
    const float weight[] = {1.0f, 1.0f, 1.0f};
    float plain[6], weighted[6];
    const ga_loss_batch batch = {
        .groups = 1, .begin = begin, .targets = 1, .variances = true, .target = target, .weight = weight};
    ga_loss loss = {.variance = 1.0, .variance_floor = 0.01, .hold_mean = true};
    (void)ga_loss_evaluate(&loss, &batch, answer, plain);
    loss.variance_beta = 0.5;
    (void)ga_loss_evaluate(&loss, &batch, answer, weighted);
    for (int i = 0; i < 3; i++) {
        const float scale = sqrtf(0.01f + expf(answer[2 * i + 1]));
        assert_true(fabsf(weighted[2 * i + 1] - scale * plain[2 * i + 1]) < 1e-6f);
        assert_true(weighted[2 * i] == 0.0f); /* the mean is held */
    }
}

/* The likelihood is best at the true variance, for rows of two kinds. */
static void the_variance_term_finds_the_variance(void **state) {
    (void)state;
    enum { GROUPS = 400, EACH = 8 };
    ga_random random = test_random(7);
    static float answer[GROUPS * EACH * 2], target[GROUPS * EACH], weight[GROUPS * EACH],
        grad[GROUPS * EACH * 2];
    static int32_t begin[GROUPS + 1];
    for (int i = 0; i < GROUPS * EACH; i++) {
        begin[i / EACH] = i / EACH * EACH;
        weight[i] = 1.0f;
        target[i] = (float)((i / EACH % 2 == 0 ? 0.5 : 2.0) * ga_random_normal(&random));
        answer[2 * i] = 0.0f;
    }
    begin[GROUPS] = GROUPS * EACH;
    const ga_loss_batch batch = {.groups = GROUPS,
        .begin = begin,
        .targets = 1,
        .variances = true,
        .target = target,
        .weight = weight};
    const ga_loss loss = {.variance = 1.0, .variance_floor = 1e-6, .hold_mean = true};
    const double log_scale[] = {-0.4, 0.0, 0.4};
    double value[3];
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < GROUPS * EACH; i++) {
            const double sd = i / EACH % 2 == 0 ? 0.5 : 2.0;
            answer[2 * i + 1] = (float)(2.0 * log(sd) + log_scale[k]);
        }
        value[k] = ga_loss_evaluate(&loss, &batch, answer, grad);
    }
    assert_true(value[1] < value[0] && value[1] < value[2]);
}

/* ---- a world with a known truth ---- */

#define SIDE 6
#define MAPS 2
#define GROUP_ROWS 12
#define PROMPT 3
#define VALUES (MAPS * SIDE * SIDE + PROMPT + 1)

typedef struct world {
    ga_feature_schema schema;
    ga_dataset dataset;
    ga_half *features;
    float *reward, *targets, *inclusion, *sigma;
    uint64_t *group, *prompt;
    uint32_t *update;
    uint8_t *mine;
} world;

/* What the second target asks for: the opposite sign of the map's brightness, whatever the prompt. */
static void draw_row(ga_random *random, const double *prompt, float *row, float *reward, float *second) {
    const double bright = ga_random_normal(random), preview = ga_random_normal(random);
    for (int i = 0; i < MAPS * SIDE * SIDE; i++) {
        row[i] = (float)((i < SIDE * SIDE ? bright : 0.0) + 0.5 * ga_random_normal(random));
    }
    for (int i = 0; i < PROMPT; i++) {
        row[MAPS * SIDE * SIDE + i] = (float)prompt[i];
    }
    row[VALUES - 1] = (float)preview;
    /* the prompt says whether bright maps are good: no model without the prompt can know */
    const double sign = prompt[0] > 0.0 ? 1.0 : -1.0;
    *reward = (float)(3.0 + 0.1 * preview + 0.4 * sign * bright + 0.1 * ga_random_normal(random));
    *second = (float)(-2.0 - 0.7 * bright + 0.1 * ga_random_normal(random));
}

static world make_world(uint64_t test_case, int32_t groups) {
    world w;
    memset(&w, 0, sizeof w);
    const ga_input_shape shapes[] = {{.input = GA_INPUT_X0, .channels = MAPS, .height = SIDE, .width = SIDE},
        {.input = GA_INPUT_PROMPT, .channels = PROMPT, .height = 1, .width = 1, .offset = MAPS * SIDE * SIDE},
        {.input = GA_INPUT_PREVIEW, .channels = 1, .height = 1, .width = 1, .offset = VALUES - 1}};
    memcpy(w.schema.inputs, shapes, sizeof shapes);
    w.schema.input_count = 3;
    w.schema.values_per_row = VALUES;
    w.schema.id = 6;
    const size_t rows = (size_t)groups * GROUP_ROWS;
    w.features = malloc(rows * VALUES * sizeof *w.features);
    w.reward = malloc(rows * sizeof *w.reward);
    w.targets = malloc(2 * rows * sizeof *w.targets);
    w.inclusion = malloc(rows * sizeof *w.inclusion);
    w.sigma = malloc(rows * sizeof *w.sigma);
    w.group = malloc(rows * sizeof *w.group);
    w.prompt = malloc(rows * sizeof *w.prompt);
    w.update = malloc(rows * sizeof *w.update);
    w.mine = malloc(rows);
    ga_random random = test_random(test_case);
    for (size_t i = 0; i < rows; i++) {
        float row[VALUES];
        const size_t group = i / GROUP_ROWS;
        ga_random of_prompt = test_random(5000 + group);
        const double prompt[PROMPT] = {
            ga_random_normal(&of_prompt), ga_random_normal(&of_prompt), ga_random_normal(&of_prompt)};
        draw_row(&random, prompt, row, &w.targets[2 * i], &w.targets[2 * i + 1]);
        w.reward[i] = w.targets[2 * i];
        w.targets[2 * i + 1] = i % 5 == 0 ? NAN : w.targets[2 * i + 1];
        ga_half_from_float_array(row, w.features + i * VALUES, VALUES);
        w.inclusion[i] = 1.0f;
        w.sigma[i] = 0.7f;
        w.group[i] = 100 + group;
        w.prompt[i] = 50 + group;
        w.update[i] = (uint32_t)(group / 4);
        w.mine[i] = 1;
    }
    w.dataset = (ga_dataset){.rows = (int64_t)rows,
        .features = w.features,
        .reward = w.reward,
        .group = w.group,
        .prompt = w.prompt,
        .update = w.update,
        .inclusion = w.inclusion,
        .sigma = w.sigma};
    return w;
}

static void world_free(world *w) {
    void *owned[] = {
        w->features, w->reward, w->targets, w->inclusion, w->sigma, w->group, w->prompt, w->update, w->mine};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) {
        free(owned[i]);
    }
}

/* Everything that a fit needs, made by hand: moments of the training rows, a ridge of zeros. */
typedef struct bench {
    ga_split split;
    ga_probe *probe;
    ga_train_options options;
    ga_train_callbacks callbacks;
    float *zeros;
    float *pooled;
    ga_fit fit;
} bench;

static ga_train_options test_options(void) {
    ga_train_options options = ga_train_options_default();
    const int32_t channels[GA_NETWORK_LEVELS_MAX] = {8, 12, 16};
    memcpy(options.network.channels, channels, sizeof channels);
    options.network.levels = 3;
    options.network.condition_width = 8;
    options.seed = 3;
    options.seconds_max = 0.0;
    options.batch_rows = 96;
    options.rounds_max = 6;
    options.input_noise = 0.2;
    return options;
}

static void learn_moments(world *w, bench *b) {
    const ga_part *train = &b->split.train;
    const int32_t count = b->probe->inputs.pooled_count;
    uint8_t *varies = malloc((size_t)count);
    b->pooled = malloc((size_t)train->count * (size_t)count * sizeof *b->pooled);
    for (int64_t i = 0; i < train->count; i++) {
        assert_true(ga_probe_prepare_row(b->probe, w->features + train->rows[i] * VALUES, 0.7, b->probe->row,
            b->pooled + i * count, NULL));
    }
    test_ok(ga_ridge_moments(
                &train->grouped, b->pooled, &b->callbacks.reduce, &b->probe->pooled_moments, varies, NULL),
        NULL);
    for (int64_t i = 0; i < train->count; i++) {
        ga_moments_apply(&b->probe->pooled_moments, b->pooled + i * count);
    }
    free(varies);
}

static void bench_make(
    world *w, const ga_train_options *options, const ga_reduce *reduce, int32_t targets, bench *b) {
    memset(b, 0, sizeof *b);
    ga_error error = {0};
    w->dataset.schema = &w->schema;
    b->options = *options;
    if (reduce != NULL) {
        b->callbacks.reduce = *reduce;
    }
    test_ok(ga_dataset_split(&w->dataset, 0.3, 10.0, &b->split, &error), &error);
    test_ok(ga_probe_create(&w->schema, ga_compute_native(), &b->probe, &error), &error);
    if (targets > 1) {
        test_ok(ga_probe_set_targets(b->probe, targets, NULL, &error), &error);
    }
    test_ok(ga_probe_add_network(b->probe, &b->options.network, &error), &error);
    b->probe->reward_scale = 0.4;
    learn_moments(w, b);
    b->zeros = calloc((size_t)b->split.train.count + 1, sizeof *b->zeros);
    b->fit = (ga_fit){.dataset = &w->dataset,
        .train = &b->split.train,
        .tune = &b->split.tune,
        .pooled = b->pooled,
        .train_score = b->zeros,
        .train_level = b->zeros,
        .options = &b->options,
        .callbacks = &b->callbacks};
}

static void bench_free(bench *b) {
    ga_split_destroy(&b->split);
    ga_probe_close(&b->probe);
    free(b->zeros);
    free(b->pooled);
}

/* ---- the loop ---- */

static void a_network_learns_what_depends_on_the_prompt(void **state) {
    (void)state;
    world w = make_world(20, 160);
    ga_train_options options = test_options();
    options.rounds_max = 30;
    bench b;
    ga_fit_report report;
    ga_error error = {0};
    bench_make(&w, &options, NULL, 1, &b);
    test_ok(ga_fit_network(&b.fit, b.probe, &report, &error), &error);
    assert_true(report.best_spearman > 0.7);
    assert_int_equal(report.curve_count, report.rounds);
    for (int32_t i = 0; i < report.curve_count; i++) {
        assert_true(report.curve[i].round == i + 1 && isfinite(report.curve[i].loss));
    }
    assert_true(report.curve[report.curve_count - 1].loss < 0.8 * report.curve[0].loss);
    ga_fit_report_destroy(&report);
    ga_fit_report_destroy(&report);
    bench_free(&b);
    world_free(&w);
}

static void pooled_rows_are_made_where_they_are_not_given(void **state) {
    (void)state;
    world w = make_world(21, 24);
    const ga_train_options options = test_options();
    bench a, b;
    ga_fit_report report;
    bench_make(&w, &options, NULL, 1, &a);
    bench_make(&w, &options, NULL, 1, &b);
    b.fit.pooled = NULL;
    test_ok(ga_fit_network(&a.fit, a.probe, &report, NULL), NULL);
    ga_fit_report_destroy(&report);
    test_ok(ga_fit_network(&b.fit, b.probe, &report, NULL), NULL);
    ga_fit_report_destroy(&report);
    assert_memory_equal(
        a.probe->parameters, b.probe->parameters, (size_t)a.probe->network.parameter_count * sizeof(float));
    bench_free(&a);
    bench_free(&b);
    world_free(&w);
}

/* ---- states ---- */

typedef struct kept_state {
    ga_fit_state state;
    float *values;
    ga_train_progress curve[64];
    int32_t keep_round; /* the state after this round */
    int32_t calls;
} kept_state;

static ga_status keep_state(void *user, const ga_fit_state *state, ga_error *error) {
    (void)error;
    kept_state *kept = user;
    kept->calls++;
    if (state->round == kept->keep_round) {
        const size_t count = (size_t)state->parameter_count;
        const float *arrays[5] = {
            state->parameters, state->first_moment, state->second_moment, state->average, state->best};
        free(kept->values);
        kept->values = malloc(5 * count * sizeof *kept->values);
        for (size_t i = 0; i < 5; i++) {
            memcpy(kept->values + i * count, arrays[i], count * sizeof *kept->values);
        }
        memcpy(kept->curve, state->curve, (size_t)state->curve_count * sizeof kept->curve[0]);
        kept->state = *state;
        kept->state.parameters = kept->values;
        kept->state.first_moment = kept->values + count;
        kept->state.second_moment = kept->values + 2 * count;
        kept->state.average = kept->values + 3 * count;
        kept->state.best = kept->values + 4 * count;
        kept->state.curve = kept->curve;
    }
    return GA_OK;
}

static void run_bench(world *w, const ga_train_options *options, kept_state *kept, const ga_fit_state *resume,
    bool (*stop)(void *user), bench *b, ga_fit_report *report) {
    ga_error error = {0};
    bench_make(w, options, NULL, 1, b);
    b->fit.checkpoint = kept != NULL ? keep_state : NULL;
    b->fit.checkpoint_user = kept;
    b->fit.resume = resume;
    b->callbacks.stop = stop;
    b->callbacks.user = kept;
    test_ok(ga_fit_network(&b->fit, b->probe, report, &error), &error);
}

static void assert_same_end(
    const bench *a, const ga_fit_report *of_a, const bench *b, const ga_fit_report *of_b) {
    assert_memory_equal(a->probe->parameters, b->probe->parameters,
        (size_t)a->probe->network.parameter_count * sizeof(float));
    assert_true(of_a->best_spearman == of_b->best_spearman && of_a->steps == of_b->steps);
    assert_int_equal(of_a->curve_count, of_b->curve_count);
    for (int32_t i = 0; i < of_a->curve_count; i++) {
        assert_true(of_a->curve[i].loss == of_b->curve[i].loss);
        assert_true(of_a->curve[i].spearman == of_b->curve[i].spearman);
    }
}

static void a_continued_training_ends_like_an_uninterrupted_one(void **state) {
    (void)state;
    world w = make_world(22, 40);
    const ga_train_options options = test_options();
    kept_state kept = {.keep_round = 3};
    bench whole, rest;
    ga_fit_report of_whole, of_rest;
    run_bench(&w, &options, &kept, NULL, NULL, &whole, &of_whole);
    assert_int_equal(kept.calls, of_whole.rounds);
    run_bench(&w, &options, NULL, &kept.state, NULL, &rest, &of_rest);
    assert_same_end(&whole, &of_whole, &rest, &of_rest);
    /* a state is bound to its training */
    ga_train_options other = options;
    other.learning_rate *= 2.0;
    bench wrong;
    ga_error error = {0};
    ga_fit_report none = {0};
    bench_make(&w, &other, NULL, 1, &wrong);
    wrong.fit.resume = &kept.state;
    assert_int_equal(ga_fit_network(&wrong.fit, wrong.probe, &none, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "another training"));
    bench_free(&wrong);
    ga_fit_report_destroy(&of_whole);
    ga_fit_report_destroy(&of_rest);
    bench_free(&whole);
    bench_free(&rest);
    free(kept.values);
    world_free(&w);
}

/* Stops in the middle of the second round: of 5 steps a round, after the seventh. */
static bool stop_after_seven(void *user) {
    kept_state *kept = user;
    return ++kept->keep_round >= 1007;
}

static void a_training_that_was_stopped_inside_a_round_goes_on_there(void **state) {
    (void)state;
    world w = make_world(23, 56);
    const ga_train_options options = test_options();
    kept_state kept = {.keep_round = 1000};
    bench whole, part, rest;
    ga_fit_report of_whole, of_part, of_rest;
    run_bench(&w, &options, NULL, NULL, NULL, &whole, &of_whole);
    bench_make(&w, &options, NULL, 1, &part);
    kept_state saved = {.keep_round = 1};
    part.fit.checkpoint = keep_state;
    part.fit.checkpoint_user = &saved;
    part.callbacks.stop = stop_after_seven;
    part.callbacks.user = &kept;
    test_ok(ga_fit_network(&part.fit, part.probe, &of_part, NULL), NULL);
    assert_int_equal(of_part.end, GA_TRAIN_END_STOP);
    assert_int_equal(of_part.steps, 7);
    assert_true(saved.state.round == 1 && saved.state.round_steps > 0);
    run_bench(&w, &options, NULL, &saved.state, NULL, &rest, &of_rest);
    assert_same_end(&whole, &of_whole, &rest, &of_rest);
    ga_fit_report_destroy(&of_whole);
    ga_fit_report_destroy(&of_part);
    ga_fit_report_destroy(&of_rest);
    bench_free(&whole);
    bench_free(&part);
    bench_free(&rest);
    free(saved.values);
    world_free(&w);
}

static void a_head_start_is_where_training_begins(void **state) {
    (void)state;
    world w = make_world(24, 120);
    ga_train_options options = test_options();
    options.rounds_max = 25;
    bench first, second;
    ga_fit_report of_first, of_second;
    run_bench(&w, &options, NULL, NULL, NULL, &first, &of_first);
    bench_make(&w, &options, NULL, 1, &second);
    second.options.rounds_max = 0;
    second.fit.start_parameters = first.probe->parameters;
    test_ok(ga_fit_network(&second.fit, second.probe, &of_second, NULL), NULL);
    assert_true(of_first.best_spearman > 0.5);
    assert_true(of_second.best_spearman == of_first.best_spearman && of_second.steps == 0);
    ga_fit_report_destroy(&of_first);
    ga_fit_report_destroy(&of_second);
    bench_free(&first);
    bench_free(&second);
    world_free(&w);
}

/* ---- several processes ---- */

/* Threads that play processes: sums in the order of their ranks. */
typedef struct crew {
    pthread_barrier_t barrier;
    double *values[4];
    int32_t ranks;
} crew;

typedef struct crew_rank {
    crew *crew;
    int32_t rank;
    world *world;
    ga_train_options options;
    float *scores; /* of all rows, by the trained probe */
} crew_rank;

static ga_status crew_sum(void *user, double *values, int64_t count, ga_error *error) {
    (void)error;
    crew_rank *rank = user;
    crew *team = rank->crew;
    team->values[rank->rank] = values;
    (void)pthread_barrier_wait(&team->barrier);
    double *total = malloc((size_t)count * sizeof *total);
    for (int64_t i = 0; i < count; i++) {
        total[i] = 0.0;
        for (int32_t k = 0; k < team->ranks; k++) {
            total[i] += team->values[k][i];
        }
    }
    (void)pthread_barrier_wait(&team->barrier);
    memcpy(values, total, (size_t)count * sizeof *total);
    free(total);
    (void)pthread_barrier_wait(&team->barrier);
    return GA_OK;
}

static void *train_rank(void *user) {
    crew_rank *rank = user;
    world w = *rank->world; /* the same columns, but its own prompts' features */
    uint8_t *mine = malloc((size_t)w.dataset.rows);
    for (int64_t i = 0; i < w.dataset.rows; i++) {
        mine[i] = (int32_t)(w.prompt[i] % (uint64_t)rank->crew->ranks) == rank->rank;
    }
    w.dataset.mine = rank->crew->ranks > 1 ? mine : NULL;
    const ga_reduce reduce = {.sum = crew_sum, .user = rank, .rank = rank->rank, .ranks = rank->crew->ranks};
    bench b;
    ga_fit_report report;
    bench_make(&w, &rank->options, &reduce, 1, &b);
    ga_error error = {0};
    test_ok(ga_fit_network(&b.fit, b.probe, &report, &error), &error);
    float *level = malloc((size_t)w.dataset.rows * sizeof *level);
    const ga_probe_rows all = {.features = w.features, .count = w.dataset.rows, .sigma = w.sigma};
    test_ok(ga_probe_score_rows(b.probe, &all, rank->scores, level, NULL), NULL);
    free(level);
    free(mine);
    ga_fit_report_destroy(&report);
    bench_free(&b);
    return NULL;
}

static void train_crew(world *w, const ga_train_options *options, int32_t ranks, float *scores) {
    crew team = {.ranks = ranks};
    crew_rank members[4];
    pthread_t threads[4];
    const size_t rows = (size_t)w->dataset.rows;
    pthread_barrier_init(&team.barrier, NULL, (unsigned)ranks);
    for (int32_t i = 0; i < ranks; i++) {
        members[i] = (crew_rank){.crew = &team,
            .rank = i,
            .world = w,
            .options = *options,
            .scores = malloc(rows * sizeof(float))};
        assert_int_equal(pthread_create(&threads[i], NULL, train_rank, &members[i]), 0);
    }
    for (int32_t i = 0; i < ranks; i++) {
        pthread_join(threads[i], NULL);
        assert_memory_equal(members[i].scores, members[0].scores, rows * sizeof(float));
    }
    memcpy(scores, members[0].scores, rows * sizeof *scores);
    for (int32_t i = 0; i < ranks; i++) {
        free(members[i].scores);
    }
    pthread_barrier_destroy(&team.barrier);
}

static void any_number_of_processes_gives_the_same_network(void **state) {
    (void)state;
    world w = make_world(25, 40);
    ga_train_options options = test_options();
    options.rounds_max = 3;
    const size_t rows = (size_t)w.dataset.rows;
    float *one = malloc(rows * sizeof *one), *many = malloc(rows * sizeof *many);
    train_crew(&w, &options, 1, one);
    for (int32_t ranks = 2; ranks <= 4; ranks++) {
        train_crew(&w, &options, ranks, many);
        for (size_t i = 0; i < rows; i++) {
            assert_true(fabsf(one[i] - many[i]) < 1e-3f * 0.4f);
        }
    }
    free(one);
    free(many);
    world_free(&w);
}

/* ---- batches ---- */

static void low_rewards_weigh_more_where_that_is_asked(void **state) {
    (void)state;
    world w = make_world(26, 24);
    ga_train_options options = test_options();
    options.oversample_low = 3.0;
    bench b;
    bench_make(&w, &options, NULL, 1, &b);
    ga_fit_source source;
    test_ok(ga_fit_source_create(&b.fit, b.probe, &source, NULL), NULL);
    test_ok(ga_fit_source_next(&source, NULL), NULL);
    const ga_fit_batch *batch = &source.batch;
    assert_true(batch->rows == 96 && batch->groups == 96 / GROUP_ROWS);
    for (int32_t i = 0; i < batch->rows; i++) {
        assert_true(batch->weight[i] >= 1.0f && batch->weight[i] <= 4.0f);
        for (int32_t k = 0; k < batch->rows; k++) {
            const bool lower = w.reward[batch->number[i]] < w.reward[batch->number[k]];
            assert_true(!lower || batch->weight[i] >= batch->weight[k]);
        }
    }
    ga_fit_source_destroy(&source);
    ga_fit_source_destroy(&source);
    bench_free(&b);
    world_free(&w);
}

static void groups_larger_than_a_batch_come_in_pieces(void **state) {
    (void)state;
    world w = make_world(27, 24);
    ga_train_options options = test_options();
    options.batch_rows = 8;
    bench b;
    bench_make(&w, &options, NULL, 1, &b);
    ga_fit_source source;
    test_ok(ga_fit_source_create(&b.fit, b.probe, &source, NULL), NULL);
    int32_t *seen = calloc((size_t)w.dataset.rows, sizeof *seen);
    int64_t rows = 0;
    while (source.epoch < 2) {
        test_ok(ga_fit_source_next(&source, NULL), NULL);
        for (int32_t i = 0; i < source.batch.rows && source.epoch < 2; i++, rows++) {
            seen[source.batch.number[i]]++;
        }
    }
    for (int64_t i = 0; i < b.split.train.count; i++) {
        assert_true(seen[b.split.train.rows[i]] <= 1);
    }
    assert_true(rows >= b.split.train.count - 8);
    free(seen);
    ga_fit_source_destroy(&source);
    bench_free(&b);
    world_free(&w);
}

/* NaN features are unknown: the network sees the mean. */
static void unknown_features_count_as_the_mean(void **state) {
    (void)state;
    world w = make_world(28, 24);
    ga_train_options options = test_options();
    options.input_noise = 0.0;
    options.channel_drop = 0.0;
    bench b;
    bench_make(&w, &options, NULL, 1, &b);
    b.fit.pooled = NULL;
    for (int64_t i = 0; i < w.dataset.rows; i++) {
        for (int k = 0; k < SIDE * SIDE; k++) {
            w.features[i * VALUES + k] = 0x7e00;
        }
        w.features[i * VALUES + VALUES - 1] = 0x7e00;
    }
    ga_fit_source source;
    test_ok(ga_fit_source_create(&b.fit, b.probe, &source, NULL), NULL);
    test_ok(ga_fit_source_next(&source, NULL), NULL);
    for (int32_t i = 0; i < source.batch.rows; i++) {
        for (int k = 0; k < SIDE * SIDE; k++) {
            assert_true(source.batch.maps[i * MAPS * SIDE * SIDE + k] == 0.0f);
        }
        assert_true(source.batch.scalars[i] == 0.0f && isfinite(source.batch.prompt[i]));
    }
    ga_fit_source_destroy(&source);
    bench_free(&b);
    world_free(&w);
}

/* ---- targets ---- */

static void each_target_gets_its_ridge_its_head_and_its_calibration(void **state) {
    (void)state;
    world w = make_world(29, 120);
    w.dataset.target_count = 2;
    w.dataset.targets = w.targets;
    const char *const names[] = {"reward", "other"};
    w.dataset.target_names = names;
    ga_train_options options = test_options();
    options.rounds_max = 12;
    bench b;
    ga_error error = {0};
    bench_make(&w, &options, NULL, 2, &b);
    const size_t count = (size_t)b.probe->inputs.pooled_count;
    uint8_t *varies = malloc(count);
    float *penalty = malloc(count * sizeof *penalty);
    for (size_t i = 0; i < count; i++) {
        varies[i] = i < 2 * GA_INPUTS_MAP_STATISTICS || i == count - 2;
        penalty[i] = 1.0f;
    }
    test_ok(
        ga_fit_targets(&w.dataset, &b.split.train, b.pooled, varies, penalty, NULL, b.probe, &error), &error);
    assert_true(fabs(b.probe->others[0].scale - 0.7) < 0.1);
    assert_true(b.probe->others[0].ridge.within[0] < -0.1f); /* the mean of the bright map, the wrong way */
    ga_fit_report report;
    test_ok(ga_fit_network(&b.fit, b.probe, &report, &error), &error);
    ga_fit_report_destroy(&report);
    test_ok(ga_fit_calibrate(&w.dataset, &b.split.held, NULL, b.probe, &error), &error);
    const ga_calibration *other = ga_probe_calibration(b.probe, 1);
    assert_true(fabs(other->slope - 1.0) < 0.15);
    assert_true(fabs(other->intercept + 2.0) < 0.15);
    assert_true(other->sigma_r2 < 0.1 * 0.49);
    assert_true(b.probe->info.residual_variance > 0.0);
    free(varies);
    free(penalty);
    bench_free(&b);
    world_free(&w);
}

/* ---- intervals ---- */

#define NEW_GROUPS 1500

/* Rows of known truth: score with slope, group offsets, noise that differs by row where asked. */
typedef struct planted_rows {
    int64_t begin[NEW_GROUPS + 1];
    int32_t fold[NEW_GROUPS];
    float target[NEW_GROUPS * 8], weight[NEW_GROUPS * 8], score[NEW_GROUPS * 8], level[NEW_GROUPS * 8],
        variance[NEW_GROUPS * 8];
    ga_grouped grouped;
} planted_rows;

static planted_rows *plant_rows(uint64_t test_case, int32_t groups, bool differs) {
    planted_rows *p = calloc(1, sizeof *p);
    ga_random random = test_random(test_case);
    for (int32_t group = 0; group < groups; group++) {
        const double offset = 0.3 * ga_random_normal(&random);
        p->begin[group] = (int64_t)group * 8;
        for (int64_t i = p->begin[group]; i < p->begin[group] + 8; i++) {
            const double score = ga_random_normal(&random);
            const double sd = differs ? 0.1 + 0.6 * ga_random_uniform(&random) : 0.35;
            p->weight[i] = 1.0f;
            p->score[i] = (float)score;
            p->target[i] = (float)(1.0 + 0.5 * score + offset + sd * ga_random_normal(&random));
            p->variance[i] = (float)(2.5 * sd * sd); /* what the network says: right but for a factor */
        }
    }
    p->begin[groups] = (int64_t)groups * 8;
    p->grouped = (ga_grouped){
        .groups = groups, .begin = p->begin, .target = p->target, .weight = p->weight, .fold = p->fold};
    return p;
}

static double coverage_of(
    const planted_rows *p, const ga_calibration *calibration, double share, bool narrow_half_alone) {
    double inside = 0.0, rows = 0.0;
    for (int64_t i = 0; i < p->begin[p->grouped.groups]; i++) {
        if (narrow_half_alone && (double)p->variance[i] > 2.5 * 0.16) {
            continue;
        }
        double low, high;
        const double mean =
            calibration->intercept + calibration->slope * (double)p->score[i] + (double)p->level[i];
        const double variance = ga_calibration_variance(calibration, (double)p->variance[i]);
        ga_calibration_interval(calibration, mean, variance, share, &low, &high);
        inside += (double)p->target[i] >= low && (double)p->target[i] <= high ? 1.0 : 0.0;
        rows += 1.0;
    }
    return inside / rows;
}

static void check_coverage(uint64_t test_case, bool differs) {
    planted_rows *held = plant_rows(test_case, 300, differs);
    planted_rows *new_rows = plant_rows(test_case + 100, NEW_GROUPS, differs); /* 12,000 new rows */
    ga_calibration calibration;
    test_ok(ga_calibrate(&held->grouped, held->score, held->level, NULL, &calibration, NULL), NULL);
    test_ok(ga_calibrate_variance(
                &held->grouped, held->score, held->level, held->variance, NULL, &calibration, NULL),
        NULL);
    if (differs) {
        assert_true(fabs(calibration.variance_factor - 0.4) < 0.04);
    }
    const double covered90 = coverage_of(new_rows, &calibration, 0.9, false);
    const double covered50 = coverage_of(new_rows, &calibration, 0.5, false);
    assert_true(covered90 > 0.87 && covered90 < 0.93);
    assert_true(covered50 > 0.46 && covered50 < 0.54);
    if (differs) { /* also where the rows are easy: one variance for all would cover too much there */
        const double easy = coverage_of(new_rows, &calibration, 0.9, true);
        assert_true(easy > 0.86 && easy < 0.94);
    }
    free(held);
    free(new_rows);
}

static void intervals_cover_new_rows_as_promised(void **state) {
    (void)state;
    check_coverage(40, false);
    check_coverage(41, true);
}

/* Variances that say nothing about the rows are not used. */
static void a_variance_that_knows_nothing_is_left_out(void **state) {
    (void)state;
    planted_rows *p = plant_rows(42, 400, false);
    ga_random random = test_random(43);
    for (int64_t i = 0; i < p->begin[400]; i++) {
        p->variance[i] = (float)exp(2.0 * ga_random_normal(&random));
    }
    ga_calibration calibration;
    test_ok(ga_calibrate(&p->grouped, p->score, p->level, NULL, &calibration, NULL), NULL);
    test_ok(
        ga_calibrate_variance(&p->grouped, p->score, p->level, p->variance, NULL, &calibration, NULL), NULL);
    assert_true(calibration.variance_factor == 0.0);
    assert_true(ga_calibration_variance(&calibration, 123.0) == calibration.sigma_r2);
    assert_true(ga_calibration_variance(&calibration, (double)NAN) == calibration.sigma_r2);
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_gradient_by_differences),
        cmocka_unit_test(loss_is_zero_at_the_targets_and_ignores_the_level),
        cmocka_unit_test(a_row_that_is_hard_to_predict_keeps_its_weight),
        cmocka_unit_test(the_variance_term_finds_the_variance),
        cmocka_unit_test(a_network_learns_what_depends_on_the_prompt),
        cmocka_unit_test(pooled_rows_are_made_where_they_are_not_given),
        cmocka_unit_test(a_continued_training_ends_like_an_uninterrupted_one),
        cmocka_unit_test(a_training_that_was_stopped_inside_a_round_goes_on_there),
        cmocka_unit_test(a_head_start_is_where_training_begins),
        cmocka_unit_test(any_number_of_processes_gives_the_same_network),
        cmocka_unit_test(low_rewards_weigh_more_where_that_is_asked),
        cmocka_unit_test(groups_larger_than_a_batch_come_in_pieces),
        cmocka_unit_test(unknown_features_count_as_the_mean),
        cmocka_unit_test(each_target_gets_its_ridge_its_head_and_its_calibration),
        cmocka_unit_test(intervals_cover_new_rows_as_promised),
        cmocka_unit_test(a_variance_that_knows_nothing_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
