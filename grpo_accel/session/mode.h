/*
 * What is done from the next batch on: shadow or prune, where and how much, from the guard's verdict.
 *
 * The session's part of it: seconds, drift and outcomes go into a ga_watch (watch.h), its strategy into
 * session->strategy. Everything that a verdict depends on has been exchanged, so all ranks that were there
 * come to the same verdict without another collective. What batches do changes one update later: each header
 * of an update's exchange carries what its rank proposes since the update before, and rank 0's comes into
 * force on every rank that reads it. A rank that misses an exchange does as before until the next one; so
 * that all stay in step, batches count as many collectives as any strategy needs, whatever is in force
 * (strategy.h).
 */
#ifndef GA_SESSION_MODE_H
#define GA_SESSION_MODE_H

#include "dist/exchange.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/session/session.h"

typedef struct ga_mode_state ga_mode_state;

/* A batch begins: the host's time since the last update ended was its training. Called by ga_batch_open. */
void ga_mode_batch_begins(ga_session *session);

/*
 * A look at rows that all still run: their features are counted against what the probe learned from.
 * Called where a batch's look was scored. candidate: index into shapes.candidate_steps.
 */
void ga_mode_look(ga_session *session, const ga_feature_block *block, int32_t candidate);

/* A look at groups of two rows or more. shared: the rows of each are in the same state, so no signal can tell
 * them apart. */
void ga_mode_state_seen(ga_session *session, int32_t candidate, bool shared);

/* Books the open batches' seconds, and adds to the header of the update's exchange what other ranks must
 * know.
 */
void ga_mode_fill_header(ga_session *session, ga_update_header *header);

/*
 * An update, before its numbers are published and its batches closed, once on every rank. exchange: NULL
 * where this rank did not get it; else what rank 0 proposed in it comes into force here. outcomes [count]: of
 * all ranks; count 0 where rows are not known, and then only seconds are learned. prunable: the host's
 * advantages are of a kind that can be computed from kept rows.
 */
void ga_mode_step(ga_session *session, const ga_exchange_report *exchange, const ga_outcome *outcomes,
    int32_t count, bool prunable);

/* The update's rows are in the log: its seconds are known. */
void ga_mode_update_logged(ga_session *session);

/* The last thing in an update: what follows is the host's training. */
void ga_mode_update_ended(ga_session *session);

/* Does the guard ask for a training? reason_out: static, written if so. Asked once for each request. */
bool ga_mode_wants_training(ga_session *session, const char **reason_out);

/* Another probe is in use from here on, or none. */
void ga_mode_probe_changed(ga_session *session);

/* Frees what the guard holds. */
void ga_mode_close(ga_session *session);

#endif
