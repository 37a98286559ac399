/*
 * Our own invariants, and integer casts that can't lose a value.
 *
 * GA_INVARIANT aborts where GA_ABORT_ON_BUG is defined (debug and sanitizer builds) and evaluates to false
 * in a release, so that the caller can leave with GA_ERR_BUG: a guest never ends its host.
 */
#ifndef GA_BASE_CHECK_H
#define GA_BASE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "grpo_accel/base/status.h"

#if defined(GA_ABORT_ON_BUG)
#define GA_INVARIANT(condition) ((condition) ? true : (abort(), false))
#else
#define GA_INVARIANT(condition) ((condition) ? true : false)
#endif

/* Leaves the function with GA_ERR_BUG if an invariant does not hold; only while nothing is owned. */
#define GA_REQUIRE(error, condition)                                                                         \
    do {                                                                                                     \
        if (!GA_INVARIANT(condition)) {                                                                      \
            return GA_FAIL((error), GA_ERR_BUG, "invariant does not hold: %s", #condition);                  \
        }                                                                                                    \
    } while (0)

/* a*b into *out; false, and *out untouched, if it overflows. */
static inline bool ga_multiply_size(size_t a, size_t b, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *out = product;
    return true;
}

/* A count that is known to be ≥ 0, as a size. Negative becomes 0. */
static inline size_t ga_size(int64_t value) {
    return value < 0 ? 0u : (size_t)value;
}

/* A size that is known to fit, as int32; saturates, so that a later range check catches it. */
static inline int32_t ga_int32(size_t value) {
    return value > (size_t)INT32_MAX ? INT32_MAX : (int32_t)value;
}

#endif
