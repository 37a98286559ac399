/*
 * Values as text and in memory: strict reading of a node into a field of ga_config, and the one canonical
 * way to write a field. What is written reads back to the same value. Independent of the process's locale.
 */
#ifndef GA_CONFIG_VALUE_H
#define GA_CONFIG_VALUE_H

#include <stdio.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/config/document.h"
#include "grpo_accel/config/schema.h"

/*
 * Reads `node` as `entry` wants it into the entry's field of `config`. Texts live in `arena`. `source` names
 * the node's text in messages. The field is untouched on failure.
 * Errors: GA_ERR_CONFIG "source:line:column: key: expected …, found …"; GA_ERR_MEMORY.
 */
ga_status ga_value_read(const ga_schema_entry *entry, const char *source, const ga_node *node,
    ga_arena *arena, ga_config *config, ga_error *error);

/*
 * A number in JSON's grammar (RFC 8259, section 6), finite; an integer without fraction and exponent that
 * fits. False, and nothing is written, for any other text: 0.3x, 0,3, 010, .5, +1, nan.
 */
bool ga_value_parse_real(const char *text, double *value_out);
bool ga_value_parse_integer(const char *text, int64_t *value_out);

/* How a value is written. */
typedef enum ga_value_style {
    GA_VALUE_YAML = 0, /* words plain */
    GA_VALUE_JSON = 1  /* words in quotes */
} ga_value_style;

/* Writes the entry's field to `out` on one line, without a line end. */
void ga_value_write(const ga_schema_entry *entry, const ga_config *config, ga_value_style style, FILE *out);

/* `text` in JSON's (and YAML's) double quotes. Bytes that are not UTF-8 must not be in it. */
void ga_value_write_quoted(const char *text, FILE *out);

#endif
