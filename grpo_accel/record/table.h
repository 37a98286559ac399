/* Rows of a record as arrays of columns: what reading gives. */
#ifndef GA_RECORD_TABLE_H
#define GA_RECORD_TABLE_H

#include "grpo_accel/record/row.h"

/* A file that rows of a table come from. */
typedef struct ga_record_source {
    char *path;
    ga_record_layout layout; /* of this file, not of the table */
} ga_record_source;

/*
 * C = layout.candidate_count, S = layout.scorer_count, V = layout.features.values_per_row. Arrays are owned
 * by the table and have `rows` entries; none is NULL but those said to be. layout.rank is −1 in a table of
 * several ranks.
 */
typedef struct ga_record_table {
    ga_record_layout layout;
    int64_t rows;
    uint64_t *row_id;
    uint64_t *batch;
    uint64_t *group;
    uint8_t (*prompt_hash)[16];
    int32_t *rank;
    int32_t *index;
    uint32_t *update;
    uint16_t *step;
    uint16_t *steps_total;
    uint32_t *probe_version;
    float *prediction; /* [rows][C] */
    float *variance;   /* [rows][C] */
    float *inclusion;
    uint8_t *kept;
    uint8_t *audit;
    float *advantage;
    float *reward;          /* combined; NaN where pruned */
    uint8_t *final_present; /* 1 where the row's final is in the file */
    float *rewards;         /* [rows][S]; NaN where pruned */
    ga_half *features; /* [rows][C][V], inputs in schema order; NaN where not taken; NULL where left in the
                          files */
    uint8_t *complete; /* [rows][C] GA_INPUT_BIT(…) of the inputs whose values are all finite */
    uint8_t
        *finals; /* [rows][bytes of a final]; NULL where layout.final_kind is none, or left in the files */
    ga_half *states; /* [rows][values of a final] the states that latent finals came from; NULL likewise */
    char *prompts;   /* [rows][prompt_bytes], filled up with zeros; NULL where no text was logged */
    size_t prompt_bytes; /* longest prompt + 1 */
    int64_t batch_count;
    ga_record_batch *batches; /* one per rank and batch; ordered as the rows are */
    int32_t *source;          /* [rows] which of `sources` the row stands in */
    int32_t *place;           /* [rows] which row of that file it is */
    int32_t source_count;
    ga_record_source *sources;
    int64_t segment_count; /* that the rows come from */
    int64_t refused_count; /* segments that were damaged or refused: their rows are missing here */
    ga_error refused;      /* why the first of them was */
} ga_record_table;

/* How large a table is. */
typedef struct ga_record_size {
    int64_t rows;
    int64_t batches;
    size_t prompt_bytes; /* 0: no prompts */
    bool narrow;         /* features, finals and states stay in the files: NULL here */
} ga_record_size;

/* A table with everything zero and no sources. Freed with ga_record_table_free. Errors: GA_ERR_MEMORY. */
ga_status ga_record_table_create(
    const ga_record_layout *layout, const ga_record_size *size, ga_record_table **table_out, ga_error *error);

/* Frees features, finals and states of a table that was read whole; `complete` keeps what is known of them.
 */
void ga_record_table_narrow(ga_record_table *table);

/* Frees everything and sets *table to NULL. NULL is allowed. */
void ga_record_table_free(ga_record_table **table);

/* The array of one of GA_COLUMN_…; rows × ga_column_values × ga_column_bytes. */
void *ga_record_table_column(const ga_record_table *table, int column);

#endif
