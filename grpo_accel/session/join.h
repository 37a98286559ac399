/* How a session meets the other ranks, and where it writes. */
#ifndef GA_SESSION_JOIN_H
#define GA_SESSION_JOIN_H

#include "grpo_accel/session/session.h"

/*
 * Joins the other ranks, makes the run's folders, goes on where earlier runs in them stopped, opens the probe
 * and agrees on all that. Once the world is there nothing fails any more: MPI has to be left in step at the
 * end of a job that succeeds, so a session that can't agree passes everything through. Collective. Errors:
 * those of ga_world_open.
 */
ga_status ga_session_join(ga_session *session, ga_error *error);

#endif
