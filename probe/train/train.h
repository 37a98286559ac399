/*
 * From a dataset to a probe: ridge, network, calibration, and the choice among them on prompts that were held
 * out.
 *
 * No global state: may run in a background thread beside a job. With callbacks->reduce it is collective: each
 * process brings whole prompts of its own and gets the same probe.
 */
#ifndef GA_PROBE_TRAIN_TRAIN_H
#define GA_PROBE_TRAIN_TRAIN_H

#include <stdbool.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/correlation.h"
#include "probe/probe.h"
#include "probe/train/dataset.h"
#include "probe/train/loss.h"

typedef struct ga_train_options {
    /* what the probe is bound to */
    const char *model;
    const int32_t *steps; /* [step_count] decision steps of the rows */
    int32_t step_count;
    int32_t steps_total;
    uint32_t version;
    /* what the rows belong to: stands in the probe's file, for whoever judges it */
    const ga_learned_run *runs; /* [run_count] */
    int32_t run_count;          /* 0, or more than GA_LEARNED_RUNS_MAX: the file will not say */
    /* how */
    uint64_t seed;
    ga_network_options network; /* architecture none: ridge and scalars only */
    double seconds_max;         /* 0: no limit. A run that it ends is not repeatable bit for bit */
    int32_t rounds_max;         /* a round is one pass over the rows, at most 8,192 of them */
    int32_t patience_rounds;
    int32_t batch_rows;
    double learning_rate, weight_decay;
    double ema;            /* of the averaged weights, in [0, 1) */
    double oversample_low; /* ≥ 0: the lowest rewards count 1 + so many times as much as the highest */
    double input_noise;    /* standard deviation added to standardised inputs while training: a guard against
                              learning by heart */
    double channel_drop;   /* share of map channels that a row is trained without */
    double held_share;     /* of the groups, half to stop the training and half for the figures */
    double weight_max;     /* clip of 1/π */
    ga_loss loss;
    int32_t resamples;       /* bootstrap of the interval */
    const char *state_path;  /* written after each round; NULL: no state is kept */
    const ga_dataset *clean; /* final pictures in the place of signals, under the same schema: a head start
                                for the network (ga_lessons_clean); NULL: none */
    bool resume;             /* go on from the state at state_path, where there is one */
    const ga_clock *clock;   /* NULL: the system's */
} ga_train_options;

/* Defaults for everything but what the probe is bound to. */
ga_train_options ga_train_options_default(void);

typedef struct ga_train_progress {
    int32_t round, rounds_max;
    double seconds;
    double loss;     /* mean over the round */
    double spearman; /* within groups, on the tuning prompts */
    double spearman_best;
} ga_train_progress;

/* Any may be empty. Called from the thread that trains. */
typedef struct ga_train_callbacks {
    ga_reduce reduce;
    bool (*stop)(void *user); /* true: end soon, with the best so far */
    void (*progress)(void *user, const ga_train_progress *progress);
    void *user;
} ga_train_callbacks;

typedef enum ga_train_end {
    GA_TRAIN_END_ROUNDS = 0,   /* rounds_max */
    GA_TRAIN_END_PATIENCE = 1, /* no better for patience_rounds */
    GA_TRAIN_END_SECONDS = 2,
    GA_TRAIN_END_STOP = 3, /* the callback asked for it */
    GA_TRAIN_END_NONE = 4  /* no network was trained */
} ga_train_end;

/* Points of a learning curve that a report keeps. */
#define GA_TRAIN_CURVE_MAX 256

/* A model that was considered; groups = 0 where it was not there. Spearman within groups. */
typedef struct ga_train_candidate {
    ga_within tune, report, held;
} ga_train_candidate;

typedef struct ga_train_report {
    ga_train_candidate candidates[GA_PROBE_KIND_COUNT];
    ga_probe_kind chosen;
    ga_input scalar; /* input that the scalar candidate takes; GA_INPUT_COUNT: none */
    ga_train_end end;
    int32_t rounds;
    int64_t steps;
    double seconds;
    int32_t resumed_rounds; /* that an earlier call had done; 0: from the start */
    int32_t clean_rounds;   /* of the head start on finals; 0: none */
    int64_t more_labels;    /* under other prompts, that the network saw, of all rows here */
    int32_t curve_count;
    ga_train_progress curve[GA_TRAIN_CURVE_MAX];              /* rounds, thinned out where there were more */
    double lambda_within, lambda_level;                       /* of the ridge; infinite: no weights */
    int64_t train_rows, train_groups, held_rows, held_groups; /* of this process */
    char reason[192];                                         /* why this kind, in words */
} ga_train_report;

/*
 * Fits the ridge on the training prompts, chooses the best scalar input, trains the network on top of the
 * ridge (AdamW, averaged weights, stopped on the tuning prompts), and keeps what orders the held-out prompts
 * best: the ridge must beat the scalar, the network must beat both, on prompts that its training has not seen
 * in any way. Calibrates on the held-out groups. *probe_out is the caller's (ga_probe_close); nothing on
 * failure. With a state_path the training can be continued after whatever ended it: with options->resume the
 * result is the one of a training that was never interrupted, bit for bit on the native provider. Features
 * are fetched as they are needed, a ridge learns from as many groups as its memory takes, so that memory does
 * not grow with the record but for some hundred bytes a row. GA_ERR_DATA (too few groups or no spread; the
 * message says how many), GA_ERR_ARGUMENT, GA_ERR_MEMORY.
 */
ga_status ga_train(const ga_dataset *dataset, const ga_train_options *options,
    const ga_train_callbacks *callbacks, const ga_compute *compute, ga_probe **probe_out,
    ga_train_report *report_out, ga_error *error);

#endif
