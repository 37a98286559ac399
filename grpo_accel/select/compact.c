#include "grpo_accel/select/compact.h"

#include "grpo_accel/base/check.h"

/* Marks this rank's kept rows by 1 and its pruned ones by 0; false if it has not each row exactly once. */
static bool mark_rows(const ga_candidate *candidates, const ga_plan *plan, int32_t rank, int32_t *mark) {
    int32_t found = 0;
    for (int32_t row = 0; row < plan->rows_per_rank; row++) {
        mark[row] = -1;
    }
    for (int32_t i = 0; i < plan->count; i++) {
        if (candidates[i].rank != rank) {
            continue;
        }
        const int32_t row = candidates[i].index;
        if (row < 0 || row >= plan->rows_per_rank || mark[row] != -1) {
            return false;
        }
        mark[row] = plan->kept[i];
        found++;
    }
    return found == plan->rows_per_rank;
}

/* scatter[] comes in as marks and goes out as places; returns how many rows are kept. */
static int32_t number_rows(int32_t rows, int32_t *scatter, int32_t *gather) {
    int32_t kept = 0;
    for (int32_t row = 0; row < rows; row++) {
        if (scatter[row] == 1) {
            gather[kept] = row;
            scatter[row] = kept++;
        } else {
            scatter[row] = -1;
        }
    }
    return kept;
}

ga_status ga_compact_make(const ga_candidate *candidates, const ga_plan *plan, int32_t rank, ga_arena *arena,
    ga_compact *compact_out, ga_error *error) {
    if (candidates == NULL || plan == NULL || arena == NULL || compact_out == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "index lists without candidates, plan or arena");
    }
    const int32_t rows = plan->rows_per_rank;
    int32_t *scatter = ga_arena_take(arena, ga_size(rows), sizeof *scatter);
    int32_t *gather = ga_arena_take(arena, ga_size(rows), sizeof *gather);
    if (scatter == NULL || gather == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for index lists of %d rows", (int)rows);
    }
    if (!mark_rows(candidates, plan, rank, scatter)) {
        return GA_FAIL(
            error, GA_ERR_DATA, "the plan has not each of the %d rows of rank %d once", (int)rows, (int)rank);
    }
    const int32_t kept = number_rows(rows, scatter, gather);
    *compact_out = (ga_compact){rows, kept, gather, scatter};
    return GA_OK;
}

ga_status ga_compact_repeat(
    const ga_compact *compact, int32_t copies, ga_arena *arena, ga_compact *repeated_out, ga_error *error) {
    int32_t rows, kept;
    if (compact == NULL || arena == NULL || repeated_out == NULL || copies < 1 ||
        __builtin_mul_overflow(compact->rows, copies, &rows) ||
        __builtin_mul_overflow(compact->kept, copies, &kept)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "index lists can't be repeated %d times", (int)copies);
    }
    int32_t *scatter = ga_arena_take(arena, ga_size(rows), sizeof *scatter);
    int32_t *gather = ga_arena_take(arena, ga_size(kept), sizeof *gather);
    if (scatter == NULL || gather == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for index lists of %d rows", (int)rows);
    }
    for (int32_t copy = 0; copy < copies; copy++) {
        for (int32_t i = 0; i < compact->kept; i++) {
            gather[copy * compact->kept + i] = copy * compact->rows + compact->gather[i];
        }
        for (int32_t row = 0; row < compact->rows; row++) {
            const int32_t place = compact->scatter[row];
            scatter[copy * compact->rows + row] = place < 0 ? -1 : copy * compact->kept + place;
        }
    }
    *repeated_out = (ga_compact){rows, kept, gather, scatter};
    return GA_OK;
}
