/*
 * What an update teaches: advantages for the rewards that the host's tracker was given, and what is
 * remembered of the update's rows for hosts that ask more than once (once for each scorer, or once for each
 * weight).
 *
 * Rewards are told by what the scorers reported here: those of a known column are in the host's order, those
 * of no column are changed or in another order, and the host's own advantages stand. Predictions are of the
 * combined reward; for any other rewards they are fitted to them on the kept rows (estimate/transfer.h).
 */
#ifndef GA_SESSION_TAUGHT_H
#define GA_SESSION_TAUGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/estimate/advantage.h"

/* Rows of the newest update; arrays belong to the arena. All zero: no update has ended yet. */
typedef struct ga_taught {
    ga_arena *arena;
    int32_t own_rows;  /* of this rank */
    int32_t own_start; /* position of its first row among the host's */
    int64_t count;     /* rows of all ranks */
    bool current;      /* no batch has begun since: further calls are about these rows */
    bool placed;       /* the host has as many rows as were sampled, so positions are known */
    bool matched;      /* every rank's rows are the host's: `all` can be used */
    bool pruned;       /* some row of some rank */
    bool prunes;       /* batches of this update were begun to be pruned */
    bool credits;      /* pruned rows may teach by their predictions, on every rank */
    int32_t batches;
    ga_outcome *own; /* [own_rows] */
    ga_outcome *all; /* [count] groups are the host's, rewards the combined ones where they are known */
    double *columns; /* [own_rows, column_count] what scorers reported, the combined reward first; or NaN */
    int32_t column_count;
    uint8_t *trains; /* [count] 0: left out by the second stage; NULL: it left out nobody */
} ga_taught;

/* Of a kept row whose reward is its baseline, in an update in which rows were stopped. Not 0 as float32. */
#define GA_TAUGHT_ADVANTAGE_MIN 1e-12

/* Of one call. */
typedef struct ga_taught_figures {
    ga_advantage_report report; /* its arrays are gone; zeros: nothing was computed */
    int32_t trained_rows;       /* of each rank after the second stage; 0: there was none */
} ga_taught_figures;

/*
 * The open batches of this rank, from `options` of the first call. GA_ERR_DATA: the host's rows can't be
 * matched with them (all that doesn't need the match is filled in); GA_ERR_MEMORY: nothing is.
 */
ga_status ga_taught_collect(ga_session *session, const ga_update_options *options, ga_error *error);

/* The host's own advantages [count], 0 for this rank's pruned rows. */
void ga_taught_host_advantages(
    const ga_taught *taught, const ga_update_options *options, double *advantages_out);

/*
 * Advantages of all rows for the rewards of `options`, with the second stage: the first call of an update
 * chooses who trains, further ones follow. Needs taught->matched. Not collective, the same on every rank. On
 * failure advantages_out is as ga_taught_host_advantages leaves it.
 */
ga_status ga_taught_advantages(ga_session *session, const ga_update_options *options, double *advantages_out,
    ga_taught_figures *figures_out, ga_error *error);

/*
 * A further call for the update that has ended last; see ga_update_again in grpo_accel.h. Not collective:
 * whether these rewards are those of a scorer is judged by this rank's rows, and where that differs between
 * ranks, each trains its own rows by what it found.
 */
ga_status ga_taught_again(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error);

/* May pruned rows of this rank teach by their predictions, as advantage.prefix_credit asks? Says once why
 * not. */
bool ga_taught_may_credit(ga_session *session);

/* How the configuration computes advantages: all that no update knows better. tau2 and sigma_r2 are NaN, the
 * standard deviation the session's, prefix_credit as wished. */
ga_advantage_options ga_taught_estimator(const ga_session *session);

/* τ² and σ_r² from the run's own log, before that what the probe's file says; NaN: not known. */
void ga_taught_offsets(const ga_session *session, double *tau2_out, double *sigma_r2_out);

void ga_taught_close(ga_taught *taught);

#endif
