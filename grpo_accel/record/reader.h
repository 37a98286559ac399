/* Reading a record: all ranks' segments as one table, whatever happened to single files. */
#ifndef GA_RECORD_READER_H
#define GA_RECORD_READER_H

#include "grpo_accel/record/table.h"

/* Zeroed: every row. */
typedef struct ga_record_read_options {
    bool limit_updates; /* rows with first_update ≤ update ≤ last_update only */
    uint32_t first_update;
    uint32_t last_update;
    bool only_kept;      /* rows with kept ≠ 0 only */
    bool only_audit;     /* rows with audit ≠ 0 only */
    int64_t newest_rows; /* > 0: the newest whole updates that together have at least so many rows */
    bool narrow;         /* leave features and finals in the files: stream.h fetches them by row */
    bool strict;         /* a damaged segment is an error, and not only counted in the table */
} ga_record_read_options;

/*
 * Reads what is below `path` (run folder, record folder, rank folder, one file; files.h) into a table,
 * ordered by (update, batch, rank, index); a row that stands in two files is given once. `options` may be
 * NULL.
 *
 * Where segments differ in layout, the newest one's candidates and inputs are used: what another does not
 * have, or has in another shape, is NaN there. Scorers of all are given. Segments that the manifest says to
 * be outside the updates are not opened. A checksum that differs from the manifest's refuses the segment.
 *
 * The table is freed with ga_record_table_free. Not collective. Any thread.
 * Errors: GA_ERR_FILE (nothing there; no segment readable; any refused if strict), GA_ERR_MEMORY,
 * GA_ERR_MISSING (built without HDF5).
 */
ga_status ga_record_read(
    const char *path, const ga_record_read_options *options, ga_record_table **table_out, ga_error *error);

#endif
