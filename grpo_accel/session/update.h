/* The end of an update: outcomes are exchanged, advantages computed over whole groups, rows logged. */
#ifndef GA_SESSION_UPDATE_H
#define GA_SESSION_UPDATE_H

#include "grpo_accel/session/batch.h"

/* See ga_update_end in grpo_accel.h. Collective. */
ga_status ga_update_finish(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error);

/* Takes a batch out of its session's list and frees it. */
void ga_batch_drop(ga_batch *batch);

#endif
