/* The text that each row of a call can see. */
#ifndef GA_FEATURE_ATTENTION_TEXT_H
#define GA_FEATURE_ATTENTION_TEXT_H

#include "grpo_accel/feature/attention.h"

/* One row's visible tokens: for everything behind, its whole text. */
typedef struct ga_attention_text {
    int32_t count;
    const int32_t *tokens;  /* [count] which of the text tokens, ascending; NULL: 0 … count − 1 */
    const uint8_t *content; /* [count], never hidden; NULL: all are content */
} ga_attention_text;

/*
 * [views->rows] of checked views, to be given to free(); views->content must outlive it. NULL: no memory. Any
 * thread.
 */
ga_attention_text *ga_attention_texts_make(const ga_attention_views *views);

#endif
