#include "tests/unit/attention_book.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "grpo_accel/compute/tensor.h"

const int natural_order[4] = {0, 1, 2, 3};
const int token_order[4] = {0, 2, 1, 3};
const int odd_order[4] = {3, 1, 0, 2};

static double store_value(int32_t dtype, void *memory, int64_t place, float value) {
    if (dtype == GA_F32) {
        ((float *)memory)[place] = value;
        return (double)value;
    }
    const uint16_t bits = dtype == GA_F16 ? ga_half_from_float(value) : ga_bfloat_from_float(value);
    ((uint16_t *)memory)[place] = bits;
    return (double)(dtype == GA_F16 ? ga_half_to_float(bits) : ga_bfloat_to_float(bits));
}

stored make_stored(
    ga_random *random, int32_t dtype, const int64_t shape[4], const int order[4], double scale) {
    stored made;
    memset(&made, 0, sizeof made);
    made.view = ga_tensor_make(NULL, (ga_dtype)dtype, 4, shape);
    int64_t size = 1;
    for (int i = 3; i >= 0; i--) {
        made.view.strides[order[i]] = size;
        size = size * shape[order[i]] + (i == 3);
    }
    const int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    made.values = malloc((size_t)count * sizeof(double));
    made.memory = calloc((size_t)size + 8, 4);
    assert_true(made.values != NULL && made.memory != NULL);
    made.view.data = made.memory;
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = i, place = 0;
        for (int d = 3; d >= 0; d--) {
            place += rest % shape[d] * made.view.strides[d];
            rest /= shape[d];
        }
        made.values[i] = store_value(dtype, made.memory, place, (float)(ga_random_normal(random) * scale));
    }
    return made;
}

void free_stored(stored *made) {
    free(made->values);
    free(made->memory);
}

/* A row's content. */
static void draw_content(const attention_case *what, int32_t row, ga_random *random, uint8_t *content) {
    const int32_t shown = (int32_t)ga_random_below(random, (uint32_t)what->text_tokens + 1);
    const bool all_hidden = what->mask == MASK_HIDDEN || (what->mask == MASK_FIRST_ROW && row == 0);
    for (int32_t j = 0; j < what->text_tokens; j++) {
        const uint8_t any = (uint8_t)ga_random_below(random, 3);
        const uint8_t attended = any != 0 ? GA_TEXT_CONTENT : GA_TEXT_PLAIN;
        content[j] = what->mask == MASK_PLAIN ? GA_TEXT_PLAIN : what->mask == MASK_CONTENT ? attended : any;
        if (what->mask == MASK_PADDED) {
            content[j] = j < shown ? attended : GA_TEXT_HIDDEN;
        }
        if (all_hidden) {
            content[j] = GA_TEXT_HIDDEN;
        }
    }
}

attention_inputs make_inputs(const attention_case *what, ga_random *random) {
    attention_inputs made;
    const int64_t query[4] = {what->held_rows, what->heads, what->image_tokens, what->head_size};
    const int64_t image[4] = {
        what->held_rows, what->heads, what->image_keys > 0 ? what->image_keys : 1, what->head_size};
    const int64_t text[4] = {what->held_rows, what->heads, what->text_tokens, what->head_size};
    made.query = make_stored(random, what->dtype, query, what->order, what->scale);
    made.key_image = make_stored(random, what->dtype, image, what->order, 1);
    made.key_text = make_stored(random, what->dtype, text, what->order, 1);
    made.content = malloc((size_t)(what->held_rows * what->text_tokens));
    assert_non_null(made.content);
    for (int32_t row = 0; row < what->held_rows; row++) {
        draw_content(what, row, random, made.content + (ptrdiff_t)row * what->text_tokens);
    }
    return made;
}

ga_attention_views views_of(const attention_case *what, const attention_inputs *inputs) {
    return (ga_attention_views){.rows = what->held_rows,
        .heads = what->heads,
        .image_tokens = what->image_tokens,
        .text_tokens = what->text_tokens,
        .head_size = what->head_size,
        .query = &inputs->query.view,
        .key_image = what->image_keys > 0 ? &inputs->key_image.view : NULL,
        .key_text = &inputs->key_text.view,
        .content = what->mask == MASK_NONE ? NULL : inputs->content,
        .statistics = ALL_STATISTICS,
        .threads = 1};
}

static const uint8_t *content_of(const attention_case *what, const attention_inputs *inputs, int32_t row) {
    return what->mask == MASK_NONE ? NULL : inputs->content + (ptrdiff_t)row * what->text_tokens;
}

static double dot(const double *a, const double *b, int32_t count) {
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* Of a text key, or after those an image key; −∞: hidden. */
static double logit_of(const attention_case *what, const attention_inputs *inputs, int64_t block,
    int32_t token, int32_t key, const uint8_t *content) {
    const int32_t d = what->head_size, image = key - what->text_tokens;
    const double *q = inputs->query.values + (block * what->image_tokens + token) * d;
    if (image >= 0) {
        return dot(q, inputs->key_image.values + (block * what->image_keys + image) * d, d) / sqrt((double)d);
    }
    if (content != NULL && content[key] == GA_TEXT_HIDDEN) {
        return -INFINITY;
    }
    return dot(q, inputs->key_text.values + (block * what->text_tokens + key) * d, d) / sqrt((double)d);
}

/* Adds one head's softmax over all keys, text part only, to probability[text tokens]; 0 without any key. */
static void naive_head(const attention_case *what, const attention_inputs *inputs, int32_t row, int32_t head,
    int32_t token, double *probability) {
    const int32_t keys = what->text_tokens + what->image_keys;
    double *logits = malloc((size_t)keys * sizeof *logits);
    double highest = -INFINITY, sum = 0;
    assert_non_null(logits);
    for (int32_t j = 0; j < keys; j++) {
        logits[j] = logit_of(
            what, inputs, (int64_t)row * what->heads + head, token, j, content_of(what, inputs, row));
        highest = fmax(highest, logits[j]);
    }
    for (int32_t j = 0; highest > -INFINITY && j < keys; j++) {
        sum += exp(logits[j] - highest);
    }
    for (int32_t j = 0; highest > -INFINITY && j < what->text_tokens; j++) {
        probability[j] += exp(logits[j] - highest) / sum / what->heads;
    }
    free(logits);
}

naive_row make_naive(const attention_case *what, const attention_inputs *inputs, int32_t row) {
    const int32_t n = what->image_tokens, m = what->text_tokens;
    naive_row made = {.image_tokens = n, .text_tokens = m, .joint = what->image_keys > 0};
    made.content = content_of(what, inputs, row);
    made.p = calloc((size_t)n * (size_t)m, sizeof(double));
    made.concentration = calloc((size_t)m, sizeof(double));
    assert_true(made.p != NULL && made.concentration != NULL);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t head = 0; head < what->heads; head++) {
            naive_head(what, inputs, row, head, i, made.p + (ptrdiff_t)i * m);
        }
    }
    for (int32_t j = 0; j < m; j++) {
        double sum = 0, entropy = 0;
        for (int32_t i = 0; i < n; i++) {
            sum += made.p[i * m + j];
        }
        for (int32_t i = 0; i < n; i++) {
            const double q = sum > 0 ? made.p[i * m + j] / sum : 0;
            entropy -= q > 0 ? q * log(q) : 0;
        }
        made.concentration[j] = n == 1 ? 1 : 1 - entropy / log((double)n);
    }
    return made;
}

void free_naive(naive_row *made) {
    free(made->p);
    free(made->concentration);
}

double naive_statistics(const naive_row *row, int32_t token, double out[GA_ATTENTION_STATISTIC_COUNT]) {
    const double *p = row->p + (ptrdiff_t)token * row->text_tokens;
    double text = 0, content = 0, square = 0, maximum = 0, entropy = 0, mixed = 0;
    int count = 0;
    for (int32_t j = 0; j < row->text_tokens; j++) {
        const bool is_content = row->content == NULL || row->content[j] == GA_TEXT_CONTENT;
        text += p[j];
        content += is_content ? p[j] : 0;
        square += is_content ? p[j] * p[j] : 0;
        maximum = is_content ? fmax(maximum, p[j]) : maximum;
        mixed += is_content ? p[j] * row->concentration[j] : 0;
        count += is_content;
    }
    for (int32_t j = 0; j < row->text_tokens; j++) {
        const bool is_content = row->content == NULL || row->content[j] == GA_TEXT_CONTENT;
        entropy -= is_content && p[j] > 0 ? p[j] / content * log(p[j] / content) : 0;
    }
    const double mean = count > 0 ? content / count : 0;
    out[GA_ATTENTION_MASS] = row->joint ? text : content;
    out[GA_ATTENTION_ENTROPY] = entropy;
    out[GA_ATTENTION_MAXIMUM] = maximum;
    out[GA_ATTENTION_SPREAD] = content > 0 ? sqrt(fmax(square / count - mean * mean, 0)) / mean : 0;
    out[GA_ATTENTION_SHARE] = content > 0 ? maximum / content : 0;
    out[GA_ATTENTION_CONCENTRATION] = content > 0 ? mixed / content : 0;
    return content;
}

void expect_row(const attention_case *what, const attention_inputs *inputs, int32_t row, const float *maps) {
    naive_row naive = make_naive(what, inputs, row);
    for (int32_t token = 0; token < what->image_tokens; token++) {
        double expected[GA_ATTENTION_STATISTIC_COUNT];
        const double content = naive_statistics(&naive, token, expected);
        for (int k = 0; k < GA_ATTENTION_STATISTIC_COUNT; k++) {
            const double found = (double)maps[k * what->image_tokens + token];
            /* shares of a text that fp32 hardly has a number for */
            if (content > 0 && content < 1e-30 && k != GA_ATTENTION_MASS && k != GA_ATTENTION_MAXIMUM) {
                assert_true(isfinite(found));
                continue;
            }
            /* a spread of nearly equal values is a difference of nearly equal squares */
            const double tolerance = k == GA_ATTENTION_SPREAD ? 1e-3 + what->tolerance : what->tolerance;
            if (!(fabs(found - expected[k]) <= tolerance * fmax(1, fabs(expected[k])))) {
                fail_msg("%s: row %d, token %d, statistic %d: %.9g, expected %.9g", what->name, row, token, k,
                    found, expected[k]);
            }
        }
    }
    free_naive(&naive);
}

float *compute_maps(const ga_attention_views *views) {
    ga_error error;
    ga_error_clear(&error);
    test_ok(ga_attention_check(views, &error), &error);
    const size_t count = (size_t)views->rows * (size_t)ga_attention_count(views->statistics);
    float *maps = malloc(count * (size_t)views->image_tokens * sizeof *maps);
    assert_non_null(maps);
    test_ok(ga_attention_compute(views, maps, &error), &error);
    return maps;
}

void free_inputs(attention_inputs *inputs) {
    free(inputs->content);
    free_stored(&inputs->query);
    free_stored(&inputs->key_image);
    free_stored(&inputs->key_text);
}
