#include "probe/network_options.h"

#include <string.h>

#define CHANNELS_MAX 1024
#define HIDDEN_MAX 4096
#define CONDITION_MAX 512
#define BLOCKS_PER_LEVEL_MAX 4

static const char *const names[GA_NETWORK_ARCHITECTURE_COUNT] = {"joined", "paper", "none", "first"};
static const char *const conditions[GA_NETWORK_CONDITION_COUNT] = {"head", "blocks"};

ga_network_options ga_network_options_default(void) {
    const ga_network_options options = {.architecture = GA_NETWORK_JOINED,
        .condition = GA_NETWORK_CONDITION_HEAD,
        .channels = {24, 32, 48, 64},
        .levels = 4,
        .blocks_per_level = 1,
        .hidden = 32,
        .condition_width = 32,
        .targets = 1,
        .heteroscedastic = true};
    return options;
}

static ga_status check_range(const char *name, int32_t value, int32_t low, int32_t high, ga_error *error) {
    if (value < low || value > high) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "the network's %s is %d, it must be %d to %d", name, value, low, high);
    }
    return GA_OK;
}

ga_status ga_network_options_check(const ga_network_options *options, ga_error *error) {
    GA_TRY(check_range(
        "architecture", (int32_t)options->architecture, 0, GA_NETWORK_ARCHITECTURE_COUNT - 1, error));
    GA_TRY(check_range("condition", (int32_t)options->condition, 0, GA_NETWORK_CONDITION_COUNT - 1, error));
    GA_TRY(check_range("number of levels", options->levels, 1, GA_NETWORK_LEVELS_MAX, error));
    for (int32_t i = 0; i < options->levels; i++) {
        GA_TRY(check_range("number of channels of a level", options->channels[i], 1, CHANNELS_MAX, error));
    }
    GA_TRY(
        check_range("number of blocks a level", options->blocks_per_level, 1, BLOCKS_PER_LEVEL_MAX, error));
    GA_TRY(check_range("hidden width", options->hidden, 1, HIDDEN_MAX, error));
    GA_TRY(check_range("condition width", options->condition_width, 1, CONDITION_MAX, error));
    return check_range("number of targets", options->targets, 1, GA_NETWORK_TARGETS_MAX, error);
}

int32_t ga_network_options_outputs(const ga_network_options *options) {
    const bool variance = options->heteroscedastic && options->architecture == GA_NETWORK_JOINED;
    return options->targets * (variance ? 2 : 1);
}

const char *ga_network_architecture_name(ga_network_architecture architecture) {
    const bool known = (int)architecture >= 0 && architecture < GA_NETWORK_ARCHITECTURE_COUNT;
    return known ? names[architecture] : "unknown";
}

bool ga_network_architecture_from_name(const char *name, ga_network_architecture *architecture_out) {
    for (int i = 0; i < GA_NETWORK_ARCHITECTURE_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            *architecture_out = (ga_network_architecture)i;
            return true;
        }
    }
    return false;
}

const char *ga_network_condition_name(ga_network_condition condition) {
    const bool known = (int)condition >= 0 && condition < GA_NETWORK_CONDITION_COUNT;
    return known ? conditions[condition] : "unknown";
}

bool ga_network_condition_from_name(const char *name, ga_network_condition *condition_out) {
    for (int i = 0; i < GA_NETWORK_CONDITION_COUNT; i++) {
        if (strcmp(name, conditions[i]) == 0) {
            *condition_out = (ga_network_condition)i;
            return true;
        }
    }
    return false;
}
