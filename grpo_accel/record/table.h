/* Rows of a record as arrays of columns: what reading gives. */
#ifndef GA_RECORD_TABLE_H
#define GA_RECORD_TABLE_H

#include "grpo_accel/record/row.h"

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
    float *reward;       /* combined; NaN where pruned */
    float *rewards;      /* [rows][S]; NaN where pruned */
    ga_half *features;   /* [rows][C][V], inputs in schema order; NaN where not taken */
    uint8_t *finals;     /* [rows][bytes of a final]; NULL where layout.final_kind is none */
    char *prompts;       /* [rows][prompt_bytes], filled up with zeros; NULL where no text was logged */
    size_t prompt_bytes; /* longest prompt + 1 */
    int64_t batch_count;
    ga_record_batch *batches; /* one per rank and batch; ordered as the rows are */
    int64_t segment_count;    /* that the rows come from */
    int64_t refused_count;    /* segments that were damaged or refused: their rows are missing here */
    ga_error refused;         /* why the first of them was */
} ga_record_table;

/*
 * A table of so many rows and batches, everything zero. prompt_bytes 0: no prompts. Freed with
 * ga_record_table_free. Errors: GA_ERR_MEMORY.
 */
ga_status ga_record_table_create(const ga_record_layout *layout, int64_t rows, int64_t batch_count,
    size_t prompt_bytes, ga_record_table **table_out, ga_error *error);

/* Frees everything and sets *table to NULL. NULL is allowed. */
void ga_record_table_free(ga_record_table **table);

/* The array of one of GA_COLUMN_…; rows × ga_column_values × ga_column_bytes. */
void *ga_record_table_column(const ga_record_table *table, int column);

#endif
