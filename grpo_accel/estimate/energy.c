#include "grpo_accel/estimate/energy.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"

static const double SQRT_HALF = 0.70710678118654752440;
static const double SQRT_TAU = 2.50662827463100050242; /* √(2π) */

/* ---- closed forms ---- */

static double density(double x) {
    return exp(-0.5 * x * x) / SQRT_TAU;
}

/* Φ(−x), without cancellation for large x. */
static double upper_tail(double x) {
    return 0.5 * erfc(x * SQRT_HALF);
}

/* Bisection to a bracket in which Newton's step is safe, then Newton on Φ(−x) = p. */
static double upper_quantile(double p) {
    double low = 0.0, high = 40.0;
    for (int i = 0; i < 30; i++) {
        const double middle = 0.5 * (low + high);
        *(upper_tail(middle) > p ? &low : &high) = middle;
    }
    double x = 0.5 * (low + high);
    for (int i = 0; i < 3; i++) {
        x += (upper_tail(x) - p) / density(x);
    }
    return x;
}

double ga_normal_quantile(double p) {
    if (!(p >= 0 && p <= 1)) {
        return (double)NAN;
    }
    if (p == 0 || p == 1) {
        return p == 0 ? -(double)INFINITY : (double)INFINITY;
    }
    return p == 0.5 ? 0.0 : p < 0.5 ? -upper_quantile(p) : upper_quantile(1.0 - p);
}

double ga_energy_ceiling(double keep) {
    if (!(keep > 0)) {
        return (double)NAN;
    }
    if (keep >= 1) {
        return 1.0;
    }
    const double c = ga_normal_quantile(1.0 - keep / 2);
    return 2 * (c * density(c) + upper_tail(c));
}

double ga_energy_of_extremes(double rho, double keep) {
    const double share = fmin(keep, 1.0);
    return share + rho * rho * (ga_energy_ceiling(keep) - share);
}

/* ---- measured ---- */

void ga_energy_add(ga_energy_part *part, double advantage, double estimate, bool kept) {
    const double square = advantage * advantage;
    part->all += square;
    if (kept) {
        part->kept += square;
        part->product += estimate * advantage;
        part->square += estimate * estimate;
    }
}

static bool counts(const ga_energy_part *part) {
    return isfinite(part->all) && part->all > 0 && isfinite(part->product) && isfinite(part->square);
}

static double energy_of(const ga_energy_part *sums) {
    return sums->all > 0 ? sums->kept / sums->all : (double)NAN;
}

/* 0 where the kept rows have no advantage at all. */
static double snr2_of(const ga_energy_part *sums) {
    if (!(sums->all > 0)) {
        return (double)NAN;
    }
    /* a product below 0 points the wrong way, and is worth nothing */
    const double product = fmax(0.0, sums->product);
    return sums->square > 0 ? product * product / (sums->square * sums->all) : 0.0;
}

/* Sum over the parts, each `times` as often; times NULL: once. */
static ga_energy_part sum_parts(const ga_energy_part *parts, int32_t part_count, int32_t option_count,
    int32_t option, const int32_t *times) {
    ga_energy_part sums = {0};
    for (int32_t i = 0; i < part_count; i++) {
        const ga_energy_part *part = &parts[(int64_t)i * option_count + option];
        const double n = times == NULL ? 1.0 : times[i];
        if (n > 0 && counts(part)) {
            sums.product += n * part->product;
            sums.square += n * part->square;
            sums.kept += n * part->kept;
            sums.all += n * part->all;
        }
    }
    return sums;
}

static int compare_doubles(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Bounds of one figure from its draws; NaN draws (none of an option's parts drawn) are left out. */
static void read_bounds(double *draws, int32_t count, double confidence, double *low, double *high) {
    int32_t known = 0;
    for (int32_t i = 0; i < count; i++) {
        if (!isnan(draws[i])) {
            draws[known++] = draws[i];
        }
    }
    if (known == 0) {
        return;
    }
    qsort(draws, ga_size(known), sizeof *draws, compare_doubles);
    const double tail = (1.0 - confidence) * known;
    const int32_t place = (int32_t)fmin(tail, known - 1.0);
    *low = draws[place];
    *high = draws[known - 1 - place];
}

typedef struct bootstrap {
    const ga_energy_part *parts;
    int32_t part_count, option_count, resamples;
    double confidence;
    int32_t *times;        /* [part_count] */
    double *energy, *snr2; /* [option_count, resamples] */
} bootstrap;

/* The same draws for every option, so that options are compared on the same groups. */
static void draw(bootstrap *b, ga_random *random, int32_t resample) {
    for (int32_t i = 0; i < b->part_count; i++) {
        b->times[i] = 0;
    }
    for (int32_t i = 0; i < b->part_count; i++) {
        b->times[ga_random_below(random, (uint32_t)b->part_count)]++;
    }
    for (int32_t option = 0; option < b->option_count; option++) {
        const ga_energy_part sums = sum_parts(b->parts, b->part_count, b->option_count, option, b->times);
        b->energy[(int64_t)option * b->resamples + resample] = energy_of(&sums);
        b->snr2[(int64_t)option * b->resamples + resample] = snr2_of(&sums);
    }
}

static ga_energy read_option(const bootstrap *b, int32_t option) {
    const ga_energy_part sums = sum_parts(b->parts, b->part_count, b->option_count, option, NULL);
    ga_energy energy = {.value = energy_of(&sums), .snr2 = snr2_of(&sums)};
    for (int32_t i = 0; i < b->part_count; i++) {
        energy.parts += counts(&b->parts[(int64_t)i * b->option_count + option]);
    }
    energy.low = energy.high = energy.value;
    energy.snr2_low = energy.snr2_high = energy.snr2;
    const int64_t first = (int64_t)option * b->resamples;
    read_bounds(b->energy + first, b->resamples, b->confidence, &energy.low, &energy.high);
    read_bounds(b->snr2 + first, b->resamples, b->confidence, &energy.snr2_low, &energy.snr2_high);
    return energy;
}

ga_status ga_energy_estimate(const ga_energy_part *parts, int32_t part_count, int32_t option_count,
    double confidence, uint64_t seed, int32_t resamples, ga_energy *energies_out, ga_error *error) {
    if (part_count < 0 || option_count < 0 || resamples < 0 || !(confidence > 0.5 && confidence < 1) ||
        (part_count > 0 && option_count > 0 && parts == NULL)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "energy of %d parts, %d options, confidence %g, %d draws",
            (int)part_count, (int)option_count, confidence, (int)resamples);
    }
    bootstrap b = {.parts = parts,
        .part_count = part_count,
        .option_count = option_count,
        .resamples = part_count > 0 ? resamples : 0,
        .confidence = confidence};
    const size_t draws = ga_size(option_count) * ga_size(b.resamples);
    b.times = calloc(ga_size(part_count) + 1, sizeof *b.times);
    b.energy = calloc(2 * draws + 1, sizeof *b.energy);
    if (b.times == NULL || b.energy == NULL) {
        free(b.times);
        free(b.energy);
        return GA_FAIL(
            error, GA_ERR_MEMORY, "no memory for %d draws of %d options", (int)resamples, (int)option_count);
    }
    b.snr2 = b.energy + draws;
    ga_random random = ga_random_make(seed, 0, GA_STREAM_BOOTSTRAP);
    for (int32_t i = 0; i < b.resamples; i++) {
        draw(&b, &random, i);
    }
    for (int32_t option = 0; option < option_count; option++) {
        energies_out[option] = read_option(&b, option);
    }
    free(b.times);
    free(b.energy);
    return GA_OK;
}
