#include "grpo_accel/whatif/parts.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"

static void add(ga_part *to, const ga_part *part) {
    to->all += part->all;
    to->kept += part->kept;
    for (int k = 0; k < 4; k++) {
        to->product[k] += part->product[k];
        to->square[k] += part->square[k];
        to->host_product[k] += part->host_product[k];
        to->host_square[k] += part->host_square[k];
    }
    to->top += part->top;
    to->kept_top += part->kept_top;
    to->bottom += part->bottom;
    to->kept_bottom += part->kept_bottom;
}

static double ratio(double part, double whole) {
    return whole > 0 ? part / whole : (double)NAN;
}

/* By the letter of the figure, an anti-correlated gradient has a signal too. */
static double signal_of(double product, double square) {
    return square > 0 ? product * product / square : 0;
}

/* What a run would gain: nothing from a gradient that points the other way. */
static double gain_of(double product, double square) {
    return product > 0 ? signal_of(product, square) : 0;
}

void ga_parts_figures(const ga_part *parts, const int32_t *order, int32_t count, double *figures_out) {
    ga_part sum = {0};
    double known = 0, shift[3] = {0}, square[3] = {0};
    for (int32_t i = 0; i < count; i++) {
        const ga_part *part = &parts[order != NULL ? order[i] : i];
        add(&sum, part);
        known += part->known;
        for (int k = 0; k < 3; k++) {
            shift[k] += part->error[k];
            square[k] += part->error[k] * part->error[k];
        }
    }
    figures_out[GA_FIGURE_ENERGY] = ratio(sum.kept, sum.all);
    for (int k = 0; k < 4; k++) {
        figures_out[GA_FIGURE_SNR2 + k] = ratio(signal_of(sum.product[k], sum.square[k]), sum.all);
        figures_out[GA_FIGURE_HOST + k] = ratio(gain_of(sum.host_product[k], sum.host_square[k]), sum.all);
    }
    for (int k = 0; k < 3; k++) {
        figures_out[GA_FIGURE_RMSE + k] = sqrt(ratio(square[k], known));
        figures_out[GA_FIGURE_SHIFT + k] = ratio(shift[k], known);
    }
    figures_out[GA_FIGURE_TOP] = ratio(sum.kept_top, sum.top);
    figures_out[GA_FIGURE_BOTTOM] = ratio(sum.kept_bottom, sum.bottom);
}

typedef struct drawing {
    const ga_frame *frame;
    const ga_part *parts;
    int32_t repeats;
    bool by_batch;  /* whole batches are drawn, not groups inside each */
    int32_t *order; /* [largest number of groups in a batch] */
} drawing;

/* Too few groups in a batch say nothing of how they vary: then the batches themselves do. */
enum { DRAWN_MIN = 4 };

static bool draws_batches(const ga_frame *frame) {
    return frame->group_count < (int64_t)DRAWN_MIN * frame->batch_count;
}

/* Means over batches and repeats of one draw of groups. */
static void draw_once(const drawing *d, ga_random *random, double *means_out) {
    double sum[GA_FIGURE_COUNT] = {0}, count[GA_FIGURE_COUNT] = {0}, figures[GA_FIGURE_COUNT];
    const int32_t batches = d->frame->batch_count;
    for (int32_t i = 0; i < batches; i++) {
        const int32_t b = d->by_batch ? (int32_t)ga_random_below(random, (uint32_t)batches) : i;
        const int32_t first = d->frame->group_first[b], groups = d->frame->group_first[b + 1] - first;
        for (int32_t g = 0; g < groups; g++) {
            d->order[g] = d->by_batch ? g : (int32_t)ga_random_below(random, (uint32_t)groups);
        }
        for (int32_t r = 0; r < d->repeats; r++) {
            const ga_part *parts = d->parts + ga_size((int64_t)r * d->frame->group_count + first);
            ga_parts_figures(parts, d->order, groups, figures);
            for (int k = 0; k < GA_FIGURE_COUNT; k++) {
                sum[k] += isnan(figures[k]) ? 0 : figures[k];
                count[k] += !isnan(figures[k]);
            }
        }
    }
    for (int k = 0; k < GA_FIGURE_COUNT; k++) {
        means_out[k] = ratio(sum[k], count[k]);
    }
}

static int compare_doubles(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return isnan(a) || isnan(b) ? isnan(a) - isnan(b) : (a > b) - (a < b);
}

ga_status ga_parts_intervals(const ga_frame *frame, const ga_part *parts, int32_t repeats, uint64_t seed,
    int32_t resamples, double *low_out, double *high_out, ga_error *error) {
    const size_t draws = ga_size(resamples);
    double *means = calloc(draws * (GA_FIGURE_COUNT + 1), sizeof *means);
    int32_t *order = calloc(ga_size(frame->group_count) + 1, sizeof *order);
    if (means == NULL || order == NULL) {
        free(means);
        free(order);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d draws of a bootstrap", (int)resamples);
    }
    const drawing d = {frame, parts, repeats, draws_batches(frame), order};
    const bool enough = !d.by_batch || frame->batch_count >= DRAWN_MIN;
    ga_random random = ga_random_make(seed, 0, GA_STREAM_BOOTSTRAP);
    for (size_t i = 0; i < draws; i++) {
        double figures[GA_FIGURE_COUNT];
        draw_once(&d, &random, figures);
        for (int k = 0; k < GA_FIGURE_COUNT; k++) {
            means[ga_size(k) * draws + i] = figures[k];
        }
    }
    for (int k = 0; k < GA_FIGURE_COUNT; k++) {
        double *column = means + ga_size(k) * draws, mean = 0;
        for (size_t i = 0; i < draws; i++) {
            mean += (column[i] - mean) / (double)(i + 1);
        }
        qsort(column, draws, sizeof *column, compare_doubles);
        low_out[k] = enough ? column[(size_t)(0.025 * (double)(draws - 1) + 0.5)] - mean : (double)NAN;
        high_out[k] = enough ? column[(size_t)(0.975 * (double)(draws - 1) + 0.5)] - mean : (double)NAN;
    }
    free(means);
    free(order);
    return GA_OK;
}
