/* Lessons: features in memory or fetched are the same, parts of the inputs, several steps and targets, and
 * memory that does not grow with the record. */
#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/record/stream.h"
#include "grpo_accel/record/writer.h"
#include "grpo_accel/session/lesson_runs.h"
#include "grpo_accel/session/lessons.h"
#include "grpo_accel/session/projection.h"

#define CANDIDATES 2
#define GROUP 4  /* rows of a prompt in a batch of a rank */
#define BATCH 12 /* rows of a batch of a rank */
#define LATENT_BYTES 32

static ga_feature_options feature_options(int32_t channels) {
    return (ga_feature_options){.inputs = GA_INPUT_BIT(GA_INPUT_ATTENTION) | GA_INPUT_BIT(GA_INPUT_X0) |
                                          GA_INPUT_BIT(GA_INPUT_PREVIEW),
        .map_size = 4,
        .attention_blocks = 2,
        .token_height = 4,
        .token_width = 4,
        .latent_channels = channels,
        .latent_height = 4,
        .latent_width = 4,
        .preview_scores = 1};
}

static ga_record_layout make_layout(int32_t rank, int32_t ranks, int32_t channels) {
    ga_record_layout layout;
    memset(&layout, 0, sizeof layout);
    (void)snprintf(layout.run_id, sizeof layout.run_id, "lessons");
    (void)snprintf(layout.model, sizeof layout.model, "toy");
    layout.rank = rank;
    layout.world_size = ranks;
    layout.candidate_count = CANDIDATES;
    layout.candidate_steps[0] = 2;
    layout.candidate_steps[1] = 4;
    layout.candidate_sigmas[0] = 0.75;
    layout.candidate_sigmas[1] = 0.5;
    layout.scorer_count = 2;
    (void)snprintf(layout.scorers[0], sizeof layout.scorers[0], "aesthetic");
    (void)snprintf(layout.scorers[1], sizeof layout.scorers[1], "shapes");
    const ga_feature_options options = feature_options(channels);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_schema_make(&options, &layout.features, &error), &error);
    layout.final_kind = GA_RECORD_FINAL_LATENT;
    layout.final_shape[0] = 1;
    layout.final_shape[1] = layout.final_shape[2] = 4;
    return layout;
}

/* What stands at place k of a row's features after candidate c. */
static float value_of(uint64_t row_id, int32_t candidate, int32_t k) {
    return (float)((row_id * 7 + (uint64_t)candidate * 31 + (uint64_t)k) % 1024) / 8.0f;
}

static void append_row(ga_record *record, const ga_record_layout *layout, int32_t number) {
    const int32_t values = layout->features.values_per_row;
    ga_half *features = calloc((size_t)values * CANDIDATES, sizeof *features);
    ga_half final[16];
    assert_non_null(features);
    const uint64_t row_id = (uint64_t)layout->rank << 32 | (uint64_t)number;
    for (int32_t c = 0; c < CANDIDATES; c++) {
        for (int32_t k = 0; k < values; k++) {
            features[c * values + k] = ga_half_from_float(value_of(row_id, c, k));
        }
    }
    for (int32_t k = 0; k < 16; k++) {
        final[k] = ga_half_from_float((float)number + (float)k / 16.0f);
    }
    const float rewards[2] = {(float)(number % 5), (float)(number % 3)};
    ga_record_row row;
    memset(&row, 0, sizeof row);
    const int32_t batch = number / BATCH, prompt = number % BATCH / GROUP + 3 * (batch % 5);
    row.row = (ga_row){.row_id = row_id,
        .batch = (uint64_t)batch,
        .group = (uint64_t)batch * 100 + (uint64_t)prompt,
        .prompt_hash = {(uint8_t)prompt, 9},
        .rank = layout->rank,
        .index = number % BATCH,
        .update = (uint32_t)batch / 2};
    row.step = 2;
    row.steps_total = 10;
    row.inclusion = 1.0f;
    row.kept = 1;
    row.reward_combined = rewards[0] + rewards[1];
    row.rewards = rewards;
    row.features[0] = features;
    row.features[1] = number % 7 == 0 ? NULL : features + values; /* not taken */
    row.final = final;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_append(record, &row, 1, &error), &error);
    free(features);
}

static void write_record(const char *folder, int32_t ranks, int32_t rows, int32_t channels, int32_t segment) {
    ga_error error;
    ga_error_clear(&error);
    for (int32_t rank = 0; rank < ranks; rank++) {
        const ga_record_options options = {
            .folder = folder, .layout = make_layout(rank, ranks, channels), .segment_rows = segment};
        ga_record *record = NULL;
        test_ok(ga_record_open(&options, &record, &error), &error);
        for (int32_t i = 0; i < rows; i++) {
            append_row(record, &options.layout, i);
        }
        test_ok(ga_record_close(&record, &error), &error);
    }
}

static ga_lessons *read_lessons(const ga_lessons_options *options) {
    ga_error error;
    ga_error_clear(&error);
    ga_lessons *lessons = NULL;
    test_ok(ga_lessons_read(options, &lessons, &error), &error);
    return lessons;
}

static void fetched_and_loaded_features_are_the_same(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 2, 120, 3, 50);
    ga_lessons *loaded = read_lessons(&(ga_lessons_options){.path = folder, .step = GA_LESSONS_ALL_STEPS});
    ga_lessons *fetched = read_lessons(
        &(ga_lessons_options){.path = folder, .step = GA_LESSONS_ALL_STEPS, .memory_bytes = 4096});
    const ga_dataset *a = ga_lessons_dataset(loaded), *b = ga_lessons_dataset(fetched);
    const ga_record_table *table = ga_lessons_table(loaded);
    assert_non_null(a->features);
    assert_null(b->features);
    assert_null(table->features);
    assert_int_equal(a->rows, 2 * 2 * 120);
    const size_t values = (size_t)a->schema->values_per_row;
    ga_half *row = calloc(values, sizeof *row);
    ga_random random = test_random(1);
    int complete = 0;
    for (int i = 0; i < 2000; i++) { /* in any order */
        const int64_t number = (int64_t)ga_random_below(&random, (uint32_t)a->rows);
        ga_error error;
        ga_error_clear(&error);
        test_ok(ga_dataset_features(b, &number, 1, row, &error), &error);
        assert_int_equal(a->complete[number], b->complete[number]);
        if (a->complete[number] != 0) {
            complete++;
            assert_memory_equal(row, a->features + (size_t)number * values, values * sizeof *row);
            const uint64_t row_id = table->row_id[number / 2];
            for (size_t k = 0; k < values; k++) {
                assert_float_equal(
                    ga_half_to_float(row[k]), value_of(row_id, (int32_t)(number % 2), (int32_t)k), 0.05);
            }
        }
    }
    assert_in_range(complete, 1500, 1999);
    free(row);
    ga_lessons_free(&loaded);
    ga_lessons_free(&fetched);
    test_folder_remove(folder);
}

static void steps_are_rows_with_their_own_noise_level_and_group(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 1, 24, 3, 50);
    const int32_t steps[2] = {2, 4};
    ga_lessons *both = read_lessons(&(ga_lessons_options){.path = folder, .steps = steps, .step_count = 2});
    ga_lessons *second = read_lessons(&(ga_lessons_options){.path = folder, .step = 4});
    const ga_dataset *a = ga_lessons_dataset(both), *b = ga_lessons_dataset(second);
    assert_int_equal(a->rows, 48);
    assert_int_equal(b->rows, 24);
    for (int64_t i = 0; i < 24; i++) {
        assert_float_equal(a->sigma[2 * i], 0.75f, 0.0);
        assert_float_equal(a->sigma[2 * i + 1], 0.5f, 0.0);
        assert_int_equal(a->step[2 * i + 1], 4);
        assert_true(a->group[2 * i] != a->group[2 * i + 1]);
        assert_int_equal(a->prompt[2 * i], a->prompt[2 * i + 1]);
        assert_int_equal(a->complete[2 * i + 1], i % 7 != 0);
        assert_int_equal(b->complete[i], i % 7 != 0);
        assert_float_equal(b->sigma[i], 0.5f, 0.0);
    }
    ga_lessons *none = NULL;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(
        ga_lessons_read(&(ga_lessons_options){.path = folder, .step = 3}, &none, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "after step 3"));
    ga_lessons_free(&both);
    ga_lessons_free(&second);
    test_folder_remove(folder);
}

static void scorers_become_targets(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 1, 24, 3, 50);
    ga_lessons *all = read_lessons(&(ga_lessons_options){.path = folder, .targets = "all"});
    ga_lessons *one =
        read_lessons(&(ga_lessons_options){.path = folder, .targets = "shapes,combined,shapes"});
    const ga_dataset *a = ga_lessons_dataset(all), *b = ga_lessons_dataset(one);
    assert_int_equal(a->target_count, 3);
    assert_int_equal(b->target_count, 2);
    assert_string_equal(a->target_names[0], "combined");
    assert_string_equal(a->target_names[1], "aesthetic");
    assert_string_equal(b->target_names[1], "shapes");
    for (int64_t i = 0; i < a->rows; i++) {
        assert_float_equal(ga_dataset_target(a, i, 0), (float)(i % 5 + i % 3), 0.0);
        assert_float_equal(ga_dataset_target(a, i, 1), (float)(i % 5), 0.0);
        assert_float_equal(ga_dataset_target(b, i, 1), (float)(i % 3), 0.0);
    }
    ga_lessons *none = NULL;
    ga_error error;
    ga_error_clear(&error);
    const ga_lessons_options unknown = {.path = folder, .targets = "beauty"};
    assert_int_equal(ga_lessons_read(&unknown, &none, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "beauty"));
    ga_lessons_free(&all);
    ga_lessons_free(&one);
    test_folder_remove(folder);
}

static void part_of_the_inputs_has_the_layout_of_a_run_with_only_these(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 1, 24, 3, 50);
    const uint32_t inputs = GA_INPUT_BIT(GA_INPUT_X0) | GA_INPUT_BIT(GA_INPUT_PREVIEW);
    ga_lessons *lessons = read_lessons(&(ga_lessons_options){.path = folder, .inputs = inputs});
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    ga_feature_options options = feature_options(3);
    options.inputs = inputs;
    ga_feature_schema wanted;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_schema_make(&options, &wanted, &error), &error);
    assert_int_equal(dataset->schema->id, wanted.id);
    assert_int_equal(dataset->schema->values_per_row, wanted.values_per_row);
    assert_int_equal(ga_projection_inputs(dataset->schema), inputs);
    const int32_t skipped = ga_lessons_table(lessons)->layout.features.inputs[1].offset;
    for (int64_t i = 0; i < dataset->rows; i++) {
        for (int32_t k = 0; k < wanted.values_per_row; k++) {
            const float value = ga_half_to_float(dataset->features[i * wanted.values_per_row + k]);
            assert_float_equal(value, value_of((uint64_t)i, 0, skipped + k), 0.05);
        }
    }
    ga_lessons_free(&lessons);
    ga_lessons *none = NULL;
    const ga_lessons_options missing = {.path = folder, .inputs = GA_INPUT_BIT(GA_INPUT_LOOKAHEAD)};
    assert_int_equal(ga_lessons_read(&missing, &none, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "lookahead"));
    test_folder_remove(folder);
}

static void every_prompt_is_brought_by_one_process(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 1, 240, 3, 100);
    int brought[240] = {0}, processes_used = 0;
    ga_part whole = {0};
    for (int32_t rank = -1; rank < 3; rank++) {
        const ga_lessons_options options = {
            .path = folder, .rank = rank < 0 ? 0 : rank, .ranks = rank < 0 ? 1 : 3};
        ga_lessons *lessons = read_lessons(&options);
        const ga_dataset *dataset = ga_lessons_dataset(lessons);
        ga_part part;
        ga_error error;
        ga_error_clear(&error);
        test_ok(ga_part_all(dataset, false, 10.0, &part, &error), &error);
        int32_t order[64], whole_order[64];
        if (rank < 0) {
            whole = part;
            ga_lessons_free(&lessons);
            continue;
        }
        assert_int_equal(part.all_groups, whole.all_groups);
        assert_memory_equal(part.all_key, whole.all_key, (size_t)whole.all_groups * sizeof *whole.all_key);
        assert_memory_equal(part.all_rows, whole.all_rows, (size_t)whole.all_groups * sizeof *whole.all_rows);
        assert_in_range(part.all_groups, 32, 64);
        test_ok(ga_part_shuffle(dataset, &part, 5, 2, order, &error), &error);
        test_ok(ga_part_shuffle(dataset, &whole, 5, 2, whole_order, &error), &error);
        assert_memory_equal(order, whole_order, (size_t)part.all_groups * sizeof *order);
        for (int64_t i = 0; i < part.count; i++) {
            brought[part.rows[i]]++;
        }
        processes_used += part.count > 0 ? 1 : 0;
        ga_part_destroy(&part);
        ga_lessons_free(&lessons);
    }
    for (int i = 0; i < 240; i++) {
        assert_int_equal(brought[i], 1);
    }
    assert_in_range(processes_used, 2, 3);
    ga_part_destroy(&whole);
    test_folder_remove(folder);
}

static void windows_of_neighbours_are_shuffled_in_any_order(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 1, 1200, 3, 100);
    ga_lessons *lessons = read_lessons(&(ga_lessons_options){.path = folder, .memory_bytes = 1 << 17});
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    ga_error error;
    ga_error_clear(&error);
    ga_part part;
    test_ok(ga_part_all(dataset, false, 10.0, &part, &error), &error);
    int32_t *order = calloc((size_t)part.all_groups, sizeof *order);
    int *seen = calloc((size_t)part.all_groups, sizeof *seen);
    test_ok(ga_part_shuffle(dataset, &part, 1, 0, order, &error), &error);
    int64_t far = 0, sorted = 0;
    for (int32_t i = 0; i < part.all_groups; i++) {
        seen[order[i]]++;
        if (i > 0) {
            const int64_t distance = llabs((long long)order[i] - order[i - 1]) * GROUP;
            far += distance > dataset->window_rows ? 1 : 0;
            sorted += order[i] == order[i - 1] + 1 ? 1 : 0;
        }
    }
    for (int32_t i = 0; i < part.all_groups; i++) {
        assert_int_equal(seen[i], 1);
    }
    assert_in_range(dataset->window_rows, GROUP, dataset->rows / 2);
    assert_in_range(far, 0, dataset->rows / dataset->window_rows + 1); /* only from window to window */
    assert_in_range(sorted, 0, part.all_groups / 4);
    free(order);
    free(seen);
    ga_part_destroy(&part);
    ga_lessons_free(&lessons);
    test_folder_remove(folder);
}

static void finals_are_fetched_by_row(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 2, 60, 3, 25);
    ga_lessons *lessons = read_lessons(&(ga_lessons_options){.path = folder});
    const ga_record_table *table = ga_lessons_table(lessons);
    ga_record_stream *stream = NULL;
    ga_error error;
    ga_error_clear(&error);
    const ga_record_stream_options options = {.cache_bytes = 1024};
    test_ok(ga_record_stream_open(table, &options, &stream, &error), &error);
    assert_int_equal(ga_record_stream_state_bytes(stream), LATENT_BYTES);
    for (int64_t row = table->rows - 1; row >= 0; row--) {
        ga_half final[16];
        test_ok(ga_record_stream_read(stream, &row, NULL, 1, final, &error), &error);
        const float number = (float)(table->row_id[row] & 0xffffffffu);
        assert_float_equal(ga_half_to_float(final[8]), number + 0.5f, 0.05);
    }
    ga_record_stream_close(&stream);
    ga_lessons_free(&lessons);
    test_folder_remove(folder);
}

/* Rows of the window but for held prompts; a run that only shares the name is another one. */
static void learned_rows_are_known_again(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 2, 120, 1, 24);
    const ga_lessons_options all = {.path = folder, .step = GA_LESSONS_ALL_STEPS};
    const ga_lessons_options newest = {.path = folder, .newest_rows = 100};
    ga_lessons *window = read_lessons(&newest), *lessons = read_lessons(&all);
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    ga_learned_run runs[GA_LEARNED_RUNS_MAX];
    int32_t count = 0;
    test_ok(ga_lesson_runs_list(window, runs, &count, NULL), NULL);
    assert_int_equal(count, 1);
    assert_string_equal(runs[0].id, "lessons");
    assert_int_equal(runs[0].newest_update, 4); /* 10 batches, two an update */
    assert_true(runs[0].oldest_update > 0 && runs[0].oldest_update < 4);
    assert_true(runs[0].newest_row == (UINT64_C(1) << 32 | 119));
    assert_int_equal(runs[0].witness_count, GA_LEARNED_WITNESSES);
    uint8_t *mark = calloc((size_t)dataset->rows, 1);
    uint64_t *held = malloc(sizeof *held);
    assert_non_null(mark);
    assert_non_null(held);
    held[0] = dataset->prompt[dataset->rows - 1];
    ga_learned learned = {.run_count = 0};
    ga_learned_set(&learned, runs, 1, held, 1);
    test_ok(ga_lesson_runs_mark(lessons, &learned, mark, NULL), NULL);
    int64_t marked = 0;
    for (int64_t i = 0; i < dataset->rows; i++) {
        const bool known = dataset->update[i] >= runs[0].oldest_update && dataset->prompt[i] != held[0];
        assert_int_equal(mark[i], known);
        marked += mark[i];
    }
    assert_true(marked > 0 && marked < dataset->rows);
    for (int32_t i = 0; i < GA_LEARNED_WITNESSES; i++) {
        learned.runs[0].witness[i].digest++;
    }
    test_ok(ga_lesson_runs_mark(lessons, &learned, mark, NULL), NULL);
    for (int64_t i = 0; i < dataset->rows; i++) {
        assert_int_equal(mark[i], 0);
    }
    free(mark);
    ga_learned_clear(&learned);
    ga_lessons_free(&window);
    ga_lessons_free(&lessons);
    test_folder_remove(folder);
}

static void a_segment_that_vanishes_is_an_error_with_its_name(void **state) {
    (void)state;
    char *folder = test_folder_make();
    write_record(folder, 1, 100, 3, 50);
    ga_lessons *lessons = read_lessons(&(ga_lessons_options){.path = folder, .memory_bytes = 4096});
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    const ga_record_table *table = ga_lessons_table(lessons);
    const int64_t row = dataset->rows - 1;
    assert_int_equal(unlink(table->sources[table->source[row]].path), 0);
    ga_half *values = calloc((size_t)dataset->schema->values_per_row, sizeof *values);
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_dataset_features(dataset, &row, 1, values, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "segment-"));
    free(values);
    ga_lessons_free(&lessons);
    test_folder_remove(folder);
}

/* ---- memory ---- */

static long peak_kilobytes(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kilobytes = -1;
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kilobytes = strtol(line + 6, NULL, 10);
        }
    }
    if (status != NULL) {
        (void)fclose(status);
    }
    return kilobytes;
}

/* Reads the small columns, then every feature once in the order of a training; exit code 0 if that worked. */
static int pass_over(const char *folder, int answer) {
    ga_error error;
    ga_error_clear(&error);
    ga_lessons *lessons = NULL;
    ga_part part;
    const ga_lessons_options options = {.path = folder, .memory_bytes = (size_t)2 << 20};
    if (ga_lessons_read(&options, &lessons, &error) != GA_OK ||
        ga_part_all(ga_lessons_dataset(lessons), false, 10.0, &part, &error) != GA_OK) {
        return 1;
    }
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    int32_t *order = calloc((size_t)part.all_groups, sizeof *order);
    ga_half *values = calloc((size_t)dataset->schema->values_per_row * GROUP, sizeof *values);
    if (order == NULL || values == NULL || ga_part_shuffle(dataset, &part, 0, 0, order, &error) != GA_OK) {
        return 1;
    }
    for (int32_t i = 0; i < part.all_groups; i++) {
        const int64_t first = part.begin[part.all_place[order[i]]];
        if (ga_dataset_features(dataset, part.rows + first, GROUP, values, &error) != GA_OK) {
            return 1;
        }
    }
    const long peak = peak_kilobytes();
    const bool written = write(answer, &peak, sizeof peak) == (ssize_t)sizeof peak;
    free(order);
    free(values);
    ga_part_destroy(&part);
    ga_lessons_free(&lessons);
    return written ? 0 : 1;
}

static long peak_of_pass(const char *folder) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(pass_over(folder, ends[1]));
    }
    int status = 0;
    long peak = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(read(ends[0], &peak, sizeof peak), (ssize_t)sizeof peak);
    (void)close(ends[0]);
    (void)close(ends[1]);
    return peak;
}

static void memory_does_not_grow_with_the_features(void **state) {
    (void)state;
    const int32_t rows = 2040, channels = 60; /* two steps of 1 KB and more a row */
    const long small_bytes = 420;             /* of all small columns of a row, lists and parts */
    char *few = test_folder_make(), *many = test_folder_make();
    write_record(few, 1, rows, channels, 256);
    write_record(many, 1, 8 * rows, channels, 256);
    const long peak_few = peak_of_pass(few), peak_many = peak_of_pass(many);
    const long columns = 7L * rows * small_bytes / 1024;
    printf("peak %ld kB, with 8 times the rows %ld kB (small columns %ld kB more)\n", peak_few, peak_many,
        columns);
    assert_true(peak_many - peak_few < peak_few / 5 + columns);
    test_folder_remove(few);
    test_folder_remove(many);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fetched_and_loaded_features_are_the_same),
        cmocka_unit_test(steps_are_rows_with_their_own_noise_level_and_group),
        cmocka_unit_test(scorers_become_targets),
        cmocka_unit_test(part_of_the_inputs_has_the_layout_of_a_run_with_only_these),
        cmocka_unit_test(every_prompt_is_brought_by_one_process),
        cmocka_unit_test(windows_of_neighbours_are_shuffled_in_any_order),
        cmocka_unit_test(finals_are_fetched_by_row), cmocka_unit_test(learned_rows_are_known_again),
        cmocka_unit_test(a_segment_that_vanishes_is_an_error_with_its_name),
        cmocka_unit_test(memory_does_not_grow_with_the_features)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
