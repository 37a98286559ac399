/*
 * Memory that lives as long as a batch: many small allocations, one reset.
 *
 * An arena keeps its blocks after a reset, so that a steady state allocates nothing.
 * Not thread-safe: one arena belongs to one thread at a time.
 */
#ifndef GA_BASE_ARENA_H
#define GA_BASE_ARENA_H

#include <stddef.h>

typedef struct ga_arena ga_arena;

/* NULL when memory is out. `block_bytes` is the size of a block (0: 64 KiB); larger requests get their own.
 */
ga_arena *ga_arena_create(size_t block_bytes);

/* Frees everything and sets *arena to NULL. NULL is allowed. */
void ga_arena_destroy(ga_arena **arena);

/* Makes all memory of the arena free for reuse; pointers into it are void from now on. */
void ga_arena_reset(ga_arena *arena);

/* Zeroed memory for count elements, aligned to 64 bytes, owned by the arena; NULL when memory is out. */
void *ga_arena_take(ga_arena *arena, size_t count, size_t element_bytes);

/* A copy of `text` in the arena; NULL when memory is out. */
char *ga_arena_text(ga_arena *arena, const char *text);

/* Bytes that the arena holds from the system, used or not. */
size_t ga_arena_held_bytes(const ga_arena *arena);

#endif
