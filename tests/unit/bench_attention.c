/* Seconds of attention's kernels at SD3.5-M's shape, also with half of the text hidden; prints a table,
 * asserts nothing about time. */
#include <stdio.h>
#include <stdlib.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/compute/tensor.h"
#include "grpo_accel/feature/attention.h"

enum { ROWS = 1, HEADS = 24, IMAGE_TOKENS = 1024, TEXT_TOKENS = 205, HEAD_SIZE = 64, REPEATS = 5 };

static float *make_values(ga_random *random, int64_t tokens) {
    const int64_t count = ROWS * HEADS * tokens * HEAD_SIZE;
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; values != NULL && i < count; i++) {
        values[i] = (float)ga_random_normal(random);
    }
    return values;
}

static ga_tensor view_of(float *values, int64_t tokens) {
    return ga_tensor_make(values, GA_F32, 4, (const int64_t[]){ROWS, HEADS, tokens, HEAD_SIZE});
}

static int measure(ga_attention_views *views, const ga_tile_kernel *kernel, uint32_t statistics) {
    static float maps[ROWS * GA_ATTENTION_STATISTIC_COUNT * IMAGE_TOKENS];
    const ga_clock *clock = ga_clock_system();
    double best_seconds = 1e9;
    views->kernel = kernel;
    views->statistics = statistics;
    for (int i = 0; i < REPEATS; i++) {
        const double start = ga_clock_now(clock);
        if (ga_attention_compute(views, maps, NULL) != GA_OK) {
            return 1;
        }
        const double seconds = ga_clock_now(clock) - start;
        best_seconds = seconds < best_seconds ? seconds : best_seconds;
    }
    const int32_t keys = IMAGE_TOKENS + (views->content != NULL ? TEXT_TOKENS / 2 : TEXT_TOKENS);
    const double operations = 2.0 * ROWS * HEADS * IMAGE_TOKENS * keys * HEAD_SIZE;
    printf("%-10s %d statistics, %d thread(s), %s: %8.2f ms a row, %6.1f Gflop/s\n", kernel->name,
        (int)ga_attention_count(statistics), (int)views->threads,
        views->content != NULL ? "half hidden" : "all text", 1e3 * best_seconds / ROWS,
        1e-9 * operations / best_seconds);
    return 0;
}

/* Every second token hidden: the pattern that a list of tokens is worst at. */
static void hide_half(uint8_t *content) {
    for (int32_t i = 0; i < ROWS * TEXT_TOKENS; i++) {
        content[i] = i % 2 == 0 ? GA_TEXT_HIDDEN : GA_TEXT_CONTENT;
    }
}

int main(void) {
    static uint8_t content[ROWS * TEXT_TOKENS];
    hide_half(content);
    ga_random random = ga_random_make(1, 0, GA_STREAM_TEST);
    float *query = make_values(&random, IMAGE_TOKENS), *image = make_values(&random, IMAGE_TOKENS);
    float *text = make_values(&random, TEXT_TOKENS);
    int failures = query == NULL || image == NULL || text == NULL;
    const ga_tensor query_view = view_of(query, IMAGE_TOKENS), image_view = view_of(image, IMAGE_TOKENS);
    const ga_tensor text_view = view_of(text, TEXT_TOKENS);
    ga_attention_views views = {.rows = ROWS,
        .heads = HEADS,
        .image_tokens = IMAGE_TOKENS,
        .text_tokens = TEXT_TOKENS,
        .head_size = HEAD_SIZE,
        .query = &query_view,
        .key_image = &image_view,
        .key_text = &text_view};
    int32_t kernels = 0;
    const ga_tile_kernel *const *kernel = ga_tile_kernels(&kernels);
    for (int32_t k = 0; k < kernels && failures == 0; k++) {
        for (views.threads = 1; views.threads <= 2; views.threads++) {
            failures += measure(&views, kernel[k], GA_ATTENTION_DEFAULT);
            failures += measure(&views, kernel[k], (1u << GA_ATTENTION_STATISTIC_COUNT) - 1);
            views.content = content;
            failures += measure(&views, kernel[k], GA_ATTENTION_DEFAULT);
            views.content = NULL;
        }
    }
    free(query);
    free(image);
    free(text);
    return failures == 0 ? 0 : 1;
}
