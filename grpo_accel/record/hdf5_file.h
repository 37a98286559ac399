/*
 * HDF5 as this room uses it: quiet, one thread at a time, files as images in memory, and nothing in a file
 * that could make the library look outside that file.
 *
 * Why in memory: HDF5 dies when a disk fails under it, and does not recover from a killed writer. Our own
 * write() does (publish.h). Included by the room's HDF5 sources only.
 */
#ifndef GA_RECORD_HDF5_FILE_H
#define GA_RECORD_HDF5_FILE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>

#include "grpo_accel/base/status.h"
#include "grpo_accel/record/row.h"

/* Between enter and leave: the room's lock is held, HDF5 prints nothing and loads no plugins. */
typedef struct ga_hdf5_scope {
    H5E_auto2_t handler;
    void *handler_data;
    unsigned plugins;
} ga_hdf5_scope;
void ga_hdf5_enter(ga_hdf5_scope *scope);
void ga_hdf5_leave(const ga_hdf5_scope *scope);

/* HDF5's own words for what went wrong last in this thread; "no reason given" if it said nothing. */
const char *ga_hdf5_cause(char *text, size_t bytes);

/* IEEE half, little endian. Closed by the caller. */
hid_t ga_hdf5_half_type(void);

/* Type of a column in memory and in a file. Static: not to be closed. */
hid_t ga_hdf5_memory_type(ga_column_type type);
hid_t ga_hdf5_file_type(ga_column_type type);

/* A new file in memory / a file from its bytes (copied). Negative on failure, with the cause where there is
 * room for one. Closed by the caller. */
hid_t ga_hdf5_create_image(void);
hid_t ga_hdf5_open_image(const void *image, size_t bytes, char *cause, size_t cause_bytes);

/*
 * Opens a dataset below `file` by path, checked: each component is a hard link; stored in the file itself;
 * filters only deflate, shuffle, fletcher32; its size is possible for a file of file_bytes. Closed by the
 * caller. Errors: GA_ERR_FILE; the message has the dataset's path.
 */
ga_status ga_hdf5_open_dataset(
    hid_t file, const char *path, size_t file_bytes, hid_t *dataset_out, ga_error *error);

/* Dimensions of a dataset; returns their number, negative if there are more than `capacity`. */
int ga_hdf5_dimensions(hid_t dataset, hsize_t *dimensions, int capacity);

/* Is there a hard link of this path? Every component is looked at. */
bool ga_hdf5_has(hid_t file, const char *path);

#endif
