#include "tests/providers/attention_case.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/compute/tensor.h"

#define EXTRA_ROWS 1

/* q or k: the memory that a tensor shows, and the tensor. */
typedef struct drawn {
    void *memory;
    ga_tensor view;
} drawn;

static void store(void *memory, ga_dtype dtype, int64_t at, float value) {
    if (dtype == GA_F32) {
        ((float *)memory)[at] = value;
    } else {
        ((uint16_t *)memory)[at] = dtype == GA_F16 ? ga_half_from_float(value) : ga_bfloat_from_float(value);
    }
}

static double load(const drawn *d, int64_t row, int64_t head, int64_t token, int64_t i) {
    const int64_t *s = d->view.strides;
    const int64_t at = row * s[0] + head * s[1] + token * s[2] + i * s[3];
    if (d->view.dtype == GA_F32) {
        return (double)((const float *)d->memory)[at];
    }
    const uint16_t bits = ((const uint16_t *)d->memory)[at];
    return (double)(d->view.dtype == GA_F16 ? ga_half_to_float(bits) : ga_bfloat_to_float(bits));
}

/* [held, heads, tokens, head size], tokens before heads in memory as a projection leaves them. */
static drawn draw(const attention_case *test, int32_t tokens, ga_random *random) {
    const int64_t held = test->rows + EXTRA_ROWS;
    const int64_t shape[4] = {held, test->heads, tokens, test->head_size};
    const int64_t floats = held * tokens * test->heads * test->token_stride;
    drawn d = {.memory = calloc((size_t)floats, 4)};
    assert_non_null(d.memory);
    d.view = ga_tensor_make(d.memory, test->dtype, 4, shape);
    d.view.strides[3] = 1;
    d.view.strides[1] = test->token_stride;
    d.view.strides[2] = (int64_t)test->heads * test->token_stride;
    d.view.strides[0] = tokens * d.view.strides[2];
    for (int64_t i = 0; i < floats; i++) {
        store(d.memory, test->dtype, i, (float)ga_random_normal(random));
    }
    return d;
}

/* One row by the book. p [image tokens, text tokens]. */
typedef struct by_the_book {
    const attention_case *test;
    const drawn *query, *key_image, *key_text;
    const uint8_t *content; /* of the row */
    double *p;
} by_the_book;

/* −∞ where the key is hidden. */
static double logit(const by_the_book *b, int64_t row, int64_t head, int64_t i, int64_t key) {
    const bool image = key < b->test->image_keys;
    if (!image && b->content != NULL && b->content[key - b->test->image_keys] == GA_TEXT_HIDDEN) {
        return -INFINITY;
    }
    double sum = 0.0;
    for (int32_t d = 0; d < b->test->head_size; d++) {
        sum += load(b->query, row, head, i, d) * load(image ? b->key_image : b->key_text, row, head,
                                                     image ? key : key - b->test->image_keys, d);
    }
    return sum / sqrt((double)b->test->head_size);
}

static void fill_probabilities(const by_the_book *b, int64_t row) {
    const int64_t keys = b->test->image_keys + b->test->text_tokens;
    double *logits = malloc((size_t)keys * sizeof *logits);
    memset(b->p, 0, (size_t)b->test->image_tokens * (size_t)b->test->text_tokens * sizeof *b->p);
    for (int32_t i = 0; i < b->test->image_tokens; i++) {
        for (int32_t head = 0; head < b->test->heads; head++) {
            double highest = -INFINITY, sum = 0.0;
            for (int64_t key = 0; key < keys; key++) {
                logits[key] = logit(b, row, head, i, key);
                highest = logits[key] > highest ? logits[key] : highest;
            }
            for (int64_t key = 0; highest > -INFINITY && key < keys; key++) {
                sum += exp(logits[key] - highest);
            }
            for (int32_t j = 0; highest > -INFINITY && j < b->test->text_tokens; j++) {
                b->p[(int64_t)i * b->test->text_tokens + j] +=
                    exp(logits[b->test->image_keys + j] - highest) / sum / b->test->heads;
            }
        }
    }
    free(logits);
}

static bool is_content(const by_the_book *b, int32_t j) {
    return b->content == NULL || b->content[j] == GA_TEXT_CONTENT;
}

/* 1 − H / ln(image tokens) of the attention that text token j gets. */
static double token_concentration(const by_the_book *b, int32_t j) {
    double sum = 0.0, entropy = 0.0;
    for (int32_t i = 0; i < b->test->image_tokens; i++) {
        sum += b->p[(int64_t)i * b->test->text_tokens + j];
    }
    for (int32_t i = 0; i < b->test->image_tokens; i++) {
        const double q = sum > 0 ? b->p[(int64_t)i * b->test->text_tokens + j] / sum : 0;
        entropy -= q > 0 ? q * log(q) : 0.0;
    }
    return 1.0 - entropy / log((double)b->test->image_tokens);
}

static void statistics_by_the_book(
    const by_the_book *b, int32_t i, const double *concentrations, double *out) {
    const double *p = b->p + (int64_t)i * b->test->text_tokens;
    double text = 0.0, content = 0.0, square = 0.0, entropy = 0.0, highest = 0.0, mixed = 0.0;
    int32_t count = 0;
    for (int32_t j = 0; j < b->test->text_tokens; j++) {
        text += p[j];
        content += is_content(b, j) ? p[j] : 0.0;
        count += is_content(b, j);
    }
    memset(out, 0, ATTENTION_STATISTICS * sizeof *out);
    out[0] = b->test->image_keys > 0 ? text : content;
    if (count == 0) {
        return;
    }
    for (int32_t j = 0; j < b->test->text_tokens; j++) {
        if (is_content(b, j)) {
            const double w = p[j] / content;
            square += (p[j] - content / count) * (p[j] - content / count);
            entropy -= w > 0 ? w * log(w) : 0.0;
            highest = p[j] > highest ? p[j] : highest;
            mixed += w * concentrations[j];
        }
    }
    out[1] = entropy;
    out[2] = highest;
    out[3] = sqrt(square / count) / (content / count);
    out[4] = highest / content;
    out[5] = mixed;
}

static void check_row(const by_the_book *b, int64_t row, const float *maps, double tolerance) {
    fill_probabilities(b, row);
    double *concentrations = malloc((size_t)b->test->text_tokens * sizeof *concentrations);
    for (int32_t j = 0; j < b->test->text_tokens; j++) {
        concentrations[j] = token_concentration(b, j);
    }
    for (int32_t i = 0; i < b->test->image_tokens; i++) {
        double expected[ATTENTION_STATISTICS];
        statistics_by_the_book(b, i, concentrations, expected);
        int32_t channel = 0;
        for (int32_t k = 0; k < ATTENTION_STATISTICS; k++) {
            if ((b->test->statistics >> k & 1u) == 0) {
                continue;
            }
            const double got = (double)maps[(int64_t)channel++ * b->test->image_tokens + i];
            if (!(fabs(got - expected[k]) <= tolerance * (1.0 + fabs(expected[k])))) {
                fail_msg("statistic %d of token %d, row %d is %.8g instead of %.8g", k, i, (int)row, got,
                    expected[k]);
            }
        }
    }
    free(concentrations);
}

typedef struct attention_job {
    const ga_attention_op *op;
    float *maps;
} attention_job;

static ga_status ask(void *user, ga_error *error) {
    const attention_job *job = user;
    return pair_torch->attention(job->op, job->maps, error);
}

static float *run_attention(const ga_attention_op *op) {
    const size_t statistics = (size_t)__builtin_popcount(op->statistics);
    float *maps = calloc((size_t)op->rows * statistics, (size_t)op->image_tokens * sizeof *maps);
    assert_non_null(maps);
    ga_error error = {0};
    attention_job job = {op, maps};
    test_ok(pair_torch->run(ask, &job, &error), &error);
    return maps;
}

/* Random, but row 0 has no content, or nothing that can be seen. */
static void draw_content(const attention_case *test, ga_random *random, uint8_t *content) {
    for (int32_t i = 0; i < (test->rows + EXTRA_ROWS) * test->text_tokens; i++) {
        const uint8_t any = (uint8_t)ga_random_below(random, 3);
        const uint8_t first = test->hidden ? GA_TEXT_HIDDEN : GA_TEXT_PLAIN;
        const uint8_t other = test->hidden ? any : any != 0 ? GA_TEXT_CONTENT : GA_TEXT_PLAIN;
        content[i] = i < test->text_tokens ? first : other;
    }
}

void attention_case_check(const attention_case *test, ga_random *random, double tolerance) {
    drawn query = draw(test, test->image_tokens, random), key_text = draw(test, test->text_tokens, random);
    drawn key_image = {NULL, {0}};
    if (test->image_keys > 0) {
        key_image = draw(test, test->image_keys, random);
    }
    const size_t held = (size_t)(test->rows + EXTRA_ROWS), text_tokens = (size_t)test->text_tokens;
    uint8_t *content = calloc(held, text_tokens);
    draw_content(test, random, content);
    int32_t *order = malloc((size_t)test->rows * sizeof *order);
    for (int32_t i = 0; i < test->rows; i++) {
        order[i] = (int32_t)held - 1 - i;
    }
    order[test->rows - 1] = 0; /* the one without content */
    const ga_attention_op op = {test->rows, test->heads, test->image_tokens, test->text_tokens,
        test->head_size, &query.view, test->image_keys > 0 ? &key_image.view : NULL, &key_text.view,
        test->masked ? content : NULL, order, test->statistics};
    float *maps = run_attention(&op);
    by_the_book book = {test, &query, &key_image, &key_text, NULL, NULL};
    book.p = malloc((size_t)test->image_tokens * text_tokens * sizeof *book.p);
    const size_t row_floats = (size_t)__builtin_popcount(test->statistics) * (size_t)test->image_tokens;
    for (int32_t i = 0; i < test->rows; i++) {
        book.content = test->masked ? content + (size_t)order[i] * text_tokens : NULL;
        check_row(&book, order[i], maps + (size_t)i * row_floats, tolerance);
    }
    void *owned[] = {query.memory, key_text.memory, key_image.memory, content, order, maps, book.p};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) {
        free(owned[i]);
    }
}

void attention_case_check_nan(void) {
    ga_random random = test_random(77);
    const attention_case test = {.rows = 1,
        .heads = 2,
        .image_tokens = 5,
        .text_tokens = 3,
        .head_size = 4,
        .token_stride = 4,
        .dtype = GA_F32};
    drawn query = draw(&test, 5, &random), key_text = draw(&test, 3, &random);
    store(query.memory, GA_F32, 0, NAN); /* row 0, token 0 */
    const ga_attention_op op = {2, 2, 5, 3, 4, &query.view, NULL, &key_text.view, NULL, NULL, 0x3f};
    float *maps = run_attention(&op);
    for (int32_t k = 0; k < ATTENTION_STATISTICS; k++) {
        assert_true(isnan(maps[(ptrdiff_t)k * 5]));
        assert_true(k == 5 || isfinite(maps[k * 5 + 1]));
        assert_true(isfinite(maps[(ATTENTION_STATISTICS + k) * 5]));
    }
    free(maps);
    free(query.memory);
    free(key_text.memory);
}

void attention_case_check_hidden(void) {
    enum { SHOWN = 5, TEXT = 8, TOKENS = 6, SIZE = 4 };
    ga_random random = test_random(78);
    const attention_case test = {.rows = 1,
        .heads = 2,
        .image_tokens = TOKENS,
        .text_tokens = TEXT,
        .head_size = SIZE,
        .token_stride = SIZE,
        .dtype = GA_F32};
    uint8_t content[2 * TEXT] = {GA_TEXT_CONTENT, GA_TEXT_PLAIN, GA_TEXT_CONTENT, GA_TEXT_CONTENT,
        GA_TEXT_PLAIN, GA_TEXT_HIDDEN, GA_TEXT_HIDDEN, GA_TEXT_HIDDEN};
    drawn query = draw(&test, TOKENS, &random), key_text = draw(&test, TEXT, &random);
    for (int64_t i = SHOWN * key_text.view.strides[2]; i < key_text.view.strides[0]; i++) {
        store(key_text.memory, GA_F32, i, NAN); /* of row 0 */
    }
    for (int k = 0; k < 2; k++) {
        const ga_tensor *image = k == 0 ? NULL : &query.view;
        ga_attention_op op = {
            1, 2, TOKENS, TEXT, SIZE, &query.view, image, &key_text.view, content, NULL, 0x3f};
        float *hidden = run_attention(&op);
        op.text_tokens = SHOWN;
        ga_tensor shorter_view = key_text.view;
        shorter_view.shape[2] = SHOWN;
        op.key_text = &shorter_view;
        float *shorter = run_attention(&op);
        for (int32_t i = 0; i < ATTENTION_STATISTICS * TOKENS; i++) {
            assert_true(isfinite(shorter[i]) && fabsf(hidden[i] - shorter[i]) <= 1e-6f);
        }
        free(hidden);
        free(shorter);
    }
    free(query.memory);
    free(key_text.memory);
}
