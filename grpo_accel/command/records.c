/* inspect, verify: what is in a record, and is it whole? */
#include <float.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/command/figures.h"
#include "grpo_accel/record/files.h"
#include "grpo_accel/record/reader.h"
#include "grpo_accel/record/verify.h"

/* ---- inspect ---- */

typedef struct reward_summary {
    int64_t count;                    /* rows that have this reward */
    double mean, deviation, min, max; /* NaN without rows; deviation: of the population */
} reward_summary;

typedef struct row_counts {
    int64_t kept, pruned, audited, with_reward;
    uint32_t first_update, last_update;
    int64_t updates, batches; /* different ones; batches of all ranks together count once */
    int32_t ranks;            /* different ones */
} row_counts;

/* values[0], values[stride], …; what is not finite is left out. Two passes: exact enough for any rewards. */
static reward_summary summarise(const float *values, int64_t rows, int64_t stride) {
    reward_summary s = {.mean = NAN, .deviation = NAN, .min = NAN, .max = NAN};
    double sum = 0, squares = 0, low = DBL_MAX, high = -DBL_MAX;
    for (int64_t i = 0; i < rows; i++) {
        const double value = (double)values[i * stride];
        if (isfinite(value)) {
            s.count++;
            sum += value;
            low = fmin(low, value);
            high = fmax(high, value);
        }
    }
    if (s.count == 0) {
        return s;
    }
    s.mean = sum / (double)s.count;
    for (int64_t i = 0; i < rows; i++) {
        const double off = (double)values[i * stride] - s.mean;
        squares += isfinite(off) ? off * off : 0;
    }
    s.deviation = sqrt(squares / (double)s.count);
    s.min = low;
    s.max = high;
    return s;
}

/* The table is ordered by (update, batch, rank, index), so that a new number is a different one. */
static row_counts count_rows(const ga_record_table *table) {
    row_counts c = {.first_update = table->rows > 0 ? table->update[0] : 0};
    static const int32_t ranks_max = 65536;
    bool rank_seen[65536] = {false};
    for (int64_t i = 0; i < table->rows; i++) {
        c.kept += table->kept[i] != 0;
        c.pruned += table->kept[i] == 0;
        c.audited += table->audit[i] != 0;
        c.with_reward += isfinite(table->reward[i]) != 0;
        c.updates += i == 0 || table->update[i] != table->update[i - 1];
        c.batches += i == 0 || table->batch[i] != table->batch[i - 1];
        c.last_update = table->update[i];
        const int32_t rank = table->rank[i];
        if (rank >= 0 && rank < ranks_max && !rank_seen[rank]) {
            rank_seen[rank] = true;
            c.ranks++;
        }
    }
    return c;
}

static int64_t total_bytes(const char *path) {
    ga_record_files files;
    int64_t bytes = 0;
    if (ga_record_files_list(path, &files, NULL) != GA_OK) {
        return 0;
    }
    for (size_t i = 0; i < files.count; i++) {
        struct stat info;
        bytes += stat(files.files[i].path, &info) == 0 ? (int64_t)info.st_size : 0;
    }
    ga_record_files_free(&files);
    return bytes;
}

static const char *type_name(ga_column_type type) {
    static const char *const names[] = {"u8", "u16", "u32", "u64", "i32", "f32", "f64"};
    return names[type];
}

/* "[96, 1, 20, 8, 8]" */
static void format_shape(char *text, size_t bytes, const int64_t *shape, int dims) {
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < dims && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
    }
    if (used < bytes) {
        (void)snprintf(text + used, bytes - used, "]");
    }
}

/* Called for each dataset of the table with its name, type and shape. */
typedef void (*column_visit)(void *user, const char *name, const char *type, const int64_t *shape, int dims);

static void visit_inputs(const ga_record_table *table, column_visit visit, void *user) {
    const ga_feature_schema *schema = &table->layout.features;
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *input = &schema->inputs[i];
        char name[96];
        (void)snprintf(name, sizeof name, "features/%s", ga_record_input_name(input->input));
        const bool is_map = input->height > 1 || input->width > 1;
        const int64_t shape[] = {
            table->rows, table->layout.candidate_count, input->channels, input->height, input->width};
        visit(user, name, "f16", shape, is_map ? 5 : 3);
    }
}

static void visit_columns(const ga_record_table *table, column_visit visit, void *user) {
    const ga_record_layout *layout = &table->layout;
    for (int i = 0; i < GA_COLUMN_COUNT; i++) {
        const ga_record_column *column = &ga_record_columns[i];
        const int64_t shape[] = {table->rows, ga_column_values(column->kind, layout->candidate_count)};
        visit(user, column->name, type_name(column->type), shape, column->kind == GA_COLUMN_ONE ? 1 : 2);
    }
    for (int32_t i = 0; i < layout->scorer_count; i++) {
        char name[GA_RECORD_NAME_BYTES + 16];
        (void)snprintf(name, sizeof name, "reward/%s", layout->scorers[i]);
        visit(user, name, "f32", &table->rows, 1);
    }
    visit_inputs(table, visit, user);
    if (layout->final_kind != GA_RECORD_FINAL_NONE) {
        const int64_t shape[] = {
            table->rows, layout->final_shape[0], layout->final_shape[1], layout->final_shape[2]};
        visit(user, "final", layout->final_kind == GA_RECORD_FINAL_IMAGE ? "u8" : "f16", shape, 4);
        if (ga_record_has_states(layout)) {
            visit(user, "state", "f16", shape, 4);
        }
    }
    if (table->prompts != NULL) {
        visit(user, "prompt", "text", &table->rows, 1);
    }
}

static void column_as_json(void *user, const char *name, const char *type, const int64_t *shape, int dims) {
    ga_json *json = user;
    ga_json_object(json, name);
    ga_json_text(json, "type", type);
    ga_json_array(json, "shape");
    for (int i = 0; i < dims; i++) {
        ga_json_integer(json, NULL, shape[i]);
    }
    ga_json_end(json);
    ga_json_end(json);
}

static void column_as_line(void *user, const char *name, const char *type, const int64_t *shape, int dims) {
    (void)user;
    char text[96];
    format_shape(text, sizeof text, shape, dims);
    (void)printf("  %-24s %-5s %s\n", name, type, text);
}

static void reward_as_json(ga_json *json, const char *name, const reward_summary *s) {
    ga_json_object(json, name);
    ga_json_integer(json, "rows", s->count);
    ga_json_real(json, "mean", s->mean);
    ga_json_real(json, "std", s->deviation);
    ga_json_real(json, "min", s->min);
    ga_json_real(json, "max", s->max);
    ga_json_end(json);
}

static void counts_as_json(ga_json *json, const row_counts *c) {
    ga_json_integer(json, "ranks", c->ranks);
    ga_json_integer(json, "updates", c->updates);
    ga_json_integer(json, "first_update", c->first_update);
    ga_json_integer(json, "last_update", c->last_update);
    ga_json_integer(json, "batches", c->batches);
    ga_json_integer(json, "kept", c->kept);
    ga_json_integer(json, "pruned", c->pruned);
    ga_json_integer(json, "audited", c->audited);
    ga_json_integer(json, "with_reward", c->with_reward);
}

static void rewards_as_json(ga_json *json, const ga_record_table *table) {
    const int32_t scorer_count = table->layout.scorer_count;
    ga_json_object(json, "reward");
    const reward_summary combined = summarise(table->reward, table->rows, 1);
    reward_as_json(json, "combined", &combined);
    for (int32_t i = 0; i < scorer_count; i++) {
        const reward_summary one = summarise(table->rewards + i, table->rows, scorer_count);
        reward_as_json(json, table->layout.scorers[i], &one);
    }
    ga_json_end(json);
}

static void inspect_as_json(const ga_record_table *table, int64_t bytes) {
    const row_counts counts = count_rows(table);
    char fingerprint[17];
    ga_command_hex(table->layout.config_fingerprint, fingerprint);
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "run_id", table->layout.run_id);
    ga_json_text(&json, "model", table->layout.model);
    ga_json_text(&json, "config_fingerprint", fingerprint);
    ga_json_integer(&json, "world_size", table->layout.world_size);
    ga_json_array(&json, "candidate_steps");
    for (int32_t i = 0; i < table->layout.candidate_count; i++) {
        ga_json_integer(&json, NULL, table->layout.candidate_steps[i]);
    }
    ga_json_end(&json);
    ga_json_integer(&json, "segments", table->segment_count);
    ga_json_integer(&json, "segments_refused", table->refused_count);
    ga_json_integer(&json, "bytes", bytes);
    ga_json_integer(&json, "rows", table->rows);
    counts_as_json(&json, &counts);
    rewards_as_json(&json, table);
    ga_json_object(&json, "columns");
    visit_columns(table, column_as_json, &json);
    ga_json_end(&json);
    ga_json_end(&json);
}

static void reward_as_line(const char *name, const reward_summary *s) {
    if (s->count == 0) {
        (void)printf("  %-24s no rows\n", name);
    } else {
        (void)printf("  %-24s mean %.4g, std %.4g, from %.4g to %.4g over %lld rows\n", name, s->mean,
            s->deviation, s->min, s->max, (long long)s->count);
    }
}

static void inspect_as_text(const ga_record_table *table, int64_t bytes) {
    const row_counts c = count_rows(table);
    const int32_t scorer_count = table->layout.scorer_count;
    (void)printf("run %s, model %s, configuration %016llx\n", table->layout.run_id, table->layout.model,
        (unsigned long long)table->layout.config_fingerprint);
    (void)printf("%lld rows of %d ranks (world size %d) in %lld segments, %lld bytes\n",
        (long long)table->rows, c.ranks, table->layout.world_size, (long long)table->segment_count,
        (long long)bytes);
    (void)printf("%lld updates (%u to %u), %lld batches\n", (long long)c.updates, c.first_update,
        c.last_update, (long long)c.batches);
    (void)printf("kept %lld, pruned %lld, audited %lld, with reward %lld\n", (long long)c.kept,
        (long long)c.pruned, (long long)c.audited, (long long)c.with_reward);
    (void)printf("rewards:\n");
    const reward_summary combined = summarise(table->reward, table->rows, 1);
    reward_as_line("combined", &combined);
    for (int32_t i = 0; i < scorer_count; i++) {
        const reward_summary one = summarise(table->rewards + i, table->rows, scorer_count);
        reward_as_line(table->layout.scorers[i], &one);
    }
    (void)printf("columns:\n");
    visit_columns(table, column_as_line, NULL);
}

ga_exit ga_command_inspect(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    const char *path = call->arguments.positional[0];
    ga_record_table *table = NULL;
    if (ga_record_read(path, NULL, &table, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    ga_command_warn_refused(table);
    if (call->json) {
        inspect_as_json(table, total_bytes(path));
    } else {
        inspect_as_text(table, total_bytes(path));
    }
    ga_record_table_free(&table);
    return GA_EXIT_DONE;
}

/* ---- verify ---- */

static bool is_whole(const ga_record_report *report) {
    return report->counts[GA_FINDING_GAP] == 0 && report->counts[GA_FINDING_DAMAGE] == 0;
}

static void report_as_json(const ga_record_report *report) {
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_boolean(&json, "verified", is_whole(report));
    ga_json_integer(&json, "ranks", report->ranks);
    ga_json_integer(&json, "segments", report->segments);
    ga_json_integer(&json, "rows", report->rows);
    ga_json_integer(&json, "batches", report->batches);
    ga_json_integer(&json, "bytes", report->bytes);
    ga_json_integer(&json, "notes", report->counts[GA_FINDING_NOTE]);
    ga_json_integer(&json, "gaps", report->counts[GA_FINDING_GAP]);
    ga_json_integer(&json, "damages", report->counts[GA_FINDING_DAMAGE]);
    ga_json_array(&json, "findings");
    for (int64_t i = 0; i < report->count; i++) {
        const ga_finding *finding = &report->findings[i];
        ga_json_object(&json, NULL);
        ga_json_text(&json, "severity", ga_finding_severity_name(finding->severity));
        ga_json_text(&json, "file", finding->file);
        ga_json_text(&json, "message", finding->message);
        ga_json_end(&json);
    }
    ga_json_end(&json);
    ga_json_end(&json);
}

static void report_as_text(const ga_record_report *report, bool quiet) {
    for (int64_t i = 0; i < report->count; i++) {
        const ga_finding *finding = &report->findings[i];
        if (!quiet || finding->severity != GA_FINDING_NOTE) {
            (void)printf(
                "%s: %s: %s\n", ga_finding_severity_name(finding->severity), finding->file, finding->message);
        }
    }
    if (!quiet) {
        (void)printf("%s: %lld rows, %lld batches, %lld segments of %lld ranks, %lld bytes\n",
            is_whole(report) ? "whole" : "NOT whole", (long long)report->rows, (long long)report->batches,
            (long long)report->segments, (long long)report->ranks, (long long)report->bytes);
    }
}

ga_exit ga_command_verify(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    ga_record_report report;
    if (ga_record_verify(call->arguments.positional[0], &report, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    if (call->json) {
        report_as_json(&report);
    } else {
        report_as_text(&report, call->quiet);
    }
    const ga_exit code = is_whole(&report) ? GA_EXIT_DONE : GA_EXIT_NO;
    ga_record_report_free(&report);
    return code;
}
