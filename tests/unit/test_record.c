#include "tests/unit/support.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grpo_accel/record/files.h"
#include "grpo_accel/record/load.h"
#include "grpo_accel/record/manifest.h"
#include "grpo_accel/record/publish.h"
#include "grpo_accel/record/reader.h"
#include "grpo_accel/record/segment.h"
#include "grpo_accel/record/verify.h"
#include "grpo_accel/record/writer.h"

/* HDF5 1.10.8 leaks a little of what it has read when metadata is damaged; not ours to free. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}

#define ROWS_PER_BATCH 10
#define VALUES 50 /* attention 3 × 4 × 4, preview 2 */

/* Everything on: two candidates, two scorers, a map and scalars, prompts, latents. */
static ga_record_layout full_layout(int32_t rank) {
    ga_record_layout layout;
    memset(&layout, 0, sizeof layout);
    (void)snprintf(layout.run_id, sizeof layout.run_id, "run-7");
    (void)snprintf(layout.model, sizeof layout.model, "shapes/sd3");
    layout.config_fingerprint = UINT64_C(0xfedcba9876543210);
    layout.rank = rank;
    layout.world_size = 3;
    layout.candidate_count = 2;
    layout.candidate_steps[0] = 3;
    layout.candidate_steps[1] = 5;
    layout.candidate_sigmas[0] = 0.75;
    layout.candidate_sigmas[1] = 0.5;
    layout.scorer_count = 2;
    (void)snprintf(layout.scorers[0], sizeof layout.scorers[0], "aesthetic");
    (void)snprintf(layout.scorers[1], sizeof layout.scorers[1], "shapes");
    layout.features =
        (ga_feature_schema){2, {{GA_INPUT_ATTENTION, 3, 4, 4, 0}, {GA_INPUT_PREVIEW, 2, 1, 1, 48}}, VALUES,
            UINT64_C(0x1234567890abcdef)};
    layout.final_kind = GA_RECORD_FINAL_LATENT;
    layout.final_shape[0] = 2;
    layout.final_shape[1] = 2;
    layout.final_shape[2] = 3;
    layout.prompt_text = true;
    return layout;
}

/* A row and all it points to, by its number in the rank. */
typedef struct sample {
    ga_record_row row;
    float rewards[2];
    ga_half features[2][VALUES];
    ga_half final[12];
    ga_half state[12];
    char prompt[64];
} sample;

static uint64_t row_id_of(int32_t rank, int32_t number) {
    return (uint64_t)rank << 40 | (uint64_t)number;
}

static bool is_kept(int32_t number) {
    return number % 3 != 1;
}

static void make_sample(sample *made, int32_t rank, int32_t number) {
    memset(made, 0, sizeof *made);
    ga_record_row *row = &made->row;
    const bool kept = is_kept(number);
    const uint64_t batch = (uint64_t)(number / ROWS_PER_BATCH);
    row->row = (ga_row){row_id_of(rank, number), batch, batch * 100 + (uint64_t)(number % 2), {0}, rank,
        number % ROWS_PER_BATCH, (uint32_t)(batch / 2)};
    for (int i = 0; i < 16; i++) {
        row->row.prompt_hash[i] = (uint8_t)(number + i);
    }
    row->step = 3;
    row->steps_total = 10;
    row->probe_version = 4;
    row->prediction[0] = (float)number * 0.5f;
    row->prediction[1] = NAN;
    row->variance[0] = 0.25f;
    row->variance[1] = NAN;
    row->inclusion = 0.4f;
    row->kept = kept;
    row->audit = number / ROWS_PER_BATCH == 3;
    row->advantage = kept ? (float)number - 5.0f : 0.0f;
    row->reward_combined = kept ? (float)number * 2.0f : NAN;
    made->rewards[0] = (float)number + 0.125f;
    made->rewards[1] = (float)number + 0.25f;
    row->rewards = kept ? made->rewards : NULL;
    for (int j = 0; j < VALUES; j++) {
        made->features[0][j] = (ga_half)(0x3c00 + number * 7 + j);
        made->features[1][j] = (ga_half)(0x4000 + number * 3 + j);
    }
    row->features[0] = made->features[0];
    row->features[1] = number % 2 == 0 ? made->features[1] : NULL;
    for (int j = 0; j < 12; j++) {
        made->final[j] = (ga_half)(0x2000 + number + j);
        made->state[j] = (ga_half)(0x2800 + number + j);
    }
    row->final = kept ? made->final : NULL;
    row->state = number % 5 == 0 ? NULL : made->state;
    (void)snprintf(made->prompt, sizeof made->prompt, "%d r\xc3\xb6te Kreise", number);
    row->prompt = number % 4 == 0 ? NULL : made->prompt;
}

static ga_record_options options_for(const char *folder, int32_t rank) {
    ga_record_options options;
    memset(&options, 0, sizeof options);
    options.folder = folder;
    options.layout = full_layout(rank);
    options.segment_rows = 32;
    options.seal_seconds = -1;
    return options;
}

static ga_record *open_record(const ga_record_options *options) {
    ga_record *record = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_open(options, &record, &error), &error);
    return record;
}

/* Rows first … first+count−1 of a rank, with the figures of each batch that ends among them. */
static void append_rows(ga_record *record, int32_t rank, int32_t first, int32_t count) {
    ga_error error;
    ga_error_clear(&error);
    for (int32_t i = first; i < first + count; i++) {
        sample made;
        make_sample(&made, rank, i);
        test_ok(ga_record_append(record, &made.row, 1, &error), &error);
        memset(&made, 0xee, sizeof made); /* copies were taken, or the test will see it */
        if (i % ROWS_PER_BATCH == ROWS_PER_BATCH - 1) {
            const uint64_t batch = (uint64_t)(i / ROWS_PER_BATCH);
            const ga_record_batch figures = {batch, (uint32_t)(batch / 2), ROWS_PER_BATCH, 99,
                GA_RECORD_MODE_PRUNE, batch == 3, 1.5, 0.25, 0.125, 0.0625 * (double)batch, 0.5, 0.75, 1.25,
                2.5};
            test_ok(ga_record_append_batch(record, &figures, &error), &error);
        }
    }
}

static void write_rank(const char *folder, int32_t rank, int32_t first, int32_t count) {
    const ga_record_options options = options_for(folder, rank);
    ga_record *record = open_record(&options);
    append_rows(record, rank, first, count);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_close(&record, &error), &error);
    assert_null(record);
}

static ga_record_table *read_all(const char *path, const ga_record_read_options *options) {
    ga_record_table *table = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_read(path, options, &table, &error), &error);
    return table;
}

static ga_record_report verify(const char *path) {
    ga_record_report report;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_verify(path, &report, &error), &error);
    return report;
}

static void expect_verdict(const char *path, int64_t notes, int64_t gaps, int64_t damages) {
    ga_record_report report = verify(path);
    for (int64_t i = 0; i < report.count; i++) {
        if (notes + gaps + damages == 0) {
            print_message("%s: %s\n", report.findings[i].file, report.findings[i].message);
        }
    }
    assert_int_equal(report.counts[GA_FINDING_NOTE], notes);
    assert_int_equal(report.counts[GA_FINDING_GAP], gaps);
    assert_int_equal(report.counts[GA_FINDING_DAMAGE], damages);
    assert_int_equal(report.count, notes + gaps + damages);
    ga_record_report_free(&report);
}

static void same_float(float a, float b) {
    assert_true((isnan(a) && isnan(b)) || a == b);
}

static void expect_row(const ga_record_table *table, int64_t i, int32_t rank, int32_t number) {
    sample expected;
    make_sample(&expected, rank, number);
    const ga_record_row *row = &expected.row;
    assert_int_equal(table->row_id[i], row->row.row_id);
    assert_int_equal(table->batch[i], row->row.batch);
    assert_int_equal(table->group[i], row->row.group);
    assert_memory_equal(table->prompt_hash[i], row->row.prompt_hash, 16);
    assert_int_equal(table->rank[i], rank);
    assert_int_equal(table->index[i], row->row.index);
    assert_int_equal(table->update[i], row->row.update);
    assert_int_equal(table->step[i], row->step);
    assert_int_equal(table->steps_total[i], row->steps_total);
    assert_int_equal(table->probe_version[i], row->probe_version);
    same_float(table->inclusion[i], row->inclusion);
    assert_int_equal(table->kept[i], row->kept);
    assert_int_equal(table->audit[i], row->audit);
    same_float(table->advantage[i], row->advantage);
    same_float(table->reward[i], row->reward_combined);
    for (int k = 0; k < 2; k++) {
        same_float(table->rewards[i * 2 + k], row->rewards != NULL ? row->rewards[k] : NAN);
        same_float(table->prediction[i * 2 + k], row->prediction[k]);
        same_float(table->variance[i * 2 + k], row->variance[k]);
        for (int j = 0; j < VALUES; j++) {
            const ga_half wanted = row->features[k] != NULL ? row->features[k][j] : GA_RECORD_HALF_NAN;
            assert_int_equal(table->features[(i * 2 + k) * VALUES + j], wanted);
        }
    }
    for (int j = 0; j < 12; j++) {
        ga_half value;
        memcpy(&value, table->finals + ((size_t)i * 12 + (size_t)j) * 2, 2);
        assert_int_equal(value, row->final != NULL ? expected.final[j] : GA_RECORD_HALF_NAN);
        assert_int_equal(
            table->states[i * 12 + j], row->state != NULL ? expected.state[j] : GA_RECORD_HALF_NAN);
    }
    assert_int_equal(table->final_present[i], row->final != NULL);
    assert_string_equal(
        table->prompts + (size_t)i * table->prompt_bytes, row->prompt != NULL ? row->prompt : "");
}

static void every_column_comes_back(void **state) {
    (void)state;
    char *run = test_folder_make();
    char *folder = test_path(run, "record");
    for (int32_t rank = 2; rank >= 0; rank--) {
        write_rank(folder, rank, 0, 100);
    }
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 300);
    assert_int_equal(table->segment_count, 12);
    assert_int_equal(table->refused_count, 0);
    for (int64_t i = 0; i < 300; i++) { /* by update, batch, rank, index */
        const int32_t batch = (int32_t)(i / 30);
        expect_row(table, i, (int32_t)(i / 10) % 3, batch * 10 + (int32_t)(i % 10));
    }
    assert_int_equal(table->batch_count, 30);
    for (int i = 0; i < 30; i++) {
        const ga_record_batch *batch = &table->batches[i];
        assert_int_equal(batch->batch, i / 3);
        assert_int_equal(batch->rank, i % 3);
        assert_int_equal(batch->rows, 10);
        assert_int_equal(batch->mode, GA_RECORD_MODE_PRUNE);
        assert_int_equal(batch->audited, i / 3 == 3);
        assert_true(batch->seconds_denoise == 1.5 && batch->seconds_signal == 0.25);
        assert_true(batch->seconds_reward == 0.125 && batch->seconds_own == 0.0625 * (i / 3));
        assert_true(batch->seconds_preview == 0.5 && batch->seconds_lookahead == 0.75);
        assert_true(batch->seconds_distilled == 1.25 && batch->seconds_features == 2.5);
    }
    assert_string_equal(table->layout.model, "shapes/sd3");
    assert_string_equal(table->layout.run_id, "run-7");
    assert_int_equal(table->layout.rank, -1);
    assert_int_equal(table->layout.world_size, 3);
    assert_true(table->layout.config_fingerprint == UINT64_C(0xfedcba9876543210));
    assert_int_equal(table->layout.candidate_steps[1], 5);
    assert_true(table->layout.candidate_sigmas[0] == 0.75);
    assert_true(table->layout.features.id == UINT64_C(0x1234567890abcdef));
    assert_int_equal(table->layout.features.inputs[1].offset, 48);
    assert_string_equal(table->layout.scorers[1], "shapes");
    ga_record_table_free(&table);
    assert_null(table);
    expect_verdict(run, 0, 0, 0);
    free(folder);
    test_folder_remove(run);
}

/* A record of schema version 1, as the first release wrote it. */
static void old_records_are_read(void **state) {
    (void)state;
    const char *golden = getenv("GA_GOLDEN") != NULL ? getenv("GA_GOLDEN") : "tests/golden";
    char *path = test_path(golden, "record_1");
    ga_record_table *table = read_all(path, NULL);
    assert_int_equal(table->rows, 20);
    assert_int_equal(table->refused_count, 0);
    assert_int_equal(table->layout.final_kind, GA_RECORD_FINAL_IMAGE);
    assert_null(table->states);
    for (int64_t i = 0; i < 20; i++) {
        assert_int_equal(table->row_id[i], i);
        same_float(table->reward[i], i % 2 == 0 ? (float)i / 8.0f : NAN);
        assert_int_equal(table->finals[i * 12 + 11], i + 11);
        assert_int_equal(table->final_present[i], 0); /* it does not say */
    }
    assert_int_equal(table->batch_count, 1);
    assert_true(table->batches[0].seconds_own == 9.0 && table->batches[0].seconds_preview == 0.0);
    ga_record_table_free(&table);
    expect_verdict(path, 0, 0, 0);
    free(path);
}

/* Finals are large: a segment ends where its rows hold enough bytes, however few they are. */
static void large_rows_end_a_segment(void **state) {
    (void)state;
    char *folder = test_folder_make();
    ga_record_options options = options_for(folder, 0);
    sample made;
    make_sample(&made, 0, 0);
    options.segment_bytes = 3 * (sizeof made.row + VALUES * sizeof(ga_half)); /* a row holds more than that */
    ga_record *record = open_record(&options);
    append_rows(record, 0, 0, 30);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_close(&record, &error), &error);
    ga_record_table *table = read_all(folder, NULL);
    assert_int_equal(table->rows, 30);
    assert_in_range(table->segment_count, 10, 15);
    for (int32_t i = 0; i < 30; i++) {
        expect_row(table, i, 0, i);
    }
    ga_record_table_free(&table);
    expect_verdict(folder, 0, 0, 0);
    test_folder_remove(folder);
}

static void any_level_of_path_is_read(void **state) {
    (void)state;
    char *run = test_folder_make();
    char *folder = test_path(run, "record");
    write_rank(folder, 0, 0, 40);
    write_rank(folder, 1, 0, 40);
    const struct {
        const char *path;
        int64_t rows;
    } cases[] = {{"record", 80}, {"record/rank-00001", 40}, {"record/rank-00001/segment-000000.h5", 32}};
    for (size_t i = 0; i < 3; i++) {
        char *path = test_path(run, cases[i].path);
        ga_record_table *table = read_all(path, NULL);
        assert_int_equal(table->rows, cases[i].rows);
        assert_int_equal(table->layout.rank, i == 0 ? -1 : 1);
        ga_record_table_free(&table);
        free(path);
    }
    ga_error error;
    ga_record_table *table = NULL;
    ga_error_clear(&error);
    assert_int_equal(ga_record_read("/nowhere/at/all", NULL, &table, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "/nowhere/at/all"));
    free(folder);
    test_folder_remove(run);
}

static void filters_take_what_they_say(void **state) {
    (void)state;
    char *run = test_folder_make();
    write_rank(run, 0, 0, 200);
    write_rank(run, 1, 0, 200);
    ga_record_read_options options = {.limit_updates = true, .first_update = 2, .last_update = 3};
    ga_record_table *table = read_all(run, &options);
    assert_int_equal(table->rows, 80);
    assert_int_equal(table->batch_count, 8);
    assert_true(table->segment_count < 12); /* the others were not opened */
    ga_record_table_free(&table);
    options = (ga_record_read_options){.only_kept = true};
    table = read_all(run, &options);
    for (int64_t i = 0; i < table->rows; i++) {
        assert_true(table->kept[i] == 1 && !isnan(table->reward[i]));
    }
    assert_int_equal(table->rows, 2 * 133);
    ga_record_table_free(&table);
    options = (ga_record_read_options){.only_audit = true};
    table = read_all(run, &options);
    assert_int_equal(table->rows, 20);
    ga_record_table_free(&table);
    options = (ga_record_read_options){.newest_rows = 50};
    table = read_all(run, &options);
    assert_int_equal(table->rows, 80); /* updates 8 and 9, whole */
    assert_int_equal(table->update[0], 8);
    assert_int_equal(table->batch_count, 8);
    assert_true(table->segment_count < 14);
    ga_record_table_free(&table);
    test_folder_remove(run);
}

static void nothing_and_batches_only(void **state) {
    (void)state;
    char *run = test_folder_make();
    ga_record_options options = options_for(run, 0);
    ga_record *record = open_record(&options);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_flush(record, &error), &error);
    assert_int_equal(ga_record_count(record).segments, 0);
    ga_record_table *table = NULL;
    assert_int_equal(ga_record_read(run, NULL, &table, &error), GA_ERR_FILE);
    ga_error_clear(&error);
    const ga_record_batch figures = {7, 3, 0, 0, GA_RECORD_MODE_SHADOW, 0, 1, 2, 3, 4, 0, 0, 0, 0};
    for (int i = 0; i < 300; i++) { /* more than a segment of batches */
        test_ok(ga_record_append_batch(record, &figures, &error), &error);
    }
    test_ok(ga_record_close(&record, &error), &error);
    table = read_all(run, NULL);
    assert_int_equal(table->rows, 0);
    assert_int_equal(table->batch_count, 1); /* all were the same one */
    assert_int_equal(table->segment_count, 2);
    ga_record_table_free(&table);
    test_folder_remove(run);
}

static void reopening_continues(void **state) {
    (void)state;
    char *run = test_folder_make();
    write_rank(run, 0, 0, 70);
    write_rank(run, 0, 70, 30);
    char *path = test_path(run, "rank-00000/segment-000003.h5");
    assert_int_equal(access(path, R_OK), 0);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0137, 0); /* at most 0640 */
    free(path);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 100);
    assert_int_equal(table->segment_count, 4);
    for (int64_t i = 0; i < 100; i++) {
        expect_row(table, i, 0, (int32_t)i);
    }
    ga_record_table_free(&table);
    expect_verdict(run, 0, 0, 0);
    test_folder_remove(run);
}

static void layouts_may_change_between_runs(void **state) {
    (void)state;
    char *run = test_folder_make();
    write_rank(run, 0, 0, 20);
    ga_record_options options = options_for(run, 0);
    options.layout.candidate_count = 1;
    options.layout.candidate_steps[0] = 5; /* the older one's second */
    options.layout.scorer_count = 1;
    (void)snprintf(options.layout.scorers[0], GA_RECORD_NAME_BYTES, "new");
    options.layout.features =
        (ga_feature_schema){2, {{GA_INPUT_X0, 4, 1, 1, 0}, {GA_INPUT_PREVIEW, 2, 1, 1, 4}}, 6, 77};
    options.layout.final_kind = GA_RECORD_FINAL_NONE;
    ga_record *record = open_record(&options);
    append_rows(record, 0, 20, 20);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_close(&record, &error), &error);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 40);
    assert_int_equal(table->layout.candidate_count, 1);
    assert_int_equal(table->layout.scorer_count, 3);
    assert_string_equal(table->layout.scorers[0], "new");
    assert_null(table->finals);
    same_float(table->prediction[0], NAN); /* candidate 5 of old rows was not computed */
    same_float(table->prediction[20], 10.0f);
    same_float(table->rewards[0], NAN);    /* "new" did not exist */
    same_float(table->rewards[1], 0.125f); /* aesthetic */
    same_float(table->rewards[20 * 3], 20.125f);
    same_float(table->rewards[20 * 3 + 1], NAN);
    assert_int_equal(table->features[0], GA_RECORD_HALF_NAN);         /* x0 */
    assert_int_equal(table->features[4], 0x4000 + 48);                /* preview of candidate 5 */
    assert_int_equal(table->features[1 * 6 + 4], GA_RECORD_HALF_NAN); /* odd rows: not taken */
    assert_int_equal(table->features[20 * 6], 0x3c00 + 140);
    ga_record_table_free(&table);
    test_folder_remove(run);
}

static char *make_damaged_run(void) {
    char *run = test_folder_make();
    write_rank(run, 0, 0, 100);
    write_rank(run, 1, 0, 100);
    return run;
}

/* Changes one byte; position from the end where negative. */
static void flip_byte(const char *path, long position) {
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    const int whence = position < 0 ? SEEK_END : SEEK_SET;
    assert_int_equal(fseek(file, position, whence), 0);
    const int byte = fgetc(file);
    assert_int_equal(fseek(file, position, whence), 0);
    assert_int_not_equal(fputc(byte ^ 0x41, file), EOF);
    assert_int_equal(fclose(file), 0);
}

static void damage_flipped_byte(void **state) {
    (void)state;
    char *run = make_damaged_run();
    char *path = test_path(run, "rank-00001/segment-000001.h5");
    flip_byte(path, 3000);
    ga_record_report report = verify(run);
    assert_true(report.counts[GA_FINDING_DAMAGE] >= 1);
    assert_non_null(strstr(report.findings[0].file, "rank-00001/segment-000001.h5"));
    assert_non_null(strstr(report.findings[0].message, "checksum"));
    ga_record_report_free(&report);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 168);
    assert_int_equal(table->refused_count, 1);
    assert_non_null(strstr(table->refused.message, "segment-000001.h5"));
    ga_record_table_free(&table);
    const ga_record_read_options strict = {.strict = true};
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_record_read(run, &strict, &table, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "checksum"));
    free(path);
    test_folder_remove(run);
}

static void damage_missing_file(void **state) {
    (void)state;
    char *run = make_damaged_run();
    char *path = test_path(run, "rank-00000/segment-000001.h5");
    assert_int_equal(unlink(path), 0);
    /* the file; and the batches whose rows or figures were in it */
    ga_record_report report = verify(run);
    assert_true(report.counts[GA_FINDING_GAP] >= 2);
    assert_int_equal(report.counts[GA_FINDING_DAMAGE], 0);
    assert_non_null(strstr(report.findings[0].message, "segment-000001.h5"));
    ga_record_report_free(&report);
    free(path);
    path = test_path(run, "rank-00000/manifest.jsonl");
    assert_int_equal(unlink(path), 0);
    report = verify(run); /* without its manifest the numbers tell */
    assert_int_equal(report.counts[GA_FINDING_NOTE], 3);
    assert_true(report.counts[GA_FINDING_GAP] >= 2);
    ga_record_report_free(&report);
    free(path);
    test_folder_remove(run);
}

static void damage_truncated(void **state) {
    (void)state;
    char *run = make_damaged_run();
    char *path = test_path(run, "rank-00000/segment-000000.h5");
    assert_int_equal(truncate(path, 5000), 0);
    ga_record_report report = verify(run);
    assert_int_equal(report.counts[GA_FINDING_DAMAGE], 1);
    assert_true(report.counts[GA_FINDING_GAP] >= 1); /* the batches whose rows were in it */
    assert_non_null(strstr(report.findings[0].message, "5000 bytes"));
    ga_record_report_free(&report);
    assert_int_equal(truncate(path, 0), 0);
    report = verify(run);
    assert_int_equal(report.counts[GA_FINDING_DAMAGE], 1);
    ga_record_report_free(&report);
    free(path);
    path = test_path(run, "rank-00000/manifest.jsonl"); /* without a manifest HDF5 has to say it */
    assert_int_equal(unlink(path), 0);
    report = verify(run);
    assert_int_equal(report.counts[GA_FINDING_DAMAGE], 1);
    assert_int_equal(report.counts[GA_FINDING_NOTE], 4);
    ga_record_report_free(&report);
    free(path);
    test_folder_remove(run);
}

static void damage_torn_manifest(void **state) {
    (void)state;
    char *run = make_damaged_run();
    char *path = test_path(run, "rank-00000/manifest.jsonl");
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size - 20), 0);
    expect_verdict(run, 2, 0, 0); /* the cut line, and the segment that it was about */
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 200);
    ga_record_table_free(&table);
    write_rank(run, 0, 100, 10);
    write_rank(run, 1, 100, 10);
    expect_verdict(run, 1, 0, 1); /* the next line begins anew; the cut one stands between */
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    assert_true(fputs("{\"file\": \"../../etc/passwd\", \"rows\": 1}\n\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    ga_record_report report = verify(run);
    assert_non_null(strstr(report.findings[1].message, "2 lines"));
    ga_record_report_free(&report);
    free(path);
    test_folder_remove(run);
}

static void damage_copied_segment(void **state) {
    (void)state;
    char *run = make_damaged_run();
    char *from = test_path(run, "rank-00000/segment-000000.h5");
    char *to = test_path(run, "rank-00000/segment-000009.h5");
    assert_int_equal(link(from, to), 0);
    ga_record_report report = verify(run);
    assert_int_equal(report.counts[GA_FINDING_DAMAGE], 1); /* row ids twice */
    assert_int_equal(report.counts[GA_FINDING_NOTE], 1);   /* not in the manifest */
    assert_true(report.counts[GA_FINDING_GAP] >= 1);       /* 4 to 8 */
    ga_record_report_free(&report);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 200); /* each row once */
    ga_record_table_free(&table);
    free(from);
    free(to);
    test_folder_remove(run);
}

static void killed_rank_is_a_gap(void **state) {
    (void)state;
    char *run = test_folder_make();
    write_rank(run, 0, 0, 100);
    write_rank(run, 1, 0, 60);
    expect_verdict(run, 0, 1, 0);
    test_folder_remove(run);
}

/* Whatever a byte becomes: an answer, no crash, and never a row that differs silently. */
static void any_flipped_byte_is_survived(void **state) {
    (void)state;
    enum { COUNT = 8 };
    static sample samples[COUNT];
    ga_record_row rows[COUNT];
    for (int32_t i = 0; i < COUNT; i++) {
        make_sample(&samples[i], 0, i);
        rows[i] = samples[i].row;
    }
    const ga_record_layout layout = full_layout(0);
    const ga_segment segment = {&layout, rows, COUNT, NULL, 0};
    void *image = NULL;
    size_t bytes = 0;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_segment_build(&segment, &image, &bytes, &error), &error);
    ga_random random = test_random(3);
    unsigned char *copy = malloc(bytes);
    assert_non_null(copy);
    int refused = 0;
    for (int i = 0; i < 400; i++) {
        memcpy(copy, image, bytes);
        const size_t place = ga_random_below(&random, (uint32_t)bytes);
        copy[place] = (unsigned char)(copy[place] ^ (1u << ga_random_below(&random, 8)));
        const size_t length = i % 8 == 7 ? ga_random_below(&random, (uint32_t)bytes) : bytes;
        ga_record_table *table = NULL;
        const ga_status status = ga_segment_load(copy, length, "flipped", &table, NULL);
        assert_true(status == GA_OK || status == GA_ERR_FILE);
        refused += status != GA_OK;
        ga_record_table_free(&table);
    }
    assert_true(refused > 100);
    free(copy);
    free(image);
}

static void limit_file_size(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes == RLIM_INFINITY ? limit.rlim_max : bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void full_disk_keeps_rows(void **state) {
    (void)state;
    char *run = test_folder_make();
    const ga_record_options options = options_for(run, 0);
    ga_record *record = open_record(&options);
    append_rows(record, 0, 0, 40);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_flush(record, &error), &error);
    limit_file_size(4096);
    append_rows(record, 0, 40, 40);
    const ga_status full = ga_record_flush(record, &error);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(full, GA_ERR_IO);
    assert_non_null(strstr(error.message, "File too large"));
    assert_non_null(strstr(error.message, "rank-00000"));
    ga_record_counters counters = ga_record_count(record);
    assert_int_equal(counters.rows_written, 40);
    assert_int_equal(counters.rows_pending, 40);
    assert_true(counters.failures > 0);
    ga_error_clear(&error);
    assert_int_equal(ga_record_status(record, &error), GA_OK); /* flush has told */
    expect_verdict(run, 0, 0, 0);                              /* what was there is whole */
    test_ok(ga_record_flush(record, &error), &error);
    test_ok(ga_record_close(&record, &error), &error);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 80);
    for (int64_t i = 0; i < 80; i++) {
        expect_row(table, i, 0, (int32_t)i);
    }
    ga_record_table_free(&table);
    expect_verdict(run, 0, 0, 0);
    test_folder_remove(run);
}

static void wait_for_failure(ga_record *record) {
    for (int i = 0; i < 2000 && ga_record_count(record).failures == 0; i++) {
        ga_clock_system()->sleep_seconds(NULL, 0.005);
    }
    assert_true(ga_record_count(record).failures > 0);
}

static void failure_is_told_once(void **state) {
    (void)state;
    char *run = test_folder_make();
    const ga_record_options options = options_for(run, 0);
    ga_record *record = open_record(&options);
    limit_file_size(4096);
    append_rows(record, 0, 0, 32);
    wait_for_failure(record);
    limit_file_size(RLIM_INFINITY);
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_record_status(record, &error), GA_ERR_IO);
    ga_error_clear(&error);
    assert_int_equal(ga_record_status(record, &error), GA_OK);
    append_rows(record, 0, 32, 32); /* a segment that works brings the failed one along */
    test_ok(ga_record_close(&record, &error), &error);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 64);
    ga_record_table_free(&table);
    test_folder_remove(run);
}

static void bound_is_kept_where_the_disk_fails(void **state) {
    (void)state;
    char *run = test_folder_make();
    ga_record_options options = options_for(run, 0);
    options.memory_bytes_max = 30000; /* some 50 rows */
    options.wait_seconds = 5;
    ga_record *record = open_record(&options);
    limit_file_size(4096);
    ga_error error;
    ga_error_clear(&error);
    ga_status status = GA_OK;
    int32_t taken = 0;
    for (int32_t i = 0; i < 500 && status == GA_OK; i++) {
        sample made;
        make_sample(&made, 0, i);
        status = ga_record_append(record, &made.row, 1, &error);
        taken += status == GA_OK;
    }
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(status, GA_ERR_IO);
    assert_non_null(strstr(error.message, "dropped"));
    assert_in_range(taken, 20, 100);
    const ga_record_counters counters = ga_record_count(record);
    assert_int_equal(counters.rows_dropped, 1);
    assert_int_equal(counters.rows_pending, taken);
    ga_error_clear(&error);
    test_ok(ga_record_close(&record, &error), &error);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, taken);
    ga_record_table_free(&table);
    test_folder_remove(run);
}

/* A bound smaller than a segment: sealing early makes room, nothing is lost. */
static void small_bound_seals_early(void **state) {
    (void)state;
    char *run = test_folder_make();
    ga_record_options options = options_for(run, 0);
    options.memory_bytes_max = 3000;
    options.wait_seconds = 60;
    options.segment_rows = 1000;
    ga_record *record = open_record(&options);
    append_rows(record, 0, 0, 60);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_close(&record, &error), &error);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 60);
    assert_true(table->segment_count > 5);
    ga_record_table_free(&table);
    test_folder_remove(run);
}

static void age_seals(void **state) {
    (void)state;
    char *run = test_folder_make();
    ga_record_options options = options_for(run, 0);
    options.seal_seconds = 0.01;
    ga_record *record = open_record(&options);
    append_rows(record, 0, 0, 3);
    for (int i = 0; i < 2000 && ga_record_count(record).rows_written < 3; i++) {
        ga_clock_system()->sleep_seconds(NULL, 0.005);
    }
    assert_int_equal(ga_record_count(record).rows_written, 3);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_close(&record, &error), &error);
    test_folder_remove(run);
}

static void unwritable_folders_are_named(void **state) {
    (void)state;
    char *run = test_folder_make();
    char *file = test_path(run, "file");
    const int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    char *folder = test_path(file, "record");
    ga_record_options options = options_for(folder, 0);
    ga_record *record = NULL;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_record_open(&options, &record, &error), GA_ERR_IO);
    assert_non_null(strstr(error.message, "Not a directory"));
    assert_non_null(strstr(error.message, file));
    assert_null(record);
    if (geteuid() != 0) { /* root may write anywhere */
        assert_int_equal(chmod(run, 0500), 0);
        options.folder = run;
        ga_error_clear(&error);
        assert_int_equal(ga_record_open(&options, &record, &error), GA_ERR_IO);
        assert_non_null(strstr(error.message, "Permission denied"));
        assert_int_equal(chmod(run, 0700), 0);
    }
    free(folder);
    free(file);
    test_folder_remove(run);
}

static void one_writer_a_folder(void **state) {
    (void)state;
    char *run = test_folder_make();
    const ga_record_options options = options_for(run, 0);
    ga_record *first = open_record(&options), *second = NULL;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_record_open(&options, &second, &error), GA_ERR_IO);
    assert_non_null(strstr(error.message, "another process"));
    ga_error_clear(&error);
    test_ok(ga_record_close(&first, &error), &error);
    first = open_record(&options);
    test_ok(ga_record_close(&first, &error), &error);
    test_folder_remove(run);
}

static void forks_are_refused(void **state) {
    (void)state;
    char *run = test_folder_make();
    const ga_record_options options = options_for(run, 0);
    ga_record *record = open_record(&options);
    append_rows(record, 0, 0, 3);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        sample made;
        make_sample(&made, 0, 3);
        const bool refused = ga_record_append(record, &made.row, 1, NULL) == GA_ERR_ARGUMENT &&
                             ga_record_flush(record, NULL) == GA_ERR_ARGUMENT &&
                             ga_record_close(&record, NULL) == GA_ERR_ARGUMENT;
        _exit(refused ? 0 : 1);
    }
    int result = -1;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(result, 0);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_record_close(&record, &error), &error);
    ga_record_table *table = read_all(run, NULL);
    assert_int_equal(table->rows, 3);
    ga_record_table_free(&table);
    test_folder_remove(run);
}

static void touch(const char *folder, const char *name) {
    char *path = test_path(folder, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    free(path);
}

static bool exists(const char *folder, const char *name) {
    char *path = test_path(folder, name);
    const bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static void stale_files_are_removed(void **state) {
    (void)state;
    char *run = test_folder_make();
    const pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    char dead[64], alive[64];
    (void)snprintf(dead, sizeof dead, "segment-000002.h5.%d.tmp", (int)child);
    (void)snprintf(alive, sizeof alive, "segment-000002.h5.%d.tmp", (int)getppid());
    touch(run, dead);
    touch(run, alive);
    touch(run, "notes.tmp");
    touch(run, "segment-000041.h5");
    ga_publisher *publisher = NULL;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_publisher_open(run, &publisher, &error), &error);
    assert_false(exists(run, dead));
    assert_true(exists(run, alive) && exists(run, "notes.tmp"));
    assert_int_equal(ga_publisher_next(publisher), 42);
    touch(run, "segment-000042.h5"); /* appeared meanwhile: not replaced */
    int64_t sequence = -1;
    test_ok(ga_publish_segment(publisher, "abc", 3, &sequence, &error), &error);
    assert_int_equal(sequence, 43);
    struct stat info;
    char *path = test_path(run, "segment-000042.h5");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 0);
    free(path);
    ga_publisher_close(&publisher);
    ga_publisher_close(&publisher);
    test_folder_remove(run);
}

static void names_and_numbers(void **state) {
    (void)state;
    char name[GA_SEGMENT_NAME_BYTES];
    ga_segment_name(42, name);
    assert_string_equal(name, "segment-000042.h5");
    assert_int_equal(ga_segment_sequence(name), 42);
    ga_segment_name(1234567, name);
    assert_int_equal(ga_segment_sequence(name), 1234567);
    assert_int_equal(ga_segment_sequence("segment-42.h5"), -1);
    assert_int_equal(ga_segment_sequence("segment-000042.h5.17.tmp"), -1);
    assert_int_equal(ga_segment_sequence("merged.h5"), -1);
}

static void manifest_lines(void **state) {
    (void)state;
    const ga_manifest_line line = {
        "segment-000042.h5", 5, 6, UINT64_C(0x00abc), 1, UINT64_MAX, 2, 3, 4, 5, 42};
    char text[GA_MANIFEST_LINE_BYTES];
    ga_manifest_format(&line, text);
    ga_manifest_line parsed;
    assert_true(ga_manifest_parse(text, &parsed));
    assert_string_equal(parsed.file, line.file);
    assert_true(parsed.checksum == line.checksum && parsed.last_row_id == UINT64_MAX);
    assert_true(parsed.rows == 5 && parsed.sequence == 42 && parsed.last_update == 5);
    const size_t length = strlen(text);
    for (size_t cut = 0; cut < length; cut++) { /* torn anywhere: never taken for a line */
        char torn[GA_MANIFEST_LINE_BYTES];
        memcpy(torn, text, cut);
        torn[cut] = 0;
        assert_false(ga_manifest_parse(torn, &parsed));
    }
    assert_false(ga_manifest_parse("{}", &parsed));
    assert_false(ga_manifest_parse("[1, 2]", &parsed));
    text[length] = 'x';
    text[length + 1] = 0;
    assert_false(ga_manifest_parse(text, &parsed));
}

static void expect_refused(const ga_record_layout *layout, const char *words) {
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_record_layout_check(layout, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, words));
}

static void impossible_layouts_are_refused(void **state) {
    (void)state;
    ga_record_layout layout = full_layout(0);
    layout.candidate_count = 5;
    expect_refused(&layout, "5 candidate steps");
    layout = full_layout(0);
    (void)snprintf(layout.scorers[1], GA_RECORD_NAME_BYTES, "../x");
    expect_refused(&layout, "../x");
    layout = full_layout(0);
    (void)snprintf(layout.scorers[1], GA_RECORD_NAME_BYTES, "aesthetic");
    expect_refused(&layout, "two scorers");
    layout = full_layout(0);
    layout.features.values_per_row = 51;
    expect_refused(&layout, "51 values");
    layout = full_layout(0);
    layout.features.inputs[1].input = GA_INPUT_ATTENTION;
    expect_refused(&layout, "input 1");
    layout = full_layout(3);
    expect_refused(&layout, "rank 3");
    layout = full_layout(0);
    layout.final_shape[2] = 0;
    expect_refused(&layout, "dimension 2");
}

/* A build without HDF5 says so at once, at every door. */
static void without_hdf5_is_said(void **state) {
    (void)state;
    char *run = test_folder_make();
    const ga_record_options options = options_for(run, 0);
    ga_record *record = NULL;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_record_open(&options, &record, &error), GA_ERR_MISSING);
    assert_non_null(strstr(error.message, "without HDF5"));
    assert_null(record);
    touch(run, "segment-000000.h5");
    ga_record_table *table = NULL;
    assert_int_equal(ga_record_read(run, NULL, &table, NULL), GA_ERR_MISSING);
    ga_record_report report;
    assert_int_equal(ga_record_verify(run, &report, NULL), GA_ERR_MISSING);
    test_folder_remove(run);
}

static bool has_hdf5(void) {
    const ga_record_layout layout = full_layout(0);
    const ga_segment segment = {&layout, NULL, 0, NULL, 0};
    void *image = NULL;
    size_t bytes = 0;
    const ga_status status = ga_segment_build(&segment, &image, &bytes, NULL);
    free(image);
    return status != GA_ERR_MISSING;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_column_comes_back),
        cmocka_unit_test(any_level_of_path_is_read),
        cmocka_unit_test(old_records_are_read),
        cmocka_unit_test(large_rows_end_a_segment),
        cmocka_unit_test(filters_take_what_they_say),
        cmocka_unit_test(nothing_and_batches_only),
        cmocka_unit_test(reopening_continues),
        cmocka_unit_test(layouts_may_change_between_runs),
        cmocka_unit_test(damage_flipped_byte),
        cmocka_unit_test(damage_missing_file),
        cmocka_unit_test(damage_truncated),
        cmocka_unit_test(damage_torn_manifest),
        cmocka_unit_test(damage_copied_segment),
        cmocka_unit_test(killed_rank_is_a_gap),
        cmocka_unit_test(any_flipped_byte_is_survived),
        cmocka_unit_test(full_disk_keeps_rows),
        cmocka_unit_test(failure_is_told_once),
        cmocka_unit_test(bound_is_kept_where_the_disk_fails),
        cmocka_unit_test(small_bound_seals_early),
        cmocka_unit_test(age_seals),
        cmocka_unit_test(unwritable_folders_are_named),
        cmocka_unit_test(one_writer_a_folder),
        cmocka_unit_test(forks_are_refused),
        cmocka_unit_test(stale_files_are_removed),
        cmocka_unit_test(names_and_numbers),
        cmocka_unit_test(manifest_lines),
        cmocka_unit_test(impossible_layouts_are_refused),
    };
    const struct CMUnitTest without[] = {
        cmocka_unit_test(without_hdf5_is_said),
        cmocka_unit_test(stale_files_are_removed),
        cmocka_unit_test(names_and_numbers),
        cmocka_unit_test(manifest_lines),
        cmocka_unit_test(impossible_layouts_are_refused),
    };
    return has_hdf5() ? cmocka_run_group_tests(tests, NULL, NULL)
                      : cmocka_run_group_tests(without, NULL, NULL);
}
