/*
 * Who goes on: the one pipeline from scores to the kept set, the same for every policy.
 *
 * Every rank computes the same plan from the same candidates: it depends on nothing but them, the options and
 * (seed, batch, stage), not on the order of arrival. Each rank keeps exactly c rows, so that no rank sets the
 * pace.
 *
 * What happens where it isn't obvious:
 * - Groups are whatever shares a key, of any size and unequal ones too: a prompt that was drawn twice or four
 *   times is one group of 2K or 4K rows. Bounds are counts of kept rows, the same for small and large groups.
 * - A group on one rank only: that rank's quota is its only way out, so its floor and cap give way to it.
 * - A group of one is worth 0 (its advantage is 0 whatever the reward) and goes first, unless min_group or
 * the quota keeps it. Both rows of a pair are worth the same.
 * - All scores equal: c rows by chance, decided by (seed, batch, stage) alone.
 * - A row that is not scored (NaN) comes before all scored ones as far as its rank's quota allows, and is
 *   counted; by policy random it is a row like any other.
 * - Bounds that quotas forbid give way evenly (extremes.h), are counted, and never make a plan fail.
 * - A threshold that more or fewer rows pass than there are: c is 1 … B on each rank all the same.
 *
 * Not collective; any thread with its own arena.
 */
#ifndef GA_SELECT_PLAN_H
#define GA_SELECT_PLAN_H

#include "grpo_accel/select/policy.h"

typedef struct ga_plan_options {
    ga_policy_kind policy;
    int32_t ranks;         /* that take part, each with the same number of rows B */
    int32_t keep_per_rank; /* c, clamped to 1 … B; policy threshold finds its own instead */
    int32_t min_group;     /* kept rows that each group has at least (or all it has), ≥ 0; max_group wins */
    int32_t max_group;     /* kept rows that each group has at most; 0: no limit */
    double min_inclusion;  /* π_min of policies that draw by chance, in [0, 1] */
    double audit_share;    /* ε: share of the batches whose rows are kept by chance alone, in [0, 1] */
    uint64_t seed;
    uint64_t batch;       /* number of the batch in the run, the same on all ranks */
    int32_t stage;        /* which decision of the batch, 0 … 2: a part of the random key */
    bool chance_before;   /* an earlier decision of this batch was an audit: this one keeps by chance alone */
    ga_std_kind std_kind; /* by what the host divides its advantages */
    ga_threshold threshold;
    /* Rows that an earlier decision of this batch stopped, with their newest predictions; NULL: none, or not
     * known. They still count in the host's statistics, so that a row's value is what it is in the whole
     * group. rank and index are not read. */
    const ga_candidate *stopped;
    int32_t stopped_count;
} ga_plan_options;

/* Arrays belong to the arena and are aligned with the candidates in the order in which they were given. */
typedef struct ga_plan {
    int32_t count;
    const uint8_t *kept;         /* [count] 1: goes on */
    const double *inclusion;     /* [count] π, see below */
    bool audited;                /* this decision's rows are kept by chance alone, each with c/B */
    int32_t keep_per_rank;       /* c as used */
    int32_t rows_per_rank;       /* B */
    int32_t lowered_floor_count; /* groups that get less than min_group (or their size, or max_group) because
                                    quotas forbid it */
    int32_t raised_cap_count;    /* groups that get more than max_group because quotas forbid less */
    int32_t unscored_count;      /* rows without a usable prediction: they come first, as far as c allows */
    uint64_t checksum;           /* of batch and kept (group, rank * B + index): no count of ranks in it */
} ga_plan;

/*
 * Makes the plan of one decision from the candidates[count] of all ranks: the rows that still run, with
 * indices 0 … B-1 on each rank.
 *
 * inclusion is π = (1 − ε)·π⁰ + ε·c/B, where π⁰ is 0 or 1 under extremes, topk, threshold and budget, and the
 * policy's own probability under neyman and random; it is the same whether this decision turned out to be an
 * audit or not. It is 0 only for pruned rows when ε = 0. Ties are broken by (seed, batch, stage). An audit
 * ignores min_group and max_group, otherwise it would not be chance alone.
 *
 * Under neyman π⁰ ≥ min(min_inclusion, c/B), but for rows of groups whose bounds leave less; under random π⁰
 * is c/B but for bounds. Policies without chance of their own have π ≥ ε·c/B only.
 *
 * Several decisions in a batch: π of each is the probability given what the earlier ones did, so the product
 * over a row's decisions makes Σ Z y / Π π unbiased. After an audit (plan.audited) pass chance_before to all
 * later decisions of the batch: they then keep by chance alone, with π = c/B. A batch is an audit batch only
 * where the first decision was one.
 *
 * On failure plan_out is untouched and the caller keeps all rows. GA_ERR_ARGUMENT (options), GA_ERR_DATA
 * (ranks with different numbers of rows, a row twice), GA_ERR_MEMORY.
 */
ga_status ga_plan_make(const ga_plan_options *options, const ga_candidate *candidates, int32_t count,
    ga_arena *arena, ga_plan *plan_out, ga_error *error);

#endif
