#include "tests/providers/bench.h"

#include <stdlib.h>

#include "tests/providers/operations.h"
#include "tests/providers/small_network.h"

#define ROUNDS 5

/* A pair_case repeated until it has taken a while. */
typedef struct timed {
    const ga_compute *compute;
    const pair_case *test;
    float *arrays[PAIR_ARRAYS];
    double seconds; /* of a call, median of ROUNDS */
} timed;

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static ga_status repeat(const timed *t, int32_t times, double *seconds_out, ga_error *error) {
    const ga_clock *clock = ga_clock_system();
    float one;
    const double began = ga_clock_now(clock);
    for (int32_t i = 0; i < times; i++) {
        GA_TRY(t->test->operation(t->compute, t->arrays, t->test->shape, error));
    }
    GA_TRY(t->compute->download(1, t->arrays[0], &one, error)); /* waits for the device */
    *seconds_out = ga_clock_now(clock) - began;
    return GA_OK;
}

static ga_status measure(timed *t, ga_error *error) {
    for (int32_t i = 0; i < t->test->arrays; i++) {
        GA_TRY(t->compute->allocate(t->test->floats[i], &t->arrays[i], error));
    }
    double once, rounds[ROUNDS];
    GA_TRY(repeat(t, 1, &once, error));
    GA_TRY(repeat(t, 1, &once, error));
    const int32_t times = once > 0.02 ? 1 : (int32_t)(0.02 / (once + 1e-7)) + 1;
    for (int i = 0; i < ROUNDS; i++) {
        GA_TRY(repeat(t, times, &rounds[i], error));
        rounds[i] /= times;
    }
    qsort(rounds, ROUNDS, sizeof rounds[0], ascending);
    t->seconds = rounds[ROUNDS / 2];
    return GA_OK;
}

static ga_status measure_and_release(void *user, ga_error *error) {
    timed *t = user;
    const ga_status status = measure(t, error);
    for (int32_t i = 0; i < t->test->arrays; i++) {
        t->compute->release(t->arrays[i]);
    }
    return status;
}

static double seconds_of(const ga_compute *compute, const pair_case *test) {
    timed t = {.compute = compute, .test = test};
    ga_error error = {0};
    test_ok(compute->run(measure_and_release, &t, &error), &error);
    return t.seconds;
}

static void bench_case(const char *name, const pair_case *test) {
    const double native = seconds_of(pair_native, test), torch = seconds_of(pair_torch, test);
    printf("| %s | %.1f | %.1f |\n", name, native * 1e6, torch * 1e6);
}

static void bench_training(const small_network *network) {
    ga_random random = test_random(5);
    const size_t parameters = small_network_parameters(network), rows = (size_t)network->rows;
    float *inputs = pair_random(&random, rows * 3 * (size_t)network->side * (size_t)network->side);
    float *targets = pair_random(&random, rows), *weights = calloc(parameters, sizeof *weights);
    float *predictions = calloc(rows, sizeof *predictions);
    double seconds[2];
    const ga_compute *const tables[2] = {pair_native, pair_torch};
    for (int i = 0; i < 2; i++) {
        small_network_train(tables[i], network, 2, inputs, targets, weights, predictions, &seconds[i]);
        small_network_train(tables[i], network, 10, inputs, targets, weights, predictions, &seconds[i]);
    }
    printf("| training step, %d rows of 3×%d×%d, width %d | %.0f | %.0f |\n", network->rows, network->side,
        network->side, network->width, seconds[0] * 1e5, seconds[1] * 1e5);
    free(inputs);
    free(targets);
    free(weights);
    free(predictions);
}

void bench_providers(void) {
    printf("| operation | native µs | torch µs |\n|---|---|---|\n");
    for (size_t i = 0; i < bench_case_count; i++) {
        case_shape shape;
        const pair_case test = bench_case_make(i, &shape);
        bench_case(test.name, &test);
    }
    const small_network networks[] = {{64, 16, 32}, {256, 16, 32}};
    for (size_t i = 0; i < 2; i++) {
        bench_training(&networks[i]);
    }
}
