/* replay: what a policy would have done with rollouts whose rewards are known. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/command/whatif_answer.h"

enum { TITLE_BYTES = 512 };

/* What the call asks for, and what it is answered from. */
typedef struct replaying {
    const char *path;
    ga_ask ask;
    ga_whatif_read_options read;
    ga_whatif_source source;
    ga_whatif_table *table;
    ga_frame frame;
    ga_replay_lines lines;
    ga_case *cases; /* [case_count] */
    int32_t case_count;
} replaying;

/* ---- the call ---- */

static ga_status read_call(const ga_call *call, replaying *r, ga_error *error) {
    r->path = call->arguments.positional[0];
    GA_TRY(ga_ask_read(call, "keep-per-rank", &r->ask, error));
    if (r->ask.keep_count == 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "replay: --keep-per-rank C is missing");
    }
    r->read.score = ga_arguments_value(&call->arguments, "score");
    if (ga_arguments_has(&call->arguments, "steps-total") && !ga_arguments_has(&call->arguments, "step")) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--steps-total' goes with --step; --costs before=SHARE says the same in one");
    }
    const char *at = ga_arguments_value(&call->arguments, "at");
    double steps[GA_WHATIF_STAGES_MAX] = {0};
    if (at != NULL) {
        GA_TRY(
            ga_ask_reals("at", at, 1, 65535, ':', GA_WHATIF_STAGES_MAX, steps, &r->read.stage_count, error));
    }
    for (int32_t k = 0; k < r->read.stage_count; k++) {
        r->read.stages[k] = (int32_t)steps[k];
    }
    return GA_OK;
}

/* A record knows its own costs, but for what the host does after the rollout. */
static void take_costs(replaying *r) {
    ga_ask *ask = &r->ask;
    const ga_whatif_source *source = &r->source;
    if (!source->is_record) {
        return;
    }
    if (ask->before_origin == GA_COST_DEFAULT && source->steps_total > 0) {
        ask->before_count = r->table->score_count;
        ask->before_origin = GA_COST_RECORD;
        for (int32_t k = 0; k < ask->before_count; k++) {
            /* the decision's own step has run, too */
            ask->shares.before[k] = fmin(1, (source->steps[k] + 1.0) / source->steps_total);
        }
    }
    if (ask->signal_origin == GA_COST_DEFAULT && isfinite(source->signal)) {
        ask->signal_origin = GA_COST_RECORD;
        for (int32_t k = 0; k < GA_WHATIF_STAGES_MAX; k++) {
            ask->shares.signal[k] = source->signal;
        }
    }
    if (ask->reward_origin == GA_COST_DEFAULT && isfinite(source->reward)) {
        ask->reward_origin = GA_COST_RECORD;
        ask->shares.reward = source->reward;
    }
}

static ga_status open_table(replaying *r, ga_error *error) {
    GA_TRY(ga_whatif_read(r->path, &r->read, &r->table, &r->source, error));
    if (!r->source.is_record && (r->read.score != NULL || r->read.stage_count > 0)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--%s' is for a record; a table's scores are its columns score, score2, score3",
            r->read.score != NULL ? "score" : "at");
    }
    GA_TRY(ga_frame_make(r->table, &r->frame, error));
    take_costs(r);
    return ga_replay_lines_fit(&r->frame, &r->lines, error);
}

/* ---- cases ---- */

/*
 * Which of `given` numbers is that of a case's k-th decision, which looks at score first + k of the table's:
 * they stand for the scores where there is one for each, for the decisions where there are as many, and a
 * single one stands for all. −1: neither.
 */
static int32_t place_of(int32_t given, int32_t scores, int32_t decisions, int32_t first, int32_t k) {
    return given == scores ? first + k : given == decisions ? k : given <= 1 ? 0 : -1;
}

static ga_status put_costs(
    const replaying *r, const ga_keep *keep, int32_t first, ga_shares *shares, ga_error *error) {
    const ga_ask *ask = &r->ask;
    for (int32_t k = 0; k < keep->stage_count; k++) {
        const int32_t before =
            place_of(ask->before_count, r->table->score_count, keep->stage_count, first, k);
        const int32_t signal =
            place_of(ask->signal_count, r->table->score_count, keep->stage_count, first, k);
        if (before < 0 || signal < 0) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "%d %s given, but there are %d decisions on a table of %d scores: give one for each "
                "decision, "
                "or one for each score",
                (int)(before < 0 ? ask->before_count : ask->signal_count),
                before < 0 ? "steps or shares before" : "shares signal", (int)keep->stage_count,
                (int)r->table->score_count);
        }
        shares->before[k] = ask->shares.before[before];
        shares->signal[k] = ask->shares.signal[signal];
    }
    return GA_OK;
}

static ga_status add_case(replaying *r, ga_std_kind std_kind, ga_policy_kind policy, const ga_keep *keep,
    int32_t rows, ga_error *error) {
    ga_case *c = &r->cases[r->case_count++];
    *c = (ga_case){
        .options = r->ask.options, .shares = r->ask.shares, .worth = ga_ask_worth(&r->ask, std_kind)};
    c->options.std_kind = std_kind;
    c->options.policy = policy;
    c->options.stage_count = keep->stage_count;
    if (keep->stage_count > r->table->score_count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "%d decisions, but the table has %d scores: add columns score2, score3, "
            "or of a record --at STEP:STEP",
            (int)keep->stage_count, (int)r->table->score_count);
    }
    if (keep->stage_count > 1 && r->ask.before_count < keep->stage_count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "%d decisions: say after how many steps each, as in --step 5:8", (int)keep->stage_count);
    }
    /* one decision of a table with several scores looks at the last one */
    const int32_t first = r->table->score_count - keep->stage_count;
    for (int32_t k = 0; k < keep->stage_count; k++) {
        c->options.score[k] = first + k;
    }
    GA_TRY(put_costs(r, keep, first, &c->shares, error));
    return ga_ask_keep_rows(keep, rows, c->options.keep_per_rank, error);
}

static ga_status list_cases(replaying *r, ga_error *error) {
    const ga_ask *ask = &r->ask;
    int32_t ranks = 0, rows = 0;
    GA_TRY(ga_frame_layout(&r->frame, ask->options.ranks, ask->options.deal, &ranks, &rows, error));
    if (r->table->rank != NULL && !ask->options.deal && ask->options.ranks > ranks) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "--ranks %d, but the rank column has %d: leave --ranks out, or use --deal to deal rows anew",
            (int)ask->options.ranks, (int)ranks);
    }
    r->cases = calloc(
        (size_t)ask->std_count * (size_t)ask->policy_count * (size_t)ask->keep_count, sizeof *r->cases);
    if (r->cases == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "replay: out of memory");
    }
    for (int32_t s = 0; s < ask->std_count; s++) {
        for (int32_t p = 0; p < ask->policy_count; p++) {
            for (int32_t k = 0; k < ask->keep_count; k++) {
                GA_TRY(add_case(r, ask->stds[s], ask->policies[p], &ask->keeps[k], rows, error));
            }
        }
    }
    return GA_OK;
}

static ga_status run_cases(replaying *r, ga_error *error) {
    ga_within rho[GA_WHATIF_STAGES_MAX];
    for (int32_t k = 0; k < r->table->score_count; k++) {
        GA_TRY(ga_replay_rho(&r->frame, k, r->ask.options.seed, &rho[k], error));
    }
    for (int32_t i = 0; i < r->case_count; i++) {
        GA_TRY(ga_case_run(&r->frame, &r->lines, rho, &r->cases[i], error));
    }
    return GA_OK;
}

/* ---- the answer ---- */

static ga_answer_frame frame_of(const replaying *r) {
    return (ga_answer_frame){.rows = r->frame.count,
        .groups = r->frame.group_count,
        .batches = r->frame.batch_count,
        .calibrated_on_itself = r->frame.batch_count == 1};
}

static void answer_json(const replaying *r) {
    const ga_answer_frame frame = frame_of(r);
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    if (r->case_count == 1) {
        ga_answer_members(&json, &r->ask, &r->cases[0], &frame);
    } else {
        ga_json_array(&json, "results");
        for (int32_t i = 0; i < r->case_count; i++) {
            ga_json_object(&json, NULL);
            ga_answer_members(&json, &r->ask, &r->cases[i], &frame);
            ga_json_end(&json);
        }
        ga_json_end(&json);
    }
    ga_json_text(&json, "table", r->path);
    ga_json_text(&json, "score", r->source.score);
    ga_json_integer(&json, "batches_skipped", r->source.skipped_batches);
    ga_json_end(&json);
}

static void answer_people(const replaying *r) {
    const ga_case *first = &r->cases[0];
    const ga_replay_report *report = &first->report;
    const ga_within *rho = &first->rho[first->options.stage_count - 1];
    (void)printf(
        "%s: %d rows, %d groups, %d batches on %d ranks x %d rows; %s within groups: Spearman %.3f (%.3f to "
        "%.3f)\n",
        r->path, (int)r->frame.count, (int)r->frame.group_count, (int)r->frame.batch_count,
        (int)report->ranks, (int)report->rows_per_rank, r->source.score, rho->value, rho->low, rho->high);
    if (r->source.skipped_batches > 0) {
        (void)printf("%lld batches were left out: not all of their rows have scores and rewards\n",
            (long long)r->source.skipped_batches);
    }
    if (report->left_out > 0 || report->unscored > 0) {
        (void)printf("%lld rows stood on no rank, %lld have no score\n", (long long)report->left_out,
            (long long)report->unscored);
    }
    if (report->short_batches > 0) {
        (void)printf(
            "%lld of %d batches have so few rows a rank that nothing of them is stopped, yet each counts in "
            "every mean as any other\n",
            (long long)report->short_batches, (int)r->frame.batch_count);
    }
    if (isnan(rho->value)) {
        (void)puts("no Spearman: it takes groups of two scored rows with unequal rewards");
    }
    if (r->frame.batch_count == 1) {
        (void)puts("one batch: predictions are calibrated on the batch itself and look better than they are");
    }
    (void)printf(
        "costs: a stopped row has run %.3g of the steps, looking costs %.3g and decoding and scoring %.3g of "
        "a row's denoising, %.3g of an iteration comes after\n\n",
        first->shares.before[first->options.stage_count - 1], first->shares.signal[0], first->shares.reward,
        first->shares.after);
    ga_answer_heading("");
    for (int32_t i = 0; i < r->case_count; i++) {
        ga_answer_line("", &r->cases[i]);
    }
}

static ga_status draw(const replaying *r, ga_error *error) {
    if (r->ask.plot == NULL) {
        return GA_OK;
    }
    const size_t count = (size_t)r->case_count;
    const ga_case **list = calloc(2 * count, sizeof *list);
    if (list == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "replay: out of memory");
    }
    ga_answer_panel panels[2];
    int32_t used = 0;
    for (int32_t s = 0; s < r->ask.std_count; s++) {
        ga_answer_panel *panel = &panels[used];
        *panel = (ga_answer_panel){.cases = list + (size_t)used * count};
        used++;
        (void)snprintf(panel->title, sizeof panel->title, "advantages divided by %s",
            r->ask.stds[s] == GA_STD_GROUP ? "the group's own deviation" : "one deviation for all");
        for (int32_t i = 0; i < r->case_count; i++) {
            if (r->cases[i].options.std_kind == r->ask.stds[s]) {
                panel->cases[panel->count++] = &r->cases[i];
            }
        }
    }
    char title[TITLE_BYTES];
    const char *name = strrchr(r->path, '/');
    (void)snprintf(
        title, sizeof title, "replay of %.200s", name != NULL && name[1] != '\0' ? name + 1 : r->path);
    const ga_status status = ga_answer_picture(r->ask.plot, title, panels, used, error);
    free(list);
    return status;
}

ga_exit ga_command_replay(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    replaying r = {.path = NULL};
    ga_status status = read_call(call, &r, &error);
    if (status == GA_OK) {
        status = open_table(&r, &error);
    }
    if (status == GA_OK) {
        status = list_cases(&r, &error);
    }
    if (status == GA_OK) {
        status = run_cases(&r, &error);
    }
    if (status == GA_OK) {
        status = draw(&r, &error);
    }
    ga_exit code = GA_EXIT_DONE;
    if (status != GA_OK) {
        code = ga_command_fail(call, &error);
    } else if (call->json) {
        answer_json(&r);
    } else if (!call->quiet) {
        answer_people(&r);
    }
    free(r.cases);
    ga_replay_lines_free(&r.lines);
    ga_frame_free(&r.frame);
    ga_whatif_table_free(&r.table);
    return code;
}
