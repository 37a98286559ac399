/*
 * The schema of a record: what a row, a batch and a segment hold. docs/record.md is this page for users.
 *
 * One row a rollout, one dataset a column. Columns are only ever added; a changed meaning raises the schema
 * version.
 */
#ifndef GA_RECORD_ROW_H
#define GA_RECORD_ROW_H

#include <stddef.h>

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

/* 2: final_present, state, seconds of each signal. Files of version 1 are read as having none of them. */
#define GA_RECORD_SCHEMA_VERSION 2

#define GA_RECORD_CANDIDATES_MAX 4
#define GA_RECORD_SCORERS_MAX 16
#define GA_RECORD_NAME_BYTES 64
#define GA_RECORD_MODEL_BYTES 256
#define GA_RECORD_PROMPT_BYTES_MAX 8192

/* IEEE half: the NaN that stands for "not taken". */
#define GA_RECORD_HALF_NAN ((ga_half)0x7e00u)

typedef enum ga_record_final {
    GA_RECORD_FINAL_NONE = 0,
    GA_RECORD_FINAL_LATENT = 1, /* f16 [channels, height, width] */
    GA_RECORD_FINAL_IMAGE = 2   /* u8 [height, width, channels] */
} ga_record_final;

/* Values of the column batches/mode. */
typedef enum ga_record_mode {
    GA_RECORD_MODE_OFF = 0,
    GA_RECORD_MODE_SHADOW = 1,
    GA_RECORD_MODE_PRUNE = 2
} ga_record_mode;

/* What all rows of a segment have in common. Plain data: copy it by value. Texts end with a zero byte. */
typedef struct ga_record_layout {
    char run_id[GA_RECORD_NAME_BYTES];
    char model[GA_RECORD_MODEL_BYTES];
    uint64_t config_fingerprint;
    int32_t rank;
    int32_t world_size;
    int32_t candidate_count; /* 1 … GA_RECORD_CANDIDATES_MAX */
    int32_t candidate_steps[GA_RECORD_CANDIDATES_MAX];
    double candidate_sigmas[GA_RECORD_CANDIDATES_MAX];
    int32_t scorer_count;
    char scorers[GA_RECORD_SCORERS_MAX][GA_RECORD_NAME_BYTES];
    ga_feature_schema features; /* input_count 0: no features */
    int32_t final_kind;         /* ga_record_final */
    int32_t final_shape[3];
    bool prompt_text;
} ga_record_layout;

/* One rollout as it goes into the record. Pointers are views; whoever takes a row copies what they show. */
typedef struct ga_record_row {
    ga_row row;
    uint16_t step; /* after so many denoising steps the row was decided on */
    uint16_t steps_total;
    uint32_t probe_version;
    float prediction[GA_RECORD_CANDIDATES_MAX]; /* NaN where not computed */
    float variance[GA_RECORD_CANDIDATES_MAX];   /* NaN where not computed */
    float inclusion;                            /* π in (0, 1] */
    uint8_t kept;
    uint8_t audit;
    float advantage;
    float reward_combined; /* NaN where pruned */
    const float *rewards;  /* scorer_count values, NaN where pruned; NULL: all NaN */
    /* per candidate the row of its feature block (features.values_per_row values); NULL: not taken, NaN */
    const ga_half *features[GA_RECORD_CANDIDATES_MAX];
    const char *prompt;    /* NULL, or text that is kept only where the layout says prompt_text */
    const void *final;     /* NULL, or as final_kind and final_shape say */
    const void *state;     /* of a latent final: the state at the decision, shaped like it; NULL: not taken */
    uint8_t final_present; /* set by the writer: 1 where `final` is not NULL */
} ga_record_row;

/* One batch of this rank: what it cost. Seconds are wall clock. */
typedef struct ga_record_batch {
    uint64_t batch;
    uint32_t update;
    uint32_t rows; /* that this rank had in the batch */
    int32_t rank;  /* set by the writer */
    uint8_t mode;  /* ga_record_mode */
    uint8_t audited;
    double seconds_denoise;
    double seconds_signal;
    double seconds_reward;
    double seconds_own;
    double seconds_preview; /* these three are part of seconds_signal */
    double seconds_lookahead;
    double seconds_distilled;
    double seconds_features; /* part of them is in seconds_own */
} ga_record_batch;

typedef enum ga_column_type {
    GA_COLUMN_U8,
    GA_COLUMN_U16,
    GA_COLUMN_U32,
    GA_COLUMN_U64,
    GA_COLUMN_I32,
    GA_COLUMN_F32,
    GA_COLUMN_F64
} ga_column_type;

/* How many values a row has in a column. */
typedef enum ga_column_kind { GA_COLUMN_ONE, GA_COLUMN_HASH, GA_COLUMN_CANDIDATES } ga_column_kind;

typedef struct ga_record_column {
    const char *name;
    ga_column_type type;
    ga_column_kind kind;
    size_t offset;  /* of the first value in a ga_record_row (ga_record_batch in the table of batches) */
    uint32_t since; /* the schema version that brought it: older files lack it, its values are zero there */
} ga_record_column;

/* Position in ga_record_columns: the reader's table has its arrays in the same order. */
enum {
    GA_COLUMN_ROW_ID,
    GA_COLUMN_BATCH,
    GA_COLUMN_GROUP,
    GA_COLUMN_PROMPT_HASH,
    GA_COLUMN_RANK,
    GA_COLUMN_INDEX,
    GA_COLUMN_UPDATE,
    GA_COLUMN_STEP,
    GA_COLUMN_STEPS_TOTAL,
    GA_COLUMN_PROBE_VERSION,
    GA_COLUMN_PREDICTION,
    GA_COLUMN_VARIANCE,
    GA_COLUMN_INCLUSION,
    GA_COLUMN_KEPT,
    GA_COLUMN_AUDIT,
    GA_COLUMN_ADVANTAGE,
    GA_COLUMN_REWARD_COMBINED,
    GA_COLUMN_FINAL_PRESENT,
    GA_COLUMN_COUNT
};
#define GA_BATCH_COLUMN_COUNT 14

extern const ga_record_column ga_record_columns[GA_COLUMN_COUNT];
extern const ga_record_column ga_record_batch_columns[GA_BATCH_COLUMN_COUNT];

/* Bytes of one value. */
size_t ga_column_bytes(ga_column_type type);

/* Values a row has in a column: 1, 16 or the number of candidates. */
int32_t ga_column_values(ga_column_kind kind, int32_t candidate_count);

/* "attention", "x0", ...: name of an input's dataset below features/. NULL for no input. */
const char *ga_record_input_name(ga_input input);

/* Values of a final: product of its shape, 0 for none. Bytes of one: 2 (latent) or 1 (image). */
size_t ga_record_final_values(const ga_record_layout *layout);
size_t ga_record_final_bytes(const ga_record_layout *layout);

/* Does the record hold the states that its finals came from? */
bool ga_record_has_states(const ga_record_layout *layout);

/* GA_ERR_ARGUMENT, with the field named, unless the layout can be written. */
ga_status ga_record_layout_check(const ga_record_layout *layout, ga_error *error);

#endif
