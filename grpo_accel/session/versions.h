/*
 * The probes of a run, <run>/probes: every promoted version, which of them is in use, and a journal of what
 * was trained.
 *
 *   probe-000002.safetensors   a version that was promoted; never replaced, never removed
 *   current                    number of the version in use, replaced whole
 *   journal.jsonl              one line a training and a rollback, whatever came of it
 *
 * Not collective. Any thread; several processes may read while one writes.
 */
#ifndef GA_SESSION_VERSIONS_H
#define GA_SESSION_VERSIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"
#include "probe/train/promote.h"

#define GA_VERSION_MAX 999999

/* "<run>/probes/probe-000002.safetensors" into path; false where it does not fit. */
bool ga_versions_path(const char *run, uint32_t version, char *path, size_t bytes);

/* Makes <run>/probes if it is not there. GA_ERR_IO. */
ga_status ga_versions_make_folder(const char *run, ga_error *error);

/*
 * Versions that are there, in rising order: a block of *count_out in *versions_out, which the caller frees;
 * a folder without any gives none. GA_ERR_FILE (no such run, can't be read), GA_ERR_MEMORY.
 */
ga_status ga_versions_list(const char *run, uint32_t **versions_out, size_t *count_out, ga_error *error);

/*
 * The version in use: what `current` says, else (no such file, or it names a version that is not there) the
 * newest; 0: none. It is the one that a resumed run starts with and that a running one takes next.
 */
uint32_t ga_versions_current(const char *run);

/* A number that no version, and no training in the journal, has had; > `above`. */
uint32_t ga_versions_next(const char *run, uint32_t above);

/* Says that a version is in use from now on. GA_ERR_FILE (no such version), GA_ERR_IO. */
ga_status ga_versions_use(const char *run, uint32_t version, ga_error *error);

/* One training: its version, the update after which it began, and the verdict. GA_ERR_IO. */
ga_status ga_versions_note_training(
    const char *run, uint32_t version, uint32_t update, const ga_promotion *promotion, ga_error *error);

/* One rollback. GA_ERR_IO. */
ga_status ga_versions_note_rollback(const char *run, uint32_t from, uint32_t to, ga_error *error);

#endif
