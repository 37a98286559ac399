/* Which Python interpreter runs the script. */
#ifndef GA_COMMAND_PYTHON_H
#define GA_COMMAND_PYTHON_H

#include "grpo_accel/base/status.h"

/*
 * $GRPO_ACCEL_PYTHON; else python3 or python in the folder of the program (of `program` as it was called, not
 * where a link leads, so that a virtual environment's own is found); else python3 on PATH. Writes an absolute
 * path, or what $GRPO_ACCEL_PYTHON says. Errors: GA_ERR_MISSING, GA_ERR_ARGUMENT for a path that is too long.
 */
#define GA_PYTHON_BYTES 4096
ga_status ga_python_find(const char *program, char path_out[GA_PYTHON_BYTES], ga_error *error);

#endif
