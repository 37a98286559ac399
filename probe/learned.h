/*
 * What a probe has learned from, so that whoever judges it can tell rows that it knows from rows that are
 * new to it: the runs by name with the updates of the window, and the prompts that were held out.
 *
 * A run's name is made of its configuration, so two runs can share it. Therefore a few rows bear witness: a
 * record in which one of them has another prompt or reward is another run.
 *
 * Plain data but for the list of prompts, which its holder frees.
 */
#ifndef GA_PROBE_LEARNED_H
#define GA_PROBE_LEARNED_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"
#include "probe/weights.h"

#define GA_LEARNED_RUNS_MAX 8
#define GA_LEARNED_RUN_BYTES 64
#define GA_LEARNED_WITNESSES 4

typedef struct ga_learned_witness {
    uint64_t row_id;
    uint64_t digest; /* of what the record says of the row: see ga_learned_digest */
} ga_learned_witness;

typedef struct ga_learned_run {
    char id[GA_LEARNED_RUN_BYTES]; /* run_id of the record */
    uint32_t oldest_update, newest_update;
    uint64_t newest_row; /* the largest row id, of all ranks */
    int32_t witness_count;
    ga_learned_witness witness[GA_LEARNED_WITNESSES];
} ga_learned_run;

/* run_count 0: not known, as in files of programs before this one. */
typedef struct ga_learned {
    int32_t run_count;
    ga_learned_run runs[GA_LEARNED_RUNS_MAX];
    int32_t held_count;
    uint64_t *held; /* [held_count] keys of prompts that were held out, ascending; NULL: none */
} ga_learned;

/* What a witness says: of the row's id, its prompt's key and its reward. */
uint64_t ga_learned_digest(uint64_t row_id, uint64_t prompt, float reward);

/* Were rows of this prompt and update of runs[run] among those that the training learned from? Of prompts
 * that were held out none was: they stopped the training, chose among models and calibrated the result. */
bool ga_learned_has(const ga_learned *learned, int32_t run, uint32_t update, uint64_t prompt);

/* Copies runs [run_count] and takes over held [held_count], ascending; more runs than there is room for: not
 * known, and held is freed. */
void ga_learned_set(
    ga_learned *learned, const ga_learned_run *runs, int32_t run_count, uint64_t *held, int32_t held_count);

/* Empty is allowed; leaves it empty. */
void ga_learned_clear(ga_learned *learned);

/* Texts "learned…" and the array "learned.held" of a probe's file; nothing where not known. GA_ERR_ARGUMENT,
 * GA_ERR_MEMORY. */
ga_status ga_learned_put(const ga_learned *learned, ga_weights *weights, ga_error *error);

/* Reads them; a file without leaves *learned_out empty. GA_ERR_FILE where they are damaged, GA_ERR_MEMORY. */
ga_status ga_learned_get(
    const ga_weights *weights, const char *path, ga_learned *learned_out, ga_error *error);

#endif
