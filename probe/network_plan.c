/* The layout of the network's parameters, and where they start. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "grpo_accel/base/random.h"
#include "probe/network.h"
#include "probe/network_pass.h"

static int32_t add_tensor(ga_network *network, const char *name, const char *part, int32_t dims,
    const int32_t *shape, float initial, float sd) {
    ga_network_tensor *tensor = &network->tensors[network->tensor_count];
    snprintf(tensor->name, sizeof tensor->name, "%s.%s", name, part);
    tensor->offset = network->parameter_count;
    tensor->dims = dims;
    tensor->count = 1;
    for (int32_t i = 0; i < dims; i++) {
        tensor->shape[i] = shape[i];
        tensor->count *= shape[i];
    }
    tensor->initial = initial;
    tensor->initial_sd = sd;
    network->parameter_count += tensor->count;
    return network->tensor_count++;
}

/* Normal start with variance gain² / fan-in (He et al., ICCV 2015, for gain² = 2). */
static int32_t add_conv(
    ga_network *network, const char *name, int32_t inputs, int32_t outputs, int32_t kernel, float gain) {
    const int32_t shape[4] = {outputs, inputs, kernel, kernel};
    const float sd = gain / sqrtf((float)inputs * (float)kernel * (float)kernel);
    const int32_t first = add_tensor(network, name, "weight", 4, shape, 0.0f, sd);
    (void)add_tensor(network, name, "bias", 1, &outputs, 0.0f, 0.0f);
    return first;
}

static int32_t add_linear(
    ga_network *network, const char *name, int32_t inputs, int32_t outputs, float gain) {
    const int32_t shape[2] = {outputs, inputs};
    const int32_t first = add_tensor(network, name, "weight", 2, shape, 0.0f, gain / sqrtf((float)inputs));
    (void)add_tensor(network, name, "bias", 1, &outputs, 0.0f, 0.0f);
    return first;
}

static int32_t groups_of(int32_t channels) {
    return channels % 4 == 0 ? 4 : channels % 2 == 0 ? 2 : 1;
}

static ga_network_norm add_norm(
    ga_network *network, const char *name, int32_t channels, int32_t height, int32_t width) {
    ga_network_norm norm = {
        .channels = channels, .groups = groups_of(channels), .height = height, .width = width, .film = -1};
    norm.norm = add_tensor(network, name, "weight", 1, &channels, 1.0f, 0.0f);
    (void)add_tensor(network, name, "bias", 1, &channels, 0.0f, 0.0f);
    if (network->options.architecture == GA_NETWORK_JOINED && !network->shares_pictures) {
        norm.film = network->film_columns;
        network->film_columns += 2 * channels;
    }
    return norm;
}

/* A block behind maps of [channels, height, width], which become what it gives. */
static void add_block(ga_network *network, int32_t stride, int32_t out_channels, int32_t *channels,
    int32_t *height, int32_t *width) {
    const int32_t number = network->block_count++;
    ga_network_block *block = &network->blocks[number];
    *block = (ga_network_block){
        .in_channels = *channels, .out_channels = out_channels, .stride = stride, .sigma = -1, .skip = -1};
    const int32_t out_height = (*height + stride - 1) / stride, out_width = (*width + stride - 1) / stride;
    char name[24];
    snprintf(name, sizeof name, "block%d.norm1", number);
    block->first = add_norm(network, name, *channels, *height, *width);
    snprintf(name, sizeof name, "block%d.conv1", number);
    block->conv1 = add_conv(network, name, *channels, out_channels, 3, 1.41f);
    if (network->options.architecture != GA_NETWORK_JOINED) {
        snprintf(name, sizeof name, "block%d.sigma", number);
        block->sigma = add_linear(network, name, network->options.condition_width, out_channels, 0.3f);
    }
    snprintf(name, sizeof name, "block%d.norm2", number);
    block->second = add_norm(network, name, out_channels, out_height, out_width);
    snprintf(name, sizeof name, "block%d.conv2", number);
    block->conv2 = add_conv(network, name, out_channels, out_channels, 3, 0.5f);
    if (stride > 1 || *channels != out_channels) {
        snprintf(name, sizeof name, "block%d.skip", number);
        block->skip = add_conv(network, name, *channels, out_channels, 1, 1.0f);
    }
    *channels = out_channels;
    *height = out_height;
    *width = out_width;
}

/* Stem, levels and the last normalisation. */
static void add_maps(ga_network *network) {
    const ga_network_options *options = &network->options;
    int32_t channels = options->channels[0], height = network->shape.height, width = network->shape.width;
    network->stem = add_conv(network, "stem", network->shape.map_channels, channels, 3, 1.0f);
    if (network->shares_pictures) {
        const int32_t shape[3] = {channels, height, width};
        network->place = add_tensor(network, "place", "weight", 3, shape, 0.0f, 0.3f);
    }
    for (int32_t i = 1; i < options->blocks_per_level; i++) {
        add_block(network, 1, channels, &channels, &height, &width);
    }
    for (int32_t level = 1; level < options->levels && (height > 2 || width > 2); level++) {
        for (int32_t i = 0; i < options->blocks_per_level; i++) {
            add_block(network, i == 0 ? 2 : 1, options->channels[level], &channels, &height, &width);
        }
    }
    network->norm = add_norm(network, "norm", channels, height, width);
}

/* Start values of the modulation are zero: a new network is not modulated. */
static void add_condition(ga_network *network) {
    const int32_t width = network->options.condition_width;
    network->embed = add_linear(network, "embed", GA_NETWORK_WAVE_VALUES, width, 1.0f);
    network->condition = width;
    if (network->shape.prompt > 0) {
        network->prompt = add_linear(network, "prompt", network->shape.prompt, width, 1.0f);
        network->condition += width;
    }
}

/* From the pooled vector to that which the condition modulates. */
static void add_trunk(ga_network *network) {
    const int32_t width = network->options.hidden;
    network->trunk = (ga_network_norm){.channels = width, .groups = 1, .height = 1, .width = 1};
    network->trunk.norm = add_linear(network, "trunk", network->norm.channels, width, 1.0f);
    network->trunk.film = network->film_columns;
    network->film_columns += 2 * width;
}

static void add_layers(ga_network *network) {
    const ga_network_options *options = &network->options;
    add_condition(network);
    if (network->shape.map_channels > 0) {
        add_maps(network);
    }
    if (network->shares_pictures) {
        add_trunk(network);
    }
    if (network->film_columns > 0) {
        network->film = add_linear(network, "film", network->condition, network->film_columns, 0.0f);
    }
    network->joined = network->shares_pictures ? network->trunk.channels : network->norm.channels;
    if (options->architecture != GA_NETWORK_PAPER) {
        network->joined += network->shape.scalars + network->condition;
        network->hidden = add_linear(network, "hidden", network->joined, options->hidden, 1.0f);
    }
    const int32_t inputs = network->hidden >= 0 ? options->hidden : network->joined;
    network->last = add_linear(network, "last", inputs, network->outputs, 0.0f);
}

ga_status ga_network_plan(const ga_network_options *options, const ga_network_shape *shape,
    ga_network *network_out, ga_error *error) {
    GA_TRY(ga_network_options_check(options, error));
    if (options->architecture == GA_NETWORK_NONE) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "architecture \"none\" is no network");
    }
    if (options->architecture == GA_NETWORK_PAPER && shape->map_channels < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "the network of architecture \"paper\" takes maps, and the features have none; add attention or "
            "x0 to probe.inputs, or take architecture \"joined\"");
    }
    ga_network network;
    memset(&network, 0, sizeof network);
    network.options = *options;
    network.options.heteroscedastic = options->heteroscedastic && options->architecture == GA_NETWORK_JOINED;
    network.outputs = ga_network_options_outputs(options);
    network.shape = *shape;
    network.shape.scalars = options->architecture == GA_NETWORK_PAPER ? 0 : shape->scalars;
    network.shape.prompt = options->architecture == GA_NETWORK_JOINED ? shape->prompt : 0;
    network.shares_pictures = options->architecture == GA_NETWORK_JOINED &&
                              options->condition == GA_NETWORK_CONDITION_HEAD && shape->map_channels > 0;
    network.embed = network.prompt = network.film = network.stem = network.place = network.hidden =
        network.last = -1;
    add_layers(&network);
    if (network.parameter_count > GA_NETWORK_PARAMETERS_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a network of %lld parameters is more than the %lld that are allowed; make probe.network smaller",
            (long long)network.parameter_count, (long long)GA_NETWORK_PARAMETERS_MAX);
    }
    *network_out = network;
    return GA_OK;
}

void ga_network_initialise(const ga_network *network, uint64_t seed, float *parameters) {
    ga_random random = ga_random_make(seed, 0, GA_STREAM_WEIGHTS);
    for (int32_t t = 0; t < network->tensor_count; t++) {
        const ga_network_tensor *tensor = &network->tensors[t];
        for (int64_t i = 0; i < tensor->count; i++) {
            const double deviation = tensor->initial_sd > 0.0f ? ga_random_normal(&random) : 0.0;
            parameters[tensor->offset + i] = tensor->initial + tensor->initial_sd * (float)deviation;
        }
    }
}
