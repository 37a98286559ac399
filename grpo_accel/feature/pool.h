/* Maps made smaller by averaging; never larger. */
#ifndef GA_FEATURE_POOL_H
#define GA_FEATURE_POOL_H

#include "grpo_accel/base/status.h"

/*
 * out[out_height, out_width] = mean of map[height, width] over each cell's area; where a cell's border cuts a
 * pixel, the pixel counts with the part of it that is inside. So the mean over the map stays what it was.
 * map and out must not overlap. Errors: GA_ERR_ARGUMENT unless 1 ≤ out size ≤ map size in both directions.
 */
ga_status ga_pool_area(const float *map, int32_t height, int32_t width, int32_t out_height, int32_t out_width,
    float *out, ga_error *error);

#endif
