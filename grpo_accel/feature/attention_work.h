/* One piece of a row's attention: the mean probabilities of some queries, by the loops of tile.h. */
#ifndef GA_FEATURE_ATTENTION_WORK_H
#define GA_FEATURE_ATTENTION_WORK_H

#include "grpo_accel/feature/attention_text.h"

/* Queries of a piece at most: keys are packed anew for each piece, so few, large pieces. */
#define GA_ATTENTION_PIECE 512

/* Floats of workspace that ga_attention_work needs for checked views; independent of the image tokens. */
size_t ga_attention_work_floats(const ga_attention_views *views, const ga_tile_kernel *kernel);

/*
 * probability [count, text->count] = mean over heads of the softmax's text part, for image tokens first …
 * first + count − 1 (count ≤ GA_ATTENTION_PIECE) of row `row`, which sees `text`. Views on the CPU. workspace
 * is aligned to 64 bytes. Any thread with a workspace of its own.
 */
void ga_attention_work(const ga_attention_views *views, const ga_tile_kernel *kernel,
    const ga_attention_text *text, int32_t row, int32_t first, int32_t count, float *workspace,
    float *probability);

#endif
