/*
 * The log: one sink for the whole process, four levels, and warnings that are given only once.
 *
 * Library rooms are silent; only session and command write here.
 */
#ifndef GA_BASE_LOG_H
#define GA_BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>

typedef enum ga_log_level {
    GA_LOG_ERROR = 0,
    GA_LOG_WARNING = 1,
    GA_LOG_INFO = 2,
    GA_LOG_DEBUG = 3
} ga_log_level;

/* Called with a complete line without line end; from any thread. */
typedef void (*ga_log_sink)(void *user, int level, const char *line);

/* NULL restores the default: "grpo_accel: level: line" on standard error. Not while other threads log. */
void ga_log_set_sink(ga_log_sink sink, void *user);

/*
 * What is written: this level and all graver ones. Until a level is set, GRPO_ACCEL_LOG's (default: info) as
 * it was at the first line after the last change of sink.
 */
void ga_log_set_level(ga_log_level level);
ga_log_level ga_log_get_level(void);

/* "error" | "warning" | "info" | "debug" → level; false if it is none of these. */
bool ga_log_level_parse(const char *text, ga_log_level *level_out);

/* A prefix such as "rank 3: " for each line; at most 31 bytes are kept. */
void ga_log_set_prefix(const char *prefix);

void ga_log(ga_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes the first time only; `once` is a static atomic_flag of the caller, one per kind of warning. */
void ga_log_once(atomic_flag *once, ga_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
