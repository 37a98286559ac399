/* The arguments of one command: options from a table, positional arguments, and what follows `--`. */
#ifndef GA_COMMAND_ARGUMENTS_H
#define GA_COMMAND_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef struct ga_option {
    const char *name;  /* without the dashes; NULL ends a table */
    const char *value; /* what it takes, "FILE"; NULL: a flag */
    const char *help;
} ga_option;

typedef struct ga_arguments {
    const char **names;  /* [given_count] options in the order given */
    const char **values; /* [given_count] their values, NULL for flags */
    size_t given_count;
    const char **positional; /* [positional_count] */
    size_t positional_count;
    char **rest; /* what follows `--`, NULL-terminated as argv is; NULL without `--` */
} ga_arguments;

/*
 * Reads argv[0 … argc-1] (the command's own arguments) by `options`. `--name=value` and `--name value` are
 * the same. The result points into argv; freed with ga_arguments_free.
 * Errors: GA_ERR_ARGUMENT with the wrong argument and the nearest option; GA_ERR_MEMORY.
 */
ga_status ga_arguments_read(
    const ga_option *options, int argc, char **argv, ga_arguments *arguments_out, ga_error *error);
void ga_arguments_free(ga_arguments *arguments);

/* True if the option was given. */
bool ga_arguments_has(const ga_arguments *arguments, const char *name);

/* The value of an option, the last one if it was given more than once; NULL if it was not given. */
const char *ga_arguments_value(const ga_arguments *arguments, const char *name);

/* All values of an option in order into list[given_count]; gives their number. */
size_t ga_arguments_values(const ga_arguments *arguments, const char *name, const char **list);

/* A number as people write it on a command line: as in YAML, and ".25". False: it is none. */
bool ga_arguments_parse_real(const char *text, double *value_out);

/* A number from min to max; `fallback` if the option was not given. Errors: GA_ERR_ARGUMENT. */
ga_status ga_arguments_integer(const ga_arguments *arguments, const char *name, int64_t min, int64_t max,
    int64_t fallback, int64_t *value_out, ga_error *error);
ga_status ga_arguments_real(const ga_arguments *arguments, const char *name, double min, double max,
    double fallback, double *value_out, ga_error *error);

#endif
