#include "grpo_accel/whatif/synthetic.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/estimate/energy.h"

static const double PI = 3.14159265358979323846;
static const double RHO_MAX = 0.9999;
static const double SKEW_MAX = 1; /* beyond it one row is the group's whole spread */
enum { BISECTIONS = 60, NODES = 41 };

/* Streams of a group: 0 for all that a world of one signal takes, k for the k-th score before the last. */
static ga_random group_random(uint64_t seed, int64_t group, int32_t stream) {
    return ga_random_make(seed, (uint64_t)group + ((uint64_t)stream << 32), GA_STREAM_WORLD);
}

double ga_copula_spearman(double rho, int32_t n) {
    if (n <= 2) {
        return 6 / PI * asin(rho / 2);
    }
    return 6 / (PI * (n + 1)) * (asin(rho) + (n - 2) * asin(rho / 2));
}

double ga_copula_rho(double spearman, int32_t n) {
    double low = -1, high = 1;
    for (int i = 0; i < BISECTIONS; i++) {
        const double middle = (low + high) / 2;
        if (ga_copula_spearman(middle, n) < spearman) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return (low + high) / 2;
}

/* Mean Spearman over groups whose atanh ρ is normal around z; equal steps of probability. */
static double mean_spearman(double z, double spread, int32_t n) {
    double sum = 0;
    for (int i = 0; i < NODES; i++) {
        const double quantile = ga_normal_quantile((i + 0.5) / NODES);
        sum += ga_copula_spearman(tanh(z + spread * quantile), n);
    }
    return sum / NODES;
}

static double centre_of(const ga_synthetic_signal *signal, int32_t n) {
    double low = -6, high = 6;
    for (int i = 0; i < BISECTIONS; i++) {
        const double middle = (low + high) / 2;
        if (mean_spearman(middle, signal->rho_spread, n) < signal->spearman) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return (low + high) / 2;
}

/* h(x; k) of the header. */
static double shaped(double x, double k) {
    if (!(k > 1e-6)) {
        return x;
    }
    const double grown = exp(k * k);
    return (sqrt(grown) - exp(-k * x)) / sqrt(grown * (grown - 1));
}

/* A normal number that correlates by `link` with the normal number `other`. */
static double linked(ga_random *random, double other, double link) {
    return link * other + sqrt(fmax(0, 1 - link * link)) * ga_random_normal(random);
}

/* What all rows of a group have in common. */
typedef struct group {
    double mean, sd, skew, threshold;
    double rho[GA_WHATIF_SCORES_MAX], score_mean[GA_WHATIF_SCORES_MAX], score_sd[GA_WHATIF_SCORES_MAX];
} group;

static group draw_group(const ga_synthetic *o, const double *centres, ga_random *random) {
    group g = {0};
    const double z = ga_random_normal(random), tail = o->sd_tail;
    const double spread =
        (z - tail * (z * z - 1) / sqrt(2)) / sqrt(1 + tail * tail); /* log σ_g, standardised */
    g.sd = exp(o->sd_spread * spread);
    g.mean = o->mean_spread * linked(random, z, o->mean_link);
    g.skew = fmin(SKEW_MAX, o->skew * exp(o->skew_spread * linked(random, z, o->skew_link)));
    const double level = ga_normal_quantile(o->success) * sqrt(1 + o->success_spread * o->success_spread);
    g.threshold = -(level + o->success_spread * ga_random_normal(random));
    const double rho_noise = ga_random_normal(random), offset = ga_random_normal(random);
    const double sd_noise =
        ga_random_normal(random); /* one for all decisions: a score stays as wrong as it was */
    for (int32_t k = 0; k < o->signal_count; k++) {
        const ga_synthetic_signal *s = &o->signal[k];
        const double linked_rho = s->rho_link * z + sqrt(fmax(0, 1 - s->rho_link * s->rho_link)) * rho_noise;
        g.rho[k] = fmin(RHO_MAX, fmax(-RHO_MAX, tanh(centres[k] + s->rho_spread * linked_rho)));
        g.score_mean[k] = g.mean + s->offset * offset;
        g.score_sd[k] = exp(o->sd_spread * s->sd_keep * spread + s->sd_noise * sd_noise);
    }
    return g;
}

static double reward_of(const ga_synthetic *o, const group *g, double x) {
    switch (o->shape) {
    case GA_SHAPE_BINARY: return x > g->threshold ? 1 : 0;
    case GA_SHAPE_SKEWED: return g->mean + g->sd * shaped(x, g->skew);
    case GA_SHAPE_GAUSSIAN:
    case GA_SHAPE_COUNT: break;
    }
    return g->mean + g->sd * x;
}

/* Of binary rewards the score is a probability that it knows little of: its latent, less the threshold. */
static double score_of(const ga_synthetic *o, const group *g, int32_t stage, double y) {
    if (o->shape == GA_SHAPE_BINARY) {
        return y - g->threshold + o->signal[stage].offset * g->score_mean[stage];
    }
    const double gain = o->signal[stage].skew_gain > 0 ? o->signal[stage].skew_gain : 1;
    const bool skewed = o->shape == GA_SHAPE_SKEWED;
    const double shape = skewed ? shaped(y, fmin(SKEW_MAX, gain * g->skew)) : y;
    return g->score_mean[stage] + g->score_sd[stage] * shape;
}

/* random: [signal_count], as group_random numbers them. */
static void draw_row(
    const ga_synthetic *o, const group *g, int32_t row, ga_random *random, ga_whatif_table *table) {
    const double end = ga_random_normal(&random[0]);
    double latent = end, known = 1;
    table->reward[row] = reward_of(o, g, end);
    for (int32_t k = o->signal_count - 1; k >= 0; k--) {
        /* a noisier copy of the later decision's latent, or of the reward's */
        const double link = fabs(known) > 0 ? g->rho[k] / known : 0;
        const double copy = fmin(1, fmax(-1, link));
        const double tail = o->signal[k].tail;
        const double noise =
            exp(tail * end - tail * tail) * ga_random_normal(&random[o->signal_count - 1 - k]);
        latent = copy * latent + sqrt(1 - copy * copy) * noise;
        known *= copy;
        table->score[k][row] = score_of(o, g, k, latent);
    }
}

static bool is_share(double value, double low, double high) {
    return value >= low && value <= high;
}

static ga_status check_signal(const ga_synthetic *o, int32_t k, ga_error *error) {
    const ga_synthetic_signal *s = &o->signal[k];
    if (!is_share(s->spearman, -0.99, 0.99) || !is_share(s->rho_spread, 0, 3) ||
        !is_share(s->rho_link, -1, 1) || !is_share(s->offset, 0, 1e6) || !is_share(s->sd_noise, 0, 3) ||
        !is_share(s->sd_keep, -3, 3) || !is_share(s->tail, 0, 1) || !is_share(s->skew_gain, 0, 3)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "signal %d of a world: Spearman %g must be in [-0.99, 0.99]",
            (int)k + 1, s->spearman);
    }
    if (k > 0 && fabs(s->spearman) < fabs(o->signal[k - 1].spearman)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a later decision knows at least as much: Spearman %g after %g", s->spearman,
            o->signal[k - 1].spearman);
    }
    return GA_OK;
}

static ga_status check_options(const ga_synthetic *o, ga_error *error) {
    if (o == NULL || o->signal_count < 1 || o->signal_count > GA_WHATIF_SCORES_MAX || o->batches < 1 ||
        o->groups < 1 || o->group_size < 1 ||
        (double)o->batches * o->groups * o->group_size > (double)GA_WHATIF_ROWS_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a world needs batches, groups and rows, at most %d in all",
            GA_WHATIF_ROWS_MAX);
    }
    if (!is_share(o->mean_spread, 0, 1e6) || !is_share(o->sd_spread, 0, 5) || !is_share(o->sd_tail, 0, 1) ||
        !is_share(o->mean_link, -1, 1) || !is_share(o->skew, 0, 2) || !is_share(o->skew_spread, 0, 2) ||
        !is_share(o->skew_link, -1, 1) ||
        (o->shape == GA_SHAPE_BINARY &&
            (!is_share(o->success, 0.001, 0.999) || !is_share(o->success_spread, 0, 5)))) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a world's spreads, links or skew are out of range");
    }
    for (int32_t k = 0; k < o->signal_count; k++) {
        GA_TRY(check_signal(o, k, error));
    }
    return GA_OK;
}

ga_status ga_synthetic_make(const ga_synthetic *options, ga_whatif_table **table_out, ga_error *error) {
    GA_TRY(check_options(options, error));
    const int64_t groups = (int64_t)options->batches * options->groups;
    ga_whatif_table *table = NULL;
    GA_TRY(ga_whatif_table_create(groups * options->group_size, options->signal_count, false, &table, error));
    double centres[GA_WHATIF_SCORES_MAX];
    for (int32_t k = 0; k < options->signal_count; k++) {
        centres[k] = centre_of(&options->signal[k], options->group_size);
    }
    int32_t row = 0;
    for (int64_t number = 0; number < groups; number++) {
        ga_random random[GA_WHATIF_SCORES_MAX];
        for (int32_t k = 0; k < options->signal_count; k++) {
            random[k] = group_random(options->seed, number, k);
        }
        const group g = draw_group(options, centres, &random[0]);
        for (int32_t i = 0; i < options->group_size; i++, row++) {
            table->batch[row] = (uint64_t)(number / options->groups);
            table->group[row] = (uint64_t)number;
            draw_row(options, &g, row, random, table);
        }
    }
    *table_out = table;
    return GA_OK;
}

static const char *const shape_names[GA_SHAPE_COUNT] = {"gaussian", "skewed", "binary"};

ga_status ga_shape_parse(const char *name, ga_shape *shape_out, ga_error *error) {
    for (int k = 0; name != NULL && k < GA_SHAPE_COUNT; k++) {
        if (strcmp(name, shape_names[k]) == 0) {
            *shape_out = (ga_shape)k;
            return GA_OK;
        }
    }
    return GA_FAIL(error, GA_ERR_CONFIG, "unknown shape '%.64s': use gaussian, skewed or binary",
        name != NULL ? name : "");
}

const char *ga_shape_name(ga_shape shape) {
    return shape_names[shape];
}
