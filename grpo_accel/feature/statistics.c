#include "grpo_accel/feature/statistics.h"

#include <math.h>

/* Sums of one query's probabilities; over content tokens but for `text`. */
typedef struct content_sums {
    double text;
    double content;
    double square;
    double weighted_log; /* Σ p ln p */
    double maximum;
    int32_t count;
} content_sums;

static bool is_content(const uint8_t *content, int32_t token) {
    return content == NULL || content[token] == GA_TEXT_CONTENT;
}

static content_sums sum_probabilities(
    const float *probability, const uint8_t *content, int32_t count, bool entropy) {
    content_sums s = {0};
    for (int32_t j = 0; j < count; j++) {
        const double p = (double)probability[j];
        s.text += p;
        if (!is_content(content, j)) {
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

/* Entropy of weights p / Σ p. */
static double entropy_of(double sum, double weighted_log) {
    const double entropy = log(sum) - weighted_log / sum;
    return entropy < 0 ? 0 : entropy;
}

/* NaN in gives NaN out; no content gives 0. */
static double statistic(const content_sums *s, ga_attention_statistic which, bool has_image_keys) {
    if (which == GA_ATTENTION_MASS) {
        return has_image_keys ? s->text : s->content;
    }
    if (s->count == 0 || s->content == 0) {
        return s->text - s->text; /* 0, but NaN where the probabilities are */
    }
    if (isnan(s->content)) {
        return s->content;
    }
    const double mean = s->content / s->count;
    const double variance = s->square / s->count - mean * mean;
    switch (which) {
    case GA_ATTENTION_ENTROPY: return entropy_of(s->content, s->weighted_log);
    case GA_ATTENTION_MAXIMUM: return s->maximum;
    case GA_ATTENTION_SPREAD: return sqrt(variance < 0 ? 0 : variance) / mean;
    case GA_ATTENTION_SHARE: return s->maximum / s->content;
    case GA_ATTENTION_MASS:
    case GA_ATTENTION_CONCENTRATION:
    case GA_ATTENTION_STATISTIC_COUNT: break;
    }
    return 0;
}

void ga_statistics_write(const float *probability, const uint8_t *content, int32_t text_tokens,
    bool has_image_keys, int32_t first, int32_t count, const ga_attention_maps *maps) {
    const bool entropy = maps->maps[GA_ATTENTION_ENTROPY] != NULL;
    for (int32_t i = 0; i < count; i++) {
        const content_sums s =
            sum_probabilities(probability + (ptrdiff_t)i * text_tokens, content, text_tokens, entropy);
        for (int k = 0; k < GA_ATTENTION_CONCENTRATION; k++) {
            if (maps->maps[k] != NULL) {
                maps->maps[k][first + i] = (float)statistic(&s, (ga_attention_statistic)k, has_image_keys);
            }
        }
    }
}

/* c[j] of every token, in place of the sums: see attention.h. */
static void concentrate(
    int32_t image_tokens, int32_t text_tokens, const double *weighted_logs, double *sums) {
    const double most = log((double)image_tokens);
    for (int32_t j = 0; j < text_tokens; j++) {
        const bool flat = image_tokens == 1 || sums[j] == 0; /* then its weight is 0 too, or there is one i */
        sums[j] = flat ? 1 : 1 - entropy_of(sums[j], weighted_logs[j]) / most;
    }
}

/* Σ over content of w · c for one image token. */
static double mix(
    const float *probability, const uint8_t *content, int32_t text_tokens, const double *concentrations) {
    double sum = 0, mixed = 0;
    for (int32_t j = 0; j < text_tokens; j++) {
        if (is_content(content, j)) {
            sum += (double)probability[j];
            mixed += (double)probability[j] * concentrations[j];
        }
    }
    return sum == 0 ? 0 : mixed / sum;
}

void ga_statistics_concentration(const float *probability, const uint8_t *content, int32_t image_tokens,
    int32_t text_tokens, double *workspace, float *map_out) {
    double *sums = workspace, *weighted_logs = workspace + text_tokens;
    for (int32_t j = 0; j < 2 * text_tokens; j++) {
        workspace[j] = 0;
    }
    for (int32_t i = 0; i < image_tokens; i++) {
        const float *at = probability + (ptrdiff_t)i * text_tokens;
        for (int32_t j = 0; j < text_tokens; j++) {
            if (is_content(content, j)) {
                sums[j] += (double)at[j];
                weighted_logs[j] += at[j] > 0 ? (double)at[j] * (double)logf(at[j]) : 0.0;
            }
        }
    }
    concentrate(image_tokens, text_tokens, weighted_logs, sums);
    for (int32_t i = 0; i < image_tokens; i++) {
        map_out[i] = (float)mix(probability + (ptrdiff_t)i * text_tokens, content, text_tokens, sums);
    }
}
