/* relabel: final images under other prompts of the run. Becomes the Python helper, since scorers are Python.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/command/python.h"

#define PROMPTS_MAX 1000
#define SEED_MAX INT64_C(9007199254740992)
#define WORDS_MAX 20

/* The helper's command line. */
typedef struct helper {
    char python[GA_PYTHON_BYTES];
    char prompts[24], seed[24];
    const char *words[WORDS_MAX]; /* NULL-terminated */
    int count;
} helper;

static void add_word(helper *h, const char *word) {
    if (h->count < WORDS_MAX - 1) {
        h->words[h->count++] = word;
        h->words[h->count] = NULL;
    }
}

static void add_option(helper *h, const char *name, const char *value) {
    if (value != NULL) {
        add_word(h, name);
        add_word(h, value);
    }
}

static ga_status read_call(const ga_call *call, helper *h, ga_error *error) {
    const ga_arguments *arguments = &call->arguments;
    int64_t prompts = 0, seed = 0;
    const char *scorer = ga_arguments_value(arguments, "scorer");
    if (scorer == NULL || strchr(scorer, ':') == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "relabel: --scorer MODULE:FUNCTION is missing");
    }
    GA_TRY(ga_arguments_integer(arguments, "prompts", 1, PROMPTS_MAX, 2, &prompts, error));
    GA_TRY(ga_arguments_integer(arguments, "seed", 0, SEED_MAX, 0, &seed, error));
    GA_TRY(ga_python_find(call->program, h->python, error));
    (void)snprintf(h->prompts, sizeof h->prompts, "%lld", (long long)prompts);
    (void)snprintf(h->seed, sizeof h->seed, "%lld", (long long)seed);
    add_word(h, h->python);
    add_option(h, "-m", "grpo_accel.relabel");
    add_option(h, "--scorer", scorer);
    add_option(h, "--prompts", h->prompts);
    add_option(h, "--seed", h->seed);
    add_option(h, "--decoder", ga_arguments_value(arguments, "decoder"));
    if (call->json) {
        add_word(h, "--json");
    }
    if (call->quiet) {
        add_word(h, "--quiet");
    }
    add_word(h, "--");
    add_word(h, arguments->positional[0]);
    return GA_OK;
}

ga_exit ga_command_relabel(const ga_call *call) {
    helper h = {.count = 0};
    ga_error error;
    ga_error_clear(&error);
    if (read_call(call, &h, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    (void)fflush(NULL);
    (void)execvp(h.python, (char *const *)(uintptr_t)h.words);
    const int reason = errno;
    return ga_command_refuse(call, GA_ERR_MISSING,
        "relabel: can't start the Python interpreter '%.200s': %s; GRPO_ACCEL_PYTHON names another", h.python,
        strerror(reason));
}
