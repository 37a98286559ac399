#include "grpo_accel/config/config.h"

#include <stdio.h>
#include <string.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/config/document.h"
#include "grpo_accel/config/dump.h"
#include "grpo_accel/config/override.h"
#include "grpo_accel/config/rules.h"
#include "grpo_accel/config/schema.h"
#include "grpo_accel/config/value.h"

#define PATH_BYTES 256

/* A configuration that is being put together. */
typedef struct loading {
    ga_config *config;
    ga_origin *origins;
    ga_arena *arena;
    ga_error *error;
    ga_origin_kind kind; /* of what is being read now */
    const char *source;
} loading;

/* "decision" and "keep" → "decision.keep"; cut where a path is impossibly long. */
static void join_path(const char *prefix, const char *key, char path_out[PATH_BYTES]) {
    (void)snprintf(path_out, PATH_BYTES, "%s%s%s", prefix, prefix[0] != '\0' ? "." : "", key);
}

static ga_status assign(loading *l, const ga_schema_entry *entry, const ga_node *node) {
    GA_TRY(ga_value_read(entry, l->source, node, l->arena, l->config, l->error));
    l->origins[entry - ga_schema] =
        (ga_origin){.kind = l->kind, .source = l->source, .line = node->line, .column = node->column};
    return GA_OK;
}

/* "descision" with `keep` below it is reported as the key that was meant: descision.keep. */
static ga_status unknown_key(const loading *l, const char *path, const ga_node *node) {
    char full[PATH_BYTES], place[GA_PLACE_BYTES], shown[GA_SHOWN_BYTES];
    join_path("", path, full);
    if (node->kind == GA_NODE_MAP && node->first != NULL) {
        join_path(path, node->first->key, full);
    }
    ga_place_format(l->source, node->key_line, node->key_column, place);
    ga_text_show(full, shown);
    const char *near = ga_schema_nearest(full);
    if (near != NULL) {
        return GA_FAIL(
            l->error, GA_ERR_CONFIG, "%s: unknown key '%s', did you mean '%s'?", place, shown, near);
    }
    return GA_FAIL(l->error, GA_ERR_CONFIG, "%s: unknown key '%s'; 'grpo-accel config dump' shows all keys",
        place, shown);
}

static ga_status assign_child(loading *l, const char *path, const ga_node *node);

/* All keys of a section. Sections nest as deep as the schema does, so the recursion is short. */
static ga_status assign_section(loading *l, const char *prefix, const ga_node *map) {
    for (const ga_node *child = map->first; child != NULL; child = child->next) {
        char path[PATH_BYTES];
        join_path(prefix, child->key, path);
        GA_TRY(assign_child(l, path, child));
    }
    return GA_OK;
}

static ga_status assign_child(loading *l, const char *path, const ga_node *node) {
    const ga_schema_entry *entry = ga_schema_find(path);
    if (entry != NULL) {
        return assign(l, entry, node);
    }
    if (!ga_schema_is_section(path)) {
        return unknown_key(l, path, node);
    }
    if (node->kind == GA_NODE_MAP) {
        return assign_section(l, path, node);
    }
    if (ga_node_is_null(node)) {
        return GA_OK;
    }
    char place[GA_PLACE_BYTES];
    ga_place_format(l->source, node->line, node->column, place);
    return GA_FAIL(l->error, GA_ERR_CONFIG, "%s: %.64s: expected a section with keys below it; found %s",
        place, path, node->kind == GA_NODE_LIST ? "a list" : "a single value");
}

/* The table's own defaults go through the same reader as a user's values. */
static ga_status load_defaults(loading *l) {
    l->kind = GA_ORIGIN_DEFAULT;
    l->source = "default";
    for (size_t i = 0; i < ga_schema_count; i++) {
        const char *initial = ga_schema[i].initial;
        const ga_node *node = NULL;
        GA_TRY(ga_document_parse(l->source, initial, strlen(initial), l->arena, &node, l->error));
        ga_node placeless = *node;
        placeless.line = 0;
        GA_TRY(assign(l, &ga_schema[i], &placeless));
    }
    return GA_OK;
}

static ga_status load_file(loading *l, const char *path) {
    const ga_node *root = NULL;
    GA_TRY(ga_document_read(path, l->arena, &root, l->error));
    l->kind = GA_ORIGIN_FILE;
    l->source = ga_arena_text(l->arena, path);
    if (l->source == NULL) {
        return GA_FAIL(l->error, GA_ERR_MEMORY, "%.200s: out of memory while reading", path);
    }
    if (root == NULL || ga_node_is_null(root)) {
        return GA_OK;
    }
    if (root->kind != GA_NODE_MAP) {
        return GA_FAIL(l->error, GA_ERR_CONFIG, "%.200s:%d:%d: expected keys such as 'mode: shadow'", path,
            root->line, root->column);
    }
    return assign_section(l, "", root);
}

/* Nodes of an override have no line: their text is not a file. */
static void forget_places(ga_node *node) {
    node->line = node->column = node->key_line = node->key_column = 0;
    for (ga_node *child = node->first; child != NULL; child = child->next) {
        forget_places(child);
    }
}

static ga_status apply_override(loading *l, const ga_override *given) {
    l->kind = given->origin.kind;
    l->source = given->origin.source;
    ga_node scalar = {.kind = GA_NODE_SCALAR, .text = given->text};
    const ga_schema_entry *entry = ga_schema_find(given->path);
    if (entry != NULL && entry->type == GA_SCHEMA_TEXT) {
        /* A path may hold what YAML would read as a comment or a list. */
        return assign(l, entry, &scalar);
    }
    const ga_node *parsed = NULL;
    GA_TRY(ga_document_parse(l->source, given->text, strlen(given->text), l->arena, &parsed, l->error));
    ga_node node = parsed != NULL ? *parsed : (ga_node){.kind = GA_NODE_SCALAR, .text = ""};
    forget_places(&node);
    return assign_child(l, given->path, &node);
}

static ga_status load_environment(loading *l, const char *const *environment) {
    for (size_t i = 0; environment != NULL && environment[i] != NULL; i++) {
        ga_override given = {.path = NULL};
        GA_TRY(ga_override_from_variable(environment[i], l->arena, &given, l->error));
        if (given.path != NULL) {
            GA_TRY(apply_override(l, &given));
        }
    }
    return GA_OK;
}

static ga_status load_overrides(loading *l, const char *const *overrides, size_t override_count) {
    for (size_t i = 0; i < override_count; i++) {
        ga_override given = {.path = NULL};
        GA_TRY(ga_override_from_set(overrides[i], l->arena, &given, l->error));
        GA_TRY(apply_override(l, &given));
    }
    return GA_OK;
}

/* probe.inputs: auto are the signals that every host has; what is in force is what is printed. */
static void resolve_inputs(ga_config *config) {
    if (config->probe.inputs == 0) {
        config->probe.inputs =
            GA_INPUT_BIT(GA_INPUT_ATTENTION) | GA_INPUT_BIT(GA_INPUT_X0) | GA_INPUT_BIT(GA_INPUT_PREVIEW);
    }
}

static ga_status load_all(loading *l, const char *path, const char *const *overrides, size_t override_count,
    const char *const *environment) {
    GA_TRY(load_defaults(l));
    if (path != NULL) {
        GA_TRY(load_file(l, path));
    }
    GA_TRY(load_environment(l, environment));
    GA_TRY(load_overrides(l, overrides, override_count));
    GA_TRY(ga_rules_check(l->config, l->error));
    resolve_inputs(l->config);
    l->config->fingerprint = ga_config_digest(l->config);
    if (l->config->fingerprint == 0) {
        return GA_FAIL(l->error, GA_ERR_MEMORY, "out of memory while loading the configuration");
    }
    return GA_OK;
}

ga_status ga_config_load(const char *path, const char *const *overrides, size_t override_count,
    const char *const *environment, ga_config **config_out, ga_error *error) {
    if (config_out == NULL || (overrides == NULL && override_count > 0)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "ga_config_load: config_out or overrides is NULL");
    }
    ga_arena *arena = ga_arena_create(0);
    if (arena == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "out of memory while loading the configuration");
    }
    loading l = {.config = ga_arena_take(arena, 1, sizeof(ga_config)),
        .origins = ga_arena_take(arena, ga_schema_count, sizeof(ga_origin)),
        .arena = arena,
        .error = error};
    ga_status status = GA_ERR_MEMORY;
    if (l.config == NULL || l.origins == NULL) {
        (void)GA_FAIL(error, GA_ERR_MEMORY, "out of memory while loading the configuration");
        goto destroy_arena;
    }
    l.config->origins = l.origins;
    l.config->arena = arena;
    status = load_all(&l, path, overrides, override_count, environment);
    if (status != GA_OK) {
        goto destroy_arena;
    }
    *config_out = l.config;
    return GA_OK;

destroy_arena:
    ga_arena_destroy(&arena);
    return status;
}

void ga_config_free(ga_config **config) {
    if (config == NULL || *config == NULL) {
        return;
    }
    ga_arena *arena = (*config)->arena;
    ga_arena_destroy(&arena);
    *config = NULL;
}

const ga_origin *ga_config_origin(const ga_config *config, const char *path) {
    const ga_schema_entry *entry = ga_schema_find(path);
    return entry != NULL ? &config->origins[entry - ga_schema] : NULL;
}
