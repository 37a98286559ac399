/* Part of a record's inputs as a layout of its own. */
#ifndef GA_SESSION_PROJECTION_H
#define GA_SESSION_PROJECTION_H

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"

/* GA_INPUT_BIT(…) of the inputs in a schema. */
uint32_t ga_projection_inputs(const ga_feature_schema *schema);

/*
 * The layout of the inputs whose bits are set, in the shapes that `full` gives them. Its id is the one that a
 * run with only these inputs would have, so a probe that was trained on a part serves such a run. An id that
 * no options of this build explain gives an id derived from it. GA_ERR_DATA, with the input named, where
 * `full` lacks one or none is asked for.
 */
ga_status ga_projection_make(
    const ga_feature_schema *full, uint32_t inputs, ga_feature_schema *part_out, ga_error *error);

#endif
