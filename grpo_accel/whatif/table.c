#include "grpo_accel/whatif/table.h"

#include <stdlib.h>

#include "grpo_accel/base/check.h"

ga_status ga_whatif_table_create(
    int64_t rows, int32_t score_count, bool has_ranks, ga_whatif_table **table_out, ga_error *error) {
    if (table_out == NULL || rows < 1 || rows > GA_WHATIF_ROWS_MAX || score_count < 1 ||
        score_count > GA_WHATIF_SCORES_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a table of %lld rows and %d scores: 1 to %d rows, 1 to %d scores", (long long)rows,
            (int)score_count, GA_WHATIF_ROWS_MAX, GA_WHATIF_SCORES_MAX);
    }
    const size_t count = ga_size(rows);
    ga_whatif_table *table = calloc(1, sizeof *table);
    bool whole = table != NULL;
    if (whole) {
        table->rows = (int32_t)rows;
        table->score_count = score_count;
        table->batch = calloc(count, sizeof *table->batch);
        table->group = calloc(count, sizeof *table->group);
        table->reward = calloc(count, sizeof *table->reward);
        table->rank = has_ranks ? calloc(count, sizeof *table->rank) : NULL;
        whole = table->batch != NULL && table->group != NULL && table->reward != NULL &&
                (table->rank != NULL) == has_ranks;
        for (int32_t k = 0; k < score_count; k++) {
            table->score[k] = calloc(count, sizeof *table->score[k]);
            whole = whole && table->score[k] != NULL;
        }
    }
    if (!whole) {
        ga_whatif_table_free(&table);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a table of %lld rows", (long long)rows);
    }
    *table_out = table;
    return GA_OK;
}

void ga_whatif_table_free(ga_whatif_table **table) {
    if (table == NULL || *table == NULL) {
        return;
    }
    free((*table)->batch);
    free((*table)->group);
    free((*table)->rank);
    free((*table)->reward);
    for (int32_t k = 0; k < GA_WHATIF_SCORES_MAX; k++) {
        free((*table)->score[k]);
    }
    free(*table);
    *table = NULL;
}
