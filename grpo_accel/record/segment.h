/* A segment: rows and batches as the bytes of one complete HDF5 file. Nothing here touches a disk. */
#ifndef GA_RECORD_SEGMENT_H
#define GA_RECORD_SEGMENT_H

#include "grpo_accel/record/row.h"

/* Views of what a segment is to hold. */
typedef struct ga_segment {
    const ga_record_layout *layout; /* valid by ga_record_layout_check */
    const ga_record_row *rows;
    int32_t row_count;
    const ga_record_batch *batches;
    int32_t batch_count;
} ga_segment;

/*
 * Builds the file. Datasets are little endian, checked by fletcher32, not compressed, and filled with NaN
 * where floats are missing. *image_out is freed by the caller with free(); untouched on failure.
 * Not collective. Any thread; builders wait for each other.
 * Errors: GA_ERR_MEMORY; GA_ERR_IO with HDF5's words; GA_ERR_MISSING where built without HDF5.
 */
ga_status ga_segment_build(const ga_segment *segment, void **image_out, size_t *bytes_out, ga_error *error);

#endif
