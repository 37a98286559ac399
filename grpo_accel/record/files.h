/* Which segments exist below a path, and one segment's bytes. */
#ifndef GA_RECORD_FILES_H
#define GA_RECORD_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef struct ga_record_file {
    char *path;
    const char *name; /* last part of path */
    size_t folder;    /* position in folders */
    int64_t sequence; /* −1: not named as a segment (a merged file) */
} ga_record_file;

/* Owned; freed with ga_record_files_free. */
typedef struct ga_record_files {
    ga_record_file *files; /* by folder, then sequence, then name */
    size_t count;
    char **folders; /* by name */
    size_t folder_count;
} ga_record_files;

/*
 * Accepts a run folder (holds record/), a record folder (holds rank-*), a rank folder (holds *.h5) or one
 * file. Symbolic links below the path are passed over. No files is no error here.
 * Errors: GA_ERR_FILE (not there, not readable), GA_ERR_MEMORY.
 */
ga_status ga_record_files_list(const char *path, ga_record_files *files_out, ga_error *error);
void ga_record_files_free(ga_record_files *files);

/*
 * All bytes of a regular file of at most GA_RECORD_FILE_BYTES_MAX; freed by the caller with free().
 * Errors: GA_ERR_FILE, GA_ERR_MEMORY.
 */
#define GA_RECORD_FILE_BYTES_MAX (INT64_C(4) << 30)
ga_status ga_record_file_read(const char *path, void **bytes_out, size_t *size_out, ga_error *error);

#endif
