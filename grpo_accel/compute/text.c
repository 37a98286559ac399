#include "grpo_accel/compute/text.h"

#include <stddef.h>

ga_status ga_text_check(const uint8_t *content, int64_t rows, int32_t text_tokens, ga_error *error) {
    const int64_t count = content == NULL ? 0 : rows * text_tokens;
    for (int64_t i = 0; i < count; i++) {
        if (content[i] > GA_TEXT_HIDDEN) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "content of row %lld, text token %lld is %d; expected 0 (plain), 1 (content) or 2 (hidden)",
                (long long)(i / text_tokens), (long long)(i % text_tokens), content[i]);
        }
    }
    return GA_OK;
}

int64_t ga_text_hidden(const uint8_t *content, int64_t count) {
    int64_t hidden = 0;
    for (int64_t i = 0; content != NULL && i < count; i++) {
        hidden += content[i] == GA_TEXT_HIDDEN;
    }
    return hidden;
}

int32_t ga_text_visible(
    const uint8_t *content, int32_t text_tokens, int32_t *tokens_out, uint8_t *content_out) {
    int32_t count = 0;
    for (int32_t j = 0; j < text_tokens; j++) {
        const uint8_t text = content == NULL ? GA_TEXT_CONTENT : content[j];
        if (text != GA_TEXT_HIDDEN) {
            tokens_out[count] = j;
            content_out[count++] = text;
        }
    }
    return count;
}
