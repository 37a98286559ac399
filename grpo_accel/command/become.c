#include "grpo_accel/command/become.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/command/python.h"

/* "--name"; lives as long as the process, which is about to become another. */
static char *dashed(const char *name) {
    const size_t bytes = strlen(name) + 3;
    char *word = malloc(bytes);
    if (word != NULL) {
        (void)snprintf(word, bytes, "--%s", name);
    }
    return word;
}

/* The call's options behind words[0 … count-1]; false for want of memory. */
static bool add_options(const ga_call *call, const char **words, size_t count) {
    const ga_arguments *arguments = &call->arguments;
    for (size_t i = 0; i < arguments->given_count; i++) {
        words[count] = dashed(arguments->names[i]);
        if (words[count++] == NULL) {
            return false;
        }
        if (arguments->values[i] != NULL) {
            words[count++] = arguments->values[i];
        }
    }
    words[count] = NULL;
    return true;
}

ga_exit ga_become_python(const ga_call *call, const char *module) {
    char python[GA_PYTHON_BYTES];
    ga_error error;
    ga_error_clear(&error);
    if (ga_python_find(call->program, python, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    const char **words = calloc(2 * call->arguments.given_count + 4, sizeof *words);
    if (words == NULL) {
        return ga_command_refuse(call, GA_ERR_MEMORY, "%s: no memory", call->command->name);
    }
    words[0] = python;
    words[1] = "-m";
    words[2] = module;
    if (!add_options(call, words, 3)) {
        free(words);
        return ga_command_refuse(call, GA_ERR_MEMORY, "%s: no memory", call->command->name);
    }
    (void)setenv("GRPO_ACCEL_PROGRAM", call->program, 1);
    (void)fflush(NULL);
    (void)execvp(python, (char *const *)(uintptr_t)words);
    const int reason = errno;
    free(words);
    return ga_command_refuse(call, GA_ERR_MISSING,
        "%s: can't start the Python interpreter '%.200s': %s; GRPO_ACCEL_PYTHON names another",
        call->command->name, python, strerror(reason));
}
