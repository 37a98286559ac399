#include "probe/network.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"

#define NORM_GROUPS 4
#define NORM_EPSILON 1e-5f
#define WAVES 6
#define EMBED_WIDTH 16
#define HIDDEN_WIDTH 32

static const int32_t widths[GA_NETWORK_BLOCKS_MAX + 1] = {24, 32, 48, 64};

/* ---- layout ---- */

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

static int32_t add_norm(ga_network *network, const char *name, int32_t channels) {
    const int32_t first = add_tensor(network, name, "weight", 1, &channels, 1.0f, 0.0f);
    (void)add_tensor(network, name, "bias", 1, &channels, 0.0f, 0.0f);
    return first;
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

static void add_block(ga_network *network) {
    const int32_t number = network->block_count++;
    ga_network_block *block = &network->blocks[number];
    block->in_channels = network->last_channels;
    block->out_channels = widths[number + 1];
    block->height = network->last_height;
    block->width = network->last_width;
    char name[24];
    snprintf(name, sizeof name, "block%d.norm1", number);
    block->norm1 = add_norm(network, name, block->in_channels);
    snprintf(name, sizeof name, "block%d.conv1", number);
    block->conv1 = add_conv(network, name, block->in_channels, block->out_channels, 3, 1.41f);
    snprintf(name, sizeof name, "block%d.sigma", number);
    block->sigma = add_linear(network, name, EMBED_WIDTH, block->out_channels, 0.3f);
    snprintf(name, sizeof name, "block%d.norm2", number);
    block->norm2 = add_norm(network, name, block->out_channels);
    snprintf(name, sizeof name, "block%d.conv2", number);
    block->conv2 = add_conv(network, name, block->out_channels, block->out_channels, 3, 0.5f);
    snprintf(name, sizeof name, "block%d.skip", number);
    block->skip = add_conv(network, name, block->in_channels, block->out_channels, 1, 1.0f);
    network->last_channels = block->out_channels;
    network->last_height = (block->height + 1) / 2;
    network->last_width = (block->width + 1) / 2;
}

void ga_network_plan(
    int32_t map_channels, int32_t height, int32_t width, int32_t scalars, ga_network *network_out) {
    ga_network network;
    memset(&network, 0, sizeof network);
    network.map_channels = map_channels;
    network.height = height;
    network.width = width;
    network.scalars = scalars;
    network.embed = add_linear(&network, "embed", 2 * WAVES, EMBED_WIDTH, 1.0f);
    if (map_channels > 0) {
        network.last_channels = widths[0];
        network.last_height = height;
        network.last_width = width;
        network.stem = add_conv(&network, "stem", map_channels, widths[0], 3, 1.0f);
        while (network.block_count < GA_NETWORK_BLOCKS_MAX &&
               (network.last_height > 2 || network.last_width > 2)) {
            add_block(&network);
        }
        network.norm = add_norm(&network, "norm", network.last_channels);
    }
    network.joined = network.last_channels + scalars + EMBED_WIDTH;
    network.hidden = add_linear(&network, "hidden", network.joined, HIDDEN_WIDTH, 1.0f);
    network.last = add_linear(&network, "last", HIDDEN_WIDTH, 1, 0.0f);
    *network_out = network;
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

/* ---- pass ---- */

typedef struct block_room {
    float *normal1, *mean1, *rstd1, *active1;
    float *shift;  /* [rows, out_channels] */
    float *middle; /* conv1 with shift */
    float *normal2, *mean2, *rstd2, *active2;
    float *skipped, *output;
} block_room;

struct ga_network_pass {
    const ga_network *network;
    const ga_compute *compute;
    int32_t rows_max;
    float *memory;
    float *waves, *embed_linear, *embed;
    float *stem;
    block_room blocks[GA_NETWORK_BLOCKS_MAX];
    float *normal, *mean, *rstd, *active, *pooled;
    float *joined, *hidden_linear, *hidden;
    /* backward */
    float *grad_hidden, *grad_joined, *grad_embed, *grad_embed_part, *grad_shift, *grad_pooled;
    float *grad_a, *grad_b, *grad_c; /* as large as the largest activation */
    float *workspace;
};

/* Hands out pieces of one block of memory; without memory it only counts. */
typedef struct room_cutter {
    float *memory;
    size_t used_floats;
} room_cutter;

static float *cut(room_cutter *cutter, size_t floats) {
    float *piece = cutter->memory == NULL ? NULL : cutter->memory + cutter->used_floats;
    cutter->used_floats += (floats + 15) / 16 * 16;
    return piece;
}

static ga_conv conv_of(const ga_network_block *block, bool second, int32_t rows) {
    const ga_conv first = {.rows = rows,
        .in_channels = block->in_channels,
        .out_channels = block->out_channels,
        .height = block->height,
        .width = block->width,
        .kernel = 3,
        .stride = 2};
    if (!second) {
        return first;
    }
    const ga_conv next = {.rows = rows,
        .in_channels = block->out_channels,
        .out_channels = block->out_channels,
        .height = (block->height + 1) / 2,
        .width = (block->width + 1) / 2,
        .kernel = 3,
        .stride = 1};
    return next;
}

static ga_conv stem_of(const ga_network *network, int32_t rows) {
    const ga_conv conv = {.rows = rows,
        .in_channels = network->map_channels,
        .out_channels = widths[0],
        .height = network->height,
        .width = network->width,
        .kernel = 3,
        .stride = 1};
    return conv;
}

static ga_conv skip_of(const ga_network_block *block, int32_t rows) {
    ga_conv conv = conv_of(block, false, rows);
    conv.kernel = 1;
    return conv;
}

static ga_group_norm norm_of(int32_t rows, int32_t channels, int32_t height, int32_t width) {
    const ga_group_norm norm = {.rows = rows,
        .channels = channels,
        .groups = NORM_GROUPS,
        .positions = height * width,
        .epsilon = NORM_EPSILON};
    return norm;
}

static void cut_block(const ga_network_block *block, size_t rows, room_cutter *cutter, block_room *room) {
    const size_t inside = rows * (size_t)block->in_channels * (size_t)block->height * (size_t)block->width;
    const size_t outside = rows * (size_t)block->out_channels * (size_t)((block->height + 1) / 2) *
                           (size_t)((block->width + 1) / 2);
    room->normal1 = cut(cutter, inside);
    room->active1 = cut(cutter, inside);
    room->mean1 = cut(cutter, rows * NORM_GROUPS);
    room->rstd1 = cut(cutter, rows * NORM_GROUPS);
    room->shift = cut(cutter, rows * (size_t)block->out_channels);
    room->middle = cut(cutter, outside);
    room->normal2 = cut(cutter, outside);
    room->active2 = cut(cutter, outside);
    room->mean2 = cut(cutter, rows * NORM_GROUPS);
    room->rstd2 = cut(cutter, rows * NORM_GROUPS);
    room->skipped = cut(cutter, outside);
    room->output = cut(cutter, outside);
}

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t workspace_floats(const ga_network *network, const ga_compute *compute, int32_t rows) {
    const ga_conv stem = stem_of(network, rows);
    size_t floats = compute->conv_workspace_floats(&stem);
    for (int32_t i = 0; i < network->block_count; i++) {
        const ga_conv convs[3] = {conv_of(&network->blocks[i], false, rows),
            conv_of(&network->blocks[i], true, rows), skip_of(&network->blocks[i], rows)};
        for (int32_t k = 0; k < 3; k++) {
            floats = max_size(floats, compute->conv_workspace_floats(&convs[k]));
        }
    }
    return floats;
}

/* The largest activation: what a scratch buffer of the backward pass must hold. */
static size_t largest_floats(const ga_network *network, size_t rows) {
    size_t floats = (size_t)widths[0] * (size_t)network->height * (size_t)network->width;
    for (int32_t i = 0; i < network->block_count; i++) {
        const ga_network_block *block = &network->blocks[i];
        const size_t outputs = (size_t)((block->height + 1) / 2) * (size_t)((block->width + 1) / 2);
        floats = max_size(floats, (size_t)block->in_channels * (size_t)block->height * (size_t)block->width);
        floats = max_size(floats, (size_t)block->out_channels * outputs);
    }
    return floats * rows;
}

static void cut_maps(ga_network_pass *pass, size_t rows, bool with_backward, room_cutter *cutter) {
    const ga_network *network = pass->network;
    const size_t channels = (size_t)network->last_channels;
    const size_t last = rows * channels * (size_t)network->last_height * (size_t)network->last_width;
    pass->stem = cut(cutter, rows * (size_t)widths[0] * (size_t)network->height * (size_t)network->width);
    for (int32_t i = 0; i < network->block_count; i++) {
        cut_block(&network->blocks[i], rows, cutter, &pass->blocks[i]);
    }
    pass->normal = cut(cutter, last);
    pass->active = cut(cutter, last);
    pass->mean = cut(cutter, rows * NORM_GROUPS);
    pass->rstd = cut(cutter, rows * NORM_GROUPS);
    pass->pooled = cut(cutter, rows * channels);
    pass->workspace = cut(cutter, workspace_floats(network, pass->compute, pass->rows_max));
    if (with_backward) {
        pass->grad_a = cut(cutter, largest_floats(network, rows));
        pass->grad_b = cut(cutter, largest_floats(network, rows));
        pass->grad_c = cut(cutter, largest_floats(network, rows));
        pass->grad_shift = cut(cutter, rows * (size_t)widths[GA_NETWORK_BLOCKS_MAX]);
        pass->grad_pooled = cut(cutter, rows * channels);
    }
}

static void cut_all(ga_network_pass *pass, bool with_backward, room_cutter *cutter) {
    const size_t rows = (size_t)pass->rows_max;
    pass->waves = cut(cutter, rows * 2 * WAVES);
    pass->embed_linear = cut(cutter, rows * EMBED_WIDTH);
    pass->embed = cut(cutter, rows * EMBED_WIDTH);
    pass->joined = cut(cutter, rows * (size_t)pass->network->joined);
    pass->hidden_linear = cut(cutter, rows * HIDDEN_WIDTH);
    pass->hidden = cut(cutter, rows * HIDDEN_WIDTH);
    if (pass->network->map_channels > 0) {
        cut_maps(pass, rows, with_backward, cutter);
    }
    if (with_backward) {
        pass->grad_hidden = cut(cutter, rows * HIDDEN_WIDTH);
        pass->grad_joined = cut(cutter, rows * (size_t)pass->network->joined);
        pass->grad_embed = cut(cutter, rows * EMBED_WIDTH);
        pass->grad_embed_part = cut(cutter, rows * EMBED_WIDTH);
    }
}

ga_status ga_network_pass_create(const ga_network *network, const ga_compute *compute, int32_t rows_max,
    bool with_backward, ga_network_pass **pass_out, ga_error *error) {
    if (rows_max < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a pass over %d rows", rows_max);
    }
    ga_network_pass *pass = calloc(1, sizeof *pass);
    if (pass == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a pass of the probe's network");
    }
    pass->network = network;
    pass->compute = compute;
    pass->rows_max = rows_max;
    room_cutter counter = {0};
    cut_all(pass, with_backward, &counter);
    room_cutter cutter = {.memory = malloc(counter.used_floats * sizeof(float))};
    if (cutter.memory == NULL) {
        free(pass);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the activations of %d rows (%zu floats)",
            rows_max, counter.used_floats);
    }
    pass->memory = cutter.memory;
    cut_all(pass, with_backward, &cutter);
    *pass_out = pass;
    return GA_OK;
}

void ga_network_pass_destroy(ga_network_pass **pass) {
    if (*pass != NULL) {
        free((*pass)->memory);
        free(*pass);
        *pass = NULL;
    }
}

/* ---- forward ---- */

static const float *at(const ga_network *network, const float *parameters, int32_t tensor) {
    return parameters + network->tensors[tensor].offset;
}

static float *grad_at(const ga_network *network, float *gradients, int32_t tensor) {
    return gradients + network->tensors[tensor].offset;
}

/* sin and cos of 2^k·ln σ/4: σ from .0001 to 20 spans about two turns of the slowest wave. */
static void make_waves(int32_t rows, const float *log_sigma, float *waves) {
    for (int32_t row = 0; row < rows; row++) {
        float frequency = 0.25f;
        for (int32_t k = 0; k < WAVES; k++, frequency *= 2.0f) {
            waves[row * 2 * WAVES + 2 * k] = sinf(frequency * log_sigma[row]);
            waves[row * 2 * WAVES + 2 * k + 1] = cosf(frequency * log_sigma[row]);
        }
    }
}

static ga_status embed_forward(
    ga_network_pass *pass, const float *parameters, const ga_network_input *input, ga_error *error) {
    const ga_network *network = pass->network;
    make_waves(input->rows, input->log_sigma, pass->waves);
    GA_TRY(pass->compute->linear_forward(input->rows, 2 * WAVES, EMBED_WIDTH, pass->waves,
        at(network, parameters, network->embed), at(network, parameters, network->embed + 1),
        pass->embed_linear, error));
    return pass->compute->silu_forward(
        (int64_t)input->rows * EMBED_WIDTH, pass->embed_linear, pass->embed, error);
}

static ga_status block_forward(ga_network_pass *pass, int32_t number, const float *parameters, int32_t rows,
    const float *input, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    const ga_network_block *block = &network->blocks[number];
    block_room *room = &pass->blocks[number];
    const ga_conv conv1 = conv_of(block, false, rows), conv2 = conv_of(block, true, rows),
                  skip = skip_of(block, rows);
    const ga_group_norm norm1 = norm_of(rows, block->in_channels, block->height, block->width);
    const ga_group_norm norm2 = norm_of(rows, block->out_channels, conv2.height, conv2.width);
    const int64_t inside = (int64_t)rows * block->in_channels * norm1.positions;
    const int64_t outside = (int64_t)rows * block->out_channels * norm2.positions;
    GA_TRY(compute->group_norm_forward(&norm1, input, at(network, parameters, block->norm1),
        at(network, parameters, block->norm1 + 1), room->normal1, room->mean1, room->rstd1, error));
    GA_TRY(compute->silu_forward(inside, room->normal1, room->active1, error));
    GA_TRY(compute->conv_forward(&conv1, room->active1, at(network, parameters, block->conv1),
        at(network, parameters, block->conv1 + 1), pass->workspace, room->middle, error));
    GA_TRY(compute->linear_forward(rows, EMBED_WIDTH, block->out_channels, pass->embed,
        at(network, parameters, block->sigma), at(network, parameters, block->sigma + 1), room->shift,
        error));
    GA_TRY(compute->channel_shift_forward(
        rows, block->out_channels, norm2.positions, room->shift, room->middle, error));
    GA_TRY(compute->group_norm_forward(&norm2, room->middle, at(network, parameters, block->norm2),
        at(network, parameters, block->norm2 + 1), room->normal2, room->mean2, room->rstd2, error));
    GA_TRY(compute->silu_forward(outside, room->normal2, room->active2, error));
    GA_TRY(compute->conv_forward(&conv2, room->active2, at(network, parameters, block->conv2),
        at(network, parameters, block->conv2 + 1), pass->workspace, room->output, error));
    GA_TRY(compute->conv_forward(&skip, input, at(network, parameters, block->skip),
        at(network, parameters, block->skip + 1), pass->workspace, room->skipped, error));
    return compute->accumulate(outside, 1.0f, room->skipped, room->output, error);
}

static ga_status maps_forward(
    ga_network_pass *pass, const float *parameters, const ga_network_input *input, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    const ga_conv stem = stem_of(network, input->rows);
    GA_TRY(compute->conv_forward(&stem, input->maps, at(network, parameters, network->stem),
        at(network, parameters, network->stem + 1), pass->workspace, pass->stem, error));
    const float *values = pass->stem;
    for (int32_t i = 0; i < network->block_count; i++) {
        GA_TRY(block_forward(pass, i, parameters, input->rows, values, error));
        values = pass->blocks[i].output;
    }
    const ga_group_norm norm =
        norm_of(input->rows, network->last_channels, network->last_height, network->last_width);
    const int64_t count = (int64_t)input->rows * norm.channels * norm.positions;
    GA_TRY(compute->group_norm_forward(&norm, values, at(network, parameters, network->norm),
        at(network, parameters, network->norm + 1), pass->normal, pass->mean, pass->rstd, error));
    GA_TRY(compute->silu_forward(count, pass->normal, pass->active, error));
    return compute->mean_pool_forward(
        input->rows, norm.channels, norm.positions, pass->active, pass->pooled, error);
}

/* joined = [pooled | scalars | embedding] */
static void join(ga_network_pass *pass, const ga_network_input *input) {
    const ga_network *network = pass->network;
    const size_t channels = (size_t)network->last_channels;
    const size_t scalars = (size_t)network->scalars;
    for (int32_t row = 0; row < input->rows; row++) {
        float *line = pass->joined + (size_t)row * (size_t)network->joined;
        if (channels > 0) {
            memcpy(line, pass->pooled + (size_t)row * channels, channels * sizeof *line);
        }
        if (scalars > 0) {
            memcpy(line + channels, input->scalars + (size_t)row * scalars, scalars * sizeof *line);
        }
        memcpy(
            line + channels + scalars, pass->embed + (size_t)row * EMBED_WIDTH, EMBED_WIDTH * sizeof *line);
    }
}

ga_status ga_network_forward(ga_network_pass *pass, const float *parameters, const ga_network_input *input,
    float *output, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    if (input->rows < 0 || input->rows > pass->rows_max) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "%d rows in a pass that has room for %d", input->rows, pass->rows_max);
    }
    GA_TRY(embed_forward(pass, parameters, input, error));
    if (network->map_channels > 0) {
        GA_TRY(maps_forward(pass, parameters, input, error));
    }
    join(pass, input);
    GA_TRY(compute->linear_forward(input->rows, network->joined, HIDDEN_WIDTH, pass->joined,
        at(network, parameters, network->hidden), at(network, parameters, network->hidden + 1),
        pass->hidden_linear, error));
    GA_TRY(
        compute->silu_forward((int64_t)input->rows * HIDDEN_WIDTH, pass->hidden_linear, pass->hidden, error));
    return compute->linear_forward(input->rows, HIDDEN_WIDTH, 1, pass->hidden,
        at(network, parameters, network->last), at(network, parameters, network->last + 1), output, error);
}

/* ---- backward ---- */

static ga_status head_backward(ga_network_pass *pass, const float *parameters, int32_t rows,
    const float *grad_output, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    GA_TRY(compute->linear_backward(rows, HIDDEN_WIDTH, 1, pass->hidden,
        at(network, parameters, network->last), grad_output, grad_at(network, gradients, network->last),
        grad_at(network, gradients, network->last + 1), pass->grad_hidden, error));
    GA_TRY(compute->silu_backward(
        (int64_t)rows * HIDDEN_WIDTH, pass->hidden_linear, pass->grad_hidden, pass->grad_hidden, error));
    return compute->linear_backward(rows, network->joined, HIDDEN_WIDTH, pass->joined,
        at(network, parameters, network->hidden), pass->grad_hidden,
        grad_at(network, gradients, network->hidden), grad_at(network, gradients, network->hidden + 1),
        pass->grad_joined, error);
}

/* grad_joined → grad_pooled and grad_embed; the scalars are inputs and need none. */
static void unjoin(ga_network_pass *pass, int32_t rows) {
    const ga_network *network = pass->network;
    const size_t channels = (size_t)network->last_channels;
    for (int32_t row = 0; row < rows; row++) {
        const float *line = pass->grad_joined + (size_t)row * (size_t)network->joined;
        if (channels > 0) {
            memcpy(pass->grad_pooled + (size_t)row * channels, line, channels * sizeof *line);
        }
        memcpy(pass->grad_embed + (size_t)row * EMBED_WIDTH, line + channels + (size_t)network->scalars,
            EMBED_WIDTH * sizeof *line);
    }
}

/* The shift of a block by σ: from grad_c, the gradient of `middle`, to its weights and to grad_embed. */
static ga_status shift_backward(ga_network_pass *pass, const ga_network_block *block, const float *parameters,
    int32_t rows, int32_t positions, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    GA_TRY(compute->channel_shift_backward(
        rows, block->out_channels, positions, pass->grad_c, pass->grad_shift, error));
    GA_TRY(compute->linear_backward(rows, EMBED_WIDTH, block->out_channels, pass->embed,
        at(network, parameters, block->sigma), pass->grad_shift, grad_at(network, gradients, block->sigma),
        grad_at(network, gradients, block->sigma + 1), pass->grad_embed_part, error));
    return compute->accumulate(
        (int64_t)rows * EMBED_WIDTH, 1.0f, pass->grad_embed_part, pass->grad_embed, error);
}

/* grad_a: gradient of the block's output on entry, of its input on return. */
static ga_status block_backward(ga_network_pass *pass, int32_t number, const float *parameters, int32_t rows,
    const float *input, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    const ga_network_block *block = &network->blocks[number];
    const block_room *room = &pass->blocks[number];
    const ga_conv conv1 = conv_of(block, false, rows), conv2 = conv_of(block, true, rows),
                  skip = skip_of(block, rows);
    const ga_group_norm norm1 = norm_of(rows, block->in_channels, block->height, block->width);
    const ga_group_norm norm2 = norm_of(rows, block->out_channels, conv2.height, conv2.width);
    const int64_t inside = (int64_t)rows * block->in_channels * norm1.positions;
    const int64_t outside = (int64_t)rows * block->out_channels * norm2.positions;
    GA_TRY(compute->conv_backward(&conv2, room->active2, at(network, parameters, block->conv2), pass->grad_a,
        pass->workspace, grad_at(network, gradients, block->conv2),
        grad_at(network, gradients, block->conv2 + 1), pass->grad_b, error));
    GA_TRY(compute->silu_backward(outside, room->normal2, pass->grad_b, pass->grad_b, error));
    GA_TRY(compute->group_norm_backward(&norm2, room->middle, at(network, parameters, block->norm2),
        room->mean2, room->rstd2, pass->grad_b, grad_at(network, gradients, block->norm2),
        grad_at(network, gradients, block->norm2 + 1), pass->grad_c, error));
    GA_TRY(shift_backward(pass, block, parameters, rows, norm2.positions, gradients, error));
    GA_TRY(compute->conv_backward(&conv1, room->active1, at(network, parameters, block->conv1), pass->grad_c,
        pass->workspace, grad_at(network, gradients, block->conv1),
        grad_at(network, gradients, block->conv1 + 1), pass->grad_b, error));
    GA_TRY(compute->silu_backward(inside, room->normal1, pass->grad_b, pass->grad_b, error));
    GA_TRY(compute->group_norm_backward(&norm1, input, at(network, parameters, block->norm1), room->mean1,
        room->rstd1, pass->grad_b, grad_at(network, gradients, block->norm1),
        grad_at(network, gradients, block->norm1 + 1), pass->grad_c, error));
    GA_TRY(compute->conv_backward(&skip, input, at(network, parameters, block->skip), pass->grad_a,
        pass->workspace, grad_at(network, gradients, block->skip),
        grad_at(network, gradients, block->skip + 1), pass->grad_b, error));
    GA_TRY(compute->accumulate(inside, 1.0f, pass->grad_b, pass->grad_c, error));
    float *input_gradient = pass->grad_c;
    pass->grad_c = pass->grad_a;
    pass->grad_a = input_gradient;
    return GA_OK;
}

static ga_status maps_backward(ga_network_pass *pass, const float *parameters, const ga_network_input *input,
    float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    const int32_t rows = input->rows;
    const ga_group_norm norm =
        norm_of(rows, network->last_channels, network->last_height, network->last_width);
    const int64_t count = (int64_t)rows * norm.channels * norm.positions;
    const float *values =
        network->block_count > 0 ? pass->blocks[network->block_count - 1].output : pass->stem;
    GA_TRY(compute->mean_pool_backward(
        rows, norm.channels, norm.positions, pass->grad_pooled, pass->grad_b, error));
    GA_TRY(compute->silu_backward(count, pass->normal, pass->grad_b, pass->grad_b, error));
    GA_TRY(compute->group_norm_backward(&norm, values, at(network, parameters, network->norm), pass->mean,
        pass->rstd, pass->grad_b, grad_at(network, gradients, network->norm),
        grad_at(network, gradients, network->norm + 1), pass->grad_a, error));
    for (int32_t i = network->block_count - 1; i >= 0; i--) {
        const float *before = i > 0 ? pass->blocks[i - 1].output : pass->stem;
        GA_TRY(block_backward(pass, i, parameters, rows, before, gradients, error));
    }
    const ga_conv stem = stem_of(network, rows);
    return compute->conv_backward(&stem, input->maps, at(network, parameters, network->stem), pass->grad_a,
        pass->workspace, grad_at(network, gradients, network->stem),
        grad_at(network, gradients, network->stem + 1), NULL, error);
}

ga_status ga_network_backward(ga_network_pass *pass, const float *parameters, const ga_network_input *input,
    const float *grad_output, float *grad_parameters, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    GA_REQUIRE(error, pass->grad_joined != NULL); /* the pass was made for both directions */
    GA_TRY(head_backward(pass, parameters, input->rows, grad_output, grad_parameters, error));
    unjoin(pass, input->rows);
    if (network->map_channels > 0) {
        GA_TRY(maps_backward(pass, parameters, input, grad_parameters, error));
    }
    GA_TRY(compute->silu_backward(
        (int64_t)input->rows * EMBED_WIDTH, pass->embed_linear, pass->grad_embed, pass->grad_embed, error));
    return compute->linear_backward(input->rows, 2 * WAVES, EMBED_WIDTH, pass->waves,
        at(network, parameters, network->embed), pass->grad_embed,
        grad_at(network, grad_parameters, network->embed),
        grad_at(network, grad_parameters, network->embed + 1), NULL, error);
}
