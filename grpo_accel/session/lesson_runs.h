/* Which runs the rows of lessons come from, and which of the rows a probe has learned from. */
#ifndef GA_SESSION_LESSON_RUNS_H
#define GA_SESSION_LESSON_RUNS_H

#include "grpo_accel/session/lessons.h"
#include "probe/learned.h"

/*
 * The runs, in the order of their first row, with the updates and the largest row id that are there and some
 * rows as witnesses: runs_out [GA_LEARNED_RUNS_MAX]. count_out: how many runs there are, also beyond that.
 * Not collective. GA_ERR_MEMORY.
 */
ga_status ga_lesson_runs_list(
    const ga_lessons *lessons, ga_learned_run *runs_out, int32_t *count_out, ga_error *error);

/*
 * mark_out [rows of the dataset]: 1 where the row is one that a probe which says `learned` of itself has
 * learned from. A run with the name of one that it knows, but whose witnesses say something else, is another
 * run. Not collective. GA_ERR_MEMORY.
 */
ga_status ga_lesson_runs_mark(
    const ga_lessons *lessons, const ga_learned *learned, uint8_t *mark_out, ga_error *error);

#endif
