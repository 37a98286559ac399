#include "grpo_accel/session/shift.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/base/digest.h"

_Static_assert(GA_DRIFT_BINS == GA_REFERENCE_BINS, "a probe's reference has the bins of a histogram");

/* Fewer rows than these say nothing about a distribution. */
static const double ROWS_MIN = 50;

/* A reference of few independent rows still has the shares of many. */
static const double REFERENCE_COUNT = 100;

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

/* Adds an update's groups to a column whose older updates fade. */
static void fade(ga_shift *shift, int32_t column, double groups) {
    const double left = exp2(-1.0 / GA_SHIFT_HALF_LIFE_UPDATES);
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        shift->now[column].count[bin] *= left;
    }
    shift->groups[column] = left * shift->groups[column] + groups;
}

/* How many groups the observed rows are of, by linear counting (Whang, Vander-Zanden, Taylor 1990): no
 * memory, and exact as good as ever for the few thousand groups that an update can have. */
static double count_groups(const ga_outcome *outcomes, int32_t count, int32_t *rows_out) {
    enum { PLACES = 32768 };
    uint8_t met[PLACES / 8] = {0};
    int32_t filled = 0;
    *rows_out = 0;
    for (int32_t i = 0; i < count; i++) {
        if (outcomes[i].observed != 0 || first_look(&outcomes[i]) >= 0) {
            const uint64_t place = ga_digest64(&outcomes[i].group, sizeof outcomes[i].group) % PLACES;
            const uint8_t bit = (uint8_t)(1U << (place % 8));
            filled += (met[place / 8] & bit) == 0;
            met[place / 8] |= bit;
            (*rows_out)++;
        }
    }
    return -PLACES * log1p(-fmin(filled, PLACES - 1.0) / PLACES);
}

static void take_scores(ga_shift *shift, const ga_outcome *outcomes, int32_t count, double groups) {
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
        fade(shift, 0, groups);
    }
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        shift->now[0].count[bin] += fresh.count[bin];
    }
}

static void take_features(ga_shift *shift, int32_t input, const uint64_t *counts, double groups) {
    uint64_t total = 0;
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        total += counts[bin];
    }
    if (total > 0) {
        fade(shift, 1 + input, groups);
    }
    for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
        shift->now[1 + input].count[bin] += (double)counts[bin];
    }
}

void ga_shift_take(ga_shift *shift, const ga_outcome *outcomes, int32_t count, const uint64_t *count_sum) {
    int32_t rows = 0;
    const double groups = count_groups(outcomes, count, &rows);
    shift->rows_per_group = rows > 0 ? fmax(1.0, rows / groups) : shift->rows_per_group;
    take_scores(shift, outcomes, count, groups);
    for (int32_t input = 0; input < GA_INPUT_COUNT; input++) {
        take_features(shift, input, count_sum + (int64_t)input * GA_DRIFT_BINS, groups);
    }
    memset(shift->counts, 0, sizeof shift->counts);
}

/* Independent rows that a column's reference stands for. */
static double effective_rows(const ga_shift *shift, const ga_shift_column *column) {
    const bool collected = column->collected_count == GA_SHIFT_COLLECTED;
    const double rows = (double)column->then.rows;
    return collected ? rows / fmax(1.0, shift->rows_per_group) : rows;
}

/* The mean of the references' shares, as counts; rows_out: independent ones of the smallest reference. */
static ga_histogram reference_of(const ga_shift *shift, int32_t column, double *rows_out) {
    double rows = 0.0, known = 0.0;
    ga_histogram reference = {{0}};
    for (int32_t i = 0; i < GA_CANDIDATES_MAX; i++) {
        const ga_shift_column *from = &shift->columns[i][column];
        if (from->then.rows > 0) {
            const double independent = effective_rows(shift, from);
            known += 1;
            rows = rows > 0 ? fmin(rows, independent) : independent;
            for (int32_t bin = 0; bin < GA_DRIFT_BINS; bin++) {
                reference.count[bin] += (double)from->then.shares[bin];
            }
        }
    }
    for (int32_t bin = 0; bin < GA_DRIFT_BINS && known > 0; bin++) {
        reference.count[bin] *= fmax(rows, REFERENCE_COUNT) / known;
    }
    *rows_out = rows;
    return reference;
}

static ga_drift read_column(const ga_shift *shift, int32_t column) {
    double rows = 0.0;
    const ga_histogram then = reference_of(shift, column, &rows);
    const ga_drift drift = ga_drift_compare(&then, &shift->now[column], rows, shift->groups[column]);
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
