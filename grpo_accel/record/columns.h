/* Single columns of any HDF5 file, by name: tables that this program did not write. */
#ifndef GA_RECORD_COLUMNS_H
#define GA_RECORD_COLUMNS_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

/*
 * A column that is wanted: a dataset of one dimension with integers or floats. A key keeps 64 bits; a whole
 * float is the same key as that integer, another float its digest.
 */
typedef struct ga_record_named {
    const char *name;
    bool is_key;
    double *values; /* set unless is_key; NULL: not in the file. Freed by the caller with free() */
    uint64_t *keys; /* set if is_key; likewise */
} ga_record_named;

/*
 * Reads columns[count] of the HDF5 file `path`; all that are there have *rows_out entries (0: none is there).
 * Nothing is to be freed on failure. Not collective. Any thread. GA_ERR_FILE (not readable, not HDF5),
 * GA_ERR_DATA (another shape, type or length; names the dataset), GA_ERR_MEMORY, GA_ERR_MISSING (no HDF5).
 */
ga_status ga_record_read_named(
    const char *path, ga_record_named *columns, int32_t count, int64_t *rows_out, ga_error *error);

#endif
