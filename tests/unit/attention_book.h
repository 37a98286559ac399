/* Attention's statistics by their definition, in double, and tensors of every layout to ask them of. */
#ifndef GA_TESTS_ATTENTION_BOOK_H
#define GA_TESTS_ATTENTION_BOOK_H

#include <stdbool.h>

#include "grpo_accel/feature/attention.h"
#include "tests/unit/support.h"

/* A tensor with its memory: values as doubles, stored in `dtype`, dimensions laid out in the order of
 * `order`. */
typedef struct stored {
    ga_tensor view;
    double *values; /* row-major, as the dtype rounds them */
    void *memory;
} stored;

/* Orders of the dimensions in memory, the slowest first. */
extern const int natural_order[4];
extern const int token_order[4]; /* [B, N, H, D], as newer diffusers have it */
extern const int odd_order[4];

/* Normal values times `scale`. order[0] varies slowest in memory; every stride has one element of padding. */
stored make_stored(
    ga_random *random, int32_t dtype, const int64_t shape[4], const int order[4], double scale);
void free_stored(stored *made);

/* What `content` of a case is. */
typedef enum case_mask {
    MASK_NONE = 0,      /* NULL */
    MASK_CONTENT = 1,   /* plain or content by chance */
    MASK_PLAIN = 2,     /* no content at all */
    MASK_ANY = 3,       /* plain, content or hidden by chance */
    MASK_PADDED = 4,    /* a hidden end of another length in each row */
    MASK_HIDDEN = 5,    /* all hidden */
    MASK_FIRST_ROW = 6, /* row 0 all hidden, the others by chance */
    MASK_COUNT = 7
} case_mask;

typedef struct attention_case {
    const char *name;
    int32_t held_rows, heads, image_tokens, image_keys, text_tokens, head_size;
    int32_t dtype;
    const int *order;
    double scale; /* of queries: spread of the logits */
    case_mask mask;
    double tolerance;
} attention_case;

#define ALL_STATISTICS ((1u << GA_ATTENTION_STATISTIC_COUNT) - 1u)

typedef struct attention_inputs {
    stored query, key_image, key_text;
    uint8_t *content; /* [held rows, text tokens] */
} attention_inputs;

attention_inputs make_inputs(const attention_case *what, ga_random *random);
void free_inputs(attention_inputs *inputs);

/* All rows, all statistics, on one thread. */
ga_attention_views views_of(const attention_case *what, const attention_inputs *inputs);

/* A row by the definition, in double precision. */
typedef struct naive_row {
    int32_t image_tokens, text_tokens;
    const uint8_t *content; /* NULL: all */
    bool joint;
    double *p;             /* [image tokens, text tokens], 0 for hidden ones */
    double *concentration; /* [text tokens] */
} naive_row;

naive_row make_naive(const attention_case *what, const attention_inputs *inputs, int32_t row);
void free_naive(naive_row *made);

/* The statistics of an image token; returns the sum over content. */
double naive_statistics(const naive_row *row, int32_t token, double out[GA_ATTENTION_STATISTIC_COUNT]);

/* Fails unless maps [6, image tokens] of a row are as defined. */
void expect_row(const attention_case *what, const attention_inputs *inputs, int32_t row, const float *maps);

/* Maps of checked views; the caller frees them. */
float *compute_maps(const ga_attention_views *views);

#endif
