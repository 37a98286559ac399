#include "grpo_accel/estimate/downsample.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"

typedef struct entry {
    int32_t rank;
    int32_t index;
    int32_t input; /* place among the outcomes */
    double value;  /* |A| */
} entry;

/* By rank, the largest advantages first. */
static int compare_entries(const void *left, const void *right) {
    const entry *a = left;
    const entry *b = right;
    if (a->rank != b->rank) {
        return a->rank < b->rank ? -1 : 1;
    }
    if (a->value < b->value || a->value > b->value) {
        return a->value > b->value ? -1 : 1;
    }
    return (a->index > b->index) - (a->index < b->index);
}

/* Where the entries end that are of the same rank as `first`. */
static int32_t end_of_rank(const entry *entries, int32_t count, int32_t first) {
    int32_t end = first;
    while (end < count && entries[end].rank == entries[first].rank) {
        end++;
    }
    return end;
}

/* Rows that each rank trains, `smallest` being the smallest number that a rank has. */
static int32_t rows_to_train(const ga_downsample_options *options, int32_t smallest) {
    const int32_t whole = smallest / options->multiple; /* multiples that every rank has */
    if (whole < 1) {
        return smallest;
    }
    const double wanted = floor(options->share * smallest / options->multiple + 0.5);
    return (int32_t)fmin(whole, fmax(1, wanted)) * options->multiple;
}

/* How many of the entries first … end − 1, the largest first, have an advantage. */
static int32_t count_trainable(const entry *entries, int32_t first, int32_t end) {
    int32_t count = 0;
    while (first + count < end && entries[first + count].value > 0) {
        count++;
    }
    return count;
}

ga_status ga_downsample_advantages(const ga_downsample_options *options, const ga_outcome *outcomes,
    int32_t count, ga_arena *arena, double *advantage, int32_t *trained_out, ga_error *error) {
    if (options == NULL || !(options->share > 0 && options->share <= 1) || options->multiple < 1 ||
        arena == NULL || count < 0 || (count > 0 && (outcomes == NULL || advantage == NULL))) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "down-sampling %d rows: an argument is missing, or the share is not in (0, 1]", (int)count);
    }
    entry *entries = ga_arena_take(arena, ga_size(count) + 1, sizeof *entries);
    if (entries == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to down-sample %d rows", (int)count);
    }
    int32_t smallest = count;
    for (int32_t i = 0; i < count; i++) {
        entries[i] = (entry){outcomes[i].rank, outcomes[i].index, i, fabs(advantage[i])};
    }
    qsort(entries, ga_size(count), sizeof *entries, compare_entries);
    for (int32_t first = 0, end; first < count; first = end) {
        end = end_of_rank(entries, count, first);
        const int32_t trainable = count_trainable(entries, first, end);
        smallest = trainable < smallest ? trainable : smallest;
    }
    const int32_t trained = rows_to_train(options, smallest);
    for (int32_t first = 0, end; first < count && trained > 0; first = end) {
        end = end_of_rank(entries, count, first);
        for (int32_t i = first + trained; i < end; i++) {
            advantage[entries[i].input] = 0;
        }
    }
    if (trained_out != NULL) {
        *trained_out = trained;
    }
    return GA_OK;
}
