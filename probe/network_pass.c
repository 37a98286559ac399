#include "probe/network_pass.h"

#include <stdlib.h>

ga_conv ga_network_stem_conv(const ga_network *network, int32_t rows) {
    const ga_conv conv = {.rows = rows,
        .in_channels = network->shape.map_channels,
        .out_channels = network->options.channels[0],
        .height = network->shape.height,
        .width = network->shape.width,
        .kernel = 3,
        .stride = 1};
    return conv;
}

ga_conv ga_network_first_conv(const ga_network_block *block, int32_t rows) {
    const ga_conv conv = {.rows = rows,
        .in_channels = block->in_channels,
        .out_channels = block->out_channels,
        .height = block->first.height,
        .width = block->first.width,
        .kernel = 3,
        .stride = block->stride};
    return conv;
}

ga_conv ga_network_second_conv(const ga_network_block *block, int32_t rows) {
    const ga_conv conv = {.rows = rows,
        .in_channels = block->out_channels,
        .out_channels = block->out_channels,
        .height = block->second.height,
        .width = block->second.width,
        .kernel = 3,
        .stride = 1};
    return conv;
}

ga_conv ga_network_skip_conv(const ga_network_block *block, int32_t rows) {
    ga_conv conv = ga_network_first_conv(block, rows);
    conv.kernel = 1;
    return conv;
}

ga_group_norm ga_network_group_norm(const ga_network_norm *norm, int32_t rows) {
    const ga_group_norm group_norm = {.rows = rows,
        .channels = norm->channels,
        .groups = norm->groups,
        .positions = norm->height * norm->width,
        .epsilon = GA_NETWORK_NORM_EPSILON};
    return group_norm;
}

/* ---- room ---- */

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

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t norm_floats(const ga_network_norm *norm, size_t rows) {
    return rows * (size_t)norm->channels * (size_t)norm->height * (size_t)norm->width;
}

static void cut_norm(const ga_network_norm *norm, size_t rows, room_cutter *cutter, ga_norm_room *room) {
    const size_t floats = norm_floats(norm, rows), groups = rows * (size_t)norm->groups;
    room->normal = cut(cutter, floats);
    room->modulated = norm->film >= 0 ? cut(cutter, floats) : room->normal;
    room->active = cut(cutter, floats);
    room->mean = cut(cutter, groups);
    room->rstd = cut(cutter, groups);
    if (norm->film >= 0) {
        room->scale = cut(cutter, rows * (size_t)norm->channels);
        room->shift = cut(cutter, rows * (size_t)norm->channels);
    }
}

static void cut_block(const ga_network_block *block, size_t rows, room_cutter *cutter, ga_block_room *room) {
    cut_norm(&block->first, rows, cutter, &room->first);
    cut_norm(&block->second, rows, cutter, &room->second);
    room->middle = cut(cutter, norm_floats(&block->second, rows));
    room->output = cut(cutter, norm_floats(&block->second, rows));
    if (block->sigma >= 0) {
        room->sigma = cut(cutter, rows * (size_t)block->out_channels);
    }
}

static size_t workspace_floats(const ga_network *network, const ga_compute *compute, int32_t rows) {
    const ga_conv stem = ga_network_stem_conv(network, rows);
    size_t floats = compute->conv_workspace_floats(&stem);
    for (int32_t i = 0; i < network->block_count; i++) {
        const ga_network_block *block = &network->blocks[i];
        const ga_conv convs[3] = {ga_network_first_conv(block, rows), ga_network_second_conv(block, rows),
            ga_network_skip_conv(block, rows)};
        for (int32_t k = 0; k < 3; k++) {
            floats = max_size(floats, compute->conv_workspace_floats(&convs[k]));
        }
    }
    return floats;
}

/* The largest activation: what a scratch buffer must hold. */
static size_t largest_floats(const ga_network *network, size_t rows) {
    size_t floats = norm_floats(&network->norm, rows);
    for (int32_t i = 0; i < network->block_count; i++) {
        floats = max_size(floats, norm_floats(&network->blocks[i].first, rows));
        floats = max_size(floats, norm_floats(&network->blocks[i].second, rows));
    }
    return floats;
}

static size_t widest_channels(const ga_network *network) {
    size_t channels = max_size((size_t)network->norm.channels, (size_t)network->trunk.channels);
    for (int32_t i = 0; i < network->block_count; i++) {
        channels = max_size(channels, (size_t)network->blocks[i].in_channels);
        channels = max_size(channels, (size_t)network->blocks[i].out_channels);
    }
    return channels;
}

static void cut_trunk(
    ga_network_pass *pass, size_t rows, size_t pictures, bool with_backward, room_cutter *cutter) {
    const ga_network *network = pass->network;
    if (!network->shares_pictures) {
        return;
    }
    const size_t width = (size_t)network->trunk.channels;
    pass->ones = cut(cutter, pictures);
    pass->select = cut(cutter, rows * pictures);
    pass->trunk_linear = cut(cutter, pictures * width);
    cut_norm(&network->trunk, rows, cutter, &pass->trunk);
    if (with_backward) {
        pass->grad_trunk = cut(cutter, rows * width);
        pass->grad_trunk_linear = cut(cutter, pictures * width);
    }
}

/* rows: of pictures. */
static void cut_maps(ga_network_pass *pass, size_t rows, bool with_backward, room_cutter *cutter) {
    const ga_network *network = pass->network;
    const ga_network_shape *shape = &network->shape;
    const size_t positions = (size_t)shape->height * (size_t)shape->width;
    pass->maps = cut(cutter, rows * (size_t)shape->map_channels * positions);
    pass->stem = cut(cutter, rows * (size_t)network->options.channels[0] * positions);
    for (int32_t i = 0; i < network->block_count; i++) {
        cut_block(&network->blocks[i], rows, cutter, &pass->blocks[i]);
    }
    cut_norm(&network->norm, rows, cutter, &pass->norm);
    pass->pooled = cut(cutter, rows * (size_t)network->norm.channels);
    pass->skipped = cut(cutter, largest_floats(network, rows));
    pass->workspace = cut(cutter, workspace_floats(network, pass->compute, pass->pictures_max));
    if (with_backward) {
        pass->grad_a = cut(cutter, largest_floats(network, rows));
        pass->grad_b = cut(cutter, largest_floats(network, rows));
        pass->grad_c = cut(cutter, largest_floats(network, rows));
        pass->grad_pooled = cut(cutter, rows * (size_t)network->norm.channels);
    }
}

static void cut_condition(ga_network_pass *pass, size_t rows, bool with_backward, room_cutter *cutter) {
    const ga_network *network = pass->network;
    const size_t width = rows * (size_t)network->options.condition_width;
    pass->waves = cut(cutter, rows * GA_NETWORK_WAVE_VALUES);
    pass->embed_linear = cut(cutter, width);
    pass->embed = cut(cutter, width);
    pass->condition = pass->embed;
    if (network->prompt >= 0) {
        pass->prompt = cut(cutter, rows * (size_t)network->shape.prompt);
        pass->prompt_linear = cut(cutter, width);
        pass->prompt_embed = cut(cutter, width);
        pass->condition = cut(cutter, rows * (size_t)network->condition);
    }
    pass->film = cut(cutter, rows * (size_t)network->film_columns);
    if (with_backward) {
        pass->grad_condition = cut(cutter, rows * (size_t)network->condition);
        pass->grad_part = cut(cutter, rows * (size_t)network->condition);
        pass->grad_embed = cut(cutter, width);
        pass->grad_film = cut(cutter, rows * (size_t)network->film_columns);
    }
}

static void cut_all(ga_network_pass *pass, bool with_backward, room_cutter *cutter) {
    const ga_network *network = pass->network;
    const size_t rows = (size_t)pass->rows_max;
    cut_condition(pass, rows, with_backward, cutter);
    if (network->shape.map_channels > 0) {
        cut_maps(pass, (size_t)pass->pictures_max, with_backward, cutter);
        cut_trunk(pass, rows, (size_t)pass->pictures_max, with_backward, cutter);
    }
    if (with_backward) {
        pass->grad_channels = cut(cutter, rows * widest_channels(network));
    }
    pass->joined = pass->pooled;
    if (network->hidden >= 0) {
        pass->scalars = cut(cutter, rows * (size_t)network->shape.scalars);
        pass->joined = cut(cutter, rows * (size_t)network->joined);
        pass->hidden_linear = cut(cutter, rows * (size_t)network->options.hidden);
        pass->hidden = cut(cutter, rows * (size_t)network->options.hidden);
    }
    pass->output = cut(cutter, rows * (size_t)network->outputs);
    if (with_backward) {
        pass->grad_output = cut(cutter, rows * (size_t)network->outputs);
        pass->grad_hidden = cut(cutter, rows * (size_t)network->options.hidden);
        pass->grad_joined = cut(cutter, rows * (size_t)network->joined);
    }
}

/* What the host brings beside the inputs. */
static ga_status create_host(ga_network_pass *pass, ga_error *error) {
    const size_t rows = (size_t)pass->rows_max, pictures = (size_t)pass->pictures_max;
    pass->waves_host = malloc(rows * GA_NETWORK_WAVE_VALUES * sizeof(float));
    if (pass->network->shares_pictures) {
        pass->select_host = calloc(rows * pictures, sizeof(float));
    }
    return pass->waves_host != NULL && (pass->select_host != NULL || !pass->network->shares_pictures)
               ? GA_OK
               : GA_FAIL(error, GA_ERR_MEMORY, "no memory for a pass of %d rows", pass->rows_max);
}

static ga_status create_device(ga_network_pass *pass, bool with_backward, ga_error *error) {
    room_cutter counter = {0};
    cut_all(pass, with_backward, &counter);
    room_cutter cutter = {0};
    if (pass->compute->allocate(counter.used_floats, &cutter.memory, error) != GA_OK) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the activations of %d rows (%zu floats)",
            pass->rows_max, counter.used_floats);
    }
    pass->memory = cutter.memory;
    cut_all(pass, with_backward, &cutter);
    if (!pass->network->shares_pictures) {
        return GA_OK;
    }
    for (int32_t i = 0; i < pass->pictures_max; i++) {
        pass->select_host[i] = 1.0f;
    }
    return pass->compute->upload((size_t)pass->pictures_max, pass->select_host, pass->ones, error);
}

ga_status ga_network_pass_create(const ga_network *network, const ga_compute *compute, int32_t rows_max,
    int32_t pictures_max, bool with_backward, ga_network_pass **pass_out, ga_error *error) {
    const bool fits = network->shares_pictures ? pictures_max <= rows_max : pictures_max == rows_max;
    if (rows_max < 1 || pictures_max < 1 || !fits) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a pass over %d rows of %d pictures", rows_max, pictures_max);
    }
    ga_network_pass *pass = calloc(1, sizeof *pass);
    if (pass == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a pass of the probe's network");
    }
    pass->network = network;
    pass->compute = compute;
    pass->rows_max = rows_max;
    pass->pictures_max = pictures_max;
    ga_status status = create_host(pass, error);
    if (status == GA_OK) {
        status = create_device(pass, with_backward, error);
    }
    if (status != GA_OK) {
        ga_network_pass_destroy(&pass);
        return status;
    }
    *pass_out = pass;
    return GA_OK;
}

void ga_network_pass_destroy(ga_network_pass **pass) {
    if (*pass != NULL) {
        (*pass)->compute->release((*pass)->memory);
        free((*pass)->waves_host);
        free((*pass)->select_host);
        free(*pass);
        *pass = NULL;
    }
}
