/* Categories of prompts, from a file that the user has. */
#ifndef GA_COMMAND_CATEGORIES_H
#define GA_COMMAND_CATEGORIES_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

#define GA_CATEGORIES_MAX 64
#define GA_CATEGORY_NAME_BYTES 64

typedef struct ga_categories ga_categories;

/*
 * Reads CSV (RFC 4180) with two columns, a prompt and its category; the prompt is its text or its hash as 32
 * hexadecimal digits, as `inspect` and the record show it. A first line `prompt,category` or
 * `prompt_hash,category` is a header. Freed with ga_categories_free. Errors: GA_ERR_FILE with file and line
 * (can't be read, no second column, more than GA_CATEGORIES_MAX categories), GA_ERR_MEMORY.
 */
ga_status ga_categories_read(const char *path, ga_categories **categories_out, ga_error *error);

/* Number of the category of a prompt, by its key as datasets have it; −1: none. */
int32_t ga_categories_find(const ga_categories *categories, uint64_t prompt);

int32_t ga_categories_count(const ga_categories *categories);
const char *ga_categories_name(const ga_categories *categories, int32_t category);

/* Sets *categories to NULL; NULL is allowed. */
void ga_categories_free(ga_categories **categories);

#endif
