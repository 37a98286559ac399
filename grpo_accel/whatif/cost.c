#include "grpo_accel/whatif/cost.h"

#include <math.h>

#include "grpo_accel/estimate/breakeven.h"

/* Steps so fine that any share is a whole number of them. */
enum { STEPS = 1000000 };

double ga_shares_cost(const ga_shares *shares, int32_t stage_count, const double *keep) {
    ga_seconds seconds = {.step = 1.0 / STEPS,
        .reward = shares->reward,
        .train = shares->after * (1 + shares->reward) / (1 - shares->after)};
    ga_course course = {.steps_total = STEPS, .stage_count = stage_count};
    for (int32_t k = 0; k < stage_count; k++) {
        /* a row that is stopped after step t has run t + 1 of them */
        course.step[k] = (int32_t)lround(shares->before[k] * STEPS) - 1;
        course.candidate[k] = k;
        course.keep[k] = keep[k];
        seconds.signal[k] = shares->signal[k];
    }
    return ga_cost_ratio(&seconds, &course);
}
