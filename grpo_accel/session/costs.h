/*
 * What each signal costs on this rank, in the coin that pruning saves: seconds a row, over the seconds that
 * one denoising step of one row takes. Running means over the newest updates, each update half as heavy after
 * half_life updates. Nothing here needs another rank.
 */
#ifndef GA_SESSION_COSTS_H
#define GA_SESSION_COSTS_H

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

/*
 * The host's time between updates: u = a + b·x, u its seconds and x the trained rows, both per begun row.
 * Sums of the regression fade; while x never changes, the share of a is what it was when it last did, at
 * first 0.
 */
typedef struct ga_training_cost {
    double weight, x, u, xx, xu;
    double fixed_share; /* a / (a + b) */
} ga_training_cost;

/* Plain data. */
typedef struct ga_costs {
    double decay; /* of sums from one update to the next */
    double seconds[GA_COST_COUNT], rows[GA_COST_COUNT];
    double denoise_seconds, row_steps;
    ga_training_cost training;
} ga_costs;

/* Nothing known yet. */
ga_costs ga_costs_make(double half_life_updates);

/* A batch: seconds that a cost took, and rows it was for; what took no time says nothing. */
void ga_costs_add(ga_costs *costs, ga_cost cost, double seconds, double rows);
void ga_costs_add_denoising(ga_costs *costs, double seconds, double row_steps);

/* The host's seconds between an update and the next batch, with the rows that the update began and those that
 * trained. One that takes more than four times as long as usual (an evaluation, a checkpoint) counts as four.
 */
void ga_costs_add_training(ga_costs *costs, double seconds, double begun_rows, double trained_rows);

/* b, of a trained row, and a, of a begun row whatever becomes of it, in seconds; NaN where not known. */
double ga_costs_training_seconds(const ga_costs *costs);
double ga_costs_fixed_seconds(const ga_costs *costs);

/* Seconds of one row; NaN where not known. */
double ga_costs_row_seconds(const ga_costs *costs, ga_cost cost);

/* An update has ended. */
void ga_costs_age(ga_costs *costs);

/* Seconds of one denoising step of one row; NaN where not known. */
double ga_costs_row_step_seconds(const ga_costs *costs);

/* Cost of one row in denoising steps of one row; NaN where not known. */
double ga_costs_row_steps(const ga_costs *costs, ga_cost cost);

#endif
