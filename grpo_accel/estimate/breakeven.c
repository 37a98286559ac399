#include "grpo_accel/estimate/breakeven.h"

#include <math.h>

#include "grpo_accel/estimate/energy.h"

/* What was not measured is not counted. */
static double known(double seconds) {
    return isfinite(seconds) && seconds > 0 ? seconds : 0.0;
}

double ga_full_seconds(const ga_seconds *seconds, int32_t steps_total) {
    return isfinite(seconds->step)
               ? (seconds->step + known(seconds->forward)) * steps_total + known(seconds->reward) +
                     known(seconds->train) + known(seconds->fixed)
               : (double)NAN;
}

/* Denoising steps per begun row. */
static double row_steps(const ga_course *course) {
    double running = 1.0, steps = 0.0;
    int32_t done = 0;
    for (int32_t i = 0; i < course->stage_count; i++) {
        steps += running * (course->step[i] + 1 - done);
        done = course->step[i] + 1;
        running = course->keep[i];
    }
    return steps + running * (course->steps_total - done);
}

double ga_course_seconds(const ga_seconds *seconds, const ga_course *course) {
    if (!isfinite(seconds->step)) {
        return (double)NAN;
    }
    double running = 1.0, looking = 0.0;
    for (int32_t i = 0; i < course->stage_count; i++) {
        looking += running * known(seconds->signal[course->candidate[i]]);
        running = course->keep[i];
    }
    const double trains = course->train_share > 0 ? course->train_share : 1.0;
    return seconds->step * row_steps(course) + known(seconds->forward) * course->steps_total + looking +
           known(seconds->own) + known(seconds->fixed) +
           running * (known(seconds->reward) + trains * known(seconds->train));
}

double ga_cost_ratio(const ga_seconds *seconds, const ga_course *course) {
    const double full = ga_full_seconds(seconds, course->steps_total);
    return full > 0 ? ga_course_seconds(seconds, course) / full : (double)NAN;
}

double ga_look_share(const ga_seconds *seconds, int32_t steps_total, int32_t candidate_count) {
    const double rollout = (seconds->step + known(seconds->forward)) * steps_total + known(seconds->reward);
    double looking = known(seconds->own);
    for (int32_t i = 0; i < candidate_count; i++) {
        looking += known(seconds->signal[i]);
    }
    return rollout > 0 ? looking / rollout : (double)NAN;
}

double ga_break_even_rho(double cost_ratio, double keep) {
    if (!(keep > 0 && keep < 1) || !isfinite(cost_ratio)) {
        return (double)NAN;
    }
    const double square = (cost_ratio - keep) / (ga_energy_ceiling(keep) - keep);
    return square > 1 ? (double)NAN : sqrt(fmax(0.0, square));
}
