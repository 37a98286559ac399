#include "grpo_accel/whatif/sweep.h"

#include <math.h>

#include "grpo_accel/estimate/breakeven.h"

int32_t ga_case_keep(double share, int32_t rows_per_rank) {
    const double rows = round(share * rows_per_rank);
    return rows < 1 ? 1 : rows > rows_per_rank ? rows_per_rank : (int32_t)rows;
}

/* Kept shares of the begun rows after each decision. */
static void find_shares(const ga_case *c, double *keep) {
    for (int32_t k = 0; k < c->options.stage_count; k++) {
        keep[k] = c->report.going_share[k];
    }
}

static ga_pays judge(double low, double high) {
    if (isnan(low) || isnan(high)) {
        return GA_PAYS_UNCLEAR;
    }
    return low > 1 ? GA_PAYS_YES : high > 1 ? GA_PAYS_UNCLEAR : GA_PAYS_NO;
}

ga_status ga_case_run(const ga_frame *frame, const ga_replay_lines *lines, const ga_within *rho,
    ga_case *to_run, ga_error *error) {
    double keep[GA_WHATIF_STAGES_MAX] = {0};
    GA_TRY(ga_replay_run(frame, lines, &to_run->options, &to_run->report, error));
    const int32_t stages = to_run->options.stage_count;
    for (int32_t k = 0; k < stages; k++) {
        to_run->rho[k] = rho[to_run->options.score[k]];
    }
    find_shares(to_run, keep);
    const ga_replay_report *report = &to_run->report;
    to_run->cost = ga_shares_cost(&to_run->shares, stages, keep);
    to_run->gain = report->value[to_run->worth] / to_run->cost;
    to_run->gain_low = report->low[to_run->worth] / to_run->cost;
    to_run->gain_high = report->high[to_run->worth] / to_run->cost;
    to_run->break_even_rho = ga_break_even_rho(to_run->cost, keep[stages - 1]);
    to_run->pays = judge(to_run->gain_low, to_run->gain_high);
    return GA_OK;
}

static ga_status run_all(const ga_frame *frame, const ga_replay_lines *lines, uint64_t seed, ga_case *cases,
    int32_t count, ga_error *error) {
    ga_within rho[GA_WHATIF_SCORES_MAX];
    for (int32_t k = 0; k < frame->table->score_count; k++) {
        GA_TRY(ga_replay_rho(frame, k, seed, &rho[k], error));
    }
    for (int32_t i = 0; i < count; i++) {
        cases[i].options.repeat = 1;
        GA_TRY(ga_case_run(frame, lines, rho, &cases[i], error));
    }
    return GA_OK;
}

ga_status ga_cases_run_on_synthetic(
    const ga_synthetic *world, int32_t repeat, ga_case *cases, int32_t count, ga_error *error) {
    ga_synthetic many = *world;
    if (repeat < 1 || (int64_t)world->batches * repeat > GA_WHATIF_ROWS_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a world repeated %d times", (int)repeat);
    }
    many.batches *= repeat;
    ga_whatif_table *table = NULL;
    ga_frame frame = {0};
    ga_replay_lines lines = {{NULL}};
    GA_TRY(ga_synthetic_make(&many, &table, error));
    ga_status status = ga_frame_make(table, &frame, error);
    if (status == GA_OK) {
        status = ga_replay_lines_fit(&frame, &lines, error);
    }
    if (status == GA_OK) {
        status = run_all(&frame, &lines, world->seed, cases, count, error);
    }
    ga_replay_lines_free(&lines);
    ga_frame_free(&frame);
    ga_whatif_table_free(&table);
    return status;
}
