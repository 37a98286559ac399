#include "dist/exchange.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"

_Static_assert(sizeof(ga_candidate) == 24, "a candidate is 24 bytes on the wire");
_Static_assert(sizeof(ga_outcome) == 64, "an outcome is 64 bytes on the wire");
_Static_assert(sizeof(ga_exchange_header) == 32, "no padding travels");
_Static_assert(sizeof(ga_update_header) == 304, "no padding travels");

/* A field of a header that all ranks must share. */
typedef struct field {
    const char *name;
    size_t offset;
    size_t bytes; /* 4 or 8 */
} field;

/* How the messages of one kind of exchange look. */
typedef struct layout {
    const char *name;
    size_t header_bytes;
    size_t row_bytes;
    size_t rows_offset;  /* of `rows` in the header */
    size_t flags_offset; /* of `flags` in the header */
    size_t rank_offset;  /* of `rank` in a row */
    size_t index_offset; /* of `index` in a row */
    int32_t field_count;
    field fields[5];
} layout;

static const layout batch_layout = {"batch", sizeof(ga_exchange_header), sizeof(ga_candidate),
    offsetof(ga_exchange_header, rows), offsetof(ga_exchange_header, flags), offsetof(ga_candidate, rank),
    offsetof(ga_candidate, index), 5,
    {{"fingerprint", offsetof(ga_exchange_header, fingerprint), 8},
        {"batch", offsetof(ga_exchange_header, batch), 8}, {"stage", offsetof(ga_exchange_header, stage), 4},
        {"probe_version", offsetof(ga_exchange_header, probe_version), 4},
        {"rows", offsetof(ga_exchange_header, rows), 4}}};

static const layout update_layout = {"update", sizeof(ga_update_header), sizeof(ga_outcome),
    offsetof(ga_update_header, rows), offsetof(ga_update_header, flags), offsetof(ga_outcome, rank),
    offsetof(ga_outcome, index), 4,
    {{"fingerprint", offsetof(ga_update_header, fingerprint), 8},
        {"update", offsetof(ga_update_header, update), 8},
        {"batches", offsetof(ga_update_header, batches), 4}, {"rows", offsetof(ga_update_header, rows), 4}}};

/* What a parcel begins with: 32 bits name the kind and the version of the layout. */
#define WIRE_MAGIC_BATCH UINT32_C(0x47410101)
#define WIRE_MAGIC_UPDATE UINT32_C(0x47410203)

static uint32_t wire_magic(const layout *form) {
    return form == &batch_layout ? WIRE_MAGIC_BATCH : WIRE_MAGIC_UPDATE;
}

/* The header follows eight bytes of magic and its row size, the rows follow the header. */
#define WIRE_HEAD_BYTES 8u

static uint32_t read_u32(const ga_parcel *parcel, size_t offset) {
    uint32_t value;
    memcpy(&value, (const char *)parcel->data + offset, sizeof value);
    return value;
}

static uint64_t read_field(const ga_parcel *parcel, size_t offset, size_t bytes) {
    uint64_t value;
    if (bytes == sizeof(uint32_t)) {
        return read_u32(parcel, WIRE_HEAD_BYTES + offset);
    }
    memcpy(&value, (const char *)parcel->data + WIRE_HEAD_BYTES + offset, sizeof value);
    return value;
}

/* The value that most ranks hold (Boyer, Moore 1981), or rank 0's where there is no majority: so that the
 * message names the odd one out. */
static uint64_t common_value(const ga_parcel *parcels, int32_t size, size_t offset, size_t bytes) {
    uint64_t candidate = 0;
    int32_t votes = 0;
    for (int32_t rank = 0; rank < size; rank++) {
        const uint64_t value = read_field(&parcels[rank], offset, bytes);
        candidate = votes == 0 ? value : candidate;
        votes += value == candidate ? 1 : -1;
    }
    int32_t count = 0;
    for (int32_t rank = 0; rank < size; rank++) {
        count += read_field(&parcels[rank], offset, bytes) == candidate;
    }
    return 2 * (int64_t)count > size ? candidate : read_field(&parcels[0], offset, bytes);
}

/* The first rank whose value is not the common one; -1: all hold it. */
static int32_t find_differing(
    const ga_parcel *parcels, int32_t size, size_t offset, size_t bytes, uint64_t *common_out) {
    *common_out = common_value(parcels, size, offset, bytes);
    for (int32_t rank = 0; rank < size; rank++) {
        if (read_field(&parcels[rank], offset, bytes) != *common_out) {
            return rank;
        }
    }
    return -1;
}

static void blame(ga_exchange_report *report, int32_t rank, const char *name) {
    report->differing_rank = rank;
    report->differing_field = name;
}

/* Is each parcel long enough for a header of this kind? */
static ga_status check_shape(
    const layout *form, const ga_parcel *parcels, int32_t size, ga_exchange_report *report, ga_error *error) {
    for (int32_t rank = 0; rank < size; rank++) {
        const ga_parcel *parcel = &parcels[rank];
        if (parcel->bytes < WIRE_HEAD_BYTES + form->header_bytes || read_u32(parcel, 0) != wire_magic(form) ||
            read_u32(parcel, 4) != form->row_bytes) {
            blame(report, rank, "message");
            return GA_FAIL(error, GA_ERR_MISMATCH,
                "exchange of %s: rank %d sent %zu bytes of another kind; do all ranks run the same version?",
                form->name, rank, parcel->bytes);
        }
    }
    return GA_OK;
}

static ga_status check_fields(
    const layout *form, const ga_parcel *parcels, int32_t size, ga_exchange_report *report, ga_error *error) {
    for (int32_t i = 0; i < form->field_count; i++) {
        const field *checked = &form->fields[i];
        uint64_t common = 0;
        const int32_t rank = find_differing(parcels, size, checked->offset, checked->bytes, &common);
        if (rank >= 0) {
            blame(report, rank, checked->name);
            return GA_FAIL(error, GA_ERR_MISMATCH,
                "exchange of %s: rank %d has %s %llu where the others have %llu; every rank must run the "
                "same "
                "configuration, calls and probe",
                form->name, rank, checked->name,
                (unsigned long long)read_field(&parcels[rank], checked->offset, checked->bytes),
                (unsigned long long)common);
        }
    }
    return GA_OK;
}

/* All ranks have the same number of rows by now: do the bytes hold them, and do they name their sender? */
static ga_status check_rows(
    const layout *form, const ga_parcel *parcels, int32_t size, ga_exchange_report *report, ga_error *error) {
    const size_t first = WIRE_HEAD_BYTES + form->header_bytes;
    for (int32_t rank = 0; rank < size; rank++) {
        const uint64_t rows = read_field(&parcels[rank], form->rows_offset, 4);
        if ((parcels[rank].bytes - first) / form->row_bytes != rows ||
            (parcels[rank].bytes - first) % form->row_bytes != 0) {
            blame(report, rank, "message");
            return GA_FAIL(error, GA_ERR_MISMATCH, "exchange of %s: rank %d sent %zu bytes for %llu rows",
                form->name, rank, parcels[rank].bytes, (unsigned long long)rows);
        }
        for (uint64_t row = 0; row < rows; row++) {
            const size_t offset = first + (size_t)row * form->row_bytes;
            const uint32_t row_rank = read_u32(&parcels[rank], offset + form->rank_offset);
            const uint32_t index = read_u32(&parcels[rank], offset + form->index_offset);
            if (row_rank != (uint32_t)rank || index >= rows) {
                blame(report, rank, "row");
                return GA_FAIL(error, GA_ERR_DATA,
                    "exchange of %s: row %llu from rank %d calls itself row %d of rank %d", form->name,
                    (unsigned long long)row, rank, (int)index, (int)row_rank);
            }
        }
    }
    return GA_OK;
}

static void copy_rows(const layout *form, const ga_parcel *parcels, int32_t size, void *all_rows_out) {
    const size_t first = WIRE_HEAD_BYTES + form->header_bytes;
    char *target = all_rows_out;
    for (int32_t rank = 0; rank < size; rank++) {
        const size_t bytes = parcels[rank].bytes - first;
        if (bytes > 0) {
            memcpy(target, (const char *)parcels[rank].data + first, bytes);
        }
        target += bytes;
    }
}

static float read_float(const ga_parcel *parcel, size_t offset) {
    float value;
    memcpy(&value, (const char *)parcel->data + WIRE_HEAD_BYTES + offset, sizeof value);
    return value;
}

static uint16_t read_u16(const ga_parcel *parcel, size_t offset) {
    uint16_t value;
    memcpy(&value, (const char *)parcel->data + WIRE_HEAD_BYTES + offset, sizeof value);
    return value;
}

/* The callers' figures and counts, over all ranks. */
static void join_figures(const ga_parcel *parcels, int32_t size, ga_exchange_report *report) {
    for (size_t i = 0; i < GA_UPDATE_FIGURES; i++) {
        const size_t offset = offsetof(ga_update_header, figures) + i * sizeof(float);
        report->figure_max[i] = NAN;
        for (int32_t rank = 0; rank < size; rank++) {
            report->figure_max[i] = fmaxf(report->figure_max[i], read_float(&parcels[rank], offset));
        }
    }
    for (size_t i = 0; i < GA_UPDATE_COUNTS; i++) {
        const size_t offset = offsetof(ga_update_header, counts) + i * sizeof(uint16_t);
        for (int32_t rank = 0; rank < size; rank++) {
            report->count_sum[i] += read_u16(&parcels[rank], offset);
        }
    }
}

/* What of the headers is told and not enforced. */
static void fill_report(
    const layout *form, const ga_parcel *parcels, int32_t size, ga_exchange_report *report) {
    report->flags_all = UINT32_MAX;
    for (int32_t rank = 0; rank < size; rank++) {
        const uint32_t flags = (uint32_t)read_field(&parcels[rank], form->flags_offset, 4);
        report->flags_any |= flags;
        report->flags_all &= flags;
        report->digest = ga_digest_join(report->digest, ga_digest64(parcels[rank].data, parcels[rank].bytes));
    }
    report->checksums_agree = true;
    report->checksum_rank = -1;
    if (form != &update_layout) {
        return;
    }
    uint64_t common = 0;
    report->checksum_rank = find_differing(parcels, size, offsetof(ga_update_header, checksum), 8, &common);
    report->checksums_agree = report->checksum_rank < 0;
    report->probe_version_ready = UINT32_MAX;
    for (int32_t rank = 0; rank < size; rank++) {
        const uint32_t ready =
            (uint32_t)read_field(&parcels[rank], offsetof(ga_update_header, probe_version_ready), 4);
        report->probe_version_ready =
            ready < report->probe_version_ready ? ready : report->probe_version_ready;
    }
    join_figures(parcels, size, report);
    memcpy(report->first_note,
        (const char *)parcels[0].data + WIRE_HEAD_BYTES + offsetof(ga_update_header, note),
        sizeof report->first_note);
}

/* Header and rows as one parcel; freed by the caller. */
static ga_status pack(const layout *form, const void *header, const void *rows, uint32_t row_count,
    char **parcel_out, size_t *bytes_out, ga_error *error) {
    size_t row_bytes = 0;
    if (!ga_multiply_size(row_count, form->row_bytes, &row_bytes) || row_bytes > SIZE_MAX / 2) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "exchange of %s: %u rows are too many", form->name, row_count);
    }
    const size_t bytes = WIRE_HEAD_BYTES + form->header_bytes + row_bytes;
    char *parcel = malloc(bytes);
    if (parcel == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "exchange of %s: no memory for %zu bytes", form->name, bytes);
    }
    const uint32_t head[2] = {wire_magic(form), (uint32_t)form->row_bytes};
    memcpy(parcel, head, sizeof head);
    memcpy(parcel + WIRE_HEAD_BYTES, header, form->header_bytes);
    if (row_bytes > 0) {
        memcpy(parcel + WIRE_HEAD_BYTES + form->header_bytes, rows, row_bytes);
    }
    *parcel_out = parcel;
    *bytes_out = bytes;
    return GA_OK;
}

static ga_status use_parcels(const layout *form, const ga_parcel *parcels, int32_t size, void *all_rows_out,
    ga_exchange_report *report, ga_error *error) {
    GA_TRY(check_shape(form, parcels, size, report, error));
    GA_TRY(check_fields(form, parcels, size, report, error));
    GA_TRY(check_rows(form, parcels, size, report, error));
    fill_report(form, parcels, size, report);
    copy_rows(form, parcels, size, all_rows_out);
    return GA_OK;
}

static ga_status exchange(ga_world *world, const layout *form, const void *header, const void *rows,
    uint32_t row_count, double deadline_seconds, void *all_rows_out, ga_exchange_report *report_out,
    ga_error *error) {
    char *parcel = NULL;
    size_t bytes = 0;
    const double begin_seconds = ga_clock_now(ga_world_clock(world));
    *report_out = (ga_exchange_report){.late.exact = true, .differing_rank = -1, .checksum_rank = -1};
    ga_status status = pack(form, header, rows, row_count, &parcel, &bytes, error);
    if (status != GA_OK) {
        ga_world_skip(world);
        return status;
    }
    const ga_parcel *parcels = NULL;
    status = ga_world_collect(world, parcel, bytes, deadline_seconds, &parcels, &report_out->late, error);
    if (status == GA_OK) {
        status = use_parcels(form, parcels, ga_world_size(world), all_rows_out, report_out, error);
    }
    free(parcel);
    report_out->seconds = ga_clock_now(ga_world_clock(world)) - begin_seconds;
    return status;
}

ga_status ga_exchange_batch(ga_world *world, const ga_exchange_header *own, const ga_candidate *own_rows,
    double deadline_seconds, ga_candidate *all_rows_out, ga_exchange_report *report_out, ga_error *error) {
    return exchange(
        world, &batch_layout, own, own_rows, own->rows, deadline_seconds, all_rows_out, report_out, error);
}

ga_status ga_exchange_update(ga_world *world, const ga_update_header *own, const ga_outcome *own_rows,
    double deadline_seconds, ga_outcome *all_rows_out, ga_exchange_report *report_out, ga_error *error) {
    return exchange(
        world, &update_layout, own, own_rows, own->rows, deadline_seconds, all_rows_out, report_out, error);
}
