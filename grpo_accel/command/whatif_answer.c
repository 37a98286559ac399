#include "grpo_accel/command/whatif_answer.h"

#include <float.h>
#include <math.h>

static const char *const estimators[4] = {"shrunk", "difference", "survivors", "inverse"};

const char *ga_answer_pays(ga_pays pays) {
    return pays == GA_PAYS_YES ? "yes" : pays == GA_PAYS_UNCLEAR ? "unclear" : "no";
}

const char *ga_answer_policy(ga_policy_kind kind) {
    const ga_policy *policy = NULL;
    return ga_policy_find(kind, &policy, NULL) == GA_OK ? policy->name : "?";
}

/* ---- JSON ---- */

static void write_interval(ga_json *json, const char *key, double low, double high) {
    ga_json_array(json, key);
    ga_json_real(json, NULL, low);
    ga_json_real(json, NULL, high);
    ga_json_end(json);
}

static void write_rho(ga_json *json, const char *key, const ga_within *rho) {
    ga_json_object(json, key);
    ga_json_real(json, "value", rho->value);
    write_interval(json, "ci95", rho->low, rho->high);
    if (rho->groups < 2) {
        ga_json_text(json, "ci95_missing",
            rho->groups == 1 ? "one group: an interval is drawn over groups, and takes two at least"
                             : "no group has two scored rows with different rewards");
    }
    ga_json_end(json);
}

/* Figures first … first + count − 1 as an object by estimator. */
static void write_figures(ga_json *json, const char *key, const ga_replay_report *r, int first, int count) {
    ga_json_object(json, key);
    for (int k = 0; k < count; k++) {
        ga_json_real(json, estimators[k], r->value[first + k]);
    }
    ga_json_end(json);
}

static void write_intervals_of(
    ga_json *json, const char *key, const ga_replay_report *r, int first, int count) {
    ga_json_object(json, key);
    for (int k = 0; k < count; k++) {
        write_interval(json, estimators[k], r->low[first + k], r->high[first + k]);
    }
    ga_json_end(json);
}

static void write_one_interval(ga_json *json, const char *key, const ga_replay_report *r, ga_figure figure) {
    write_interval(json, key, r->low[figure], r->high[figure]);
}

static void write_intervals(ga_json *json, const ga_replay_report *r) {
    ga_json_object(json, "intervals");
    write_one_interval(json, "kept_energy", r, GA_FIGURE_ENERGY);
    write_intervals_of(json, "snr2", r, GA_FIGURE_SNR2, 4);
    write_intervals_of(json, "snr2_host_sigma", r, GA_FIGURE_HOST, 4);
    write_intervals_of(json, "baseline_rmse_sigma", r, GA_FIGURE_RMSE, 3);
    write_intervals_of(json, "baseline_shift_sigma", r, GA_FIGURE_SHIFT, 3);
    write_one_interval(json, "kept_top_quarter", r, GA_FIGURE_TOP);
    write_one_interval(json, "kept_bottom_quarter", r, GA_FIGURE_BOTTOM);
    ga_json_end(json);
}

static void write_reals(ga_json *json, const char *key, const double *values, int32_t count) {
    ga_json_array(json, key);
    for (int32_t k = 0; k < count; k++) {
        ga_json_real(json, NULL, values[k]);
    }
    ga_json_end(json);
}

/* Rows that a rank keeps: as asked, or the mean of what came of it where a threshold finds the number itself.
 */
static void write_keep_of(ga_json *json, const char *key, const ga_case *c, int32_t stage) {
    if (c->options.policy == GA_POLICY_THRESHOLD) {
        ga_json_real(json, key, c->report.going_share[stage] * c->report.rows_per_rank);
    } else {
        ga_json_integer(json, key, c->options.keep_per_rank[stage]);
    }
}

static void write_keep(ga_json *json, const ga_case *c) {
    if (c->options.stage_count == 1) {
        write_keep_of(json, "keep_per_rank", c, 0);
        return;
    }
    ga_json_array(json, "keep_per_rank");
    for (int32_t k = 0; k < c->options.stage_count; k++) {
        write_keep_of(json, NULL, c, k);
    }
    ga_json_end(json);
}

static const char *origin_name(ga_cost_origin origin) {
    static const char *const names[] = {"default", "record", "recipe", "given"}; /* as in ga_cost_origin */
    return names[origin];
}

static void write_costs(ga_json *json, const ga_ask *ask, const ga_case *c) {
    ga_json_object(json, "costs");
    write_reals(json, "before", c->shares.before, c->options.stage_count);
    write_reals(json, "signal", c->shares.signal, c->options.stage_count);
    ga_json_real(json, "reward", c->shares.reward);
    ga_json_real(json, "after", c->shares.after);
    ga_json_object(json, "from");
    ga_json_text(json, "before", origin_name(ask->before_origin));
    ga_json_text(json, "signal", origin_name(ask->signal_origin));
    ga_json_text(json, "reward", origin_name(ask->reward_origin));
    ga_json_text(json, "after", origin_name(ask->after_origin));
    ga_json_end(json);
    ga_json_end(json);
}

static void write_worth(ga_json *json, const ga_ask *ask, const ga_case *c) {
    ga_json_real(json, "cost_ratio", c->cost);
    ga_json_object(json, "break_even");
    ga_json_real(json, "kept_energy", c->cost);
    ga_json_real(json, "rho", c->break_even_rho);
    ga_json_end(json);
    ga_json_object(json, "speed_up");
    ga_json_real(json, "value", c->gain);
    write_interval(json, "ci95", c->gain_low, c->gain_high);
    ga_json_end(json);
    ga_json_text(json, "speed_up_of", estimators[ask->estimator]);
    ga_json_text(json, "pays", ga_answer_pays(c->pays));
    write_costs(json, ask, c);
}

static void write_setting(ga_json *json, const ga_case *c, const ga_answer_frame *frame) {
    const ga_replay_options *o = &c->options;
    const ga_replay_report *r = &c->report;
    ga_json_integer(json, "rows_per_rank", r->rows_per_rank);
    ga_json_real(json, "keep_share", r->keep_share);
    ga_json_integer(json, "max_group", o->max_group);
    ga_json_real(json, "audit", o->audit_share);
    ga_json_integer(json, "seed", (int64_t)o->seed);
    ga_json_integer(json, "repeat", o->repeat);
    ga_json_text(json, "calibrated_on", frame->calibrated_on_itself ? "itself" : "other batches");
    ga_json_integer(json, "batches_short", r->short_batches);
    ga_json_integer(json, "rows_left_out", r->left_out);
    ga_json_integer(json, "rows_unscored", r->unscored);
    ga_json_integer(json, "groups_below_floor", r->lowered_floors);
    ga_json_integer(json, "groups_above_cap", r->raised_caps);
}

void ga_answer_members(
    ga_json *json, const ga_ask *ask, const ga_case *answered, const ga_answer_frame *frame) {
    const ga_replay_options *o = &answered->options;
    const ga_replay_report *r = &answered->report;
    ga_json_text(json, "policy", ga_answer_policy(o->policy));
    ga_json_text(json, "std", o->std_kind == GA_STD_GROUP ? "group" : "global");
    ga_json_integer(json, "ranks", r->ranks);
    write_keep(json, answered);
    ga_json_integer(json, "min_group", o->min_group);
    ga_json_integer(json, "rows", frame->rows);
    ga_json_integer(json, "groups", frame->groups);
    ga_json_integer(json, "batches", frame->batches);
    write_rho(json, "rho_within", &answered->rho[o->stage_count - 1]);
    ga_json_real(json, "kept_energy", r->value[GA_FIGURE_ENERGY]);
    write_figures(json, "snr2", r, GA_FIGURE_SNR2, 4);
    write_figures(json, "baseline_rmse_sigma", r, GA_FIGURE_RMSE, 3);
    write_figures(json, "baseline_shift_sigma", r, GA_FIGURE_SHIFT, 3);
    ga_json_real(json, "kept_top_quarter", r->value[GA_FIGURE_TOP]);
    ga_json_real(json, "kept_bottom_quarter", r->value[GA_FIGURE_BOTTOM]);
    write_figures(json, "snr2_host_sigma", r, GA_FIGURE_HOST, 4);
    write_intervals(json, r);
    write_worth(json, ask, answered);
    write_setting(json, answered, frame);
    if (o->stage_count > 1) {
        ga_json_array(json, "rho_by_decision");
        for (int32_t k = 0; k < o->stage_count; k++) {
            write_rho(json, NULL, &answered->rho[k]);
        }
        ga_json_end(json);
    }
}

/* ---- the table ---- */

void ga_answer_heading(const char *label) {
    (void)printf("%-26s %-9s %-6s %-7s %-21s %-23s %-20s %-6s %s\n", label, "policy", "std", "keep",
        "kept energy (95 %)", "snr2 shr/diff/surv/inv", "baseline rmse, sigma", "cost",
        "worth over cost (95 %)");
}

void ga_answer_line(const char *label, const ga_case *answered) {
    const ga_replay_options *o = &answered->options;
    const double *v = answered->report.value;
    char keep[32];
    int used = snprintf(keep, sizeof keep, "%d", (int)o->keep_per_rank[0]);
    for (int32_t k = 1; k < o->stage_count && used < (int)sizeof keep; k++) {
        used += snprintf(keep + used, sizeof keep - (size_t)used, ":%d", (int)o->keep_per_rank[k]);
    }
    (void)printf(
        "%-26s %-9s %-6s %-7s %.3f (%.3f to %.3f)  %.2f / %.2f / %.2f / %.2f  %.2f / %.2f / %.2f   %.3f  "
        "%.2f (%.2f to %.2f) %s\n",
        label, ga_answer_policy(o->policy), o->std_kind == GA_STD_GROUP ? "group" : "global", keep,
        v[GA_FIGURE_ENERGY], answered->report.low[GA_FIGURE_ENERGY], answered->report.high[GA_FIGURE_ENERGY],
        v[GA_FIGURE_SNR2], v[GA_FIGURE_SNR2 + 1], v[GA_FIGURE_SNR2 + 2], v[GA_FIGURE_SNR2 + 3],
        v[GA_FIGURE_RMSE], v[GA_FIGURE_RMSE + 1], v[GA_FIGURE_RMSE + 2], answered->cost, answered->gain,
        answered->gain_low, answered->gain_high, ga_answer_pays(answered->pays));
}
