/*
 * Values from outside the file: GRPO_ACCEL_SECTION__KEY=value in the environment, and `--set a.b=value`.
 * Here they become (path, text); config.c finds the key and reads the text.
 */
#ifndef GA_CONFIG_OVERRIDE_H
#define GA_CONFIG_OVERRIDE_H

#include "grpo_accel/base/arena.h"
#include "grpo_accel/config/config.h"

typedef struct ga_override {
    const char *path; /* "decision.keep"; NULL: the variable is none of ours */
    const char *text; /* what stands after the first = */
    ga_origin origin;
} ga_override;

/*
 * From one "NAME=value" of an environment. Ours are GRPO_ACCEL_A__B (any depth, __ between the parts) and the
 * top-level keys GRPO_ACCEL_MODE, _SEED and _RUN_DIR; GRPO_ACCEL_CONFIG, _LOG and the like are not keys.
 * Errors: GA_ERR_CONFIG for a value that is no clean text; GA_ERR_MEMORY.
 */
ga_status ga_override_from_variable(
    const char *variable, ga_arena *arena, ga_override *override_out, ga_error *error);

/* From one "a.b=value". Errors as above. */
ga_status ga_override_from_set(const char *text, ga_arena *arena, ga_override *override_out, ga_error *error);

#endif
