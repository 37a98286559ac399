/*
 * The probe: features of a row → predicted reward and its residual variance.
 *
 * A probe is bound to the model it watches, the step it decides at and the layout of its features; those
 * stand in its file and are checked by name. Not collective. A ga_probe belongs to one thread at a time;
 * several probes may work at once.
 */
#ifndef GA_PROBE_PROBE_H
#define GA_PROBE_PROBE_H

#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/compute/compute.h"
#include "probe/calibration.h"
#include "probe/learned.h"
#include "probe/network_options.h"
#include "probe/reference.h"

#define GA_PROBE_STEPS_MAX 8
#define GA_PROBE_MODEL_BYTES 256
#define GA_PROBE_TARGET_BYTES 48

typedef struct ga_probe ga_probe;

typedef enum ga_probe_kind {
    GA_PROBE_SCALAR = 0,  /* one scalar input alone, e.g. the preview's score, calibrated */
    GA_PROBE_RIDGE = 1,   /* ridge regression on pooled statistics and scalars */
    GA_PROBE_NETWORK = 2, /* the ridge plus what a network adds; of architecture `paper` the network alone */
    GA_PROBE_KIND_COUNT = 3
} ga_probe_kind;

/* "scalar", "ridge" or "network". Static storage. */
const char *ga_probe_kind_name(ga_probe_kind kind);

/* What a probe says of itself. Plain data. */
typedef struct ga_probe_info {
    ga_probe_kind kind;
    uint32_t version; /* counts up with each retraining of a run */
    ga_feature_schema schema;
    char model[GA_PROBE_MODEL_BYTES]; /* name of what the host runs */
    int32_t step_count;
    int32_t steps[GA_PROBE_STEPS_MAX]; /* denoising steps done at the decision */
    int32_t steps_total;
    double sigma_low, sigma_high; /* noise levels of the training rows */
    int64_t trained_rows, trained_groups;
    /* Spearman within groups on held-out prompts, 95 % interval over groups */
    double spearman, spearman_low, spearman_high;
    int64_t held_rows, held_groups;
    ga_calibration calibration; /* on held-out groups: slope, intercept, sigma_r2, tau2 */
    double residual_variance;   /* sigma_r2 + tau2: of a single reward around its prediction, reward² */
    ga_network_options network; /* with GA_PROBE_NETWORK */
    int32_t target_count;       /* 1 … GA_NETWORK_TARGETS_MAX; what stands above is about target 0 */
    char target_names[GA_NETWORK_TARGETS_MAX][GA_PROBE_TARGET_BYTES]; /* [0] "reward" unless named */
} ga_probe_info;

/* Owned by the probe, valid until ga_probe_close. */
const ga_probe_info *ga_probe_get_info(const ga_probe *probe);

/* What its training rows looked like; NULL: its file does not say. Owned by the probe. */
const ga_reference *ga_probe_get_reference(const ga_probe *probe);

/* What it has learned from; NULL: its file does not say. Owned by the probe. */
const ga_learned *ga_probe_get_learned(const ga_probe *probe);

/*
 * Reads a probe file. *probe_out is the caller's until ga_probe_close; nothing on failure. `compute` must
 * outlive the probe. GA_ERR_FILE (can't be read, damaged, refused), GA_ERR_MEMORY.
 */
ga_status ga_probe_open(const char *path, const ga_compute *compute, ga_probe **probe_out, ga_error *error);

/* Frees and sets *probe to NULL; NULL is allowed. */
void ga_probe_close(ga_probe **probe);

/* Writes a safetensors file whole or not at all: temporary file, fsync, rename, fsync of the folder.
 * GA_ERR_IO, GA_ERR_MEMORY. */
ga_status ga_probe_save(const ga_probe *probe, const char *path, ga_error *error);

/* The version that stands in the file from now on. */
void ga_probe_set_version(ga_probe *probe, uint32_t version);

/*
 * block: rows of fp16 features under the probe's schema; sigma: noise level at the decision.
 * mean_out [rows]: calibrated reward; NaN for a row with a feature that is not finite, which the caller
 * keeps. variance_out [rows]: residual variance inside the group, reward² (NaN with the mean); the row's own
 * where the network answers one that has proved itself, else the same for all; may be NULL. Runs inside
 * compute->run. GA_ERR_ARGUMENT (another schema), GA_ERR_DATA (σ outside the trained range by more than a
 * tenth), GA_ERR_MEMORY; the outputs are void then.
 */
ga_status ga_probe_score(ga_probe *probe, const ga_feature_block *block, double sigma, float *mean_out,
    float *variance_out, ga_error *error);

/* The same for all targets at once: mean_out, variance_out [rows, target_count]. */
ga_status ga_probe_score_all(ga_probe *probe, const ga_feature_block *block, double sigma, float *mean_out,
    float *variance_out, ga_error *error);

/* What a host needs a probe for. */
typedef struct ga_probe_requirement {
    const ga_feature_schema *schema;
    const char *model;
    int32_t step;
    int32_t steps_total;
} ga_probe_requirement;

/* GA_OK if the probe fits. GA_ERR_FILE with a message that names what the probe has and what is required. */
ga_status ga_probe_match(const ga_probe *probe, const ga_probe_requirement *requirement, ga_error *error);

#endif
