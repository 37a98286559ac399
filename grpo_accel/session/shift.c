#include "grpo_accel/session/shift.h"

#include <math.h>
#include <string.h>

_Static_assert(GA_DRIFT_BINS == GA_REFERENCE_BINS, "a probe's reference has the bins of a histogram");

/* Fewer rows than these say nothing about a distribution. */
static const double ROWS_MIN = 50;

void ga_shift_reset(ga_shift *shift, const ga_reference *reference, const int32_t *steps, int32_t count) {
    memset(shift, 0, sizeof *shift);
    for (int32_t candidate = 0; candidate < count && reference != NULL; candidate++) {
        const int32_t place = ga_reference_place(reference, steps[candidate]);
        for (int32_t column = 0; column < GA_REFERENCE_COLUMNS && place >= 0; column++) {
            shift->columns[candidate][column].then = reference->columns[place][column];
        }
    }
}

/* The bin of a value; −1 while the column's edges are still being collected. */
static int32_t bin_of(ga_shift_column *column, float value) {
    if (isnan(value)) {
        return -1;
    }
    if (column->then.rows > 0) {
        return ga_reference_bin(column->then.edges, value);
    }
    column->collected[column->collected_count++] = value;
    if (column->collected_count == GA_SHIFT_COLLECTED) {
        column->then = ga_reference_read(column->collected, column->collected_count);
    }
    return -1;
}

void ga_shift_look(ga_shift *shift, const ga_feature_block *block, int32_t candidate) {
    float figures[GA_INPUT_COUNT];
    for (int32_t row = 0; row < block->rows; row++) {
        ga_reference_pool(
            block->schema, block->values + (int64_t)row * block->schema->values_per_row, figures);
        for (int32_t input = 0; input < GA_INPUT_COUNT; input++) {
            const int32_t bin = bin_of(&shift->columns[candidate][1 + input], figures[input]);
            uint16_t *count = &shift->counts[input * GA_DRIFT_BINS + (bin < 0 ? 0 : bin)];
            *count = (uint16_t)(*count + (bin >= 0 && *count < UINT16_MAX));
        }
    }
}

/* The first candidate step at which the row has a prediction; −1: none. */
static int32_t first_look(const ga_outcome *outcome) {
    for (int32_t i = 0; i < GA_CANDIDATES_MAX; i++) {
        if (isfinite(outcome->candidate_mean[i])) {
            return i;
        }
    }
    return -1;
}

static void fade(ga_histogram *histogram) {
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        histogram->count[bin] *= exp2(-1.0 / GA_SHIFT_HALF_LIFE_UPDATES);
    }
}

static void take_scores(ga_shift *shift, const ga_outcome *outcomes, int32_t count) {
    ga_histogram fresh = {{0}};
    bool any = false;
    for (int32_t i = 0; i < count; i++) {
        const int32_t candidate = first_look(&outcomes[i]);
        if (candidate >= 0) {
            const int32_t bin = bin_of(&shift->columns[candidate][0], outcomes[i].candidate_mean[candidate]);
            fresh.count[bin < 0 ? 0 : bin] += bin >= 0;
            any |= bin >= 0;
        }
    }
    if (any) {
        fade(&shift->now[0]);
    }
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        shift->now[0].count[bin] += fresh.count[bin];
    }
}

static void take_features(ga_shift *shift, int32_t input, const uint64_t *counts) {
    uint64_t total = 0;
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        total += counts[bin];
    }
    if (total > 0) {
        fade(&shift->now[1 + input]);
    }
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        shift->now[1 + input].count[bin] += (double)counts[bin];
    }
}

void ga_shift_take(ga_shift *shift, const ga_outcome *outcomes, int32_t count, const uint64_t *count_sum) {
    take_scores(shift, outcomes, count);
    for (int32_t input = 0; input < GA_INPUT_COUNT; input++) {
        take_features(shift, input, count_sum + (int64_t)input * GA_DRIFT_BINS);
    }
    memset(shift->counts, 0, sizeof shift->counts);
}

/* As many rows as the smallest reference of the figure, with the mean of the references' shares. */
static ga_histogram reference_of(const ga_shift *shift, int32_t column) {
    double rows = 0.0, known = 0.0;
    ga_histogram reference = {{0}};
    for (int32_t i = 0; i < GA_CANDIDATES_MAX; i++) {
        const ga_reference_column *from = &shift->columns[i][column].then;
        if (from->rows > 0) {
            known += 1;
            rows = rows == 0 || (double)from->rows < rows ? (double)from->rows : rows;
            for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
                reference.count[bin] += (double)from->shares[bin];
            }
        }
    }
    for (int32_t bin = 0; bin < GA_DRIFT_BINS && known > 0; bin++) {
        reference.count[bin] *= rows / known;
    }
    return reference;
}

static ga_drift read_column(const ga_shift *shift, int32_t column) {
    const ga_histogram then = reference_of(shift, column);
    const ga_drift drift = ga_drift_compare(&then, &shift->now[column]);
    return drift.rows >= ROWS_MIN ? drift : (ga_drift){(double)NAN, (double)NAN, drift.rows};
}

void ga_shift_read(const ga_shift *shift, ga_drift *scores_out, ga_drift *features_out, int32_t *input_out) {
    *scores_out = read_column(shift, 0);
    *features_out = (ga_drift){(double)NAN, (double)NAN, 0.0};
    *input_out = -1;
    for (int32_t input = 0; input < GA_INPUT_COUNT; input++) {
        const ga_drift drift = read_column(shift, 1 + input);
        if (isfinite(drift.psi) && !(drift.psi <= features_out->psi)) {
            *features_out = drift;
            *input_out = input;
        }
    }
}
