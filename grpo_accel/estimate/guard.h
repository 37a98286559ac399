/*
 * The guard's verdict: whether pruning pays, where, and how much, by the lower bound of its worth over its
 * cost; and when a verdict that repeats itself changes what is done.
 *
 * Pure: the same on every rank from the same figures.
 */
#ifndef GA_ESTIMATE_GUARD_H
#define GA_ESTIMATE_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "grpo_accel/estimate/agreement.h"
#include "grpo_accel/estimate/breakeven.h"
#include "grpo_accel/estimate/energy.h"
#include "grpo_accel/estimate/risk.h"

/* One way to prune, with what is known of it. */
typedef struct ga_option {
    ga_course course;
    ga_energy energy;    /* measured; NaN figures while nothing is */
    ga_loss_sums losses; /* of true extremes under it */
} ga_option;

typedef struct ga_guard_options {
    double confidence;   /* of bounds */
    double enter_margin; /* by which worth over cost must exceed 1 before pruning begins, e.g. 0.02 */
    int32_t parts_min;   /* groups that must have been measured */
    double drift_max;    /* PSI from which drift counts */
    int32_t patience;    /* updates that a verdict must repeat before it counts, ≥ 1 */
} ga_guard_options;

/* What is known besides the options. */
typedef struct ga_guard_evidence {
    ga_seconds seconds;
    bool has_probe;
    const char *obstacle; /* why no signal can tell rows of a group apart (shared state); NULL: none */
    ga_risk risk;
} ga_guard_evidence;

typedef enum ga_guard_answer {
    GA_GUARD_PAYS = 0,
    GA_GUARD_NO_PROBE = 1,    /* nothing to predict with yet */
    GA_GUARD_GATHERING = 2,   /* too little was measured */
    GA_GUARD_NO_COST = 3,     /* no seconds were measured */
    GA_GUARD_SHARED = 4,      /* rows of a group are in the same state */
    GA_GUARD_COSTS_MORE = 5,  /* worth over cost is not above 1 with confidence */
    GA_GUARD_LOSES = 6,       /* more true extremes would be lost than allowed */
    GA_GUARD_UNCORRELATED = 7 /* kept rows say that predictions have stopped telling rows apart */
} ga_guard_answer;

/* "pays", "no probe", …: stable words, static storage. */
const char *ga_guard_answer_name(ga_guard_answer answer);

typedef struct ga_verdict {
    ga_guard_answer answer;
    int32_t option;    /* the best one by lower bound that risk allows; −1: none */
    double cost_ratio; /* its figures; NaN without */
    double break_even_rho;
    double gain, gain_low; /* snr2 / cost: value and lower bound */
    double loss_bound;
    char reason[256]; /* in words, with figures */
} ga_verdict;

/*
 * Judges options[count]. `current`: the option that prunes now, which is judged without the margin and kept
 * unless another's lower bound is better by the margin; −1: none prunes.
 */
ga_verdict ga_guard_judge(const ga_guard_options *guard, const ga_guard_evidence *evidence,
    const ga_option *options, int32_t count, int32_t current);

/* The newest updates' agreement of predictions and rewards. Plain data. */
#define GA_TREND_UPDATES 32
typedef struct ga_trend {
    ga_agreement updates[GA_TREND_UPDATES]; /* a ring */
    int32_t count, next;
} ga_trend;

void ga_trend_add(ga_trend *trend, const ga_agreement *update);

/*
 * Have predictions stopped telling rows apart? Over the newest 1, 2, 4, … 32 updates: is the upper bound of ρ
 * below rho_min anywhere, each bound at a confidence that leaves 1 − confidence for all of them (Bonferroni)?
 * The confidence is that of one update's look, not of a run: a correlation that stays above rho_min by little
 * is doubted now and then, and the patience of the caller is what keeps that from counting. figures_out: of
 * the window that says so, else of the whole trend. A probe that turns to noise is found as soon as a window
 * of w updates lies behind the change with about z²/ρ_min² kept rows in it.
 */
bool ga_trend_has_ended(
    const ga_trend *trend, double rho_min, double confidence, ga_agreement_figures *figures_out);

/* Counts how often a verdict repeats itself. Plain data, zero at the start. */
typedef struct ga_patience {
    int32_t pays, pays_not;
} ga_patience;

/*
 * Takes a verdict; true where what is done must change now: from not pruning to pruning after `patience`
 * verdicts in a row that pay, and back after as many that don't.
 */
bool ga_patience_take(ga_patience *patience, bool pruning, bool pays, int32_t updates);

#endif
