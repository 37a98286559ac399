/*
 * Writes a record whose every value follows from its row number, or reads one, for test_record_h5py.py.
 *
 *   write_record FOLDER          two ranks of 50 rows, segments of 20
 *   write_record --read PATH     prints "STATUS ROWS REFUSED MESSAGE"
 *   write_record --verify PATH   prints "STATUS NOTES GAPS DAMAGES MESSAGE"
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "grpo_accel/record/reader.h"
#include "grpo_accel/record/verify.h"
#include "grpo_accel/record/writer.h"

#define ROWS 50
#define VALUES 40 /* attention 2 × 3 × 6, preview 4 */

static ga_record_layout make_layout(int32_t rank) {
    ga_record_layout layout;
    memset(&layout, 0, sizeof layout);
    (void)snprintf(layout.run_id, sizeof layout.run_id, "h5py");
    (void)snprintf(layout.model, sizeof layout.model, "shapes/flux");
    layout.config_fingerprint = UINT64_C(0xfedcba9876543210);
    layout.rank = rank;
    layout.world_size = 2;
    layout.candidate_count = 2;
    layout.candidate_steps[0] = 2;
    layout.candidate_steps[1] = 4;
    layout.candidate_sigmas[0] = 0.875;
    layout.candidate_sigmas[1] = 0.625;
    layout.scorer_count = 1;
    (void)snprintf(layout.scorers[0], sizeof layout.scorers[0], "shapes");
    layout.features = (ga_feature_schema){
        2, {{GA_INPUT_ATTENTION, 2, 3, 6, 0}, {GA_INPUT_PREVIEW, 4, 1, 1, 36}}, VALUES, 5};
    layout.final_kind = GA_RECORD_FINAL_IMAGE;
    layout.final_shape[0] = layout.final_shape[1] = 2;
    layout.final_shape[2] = 3;
    layout.prompt_text = true;
    return layout;
}

static ga_status append_row(ga_record *record, int32_t rank, int32_t number, ga_error *error) {
    ga_half features[2][VALUES];
    uint8_t image[12];
    char prompt[48];
    const float reward = (float)number / 8.0f;
    for (int c = 0; c < 2; c++) {
        for (int j = 0; j < VALUES; j++) {
            features[c][j] = (ga_half)(0x3c00 + 100 * c + number + j); /* 1.0 and the halves after it */
        }
    }
    for (int j = 0; j < 12; j++) {
        image[j] = (uint8_t)(number + j);
    }
    (void)snprintf(prompt, sizeof prompt, "%d r\xc3\xb6te Kreise", number);
    ga_record_row row;
    memset(&row, 0, sizeof row);
    row.row = (ga_row){(uint64_t)rank << 40 | (uint64_t)number, (uint64_t)(number / 10),
        (uint64_t)(number / 5), {(uint8_t)number, 1, 2, 3}, rank, number % 10, (uint32_t)(number / 20)};
    row.step = 2;
    row.steps_total = 10;
    row.probe_version = 3;
    row.prediction[0] = (float)number;
    row.prediction[1] = NAN;
    row.variance[0] = 0.5f;
    row.variance[1] = NAN;
    row.inclusion = 0.5f;
    row.kept = number % 2 == 0;
    row.audit = number < 10;
    row.advantage = row.kept ? 1.5f : 0.0f;
    row.reward_combined = row.kept ? reward : NAN;
    row.rewards = row.kept ? &reward : NULL;
    row.features[0] = features[0];
    row.features[1] = row.kept ? features[1] : NULL;
    row.prompt = prompt;
    row.final = number % 5 == 4 ? NULL : image;
    return ga_record_append(record, &row, 1, error);
}

static ga_status write_rank(const char *folder, int32_t rank, ga_error *error) {
    ga_record_options options = {.folder = folder, .layout = make_layout(rank), .segment_rows = 20};
    ga_record *record = NULL;
    GA_TRY(ga_record_open(&options, &record, error));
    ga_status status = GA_OK;
    for (int32_t i = 0; i < ROWS && status == GA_OK; i++) {
        status = append_row(record, rank, i, error);
        if (status == GA_OK && i % 10 == 9) {
            const ga_record_batch batch = {(uint64_t)(i / 10), (uint32_t)(i / 20), 10, 0,
                GA_RECORD_MODE_PRUNE, i < 10, 1.0, 2.0, 3.0, (double)i, 0.5, 0.75, 0.25, 0.125};
            status = ga_record_append_batch(record, &batch, error);
        }
    }
    const ga_status closed = ga_record_close(&record, error);
    return status != GA_OK ? status : closed;
}

static void read_record(const char *path) {
    ga_error error;
    ga_error_clear(&error);
    ga_record_table *table = NULL;
    const ga_status status = ga_record_read(path, NULL, &table, &error);
    (void)printf("%s %lld %lld %s\n", ga_status_name(status), table != NULL ? (long long)table->rows : 0,
        table != NULL ? (long long)table->refused_count : 0,
        table != NULL ? table->refused.message : error.message);
    ga_record_table_free(&table);
}

static void verify_record(const char *path) {
    ga_error error;
    ga_error_clear(&error);
    ga_record_report report = {0};
    const ga_status status = ga_record_verify(path, &report, &error);
    (void)printf("%s %lld %lld %lld %s\n", ga_status_name(status), (long long)report.counts[0],
        (long long)report.counts[1], (long long)report.counts[2],
        report.count > 0 ? report.findings[0].message : error.message);
    ga_record_report_free(&report);
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "--read") == 0) {
        read_record(arguments[2]);
        return 0;
    }
    if (count == 3 && strcmp(arguments[1], "--verify") == 0) {
        verify_record(arguments[2]);
        return 0;
    }
    if (count != 2) {
        (void)fprintf(stderr, "usage: write_record FOLDER | --read PATH | --verify PATH\n");
        return 2;
    }
    ga_error error;
    ga_error_clear(&error);
    for (int32_t rank = 0; rank < 2; rank++) {
        if (write_rank(arguments[1], rank, &error) != GA_OK) {
            (void)fprintf(stderr, "%s\n", error.message);
            return 1;
        }
    }
    return 0;
}
