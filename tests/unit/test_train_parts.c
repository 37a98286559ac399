/* Parts of a dataset, labels under other prompts that may be seen, and the file of a training's state. */
#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>

#include "probe/train/labels.h"
#include "probe/train/state.h"

#define ROWS 120
#define GROUP 4
#define PROMPTS 10 /* three groups each */
#define LABELS 3

typedef struct world {
    ga_feature_schema schema;
    ga_half features[ROWS];
    float reward[ROWS], inclusion[ROWS], sigma[ROWS];
    uint64_t group[ROWS], prompt[ROWS];
    uint32_t update[ROWS];
    uint8_t mine[ROWS];
    int64_t begin[ROWS];
    int32_t count[ROWS], vector[ROWS * LABELS];
    float other_reward[ROWS * LABELS];
    uint64_t other_prompt[ROWS * LABELS];
    ga_half vectors[PROMPTS];
    ga_more_labels more;
    ga_dataset dataset;
} world;

static uint64_t key_of(int prompt) {
    return 1000 + 7 * (uint64_t)prompt;
}

static world *make_world(void) {
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->schema = (ga_feature_schema){1, {{GA_INPUT_PREVIEW, 1, 1, 1, 0}}, 1, 9};
    for (int i = 0; i < ROWS; i++) {
        const int group = i / GROUP, prompt = group % PROMPTS;
        w->reward[i] = (float)(i % 5);
        w->inclusion[i] = 1.0f;
        w->sigma[i] = 0.5f;
        w->group[i] = 5000 - (uint64_t)group; /* keys fall while rows rise */
        w->prompt[i] = key_of(prompt);
        w->update[i] = (uint32_t)(group / PROMPTS);
        w->mine[i] = prompt % 2 == 0;
        w->begin[i] = i * LABELS;
        w->count[i] = LABELS;
        for (int k = 0; k < LABELS; k++) {
            const int other = (prompt + 1 + k) % PROMPTS;
            w->other_prompt[i * LABELS + k] = key_of(other);
            w->other_reward[i * LABELS + k] = (float)(100 * i + other);
            w->vector[i * LABELS + k] = other;
        }
    }
    w->more = (ga_more_labels){
        1, w->begin, w->count, w->other_reward, w->other_prompt, w->vector, w->vectors, PROMPTS};
    w->dataset = (ga_dataset){.schema = &w->schema,
        .rows = ROWS,
        .features = w->features,
        .reward = w->reward,
        .group = w->group,
        .prompt = w->prompt,
        .update = w->update,
        .inclusion = w->inclusion,
        .sigma = w->sigma,
        .more = &w->more};
    return w;
}

static void groups_stand_in_the_order_of_their_rows(void **state) {
    (void)state;
    world *w = make_world();
    ga_error error;
    ga_error_clear(&error);
    ga_part part;
    test_ok(ga_part_all(&w->dataset, false, 10.0, &part, &error), &error);
    assert_int_equal(part.all_groups, ROWS / GROUP);
    for (int i = 0; i < ROWS; i++) {
        assert_int_equal(part.rows[i], i);
    }
    assert_int_equal(part.all_prompt[3], key_of(3));
    ga_part_destroy(&part);
    free(w);
}

static void a_thin_part_has_every_kth_group_in_any_number_of_processes(void **state) {
    (void)state;
    world *w = make_world();
    ga_error error;
    ga_error_clear(&error);
    ga_part part, thin, same;
    test_ok(ga_part_all(&w->dataset, false, 10.0, &part, &error), &error);
    test_ok(ga_part_thin(&part, ROWS / 3, &thin, &error), &error);
    test_ok(ga_part_thin(&part, ROWS, &same, &error), &error);
    assert_int_equal(thin.all_groups, ROWS / GROUP / 3);
    assert_int_equal(thin.count, ROWS / 3);
    assert_int_equal(same.count, ROWS);
    assert_int_equal(thin.rows[GROUP], 3 * GROUP);
    w->dataset.mine = w->mine;
    ga_part shared, shared_thin;
    test_ok(ga_part_all(&w->dataset, false, 10.0, &shared, &error), &error);
    test_ok(ga_part_thin(&shared, ROWS / 3, &shared_thin, &error), &error);
    assert_int_equal(shared_thin.all_groups, thin.all_groups);
    assert_memory_equal(shared_thin.all_key, thin.all_key, (size_t)thin.all_groups * sizeof *thin.all_key);
    for (int64_t i = 0; i < shared_thin.count; i++) {
        assert_int_equal(w->mine[shared_thin.rows[i]], 1);
    }
    assert_in_range(shared_thin.count, 1, thin.count - 1);
    ga_part *parts[] = {&part, &thin, &same, &shared, &shared_thin};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        ga_part_destroy(parts[i]);
    }
    free(w);
}

static void prompts_that_judge_do_not_teach(void **state) {
    (void)state;
    world *w = make_world();
    ga_error error;
    ga_error_clear(&error);
    ga_split split;
    test_ok(ga_dataset_split(&w->dataset, 0.4, 10.0, &split, &error), &error);
    ga_part clean;
    test_ok(ga_part_of_prompts(&w->dataset, &split.train, 10.0, &clean, &error), &error);
    assert_int_equal(clean.count, split.train.count);
    assert_memory_equal(clean.rows, split.train.rows, (size_t)clean.count * sizeof *clean.rows);
    ga_kept_labels kept;
    test_ok(ga_labels_keep(&w->dataset, &split.train, &kept, &error), &error);
    uint64_t *prompts;
    int32_t count;
    test_ok(ga_part_prompts(&split.train, &prompts, &count, &error), &error);
    assert_in_range(count, 1, PROMPTS - 1);
    int64_t wanted = 0;
    for (int i = 0; i < ROWS * LABELS; i++) {
        wanted += ga_prompts_have(prompts, count, w->other_prompt[i]) ? 1 : 0;
    }
    assert_int_equal(kept.label_count, wanted);
    w->dataset.more = &kept.view;
    for (int64_t row = 0; row < ROWS; row++) {
        int32_t labels;
        const int64_t first = ga_dataset_more(&w->dataset, row, &labels);
        for (int64_t k = first; k < first + labels; k++) {
            assert_true(ga_prompts_have(prompts, count, kept.prompt[k]));
            assert_float_equal(kept.reward[k], (float)(100 * row + kept.vector[k]), 0.0);
            assert_int_equal(kept.prompt[k], key_of(kept.vector[k]));
        }
    }
    free(prompts);
    ga_labels_free(&kept);
    ga_part_destroy(&clean);
    ga_split_destroy(&split);
    free(w);
}

/* ---- states ---- */

static ga_fit_state make_state(float *arrays, ga_train_progress *curve) {
    for (int i = 0; i < 50; i++) {
        arrays[i] = (float)i / 7.0f;
    }
    arrays[7] = -0.0f;
    for (int i = 0; i < 3; i++) {
        curve[i] = (ga_train_progress){i + 1, 60, 0.1 * i, 1.0 / 3.0 + i, -0.25, 0.75};
    }
    return (ga_fit_state){.fingerprint = UINT64_C(0xfedcba9876543210),
        .parameter_count = 10,
        .parameters = arrays,
        .first_moment = arrays + 10,
        .second_moment = arrays + 20,
        .average = arrays + 30,
        .best = arrays + 40,
        .best_spearman = 0.1 + 0.2,
        .step = INT64_C(1) << 40,
        .round = 3,
        .round_steps = 5,
        .round_loss = 1e-300,
        .without_gain = 2,
        .epoch = 77,
        .next_group = 12,
        .next_row = 1,
        .curve_count = 3,
        .curve = curve};
}

static void a_state_comes_back_bit_for_bit(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "probe.state");
    float arrays[50];
    ga_train_progress curve[3];
    const ga_fit_state made = make_state(arrays, curve);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_train_state_write(&made, 1, path, &error), &error);
    ga_train_state read;
    test_ok(ga_train_state_read(path, &read, &error), &error);
    assert_int_equal(read.stage, 1);
    assert_true(read.state.fingerprint == made.fingerprint);
    assert_true(read.state.step == made.step && read.state.epoch == 77);
    assert_memory_equal(&read.state.best_spearman, &made.best_spearman, sizeof(double));
    assert_memory_equal(&read.state.round_loss, &made.round_loss, sizeof(double));
    assert_memory_equal(read.state.parameters, arrays, 10 * sizeof(float));
    assert_memory_equal(read.state.best, arrays + 40, 10 * sizeof(float));
    assert_int_equal(read.state.curve_count, 3);
    assert_memory_equal(&read.state.curve[2].loss, &curve[2].loss, sizeof(double));
    assert_int_equal(read.state.next_group, 12);
    ga_train_state_destroy(&read);
    free(path);
    test_folder_remove(folder);
}

static void a_damaged_state_is_refused(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "probe.state");
    float arrays[50];
    ga_train_progress curve[3];
    const ga_fit_state made = make_state(arrays, curve);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_train_state_write(&made, 0, path, &error), &error);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -6, SEEK_END), 0);
    const int byte = fgetc(file);
    assert_int_equal(fseek(file, -1, SEEK_CUR), 0);
    assert_int_equal(fputc(byte ^ 0x40, file), byte ^ 0x40);
    assert_int_equal(fclose(file), 0);
    ga_train_state read;
    assert_int_equal(ga_train_state_read(path, &read, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "checksum"));
    ga_error_clear(&error);
    assert_int_equal(ga_train_state_read(folder, &read, &error), GA_ERR_FILE);
    free(path);
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_stand_in_the_order_of_their_rows),
        cmocka_unit_test(a_thin_part_has_every_kth_group_in_any_number_of_processes),
        cmocka_unit_test(prompts_that_judge_do_not_teach), cmocka_unit_test(a_state_comes_back_bit_for_bit),
        cmocka_unit_test(a_damaged_state_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
