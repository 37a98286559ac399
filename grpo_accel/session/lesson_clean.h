/* The run's own ends as a dataset: final latents where a training on signals has previews. */
#ifndef GA_SESSION_LESSON_CLEAN_H
#define GA_SESSION_LESSON_CLEAN_H

#include <stddef.h>

#include "grpo_accel/record/table.h"
#include "probe/train/dataset.h"

/* Noise level that a final counts with: a schedule's last step but one has about that much. */
#define GA_LESSON_CLEAN_SIGMA 0.02f

typedef struct ga_lesson_clean ga_lesson_clean;

/*
 * A row for each row of the table: input x0 is the final latent, averaged to the maps' size, prompt is the
 * row's own, everything else is unknown (NaN). `prompt` and `mine` [rows]: as in the dataset that it belongs
 * to; views, as the table. *clean_out is NULL, without an error, where there is nothing to learn: no input
 * x0, or no latent finals of its channels. Features within memory_bytes are held, more are fetched. Freed
 * with ga_lesson_clean_free. Errors: GA_ERR_FILE, GA_ERR_MEMORY.
 */
ga_status ga_lesson_clean_make(const ga_record_table *table, const ga_feature_schema *schema,
    const uint64_t *prompt, const uint8_t *mine, size_t memory_bytes, ga_lesson_clean **clean_out,
    ga_error *error);

/* A view, valid until ga_lesson_clean_free; `more` is empty. */
const ga_dataset *ga_lesson_clean_dataset(const ga_lesson_clean *clean);

/* Frees and sets *clean to NULL; NULL is allowed. */
void ga_lesson_clean_free(ga_lesson_clean **clean);

#endif
