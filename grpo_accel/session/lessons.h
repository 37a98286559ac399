/* Lessons: the record's rows as a dataset to train and to evaluate with. */
#ifndef GA_SESSION_LESSONS_H
#define GA_SESSION_LESSONS_H

#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"
#include "grpo_accel/record/table.h"
#include "probe/train/dataset.h"

/* For ga_lessons_options.step. */
#define GA_LESSONS_ALL_STEPS (-1)

/* The name of the scorer that scored a rollout a second time: how far the reward repeats itself, nothing to
 * predict. */
#define GA_LESSONS_RETEST "retest"

typedef struct ga_lessons ga_lessons;

/* Zeroed but for the path: every row, after the first candidate step, with all inputs, for the reward. */
typedef struct ga_lessons_options {
    const char *path;     /* run folder, record folder, rank folder or one file */
    int64_t newest_rows;  /* the newest whole updates with at least so many rows; 0: all */
    int32_t step;         /* rows after this step only; 0: the record's first; GA_LESSONS_ALL_STEPS */
    const int32_t *steps; /* [step_count] or these; NULL: step */
    int32_t step_count;
    uint32_t inputs;     /* GA_INPUT_BIT(…) of those to use; 0: all that the record has */
    const char *targets; /* scorers to predict beside the reward: "all" or a list with commas; NULL: none */
    int32_t relabels;    /* labels of a row under other prompts at most (grpo-accel relabel); 0: none */
    size_t memory_bytes; /* that features may take; 0: 64 MB. A larger record is fetched as it is needed */
    int32_t rank;        /* of `ranks` processes that train together; ranks 0 and 1: one */
    int32_t ranks;
} ga_lessons_options;

/*
 * Reads the record below options->path: all small columns, and of the features what fits the memory. Groups
 * are (batch, prompt), as at the decision, each step a group of its own; prompts are told apart by their
 * hash, and of several processes each brings the prompts whose key falls to it. *lessons_out is freed with
 * ga_lessons_free; it owns its arrays. Not collective; its dataset belongs to one thread at a time. Errors:
 * GA_ERR_FILE, GA_ERR_DATA (no row was decided after a step; an input or scorer is not in the record),
 * GA_ERR_MEMORY, GA_ERR_MISSING (built without HDF5).
 */
ga_status ga_lessons_read(const ga_lessons_options *options, ga_lessons **lessons_out, ga_error *error);

/* A view of the rows, valid until ga_lessons_free. Row i is row i / steps of the table. */
const ga_dataset *ga_lessons_dataset(const ga_lessons *lessons);

/*
 * With relabels: the rows' final latents in the place of their signals, with the same labels under other
 * prompts; a row for each row of the table. NULL where the record has none. A view, as above.
 */
const ga_dataset *ga_lessons_clean(const ga_lessons *lessons);

/* The table they come from: model, steps, scorers, refused segments; its features are in the files. */
const ga_record_table *ga_lessons_table(const ga_lessons *lessons);

/* Decision steps of the rows, ascending as in the record; returns how many. */
int32_t ga_lessons_steps(const ga_lessons *lessons, const int32_t **steps_out);

/* Frees and sets *lessons to NULL; NULL is allowed. */
void ga_lessons_free(ga_lessons **lessons);

#endif
