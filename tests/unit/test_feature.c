#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/compute/tensor.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/feature/guidance.h"
#include "grpo_accel/feature/latent.h"
#include "grpo_accel/feature/pool.h"
#include "grpo_accel/feature/read.h"
#include "tests/unit/attention_book.h"

/* ---- pooling, latents ---- */

/* Each pixel split into out_height × out_width equal parts: then every cell is a whole number of parts. */
static double naive_cell(const float *map, int32_t height, int32_t width, int32_t out_height,
    int32_t out_width, int32_t y, int32_t x) {
    double sum = 0;
    for (int32_t i = 0; i < height; i++) {
        for (int32_t j = 0; j < width; j++) {
            sum += (double)map[((y * height + i) / out_height) * width + (x * width + j) / out_width];
        }
    }
    return sum / height / width;
}

/* Frames of a video, one below the other. */
#define FRAMES 9

static void pooling_keeps_areas(void **state) {
    (void)state;
    static const int32_t sizes[][4] = {{16, 16, 16, 16}, {32, 32, 16, 16}, {5, 7, 3, 4}, {17, 13, 16, 5},
        {9, 1, 4, 1}, {3, 3, 1, 1}, {8, 90, 8, 16}, {40, 4, 16, 4}, {4, 40, 4, 16}, {1, 40, 1, 16},
        {40, 1, 16, 1}, {640, 16, 16, 16}, {FRAMES * 30, 52, 16, 16}};
    ga_random random = test_random(4);
    static float map[FRAMES * 30 * 52];
    float out[256];
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int32_t *size = sizes[s];
        double mean = 0, out_mean = 0;
        for (int32_t i = 0; i < size[0] * size[1]; i++) {
            map[i] = (float)ga_random_normal(&random);
            mean += (double)map[i] / (size[0] * size[1]);
        }
        test_ok(ga_pool_area(map, size[0], size[1], size[2], size[3], out, NULL), NULL);
        for (int32_t y = 0; y < size[2]; y++) {
            for (int32_t x = 0; x < size[3]; x++) {
                const double expected = naive_cell(map, size[0], size[1], size[2], size[3], y, x);
                assert_true(fabs((double)out[y * size[3] + x] - expected) < 1e-6);
                out_mean += (double)out[y * size[3] + x] / (size[2] * size[3]);
            }
        }
        assert_true(fabs(mean - out_mean) < 1e-6);
    }
    assert_int_equal(ga_pool_area(map, 4, 4, 5, 4, out, NULL), GA_ERR_ARGUMENT); /* never enlarged */
    assert_int_equal(ga_pool_area(map, 4, 4, 4, 0, out, NULL), GA_ERR_ARGUMENT);
}

static void previews_follow_the_flow(void **state) {
    (void)state;
    const int64_t shape[4] = {3, 4, 5, 7};
    const int *const orders[] = {natural_order, token_order, odd_order};
    const int32_t dtypes[] = {GA_F32, GA_F16, GA_BF16};
    ga_random random = test_random(5);
    for (int i = 0; i < 3; i++) {
        stored latent = make_stored(&random, dtypes[i], shape, orders[i], 1);
        stored velocity = make_stored(&random, dtypes[2 - i], shape, orders[2 - i], 1);
        test_ok(ga_latent_check(&latent.view, &velocity.view, 0.7, NULL), NULL);
        float plane[35], workspace[70], map[35];
        for (int32_t row = 0; row < 3; row++) {
            double differences[35] = {0};
            for (int32_t c = 0; c < 4; c++) {
                ga_latent_preview(&latent.view, &velocity.view, 0.7, row, c, workspace, plane);
                for (int32_t k = 0; k < 35; k++) {
                    const int32_t at = (row * 4 + c) * 35 + k;
                    assert_true(
                        fabs((double)plane[k] - (latent.values[at] - 0.7 * velocity.values[at])) < 1e-6);
                    differences[k] += fabs(latent.values[at] - velocity.values[at]) / 4;
                }
            }
            test_ok(ga_guidance_check(&latent.view, &velocity.view, NULL), NULL);
            ga_guidance_difference(&latent.view, &velocity.view, row, workspace, map);
            for (int32_t k = 0; k < 35; k++) {
                assert_true(fabs((double)map[k] - differences[k]) < 1e-6);
            }
        }
        assert_int_equal(ga_latent_check(&latent.view, &velocity.view, -1, NULL), GA_ERR_ARGUMENT);
        velocity.view.shape[3] = 6;
        assert_int_equal(ga_latent_check(&latent.view, &velocity.view, 0.7, NULL), GA_ERR_ARGUMENT);
        free_stored(&latent);
        free_stored(&velocity);
    }
}

/* ---- schema and block ---- */

static ga_feature_options full_options(void) {
    return (ga_feature_options){.inputs = GA_INPUT_BIT(GA_INPUT_ATTENTION) | GA_INPUT_BIT(GA_INPUT_X0) |
                                          GA_INPUT_BIT(GA_INPUT_CFG) | GA_INPUT_BIT(GA_INPUT_PROMPT) |
                                          GA_INPUT_BIT(GA_INPUT_PREVIEW),
        .map_size = 16,
        .attention_blocks = 2,
        .token_height = 3,
        .token_width = 8,
        .latent_channels = 4,
        .latent_height = 6,
        .latent_width = 16,
        .prompt_values = 5,
        .preview_scores = 1};
}

static void schemas_are_laid_out(void **state) {
    (void)state;
    ga_feature_options options = full_options();
    ga_feature_schema schema, other;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_schema_make(&options, &schema, &error), &error);
    static const int32_t expected[5][5] = {{GA_INPUT_ATTENTION, 6, 3, 8, 0}, {GA_INPUT_X0, 4, 3, 8, 144},
        {GA_INPUT_CFG, 1, 3, 8, 240}, {GA_INPUT_PROMPT, 5, 1, 1, 264}, {GA_INPUT_PREVIEW, 1, 1, 1, 269}};
    assert_int_equal(schema.input_count, 5);
    for (int i = 0; i < 5; i++) {
        const ga_input_shape *shape = &schema.inputs[i];
        const int32_t found[5] = {
            (int32_t)shape->input, shape->channels, shape->height, shape->width, shape->offset};
        assert_memory_equal(found, expected[i], sizeof found);
    }
    assert_int_equal(schema.values_per_row, 270);
    assert_true(schema.id != 0);
    test_ok(ga_feature_schema_make(&options, &other, &error), &error);
    assert_memory_equal(&schema, &other, sizeof schema);
    options.attention_statistics =
        GA_ATTENTION_BIT(GA_ATTENTION_MASS) | GA_ATTENTION_BIT(GA_ATTENTION_ENTROPY) |
        GA_ATTENTION_BIT(GA_ATTENTION_SPREAD); /* as many channels, another meaning */
    test_ok(ga_feature_schema_make(&options, &other, &error), &error);
    assert_int_equal(other.values_per_row, 270);
    assert_true(other.id != schema.id);
    options.map_size = 2;
    test_ok(ga_feature_schema_make(&options, &other, &error), &error);
    assert_int_equal(other.inputs[1].height, 2);
    assert_int_equal(other.inputs[1].width, 2);
}

static void impossible_schemas_are_refused(void **state) {
    (void)state;
    ga_feature_schema schema;
    ga_feature_options options = full_options();
    options.inputs = 0;
    assert_int_equal(ga_feature_schema_make(&options, &schema, NULL), GA_ERR_ARGUMENT);
    options.inputs = 1u << 9;
    assert_int_equal(ga_feature_schema_make(&options, &schema, NULL), GA_ERR_ARGUMENT);
    options = full_options();
    options.map_size = 0;
    assert_int_equal(ga_feature_schema_make(&options, &schema, NULL), GA_ERR_ARGUMENT);
    options = full_options();
    options.token_width = 0;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_feature_schema_make(&options, &schema, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "attention_blocks is 3 × 0"));
    options = full_options();
    options.preview_scores = 0;
    ga_error_clear(&error);
    assert_int_equal(ga_feature_schema_make(&options, &schema, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "preview_scores"));
    options = full_options();
    options.attention_statistics = 64;
    assert_int_equal(ga_feature_schema_make(&options, &schema, NULL), GA_ERR_ARGUMENT);
}

/* A block of `rows` with its schema. */
typedef struct block_case {
    ga_feature_schema schema;
    ga_feature_block block;
    ga_arena *arena;
} block_case;

static void make_block(block_case *made, const ga_feature_options *options, int32_t rows) {
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_schema_make(options, &made->schema, &error), &error);
    made->block.schema = &made->schema;
    made->block.rows = rows;
    made->block.values = calloc((size_t)(rows * made->schema.values_per_row), sizeof(ga_half));
    made->arena = ga_arena_create(0);
    assert_true(made->block.values != NULL && made->arena != NULL);
    ga_feature_clear(&made->block);
}

static void free_block(block_case *made) {
    free(made->block.values);
    ga_arena_destroy(&made->arena);
}

static float value_at(const block_case *made, int32_t row, int32_t place) {
    return ga_half_to_float(made->block.values[row * made->schema.values_per_row + place]);
}

static void attention_goes_into_its_channels(void **state) {
    (void)state;
    const attention_case what = {"block", 2, 2, 24, 24, 6, 8, GA_F16, natural_order, 1, 1, 1e-5};
    ga_feature_options options = full_options();
    options.map_size = 2;
    block_case made;
    make_block(&made, &options, 2);
    ga_random random = test_random(6);
    attention_inputs inputs = make_inputs(&what, &random);
    ga_attention_views views = views_of(&what, &inputs);
    views.statistics = 0;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_put_attention(&made.block, 1, &views, 3, 8, NULL, made.arena, &error), &error);
    for (int32_t row = 0; row < 2; row++) {
        float map[3][24], pooled[4];
        naive_row naive = make_naive(&what, &inputs, row);
        for (int32_t token = 0; token < 24; token++) {
            double s[GA_ATTENTION_STATISTIC_COUNT];
            naive_statistics(&naive, token, s);
            for (int k = 0; k < 3; k++) {
                map[k][token] = (float)s[k];
            }
        }
        free_naive(&naive);
        for (int k = 0; k < 3; k++) {
            test_ok(ga_pool_area(map[k], 3, 8, 2, 2, pooled, NULL), NULL);
            for (int j = 0; j < 4; j++) {
                assert_true(isnan(value_at(&made, row, k * 4 + j))); /* tap 0 was not put */
                const double found = (double)value_at(&made, row, 12 + k * 4 + j);
                assert_true(fabs(found - (double)pooled[j]) < 1e-3 * fmax(1, fabs((double)pooled[j])));
            }
        }
    }
    assert_int_equal(
        ga_feature_put_attention(&made.block, 2, &views, 3, 8, NULL, made.arena, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_feature_put_attention(&made.block, -1, &views, 3, 8, NULL, made.arena, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_feature_put_attention(&made.block, 1, &views, 5, 5, NULL, made.arena, NULL), GA_ERR_ARGUMENT);
    made.block.rows = 1;
    assert_int_equal(
        ga_feature_put_attention(&made.block, 1, &views, 3, 8, NULL, made.arena, NULL), GA_ERR_ARGUMENT);
    free(inputs.content);
    free_stored(&inputs.query);
    free_stored(&inputs.key_image);
    free_stored(&inputs.key_text);
    free_block(&made);
}

static void latents_and_scores_go_into_theirs(void **state) {
    (void)state;
    const ga_feature_options options = full_options();
    block_case made;
    make_block(&made, &options, 2);
    ga_random random = test_random(7);
    const int64_t shape[4] = {2, 4, 6, 16}, vector_shape[4] = {1, 1, 2, 5};
    stored latent = make_stored(&random, GA_BF16, shape, token_order, 1);
    stored velocity = make_stored(&random, GA_F32, shape, natural_order, 1);
    stored vectors = make_stored(&random, GA_F16, vector_shape, natural_order, 1);
    ga_tensor vector_view = ga_tensor_make(vectors.memory, GA_F16, 2, (const int64_t[]){2, 5});
    vector_view.strides[0] = vectors.view.strides[2];
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_put_x0(&made.block, &latent.view, &velocity.view, 0.5, made.arena, &error), &error);
    test_ok(ga_feature_put_guidance(&made.block, &latent.view, &velocity.view, made.arena, &error), &error);
    test_ok(ga_feature_put_vectors(&made.block, GA_INPUT_PROMPT, &vector_view, made.arena, &error), &error);
    const double scores[2] = {0.75, NAN};
    test_ok(ga_feature_put_scalars(&made.block, GA_INPUT_PREVIEW, scores, 1, &error), &error);
    for (int32_t row = 0; row < 2; row++) {
        for (int32_t y = 0; y < 3; y++) {
            for (int32_t x = 0; x < 8; x++) { /* cells are 2 × 2 pixels */
                double cfg = 0;
                for (int32_t c = 0; c < 4; c++) {
                    double x0 = 0;
                    for (int32_t k = 0; k < 4; k++) {
                        const int32_t at = ((row * 4 + c) * 6 + 2 * y + k / 2) * 16 + 2 * x + k % 2;
                        x0 += (latent.values[at] - 0.5 * velocity.values[at]) / 4;
                        cfg += fabs(latent.values[at] - velocity.values[at]) / 16;
                    }
                    assert_true(fabs((double)value_at(&made, row, 144 + c * 24 + y * 8 + x) - x0) < 3e-3);
                }
                assert_true(fabs((double)value_at(&made, row, 240 + y * 8 + x) - cfg) < 3e-3);
            }
        }
        for (int32_t i = 0; i < 5; i++) {
            assert_true((double)value_at(&made, row, 264 + i) == vectors.values[row * 5 + i]);
        }
    }
    assert_true(value_at(&made, 0, 269) == 0.75f && isnan(value_at(&made, 1, 269)));
    free_stored(&latent);
    free_stored(&velocity);
    free_stored(&vectors);
    free_block(&made);
}

static void expect_tall_attention(
    block_case *made, const ga_feature_options *options, int32_t height, int32_t width, ga_random *random) {
    const int32_t tokens = options->token_height * options->token_width;
    const attention_case what = {"tall", 2, 1, tokens, tokens, 3, 4, GA_F32, token_order, 1, MASK_ANY, 1e-5};
    attention_inputs inputs = make_inputs(&what, random);
    ga_attention_views views = views_of(&what, &inputs);
    views.statistics = options->attention_statistics;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_put_attention(&made->block, 0, &views, options->token_height, options->token_width,
                NULL, made->arena, &error),
        &error);
    float *map = compute_maps(&views); /* [row, token] */
    for (int32_t row = 0; row < 2; row++) {
        for (int32_t cell = 0; cell < height * width; cell++) {
            const double expected = naive_cell(map + (ptrdiff_t)row * tokens, options->token_height,
                options->token_width, height, width, cell / width, cell % width);
            assert_true(fabs((double)value_at(made, row, cell) - expected) < 1e-3);
        }
    }
    free(map);
    free_inputs(&inputs);
}

/* x0 of two rows with one channel; its maps stand `offset` values into a row. */
static void expect_tall_latent(block_case *made, const ga_feature_options *options, int32_t offset,
    int32_t height, int32_t width, ga_random *random) {
    const int64_t shape[4] = {2, 1, options->latent_height, options->latent_width};
    const int64_t pixels = shape[2] * shape[3];
    stored latent = make_stored(random, GA_F32, shape, odd_order, 1);
    stored velocity = make_stored(random, GA_F16, shape, natural_order, 1);
    float *map = malloc((size_t)pixels * sizeof *map);
    assert_non_null(map);
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_put_x0(&made->block, &latent.view, &velocity.view, 0.5, made->arena, &error), &error);
    for (int32_t row = 0; row < 2; row++) {
        for (int64_t i = 0; i < pixels; i++) {
            map[i] = (float)(latent.values[row * pixels + i] - 0.5 * velocity.values[row * pixels + i]);
        }
        for (int32_t cell = 0; cell < height * width; cell++) {
            const double expected = naive_cell(map, options->latent_height, options->latent_width, height,
                width, cell / width, cell % width);
            assert_true(fabs((double)value_at(made, row, offset + cell) - expected) < 2e-3);
        }
    }
    free(map);
    free_stored(&latent);
    free_stored(&velocity);
}

/* A video's frames are one tall map, and a poster is a narrow one: each side is pooled by itself, never
 * enlarged. */
static void tall_maps_are_pooled_by_side(void **state) {
    (void)state;
    static const struct {
        int32_t token_height, token_width, latent_height, latent_width, height, width;
    } shapes[] = {{FRAMES * 15, 26, FRAMES * 30, 52, 16, 16}, {40, 4, 80, 8, 16, 4}, {1, 40, 2, 80, 1, 16}};
    ga_random random = test_random(23);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const ga_feature_options options = {
            .inputs = GA_INPUT_BIT(GA_INPUT_ATTENTION) | GA_INPUT_BIT(GA_INPUT_X0),
            .map_size = 16,
            .attention_blocks = 1,
            .attention_statistics = GA_ATTENTION_BIT(GA_ATTENTION_MASS),
            .token_height = shapes[i].token_height,
            .token_width = shapes[i].token_width,
            .latent_channels = 1,
            .latent_height = shapes[i].latent_height,
            .latent_width = shapes[i].latent_width};
        block_case made;
        make_block(&made, &options, 2);
        const int32_t height = shapes[i].height, width = shapes[i].width, cells = height * width;
        for (int32_t k = 0; k < 2; k++) {
            assert_int_equal(made.schema.inputs[k].height, height);
            assert_int_equal(made.schema.inputs[k].width, width);
        }
        expect_tall_attention(&made, &options, height, width, &random);
        expect_tall_latent(&made, &options, cells, height, width, &random);
        free_block(&made);
    }
}

static void values_are_saturated(void **state) {
    (void)state;
    const ga_feature_options options = {
        .inputs = GA_INPUT_BIT(GA_INPUT_PREVIEW), .map_size = 1, .preview_scores = 6};
    block_case made;
    make_block(&made, &options, 1);
    const double scores[6] = {1e6, -1e6, INFINITY, -INFINITY, 65519.0, 1e-9};
    test_ok(ga_feature_put_scalars(&made.block, GA_INPUT_PREVIEW, scores, 6, NULL), NULL);
    static const float expected[6] = {65504, -65504, 65504, -65504, 65504, 0};
    for (int i = 0; i < 6; i++) {
        assert_true(value_at(&made, 0, i) == expected[i]);
    }
    assert_int_equal(ga_feature_put_scalars(&made.block, GA_INPUT_PREVIEW, scores, 5, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_feature_put_scalars(&made.block, GA_INPUT_LOOKAHEAD, scores, 6, NULL), GA_ERR_ARGUMENT);
    free_block(&made);
}

/* ---- another device ---- */

/* A provider whose device is told of and never touched: it gives maps that name their row and statistic. */
static bool job_is_running;

static ga_status device_run(ga_compute_job job, void *user, ga_error *error) {
    job_is_running = true;
    const ga_status status = job(user, error);
    job_is_running = false;
    return status;
}

static ga_status device_attention(const ga_attention_op *op, float *maps_out, ga_error *error) {
    if (!job_is_running || op->statistics != GA_ATTENTION_DEFAULT) {
        return GA_FAIL(error, GA_ERR_BUG, "statistics 0x%x outside of a job", op->statistics);
    }
    for (int32_t i = 0; i < op->rows * 3 * op->image_tokens; i++) {
        maps_out[i] = (float)(i / op->image_tokens);
    }
    return GA_OK;
}

static void attention_stays_on_its_device(void **state) {
    (void)state;
    const attention_case what = {"device", 2, 2, 24, 24, 6, 8, GA_F16, natural_order, 1, 1, 1e-5};
    const ga_feature_options options = full_options();
    block_case made;
    make_block(&made, &options, 2);
    ga_random random = test_random(13);
    attention_inputs inputs = make_inputs(&what, &random);
    inputs.query.view.device = inputs.key_image.view.device = inputs.key_text.view.device = GA_DEVICE_CUDA;
    ga_attention_views views = views_of(&what, &inputs);
    views.statistics = 0;
    ga_compute compute = *ga_compute_native();
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(
        ga_feature_put_attention(&made.block, 1, &views, 3, 8, &compute, made.arena, &error), GA_ERR_MISSING);
    assert_non_null(strstr(error.message, "probe.provider"));
    compute.run = device_run;
    compute.attention = device_attention;
    assert_int_equal(ga_feature_put_attention(&made.block, 1, &views, 3, 8, &compute, made.arena, NULL),
        GA_ERR_MISSING); /* that provider computes elsewhere */
    compute.device = GA_DEVICE_CUDA;
    ga_error_clear(&error);
    test_ok(ga_feature_put_attention(&made.block, 1, &views, 3, 8, &compute, made.arena, &error), &error);
    for (int32_t row = 0; row < 2; row++) {
        for (int32_t i = 0; i < 72; i++) {
            assert_true(value_at(&made, row, 72 + i) == (float)(row * 3 + i / 24));
        }
    }
    free_inputs(&inputs);
    free_block(&made);
}

/* ---- vectors ---- */

static void wide_vectors_fit(void **state) {
    (void)state;
    enum { HIDDEN = 1536, PROMPT = 2048 };
    const ga_feature_options options = {
        .inputs = GA_INPUT_BIT(GA_INPUT_HIDDEN) | GA_INPUT_BIT(GA_INPUT_PROMPT),
        .map_size = 16,
        .hidden_values = HIDDEN,
        .prompt_values = PROMPT};
    static const int32_t dtypes[] = {GA_F32, GA_F16, GA_BF16};
    ga_random random = test_random(14);
    for (int i = 0; i < 3; i++) {
        block_case made;
        make_block(&made, &options, 2);
        assert_int_equal(made.schema.values_per_row, HIDDEN + PROMPT);
        stored values = make_stored(&random, dtypes[i], (const int64_t[]){1, 1, 2, HIDDEN}, natural_order, 1);
        ga_tensor view = ga_tensor_make(values.memory, (ga_dtype)dtypes[i], 2, (const int64_t[]){2, HIDDEN});
        view.strides[0] = values.view.strides[2];
        if (dtypes[i] == GA_F32) {
            ((float *)values.memory)[1] = NAN;
        } else {
            ((uint16_t *)values.memory)[1] = 0x7fffu; /* NaN in both */
        }
        ga_error error;
        ga_error_clear(&error);
        test_ok(ga_feature_put_vectors(&made.block, GA_INPUT_HIDDEN, &view, made.arena, &error), &error);
        assert_true(isnan(value_at(&made, 0, 1)));
        assert_true(isnan(value_at(&made, 0, HIDDEN))); /* the prompt is not known yet */
        for (int32_t j = 2; j < 2 * HIDDEN; j++) {
            const double found = (double)value_at(&made, j / HIDDEN, j % HIDDEN);
            assert_true(fabs(found - values.values[j]) <= 5e-4 * fabs(values.values[j]) + 1e-7);
        }
        view.shape[1] = HIDDEN - 1;
        assert_int_equal(
            ga_feature_put_vectors(&made.block, GA_INPUT_HIDDEN, &view, made.arena, NULL), GA_ERR_ARGUMENT);
        view.shape[1] = HIDDEN;
        view.device = GA_DEVICE_CUDA;
        assert_int_equal(
            ga_feature_put_vectors(&made.block, GA_INPUT_HIDDEN, &view, made.arena, NULL), GA_ERR_ARGUMENT);
        free_stored(&values);
        free_block(&made);
    }
}

/* Every half and bfloat that there is, read in a run and one by one. */
static void halves_are_read_as_they_are(void **state) {
    (void)state;
    static uint16_t bits[65536];
    static float found[65536], single[65536];
    for (int i = 0; i < 65536; i++) {
        bits[i] = (uint16_t)i;
    }
    static const ga_dtype dtypes[] = {GA_F16, GA_BF16};
    for (int k = 0; k < 2; k++) {
        const ga_tensor view = ga_tensor_make(bits, dtypes[k], 1, (const int64_t[]){65536});
        ga_read_run(&view, 0, 1, 65536, 1.0f, found);
        for (int i = 0; i < 65536; i++) {
            ga_read_run(&view, i, 2, 1, 1.0f, &single[i]);
            assert_true(isnan(single[i]) ? isnan(found[i]) : found[i] == single[i]);
        }
    }
}

static void guidance_keeps_what_is_not_known(void **state) {
    (void)state;
    const ga_feature_options options = {.inputs = GA_INPUT_BIT(GA_INPUT_CFG),
        .map_size = 2,
        .latent_channels = 3,
        .latent_height = 4,
        .latent_width = 4};
    ga_random random = test_random(15);
    static const int32_t dtypes[] = {GA_F32, GA_F16, GA_BF16};
    for (int i = 0; i < 3; i++) {
        block_case made;
        make_block(&made, &options, 2);
        stored with = make_stored(&random, dtypes[i], (const int64_t[]){2, 3, 4, 4}, odd_order, 1);
        stored without =
            make_stored(&random, dtypes[(i + 1) % 3], (const int64_t[]){2, 3, 4, 4}, natural_order, 1);
        if (dtypes[i] == GA_F32) {
            ((float *)with.memory)[0] = NAN;
        } else {
            ((uint16_t *)with.memory)[0] = 0x7fffu;
        }
        ga_error error;
        ga_error_clear(&error);
        test_ok(ga_feature_put_guidance(&made.block, &with.view, &without.view, made.arena, &error), &error);
        for (int32_t row = 0; row < 2; row++) {
            for (int32_t cell = 0; cell < 4; cell++) {
                double sum = 0;
                for (int32_t k = 0; k < 12; k++) {
                    const int32_t y = cell / 2 * 2 + k % 4 / 2, x = cell % 2 * 2 + k % 2;
                    const int32_t at = ((row * 3 + k / 4) * 4 + y) * 4 + x;
                    sum += fabs(with.values[at] - without.values[at]) / 12;
                }
                const double found = (double)value_at(&made, row, cell);
                assert_true(row + cell == 0 ? isnan(found) : fabs(found - sum) < 1e-3 * (1 + sum));
            }
        }
        free_stored(&with);
        free_stored(&without);
        free_block(&made);
    }
}

/* ---- shared states ---- */

static void fill_rows(block_case *made, const int *states) {
    for (int32_t row = 0; row < made->block.rows; row++) {
        ga_random random = test_random(100 + (uint64_t)states[row]);
        for (int32_t i = 0; i < made->schema.values_per_row; i++) {
            made->block.values[row * made->schema.values_per_row + i] =
                ga_half_from_float((float)ga_random_normal(&random));
        }
    }
}

static ga_shared_state judge(const block_case *made, const uint64_t *groups) {
    ga_shared_state shared;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_feature_shared_state(&made->block, groups, &shared, &error), &error);
    return shared;
}

static void shared_states_are_found(void **state) {
    (void)state;
    const ga_feature_options options = full_options();
    block_case made;
    make_block(&made, &options, 8);
    const uint64_t groups[8] = {5, 5, 9, 9, 5, 9, UINT64_MAX, 7};
    fill_rows(&made, (const int[]){1, 1, 2, 3, 1, 4, 1, 1});
    ga_shared_state shared = judge(&made, groups);
    assert_int_equal(shared.groups, 2); /* rows alone in their group say nothing */
    assert_int_equal(shared.shared_groups, 1);
    assert_int_equal(shared.shared_rows, 3);
    made.block.values[144] = ga_half_from_float(ga_half_to_float(made.block.values[144]) + 1e-3f);
    shared = judge(&made, groups); /* the order of sums may differ */
    assert_int_equal(shared.shared_groups, 1);
    made.block.values[144] = ga_half_from_float(ga_half_to_float(made.block.values[144]) + 0.1f);
    shared = judge(&made, groups);
    assert_int_equal(shared.shared_groups, 0);
    fill_rows(&made, (const int[]){1, 1, 2, 2, 1, 2, 1, 1});
    shared = judge(&made, groups);
    assert_int_equal(shared.shared_groups, 2);
    made.block.values[269] = ga_half_from_float(3.0f); /* a score is no state */
    shared = judge(&made, groups);
    assert_int_equal(shared.shared_groups, 2);
    made.block.values[200] = 0x7e00; /* what is not known is not judged */
    shared = judge(&made, groups);
    assert_int_equal(shared.groups, 1);
    assert_int_equal(shared.shared_groups, 1);
    free_block(&made);
}

static void scores_alone_are_not_judged(void **state) {
    (void)state;
    const ga_feature_options options = {
        .inputs = GA_INPUT_BIT(GA_INPUT_PREVIEW), .map_size = 1, .preview_scores = 1};
    block_case made;
    make_block(&made, &options, 4);
    const double scores[4] = {1, 1, 1, 1};
    const uint64_t groups[4] = {1, 1, 1, 1};
    test_ok(ga_feature_put_scalars(&made.block, GA_INPUT_PREVIEW, scores, 1, NULL), NULL);
    const ga_shared_state shared = judge(&made, groups);
    assert_int_equal(shared.groups, 0);
    assert_int_equal(shared.shared_groups, 0);
    free_block(&made);
}

static void unreadable_views_are_named(void **state) {
    (void)state;
    float values[16] = {0};
    ga_tensor view = ga_tensor_make(values, GA_F32, 4, (const int64_t[]){1, 2, 2, 4});
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_read_check(&view, "thing", 4, &error), &error);
    assert_int_equal(ga_read_check(&view, "thing", 3, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "thing"));
    view.dtype = GA_F64;
    assert_int_equal(ga_read_check(&view, "thing", 4, NULL), GA_ERR_ARGUMENT);
    view.dtype = GA_F32;
    test_ok(ga_read_check_host(&view, "thing", 4, NULL), NULL);
    view.device = GA_DEVICE_CUDA;
    test_ok(ga_read_check(&view, "thing", 4, NULL), NULL);
    assert_int_equal(ga_read_check_host(&view, "thing", 4, NULL), GA_ERR_ARGUMENT);
    view.device = GA_DEVICE_CPU;
    view.shape[1] = 0;
    assert_int_equal(ga_read_check(&view, "thing", 4, NULL), GA_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pooling_keeps_areas),
        cmocka_unit_test(previews_follow_the_flow),
        cmocka_unit_test(schemas_are_laid_out),
        cmocka_unit_test(impossible_schemas_are_refused),
        cmocka_unit_test(attention_goes_into_its_channels),
        cmocka_unit_test(latents_and_scores_go_into_theirs),
        cmocka_unit_test(attention_stays_on_its_device),
        cmocka_unit_test(wide_vectors_fit),
        cmocka_unit_test(halves_are_read_as_they_are),
        cmocka_unit_test(guidance_keeps_what_is_not_known),
        cmocka_unit_test(tall_maps_are_pooled_by_side),
        cmocka_unit_test(values_are_saturated),
        cmocka_unit_test(shared_states_are_found),
        cmocka_unit_test(scores_alone_are_not_judged),
        cmocka_unit_test(unreadable_views_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
