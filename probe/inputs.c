#include "probe/inputs.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const input_names[GA_INPUT_COUNT] = {
    "attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled"};

/* More values than any real row has; keeps every product below in 32 bits. */
#define VALUES_PER_ROW_MAX (1 << 20)

static bool is_map(const ga_input_shape *shape) {
    return shape->height > 1 || shape->width > 1;
}

static int32_t folded_count(const ga_input_shape *shape) {
    return shape->channels < GA_INPUTS_SKETCH ? shape->channels : GA_INPUTS_SKETCH;
}

static bool shape_is_possible(const ga_input_shape *shape, int32_t values_per_row) {
    if ((int)shape->input < 0 || (int)shape->input >= GA_INPUT_COUNT || shape->channels < 1 ||
        shape->height < 1 || shape->width < 1 || shape->offset < 0) {
        return false;
    }
    int64_t values;
    if (__builtin_mul_overflow((int64_t)shape->channels * shape->height, (int64_t)shape->width, &values)) {
        return false;
    }
    return values <= values_per_row && shape->offset <= values_per_row - values;
}

static bool shapes_overlap(const ga_input_shape *a, const ga_input_shape *b) {
    const int64_t a_end = (int64_t)a->offset + (int64_t)a->channels * a->height * a->width;
    const int64_t b_end = (int64_t)b->offset + (int64_t)b->channels * b->height * b->width;
    return a->offset < b_end && b->offset < a_end;
}

static ga_status check_schema(const ga_feature_schema *schema, ga_error *error) {
    if (schema == NULL || schema->input_count < 1 || schema->input_count > GA_INPUT_COUNT ||
        schema->values_per_row < 1 || schema->values_per_row > VALUES_PER_ROW_MAX || schema->id == 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "the feature schema has no inputs, no values or no id");
    }
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        if (!shape_is_possible(shape, schema->values_per_row)) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "input %d of the feature schema leaves its row of %d values", i, schema->values_per_row);
        }
        for (int32_t j = 0; j < i; j++) {
            if (shapes_overlap(shape, &schema->inputs[j])) {
                return GA_FAIL(
                    error, GA_ERR_ARGUMENT, "inputs %d and %d of the feature schema overlap", j, i);
            }
        }
    }
    return GA_OK;
}

ga_status ga_inputs_plan(const ga_feature_schema *schema, ga_inputs *inputs_out, ga_error *error) {
    GA_TRY(check_schema(schema, error));
    ga_inputs inputs = {.schema = *schema, .pooled_count = 1};
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        if (!is_map(shape)) {
            inputs.scalar_count += folded_count(shape);
            inputs.pooled_count += folded_count(shape);
            inputs.prompt_count += shape->input == GA_INPUT_PROMPT ? folded_count(shape) : 0;
            continue;
        }
        if (inputs.map_channels > 0 && (shape->height != inputs.height || shape->width != inputs.width)) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "maps of %dx%d and %dx%d in one feature schema",
                inputs.height, inputs.width, shape->height, shape->width);
        }
        inputs.height = shape->height;
        inputs.width = shape->width;
        inputs.map_channels += shape->channels;
        inputs.pooled_count += GA_INPUTS_MAP_STATISTICS * shape->channels;
    }
    *inputs_out = inputs;
    return GA_OK;
}

float ga_inputs_log_sigma(double sigma) {
    return (float)log(sigma > 1e-4 ? sigma : 1e-4);
}

/* Statistics of one map; a map without spread has its mass in the middle. False if a value is not finite: all
 * are NaN then. */
static bool pool_map(const float *map, int32_t height, int32_t width, float *statistics) {
    const int32_t count = height * width;
    double sum = 0.0;
    float low = FLT_MAX;
    float high = -FLT_MAX;
    for (int32_t i = 0; i < count; i++) {
        sum += (double)map[i];
        low = map[i] < low ? map[i] : low;
        high = map[i] > high ? map[i] : high;
    }
    if (!isfinite(sum)) {
        for (int i = 0; i < GA_INPUTS_MAP_STATISTICS; i++) {
            statistics[i] = NAN;
        }
        return false;
    }
    const double mean = sum / count;
    double squares = 0.0, mass = 0.0, mass_x = 0.0, mass_y = 0.0;
    for (int32_t i = 0; i < count; i++) {
        const double deviation = (double)map[i] - mean;
        const double weight = (double)map[i] - (double)low;
        squares += deviation * deviation;
        mass += weight;
        mass_x += weight * (i % width);
        mass_y += weight * (i / width);
    }
    statistics[0] = (float)mean;
    statistics[1] = (float)sqrt(squares / count);
    statistics[2] = high;
    statistics[3] = mass > 0.0 ? (float)(mass_x / mass) : 0.5f * (float)(width - 1);
    statistics[4] = mass > 0.0 ? (float)(mass_y / mass) : 0.5f * (float)(height - 1);
    return true;
}

/* A fixed 32-bit mix of the channel number: which bucket, which sign. */
static uint32_t mix(uint32_t value) {
    value = (value ^ (value >> 16)) * 0x7feb352du;
    value = (value ^ (value >> 15)) * 0x846ca68bu;
    return value ^ (value >> 16);
}

/* Copies or folds the scalars of an input. False if a value is not finite. */
static bool fold_scalars(const ga_input_shape *shape, const float *values, float *folded) {
    bool finite = true;
    if (shape->channels <= GA_INPUTS_SKETCH) {
        for (int32_t i = 0; i < shape->channels; i++) {
            finite = finite && isfinite(values[i]);
            folded[i] = values[i];
        }
        return finite;
    }
    memset(folded, 0, GA_INPUTS_SKETCH * sizeof *folded);
    for (int32_t i = 0; i < shape->channels; i++) {
        const uint32_t hash = mix((uint32_t)i);
        finite = finite && isfinite(values[i]);
        folded[hash % GA_INPUTS_SKETCH] += (hash & 0x80000000u) != 0 ? -values[i] : values[i];
    }
    return finite;
}

/* Fills all of `pooled`; false if any value was not finite. */
static bool pool_row(const ga_inputs *inputs, const float *row, double sigma, float *pooled) {
    bool finite = true;
    const int32_t plane = inputs->height * inputs->width;
    for (int32_t i = 0; i < inputs->schema.input_count; i++) {
        const ga_input_shape *shape = &inputs->schema.inputs[i];
        const float *values = row + shape->offset;
        if (!is_map(shape)) {
            finite = fold_scalars(shape, values, pooled) && finite;
            pooled += folded_count(shape);
            continue;
        }
        for (int32_t channel = 0; channel < shape->channels; channel++) {
            finite =
                pool_map(values + (ptrdiff_t)channel * plane, shape->height, shape->width, pooled) && finite;
            pooled += GA_INPUTS_MAP_STATISTICS;
        }
    }
    *pooled = ga_inputs_log_sigma(sigma);
    return finite;
}

bool ga_inputs_pool(const ga_inputs *inputs, const float *row, double sigma, float *pooled) {
    return isfinite(sigma) && sigma >= 0.0 && pool_row(inputs, row, sigma, pooled);
}

void ga_inputs_pool_known(const ga_inputs *inputs, const float *row, double sigma, float *pooled) {
    (void)pool_row(inputs, row, sigma, pooled);
}

/* Values of an input in a pooled row. */
static int32_t pooled_values(const ga_input_shape *shape) {
    return is_map(shape) ? GA_INPUTS_MAP_STATISTICS * shape->channels : folded_count(shape);
}

void ga_inputs_maps(const ga_inputs *inputs, const float *row, float *maps) {
    for (int32_t i = 0; i < inputs->schema.input_count; i++) {
        const ga_input_shape *shape = &inputs->schema.inputs[i];
        if (is_map(shape)) {
            const size_t values = (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
            memcpy(maps, row + shape->offset, values * sizeof *maps);
            maps += values;
        }
    }
}

void ga_inputs_scalars(const ga_inputs *inputs, const float *pooled, bool with_prompt, float *scalars) {
    for (int32_t i = 0; i < inputs->schema.input_count; i++) {
        const ga_input_shape *shape = &inputs->schema.inputs[i];
        const int32_t values = pooled_values(shape);
        if (!is_map(shape) && (with_prompt || shape->input != GA_INPUT_PROMPT)) {
            memcpy(scalars, pooled, (size_t)values * sizeof *scalars);
            scalars += values;
        }
        pooled += values;
    }
}

void ga_inputs_prompt(const ga_inputs *inputs, const float *pooled, float *prompt) {
    int32_t values;
    const int32_t place = ga_inputs_place(inputs, GA_INPUT_PROMPT, &values);
    if (place >= 0 && inputs->prompt_count > 0) {
        memcpy(prompt, pooled + place, (size_t)inputs->prompt_count * sizeof *prompt);
    }
}

int32_t ga_inputs_place(const ga_inputs *inputs, ga_input input, int32_t *count_out) {
    int32_t place = 0;
    for (int32_t i = 0; i < inputs->schema.input_count; i++) {
        const int32_t values = pooled_values(&inputs->schema.inputs[i]);
        if (inputs->schema.inputs[i].input == input) {
            *count_out = values;
            return place;
        }
        place += values;
    }
    *count_out = 0;
    return -1;
}

void ga_schema_to_text(const ga_feature_schema *schema, char text[GA_SCHEMA_TEXT_BYTES]) {
    size_t used = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < schema->input_count && i < GA_INPUT_COUNT && used < GA_SCHEMA_TEXT_BYTES; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        const char *name =
            (int)shape->input >= 0 && shape->input < GA_INPUT_COUNT ? input_names[shape->input] : "?";
        const int written = snprintf(text + used, GA_SCHEMA_TEXT_BYTES - used, "%s%s:%dx%dx%d@%d",
            i > 0 ? ";" : "", name, shape->channels, shape->height, shape->width, shape->offset);
        used += written > 0 ? (size_t)written : 0;
    }
}

/* One "name:CxHxW@offset" up to `length` characters. */
static bool parse_shape(const char *text, size_t length, ga_input_shape *shape) {
    char part[64], name[16];
    int consumed = 0;
    if (length >= sizeof part) {
        return false;
    }
    memcpy(part, text, length);
    part[length] = '\0';
    if (sscanf(part, "%15[a-z0-9]:%9dx%9dx%9d@%9d%n", name, &shape->channels, &shape->height, &shape->width,
            &shape->offset, &consumed) != 5 ||
        (size_t)consumed != length) {
        return false;
    }
    for (int input = 0; input < GA_INPUT_COUNT; input++) {
        if (strcmp(name, input_names[input]) == 0) {
            shape->input = (ga_input)input;
            return true;
        }
    }
    return false;
}

ga_status ga_schema_from_text(const char *text, uint64_t id, ga_feature_schema *schema_out, ga_error *error) {
    ga_feature_schema schema;
    memset(&schema, 0, sizeof schema);
    schema.id = id;
    int64_t values = 0;
    for (const char *part = text; schema.input_count < GA_INPUT_COUNT;) {
        const size_t length = strcspn(part, ";");
        ga_input_shape *shape = &schema.inputs[schema.input_count++];
        if (!parse_shape(part, length, shape)) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "\"%.100s\" is not the layout of features", text);
        }
        const double shape_values = (double)shape->channels * (double)shape->height * (double)shape->width;
        if (shape_values < 1.0 || shape_values > VALUES_PER_ROW_MAX) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "\"%.100s\" has an impossible number of values", text);
        }
        const int64_t end = shape->offset + (int64_t)shape_values;
        values = end > values ? end : values;
        part += length;
        if (*part == '\0') {
            schema.values_per_row = values > VALUES_PER_ROW_MAX ? 0 : (int32_t)values;
            GA_TRY(check_schema(&schema, error));
            *schema_out = schema;
            return GA_OK;
        }
        part++;
    }
    return GA_FAIL(error, GA_ERR_ARGUMENT, "\"%.100s\" has more than %d inputs", text, GA_INPUT_COUNT);
}

bool ga_schema_equal(const ga_feature_schema *a, const ga_feature_schema *b) {
    if (a->id != b->id || a->input_count != b->input_count || a->values_per_row != b->values_per_row) {
        return false;
    }
    for (int32_t i = 0; i < a->input_count; i++) {
        const ga_input_shape *x = &a->inputs[i];
        const ga_input_shape *y = &b->inputs[i];
        if (x->input != y->input || x->channels != y->channels || x->height != y->height ||
            x->width != y->width || x->offset != y->offset) {
            return false;
        }
    }
    return true;
}

ga_status ga_moments_create(int32_t count, ga_moments *moments_out, ga_error *error) {
    float *block = malloc(((size_t)count * 3 + 1) * sizeof *block);
    if (block == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the moments of %d features", count);
    }
    const ga_moments moments = {
        .count = count, .center = block, .scale = block + count, .limit = block + 2 * (size_t)count};
    for (int32_t i = 0; i < count; i++) {
        moments.center[i] = 0.0f;
        moments.scale[i] = 1.0f;
        moments.limit[i] = INFINITY;
    }
    *moments_out = moments;
    return GA_OK;
}

void ga_moments_destroy(ga_moments *moments) {
    free(moments->center);
    memset(moments, 0, sizeof *moments);
}

static float standardise(const ga_moments *moments, int32_t index, float value) {
    const float standard = (value - moments->center[index]) / moments->scale[index];
    const float limit = moments->limit[index];
    return standard > limit ? limit : standard < -limit ? -limit : isnan(standard) ? 0.0f : standard;
}

void ga_moments_apply(const ga_moments *moments, float *values) {
    for (int32_t i = 0; i < moments->count; i++) {
        values[i] = standardise(moments, i, values[i]);
    }
}

void ga_moments_apply_maps(const ga_moments *moments, int32_t positions, float *values) {
    for (int32_t channel = 0; channel < moments->count; channel++) {
        for (int32_t i = 0; i < positions; i++) {
            values[i] = standardise(moments, channel, values[i]);
        }
        values += positions;
    }
}
