/* The same operation on two providers: arrays that both hold, jobs that run on both, results that are
 * compared.
 */
#ifndef GA_TESTS_PROVIDERS_PAIR_H
#define GA_TESTS_PROVIDERS_PAIR_H

#include "tests/unit/support.h"

#include "grpo_accel/compute/torch.h"

#define PAIR_ARRAYS 10

/* An operation of a table on arrays of its device; `shape` is what the case says. */
typedef ga_status (*pair_operation)(
    const ga_compute *compute, float *const *arrays, const void *shape, ga_error *error);

/* One case: sizes of the arrays; outputs, a bit each, are compared (gradients with their own tolerance). */
typedef struct pair_case {
    const char *name;
    pair_operation operation;
    const void *shape;
    int32_t arrays;
    size_t floats[PAIR_ARRAYS];
    uint32_t outputs, gradients;
} pair_case;

extern const ga_compute *pair_native, *pair_torch;

/* Runs the case on one provider: `hosts` are uploaded, and hold what came back. */
void pair_run(const ga_compute *compute, const pair_case *test, float *const *hosts);

/* Runs the case on both from the same random values; outputs within 1e-5, gradients within 1e-4 of the
 * array's largest value. */
void pair_compare(const pair_case *test, ga_random *random);

/* `count` standard normal values; the caller frees. */
float *pair_random(ga_random *random, size_t count);

/* Fails unless |got − expected| ≤ tolerance · largest |expected|, at every place. */
void pair_near(const char *name, const float *got, const float *expected, size_t count, double tolerance);

#endif
