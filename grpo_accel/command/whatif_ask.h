/* What replay and simulate are asked alike: policies, keeps, costs. */
#ifndef GA_COMMAND_WHATIF_ASK_H
#define GA_COMMAND_WHATIF_ASK_H

#include "grpo_accel/command/command.h"
#include "grpo_accel/whatif/sweep.h"

enum { GA_ASK_LIST_MAX = 32, GA_ASK_CASES_MAX = 4096 };

/*
 * Kept rows of one way to decide: "3", ".25" or, for decisions one after the other, "5:2". Numbers of rows
 * are written without a point, shares lie below 1: 1.0 is neither, and refused.
 */
typedef struct ga_keep {
    int32_t stage_count;
    double value[GA_WHATIF_STAGES_MAX]; /* from 1: rows a rank; below 1: share of its rows */
} ga_keep;

/* Numbers from one place: given by the user, read from the record, of the recipe, or assumed. */
typedef enum ga_cost_origin { GA_COST_DEFAULT, GA_COST_RECORD, GA_COST_RECIPE, GA_COST_GIVEN } ga_cost_origin;

typedef struct ga_ask {
    int32_t policy_count;
    ga_policy_kind policies[GA_POLICY_COUNT];
    int32_t std_count;
    ga_std_kind stds[2];
    int32_t keep_count;
    ga_keep keeps[GA_ASK_LIST_MAX];
    ga_replay_options options; /* all but policy, std, keeps */
    ga_shares shares;          /* before and signal: as many as given, the last one again for the rest */
    int32_t before_count;      /* 0: nobody said */
    int32_t signal_count;      /* the same */
    ga_cost_origin before_origin, signal_origin, reward_origin, after_origin;
    int32_t estimator; /* 0 shrunk, 1 difference, 2 survivors, 3 inverse weights */
    const char *plot;  /* NULL: none */
} ga_ask;

/*
 * Reads the options that both commands have. keep_name: "keep" or "keep-per-rank". std of an `all`: both.
 * GA_ERR_ARGUMENT, GA_ERR_CONFIG.
 */
ga_status ga_ask_read(const ga_call *call, const char *keep_name, ga_ask *ask_out, ga_error *error);

/* "1,2,3" → list[count ≤ max]; `what` names the option in messages. GA_ERR_ARGUMENT. */
ga_status ga_ask_reals(const char *what, const char *text, double min, double max, char separator,
    int32_t most, double *list_out, int32_t *count_out, ga_error *error);

/* The next part of a list: copies what stands before the separator, steps over it; false at the end. */
bool ga_ask_next(const char **at, char separator, char *part, size_t bytes);

/* Which snr2 counts for a standard deviation. */
ga_figure ga_ask_worth(const ga_ask *ask, ga_std_kind std_kind);

/* Whole rows of a rank from a keep. GA_ERR_ARGUMENT where a later decision keeps more, or more than there
 * are. */
ga_status ga_ask_keep_rows(const ga_keep *keep, int32_t rows_per_rank, int32_t *rows_out, ga_error *error);

#endif
