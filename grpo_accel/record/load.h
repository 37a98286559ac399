/* One segment's bytes → a table of its rows. Trusts nothing that the file says. */
#ifndef GA_RECORD_LOAD_H
#define GA_RECORD_LOAD_H

#include "grpo_accel/record/table.h"

/*
 * Reads every dataset (and so every checksum) of the file `image` of `bytes` bytes; `name` is for messages.
 * The table is in the file's own layout and order. Not collective. Any thread; loaders wait for each other.
 * Errors: GA_ERR_FILE for anything damaged, refused or of a newer schema, GA_ERR_MEMORY, GA_ERR_MISSING where
 * built without HDF5.
 */
ga_status ga_segment_load(
    const void *image, size_t bytes, const char *name, ga_record_table **table_out, ga_error *error);

#endif
