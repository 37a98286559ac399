#include "grpo_accel/feature/feature.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/feature/guidance.h"
#include "grpo_accel/feature/latent.h"
#include "grpo_accel/feature/pool.h"
#include "grpo_accel/feature/read.h"

#define HALF_NAN ((ga_half)0x7e00u)
#define HALF_MAX 65504.0f
#define SIDE_MAX 65536

/* ---- schema ----------------------------------------------------------------------------------------------
 */

/* Sizes of an input as the options give them, and the name of the field to blame. */
typedef struct input_sizes {
    const char *name;
    int32_t channels;
    int32_t height; /* 0: no map */
    int32_t width;
} input_sizes;

static input_sizes sizes_of(const ga_feature_options *options, ga_input input) {
    switch (input) {
    case GA_INPUT_ATTENTION:
        return (input_sizes){
            "attention_blocks", options->attention_blocks, options->token_height, options->token_width};
    case GA_INPUT_X0:
        return (input_sizes){
            "latent_channels", options->latent_channels, options->latent_height, options->latent_width};
    case GA_INPUT_CFG: return (input_sizes){"cfg", 1, options->latent_height, options->latent_width};
    case GA_INPUT_HIDDEN: return (input_sizes){"hidden_values", options->hidden_values, 0, 0};
    case GA_INPUT_PROMPT: return (input_sizes){"prompt_values", options->prompt_values, 0, 0};
    case GA_INPUT_PREVIEW: return (input_sizes){"preview_scores", options->preview_scores, 0, 0};
    case GA_INPUT_LOOKAHEAD: return (input_sizes){"lookahead_scores", options->lookahead_scores, 0, 0};
    case GA_INPUT_DISTILLED: return (input_sizes){"distilled_scores", options->distilled_scores, 0, 0};
    case GA_INPUT_COUNT: break;
    }
    return (input_sizes){"input", 0, 0, 0};
}

static bool is_map(ga_input input) {
    return input == GA_INPUT_ATTENTION || input == GA_INPUT_X0 || input == GA_INPUT_CFG;
}

static bool is_wanted(const ga_feature_options *options, int input) {
    return (options->inputs & GA_INPUT_BIT(input)) != 0;
}

static ga_status check_sizes(const input_sizes *sizes, bool map, ga_error *error) {
    if (sizes->channels < 1 || sizes->channels > SIDE_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: %s is %d", sizes->name, sizes->channels);
    }
    if (map &&
        (sizes->height < 1 || sizes->width < 1 || sizes->height > SIDE_MAX || sizes->width > SIDE_MAX)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: the map of %s is %d × %d", sizes->name,
            sizes->height, sizes->width);
    }
    return GA_OK;
}

static ga_status check_options(const ga_feature_options *options, ga_error *error) {
    if (options->inputs == 0 || options->inputs >> GA_INPUT_COUNT != 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: inputs 0x%x", options->inputs);
    }
    if (options->map_size < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: map_size is %d", options->map_size);
    }
    if (options->attention_statistics >> GA_ATTENTION_STATISTIC_COUNT != 0) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "features: attention_statistics 0x%x", options->attention_statistics);
    }
    for (int i = 0; i < GA_INPUT_COUNT; i++) {
        const input_sizes sizes = sizes_of(options, (ga_input)i);
        if (is_wanted(options, i)) {
            GA_TRY(check_sizes(&sizes, is_map((ga_input)i), error));
        }
    }
    return GA_OK;
}

/* map_size, or the smallest wanted map if that is smaller. */
static void choose_map_size(const ga_feature_options *options, int32_t *height, int32_t *width) {
    *height = options->map_size;
    *width = options->map_size;
    for (int i = 0; i < GA_INPUT_COUNT; i++) {
        const input_sizes sizes = sizes_of(options, (ga_input)i);
        if (is_wanted(options, i) && is_map((ga_input)i)) {
            *height = sizes.height < *height ? sizes.height : *height;
            *width = sizes.width < *width ? sizes.width : *width;
        }
    }
}

/* Of what a value means: shapes in a fixed order of bytes, and which statistics. Never 0. */
static uint64_t schema_id(const ga_feature_schema *schema, uint32_t statistics) {
    uint64_t id = statistics;
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        id = ga_digest_join(id, (uint64_t)shape->input << 32 | (uint32_t)shape->channels);
        id = ga_digest_join(id, (uint64_t)(uint32_t)shape->height << 32 | (uint32_t)shape->width);
    }
    return id != 0 ? id : 1;
}

ga_status ga_feature_schema_make(
    const ga_feature_options *options, ga_feature_schema *schema_out, ga_error *error) {
    GA_TRY(check_options(options, error));
    ga_feature_schema schema;
    memset(&schema, 0, sizeof schema);
    int32_t height = 1, width = 1;
    choose_map_size(options, &height, &width);
    int64_t offset = 0;
    uint32_t statistics = 0;
    for (int i = 0; i < GA_INPUT_COUNT; i++) {
        if (!is_wanted(options, i)) {
            continue;
        }
        const bool map = is_map((ga_input)i);
        int64_t channels = sizes_of(options, (ga_input)i).channels;
        if (i == GA_INPUT_ATTENTION) {
            channels *= ga_attention_count(options->attention_statistics);
            statistics =
                options->attention_statistics == 0 ? GA_ATTENTION_DEFAULT : options->attention_statistics;
        }
        schema.inputs[schema.input_count++] = (ga_input_shape){
            (ga_input)i, (int32_t)channels, map ? height : 1, map ? width : 1, (int32_t)offset};
        offset += channels * (map ? (int64_t)height * width : 1);
        if (offset > INT32_MAX) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "features: more than 2^31 values a row");
        }
    }
    schema.values_per_row = (int32_t)offset;
    schema.id = schema_id(&schema, statistics);
    *schema_out = schema;
    return GA_OK;
}

/* ---- values ----------------------------------------------------------------------------------------------
 */

/* Cut to what fp16 can hold; NaN stays NaN. */
static ga_half saturate(float value) {
    const float low = value < -HALF_MAX ? -HALF_MAX : value;
    return ga_half_from_float(low > HALF_MAX ? HALF_MAX : low);
}

static const ga_input_shape *find_input(const ga_feature_block *block, ga_input input) {
    for (int32_t i = 0; i < block->schema->input_count; i++) {
        if (block->schema->inputs[i].input == input) {
            return &block->schema->inputs[i];
        }
    }
    return NULL;
}

/* The schema's entry of an input with enough channels. */
static ga_status need_input(const ga_feature_block *block, ga_input input, int32_t first, int32_t count,
    const ga_input_shape **shape_out, ga_error *error) {
    const ga_input_shape *shape = find_input(block, input);
    if (shape == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: input %d is not in the schema", (int)input);
    }
    if (first < 0 || count < 1 || count > shape->channels || first > shape->channels - count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: channels %d to %d of input %d, which has %d", first,
            first + count - 1, (int)input, shape->channels);
    }
    *shape_out = shape;
    return GA_OK;
}

static ga_half *place_of(
    const ga_feature_block *block, const ga_input_shape *shape, int32_t row, int32_t channel) {
    return block->values + (ptrdiff_t)row * block->schema->values_per_row + shape->offset +
           (ptrdiff_t)channel * shape->height * shape->width;
}

void ga_feature_clear(ga_feature_block *block) {
    const size_t count = ga_size(block->rows) * ga_size(block->schema->values_per_row);
    for (size_t i = 0; i < count; i++) {
        block->values[i] = HALF_NAN;
    }
}

/* Pools one map into one channel of one row. `pooled` holds a map of the schema's size. */
static ga_status put_map(const ga_feature_block *block, const ga_input_shape *shape, int32_t row,
    int32_t channel, const float *map, int32_t height, int32_t width, float *pooled, ga_error *error) {
    GA_TRY(ga_pool_area(map, height, width, shape->height, shape->width, pooled, error));
    ga_half *target = place_of(block, shape, row, channel);
    for (int32_t i = 0; i < shape->height * shape->width; i++) {
        target[i] = saturate(pooled[i]);
    }
    return GA_OK;
}

static ga_status take_floats(ga_arena *arena, size_t count, float **floats_out, ga_error *error) {
    float *floats = ga_arena_take(arena, count, sizeof *floats);
    if (floats == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "features: no memory for %zu floats of scratch", count);
    }
    *floats_out = floats;
    return GA_OK;
}

static ga_status check_row_count(
    const ga_feature_block *block, int64_t rows, const char *name, ga_error *error) {
    if (rows != block->rows) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: %s of %lld rows for a block of %d", name,
            (long long)rows, block->rows);
    }
    return GA_OK;
}

/* ---- attention -------------------------------------------------------------------------------------------
 */

/* Where the views are and whoever computes there. */
typedef struct attention_call {
    const ga_compute *compute;
    ga_attention_op op;
    float *maps;
} attention_call;

static ga_status run_attention(void *user, ga_error *error) {
    const attention_call *call = user;
    return call->compute->attention(&call->op, call->maps, error);
}

/* On the device where q and k are: nothing but the maps leaves it. */
static ga_status attention_on_device(
    const ga_attention_views *views, const ga_compute *compute, float *maps_out, ga_error *error) {
    const ga_tensor *query = views->query;
    if (compute == NULL || compute->attention == NULL || compute->device != query->device ||
        compute->device_index != query->device_index) {
        return GA_FAIL(error, GA_ERR_MISSING,
            "attention: q and k are on device %d:%d, where provider %s can't compute; set probe.provider to "
            "torch, or hand in copies on the CPU",
            query->device, query->device_index, compute == NULL ? "native" : compute->name);
    }
    attention_call call = {.compute = compute, .maps = maps_out};
    call.op = (ga_attention_op){.rows = views->rows,
        .heads = views->heads,
        .image_tokens = views->image_tokens,
        .text_tokens = views->text_tokens,
        .head_size = views->head_size,
        .query = query,
        .key_image = views->key_image,
        .key_text = views->key_text,
        .content = views->content,
        .statistics = views->statistics == 0 ? GA_ATTENTION_DEFAULT : views->statistics};
    return compute->run(run_attention, &call, error);
}

/* Channels first … of every row from maps [rows, count, height, width]. */
static ga_status put_maps(const ga_feature_block *block, const ga_input_shape *shape, int32_t first,
    int32_t count, const float *maps, int32_t height, int32_t width, float *pooled, ga_error *error) {
    for (int32_t row = 0; row < block->rows; row++) {
        for (int32_t k = 0; k < count; k++) {
            GA_TRY(put_map(block, shape, row, first + k, maps, height, width, pooled, error));
            maps += (ptrdiff_t)height * width;
        }
    }
    return GA_OK;
}

static ga_status check_tap(const ga_feature_block *block, int32_t tap, const ga_attention_views *views,
    int32_t token_height, int32_t token_width, const ga_input_shape **shape_out, ga_error *error) {
    GA_TRY(ga_attention_check(views, error));
    GA_TRY(check_row_count(block, views->rows, "attention", error));
    const int32_t count = ga_attention_count(views->statistics);
    if (tap < 0 || tap > INT32_MAX / GA_ATTENTION_STATISTIC_COUNT) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: tap %d", tap);
    }
    GA_TRY(need_input(block, GA_INPUT_ATTENTION, tap * count, count, shape_out, error));
    if (token_height < 1 || token_width < 1 || (int64_t)token_height * token_width != views->image_tokens) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: %d image tokens on a grid of %d × %d",
            views->image_tokens, token_height, token_width);
    }
    return GA_OK;
}

ga_status ga_feature_put_attention(ga_feature_block *block, int32_t tap, const ga_attention_views *views,
    int32_t token_height, int32_t token_width, const ga_compute *compute, ga_arena *arena, ga_error *error) {
    const ga_input_shape *shape = NULL;
    GA_TRY(check_tap(block, tap, views, token_height, token_width, &shape, error));
    float *pooled = NULL;
    GA_TRY(take_floats(arena, (size_t)shape->height * (size_t)shape->width, &pooled, error));
    const int32_t count = ga_attention_count(views->statistics);
    /* not the arena's, which would hold the maps of all taps until the batch ends */
    float *maps = calloc((size_t)views->rows * (size_t)count, (size_t)views->image_tokens * sizeof *maps);
    if (maps == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "features: no memory for attention of %d rows", views->rows);
    }
    ga_status status = views->query->device == GA_DEVICE_CPU
                           ? ga_attention_compute(views, maps, error)
                           : attention_on_device(views, compute, maps, error);
    if (status == GA_OK) {
        status = put_maps(block, shape, tap * count, count, maps, token_height, token_width, pooled, error);
    }
    free(maps);
    return status;
}

/* ---- latents ---------------------------------------------------------------------------------------------
 */

ga_status ga_feature_put_x0(ga_feature_block *block, const ga_tensor *latent, const ga_tensor *velocity,
    double sigma, ga_arena *arena, ga_error *error) {
    GA_TRY(ga_latent_check(latent, velocity, sigma, error));
    GA_TRY(check_row_count(block, latent->shape[0], "latent", error));
    const ga_input_shape *shape = NULL;
    GA_TRY(need_input(block, GA_INPUT_X0, 0, (int32_t)latent->shape[1], &shape, error));
    const int32_t height = (int32_t)latent->shape[2], width = (int32_t)latent->shape[3];
    const size_t plane = (size_t)height * (size_t)width;
    float *floats = NULL, *pooled = NULL;
    GA_TRY(take_floats(arena, 2 * plane, &floats, error));
    GA_TRY(take_floats(arena, (size_t)shape->height * (size_t)shape->width, &pooled, error));
    for (int32_t row = 0; row < block->rows; row++) {
        for (int32_t c = 0; c < (int32_t)latent->shape[1]; c++) {
            ga_latent_preview(latent, velocity, sigma, row, c, floats + plane, floats);
            GA_TRY(put_map(block, shape, row, c, floats, height, width, pooled, error));
        }
    }
    return GA_OK;
}

ga_status ga_feature_put_guidance(ga_feature_block *block, const ga_tensor *conditional,
    const ga_tensor *unconditional, ga_arena *arena, ga_error *error) {
    GA_TRY(ga_guidance_check(conditional, unconditional, error));
    GA_TRY(check_row_count(block, conditional->shape[0], "velocities", error));
    const ga_input_shape *shape = NULL;
    GA_TRY(need_input(block, GA_INPUT_CFG, 0, 1, &shape, error));
    const int32_t height = (int32_t)conditional->shape[2], width = (int32_t)conditional->shape[3];
    const size_t plane = (size_t)height * (size_t)width;
    float *floats = NULL, *pooled = NULL;
    GA_TRY(take_floats(arena, 3 * plane, &floats, error));
    GA_TRY(take_floats(arena, (size_t)shape->height * (size_t)shape->width, &pooled, error));
    for (int32_t row = 0; row < block->rows; row++) {
        ga_guidance_difference(conditional, unconditional, row, floats + plane, floats);
        GA_TRY(put_map(block, shape, row, 0, floats, height, width, pooled, error));
    }
    return GA_OK;
}

/* ---- scalars and vectors ---------------------------------------------------------------------------------
 */

ga_status ga_feature_put_scalars(
    ga_feature_block *block, ga_input input, const double *values, int32_t count, ga_error *error) {
    const ga_input_shape *shape = NULL;
    GA_TRY(need_input(block, input, 0, count, &shape, error));
    if (count != shape->channels || is_map(input)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: %d scalars a row for input %d, which has %d", count,
            (int)input, is_map(input) ? 0 : shape->channels);
    }
    for (int32_t row = 0; row < block->rows; row++) {
        ga_half *target = place_of(block, shape, row, 0);
        for (int32_t i = 0; i < count; i++) {
            target[i] = saturate((float)values[(ptrdiff_t)row * count + i]);
        }
    }
    return GA_OK;
}

ga_status ga_feature_put_vectors(
    ga_feature_block *block, ga_input input, const ga_tensor *vectors, ga_arena *arena, ga_error *error) {
    GA_TRY(ga_read_check_host(vectors, "vectors", 2, error));
    GA_TRY(check_row_count(block, vectors->shape[0], "vectors", error));
    const int32_t count = (int32_t)vectors->shape[1];
    const ga_input_shape *shape = NULL;
    GA_TRY(need_input(block, input, 0, count, &shape, error));
    if (count != shape->channels || is_map(input)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "features: a vector of %d for input %d, which has %d", count,
            (int)input, is_map(input) ? 0 : shape->channels);
    }
    float *floats = NULL;
    GA_TRY(take_floats(arena, (size_t)count, &floats, error));
    for (int32_t row = 0; row < block->rows; row++) {
        ga_half *target = place_of(block, shape, row, 0);
        ga_read_run(vectors, row * vectors->strides[0], vectors->strides[1], count, 1.0f, floats);
        for (int32_t i = 0; i < count; i++) {
            target[i] = saturate(floats[i]);
        }
    }
    return GA_OK;
}
