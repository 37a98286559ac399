#include "grpo_accel/config/dump.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/digest.h"
#include "grpo_accel/config/schema.h"
#include "grpo_accel/config/value.h"

#define COMMENT_COLUMN 44

void ga_origin_format(const ga_origin *origin, char text_out[GA_ORIGIN_BYTES]) {
    if (origin->kind == GA_ORIGIN_FILE) {
        (void)snprintf(text_out, GA_ORIGIN_BYTES, "%.230s:%d", origin->source, origin->line);
    } else {
        (void)snprintf(text_out, GA_ORIGIN_BYTES, "%.250s", origin->source);
    }
}

/* Bytes that a and b share as whole sections: 9 for decision.keep and decision.step. */
static size_t shared_sections(const char *a, const char *b) {
    size_t shared = 0;
    for (size_t i = 0; a[i] != '\0' && a[i] == b[i]; i++) {
        if (a[i] == '.') {
            shared = i + 1;
        }
    }
    return shared;
}

static int section_depth(const char *path, size_t bytes) {
    int depth = 0;
    for (size_t i = 0; i < bytes; i++) {
        depth += path[i] == '.';
    }
    return depth;
}

/* Heads of the sections that begin with this key; gives the depth of the key. */
static int write_sections(const char *previous, const char *path, FILE *out) {
    size_t start = shared_sections(previous, path);
    int depth = section_depth(path, start);
    for (const char *point = strchr(path + start, '.'); point != NULL; point = strchr(path + start, '.')) {
        (void)fprintf(out, "%*s%.*s:\n", 2 * depth, "", (int)(point - path - (ptrdiff_t)start), path + start);
        start = (size_t)(point - path) + 1;
        depth++;
    }
    return depth;
}

static void write_entry(const ga_config *config, size_t index, FILE *out) {
    const ga_schema_entry *entry = &ga_schema[index];
    const int depth = write_sections(index == 0 ? "" : ga_schema[index - 1].path, entry->path, out);
    const char *point = strrchr(entry->path, '.');
    const long start = ftell(out);
    (void)fprintf(out, "%*s%s: ", 2 * depth, "", point != NULL ? point + 1 : entry->path);
    ga_value_write(entry, config, GA_VALUE_YAML, out);
    const long width = ftell(out) - start;
    char origin[GA_ORIGIN_BYTES];
    ga_origin_format(&config->origins[index], origin);
    (void)fprintf(out, "%*s # %s\n", width < COMMENT_COLUMN ? (int)(COMMENT_COLUMN - width) : 0, "", origin);
}

char *ga_config_dump(const ga_config *config) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) {
        return NULL;
    }
    (void)fprintf(out, "# fingerprint %016llx\n", (unsigned long long)config->fingerprint);
    for (size_t i = 0; i < ga_schema_count; i++) {
        write_entry(config, i, out);
    }
    const int failed = ferror(out);
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}

uint64_t ga_config_digest(const ga_config *config) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) {
        return 0;
    }
    for (size_t i = 0; i < ga_schema_count; i++) {
        if ((ga_schema[i].flags & GA_SCHEMA_OWN_TO_RANK) == 0) {
            (void)fprintf(out, "%s: ", ga_schema[i].path);
            ga_value_write(&ga_schema[i], config, GA_VALUE_YAML, out);
            (void)fputc('\n', out);
        }
    }
    const int failed = ferror(out);
    const uint64_t digest = fclose(out) != 0 || failed ? 0 : ga_digest64(text, bytes) | 1u;
    free(text);
    return digest;
}
