/*
 * Status codes and the error that explains them.
 *
 * Who decides that something is an error words it, once, with GA_FAIL; those above pass the status on.
 */
#ifndef GA_BASE_STATUS_H
#define GA_BASE_STATUS_H

#include "grpo_accel/grpo_accel.h"

/* Makes `error` say nothing. NULL is allowed. */
void ga_error_clear(ga_error *error);

/*
 * Writes status, place and a printf-style message to `error`, unless it already holds an error (the first
 * cause wins) or is NULL. Returns `status`, so that a caller can write `return GA_FAIL(...)`.
 */
ga_status ga_error_set(ga_error *error, const char *file, int line, ga_status status, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* "argument", "config", ...: a stable word for each status, for logs and JSON. Static storage. */
const char *ga_status_name(ga_status status);

#define GA_FAIL(error, status, ...) ga_error_set((error), __FILE__, __LINE__, (status), __VA_ARGS__)

/* Returns the callee's status. Allowed only while the calling function owns nothing. */
#define GA_TRY(call)                                                                                         \
    do {                                                                                                     \
        const ga_status try_status_ = (call);                                                                \
        if (try_status_ != GA_OK) {                                                                          \
            return try_status_;                                                                              \
        }                                                                                                    \
    } while (0)

#endif
