#include "grpo_accel/config/document.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yaml.h>

/* What grows while events arrive. */
typedef struct builder {
    const char *source;
    ga_arena *arena;
    ga_error *error;
    ga_node *open[GA_DOCUMENT_DEPTH_MAX]; /* lists and maps that have not ended */
    int depth;
    ga_node *root;
    const char *key; /* of the value that comes next; NULL: a key is due */
    int key_line;
    int key_column;
} builder;

void ga_place_format(const char *source, int line, int column, char place_out[GA_PLACE_BYTES]) {
    if (line > 0) {
        (void)snprintf(place_out, GA_PLACE_BYTES, "%.220s:%d:%d", source, line, column);
    } else {
        (void)snprintf(place_out, GA_PLACE_BYTES, "%.250s", source);
    }
}

void ga_text_show(const char *text, char shown_out[GA_SHOWN_BYTES]) {
    const size_t shown_max = 48;
    size_t i = 0;
    for (; i < shown_max && text[i] != '\0'; i++) {
        shown_out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    }
    if (text[i] != '\0') {
        memcpy(shown_out + i, "...", 3);
        i += 3;
    }
    shown_out[i] = '\0';
}

bool ga_node_is_null(const ga_node *node) {
    return node->kind == GA_NODE_SCALAR && !node->quoted &&
           (node->text[0] == '\0' || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

/* Line or column of a libyaml mark, from 1. The text is at most 64 KiB, so that it fits. */
static int from_one(size_t mark) {
    return (int)mark + 1;
}

static ga_status refuse(const builder *b, yaml_mark_t mark, const char *why) {
    char place[GA_PLACE_BYTES];
    ga_place_format(b->source, from_one(mark.line), from_one(mark.column), place);
    return GA_FAIL(b->error, GA_ERR_CONFIG, "%s: %s", place, why);
}

static ga_status out_of_memory(const builder *b) {
    return GA_FAIL(b->error, GA_ERR_MEMORY, "%.200s: out of memory while reading", b->source);
}

static ga_status check_duplicate(const builder *b, const ga_node *map, yaml_mark_t mark, const char *key) {
    for (const ga_node *child = map->first; child != NULL; child = child->next) {
        if (strcmp(child->key, key) == 0) {
            char place[GA_PLACE_BYTES], shown[GA_SHOWN_BYTES];
            ga_place_format(b->source, from_one(mark.line), from_one(mark.column), place);
            ga_text_show(key, shown);
            return GA_FAIL(b->error, GA_ERR_CONFIG, "%s: key '%s' is given twice, first in line %d", place,
                shown, child->key_line);
        }
    }
    return GA_OK;
}

/* The scalar's text in the arena, refused if it holds a NUL. */
static ga_status take_text(const builder *b, const yaml_event_t *event, const char **text_out) {
    const char *value = (const char *)event->data.scalar.value;
    const size_t bytes = event->data.scalar.length;
    if (memchr(value, '\0', bytes) != NULL) {
        return refuse(b, event->start_mark, "a text may not hold a zero byte");
    }
    char *text = ga_arena_take(b->arena, bytes + 1, 1);
    if (text == NULL) {
        return out_of_memory(b);
    }
    memcpy(text, value, bytes);
    *text_out = text;
    return GA_OK;
}

static ga_status take_key(builder *b, const yaml_event_t *event) {
    const ga_node *map = b->open[b->depth - 1];
    if (event->type != YAML_SCALAR_EVENT) {
        return refuse(b, event->start_mark, "a key must be a word, not a list or a section");
    }
    const char *key = NULL;
    GA_TRY(take_text(b, event, &key));
    if (strcmp(key, "<<") == 0) {
        return refuse(b, event->start_mark, "merge keys (<<) are not read; write the keys out");
    }
    if (key[0] == '\0') {
        return refuse(b, event->start_mark, "a key is empty");
    }
    GA_TRY(check_duplicate(b, map, event->start_mark, key));
    b->key = key;
    b->key_line = from_one(event->start_mark.line);
    b->key_column = from_one(event->start_mark.column);
    return GA_OK;
}

/* Hangs a node below the list or map that is open, or makes it the root. */
static ga_status attach(builder *b, ga_node *node, yaml_mark_t mark) {
    if (b->depth == 0) {
        b->root = node;
        return GA_OK;
    }
    ga_node *parent = b->open[b->depth - 1];
    if (parent->child_count == GA_DOCUMENT_ENTRIES_MAX) {
        return refuse(b, mark, "more than 256 entries in one list or section");
    }
    node->key = b->key;
    node->key_line = b->key_line;
    node->key_column = b->key_column;
    b->key = NULL;
    if (parent->last != NULL) {
        parent->last->next = node;
    } else {
        parent->first = node;
    }
    parent->last = node;
    parent->child_count++;
    return GA_OK;
}

static ga_status check_plain(
    const builder *b, const yaml_event_t *event, const yaml_char_t *anchor, const yaml_char_t *tag) {
    if (anchor != NULL) {
        return refuse(b, event->start_mark, "anchors (&) and aliases (*) are not read; write the value out");
    }
    if (tag != NULL) {
        return refuse(b, event->start_mark, "tags (!) are not read; write the plain value");
    }
    return GA_OK;
}

static ga_status check_properties(const builder *b, const yaml_event_t *event) {
    switch (event->type) {
    case YAML_SCALAR_EVENT: return check_plain(b, event, event->data.scalar.anchor, event->data.scalar.tag);
    case YAML_SEQUENCE_START_EVENT:
        return check_plain(b, event, event->data.sequence_start.anchor, event->data.sequence_start.tag);
    case YAML_MAPPING_START_EVENT:
        return check_plain(b, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
    default: return GA_OK;
    }
}

/* A scalar, or the beginning of a list or map. */
static ga_status take_value(builder *b, const yaml_event_t *event) {
    ga_node *node = ga_arena_take(b->arena, 1, sizeof *node);
    if (node == NULL) {
        return out_of_memory(b);
    }
    node->line = from_one(event->start_mark.line);
    node->column = from_one(event->start_mark.column);
    if (event->type == YAML_SCALAR_EVENT) {
        node->kind = GA_NODE_SCALAR;
        node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        GA_TRY(take_text(b, event, &node->text));
        return attach(b, node, event->start_mark);
    }
    node->kind = event->type == YAML_MAPPING_START_EVENT ? GA_NODE_MAP : GA_NODE_LIST;
    if (b->depth == GA_DOCUMENT_DEPTH_MAX) {
        return refuse(b, event->start_mark, "nested deeper than 16 levels");
    }
    GA_TRY(attach(b, node, event->start_mark));
    b->open[b->depth++] = node;
    return GA_OK;
}

static ga_status take_event(builder *b, const yaml_event_t *event) {
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        return refuse(b, event->start_mark, "anchors (&) and aliases (*) are not read; write the value out");
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: b->depth--; return GA_OK;
    case YAML_DOCUMENT_START_EVENT:
        if (b->root != NULL) {
            return refuse(b, event->start_mark, "a second document (---) starts here; only one is read");
        }
        return GA_OK;
    case YAML_SCALAR_EVENT:
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        GA_TRY(check_properties(b, event));
        if (b->depth > 0 && b->open[b->depth - 1]->kind == GA_NODE_MAP && b->key == NULL) {
            return take_key(b, event);
        }
        return take_value(b, event);
    default: return GA_OK;
    }
}

static ga_status parser_failed(const builder *b, const yaml_parser_t *parser) {
    if (parser->error == YAML_MEMORY_ERROR) {
        return out_of_memory(b);
    }
    char why[160];
    (void)snprintf(why, sizeof why, "not valid YAML: %.120s",
        parser->problem != NULL ? parser->problem : "unreadable text");
    /* The decoder knows no line, only an offset. */
    if (parser->error == YAML_READER_ERROR) {
        return GA_FAIL(
            b->error, GA_ERR_CONFIG, "%.200s: %s (at byte %zu)", b->source, why, parser->problem_offset);
    }
    return refuse(b, parser->problem_mark, why);
}

static ga_status take_all_events(builder *b, yaml_parser_t *parser) {
    for (bool more = true; more;) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            return parser_failed(b, parser);
        }
        more = event.type != YAML_STREAM_END_EVENT;
        const ga_status status = take_event(b, &event);
        yaml_event_delete(&event);
        GA_TRY(status);
    }
    return GA_OK;
}

ga_status ga_document_parse(const char *source, const char *bytes, size_t byte_count, ga_arena *arena,
    const ga_node **root_out, ga_error *error) {
    if (byte_count > GA_DOCUMENT_BYTES_MAX) {
        return GA_FAIL(
            error, GA_ERR_CONFIG, "%.200s: %zu bytes; a configuration may have 65536", source, byte_count);
    }
    builder b = {.source = source, .arena = arena, .error = error};
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        return out_of_memory(&b);
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)bytes, byte_count);
    const ga_status status = take_all_events(&b, &parser);
    yaml_parser_delete(&parser);
    GA_TRY(status);
    *root_out = b.root;
    return GA_OK;
}

/* Reads up to one byte more than a document may have, so that a file that grows is seen as too long. */
static ga_status read_bytes(int file, const char *path, char *bytes, size_t *count_out, ga_error *error) {
    size_t count = 0;
    while (count <= GA_DOCUMENT_BYTES_MAX) {
        const ssize_t got = read(file, bytes + count, GA_DOCUMENT_BYTES_MAX + 1 - count);
        if (got == 0) {
            break;
        }
        if (got > 0) {
            count += (size_t)got;
        } else if (errno != EINTR) {
            return GA_FAIL(
                error, GA_ERR_FILE, "%.200s: can't read the configuration: %s", path, strerror(errno));
        }
    }
    *count_out = count;
    return GA_OK;
}

/* A pipe or a device could block for ever, therefore O_NONBLOCK and regular files only. */
static ga_status open_regular(const char *path, int *file_out, ga_error *error) {
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%.200s: can't open the configuration: %s", path, strerror(errno));
    }
    struct stat info;
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
        (void)close(file);
        return GA_FAIL(error, GA_ERR_FILE, "%.200s: the configuration must be a regular file", path);
    }
    *file_out = file;
    return GA_OK;
}

ga_status ga_document_read(const char *path, ga_arena *arena, const ga_node **root_out, ga_error *error) {
    char *bytes = ga_arena_take(arena, GA_DOCUMENT_BYTES_MAX + 1, 1);
    if (bytes == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "%.200s: out of memory while reading", path);
    }
    int file = -1;
    GA_TRY(open_regular(path, &file, error));
    size_t count = 0;
    const ga_status status = read_bytes(file, path, bytes, &count, error);
    (void)close(file);
    GA_TRY(status);
    return ga_document_parse(path, bytes, count, arena, root_out, error);
}

const char *ga_document_yaml_version(void) {
    return yaml_get_version_string();
}
