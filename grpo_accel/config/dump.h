/* What is in force and where each value came from. */
#ifndef GA_CONFIG_DUMP_H
#define GA_CONFIG_DUMP_H

#include "grpo_accel/config/config.h"

/*
 * The whole configuration as YAML, each line with a comment that says where its value came from. Reads back
 * to the same values. The caller frees the text with free(); NULL when memory is out.
 */
char *ga_config_dump(const ga_config *config);

/* "default" | "file:line" | "GRPO_ACCEL_DECISION__KEEP" | "--set". */
#define GA_ORIGIN_BYTES 256
void ga_origin_format(const ga_origin *origin, char text_out[GA_ORIGIN_BYTES]);

/*
 * Digest of all values that ranks must agree on (not run_dir, not metrics), whatever their origin. 0 when
 * memory is out; never 0 otherwise.
 */
uint64_t ga_config_digest(const ga_config *config);

#endif
