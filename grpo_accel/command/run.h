/* What `run` will start, and how a dry run hands it to the interpreter. */
#ifndef GA_COMMAND_RUN_H
#define GA_COMMAND_RUN_H

#include <stdio.h>

#include "dist/launch.h"
#include "grpo_accel/command/command.h"
#include "grpo_accel/command/python.h"

typedef struct ga_run_plan {
    bool disabled;     /* GRPO_ACCEL_DISABLE=1: nothing of ours is in the process */
    ga_config *config; /* NULL where disabled; owned */
    char python[GA_PYTHON_BYTES];
    const char **words;   /* of the script's interpreter, NULL-terminated; owned */
    double limit_seconds; /* of a dry run; 0: not given */
    ga_launch_report launch;
} ga_run_plan;

/* Says the plan, as JSON with --json. */
void ga_run_describe(const ga_call *call, const ga_run_plan *plan, FILE *out);

/*
 * Sets GRPO_ACCEL_DRY_RUN to the plan as JSON, with what made-up batches must fit ("rehearsal"). The plan has
 * a configuration. GA_ERR_MEMORY.
 */
ga_status ga_run_export(const ga_run_plan *plan, ga_error *error);

#endif
