/*
 * Advantages of the kept rows, relative to whole groups: never to the survivors alone unless asked for.
 *
 * For a group of G rows with predictions m_i ± s_i, of which n are kept with rewards r_i and weights
 * w_i = min(1/π_i, clip), the mean of any f(reward) over the whole group is estimated by
 *
 *     T(f) = mean_i E f_i + B · Σ_kept w_i (f(r_i) − E f_i) / Σ_kept w_i,     E f_i under N(m_i, s_i²),
 *
 * the difference estimator (Cassel, Särndal, Wretman 1976; "prediction-powered", Angelopoulos et al. 2023)
 * with Hájek weights, whose offset is shrunk towards the probe's own calibration by empirical Bayes:
 *
 *     B = (τ² + σ_r²/G) / (τ² + σ_r²/n)   for shrunk,   B = 1 for difference,   B = 0 for predicted,
 *
 * τ² variance of the groups' offsets, σ_r² variance of the residuals inside groups. Then
 *
 *     μ̂_g = T(r),   σ̂² = T((r − μ)²),   A_i = (r_i − μ̂_g) / (σ̂ + epsilon)   for kept rows, exactly 0 for
 * others,
 *
 * with μ and T over all rows (GA_STD_GLOBAL: μ = mean of the μ̂_g over rows, T = mean of the groups' T over
 * rows) or over the group (GA_STD_GROUP: μ = μ̂_g). T is linear and leaves constants as they are, so this is
 * the difference estimator of E r² less the squared mean, without its cancellation. σ̂² is at least what the
 * kept rows show by themselves, Σ_kept (r_i − μ)² over the number of all rows.
 *
 * Where all rows of a group are kept, T is the plain mean over them: then everything equals what flow-grpo's
 * PerPromptStatTracker computes (group mean; population standard deviation of all rewards or of the group's;
 * + 1e-4). Where a row of a group has no prediction, or under `survivors`, T is the plain mean over the kept
 * rows. `predicted` looks at no reward unless every row of the update is kept: its baseline is m̄_g.
 *
 * leave_one_out: the baseline of a kept row is T(r) over the others of its group (G − 1 rows, n − 1 kept), so
 * that it doesn't depend on the row's own reward or prediction (Kool, van Hoof, Welling 2019); with
 * everything kept (Σ r − r_i) / (G − 1). A row that is alone with its knowledge has itself as baseline. σ̂
 * stays.
 *
 * Weights: `one` leaves A_i as it is. `inverse` multiplies A_i by κ·w_i, κ = rows with an advantage / all
 * rows of the update: the host averages its loss over rows whose advantage is not 0, so that (1/kept) Σ κ
 * A_i/π_i = (1/all) Σ_kept A_i/π_i is the unbiased (Horvitz-Thompson 1952) estimate of the mean over all
 * rows, but for the clip and the estimated baseline. Without a clip, with `predicted`, leave_one_out and
 * fixed_sigma nothing is left that could bias the policy gradient, whatever the predictions are.
 *
 * prefix_credit: every row teaches by its predicted advantage Â_i = (m_i − m̄_g) / (σ̂ + epsilon), and kept
 * ones correct it: A_i' = κ (Â_i + Z_i w_i (A_i − Â_i)), Z_i = 1 where kept, whatever `weighting` says
 * (doubly robust: Robins, Rotnitzky, Zhao 1994; as a control variate on a rollout's prefix: Gu et al. 2017,
 * "Q-Prop"). Only where all steps that train were sampled before the decision, for all rows alike. Â_i = 0 in
 * groups where a prediction is missing.
 *
 * What the clip leaves out, estimated from the kept rows without bias: the mean over all rows of
 * (1 − π_i w_i) |a_i|, a_i what is weighted (A_i, or A_i − Â_i under prefix_credit):
 *
 *     clip_left_out = (1/all) Σ_kept (1/π_i − w_i) |a_i|,
 *
 * times the largest score function it bounds the bias of the gradient. clip_shift: the root mean square over
 * rows of (μ̂_g − μ̂_g without a clip) / σ̂.
 */
#ifndef GA_ESTIMATE_ADVANTAGE_H
#define GA_ESTIMATE_ADVANTAGE_H

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

typedef enum ga_estimator {
    GA_ESTIMATOR_SHRUNK = 0,
    GA_ESTIMATOR_DIFFERENCE = 1,
    GA_ESTIMATOR_SURVIVORS = 2,
    GA_ESTIMATOR_PREDICTED = 3
} ga_estimator;

typedef enum ga_weighting { GA_WEIGHT_ONE = 0, GA_WEIGHT_INVERSE = 1 } ga_weighting;

typedef struct ga_advantage_options {
    ga_estimator estimator;
    ga_weighting weighting;
    double clip; /* largest 1/π, ≥ 1; infinite: no clip */
    ga_std_kind std_kind;
    double epsilon;     /* the host's addition to σ, ≥ 0; flow-grpo: 1e-4 */
    double tau2;        /* τ², reward² ; NaN: not known, then shrunk is difference */
    double sigma_r2;    /* σ_r², reward²; NaN: not known */
    double fixed_sigma; /* > 0: instead of σ̂, in reward units; 0: σ̂ is estimated */
    bool leave_one_out;
    bool prefix_credit;
} ga_advantage_options;

/* Arrays belong to the arena and are aligned with the outcomes. */
typedef struct ga_advantage_report {
    int32_t count;
    int32_t kept_count; /* rows with a reward */
    int32_t group_count;
    int32_t fallback_group_count; /* groups estimated from survivors for want of a prediction */
    int32_t unrewarded_count;     /* rows marked kept without a finite reward: treated as pruned */
    int32_t clipped_count;        /* kept rows whose 1/π exceeds clip */
    int32_t credited_count;       /* pruned rows that have an advantage: prefix_credit */
    double sigma;                 /* σ̂ without epsilon; GA_STD_GROUP: root mean square over rows */
    double shrink_mean, shrink_min, shrink_max; /* B of partly kept groups; 1 if there are none */
    double clip_left_out; /* in σ̂ + epsilon; 0 where nothing is weighted or clipped */
    double clip_shift;    /* of the baselines, in σ̂ */
    const double
        *baseline; /* [count] μ̂ of the row's group, or of the others; NaN where there is no row to tell */
    const double *row_sigma; /* [count] σ̂ + epsilon by which the row's advantage is divided */
} ga_advantage_report;

/*
 * Advantages of one update from outcomes[count], the rows of all ranks with the host's own group keys
 * (several batches of the same prompt may share one). advantage_out: [count], aligned; report_out may be
 * NULL. The result doesn't depend on the order of the outcomes, bit for bit.
 *
 * Not collective; any thread with its own arena. On failure the outputs are untouched. GA_ERR_ARGUMENT
 * (options), GA_ERR_DATA (π of a kept row outside of (0, 1]; names rank and row), GA_ERR_MEMORY.
 */
ga_status ga_advantage_compute(const ga_advantage_options *options, const ga_outcome *outcomes, int32_t count,
    ga_arena *arena, double *advantage_out, ga_advantage_report *report_out, ga_error *error);

/* "shrunk" | "difference" | "survivors" | "predicted"; "one" | "inverse". GA_ERR_CONFIG. */
ga_status ga_estimator_parse(const char *name, ga_estimator *estimator_out, ga_error *error);
ga_status ga_weighting_parse(const char *name, ga_weighting *weighting_out, ga_error *error);

#endif
