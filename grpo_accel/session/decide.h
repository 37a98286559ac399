/* The decision of a batch: scores, one exchange, one plan. */
#ifndef GA_SESSION_DECIDE_H
#define GA_SESSION_DECIDE_H

#include "grpo_accel/session/batch.h"

/* Writes the batch's kept rows. Never fails for want of a plan: then all rows are kept and `reason` says why.
 */
ga_status ga_decide(ga_batch *batch, ga_error *error);

/* "extremes", …: the configured policy, static storage. */
const char *ga_session_policy_name(const ga_session *session);

#endif
