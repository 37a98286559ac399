/*
 * What is done from the next batch on: shadow or prune, where and how much, from the guard's verdict.
 *
 * The session's part of it: seconds, drift and outcomes go into a ga_watch (watch.h), its strategy into
 * session->strategy. Everything that a verdict depends on has been exchanged, so all ranks agree without
 * another collective; only a change of what batches do is confirmed by one.
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

/* The rows of each group are in the same state at a look: no signal can tell them apart. */
void ga_mode_shared_state(ga_session *session, int32_t candidate);

/* Books the open batches' seconds, and adds to the header of the update's exchange what other ranks must
 * know.
 */
void ga_mode_fill_header(ga_session *session, ga_update_header *header);

/*
 * An update, before its numbers are published and its batches closed, once on every rank. outcomes [count]:
 * of all ranks; count 0 where the exchange failed, and then `exchange` is not read. prunable: the host's
 * advantages are of a kind that can be computed from kept rows.
 */
void ga_mode_step(ga_session *session, const ga_exchange_report *exchange, const ga_outcome *outcomes,
    int32_t count, bool prunable);

/*
 * What ga_mode_step proposed comes into force where every rank proposes the same; else it does not, and ranks
 * that were all there and differ start from shadow again. Collective in mode auto: one meeting, which a rank
 * with exchanged = false counts without taking part. Ranks have just met in the update's exchange, so nobody
 * is waited for longer than decision.timeout_seconds. False: other ranks are not there, and whoever comes
 * late will not find this one in further meetings of this update.
 */
bool ga_mode_settle(ga_session *session, bool exchanged);

/* The last thing in an update: what follows is the host's training. */
void ga_mode_update_ended(ga_session *session);

/* Does the guard ask for a training? reason_out: static, written if so. Asked once for each request. */
bool ga_mode_wants_training(ga_session *session, const char **reason_out);

/* Another probe is in use from here on, or none. */
void ga_mode_probe_changed(ga_session *session);

/* Frees what the guard holds. */
void ga_mode_close(ga_session *session);

#endif
