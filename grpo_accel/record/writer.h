/*
 * A rank's writer: rows go into memory at once, and to disk from a thread of its own.
 *
 * The caller never waits for a disk, but where the memory bound is reached (wait_seconds) and in flush and
 * close. After a failed write the rows stay in memory and are tried again with the next segment and at the
 * next flush; when the bound is reached, new rows are dropped and counted. Published segments are never
 * touched again.
 */
#ifndef GA_RECORD_WRITER_H
#define GA_RECORD_WRITER_H

#include "grpo_accel/record/row.h"

typedef struct ga_record ga_record;

/* Zero means the default. Texts are copied. */
typedef struct ga_record_options {
    const char *folder; /* the record's folder, "<run_dir>/record"; this rank writes below rank-%05d */
    ga_record_layout layout;
    int32_t segment_rows;    /* a segment is sealed when it has so many rows; default 2048 */
    size_t segment_bytes;    /* or when its rows hold so many bytes; default 32 MiB */
    double seal_seconds;     /* or when its oldest row is so old; default 60, negative: never */
    size_t memory_bytes_max; /* of rows that are not on disk yet; default 512 MiB */
    double wait_seconds;     /* how long append waits for room before it drops rows; default 2 */
    double flush_seconds;    /* how long flush and close wait for the disk; default 60 */
} ga_record_options;

typedef struct ga_record_counters {
    int64_t rows_written; /* are on disk */
    int64_t rows_pending; /* are in memory */
    int64_t rows_dropped; /* found no room */
    int64_t segments;
    int64_t bytes;
    int64_t failures; /* attempts to write that failed */
    double seconds;   /* that the writer's thread has spent building and writing */
} ga_record_counters;

/*
 * Opens (and makes) this rank's folder, continues its numbers, starts the thread. *record_out is closed with
 * ga_record_close. Not collective. A record is used by any thread of the process that opened it; a fork of
 * that process must not use it, and is told so. Errors: GA_ERR_ARGUMENT (layout), GA_ERR_IO (folder),
 * GA_ERR_MEMORY, GA_ERR_MISSING (built without HDF5).
 */
ga_status ga_record_open(const ga_record_options *options, ga_record **record_out, ga_error *error);

/*
 * Takes copies of `count` rows and of all they point to. Errors: GA_ERR_IO where rows were dropped because
 * the disk does not keep up or fails, GA_ERR_MEMORY likewise; the rows before them are kept.
 */
ga_status ga_record_append(ga_record *record, const ga_record_row *rows, int32_t count, ga_error *error);

/* Takes a copy of a batch's figures; `rank` in it is set here. Errors: GA_ERR_MEMORY. */
ga_status ga_record_append_batch(ga_record *record, const ga_record_batch *batch, ga_error *error);

/*
 * Seals what is pending and waits until it is on disk. Errors: GA_ERR_IO with the cause (rows stay in
 * memory), also where the disk did not answer within flush_seconds.
 */
ga_status ga_record_flush(ga_record *record, ga_error *error);

/* GA_OK, or the failure that the thread met, given once for each time that writing begins to fail. */
ga_status ga_record_status(ga_record *record, ga_error *error);

ga_record_counters ga_record_count(ga_record *record);

/*
 * Flushes, ends the thread and sets *record to NULL. What could not be written is lost, and said so in
 * `error`; if the disk hangs, the thread is left to itself. NULL is allowed. Errors: as ga_record_flush.
 */
ga_status ga_record_close(ga_record **record, ga_error *error);

#endif
