#include "probe/calibration.h"

#include <math.h>

/* Weighted moments of one group: Σw, means, and centred sums per unit of weight times rows. */
typedef struct group_moments {
    double rows, score_mean, offset_mean; /* offset: target − level */
    double score_squares, products, offset_squares;
} group_moments;

static group_moments moments_of(
    const ga_grouped *grouped, int32_t group, const float *score, const float *level) {
    group_moments m = {0};
    double weights = 0.0;
    const int64_t first = grouped->begin[group], end = grouped->begin[group + 1];
    m.rows = (double)(end - first);
    for (int64_t i = first; i < end; i++) {
        const double w = (double)grouped->weight[i];
        weights += w;
        m.score_mean += w * (double)score[i];
        m.offset_mean += w * ((double)grouped->target[i] - (double)level[i]);
    }
    if (weights <= 0.0) {
        m.rows = 0.0;
        return m;
    }
    m.score_mean /= weights;
    m.offset_mean /= weights;
    for (int64_t i = first; i < end; i++) {
        const double w = (double)grouped->weight[i] * m.rows / weights;
        const double ds = (double)score[i] - m.score_mean;
        const double dt = (double)grouped->target[i] - (double)level[i] - m.offset_mean;
        m.score_squares += w * ds * ds;
        m.products += w * ds * dt;
        m.offset_squares += w * dt * dt;
    }
    return m;
}

/* Sums over groups that the slope and the residual variance come from. */
typedef struct slope_sums {
    double score_squares, products, offset_squares, freedom, groups, many;
} slope_sums;

static ga_status sum_slopes(const ga_grouped *grouped, const float *score, const float *level,
    const ga_reduce *reduce, slope_sums *sums, ga_error *error) {
    double values[6] = {0};
    for (int32_t group = 0; group < grouped->groups; group++) {
        const group_moments m = moments_of(grouped, group, score, level);
        values[0] += m.score_squares;
        values[1] += m.products;
        values[2] += m.offset_squares;
        values[3] += m.rows > 1.0 ? m.rows - 1.0 : 0.0;
        values[4] += m.rows > 0.0 ? 1.0 : 0.0;
        values[5] += m.rows > 1.0 ? 1.0 : 0.0;
    }
    GA_TRY(ga_reduce_sum(reduce, values, 6, error));
    *sums = (slope_sums){values[0], values[1], values[2], values[3], values[4], values[5]};
    return GA_OK;
}

/* Mean of the group offsets at `slope`, then their variance and the mean of 1/n. */
static ga_status sum_offsets(const ga_grouped *grouped, const float *score, const float *level, double slope,
    const ga_reduce *reduce, double groups, double *mean, double *variance, double *inverse_rows,
    ga_error *error) {
    double sums[2] = {0};
    for (int32_t group = 0; group < grouped->groups; group++) {
        const group_moments m = moments_of(grouped, group, score, level);
        if (m.rows > 0.0) {
            sums[0] += m.offset_mean - slope * m.score_mean;
            sums[1] += 1.0 / m.rows;
        }
    }
    GA_TRY(ga_reduce_sum(reduce, sums, 2, error));
    *mean = sums[0] / groups;
    *inverse_rows = sums[1] / groups;
    double squares = 0.0;
    for (int32_t group = 0; group < grouped->groups; group++) {
        const group_moments m = moments_of(grouped, group, score, level);
        const double deviation = m.offset_mean - slope * m.score_mean - *mean;
        squares += m.rows > 0.0 ? deviation * deviation : 0.0;
    }
    GA_TRY(ga_reduce_sum(reduce, &squares, 1, error));
    *variance = squares / (groups - 1.0);
    return GA_OK;
}

ga_status ga_calibrate(const ga_grouped *grouped, const float *score, const float *level,
    const ga_reduce *reduce, ga_calibration *calibration_out, ga_error *error) {
    slope_sums sums;
    GA_TRY(sum_slopes(grouped, score, level, reduce, &sums, error));
    if (sums.many < 2.0) {
        return GA_FAIL(
            error, GA_ERR_DATA, "calibration needs 2 held-out groups of 2 rows, there are %g", sums.many);
    }
    const double raw_slope = sums.score_squares > 0.0 ? sums.products / sums.score_squares : 0.0;
    ga_calibration result = {.slope = raw_slope > 0.0 ? raw_slope : 0.0};
    const double squares = sums.offset_squares - 2.0 * result.slope * sums.products +
                           result.slope * result.slope * sums.score_squares;
    const double freedom = sums.freedom > 2.0 ? sums.freedom - 1.0 : sums.freedom; /* the slope took one */
    result.sigma_r2 = squares > 0.0 ? squares / freedom : 0.0;
    double variance = 0.0, inverse_rows = 0.0;
    GA_TRY(sum_offsets(grouped, score, level, result.slope, reduce, sums.groups, &result.intercept, &variance,
        &inverse_rows, error));
    const double tau2 = variance - result.sigma_r2 * inverse_rows;
    result.tau2 = tau2 > 0.0 ? tau2 : 0.0;
    *calibration_out = result;
    return GA_OK;
}

/* ---- variance of a row ---- */

/* Sums over rows in groups of two or more: weights, squared standardised residuals, and logarithms of the
 * variances that residuals around their own group's mean should have: by the rows' own, and by one for all.
 */
typedef struct variance_sums {
    double weight, squares, own_logs, common_logs;
} variance_sums;

/* Variance of a residual around the mean of n, of which the row's own is v and the average v_mean. */
static double centred_variance(double v, double v_mean, double n) {
    return v * (1.0 - 2.0 / n) + v_mean / n;
}

static void add_variances(const ga_grouped *grouped, int32_t group, const group_moments *m,
    const float *score, const float *level, const float *variance, double slope, variance_sums *sums) {
    const int64_t first = grouped->begin[group], end = grouped->begin[group + 1];
    double v_mean = 0.0;
    for (int64_t i = first; i < end; i++) {
        v_mean += fmax((double)variance[i], 1e-30) / m->rows;
    }
    for (int64_t i = first; i < end; i++) {
        const double w = (double)grouped->weight[i];
        const double v = centred_variance(fmax((double)variance[i], 1e-30), v_mean, m->rows);
        const double e = (double)grouped->target[i] - (double)level[i] - m->offset_mean -
                         slope * ((double)score[i] - m->score_mean);
        sums->weight += w;
        sums->squares += w * e * e / v;
        sums->own_logs += w * log(v);
        sums->common_logs += w * log(1.0 - 1.0 / m->rows);
    }
}

ga_status ga_calibrate_variance(const ga_grouped *grouped, const float *score, const float *level,
    const float *variance, const ga_reduce *reduce, ga_calibration *calibration, ga_error *error) {
    variance_sums own = {0};
    for (int32_t group = 0; group < grouped->groups; group++) {
        const group_moments m = moments_of(grouped, group, score, level);
        if (m.rows >= 2.0) {
            add_variances(grouped, group, &m, score, level, variance, calibration->slope, &own);
        }
    }
    double sums[4] = {own.weight, own.squares, own.own_logs, own.common_logs};
    calibration->variance_factor = 0.0;
    GA_TRY(ga_reduce_sum(reduce, sums, 4, error));
    const double factor = sums[0] > 0.0 ? sums[1] / sums[0] : 0.0;
    if (!(factor > 0.0) || !isfinite(factor) || !(calibration->sigma_r2 > 0.0)) {
        return GA_OK;
    }
    /* mean of ln v + e²/v; with the best factor, the second part is 1 either way */
    const double rows_own = sums[2] / sums[0] + log(factor);
    const double one_for_all = sums[3] / sums[0] + log(calibration->sigma_r2);
    calibration->variance_factor = rows_own < one_for_all ? factor : 0.0;
    return GA_OK;
}

double ga_calibration_variance(const ga_calibration *calibration, double variance) {
    const double own = calibration->variance_factor * variance;
    return calibration->variance_factor > 0.0 && isfinite(own) ? own : calibration->sigma_r2;
}

/* z with P(|N(0, 1)| < z) = share, by halving: erf rises. */
static double normal_width(double share) {
    double low = 0.0, high = 9.0;
    for (int i = 0; i < 60; i++) {
        const double middle = 0.5 * (low + high);
        if (erf(middle * M_SQRT1_2) < share) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return 0.5 * (low + high);
}

void ga_calibration_interval(const ga_calibration *calibration, double mean, double residual_variance,
    double share, double *low_out, double *high_out) {
    const double half = normal_width(share) * sqrt(residual_variance + calibration->tau2);
    *low_out = mean - half;
    *high_out = mean + half;
}
