/*
 * What batches are looked at for, and when: the same on all ranks, in force for batches that begin after it.
 *
 * A run has up to GA_CANDIDATES_MAX candidate steps (session->shapes), fixed by its first batch. A strategy
 * that prunes stops rows at some of them, one after the other; one that does not looks at all of them, in a
 * share of the batches, and lets the others rest.
 */
#ifndef GA_SESSION_STRATEGY_H
#define GA_SESSION_STRATEGY_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

#define GA_STAGES_MAX 3

/* Plain data. */
typedef struct ga_strategy {
    bool prune;
    int32_t stage_count;              /* decisions of a batch that prunes, 1 … GA_STAGES_MAX */
    int32_t candidate[GA_STAGES_MAX]; /* of each stage: index into shapes.candidate_steps, ascending */
    double keep[GA_STAGES_MAX];       /* share of the batch's rows that each rank keeps, never increasing */
    double explore_share;             /* while not pruning: share of the batches that are observed, [0, 1] */
} ga_strategy;

/* What a batch does with the run's candidate steps. */
typedef struct ga_strategy_looks {
    int32_t count; /* steps at which the batch stops to look; 0: it rests */
    int32_t candidate[GA_CANDIDATES_MAX];
    int32_t decisions; /* how many of them may stop rows: the first ones; 0 or count */
    int32_t idle;      /* collectives of the batch that nobody needs: counted and not issued */
} ga_strategy_looks;

/*
 * The strategy that a session begins with. Mode prune: its stages, as decision.step and decision.keep say.
 * Mode shadow and auto: no pruning, every batch observed; the stages say what would be pruned, as far as that
 * is given (a keep that is auto stands as ½).
 */
ga_strategy ga_strategy_of_config(const ga_session *session);

/* Rows of `rows` that go on after a stage: at least 1, never more than after the stage before. */
int32_t ga_strategy_keep_count(const ga_strategy *strategy, int32_t stage, int32_t rows);

/*
 * The looks of batch number `batch` under the session's strategy: the same on all ranks. decisions + idle is
 * the same for every batch of a run, so ranks whose strategies differ for an update stay in step.
 */
ga_strategy_looks ga_strategy_look(const ga_session *session, uint64_t batch);

/*
 * The run's candidate steps where neither decision.step nor decision.candidates names them: the first step
 * behind the noisy ones (noise_end_step of the options; 1 where that is not known, or all steps add noise),
 * and up to three more, so spread that σ falls about evenly down to that of half of the steps that remain.
 * Ascending, each once, ≥ 1 and before the last. steps_out: room for GA_CANDIDATES_MAX; returns how many, 0
 * where a rollout has a single step.
 */
int32_t ga_strategy_candidates(const ga_batch_options *options, int32_t *steps_out);

#endif
