#include "tests/unit/support.h"

#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

uint64_t test_seed(void) {
    static uint64_t seed = 0;
    if (seed == 0) {
        const char *text = getenv("GA_TEST_SEED");
        seed = text != NULL ? strtoull(text, NULL, 10) : 20261124u;
        printf("# GA_TEST_SEED=%llu\n", (unsigned long long)seed);
    }
    return seed;
}

ga_random test_random(uint64_t test_case) {
    return ga_random_make(test_seed(), test_case, GA_STREAM_TEST);
}

char *test_folder_make(void) {
    const char *base = getenv("TMPDIR");
    char pattern[512];
    (void)snprintf(pattern, sizeof pattern, "%s/grpo_accel_test_XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(pattern));
    return strdup(pattern);
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place) {
    (void)info;
    (void)type;
    (void)place;
    return remove(path);
}

void test_folder_remove(char *folder) {
    (void)nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(folder);
}

char *test_path(const char *folder, const char *name) {
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", folder, name) > 0);
    return path;
}

static double test_clock_now(void *user) {
    return ((test_clock *)user)->now_seconds;
}

static void test_clock_sleep(void *user, double seconds) {
    test_clock *clock = user;
    clock->now_seconds += seconds;
    clock->sleep_count++;
}

void test_clock_init(test_clock *clock) {
    memset(clock, 0, sizeof *clock);
    clock->clock = (ga_clock){test_clock_now, test_clock_sleep, clock};
}

void test_ok(ga_status status, const ga_error *error) {
    if (status != GA_OK) {
        fail_msg("status %s: %s", ga_status_name(status), error != NULL ? error->message : "");
    }
}
