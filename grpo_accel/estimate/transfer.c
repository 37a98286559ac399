#include "grpo_accel/estimate/transfer.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/estimate/offsets.h"

/* A slope from fewer degrees of freedom inside groups says nothing. */
static const double FREEDOM_MIN = 8;

typedef struct pair {
    uint64_t group;
    double mean;
    double reward;
} pair;

typedef struct moments {
    double freedom;
    double square;  /* Σ (m − m̄_g)² */
    double product; /* Σ (m − m̄_g)(r − r̄_g) */
    double mean_sum, reward_sum;
} moments;

static int compare_pairs(const void *left, const void *right) {
    const pair *a = left;
    const pair *b = right;
    if (a->group != b->group) {
        return a->group < b->group ? -1 : 1;
    }
    if (a->mean < b->mean || a->mean > b->mean) {
        return a->mean < b->mean ? -1 : 1;
    }
    return (a->reward > b->reward) - (a->reward < b->reward);
}

/* Kept rows with a reward and a prediction, sorted; returns how many. */
static int32_t collect_pairs(const ga_outcome *outcomes, int32_t count, pair *pairs) {
    int32_t used = 0;
    for (int32_t i = 0; i < count; i++) {
        const ga_outcome *outcome = &outcomes[i];
        if (outcome->kept && isfinite(outcome->reward) && isfinite(outcome->mean)) {
            pairs[used++] = (pair){outcome->group, (double)outcome->mean, outcome->reward};
        }
    }
    qsort(pairs, ga_size(used), sizeof *pairs, compare_pairs);
    return used;
}

static void add_group(moments *m, const pair *pairs, int32_t n) {
    double mean = 0, reward = 0;
    for (int32_t i = 0; i < n; i++) {
        mean += pairs[i].mean / n;
        reward += pairs[i].reward / n;
    }
    for (int32_t i = 0; i < n; i++) {
        m->square += (pairs[i].mean - mean) * (pairs[i].mean - mean);
        m->product += (pairs[i].mean - mean) * (pairs[i].reward - reward);
    }
    m->freedom += n - 1;
    m->mean_sum += n * mean;
    m->reward_sum += n * reward;
}

static ga_transfer regress(const pair *pairs, int32_t used) {
    moments m = {0};
    int32_t first = 0;
    for (int32_t i = 1; i <= used; i++) {
        if (i == used || pairs[i].group != pairs[first].group) {
            add_group(&m, pairs + first, i - first);
            first = i;
        }
    }
    ga_transfer transfer = {.tau2 = (double)NAN, .sigma_r2 = (double)NAN};
    transfer.known = m.freedom >= FREEDOM_MIN && m.square > 0;
    if (transfer.known) {
        transfer.slope = m.product / m.square;
        transfer.level = (m.reward_sum - transfer.slope * m.mean_sum) / used;
    }
    return transfer;
}

static void replace_predictions(const ga_transfer *transfer, ga_outcome *outcomes, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        const double mean = transfer->level + transfer->slope * (double)outcomes[i].mean;
        outcomes[i].mean = transfer->known ? (float)mean : NAN;
    }
}

/* Residual variance: the update's own, or what the slope makes of the predictions' (pooled over few groups).
 */
static void replace_variances(const ga_transfer *transfer, ga_outcome *outcomes, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        const double scaled = transfer->slope * transfer->slope * (double)outcomes[i].variance;
        outcomes[i].variance = (float)(isnan(transfer->sigma_r2) ? scaled : transfer->sigma_r2);
    }
}

ga_status ga_transfer_predictions(
    ga_outcome *outcomes, int32_t count, ga_arena *arena, ga_transfer *transfer_out, ga_error *error) {
    if (arena == NULL || transfer_out == NULL || count < 0 || (count > 0 && outcomes == NULL)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "predictions of %d rows: an argument is missing", (int)count);
    }
    pair *pairs = ga_arena_take(arena, ga_size(count) + 1, sizeof *pairs);
    ga_outcome *moved = ga_arena_take(arena, ga_size(count) + 1, sizeof *moved);
    if (pairs == NULL || moved == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the predictions of %d rows", (int)count);
    }
    ga_transfer transfer = regress(pairs, collect_pairs(outcomes, count, pairs));
    for (int32_t i = 0; i < count; i++) {
        moved[i] = outcomes[i];
    }
    replace_predictions(&transfer, moved, count);
    ga_offsets offsets = ga_offsets_make(0);
    GA_TRY(ga_offsets_add(&offsets, moved, count, arena, error));
    (void)ga_offsets_estimate(&offsets, &transfer.tau2, &transfer.sigma_r2);
    replace_variances(&transfer, moved, count);
    for (int32_t i = 0; i < count; i++) {
        outcomes[i] = moved[i];
    }
    *transfer_out = transfer;
    return GA_OK;
}
