/* Worlds by name, fitted to what real models and rewards do. */
#ifndef GA_WHATIF_RECIPE_H
#define GA_WHATIF_RECIPE_H

#include "grpo_accel/whatif/synthetic.h"

#define GA_RECIPE_SIGNALS_MAX 4
#define GA_RECIPE_KEEPS_MAX 8

/* One signal of a recipe, at one decision step. */
typedef struct ga_recipe_signal {
    const char *name;
    int32_t step;  /* steps that a row stopped there has run */
    uint64_t seed; /* added to the user's: of seed 0 one world is a draw like the one that was measured */
    ga_synthetic_signal signal;
} ga_recipe_signal;

typedef struct ga_recipe {
    const char *name;
    const char *summary;
    ga_synthetic world; /* signal_count 0: one of the signals goes in */
    int32_t steps_total;
    int32_t ranks;
    int32_t signal_count;
    ga_recipe_signal signals[GA_RECIPE_SIGNALS_MAX];
    int32_t keep_count;
    int32_t keep_per_rank[GA_RECIPE_KEEPS_MAX];
    double signal_cost; /* looking at a row, in full rollouts */
} ga_recipe;

/* Static storage, in the order of the help. */
extern const ga_recipe ga_recipes[];
extern const int32_t ga_recipe_count;

/* GA_ERR_CONFIG for an unknown name; the message lists the known ones. */
ga_status ga_recipe_find(const char *name, const ga_recipe **recipe_out, ga_error *error);

#endif
