/* Sums of single groups, the figures of a batch from them, and their intervals. */
#ifndef GA_WHATIF_PARTS_H
#define GA_WHATIF_PARTS_H

#include "grpo_accel/whatif/replay.h"

/* One group of one batch. */
typedef struct ga_part {
    double all, kept;       /* Σ A², Σ_kept A² */
    double product[4];      /* Σ w·Â·A: shrunk, difference, survivors, inverse */
    double square[4];       /* Σ w²·Â² */
    double host_product[4]; /* the same with the host's estimate of σ in Â */
    double host_square[4];
    double known;         /* 1: a row is kept and the group has spread */
    double error[3];      /* (μ̂ − μ)/σ */
    double top, kept_top; /* rows of the best quarter; kept ones of them */
    double bottom, kept_bottom;
} ga_part;

/* Figures of one batch of `count` groups; parts[order[i]], or parts[i] where order is NULL. NaN: not there.
 */
void ga_parts_figures(const ga_part *parts, const int32_t *order, int32_t count, double *figures_out);

/*
 * 95 % intervals of the means over batches and repeats, as distances from the figure: percentiles of the
 * draws less their mean, because a ratio over few groups drawn anew has a mean of its own. Groups are drawn
 * inside each batch; where batches have fewer than four groups on average, whole batches are drawn, and fewer
 * than four of those give no interval (NaN).
 * parts: [repeats][frame's groups]. low_out, high_out: [GA_FIGURE_COUNT]. GA_ERR_MEMORY.
 */
ga_status ga_parts_intervals(const ga_frame *frame, const ga_part *parts, int32_t repeats, uint64_t seed,
    int32_t resamples, double *low_out, double *high_out, ga_error *error);

#endif
