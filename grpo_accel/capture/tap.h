/* Which blocks of the model are tapped: a selection as the configuration words it → indices of blocks. */
#ifndef GA_CAPTURE_TAP_H
#define GA_CAPTURE_TAP_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

typedef enum ga_tap_kind {
    GA_TAP_MIDDLE = 0,       /* `count` consecutive blocks around the middle */
    GA_TAP_LAST_ENCODER = 1, /* the last `count` blocks */
    GA_TAP_NAMED = 2         /* the blocks called names[0 … count-1] */
} ga_tap_kind;

typedef struct ga_tap_selection {
    ga_tap_kind kind;
    int32_t count;            /* ≥ 1; at most as many blocks as there are are taken */
    const char *const *names; /* [count] with GA_TAP_NAMED */
} ga_tap_selection;

/*
 * blocks_out: room for block_count indices; the first *count_out are written, ascending, each once.
 * Not collective. GA_ERR_DATA: no block at all, or a name that is none of block_names (message: the name, and
 * the first and last block there is).
 */
ga_status ga_tap_choose(const ga_tap_selection *selection, const char *const *block_names,
    int32_t block_count, int32_t *blocks_out, int32_t *count_out, ga_error *error);

#endif
