#include "grpo_accel/estimate/drift.h"

#include <math.h>

static double sum(const ga_histogram *histogram) {
    double total = 0.0;
    for (int i = 0; i < GA_DRIFT_BINS; i++) {
        total += histogram->count[i];
    }
    return total;
}

/* Share of a bin; an empty one counts as half a row. */
static double share(const ga_histogram *histogram, int bin, double total) {
    return fmax(histogram->count[bin], 0.5) / total;
}

/* PSI that chance reaches: mean and two standard deviations. */
static double chance(double then_rows, double now_rows) {
    const double freedom = GA_DRIFT_BINS - 1;
    return (freedom + 2 * sqrt(2 * freedom)) * (1.0 / now_rows + 1.0 / then_rows);
}

ga_drift ga_drift_compare(
    const ga_histogram *then, const ga_histogram *now, double then_rows, double now_rows) {
    const double then_total = sum(then), now_total = sum(now);
    ga_drift drift = {(double)NAN, (double)NAN, now_total};
    if (!(then_total > 0 && now_total > 0 && then_rows > 0 && now_rows > 0)) {
        return drift;
    }
    double psi = 0.0, then_sum = 0.0, now_sum = 0.0;
    drift.ks = 0.0;
    for (int i = 0; i < GA_DRIFT_BINS; i++) {
        const double p = share(now, i, now_total), q = share(then, i, then_total);
        psi += (p - q) * log(p / q);
        now_sum += now->count[i] / now_total;
        then_sum += then->count[i] / then_total;
        drift.ks = fmax(drift.ks, fabs(now_sum - then_sum));
    }
    drift.psi = fmax(0.0, psi - chance(then_rows, now_rows));
    return drift;
}
