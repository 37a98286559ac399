/*
 * Sums over ranks in a fixed order: rank 0 first, one after the other, in double precision.
 *
 * Every rank adds the gathered values itself, so the result has the same bits on all of them, whatever the
 * transport does; probe training may therefore run redundantly and stay identical. It depends on the number
 * of ranks in the last bits, as any sum of differently cut parts does. Moves size · count values to every
 * rank: for probe gradients and seconds, not for a denoiser's gradients. All are collective; the deadline,
 * GA_ERR_LATE, GA_ERR_MISMATCH (different counts) and late_out (may be NULL) are those of ga_world_gather. On
 * failure `values` is untouched.
 */
#ifndef GA_DIST_REDUCE_H
#define GA_DIST_REDUCE_H

#include <stddef.h>

#include "dist/world.h"

/* values[count] becomes its sum over all ranks, rounded to float once at the end. */
ga_status ga_reduce_sum_f32(ga_world *world, float *values, size_t count, double deadline_seconds,
    ga_late *late_out, ga_error *error);

ga_status ga_reduce_sum_f64(ga_world *world, double *values, size_t count, double deadline_seconds,
    ga_late *late_out, ga_error *error);

/* The largest over all ranks; NaN if any rank's value is NaN. The slowest rank sets the pace. */
ga_status ga_reduce_max_f64(ga_world *world, double *values, size_t count, double deadline_seconds,
    ga_late *late_out, ga_error *error);

#endif
