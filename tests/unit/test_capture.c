#include "tests/unit/support.h"

#include <math.h>
#include <stdio.h>

#include "grpo_accel/capture/capture.h"
#include "grpo_accel/capture/rows.h"
#include "grpo_accel/capture/tap.h"
#include "grpo_accel/compute/tensor.h"

static const char *const unet_blocks[] = {"down_blocks.1.attentions.0.transformer_blocks.0.attn2",
    "down_blocks.1.attentions.1.transformer_blocks.0.attn2",
    "down_blocks.2.attentions.0.transformer_blocks.0.attn2",
    "mid_block.attentions.0.transformer_blocks.0.attn2",
    "up_blocks.0.attentions.0.transformer_blocks.0.attn2"};

static void choose(const ga_tap_selection *selection, const char *const *names, int32_t blocks,
    const int32_t *expected, int32_t expected_count) {
    int32_t indices[64], count = -1;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_tap_choose(selection, names, blocks, indices, &count, &error), &error);
    assert_int_equal(count, expected_count);
    for (int32_t i = 0; i < count; i++) {
        assert_int_equal(indices[i], expected[i]);
    }
}

static void middle_blocks(void **state) {
    (void)state;
    ga_tap_selection middle = {GA_TAP_MIDDLE, 10, NULL};
    choose(&middle, NULL, 24, (const int32_t[]){7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 10);
    choose(&middle, NULL, 6, (const int32_t[]){0, 1, 2, 3, 4, 5}, 6); /* at most as many as there are */
    middle.count = 2;
    choose(&middle, NULL, 5, (const int32_t[]){1, 2}, 2);
    middle.count = 1;
    choose(&middle, NULL, 1, (const int32_t[]){0}, 1);
}

static void encoder_and_named_blocks(void **state) {
    (void)state;
    ga_tap_selection encoder = {GA_TAP_LAST_ENCODER, 2, NULL};
    choose(&encoder, unet_blocks, 5, (const int32_t[]){1, 2}, 2);
    encoder.count = 10;
    choose(&encoder, unet_blocks, 5, (const int32_t[]){0, 1, 2}, 3);
    const char *const names[] = {unet_blocks[4], unet_blocks[0], unet_blocks[4]};
    ga_tap_selection named = {GA_TAP_NAMED, 3, names};
    choose(&named, unet_blocks, 5, (const int32_t[]){0, 4}, 2); /* ascending, each once */
}

/* The names that diffusers gives, in the order of the model. */
static void blocks_of_every_model(void **state) {
    (void)state;
    enum { DOUBLE = 19, SINGLE = 38, FLUX = DOUBLE + SINGLE };
    static char text[FLUX][64];
    const char *flux[FLUX];
    for (int i = 0; i < FLUX; i++) {
        const bool single = i >= DOUBLE;
        snprintf(text[i], sizeof text[i], "%stransformer_blocks.%d.attn", single ? "single_" : "",
            single ? i - DOUBLE : i);
        flux[i] = text[i];
    }
    const ga_tap_selection middle = {GA_TAP_MIDDLE, 3, NULL};
    choose(&middle, flux, FLUX, (const int32_t[]){27, 28, 29}, 3);
    const char *const one_of_each[] = {"single_transformer_blocks.1", "transformer_blocks.3.attn"};
    ga_tap_selection named = {GA_TAP_NAMED, 2, one_of_each}; /* not transformer_blocks.1x, nor single's 1x */
    choose(&named, flux, FLUX, (const int32_t[]){3, DOUBLE + 1}, 2);
    named = (ga_tap_selection){GA_TAP_NAMED, 1, (const char *const[]){"transformer_blocks"}};
    int32_t all[DOUBLE];
    for (int32_t i = 0; i < DOUBLE; i++) {
        all[i] = i;
    }
    choose(&named, flux, FLUX, all, DOUBLE); /* the whole list, as SD3 and Qwen-Image have only that one */
    named = (ga_tap_selection){GA_TAP_NAMED, 1, (const char *const[]){"down_blocks.1"}};
    choose(&named, unet_blocks, 5, (const int32_t[]){0, 1}, 2);
    const char *const both[] = {"down_blocks.0.attentions.0.transformer_blocks.0.attn1",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2",
        "up_down_blocks.1.attentions.0.transformer_blocks.0.attn2"};
    const ga_tap_selection encoder = {GA_TAP_LAST_ENCODER, 5, NULL};
    choose(&encoder, both, 5, (const int32_t[]){1, 3}, 2);
    int32_t indices[FLUX], count = -1;
    assert_int_equal(ga_tap_choose(&encoder, flux, FLUX, indices, &count, NULL), GA_ERR_CONFIG);
    named = (ga_tap_selection){GA_TAP_NAMED, 1, (const char *const[]){"transformer_blocks.1.at"}};
    assert_int_equal(ga_tap_choose(&named, flux, FLUX, indices, &count, NULL), GA_ERR_CONFIG);
    assert_int_equal(count, -1);
}

static void impossible_selections_are_refused(void **state) {
    (void)state;
    int32_t indices[8], count = -1;
    ga_error error;
    ga_error_clear(&error);
    const char *const dit[] = {"transformer_blocks.0", "transformer_blocks.1"};
    ga_tap_selection selection = {GA_TAP_LAST_ENCODER, 2, NULL};
    assert_int_equal(ga_tap_choose(&selection, dit, 2, indices, &count, &error), GA_ERR_CONFIG);
    assert_non_null(strstr(error.message, "middle:2"));
    const char *const names[] = {"transformer_blocks.7"};
    selection = (ga_tap_selection){GA_TAP_NAMED, 1, names};
    ga_error_clear(&error);
    assert_int_equal(ga_tap_choose(&selection, dit, 2, indices, &count, &error), GA_ERR_CONFIG);
    assert_non_null(strstr(error.message, "transformer_blocks.7"));
    selection = (ga_tap_selection){GA_TAP_MIDDLE, 0, NULL};
    assert_int_equal(ga_tap_choose(&selection, dit, 2, indices, &count, NULL), GA_ERR_ARGUMENT);
    selection = (ga_tap_selection){GA_TAP_MIDDLE, 3, NULL};
    assert_int_equal(ga_tap_choose(&selection, dit, 0, indices, &count, NULL), GA_ERR_ARGUMENT);
    selection = (ga_tap_selection){GA_TAP_NAMED, 1, NULL};
    assert_int_equal(ga_tap_choose(&selection, dit, 2, indices, &count, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(count, -1);
}

static void guidance_halves(void **state) {
    (void)state;
    float values[24];
    ga_tensor tensor = ga_tensor_make(values, GA_F32, 2, (const int64_t[]){6, 4}), view;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_rows_conditional(&tensor, 6, &view, &error), &error);
    assert_ptr_equal(view.data, values);
    assert_int_equal(view.shape[0], 6);
    test_ok(ga_rows_conditional(&tensor, 3, &view, &error), &error);
    assert_ptr_equal(view.data, values + 12);
    assert_int_equal(view.shape[0], 3);
    assert_int_equal(ga_rows_conditional(&tensor, 4, &view, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "6 rows for a batch of 4"));
    assert_int_equal(ga_rows_conditional(&tensor, 0, &view, NULL), GA_ERR_ARGUMENT);
    tensor.strides[0] = -4; /* rows stored backwards */
    tensor.data = values + 20;
    ga_error_clear(&error);
    test_ok(ga_rows_conditional(&tensor, 3, &view, &error), &error);
    assert_ptr_equal(view.data, values + 8);
}

/* query [4, 2, 6, 3], image keys alike, 5 text tokens: a guided batch of 2. */
typedef struct attention_case {
    float values[4 * 2 * 6 * 3];
    ga_tensor query, key_image, key_text;
} attention_case;

static void make_attention(attention_case *made) {
    made->query = ga_tensor_make(made->values, GA_F32, 4, (const int64_t[]){4, 2, 6, 3});
    made->key_image = made->query;
    made->key_text = ga_tensor_make(made->values, GA_F32, 4, (const int64_t[]){4, 2, 5, 3});
}

static void attention_is_taken(void **state) {
    (void)state;
    attention_case made;
    make_attention(&made);
    ga_capture_attention captured;
    const uint8_t content[10] = {0};
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_capture_attention_take(
                &made.query, &made.key_image, &made.key_text, content, 2, &captured, &error),
        &error);
    assert_true(captured.has_image_keys);
    assert_int_equal(captured.rows, 2);
    assert_int_equal(captured.heads, 2);
    assert_int_equal(captured.image_tokens, 6);
    assert_int_equal(captured.text_tokens, 5);
    assert_int_equal(captured.head_size, 3);
    assert_ptr_equal(captured.query.data, made.values + 2 * 36);
    assert_ptr_equal(captured.key_text.data, made.values + 2 * 30);
    assert_ptr_equal(captured.content, content);
    test_ok(ga_capture_attention_take(&made.query, NULL, &made.key_text, NULL, 4, &captured, &error), &error);
    assert_false(captured.has_image_keys);
    made.key_image.data = NULL;
    test_ok(
        ga_capture_attention_take(&made.query, &made.key_image, &made.key_text, NULL, 4, &captured, &error),
        &error);
    assert_false(captured.has_image_keys);
}

static void refuse_attention(const attention_case *made, ga_status expected, const char *words) {
    ga_capture_attention captured;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_capture_attention_take(
                         &made->query, &made->key_image, &made->key_text, NULL, 4, &captured, &error),
        expected);
    assert_non_null(strstr(error.message, words));
}

static void wrong_attention_is_named(void **state) {
    (void)state;
    attention_case made;
    make_attention(&made);
    made.key_text.dtype = GA_I64;
    refuse_attention(&made, GA_ERR_ARGUMENT, "key_text");
    make_attention(&made);
    made.key_text.dims = 3;
    refuse_attention(&made, GA_ERR_ARGUMENT, "3 dimensions");
    make_attention(&made);
    made.key_text.shape[1] = 1;
    refuse_attention(&made, GA_ERR_ARGUMENT, "heads");
    make_attention(&made);
    made.key_image.shape[3] = 2;
    refuse_attention(&made, GA_ERR_ARGUMENT, "key_image");
    make_attention(&made);
    made.query.shape[0] = 3;
    refuse_attention(&made, GA_ERR_ARGUMENT, "3 rows");
    make_attention(&made);
    made.query.shape[2] = 0;
    refuse_attention(&made, GA_ERR_ARGUMENT, "query");
    make_attention(&made);
    made.query.data = NULL;
    refuse_attention(&made, GA_ERR_ARGUMENT, "query");
    ga_capture_attention captured;
    assert_int_equal(ga_capture_attention_take(NULL, NULL, NULL, NULL, 4, &captured, NULL), GA_ERR_ARGUMENT);
}

/* Plain, content and hidden text in rows of five tokens, and a value that means nothing. */
static void wrong_content_is_named(void **state) {
    (void)state;
    attention_case made;
    make_attention(&made);
    uint8_t content[10] = {
        GA_TEXT_CONTENT, GA_TEXT_PLAIN, GA_TEXT_HIDDEN, GA_TEXT_PLAIN, GA_TEXT_HIDDEN, GA_TEXT_HIDDEN};
    ga_capture_attention captured;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_capture_attention_take(
                &made.query, &made.key_image, &made.key_text, content, 2, &captured, &error),
        &error);
    content[5 + 2] = 3;
    assert_int_equal(ga_capture_attention_take(
                         &made.query, &made.key_image, &made.key_text, content, 2, &captured, &error),
        GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "row 1, text token 2 is 3"));
}

/* Queries of the image, keys of it and of a reference image. */
static void image_keys_may_be_more(void **state) {
    (void)state;
    attention_case made;
    make_attention(&made);
    made.query.shape[2] = 4;
    ga_capture_attention captured;
    ga_error error;
    ga_error_clear(&error);
    test_ok(
        ga_capture_attention_take(&made.query, &made.key_image, &made.key_text, NULL, 2, &captured, &error),
        &error);
    assert_int_equal(captured.image_tokens, 4);
    assert_int_equal(captured.key_image.shape[2], 6);
}

/* Pointers of a device are counted with, never read. */
static void attention_may_be_elsewhere(void **state) {
    (void)state;
    attention_case made;
    make_attention(&made);
    made.query.device = made.key_image.device = made.key_text.device = GA_DEVICE_CUDA;
    ga_capture_attention captured;
    ga_error error;
    ga_error_clear(&error);
    test_ok(
        ga_capture_attention_take(&made.query, &made.key_image, &made.key_text, NULL, 2, &captured, &error),
        &error);
    assert_int_equal(captured.query.device, GA_DEVICE_CUDA);
    assert_ptr_equal(captured.query.data, made.values + 2 * 36);
    ga_capture_latent latent;
    assert_int_equal(
        ga_capture_latent_take(&made.query, &made.query, 0.5, 4, &latent, &error), GA_ERR_MISSING);
    assert_non_null(strstr(error.message, "copy on the CPU"));
}

static void latents_are_taken(void **state) {
    (void)state;
    static float values[2 * 3 * 4 * 5];
    ga_tensor latent = ga_tensor_make(values, GA_F32, 4, (const int64_t[]){2, 3, 4, 5});
    ga_tensor velocity = ga_tensor_make(values, GA_F16, 4, (const int64_t[]){2, 3, 4, 5});
    ga_capture_latent captured;
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_capture_latent_take(&latent, &velocity, 0.5, 2, &captured, &error), &error);
    assert_int_equal(captured.channels, 3);
    assert_int_equal(captured.height, 4);
    assert_int_equal(captured.width, 5);
    assert_int_equal(ga_capture_latent_take(&latent, &velocity, 0, 2, &captured, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_capture_latent_take(&latent, &velocity, NAN, 2, &captured, NULL), GA_ERR_ARGUMENT);
    velocity.shape[2] = 3;
    assert_int_equal(ga_capture_latent_take(&latent, &velocity, 0.5, 2, &captured, &error), GA_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "velocity"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(middle_blocks),
        cmocka_unit_test(encoder_and_named_blocks),
        cmocka_unit_test(impossible_selections_are_refused),
        cmocka_unit_test(guidance_halves),
        cmocka_unit_test(blocks_of_every_model),
        cmocka_unit_test(attention_may_be_elsewhere),
        cmocka_unit_test(attention_is_taken),
        cmocka_unit_test(wrong_attention_is_named),
        cmocka_unit_test(wrong_content_is_named),
        cmocka_unit_test(image_keys_may_be_more),
        cmocka_unit_test(latents_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
