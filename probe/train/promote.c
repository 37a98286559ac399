#include "probe/train/promote.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/parts.h"
#include "probe/train/evaluate.h"

/* Spearman within groups of a probe on a part. */
static ga_status judge(ga_probe *probe, const ga_dataset *dataset, const ga_part *part, uint64_t seed,
    ga_within *within_out, ga_error *error) {
    float *score = malloc((2 * (size_t)part->count + 1) * sizeof *score);
    if (score == NULL) {
        return GA_FAIL(
            error, GA_ERR_MEMORY, "no memory to compare probes on %lld rows", (long long)part->count);
    }
    const ga_probe_rows rows = {
        .features = dataset->features, .rows = part->rows, .count = part->count, .sigma = dataset->sigma};
    ga_status status = ga_probe_score_rows(probe, &rows, score, score + part->count, error);
    /* a slope of zero means that calibration found no order: then its ranks count for nothing */
    for (int64_t i = 0; i < part->count && probe->info.calibration.slope <= 0.0; i++) {
        score[i] = 0.0f;
    }
    if (status == GA_OK) {
        status = ga_evaluate_part(GA_WITHIN_SPEARMAN, dataset, part, score, seed, 0, NULL, within_out, error);
    }
    free(score);
    return status;
}

/* Could the current probe work where the candidate does? */
static bool same_place(const ga_probe_info *a, const ga_probe_info *b) {
    return ga_schema_equal(&a->schema, &b->schema) && strcmp(a->model, b->model) == 0 &&
           a->steps_total == b->steps_total && a->step_count == b->step_count &&
           memcmp(a->steps, b->steps, (size_t)a->step_count * sizeof a->steps[0]) == 0;
}

static void decide_alone(ga_promotion *promotion, const char *why) {
    promotion->current = NAN;
    promotion->promote = promotion->candidate > 0.0;
    snprintf(promotion->reason, sizeof promotion->reason,
        promotion->promote
            ? "promoted: %s, and the candidate orders %lld held-out groups with Spearman %.3f"
            : "kept out: %s, but the candidate does not order %lld held-out groups (Spearman %.3f)",
        why, (long long)promotion->groups, promotion->candidate);
}

static void decide_between(ga_promotion *promotion, double tolerance) {
    promotion->promote = promotion->candidate > 0.0 && promotion->candidate >= promotion->current - tolerance;
    snprintf(promotion->reason, sizeof promotion->reason,
        "%s: on the %lld newest held-out groups the candidate has Spearman %.3f, the probe in use %.3f "
        "(tolerance %.3f)",
        promotion->promote ? "promoted" : "kept out", (long long)promotion->groups, promotion->candidate,
        promotion->current, tolerance);
}

static ga_status compare(ga_probe *candidate, ga_probe *current, const ga_dataset *dataset,
    const ga_part *part, const ga_promote_options *options, ga_promotion *promotion, ga_error *error) {
    ga_within within;
    GA_TRY(judge(candidate, dataset, part, options->seed, &within, error));
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
    GA_TRY(judge(current, dataset, part, options->seed, &within, error));
    promotion->current = within.value;
    decide_between(promotion, options->tolerance);
    return GA_OK;
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
    ga_promotion promotion;
    memset(&promotion, 0, sizeof promotion);
    const ga_status status = compare(candidate, current, dataset, &split.report, options, &promotion, error);
    ga_split_destroy(&split);
    if (status == GA_OK) {
        *promotion_out = promotion;
    }
    return status;
}
