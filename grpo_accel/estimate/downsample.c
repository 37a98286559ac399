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
static int32_t end_of_rank(const entry *entries, int32_t used, int32_t first) {
    int32_t end = first;
    while (end < used && entries[end].rank == entries[first].rank) {
        end++;
    }
    return end;
}

/* Rows that each rank trains, `smallest` being the smallest number that a rank has. */
static int32_t rows_to_train(const ga_downsample_options *options, int32_t smallest) {
    const double multiples = floor(options->share * smallest / options->multiple + 0.5);
    const int32_t wanted = (int32_t)fmax(1, multiples) * options->multiple;
    return wanted < smallest ? wanted : smallest;
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
    int32_t used = 0, smallest = count;
    for (int32_t i = 0; i < count; i++) {
        if (advantage[i] != 0) {
            entries[used++] = (entry){outcomes[i].rank, outcomes[i].index, i, fabs(advantage[i])};
        }
    }
    qsort(entries, ga_size(used), sizeof *entries, compare_entries);
    for (int32_t first = 0, end; first < used; first = end) {
        end = end_of_rank(entries, used, first);
        smallest = end - first < smallest ? end - first : smallest;
    }
    const int32_t trained = rows_to_train(options, smallest);
    for (int32_t first = 0, end; first < used; first = end) {
        end = end_of_rank(entries, used, first);
        for (int32_t i = first + trained; i < end; i++) {
            advantage[entries[i].input] = 0;
        }
    }
    if (trained_out != NULL) {
        *trained_out = trained;
    }
    return GA_OK;
}
