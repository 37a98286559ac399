/* Rows of an update into the record: the session's nouns as the record's columns. */
#ifndef GA_SESSION_LOGBOOK_H
#define GA_SESSION_LOGBOOK_H

#include "grpo_accel/session/batch.h"

/*
 * Hands all rows of the open batches to the writer; advantages [rows of this rank], in the order of the
 * batches. What the writer can't take is counted, and said once. Not collective.
 */
void ga_logbook_write(ga_session *session, const double *advantages);

/* Everything written so far on disk, as far as that is possible. */
void ga_logbook_flush(ga_session *session);

/* Takes the writer's counts over into the session's metrics. */
void ga_logbook_count(ga_session *session);

#endif
