/*
 * What a probe is made of: for this room and for probe/train, which builds probes. Others use probe.h.
 */
#ifndef GA_PROBE_PARTS_H
#define GA_PROBE_PARTS_H

#include "probe/inputs.h"
#include "probe/network.h"
#include "probe/probe.h"
#include "probe/ridge.h"

/* Rows that are scored together. */
#define GA_PROBE_CHUNK_ROWS 64

/* What belongs to a target beyond the first. */
typedef struct ga_probe_target {
    ga_ridge ridge; /* [pooled_count] */
    double scale;   /* the network's answer 1 in units of the target */
    ga_calibration calibration;
} ga_probe_target;

struct ga_probe {
    ga_probe_info info;
    ga_inputs inputs;
    const ga_compute *compute;
    ga_moments pooled_moments; /* [pooled_count] */
    ga_moments map_moments;    /* [map_channels] */
    ga_ridge ridge;            /* [pooled_count]; a scalar probe has one weight */
    double reward_scale;       /* the network's answer 1 in units of the reward */
    ga_probe_target *others;   /* [info.target_count - 1] targets 1 …; NULL with one target */
    ga_reference reference;    /* step_count 0: not known */
    ga_learned learned;        /* run_count 0: not known */
    double variance_floor;     /* what the network's exp(log-variance) is added to, reward_scale² */
    ga_network network;        /* with GA_PROBE_NETWORK */
    float *parameters;         /* [network.parameter_count] in host memory; NULL without a network */
    float *loaded;             /* the same on the device, made when the network first scores */
    bool loaded_is_current;    /* false: `parameters` has been written to since */
    ga_network_pass *pass;     /* made when a network first scores */
    /* room for one chunk of rows; one block of memory, at row */
    float *row;    /* [values_per_row] */
    float *pooled; /* [pooled_count] */
    float *maps;   /* [chunk, map_channels, height, width] */
    float *scalars, *prompt, *log_sigma;
    float *answer;                   /* [chunk, network.outputs] */
    float *score, *level, *variance; /* [chunk, target_count] */
};

/* A probe of zeros for a schema: kind ridge, one target, moments and weights made, no network. The caller's.
 */
ga_status ga_probe_create(
    const ga_feature_schema *schema, const ga_compute *compute, ga_probe **probe_out, ga_error *error);

/* Several targets, each with a ridge of zeros; once, before ga_probe_add_network. names: [count], NULL:
 * "reward", "target1", … GA_ERR_ARGUMENT (too many, a name too long), GA_ERR_MEMORY. */
ga_status ga_probe_set_targets(ga_probe *probe, int32_t count, const char *const *names, ga_error *error);

/* Gives the probe parameters for its network (zeros) and makes it one; options->targets is that of the probe
 * whatever it says. GA_ERR_ARGUMENT as ga_network_plan, GA_ERR_MEMORY. */
ga_status ga_probe_add_network(ga_probe *probe, const ga_network_options *options, ga_error *error);

/* Makes it a probe without network again. */
void ga_probe_remove_network(ga_probe *probe);

/* Does a ridge stand below what the network answers? */
bool ga_probe_has_ridge(const ga_probe *probe);

/* Ridge, scale and calibration of a target. */
const ga_ridge *ga_probe_ridge(const ga_probe *probe, int32_t target);
double ga_probe_scale(const ga_probe *probe, int32_t target);
ga_calibration *ga_probe_calibration(ga_probe *probe, int32_t target);

/* Brings the parameters to the device unless they are there; inside compute->run. GA_ERR_MEMORY. */
ga_status ga_probe_load(ga_probe *probe, ga_error *error);

/* Rows of a larger array, by number, each with its own σ. */
typedef struct ga_probe_rows {
    const ga_half *features; /* [any, values_per_row] */
    const int64_t *rows;     /* [count] numbers of rows; NULL: 0 … count - 1 */
    int64_t count;
    const float *sigma; /* [any] by number; NULL: sigma_all */
    double sigma_all;
    bool partial; /* a feature that is NaN is unknown and counts as the mean; else its row gets NaN */
} ga_probe_rows;

/* Standardised inputs of one row: pooled [pooled_count] and maps; false if a feature is not usable. `row` is
 * scratch of values_per_row. maps may be NULL where there are none. */
bool ga_probe_prepare_row(
    const ga_probe *probe, const ga_half *features, double sigma, float *row, float *pooled, float *maps);

/* The same where a feature that is NaN is unknown and counts as the mean. */
void ga_probe_prepare_known(
    const ga_probe *probe, const ga_half *features, double sigma, float *row, float *pooled, float *maps);

/* The maps of a row alone, standardised; `row` is scratch of values_per_row. */
void ga_probe_prepare_maps(const ga_probe *probe, const ga_half *features, float *row, float *maps);

/* The network's vectors out of a standardised pooled row: scalars and prompt as network.shape has them. */
void ga_probe_prepare_vectors(const ga_probe *probe, const float *pooled, float *scalars, float *prompt);

/* Before calibration: score_out orders rows inside a group, level_out is constant there (0 where the network
 * stands alone); NaN both where a feature is not usable. Of target 0; [count] each. Runs inside
 * compute->run. GA_ERR_MEMORY. */
ga_status ga_probe_score_rows(
    ga_probe *probe, const ga_probe_rows *rows, float *score_out, float *level_out, ga_error *error);

/* The same for all targets: [count, target_count] each, and the network's own variance, reward²; NaN where it
 * has none. */
ga_status ga_probe_answer_rows(ga_probe *probe, const ga_probe_rows *rows, float *score_out, float *level_out,
    float *variance_out, ga_error *error);

#endif
