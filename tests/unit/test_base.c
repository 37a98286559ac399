#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/log.h"

static void first_error_wins(void **state) {
    (void)state;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(GA_FAIL(&error, GA_ERR_FILE, "first %d", 1), GA_ERR_FILE);
    assert_int_equal(GA_FAIL(&error, GA_ERR_BUG, "second"), GA_ERR_BUG);
    assert_int_equal(error.status, GA_ERR_FILE);
    assert_string_equal(error.message, "first 1");
    assert_int_equal(GA_FAIL(NULL, GA_ERR_IO, "nobody listens"), GA_ERR_IO);
}

static void arena_aligns_zeroes_and_reuses(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(1024);
    assert_non_null(arena);
    for (int round = 0; round < 3; round++) {
        for (size_t bytes = 1; bytes < 3000; bytes += 97) {
            unsigned char *memory = ga_arena_take(arena, bytes, 1);
            assert_non_null(memory);
            assert_int_equal((uintptr_t)memory % 64, 0);
            for (size_t i = 0; i < bytes; i++) {
                assert_int_equal(memory[i], 0);
            }
            memset(memory, 0xff, bytes);
        }
        const size_t held_bytes = ga_arena_held_bytes(arena);
        ga_arena_reset(arena);
        assert_int_equal(ga_arena_held_bytes(arena), held_bytes);
    }
    assert_null(ga_arena_take(arena, SIZE_MAX / 2, 3));
    ga_arena_destroy(&arena);
    assert_null(arena);
    ga_arena_destroy(&arena);
}

/* Known answer of Philox-4x32-10 for counter 0, key 0 (Random123's kat_vectors). */
static void philox_known_answer(void **state) {
    (void)state;
    ga_random random = ga_random_make(0, 0, GA_STREAM_AUDIT);
    random.key[1] = 0;
    assert_int_equal(ga_random_u32(&random), 0x6627e8d5u);
    assert_int_equal(ga_random_u32(&random), 0xe169c58du);
    assert_int_equal(ga_random_u32(&random), 0xbc57ac4cu);
    assert_int_equal(ga_random_u32(&random), 0x9b00dbd8u);
}

static void streams_differ_and_repeat(void **state) {
    (void)state;
    ga_random a = ga_random_make(7, 3, GA_STREAM_AUDIT);
    ga_random b = ga_random_make(7, 3, GA_STREAM_ROUNDING);
    ga_random c = ga_random_make(7, 3, GA_STREAM_AUDIT);
    int equal_count = 0;
    for (int i = 0; i < 1000; i++) {
        const uint32_t value = ga_random_u32(&a);
        equal_count += value == ga_random_u32(&b);
        assert_int_equal(value, ga_random_u32(&c));
    }
    assert_true(equal_count < 3);
}

static void random_moments(void **state) {
    (void)state;
    ga_random random = test_random(1);
    double sum = 0, square = 0, normal_sum = 0, normal_square = 0;
    const int n = 200000;
    int histogram[7] = {0};
    for (int i = 0; i < n; i++) {
        const double u = ga_random_uniform(&random);
        assert_true(u >= 0 && u < 1);
        sum += u;
        square += u * u;
        const double z = ga_random_normal(&random);
        normal_sum += z;
        normal_square += z * z;
        histogram[ga_random_below(&random, 7)]++;
    }
    assert_true(fabs(sum / n - 0.5) < 0.005);
    assert_true(fabs(square / n - 1.0 / 3.0) < 0.005);
    assert_true(fabs(normal_sum / n) < 0.02);
    assert_true(fabs(normal_square / n - 1.0) < 0.02);
    for (int i = 0; i < 7; i++) {
        assert_true(fabs(histogram[i] - n / 7.0) < 6 * sqrt(n / 7.0));
    }
}

static void shuffle_is_a_permutation(void **state) {
    (void)state;
    ga_random random = test_random(2);
    int32_t indices[50];
    int seen[50] = {0};
    for (int32_t i = 0; i < 50; i++) {
        indices[i] = i;
    }
    ga_random_shuffle(&random, indices, 50);
    for (int i = 0; i < 50; i++) {
        seen[indices[i]]++;
    }
    for (int i = 0; i < 50; i++) {
        assert_int_equal(seen[i], 1);
    }
}

static void digests_are_known(void **state) {
    (void)state;
    assert_true(ga_digest64("", 0) == UINT64_C(0xef46db3751d8e999));
    assert_true(ga_digest_join(1, 2) != ga_digest_join(2, 1));
    uint8_t a[16], b[16];
    ga_digest128("a red circle", 12, a);
    ga_digest128("a red circle", 12, b);
    assert_memory_equal(a, b, 16);
    ga_digest128("a red square", 12, b);
    assert_true(memcmp(a, b, 16) != 0);
}

typedef struct lines {
    int count;
    char last[256];
} lines;

static void keep_line(void *user, int level, const char *line) {
    lines *kept = user;
    (void)level;
    kept->count++;
    (void)snprintf(kept->last, sizeof kept->last, "%s", line);
}

/* Before a level is set: what a session was told by the environment does not hold for the next one. */
static void a_new_sink_asks_the_environment_again(void **state) {
    (void)state;
    static const struct {
        const char *level;
        int lines;
    } sessions[] = {{"error", 0}, {"info", 1}, {"error", 0}};
    for (size_t i = 0; i < sizeof sessions / sizeof sessions[0]; i++) {
        lines kept = {0};
        assert_int_equal(setenv("GRPO_ACCEL_LOG", sessions[i].level, 1), 0);
        ga_log_set_sink(keep_line, &kept);
        ga_log(GA_LOG_INFO, "joined");
        assert_int_equal(kept.count, sessions[i].lines);
        ga_log_set_sink(NULL, NULL);
    }
    assert_int_equal(unsetenv("GRPO_ACCEL_LOG"), 0);
}

static void log_levels_prefix_and_once(void **state) {
    (void)state;
    static atomic_flag once = ATOMIC_FLAG_INIT;
    lines kept = {0};
    ga_log_set_sink(keep_line, &kept);
    ga_log_set_level(GA_LOG_WARNING);
    ga_log_set_prefix("rank 3: ");
    ga_log(GA_LOG_INFO, "not written");
    assert_int_equal(kept.count, 0);
    ga_log(GA_LOG_WARNING, "late by %d s", 4);
    assert_string_equal(kept.last, "rank 3: late by 4 s");
    ga_log_once(&once, GA_LOG_WARNING, "first");
    ga_log_once(&once, GA_LOG_WARNING, "second");
    assert_int_equal(kept.count, 2);
    ga_log_set_sink(NULL, NULL);
    ga_log_set_prefix("");
}

static void clock_goes_forward(void **state) {
    (void)state;
    const ga_clock *clock = ga_clock_system();
    const double start = ga_clock_now(clock);
    clock->sleep_seconds(clock->user, 0.002);
    assert_true(ga_clock_now(clock) > start);
    char text[32];
    ga_clock_utc(text, sizeof text);
    assert_int_equal(strlen(text), 20);
}

static void wire_sizes(void **state) {
    (void)state;
    assert_int_equal(sizeof(ga_candidate), 24);
    assert_int_equal(sizeof(ga_outcome), 64);
    assert_int_equal(sizeof(ga_tensor), 8 + 2 * 8 * GA_TENSOR_DIMS_MAX + 4 * 4 + 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_error_wins),
        cmocka_unit_test(arena_aligns_zeroes_and_reuses),
        cmocka_unit_test(philox_known_answer),
        cmocka_unit_test(streams_differ_and_repeat),
        cmocka_unit_test(random_moments),
        cmocka_unit_test(shuffle_is_a_permutation),
        cmocka_unit_test(digests_are_known),
        cmocka_unit_test(a_new_sink_asks_the_environment_again),
        cmocka_unit_test(log_levels_prefix_and_once),
        cmocka_unit_test(clock_goes_forward),
        cmocka_unit_test(wire_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
