#include "dist/reduce.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "grpo_accel/base/check.h"

/* Gathers, and checks that all ranks sent as many bytes. */
static ga_status gather_values(ga_world *world, const void *values, size_t count, size_t element_bytes,
    double deadline_seconds, const ga_parcel **parcels_out, ga_late *late_out, ga_error *error) {
    size_t bytes = 0;
    if (!ga_multiply_size(count, element_bytes, &bytes)) {
        ga_world_skip(world);
        return GA_FAIL(error, GA_ERR_ARGUMENT, "reduce: %zu values are too many", count);
    }
    const ga_parcel *parcels = NULL;
    GA_TRY(ga_world_collect(world, values, bytes, deadline_seconds, &parcels, late_out, error));
    for (int32_t rank = 1; rank < ga_world_size(world); rank++) {
        if (parcels[rank].bytes != parcels[0].bytes) {
            return GA_FAIL(error, GA_ERR_MISMATCH, "reduce: rank %d has %zu values, rank 0 has %zu", rank,
                parcels[rank].bytes / element_bytes, parcels[0].bytes / element_bytes);
        }
    }
    *parcels_out = parcels;
    return GA_OK;
}

/* Parcels lie at any address, so values are copied out one by one. */
static float float_at(const ga_parcel *parcel, size_t i) {
    float value;
    memcpy(&value, (const char *)parcel->data + i * sizeof value, sizeof value);
    return value;
}

static double double_at(const ga_parcel *parcel, size_t i) {
    double value;
    memcpy(&value, (const char *)parcel->data + i * sizeof value, sizeof value);
    return value;
}

ga_status ga_reduce_sum_f32(ga_world *world, float *values, size_t count, double deadline_seconds,
    ga_late *late_out, ga_error *error) {
    const ga_parcel *parcels = NULL;
    GA_TRY(gather_values(world, values, count, sizeof *values, deadline_seconds, &parcels, late_out, error));
    const int32_t size = ga_world_size(world);
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t rank = 0; rank < size; rank++) {
            sum += (double)float_at(&parcels[rank], i);
        }
        values[i] = (float)sum;
    }
    return GA_OK;
}

ga_status ga_reduce_sum_f64(ga_world *world, double *values, size_t count, double deadline_seconds,
    ga_late *late_out, ga_error *error) {
    const ga_parcel *parcels = NULL;
    GA_TRY(gather_values(world, values, count, sizeof *values, deadline_seconds, &parcels, late_out, error));
    const int32_t size = ga_world_size(world);
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t rank = 0; rank < size; rank++) {
            sum += double_at(&parcels[rank], i);
        }
        values[i] = sum;
    }
    return GA_OK;
}

ga_status ga_reduce_max_f64(ga_world *world, double *values, size_t count, double deadline_seconds,
    ga_late *late_out, ga_error *error) {
    const ga_parcel *parcels = NULL;
    GA_TRY(gather_values(world, values, count, sizeof *values, deadline_seconds, &parcels, late_out, error));
    const int32_t size = ga_world_size(world);
    for (size_t i = 0; i < count; i++) {
        double largest = double_at(&parcels[0], i);
        for (int32_t rank = 1; rank < size; rank++) {
            const double value = double_at(&parcels[rank], i);
            if (isnan(value) || value > largest) {
                largest = value;
            }
        }
        values[i] = largest;
    }
    return GA_OK;
}
