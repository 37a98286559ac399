#include "grpo_accel/record/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Whole numbers of a line, by key. */
typedef struct number_field {
    const char *key;
    size_t offset;
} number_field;
static const number_field number_fields[] = {
    {"rows", offsetof(ga_manifest_line, rows)},
    {"bytes", offsetof(ga_manifest_line, bytes)},
    {"first_row_id", offsetof(ga_manifest_line, first_row_id)},
    {"last_row_id", offsetof(ga_manifest_line, last_row_id)},
    {"first_batch", offsetof(ga_manifest_line, first_batch)},
    {"last_batch", offsetof(ga_manifest_line, last_batch)},
    {"first_update", offsetof(ga_manifest_line, first_update)},
    {"last_update", offsetof(ga_manifest_line, last_update)},
    {"sequence", offsetof(ga_manifest_line, sequence)},
};
#define NUMBER_COUNT (sizeof number_fields / sizeof *number_fields)
/* bits of what a line must have: the numbers, then these */
#define SEEN_FILE (1u << NUMBER_COUNT)
#define SEEN_CHECKSUM (1u << (NUMBER_COUNT + 1))
#define SEEN_ALL ((1u << (NUMBER_COUNT + 2)) - 1u)

void ga_manifest_format(const ga_manifest_line *line, char text_out[GA_MANIFEST_LINE_BYTES]) {
    (void)snprintf(text_out, GA_MANIFEST_LINE_BYTES,
        "{\"file\": \"%s\", \"rows\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"checksum\": \"%016" PRIx64
        "\", \"first_row_id\": %" PRIu64 ", \"last_row_id\": %" PRIu64 ", \"first_batch\": %" PRIu64
        ", \"last_batch\": %" PRIu64 ", \"first_update\": %" PRIu64 ", \"last_update\": %" PRIu64
        ", \"sequence\": %" PRIu64 "}",
        line->file, line->rows, line->bytes, line->checksum, line->first_row_id, line->last_row_id,
        line->first_batch, line->last_batch, line->first_update, line->last_update, line->sequence);
}

static void skip_space(const char **text) {
    *text += strspn(*text, " \t\r");
}

/* "…" without escapes: our names have none. */
static bool take_string(const char **text, char *value, size_t bytes) {
    skip_space(text);
    if (**text != '"') {
        return false;
    }
    const char *start = *text + 1;
    const size_t length = strcspn(start, "\"\\");
    if (start[length] != '"' || length >= bytes) {
        return false;
    }
    memcpy(value, start, length);
    value[length] = 0;
    *text = start + length + 1;
    return true;
}

static bool take_number(const char **text, uint64_t *value) {
    skip_space(text);
    if (**text < '0' || **text > '9') {
        return false;
    }
    char *end = NULL;
    errno = 0;
    *value = strtoull(*text, &end, 10);
    *text = end;
    return errno == 0;
}

static bool take_character(const char **text, char wanted) {
    skip_space(text);
    if (**text != wanted) {
        return false;
    }
    (*text)++;
    return true;
}

/* A plain name of ours: nothing that could lead out of the folder. */
static bool is_plain_name(const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    return name[0] != 0 && name[0] != '.' && name[strspn(name, allowed)] == 0;
}

static bool take_checksum(const char **text, uint64_t *checksum) {
    char digits[17];
    if (!take_string(text, digits, sizeof digits) || strlen(digits) != 16 ||
        strspn(digits, "0123456789abcdef") != 16) {
        return false;
    }
    *checksum = strtoull(digits, NULL, 16);
    return true;
}

/* One "key": value. Keys that a later version may add are numbers or strings, and are skipped. */
static bool take_member(const char **text, ga_manifest_line *line, unsigned *seen) {
    char key[32], ignored[256];
    uint64_t number = 0;
    if (!take_string(text, key, sizeof key) || !take_character(text, ':')) {
        return false;
    }
    if (strcmp(key, "file") == 0) {
        *seen |= SEEN_FILE;
        return take_string(text, line->file, sizeof line->file) && is_plain_name(line->file);
    }
    if (strcmp(key, "checksum") == 0) {
        *seen |= SEEN_CHECKSUM;
        return take_checksum(text, &line->checksum);
    }
    skip_space(text);
    if (!(**text == '"' ? take_string(text, ignored, sizeof ignored) : take_number(text, &number))) {
        return false;
    }
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        if (strcmp(key, number_fields[i].key) == 0) {
            memcpy((char *)line + number_fields[i].offset, &number, sizeof number);
            *seen |= 1u << i;
        }
    }
    return true;
}

bool ga_manifest_parse(const char *text, ga_manifest_line *line_out) {
    ga_manifest_line line;
    memset(&line, 0, sizeof line);
    unsigned seen = 0;
    if (!take_character(&text, '{')) {
        return false;
    }
    do {
        if (!take_member(&text, &line, &seen)) {
            return false;
        }
    } while (take_character(&text, ','));
    if (!take_character(&text, '}') || seen != SEEN_ALL) {
        return false;
    }
    skip_space(&text);
    if (*text != 0) {
        return false;
    }
    *line_out = line;
    return true;
}

static bool add_line(ga_manifest *manifest, const ga_manifest_line *line) {
    if ((manifest->count & (manifest->count - 1)) == 0) { /* full at 0, 1, 2, 4, 8, … */
        const size_t capacity = manifest->count == 0 ? 1 : manifest->count * 2;
        ga_manifest_line *lines = realloc(manifest->lines, capacity * sizeof *lines);
        if (lines == NULL) {
            return false;
        }
        manifest->lines = lines;
    }
    manifest->lines[manifest->count++] = *line;
    return true;
}

static ga_status take_line(ga_manifest *manifest, char *text, size_t length, ga_error *error) {
    const bool whole = length > 0 && text[length - 1] == '\n';
    text[length - (whole ? 1 : 0)] = 0;
    ga_manifest_line line;
    if (ga_manifest_parse(text, &line)) {
        return add_line(manifest, &line) ? GA_OK : GA_FAIL(error, GA_ERR_MEMORY, "no memory for a manifest");
    }
    if (!whole) {
        manifest->torn = true;
    } else if (text[strspn(text, " \t\r")] != 0) {
        manifest->unreadable_count++;
    }
    return GA_OK;
}

static FILE *open_manifest(const char *folder) {
    char path[4224];
    if (snprintf(path, sizeof path, "%s/" GA_MANIFEST_NAME, folder) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (file == NULL && fd >= 0) {
        (void)close(fd);
    }
    return file;
}

ga_status ga_manifest_read(const char *folder, ga_manifest *manifest_out, ga_error *error) {
    ga_manifest manifest = {0};
    FILE *file = open_manifest(folder);
    if (file == NULL) {
        if (errno == ENOENT) {
            *manifest_out = manifest;
            return GA_OK;
        }
        return GA_FAIL(error, GA_ERR_FILE, "%s/" GA_MANIFEST_NAME " can't be opened: %s", folder,
            strerrordesc_np(errno));
    }
    manifest.exists = true;
    char *text = NULL;
    size_t capacity = 0;
    ga_status status = GA_OK;
    ssize_t length = 0;
    while (status == GA_OK && (length = getline(&text, &capacity, file)) > 0) {
        status = take_line(&manifest, text, (size_t)length, error);
    }
    if (status == GA_OK && ferror(file) != 0) {
        status = GA_FAIL(error, GA_ERR_FILE, "%s/" GA_MANIFEST_NAME " can't be read", folder);
    }
    free(text);
    (void)fclose(file);
    if (status != GA_OK) {
        ga_manifest_free(&manifest);
        return status;
    }
    *manifest_out = manifest;
    return GA_OK;
}

void ga_manifest_free(ga_manifest *manifest) {
    free(manifest->lines);
    *manifest = (ga_manifest){0};
}

const ga_manifest_line *ga_manifest_find(const ga_manifest *manifest, const char *file) {
    for (size_t i = manifest->count; i-- > 0;) {
        if (strcmp(manifest->lines[i].file, file) == 0) {
            return &manifest->lines[i];
        }
    }
    return NULL;
}
