/* config dump, config check, config schema, config docs. */
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/config/dump.h"
#include "grpo_accel/config/schema.h"
#include "grpo_accel/config/value.h"

/* ---- dump ---- */

/* The last part of a path: the member's own name. */
static const char *member_name(const char *path) {
    const char *point = strrchr(path, '.');
    return point != NULL ? point + 1 : path;
}

/* Bytes of the section in front of the name, with its point: 9 in decision.keep. */
static size_t section_bytes(const char *path) {
    return (size_t)(member_name(path) - path);
}

/* Called for the keys of a section in order, and for the sections' beginnings and ends. */
typedef struct schema_visitor {
    void (*begin_section)(void *user, const char *name);
    void (*end_section)(void *user);
    void (*visit)(void *user, size_t index);
    void *user;
} schema_visitor;

/* Ends sections until only those that `path` shares with `open` are left, then begins the rest. */
static void change_section(const schema_visitor *visitor, char *open, const char *path) {
    while (open[0] != '\0' && strncmp(open, path, strlen(open)) != 0) {
        visitor->end_section(visitor->user);
        open[strlen(open) - 1] = '\0';
        open[section_bytes(open)] = '\0';
    }
    while (strlen(open) < section_bytes(path)) {
        char name[64] = "";
        const size_t start = strlen(open);
        const size_t length = strcspn(path + start, ".");
        memcpy(name, path + start, length < sizeof name ? length : sizeof name - 1);
        visitor->begin_section(visitor->user, name);
        memcpy(open + start, path + start, length + 1);
        open[start + length + 1] = '\0';
    }
}

static void visit_schema(const schema_visitor *visitor) {
    char open[128] = "";
    for (size_t i = 0; i < ga_schema_count; i++) {
        change_section(visitor, open, ga_schema[i].path);
        visitor->visit(visitor->user, i);
    }
    change_section(visitor, open, "");
}

typedef struct dumping {
    ga_json json;
    const ga_config *config;
} dumping;

static void begin_json_section(void *user, const char *name) {
    ga_json_object(&((dumping *)user)->json, name);
}

static void end_json_section(void *user) {
    ga_json_end(&((dumping *)user)->json);
}

/* The value as JSON text, freed by the caller; NULL when memory is out. */
static char *json_value(const ga_schema_entry *entry, const ga_config *config) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) {
        return NULL;
    }
    ga_value_write(entry, config, GA_VALUE_JSON, out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static void dump_value(void *user, size_t index) {
    dumping *d = user;
    char *text = json_value(&ga_schema[index], d->config);
    ga_json_raw(&d->json, member_name(ga_schema[index].path), text != NULL ? text : "null");
    free(text);
}

static void dump_json(const ga_config *config) {
    dumping d = {ga_json_make(stdout), config};
    char fingerprint[17], origin[GA_ORIGIN_BYTES];
    ga_command_hex(config->fingerprint, fingerprint);
    ga_json_object(&d.json, NULL);
    ga_json_text(&d.json, "fingerprint", fingerprint);
    ga_json_object(&d.json, "values");
    visit_schema(&(schema_visitor){begin_json_section, end_json_section, dump_value, &d});
    ga_json_end(&d.json);
    ga_json_object(&d.json, "origins");
    for (size_t i = 0; i < ga_schema_count; i++) {
        ga_origin_format(&config->origins[i], origin);
        ga_json_text(&d.json, ga_schema[i].path, origin);
    }
    ga_json_end(&d.json);
    ga_json_end(&d.json);
}

ga_exit ga_command_config_dump(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    ga_config *config = NULL;
    const char *path = ga_arguments_value(&call->arguments, "config");
    if (ga_command_load_config(call, path, &config, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    char *text = NULL;
    if (call->json) {
        dump_json(config);
    } else {
        text = ga_config_dump(config);
        (void)fputs(text != NULL ? text : "", stdout);
    }
    const bool failed = !call->json && text == NULL;
    free(text);
    ga_config_free(&config);
    return failed ? ga_command_refuse(call, GA_ERR_MEMORY, "out of memory") : GA_EXIT_DONE;
}

/* ---- check ---- */

ga_exit ga_command_config_check(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    ga_config *config = NULL;
    const char *path = call->arguments.positional[0];
    if (ga_command_load_config(call, path, &config, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    char fingerprint[17];
    ga_command_hex(config->fingerprint, fingerprint);
    ga_config_free(&config);
    if (call->json) {
        ga_json json = ga_json_make(stdout);
        ga_json_object(&json, NULL);
        ga_json_text(&json, "file", path);
        ga_json_boolean(&json, "valid", true);
        ga_json_text(&json, "fingerprint", fingerprint);
        ga_json_end(&json);
    } else if (!call->quiet) {
        (void)printf("%s: valid, fingerprint %s\n", path, fingerprint);
    }
    return GA_EXIT_DONE;
}

/* ---- schema ---- */

static void add_range(ga_json *json, const ga_schema_entry *entry) {
    if ((entry->flags & GA_SCHEMA_NO_RANGE) != 0) {
        return;
    }
    ga_json_real(
        json, (entry->flags & GA_SCHEMA_ABOVE_MIN) != 0 ? "exclusiveMinimum" : "minimum", entry->min);
    ga_json_real(
        json, (entry->flags & GA_SCHEMA_BELOW_MAX) != 0 ? "exclusiveMaximum" : "maximum", entry->max);
}

static void add_number(ga_json *json, const ga_schema_entry *entry, const char *type) {
    ga_json_text(json, "type", type);
    add_range(json, entry);
}

static void add_words(ga_json *json, const ga_schema_entry *entry) {
    /* YAML readers other than ours take true and false for booleans, so both forms are listed. */
    char word[GA_WORD_BYTES];
    ga_json_array(json, "enum");
    for (size_t i = 0; ga_schema_word(entry->words, i, word); i++) {
        ga_json_text(json, NULL, word);
        if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0) {
            ga_json_raw(json, NULL, word);
        }
    }
    ga_json_end(json);
}

/* The items of a list of up to `max`. */
static void begin_items(ga_json *json, int max) {
    ga_json_text(json, "type", "array");
    ga_json_integer(json, "minItems", 1);
    ga_json_integer(json, "maxItems", max);
    ga_json_object(json, "items");
}

static void add_alternative_list(ga_json *json, const ga_schema_entry *entry, const char *type) {
    ga_json_object(json, NULL);
    add_number(json, entry, type);
    ga_json_end(json);
    ga_json_object(json, NULL);
    begin_items(json, entry->type == GA_SCHEMA_STEPS ? ga_schema_steps_max(entry) : GA_CONFIG_STAGES_MAX);
    add_number(json, entry, type);
    ga_json_end(json);
    ga_json_end(json);
}

static void add_alternative_blocks(ga_json *json) {
    ga_json_object(json, NULL);
    ga_json_text(json, "type", "string");
    ga_json_text(json, "pattern", "^(middle|last_encoder):[1-9][0-9]*$");
    ga_json_end(json);
    ga_json_object(json, NULL);
    begin_items(json, GA_CONFIG_BLOCKS_MAX);
    ga_json_text(json, "type", "string");
    ga_json_end(json);
    ga_json_end(json);
}

static void add_alternative_words(ga_json *json, const ga_schema_entry *entry) {
    char word[GA_WORD_BYTES];
    int count = 0;
    while (ga_schema_word(entry->words, (size_t)count, word)) {
        count++;
    }
    ga_json_object(json, NULL);
    begin_items(json, count);
    add_words(json, entry);
    ga_json_end(json);
    ga_json_boolean(json, "uniqueItems", true);
    ga_json_end(json);
}

static void add_alternative_names(ga_json *json) {
    ga_json_object(json, NULL);
    begin_items(json, GA_CONFIG_NAMES_MAX);
    ga_json_text(json, "type", "string");
    ga_json_end(json);
    ga_json_boolean(json, "uniqueItems", true);
    ga_json_end(json);
}

static void add_alternative_widths(ga_json *json, const ga_schema_entry *entry) {
    ga_json_object(json, NULL);
    begin_items(json, GA_CONFIG_WIDTHS_MAX);
    add_number(json, entry, "integer");
    ga_json_end(json);
    ga_json_end(json);
}

static void add_alternatives(ga_json *json, const ga_schema_entry *entry) {
    switch (entry->type) {
    case GA_SCHEMA_STEPS: add_alternative_list(json, entry, "integer"); return;
    case GA_SCHEMA_SHARES: add_alternative_list(json, entry, "number"); return;
    case GA_SCHEMA_BLOCKS: add_alternative_blocks(json); return;
    case GA_SCHEMA_WORDS: add_alternative_words(json, entry); return;
    case GA_SCHEMA_NAMES: add_alternative_names(json); return;
    case GA_SCHEMA_WIDTHS: add_alternative_widths(json, entry); return;
    default: break;
    }
    ga_json_object(json, NULL);
    switch (entry->type) {
    case GA_SCHEMA_BOOLEAN: ga_json_text(json, "type", "boolean"); break;
    case GA_SCHEMA_INTEGER: add_number(json, entry, "integer"); break;
    case GA_SCHEMA_REAL: add_number(json, entry, "number"); break;
    case GA_SCHEMA_WORD: add_words(json, entry); break;
    default: ga_json_text(json, "type", "string"); break;
    }
    ga_json_end(json);
}

static void schema_value(void *user, size_t index) {
    dumping *d = user;
    ga_json *json = &d->json;
    const ga_schema_entry *entry = &ga_schema[index];
    char *initial = json_value(entry, d->config);
    ga_json_object(json, member_name(entry->path));
    ga_json_text(json, "description", entry->help);
    ga_json_raw(json, "default", initial != NULL ? initial : "null");
    ga_json_array(json, "anyOf");
    add_alternatives(json, entry);
    if ((entry->flags & GA_SCHEMA_MAY_BE_AUTO) != 0) {
        ga_json_object(json, NULL);
        ga_json_text(json, "const", "auto");
        ga_json_end(json);
    }
    if ((entry->flags & GA_SCHEMA_MAY_BE_NULL) != 0) {
        ga_json_object(json, NULL);
        ga_json_text(json, "type", "null");
        ga_json_end(json);
    }
    ga_json_end(json);
    ga_json_end(json);
    free(initial);
}

static void begin_schema_section(void *user, const char *name) {
    ga_json *json = &((dumping *)user)->json;
    ga_json_object(json, name);
    /* An empty section is no mistake. */
    ga_json_array(json, "type");
    ga_json_text(json, NULL, "object");
    ga_json_text(json, NULL, "null");
    ga_json_end(json);
    ga_json_boolean(json, "additionalProperties", false);
    ga_json_object(json, "properties");
}

static void end_schema_section(void *user) {
    ga_json_end(&((dumping *)user)->json);
    ga_json_end(&((dumping *)user)->json);
}

ga_exit ga_command_config_schema(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    ga_config *defaults = NULL;
    if (ga_config_load(NULL, NULL, 0, NULL, &defaults, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    dumping d = {ga_json_make(stdout), defaults};
    ga_json_object(&d.json, NULL);
    ga_json_text(&d.json, "$schema", "https://json-schema.org/draft/2020-12/schema");
    ga_json_text(&d.json, "title", "grpo_accel configuration");
    ga_json_text(&d.json, "type", "object");
    ga_json_boolean(&d.json, "additionalProperties", false);
    ga_json_object(&d.json, "properties");
    visit_schema(&(schema_visitor){begin_schema_section, end_schema_section, schema_value, &d});
    ga_json_end(&d.json);
    ga_json_end(&d.json);
    ga_config_free(&defaults);
    return GA_EXIT_DONE;
}

/* ---- docs ---- */

static const char docs_head[] =
    "# Configuration\n\n"
    "Made by `grpo-accel config docs` from the table that also drives the parser; change "
    "`grpo_accel/config/schema.c`, not this page.\n\n"
    "A configuration is one YAML file of at most 64 KiB, without anchors, aliases, tags or merge keys. "
    "Values "
    "come in this order, the later one wins: default, file, environment (`GRPO_ACCEL_DECISION__KEEP=0.5`, "
    "two "
    "underscores for the point), `--set decision.keep=0.5`. Unknown keys, wrong types, values out of range "
    "and "
    "keys given twice are errors with `file:line:column`; numbers are written as in JSON (`0.5`, not `.5`, "
    "`0,5` or `010`), booleans as `true` and `false`.\n\n"
    "`grpo-accel config check FILE` checks a file, `grpo-accel config dump --config FILE` shows what is in "
    "force and where each value came from, `grpo-accel config schema` prints a JSON Schema for editors. "
    "`configs/` holds examples.\n\n"
    "All ranks must agree on every value but those of `run_dir` and `metrics`: a fingerprint of the others "
    "is compared when a run begins and in every exchange.\n\n"
    "These environment variables are no keys:\n\n"
    "| variable | meaning |\n|---|---|\n"
    "| `GRPO_ACCEL_CONFIG` | the configuration's path for `python -m grpo_accel.launch`; `grpo-accel run` "
    "sets "
    "it from `--config` |\n"
    "| `GRPO_ACCEL_LOG` | `error`, `warning`, `info` (default) or `debug`: how much is written to standard "
    "error |\n"
    "| `GRPO_ACCEL_DISABLE` | `1`: attach nothing |\n"
    "| `GRPO_ACCEL_LIBRARY` | path of `libgrpo_accel.so`, instead of the one beside the Python package |\n"
    "| `GRPO_ACCEL_PYTHON` | interpreter of `grpo-accel run`, instead of the one beside the program or "
    "`python3` |\n"
    "| `GRPO_ACCEL_SAVE_PREVIEWS` | a number: rank 0 keeps the previews of so many batches of each update in "
    "`run_dir/previews`, images and prompts in clear text (default 0) |\n";

/* A table cell ends at a bar. */
static void write_cell(const char *text, FILE *out) {
    for (; *text != '\0'; text++) {
        (void)fputs(*text == '|' ? "\\" : "", out);
        (void)fputc(*text, out);
    }
}

/* True where a new table begins: at the first key, and at the first of each section. */
static bool begins_table(size_t index) {
    const char *path = ga_schema[index].path;
    const size_t top_bytes = strcspn(path, ".");
    if (index == 0 || path[top_bytes] == '\0') {
        return index == 0;
    }
    return strncmp(path, ga_schema[index - 1].path, top_bytes + 1) != 0;
}

static void write_docs(FILE *out) {
    (void)fputs(docs_head, out);
    for (size_t i = 0; i < ga_schema_count; i++) {
        const ga_schema_entry *entry = &ga_schema[i];
        if (begins_table(i)) {
            const size_t top_bytes = strcspn(entry->path, ".");
            (void)fprintf(out,
                "\n## %.*s\n\n| key | value | unit | default | meaning |\n|---|---|---|---|---|\n",
                i == 0 ? 9 : (int)top_bytes, i == 0 ? "top level" : entry->path);
        }
        char expected[GA_EXPECTED_BYTES];
        ga_schema_expect(entry, expected);
        (void)fprintf(out, "| `%s` | ", entry->path);
        write_cell(expected, out);
        (void)fprintf(out, " | %s | `%s` | ", entry->unit, entry->initial);
        write_cell(entry->help, out);
        (void)fputs(" |\n", out);
    }
}

ga_exit ga_command_config_docs(const ga_call *call) {
    if (!call->json) {
        write_docs(stdout);
        return GA_EXIT_DONE;
    }
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) {
        return ga_command_refuse(call, GA_ERR_MEMORY, "out of memory");
    }
    write_docs(out);
    const bool complete = fclose(out) == 0;
    if (complete) {
        ga_json json = ga_json_make(stdout);
        ga_json_object(&json, NULL);
        ga_json_text(&json, "markdown", text);
        ga_json_end(&json);
    }
    free(text);
    return complete ? GA_EXIT_DONE : ga_command_refuse(call, GA_ERR_MEMORY, "out of memory");
}
