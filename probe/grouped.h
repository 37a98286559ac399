/*
 * Rows that belong to prompt groups, as fits and losses take them, and sums over ranks.
 */
#ifndef GA_PROBE_GROUPED_H
#define GA_PROBE_GROUPED_H

#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Rows sorted by group: group g has rows begin[g] … begin[g + 1] - 1. A view. */
typedef struct ga_grouped {
    int32_t groups;
    const int64_t *begin; /* [groups + 1], begin[0] = 0 */
    const float *target;  /* [rows] reward */
    const float *weight;  /* [rows] > 0, mean about 1 */
    const int32_t *fold;  /* [groups] 0 … GA_FOLDS - 1, the same for the same prompt; only fits need it */
} ga_grouped;

#define GA_FOLDS 4

static inline int64_t ga_grouped_rows(const ga_grouped *grouped) {
    return grouped->begin[grouped->groups];
}

/*
 * Training over several processes: each holds whole prompts of its own, `sum` adds arrays over all of them,
 * in the same order everywhere, and every process makes the same calls. Without `sum` there is one process.
 */
typedef struct ga_reduce {
    ga_status (*sum)(void *user, double *values, int64_t count, ga_error *error); /* collective */
    void *user;
    int32_t rank;
    int32_t ranks; /* 0 counts as 1 */
} ga_reduce;

/* Collective when reduce->sum is set; NULL is one process. */
static inline ga_status ga_reduce_sum(
    const ga_reduce *reduce, double *values, int64_t count, ga_error *error) {
    return reduce == NULL || reduce->sum == NULL ? GA_OK : reduce->sum(reduce->user, values, count, error);
}

#endif
