#include "grpo_accel/capture/tap.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Consecutive positions from `first`. */
static void take_range(int32_t first, int32_t count, int32_t *indices_out, int32_t *count_out) {
    for (int32_t i = 0; i < count; i++) {
        indices_out[i] = first + i;
    }
    *count_out = count;
}

static void choose_middle(int32_t wanted, int32_t block_count, int32_t *indices_out, int32_t *count_out) {
    const int32_t count = wanted < block_count ? wanted : block_count;
    take_range((block_count - count) / 2, count, indices_out, count_out);
}

/* Is `part` one of the parts between the dots of `name`? */
static bool has_part(const char *name, const char *part) {
    const size_t length = strlen(part);
    for (const char *at = strstr(name, part); at != NULL; at = strstr(at + 1, part)) {
        const bool begins = at == name || at[-1] == '.';
        if (begins && (at[length] == '.' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

/* diffusers' names: down_blocks.1.attentions.0…, then mid_block, then up_blocks. attn1 is the image's
 * attention to itself, which says nothing of the prompt. */
static bool is_encoder(const char *name) {
    return has_part(name, "down_blocks") && !has_part(name, "attn1");
}

static ga_status choose_encoder(int32_t wanted, const char *const *block_names, int32_t block_count,
    int32_t *indices_out, int32_t *count_out, ga_error *error) {
    int32_t found = 0;
    for (int32_t i = block_count - 1; i >= 0 && found < wanted; i--) {
        if (is_encoder(block_names[i])) {
            indices_out[found++] = i;
        }
    }
    if (found == 0) {
        return GA_FAIL(error, GA_ERR_CONFIG,
            "probe.blocks: none of the model's %d blocks (the first is %.80s) belongs to an encoder; use "
            "middle:%d",
            block_count, block_names[0], wanted);
    }
    for (int32_t i = 0; i < found / 2; i++) { /* found backwards */
        const int32_t other = indices_out[i];
        indices_out[i] = indices_out[found - 1 - i];
        indices_out[found - 1 - i] = other;
    }
    *count_out = found;
    return GA_OK;
}

/* Is `block` called `name`, or does it stand inside a module that is? */
static bool is_called(const char *block, const char *name) {
    const size_t length = strlen(name);
    return strncmp(block, name, length) == 0 && (block[length] == '\0' || block[length] == '.');
}

static bool is_wanted(const ga_tap_selection *selection, const char *block) {
    for (int32_t i = 0; i < selection->count; i++) {
        if (is_called(block, selection->names[i])) {
            return true;
        }
    }
    return false;
}

static bool is_there(const char *name, const char *const *block_names, int32_t block_count) {
    for (int32_t i = 0; i < block_count; i++) {
        if (is_called(block_names[i], name)) {
            return true;
        }
    }
    return false;
}

static ga_status choose_named(const ga_tap_selection *selection, const char *const *block_names,
    int32_t block_count, int32_t *indices_out, int32_t *count_out, ga_error *error) {
    for (int32_t i = 0; i < selection->count; i++) {
        if (!is_there(selection->names[i], block_names, block_count)) {
            return GA_FAIL(error, GA_ERR_CONFIG,
                "probe.blocks: the model has no block \"%.120s\"; it has %d, from \"%.80s\" to \"%.80s\"",
                selection->names[i], block_count, block_names[0], block_names[block_count - 1]);
        }
    }
    int32_t count = 0;
    for (int32_t i = 0; i < block_count; i++) {
        if (is_wanted(selection, block_names[i])) {
            indices_out[count++] = i;
        }
    }
    *count_out = count;
    return GA_OK;
}

ga_status ga_tap_choose(const ga_tap_selection *selection, const char *const *block_names,
    int32_t block_count, int32_t *indices_out, int32_t *count_out, ga_error *error) {
    if (selection->count < 1 || block_count < 1) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "taps: %d of %d blocks were asked for", selection->count, block_count);
    }
    const bool needs_names = selection->kind != GA_TAP_MIDDLE;
    if ((needs_names && block_names == NULL) ||
        (selection->kind == GA_TAP_NAMED && selection->names == NULL)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "taps: the blocks' names are needed and were not given");
    }
    switch (selection->kind) {
    case GA_TAP_MIDDLE: choose_middle(selection->count, block_count, indices_out, count_out); return GA_OK;
    case GA_TAP_LAST_ENCODER:
        return choose_encoder(selection->count, block_names, block_count, indices_out, count_out, error);
    case GA_TAP_NAMED:
        return choose_named(selection, block_names, block_count, indices_out, count_out, error);
    }
    return GA_FAIL(error, GA_ERR_ARGUMENT, "taps: selection of unknown kind %d", (int)selection->kind);
}
