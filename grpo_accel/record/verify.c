#include "grpo_accel/record/verify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/digest.h"
#include "grpo_accel/record/files.h"
#include "grpo_accel/record/load.h"
#include "grpo_accel/record/manifest.h"

/* A batch of a rank: as its writer counted it (expected), or as its rows were found. */
typedef struct batch_count {
    uint64_t batch;
    int32_t rank;
    int64_t expected; /* −1: no such entry in batches/ */
    int64_t found;
} batch_count;

/* What a verification collects. */
typedef struct check {
    ga_record_report report;
    ga_record_files files;
    uint64_t *row_ids;
    size_t row_count;
    batch_count *batches;
    size_t batch_count_;
    bool memory; /* false: ran out */
} check;

const char *ga_finding_severity_name(ga_finding_severity severity) {
    switch (severity) {
    case GA_FINDING_NOTE: return "note";
    case GA_FINDING_GAP: return "gap";
    case GA_FINDING_DAMAGE: return "damage";
    }
    return "unknown";
}

static void add_finding(check *all, ga_finding_severity severity, const char *file, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void add_finding(check *all, ga_finding_severity severity, const char *file, const char *format, ...) {
    ga_record_report *report = &all->report;
    ga_finding *grown = realloc(report->findings, ((size_t)report->count + 1) * sizeof *grown);
    if (grown == NULL) {
        all->memory = false;
        return;
    }
    report->findings = grown;
    ga_finding *finding = &grown[report->count++];
    finding->severity = severity;
    report->counts[severity]++;
    const size_t length = strlen(file);
    const size_t skip = length >= sizeof finding->file ? length - sizeof finding->file + 1 : 0;
    (void)snprintf(finding->file, sizeof finding->file, "%s", file + skip);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(finding->message, sizeof finding->message, format, arguments);
    va_end(arguments);
}

static void add_batch(check *all, const batch_count *batch) {
    batch_count *grown = realloc(all->batches, (all->batch_count_ + 1) * sizeof *grown);
    if (grown == NULL) {
        all->memory = false;
        return;
    }
    all->batches = grown;
    grown[all->batch_count_++] = *batch;
}

/* Rows come batch by batch: one entry for each run of equal ones, summed up later. */
static void note_rows(check *all, const ga_record_table *table) {
    uint64_t *grown = realloc(all->row_ids, (all->row_count + (size_t)table->rows + 1) * sizeof *grown);
    if (grown == NULL) {
        all->memory = false;
        return;
    }
    all->row_ids = grown;
    memcpy(grown + all->row_count, table->row_id, (size_t)table->rows * sizeof *grown);
    all->row_count += (size_t)table->rows;
    for (int64_t i = 0; i < table->rows;) {
        int64_t end = i + 1;
        while (
            end < table->rows && table->batch[end] == table->batch[i] && table->rank[end] == table->rank[i]) {
            end++;
        }
        add_batch(all, &(batch_count){table->batch[i], table->rank[i], -1, end - i});
        i = end;
    }
    for (int64_t i = 0; i < table->batch_count; i++) {
        const ga_record_batch *batch = &table->batches[i];
        add_batch(all, &(batch_count){batch->batch, batch->rank, (int64_t)batch->rows, 0});
    }
}

static void compare_with_line(
    check *all, const char *path, const ga_manifest_line *line, const ga_record_table *table) {
    if (line->rows != (uint64_t)table->rows) {
        add_finding(all, GA_FINDING_DAMAGE, path, "has %" PRId64 " rows, the manifest says %" PRIu64,
            table->rows, line->rows);
    } else if (table->rows > 0 && (table->row_id[0] != line->first_row_id ||
                                      table->row_id[table->rows - 1] != line->last_row_id)) {
        add_finding(all, GA_FINDING_DAMAGE, path, "its first or last row id is not the one in the manifest");
    }
}

static bool bytes_agree(
    check *all, const char *path, const ga_manifest_line *line, const void *bytes, size_t size) {
    if (line == NULL) {
        add_finding(all, GA_FINDING_NOTE, path,
            "is complete but not in the manifest: its writer was stopped just after publishing it");
        return true;
    }
    if (line->bytes != size) {
        add_finding(
            all, GA_FINDING_DAMAGE, path, "has %zu bytes, the manifest says %" PRIu64, size, line->bytes);
        return false;
    }
    if (line->checksum != ga_digest64(bytes, size)) {
        add_finding(all, GA_FINDING_DAMAGE, path, "its checksum is not the one in the manifest");
        return false;
    }
    return true;
}

/* Rows of a file whose bytes are as the manifest says, or that no manifest speaks of. GA_ERR_MISSING where no
 * HDF5 file can be read at all; else findings. */
static ga_status check_rows(check *all, const ga_record_file *file, const ga_manifest_line *line,
    const void *bytes, size_t size, ga_error *error) {
    ga_error inner;
    ga_error_clear(&inner);
    ga_record_table *table = NULL;
    const ga_status status = ga_segment_load(bytes, size, file->name, &table, &inner);
    if (status == GA_ERR_MISSING || status == GA_ERR_MEMORY) {
        return GA_FAIL(error, status, "%s", inner.message);
    }
    if (status != GA_OK) {
        add_finding(all, GA_FINDING_DAMAGE, file->path, "%.300s", inner.message);
        return GA_OK;
    }
    if (line != NULL) {
        compare_with_line(all, file->path, line, table);
    }
    note_rows(all, table);
    all->report.segments++;
    all->report.rows += table->rows;
    ga_record_table_free(&table);
    return GA_OK;
}

static ga_status check_file(
    check *all, const ga_record_file *file, const ga_manifest *manifest, ga_error *error) {
    void *bytes = NULL;
    size_t size = 0;
    ga_error inner;
    ga_error_clear(&inner);
    if (ga_record_file_read(file->path, &bytes, &size, &inner) != GA_OK) {
        add_finding(all, GA_FINDING_DAMAGE, file->path, "can't be read: %.250s", inner.message);
        return GA_OK;
    }
    all->report.bytes += (int64_t)size;
    const ga_manifest_line *line = ga_manifest_find(manifest, file->name);
    ga_status status = GA_OK;
    /* damaged bytes are not given to HDF5: there is nothing to learn that would be worth it */
    if (bytes_agree(all, file->path, line, bytes, size)) {
        status = check_rows(all, file, line, bytes, size, error);
    }
    free(bytes);
    return status;
}

static bool has_file(const ga_record_files *files, size_t folder, const char *name) {
    for (size_t i = 0; i < files->count; i++) {
        if (files->files[i].folder == folder && strcmp(files->files[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* The manifest by itself, and files it names that are not there. */
static void check_manifest(check *all, size_t folder, const ga_manifest *manifest) {
    const char *path = all->files.folders[folder];
    if (manifest->unreadable_count > 0) {
        add_finding(all, GA_FINDING_DAMAGE, path, GA_MANIFEST_NAME ": %zu lines can't be read",
            manifest->unreadable_count);
    }
    if (manifest->torn) {
        add_finding(all, GA_FINDING_NOTE, path,
            GA_MANIFEST_NAME ": its last line is cut, as a killed writer leaves it");
    }
    for (size_t i = 0; i < manifest->count; i++) {
        const ga_manifest_line *line = &manifest->lines[i];
        if (ga_manifest_find(manifest, line->file) != line) {
            add_finding(all, GA_FINDING_DAMAGE, path, GA_MANIFEST_NAME ": two lines for %s", line->file);
        } else if (!has_file(&all->files, folder, line->file)) {
            add_finding(all, GA_FINDING_GAP, path, "%s is in the manifest (%" PRIu64 " rows) but not there",
                line->file, line->rows);
        }
    }
}

/* Numbers without a file: neither there nor ever published, as far as the manifest knows. */
static void check_sequence(check *all, size_t folder, const ga_manifest *manifest) {
    int64_t expected = -1;
    for (size_t i = 0; i < all->files.count; i++) {
        const ga_record_file *file = &all->files.files[i];
        if (file->folder != folder || file->sequence < 0) {
            continue;
        }
        const int64_t first_missing = expected < 0 ? 0 : expected;
        for (int64_t missing = first_missing; missing < file->sequence; missing++) {
            char name[64];
            (void)snprintf(name, sizeof name, "segment-%06" PRId64 ".h5", missing);
            if (ga_manifest_find(manifest, name) == NULL) {
                add_finding(all, GA_FINDING_GAP, all->files.folders[folder],
                    "segments %" PRId64 " to %" PRId64 " are neither there nor in the manifest", missing,
                    file->sequence - 1);
                break;
            }
        }
        expected = file->sequence + 1;
    }
}

static ga_status check_folder(check *all, size_t folder, ga_error *error) {
    ga_manifest manifest = {0};
    ga_error inner;
    ga_error_clear(&inner);
    if (ga_manifest_read(all->files.folders[folder], &manifest, &inner) != GA_OK) {
        add_finding(all, GA_FINDING_DAMAGE, all->files.folders[folder], "%.300s", inner.message);
    }
    bool any = manifest.exists;
    ga_status status = GA_OK;
    for (size_t i = 0; i < all->files.count && status == GA_OK; i++) {
        if (all->files.files[i].folder == folder) {
            any = true;
            status = check_file(all, &all->files.files[i], &manifest, error);
        }
    }
    check_manifest(all, folder, &manifest);
    check_sequence(all, folder, &manifest);
    all->report.ranks += any;
    ga_manifest_free(&manifest);
    return status;
}

static int compare_ids(const void *a, const void *b) {
    const uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static void check_row_ids(check *all, const char *path) {
    if (all->row_count > 1) {
        qsort(all->row_ids, all->row_count, sizeof *all->row_ids, compare_ids);
    }
    int64_t repeated = 0;
    uint64_t first = 0;
    for (size_t i = 1; i < all->row_count; i++) {
        if (all->row_ids[i] == all->row_ids[i - 1]) {
            first = repeated == 0 ? all->row_ids[i] : first;
            repeated++;
        }
    }
    if (repeated > 0) {
        add_finding(all, GA_FINDING_DAMAGE, path, "%" PRId64 " row ids occur twice, the first is %" PRIu64,
            repeated, first);
    }
}

static int compare_batches(const void *a, const void *b) {
    const batch_count *left = a, *right = b;
    if (left->batch != right->batch) {
        return left->batch < right->batch ? -1 : 1;
    }
    return (left->rank > right->rank) - (left->rank < right->rank);
}

/* One entry for each (batch, rank). */
static void sum_batches(check *all) {
    if (all->batch_count_ > 1) {
        qsort(all->batches, all->batch_count_, sizeof *all->batches, compare_batches);
    }
    size_t kept = 0;
    for (size_t i = 0; i < all->batch_count_; i++) {
        const batch_count *batch = &all->batches[i];
        if (kept > 0 && compare_batches(&all->batches[kept - 1], batch) == 0) {
            batch_count *sum = &all->batches[kept - 1];
            sum->found += batch->found;
            sum->expected = batch->expected > sum->expected ? batch->expected : sum->expected;
        } else {
            all->batches[kept++] = *batch;
        }
    }
    all->batch_count_ = kept;
}

static int64_t ranks_with_batch(const check *all, size_t first) {
    size_t end = first;
    while (end < all->batch_count_ && all->batches[end].batch == all->batches[first].batch) {
        end++;
    }
    return (int64_t)(end - first);
}

/* Says which batches some ranks have and others have not; one finding for all of them. */
static void check_ranks(check *all, const char *path) {
    int64_t most = 0, incomplete = 0;
    uint64_t first_batch = 0;
    for (size_t i = 0; i < all->batch_count_; i += (size_t)ranks_with_batch(all, i)) {
        const int64_t ranks = ranks_with_batch(all, i);
        most = ranks > most ? ranks : most;
    }
    for (size_t i = 0; i < all->batch_count_; i += (size_t)ranks_with_batch(all, i)) {
        all->report.batches++;
        if (ranks_with_batch(all, i) < most) {
            first_batch = incomplete == 0 ? all->batches[i].batch : first_batch;
            incomplete++;
        }
    }
    if (incomplete > 0) {
        add_finding(all, GA_FINDING_GAP, path,
            "%" PRId64 " batches, the first is %" PRIu64 ", are not there for all %" PRId64 " ranks",
            incomplete, first_batch, most);
    }
}

static void check_batches(check *all, const char *path) {
    sum_batches(all);
    int64_t wrong = 0;
    const batch_count *first = NULL;
    for (size_t i = 0; i < all->batch_count_; i++) {
        const batch_count *batch = &all->batches[i];
        if (batch->expected >= 0 && batch->expected != batch->found) {
            first = first == NULL ? batch : first;
            wrong++;
        }
    }
    if (first != NULL) {
        add_finding(all, GA_FINDING_GAP, path,
            "%" PRId64 " batches of a rank have not as many rows as were counted, the first is batch %" PRIu64
            " of rank %d: %" PRId64 " of %" PRId64,
            wrong, first->batch, first->rank, first->found, first->expected);
    }
    check_ranks(all, path);
}

static ga_status check_all(check *all, const char *path, ga_error *error) {
    GA_TRY(ga_record_files_list(path, &all->files, error));
    for (size_t i = 0; i < all->files.folder_count; i++) {
        GA_TRY(check_folder(all, i, error));
    }
    if (all->files.count == 0 && all->report.ranks == 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: no segments; expected rank-*/segment-*.h5 below it", path);
    }
    check_row_ids(all, path);
    check_batches(all, path);
    return all->memory ? GA_OK : GA_FAIL(error, GA_ERR_MEMORY, "%s: no memory to verify it", path);
}

ga_status ga_record_verify(const char *path, ga_record_report *report_out, ga_error *error) {
    check all;
    memset(&all, 0, sizeof all);
    all.memory = true;
    const ga_status status = check_all(&all, path, error);
    ga_record_files_free(&all.files);
    free(all.row_ids);
    free(all.batches);
    if (status != GA_OK) {
        ga_record_report_free(&all.report);
        return status;
    }
    *report_out = all.report;
    return GA_OK;
}

void ga_record_report_free(ga_record_report *report) {
    free(report->findings);
    *report = (ga_record_report){0};
}
