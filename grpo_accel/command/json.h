/*
 * Writes one JSON document (RFC 8259), member after member. Text is escaped strictly: bytes that are no UTF-8
 * become U+FFFD. Numbers that JSON can't hold (NaN, infinities) become null. The same bytes in any locale.
 */
#ifndef GA_COMMAND_JSON_H
#define GA_COMMAND_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define GA_JSON_DEPTH_MAX 32

typedef struct ga_json {
    FILE *out;
    int depth;
    bool is_array[GA_JSON_DEPTH_MAX];
    bool has_members[GA_JSON_DEPTH_MAX];
} ga_json;

/* A writer that begins a document. `out` is the caller's. */
ga_json ga_json_make(FILE *out);

/* `key` names the member of an object; it is NULL in an array and for the document itself. */
void ga_json_object(ga_json *json, const char *key);
void ga_json_array(ga_json *json, const char *key);
void ga_json_text(ga_json *json, const char *key, const char *text); /* NULL: null */
void ga_json_integer(ga_json *json, const char *key, int64_t value);
void ga_json_real(ga_json *json, const char *key, double value);
void ga_json_boolean(ga_json *json, const char *key, bool value);
void ga_json_raw(ga_json *json, const char *key, const char *value); /* already JSON */

/* Ends the innermost object or array; the last one ends the document with a line end. */
void ga_json_end(ga_json *json);

#endif
