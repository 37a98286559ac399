/* What every unit test shares: cmocka in the right order, a printed seed, a temporary folder, a clock to turn
 * by hand. */
#ifndef GA_TESTS_SUPPORT_H
#define GA_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/base/status.h"

/* Seed of this run: GA_TEST_SEED, or a fixed number; printed once so that a failure can be repeated. */
uint64_t test_seed(void);

/* A generator for one test case. */
ga_random test_random(uint64_t test_case);

/* A new empty folder below the system's temporary folder; freed and removed by test_folder_remove. */
char *test_folder_make(void);
void test_folder_remove(char *folder);

/* "folder/name", freed by the caller. */
char *test_path(const char *folder, const char *name);

/* A clock that only moves when told, or when somebody sleeps on it. */
typedef struct test_clock {
    ga_clock clock;
    double now_seconds;
    int sleep_count;
} test_clock;
void test_clock_init(test_clock *clock);

/* Fails with the error's message unless `status` is GA_OK. */
void test_ok(ga_status status, const ga_error *error);

#endif
