/* What `evaluate` found: computed by evaluate.c, written by evaluate_json.c and evaluate_page.c. */
#ifndef GA_COMMAND_EVALUATE_H
#define GA_COMMAND_EVALUATE_H

#include "grpo_accel/command/json.h"
#include "grpo_accel/session/lessons.h"
#include "probe/train/evaluate.h"
#include "probe/train/judged.h"
#include "probe/train/learning.h"

#define GA_EVALUATED_LINES_MAX 64
#define GA_EVALUATED_NAME_BYTES 64
#define GA_LEARNING_POINTS 4

/* One line of a table by step, scorer or category. */
typedef struct ga_evaluated_line {
    char name[GA_EVALUATED_NAME_BYTES];
    ga_within spearman;
} ga_evaluated_line;

typedef struct ga_evaluated_lines {
    int32_t count;
    ga_evaluated_line lines[GA_EVALUATED_LINES_MAX];
} ga_evaluated_lines;

/* A predictor beside the probe. */
typedef struct ga_evaluated_rival {
    const char *key; /* "ridge", "random", "prompt_mean", "against", or an input's name: for programs */
    char name[GA_EVALUATED_NAME_BYTES];
    ga_baseline baseline;
} ga_evaluated_rival;

/* Has a probe learned from the rows that it is judged on? */
typedef enum ga_sample { GA_SAMPLE_UNKNOWN, GA_SAMPLE_OUT, GA_SAMPLE_IN } ga_sample;

/* Names a group for people. */
typedef struct ga_evaluated_group {
    char prompt_hash[33];
    char prompt[160]; /* its beginning, where text was logged */
    uint32_t update;
} ga_evaluated_group;

typedef struct ga_evaluated {
    /* the question */
    const char *probe_path, *data, *against_path; /* against_path NULL: none */
    double gate;
    bool audited_only; /* pruned rows are there, so only rows kept by chance are honest */
    /* the answer */
    ga_sample in_sample;
    int64_t left_out_rows;     /* that would be judged, had the probe not learned from them */
    int64_t learned_rows;      /* that are judged though it has */
    ga_sample other_in_sample; /* of the probe of against_path */
    ga_probe_info probe;
    ga_evaluation figures;
    ga_within by_input[GA_INPUT_COUNT];            /* of its first number alone; groups 0: none */
    ga_evaluated_rival rivals[GA_INPUT_COUNT + 4]; /* ridge, single inputs, another probe, … */
    int32_t rival_count;
    ga_evaluated_lines by_step, by_target, by_category;
    ga_evaluated_lines by_head; /* each scorer's reward by the probe's own prediction of it */
    ga_evaluated_group worst[GA_WORST_MAX];
    bool has_ceiling;
    ga_ceiling ceiling;
    int32_t learning_count; /* 0: not asked for */
    ga_learning_point learning[GA_LEARNING_POINTS];
} ga_evaluated;

/* Is the lower end of the within-group Spearman above the gate? */
bool ga_evaluated_is_above_gate(const ga_evaluated *e);

/* The whole answer as one JSON document. */
void ga_evaluated_as_json(const ga_evaluated *e, FILE *out);

/* The same as one HTML page that needs nothing else. */
void ga_evaluated_as_page(const ga_evaluated *e, FILE *out);

/*
 * The rewards that count: reward [rows of the dataset], NaN for rows that the probe has learned from unless
 * all_rows. Fills found->in_sample and the counts of rows beside it. GA_ERR_DATA where no row is left,
 * GA_ERR_MEMORY.
 */
ga_status ga_evaluated_choose_rows(const ga_probe *probe, const ga_lessons *lessons, bool all_rows,
    float *reward, ga_evaluated *found, ga_error *error);

/* Has another probe learned from one of the judged rows? GA_ERR_MEMORY. */
ga_status ga_evaluated_sample_of(const ga_probe *other, const ga_lessons *lessons, const ga_judged *judged,
    ga_sample *sample_out, ga_error *error);

/* A CSV file with a line for each row that was judged, group after group. GA_ERR_IO. */
ga_status ga_evaluated_write_rows(
    const char *path, const ga_judged *judged, const ga_lessons *lessons, ga_error *error);

#endif
