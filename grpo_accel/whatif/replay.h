/*
 * What a policy would have done with rows whose rewards are known: plan and advantages come from ga_plan_make
 * and ga_advantage_compute, the same code as in a run.
 *
 * With A = reward − group mean (GA_STD_GROUP: divided by the group's population standard deviation) of the
 * rows that stand on a rank, and Â the same from an estimated mean, figures of a batch are
 *
 *     kept_energy        Σ_kept A² / Σ A²
 *     snr2               (Σ_kept w·Â·A)² / (Σ_kept w²·Â²) / Σ A²      w = 1; `inverse`: w = 1/π, shrunk
 *     snr2_host_sigma    the same where GA_STD_GROUP divides Â by the estimated deviation, as a run does
 *     baseline_rmse      √ mean of ((μ̂_g − μ_g)/σ_g)² over groups with a kept row; μ_g, σ_g: the truth
 *     baseline_shift     mean of (μ̂_g − μ_g)/σ_g over the same groups
 *     kept_top_quarter   share kept of each group's best ⌈n/4⌉ rows (ties with the last of them count)
 *     kept_bottom_quarter  the same for its worst
 *
 * and a figure is the mean over batches, and over repeats with other seeds. Groups without spread count in no
 * figure but the energy, batches without spread in none. Intervals: percentiles of a bootstrap that draws
 * groups inside each batch.
 */
#ifndef GA_WHATIF_REPLAY_H
#define GA_WHATIF_REPLAY_H

#include "grpo_accel/base/correlation.h"
#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/select/plan.h"
#include "grpo_accel/whatif/calibration.h"

typedef enum ga_figure {
    GA_FIGURE_ENERGY = 0,
    GA_FIGURE_SNR2 = 1,  /* four: shrunk, difference, survivors, inverse */
    GA_FIGURE_RMSE = 5,  /* three: shrunk, difference, survivors */
    GA_FIGURE_SHIFT = 8, /* three */
    GA_FIGURE_TOP = 11,
    GA_FIGURE_BOTTOM = 12,
    GA_FIGURE_HOST = 13, /* four, as GA_FIGURE_SNR2 */
    GA_FIGURE_COUNT = 17
} ga_figure;

typedef struct ga_replay_options {
    ga_policy_kind policy;
    ga_threshold threshold;
    int32_t stage_count;                         /* decisions, 1 … GA_WHATIF_STAGES_MAX */
    int32_t score[GA_WHATIF_STAGES_MAX];         /* the table's scores that each looks at, ascending */
    int32_t keep_per_rank[GA_WHATIF_STAGES_MAX]; /* never increasing */
    int32_t ranks;                               /* 0: as the rank column says */
    bool deal;                                   /* pass over the rank column */
    int32_t min_group, max_group;
    double min_inclusion;
    double audit_share;
    double clip; /* largest 1/π, infinite: none */
    ga_std_kind std_kind;
    uint64_t seed;
    int32_t repeat;    /* ≥ 1 */
    int32_t resamples; /* of the bootstrap; 0: no intervals (low = high = value) */
} ga_replay_options;

typedef struct ga_replay_report {
    double value[GA_FIGURE_COUNT];                      /* NaN where no batch has it */
    double low[GA_FIGURE_COUNT], high[GA_FIGURE_COUNT]; /* 95 % */
    double going_share[GA_WHATIF_STAGES_MAX]; /* of the rows that stand on a rank, on average, those that go
                                                 on after each decision */
    double keep_share;                        /* after the last one */
    int32_t ranks;                            /* of the largest batch */
    int32_t rows_per_rank;                    /* B of the largest batch */
    int64_t short_batches;                    /* with so few rows a rank that nothing is stopped,
                                                 though in others it is; in the first repeat */
    int64_t left_out;                         /* rows that stood on no rank, in the first repeat */
    int64_t unscored;                         /* rows without a score, in the first repeat */
    int64_t lowered_floors, raised_caps;      /* groups, in the first repeat */
} ga_replay_report;

/* Lines of all scores of a table: [score_count][batch_count]. */
typedef struct ga_replay_lines {
    ga_line *line[GA_WHATIF_SCORES_MAX];
} ga_replay_lines;

/* Fits all of the frame's scores. Freed with ga_replay_lines_free. GA_ERR_MEMORY. */
ga_status ga_replay_lines_fit(const ga_frame *frame, ga_replay_lines *lines_out, ga_error *error);
void ga_replay_lines_free(ga_replay_lines *lines);

/*
 * Runs one policy. Not collective; any thread. GA_ERR_ARGUMENT (options), GA_ERR_DATA (rank column),
 * GA_ERR_MEMORY.
 */
ga_status ga_replay_run(const ga_frame *frame, const ga_replay_lines *lines, const ga_replay_options *options,
    ga_replay_report *report_out, ga_error *error);

/*
 * Mean over groups of the group's Spearman of a score with the reward, of groups with two scored rows ±1 (0:
 * equal scores), with the interval of a bootstrap over groups; groups of equal rewards count nowhere. value
 * NaN where no group counts, low and high NaN with fewer than two. GA_ERR_MEMORY.
 */
ga_status ga_replay_rho(
    const ga_frame *frame, int32_t score, uint64_t seed, ga_within *rho_out, ga_error *error);

#endif
