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
    GA_COST_COUNT = 5
} ga_cost;

/* Plain data. */
typedef struct ga_costs {
    double decay; /* of sums from one update to the next */
    double seconds[GA_COST_COUNT], rows[GA_COST_COUNT];
    double denoise_seconds, row_steps;
} ga_costs;

/* Nothing known yet. */
ga_costs ga_costs_make(double half_life_updates);

/* A batch: seconds that a cost took, and rows it was for; what took no time says nothing. */
void ga_costs_add(ga_costs *costs, ga_cost cost, double seconds, double rows);
void ga_costs_add_denoising(ga_costs *costs, double seconds, double row_steps);

/* An update has ended. */
void ga_costs_age(ga_costs *costs);

/* Seconds of one denoising step of one row; NaN where not known. */
double ga_costs_row_step_seconds(const ga_costs *costs);

/* Cost of one row in denoising steps of one row; NaN where not known. */
double ga_costs_row_steps(const ga_costs *costs, ga_cost cost);

#endif
