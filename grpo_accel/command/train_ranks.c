#include "grpo_accel/command/train_ranks.h"

#include <stdio.h>

#include "dist/reduce.h"

/* "; no answer from rank 1, 3" */
static void name_late(const ga_late *late, char *text, size_t bytes) {
    size_t used = (size_t)snprintf(text, bytes, "; no answer from %srank", late->exact ? "" : "some of ");
    for (int32_t i = 0; i < late->count && i < GA_LATE_RANKS_MAX && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s %d", i > 0 ? "," : "", late->ranks[i]);
    }
}

static ga_status sum(void *user, double *values, int64_t count, ga_error *error) {
    ga_train_ranks *ranks = user;
    ga_error inner;
    ga_error_clear(&inner);
    ga_late late = {0};
    const ga_status status =
        ga_reduce_sum_f64(ranks->world, values, (size_t)count, ranks->timeout_seconds, &late, &inner);
    if (status == GA_OK) {
        return GA_OK;
    }
    char who[160] = "";
    if (late.count > 0) {
        name_late(&late, who, sizeof who);
    }
    return GA_FAIL(
        error, status, "rank %d of the training: %.250s%s", ga_world_rank(ranks->world), inner.message, who);
}

ga_status ga_train_ranks_begin(double timeout_seconds, ga_train_ranks *ranks_out, ga_error *error) {
    ga_train_ranks ranks = {.timeout_seconds = timeout_seconds};
    const ga_world_options options = {.transport = GA_TRANSPORT_AUTO};
    GA_TRY(ga_world_open(&options, &ranks.world, error));
    *ranks_out = ranks;
    return GA_OK;
}

ga_reduce ga_train_ranks_reduce(ga_train_ranks *ranks) {
    const int32_t size = ga_world_size(ranks->world);
    return (ga_reduce){
        .sum = size > 1 ? sum : NULL, .user = ranks, .rank = ga_world_rank(ranks->world), .ranks = size};
}

ga_status ga_train_ranks_agree(ga_train_ranks *ranks, uint64_t value, const char *what, ga_error *error) {
    bool agree = true;
    if (ga_world_size(ranks->world) > 1) {
        GA_TRY(ga_world_agree(ranks->world, value, ranks->timeout_seconds, &agree, NULL, error));
    }
    return agree ? GA_OK : GA_FAIL(error, GA_ERR_MISMATCH, "train: the ranks do not have the same %s", what);
}

ga_status ga_train_ranks_end(ga_train_ranks *ranks, bool success, ga_error *error) {
    if (success) {
        return ga_world_close(&ranks->world, ranks->timeout_seconds, error);
    }
    ga_world_abandon(&ranks->world);
    return GA_OK;
}
