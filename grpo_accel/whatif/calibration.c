#include "grpo_accel/whatif/calibration.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"

/* Sums that a line is fitted from; those of several batches add up. Values are taken from the middle. */
typedef struct sums {
    double rows, groups, freedom;
    double score, reward;                      /* Σ s, Σ r */
    double within_ss, within_sr, within_rr;    /* around the groups' means */
    double between_ss, between_sr, between_rr; /* Σ n s̄², Σ n s̄ r̄, Σ n r̄² */
} sums;

/* A point amid all values: sums of squares around it lose no digits. */
typedef struct middle {
    double score, reward;
} middle;

static middle find_middle(const ga_frame *frame, int32_t stage) {
    const ga_whatif_table *table = frame->table;
    middle m = {0, 0};
    double rows = 0;
    for (int32_t i = 0; i < table->rows; i++) {
        if (!isnan(table->score[stage][i])) {
            rows += 1;
            m.score += (table->score[stage][i] - m.score) / rows;
            m.reward += (table->reward[i] - m.reward) / rows;
        }
    }
    return m;
}

static void add_group(const ga_frame *frame, int32_t stage, int32_t group, middle mid, sums *to) {
    const double *score = frame->table->score[stage], *reward = frame->table->reward;
    const int32_t first = frame->group_start[group], end = frame->group_start[group + 1];
    double n = 0, score_mean = 0, reward_mean = 0;
    for (int32_t i = first; i < end; i++) {
        const int32_t row = frame->row[i];
        if (!isnan(score[row])) {
            n += 1;
            score_mean += (score[row] - mid.score - score_mean) / n;
            reward_mean += (reward[row] - mid.reward - reward_mean) / n;
        }
    }
    if (n == 0) {
        return;
    }
    for (int32_t i = first; i < end; i++) {
        const int32_t row = frame->row[i];
        if (!isnan(score[row])) {
            const double s = score[row] - mid.score - score_mean, r = reward[row] - mid.reward - reward_mean;
            to->within_ss += s * s;
            to->within_sr += s * r;
            to->within_rr += r * r;
        }
    }
    to->rows += n;
    to->groups += 1;
    to->freedom += n - 1;
    to->score += n * score_mean;
    to->reward += n * reward_mean;
    to->between_ss += n * score_mean * score_mean;
    to->between_sr += n * score_mean * reward_mean;
    to->between_rr += n * reward_mean * reward_mean;
}

static void add_sums(const sums *from, sums *to) {
    to->rows += from->rows;
    to->groups += from->groups;
    to->freedom += from->freedom;
    to->score += from->score;
    to->reward += from->reward;
    to->within_ss += from->within_ss;
    to->within_sr += from->within_sr;
    to->within_rr += from->within_rr;
    to->between_ss += from->between_ss;
    to->between_sr += from->between_sr;
    to->between_rr += from->between_rr;
}

static ga_line fit(const sums *s, middle mid) {
    if (!(s->rows > 0)) {
        return (ga_line){mid.reward, 0, 0, (double)NAN};
    }
    const double b = s->within_ss > 0 ? s->within_sr / s->within_ss : 0;
    const double a = (s->reward - b * s->score) / s->rows; /* around the middle */
    const double within = s->within_rr - 2 * b * s->within_sr + b * b * s->within_ss;
    const double offsets = s->between_rr + b * b * s->between_ss - 2 * b * s->between_sr -
                           2 * a * (s->reward - b * s->score) + a * a * s->rows;
    ga_line line = {.b = b, .a = a + mid.reward - b * mid.score, .sigma_r2 = (double)NAN};
    if (s->freedom > 0) {
        line.sigma_r2 = fmax(0, within / s->freedom);
        line.tau2 = fmax(0, (offsets - s->groups * line.sigma_r2) / s->rows);
    }
    return line;
}

/* Each batch from all others: those before it in a running sum, those after it summed from the end. */
static void fit_each(const sums *batches, sums *after, int32_t count, middle mid, ga_line *lines_out) {
    for (int32_t k = count - 2; k >= 0; k--) {
        after[k] = after[k + 1];
        add_sums(&batches[k + 1], &after[k]);
    }
    sums before = {0};
    for (int32_t k = 0; k < count; k++) {
        sums others = before;
        add_sums(&after[k], &others);
        lines_out[k] = fit(count == 1 ? &batches[k] : &others, mid);
        add_sums(&batches[k], &before);
    }
}

ga_status ga_line_fit(const ga_frame *frame, int32_t stage, ga_line *lines_out, ga_error *error) {
    if (frame == NULL || lines_out == NULL || stage < 0 || stage >= frame->table->score_count) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "calibration of decision %d, which the table has not", (int)stage);
    }
    sums *batches = calloc(2 * ga_size(frame->batch_count), sizeof *batches);
    if (batches == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to calibrate %d batches", (int)frame->batch_count);
    }
    const middle mid = find_middle(frame, stage);
    for (int32_t k = 0; k < frame->batch_count; k++) {
        for (int32_t g = frame->group_first[k]; g < frame->group_first[k + 1]; g++) {
            add_group(frame, stage, g, mid, &batches[k]);
        }
    }
    fit_each(batches, batches + frame->batch_count, frame->batch_count, mid, lines_out);
    free(batches);
    return GA_OK;
}
