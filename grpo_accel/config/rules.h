/* What no single key can know: values that must agree with each other, and those of later versions. */
#ifndef GA_CONFIG_RULES_H
#define GA_CONFIG_RULES_H

#include "grpo_accel/config/config.h"

/*
 * Checks a complete configuration (all fields and origins set).
 * Errors: GA_ERR_CONFIG "place: key: why, and what to write instead".
 */
ga_status ga_rules_check(const ga_config *config, ga_error *error);

#endif
