#include <math.h>
#include <string.h>

#include "probe/network_pass.h"

/* sin and cos of 2^k·ln σ/4: σ from .0001 to 20 spans about two turns of the slowest wave. */
static void make_waves(int32_t rows, const float *log_sigma, float *waves) {
    for (int32_t row = 0; row < rows; row++) {
        float frequency = 0.25f;
        for (int32_t k = 0; k < GA_NETWORK_WAVES; k++, frequency *= 2.0f) {
            waves[row * GA_NETWORK_WAVE_VALUES + 2 * k] = sinf(frequency * log_sigma[row]);
            waves[row * GA_NETWORK_WAVE_VALUES + 2 * k + 1] = cosf(frequency * log_sigma[row]);
        }
    }
}

/* Which row shows which picture, as a matrix of ones and zeros: products with it spread and gather. */
static ga_status choose_pictures(ga_network_pass *pass, const ga_network_input *input, ga_error *error) {
    const size_t pictures = (size_t)pass->pictures;
    pass->selects = pass->network->shares_pictures && input->picture != NULL;
    if (!pass->selects) {
        return GA_OK;
    }
    memset(pass->select_host, 0, (size_t)pass->rows * pictures * sizeof(float));
    for (int32_t row = 0; row < pass->rows; row++) {
        if (input->picture[row] < 0 || input->picture[row] >= pass->pictures) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "row %d shows picture %d of %d", row, input->picture[row],
                pass->pictures);
        }
        pass->select_host[(size_t)row * pictures + (size_t)input->picture[row]] = 1.0f;
    }
    return pass->compute->upload((size_t)pass->rows * pictures, pass->select_host, pass->select, error);
}

static ga_status upload(ga_network_pass *pass, const ga_network_input *input, ga_error *error) {
    const ga_compute *compute = pass->compute;
    const ga_network_shape *shape = &pass->network->shape;
    const size_t rows = (size_t)input->rows;
    make_waves(input->rows, input->log_sigma, pass->waves_host);
    GA_TRY(compute->upload(rows * GA_NETWORK_WAVE_VALUES, pass->waves_host, pass->waves, error));
    if (shape->map_channels > 0) {
        const size_t map = (size_t)shape->map_channels * (size_t)shape->height * (size_t)shape->width;
        GA_TRY(compute->upload((size_t)pass->pictures * map, input->maps, pass->maps, error));
    }
    if (shape->scalars > 0) {
        GA_TRY(compute->upload(rows * (size_t)shape->scalars, input->scalars, pass->scalars, error));
    }
    if (shape->prompt > 0) {
        GA_TRY(compute->upload(rows * (size_t)shape->prompt, input->prompt, pass->prompt, error));
    }
    return GA_OK;
}

static ga_status linear(ga_network_pass *pass, const float *parameters, int32_t tensor, int32_t inputs,
    int32_t outputs, const float *input, float *output, ga_error *error) {
    return pass->compute->linear_forward(pass->rows, inputs, outputs, input,
        ga_network_at(pass->network, parameters, tensor),
        ga_network_at(pass->network, parameters, tensor + 1), output, error);
}

/* Columns [rows, count] of `source` into columns `at` … of a target of `width` columns. */
static ga_status put_columns(ga_network_pass *pass, int32_t count, const float *source, int32_t width,
    int32_t at, float *target, ga_error *error) {
    return pass->compute->copy_columns(pass->rows, count, count, source, width, target + at, error);
}

/* The condition c, and the modulation that it asks for. */
static ga_status condition_forward(ga_network_pass *pass, const float *parameters, ga_error *error) {
    const ga_network *network = pass->network;
    const int32_t width = network->options.condition_width;
    const int64_t count = (int64_t)pass->rows * width;
    GA_TRY(linear(pass, parameters, network->embed, GA_NETWORK_WAVE_VALUES, width, pass->waves,
        pass->embed_linear, error));
    GA_TRY(pass->compute->silu_forward(count, pass->embed_linear, pass->embed, error));
    if (network->prompt >= 0) {
        GA_TRY(linear(pass, parameters, network->prompt, network->shape.prompt, width, pass->prompt,
            pass->prompt_linear, error));
        GA_TRY(pass->compute->silu_forward(count, pass->prompt_linear, pass->prompt_embed, error));
        GA_TRY(put_columns(pass, width, pass->embed, 2 * width, 0, pass->condition, error));
        GA_TRY(put_columns(pass, width, pass->prompt_embed, 2 * width, width, pass->condition, error));
    }
    if (network->film < 0) {
        return GA_OK;
    }
    return linear(pass, parameters, network->film, network->condition, network->film_columns, pass->condition,
        pass->film, error);
}

/* room->modulated = normal · (1 + scale(c)) + shift(c) */
static ga_status modulate(
    ga_network_pass *pass, const ga_network_norm *norm, ga_norm_room *room, ga_error *error) {
    const ga_compute *compute = pass->compute;
    const int32_t rows = pass->rows, channels = norm->channels, positions = norm->height * norm->width;
    const int32_t columns = pass->network->film_columns;
    const float *film = pass->film + norm->film;
    GA_TRY(compute->copy_columns(rows, channels, columns, film, channels, room->scale, error));
    GA_TRY(compute->copy_columns(rows, channels, columns, film + channels, channels, room->shift, error));
    GA_TRY(compute->copy_columns(rows, channels * positions, channels * positions, room->normal,
        channels * positions, room->modulated, error));
    GA_TRY(compute->channel_scale_forward(rows, channels, positions, room->scale, room->modulated, error));
    return compute->channel_shift_forward(rows, channels, positions, room->shift, room->modulated, error);
}

static ga_status norm_forward(ga_network_pass *pass, const ga_network_norm *norm, ga_norm_room *room,
    const float *parameters, const float *input, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_group_norm group_norm = ga_network_group_norm(norm, pass->pictures);
    GA_TRY(
        pass->compute->group_norm_forward(&group_norm, input, ga_network_at(network, parameters, norm->norm),
            ga_network_at(network, parameters, norm->norm + 1), room->normal, room->mean, room->rstd, error));
    if (norm->film >= 0) {
        GA_TRY(modulate(pass, norm, room, error));
    }
    return pass->compute->silu_forward(
        ga_network_norm_values(norm, pass->pictures), room->modulated, room->active, error);
}

static ga_status convolve(ga_network_pass *pass, const ga_conv *conv, const float *parameters, int32_t tensor,
    const float *input, float *output, ga_error *error) {
    const ga_network *network = pass->network;
    return pass->compute->conv_forward(conv, input, ga_network_at(network, parameters, tensor),
        ga_network_at(network, parameters, tensor + 1), pass->workspace, output, error);
}

/* What σ adds to every position of the block's middle. */
static ga_status add_sigma(ga_network_pass *pass, const ga_network_block *block, ga_block_room *room,
    const float *parameters, ga_error *error) {
    GA_TRY(linear(pass, parameters, block->sigma, pass->network->options.condition_width, block->out_channels,
        pass->embed, room->sigma, error));
    return pass->compute->channel_shift_forward(pass->pictures, block->out_channels,
        block->second.height * block->second.width, room->sigma, room->middle, error);
}

static ga_status block_forward(
    ga_network_pass *pass, int32_t number, const float *parameters, const float *input, ga_error *error) {
    const ga_network_block *block = &pass->network->blocks[number];
    ga_block_room *room = &pass->blocks[number];
    const ga_conv conv1 = ga_network_first_conv(block, pass->pictures),
                  conv2 = ga_network_second_conv(block, pass->pictures),
                  skip = ga_network_skip_conv(block, pass->pictures);
    GA_TRY(norm_forward(pass, &block->first, &room->first, parameters, input, error));
    GA_TRY(convolve(pass, &conv1, parameters, block->conv1, room->first.active, room->middle, error));
    if (block->sigma >= 0) {
        GA_TRY(add_sigma(pass, block, room, parameters, error));
    }
    GA_TRY(norm_forward(pass, &block->second, &room->second, parameters, room->middle, error));
    GA_TRY(convolve(pass, &conv2, parameters, block->conv2, room->second.active, room->output, error));
    const float *skipped = input;
    if (block->skip >= 0) {
        GA_TRY(convolve(pass, &skip, parameters, block->skip, input, pass->skipped, error));
        skipped = pass->skipped;
    }
    return pass->compute->accumulate(
        ga_network_norm_values(&block->second, pass->pictures), 1.0f, skipped, room->output, error);
}

/* The learned values of each place, to every picture's stem. */
static ga_status add_place(ga_network_pass *pass, const float *parameters, ga_error *error) {
    const ga_network *network = pass->network;
    if (network->place < 0) {
        return GA_OK;
    }
    const int32_t count = (int32_t)network->tensors[network->place].count;
    const ga_gemm product = {.m = pass->pictures,
        .n = count,
        .k = 1,
        .lda = 1,
        .ldb = count,
        .ldc = count,
        .alpha = 1.0f,
        .beta = 1.0f};
    return pass->compute->sgemm(
        &product, pass->ones, ga_network_at(network, parameters, network->place), pass->stem, error);
}

static ga_status maps_forward(ga_network_pass *pass, const float *parameters, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_network_norm *norm = &network->norm;
    const ga_conv stem = ga_network_stem_conv(network, pass->pictures);
    GA_TRY(convolve(pass, &stem, parameters, network->stem, pass->maps, pass->stem, error));
    GA_TRY(add_place(pass, parameters, error));
    const float *values = pass->stem;
    for (int32_t i = 0; i < network->block_count; i++) {
        GA_TRY(block_forward(pass, i, parameters, values, error));
        values = pass->blocks[i].output;
    }
    GA_TRY(norm_forward(pass, norm, &pass->norm, parameters, values, error));
    return pass->compute->mean_pool_forward(
        pass->pictures, norm->channels, norm->height * norm->width, pass->norm.active, pass->pooled, error);
}

/* From the pictures' pooled vectors to each row's, modulated by its condition. */
static ga_status trunk_forward(ga_network_pass *pass, const float *parameters, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    const int32_t width = network->trunk.channels;
    GA_TRY(compute->linear_forward(pass->pictures, network->norm.channels, width, pass->pooled,
        ga_network_at(network, parameters, network->trunk.norm),
        ga_network_at(network, parameters, network->trunk.norm + 1), pass->trunk_linear, error));
    if (pass->selects) {
        const ga_gemm spread = {.m = pass->rows,
            .n = width,
            .k = pass->pictures,
            .lda = pass->pictures,
            .ldb = width,
            .ldc = width,
            .alpha = 1.0f};
        GA_TRY(compute->sgemm(&spread, pass->select, pass->trunk_linear, pass->trunk.normal, error));
    } else {
        GA_TRY(compute->copy_columns(
            pass->rows, width, width, pass->trunk_linear, width, pass->trunk.normal, error));
    }
    GA_TRY(modulate(pass, &network->trunk, &pass->trunk, error));
    return compute->silu_forward(
        (int64_t)pass->rows * width, pass->trunk.modulated, pass->trunk.active, error);
}

/* joined = [pooled, or the trunk's vector | scalars | c] */
static ga_status join(ga_network_pass *pass, ga_error *error) {
    const ga_network *network = pass->network;
    const int32_t channels = network->shares_pictures ? network->trunk.channels : network->norm.channels;
    const int32_t scalars = network->shape.scalars;
    const float *seen = network->shares_pictures ? pass->trunk.active : pass->pooled;
    if (channels > 0) {
        GA_TRY(put_columns(pass, channels, seen, network->joined, 0, pass->joined, error));
    }
    if (scalars > 0) {
        GA_TRY(put_columns(pass, scalars, pass->scalars, network->joined, channels, pass->joined, error));
    }
    return put_columns(
        pass, network->condition, pass->condition, network->joined, channels + scalars, pass->joined, error);
}

static ga_status head_forward(ga_network_pass *pass, const float *parameters, ga_error *error) {
    const ga_network *network = pass->network;
    const int32_t hidden = network->options.hidden;
    if (network->hidden < 0) {
        return linear(pass, parameters, network->last, network->joined, network->outputs, pass->joined,
            pass->output, error);
    }
    GA_TRY(join(pass, error));
    GA_TRY(linear(pass, parameters, network->hidden, network->joined, hidden, pass->joined,
        pass->hidden_linear, error));
    GA_TRY(
        pass->compute->silu_forward((int64_t)pass->rows * hidden, pass->hidden_linear, pass->hidden, error));
    return linear(
        pass, parameters, network->last, hidden, network->outputs, pass->hidden, pass->output, error);
}

ga_status ga_network_forward(ga_network_pass *pass, const float *parameters, const ga_network_input *input,
    float *output, ga_error *error) {
    const ga_network *network = pass->network;
    const int32_t pictures =
        network->shares_pictures && input->picture != NULL ? input->pictures : input->rows;
    if (input->rows < 0 || input->rows > pass->rows_max || pictures < 0 || pictures > pass->pictures_max) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%d rows of %d pictures in a pass that has room for %d of %d",
            input->rows, pictures, pass->rows_max, pass->pictures_max);
    }
    pass->rows = input->rows;
    pass->pictures = pictures;
    if (input->rows == 0) {
        return GA_OK;
    }
    GA_TRY(choose_pictures(pass, input, error));
    GA_TRY(upload(pass, input, error));
    GA_TRY(condition_forward(pass, parameters, error));
    if (network->shape.map_channels > 0) {
        GA_TRY(maps_forward(pass, parameters, error));
    }
    if (network->shares_pictures) {
        GA_TRY(trunk_forward(pass, parameters, error));
    }
    GA_TRY(head_forward(pass, parameters, error));
    return pass->compute->download(
        (size_t)pass->rows * (size_t)network->outputs, pass->output, output, error);
}
