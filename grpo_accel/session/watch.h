/*
 * What is watched to decide whether pruning pays: evidence from rows that were kept by chance, seconds,
 * drift; and the strategy that follows from it. Knows no session: everything comes in as figures that all
 * ranks share, so that every rank reaches the same verdict.
 *
 * Evidence. A batch whose rows all ran to their end, or an audited one, is planned again as each option
 * (step, kept share) would have planned it, with the same plan and the same estimator as in earnest; what
 * each option would have kept of the squared signal-to-noise ratio, and lost of the true extremes, is summed
 * group by group (estimate/energy.h, risk.h) over the newest GA_WATCH_PARTS groups of the newest
 * GA_WATCH_EVIDENCE_UPDATES updates. After another probe came into use its own groups alone count, as soon as
 * there are enough of them for a verdict. While an option prunes, others that were not measured in the newest
 * GA_WATCH_STALE_UPDATES updates before its newest measurement do not compete. Agreement of predictions and
 * rewards comes from all kept rows (estimate/agreement.h).
 *
 * A verdict repeats itself only where something was measured: while nothing is pruned an update without an
 * observed batch does not count for guard.patience, nor does one for changing to another option.
 */
#ifndef GA_SESSION_WATCH_H
#define GA_SESSION_WATCH_H

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/flow.h"
#include "grpo_accel/base/status.h"
#include "grpo_accel/estimate/advantage.h"
#include "grpo_accel/estimate/drift.h"
#include "grpo_accel/estimate/guard.h"
#include "grpo_accel/select/plan.h"
#include "grpo_accel/session/strategy.h"

#define GA_WATCH_OPTIONS_MAX 40
#define GA_WATCH_PARTS 128
#define GA_WATCH_EVIDENCE_UPDATES 512
#define GA_WATCH_STALE_UPDATES 64

typedef struct ga_watch ga_watch;

typedef enum ga_watch_kind {
    GA_WATCH_SHADOW = 0, /* figures only */
    GA_WATCH_PRUNE = 1,  /* prunes as told, whatever the verdict */
    GA_WATCH_AUTO = 2    /* prunes while it pays */
} ga_watch_kind;

/* Fixed for the run. */
typedef struct ga_watch_options {
    ga_watch_kind kind;
    int32_t ranks, rows; /* of a batch on each rank */
    int32_t steps_total;
    int32_t candidate_count;
    int32_t candidate_steps[GA_CANDIDATES_MAX];
    ga_strategy told;          /* stages as configured; what is open is chosen */
    bool step_open, keep_open; /* with step_open told has one stage */
    ga_plan_options plan;      /* policy, min_group, max_group, seed, std_kind, threshold, min_inclusion */
    ga_guard_options guard;
    ga_advantage_options estimator; /* as the run computes advantages; tau2 and sigma_r2 come with updates */
    double train_share;             /* of the kept rows that train, (0, 1]; 0 stands for all */
    double lost_extremes_max;       /* α */
    double slowdown_max;            /* looking while not pruning, over a full rollout */
    int64_t rows_wanted; /* observed rows with a reward from which the first training is worth while */
    bool on_drift;       /* drift asks for a training */
} ga_watch_options;

/* One update, the same on every rank. */
typedef struct ga_watch_update {
    uint32_t update;
    const ga_outcome *outcomes; /* [count] of all ranks, rank after rank */
    int32_t count;              /* 0: the exchange failed, nothing is learned */
    int32_t batches;            /* of the update on each rank */
    uint64_t first_batch;       /* number of the first one */
    ga_seconds seconds;         /* the slowest rank's */
    bool has_probe;
    uint32_t probe_version;
    const char *obstacle;       /* why nothing may be pruned whatever is measured; NULL: none */
    uint32_t shared_candidates; /* bit of each at which the rows of a group are in the same state */
    /* PSI against the training window, and how far the newest scores went from it */
    ga_drift scores, features;
    const char *feature_name; /* which input drifts most; NULL: not known */
    double tau2, sigma_r2;    /* as the advantages use them; NaN: not known */
    int32_t noise_end_step;   /* steps behind it add no noise; ≤ 0: not known */
} ga_watch_update;

/* What came of it. */
typedef struct ga_watch_report {
    ga_verdict verdict; /* of this update */
    bool changed;       /* the strategy is another one from here on */
    bool warns;         /* the line is a warning: mode prune does what does not pay */
    bool wants_training;
    const char *training_reason; /* static; NULL: none */
    ga_strategy strategy;        /* in force for batches that begin from here on */
    ga_energy energy;            /* of the verdict's option */
    ga_agreement_figures agreement;
    double lost_share; /* of true extremes under the verdict's option; NaN: not known */
    double level;      /* α_t */
    double look_share; /* of a full rollout that looking costs a row */
    int32_t parts;     /* groups measured in the window */
    char line[512];    /* what changed and why, in one line; empty where nothing did */
} ga_watch_report;

/* *watch_out is the caller's until ga_watch_destroy. GA_ERR_ARGUMENT, GA_ERR_MEMORY. */
ga_status ga_watch_create(const ga_watch_options *options, ga_watch **watch_out, ga_error *error);

/* Sets *watch to NULL; NULL is allowed. */
void ga_watch_destroy(ga_watch **watch);

/*
 * Takes an update in. Temporary memory from `arena`. Not collective; deterministic. On failure nothing is
 * learned from this update and the strategy stays. GA_ERR_MEMORY, GA_ERR_ARGUMENT.
 */
ga_status ga_watch_take(ga_watch *watch, const ga_watch_update *update, ga_arena *arena,
    ga_watch_report *report_out, ga_error *error);

/* Another rank's strategy is in force: the option that prunes becomes its option; evidence stays. */
void ga_watch_follow(ga_watch *watch, const ga_strategy *strategy);

/* The options that are weighed: [*count_out], owned by the watch. */
const ga_option *ga_watch_options_of(const ga_watch *watch, int32_t *count_out);

#endif
