/*
 * The nouns that pass between stages: plain structs, no functions.
 *
 * A stage takes some of these and gives others; it never calls another stage. Room `session` knows the order.
 */
#ifndef GA_BASE_FLOW_H
#define GA_BASE_FLOW_H

#include <stdbool.h>
#include <stdint.h>

/* IEEE half precision as bits; room `compute` converts. */
typedef uint16_t ga_half;

/* What a row's features are made of. Order = order in a feature block; values are written to files: append
 * only. */
typedef enum ga_input {
    GA_INPUT_ATTENTION = 0,
    GA_INPUT_X0 = 1,
    GA_INPUT_CFG = 2,
    GA_INPUT_HIDDEN = 3,
    GA_INPUT_PROMPT = 4,
    GA_INPUT_PREVIEW = 5,
    GA_INPUT_LOOKAHEAD = 6,
    GA_INPUT_DISTILLED = 7,
    GA_INPUT_COUNT = 8
} ga_input;

#define GA_INPUT_BIT(input) (1u << (unsigned)(input))

/* Shape of one input in a block: a map [channels, height, width], or scalars [channels] with height = width
 * = 1. */
typedef struct ga_input_shape {
    ga_input input;
    int32_t channels;
    int32_t height;
    int32_t width;
    int32_t offset; /* of its first value in a row of the block */
} ga_input_shape;

/* Layout of a row of features. All maps of a schema have the same height and width. */
typedef struct ga_feature_schema {
    int32_t input_count;
    ga_input_shape inputs[GA_INPUT_COUNT];
    int32_t values_per_row;
    uint64_t id; /* digest of the layout; 0 is never valid */
} ga_feature_schema;

/* Features of rows: values[row * schema->values_per_row + offset + (c * height + y) * width + x]. A view. */
typedef struct ga_feature_block {
    const ga_feature_schema *schema;
    int32_t rows;
    ga_half *values;
} ga_feature_block;

/* One rollout's identity. */
typedef struct ga_row {
    uint64_t row_id; /* unique in the run */
    uint64_t batch;  /* number of the batch in the run, the same on all ranks */
    uint64_t group;  /* key of (batch, prompt) */
    uint8_t prompt_hash[16];
    int32_t rank;
    int32_t index; /* row in the rank's batch */
    uint32_t update;
} ga_row;

/* What a rank tells the others about a row at the decision: 24 bytes on the wire. */
typedef struct ga_candidate {
    uint64_t group;
    float mean;     /* calibrated prediction of the reward; NaN: not scored, the row is kept */
    float variance; /* residual variance of the prediction, ≥ 0 */
    int32_t rank;
    int32_t index;
} ga_candidate;

/* Steps of a run at which signals can be taken. */
#define GA_CANDIDATES_MAX 4

/* What a rank tells the others about a row at the end of an update: 64 bytes on the wire. */
typedef struct ga_outcome {
    uint64_t group;   /* the host's own grouping of the update */
    double reward;    /* NaN where pruned */
    double inclusion; /* π, in (0, 1]: the product over the decisions that the row met */
    float mean;       /* prediction of the newest decision, NaN where there is none */
    float variance;
    float candidate_mean[GA_CANDIDATES_MAX]; /* prediction at each candidate step, NaN where there is none */
    int32_t rank;
    int32_t index; /* row in the rank's update: batches one after the other */
    uint8_t kept;
    uint8_t audit;    /* the first decision of its batch was by chance alone, or there was none */
    uint8_t observed; /* signals were taken from it at one candidate step at least */
    uint8_t padding;
    uint16_t steps_run; /* denoising steps that it ran */
    uint16_t reserved;
} ga_outcome;

/* By what the host divides its advantages. */
typedef enum ga_std_kind { GA_STD_GLOBAL = 0, GA_STD_GROUP = 1 } ga_std_kind;

#endif
