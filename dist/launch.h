/*
 * From the launcher's environment to torch's: mpirun sets OMPI_COMM_WORLD_RANK and its like, torch and
 * accelerate read RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
 *
 * Without LOCAL_RANK, accelerate 1.4 to 1.9 on a machine with GPUs trains on the CPU without a word; without
 * RANK each process trains alone. Not collective, no MPI call: all ranks derive the same values by
 * themselves.
 */
#ifndef GA_DIST_LAUNCH_H
#define GA_DIST_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Access to environment variables, so that a test needs none. */
typedef struct ga_environment {
    const char *(*get)(void *user, const char *name);             /* NULL: not set */
    bool (*set)(void *user, const char *name, const char *value); /* false: failed */
    void *user;
} ga_environment;

/* The process's own (getenv, setenv). set: not while other threads read the environment. */
const ga_environment *ga_environment_process(void);

/* Where this process stands in its job. */
typedef struct ga_launch_place {
    int32_t rank;
    int32_t size;
    int32_t local_rank;   /* on its machine; 0 where the launcher does not say */
    int32_t local_size;   /* 0: the launcher does not say */
    const char *launcher; /* "Open MPI", "PMI", "Slurm"; "torch" (RANK and WORLD_SIZE only); "none" */
    bool mpi;             /* the launcher can carry MPI */
} ga_launch_place;

typedef struct ga_launch_options {
    const ga_environment *environment; /* NULL: the process's */
    int32_t cores_allowed;             /* 0: ask sched_getaffinity */
    int32_t cores_online;              /* 0: ask sysconf */
} ga_launch_options;

typedef struct ga_launch_report {
    ga_launch_place place;
    char warning[256]; /* empty: none */
} ga_launch_report;

/*
 * Reads the place. A process without any launcher is rank 0 of 1.
 * GA_ERR_CONFIG: a variable is no number or out of range, or RANK or WORLD_SIZE contradicts the launcher
 * (torchrun or accelerate started several processes under one mpirun slot).
 */
ga_status ga_launch_read(const ga_environment *environment, ga_launch_place *place_out, ga_error *error);

/*
 * Is this the rank that speaks for all, as far as anything says so? Also where ga_launch_read finds
 * contradictions. True without any launcher.
 */
bool ga_launch_is_first(const ga_environment *environment);

/*
 * Sets torch's variables from the launcher's; those that are set already stay. Call before torch is imported.
 * Does nothing for a process without a launcher. GA_ERR_CONFIG: as ga_launch_read, or several machines and no
 * way to know rank 0's address (the message asks for MASTER_ADDR).
 */
ga_status ga_launch_environment(
    const ga_launch_options *options, ga_launch_report *report_out, ga_error *error);

#endif
