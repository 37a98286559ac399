/*
 * The configuration in force: YAML file, then environment, then --set, over the defaults of the schema.
 *
 * Every field below is documented with its unit; ranges and defaults stand once, in schema.c. After a
 * successful load all values are inside their ranges and agree with each other (rules.h): nobody needs to
 * check them again.
 */
#ifndef GA_CONFIG_CONFIG_H
#define GA_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

/* Decision steps of a rollout at most (racing). */
#define GA_CONFIG_STAGES_MAX 3
/* Steps at which signals are taken at most. */
#define GA_CONFIG_CANDIDATES_MAX 4
/* Named blocks in probe.blocks at most. */
#define GA_CONFIG_BLOCKS_MAX 64
/* Names in probe.preview.scorers at most: as many scorers as are logged. */
#define GA_CONFIG_NAMES_MAX 16
/* Widths in probe.network.channels at most. */
#define GA_CONFIG_WIDTHS_MAX 5
/* Integer keys that may be `auto` hold this then. */
#define GA_CONFIG_AUTO (-1)

/* The order of each enum is the order of the words in schema.c. */
typedef enum ga_config_mode {
    GA_CONFIG_MODE_OFF = 0,    /* nothing attaches */
    GA_CONFIG_MODE_SHADOW = 1, /* scores and logs, prunes nothing */
    GA_CONFIG_MODE_PRUNE = 2,
    GA_CONFIG_MODE_AUTO = 3
} ga_config_mode;

typedef enum ga_config_policy {
    GA_CONFIG_POLICY_EXTREMES = 0,
    GA_CONFIG_POLICY_NEYMAN = 1,
    GA_CONFIG_POLICY_TOPK = 2,
    GA_CONFIG_POLICY_RANDOM = 3,
    GA_CONFIG_POLICY_THRESHOLD = 4,
    GA_CONFIG_POLICY_BUDGET = 5
} ga_config_policy;

typedef enum ga_config_threshold_kind {
    GA_CONFIG_THRESHOLD_ABSOLUTE = 0, /* predicted reward, in the reward's units */
    GA_CONFIG_THRESHOLD_QUANTILE = 1, /* share of the batch's rows, 0 … 1 */
    GA_CONFIG_THRESHOLD_ADVANTAGE = 2 /* predicted advantage, in standard deviations */
} ga_config_threshold_kind;

typedef enum ga_config_block_choice {
    GA_CONFIG_BLOCKS_MIDDLE = 0,       /* `count` consecutive blocks around the middle of the model */
    GA_CONFIG_BLOCKS_LAST_ENCODER = 1, /* the last `count` cross-attention blocks of a UNet's encoder */
    GA_CONFIG_BLOCKS_NAMED = 2         /* the blocks called names[0 … count-1] */
} ga_config_block_choice;

typedef enum ga_config_provider {
    GA_CONFIG_PROVIDER_AUTO = 0,
    GA_CONFIG_PROVIDER_TORCH = 1,
    GA_CONFIG_PROVIDER_NATIVE = 2
} ga_config_provider;

typedef enum ga_config_direct {
    GA_CONFIG_DIRECT_NONE = 0, /* a probe predicts */
    GA_CONFIG_DIRECT_PREVIEW = 1,
    GA_CONFIG_DIRECT_LOOKAHEAD = 2
} ga_config_direct;

typedef enum ga_config_architecture {
    GA_CONFIG_ARCHITECTURE_JOINED = 0, /* maps, scalars and prompt together */
    GA_CONFIG_ARCHITECTURE_PAPER = 1,  /* maps alone, as in arXiv 2602.23783 */
    GA_CONFIG_ARCHITECTURE_NONE = 2    /* ridge and single scores only */
} ga_config_architecture;

typedef enum ga_config_condition {
    GA_CONFIG_CONDITION_HEAD = 0,  /* prompt and σ behind the pooling */
    GA_CONFIG_CONDITION_BLOCKS = 1 /* in every normalisation */
} ga_config_condition;

typedef enum ga_config_estimator {
    GA_CONFIG_ESTIMATOR_SHRUNK = 0,
    GA_CONFIG_ESTIMATOR_DIFFERENCE = 1,
    GA_CONFIG_ESTIMATOR_SURVIVORS = 2,
    GA_CONFIG_ESTIMATOR_PREDICTED = 3
} ga_config_estimator;

typedef enum ga_config_weights { GA_CONFIG_WEIGHTS_ONE = 0, GA_CONFIG_WEIGHTS_INVERSE = 1 } ga_config_weights;

typedef enum ga_config_std {
    GA_CONFIG_STD_AUTO = 0, /* as the host does */
    GA_CONFIG_STD_GLOBAL = 1,
    GA_CONFIG_STD_GROUP = 2
} ga_config_std;

typedef enum ga_config_prompts { GA_CONFIG_PROMPTS_HASH = 0, GA_CONFIG_PROMPTS_TEXT = 1 } ga_config_prompts;

typedef enum ga_config_finals {
    GA_CONFIG_FINALS_NONE = 0,
    GA_CONFIG_FINALS_LATENT = 1,
    GA_CONFIG_FINALS_IMAGE = 2
} ga_config_finals;

typedef enum ga_config_transport {
    GA_CONFIG_TRANSPORT_AUTO = 0,
    GA_CONFIG_TRANSPORT_MPI = 1,
    GA_CONFIG_TRANSPORT_NCCL = 2,
    GA_CONFIG_TRANSPORT_TORCH = 3,
    GA_CONFIG_TRANSPORT_LOCAL = 4
} ga_config_transport;

typedef enum ga_config_wandb {
    GA_CONFIG_WANDB_AUTO = 0, /* when the host has a wandb run */
    GA_CONFIG_WANDB_TRUE = 1,
    GA_CONFIG_WANDB_FALSE = 2
} ga_config_wandb;

/* Denoising steps after which rollouts are decided on, ascending. */
typedef struct ga_config_steps {
    int32_t count;                            /* 0: auto */
    int32_t values[GA_CONFIG_CANDIDATES_MAX]; /* steps done, counted from 1 */
} ga_config_steps;

/* Share of its rows that each rank keeps at each decision. */
typedef struct ga_config_shares {
    int32_t count;                       /* 0: auto */
    double values[GA_CONFIG_STAGES_MAX]; /* (0, 1] */
} ga_config_shares;

/* Which blocks of the model are tapped. */
typedef struct ga_config_blocks {
    ga_config_block_choice choice;
    int32_t count;                           /* blocks, 1 … GA_CONFIG_BLOCKS_MAX */
    const char *names[GA_CONFIG_BLOCKS_MAX]; /* with choice NAMED; owned by the config */
} ga_config_blocks;

/* Names that somebody else gives a meaning to. */
typedef struct ga_config_names {
    int32_t count;                          /* 0: null */
    const char *names[GA_CONFIG_NAMES_MAX]; /* owned by the config */
} ga_config_names;

/* Channels of a network, level by level; the first is the stem's. */
typedef struct ga_config_widths {
    int32_t count;
    int32_t values[GA_CONFIG_WIDTHS_MAX];
} ga_config_widths;

/* Where a value came from. */
typedef enum ga_origin_kind {
    GA_ORIGIN_DEFAULT = 0,
    GA_ORIGIN_FILE = 1,
    GA_ORIGIN_ENVIRONMENT = 2,
    GA_ORIGIN_SET = 3
} ga_origin_kind;

typedef struct ga_origin {
    ga_origin_kind kind;
    const char *source; /* file, or name of the variable, or "--set"; owned by the config */
    int line;           /* from 1; 0 where there is none */
    int column;
} ga_origin;

typedef struct ga_config {
    int64_t version; /* of the grammar: 1 */
    ga_config_mode mode;
    int64_t seed;        /* of every random choice, 0 … 2^53 */
    const char *run_dir; /* folder of the run, relative to the working folder; owned by the config */
    struct {
        ga_config_steps step;       /* at most GA_CONFIG_STAGES_MAX of them */
        ga_config_steps candidates; /* steps that mode auto, or step auto, looks at; count 0: auto */
        double sigma;               /* decide at the first step whose σ is at or below this; 0: not given */
        ga_config_shares keep;
        ga_config_policy policy;
        struct {
            ga_config_threshold_kind kind;
            double value; /* unit: see ga_config_threshold_kind */
        } threshold;
        int64_t min_group;    /* kept rows of each group at least; GA_CONFIG_AUTO: 0 or 2 by the host's σ */
        int64_t max_group;    /* kept rows of each group at most; 0: no limit */
        bool even_groups;     /* every group keeps as many rows, instead of min_group and max_group */
        double min_inclusion; /* smallest π of policies that draw by chance, 0 … 1 */
        double audit;         /* share of batches that are kept by chance alone, 0 … 1 */
        double timeout_seconds; /* how long a rank waits for the others before it keeps all rows */
    } decision;
    struct {
        const char *path;        /* safetensors file; NULL: start in shadow and learn; owned by the config */
        ga_config_direct direct; /* whose score is the prediction, instead of a probe's */
        uint32_t inputs;         /* GA_INPUT_BIT of each; 0: auto */
        ga_config_blocks blocks;
        uint32_t statistics;      /* of attention: GA_ATTENTION_BIT of each, never 0 */
        const char *hidden_block; /* whose hidden state is taken: "middle" or its name; owned by the config */
        int64_t map_size;         /* feature maps are pooled to at most so many cells a side */
        ga_config_provider provider;
        struct {
            ga_config_names scorers; /* of the host, scored beside its combined one; count 0: null */
            const char *decoder;     /* folder of a tiny decoder; NULL: the host's VAE; owned by the config */
        } preview;
        struct {
            int64_t steps; /* forwards of the policy beyond the decision's own velocity */
            bool guided;   /* with the host's guidance */
        } lookahead;
        struct {
            const char *lora;      /* file or folder that the user has; NULL: trained; owned by the config */
            int64_t rank;          /* of the trained LoRA */
            int64_t every_updates; /* between two trainings of it; 0: never */
            double seconds;        /* that one training takes at most */
            int64_t pairs;         /* newest (state, end) pairs that are kept to train on */
        } distilled;
        struct {
            ga_config_architecture architecture;
            ga_config_condition condition;
            ga_config_widths channels;
            int64_t hidden;           /* units of the layer before the last */
            int64_t blocks_per_level; /* residual blocks */
            bool heteroscedastic;     /* a log-variance of each row beside its mean */
            int64_t condition_width;  /* of the embeddings of σ and prompt */
        } network;
    } probe;
    struct {
        double rank_weight;    /* of the listwise term of the loss */
        double raw_weight;     /* of the squared error of the raw reward */
        double centred_weight; /* of the squared error of group-centred rewards */
        double oversample_low; /* the lowest rewards count 1 + so many times as much as the highest */
        double learning_rate;
        double weight_decay;
        int64_t batch_rows;      /* of a minibatch of whole groups */
        int64_t rounds_max;      /* passes over the rows */
        int64_t patience_rounds; /* without getting better, then it ends */
        double seconds_max;      /* 0: no limit */
        double ema;              /* decay of the averaged weights, [0, 1) */
        int64_t relabels;        /* rewards of a row under other prompts that a training takes at most */
    } training;
    struct {
        ga_config_estimator estimator;
        ga_config_weights weights;
        double clip; /* largest weight 1/π; 0: no limit */
        ga_config_std std;
        bool leave_one_out;     /* a row's baseline leaves its own reward out */
        bool prefix_credit;     /* pruned rows learn by their predicted advantage, where noise ends before */
        bool drop_stopped_rows; /* out of a host's own samples, where it trains on rows of advantage 0 too */
        double train_share;     /* of the kept rows, those with the largest squared advantage; (0, 1] */
    } advantage;
    struct {
        int64_t every_updates; /* updates between two trainings; 0: never */
        bool on_drift;         /* also as soon as the guard sees drift */
        bool background;       /* beside the rollouts; false: every rank waits for the training */
        int64_t window_rows;   /* newest rows that a training reads */
    } retrain;
    struct {
        double confidence;        /* of intervals and bounds, (0.5, 1) */
        double lost_extremes_max; /* share of true extremes that may be pruned, 0 … 1 */
        double slowdown_max;      /* our own seconds over the rollout's seconds, 0 … 1 */
        double drift_max;         /* population stability index from which scores or features have drifted */
        int64_t patience_updates; /* that a verdict must repeat before mode auto switches */
    } guard;
    struct {
        bool enabled;
        int64_t segment_rows; /* rows of one HDF5 segment */
        ga_config_prompts prompts;
        ga_config_finals finals;
    } record;
    struct {
        ga_config_transport transport;
    } distributed;
    struct {
        ga_config_wandb wandb;
        bool jsonl; /* <run_dir>/metrics.jsonl */
    } metrics;

    /* Digest of all values but run_dir and metrics: ranks that agree on it decide alike. Never 0. */
    uint64_t fingerprint;
    const ga_origin *origins; /* one for each entry of ga_schema, in its order; owned by the config */
    struct ga_arena *arena;   /* owns all of this, the struct included */
} ga_config;

/*
 * Loads a configuration: defaults, then the file `path` (NULL: none), then the variables of `environment`
 * ("NAME=value", NULL-terminated as environ is, or NULL: none), then `overrides` ("a.b=value" each, the last
 * of a key wins).
 *
 * On success the caller owns *config_out and frees it with ga_config_free; on failure nothing is written.
 * Not collective. Thread-safe. Never hangs on bad input: regular files up to 64 KiB only.
 * Errors: GA_ERR_CONFIG with "file:line:column: …", "VARIABLE: …" or "--set: …"; GA_ERR_FILE when the file
 * can't be read; GA_ERR_MEMORY; GA_ERR_ARGUMENT.
 */
ga_status ga_config_load(const char *path, const char *const *overrides, size_t override_count,
    const char *const *environment, ga_config **config_out, ga_error *error);

/* Frees a configuration and sets *config to NULL. NULL and pointer to NULL are allowed. */
void ga_config_free(ga_config **config);

/* Where the value of `path` ("decision.keep") came from; NULL if there is no such key. */
const ga_origin *ga_config_origin(const ga_config *config, const char *path);

#endif
