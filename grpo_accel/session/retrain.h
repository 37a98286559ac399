/*
 * Retraining: rank 0 trains a new probe from the newest segments in a thread of its own, and all ranks swap
 * to it at the end of the same update.
 */
#ifndef GA_SESSION_RETRAIN_H
#define GA_SESSION_RETRAIN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef struct ga_retrain_job ga_retrain_job;

typedef struct ga_retrain {
    ga_retrain_job *job;      /* rank 0 while a training runs, else NULL */
    uint32_t ready_version;   /* rank 0: newest published version that was promoted; 0: none */
    uint32_t refused_version; /* a version that some rank could not open; 0: none */
} ga_retrain;

/* Is a training due after this many updates of the run? The same answer on every rank. */
bool ga_retrain_due(const ga_session *session, uint32_t updates);

/*
 * Publishes every rank's rows, then starts the training on rank 0, in the background where the configuration
 * says so. Collective. A failure means that the old probe stays; it is said once.
 */
void ga_retrain_begin(ga_session *session);

/* Rank 0: takes over what a finished training left. Never waits. Not collective. */
void ga_retrain_poll(ga_session *session);

/*
 * Opens version `ready_version` (what rank 0 announced to all) on this rank and swaps to it if every rank
 * could. Collective: every rank calls it with the same version.
 */
void ga_retrain_swap(ga_session *session, uint32_t ready_version);

/* "<run_dir>/probes/probe-000002.safetensors" into path; false where it does not fit. */
bool ga_retrain_path(const ga_session *session, uint32_t version, char *path, size_t bytes);

/* Number of the newest probe in the run's folder; 0: none. */
uint32_t ga_retrain_newest(const ga_session *session);

/* Asks a running training to stop and waits for it. */
void ga_retrain_stop(ga_session *session);

#endif
