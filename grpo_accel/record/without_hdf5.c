/* Stands in for segment.c, load.c and slab.c in a build without HDF5: the same names, and the truth. */
#include "grpo_accel/record/columns.h"
#include "grpo_accel/record/load.h"
#include "grpo_accel/record/segment.h"
#include "grpo_accel/record/slab.h"

ga_status ga_segment_build(const ga_segment *segment, void **image_out, size_t *bytes_out, ga_error *error) {
    (void)segment;
    (void)image_out;
    (void)bytes_out;
    return GA_FAIL(error, GA_ERR_MISSING,
        "record: built without HDF5; install libhdf5-dev and configure with -Dhdf5=enabled");
}

ga_status ga_segment_load(
    const void *image, size_t bytes, const char *name, ga_record_table **table_out, ga_error *error) {
    (void)image;
    (void)bytes;
    (void)table_out;
    return GA_FAIL(error, GA_ERR_MISSING,
        "%s: can't be read, built without HDF5; install libhdf5-dev and configure with -Dhdf5=enabled", name);
}

ga_status ga_segment_read_slabs(const char *path, const ga_slab *slabs, int32_t slab_count, ga_error *error) {
    (void)slabs;
    (void)slab_count;
    return GA_FAIL(error, GA_ERR_MISSING,
        "%s: can't be read, built without HDF5; install libhdf5-dev and configure with -Dhdf5=enabled", path);
}

ga_status ga_segment_count_rows(const char *path, const char *dataset, int64_t *rows_out, ga_error *error) {
    (void)dataset;
    (void)rows_out;
    return GA_FAIL(error, GA_ERR_MISSING,
        "%s: can't be read, built without HDF5; install libhdf5-dev and configure with -Dhdf5=enabled", path);
}

ga_status ga_record_read_named(
    const char *path, ga_record_named *columns, int32_t count, int64_t *rows_out, ga_error *error) {
    (void)columns;
    (void)count;
    (void)rows_out;
    return GA_FAIL(error, GA_ERR_MISSING,
        "%s: can't be read, built without HDF5; install libhdf5-dev and configure with -Dhdf5=enabled", path);
}
