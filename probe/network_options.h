/*
 * How the probe's network is built: its architecture, widths and depth. Plain data.
 */
#ifndef GA_PROBE_NETWORK_OPTIONS_H
#define GA_PROBE_NETWORK_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Most entries of `channels`: the stem and four halvings of the map. */
#define GA_NETWORK_LEVELS_MAX 5

/* Most targets that one network predicts. */
#define GA_NETWORK_TARGETS_MAX 8

/* A network of more parameters is refused. */
#define GA_NETWORK_PARAMETERS_MAX ((int64_t)20000000)

typedef enum ga_network_architecture {
    /* Maps through residual blocks that σ and the prompt modulate, scalars joined before the last layer, on
     * top of the ridge; mean and log-variance. */
    GA_NETWORK_JOINED = 0,
    /* The probe of the paper (arXiv 2602.23783): maps and σ alone, DownBlocks with residual layers, then
     * normalisation, pooling and a 1×1 convolution to the raw reward; no ridge below it. */
    GA_NETWORK_PAPER = 1,
    /* No network: the best of ridge and scalar. */
    GA_NETWORK_NONE = 2,
    /* What files of format 1 hold: σ shifts inside the blocks, the prompt is one of the scalars. Read, never
     * trained anew. */
    GA_NETWORK_FIRST = 3,
    GA_NETWORK_ARCHITECTURE_COUNT = 4
} ga_network_architecture;

/* Where the prompt and σ enter `joined`. */
typedef enum ga_network_condition {
    /* Behind the pooling: what a picture shows does not depend on what is asked of it, so one pass through
     * the blocks serves rewards under many prompts. */
    GA_NETWORK_CONDITION_HEAD = 0,
    /* In every normalisation. */
    GA_NETWORK_CONDITION_BLOCKS = 1,
    GA_NETWORK_CONDITION_COUNT = 2
} ga_network_condition;

typedef struct ga_network_options {
    ga_network_architecture architecture;
    ga_network_condition condition;
    /* Channels of each level, multiples of 4 are fastest: [0] at the resolution of the maps (the stem), each
     * further level at half the one before. Levels that would shrink a map below 2×2 are left out. */
    int32_t channels[GA_NETWORK_LEVELS_MAX];
    int32_t levels;           /* entries of `channels`, 1 … GA_NETWORK_LEVELS_MAX */
    int32_t blocks_per_level; /* residual blocks of a level; the stem counts as one of level 0 */
    int32_t hidden;           /* width of the layer behind the join */
    int32_t condition_width;  /* of the embedding of σ, and of that of the prompt */
    int32_t targets;          /* rewards predicted at once, 1 … GA_NETWORK_TARGETS_MAX */
    bool heteroscedastic;     /* a log-variance beside each mean; `paper` has none */
} ga_network_options;

/* joined, channels 24 32 48 64, one block a level, hidden 32, condition width 32, one target with a variance:
 * about 0.2 million parameters for 20 maps of 16×16. */
ga_network_options ga_network_options_default(void);

/* GA_ERR_ARGUMENT with a message that names the option. */
ga_status ga_network_options_check(const ga_network_options *options, ga_error *error);

/* Values that the network answers for each row: the means of all targets, then their log-variances. */
int32_t ga_network_options_outputs(const ga_network_options *options);

/* "joined", "paper", "none" or "first"; static storage. */
const char *ga_network_architecture_name(ga_network_architecture architecture);

/* The reverse; false for any other word. */
bool ga_network_architecture_from_name(const char *name, ga_network_architecture *architecture_out);

/* "head" or "blocks"; static storage. */
const char *ga_network_condition_name(ga_network_condition condition);

/* The reverse; false for any other word. */
bool ga_network_condition_from_name(const char *name, ga_network_condition *condition_out);

#endif
