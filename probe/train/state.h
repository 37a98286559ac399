/*
 * Where a training stands, as a file: written after each round, read to go on from there.
 *
 * A safetensors file whose checksum stands in its header, replaced whole or not at all. Numbers survive bit
 * for bit. Not collective.
 */
#ifndef GA_PROBE_TRAIN_STATE_H
#define GA_PROBE_TRAIN_STATE_H

#include "probe/train/fit.h"

/* A state in memory of its own. */
typedef struct ga_train_state {
    int32_t stage;      /* which of a training's fits, from 0 */
    ga_fit_state state; /* a view of what stands below */
    struct ga_weights *weights;
    ga_train_progress *curve;
} ga_train_state;

/* Replaces the file at `path`. GA_ERR_IO, GA_ERR_MEMORY; the file that was there stays then. */
ga_status ga_train_state_write(const ga_fit_state *state, int32_t stage, const char *path, ga_error *error);

/* *state_out is the caller's until ga_train_state_destroy; nothing on failure. GA_ERR_FILE (can't be read,
 * damaged, no state), GA_ERR_MEMORY. */
ga_status ga_train_state_read(const char *path, ga_train_state *state_out, ga_error *error);

/* Empty is allowed. */
void ga_train_state_destroy(ga_train_state *state);

#endif
