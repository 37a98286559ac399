#include "grpo_accel/command/arguments.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/config/nearest.h"
#include "grpo_accel/config/value.h"

#define OPTIONS_MAX 32
#define NAME_BYTES 64

static const ga_option *find_option(const ga_option *options, const char *name, size_t length) {
    for (const ga_option *option = options; option->name != NULL; option++) {
        if (strlen(option->name) == length && strncmp(option->name, name, length) == 0) {
            return option;
        }
    }
    return NULL;
}

static ga_status unknown_option(const ga_option *options, const char *name, size_t length, ga_error *error) {
    const char *names[OPTIONS_MAX];
    size_t count = 0;
    for (const ga_option *option = options; option->name != NULL && count < OPTIONS_MAX; option++) {
        names[count++] = option->name;
    }
    char word[NAME_BYTES];
    const size_t kept = length < sizeof word - 1 ? length : sizeof word - 1;
    memcpy(word, name, kept);
    word[kept] = '\0';
    const char *near = ga_nearest(word, names, count);
    if (near != NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "unknown option '--%s', did you mean '--%s'?", word, near);
    }
    return GA_FAIL(error, GA_ERR_ARGUMENT, "unknown option '--%s'; --help shows all", word);
}

/* One option at argv[*at]; its value may be the next argument. */
static ga_status take_option(
    const ga_option *options, int argc, char **argv, int *at, ga_arguments *taken, ga_error *error) {
    const char *name = argv[*at] + 2;
    const size_t length = strcspn(name, "=");
    const ga_option *option = find_option(options, name, length);
    if (option == NULL) {
        return unknown_option(options, name, length, error);
    }
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    if (option->value == NULL && value != NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "option '--%s' takes no value", option->name);
    }
    if (option->value != NULL && value == NULL) {
        if (*at + 1 >= argc || strcmp(argv[*at + 1], "--") == 0) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "option '--%s' needs a value: --%s %s", option->name,
                option->name, option->value);
        }
        value = argv[++*at];
    }
    taken->names[taken->given_count] = option->name;
    taken->values[taken->given_count] = value;
    taken->given_count++;
    return GA_OK;
}

static ga_status take_all(
    const ga_option *options, int argc, char **argv, ga_arguments *taken, ga_error *error) {
    for (int at = 0; at < argc; at++) {
        const char *text = argv[at];
        if (strcmp(text, "--") == 0) {
            taken->rest = argv + at + 1;
            return GA_OK;
        }
        if (strcmp(text, "-h") == 0) {
            text = argv[at] = "--help";
        }
        if (strncmp(text, "--", 2) == 0) {
            GA_TRY(take_option(options, argc, argv, &at, taken, error));
        } else if (text[0] == '-' && text[1] != '\0') {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "unknown option '%.64s'; --help shows all", text);
        } else {
            taken->positional[taken->positional_count++] = text;
        }
    }
    return GA_OK;
}

ga_status ga_arguments_read(
    const ga_option *options, int argc, char **argv, ga_arguments *arguments_out, ga_error *error) {
    const size_t slots = (size_t)argc + 1;
    const char **memory = calloc(3 * slots, sizeof *memory);
    if (memory == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "out of memory while reading the arguments");
    }
    ga_arguments taken = {.names = memory, .values = memory + slots, .positional = memory + 2 * slots};
    const ga_status status = take_all(options, argc, argv, &taken, error);
    if (status != GA_OK) {
        free(memory);
        return status;
    }
    *arguments_out = taken;
    return GA_OK;
}

void ga_arguments_free(ga_arguments *arguments) {
    free(arguments->names);
    memset(arguments, 0, sizeof *arguments);
}

bool ga_arguments_has(const ga_arguments *arguments, const char *name) {
    for (size_t i = 0; i < arguments->given_count; i++) {
        if (strcmp(arguments->names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

size_t ga_arguments_values(const ga_arguments *arguments, const char *name, const char **list) {
    size_t count = 0;
    for (size_t i = 0; i < arguments->given_count; i++) {
        if (strcmp(arguments->names[i], name) == 0) {
            list[count++] = arguments->values[i];
        }
    }
    return count;
}

const char *ga_arguments_value(const ga_arguments *arguments, const char *name) {
    const char *value = NULL;
    for (size_t i = 0; i < arguments->given_count; i++) {
        value = strcmp(arguments->names[i], name) == 0 ? arguments->values[i] : value;
    }
    return value;
}

ga_status ga_arguments_integer(const ga_arguments *arguments, const char *name, int64_t min, int64_t max,
    int64_t fallback, int64_t *value_out, ga_error *error) {
    const char *text = ga_arguments_value(arguments, name);
    int64_t value = fallback;
    if (text != NULL && (!ga_value_parse_integer(text, &value) || value < min || value > max)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--%s': expected a whole number from %lld to %lld; found '%.64s'", name, (long long)min,
            (long long)max, text);
    }
    *value_out = value;
    return GA_OK;
}

bool ga_arguments_parse_real(const char *text, double *value_out) {
    char whole[72];
    const bool negative = text[0] == '-';
    const char *digits = text + (negative ? 1 : 0);
    if (digits[0] != '.' || strlen(digits) > 60) {
        return ga_value_parse_real(text, value_out);
    }
    (void)snprintf(whole, sizeof whole, "%s0%.60s", negative ? "-" : "", digits);
    return ga_value_parse_real(whole, value_out);
}

ga_status ga_arguments_real(const ga_arguments *arguments, const char *name, double min, double max,
    double fallback, double *value_out, ga_error *error) {
    const char *text = ga_arguments_value(arguments, name);
    double value = fallback;
    if (text != NULL && (!ga_arguments_parse_real(text, &value) || value < min || value > max)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--%s': expected a number from %g to %g; found '%.64s'", name, min, max, text);
    }
    *value_out = value;
    return GA_OK;
}
