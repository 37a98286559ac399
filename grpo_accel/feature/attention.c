#include "grpo_accel/feature/attention.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/feature/read.h"

/* A tile of logits is 128 × 256 floats: 128 KiB, half of a small second-level cache. */
#define QUERY_TILE 128
#define KEY_TILE 256
#define LANES 8
#define EXP_BLOCK 64

/* Pieces of the workspace. T = QUERY_TILE, D = head size, N = text tokens. */
typedef struct tiles {
    float *query;        /* [T, D], scaled by 1 / sqrt(D) */
    float *key;          /* [max(KEY_TILE, N), D] */
    float *text_logits;  /* [T, N] */
    float *image_logits; /* [T, KEY_TILE] */
    float *probability;  /* [T, N], mean over heads */
    float *highest;      /* [T] largest logit so far */
    float *sum;          /* [T] Σ exp(logit − highest) so far */
} tiles;

/* A part of the work: queries first … first+count−1 of row `row`. */
typedef struct tile {
    const ga_attention_views *views;
    int32_t row; /* of the tensors */
    int32_t first;
    int32_t count;
} tile;

static int32_t larger(int32_t a, int32_t b) {
    return a > b ? a : b;
}

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* ---- checks ----------------------------------------------------------------------------------------------
 */

int32_t ga_attention_count(uint32_t statistics) {
    return __builtin_popcount(statistics == 0 ? GA_ATTENTION_DEFAULT : statistics);
}

/* `tokens` −1: any number. */
static ga_status check_tensor(const ga_attention_views *views, const ga_tensor *tensor, const char *name,
    int32_t tokens, ga_error *error) {
    if (tensor == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %s is not given", name);
    }
    GA_TRY(ga_read_check(tensor, name, 4, error));
    if (tensor->shape[0] != views->query->shape[0] || tensor->shape[1] != views->heads ||
        (tokens >= 0 && tensor->shape[2] != tokens) || tensor->shape[3] != views->head_size) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "attention: %s is [%lld, %lld, %lld, %lld]; expected [%lld, %d heads, %d tokens, %d values]",
            name, (long long)tensor->shape[0], (long long)tensor->shape[1], (long long)tensor->shape[2],
            (long long)tensor->shape[3], (long long)views->query->shape[0], views->heads, tokens,
            views->head_size);
    }
    return GA_OK;
}

static ga_status check_rows(const ga_attention_views *views, ga_error *error) {
    const int64_t held = views->query->shape[0];
    if (views->rows < 1 || (views->row_index == NULL && views->rows > held)) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "attention: %d rows from tensors of %lld", views->rows, (long long)held);
    }
    for (int32_t i = 0; views->row_index != NULL && i < views->rows; i++) {
        if (views->row_index[i] < 0 || views->row_index[i] >= held) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: row %d from tensors of %lld rows",
                views->row_index[i], (long long)held);
        }
    }
    return GA_OK;
}

ga_status ga_attention_check(const ga_attention_views *views, ga_error *error) {
    GA_TRY(check_tensor(views, views->query, "query", views->image_tokens, error));
    GA_TRY(check_tensor(views, views->key_text, "key_text", views->text_tokens, error));
    if (views->key_image != NULL) {
        GA_TRY(check_tensor(views, views->key_image, "key_image", -1, error));
    }
    /* so that the workspace's size can't overflow */
    if (views->head_size > 1 << 14 || views->text_tokens > 1 << 20) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %d text tokens, heads of %d values",
            views->text_tokens, views->head_size);
    }
    if (views->statistics >> GA_ATTENTION_STATISTIC_COUNT != 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: statistics 0x%x are not known", views->statistics);
    }
    return check_rows(views, error);
}

/* ---- workspace -------------------------------------------------------------------------------------------
 */

static size_t key_rows(const ga_attention_views *views) {
    return (size_t)larger(KEY_TILE, views->text_tokens);
}

size_t ga_attention_workspace_floats(const ga_attention_views *views) {
    const size_t head_size = (size_t)views->head_size, text_tokens = (size_t)views->text_tokens;
    return QUERY_TILE * head_size + key_rows(views) * head_size + 2 * QUERY_TILE * text_tokens +
           QUERY_TILE * KEY_TILE + 2 * QUERY_TILE;
}

static tiles divide_workspace(const ga_attention_views *views, float *workspace) {
    const size_t head_size = (size_t)views->head_size, text_tokens = (size_t)views->text_tokens;
    tiles parts;
    parts.query = workspace;
    parts.key = parts.query + QUERY_TILE * head_size;
    parts.text_logits = parts.key + key_rows(views) * head_size;
    parts.image_logits = parts.text_logits + QUERY_TILE * text_tokens;
    parts.probability = parts.image_logits + QUERY_TILE * KEY_TILE;
    parts.highest = parts.probability + QUERY_TILE * text_tokens;
    parts.sum = parts.highest + QUERY_TILE;
    return parts;
}

/* ---- exponentials ----------------------------------------------------------------------------------------
 */

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/*
 * e^x for x ≤ 0, relative error below 3e-7; 0 below −87; NaN stays NaN. 2^n from the bits of a rounded float,
 * e^r by its Taylor series, |r| ≤ ln(2)/2. No calls, and masks where a comparison of floats would be a jump,
 * so that loops over it become vector code.
 */
static inline float exp_negative(float x) {
    const uint32_t lowest = 0xc2ae0000u, minus_infinity = 0xff800000u; /* −87 */
    const float rounder = 12582912.0f; /* 1.5 · 2²³ = 0x4b400000: adding it rounds to a whole number */
    const uint32_t bits = bits_of(x);
    const uint32_t below = 0u - (uint32_t)((bits > lowest) & (bits <= minus_infinity));
    const float bounded = float_of((bits & ~below) | (lowest & below));
    const float shifted = bounded * 1.44269504f + rounder;
    const float n = shifted - rounder;
    const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    float series = 1.0f / 720.0f;
    series = series * r + 1.0f / 120.0f;
    series = series * r + 1.0f / 24.0f;
    series = series * r + 1.0f / 6.0f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const float power = float_of((bits_of(shifted) - 0x4b400000u + 127u) << 23);
    return float_of(bits_of(series * power) & ~below);
}

static float highest_of(const float *values, int32_t count) {
    float lanes[LANES];
    for (int l = 0; l < LANES; l++) {
        lanes[l] = -INFINITY;
    }
    int32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            lanes[l] = values[i + l] > lanes[l] ? values[i + l] : lanes[l];
        }
    }
    float highest = -INFINITY;
    for (int l = 0; l < LANES; l++) {
        highest = lanes[l] > highest ? lanes[l] : highest;
    }
    for (; i < count; i++) {
        highest = values[i] > highest ? values[i] : highest;
    }
    return highest;
}

/* Σ exp(value − shift), in LANES partial sums: a fixed order, so the same on every machine. */
static float sum_exp(const float *values, int32_t count, float shift) {
    float lanes[LANES] = {0}, powers[EXP_BLOCK];
    for (int32_t first = 0; first < count; first += EXP_BLOCK) {
        const int32_t size = smaller(EXP_BLOCK, count - first);
        for (int32_t i = 0; i < size; i++) {
            powers[i] = exp_negative(values[first + i] - shift);
        }
        for (int32_t i = size; i < EXP_BLOCK; i++) {
            powers[i] = 0.0f;
        }
        for (int32_t i = 0; i < EXP_BLOCK; i += LANES) {
            for (int l = 0; l < LANES; l++) {
                lanes[l] += powers[i + l];
            }
        }
    }
    float sum = 0;
    for (int l = 0; l < LANES; l++) {
        sum += lanes[l];
    }
    return sum;
}

/* ---- one tile --------------------------------------------------------------------------------------------
 */

/* [count, head size] of one head's tokens, contiguous. */
static void gather(const ga_tensor *view, const tile *part, int32_t head, int32_t first, int32_t count,
    float scale, float *values) {
    const int64_t start = part->row * view->strides[0] + head * view->strides[1];
    for (int32_t i = 0; i < count; i++) {
        const int64_t offset = start + (int64_t)(first + i) * view->strides[2];
        ga_read_run(view, offset, view->strides[3], part->views->head_size, scale,
            values + (ptrdiff_t)i * part->views->head_size);
    }
}

/* logits [queries, keys] of the gathered tiles. */
static ga_status multiply(const ga_compute *compute, const tile *part, const float *query, const float *key,
    int32_t keys, float *logits, ga_error *error) {
    const ga_gemm gemm = {.transpose_b = true,
        .m = part->count,
        .n = keys,
        .k = part->views->head_size,
        .lda = part->views->head_size,
        .ldb = part->views->head_size,
        .ldc = keys,
        .alpha = 1.0f};
    return compute->sgemm(&gemm, query, key, logits, error);
}

/* Takes a tile of logits into each query's running maximum and sum. */
static void extend_sums(const tile *part, const float *logits, int32_t keys, float *highest, float *sum) {
    for (int32_t i = 0; i < part->count; i++) {
        const float *values = logits + (ptrdiff_t)i * keys;
        const float tile_highest = highest_of(values, keys);
        if (tile_highest > highest[i]) {
            sum[i] *= exp_negative(highest[i] - tile_highest);
            highest[i] = tile_highest;
        }
        sum[i] += sum_exp(values, keys, highest[i]);
    }
}

static ga_status extend_by_image(
    const ga_compute *compute, const tile *part, int32_t head, const tiles *parts, ga_error *error) {
    const ga_tensor *key = part->views->key_image;
    const int32_t tokens = key != NULL ? (int32_t)key->shape[2] : 0;
    for (int32_t first = 0; first < tokens; first += KEY_TILE) {
        const int32_t keys = smaller(KEY_TILE, tokens - first);
        gather(key, part, head, first, keys, 1.0f, parts->key);
        GA_TRY(multiply(compute, part, parts->query, parts->key, keys, parts->image_logits, error));
        extend_sums(part, parts->image_logits, keys, parts->highest, parts->sum);
    }
    return GA_OK;
}

/* probability += softmax / heads, for the text keys. */
static void add_probability(const tile *part, const tiles *parts) {
    for (int32_t i = 0; i < part->count; i++) {
        const float *logits = parts->text_logits + (ptrdiff_t)i * part->views->text_tokens;
        float *probability = parts->probability + (ptrdiff_t)i * part->views->text_tokens;
        const float factor = 1.0f / (parts->sum[i] * (float)part->views->heads);
        const float highest = parts->highest[i];
        for (int32_t j = 0; j < part->views->text_tokens; j++) {
            probability[j] += exp_negative(logits[j] - highest) * factor;
        }
    }
}

/* One head of one tile of queries. */
static ga_status add_head(
    const ga_compute *compute, const tile *part, int32_t head, const tiles *parts, ga_error *error) {
    gather(part->views->query, part, head, part->first, part->count,
        1.0f / sqrtf((float)part->views->head_size), parts->query);
    gather(part->views->key_text, part, head, 0, part->views->text_tokens, 1.0f, parts->key);
    GA_TRY(multiply(
        compute, part, parts->query, parts->key, part->views->text_tokens, parts->text_logits, error));
    for (int32_t i = 0; i < part->count; i++) {
        parts->highest[i] = -INFINITY;
        parts->sum[i] = 0.0f;
    }
    extend_sums(part, parts->text_logits, part->views->text_tokens, parts->highest, parts->sum);
    GA_TRY(extend_by_image(compute, part, head, parts, error));
    add_probability(part, parts);
    return GA_OK;
}

/* ---- statistics ------------------------------------------------------------------------------------------
 */

/* Sums of one query's probabilities; over content tokens but for `text`. */
typedef struct sums {
    double text;
    double content;
    double square;
    double weighted_log; /* Σ p ln p */
    double maximum;
    int32_t count;
} sums;

static sums sum_probabilities(const float *probability, const uint8_t *content, int32_t count, bool entropy) {
    sums s = {0};
    for (int32_t j = 0; j < count; j++) {
        const double p = (double)probability[j];
        s.text += p;
        if (content != NULL && content[j] == 0) {
            continue;
        }
        s.content += p;
        s.square += p * p;
        s.maximum = p > s.maximum ? p : s.maximum;
        s.weighted_log += entropy && p > 0 ? p * (double)logf(probability[j]) : 0.0;
        s.count++;
    }
    return s;
}

/* NaN in gives NaN out; no content gives 0. */
static float statistic(const sums *s, ga_attention_statistic which, bool has_image_keys) {
    if (which == GA_ATTENTION_MASS) {
        return (float)(has_image_keys ? s->text : s->content);
    }
    if (s->count == 0 || s->content == 0) {
        return (float)(s->text - s->text); /* 0, but NaN where the probabilities are */
    }
    if (which == GA_ATTENTION_ENTROPY) {
        const double entropy = log(s->content) - s->weighted_log / s->content;
        return (float)(entropy < 0 ? 0 : entropy);
    }
    if (which == GA_ATTENTION_MAXIMUM) {
        return (float)(isnan(s->content) ? s->content : s->maximum);
    }
    const double mean = s->content / s->count;
    const double variance = s->square / s->count - mean * mean;
    return (float)(sqrt(variance < 0 ? 0 : variance) / mean);
}

static const uint8_t *content_of(const ga_attention_views *views, int32_t row) {
    if (views->content == NULL || views->content_is_shared) {
        return views->content;
    }
    return views->content + (ptrdiff_t)row * views->text_tokens;
}

static void write_statistics(const tile *part, const tiles *parts, const ga_attention_maps *maps) {
    const bool has_image_keys = part->views->key_image != NULL;
    const uint8_t *content = content_of(part->views, part->row);
    for (int32_t i = 0; i < part->count; i++) {
        const float *probability = parts->probability + (ptrdiff_t)i * part->views->text_tokens;
        const sums s = sum_probabilities(
            probability, content, part->views->text_tokens, maps->maps[GA_ATTENTION_ENTROPY] != NULL);
        for (int k = 0; k < GA_ATTENTION_STATISTIC_COUNT; k++) {
            if (maps->maps[k] != NULL) {
                maps->maps[k][part->first + i] = statistic(&s, (ga_attention_statistic)k, has_image_keys);
            }
        }
    }
}

ga_status ga_attention_row(const ga_attention_views *views, int32_t row, const ga_compute *compute,
    float *workspace, const ga_attention_maps *maps, ga_error *error) {
    const tiles parts = divide_workspace(views, workspace);
    tile part = {views, views->row_index != NULL ? views->row_index[row] : row, 0, 0};
    for (; part.first < views->image_tokens; part.first += QUERY_TILE) {
        part.count = smaller(QUERY_TILE, views->image_tokens - part.first);
        memset(parts.probability, 0, sizeof(float) * (size_t)part.count * (size_t)views->text_tokens);
        for (int32_t head = 0; head < views->heads; head++) {
            GA_TRY(add_head(compute, &part, head, &parts, error));
        }
        write_statistics(&part, &parts, maps);
    }
    return GA_OK;
}
