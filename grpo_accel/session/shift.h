/*
 * How far features and scores have moved from what the probe learned from.
 *
 * The reference is the probe's own (probe/reference.h). A probe whose file has none is compared with the
 * first GA_SHIFT_COLLECTED rows that this rank sees of each figure after it came into use. Features stay on
 * their rank: what travels are counts by decile, in the header of the update's exchange; scores are exchanged
 * anyway. The newest updates count most: an update half as much after GA_SHIFT_HALF_LIFE_UPDATES more.
 *
 * Rows of a group are alike, so a group counts as one row where chance is told from drift, and so do the rows
 * that were collected; a probe's own reference brings its effective number with it.
 */
#ifndef GA_SESSION_SHIFT_H
#define GA_SESSION_SHIFT_H

#include "grpo_accel/base/flow.h"
#include "grpo_accel/estimate/drift.h"
#include "probe/reference.h"

#define GA_SHIFT_COLLECTED 256
#define GA_SHIFT_HALF_LIFE_UPDATES 4
#define GA_SHIFT_COUNTS (GA_INPUT_COUNT * GA_DRIFT_BINS)

/* One figure at one candidate step. */
typedef struct ga_shift_column {
    ga_reference_column then;            /* rows 0: not known yet */
    float collected[GA_SHIFT_COLLECTED]; /* until it is */
    int32_t collected_count;
} ga_shift_column;

/* Plain data; some 80 kB. */
typedef struct ga_shift {
    ga_shift_column columns[GA_CANDIDATES_MAX][GA_REFERENCE_COLUMNS];
    uint16_t counts[GA_SHIFT_COUNTS];       /* this rank, this update */
    ga_histogram now[GA_REFERENCE_COLUMNS]; /* all ranks, newest updates */
    double groups[GA_REFERENCE_COLUMNS];    /* in them */
    double rows_per_group;                  /* of the newest update; 0: not known yet */
} ga_shift;

/* Forgets everything; reference: of the probe in use, NULL: none. steps [count]: the candidates'. */
void ga_shift_reset(ga_shift *shift, const ga_reference *reference, const int32_t *steps, int32_t count);

/* Rows of a look, of which none was stopped before. */
void ga_shift_look(ga_shift *shift, const ga_feature_block *block, int32_t candidate);

/* The end of an update: scores of all ranks' rows, each at its first look, and the counts of all ranks. */
void ga_shift_take(ga_shift *shift, const ga_outcome *outcomes, int32_t count, const uint64_t *count_sum);

/* Scores, and the input that has moved most (−1: none is known). Figures are NaN while nothing is known. */
void ga_shift_read(const ga_shift *shift, ga_drift *scores_out, ga_drift *features_out, int32_t *input_out);

#endif
