/*
 * What each signal costs on this rank, in the coin that pruning saves: seconds a row, over the seconds that
 * one denoising step of one row takes. Everything is a median over the newest batches or updates, so that an
 * evaluation, a checkpoint or a busy machine now and then changes nothing. Nothing here needs another rank.
 */
#ifndef GA_SESSION_COSTS_H
#define GA_SESSION_COSTS_H

#include <stdint.h>

typedef enum ga_cost {
    GA_COST_PREVIEW = 0,   /* decoding and scoring */
    GA_COST_LOOKAHEAD = 1, /* forwards, decoding and scoring */
    GA_COST_DISTILLED = 2, /* the same */
    GA_COST_FEATURES = 3,
    GA_COST_REWARD = 4, /* of a kept row */
    GA_COST_LOOK = 5,   /* all signals of a row at one look */
    GA_COST_OWN = 6,    /* our own work for a row that is begun, signals not counted */
    GA_COST_COUNT = 7
} ga_cost;

#define GA_COST_POINTS 32

/* The newest figures, in a ring. */
typedef struct ga_cost_ring {
    double value[GA_COST_POINTS];
    int32_t count, next;
} ga_cost_ring;

/*
 * Work that pruning makes less, as a whole: u = w·(s + (1 − s)·x), u its seconds per begun row, x ≤ 1 the
 * share of the full work that was done, w the seconds of a begun row with all of it (x = 1), and s the share
 * of w that does not fall with x: launches of a forward whose rows are few, what a host does besides
 * training.
 *
 * s is what comparing says: with ū the median of u over the newest full points (x ≥ .98), each pruned point
 * (x ≤ .9) says (u/ū − x)/(1 − x); the median of them less one standard error, so that a noisy machine does
 * not look like a fixed cost, within [0, 1]. Before four points of each kind are there s is 0: pruning is
 * given the benefit of the doubt, and is what ends it. While nothing is pruned s is kept as it was, and
 * fades; a pruned point after a long time without begins anew.
 */
typedef struct ga_cost_line {
    ga_cost_ring full;               /* u */
    ga_cost_ring pruned_x, pruned_u; /* side by side */
    ga_cost_ring newest_x, newest_u; /* of any kind */
    double share;                    /* s when it was measured last */
    double idle_updates;             /* since a pruned point came */
} ga_cost_line;

/* Plain data. */
typedef struct ga_costs {
    double half_life_updates;
    ga_cost_ring row[GA_COST_COUNT]; /* seconds of one row */
    ga_cost_line denoising, training;
} ga_costs;

/* Nothing known yet. half_life_updates: of a fixed share, while nothing is pruned. */
ga_costs ga_costs_make(double half_life_updates);

/* A batch or an update: seconds that a cost took, and rows it was for; what took no time says nothing. */
void ga_costs_add(ga_costs *costs, ga_cost cost, double seconds, double rows);

/* A batch's denoising: row_steps that were run of full_row_steps. */
void ga_costs_add_denoising(ga_costs *costs, double seconds, double row_steps, double full_row_steps);

/* The host's seconds between an update and the next batch, with the rows that the update began and those that
 * trained. */
void ga_costs_add_training(ga_costs *costs, double seconds, double begun_rows, double trained_rows);

/* An update has ended. */
void ga_costs_age(ga_costs *costs);

/* w, in seconds of a row step, of a row: with all of the work done. NaN where not known. */
double ga_costs_row_step_seconds(const ga_costs *costs);
double ga_costs_training_seconds(const ga_costs *costs);

/* s of both, in [0, 1]. */
double ga_costs_denoising_fixed_share(const ga_costs *costs);
double ga_costs_training_fixed_share(const ga_costs *costs);

/* Seconds of one row; NaN where not known. */
double ga_costs_row_seconds(const ga_costs *costs, ga_cost cost);

/* Cost of one row in denoising steps of one row; NaN where not known. */
double ga_costs_row_steps(const ga_costs *costs, ga_cost cost);

#endif
