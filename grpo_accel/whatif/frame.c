#include "grpo_accel/whatif/frame.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"

typedef struct keyed {
    uint64_t batch, group;
    int32_t row;
} keyed;

static int compare_keyed(const void *left, const void *right) {
    const keyed *a = left, *b = right;
    if (a->batch != b->batch) {
        return a->batch < b->batch ? -1 : 1;
    }
    if (a->group != b->group) {
        return a->group < b->group ? -1 : 1;
    }
    return (a->row > b->row) - (a->row < b->row);
}

void ga_frame_free(ga_frame *frame) {
    if (frame != NULL) {
        free(frame->row);
        free(frame->batch_start);
        free(frame->group_first);
        free(frame->group_start);
        free(frame->group);
        *frame = (ga_frame){0};
    }
}

static void number_groups(ga_frame *frame, const keyed *order) {
    for (int32_t i = 0; i < frame->count; i++) {
        const bool new_batch = i == 0 || order[i].batch != order[i - 1].batch;
        if (new_batch) {
            frame->batch_start[frame->batch_count] = i;
            frame->group_first[frame->batch_count++] = frame->group_count;
        }
        if (new_batch || order[i].group != order[i - 1].group) {
            frame->group_start[frame->group_count++] = i;
        }
        frame->row[i] = order[i].row;
        frame->group[i] = frame->group_count - 1;
    }
    frame->batch_start[frame->batch_count] = frame->count;
    frame->group_first[frame->batch_count] = frame->group_count;
    frame->group_start[frame->group_count] = frame->count;
}

ga_status ga_frame_make(const ga_whatif_table *table, ga_frame *frame_out, ga_error *error) {
    if (table == NULL || frame_out == NULL || table->rows < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a frame without a table, or of no rows");
    }
    const size_t count = ga_size(table->rows);
    ga_frame frame = {.table = table, .count = table->rows};
    keyed *order = calloc(count, sizeof *order);
    frame.row = calloc(count, sizeof *frame.row);
    frame.batch_start = calloc(count + 1, sizeof *frame.batch_start);
    frame.group_first = calloc(count + 1, sizeof *frame.group_first);
    frame.group_start = calloc(count + 1, sizeof *frame.group_start);
    frame.group = calloc(count, sizeof *frame.group);
    if (order == NULL || frame.row == NULL || frame.batch_start == NULL || frame.group_first == NULL ||
        frame.group_start == NULL || frame.group == NULL) {
        free(order);
        ga_frame_free(&frame);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a frame of %d rows", (int)table->rows);
    }
    for (int32_t i = 0; i < table->rows; i++) {
        order[i] = (keyed){table->batch[i], table->group[i], i};
    }
    qsort(order, count, sizeof *order, compare_keyed);
    number_groups(&frame, order);
    free(order);
    *frame_out = frame;
    return GA_OK;
}

/* ---- dealing ---- */

static void deal_by_chance(const int32_t *order, int32_t rows, int32_t ranks, ga_dealt *dealt) {
    dealt->ranks = rows < ranks ? rows : ranks;
    dealt->rows_per_rank = rows / dealt->ranks;
    dealt->left_out = rows - dealt->ranks * dealt->rows_per_rank;
    for (int32_t i = 0; i < rows; i++) {
        const bool placed = i < rows - dealt->left_out;
        dealt->rank[order[i]] = placed ? i / dealt->rows_per_rank : -1;
        dealt->index[order[i]] = placed ? i % dealt->rows_per_rank : -1;
    }
}

typedef struct standing {
    int32_t rank, row, place;
} standing;

static int compare_standing(const void *left, const void *right) {
    const standing *a = left, *b = right;
    if (a->rank != b->rank) {
        return a->rank < b->rank ? -1 : 1;
    }
    return (a->row > b->row) - (a->row < b->row);
}

/* Ranks are numbered by ascending number as the table gives them. */
static void deal_by_column(standing *order, int32_t rows, ga_dealt *dealt) {
    qsort(order, ga_size(rows), sizeof *order, compare_standing);
    dealt->ranks = 0;
    dealt->rows_per_rank = rows;
    int32_t first = 0;
    for (int32_t i = 1; i <= rows; i++) {
        if (i == rows || order[i].rank != order[first].rank) {
            dealt->rows_per_rank = i - first < dealt->rows_per_rank ? i - first : dealt->rows_per_rank;
            first = i;
        }
    }
    for (int32_t i = 0; i < rows; i++) {
        first = i == 0 || order[i].rank != order[i - 1].rank ? i : first;
        dealt->ranks += first == i;
        const bool placed = i - first < dealt->rows_per_rank;
        dealt->rank[order[i].place] = placed ? dealt->ranks - 1 : -1;
        dealt->index[order[i].place] = placed ? i - first : -1;
    }
    dealt->left_out = rows - dealt->ranks * dealt->rows_per_rank;
}

static ga_status follow_column(
    const ga_frame *frame, int32_t first, int32_t rows, int32_t ranks, ga_dealt *dealt, ga_error *error) {
    standing *order = calloc(ga_size(rows), sizeof *order);
    if (order == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to place %d rows", (int)rows);
    }
    for (int32_t i = 0; i < rows; i++) {
        const int32_t row = frame->row[first + i];
        order[i] = (standing){frame->table->rank[row], row, i};
    }
    deal_by_column(order, rows, dealt);
    free(order);
    if (ranks > 0 && dealt->ranks > ranks) {
        return GA_FAIL(error, GA_ERR_DATA,
            "the rank column has %d ranks in a batch, more than --ranks %d: leave --ranks out, or use --deal "
            "to "
            "deal rows anew",
            (int)dealt->ranks, (int)ranks);
    }
    return GA_OK;
}

ga_status ga_frame_deal(const ga_frame *frame, int32_t batch, int32_t ranks, bool deal, uint64_t seed,
    ga_dealt *dealt, ga_error *error) {
    const int32_t first = frame->batch_start[batch];
    const int32_t rows = frame->batch_start[batch + 1] - first;
    if (frame->table->rank != NULL && !deal) {
        return follow_column(frame, first, rows, ranks, dealt, error);
    }
    if (ranks < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "the table has no rank column: --ranks is needed");
    }
    int32_t *order = calloc(ga_size(rows), sizeof *order);
    if (order == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to place %d rows", (int)rows);
    }
    for (int32_t i = 0; i < rows; i++) {
        order[i] = i;
    }
    ga_random random = ga_random_make(seed, (uint64_t)batch, GA_STREAM_DEAL);
    ga_random_shuffle(&random, order, (uint32_t)rows);
    deal_by_chance(order, rows, ranks, dealt);
    free(order);
    return GA_OK;
}

ga_status ga_frame_layout(const ga_frame *frame, int32_t ranks, bool deal, int32_t *ranks_out,
    int32_t *rows_per_rank_out, ga_error *error) {
    const size_t count = ga_size(frame->count);
    ga_dealt dealt = {.rank = calloc(count, sizeof(int32_t)), .index = calloc(count, sizeof(int32_t))};
    ga_status status = dealt.rank == NULL || dealt.index == NULL
                           ? GA_FAIL(error, GA_ERR_MEMORY, "no memory to place %zu rows", count)
                           : GA_OK;
    int32_t most_ranks = 0, most_rows = 0;
    for (int32_t b = 0; b < frame->batch_count && status == GA_OK; b++) {
        status = ga_frame_deal(frame, b, ranks, deal, 0, &dealt, error);
        most_ranks = dealt.ranks > most_ranks ? dealt.ranks : most_ranks;
        most_rows = dealt.rows_per_rank > most_rows ? dealt.rows_per_rank : most_rows;
    }
    free(dealt.rank);
    free(dealt.index);
    if (status == GA_OK) {
        *ranks_out = most_ranks;
        *rows_per_rank_out = most_rows;
    }
    return status;
}
