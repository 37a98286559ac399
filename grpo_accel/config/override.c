#include "grpo_accel/config/override.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

#include "grpo_accel/config/document.h"

static const char variable_head[] = "GRPO_ACCEL_";
static const char *const top_level_keys[] = {"mode", "seed", "run_dir"};

/* Bytes of the UTF-8 sequence at `text` (RFC 3629, without surrogates); 0 if it is none. */
static size_t utf8_length(const unsigned char *text) {
    const unsigned char first = text[0];
    const size_t length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
    if (length == 0 || first > 0xf4) {
        return 0;
    }
    uint32_t code = length == 1 ? first : first & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (text[i] & 0x3fu);
    }
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code < smallest[length] || code > 0x10ffff || surrogate ? 0 : length;
}

/* UTF-8 without control characters: what also can stand in a file, and in JSON. */
static bool is_clean(const char *text) {
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        const size_t length = utf8_length(at);
        if (length == 0 || *at < 0x20 || *at == 0x7f) {
            return false;
        }
        at += length;
    }
    return true;
}

static ga_status finish(ga_override *made, const char *text, ga_override *override_out, ga_error *error) {
    if (!is_clean(text)) {
        return GA_FAIL(error, GA_ERR_CONFIG,
            "%.100s: %.100s: the value is not clean text (UTF-8, no control "
            "characters)",
            made->origin.source, made->path);
    }
    made->text = text;
    *override_out = *made;
    return GA_OK;
}

/* DECISION__THRESHOLD__KIND → decision.threshold.kind, in place. */
static void name_to_path(char *name) {
    char *to = name;
    for (const char *from = name; *from != '\0'; from++) {
        if (from[0] == '_' && from[1] == '_') {
            *to++ = '.';
            from++;
        } else {
            *to++ = (char)tolower((unsigned char)*from);
        }
    }
    *to = '\0';
}

static bool is_top_level_key(const char *path) {
    for (size_t i = 0; i < sizeof top_level_keys / sizeof top_level_keys[0]; i++) {
        if (strcmp(path, top_level_keys[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* The first `length` bytes of text in the arena; NULL when memory is out. */
static char *copy_start(ga_arena *arena, const char *text, size_t length) {
    char *copy = ga_arena_take(arena, length + 1, 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
    }
    return copy;
}

ga_status ga_override_from_variable(
    const char *variable, ga_arena *arena, ga_override *override_out, ga_error *error) {
    const size_t head_length = sizeof variable_head - 1;
    const char *equals = strchr(variable, '=');
    if (equals == NULL || strncmp(variable, variable_head, head_length) != 0) {
        override_out->path = NULL;
        return GA_OK;
    }
    const size_t name_length = (size_t)(equals - variable);
    char *name = copy_start(arena, variable, name_length);
    char *path = name_length > head_length
                     ? copy_start(arena, variable + head_length, name_length - head_length)
                     : copy_start(arena, "", 0);
    if (name == NULL || path == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "out of memory while reading the environment");
    }
    const bool has_section = strstr(path, "__") != NULL;
    name_to_path(path);
    if (!has_section && !is_top_level_key(path)) {
        override_out->path = NULL;
        return GA_OK;
    }
    ga_override made = {.path = path, .origin = {.kind = GA_ORIGIN_ENVIRONMENT, .source = name}};
    return finish(&made, equals + 1, override_out, error);
}

ga_status ga_override_from_set(
    const char *text, ga_arena *arena, ga_override *override_out, ga_error *error) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) {
        char shown[GA_SHOWN_BYTES];
        ga_text_show(text, shown);
        return GA_FAIL(error, GA_ERR_CONFIG, "--set: '%s' is not of the form section.key=value", shown);
    }
    const char *path = copy_start(arena, text, (size_t)(equals - text));
    const char *value = ga_arena_text(arena, equals + 1);
    if (path == NULL || value == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "out of memory while reading --set");
    }
    ga_override made = {.path = path, .origin = {.kind = GA_ORIGIN_SET, .source = "--set"}};
    return finish(&made, value, override_out, error);
}
