#include "grpo_accel/feature/pool.h"

/* Part of pixel `pixel` that lies in cell `cell`, in units of 1/cells of a pixel: whole numbers, so exact. */
static int64_t overlap(int64_t pixel, int64_t cell, int64_t pixels, int64_t cells) {
    const int64_t from = pixel * cells > cell * pixels ? pixel * cells : cell * pixels;
    const int64_t to = (pixel + 1) * cells < (cell + 1) * pixels ? (pixel + 1) * cells : (cell + 1) * pixels;
    return to > from ? to - from : 0;
}

/* First pixel that touches a cell, and the one after the last. */
static int64_t first_pixel(int64_t cell, int64_t pixels, int64_t cells) {
    return cell * pixels / cells;
}

static int64_t end_pixel(int64_t cell, int64_t pixels, int64_t cells) {
    return ((cell + 1) * pixels + cells - 1) / cells;
}

ga_status ga_pool_area(const float *map, int32_t height, int32_t width, int32_t out_height, int32_t out_width,
    float *out, ga_error *error) {
    if (out_height < 1 || out_width < 1 || out_height > height || out_width > width) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a map of %d × %d can't be pooled to %d × %d", height, width,
            out_height, out_width);
    }
    const double area = (double)height * (double)width; /* of a cell, in the units of overlap */
    for (int32_t y = 0; y < out_height; y++) {
        for (int32_t x = 0; x < out_width; x++) {
            double sum = 0;
            for (int64_t i = first_pixel(y, height, out_height); i < end_pixel(y, height, out_height); i++) {
                const double row_weight = (double)overlap(i, y, height, out_height);
                for (int64_t j = first_pixel(x, width, out_width); j < end_pixel(x, width, out_width); j++) {
                    const double weight = row_weight * (double)overlap(j, x, width, out_width);
                    sum += weight * (double)map[i * width + j];
                }
            }
            out[(int64_t)y * out_width + x] = (float)(sum / area);
        }
    }
    return GA_OK;
}
