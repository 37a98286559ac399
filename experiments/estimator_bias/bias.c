/*
 * The bias of every estimator of advantages, measured on a policy whose gradient is known.
 *
 *     estimator_bias UPDATES SEED GROUPS GROUP_SIZE RANKS KEEP_PER_RANK RHO TAU AUDIT CLIP POLICY…
 *
 * Writes one JSON document: a row for each policy × standard deviation × weights × estimator × option. A
 * row's rollout has an action a that the probe sees and one, b, that it doesn't, both N(0, 1); its reward is
 * level + spread·(ρ a + √(1 − ρ²) b − SKEW·(a² + b² − 2)), group levels and spreads drawn anew, so that the
 * score function is (a, b) and the gradient of the mean reward spread·(ρ, √(1 − ρ²)). The probe knows the
 * part of a, off by an offset of each group. Who is kept is what room select decides.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/select/plan.h"

static const double SKEW = 0.15;
enum { ESTIMATORS = 4, STDS = 3, WEIGHTS = 3, COMBINATIONS_MAX = 256 };

static const char *const estimator_names[ESTIMATORS] = {"shrunk", "difference", "survivors", "predicted"};
static const char *const std_names[STDS] = {"global", "group", "fixed"};
static const char *const weight_names[WEIGHTS] = {"one", "inverse", "inverse, no clip"};

typedef struct setting {
    int32_t updates, groups, size, ranks, keep_per_rank, rows;
    uint64_t seed;
    double rho, tau, audit, clip;
} setting;

/* Rollouts of one update, dealt to the ranks in turn. */
typedef struct world {
    ga_outcome *full; /* [rows] everything kept */
    ga_outcome *kept; /* [rows] as planned */
    ga_candidate *candidates;
    double *score; /* [rows, 2] */
    double *advantage, *reference;
    double gradient[2]; /* of the mean reward */
} world;

/* A way to compute advantages, and what came of it. */
typedef struct combination {
    int estimator, std_kind, weights;
    bool leave_one_out, prefix_credit;
    double sum[2], square, reference_sum[2], reference_square; /* gradients */
    double difference[2], difference_square[3];                /* from the reference: aa, bb, ab */
    double truth_difference[2], truth_square[3];
} combination;

static void draw_group(const setting *s, ga_random *random, int32_t g, world *w) {
    const double level = 0.5 * ga_random_normal(random);
    const double spread = exp(0.5 * ga_random_normal(random));
    const double offset = s->tau * ga_random_normal(random);
    const double unseen = sqrt(1 - s->rho * s->rho);
    w->gradient[0] += spread * s->rho / s->groups;
    w->gradient[1] += spread * unseen / s->groups;
    for (int32_t k = 0; k < s->size; k++) {
        const int32_t i = k * s->groups + g;
        const double a = ga_random_normal(random), b = ga_random_normal(random);
        const double seen_part = s->rho * a - SKEW * (a * a - 1);
        w->score[2 * i] = a;
        w->score[2 * i + 1] = b;
        w->full[i] = (ga_outcome){.group = (uint64_t)g,
            .reward = level + spread * (seen_part + unseen * b - SKEW * (b * b - 1)),
            .inclusion = 1,
            .mean = (float)(level + offset + spread * seen_part),
            .variance = (float)(spread * spread * (unseen * unseen + 2 * SKEW * SKEW)),
            .rank = i % s->ranks,
            .index = i / s->ranks,
            .kept = 1};
    }
}

static void draw_world(const setting *s, ga_random *random, world *w) {
    w->gradient[0] = w->gradient[1] = 0;
    for (int32_t g = 0; g < s->groups; g++) {
        draw_group(s, random, g, w);
    }
    for (int32_t i = 0; i < s->rows; i++) {
        const ga_outcome *row = &w->full[i];
        w->candidates[i] = (ga_candidate){row->group, row->mean, row->variance, row->rank, row->index};
    }
}

static void require(ga_status status, const ga_error *error) {
    if (status != GA_OK) {
        (void)fprintf(stderr, "estimator_bias: %s\n", error->message);
        exit(1);
    }
}

static void plan(const setting *s, ga_policy_kind policy, ga_std_kind std_kind, uint64_t batch, world *w,
    ga_arena *arena) {
    const ga_plan_options options = {.policy = policy,
        .ranks = s->ranks,
        .keep_per_rank = s->keep_per_rank,
        .min_group = std_kind == GA_STD_GLOBAL ? 0 : 2,
        .min_inclusion = 0.05,
        .audit_share = s->audit,
        .seed = s->seed,
        .batch = batch,
        .std_kind = std_kind,
        .threshold = {GA_THRESHOLD_QUANTILE, 1 - (double)s->keep_per_rank * s->ranks / s->rows}};
    ga_error error;
    ga_error_clear(&error);
    ga_plan made;
    require(ga_plan_make(&options, w->candidates, s->rows, arena, &made, &error), &error);
    for (int32_t i = 0; i < s->rows; i++) {
        w->kept[i] = w->full[i];
        w->kept[i].kept = made.kept[i];
        w->kept[i].inclusion = made.inclusion[i];
        w->kept[i].reward = made.kept[i] ? w->full[i].reward : (double)NAN;
    }
}

static ga_advantage_options options_of(const setting *s, const combination *c) {
    const double residual = exp(2 * 0.25) * (1 - s->rho * s->rho + 2 * SKEW * SKEW); /* E spread² = e^½ */
    return (ga_advantage_options){.estimator = (ga_estimator)c->estimator,
        .weighting = c->weights == 0 ? GA_WEIGHT_ONE : GA_WEIGHT_INVERSE,
        .clip = c->weights == 2 ? (double)INFINITY : s->clip,
        .std_kind = c->std_kind == 1 ? GA_STD_GROUP : GA_STD_GLOBAL,
        .epsilon = 1e-4,
        .tau2 = s->tau * s->tau,
        .sigma_r2 = residual,
        .fixed_sigma = c->std_kind == 2 ? 1 : 0,
        .leave_one_out = c->leave_one_out,
        .prefix_credit = c->prefix_credit};
}

/* The host's mean over rows whose advantage isn't 0; under prefix credit only the first action trains. */
static void gradient_of(
    const setting *s, const world *w, const double *advantage, bool prefix, double *gradient) {
    int32_t trained = 0;
    gradient[0] = gradient[1] = 0;
    for (int32_t i = 0; i < s->rows; i++) {
        trained += advantage[i] != 0;
        gradient[0] += advantage[i] * w->score[2 * i];
        gradient[1] += prefix ? 0 : advantage[i] * w->score[2 * i + 1];
    }
    gradient[0] /= trained > 0 ? trained : 1;
    gradient[1] /= trained > 0 ? trained : 1;
}

static void add_difference(const double *ours, const double *theirs, double *sum, double *square) {
    const double a = ours[0] - theirs[0], b = ours[1] - theirs[1];
    sum[0] += a;
    sum[1] += b;
    square[0] += a * a;
    square[1] += b * b;
    square[2] += a * b;
}

static void measure(const setting *s, combination *c, world *w, ga_arena *arena) {
    double ours[2], reference[2];
    ga_advantage_options options = options_of(s, c);
    ga_error error;
    ga_error_clear(&error);
    require(ga_advantage_compute(&options, w->kept, s->rows, arena, w->advantage, NULL, &error), &error);
    options.prefix_credit = false;
    require(ga_advantage_compute(&options, w->full, s->rows, arena, w->reference, NULL, &error), &error);
    gradient_of(s, w, w->advantage, c->prefix_credit, ours);
    gradient_of(s, w, w->reference, c->prefix_credit, reference);
    const double truth[2] = {w->gradient[0], c->prefix_credit ? 0 : w->gradient[1]};
    for (int k = 0; k < 2; k++) {
        c->sum[k] += ours[k];
        c->reference_sum[k] += reference[k];
        c->square += ours[k] * ours[k];
        c->reference_square += reference[k] * reference[k];
    }
    add_difference(ours, reference, c->difference, c->difference_square);
    add_difference(ours, truth, c->truth_difference, c->truth_square);
}

static int list_combinations(combination *list) {
    int count = 0;
    for (int std_kind = 0; std_kind < STDS; std_kind++) {
        for (int estimator = 0; estimator < ESTIMATORS; estimator++) {
            for (int leave_one_out = 0; leave_one_out < 2; leave_one_out++) {
                for (int weights = 0; weights < WEIGHTS; weights++) {
                    list[count++] = (combination){.estimator = estimator,
                        .std_kind = std_kind,
                        .weights = weights,
                        .leave_one_out = leave_one_out != 0};
                }
                list[count] = list[count - 1];
                list[count++].prefix_credit = true;
            }
        }
    }
    return count;
}

/* Mean of a difference along the mean gradient, in percent of it, with its standard error; and across it. */
static void print_bias(
    const char *name, const double *mean, const double *sum, const double *square, double n) {
    const double length = hypot(mean[0], mean[1]);
    const double u[2] = {mean[0] / length, mean[1] / length};
    const double along = (u[0] * sum[0] + u[1] * sum[1]) / n;
    const double across = (u[0] * sum[1] - u[1] * sum[0]) / n;
    const double second =
        (u[0] * u[0] * square[0] + u[1] * u[1] * square[1] + 2 * u[0] * u[1] * square[2]) / n;
    printf(", \"%s\": {\"percent\": %.2f, \"standard_error\": %.2f, \"across_percent\": %.2f}", name,
        100 * along / length, 100 * sqrt(fmax(0, second - along * along) / n) / length,
        100 * across / length);
}

static void print_combination(const char *policy, double audit, const combination *c, double n, bool first) {
    const double reference[2] = {c->reference_sum[0] / n, c->reference_sum[1] / n};
    const double mean[2] = {c->sum[0] / n, c->sum[1] / n};
    const double variance = c->square / n - mean[0] * mean[0] - mean[1] * mean[1];
    const double reference_variance =
        c->reference_square / n - reference[0] * reference[0] - reference[1] * reference[1];
    printf(
        "%s{\"policy\": \"%s\", \"audit\": %g, \"std\": \"%s\", \"weights\": \"%s\", \"estimator\": \"%s\", ",
        first ? "" : ",\n", policy, audit, std_names[c->std_kind], weight_names[c->weights],
        estimator_names[c->estimator]);
    printf("\"leave_one_out\": %s, \"prefix_credit\": %s", c->leave_one_out ? "true" : "false",
        c->prefix_credit ? "true" : "false");
    print_bias("bias", reference, c->difference, c->difference_square, n);
    if (c->std_kind == 2) {
        const double truth[2] = {
            (c->sum[0] - c->truth_difference[0]) / n, (c->sum[1] - c->truth_difference[1]) / n};
        print_bias("bias_true", truth, c->truth_difference, c->truth_square, n);
    }
    printf(", \"noise\": %.3f}", sqrt(variance / reference_variance));
}

static void run_policy(const setting *s, const char *name, world *w, bool first) {
    combination list[COMBINATIONS_MAX];
    memset(list, 0, sizeof list);
    const int count = list_combinations(list);
    ga_policy_kind policy = GA_POLICY_RANDOM;
    ga_error error;
    ga_error_clear(&error);
    require(ga_policy_parse(name, &policy, &error), &error);
    ga_arena *arena = ga_arena_create(0);
    ga_random random = ga_random_make(s->seed, 0, GA_STREAM_TEST); /* the same rollouts for every policy */
    for (int32_t update = 0; update < s->updates; update++) {
        draw_world(s, &random, w);
        for (int plan_kind = 0; plan_kind < 2; plan_kind++) {
            plan(s, policy, (ga_std_kind)plan_kind, (uint64_t)update, w, arena);
            for (int i = 0; i < count; i++) {
                if ((list[i].std_kind == 1) == (plan_kind == 1)) {
                    measure(s, &list[i], w, arena);
                }
            }
        }
        ga_arena_reset(arena);
    }
    for (int i = 0; i < count; i++) {
        print_combination(name, s->audit, &list[i], s->updates, first && i == 0);
    }
    ga_arena_destroy(&arena);
}

static void *take(size_t count, size_t bytes) {
    void *memory = calloc(count, bytes);
    if (memory == NULL) {
        exit(1);
    }
    return memory;
}

int main(int argument_count, char **arguments) {
    if (argument_count < 12) {
        (void)fprintf(stderr,
            "usage: estimator_bias UPDATES SEED GROUPS GROUP_SIZE RANKS KEEP_PER_RANK RHO TAU "
            "AUDIT CLIP POLICY...\n");
        return 2;
    }
    setting s = {.updates = atoi(arguments[1]),
        .seed = strtoull(arguments[2], NULL, 10),
        .groups = atoi(arguments[3]),
        .size = atoi(arguments[4]),
        .ranks = atoi(arguments[5]),
        .keep_per_rank = atoi(arguments[6]),
        .rho = atof(arguments[7]),
        .tau = atof(arguments[8]),
        .audit = atof(arguments[9]),
        .clip = atof(arguments[10])};
    s.rows = s.groups * s.size;
    const size_t rows = ga_size(s.rows);
    world w = {.full = take(rows, sizeof *w.full),
        .kept = take(rows, sizeof *w.kept),
        .candidates = take(rows, sizeof *w.candidates),
        .score = take(2 * rows, sizeof *w.score),
        .advantage = take(rows, sizeof *w.advantage),
        .reference = take(rows, sizeof *w.reference)};
    printf("[");
    for (int i = 11; i < argument_count; i++) {
        run_policy(&s, arguments[i], &w, i == 11);
    }
    printf("]\n");
    free(w.full);
    free(w.kept);
    free(w.candidates);
    free(w.score);
    free(w.advantage);
    free(w.reference);
    return 0;
}
