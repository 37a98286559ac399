/* Attention statistics by their definition, in double. */
#ifndef GA_TESTS_PROVIDERS_ATTENTION_CASE_H
#define GA_TESTS_PROVIDERS_ATTENTION_CASE_H

#include "tests/providers/pair.h"

#define ATTENTION_STATISTICS 6

/* What a test asks for. Tokens of q and k stand `token_stride` values apart, at least the head size. */
typedef struct attention_case {
    int32_t rows, heads, image_tokens, text_tokens, head_size;
    int32_t image_keys; /* 0: cross-attention */
    int32_t token_stride;
    ga_dtype dtype;
    bool masked; /* content is given, and row 0 has none */
    bool hidden; /* some of the text is not attended, and all of row 0's */
    uint32_t statistics;
} attention_case;

/*
 * Draws q, k and content for `held` ≥ rows rows, asks the torch provider for rows held − 1, held − 2, …, and
 * fails unless every statistic is within `tolerance` of its definition.
 */
void attention_case_check(const attention_case *test, ga_random *random, double tolerance);

/* What a hidden key holds never reaches a result: a row is what it would be had its text been shorter. */
void attention_case_check_hidden(void);

/* A NaN in one row's query gives NaN there and leaves the other row alone. */
void attention_case_check_nan(void);

#endif
