#include "probe/reference.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"

static bool is_score(ga_input input) {
    return input == GA_INPUT_PREVIEW || input == GA_INPUT_LOOKAHEAD || input == GA_INPUT_DISTILLED;
}

static float pool(const ga_input_shape *shape, const ga_half *values) {
    const int32_t count = shape->channels * shape->height * shape->width;
    double sum = 0.0;
    for (int32_t i = 0; i < count; i++) {
        const double value = (double)ga_half_to_float(values[i]);
        sum += is_score(shape->input) ? value : value * value;
    }
    const double mean = sum / (count > 0 ? count : 1);
    const double figure = is_score(shape->input) ? mean : sqrt(mean);
    return isfinite(figure) ? (float)figure : NAN;
}

void ga_reference_pool(const ga_feature_schema *schema, const ga_half *row, float *figures_out) {
    for (int32_t i = 0; i < GA_INPUT_COUNT; i++) {
        figures_out[i] = NAN;
    }
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        figures_out[shape->input] = pool(shape, row + shape->offset);
    }
}

static int compare_floats(const void *left, const void *right) {
    const float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

int32_t ga_reference_bin(const float *edges, float value) {
    int32_t bin = 0;
    while (bin < GA_REFERENCE_EDGES && value > edges[bin]) {
        bin++;
    }
    return bin;
}

int64_t ga_reference_deciles(float *values, int64_t count, float *edges_out, float *shares_out) {
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
    for (int64_t i = 0; i < GA_REFERENCE_EDGES; i++) {
        /* the middle between the two values around the decile */
        const int64_t right = (i + 1) * known / (GA_REFERENCE_EDGES + 1);
        const int64_t left = right > 0 ? right - 1 : 0;
        edges_out[i] = values[left] + (values[right] - values[left]) / 2.0F;
    }
    for (int32_t bin = 0; bin < GA_REFERENCE_BINS; bin++) {
        shares_out[bin] = 0.0F;
    }
    for (int64_t i = 0; i < known; i++) {
        shares_out[ga_reference_bin(edges_out, values[i])] += 1.0F / (float)known;
    }
    return known;
}

int32_t ga_reference_place(const ga_reference *reference, int32_t step) {
    for (int32_t i = 0; i < reference->step_count; i++) {
        if (reference->steps[i] == step) {
            return i;
        }
    }
    return -1;
}
