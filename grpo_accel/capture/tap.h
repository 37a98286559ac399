/* Which blocks of the model are tapped: a selection as the configuration words it → indices of blocks. */
#ifndef GA_CAPTURE_TAP_H
#define GA_CAPTURE_TAP_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef enum ga_tap_kind {
    GA_TAP_MIDDLE = 0,       /* `count` consecutive blocks around the middle */
    GA_TAP_LAST_ENCODER = 1, /* the last `count` cross-attentions of a UNet's encoder, by diffusers' names */
    GA_TAP_NAMED = 2         /* the blocks called names[0 … count-1], and those inside a module called so */
} ga_tap_kind;

typedef struct ga_tap_selection {
    ga_tap_kind kind;
    int32_t count;            /* ≥ 1; at most as many blocks as there are are taken */
    const char *const *names; /* [count] with GA_TAP_NAMED, else NULL */
} ga_tap_selection;

/*
 * indices_out: room for block_count indices; the first *count_out are written, ascending, each once.
 * block_names [block_count], in the order in which the model runs them, as diffusers calls them:
 * transformer_blocks.3.attn (SD3, Qwen-Image), transformer_blocks.3.attn before
 * single_transformer_blocks.3.attn (FLUX), down_blocks.1.attentions.0.transformer_blocks.0.attn2 (SDXL). NULL
 * with GA_TAP_MIDDLE is allowed. Not collective. Any thread. GA_ERR_CONFIG: a name that no block has, or no
 * encoder; GA_ERR_ARGUMENT: no block at all.
 */
ga_status ga_tap_choose(const ga_tap_selection *selection, const char *const *block_names,
    int32_t block_count, int32_t *indices_out, int32_t *count_out, ga_error *error);

#endif
