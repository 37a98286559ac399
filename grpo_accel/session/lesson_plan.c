#include "grpo_accel/session/lesson_plan.h"

#include <string.h>

static ga_network_options plan_network(const ga_config *config) {
    static const ga_network_architecture architectures[] = {
        GA_NETWORK_JOINED, GA_NETWORK_PAPER, GA_NETWORK_NONE};
    ga_network_options network = ga_network_options_default();
    network.architecture = architectures[config->probe.network.architecture];
    network.condition = config->probe.network.condition == GA_CONFIG_CONDITION_BLOCKS
                            ? GA_NETWORK_CONDITION_BLOCKS
                            : GA_NETWORK_CONDITION_HEAD;
    const int32_t count = config->probe.network.channels.count;
    network.levels = count < GA_NETWORK_LEVELS_MAX ? count : GA_NETWORK_LEVELS_MAX;
    memset(network.channels, 0, sizeof network.channels);
    for (int32_t i = 0; i < network.levels; i++) {
        network.channels[i] = config->probe.network.channels.values[i];
    }
    network.hidden = (int32_t)config->probe.network.hidden;
    network.blocks_per_level = (int32_t)config->probe.network.blocks_per_level;
    network.condition_width = (int32_t)config->probe.network.condition_width;
    network.heteroscedastic = config->probe.network.heteroscedastic;
    return network;
}

ga_train_options ga_lesson_plan(const ga_config *config) {
    ga_train_options options = ga_train_options_default();
    options.seed = (uint64_t)config->seed;
    options.network = plan_network(config);
    if (options.network.architecture == GA_NETWORK_PAPER) {
        options.loss = ga_loss_paper();
    } else {
        options.loss.ranked = config->training.rank_weight;
        options.loss.raw = config->training.raw_weight;
        options.loss.centred = config->training.centred_weight;
    }
    options.oversample_low = config->training.oversample_low;
    options.learning_rate = config->training.learning_rate;
    options.weight_decay = config->training.weight_decay;
    options.batch_rows = (int32_t)config->training.batch_rows;
    options.rounds_max = (int32_t)config->training.rounds_max;
    options.patience_rounds = (int32_t)config->training.patience_rounds;
    options.seconds_max = config->training.seconds_max;
    options.ema = config->training.ema;
    return options;
}
