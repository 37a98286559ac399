#include "grpo_accel/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void ga_error_clear(ga_error *error) {
    if (error != NULL) {
        memset(error, 0, sizeof *error);
    }
}

ga_status ga_error_set(
    ga_error *error, const char *file, int line, ga_status status, const char *format, ...) {
    if (error == NULL || error->status != GA_OK) {
        return status;
    }
    error->status = status;
    error->file = file;
    error->line = line;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    return status;
}

const char *ga_status_name(ga_status status) {
    switch (status) {
    case GA_OK: return "ok";
    case GA_ERR_ARGUMENT: return "argument";
    case GA_ERR_CONFIG: return "config";
    case GA_ERR_FILE: return "file";
    case GA_ERR_MISSING: return "missing";
    case GA_ERR_LATE: return "late";
    case GA_ERR_MISMATCH: return "mismatch";
    case GA_ERR_DATA: return "data";
    case GA_ERR_MEMORY: return "memory";
    case GA_ERR_IO: return "io";
    case GA_ERR_WORLD: return "world";
    case GA_ERR_BUG: return "bug";
    }
    return "unknown";
}
