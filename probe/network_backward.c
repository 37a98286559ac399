#include "grpo_accel/base/check.h"
#include "probe/network_pass.h"

/* Adds to the gradients of weight and bias; grad_input may be NULL. */
static ga_status linear_back(ga_network_pass *pass, const float *parameters, int32_t tensor, int32_t inputs,
    int32_t outputs, const float *input, const float *grad_output, float *gradients, float *grad_input,
    ga_error *error) {
    const ga_network *network = pass->network;
    return pass->compute->linear_backward(pass->rows, inputs, outputs, input,
        ga_network_at(network, parameters, tensor), grad_output,
        ga_network_grad_at(network, gradients, tensor), ga_network_grad_at(network, gradients, tensor + 1),
        grad_input, error);
}

static ga_status convolve_back(ga_network_pass *pass, const ga_conv *conv, const float *parameters,
    int32_t tensor, const float *input, const float *grad_output, float *gradients, float *grad_input,
    ga_error *error) {
    const ga_network *network = pass->network;
    return pass->compute->conv_backward(conv, input, ga_network_at(network, parameters, tensor), grad_output,
        pass->workspace, ga_network_grad_at(network, gradients, tensor),
        ga_network_grad_at(network, gradients, tensor + 1), grad_input, error);
}

/* `grad` [rows, channels, positions] of the modulated values becomes that of the normal ones; the gradients
 * of scale and shift go to their columns of grad_film. */
static ga_status modulate_back(ga_network_pass *pass, const ga_network_norm *norm, const ga_norm_room *room,
    float *grad, ga_error *error) {
    const ga_compute *compute = pass->compute;
    const int32_t rows = pass->rows, channels = norm->channels, positions = norm->height * norm->width;
    const int32_t columns = pass->network->film_columns;
    float *grad_film = pass->grad_film + norm->film;
    GA_TRY(compute->channel_shift_backward(rows, channels, positions, grad, pass->grad_channels, error));
    GA_TRY(compute->copy_columns(
        rows, channels, channels, pass->grad_channels, columns, grad_film + channels, error));
    GA_TRY(compute->channel_scale_backward(
        rows, channels, positions, room->scale, room->normal, grad, pass->grad_channels, error));
    return compute->copy_columns(rows, channels, channels, pass->grad_channels, columns, grad_film, error);
}

/* From `grad` of the active values (which is spent) to grad_input. */
static ga_status norm_back(ga_network_pass *pass, const ga_network_norm *norm, const ga_norm_room *room,
    const float *parameters, const float *input, float *grad, float *gradients, float *grad_input,
    ga_error *error) {
    const ga_network *network = pass->network;
    const ga_group_norm group_norm = ga_network_group_norm(norm, pass->pictures);
    GA_TRY(pass->compute->silu_backward(
        ga_network_norm_values(norm, pass->pictures), room->modulated, grad, grad, error));
    if (norm->film >= 0) {
        GA_TRY(modulate_back(pass, norm, room, grad, error));
    }
    return pass->compute->group_norm_backward(&group_norm, input,
        ga_network_at(network, parameters, norm->norm), room->mean, room->rstd, grad,
        ga_network_grad_at(network, gradients, norm->norm),
        ga_network_grad_at(network, gradients, norm->norm + 1), grad_input, error);
}

/* The shift of a block by σ: from grad_c, the gradient of `middle`, to its weights and to the condition's. */
static ga_status sigma_back(ga_network_pass *pass, const ga_network_block *block, const float *parameters,
    float *gradients, ga_error *error) {
    const int32_t width = pass->network->options.condition_width;
    GA_TRY(pass->compute->channel_shift_backward(pass->pictures, block->out_channels,
        block->second.height * block->second.width, pass->grad_c, pass->grad_channels, error));
    GA_TRY(linear_back(pass, parameters, block->sigma, width, block->out_channels, pass->embed,
        pass->grad_channels, gradients, pass->grad_part, error));
    return pass->compute->accumulate(
        (int64_t)pass->pictures * width, 1.0f, pass->grad_part, pass->grad_condition, error);
}

/* grad_a: gradient of the block's output on entry, of its input on return. */
static ga_status block_back(ga_network_pass *pass, int32_t number, const float *parameters,
    const float *input, float *gradients, ga_error *error) {
    const ga_network_block *block = &pass->network->blocks[number];
    const ga_block_room *room = &pass->blocks[number];
    const ga_conv conv1 = ga_network_first_conv(block, pass->pictures),
                  conv2 = ga_network_second_conv(block, pass->pictures),
                  skip = ga_network_skip_conv(block, pass->pictures);
    GA_TRY(convolve_back(pass, &conv2, parameters, block->conv2, room->second.active, pass->grad_a, gradients,
        pass->grad_b, error));
    GA_TRY(norm_back(pass, &block->second, &room->second, parameters, room->middle, pass->grad_b, gradients,
        pass->grad_c, error));
    if (block->sigma >= 0) {
        GA_TRY(sigma_back(pass, block, parameters, gradients, error));
    }
    GA_TRY(convolve_back(pass, &conv1, parameters, block->conv1, room->first.active, pass->grad_c, gradients,
        pass->grad_b, error));
    GA_TRY(norm_back(
        pass, &block->first, &room->first, parameters, input, pass->grad_b, gradients, pass->grad_c, error));
    const float *skipped = pass->grad_a;
    if (block->skip >= 0) {
        GA_TRY(convolve_back(
            pass, &skip, parameters, block->skip, input, pass->grad_a, gradients, pass->grad_b, error));
        skipped = pass->grad_b;
    }
    GA_TRY(pass->compute->accumulate(
        ga_network_norm_values(&block->first, pass->pictures), 1.0f, skipped, pass->grad_c, error));
    float *spent = pass->grad_a;
    pass->grad_a = pass->grad_c;
    pass->grad_c = spent;
    return GA_OK;
}

/* grad_a: gradient of the stem. */
static ga_status place_back(ga_network_pass *pass, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    if (network->place < 0) {
        return GA_OK;
    }
    const int32_t count = (int32_t)network->tensors[network->place].count;
    const ga_gemm sum = {.m = 1,
        .n = count,
        .k = pass->pictures,
        .lda = pass->pictures,
        .ldb = count,
        .ldc = count,
        .alpha = 1.0f,
        .beta = 1.0f};
    return pass->compute->sgemm(
        &sum, pass->ones, pass->grad_a, ga_network_grad_at(network, gradients, network->place), error);
}

static ga_status maps_back(
    ga_network_pass *pass, const float *parameters, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_network_norm *norm = &network->norm;
    const int32_t last = network->block_count - 1;
    GA_TRY(pass->compute->mean_pool_backward(
        pass->pictures, norm->channels, norm->height * norm->width, pass->grad_pooled, pass->grad_b, error));
    GA_TRY(norm_back(pass, norm, &pass->norm, parameters, last >= 0 ? pass->blocks[last].output : pass->stem,
        pass->grad_b, gradients, pass->grad_a, error));
    for (int32_t i = last; i >= 0; i--) {
        const float *input = i > 0 ? pass->blocks[i - 1].output : pass->stem;
        GA_TRY(block_back(pass, i, parameters, input, gradients, error));
    }
    GA_TRY(place_back(pass, gradients, error));
    const ga_conv stem = ga_network_stem_conv(network, pass->pictures);
    return convolve_back(
        pass, &stem, parameters, network->stem, pass->maps, pass->grad_a, gradients, NULL, error);
}

/* From the gradient of the rows' trunk vectors in grad_trunk to grad_pooled of the pictures. */
static ga_status trunk_back(
    ga_network_pass *pass, const float *parameters, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    const int32_t width = network->trunk.channels;
    GA_TRY(compute->silu_backward(
        (int64_t)pass->rows * width, pass->trunk.modulated, pass->grad_trunk, pass->grad_trunk, error));
    GA_TRY(modulate_back(pass, &network->trunk, &pass->trunk, pass->grad_trunk, error));
    const float *grad = pass->grad_trunk;
    if (pass->selects) {
        const ga_gemm gather = {.transpose_a = true,
            .m = pass->pictures,
            .n = width,
            .k = pass->rows,
            .lda = pass->pictures,
            .ldb = width,
            .ldc = width,
            .alpha = 1.0f};
        GA_TRY(compute->sgemm(&gather, pass->select, pass->grad_trunk, pass->grad_trunk_linear, error));
        grad = pass->grad_trunk_linear;
    }
    return compute->linear_backward(pass->pictures, network->norm.channels, width, pass->pooled,
        ga_network_at(network, parameters, network->trunk.norm), grad,
        ga_network_grad_at(network, gradients, network->trunk.norm),
        ga_network_grad_at(network, gradients, network->trunk.norm + 1), pass->grad_pooled, error);
}

/* Down to grad_pooled and grad_condition; scalars are inputs and need none. */
static ga_status head_back(
    ga_network_pass *pass, const float *parameters, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    const ga_compute *compute = pass->compute;
    const int32_t hidden = network->options.hidden;
    const int32_t channels = network->shares_pictures ? network->trunk.channels : network->norm.channels;
    float *grad_seen = network->shares_pictures ? pass->grad_trunk : pass->grad_pooled;
    if (network->hidden < 0) {
        return linear_back(pass, parameters, network->last, network->joined, network->outputs, pass->joined,
            pass->grad_output, gradients, pass->grad_pooled, error);
    }
    GA_TRY(linear_back(pass, parameters, network->last, hidden, network->outputs, pass->hidden,
        pass->grad_output, gradients, pass->grad_hidden, error));
    GA_TRY(compute->silu_backward(
        (int64_t)pass->rows * hidden, pass->hidden_linear, pass->grad_hidden, pass->grad_hidden, error));
    GA_TRY(linear_back(pass, parameters, network->hidden, network->joined, hidden, pass->joined,
        pass->grad_hidden, gradients, pass->grad_joined, error));
    if (channels > 0) {
        GA_TRY(compute->copy_columns(
            pass->rows, channels, network->joined, pass->grad_joined, channels, grad_seen, error));
    }
    if (network->shares_pictures) {
        GA_TRY(trunk_back(pass, parameters, gradients, error));
    }
    return compute->copy_columns(pass->rows, network->condition, network->joined,
        pass->grad_joined + channels + network->shape.scalars, network->condition, pass->grad_condition,
        error);
}

/* One of the two embeddings: its columns of grad_condition from `at` on, to its weights. */
static ga_status embed_back(ga_network_pass *pass, const float *parameters, int32_t tensor, int32_t inputs,
    const float *input, const float *linear, int32_t at, float *gradients, ga_error *error) {
    const int32_t width = pass->network->options.condition_width;
    GA_TRY(pass->compute->copy_columns(pass->rows, width, pass->network->condition, pass->grad_condition + at,
        width, pass->grad_embed, error));
    GA_TRY(pass->compute->silu_backward(
        (int64_t)pass->rows * width, linear, pass->grad_embed, pass->grad_embed, error));
    return linear_back(
        pass, parameters, tensor, inputs, width, input, pass->grad_embed, gradients, NULL, error);
}

static ga_status condition_back(
    ga_network_pass *pass, const float *parameters, float *gradients, ga_error *error) {
    const ga_network *network = pass->network;
    if (network->film >= 0) {
        GA_TRY(linear_back(pass, parameters, network->film, network->condition, network->film_columns,
            pass->condition, pass->grad_film, gradients, pass->grad_part, error));
        GA_TRY(pass->compute->accumulate(
            (int64_t)pass->rows * network->condition, 1.0f, pass->grad_part, pass->grad_condition, error));
    }
    if (network->prompt >= 0) {
        GA_TRY(embed_back(pass, parameters, network->prompt, network->shape.prompt, pass->prompt,
            pass->prompt_linear, network->options.condition_width, gradients, error));
    }
    return embed_back(pass, parameters, network->embed, GA_NETWORK_WAVE_VALUES, pass->waves,
        pass->embed_linear, 0, gradients, error);
}

ga_status ga_network_backward(ga_network_pass *pass, const float *parameters, const float *grad_output,
    float *grad_parameters, ga_error *error) {
    const ga_network *network = pass->network;
    GA_REQUIRE(error, pass->grad_output != NULL); /* the pass was made for both directions */
    if (pass->rows == 0) {
        return GA_OK;
    }
    GA_TRY(pass->compute->upload(
        (size_t)pass->rows * (size_t)network->outputs, grad_output, pass->grad_output, error));
    if (network->hidden < 0) {
        GA_TRY(pass->compute->zero(
            (size_t)pass->rows * (size_t)network->condition, pass->grad_condition, error));
    }
    GA_TRY(head_back(pass, parameters, grad_parameters, error));
    if (network->shape.map_channels > 0) {
        GA_TRY(maps_back(pass, parameters, grad_parameters, error));
    }
    return condition_back(pass, parameters, grad_parameters, error);
}
