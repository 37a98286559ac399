#include "grpo_accel/command/figures.h"

void ga_command_within(ga_json *json, const char *key, const ga_within *within) {
    ga_json_object(json, key);
    ga_json_real(json, "value", within->value);
    ga_json_array(json, "ci95");
    ga_json_real(json, NULL, within->low);
    ga_json_real(json, NULL, within->high);
    ga_json_end(json);
    ga_json_integer(json, "n_rows", within->rows);
    ga_json_integer(json, "n_groups", within->groups);
    ga_json_end(json);
}

void ga_command_warn_refused(const ga_record_table *table) {
    if (table->refused_count > 0) {
        (void)fprintf(stderr, "grpo-accel: warning: %lld segments were refused, their rows are missing: %s\n",
            (long long)table->refused_count, table->refused.message);
    }
}
