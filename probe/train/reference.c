/* What a training leaves in the probe to compare later rows with. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "probe/train/score.h"
#include "probe/train/trainer.h"

enum {
    REFERENCE_ROWS = 512,    /* of a step, the newest, of all processes together */
    ROWS_OF_A_PROMPT_MAX = 8 /* independent ones that a prompt counts for at most */
};

/* Room for the figures of one step. Every process numbers the same rows and fills the places of its own, so
 * that a sum brings all of them together. */
typedef struct sample {
    int64_t own[REFERENCE_ROWS];   /* rows that this process brings */
    int64_t place[REFERENCE_ROWS]; /* of each of them among all processes' */
    int64_t own_count;
    float score[REFERENCE_ROWS], level[REFERENCE_ROWS]; /* of own rows */
    double values[GA_REFERENCE_COLUMNS * REFERENCE_ROWS];
    double present[REFERENCE_ROWS]; /* 1: the place is filled */
    double prompt[REFERENCE_ROWS];  /* bits of its key that a double holds */
    int32_t group[REFERENCE_ROWS];  /* number of its prompt, 0 … group_count − 1 */
    int32_t group_count;
    float column[REFERENCE_ROWS];
} sample;

/* Newest rows of the held-out prompts that were seen at `step`: pruned rows too, since later rows are
 * compared before they are chosen from. */
static void find_rows(
    const ga_trainer *t, int32_t step, const uint64_t *prompts, int32_t prompt_count, sample *s) {
    const ga_dataset *dataset = t->dataset;
    int64_t place = 0;
    s->own_count = 0;
    for (int64_t row = dataset->rows - 1; row >= 0 && place < REFERENCE_ROWS; row--) {
        const bool here = dataset->step == NULL || dataset->step[row] == step;
        const bool own = dataset->mine == NULL || dataset->mine[row] != 0;
        const bool complete = dataset->complete == NULL || dataset->complete[row] != 0;
        if (!here || !complete || !ga_prompts_have(prompts, prompt_count, dataset->prompt[row])) {
            continue;
        }
        if (own) {
            s->own[s->own_count] = row;
            s->place[s->own_count++] = place;
        }
        place++;
    }
}

static double prompt_bits(uint64_t key) {
    return (double)(key >> 12);
}

static void put_figures(const ga_trainer *t, const ga_half *features, int64_t own, sample *s) {
    const ga_calibration *calibration = &t->probe->info.calibration;
    float figures[GA_INPUT_COUNT];
    const int64_t place = s->place[own];
    ga_reference_pool(t->dataset->schema, features, figures);
    for (int32_t input = 0; input < GA_INPUT_COUNT; input++) {
        s->values[(1 + input) * REFERENCE_ROWS + place] = (double)figures[input];
    }
    s->values[place] =
        calibration->intercept + calibration->slope * (double)s->score[own] + (double)s->level[own];
    s->present[place] = 1.0;
    s->prompt[place] = prompt_bits(t->dataset->prompt[s->own[own]]);
}

/* Numbers the prompts of the places that are filled. */
static void number_prompts(sample *s) {
    s->group_count = 0;
    for (int32_t i = 0; i < REFERENCE_ROWS; i++) {
        int32_t same = 0;
        while (same < i && !(s->present[same] > 0.0 && s->prompt[same] >= s->prompt[i] &&
                               s->prompt[same] <= s->prompt[i])) {
            same++;
        }
        s->group[i] = same < i ? s->group[same] : s->group_count;
        s->group_count += same == i && s->present[i] > 0.0;
    }
}

/* Sums of a figure over the rows of one prompt. */
typedef struct prompt_sums {
    double rows, sum, squares;
} prompt_sums;

/*
 * How many independent rows a figure's rows are worth: n / (1 + (m − 1)·r) with r the correlation of rows of
 * a prompt by the analysis of variance (Fisher; Kish, "Survey Sampling", 1965), m = Σ n_g²/n; a prompt counts
 * for at most ROWS_OF_A_PROMPT_MAX, since r of few prompts is not known well, and one prompt alone for one
 * row.
 */
static double effective_rows(const sample *s, const double *values) {
    prompt_sums groups[REFERENCE_ROWS] = {{0}};
    for (int32_t i = 0; i < REFERENCE_ROWS; i++) {
        if (s->present[i] > 0.0 && isfinite(values[i])) {
            prompt_sums *group = &groups[s->group[i]];
            group->rows += 1;
            group->sum += values[i];
            group->squares += values[i] * values[i];
        }
    }
    double n = 0, k = 0, sum = 0, squares = 0, between = 0, size = 0;
    for (int32_t g = 0; g < s->group_count; g++) {
        if (groups[g].rows > 0) {
            n += groups[g].rows;
            k += 1;
            sum += groups[g].sum;
            squares += groups[g].squares;
            between += groups[g].sum * groups[g].sum / groups[g].rows;
            size += groups[g].rows * groups[g].rows;
        }
    }
    if (k < 2 || n <= k) {
        return k;
    }
    const double within = fmax(0.0, squares - between) / (n - k);
    const double among = fmax(0.0, between - sum * sum / n) / (k - 1);
    const double rows_each = (n - size / n) / (k - 1), total = among + (rows_each - 1) * within;
    const double alike = total > 0 ? fmax(0.0, (among - within) / total) : 1.0;
    return fmin(n / (1 + (size / n - 1) * alike), ROWS_OF_A_PROMPT_MAX * k);
}

static ga_status fill_sample(ga_trainer *t, sample *s, ga_error *error) {
    const int64_t width = t->dataset->schema->values_per_row;
    memset(s->values, 0, sizeof s->values);
    memset(s->present, 0, sizeof s->present);
    memset(s->prompt, 0, sizeof s->prompt);
    GA_TRY(ga_dataset_score(t->probe, t->dataset, s->own, s->own_count, s->score, s->level, error));
    for (int64_t first = 0; first < s->own_count; first += GA_TRAINER_BLOCK_ROWS) {
        const int64_t left = s->own_count - first;
        const int64_t block = left < GA_TRAINER_BLOCK_ROWS ? left : GA_TRAINER_BLOCK_ROWS;
        GA_TRY(ga_dataset_features(t->dataset, s->own + first, block, t->features, error));
        for (int64_t i = 0; i < block; i++) {
            put_figures(t, t->features + i * width, first + i, s);
        }
    }
    GA_TRY(ga_reduce_sum(&t->callbacks.reduce, s->present, REFERENCE_ROWS, error));
    GA_TRY(ga_reduce_sum(&t->callbacks.reduce, s->prompt, REFERENCE_ROWS, error));
    return ga_reduce_sum(&t->callbacks.reduce, s->values, GA_REFERENCE_COLUMNS * REFERENCE_ROWS, error);
}

static ga_status refer_step(
    ga_trainer *t, int32_t place, const uint64_t *prompts, int32_t prompt_count, sample *s, ga_error *error) {
    ga_reference *reference = &t->probe->reference;
    reference->steps[place] = t->options->steps[place];
    find_rows(t, reference->steps[place], prompts, prompt_count, s);
    GA_TRY(fill_sample(t, s, error));
    number_prompts(s);
    for (int32_t column = 0; column < GA_REFERENCE_COLUMNS; column++) {
        int64_t count = 0;
        for (int32_t i = 0; i < REFERENCE_ROWS; i++) {
            if (s->present[i] > 0.0) {
                s->column[count++] = (float)s->values[column * REFERENCE_ROWS + i];
            }
        }
        ga_reference_column *into = &reference->columns[place][column];
        *into = ga_reference_read(s->column, count);
        const double rows = effective_rows(s, s->values + (int64_t)column * REFERENCE_ROWS);
        into->rows = into->rows > 0.0F ? fmaxf(1.0F, (float)rows) : 0.0F;
    }
    return GA_OK;
}

ga_status ga_trainer_refer(ga_trainer *t, ga_error *error) {
    uint64_t *prompts = NULL;
    int32_t prompt_count = 0;
    GA_TRY(ga_part_prompts(&t->split.held, &prompts, &prompt_count, error));
    sample *s = malloc(sizeof *s);
    ga_status status = s != NULL ? GA_OK : GA_FAIL(error, GA_ERR_MEMORY, "no memory for a reference");
    for (int32_t i = 0; i < t->options->step_count && status == GA_OK; i++) {
        status = refer_step(t, i, prompts, prompt_count, s, error);
    }
    if (status == GA_OK) {
        t->probe->reference.step_count = t->options->step_count;
    }
    free(s);
    free(prompts);
    return status;
}
