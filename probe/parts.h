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

struct ga_probe {
    ga_probe_info info;
    ga_inputs inputs;
    const ga_compute *compute;
    ga_moments pooled_moments; /* [pooled_count] */
    ga_moments map_moments;    /* [map_channels] */
    ga_ridge ridge;            /* [pooled_count]; a scalar probe has one weight */
    double reward_scale;       /* the network's answer 1 in units of the reward */
    ga_network network;
    float *parameters;     /* [network.parameter_count]; NULL unless info.kind is GA_PROBE_NETWORK */
    ga_network_pass *pass; /* made when a network first scores */
    /* room for one chunk of rows; one block of memory, at row */
    float *row;    /* [values_per_row] */
    float *pooled; /* [pooled_count] */
    float *maps;   /* [chunk, map_channels, height, width] */
    float *scalars, *log_sigma, *answer;
};

/* A probe of zeros for a schema: kind ridge, moments and weights made, no network. The caller's. */
ga_status ga_probe_create(
    const ga_feature_schema *schema, const ga_compute *compute, ga_probe **probe_out, ga_error *error);

/* Gives the probe parameters for its network (zeros) and makes it one. GA_ERR_MEMORY. */
ga_status ga_probe_add_network(ga_probe *probe, ga_error *error);

/* Rows of a larger array, by number, each with its own σ. */
typedef struct ga_probe_rows {
    const ga_half *features; /* [any, values_per_row] */
    const int64_t *rows;     /* [count] numbers of rows; NULL: 0 … count - 1 */
    int64_t count;
    const float *sigma; /* [any] by number; NULL: sigma_all */
    double sigma_all;
} ga_probe_rows;

/* Standardised inputs of one row: pooled [pooled_count] and maps; false if a feature is not usable. `row` is
 * scratch of values_per_row. maps may be NULL where there are none. */
bool ga_probe_prepare_row(
    const ga_probe *probe, const ga_half *features, double sigma, float *row, float *pooled, float *maps);

/* The maps of a row alone, standardised; `row` is scratch of values_per_row. */
void ga_probe_prepare_maps(const ga_probe *probe, const ga_half *features, float *row, float *maps);

/* Before calibration: score_out orders rows inside a group, level_out is constant there; NaN both where a
 * feature is not usable. [count] each. */
ga_status ga_probe_score_rows(
    ga_probe *probe, const ga_probe_rows *rows, float *score_out, float *level_out, ga_error *error);

#endif
