/*
 * A YAML text as a tree of nodes that know their line and column.
 *
 * The safe part of YAML only: one document, at most 64 KiB, 16 levels, 256 entries a level; no anchors,
 * aliases, tags, merge keys, or keys that are not plain words. Duplicate keys are errors. Scalars stay text:
 * what a text means is decided by the schema.
 */
#ifndef GA_CONFIG_DOCUMENT_H
#define GA_CONFIG_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/status.h"

#define GA_DOCUMENT_BYTES_MAX 65536
#define GA_DOCUMENT_DEPTH_MAX 16
#define GA_DOCUMENT_ENTRIES_MAX 256

typedef enum ga_node_kind { GA_NODE_SCALAR = 0, GA_NODE_LIST = 1, GA_NODE_MAP = 2 } ga_node_kind;

typedef struct ga_node ga_node;
struct ga_node {
    ga_node_kind kind;
    bool quoted;      /* a scalar that was written in quotes or as a block */
    const char *key;  /* name in the map above; NULL in a list and at the root */
    const char *text; /* of a scalar, without NUL inside; NULL for lists and maps */
    int line;         /* where the value starts, from 1; 0: has no place (an override) */
    int column;
    int key_line; /* where the key starts */
    int key_column;
    int child_count;
    ga_node *first; /* children in the order of the text */
    ga_node *last;
    ga_node *next; /* sibling */
};

/* `source:line:column` (or `source` alone where line is 0): the head of every message about a text. */
#define GA_PLACE_BYTES 256
void ga_place_format(const char *source, int line, int column, char place_out[GA_PLACE_BYTES]);

/* `text` fit for a message: at most 48 bytes, what is not printable ASCII as '?'. */
#define GA_SHOWN_BYTES 56
void ga_text_show(const char *text, char shown_out[GA_SHOWN_BYTES]);

/* Nothing, `~` or `null` without quotes. */
bool ga_node_is_null(const ga_node *node);

/*
 * Parses bytes[0 … byte_count-1]; `source` names them in messages. The nodes live in `arena`. An empty text
 * gives *root_out = NULL. Errors: GA_ERR_CONFIG, GA_ERR_MEMORY.
 */
ga_status ga_document_parse(const char *source, const char *bytes, size_t byte_count, ga_arena *arena,
    const ga_node **root_out, ga_error *error);

/* Reads and parses a regular file. Errors: GA_ERR_FILE when it can't be read, else as above. */
ga_status ga_document_read(const char *path, ga_arena *arena, const ga_node **root_out, ga_error *error);

/* "0.2.5": the version of libyaml. Static storage. */
const char *ga_document_yaml_version(void);

#endif
