#include "grpo_accel/command/train_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/session/lesson_plan.h"

#define SEED_MAX INT64_C(9007199254740992)
#define ROWS_MAX INT64_C(1000000000000)
#define SECONDS_MAX 1e9
#define RELABELS_MAX 1000
#define TIMEOUT_SECONDS 60.0

/* "attention,x0" */
static ga_status read_inputs(const ga_call *call, ga_train_call *train, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "inputs");
    train->inputs = 0;
    for (const char *word = text; word != NULL && *word != 0;) {
        const size_t length = strcspn(word, ",");
        int input = 0;
        while (input < GA_INPUT_COUNT &&
               (strlen(ga_record_input_name((ga_input)input)) != length ||
                   strncmp(ga_record_input_name((ga_input)input), word, length) != 0)) {
            input++;
        }
        if (input == GA_INPUT_COUNT) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "train: --inputs %.100s: \"%.*s\" is none of attention, x0, cfg, hidden, prompt, preview, "
                "lookahead, distilled",
                text, (int)(length < 40 ? length : 40), word);
        }
        train->inputs |= GA_INPUT_BIT(input);
        word += length + (word[length] == ',' ? 1 : 0);
    }
    return GA_OK;
}

/* "3", "2,3,4" or "all" */
static ga_status read_steps(const ga_call *call, ga_train_call *train, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "step");
    if (text == NULL) {
        return GA_OK;
    }
    train->step_count = 0; /* of the configuration */
    if (strcmp(text, "all") == 0) {
        train->step = GA_LESSONS_ALL_STEPS;
        return GA_OK;
    }
    for (const char *word = text; *word != 0;) {
        char *end = NULL;
        const long step = strtol(word, &end, 10);
        if (end == word || (*end != 0 && *end != ',') || step < 1 || step > UINT16_MAX ||
            train->step_count == GA_PROBE_STEPS_MAX) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "train: --step %.100s: \"all\", or at most %d steps from 1 as in 2,3,4", text,
                GA_PROBE_STEPS_MAX);
        }
        train->steps[train->step_count++] = (int32_t)step;
        word = *end == ',' ? end + 1 : end;
    }
    return GA_OK;
}

static ga_status read_provider(const ga_call *call, ga_train_call *train, ga_error *error) {
    static const char *const words[] = {"auto", "torch", "native"}; /* as in ga_provider_kind */
    const char *text = ga_arguments_value(&call->arguments, "provider");
    train->torch = ga_arguments_value(&call->arguments, "torch");
    for (int i = 0; i < 3 && text != NULL; i++) {
        if (strcmp(text, words[i]) == 0) {
            train->provider = (ga_provider_kind)i;
            return GA_OK;
        }
    }
    return text == NULL
               ? GA_OK
               : GA_FAIL(error, GA_ERR_ARGUMENT, "train: --provider %.100s: auto, torch or native", text);
}

/* One probe for all steps at which a run with this configuration looks, as the run itself trains it. */
static void take_steps(const ga_config *config, ga_train_call *train) {
    const ga_config_steps *given = &config->decision.step;
    const bool by_sigma = config->decision.sigma > 0; /* the record's one and only */
    train->step = by_sigma ? 0 : GA_LESSONS_ALL_STEPS;
    train->step_count = by_sigma ? 0 : given->count;
    memcpy(train->steps, given->values, (size_t)train->step_count * sizeof *train->steps);
}

/* The configuration's values, which options of the call override. */
static ga_status read_config(const ga_call *call, ga_train_call *train, ga_error *error) {
    const char *path = ga_arguments_value(&call->arguments, "config");
    ga_config *config = NULL;
    GA_TRY(ga_command_load_config(call, path, &config, error));
    train->options = ga_lesson_plan(config);
    train->window_rows = config->retrain.window_rows;
    train->relabels = config->training.relabels;
    train->provider = (ga_provider_kind)config->probe.provider; /* the same order */
    if (path != NULL) {
        take_steps(config, train);
    }
    ga_config_free(&config);
    return GA_OK;
}

static ga_status read_numbers(const ga_call *call, ga_train_call *train, ga_error *error) {
    const ga_arguments *arguments = &call->arguments;
    ga_train_options *options = &train->options;
    int64_t seed = (int64_t)options->seed;
    GA_TRY(ga_arguments_integer(arguments, "seed", 0, SEED_MAX, seed, &seed, error));
    options->seed = (uint64_t)seed;
    GA_TRY(
        ga_arguments_integer(arguments, "rows", 0, ROWS_MAX, train->window_rows, &train->window_rows, error));
    GA_TRY(ga_arguments_integer(
        arguments, "relabels", 0, RELABELS_MAX, train->relabels, &train->relabels, error));
    GA_TRY(ga_arguments_real(
        arguments, "timeout", 1, SECONDS_MAX, TIMEOUT_SECONDS, &train->timeout_seconds, error));
    /* --seconds-max is the older name */
    GA_TRY(ga_arguments_real(
        arguments, "seconds-max", 0, SECONDS_MAX, options->seconds_max, &options->seconds_max, error));
    return ga_arguments_real(
        arguments, "seconds", 0, SECONDS_MAX, options->seconds_max, &options->seconds_max, error);
}

static ga_status read_paths(const ga_call *call, ga_train_call *train, ga_error *error) {
    train->data = ga_arguments_value(&call->arguments, "data");
    train->out = ga_arguments_value(&call->arguments, "out");
    if (train->data == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "train: --data FOLDER is missing");
    }
    if (train->out == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "train: --out FILE is missing");
    }
    const int length = snprintf(train->state, sizeof train->state, "%s.state", train->out);
    return length > 0 && (size_t)length < sizeof train->state
               ? GA_OK
               : GA_FAIL(error, GA_ERR_ARGUMENT, "train: --out is longer than a path can be");
}

ga_status ga_train_call_read(const ga_call *call, ga_train_call *train, ga_error *error) {
    memset(train, 0, sizeof *train);
    GA_TRY(read_paths(call, train, error));
    GA_TRY(read_config(call, train, error));
    GA_TRY(read_inputs(call, train, error));
    GA_TRY(read_steps(call, train, error));
    GA_TRY(read_provider(call, train, error));
    GA_TRY(read_numbers(call, train, error));
    train->targets = ga_arguments_value(&call->arguments, "targets");
    train->options.state_path = train->state;
    train->options.resume = ga_arguments_has(&call->arguments, "resume");
    return GA_OK;
}
