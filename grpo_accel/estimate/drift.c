#include "grpo_accel/estimate/drift.h"

#include <math.h>
#include <stdlib.h>

int32_t ga_drift_bin(const float *edges, double value) {
    if (isnan(value)) {
        return -1;
    }
    int32_t bin = 0;
    while (bin < GA_DRIFT_EDGES && value > (double)edges[bin]) {
        bin++;
    }
    return bin;
}

static int compare_floats(const void *left, const void *right) {
    const float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

int64_t ga_drift_edges(float *values, int64_t count, float *edges_out) {
    int64_t known = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isnan(values[i])) {
            values[known++] = values[i];
        }
    }
    if (known == 0) {
        return 0;
    }
    qsort(values, (size_t)known, sizeof *values, compare_floats);
    for (int64_t i = 0; i < GA_DRIFT_EDGES; i++) {
        /* the middle between the two values around the decile */
        const int64_t right = (i + 1) * known / GA_DRIFT_BINS;
        const int64_t left = right > 0 ? right - 1 : 0;
        edges_out[i] = values[left] + (values[right] - values[left]) / 2.0F;
    }
    return known;
}

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

ga_drift ga_drift_compare(const ga_histogram *then, const ga_histogram *now) {
    const double then_rows = sum(then), now_rows = sum(now);
    ga_drift drift = {(double)NAN, (double)NAN, now_rows};
    if (!(then_rows > 0 && now_rows > 0)) {
        return drift;
    }
    double psi = 0.0, then_sum = 0.0, now_sum = 0.0;
    drift.ks = 0.0;
    for (int i = 0; i < GA_DRIFT_BINS; i++) {
        const double p = share(now, i, now_rows), q = share(then, i, then_rows);
        psi += (p - q) * log(p / q);
        now_sum += now->count[i] / now_rows;
        then_sum += then->count[i] / then_rows;
        drift.ks = fmax(drift.ks, fabs(now_sum - then_sum));
    }
    drift.psi = fmax(0.0, psi - (GA_DRIFT_BINS - 1) * (1.0 / now_rows + 1.0 / then_rows));
    return drift;
}
