#include <math.h>
#include <stdlib.h>

#include "grpo_accel/feature/attention_work.h"
#include "grpo_accel/feature/tile.h"
#include "tests/unit/attention_book.h"

static const attention_case attention_cases[] = {
    {"plain", 2, 3, 16, 16, 7, 8, GA_F32, natural_order, 1, MASK_NONE, 1e-5},
    {"several tiles", 1, 2, 300, 577, 77, 64, GA_F32, natural_order, 1, MASK_CONTENT, 1e-5},
    {"odd sizes", 3, 1, 131, 129, 257, 5, GA_F32, odd_order, 1, MASK_CONTENT, 1e-5},
    {"tokens before heads", 2, 4, 35, 35, 9, 16, GA_F32, token_order, 1, MASK_CONTENT, 1e-5},
    {"fp16", 2, 2, 20, 20, 11, 12, GA_F16, natural_order, 1, MASK_CONTENT, 1e-5},
    {"bf16", 2, 2, 20, 20, 11, 12, GA_BF16, token_order, 1, MASK_CONTENT, 1e-5},
    {"cross-attention", 2, 2, 64, 0, 77, 8, GA_F32, natural_order, 1, MASK_CONTENT, 1e-5},
    {"cross-attention without mask", 2, 2, 30, 0, 5, 8, GA_F16, odd_order, 2, MASK_NONE, 1e-5},
    {"all masked", 2, 2, 9, 9, 5, 4, GA_F32, natural_order, 1, MASK_PLAIN, 1e-5},
    {"one of everything", 1, 1, 1, 1, 1, 1, GA_F32, natural_order, 1, MASK_NONE, 1e-5},
    {"large logits", 2, 2, 40, 40, 13, 16, GA_F32, natural_order, 60, MASK_CONTENT, 2e-3},
    {"two pieces", 1, 1, 531, 523, 21, 8, GA_F32, token_order, 1, MASK_CONTENT, 1e-5},
    {"logits beyond a float's exponent", 1, 2, 70, 70, 13, 16, GA_F32, odd_order, 300, MASK_NONE, 1e-2},
    {"a reference image's keys", 2, 3, 24, 61, 9, 8, GA_F16, token_order, 1, MASK_CONTENT, 1e-5},
    {"hidden text", 3, 2, 40, 40, 77, 16, GA_F32, natural_order, 1, MASK_ANY, 1e-5},
    {"hidden text beside a reference image", 3, 2, 20, 53, 19, 8, GA_BF16, token_order, 1, MASK_ANY, 1e-5},
    {"padding that is hidden", 4, 2, 33, 33, 256, 8, GA_BF16, token_order, 1, MASK_PADDED, 1e-5},
    {"padding that is hidden, cross-attention", 4, 2, 33, 0, 77, 8, GA_F16, odd_order, 1, MASK_PADDED, 1e-5},
    {"hidden text and two pieces", 2, 1, 531, 523, 41, 8, GA_F32, odd_order, 1, MASK_ANY, 1e-5},
    {"hidden text and large logits", 2, 2, 40, 40, 23, 16, GA_F32, natural_order, 60, MASK_ANY, 2e-3},
    {"one row's text hidden", 3, 2, 18, 18, 7, 8, GA_F32, natural_order, 1, MASK_FIRST_ROW, 1e-5},
    {"one row's text hidden, cross-attention", 3, 2, 18, 0, 7, 8, GA_F32, token_order, 1, MASK_FIRST_ROW,
        1e-5},
    {"all text hidden", 2, 2, 18, 25, 7, 8, GA_F16, natural_order, 1, MASK_HIDDEN, 1e-5},
    {"all text hidden, cross-attention", 2, 2, 18, 0, 7, 8, GA_F32, natural_order, 1, MASK_HIDDEN, 1e-5},
    {"equal logits", 1, 2, 10, 10, 6, 8, GA_F32, natural_order, 0, MASK_NONE, 1e-5},
};

/* By every kernel that this processor can run. */
static void attention_is_as_defined(void **state) {
    (void)state;
    ga_random random = test_random(1);
    int32_t kernels = 0;
    const ga_tile_kernel *const *kernel = ga_tile_kernels(&kernels);
    for (size_t i = 0; i < sizeof attention_cases / sizeof *attention_cases; i++) {
        const attention_case *what = &attention_cases[i];
        attention_inputs inputs = make_inputs(what, &random);
        ga_attention_views views = views_of(what, &inputs);
        for (int32_t k = 0; k < kernels; k++) {
            views.kernel = kernel[k];
            float *maps = compute_maps(&views);
            for (int32_t row = 0; row < what->held_rows; row++) {
                const ptrdiff_t size = GA_ATTENTION_STATISTIC_COUNT * what->image_tokens;
                expect_row(what, &inputs, row, maps + row * size);
            }
            free(maps);
        }
        free_inputs(&inputs);
    }
}

/* Shapes, types, strides and logits' sizes at random. */
static void attention_of_any_shape(void **state) {
    (void)state;
    ga_random random = test_random(11);
    static const int32_t dtypes[] = {GA_F32, GA_F16, GA_BF16};
    static const int *const orders[] = {natural_order, token_order, odd_order};
    for (int i = 0; i < 150; i++) {
        const attention_case what = {"any", 1 + (int32_t)ga_random_below(&random, 3),
            1 + (int32_t)ga_random_below(&random, 3), 1 + (int32_t)ga_random_below(&random, 50),
            (int32_t)ga_random_below(&random, 90), 1 + (int32_t)ga_random_below(&random, 40),
            1 + (int32_t)ga_random_below(&random, 24), dtypes[ga_random_below(&random, 3)],
            orders[ga_random_below(&random, 3)], 1 + 5 * ga_random_uniform(&random),
            (case_mask)ga_random_below(&random, MASK_COUNT), 2e-5};
        attention_inputs inputs = make_inputs(&what, &random);
        const ga_attention_views views = views_of(&what, &inputs);
        float *maps = compute_maps(&views);
        for (int32_t row = 0; row < what.held_rows; row++) {
            expect_row(&what, &inputs, row, maps + row * GA_ATTENTION_STATISTIC_COUNT * what.image_tokens);
        }
        free(maps);
        free_inputs(&inputs);
    }
}

static void threads_change_nothing(void **state) {
    (void)state;
    const attention_case what = {"threads", 3, 12, 600, 600, 40, 32, GA_F32, natural_order, 2, 1, 1e-5};
    ga_random random = test_random(12);
    attention_inputs inputs = make_inputs(&what, &random);
    ga_attention_views views = views_of(&what, &inputs);
    float *alone = compute_maps(&views);
    views.threads = 3;
    float *together = compute_maps(&views);
    assert_memory_equal(alone, together, 3 * GA_ATTENTION_STATISTIC_COUNT * 600 * sizeof *alone);
    free(together);
    views.statistics = 0; /* one piece at a time, none held */
    together = compute_maps(&views);
    for (int row = 0; row < 3; row++) {
        assert_memory_equal(alone + row * GA_ATTENTION_STATISTIC_COUNT * 600, together + row * 3 * 600,
            3 * 600 * sizeof *alone);
    }
    free(together);
    free(alone);
    free_inputs(&inputs);
}

/* What a hidden key holds is never read, and a row is what it would be had its text been shorter. */
static void hidden_keys_are_as_if_not_there(void **state) {
    (void)state;
    enum { SHOWN = 37, TEXT = 90, TOKENS = 50 };
    ga_random random = test_random(21);
    for (int32_t image_keys = 0; image_keys <= 60; image_keys += 60) {
        const attention_case what = {
            "there", 1, 2, TOKENS, image_keys, TEXT, 16, GA_F32, natural_order, 1, MASK_CONTENT, 1e-5};
        attention_inputs inputs = make_inputs(&what, &random);
        ga_attention_views views = views_of(&what, &inputs);
        memset(inputs.content + SHOWN, GA_TEXT_HIDDEN, TEXT - SHOWN);
        for (int32_t head = 0; head < 2; head++) {
            float *keys = (float *)inputs.key_text.memory + head * inputs.key_text.view.strides[1];
            for (int64_t i = SHOWN * inputs.key_text.view.strides[2]; i < TEXT * 16; i++) {
                keys[i] = NAN;
            }
        }
        float *hidden = compute_maps(&views);
        inputs.key_text.view.shape[2] = views.text_tokens = SHOWN;
        float *shorter = compute_maps(&views);
        assert_memory_equal(hidden, shorter, GA_ATTENTION_STATISTIC_COUNT * TOKENS * sizeof *hidden);
        free(hidden);
        free(shorter);
        free_inputs(&inputs);
    }
}

/* Of all rows' content, also where only some are wanted. */
static void other_values_of_content_are_refused(void **state) {
    (void)state;
    const attention_case what = {"values", 3, 1, 4, 4, 5, 4, GA_F32, natural_order, 1, MASK_ANY, 1e-5};
    ga_random random = test_random(22);
    attention_inputs inputs = make_inputs(&what, &random);
    const ga_attention_views views = views_of(&what, &inputs);
    assert_int_equal(ga_attention_check(&views, NULL), GA_OK);
    for (int value = 3; value < 256; value += 84) {
        ga_error error;
        ga_error_clear(&error);
        const uint8_t before = inputs.content[2 * 5 + 3];
        inputs.content[2 * 5 + 3] = (uint8_t)value;
        assert_int_equal(ga_attention_check(&views, &error), GA_ERR_ARGUMENT);
        assert_non_null(strstr(error.message, "row 2"));
        assert_non_null(strstr(error.message, "token 3"));
        inputs.content[2 * 5 + 3] = before;
    }
    free_inputs(&inputs);
}

static void attention_is_checked(void **state) {
    (void)state;
    const attention_case what = {"checks", 5, 2, 6, 6, 4, 8, GA_F32, natural_order, 1, 1, 1e-5};
    ga_random random = test_random(2);
    attention_inputs inputs = make_inputs(&what, &random);
    ga_attention_views views = views_of(&what, &inputs);
    assert_int_equal(ga_attention_check(&views, NULL), GA_OK);
    views.rows = 6;
    assert_int_equal(ga_attention_check(&views, NULL), GA_ERR_ARGUMENT);
    views.rows = 5;
    views.statistics = 64;
    assert_int_equal(ga_attention_check(&views, NULL), GA_ERR_ARGUMENT);
    views.statistics = 0;
    views.threads = -1;
    assert_int_equal(ga_attention_check(&views, NULL), GA_ERR_ARGUMENT);
    views.threads = 0;
    inputs.key_text.view.device = GA_DEVICE_CUDA;
    assert_int_equal(ga_attention_check(&views, NULL), GA_ERR_ARGUMENT);
    inputs.key_text.view.device = GA_DEVICE_CPU;
    inputs.key_image.view.shape[3] = 7;
    assert_int_equal(ga_attention_check(&views, NULL), GA_ERR_ARGUMENT);
    free_inputs(&inputs);
}

static void workspace_does_not_grow_with_the_image(void **state) {
    (void)state;
    ga_attention_views views = {
        .rows = 1, .heads = 24, .image_tokens = 64, .text_tokens = 205, .head_size = 64};
    int32_t kernels = 0;
    const ga_tile_kernel *kernel = ga_tile_kernels(&kernels)[0];
    const size_t floats = ga_attention_work_floats(&views, kernel);
    views.image_tokens = 16384;
    assert_int_equal(ga_attention_work_floats(&views, kernel), floats);
    assert_true(floats * sizeof(float) < 1 << 20);
}

static void bad_values_stay_local(void **state) {
    (void)state;
    const attention_case what = {"nan", 2, 2, 8, 8, 4, 8, GA_F32, natural_order, 1, 0, 1e-5};
    ga_random random = test_random(3);
    attention_inputs inputs = make_inputs(&what, &random);
    ((float *)inputs.query.memory)[3 * inputs.query.view.strides[2]] = NAN; /* row 0, head 0, token 3 */
    ((float *)inputs.query.memory)[5 * inputs.query.view.strides[2]] = INFINITY;
    ga_attention_views views = views_of(&what, &inputs);
    views.statistics = ALL_STATISTICS & ~GA_ATTENTION_BIT(GA_ATTENTION_CONCENTRATION);
    float *maps = compute_maps(&views);
    for (int place = 0; place < 2 * 5 * 8; place++) {
        const bool bad = place < 5 * 8 && (place % 8 == 3 || place % 8 == 5);
        assert_true(bad ? isnan(maps[place]) : isfinite(maps[place]));
    }
    free(maps);
    views.statistics = GA_ATTENTION_BIT(GA_ATTENTION_CONCENTRATION); /* of the row's other tokens too */
    maps = compute_maps(&views);
    for (int place = 0; place < 2 * 8; place++) {
        assert_true(place < 8 ? isnan(maps[place]) : isfinite(maps[place]));
    }
    free(maps);
    free_inputs(&inputs);
}

/* ---- the innermost loops ---- */

static void powers_are_exact(void **state) {
    (void)state;
    int32_t kernels = 0;
    const ga_tile_kernel *const *kernel = ga_tile_kernels(&kernels);
    assert_true(kernels >= 1);
    for (int32_t k = 0; k < kernels; k++) {
        float query[32], keys[32], shifts[32] = {0}, powers[32 * 32];
        assert_true(kernel[k]->queries <= 32 && kernel[k]->keys <= 32);
        for (int q = 0; q < 32; q++) {
            query[q] = 1.0f;
        }
        for (double x = -125.9; x < 126; x += 0.0371) {
            for (int i = 0; i < 32; i++) {
                keys[i] = (float)(x + i * 1e-3);
            }
            kernel[k]->write_powers(1, 1, query, keys, shifts, powers);
            for (int i = 0; i < kernel[k]->queries * kernel[k]->keys; i++) {
                const double expected = exp2((double)keys[i % kernel[k]->keys]);
                assert_true(fabs((double)powers[i] / expected - 1) < 2.5e-7);
            }
        }
        static const float odd[6] = {-130.0f, -126.7f, -INFINITY, INFINITY, 1e30f, 0.0f};
        memcpy(keys, odd, sizeof odd);
        keys[6] = NAN;
        const uint32_t payload = 0x7f8fffffu; /* a NaN whose low bits are set */
        memcpy(&keys[7], &payload, sizeof payload);
        kernel[k]->write_powers(1, 1, query, keys, shifts, powers);
        assert_true(powers[0] == 0.0f && fabsf(powers[1]) < 0x1p-125f && powers[2] == 0.0f);
        assert_true(powers[3] == 0x1p127f && powers[4] == 0x1p127f && powers[5] == 1.0f);
        assert_true(isnan(powers[6]) && isnan(powers[7]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_as_defined),
        cmocka_unit_test(attention_of_any_shape),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(hidden_keys_are_as_if_not_there),
        cmocka_unit_test(other_values_of_content_are_refused),
        cmocka_unit_test(attention_is_checked),
        cmocka_unit_test(powers_are_exact),
        cmocka_unit_test(workspace_does_not_grow_with_the_image),
        cmocka_unit_test(bad_values_stay_local),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
