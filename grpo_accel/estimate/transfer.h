/*
 * Predictions of one reward made into predictions of another: hosts with several scorers ask for advantages
 * of one that the probe was not trained for.
 *
 * Within groups the other reward is regressed on the prediction over the kept rows (generalised regression
 * estimator: Särndal, Swensson, Wretman, "Model Assisted Survey Sampling", 1992, §6.4),
 *
 *     b = Σ_kept (m − m̄_g)(r − r̄_g) / Σ_kept (m − m̄_g)²,   a = mean of r̄_g − b m̄_g over kept rows,
 *
 * means over the group's kept rows, and a row's prediction becomes a + b·m. Choosing rows by m doesn't bias
 * b. τ² and σ_r² are those of this update's residuals (offsets.h).
 */
#ifndef GA_ESTIMATE_TRANSFER_H
#define GA_ESTIMATE_TRANSFER_H

#include <stdbool.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

typedef struct ga_transfer {
    bool known; /* false: too few kept rows, the predictions became NaN */
    double slope;
    double level;
    double tau2;     /* NaN where the update has too few groups to tell */
    double sigma_r2; /* likewise */
} ga_transfer;

/*
 * Replaces mean and variance of the outcomes[count], whose rewards are those of the other scorer. The result
 * doesn't depend on their order. Not collective; any thread with its own arena. On failure nothing is
 * changed. GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_transfer_predictions(
    ga_outcome *outcomes, int32_t count, ga_arena *arena, ga_transfer *transfer_out, ga_error *error);

#endif
