/*
 * A session: one guest in one rank of a job, from attach to detach.
 *
 * Seen by room session only; the public functions of grpo_accel.h stand in api.c. The state below is guarded
 * by `lock` where rewards arrive from other threads; everything else belongs to the host's main thread.
 */
#ifndef GA_SESSION_SESSION_H
#define GA_SESSION_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "dist/exchange.h"
#include "dist/world.h"
#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/config/config.h"
#include "grpo_accel/estimate/offsets.h"
#include "grpo_accel/record/writer.h"
#include "grpo_accel/session/costs.h"
#include "grpo_accel/session/metrics.h"
#include "grpo_accel/session/retrain.h"
#include "grpo_accel/session/strategy.h"
#include "grpo_accel/session/taught.h"
#include "probe/probe.h"

enum {
    GA_SESSION_BATCHES_MAX = 1024,    /* open batches of one update */
    GA_SESSION_SCORERS_MAX = 16,      /* scorers of a host, "avg" not counted */
    GA_SESSION_LATE_IN_A_ROW_MAX = 3, /* updates with a late peer, then the session passes through */
    GA_SESSION_OFFSETS_HALF_LIFE_UPDATES = 16,
    GA_SESSION_COSTS_HALF_LIFE_UPDATES = 128 /* of a fixed share that nothing measures any more */
};

/* Kinds of warnings; a session gives each once. */
typedef enum ga_warning {
    GA_WARNING_LATE,
    GA_WARNING_EXCHANGE,
    GA_WARNING_SCORES,
    GA_WARNING_PLAN,
    GA_WARNING_HOST,
    GA_WARNING_RECORD,
    GA_WARNING_TRAINING,
    GA_WARNING_NOISE,
    GA_WARNING_PROVIDER,
    GA_WARNING_FINALS,
    GA_WARNING_SCORER,
    GA_WARNING_CREDIT,
    GA_WARNING_COUNT
} ga_warning;

/* What the first batch fixes for the run. */
typedef struct ga_shapes {
    char model[128];
    int32_t rows;
    int32_t steps_total;
    int32_t latent_channels, latent_height, latent_width;
    int32_t token_height, token_width;
    int32_t block_count;
    int32_t hidden_values, prompt_values, scores_per_preview;
    int32_t candidate_count;                    /* steps at which signals can be taken, ≥ 1 */
    int32_t candidate_steps[GA_CANDIDATES_MAX]; /* denoising steps done, ascending */
    double candidate_sigmas[GA_CANDIDATES_MAX]; /* noise levels there */
} ga_shapes;

typedef struct ga_scorer_name {
    char text[64];
} ga_scorer_name;

struct ga_session {
    ga_config *config;
    char preview_scorers[GA_CONFIG_NAMES_MAX * 64]; /* probe.preview.scorers with commas between them */
    const ga_clock *clock;
    const ga_compute *compute; /* of the probe and its training */
    bool provider_chosen;      /* no other will be looked for */
    ga_world *world;
    int32_t rank, world_size;
    ga_mode mode;         /* as configured, auto as shadow; pass-through is for good */
    ga_strategy strategy; /* of batches that begin from now on; changed at the end of an update only */
    uint64_t fingerprint; /* of the configuration and the shapes: what ranks must agree on */

    bool prepared; /* shapes, schema, probe and record are there */
    ga_shapes shapes;
    ga_feature_schema schema;
    int32_t *blocks; /* tapped blocks, ascending */
    int32_t block_count;

    ga_probe *probe; /* NULL: none yet */
    uint32_t probe_version;
    char probe_path[4096];
    ga_record *record; /* NULL: the record is off or failed */
    ga_retrain retrain;
    ga_offsets offsets; /* τ² and σ_r² from the log */
    ga_std_kind host_std;

    ga_batch *batches[GA_SESSION_BATCHES_MAX]; /* open, in the order of their beginning */
    int32_t batch_count;
    ga_arena *spare_arenas[GA_SESSION_BATCHES_MAX]; /* of ended batches: a steady state allocates nothing */
    int32_t spare_arena_count;
    ga_arena *update_arena;
    ga_taught taught; /* rows of the update that ended last */
    uint64_t next_batch;
    uint32_t next_update;
    uint64_t next_row;
    bool host_ready;     /* an update of a kind that may be pruned was seen in this session */
    bool late_in_update; /* a peer was late in this update */
    int32_t late_in_a_row;

    ga_scorer_name scorers[GA_SESSION_SCORERS_MAX];
    int32_t scorer_count;
    int32_t final_shape[3]; /* of a final as it is logged; zeros: not known yet */
    size_t final_bytes;     /* of a final in the record; 0: it has none */
    pthread_mutex_t lock;   /* rewards, finals, seconds and scorer names of open batches */

    atomic_flag warned[GA_WARNING_COUNT];
    ga_metrics metrics;
    ga_costs costs;
    struct ga_mode_state *guard; /* mode.h; NULL until something is watched */
};

/* Opens and closes; see ga_session_open and ga_session_close in grpo_accel.h. Collective. */
ga_status ga_session_create(const ga_session_options *options, ga_session **session_out, ga_error *error);
void ga_session_destroy(ga_session **session, bool in_step);

/* From now on nothing is observed or pruned; says why, once. */
void ga_session_pass_through(ga_session *session, const ga_error *error);

/* By what the host divides, as far as is known: the configuration, else what the last update said. */
ga_std_kind ga_session_std(const ga_session *session);

/* Denoising steps done before the first decision; −1: that is known when the first batch has begun. */
int32_t ga_session_decision_step(const ga_session *session);

/* From now on there is no probe. */
void ga_session_drop_probe(ga_session *session);

/* Was the probe made for this model, all candidate steps and this layout of features? GA_ERR_FILE with both
 * sides named. */
ga_status ga_session_probe_fits(const ga_session *session, const ga_probe *probe, ga_error *error);

#endif
