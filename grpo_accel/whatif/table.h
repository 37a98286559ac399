/*
 * Rows whose rewards are all known: what a what-if is computed from, wherever they come from.
 */
#ifndef GA_WHATIF_TABLE_H
#define GA_WHATIF_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Decisions, one after the other, that rows may have a score for. */
#define GA_WHATIF_STAGES_MAX 3
/* Scores that a made-up table may have: one for each moment at which a decision could be taken. */
#define GA_WHATIF_SCORES_MAX 16
#define GA_WHATIF_ROWS_MAX (1 << 27)
/* Largest size of a reward or score: squares of it still are numbers in single precision, as in a run. */
#define GA_WHATIF_VALUE_MAX 1e18

/* Owned; freed with ga_whatif_table_free. */
typedef struct ga_whatif_table {
    int32_t rows;
    int32_t score_count;                 /* 1 … GA_WHATIF_SCORES_MAX; in files up to GA_WHATIF_STAGES_MAX */
    uint64_t *batch;                     /* [rows] any numbers */
    uint64_t *group;                     /* [rows] any numbers; the same in two batches: two groups */
    int32_t *rank;                       /* [rows] ≥ 0; NULL: rows are to be dealt to ranks by chance */
    double *reward;                      /* [rows] finite, no larger than GA_WHATIF_VALUE_MAX */
    double *score[GA_WHATIF_SCORES_MAX]; /* [rows] each; NaN: not scored, such a row is kept */
} ga_whatif_table;

/* A table of zeros with a rank column if asked for. GA_ERR_ARGUMENT (no or too many rows), GA_ERR_MEMORY. */
ga_status ga_whatif_table_create(
    int64_t rows, int32_t score_count, bool has_ranks, ga_whatif_table **table_out, ga_error *error);

/* Sets *table to NULL. NULL is allowed. */
void ga_whatif_table_free(ga_whatif_table **table);

/* Where a table came from. */
typedef struct ga_whatif_source {
    bool is_record;
    int32_t steps[GA_WHATIF_STAGES_MAX]; /* of a record: after so many steps each score was there */
    int32_t steps_total;                 /* of a record; 0: not known */
    double signal;                       /* of a record: seconds of one look (signals and our own work, by the
                                            number of steps looked at) in seconds of full denoising of
                                            the same rows; NaN: not known */
    double reward;                       /* the same for decode and reward */
    int64_t skipped_batches; /* of a record: batches with pruned rows, whose rewards nobody knows */
    char score[32];          /* what the score is: "prediction", "preview", … or "score" */
} ga_whatif_source;

typedef struct ga_whatif_read_options {
    const char *score;                    /* of a record: NULL or "prediction", or an input of one value */
    int32_t stage_count;                  /* 0: one decision, at the last step that was looked at */
    int32_t stages[GA_WHATIF_STAGES_MAX]; /* of a record: decision steps, ascending */
} ga_whatif_read_options;

/*
 * Reads a table: CSV with a header, HDF5 with datasets of the same names, or a run's record.
 *
 * Columns: group, score, reward, and where they are there batch, rank, score2, score3 (scores of later
 * decisions); others are passed over, whatever they hold. In CSV a group or batch may be any text of up to
 * 4095 bytes; it is a number only when written as one is counted, so 1, 01 and 1.0 are three names. Without
 * `batch` all rows are one batch. An empty score or nan means "not scored". Of a record, batches whose rows
 * all have rewards are taken: those of shadow runs and those that kept everything.
 *
 * Not collective; any thread. GA_ERR_FILE and GA_ERR_DATA say file, line and column (dataset and row);
 * GA_ERR_ARGUMENT (options that the input can't answer), GA_ERR_MEMORY, GA_ERR_MISSING (no HDF5).
 */
ga_status ga_whatif_read(const char *path, const ga_whatif_read_options *options, ga_whatif_table **table_out,
    ga_whatif_source *source_out, ga_error *error);

/* The same for the bytes of a CSV file; `name` stands in messages. */
ga_status ga_whatif_parse_csv(
    const char *name, const char *text, size_t bytes, ga_whatif_table **table_out, ga_error *error);

#endif
