/* Numbers of the newest update: for the host's wandb, and a line each in <run_dir>/metrics.jsonl. */
#ifndef GA_SESSION_METRICS_H
#define GA_SESSION_METRICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "grpo_accel/base/correlation.h"
#include "grpo_accel/estimate/breakeven.h"
#include "grpo_accel/session/costs.h"
#include "grpo_accel/session/taught.h"

/* What the guard knows after an update; NaN where it does not. Texts are static or the guard's. */
typedef struct ga_guard_metrics {
    const char *answer; /* NULL: there is no guard yet, and none of this is written */
    char reason[256];
    const char *feature; /* that drifts most; NULL: not known */
    bool prunes;         /* batches that begin from here on */
    int32_t step;        /* of the option in question, −1: none; of its last decision */
    double keep;
    double rho, rho_low, rho_high, break_even_rho;
    double slope, coverage90; /* calibration of kept rows */
    double energy, energy_low, energy_high, snr2, snr2_low;
    double cost_ratio, speed_up, speed_up_low;
    double psi_scores, ks_scores, psi_features, ks_features;
    double lost_extremes, lost_extremes_bound, alpha;
    double explore_share;
    int64_t groups;     /* measured */
    ga_seconds seconds; /* of the slowest rank */
} ga_guard_metrics;

typedef struct ga_metrics {
    FILE *file; /* rank 0 with metrics.jsonl on, else NULL */
    char json[8192];
    ga_guard_metrics guard;

    uint32_t update;
    const char *mode;                              /* what the update's batches did: "shadow" or "prune" */
    int64_t rows, kept_rows;                       /* of all ranks */
    int64_t audited_rows;                          /* of all ranks */
    int64_t row_steps_run, row_steps_full;         /* denoising steps times rows, of all ranks */
    int32_t batches, pruned_batches, late_batches; /* of this rank */
    double reward_kept_mean, imputed_share;
    uint32_t probe_version;
    ga_within within; /* Spearman of predictions on audited rows of the newest updates */
    bool within_known;
    double tau2, residual_variance;
    ga_taught_figures taught; /* zeros where the host's own advantages stood */
    double seconds_denoise, seconds_signal, seconds_reward, seconds_own; /* this rank, this update */
    double seconds_preview, seconds_lookahead, seconds_distilled;        /* parts of seconds_signal */
    double seconds_features;
    double wait_seconds; /* in collectives, part of seconds_own */
    int64_t record_rows, record_segments, record_bytes, record_dropped; /* this rank, this run */
} ga_metrics;

/* Opens <run_dir>/metrics.jsonl for appending where `write`; a failure only means that no line is written. */
void ga_metrics_open(ga_metrics *metrics, const char *run_dir, bool write);
void ga_metrics_close(ga_metrics *metrics);

/* Forgets what belongs to one update; totals of the run, the probe's newest figure and the file stay. */
void ga_metrics_reset(ga_metrics *metrics);

/* Renders the numbers and the costs to `json` and appends the line. */
void ga_metrics_publish(ga_metrics *metrics, const ga_costs *costs);

#endif
