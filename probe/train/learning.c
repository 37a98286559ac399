#include "probe/train/learning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"

/* A training prompt and its place in the order in which prompts are taken. */
typedef struct ticket {
    uint64_t place, prompt;
} ticket;

static int by_place(const void *a, const void *b) {
    const ticket *x = a;
    const ticket *y = b;
    if (x->place != y->place) {
        return x->place < y->place ? -1 : 1;
    }
    return x->prompt < y->prompt ? -1 : x->prompt > y->prompt ? 1 : 0;
}

static int by_prompt(const void *a, const void *b) {
    const uint64_t x = ((const ticket *)a)->prompt, y = ((const ticket *)b)->prompt;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* The training part's prompts, each once, in the order in which they are taken; returns how many. tickets:
 * [groups]. */
static size_t draw_tickets(const ga_dataset *dataset, const ga_part *train, uint64_t seed, ticket *tickets) {
    const size_t groups = ga_size(train->grouped.groups);
    size_t count = 0;
    for (size_t g = 0; g < groups; g++) {
        const uint64_t prompt = dataset->prompt[train->rows[train->begin[g]]];
        tickets[g] = (ticket){.prompt = prompt};
    }
    qsort(tickets, groups, sizeof *tickets, by_prompt);
    for (size_t g = 0; g < groups; g++) {
        if (count == 0 || tickets[count - 1].prompt != tickets[g].prompt) {
            const uint64_t prompt = tickets[g].prompt;
            tickets[count++] = (ticket){
                .prompt = prompt, .place = ga_digest_join(seed, ga_digest64(&prompt, sizeof prompt))};
        }
    }
    qsort(tickets, count, sizeof *tickets, by_place);
    return count;
}

/* Rewards without those of training prompts that are not taken; counts what is left to learn from. */
static void mask_rewards(const ga_dataset *dataset, const ga_part *train, ticket *tickets, size_t taken,
    float *reward, ga_learning_point *point) {
    qsort(tickets, taken, sizeof *tickets, by_prompt);
    memcpy(reward, dataset->reward, ga_size(dataset->rows) * sizeof *reward);
    for (int32_t g = 0; g < train->grouped.groups; g++) {
        const int64_t first = train->begin[g], end = train->begin[g + 1];
        const ticket wanted = {.prompt = dataset->prompt[train->rows[first]]};
        const bool in = bsearch(&wanted, tickets, taken, sizeof *tickets, by_prompt) != NULL;
        point->groups += in ? 1 : 0;
        point->rows += in ? end - first : 0;
        for (int64_t i = first; i < end && !in; i++) {
            reward[train->rows[i]] = NAN;
        }
    }
}

static ga_status train_once(const ga_dataset *dataset, const ga_train_options *options,
    const ga_train_callbacks *callbacks, const ga_compute *compute, ga_learning_point *point,
    ga_error *error) {
    ga_probe *probe = NULL;
    ga_train_report report;
    GA_TRY(ga_train(dataset, options, callbacks, compute, &probe, &report, error));
    point->chosen = report.chosen;
    point->residual = sqrt(ga_probe_get_info(probe)->calibration.sigma_r2);
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        point->spearman[kind] = report.candidates[kind].report;
    }
    ga_probe_close(&probe);
    return GA_OK;
}

/* `split` is that of the whole dataset. Prompts are held out newest first until there are so many groups, so
 * a share of groups that ends half a group before their number holds out the same ones. */
static ga_status measure(const ga_dataset *dataset, const ga_train_options *options,
    const ga_train_callbacks *callbacks, const ga_compute *compute, const ga_split *split,
    ga_learning_point *point, ga_error *error) {
    const ga_part *train = &split->train;
    ticket *tickets = calloc(ga_size(train->grouped.groups) + 1, sizeof *tickets);
    float *reward = calloc(ga_size(dataset->rows) + 1, sizeof *reward);
    ga_status status = GA_OK;
    if (tickets == NULL || reward == NULL) {
        status =
            GA_FAIL(error, GA_ERR_MEMORY, "no memory to choose among %lld rows", (long long)dataset->rows);
    } else {
        const size_t prompts = draw_tickets(dataset, train, options->seed, tickets);
        const size_t taken = (size_t)ceil(point->share * (double)prompts - 1e-9);
        mask_rewards(dataset, train, tickets, taken, reward, point);
        ga_dataset part = *dataset;
        part.reward = reward;
        part.target_count = 0;
        part.targets = NULL;
        ga_train_options smaller = *options;
        const double held = (double)split->held.grouped.groups;
        smaller.held_share = (held - 0.5) / (held + (double)point->groups);
        status = train_once(&part, &smaller, callbacks, compute, point, error);
    }
    free(reward);
    free(tickets);
    return status;
}

ga_status ga_learning_measure(const ga_dataset *dataset, const ga_train_options *options,
    const ga_train_callbacks *callbacks, const ga_compute *compute, double share,
    ga_learning_point *point_out, ga_error *error) {
    if (!(share > 0.0 && share <= 1.0)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a learning curve takes shares in (0, 1], not %g", share);
    }
    ga_split split;
    GA_TRY(ga_dataset_split(dataset, options->held_share, options->weight_max, &split, error));
    ga_learning_point point;
    memset(&point, 0, sizeof point);
    point.share = share;
    const ga_status status = measure(dataset, options, callbacks, compute, &split, &point, error);
    ga_split_destroy(&split);
    if (status == GA_OK) {
        *point_out = point;
    }
    return status;
}
