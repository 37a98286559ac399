/*
 * manifest.jsonl: what a rank has published, one line a segment, each with the segment's checksum.
 *
 * Segments are complete without it; it is how a missing or changed one is noticed.
 */
#ifndef GA_RECORD_MANIFEST_H
#define GA_RECORD_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

#define GA_MANIFEST_NAME "manifest.jsonl"
#define GA_MANIFEST_FILE_BYTES 64
#define GA_MANIFEST_LINE_BYTES 640

typedef struct ga_manifest_line {
    char file[GA_MANIFEST_FILE_BYTES]; /* a plain name: no '/', no leading '.' */
    uint64_t rows;
    uint64_t bytes;
    uint64_t checksum; /* XXH64 of the file, 16 hexadecimal digits in the line */
    uint64_t first_row_id;
    uint64_t last_row_id;
    uint64_t first_batch;
    uint64_t last_batch;
    uint64_t first_update;
    uint64_t last_update;
    uint64_t sequence;
} ga_manifest_line;

/* One rank's manifest as read. */
typedef struct ga_manifest {
    bool exists;
    ga_manifest_line *lines; /* in the order of the file; owned */
    size_t count;
    size_t unreadable_count; /* whole lines that could not be understood */
    bool torn;               /* the last line was cut, as a killed writer leaves it */
} ga_manifest;

/* JSON without line end. */
void ga_manifest_format(const ga_manifest_line *line, char text_out[GA_MANIFEST_LINE_BYTES]);

/* False, and *line_out untouched, unless the text is such a line. */
bool ga_manifest_parse(const char *text, ga_manifest_line *line_out);

/*
 * Reads `folder`/manifest.jsonl. No manifest is no error (exists = false); neither are lines that can't be
 * read. Freed with ga_manifest_free. Errors: GA_ERR_FILE, GA_ERR_MEMORY.
 */
ga_status ga_manifest_read(const char *folder, ga_manifest *manifest_out, ga_error *error);
void ga_manifest_free(ga_manifest *manifest);

/* The last line about a file; NULL if there is none. */
const ga_manifest_line *ga_manifest_find(const ga_manifest *manifest, const char *file);

#endif
