#include "grpo_accel/command/python.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_program(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

/* folder[0 … length-1] "/" name; false if it is too long or no program. An empty folder is the working one.
 */
static bool program_in(const char *folder, size_t length, const char *name, char path_out[GA_PYTHON_BYTES]) {
    const int written = length > 0 ? snprintf(path_out, GA_PYTHON_BYTES, "%.*s/%s", (int)length, folder, name)
                                   : snprintf(path_out, GA_PYTHON_BYTES, "./%s", name);
    return written > 0 && written < GA_PYTHON_BYTES && is_program(path_out);
}

/* As execvp searches. */
static bool find_on_path(const char *name, char path_out[GA_PYTHON_BYTES]) {
    const char *at = getenv("PATH");
    while (at != NULL) {
        const size_t length = strcspn(at, ":");
        if (length < GA_PYTHON_BYTES && program_in(at, length, name, path_out)) {
            return true;
        }
        at = at[length] == ':' ? at + length + 1 : NULL;
    }
    return false;
}

static bool find_beside(const char *program_path, char path_out[GA_PYTHON_BYTES]) {
    const char *slash = strrchr(program_path, '/');
    if (slash == NULL) {
        return false;
    }
    const size_t length = slash == program_path ? 1 : (size_t)(slash - program_path);
    return program_in(program_path, length, "python3", path_out) ||
           program_in(program_path, length, "python", path_out);
}

ga_status ga_python_find(const char *program, char path_out[GA_PYTHON_BYTES], ga_error *error) {
    char found[GA_PYTHON_BYTES], itself[GA_PYTHON_BYTES];
    const char *named = getenv("GRPO_ACCEL_PYTHON");
    if (named != NULL && named[0] != '\0') {
        if (strlen(named) >= GA_PYTHON_BYTES) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "GRPO_ACCEL_PYTHON is longer than a path can be");
        }
        (void)strcpy(path_out, named);
        return GA_OK;
    }
    const char *called = program;
    if (strchr(program, '/') == NULL && find_on_path(program, itself)) {
        called = itself;
    }
    if (!find_beside(called, found) && !find_on_path("python3", found)) {
        return GA_FAIL(error, GA_ERR_MISSING,
            "no Python interpreter beside grpo-accel or on PATH; set GRPO_ACCEL_PYTHON to one");
    }
    (void)strcpy(path_out, found);
    return GA_OK;
}
