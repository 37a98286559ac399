#include "grpo_accel/estimate/agreement.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/estimate/energy.h"

/* Half the width of a normal's 90 % interval in standard deviations. */
static const double NINETY_PERCENT = 1.6448536269514722;
static const double FREEDOM_MIN = 3.0;

static int compare_doubles(double a, double b) {
    if (isnan(a) || isnan(b)) {
        return isnan(a) - isnan(b);
    }
    return (a > b) - (a < b);
}

static int compare_rows(const void *left, const void *right) {
    const ga_agreement_row *a = left, *b = right;
    if (a->group != b->group) {
        return a->group < b->group ? -1 : 1;
    }
    const int by_prediction = compare_doubles(a->prediction, b->prediction);
    return by_prediction != 0 ? by_prediction : compare_doubles(a->reward, b->reward);
}

static bool is_kept(const ga_agreement_row *row) {
    return isfinite(row->prediction) && isfinite(row->reward);
}

/* Kept rows of a group about their own mean. */
static void add_kept(ga_agreement *sums, const ga_agreement_row *rows, int32_t count) {
    double n = 0, x = 0, y = 0;
    for (int32_t i = 0; i < count; i++) {
        if (is_kept(&rows[i])) {
            n += 1;
            x += rows[i].prediction;
            y += rows[i].reward;
        }
    }
    if (n < 2) {
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        if (is_kept(&rows[i])) {
            const double dx = rows[i].prediction - x / n, dy = rows[i].reward - y / n;
            sums->xx += dx * dx;
            sums->xy += dx * dy;
            sums->yy += dy * dy;
        }
    }
    sums->freedom += n - 1;
}

/* All rows of a group that have a prediction. */
static void add_all(ga_agreement *sums, const ga_agreement_row *rows, int32_t count) {
    double n = 0, x = 0;
    for (int32_t i = 0; i < count; i++) {
        const bool known = isfinite(rows[i].prediction);
        n += known;
        x += known ? rows[i].prediction : 0.0;
    }
    if (n < 2) {
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        const double dx = isfinite(rows[i].prediction) ? rows[i].prediction - x / n : 0.0;
        sums->all_xx += dx * dx;
    }
    sums->all_freedom += n - 1;
}

static void add_coverage(ga_agreement *sums, const ga_agreement_row *rows, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        if (is_kept(&rows[i]) && isfinite(rows[i].deviation)) {
            sums->rows += 1;
            sums->covered += fabs(rows[i].reward - rows[i].prediction) <= NINETY_PERCENT * rows[i].deviation;
        }
    }
}

void ga_agreement_add(ga_agreement *sums, ga_agreement_row *rows, int32_t count) {
    if (count <= 0) {
        return;
    }
    qsort(rows, (size_t)count, sizeof *rows, compare_rows);
    int32_t first = 0;
    for (int32_t i = 1; i <= count; i++) {
        if (i == count || rows[i].group != rows[first].group) {
            add_kept(sums, rows + first, i - first);
            add_all(sums, rows + first, i - first);
            first = i;
        }
    }
    add_coverage(sums, rows, count);
}

void ga_agreement_join(ga_agreement *sums, const ga_agreement *more) {
    sums->freedom += more->freedom;
    sums->xx += more->xx;
    sums->xy += more->xy;
    sums->yy += more->yy;
    sums->all_freedom += more->all_freedom;
    sums->all_xx += more->all_xx;
    sums->covered += more->covered;
    sums->rows += more->rows;
}

static double correlation(double slope, double spread, double residual) {
    const double square = slope * slope * spread + residual;
    return square > 0 ? slope * sqrt(spread) / sqrt(square) : 0.0;
}

ga_agreement_figures ga_agreement_read(const ga_agreement *sums, double confidence) {
    ga_agreement_figures figures = {(double)NAN, (double)NAN, (double)NAN, (double)NAN, (double)NAN,
        sums->rows > 0 ? sums->covered / sums->rows : (double)NAN, sums->rows};
    if (sums->freedom < FREEDOM_MIN || !(sums->xx > 0) || sums->all_freedom < 1) {
        return figures;
    }
    const double slope = sums->xy / sums->xx;
    const double residual = fmax(0.0, (sums->yy - slope * sums->xy) / (sums->freedom - 1));
    const double spread = sums->all_xx / sums->all_freedom;
    const double error = sqrt(residual / sums->xx);
    const double reach = ga_normal_quantile(confidence) * error;
    figures.slope = slope;
    figures.slope_error = error;
    figures.rho = correlation(slope, spread, residual);
    figures.rho_low = correlation(slope - reach, spread, residual);
    figures.rho_high = correlation(slope + reach, spread, residual);
    return figures;
}
