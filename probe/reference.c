#include "probe/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

ga_reference_column ga_reference_read(float *values, int64_t count) {
    ga_reference_column column = {.rows = 0.0F};
    int64_t known = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isnan(values[i])) {
            values[known++] = values[i];
        }
    }
    if (known == 0) {
        return column;
    }
    qsort(values, (size_t)known, sizeof *values, compare_floats);
    for (int64_t i = 0; i < GA_REFERENCE_EDGES; i++) {
        /* the middle between the two values around the decile */
        const int64_t right = (i + 1) * known / GA_REFERENCE_BINS;
        const int64_t left = right > 0 ? right - 1 : 0;
        column.edges[i] = values[left] + (values[right] - values[left]) / 2.0F;
    }
    for (int64_t i = 0; i < known; i++) {
        column.shares[ga_reference_bin(column.edges, values[i])] += 1.0F / (float)known;
    }
    column.rows = (float)known;
    return column;
}

int32_t ga_reference_place(const ga_reference *reference, int32_t step) {
    for (int32_t i = 0; i < reference->step_count; i++) {
        if (reference->steps[i] == step) {
            return i;
        }
    }
    return -1;
}

/* ---- in a file ---- */

#define COLUMN_FLOATS (1 + GA_REFERENCE_EDGES + GA_REFERENCE_BINS)
_Static_assert(sizeof(ga_reference_column) == COLUMN_FLOATS * sizeof(float), "a column is floats alone");

ga_status ga_reference_put(const ga_reference *reference, ga_weights *weights, ga_error *error) {
    const int64_t shape[3] = {reference->step_count, GA_REFERENCE_COLUMNS, COLUMN_FLOATS};
    return reference->step_count > 0
               ? ga_weights_add(weights, "reference", 3, shape, &reference->columns[0][0].rows, error)
               : GA_OK;
}

static bool is_sound(const ga_reference_column *column) {
    bool sound = column->rows >= 0.0F && isfinite(column->rows);
    for (int32_t i = 0; i < GA_REFERENCE_EDGES; i++) {
        sound = sound && isfinite(column->edges[i]);
        sound = sound && (i == 0 || column->edges[i] >= column->edges[i - 1]);
    }
    for (int32_t i = 0; i < GA_REFERENCE_BINS; i++) {
        sound = sound && column->shares[i] >= 0.0F && column->shares[i] <= 1.0F;
    }
    return sound;
}

ga_status ga_reference_get(const ga_weights *weights, const char *path, const int32_t *steps,
    int32_t step_count, ga_reference *reference_out, ga_error *error) {
    ga_reference reference = {.step_count = 0};
    const ga_weights_array *array = ga_weights_find(weights, "reference");
    if (array == NULL) {
        *reference_out = reference;
        return GA_OK;
    }
    bool sound = step_count > 0 && step_count <= GA_REFERENCE_STEPS_MAX && array->dims == 3 &&
                 array->shape[0] == step_count && array->shape[1] == GA_REFERENCE_COLUMNS &&
                 array->shape[2] == COLUMN_FLOATS;
    if (sound) {
        memcpy(reference.columns, array->values, (size_t)array->count * sizeof *array->values);
        memcpy(reference.steps, steps, (size_t)step_count * sizeof *steps);
        reference.step_count = step_count;
    }
    for (int32_t i = 0; sound && i < step_count * GA_REFERENCE_COLUMNS; i++) {
        sound = is_sound(&reference.columns[i / GA_REFERENCE_COLUMNS][i % GA_REFERENCE_COLUMNS]);
    }
    if (!sound) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: array \"reference\" is none of this program", path);
    }
    *reference_out = reference;
    return GA_OK;
}
