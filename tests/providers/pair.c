#include "tests/providers/pair.h"

#include <math.h>
#include <stdlib.h>

const ga_compute *pair_native, *pair_torch;

float *pair_random(ga_random *random, size_t count) {
    float *values = malloc((count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)ga_random_normal(random);
    }
    return values;
}

typedef struct pair_job {
    const ga_compute *compute;
    const pair_case *test;
    float *const *hosts;
    float *arrays[PAIR_ARRAYS];
} pair_job;

static ga_status do_job(pair_job *job, ga_error *error) {
    const ga_compute *compute = job->compute;
    for (int32_t i = 0; i < job->test->arrays; i++) {
        GA_TRY(compute->allocate(job->test->floats[i], &job->arrays[i], error));
        GA_TRY(compute->upload(job->test->floats[i], job->hosts[i], job->arrays[i], error));
    }
    GA_TRY(job->test->operation(compute, job->arrays, job->test->shape, error));
    for (int32_t i = 0; i < job->test->arrays; i++) {
        GA_TRY(compute->download(job->test->floats[i], job->arrays[i], job->hosts[i], error));
    }
    return GA_OK;
}

static ga_status job_and_release(void *user, ga_error *error) {
    pair_job *job = user;
    const ga_status status = do_job(job, error);
    for (int32_t i = 0; i < job->test->arrays; i++) {
        job->compute->release(job->arrays[i]);
    }
    return status;
}

void pair_run(const ga_compute *compute, const pair_case *test, float *const *hosts) {
    pair_job job = {.compute = compute, .test = test, .hosts = hosts};
    ga_error error = {0};
    test_ok(
        compute->run(job_and_release, &job, &error), &error); /* a failing test must not jump out of a job */
}

void pair_near(const char *name, const float *got, const float *expected, size_t count, double tolerance) {
    double largest = 0.0;
    for (size_t i = 0; i < count; i++) {
        largest = fabs((double)expected[i]) > largest ? fabs((double)expected[i]) : largest;
    }
    for (size_t i = 0; i < count; i++) {
        const double difference = fabs((double)got[i] - (double)expected[i]);
        if (!(difference <= tolerance * largest + 1e-12)) {
            fail_msg("%s: value %zu is %.9g instead of %.9g; the largest is %.4g, the tolerance %g", name, i,
                (double)got[i], (double)expected[i], largest, tolerance);
        }
    }
}

void pair_compare(const pair_case *test, ga_random *random) {
    float *native[PAIR_ARRAYS], *torch[PAIR_ARRAYS];
    for (int32_t i = 0; i < test->arrays; i++) {
        native[i] = pair_random(random, test->floats[i]);
        torch[i] = malloc((test->floats[i] + 1) * sizeof(float));
        memcpy(torch[i], native[i], test->floats[i] * sizeof(float));
    }
    pair_run(pair_native, test, native);
    pair_run(pair_torch, test, torch);
    for (int32_t i = 0; i < test->arrays; i++) {
        const bool gradient = (test->gradients >> i & 1u) != 0;
        if (gradient || (test->outputs >> i & 1u) != 0) {
            pair_near(test->name, torch[i], native[i], test->floats[i], gradient ? 1e-4 : 1e-5);
        }
        free(native[i]);
        free(torch[i]);
    }
}
