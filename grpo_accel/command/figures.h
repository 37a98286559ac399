/* What train, evaluate and inspect say alike. */
#ifndef GA_COMMAND_FIGURES_H
#define GA_COMMAND_FIGURES_H

#include "grpo_accel/base/correlation.h"
#include "grpo_accel/command/json.h"
#include "grpo_accel/record/table.h"

/* {"value", "ci95": [low, high], "n_rows", "n_groups"} */
void ga_command_within(ga_json *json, const char *key, const ga_within *within);

/* Warns on standard error where segments of the record were refused. */
void ga_command_warn_refused(const ga_record_table *table);

#endif
