#include "grpo_accel/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const level_names[] = {"error", "warning", "info", "debug"};

static void write_standard_error(void *user, int level, const char *line) {
    (void)user;
    (void)fprintf(stderr, "grpo_accel: %s: %s\n", level_names[level], line);
}

/* The one global state of the library: where log lines go. */
static struct {
    ga_log_sink sink;
    void *user;
    atomic_int chosen, asked; /* level: set by the program; of the environment. -1: not yet */
    char prefix[32];
} log_state = {write_standard_error, NULL, -1, -1, ""};

bool ga_log_level_parse(const char *text, ga_log_level *level_out) {
    for (int level = 0; level < 4; level++) {
        if (text != NULL && strcmp(text, level_names[level]) == 0) {
            *level_out = (ga_log_level)level;
            return true;
        }
    }
    return false;
}

void ga_log_set_sink(ga_log_sink sink, void *user) {
    log_state.sink = sink != NULL ? sink : write_standard_error;
    log_state.user = sink != NULL ? user : NULL;
    atomic_store(&log_state.asked, -1);
}

void ga_log_set_level(ga_log_level level) {
    atomic_store(&log_state.chosen, (int)level);
}

ga_log_level ga_log_get_level(void) {
    const int chosen = atomic_load(&log_state.chosen);
    int level = chosen >= 0 ? chosen : atomic_load(&log_state.asked);
    if (level < 0) {
        ga_log_level parsed = GA_LOG_INFO;
        (void)ga_log_level_parse(getenv("GRPO_ACCEL_LOG"), &parsed);
        level = (int)parsed;
        atomic_store(&log_state.asked, level);
    }
    return (ga_log_level)level;
}

void ga_log_set_prefix(const char *prefix) {
    (void)snprintf(log_state.prefix, sizeof log_state.prefix, "%s", prefix);
}

static void log_arguments(ga_log_level level, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

static void log_arguments(ga_log_level level, const char *format, va_list arguments) {
    char line[1024];
    const int used = snprintf(line, sizeof line, "%s", log_state.prefix);
    const size_t start = used > 0 ? (size_t)used : 0u;
    (void)vsnprintf(line + start, sizeof line - start, format, arguments);
    log_state.sink(log_state.user, (int)level, line);
}

void ga_log(ga_log_level level, const char *format, ...) {
    if (level > ga_log_get_level()) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    log_arguments(level, format, arguments);
    va_end(arguments);
}

void ga_log_once(atomic_flag *once, ga_log_level level, const char *format, ...) {
    if (level > ga_log_get_level() || atomic_flag_test_and_set(once)) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    log_arguments(level, format, arguments);
    va_end(arguments);
}
