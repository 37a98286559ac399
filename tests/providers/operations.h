/* Every operation of the table as a pair_operation, with arrays in a fixed order. */
#ifndef GA_TESTS_PROVIDERS_OPERATIONS_H
#define GA_TESTS_PROVIDERS_OPERATIONS_H

#include "tests/providers/pair.h"

/* A random case of each; `gradient` of the pair where there is one. *shape_out is what the case points to. */
typedef union case_shape {
    ga_gemm gemm;
    ga_conv conv;
    ga_group_norm norm;
    ga_adamw adamw;
    int32_t sizes[6];
    struct {
        int32_t rows, count, source_stride, target_stride;
        float factor;
    } plain;
} case_shape;

typedef pair_case (*case_maker)(ga_random *random, case_shape *shape_out);

typedef struct named_maker {
    const char *name;
    case_maker make;
} named_maker;

extern const named_maker case_makers[];
extern const size_t case_maker_count;

/* Operations at the shapes of a probe: 64 rows, 32 channels, 16×16 positions. */
extern const size_t bench_case_count;
pair_case bench_case_make(size_t which, case_shape *shape_out);

/*
 * Layers whose gradients are checked by differences: forward's arrays are inputs, then the output; backward's
 * are the same inputs, the gradient of the output, then the gradients of the inputs in their order.
 */
typedef struct layer_case {
    const char *name;
    pair_operation forward, backward;
    int32_t inputs;
    size_t floats[4]; /* of the inputs */
    size_t output_floats;
    case_shape shape;
} layer_case;

extern const size_t layer_case_count;
layer_case layer_case_make(size_t which, ga_random *random);

#endif
