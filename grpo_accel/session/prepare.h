/* What the first batch fixes for the run: candidate steps, shapes, features. */
#ifndef GA_SESSION_PREPARE_H
#define GA_SESSION_PREPARE_H

#include "grpo_accel/session/session.h"

/*
 * Fixes all that at the run's first batch, and checks it at every later one. Not collective.
 *
 * With decision.sigma the decision comes after the first step k ≥ 1 with sigmas[k] at or below it, moved to
 * the end of the noisy steps where that is known and later; an end at the last step after a beginning at the
 * first means that all steps are noisy, and then nothing is moved. Else decision.step, or where that is auto
 * decision.candidates, or ga_strategy_candidates, say after which steps batches can look. A first one among
 * noisy steps is warned of once. Errors: GA_ERR_DATA where no step is left, or a later batch has other
 * shapes; those of ga_tap_choose and ga_feature_schema_make.
 */
ga_status ga_session_prepare(ga_session *session, const ga_batch_options *options, ga_error *error);

#endif
