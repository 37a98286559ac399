#include "probe/learned.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/digest.h"

/* A key of 64 bits as floats of a file, each of which holds 16 of them exactly. */
enum { KEY_FLOATS = 4, KEY_BITS = 16 };
#define KEY_TEXT_BYTES 32

uint64_t ga_learned_digest(uint64_t row_id, uint64_t prompt, float reward) {
    uint32_t bits = 0;
    memcpy(&bits, &reward, sizeof bits);
    const uint64_t words[3] = {row_id, prompt, bits};
    return ga_digest64(words, sizeof words);
}

static int by_key(const void *left, const void *right) {
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

bool ga_learned_has(const ga_learned *learned, int32_t run, uint32_t update, uint64_t prompt) {
    const ga_learned_run *window = &learned->runs[run];
    if (update < window->oldest_update || update > window->newest_update) {
        return false;
    }
    return learned->held_count == 0 ||
           bsearch(&prompt, learned->held, (size_t)learned->held_count, sizeof prompt, by_key) == NULL;
}

void ga_learned_set(
    ga_learned *learned, const ga_learned_run *runs, int32_t run_count, uint64_t *held, int32_t held_count) {
    ga_learned_clear(learned);
    if (run_count < 1 || run_count > GA_LEARNED_RUNS_MAX) {
        free(held);
        return;
    }
    memcpy(learned->runs, runs, (size_t)run_count * sizeof *runs);
    learned->run_count = run_count;
    learned->held = held;
    learned->held_count = held_count;
}

void ga_learned_clear(ga_learned *learned) {
    free(learned->held);
    memset(learned, 0, sizeof *learned);
}

/* ---- in a file ---- */

static void name_text(char *key, int32_t run, const char *part) {
    (void)snprintf(key, KEY_TEXT_BYTES, "learned%d_%s", run, part);
}

static ga_status put_number(
    ga_weights *weights, int32_t run, const char *part, uint64_t value, ga_error *error) {
    char key[KEY_TEXT_BYTES], text[32];
    name_text(key, run, part);
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return ga_weights_set_text(weights, key, text, error);
}

/* "row:digest,row:digest", hexadecimal */
static ga_status put_witnesses(
    ga_weights *weights, int32_t run, const ga_learned_run *from, ga_error *error) {
    char key[KEY_TEXT_BYTES], text[GA_LEARNED_WITNESSES * 40] = "";
    size_t used = 0;
    for (int32_t i = 0; i < from->witness_count; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%" PRIx64 ":%" PRIx64, i > 0 ? "," : "",
            from->witness[i].row_id, from->witness[i].digest);
    }
    name_text(key, run, "witnesses");
    return ga_weights_set_text(weights, key, text, error);
}

static ga_status put_held(const ga_learned *learned, ga_weights *weights, ga_error *error) {
    if (learned->held_count == 0) {
        return GA_OK;
    }
    const int64_t shape[2] = {learned->held_count, KEY_FLOATS};
    float *values = malloc((size_t)learned->held_count * KEY_FLOATS * sizeof *values);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the keys of %d prompts", learned->held_count);
    }
    for (int32_t i = 0; i < learned->held_count * KEY_FLOATS; i++) {
        const unsigned shift = (unsigned)(i % KEY_FLOATS * KEY_BITS);
        values[i] = (float)((learned->held[i / KEY_FLOATS] >> shift) & 0xffffU);
    }
    const ga_status status = ga_weights_add(weights, "learned.held", 2, shape, values, error);
    free(values);
    return status;
}

ga_status ga_learned_put(const ga_learned *learned, ga_weights *weights, ga_error *error) {
    char key[KEY_TEXT_BYTES], text[16];
    if (learned->run_count == 0) {
        return GA_OK;
    }
    (void)snprintf(text, sizeof text, "%d", learned->run_count);
    GA_TRY(ga_weights_set_text(weights, "learned_runs", text, error));
    for (int32_t i = 0; i < learned->run_count; i++) {
        const ga_learned_run *run = &learned->runs[i];
        name_text(key, i, "run");
        GA_TRY(ga_weights_set_text(weights, key, run->id, error));
        GA_TRY(put_number(weights, i, "oldest_update", run->oldest_update, error));
        GA_TRY(put_number(weights, i, "newest_update", run->newest_update, error));
        GA_TRY(put_number(weights, i, "newest_row", run->newest_row, error));
        GA_TRY(put_witnesses(weights, i, run, error));
    }
    return put_held(learned, weights, error);
}

static const char *text_of(const ga_weights *weights, int32_t run, const char *part) {
    char key[KEY_TEXT_BYTES];
    name_text(key, run, part);
    return ga_weights_text(weights, key);
}

static bool take_number(const char *text, uint64_t most, uint64_t *value_out) {
    char *end = NULL;
    if (text == NULL || text[0] < '0' || text[0] > '9') {
        return false;
    }
    const unsigned long long value = strtoull(text, &end, 10);
    *value_out = value;
    return *end == '\0' && value <= most;
}

static bool take_witnesses(const char *text, ga_learned_run *run) {
    while (text != NULL && *text != '\0') {
        char *end = NULL;
        if (run->witness_count == GA_LEARNED_WITNESSES) {
            return false;
        }
        ga_learned_witness *witness = &run->witness[run->witness_count++];
        witness->row_id = strtoull(text, &end, 16);
        if (end == text || *end != ':') {
            return false;
        }
        text = end + 1;
        witness->digest = strtoull(text, &end, 16);
        if (end == text || (*end != ',' && *end != '\0')) {
            return false;
        }
        text = *end == ',' ? end + 1 : end;
    }
    return text != NULL;
}

static bool take_run(const ga_weights *weights, int32_t i, ga_learned_run *run) {
    const char *id = text_of(weights, i, "run");
    uint64_t oldest = 0, newest = 0;
    if (id == NULL || strlen(id) >= sizeof run->id ||
        !take_number(text_of(weights, i, "oldest_update"), UINT32_MAX, &oldest) ||
        !take_number(text_of(weights, i, "newest_update"), UINT32_MAX, &newest) ||
        !take_number(text_of(weights, i, "newest_row"), UINT64_MAX, &run->newest_row)) {
        return false;
    }
    strcpy(run->id, id);
    run->oldest_update = (uint32_t)oldest;
    run->newest_update = (uint32_t)newest;
    return take_witnesses(text_of(weights, i, "witnesses"), run);
}

/* Keys ascending, each of whole numbers of 16 bits. */
static bool take_held(const ga_weights_array *array, uint64_t *held) {
    bool sound = true;
    for (int64_t i = 0; i < array->count && sound; i++) {
        const float value = array->values[i];
        sound = value >= 0.0F && value <= 65535.0F && value == (float)(uint32_t)value;
        held[i / KEY_FLOATS] |= sound ? (uint64_t)value << (unsigned)(i % KEY_FLOATS * KEY_BITS) : 0;
    }
    for (int64_t i = 1; i < array->count / KEY_FLOATS && sound; i++) {
        sound = held[i] > held[i - 1];
    }
    return sound;
}

static ga_status damaged(const char *path, ga_error *error) {
    return GA_FAIL(
        error, GA_ERR_FILE, "%s: what it says of the rows that it has learned from is damaged", path);
}

static ga_status get_held(const ga_weights *weights, const char *path, ga_learned *learned, ga_error *error) {
    const ga_weights_array *array = ga_weights_find(weights, "learned.held");
    if (array == NULL) {
        return GA_OK;
    }
    if (array->dims != 2 || array->shape[1] != KEY_FLOATS || array->shape[0] > INT32_MAX / KEY_FLOATS) {
        return damaged(path, error);
    }
    learned->held = calloc((size_t)array->shape[0] + 1, sizeof *learned->held);
    if (learned->held == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "%s: no memory for its prompts", path);
    }
    learned->held_count = (int32_t)array->shape[0];
    return take_held(array, learned->held) ? GA_OK : damaged(path, error);
}

ga_status ga_learned_get(
    const ga_weights *weights, const char *path, ga_learned *learned_out, ga_error *error) {
    ga_learned learned = {.run_count = 0};
    const char *text = ga_weights_text(weights, "learned_runs");
    uint64_t count = 0;
    if (text != NULL && (!take_number(text, GA_LEARNED_RUNS_MAX, &count) || count == 0)) {
        return damaged(path, error);
    }
    learned.run_count = (int32_t)count;
    for (int32_t i = 0; i < learned.run_count; i++) {
        if (!take_run(weights, i, &learned.runs[i])) {
            return damaged(path, error);
        }
    }
    const ga_status status = learned.run_count > 0 ? get_held(weights, path, &learned, error) : GA_OK;
    if (status != GA_OK) {
        ga_learned_clear(&learned);
        return status;
    }
    *learned_out = learned;
    return GA_OK;
}
