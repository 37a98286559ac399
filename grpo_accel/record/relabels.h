/* Labels of a run's pictures under other prompts of the run, as grpo_accel/python/relabel.py writes them. */
#ifndef GA_RECORD_RELABELS_H
#define GA_RECORD_RELABELS_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Arrays [count], owned; freed with ga_relabels_free. */
typedef struct ga_relabels {
    int64_t count;
    uint64_t *row_id;           /* whose picture */
    uint64_t *donor_row_id;     /* a row of the run that has the other prompt */
    uint8_t (*prompt_hash)[16]; /* of the other prompt */
    float *reward;
    int64_t refused_count; /* files that were damaged: their labels are missing */
    ga_error refused;      /* why the first of them was */
} ga_relabels;

/*
 * Reads relabels/ of the run that `path` is, or whose record folder it is. Not collective. Any thread.
 * Errors: GA_ERR_FILE (there are none), GA_ERR_MEMORY, GA_ERR_MISSING (built without HDF5).
 */
ga_status ga_relabels_read(const char *path, ga_relabels *relabels_out, ga_error *error);

/* Empty is allowed. */
void ga_relabels_free(ga_relabels *relabels);

#endif
