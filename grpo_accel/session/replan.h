/*
 * What another decision would have done: a batch whose rewards are known of rows that were kept by chance,
 * planned again by the same plan, and rewarded by the same estimator.
 */
#ifndef GA_SESSION_REPLAN_H
#define GA_SESSION_REPLAN_H

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/estimate/breakeven.h"
#include "grpo_accel/estimate/energy.h"
#include "grpo_accel/estimate/risk.h"
#include "grpo_accel/select/plan.h"

/* Truly extreme: of the rows whose reward is known, this share with the largest |advantage|, one at least. */
#define GA_REPLAN_EXTREME_SHARE 0.05

/*
 * One batch of all ranks, rank after rank; every kept row has a reward.
 *
 * What training would have been given comes from `estimator`, the run's own (estimator, weights, clip,
 * leave-one-out, prefix credit where the course allows it), and from the second stage where train_share < 1,
 * for this batch alone; it is held against the host's advantages of whole groups.
 */
typedef struct ga_replan_batch {
    const ga_outcome *rows; /* [count] */
    int32_t count;
    int32_t rows_per_rank;
    uint64_t number;
    ga_advantage_options estimator; /* tau2 and sigma_r2 NaN: not known; std_kind is the plan's */
    double train_share;             /* of the kept rows, (0, 1]; 0 stands for all */
    int32_t noise_end_step;         /* steps behind it add no noise; -1: not known */
} ga_replan_batch;

/* Made once for a batch. Arrays belong to the arena. */
typedef struct ga_replan {
    ga_replan_batch batch;
    const double
        *advantage;         /* [count] true one, against whole groups as far as rows are known; 0 otherwise */
    const uint8_t *extreme; /* [count] */
    double weight;          /* 1/π of its known rows */
    int32_t *part;          /* [count] 0 … part_count − 1: of the row's group */
    int32_t part_count;
} ga_replan;

/* Groups are dealt to at most parts_max parts. GA_ERR_MEMORY, GA_ERR_DATA. */
ga_status ga_replan_make(const ga_replan_batch *batch, const ga_plan_options *plan, int32_t parts_max,
    ga_arena *arena, ga_replan *replan_out, ga_error *error);

/*
 * Are there predictions for every decision of the course: of all rows at the first, of those whose reward is
 * known at later ones? In an audited batch of several decisions the others were stopped before some of them;
 * they stand there with their newest prediction before.
 */
bool ga_replan_can(const ga_replan *replan, const ga_course *course);

/*
 * Adds what the course would have kept to parts_out[part · stride] and losses_out[part · stride], which are
 * zero. plan: template; ranks, keep_per_rank, batch and stage are the course's and the batch's own.
 * GA_ERR_MEMORY, GA_ERR_DATA.
 */
ga_status ga_replan_measure(const ga_replan *replan, const ga_course *course, const ga_plan_options *plan,
    ga_arena *arena, int32_t stride, ga_energy_part *parts_out, ga_loss_sums *losses_out, ga_error *error);

#endif
