/* Mean probabilities of one row → the statistics of attention.h. */
#ifndef GA_FEATURE_STATISTICS_H
#define GA_FEATURE_STATISTICS_H

#include "grpo_accel/feature/attention.h"

/* One row's maps, each [image tokens]; NULL: not wanted. In the order of ga_attention_statistic. */
typedef struct ga_attention_maps {
    float *maps[GA_ATTENTION_STATISTIC_COUNT];
} ga_attention_maps;

/*
 * Statistics of single image tokens, all but concentration: values first … first + count − 1 of the maps from
 * probability [count, text_tokens]. content [text_tokens], never hidden, or NULL. Any thread.
 */
void ga_statistics_write(const float *probability, const uint8_t *content, int32_t text_tokens,
    bool has_image_keys, int32_t first, int32_t count, const ga_attention_maps *maps);

/*
 * map_out [image_tokens] of concentration from the whole row's probability [image_tokens, text_tokens].
 * workspace holds 2 · text_tokens doubles. Any thread.
 */
void ga_statistics_concentration(const float *probability, const uint8_t *content, int32_t image_tokens,
    int32_t text_tokens, double *workspace, float *map_out);

#endif
