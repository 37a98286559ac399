/* Commands whose work is done by the Python package: this process becomes the interpreter. */
#ifndef GA_COMMAND_BECOME_H
#define GA_COMMAND_BECOME_H

#include "grpo_accel/command/command.h"

/*
 * Runs `python -m module` with the call's own options, in the order given, in place of this process; the
 * module finds this program in GRPO_ACCEL_PROGRAM. Returns only where that can't be done, with the reason
 * said.
 */
ga_exit ga_become_python(const ga_call *call, const char *module);

#endif
