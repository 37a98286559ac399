/*
 * What a probe learns from: columns of the log, split by prompt and by time, never by row.
 *
 * Small columns lie in memory; features do too, or are fetched when they are needed, so that a log larger
 * than memory can be learned from. A rollout that was seen at several decision steps is a row per step, in a
 * group per step. Not collective. Views are the caller's memory; parts own theirs.
 */
#ifndef GA_PROBE_TRAIN_DATASET_H
#define GA_PROBE_TRAIN_DATASET_H

#include <stdbool.h>

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "probe/grouped.h"

#define GA_TARGETS_MAX 8

/* Writes the features [count, values_per_row] of rows `rows`. Called by one thread at a time. */
typedef ga_status (*ga_dataset_fetch)(
    void *user, const int64_t *rows, int64_t count, ga_half *values_out, ga_error *error);

/*
 * More labels than rows: rewards that pictures got under other prompts. See ga_dataset_more. For such a label
 * the row's picture counts (x0, hidden), the prompt is the label's own, and whatever belongs to the row's own
 * prompt (attention, cfg, scores of previews) is unknown.
 */
typedef struct ga_more_labels {
    int32_t share;          /* rows that share a place in begin and count: the steps of a rollout; ≥ 1 */
    const int64_t *begin;   /* [rows / share] */
    const int32_t *count;   /* [rows / share] */
    const float *reward;    /* [labels] target 0; the other targets have no label */
    const uint64_t *prompt; /* [labels] key of the other prompt, as ga_dataset.prompt */
    const int32_t *vector;  /* [labels] which of `vectors` */
    const ga_half *vectors; /* [vector_count, values of the input `prompt`] */
    int32_t vector_count;
} ga_more_labels;

/* A view of columns, row i everywhere the same rollout. */
typedef struct ga_dataset {
    const ga_feature_schema *schema;
    int64_t rows;
    const ga_half *features; /* [rows, values_per_row]; NULL: fetch gives them */
    ga_dataset_fetch fetch;
    void *user;              /* of fetch */
    int64_t window_rows;     /* with fetch: neighbouring rows that are cheap to have in any order; ≥ 1 */
    const uint8_t *complete; /* [rows] 1: every feature is finite (partial: those that are known). NULL:
                                features in memory are looked at */
    bool partial;        /* a NaN in a complete row is a feature that is unknown, and counts as the mean */
    const float *reward; /* [rows]; NaN where pruned: no label */
    /* what there is to predict; target 0 is the reward */
    int32_t target_count;            /* 0 and 1: the reward alone */
    const float *targets;            /* [rows, target_count]; NaN: no label. NULL with one target */
    const char *const *target_names; /* [target_count]; NULL with one target */
    const uint64_t *group;           /* [rows] key of (batch, prompt, step) */
    const uint64_t *prompt;          /* [rows] key of the prompt alone */
    const uint32_t *update;          /* [rows] age */
    const float *inclusion;          /* [rows] probability in (0, 1] that the row was kept */
    const uint8_t *audit;            /* [rows] 1: kept by chance alone; NULL: none */
    const float *sigma;              /* [rows] noise level at the decision */
    const int32_t *step;             /* [rows] decision step; NULL: one for all */
    const int32_t *category;         /* [rows] of the prompt; NULL: none */
    const ga_more_labels *more;      /* NULL: none */
    /* Which process brings a row, where several train together: all hold the same small columns, so that all
     * split alike, and each fetches its own rows' features only. NULL: this one brings all. */
    const uint8_t *mine; /* [rows] 1: this process */
} ga_dataset;

/* GA_ERR_ARGUMENT when columns are missing. */
ga_status ga_dataset_check(const ga_dataset *dataset, ga_error *error);

/* May row `row` serve as an example? Reward and features finite, π in (0, 1], σ ≥ 0. */
bool ga_dataset_usable(const ga_dataset *dataset, int64_t row);

/*
 * Features [count, values_per_row] of any rows, in the order asked for; neighbours together are cheapest.
 * GA_ERR_FILE (a file is gone or damaged since), GA_ERR_MEMORY; values_out is void then.
 */
ga_status ga_dataset_features(
    const ga_dataset *dataset, const int64_t *rows, int64_t count, ga_half *values_out, ga_error *error);

/* Label of a row for a target; NaN: none. */
float ga_dataset_target(const ga_dataset *dataset, int64_t row, int32_t target);

/* Number of the row's first label under another prompt; *count_out: how many it has, 0 without any. */
int64_t ga_dataset_more(const ga_dataset *dataset, int64_t row, int32_t *count_out);

/* max(target_count, 1) */
int32_t ga_dataset_target_count(const ga_dataset *dataset);

/*
 * Usable rows in groups, as fits take them; groups in the order of their first row, so that neighbours in a
 * part are neighbours in the log. Where several processes train together, the groups of all are listed in the
 * same order in each (`all_…`), so that all can draw the same ones.
 */
typedef struct ga_part {
    int64_t count;
    int64_t *rows;        /* [count] numbers in the dataset */
    float *target;        /* [count] */
    float *weight;        /* [count] 1/π, clipped, mean 1 over the rows of all processes */
    int64_t *begin;       /* [groups + 1] */
    int32_t *fold;        /* [groups] */
    ga_grouped grouped;   /* view of the above */
    int32_t all_groups;   /* of all processes */
    int32_t *all_rows;    /* [all_groups] rows in the group */
    int32_t *all_place;   /* [all_groups] which group of this part it is; −1: another process brings it */
    uint64_t *all_key;    /* [all_groups] of the group: the same for any number of processes */
    uint64_t *all_prompt; /* [all_groups] its prompt's key */
} ga_part;

/*
 * The order [all_groups] in which pass `epoch` takes the groups: shuffled, but where features are fetched,
 * within windows of neighbours whose order is shuffled too. The same for the same seed and epoch, whatever
 * the number of processes. GA_ERR_MEMORY.
 */
ga_status ga_part_shuffle(const ga_dataset *dataset, const ga_part *part, uint64_t seed, uint64_t epoch,
    int32_t *order_out, ga_error *error);

/* All usable rows; only audited ones where `audited_only`. weight_max clips 1/π before it is scaled to
 * mean 1. GA_ERR_MEMORY. An empty part is no error. */
ga_status ga_part_all(
    const ga_dataset *dataset, bool audited_only, double weight_max, ga_part *part_out, ga_error *error);

/* A part of about rows_max rows of a larger one (all processes together): every k-th group, or all. The
 * caller's. GA_ERR_MEMORY. */
ga_status ga_part_thin(const ga_part *part, int64_t rows_max, ga_part *part_out, ga_error *error);

/* The keys of the part's prompts, of all processes: ascending, each once. *prompts_out is freed by the
 * caller. GA_ERR_MEMORY. */
ga_status ga_part_prompts(const ga_part *part, uint64_t **prompts_out, int32_t *count_out, ga_error *error);

/* Is the key among those? */
bool ga_prompts_have(const uint64_t *prompts, int32_t count, uint64_t prompt);

/* All usable rows of another dataset whose prompts the part has. GA_ERR_MEMORY. An empty part is no error. */
ga_status ga_part_of_prompts(
    const ga_dataset *dataset, const ga_part *like, double weight_max, ga_part *part_out, ga_error *error);

/* Empty is allowed. */
void ga_part_destroy(ga_part *part);

/* `train` fits; `tune` stops the training; `report` is seen by neither and gives the figures; `held` = tune
 * and report. No prompt is on both sides of train and held. */
typedef struct ga_split {
    ga_part train, tune, report, held;
} ga_split;

/*
 * Holds out the prompts seen last until they have `held_share` of the groups: the newest alternates between
 * report and tune; older rows of the same prompts go with them. The same data gives the same split.
 * GA_ERR_DATA when there are too few groups to learn and to judge (4 for train, 2 for tune and report each,
 * of two rows or more), GA_ERR_MEMORY.
 */
ga_status ga_dataset_split(
    const ga_dataset *dataset, double held_share, double weight_max, ga_split *split_out, ga_error *error);

void ga_split_destroy(ga_split *split);

#endif
