#include "probe/json.h"

#include <stdio.h>
#include <string.h>

static void skip_space(ga_json *json) {
    while (json->at < json->bytes && strchr(" \t\r\n", json->text[json->at]) != NULL &&
           json->text[json->at] != '\0') {
        json->at++;
    }
}

bool ga_json_take(ga_json *json, char character) {
    skip_space(json);
    if (json->at >= json->bytes || json->text[json->at] != character) {
        return false;
    }
    json->at++;
    return true;
}

bool ga_json_at_end(ga_json *json) {
    skip_space(json);
    return json->at == json->bytes;
}

static bool take_hex4(ga_json *json, uint32_t *value) {
    if (json->bytes - json->at < 4) {
        return false;
    }
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        const char c = json->text[json->at + (size_t)i];
        const uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                               : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10u
                               : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A') + 10u
                                                      : 16u;
        if (digit > 15u) {
            return false;
        }
        result = result * 16u + digit;
    }
    json->at += 4;
    *value = result;
    return true;
}

/* What follows \u, with the second half of a surrogate pair. */
static bool take_code_point(ga_json *json, uint32_t *point) {
    uint32_t high, low;
    if (!take_hex4(json, &high)) {
        return false;
    }
    if (high >= 0xdc00u && high <= 0xdfffu) {
        return false;
    }
    if (high < 0xd800u || high > 0xdbffu) {
        *point = high;
        return high != 0;
    }
    if (json->bytes - json->at < 6 || json->text[json->at] != '\\' || json->text[json->at + 1] != 'u') {
        return false;
    }
    json->at += 2;
    if (!take_hex4(json, &low) || low < 0xdc00u || low > 0xdfffu) {
        return false;
    }
    *point = 0x10000u + ((high - 0xd800u) << 10) + (low - 0xdc00u);
    return true;
}

/* Appends a code point as UTF-8; returns the number of bytes. */
static size_t put_code_point(uint32_t point, char bytes[4]) {
    if (point < 0x80u) {
        bytes[0] = (char)point;
        return 1;
    }
    const size_t count = point < 0x800u ? 2 : point < 0x10000u ? 3 : 4;
    static const unsigned char heads[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = count - 1; i > 0; i--) {
        bytes[i] = (char)(unsigned char)(0x80u | (point & 0x3fu));
        point >>= 6;
    }
    bytes[0] = (char)(unsigned char)(heads[count] | point);
    return count;
}

static bool take_escape(ga_json *json, char bytes[4], size_t *count) {
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    if (json->at >= json->bytes) {
        return false;
    }
    const char name = json->text[json->at++];
    if (name == 'u') {
        uint32_t point;
        if (!take_code_point(json, &point)) {
            return false;
        }
        *count = put_code_point(point, bytes);
        return true;
    }
    const char *found = name == '\0' ? NULL : strchr(names, name);
    if (found == NULL) {
        return false;
    }
    bytes[0] = values[found - names];
    *count = 1;
    return true;
}

/* Bytes of the UTF-8 sequence at the cursor (RFC 3629: no overlong forms, no surrogates); 0 if it is none. */
static size_t utf8_length(const ga_json *json) {
    const unsigned char *bytes = (const unsigned char *)json->text + json->at;
    const size_t left = json->bytes - json->at;
    if (bytes[0] < 0x80u) {
        return bytes[0] >= 0x20u ? 1 : 0; /* control characters must be escaped */
    }
    const size_t length = bytes[0] >= 0xc2u && bytes[0] <= 0xdfu   ? 2
                          : bytes[0] >= 0xe0u && bytes[0] <= 0xefu ? 3
                          : bytes[0] >= 0xf0u && bytes[0] <= 0xf4u ? 4
                                                                   : 0;
    if (length == 0 || left < length) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0u) != 0x80u) {
            return 0;
        }
    }
    const bool overlong = (bytes[0] == 0xe0u && bytes[1] < 0xa0u) || (bytes[0] == 0xf0u && bytes[1] < 0x90u);
    const bool outside = (bytes[0] == 0xedu && bytes[1] > 0x9fu) || (bytes[0] == 0xf4u && bytes[1] > 0x8fu);
    return overlong || outside ? 0 : length;
}

bool ga_json_take_string(ga_json *json, char *text, size_t capacity) {
    if (!ga_json_take(json, '"')) {
        return false;
    }
    size_t used = 0;
    while (json->at < json->bytes && json->text[json->at] != '"') {
        char bytes[4];
        size_t count = 0;
        if (json->text[json->at] == '\\') {
            json->at++;
            if (!take_escape(json, bytes, &count)) {
                return false;
            }
        } else {
            count = utf8_length(json);
            if (count == 0) {
                return false;
            }
            memcpy(bytes, json->text + json->at, count);
            json->at += count;
        }
        if (used + count >= capacity) {
            return false;
        }
        memcpy(text + used, bytes, count);
        used += count;
    }
    if (json->at >= json->bytes) {
        return false;
    }
    json->at++;
    text[used] = '\0';
    return true;
}

bool ga_json_take_integer(ga_json *json, int64_t *value) {
    skip_space(json);
    const size_t first = json->at;
    int64_t result = 0;
    while (json->at < json->bytes && json->text[json->at] >= '0' && json->text[json->at] <= '9') {
        result = result * 10 + (json->text[json->at] - '0');
        if (result > ((int64_t)1 << 53)) {
            return false;
        }
        json->at++;
    }
    const size_t digits = json->at - first;
    if (digits == 0 || (digits > 1 && json->text[first] == '0')) {
        return false;
    }
    *value = result;
    return true;
}

bool ga_json_take_integers(ga_json *json, int64_t *values, int32_t capacity, int32_t *count) {
    if (!ga_json_take(json, '[')) {
        return false;
    }
    *count = 0;
    if (ga_json_take(json, ']')) {
        return true;
    }
    do {
        if (*count >= capacity || !ga_json_take_integer(json, &values[*count])) {
            return false;
        }
        (*count)++;
    } while (ga_json_take(json, ','));
    return ga_json_take(json, ']');
}

static size_t quoted_length(unsigned char byte) {
    return byte == '"' || byte == '\\' ? 2 : byte < 0x20u ? 6 : 1;
}

size_t ga_json_quoted_bytes(const char *text) {
    size_t bytes = 2;
    for (const char *c = text; *c != '\0'; c++) {
        bytes += quoted_length((unsigned char)*c);
    }
    return bytes;
}

char *ga_json_quote(const char *text, char *target) {
    *target++ = '"';
    for (const char *c = text; *c != '\0'; c++) {
        const size_t length = quoted_length((unsigned char)*c);
        if (length == 2) {
            *target++ = '\\';
            *target++ = *c;
        } else if (length == 6) {
            char escape[8];
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)(unsigned char)*c);
            memcpy(target, escape, 6);
            target += 6;
        } else {
            *target++ = *c;
        }
    }
    *target++ = '"';
    return target;
}
