#include "grpo_accel/config/value.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/config/nearest.h"

#define WORDS_MAX 16
#define NUMBER_BYTES 40

_Static_assert(sizeof(ga_config_mode) == sizeof(uint32_t), "enums are written as 32 bits");

/* What a reading function needs to read one node, and to complain about it. */
typedef struct reading {
    const ga_schema_entry *entry;
    const char *source;
    ga_arena *arena;
    ga_error *error;
} reading;

/* ---- numbers ---- */

static size_t digits_length(const char *text) {
    return strspn(text, "0123456789");
}

/* Length of an integer without leading zeros or plus at the start of text; 0 if there is none. */
static size_t integer_length(const char *text) {
    const size_t sign = text[0] == '-' ? 1 : 0;
    const size_t digits = digits_length(text + sign);
    if (digits == 0 || (text[sign] == '0' && digits > 1)) {
        return 0;
    }
    return sign + digits;
}

/* JSON's grammar of a number (RFC 8259, section 6): no 0.3x, 0,3, 010, .5, nan. */
static bool is_number(const char *text) {
    size_t at = integer_length(text);
    if (at == 0) {
        return false;
    }
    if (text[at] == '.') {
        const size_t digits = digits_length(text + at + 1);
        if (digits == 0) {
            return false;
        }
        at += 1 + digits;
    }
    if (text[at] == 'e' || text[at] == 'E') {
        at += text[at + 1] == '-' || text[at + 1] == '+' ? 2 : 1;
        const size_t digits = digits_length(text + at);
        if (digits == 0) {
            return false;
        }
        at += digits;
    }
    return text[at] == '\0';
}

/* strtod and printf would follow the host's locale, where 0.5 may be 0,5. */
static locale_t plain_locale(void) {
    return newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

bool ga_value_parse_real(const char *text, double *value_out) {
    if (!is_number(text)) {
        return false;
    }
    const locale_t plain = plain_locale();
    if (plain == (locale_t)0) {
        return false;
    }
    const double value = strtod_l(text, NULL, plain);
    freelocale(plain);
    if (!isfinite(value)) {
        return false;
    }
    *value_out = value;
    return true;
}

bool ga_value_parse_integer(const char *text, int64_t *value_out) {
    const size_t length = integer_length(text);
    if (length == 0 || text[length] != '\0') {
        return false;
    }
    errno = 0;
    const long long value = strtoll(text, NULL, 10);
    if (errno != 0) {
        return false;
    }
    *value_out = value;
    return true;
}

/* The shortest text that reads back to the same double. */
static void format_real(double value, char text_out[NUMBER_BYTES]) {
    const locale_t plain = plain_locale();
    const locale_t before = plain != (locale_t)0 ? uselocale(plain) : (locale_t)0;
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text_out, NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(text_out, NULL) == value) {
            break;
        }
    }
    if (plain != (locale_t)0) {
        (void)uselocale(before);
        freelocale(plain);
    }
}

static bool in_range(const ga_schema_entry *entry, double value) {
    if ((entry->flags & GA_SCHEMA_NO_RANGE) != 0) {
        return true;
    }
    const bool low_enough =
        (entry->flags & GA_SCHEMA_BELOW_MAX) != 0 ? value < entry->max : value <= entry->max;
    const bool high_enough =
        (entry->flags & GA_SCHEMA_ABOVE_MIN) != 0 ? value > entry->min : value >= entry->min;
    return low_enough && high_enough;
}

/* ---- complaints ---- */

static void describe(const ga_node *node, char found_out[GA_SHOWN_BYTES + 64]) {
    char shown[GA_SHOWN_BYTES];
    const size_t bytes = GA_SHOWN_BYTES + 64;
    if (node->kind == GA_NODE_LIST) {
        (void)snprintf(found_out, bytes, "a list of %d", node->child_count);
    } else if (node->kind == GA_NODE_MAP) {
        (void)snprintf(found_out, bytes, "a section");
    } else if (ga_node_is_null(node)) {
        (void)snprintf(found_out, bytes, "no value");
    } else {
        ga_text_show(node->text, shown);
        (void)snprintf(found_out, bytes, "%s'%s'", node->quoted ? "the quoted text " : "", shown);
    }
}

/* "source:line:column: key: expected …, found …" and a hint, or "". */
static ga_status mismatch(const reading *r, const ga_node *node, const char *hint) {
    char place[GA_PLACE_BYTES], expected[GA_EXPECTED_BYTES], found[GA_SHOWN_BYTES + 64];
    ga_place_format(r->source, node->line, node->column, place);
    ga_schema_expect(r->entry, expected);
    describe(node, found);
    return GA_FAIL(r->error, GA_ERR_CONFIG, "%s: %s: expected %s; found %s%s", place, r->entry->path,
        expected, found, hint);
}

static ga_status mismatch_number(const reading *r, const ga_node *node) {
    const char *hint = "";
    if (node->kind == GA_NODE_SCALAR && !ga_node_is_null(node)) {
        if (node->quoted) {
            hint = " (write it without quotes)";
        } else if (strchr(node->text, ',') != NULL) {
            hint = " (decimals take a point)";
        } else if (node->text[0] == '.' || node->text[0] == '+') {
            hint = " (write it as 0.5, with a digit first)";
        } else if (node->text[0] == '0' && digits_length(node->text) > 1) {
            hint = " (no leading zeros)";
        }
    }
    return mismatch(r, node, hint);
}

static size_t split_words(
    const char *words, char buffer[WORDS_MAX][GA_WORD_BYTES], const char *list[WORDS_MAX]) {
    size_t count = 0;
    while (count < WORDS_MAX && ga_schema_word(words, count, buffer[count])) {
        list[count] = buffer[count];
        count++;
    }
    return count;
}

static ga_status mismatch_word(const reading *r, const ga_node *node) {
    char buffer[WORDS_MAX][GA_WORD_BYTES], hint[GA_WORD_BYTES + 24] = "";
    const char *list[WORDS_MAX];
    const size_t count = split_words(r->entry->words, buffer, list);
    if (node->kind == GA_NODE_SCALAR && node->text[0] != '\0') {
        const char *near = ga_nearest(node->text, list, count);
        if (near != NULL) {
            (void)snprintf(hint, sizeof hint, ", did you mean '%s'?", near);
        }
    }
    return mismatch(r, node, hint);
}

/* ---- reading ---- */

static bool is_plain(const ga_node *node, const char *word) {
    return node->kind == GA_NODE_SCALAR && !node->quoted && strcmp(node->text, word) == 0;
}

static ga_status read_real(const reading *r, const ga_node *node, double *value_out) {
    double value = 0;
    if (node->kind != GA_NODE_SCALAR || node->quoted || !ga_value_parse_real(node->text, &value) ||
        !in_range(r->entry, value)) {
        return mismatch_number(r, node);
    }
    *value_out = value;
    return GA_OK;
}

static ga_status read_integer(const reading *r, const ga_node *node, int64_t *value_out) {
    int64_t value = 0;
    if (node->kind != GA_NODE_SCALAR || node->quoted || !ga_value_parse_integer(node->text, &value) ||
        !in_range(r->entry, (double)value)) {
        return mismatch_number(r, node);
    }
    *value_out = value;
    return GA_OK;
}

static ga_status read_boolean(const reading *r, const ga_node *node, bool *value_out) {
    if (!is_plain(node, "true") && !is_plain(node, "false")) {
        return mismatch(r, node, "");
    }
    *value_out = is_plain(node, "true");
    return GA_OK;
}

static ga_status read_word(const reading *r, const ga_node *node, uint32_t *index_out) {
    char word[GA_WORD_BYTES];
    for (uint32_t i = 0; node->kind == GA_NODE_SCALAR && ga_schema_word(r->entry->words, i, word); i++) {
        if (strcmp(word, node->text) == 0) {
            *index_out = i;
            return GA_OK;
        }
    }
    return mismatch_word(r, node);
}

static ga_status copy_text(const reading *r, const ga_node *node, const char **text_out) {
    if (node->kind != GA_NODE_SCALAR || ga_node_is_null(node) || node->text[0] == '\0') {
        return mismatch(r, node, "");
    }
    const char *text = ga_arena_text(r->arena, node->text);
    if (text == NULL) {
        return GA_FAIL(r->error, GA_ERR_MEMORY, "%s: out of memory", r->entry->path);
    }
    *text_out = text;
    return GA_OK;
}

static ga_status read_steps(const reading *r, const ga_node *node, ga_config_steps *steps_out) {
    ga_config_steps steps = {.count = 0};
    const bool is_list = node->kind == GA_NODE_LIST;
    if (is_list && (node->child_count == 0 || node->child_count > ga_schema_steps_max(r->entry))) {
        return mismatch(r, node, "");
    }
    for (const ga_node *item = is_list ? node->first : node; item != NULL;
         item = is_list ? item->next : NULL) {
        int64_t step = 0;
        GA_TRY(read_integer(r, item, &step));
        if (steps.count > 0 && step <= steps.values[steps.count - 1]) {
            return mismatch(r, item, " (not after the step before it)");
        }
        steps.values[steps.count++] = (int32_t)step;
    }
    *steps_out = steps;
    return GA_OK;
}

static ga_status read_shares(const reading *r, const ga_node *node, ga_config_shares *shares_out) {
    ga_config_shares shares = {.count = 0};
    const bool is_list = node->kind == GA_NODE_LIST;
    if (is_list && (node->child_count == 0 || node->child_count > GA_CONFIG_STAGES_MAX)) {
        return mismatch(r, node, "");
    }
    for (const ga_node *item = is_list ? node->first : node; item != NULL;
         item = is_list ? item->next : NULL) {
        GA_TRY(read_real(r, item, &shares.values[shares.count]));
        shares.count++;
    }
    *shares_out = shares;
    return GA_OK;
}

static ga_status read_words(const reading *r, const ga_node *node, uint32_t *bits_out) {
    if (node->kind != GA_NODE_LIST || node->child_count == 0) {
        return mismatch_word(r, node);
    }
    uint32_t bits = 0;
    for (const ga_node *item = node->first; item != NULL; item = item->next) {
        uint32_t index = 0;
        GA_TRY(read_word(r, item, &index));
        if ((bits & (1u << index)) != 0) {
            return mismatch(r, item, " a second time");
        }
        bits |= 1u << index;
    }
    *bits_out = bits;
    return GA_OK;
}

static ga_status read_block_names(const reading *r, const ga_node *node, ga_config_blocks *blocks_out) {
    ga_config_blocks blocks = {.choice = GA_CONFIG_BLOCKS_NAMED};
    if (node->child_count == 0 || node->child_count > GA_CONFIG_BLOCKS_MAX) {
        return mismatch(r, node, "");
    }
    for (const ga_node *item = node->first; item != NULL; item = item->next) {
        GA_TRY(copy_text(r, item, &blocks.names[blocks.count]));
        blocks.count++;
    }
    *blocks_out = blocks;
    return GA_OK;
}

static ga_status read_names(const reading *r, const ga_node *node, ga_config_names *names_out) {
    ga_config_names names = {.count = 0};
    if (node->kind != GA_NODE_LIST || node->child_count == 0 || node->child_count > GA_CONFIG_NAMES_MAX) {
        return mismatch(r, node, "");
    }
    for (const ga_node *item = node->first; item != NULL; item = item->next) {
        GA_TRY(copy_text(r, item, &names.names[names.count]));
        for (int32_t i = 0; i < names.count; i++) {
            if (strcmp(names.names[i], names.names[names.count]) == 0) {
                return mismatch(r, item, " a second time");
            }
        }
        names.count++;
    }
    *names_out = names;
    return GA_OK;
}

static ga_status read_widths(const reading *r, const ga_node *node, ga_config_widths *widths_out) {
    ga_config_widths widths = {.count = 0};
    if (node->kind != GA_NODE_LIST || node->child_count == 0 || node->child_count > GA_CONFIG_WIDTHS_MAX) {
        return mismatch(r, node, "");
    }
    for (const ga_node *item = node->first; item != NULL; item = item->next) {
        int64_t width = 0;
        GA_TRY(read_integer(r, item, &width));
        widths.values[widths.count++] = (int32_t)width;
    }
    *widths_out = widths;
    return GA_OK;
}

static ga_status read_blocks(const reading *r, const ga_node *node, ga_config_blocks *blocks_out) {
    if (node->kind == GA_NODE_LIST) {
        return read_block_names(r, node, blocks_out);
    }
    static const char *const heads[] = {"middle:", "last_encoder:"};
    for (uint32_t i = 0; node->kind == GA_NODE_SCALAR && i < 2; i++) {
        const size_t length = strlen(heads[i]);
        int64_t count = 0;
        if (strncmp(node->text, heads[i], length) == 0 &&
            ga_value_parse_integer(node->text + length, &count) && in_range(r->entry, (double)count)) {
            *blocks_out = (ga_config_blocks){.choice = (ga_config_block_choice)i, .count = (int32_t)count};
            return GA_OK;
        }
    }
    return mismatch(r, node, "");
}

/* What `auto` and `null` leave in a field (see config.h). */
static void set_unset(const ga_schema_entry *entry, void *field) {
    switch (entry->type) {
    case GA_SCHEMA_INTEGER: *(int64_t *)field = GA_CONFIG_AUTO; break;
    case GA_SCHEMA_REAL: *(double *)field = 0; break;
    case GA_SCHEMA_TEXT: *(const char **)field = NULL; break;
    case GA_SCHEMA_STEPS: ((ga_config_steps *)field)->count = 0; break;
    case GA_SCHEMA_SHARES: ((ga_config_shares *)field)->count = 0; break;
    case GA_SCHEMA_WORDS: *(uint32_t *)field = 0; break;
    case GA_SCHEMA_NAMES: ((ga_config_names *)field)->count = 0; break;
    default: break;
    }
}

static ga_status read_set(const reading *r, const ga_node *node, void *field) {
    switch (r->entry->type) {
    case GA_SCHEMA_BOOLEAN: return read_boolean(r, node, field);
    case GA_SCHEMA_INTEGER: return read_integer(r, node, field);
    case GA_SCHEMA_REAL: return read_real(r, node, field);
    case GA_SCHEMA_WORD: return read_word(r, node, field);
    case GA_SCHEMA_TEXT: return copy_text(r, node, field);
    case GA_SCHEMA_STEPS: return read_steps(r, node, field);
    case GA_SCHEMA_SHARES: return read_shares(r, node, field);
    case GA_SCHEMA_WORDS: return read_words(r, node, field);
    case GA_SCHEMA_BLOCKS: return read_blocks(r, node, field);
    case GA_SCHEMA_NAMES: return read_names(r, node, field);
    case GA_SCHEMA_WIDTHS: return read_widths(r, node, field);
    }
    return GA_FAIL(r->error, GA_ERR_BUG, "%s has an unknown type in the schema", r->entry->path);
}

ga_status ga_value_read(const ga_schema_entry *entry, const char *source, const ga_node *node,
    ga_arena *arena, ga_config *config, ga_error *error) {
    void *field = (char *)config + entry->offset;
    const bool is_auto = (entry->flags & GA_SCHEMA_MAY_BE_AUTO) != 0 && is_plain(node, "auto");
    const bool is_null = (entry->flags & GA_SCHEMA_MAY_BE_NULL) != 0 && ga_node_is_null(node);
    if (is_auto || is_null) {
        set_unset(entry, field);
        return GA_OK;
    }
    const reading r = {entry, source, arena, error};
    return read_set(&r, node, field);
}

/* ---- writing ---- */

void ga_value_write_quoted(const char *text, FILE *out) {
    (void)fputc('"', out);
    for (const char *at = text; *at != '\0'; at++) {
        const unsigned char byte = (unsigned char)*at;
        if (byte == '"' || byte == '\\') {
            (void)fprintf(out, "\\%c", byte);
        } else if (byte < 0x20 || byte == 0x7f) {
            (void)fprintf(out, "\\u%04x", byte);
        } else {
            (void)fputc(byte, out);
        }
    }
    (void)fputc('"', out);
}

/* True where the text may stand in YAML without quotes and means itself. */
static bool is_safe_plain(const char *text) {
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-:";
    const size_t length = strlen(text);
    const bool letter_first = strchr("0123456789-:.", text[0]) == NULL || text[0] == '.';
    return length > 0 && letter_first && text[length - 1] != ':' && strspn(text, safe) == length &&
           strcmp(text, "null") != 0;
}

static void write_text(const char *text, ga_value_style style, FILE *out) {
    if (style == GA_VALUE_YAML && is_safe_plain(text)) {
        (void)fputs(text, out);
    } else {
        ga_value_write_quoted(text, out);
    }
}

static void write_real(double value, FILE *out) {
    char text[NUMBER_BYTES];
    format_real(value, text);
    (void)fputs(text, out);
}

static void write_word(const ga_schema_entry *entry, uint32_t index, ga_value_style style, FILE *out) {
    char word[GA_WORD_BYTES];
    if (ga_schema_word(entry->words, index, word)) {
        write_text(word, style, out);
    }
}

static void write_steps(const ga_config_steps *steps, FILE *out) {
    const char *before = steps->count > 1 ? "[" : "";
    for (int32_t i = 0; i < steps->count; i++) {
        (void)fprintf(out, "%s%d", before, steps->values[i]);
        before = ", ";
    }
    (void)fputs(steps->count > 1 ? "]" : "", out);
}

static void write_shares(const ga_config_shares *shares, FILE *out) {
    const char *before = shares->count > 1 ? "[" : "";
    for (int32_t i = 0; i < shares->count; i++) {
        (void)fputs(before, out);
        write_real(shares->values[i], out);
        before = ", ";
    }
    (void)fputs(shares->count > 1 ? "]" : "", out);
}

static void write_words(const ga_schema_entry *entry, uint32_t bits, ga_value_style style, FILE *out) {
    const char *before = "[";
    for (uint32_t i = 0; i < 32; i++) {
        if ((bits & (1u << i)) != 0) {
            (void)fputs(before, out);
            write_word(entry, i, style, out);
            before = ", ";
        }
    }
    (void)fputc(']', out);
}

static void write_names(const char *const *names, int32_t count, ga_value_style style, FILE *out) {
    for (int32_t i = 0; i < count; i++) {
        (void)fputs(i == 0 ? "[" : ", ", out);
        write_text(names[i], style, out);
    }
    (void)fputc(']', out);
}

static void write_widths(const ga_config_widths *widths, FILE *out) {
    for (int32_t i = 0; i < widths->count; i++) {
        (void)fprintf(out, "%s%d", i == 0 ? "[" : ", ", widths->values[i]);
    }
    (void)fputc(']', out);
}

static void write_blocks(const ga_config_blocks *blocks, ga_value_style style, FILE *out) {
    if (blocks->choice != GA_CONFIG_BLOCKS_NAMED) {
        char text[32];
        (void)snprintf(text, sizeof text, "%s:%d",
            blocks->choice == GA_CONFIG_BLOCKS_MIDDLE ? "middle" : "last_encoder", blocks->count);
        write_text(text, style, out);
        return;
    }
    write_names(blocks->names, blocks->count, style, out);
}

static bool is_unset(const ga_schema_entry *entry, const void *field) {
    switch (entry->type) {
    case GA_SCHEMA_INTEGER:
        return (entry->flags & GA_SCHEMA_MAY_BE_AUTO) != 0 && *(const int64_t *)field == GA_CONFIG_AUTO;
    case GA_SCHEMA_REAL: return (entry->flags & GA_SCHEMA_MAY_BE_NULL) != 0 && *(const double *)field == 0;
    case GA_SCHEMA_TEXT: return *(const char *const *)field == NULL;
    case GA_SCHEMA_STEPS: return ((const ga_config_steps *)field)->count == 0;
    case GA_SCHEMA_SHARES: return ((const ga_config_shares *)field)->count == 0;
    case GA_SCHEMA_WORDS: return *(const uint32_t *)field == 0;
    case GA_SCHEMA_NAMES: return ((const ga_config_names *)field)->count == 0;
    default: return false;
    }
}

void ga_value_write(const ga_schema_entry *entry, const ga_config *config, ga_value_style style, FILE *out) {
    const void *field = (const char *)config + entry->offset;
    if (is_unset(entry, field)) {
        const bool may_be_null = (entry->flags & GA_SCHEMA_MAY_BE_NULL) != 0;
        (void)fputs(may_be_null ? "null" : style == GA_VALUE_JSON ? "\"auto\"" : "auto", out);
        return;
    }
    switch (entry->type) {
    case GA_SCHEMA_BOOLEAN: (void)fputs(*(const bool *)field ? "true" : "false", out); break;
    case GA_SCHEMA_INTEGER: (void)fprintf(out, "%lld", (long long)*(const int64_t *)field); break;
    case GA_SCHEMA_REAL: write_real(*(const double *)field, out); break;
    case GA_SCHEMA_WORD: write_word(entry, *(const uint32_t *)field, style, out); break;
    case GA_SCHEMA_TEXT: write_text(*(const char *const *)field, style, out); break;
    case GA_SCHEMA_STEPS: write_steps(field, out); break;
    case GA_SCHEMA_SHARES: write_shares(field, out); break;
    case GA_SCHEMA_WORDS: write_words(entry, *(const uint32_t *)field, style, out); break;
    case GA_SCHEMA_BLOCKS: write_blocks(field, style, out); break;
    case GA_SCHEMA_NAMES: {
        const ga_config_names *names = field;
        write_names(names->names, names->count, style, out);
        break;
    }
    case GA_SCHEMA_WIDTHS: write_widths(field, out); break;
    }
}
