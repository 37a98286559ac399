/*
 * The table of commands, and what they share: help, exit codes, the one way to fail.
 *
 * With --json a command writes one JSON document to standard output and everything else to standard error;
 * with --quiet it says nothing that is neither its answer nor an error.
 */
#ifndef GA_COMMAND_COMMAND_H
#define GA_COMMAND_COMMAND_H

#include <stdbool.h>

#include "grpo_accel/base/status.h"
#include "grpo_accel/command/arguments.h"
#include "grpo_accel/command/json.h"
#include "grpo_accel/config/config.h"

/* What scripts may rely on; docs/man/grpo-accel.1 has the table. */
typedef enum ga_exit {
    GA_EXIT_DONE = 0,
    GA_EXIT_NO = 1,      /* done, and the answer is no */
    GA_EXIT_USAGE = 2,   /* wrong usage or configuration */
    GA_EXIT_INPUT = 3,   /* an input can't be read or was refused, or an output can't be written */
    GA_EXIT_MISSING = 4, /* a component is missing */
    GA_EXIT_DEFECT = 70  /* our own defect */
} ga_exit;

typedef struct ga_call ga_call;

typedef struct ga_command {
    const char *name;    /* "train", "config dump" */
    const char *shape;   /* what follows the name: "--data FOLDER --out FILE" */
    const char *summary; /* one line */
    const char *details; /* paragraphs of --help */
    const ga_option *options;
    int positional_min;
    int positional_max;
    bool takes_rest; /* SCRIPT ARGS… after -- */
    ga_exit (*run)(const ga_call *call);
} ga_command;

/* One call of a command. */
struct ga_call {
    const ga_command *command;
    const char *program; /* argv[0] */
    ga_arguments arguments;
    bool json;
    bool quiet;
};

/* All commands in the order of the help. */
extern const ga_command ga_commands[];
extern const size_t ga_command_count;

/* The exit code that a status means. */
ga_exit ga_exit_of(ga_status status);

/* Says the error on standard error, with --json also as {"error": …}; gives its exit code. */
ga_exit ga_command_fail(const ga_call *call, const ga_error *error);

/* The same from a format: `return ga_command_refuse(call, GA_ERR_ARGUMENT, "…")`. */
ga_exit ga_command_refuse(const ga_call *call, ga_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Loads the configuration at `path` (NULL: defaults) with the environment and the call's --set options. The
 * caller frees it with ga_config_free.
 */
ga_status ga_command_load_config(
    const ga_call *call, const char *path, ga_config **config_out, ga_error *error);

/* "0123456789abcdef", zero-terminated. */
void ga_command_hex(uint64_t value, char text_out[17]);

ga_exit ga_command_run(const ga_call *call);
ga_exit ga_command_config_dump(const ga_call *call);
ga_exit ga_command_config_check(const ga_call *call);
ga_exit ga_command_config_schema(const ga_call *call);
ga_exit ga_command_config_docs(const ga_call *call);
ga_exit ga_command_doctor(const ga_call *call);
#if defined(GA_HAVE_TRAIN)
ga_exit ga_command_train(const ga_call *call);
ga_exit ga_command_relabel(const ga_call *call);
ga_exit ga_command_evaluate(const ga_call *call);
ga_exit ga_command_rollback(const ga_call *call);
ga_exit ga_command_select_seeds(const ga_call *call);
ga_exit ga_command_optimize_prompt(const ga_call *call);
#endif
#if defined(GA_HAVE_WHATIF)
ga_exit ga_command_replay(const ga_call *call);
ga_exit ga_command_simulate(const ga_call *call);
#endif
#if defined(GA_HAVE_RECORD)
ga_exit ga_command_inspect(const ga_call *call);
ga_exit ga_command_verify(const ga_call *call);
#endif

#endif
