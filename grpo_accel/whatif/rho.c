/* How well a score orders the rows of a group. */
#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/whatif/replay.h"

enum { RHO_RESAMPLES = 1000, ROWS_OF_A_RANK_CORRELATION = 3 };

/* Columns by place of the frame. */
typedef struct columns {
    size_t count;
    uint64_t *group;
    double *score, *reward;
    double *statistic; /* [count] a group's correlation, for as many groups as there are */
    ga_within_group *found;
} columns;

static void release(columns *c) {
    free(c->group);
    free(c->score);
    free(c->reward);
    free(c->statistic);
    free(c->found);
}

static ga_status take(const ga_frame *frame, int32_t score, columns *c, ga_error *error) {
    c->count = ga_size(frame->count);
    c->group = calloc(c->count, sizeof *c->group);
    c->score = calloc(c->count, sizeof *c->score);
    c->reward = calloc(c->count, sizeof *c->reward);
    c->statistic = calloc(c->count, sizeof *c->statistic);
    c->found = calloc(c->count, sizeof *c->found);
    if (c->group == NULL || c->score == NULL || c->reward == NULL || c->statistic == NULL ||
        c->found == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the correlation of %d rows", (int)frame->count);
    }
    for (size_t i = 0; i < c->count; i++) {
        c->group[i] = (uint64_t)frame->group[i];
        c->score[i] = frame->table->score[score][frame->row[i]];
        c->reward[i] = frame->table->reward[frame->row[i]];
    }
    return GA_OK;
}

/* Spearman of two scored rows: they are in the right order or in the wrong one; NaN where rewards are equal,
 * or with another number of scored rows. */
static double order_of_two(const ga_frame *frame, const columns *c, int32_t group) {
    double score = 0, reward = 0;
    int32_t scored = 0;
    for (int32_t i = frame->group_start[group]; i < frame->group_start[group + 1]; i++) {
        if (isfinite(c->score[i])) {
            score = scored == 0 ? c->score[i] : c->score[i] - score;
            reward = scored == 0 ? c->reward[i] : c->reward[i] - reward;
            scored++;
        }
    }
    const bool pair = scored == ROWS_OF_A_RANK_CORRELATION - 1 && (reward > 0 || reward < 0);
    const double direction = score > 0 ? 1 : score < 0 ? -1 : 0;
    return !pair ? (double)NAN : reward > 0 ? direction : -direction;
}

static ga_status correlate(
    const ga_frame *frame, columns *c, uint64_t seed, ga_within *rho_out, ga_error *error) {
    size_t groups = 0;
    int64_t rows = 0;
    GA_TRY(ga_within_groups(
        GA_WITHIN_SPEARMAN, c->score, c->reward, c->group, c->count, c->found, &groups, error));
    for (size_t g = 0; g < groups; g++) {
        c->statistic[g] = c->found[g].value;
        rows += c->found[g].rows;
    }
    for (int32_t g = 0; g < frame->group_count; g++) {
        const double order = order_of_two(frame, c, g);
        if (isfinite(order)) {
            c->statistic[groups++] = order;
            rows += ROWS_OF_A_RANK_CORRELATION - 1;
        }
    }
    ga_within rho = {.value = (double)NAN};
    if (groups > 0) {
        GA_TRY(ga_bootstrap_mean(c->statistic, groups, seed, RHO_RESAMPLES, &rho, error));
    }
    if (groups < 2) { /* groups are what an interval is drawn over */
        rho.low = rho.high = (double)NAN;
    }
    rho.rows = rows;
    rho.groups = (int64_t)groups;
    *rho_out = rho;
    return GA_OK;
}

ga_status ga_replay_rho(
    const ga_frame *frame, int32_t score, uint64_t seed, ga_within *rho_out, ga_error *error) {
    columns c = {.count = 0};
    ga_status status = take(frame, score, &c, error);
    if (status == GA_OK) {
        status = correlate(frame, &c, seed, rho_out, error);
    }
    release(&c);
    return status;
}
