/*
 * Cases: one policy with its keeps and costs each, what came of it, and whether it would pay.
 *
 * Worth over cost: `gain` = snr2 / C, C the cost ratio (cost.h): how much more gradient signal an hour of
 * this gives than an hour of full rollouts, at equal signal-to-noise. It pays where the whole interval lies
 * above 1.
 */
#ifndef GA_WHATIF_SWEEP_H
#define GA_WHATIF_SWEEP_H

#include "grpo_accel/whatif/cost.h"
#include "grpo_accel/whatif/replay.h"
#include "grpo_accel/whatif/synthetic.h"

typedef enum ga_pays { GA_PAYS_NO = 0, GA_PAYS_UNCLEAR = 1, GA_PAYS_YES = 2 } ga_pays;

typedef struct ga_case {
    /* the question */
    ga_replay_options options;
    ga_shares shares;
    ga_figure worth; /* the snr2 that counts: GA_FIGURE_SNR2 + … or GA_FIGURE_HOST + … */
    /* the answer */
    ga_within rho[GA_WHATIF_STAGES_MAX]; /* of each decision's score */
    ga_replay_report report;
    double cost; /* C */
    double gain, gain_low, gain_high;
    double break_even_rho; /* closed form at the last decision's share; NaN: nothing would pay */
    ga_pays pays;
} ga_case;

/* The largest number of rows of a rank that `share` of its rows_per_rank rows is, at least 1. */
int32_t ga_case_keep(double share, int32_t rows_per_rank);

/*
 * Answers a case. rho: of the frame's scores, as ga_replay_rho gives them. Errors as ga_replay_run.
 */
ga_status ga_case_run(const ga_frame *frame, const ga_replay_lines *lines, const ga_within *rho,
    ga_case *to_run, ga_error *error);

/*
 * Makes a world and answers cases[count] on it; each repeat of a case's options adds worlds, not plans: the
 * world has options->batches · repeat batches. Errors as ga_synthetic_make and ga_replay_run.
 */
ga_status ga_cases_run_on_synthetic(
    const ga_synthetic *world, int32_t repeat, ga_case *cases, int32_t count, ga_error *error);

#endif
