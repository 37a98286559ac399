/*
 * Figures of judged rows that say what a prediction is worth: its spread over groups, the signal that it
 * keeps when rows are dropped, and what it finds of a group's best.
 *
 * Not collective; any thread; nothing is kept. GA_ERR_MEMORY and what is named below.
 */
#ifndef GA_PROBE_TRAIN_FIGURES_H
#define GA_PROBE_TRAIN_FIGURES_H

#include "grpo_accel/base/correlation.h"
#include "probe/train/judged.h"

/* Spearman within groups, group by group. */
#define GA_DECILES 11   /* smallest, .1 … .9, largest */
#define GA_HISTOGRAM 20 /* bins of a tenth over [-1, 1] */
typedef struct ga_distribution {
    int64_t groups;
    double decile[GA_DECILES];
    int64_t histogram[GA_HISTOGRAM];
    double sd;
    double below_zero; /* share of groups that are ordered the wrong way */
} ga_distribution;

/* GA_ERR_DATA when no group can be ordered. */
ga_status ga_judge_distribution(const ga_judged *judged, ga_distribution *distribution_out, ga_error *error);

/* A group that is predicted badly. */
#define GA_WORST_MAX 10
typedef struct ga_worst_group {
    uint64_t group;
    int64_t row; /* number in the dataset of one of its rows */
    int64_t rows;
    double spearman;
} ga_worst_group;

/* The groups with the lowest Spearman, lowest first; fewer than GA_WORST_MAX where there are fewer. */
ga_status ga_judge_worst(
    const ga_judged *judged, ga_worst_group worst_out[GA_WORST_MAX], int32_t *count_out, ga_error *error);

/*
 * Energy: Σ A² of the kept rows over Σ A² of all, A = reward − group mean (GA_STD_GROUP: divided by the
 * group's standard deviation, groups without spread left out). Kept is the share `keep` of all rows with the
 * largest expected squared advantage ((m − m̄)² + s²)/σ² (docs/statistics.md); ties in random order.
 */
#define GA_ENERGY_POINTS 10
typedef struct ga_energy_point {
    double keep;     /* .1 .2 .25 .3 … .9 */
    ga_within probe; /* interval over groups by linearisation */
    double random;   /* what chance keeps on average: the share of the rows */
    double oracle;   /* the largest that so many rows can keep */
} ga_energy_point;

/* GA_ERR_DATA without spread in the rewards. */
ga_status ga_judge_energy(const ga_judged *judged, ga_std_kind std, uint64_t seed,
    ga_energy_point points_out[GA_ENERGY_POINTS], ga_error *error);

/*
 * Best of n: the k rows of a group with the highest prediction. Over groups of more than k rows (3 at least)
 * with spread in the reward; equal predictions in random order.
 */
#define GA_BEST_POINTS 4
typedef struct ga_best_point {
    int32_t k;        /* 1, 2, 4, 8 */
    ga_within recall; /* share of groups whose best row is among them; groups 0: no group is large enough */
    ga_within regret; /* best of the group − best of them, in standard deviations of the group */
    double recall_random, regret_random; /* what k rows drawn by chance give */
} ga_best_point;

ga_status ga_judge_best(const ga_judged *judged, uint64_t seed, int32_t resamples,
    ga_best_point points_out[GA_BEST_POINTS], ga_error *error);

/*
 * Σ over / Σ under with a 95 % interval: linearised, groups are the units [groups]. Without a denominator all
 * are NaN. (Cochran, Sampling Techniques, 1977, §6.)
 */
ga_within ga_ratio_of_sums(const double *over, const double *under, int32_t groups);

#endif
