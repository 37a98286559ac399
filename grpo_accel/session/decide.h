/* A decision of a batch: scores, one exchange, one plan. */
#ifndef GA_SESSION_DECIDE_H
#define GA_SESSION_DECIDE_H

#include "grpo_accel/select/plan.h"
#include "grpo_accel/session/batch.h"

/*
 * Decides on the rows that still run, at the look whose turn it is: writes the batch's kept rows and goes on
 * to the next look. Never fails: for want of a plan all of them are kept, here and at the looks that follow,
 * and `reason` says why.
 */
void ga_decide(ga_batch *batch);

/*
 * Do the decisions of a batch meet the other ranks? The same answer on every rank. Only once the host's
 * tracker has been seen: without it pruned rows would not leave training, and by what it divides would not be
 * known.
 */
bool ga_decide_collective(const ga_session *session);

/*
 * What plans of this session have in common: policy, bounds, audit share, seed and σ. The batch's number, how
 * many rows it keeps and what an earlier decision stopped are its own.
 */
ga_plan_options ga_decide_options(const ga_session *session);

/* "extremes", …: the configured policy, static storage. */
const char *ga_session_policy_name(const ga_session *session);

#endif
