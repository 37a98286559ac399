/*
 * What is done from the next batch on: shadow or prune, where and how much, from the guard's verdict.
 *
 * The session's part of it: seconds, drift and outcomes go into a ga_watch (watch.h), its strategy into
 * session->strategy. Everything that a verdict depends on has been exchanged, so all ranks agree without
 * another collective.
 */
#ifndef GA_SESSION_MODE_H
#define GA_SESSION_MODE_H

#include "dist/exchange.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/session/session.h"

/* A batch begins: the host's time since the last update ended was its training. Called by ga_batch_open. */
void ga_mode_batch_begins(ga_session *session);

/*
 * A look at rows that all still run: their features are counted against what the probe learned from.
 * Called where a batch's look was scored. candidate: index into shapes.candidate_steps.
 */
void ga_mode_look(ga_session *session, const ga_feature_block *block, int32_t candidate);

/* No signal can tell the rows of a group apart; `why` is in words. Called where that is found. */
void ga_mode_shared_state(ga_session *session, const char *why);

/* What this rank adds to the header of the update's exchange. */
void ga_mode_fill_header(ga_session *session, ga_update_header *header);

/*
 * The end of an update, before its batches are closed, once on every rank. outcomes [count]: of all ranks;
 * count 0 where the exchange failed. Sets session->strategy for the batches that begin from here on.
 */
void ga_mode_step(
    ga_session *session, const ga_exchange_report *exchange, const ga_outcome *outcomes, int32_t count);

/* Does the guard ask for a training now? The same on every rank; reset by the call. */
bool ga_mode_wants_training(ga_session *session, const char **reason_out);

/* Another probe is in use from here on. */
void ga_mode_probe_changed(ga_session *session);

/* Frees what the guard holds. */
void ga_mode_close(ga_session *session);

#endif
