#include "grpo_accel/base/clock.h"

#include <time.h>

static double system_now(void *user) {
    (void)user;
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void system_sleep(void *user, double seconds) {
    (void)user;
    const struct timespec time = {
        .tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    (void)nanosleep(&time, NULL);
}

const ga_clock *ga_clock_system(void) {
    static const ga_clock clock = {system_now, system_sleep, NULL};
    return &clock;
}

void ga_clock_utc(char *text, size_t bytes) {
    const time_t now = time(NULL);
    struct tm parts;
    if (gmtime_r(&now, &parts) == NULL || strftime(text, bytes, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) {
        text[0] = '\0';
    }
}
