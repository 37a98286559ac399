#include "grpo_accel/whatif/recipe.h"

#include <stdio.h>
#include <string.h>

/* docs/whatif.md says how the numbers were found and how close they come. The seeds belong to every digit. */
const ga_recipe ga_recipes[] = {
    {.name = "flux-imagereward",
        .summary = "FLUX.1-dev, ImageReward, 20 steps: 16 batches of 12 groups of 24 on 32 ranks x 9 rows",
        .world = {.shape = GA_SHAPE_SKEWED,
            .batches = 16,
            .groups = 12,
            .group_size = 24,
            .sd_spread = 0.476,
            .sd_tail = 0.194,
            .mean_spread = 0.395,
            .mean_link = -0.659,
            .skew = 0.313,
            .skew_spread = 0.566,
            .skew_link = -0.549},
        .steps_total = 20,
        .ranks = 32,
        .signal_count = 3,
        .signals = {{"plain x0 preview, after 6", 6, 7698,
                        {.rho_spread = 0.277,
                            .rho_link = 0.059,
                            .offset = 1.669,
                            .sd_noise = 0.182,
                            .sd_keep = 0.53,
                            .tail = 0.2,
                            .spearman = 0.5,
                            .skew_gain = 1.31}},
            {"noise-aware reward, after 6", 6, 4690,
                {.rho_spread = 0.503,
                    .rho_link = 0.295,
                    .offset = 0.261,
                    .sd_noise = 0,
                    .sd_keep = 1.195,
                    .tail = 0.01,
                    .spearman = 0.707,
                    .skew_gain = 1.556}},
            {"noise-aware reward, after 8", 8, 3167,
                {.rho_spread = 0.252,
                    .rho_link = 0.724,
                    .offset = 0.209,
                    .sd_noise = 0.259,
                    .sd_keep = 1.133,
                    .tail = 0.138,
                    .spearman = 0.794,
                    .skew_gain = 1.82}}},
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
