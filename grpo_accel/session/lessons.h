/* Lessons: the record's rows as a dataset to train and to evaluate with. */
#ifndef GA_SESSION_LESSONS_H
#define GA_SESSION_LESSONS_H

#include <stdint.h>

#include "grpo_accel/base/status.h"
#include "grpo_accel/record/table.h"
#include "probe/train/dataset.h"

typedef struct ga_lessons ga_lessons;

typedef struct ga_lessons_options {
    const char *path;    /* run folder, record folder, rank folder or one file */
    int64_t newest_rows; /* the newest whole updates with at least so many rows; 0: all */
    int32_t step;        /* rows decided after this step only; 0: the record's first candidate step */
} ga_lessons_options;

/*
 * Reads the record below options->path. Groups are (batch, prompt), as at the
 * decision; prompts are told apart by their hash. *lessons_out is freed with ga_lessons_free; it owns its
 * arrays. Not collective. Any thread. Errors: GA_ERR_FILE, GA_ERR_DATA (no row was decided after the step),
 * GA_ERR_MEMORY, GA_ERR_MISSING (built without HDF5).
 */
ga_status ga_lessons_read(const ga_lessons_options *options, ga_lessons **lessons_out, ga_error *error);

/* A view of the rows, valid until ga_lessons_free. */
const ga_dataset *ga_lessons_dataset(const ga_lessons *lessons);

/* The table they come from: model, steps, scorers, refused segments. */
const ga_record_table *ga_lessons_table(const ga_lessons *lessons);

/* Frees and sets *lessons to NULL; NULL is allowed. */
void ga_lessons_free(ga_lessons **lessons);

#endif
