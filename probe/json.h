/*
 * A strict reader of the part of JSON (RFC 8259) that the header of a safetensors file needs: objects, arrays
 * of non-negative integers, strings. A cursor over text that need not end with a zero byte.
 *
 * Every function leaves the cursor behind what it took, or returns false and leaves it at the offence.
 */
#ifndef GA_PROBE_JSON_H
#define GA_PROBE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ga_json {
    const char *text;
    size_t bytes;
    size_t at;
} ga_json;

/* Skips white space, then takes `character` if it is next. */
bool ga_json_take(ga_json *json, char character);

/* True when only white space is left. */
bool ga_json_at_end(ga_json *json);

/* A string with its escapes resolved, as UTF-8 with a zero byte behind it. False also when it is longer than
 * capacity - 1 bytes, holds a zero byte, or is not valid UTF-8. */
bool ga_json_take_string(ga_json *json, char *text, size_t capacity);

/* A non-negative integer without sign, fraction or leading zeros, at most 2^53. */
bool ga_json_take_integer(ga_json *json, int64_t *value);

/* [n, n, …] of at most `capacity` integers. */
bool ga_json_take_integers(ga_json *json, int64_t *values, int32_t capacity, int32_t *count);

/* Bytes that `text` needs as a JSON string with its quotes. */
size_t ga_json_quoted_bytes(const char *text);

/* Writes `text` as a JSON string with its quotes, without a zero byte; returns the place behind it. `target`
 * has ga_json_quoted_bytes(text) bytes. */
char *ga_json_quote(const char *text, char *target);

#endif
