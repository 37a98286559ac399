/*
 * The grammar as a table: one entry a key. Parser, dump, JSON Schema and docs/configuration.md are driven by
 * it, so a key is described here and nowhere else.
 */
#ifndef GA_CONFIG_SCHEMA_H
#define GA_CONFIG_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

#include "grpo_accel/config/config.h"

/* What a key holds, and the type of its field in ga_config. */
typedef enum ga_schema_type {
    GA_SCHEMA_BOOLEAN = 0, /* bool */
    GA_SCHEMA_INTEGER = 1, /* int64_t */
    GA_SCHEMA_REAL = 2,    /* double */
    GA_SCHEMA_WORD = 3,    /* an enum: position in `words` */
    GA_SCHEMA_TEXT = 4,    /* const char *, NULL for null */
    GA_SCHEMA_STEPS = 5,   /* ga_config_steps: an integer, or an ascending list */
    GA_SCHEMA_SHARES = 6,  /* ga_config_shares: a number, or a list */
    GA_SCHEMA_WORDS = 7,   /* uint32_t: a list of `words`, as bits of their positions */
    GA_SCHEMA_BLOCKS = 8,  /* ga_config_blocks: "middle:N", "last_encoder:N", or a list of names */
    GA_SCHEMA_NAMES = 9,   /* ga_config_names: a list of texts */
    GA_SCHEMA_WIDTHS = 10  /* ga_config_widths: a list of integers */
} ga_schema_type;

enum {
    GA_SCHEMA_MAY_BE_AUTO = 1,  /* the word auto is a value too */
    GA_SCHEMA_MAY_BE_NULL = 2,  /* null is a value too */
    GA_SCHEMA_ABOVE_MIN = 4,    /* min itself is not allowed */
    GA_SCHEMA_BELOW_MAX = 8,    /* max itself is not allowed */
    GA_SCHEMA_OWN_TO_RANK = 16, /* ranks may differ in it: no part of the fingerprint */
    GA_SCHEMA_NO_RANGE = 32     /* any finite number */
};

typedef struct ga_schema_entry {
    const char *path; /* "decision.threshold.kind" */
    ga_schema_type type;
    unsigned flags;
    double min; /* of numbers, and of N in blocks */
    double max;
    const char *words;   /* "off shadow prune auto", NULL where the type has none */
    const char *unit;    /* "" where there is none */
    const char *initial; /* the default as it would stand in a file */
    const char *help;    /* one or two sentences */
    size_t offset;       /* of the field in ga_config */
} ga_schema_entry;

/* All keys in the order of a file; keys of a section stand together. Static storage. */
extern const ga_schema_entry ga_schema[];
extern const size_t ga_schema_count;

/* The entry of a key; NULL if there is none. */
const ga_schema_entry *ga_schema_find(const char *path);

/* How many steps a list of type GA_SCHEMA_STEPS may have. */
int32_t ga_schema_steps_max(const ga_schema_entry *entry);

/* True for "decision" and "decision.threshold": something that has keys below it. */
bool ga_schema_is_section(const char *path);

/* The key that a misspelt path most likely means; NULL if none is near. */
const char *ga_schema_nearest(const char *path);

/* The `index`-th of a list of words separated by blanks, into word_out; false past the end. */
#define GA_WORD_BYTES 32
bool ga_schema_word(const char *words, size_t index, char word_out[GA_WORD_BYTES]);

/* What may stand there: "a number above 0, at most 1, or auto". */
#define GA_EXPECTED_BYTES 256
void ga_schema_expect(const ga_schema_entry *entry, char text_out[GA_EXPECTED_BYTES]);

#endif
