/* Monotonic seconds and sleeping, replaceable by a test: nothing else in the library asks the system for
 * time. */
#ifndef GA_BASE_CLOCK_H
#define GA_BASE_CLOCK_H

#include <stddef.h>

typedef struct ga_clock {
    double (*now_seconds)(void *user);
    void (*sleep_seconds)(void *user, double seconds);
    void *user;
} ga_clock;

/* CLOCK_MONOTONIC and nanosleep. Never NULL. Thread-safe. */
const ga_clock *ga_clock_system(void);

static inline double ga_clock_now(const ga_clock *clock) {
    return clock->now_seconds(clock->user);
}

/* "2026-11-24T06:00:00Z" into text (≥ 21 bytes): wall-clock time, for attributes and file heads only. */
void ga_clock_utc(char *text, size_t bytes);

#endif
