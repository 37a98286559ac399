#include "grpo_accel/feature/attention_text.h"

#include <stdlib.h>

#include "grpo_accel/compute/text.h"

/* Rows as the caller gave them, which is what most models have: nothing hidden, nothing copied. */
static void point_to_all(const ga_attention_views *views, ga_attention_text *texts) {
    for (int32_t row = 0; row < views->rows; row++) {
        const ptrdiff_t start = (ptrdiff_t)row * views->text_tokens;
        texts[row].count = views->text_tokens;
        texts[row].tokens = NULL;
        texts[row].content = views->content == NULL ? NULL : views->content + start;
    }
}

/* tokens and content: room for [rows, text tokens] each. */
static void choose_visible(
    const ga_attention_views *views, ga_attention_text *texts, int32_t *tokens, uint8_t *content) {
    for (int32_t row = 0; row < views->rows; row++) {
        const ptrdiff_t start = (ptrdiff_t)row * views->text_tokens;
        texts[row].count =
            ga_text_visible(views->content + start, views->text_tokens, tokens + start, content + start);
        texts[row].tokens = tokens + start;
        texts[row].content = content + start;
    }
}

ga_attention_text *ga_attention_texts_make(const ga_attention_views *views) {
    const size_t rows = (size_t)views->rows, count = rows * (size_t)views->text_tokens;
    const bool hidden = ga_text_hidden(views->content, (int64_t)count) > 0;
    const size_t token_bytes = sizeof(int32_t) + sizeof(uint8_t);
    ga_attention_text *texts = malloc(rows * sizeof *texts + (hidden ? count * token_bytes : 0));
    if (texts != NULL && hidden) {
        int32_t *tokens = (int32_t *)(void *)(texts + rows);
        choose_visible(views, texts, tokens, (uint8_t *)(tokens + count));
    } else if (texts != NULL) {
        point_to_all(views, texts);
    }
    return texts;
}
