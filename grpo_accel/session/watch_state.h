/* What a watch holds. For watch.c and watch_evidence.c only. */
#ifndef GA_SESSION_WATCH_STATE_H
#define GA_SESSION_WATCH_STATE_H

#include "grpo_accel/session/watch.h"

struct ga_watch {
    ga_watch_options options;
    ga_option option[GA_WATCH_OPTIONS_MAX];
    int32_t option_count;
    /* a ring of parts: [GA_WATCH_PARTS, option_count] each */
    ga_energy_part *parts;
    ga_loss_sums *losses;
    ga_agreement agreement[GA_WATCH_PARTS][GA_CANDIDATES_MAX]; /* of the batch whose first part lies there */
    uint32_t part_update[GA_WATCH_PARTS], part_version[GA_WATCH_PARTS]; /* update and probe of a part */
    int32_t part_count, next_part;
    uint32_t update;   /* the newest one */
    bool newest_probe; /* parts of the probe in use are enough: others do not count */
    bool fresh;        /* the newest update measured something */
    ga_arena *scratch; /* of one option's plan */

    ga_risk risk;
    ga_trend trend;
    ga_patience patience;
    ga_patience others; /* verdicts in a row for another option than the one that prunes */
    int32_t current;    /* option that prunes; −1: none */
    uint32_t probe_version;
    bool had_probe;
    int64_t observed_rows;     /* with a reward, since the run began */
    int64_t rows_wanted;       /* for the next first training */
    int32_t updates_gathering; /* without a probe, once costs are known */
    int32_t updates_since_training, training_pause;
    bool probe_failed; /* pruning ended as uncorrelated, and no other probe has come since */
    uint32_t told;     /* bits of answers that a line has told since the last switch */
    ga_strategy strategy;
};

/* Takes the rows of an update into the window and the trend. GA_ERR_MEMORY, GA_ERR_DATA. */
ga_status ga_watch_learn(ga_watch *watch, const ga_watch_update *update, ga_arena *arena, ga_error *error);

/* Does the window's part count as evidence now? */
bool ga_watch_part_counts(const ga_watch *watch, int32_t part);

/* Empties window and trend. */
void ga_watch_forget(ga_watch *watch);

#endif
