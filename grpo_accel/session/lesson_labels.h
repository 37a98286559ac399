/* Labels of pictures under other prompts, joined to the rows of a table. */
#ifndef GA_SESSION_LESSON_LABELS_H
#define GA_SESSION_LESSON_LABELS_H

#include "grpo_accel/record/table.h"
#include "probe/train/dataset.h"

/* Arrays are owned by this. */
typedef struct ga_lesson_labels {
    int64_t count;      /* labels that found their row and their prompt's features */
    int64_t *begin;     /* [rows of the table] */
    int32_t *row_count; /* [rows of the table] */
    float *reward;      /* [count] */
    uint64_t *prompt;   /* [count] */
    int32_t *vector;    /* [count] */
    ga_half *vectors;   /* [vector_count, values] */
    int32_t vector_count;
} ga_lesson_labels;

/*
 * Reads the labels of the record at `path`, at most `per_row` of each row, those first that were made first.
 * `schema` is what is learned from: it must have the input prompt, and x0 or hidden. The vectors of the other
 * prompts are read from the rows that have them: a few kilobytes a prompt. *labels_out is freed with
 * ga_lesson_labels_free. Errors: GA_ERR_FILE (no labels), GA_ERR_DATA (inputs), GA_ERR_MEMORY.
 */
ga_status ga_lesson_labels_read(const char *path, const ga_record_table *table,
    const ga_feature_schema *schema, int32_t per_row, ga_lesson_labels *labels_out, ga_error *error);

/* A view for a dataset with `share` rows for each row of the table. */
ga_more_labels ga_lesson_labels_view(const ga_lesson_labels *labels, int32_t share);

/* Empty is allowed. */
void ga_lesson_labels_free(ga_lesson_labels *labels);

#endif
