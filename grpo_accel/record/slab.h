/* A few rows of a file's datasets, read from the file without the rest of it. */
#ifndef GA_RECORD_SLAB_H
#define GA_RECORD_SLAB_H

#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef enum ga_slab_type { GA_SLAB_HALF = 0, GA_SLAB_U8 = 1, GA_SLAB_U64 = 2, GA_SLAB_F32 = 3 } ga_slab_type;

/* What to read of one dataset: rows first … first + count - 1; where `candidate` ≥ 0 only that place of the
 * second dimension. */
typedef struct ga_slab {
    const char *dataset;
    ga_slab_type type;
    int64_t first, count;
    int32_t candidate;
    size_t row_values; /* that a row has; anything else in the file is an error */
    void *values;      /* [count][row_values] is written */
} ga_slab;

/*
 * Opens the file, fills every slab in turn, and closes it. Trusts nothing that the file says. Not collective.
 * Any thread; readers wait for each other. Errors: GA_ERR_FILE (gone, damaged, another shape: the message has
 * the path), GA_ERR_MISSING where built without HDF5; values are void then.
 */
ga_status ga_segment_read_slabs(const char *path, const ga_slab *slabs, int32_t slab_count, ga_error *error);

/* Rows of a dataset of the file. Errors as above. */
ga_status ga_segment_count_rows(const char *path, const char *dataset, int64_t *rows_out, ga_error *error);

#endif
