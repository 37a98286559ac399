#include "grpo_accel/base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

enum { ALIGNMENT_BYTES = 64, BLOCK_BYTES_DEFAULT = 64 * 1024 };

typedef struct block {
    struct block *next;
    size_t capacity_bytes;
    size_t used_bytes;
    unsigned char *memory;
} block;

struct ga_arena {
    block *blocks;
    size_t block_bytes;
};

ga_arena *ga_arena_create(size_t block_bytes) {
    ga_arena *arena = calloc(1, sizeof *arena);
    if (arena != NULL) {
        arena->block_bytes = block_bytes != 0 ? block_bytes : BLOCK_BYTES_DEFAULT;
    }
    return arena;
}

void ga_arena_destroy(ga_arena **arena) {
    if (arena == NULL || *arena == NULL) {
        return;
    }
    for (block *b = (*arena)->blocks; b != NULL;) {
        block *next = b->next;
        free(b->memory);
        free(b);
        b = next;
    }
    free(*arena);
    *arena = NULL;
}

void ga_arena_reset(ga_arena *arena) {
    for (block *b = arena->blocks; b != NULL; b = b->next) {
        b->used_bytes = 0;
    }
}

static block *add_block(ga_arena *arena, size_t bytes) {
    const size_t capacity_bytes = bytes > arena->block_bytes ? bytes : arena->block_bytes;
    block *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return NULL;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, ALIGNMENT_BYTES, capacity_bytes) != 0) {
        free(b);
        return NULL;
    }
    b->memory = memory;
    b->capacity_bytes = capacity_bytes;
    b->next = arena->blocks;
    arena->blocks = b;
    return b;
}

void *ga_arena_take(ga_arena *arena, size_t count, size_t element_bytes) {
    size_t bytes;
    if (!ga_multiply_size(count, element_bytes, &bytes) || bytes > SIZE_MAX - ALIGNMENT_BYTES) {
        return NULL;
    }
    bytes = (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    block *b = arena->blocks;
    while (b != NULL && b->capacity_bytes - b->used_bytes < bytes) {
        b = b->next;
    }
    if (b == NULL) {
        b = add_block(arena, bytes);
    }
    if (b == NULL) {
        return NULL;
    }
    void *memory = b->memory + b->used_bytes;
    b->used_bytes += bytes;
    memset(memory, 0, bytes);
    return memory;
}

char *ga_arena_text(ga_arena *arena, const char *text) {
    const size_t bytes = strlen(text) + 1;
    char *copy = ga_arena_take(arena, bytes, 1);
    if (copy != NULL) {
        memcpy(copy, text, bytes);
    }
    return copy;
}

size_t ga_arena_held_bytes(const ga_arena *arena) {
    size_t bytes = 0;
    for (const block *b = arena->blocks; b != NULL; b = b->next) {
        bytes += b->capacity_bytes;
    }
    return bytes;
}
