#include "grpo_accel/command/categories.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/digest.h"

enum { LINE_BYTES = 16384, HASH_BYTES = 16 };

typedef struct entry {
    uint64_t prompt;
    int32_t category;
} entry;

struct ga_categories {
    size_t count, capacity;
    entry *entries; /* sorted by prompt once read */
    int32_t names_count;
    char names[GA_CATEGORIES_MAX][GA_CATEGORY_NAME_BYTES];
};

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* A hash in hexadecimal digits stands for itself, any other text is hashed as the session hashes prompts. */
static uint64_t prompt_key(const char *text) {
    uint8_t hash[HASH_BYTES];
    bool is_hash = strlen(text) == 2 * (size_t)HASH_BYTES;
    for (int i = 0; i < HASH_BYTES && is_hash; i++) {
        const int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        is_hash = high >= 0 && low >= 0;
        hash[i] = (uint8_t)(is_hash ? high * 16 + low : 0);
    }
    if (!is_hash) {
        ga_digest128(text, strlen(text), hash);
    }
    return ga_digest64(hash, sizeof hash);
}

/* Cuts the first field off `*rest`, which goes on behind the comma; NULL in *rest: it was the last. Quotes
 * are taken away in place. */
static char *next_field(char **rest) {
    char *from = *rest, *to = *rest, *field = *rest;
    bool quoted = *from == '"';
    from += quoted ? 1 : 0;
    for (; *from != '\0' && (quoted || *from != ','); from++) {
        if (quoted && *from == '"') {
            if (from[1] != '"') {
                quoted = false;
                continue;
            }
            from++;
        }
        *to++ = *from;
    }
    *rest = *from == ',' ? from + 1 : NULL;
    *to = '\0';
    return field;
}

static int32_t find_name(const ga_categories *categories, const char *name) {
    for (int32_t i = 0; i < categories->names_count; i++) {
        if (strncmp(categories->names[i], name, GA_CATEGORY_NAME_BYTES - 1) == 0) {
            return i;
        }
    }
    return -1;
}

static ga_status add_entry(ga_categories *categories, const char *prompt, const char *name, ga_error *error) {
    int32_t category = find_name(categories, name);
    if (category < 0 && categories->names_count == GA_CATEGORIES_MAX) {
        return GA_FAIL(error, GA_ERR_FILE, "more than %d categories", GA_CATEGORIES_MAX);
    }
    if (categories->count == categories->capacity) {
        const size_t capacity = 2 * categories->capacity + 64;
        entry *grown = realloc(categories->entries, capacity * sizeof *grown);
        if (grown == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %zu prompts", capacity);
        }
        categories->entries = grown;
        categories->capacity = capacity;
    }
    if (category < 0) {
        category = categories->names_count++;
        (void)snprintf(categories->names[category], GA_CATEGORY_NAME_BYTES, "%s", name);
    }
    categories->entries[categories->count++] = (entry){.prompt = prompt_key(prompt), .category = category};
    return GA_OK;
}

static ga_status read_line(ga_categories *categories, char *line, bool first, ga_error *error) {
    line[strcspn(line, "\r\n")] = '\0';
    if (line[0] == '\0') {
        return GA_OK;
    }
    char *rest = line;
    const char *prompt = next_field(&rest);
    if (rest == NULL) {
        return GA_FAIL(error, GA_ERR_FILE, "expected 'prompt,category'");
    }
    const char *name = next_field(&rest);
    if (name[0] == '\0') {
        return GA_FAIL(error, GA_ERR_FILE, "the category is empty");
    }
    const bool header = first && strcmp(name, "category") == 0;
    return header ? GA_OK : add_entry(categories, prompt, name, error);
}

static int by_prompt(const void *a, const void *b) {
    const entry *x = a;
    const entry *y = b;
    return x->prompt < y->prompt ? -1 : x->prompt > y->prompt ? 1 : 0;
}

static ga_status read_lines(FILE *file, const char *path, ga_categories *categories, ga_error *error) {
    char *line = malloc(LINE_BYTES);
    if (line == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to read %.200s", path);
    }
    ga_status status = GA_OK;
    for (int number = 1; status == GA_OK && fgets(line, LINE_BYTES, file) != NULL; number++) {
        ga_error why = {0};
        status = read_line(categories, line, number == 1, &why);
        if (status != GA_OK) {
            (void)GA_FAIL(error, status, "%.200s:%d: %.200s", path, number, why.message);
        }
    }
    free(line);
    if (status == GA_OK && ferror(file) != 0) {
        status = GA_FAIL(error, GA_ERR_FILE, "%.200s can't be read", path);
    }
    if (categories->count > 0) {
        qsort(categories->entries, categories->count, sizeof *categories->entries, by_prompt);
    }
    return status;
}

ga_status ga_categories_read(const char *path, ga_categories **categories_out, ga_error *error) {
    ga_categories *categories = calloc(1, sizeof *categories);
    if (categories == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to read %.200s", path);
    }
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        free(categories);
        return GA_FAIL(error, GA_ERR_FILE, "%.200s: %s", path, strerror(errno));
    }
    const ga_status status = read_lines(file, path, categories, error);
    (void)fclose(file);
    if (status != GA_OK) {
        ga_categories_free(&categories);
        return status;
    }
    *categories_out = categories;
    return GA_OK;
}

int32_t ga_categories_find(const ga_categories *categories, uint64_t prompt) {
    const entry wanted = {.prompt = prompt};
    const entry *found = categories->count == 0 ? NULL
                                                : bsearch(&wanted, categories->entries, categories->count,
                                                      sizeof wanted, by_prompt);
    return found != NULL ? found->category : -1;
}

int32_t ga_categories_count(const ga_categories *categories) {
    return categories->names_count;
}

const char *ga_categories_name(const ga_categories *categories, int32_t category) {
    return categories->names[category];
}

void ga_categories_free(ga_categories **categories) {
    if (*categories != NULL) {
        free((*categories)->entries);
        free(*categories);
        *categories = NULL;
    }
}
