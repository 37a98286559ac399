#include "grpo_accel/command/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

ga_json ga_json_make(FILE *out) {
    return (ga_json){.out = out};
}

/* Length of a valid UTF-8 sequence (RFC 3629), 0 if it is none. */
static size_t utf8_length(const unsigned char *text) {
    static const unsigned char second_low[] = {[0x0] = 0xa0, [0x10] = 0x90};
    const unsigned char first = text[0];
    const size_t length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
    if (length <= 1 || first > 0xf4) {
        return first > 0xf4 ? 0 : length;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    const bool overlong = (first == 0xe0 || first == 0xf0) && text[1] < second_low[first - 0xe0];
    const bool surrogate = first == 0xed && text[1] > 0x9f;
    const bool too_large = first == 0xf4 && text[1] > 0x8f;
    return overlong || surrogate || too_large ? 0 : length;
}

static void write_escaped(const char *text, FILE *out) {
    (void)fputc('"', out);
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        const size_t length = utf8_length(at);
        if (length == 0) {
            (void)fputs("\\ufffd", out);
        } else if (*at == '"' || *at == '\\') {
            (void)fprintf(out, "\\%c", *at);
        } else if (*at == '\n') {
            (void)fputs("\\n", out);
        } else if (*at < 0x20 || *at == 0x7f) {
            (void)fprintf(out, "\\u%04x", *at);
        } else {
            (void)fwrite(at, 1, length, out);
        }
        at += length > 0 ? length : 1;
    }
    (void)fputc('"', out);
}

static void new_line(const ga_json *json) {
    (void)fprintf(json->out, "\n%*s", 2 * json->depth, "");
}

/* What stands before a value: a comma, a line, its name. */
static void begin_value(ga_json *json, const char *key) {
    if (json->depth == 0) {
        return;
    }
    if (json->has_members[json->depth - 1]) {
        (void)fputc(',', json->out);
    }
    json->has_members[json->depth - 1] = true;
    new_line(json);
    if (!json->is_array[json->depth - 1]) {
        write_escaped(key != NULL ? key : "", json->out);
        (void)fputs(": ", json->out);
    }
}

static void begin_container(ga_json *json, const char *key, bool is_array) {
    begin_value(json, key);
    (void)fputc(is_array ? '[' : '{', json->out);
    if (json->depth < GA_JSON_DEPTH_MAX) {
        json->is_array[json->depth] = is_array;
        json->has_members[json->depth] = false;
        json->depth++;
    }
}

void ga_json_object(ga_json *json, const char *key) {
    begin_container(json, key, false);
}

void ga_json_array(ga_json *json, const char *key) {
    begin_container(json, key, true);
}

void ga_json_end(ga_json *json) {
    if (json->depth == 0) {
        return;
    }
    json->depth--;
    if (json->has_members[json->depth]) {
        new_line(json);
    }
    (void)fputc(json->is_array[json->depth] ? ']' : '}', json->out);
    if (json->depth == 0) {
        (void)fputc('\n', json->out);
    }
}

void ga_json_raw(ga_json *json, const char *key, const char *value) {
    begin_value(json, key);
    (void)fputs(value, json->out);
}

void ga_json_text(ga_json *json, const char *key, const char *text) {
    if (text == NULL) {
        ga_json_raw(json, key, "null");
        return;
    }
    begin_value(json, key);
    write_escaped(text, json->out);
}

void ga_json_integer(ga_json *json, const char *key, int64_t value) {
    begin_value(json, key);
    (void)fprintf(json->out, "%lld", (long long)value);
}

/* The shortest of 15 to 17 digits that reads back to the same double. This program never leaves the C locale.
 */
void ga_json_real(ga_json *json, const char *key, double value) {
    if (!isfinite(value)) {
        ga_json_raw(json, key, "null");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    ga_json_raw(json, key, text);
}

void ga_json_boolean(ga_json *json, const char *key, bool value) {
    ga_json_raw(json, key, value ? "true" : "false");
}
