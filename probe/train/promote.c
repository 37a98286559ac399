#include "probe/train/promote.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "probe/parts.h"
#include "probe/train/score.h"

/* What both are judged on; one block of memory, at candidate. */
typedef struct duel {
    size_t count;
    double *candidate, *current, *target; /* [count]; target NaN: the row does not judge */
    uint64_t *group;
    float *score, *level; /* scratch [count] */
} duel;

static ga_status duel_create(
    const ga_dataset *dataset, const ga_part *part, duel *duel_out, ga_error *error) {
    const size_t count = ga_size(part->count);
    double *block = calloc(count + 1, 3 * sizeof(double) + sizeof(uint64_t) + 2 * sizeof(float));
    if (block == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to compare probes on %zu rows", count);
    }
    duel made = {.count = count,
        .candidate = block,
        .current = block + count,
        .target = block + 2 * count,
        .group = (uint64_t *)(void *)(block + 3 * count)};
    made.score = (float *)(void *)(made.group + count);
    made.level = made.score + count;
    for (size_t i = 0; i < count; i++) {
        made.target[i] = (double)part->target[i];
        made.group[i] = dataset->group[part->rows[i]];
    }
    *duel_out = made;
    return GA_OK;
}

/* The order that a probe gives the part's rows: order_out [count]. */
static ga_status order_rows(ga_probe *probe, const ga_dataset *dataset, const ga_part *part,
    const duel *between, double *order_out, ga_error *error) {
    GA_TRY(ga_dataset_score(probe, dataset, part->rows, part->count, between->score, between->level, error));
    /* a slope of zero means that calibration found no order: then its ranks count for nothing */
    const bool orders = probe->info.calibration.slope > 0.0;
    for (size_t i = 0; i < between->count; i++) {
        order_out[i] = orders ? (double)between->score[i] : 0.0;
    }
    return GA_OK;
}

/* Where rows were pruned, only those kept by chance judge, if they make up enough groups. */
static ga_status choose_rows(
    const ga_dataset *dataset, const ga_part *part, duel *between, bool *audited_out, ga_error *error) {
    *audited_out = false;
    bool pruned = false;
    for (int64_t i = 0; i < dataset->rows && !pruned; i++) {
        pruned = !isfinite(dataset->reward[i]);
    }
    if (!pruned || dataset->audit == NULL) {
        return GA_OK;
    }
    double *target = malloc((between->count + 1) * sizeof *target);
    ga_within_group *found = malloc((between->count + 1) * sizeof *found);
    size_t groups = 0;
    ga_status status = GA_OK;
    if (target == NULL || found == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory to compare probes on %zu rows", between->count);
    }
    for (size_t i = 0; i < between->count && status == GA_OK; i++) {
        target[i] = dataset->audit[part->rows[i]] != 0 ? between->target[i] : (double)NAN;
    }
    if (status == GA_OK) {
        status = ga_within_groups(GA_WITHIN_SPEARMAN, between->candidate, target, between->group,
            between->count, found, &groups, error);
    }
    if (status == GA_OK && groups >= GA_PROMOTE_AUDITED_GROUPS_MIN) {
        memcpy(between->target, target, between->count * sizeof *target);
        *audited_out = true;
    }
    free(found);
    free(target);
    return status;
}

/* Could the current probe work where the candidate does? */
static bool same_place(const ga_probe_info *a, const ga_probe_info *b) {
    return ga_schema_equal(&a->schema, &b->schema) && strcmp(a->model, b->model) == 0 &&
           a->steps_total == b->steps_total && a->step_count == b->step_count &&
           memcmp(a->steps, b->steps, (size_t)a->step_count * sizeof a->steps[0]) == 0;
}

static void decide_alone(ga_promotion *promotion, const char *why) {
    promotion->promote = promotion->candidate > 0.0;
    snprintf(promotion->reason, sizeof promotion->reason,
        promotion->promote
            ? "promoted: %s, and the candidate orders %lld held-out groups with Spearman %.3f"
            : "kept out: %s, but the candidate does not order %lld held-out groups (Spearman %.3f)",
        why, (long long)promotion->groups, promotion->candidate);
}

static void decide_between(ga_promotion *promotion, double tolerance) {
    const ga_within *difference = &promotion->difference;
    promotion->promote = promotion->candidate > 0.0 && difference->low >= -tolerance;
    snprintf(promotion->reason, sizeof promotion->reason,
        "%s: on %lld held-out groups%s the candidate has Spearman %.3f, the probe in use %.3f; difference "
        "%+.3f (%+.3f to %+.3f), not below %.3f is asked for",
        promotion->promote ? "promoted" : "kept out", (long long)promotion->groups,
        promotion->audited_only ? " kept by chance" : "", promotion->candidate, promotion->current,
        difference->value, difference->low, difference->high, -tolerance);
}

static ga_status compare(ga_probe *candidate, ga_probe *current, const ga_dataset *dataset,
    const ga_part *part, const ga_promote_options *options, duel *between, ga_promotion *promotion,
    ga_error *error) {
    ga_within within;
    GA_TRY(order_rows(candidate, dataset, part, between, between->candidate, error));
    GA_TRY(choose_rows(dataset, part, between, &promotion->audited_only, error));
    GA_TRY(ga_within_estimate(GA_WITHIN_SPEARMAN, between->candidate, between->target, between->group,
        between->count, options->seed, 0, &within, error));
    promotion->candidate = within.value;
    promotion->groups = within.groups;
    if (current == NULL) {
        decide_alone(promotion, "there is no probe in use");
        return GA_OK;
    }
    if (!same_place(&candidate->info, &current->info)) {
        decide_alone(promotion, "the probe in use is for another model, step or set of features");
        return GA_OK;
    }
    GA_TRY(order_rows(current, dataset, part, between, between->current, error));
    GA_TRY(ga_within_compare(GA_WITHIN_SPEARMAN, between->candidate, between->current, between->target,
        between->group, between->count, options->seed, options->resamples, &promotion->difference, error));
    promotion->current = promotion->candidate - promotion->difference.value;
    decide_between(promotion, options->tolerance);
    return GA_OK;
}

static ga_status promote_on(ga_probe *candidate, ga_probe *current, const ga_dataset *dataset,
    const ga_part *part, const ga_promote_options *options, ga_promotion *promotion_out, ga_error *error) {
    ga_promotion promotion;
    memset(&promotion, 0, sizeof promotion);
    promotion.current = (double)NAN;
    promotion.difference = (ga_within){.value = NAN, .low = NAN, .high = NAN};
    duel between = {0};
    GA_TRY(duel_create(dataset, part, &between, error));
    const ga_status status = compare(candidate, current, dataset, part, options, &between, &promotion, error);
    free(between.candidate);
    if (status == GA_OK) {
        *promotion_out = promotion;
    }
    return status;
}

ga_status ga_promote(ga_probe *candidate, ga_probe *current, const ga_dataset *dataset,
    const ga_promote_options *options, ga_promotion *promotion_out, ga_error *error) {
    GA_TRY(ga_dataset_check(dataset, error));
    if (!ga_schema_equal(dataset->schema, &candidate->info.schema)) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "the dataset's features have another layout than the candidate's");
    }
    ga_split split;
    GA_TRY(ga_dataset_split(dataset, options->held_share, 1.0, &split, error));
    const ga_status status =
        promote_on(candidate, current, dataset, &split.report, options, promotion_out, error);
    ga_split_destroy(&split);
    return status;
}
