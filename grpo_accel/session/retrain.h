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
    uint32_t ready_version;   /* rank 0: the version that was put in use last; 0: none */
    uint32_t refused_version; /* a version that some rank could not open; 0: none */
    uint32_t seen_version;    /* rank 0: the version in use at the last look */
    bool watching;            /* rank 0: seen_version is set */
    bool pending;             /* a training is wanted and not started yet */
    const char *reason;       /* why; static */
} ga_retrain;

/*
 * The end of an update, once on every rank: takes over what a finished training left (rank 0), swaps to the
 * probe of `ready_version`, which rank 0 announced to all, if every rank can open it, and starts a training
 * when the schedule or the guard wants one. One meeting, two with retrain.background off (rank 0 then
 * trains before the job goes on); with exchanged =
 * false this rank counts them without taking part.
 */
void ga_retrain_step(ga_session *session, bool exchanged, uint32_t ready_version);

/* "<run_dir>/probes/probe-000002.safetensors" into path; false where it does not fit. */
bool ga_retrain_path(const ga_session *session, uint32_t version, char *path, size_t bytes);

/* Number of the probe that a run in this folder begins with, versions.h says which; 0: none. */
uint32_t ga_retrain_current(const ga_session *session);

/* Asks a running training to stop and waits for it. */
void ga_retrain_stop(ga_session *session);

#endif
