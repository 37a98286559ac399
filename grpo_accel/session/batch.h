/*
 * The life of a batch, one function per phase of the host's loop:
 * begin → (observe → decide) at each of its looks → reward, then update_end once for all open batches.
 */
#ifndef GA_SESSION_BATCH_H
#define GA_SESSION_BATCH_H

#include "grpo_accel/session/finals.h"
#include "grpo_accel/session/look.h"
#include "grpo_accel/session/session.h"

/* As ga_batch_seconds numbers them. */
enum {
    GA_PHASE_DENOISE = 0,
    GA_PHASE_SIGNAL = 1,
    GA_PHASE_REWARD = 2,
    GA_PHASE_PREVIEW = 3,
    GA_PHASE_LOOKAHEAD = 4,
    GA_PHASE_DISTILLED = 5,
    GA_PHASE_FEATURES = 6,
    GA_PHASE_COUNT = 7
};

struct ga_batch {
    ga_session *session;
    ga_arena *arena; /* owns everything below */
    uint64_t number;
    int32_t rows;
    int32_t noise_end_step; /* steps behind it add no noise; -1: not known */
    ga_row *row;            /* [rows] */
    const char **prompts;   /* [rows] */
    ga_look look[GA_CANDIDATES_MAX];
    int32_t steps[GA_CANDIDATES_MAX]; /* of the looks */
    int32_t look_count;               /* 0: the batch rests */
    int32_t look_now;                 /* the one whose turn it is; look_count: all are decided */
    int32_t decisions;                /* looks that may stop rows, the first ones: collectives to be issued */
    int32_t idle;                     /* collectives that nobody needs, counted as the batch begins */
    ga_strategy strategy;             /* in force when the batch began */
    bool settled;                     /* from now on every row that runs is kept */
    bool by_chance;                   /* a decision of this batch was an audit, so the later ones are */
    ga_candidate *stopped;            /* [stopped_count] of all ranks, as they were when they stopped */
    int32_t stopped_count;
    uint64_t plan_checksum; /* of the plans so far, the same on every rank; 0: there was none */
    float *prediction;  /* [rows] newest one, NaN where there is none */
    float *variance;    /* [rows] */
    uint8_t *kept;      /* [rows] still runs */
    uint8_t *looks_met; /* [rows] decided looks in which the row still ran */
    double *inclusion;  /* [rows] product over the decisions that the row met */
    int32_t *kept_rows; /* [kept_count], ascending */
    int32_t kept_count;
    bool audited; /* the first decision was by chance alone */
    bool pruned;  /* some rank may have stopped rows */
    const char *reason;
    uint32_t probe_version;
    double *combined;                       /* [rows] reward under "avg", NaN until known */
    double *reward[GA_SESSION_SCORERS_MAX]; /* [rows] each, NULL until the scorer reports */
    ga_ends finals, states;                 /* not in the arena: other threads bring them */
    double seconds[GA_PHASE_COUNT];
    double own_seconds;
    double feature_seconds; /* of own_seconds: taking features */
};

/* See grpo_accel.h for each. */
ga_status ga_batch_open(
    ga_session *session, const ga_batch_options *options, ga_batch **batch_out, ga_error *error);
ga_status ga_batch_take_attention(ga_batch *batch, int32_t tap, const ga_tensor *query,
    const ga_tensor *key_image, const ga_tensor *key_text, const uint8_t *content, ga_error *error);
ga_status ga_batch_take_latent(
    ga_batch *batch, const ga_tensor *latent, const ga_tensor *velocity, double sigma, ga_error *error);
ga_status ga_batch_take_guidance(
    ga_batch *batch, const ga_tensor *conditional, const ga_tensor *unconditional, ga_error *error);
ga_status ga_batch_take_vectors(ga_batch *batch, ga_input input, const ga_tensor *vectors, ga_error *error);
ga_status ga_batch_take_scores(
    ga_batch *batch, ga_input input, int32_t count, const double *values, ga_error *error);
void ga_batch_choose(ga_batch *batch);
ga_status ga_batch_take_reward(ga_batch *batch, const char *scorer, const int32_t *rows, const double *values,
    int32_t count, ga_error *error);

/* Seconds that features took: what the host measured around our calls, or what we measured inside them. */
double ga_batch_feature_seconds(const ga_batch *batch);

/* A batch that this rank can't begin: counted, so that numbers and collectives stay in step with the others.
 */
void ga_batch_miss(ga_session *session);

/* Counts the collectives that a batch still owes the other ranks. */
void ga_batch_skip_rest(ga_batch *batch);

/* Frees a batch that is no longer in the session's list; NULL is allowed. */
void ga_batch_free(ga_batch *batch);

#endif
