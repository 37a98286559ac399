/*
 * Synthetic groups: rewards of a given shape, and scores that order them as well as asked.
 *
 * Row i of group g has a latent x_i ~ N(0, 1) and reward
 *
 *     gaussian   μ_g + σ_g·x_i
 *     skewed     μ_g + σ_g·h(x_i; k_g),  h(x; k) = (e^{k²/2} − e^{−kx}) / √(e^{k²}(e^{k²} − 1)): a lognormal
 *                with its tail to the left, mean 0, variance 1
 *     binary     1 where x_i exceeds −Φ⁻¹(p_g), else 0; p_g = Φ(√(1 + sd²)·Φ⁻¹(success) + sd·N(0, 1)), so
 *                that the mean of p_g is `success`
 *
 * with log σ_g = sd_spread·(z − tail·(z² − 1)/√2)/√(1 + tail²), z ~ N(0, 1), which is what others are linked
 * to, and at decision k the score  m'_g + σ'_g·h(y_i),  y_i = ρ_g·x_i + √(1 − ρ_g²)·N(0, 1): a Gaussian
 * copula. Scores of several decisions are a Markov chain from the reward backwards: of a later decision's
 * score an earlier one is a noisier copy, corr(y_1, y_2) = ρ_1/ρ_2.
 *
 * A group's own numbers, its rewards and the noise of its last score come from one stream, the noise of each
 * score before it from a stream of its own: with the same seed, and the same last signal, worlds of one
 * decision and of several have the same rewards and the same last score.
 *
 * Spearman within a group of G rows has, for a Gaussian copula of correlation ρ, the mean
 *     6/(π(G+1))·[asin ρ + (G − 2)·asin(ρ/2)]                  (Moran 1948; G → ∞: (6/π)·asin(ρ/2))
 * which ga_copula_rho inverts; ρ_g spreads as atanh ρ_g = z₀ + spread·N(0, 1), and z₀ is such that the mean
 * over groups is the Spearman that was asked for. Monotone shapes leave ranks alone, so this holds for
 * gaussian and skewed; with binary rewards ties lower what is measured.
 */
#ifndef GA_WHATIF_SYNTHETIC_H
#define GA_WHATIF_SYNTHETIC_H

#include "grpo_accel/whatif/table.h"

typedef enum ga_shape {
    GA_SHAPE_GAUSSIAN = 0,
    GA_SHAPE_SKEWED = 1,
    GA_SHAPE_BINARY = 2,
    GA_SHAPE_COUNT = 3
} ga_shape;

/* What is known at one decision. */
typedef struct ga_synthetic_signal {
    double spearman;   /* within groups of group_size rows, mean over groups, in (−1, 1) */
    double rho_spread; /* standard deviation over groups of atanh ρ_g, ≥ 0 */
    double rho_link;   /* correlation of atanh ρ_g with log σ_g, in [−1, 1] */
    double
        offset; /* standard deviation of (m'_g − μ_g)/σ₀, σ₀ the median σ_g: how wrong a group's level is */
    double sd_noise;  /* standard deviation of log σ'_g − sd_keep·log σ_g */
    double sd_keep;   /* share of log σ_g that the score's spread shows, 1: all */
    double tail;      /* how much surer the score is of bad rows, [0, 1]; 0: a Gaussian copula */
    double skew_gain; /* k of the score over k of the reward; 0: 1 */
} ga_synthetic_signal;

typedef struct ga_synthetic {
    ga_shape shape;
    int32_t batches, groups, group_size; /* groups of a batch */
    uint64_t seed;
    double mean_spread; /* standard deviation of μ_g over σ₀ = 1 */
    double sd_spread; /* standard deviation of log σ_g: .46 puts 98 % of the groups within a factor of ten */
    double sd_tail; /* how far log σ_g leans to small ones: its skewness is about −2.1·tail for small tails */
    double mean_link;      /* correlation of μ_g with log σ_g */
    double skew;           /* k of the median group; skewed only */
    double skew_spread;    /* standard deviation of log k_g */
    double skew_link;      /* correlation of log k_g with log σ_g */
    double success;        /* mean success rate; binary only */
    double success_spread; /* standard deviation of a group's rate on the latent scale; binary only */
    int32_t signal_count;
    ga_synthetic_signal signal[GA_WHATIF_SCORES_MAX]; /* each knows at least as much as the one before */
} ga_synthetic;

/*
 * Rows of batches one after the other, without ranks. Freed with ga_whatif_table_free. GA_ERR_ARGUMENT
 * (options; scores of a later decision must know at least as much), GA_ERR_MEMORY.
 */
ga_status ga_synthetic_make(const ga_synthetic *options, ga_whatif_table **table_out, ga_error *error);

/* Mean Spearman of groups of n rows under a Gaussian copula, and its inverse. n ≤ 2: of endless groups. */
double ga_copula_spearman(double rho, int32_t n);
double ga_copula_rho(double spearman, int32_t n);

/* "gaussian" | "skewed" | "binary". GA_ERR_CONFIG. */
ga_status ga_shape_parse(const char *name, ga_shape *shape_out, ga_error *error);
const char *ga_shape_name(ga_shape shape);

#endif
