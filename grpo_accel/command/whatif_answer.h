/* How replay and simulate answer: JSON, a table for people, a picture. */
#ifndef GA_COMMAND_WHATIF_ANSWER_H
#define GA_COMMAND_WHATIF_ANSWER_H

#include "grpo_accel/command/json.h"
#include "grpo_accel/command/whatif_ask.h"

/* What cases have in common: of a table, or of a world. */
typedef struct ga_answer_frame {
    int64_t rows, groups, batches;
    bool calibrated_on_itself;
} ga_answer_frame;

/* The members of a case in an object that is open: those of docs/whatif.md, replay's contract first. */
void ga_answer_members(
    ga_json *json, const ga_ask *ask, const ga_case *answered, const ga_answer_frame *frame);

/* "yes", "unclear", "no". */
const char *ga_answer_pays(ga_pays pays);

/* "extremes" … of a kind. */
const char *ga_answer_policy(ga_policy_kind kind);

/* Heading and one line a case on standard output. `label` stands first in a line (may be empty). */
void ga_answer_heading(const char *label);
void ga_answer_line(const char *label, const ga_case *answered);

/* One field of a picture: kept energy against the kept share, a line a policy, and the break-even line. */
typedef struct ga_answer_panel {
    char title[160];
    const ga_case **cases; /* [count] */
    int32_t count;
} ga_answer_panel;

/*
 * Writes panels as one picture (.svg) or page (.html), whole or not at all. GA_ERR_ARGUMENT (another ending),
 * GA_ERR_IO.
 */
ga_status ga_answer_picture(
    const char *path, const char *title, const ga_answer_panel *panels, int32_t count, ga_error *error);

#endif
