#include "grpo_accel/whatif/recipe.h"

#include <stdio.h>
#include <string.h>

/* docs/whatif.md says how the numbers were found and how close they come. */
#define FLUX_IMAGEREWARD                                                                                     \
    {                                                                                                        \
        .shape = GA_SHAPE_SKEWED, .batches = 16, .groups = 12, .group_size = 24, .mean_spread = 1.3,         \
        .sd_spread = 0.46, .mean_link = -0.5, .skew = 0.27, .skew_spread = 0.5, .skew_link = -0.4            \
    }

const ga_recipe ga_recipes[] = {
    {.name = "flux-imagereward",
        .summary = "FLUX.1-dev, ImageReward, 20 steps: 16 batches of 12 groups of 24 on 32 ranks x 9 rows",
        .world = FLUX_IMAGEREWARD,
        .steps_total = 20,
        .ranks = 32,
        .signal_count = 3,
        .signals = {{"plain x0 preview, after 6", 6,
                        {.spearman = 0.49,
                            .rho_spread = 0.25,
                            .rho_link = 0.4,
                            .offset = 1.0,
                            .sd_noise = 0.3,
                            .sd_keep = 0.3}},
            {"noise-aware reward, after 6", 6,
                {.spearman = 0.70,
                    .rho_spread = 0.2,
                    .rho_link = 0.4,
                    .offset = 0.35,
                    .sd_noise = 0.17,
                    .sd_keep = 1}},
            {"noise-aware reward, after 8", 8,
                {.spearman = 0.79,
                    .rho_spread = 0.2,
                    .rho_link = 0.4,
                    .offset = 0.3,
                    .sd_noise = 0.15,
                    .sd_keep = 1}}},
        .keep_count = 3,
        .keep_per_rank = {2, 3, 5},
        .signal_cost = 0.01},
};
const int32_t ga_recipe_count = (int32_t)(sizeof ga_recipes / sizeof ga_recipes[0]);

ga_status ga_recipe_find(const char *name, const ga_recipe **recipe_out, ga_error *error) {
    char known[256];
    size_t used = 0;
    for (int32_t i = 0; i < ga_recipe_count; i++) {
        if (name != NULL && strcmp(name, ga_recipes[i].name) == 0) {
            *recipe_out = &ga_recipes[i];
            return GA_OK;
        }
        if (used < sizeof known) {
            used += (size_t)snprintf(
                known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", ga_recipes[i].name);
        }
    }
    return GA_FAIL(error, GA_ERR_CONFIG, "unknown recipe '%.64s': use %s", name != NULL ? name : "", known);
}
