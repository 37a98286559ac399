#include "grpo_accel/estimate/guard.h"

#include <math.h>
#include <stdio.h>

const char *ga_guard_answer_name(ga_guard_answer answer) {
    static const char *const names[] = {"pays", "no probe", "gathering", "no cost", "shared state",
        "costs more", "loses extremes", "uncorrelated"};
    return answer >= GA_GUARD_PAYS && answer <= GA_GUARD_UNCORRELATED ? names[answer] : "unknown";
}

/* ---- one option ---- */

/* An option's figures, as they are compared. */
typedef struct weighed {
    int32_t option; /* −1: none */
    double cost_ratio, gain, gain_low;
} weighed;

static weighed weigh(const ga_option *options, int32_t option, const ga_seconds *seconds) {
    const ga_option *o = &options[option];
    const double cost = ga_cost_ratio(seconds, &o->course);
    return (weighed){option, cost, o->energy.snr2 / cost, o->energy.snr2_low / cost};
}

static bool is_measured(const ga_guard_options *guard, const ga_option *option) {
    return option->energy.parts >= guard->parts_min && isfinite(option->energy.snr2_low);
}

static void describe(const ga_course *course, char *text, size_t bytes) {
    size_t used = 0;
    for (int32_t i = 0; i < course->stage_count && used < bytes; i++) {
        const int written = snprintf(text + used, bytes - used, "%skeeping %.2f after step %d",
            i > 0 ? ", " : "", course->keep[i], (int)course->step[i]);
        used += written > 0 ? (size_t)written : 0;
    }
}

/* The best of the options that were measured; allowed_only: and that lose few enough extremes. */
static weighed best_of(const ga_guard_options *guard, const ga_guard_evidence *evidence,
    const ga_option *options, int32_t count, int32_t current, bool allowed_only) {
    weighed best = {-1, (double)NAN, (double)NAN, -(double)INFINITY};
    for (int32_t i = 0; i < count; i++) {
        const bool allowed = ga_risk_allows(&evidence->risk, &options[i].losses);
        if (!is_measured(guard, &options[i]) || (allowed_only && !allowed)) {
            continue;
        }
        const weighed next = weigh(options, i, &evidence->seconds);
        /* the one that prunes now stays unless another is clearly better */
        const double bonus = i == current ? 1.0 + guard->enter_margin : 1.0;
        const double best_bonus =
            best.option >= 0 && best.option == current ? 1.0 + guard->enter_margin : 1.0;
        if (next.gain_low * bonus > best.gain_low * best_bonus) {
            best = next;
        }
    }
    return best;
}

/* ---- the verdict ---- */

static ga_verdict answer_with(ga_guard_answer answer, const weighed *weight, const ga_option *options) {
    ga_verdict verdict = {.answer = answer,
        .option = weight->option,
        .cost_ratio = weight->cost_ratio,
        .break_even_rho = (double)NAN,
        .gain = weight->gain,
        .gain_low = weight->option >= 0 ? weight->gain_low : (double)NAN,
        .loss_bound = (double)NAN};
    if (weight->option >= 0) {
        const ga_option *option = &options[weight->option];
        verdict.break_even_rho =
            ga_break_even_rho(weight->cost_ratio, option->course.keep[option->course.stage_count - 1]);
        verdict.loss_bound = ga_risk_bound(&option->losses);
    }
    return verdict;
}

/* The option that costs least. */
static weighed cheapest(const ga_guard_evidence *evidence, const ga_option *options, int32_t count) {
    weighed best = {-1, (double)NAN, (double)NAN, (double)NAN};
    for (int32_t i = 0; i < count; i++) {
        const weighed next = weigh(options, i, &evidence->seconds);
        if (isfinite(next.cost_ratio) && !(next.cost_ratio >= best.cost_ratio)) {
            best = next;
        }
    }
    return best;
}

/* What forbids pruning whatever the predictions are worth; GA_GUARD_PAYS: nothing. */
static ga_verdict judge_setting(const ga_guard_evidence *evidence, const ga_option *options, int32_t count) {
    const weighed none = {-1, (double)NAN, (double)NAN, (double)NAN};
    if (evidence->obstacle != NULL) {
        ga_verdict verdict = answer_with(GA_GUARD_SHARED, &none, options);
        (void)snprintf(verdict.reason, sizeof verdict.reason, "%.250s", evidence->obstacle);
        return verdict;
    }
    const weighed cheap = cheapest(evidence, options, count);
    if (cheap.option < 0) {
        ga_verdict verdict = answer_with(GA_GUARD_NO_COST, &none, options);
        (void)snprintf(
            verdict.reason, sizeof verdict.reason, "the host reported no seconds of denoising yet");
        return verdict;
    }
    if (cheap.cost_ratio < 1) {
        return answer_with(GA_GUARD_PAYS, &cheap, options);
    }
    ga_verdict verdict = answer_with(GA_GUARD_COSTS_MORE, &cheap, options);
    const ga_course *course = &options[cheap.option].course;
    const ga_seconds *seconds = &evidence->seconds;
    const double own = isfinite(seconds->own) ? seconds->own : 0.0;
    const double forward = isfinite(seconds->forward) ? seconds->forward : 0.0;
    const double step = seconds->step + forward;
    char way[96];
    describe(course, way, sizeof way);
    (void)snprintf(verdict.reason, sizeof verdict.reason,
        "%s would take %.2f of the seconds of full rollouts: looking at a row costs %.2f of its steps, %.0f "
        "%% "
        "of a step's seconds do not fall with the rows",
        way, cheap.cost_ratio, (seconds->signal[course->candidate[0]] + own) / step, 100 * forward / step);
    return verdict;
}

static ga_verdict judge_unmeasured(const ga_guard_options *guard, const ga_guard_evidence *evidence,
    const ga_option *options, int32_t count) {
    int64_t parts = 0;
    for (int32_t i = 0; i < count; i++) {
        parts = options[i].energy.parts > parts ? options[i].energy.parts : parts;
    }
    const weighed cheap = cheapest(evidence, options, count);
    ga_verdict verdict =
        answer_with(evidence->has_probe ? GA_GUARD_GATHERING : GA_GUARD_NO_PROBE, &cheap, options);
    if (evidence->has_probe) {
        (void)snprintf(verdict.reason, sizeof verdict.reason,
            "predictions and rewards of %lld groups whose rows were kept by chance, %d are needed",
            (long long)parts, (int)guard->parts_min);
    } else {
        (void)snprintf(verdict.reason, sizeof verdict.reason, "there is no probe yet");
    }
    return verdict;
}

/* Why the best option is not good enough, or why it is. */
static void put_reason(const ga_option *options, const ga_risk *risk, ga_verdict *verdict) {
    const ga_option *option = &options[verdict->option];
    char way[96];
    describe(&option->course, way, sizeof way);
    if (verdict->answer == GA_GUARD_LOSES) {
        (void)snprintf(verdict->reason, sizeof verdict->reason,
            "%s would be worth %.2f (at least %.2f), but loses up to %.2f of the true extremes, %.2f are "
            "allowed",
            way, verdict->gain, verdict->gain_low, verdict->loss_bound, fmax(0.0, risk->level));
        return;
    }
    (void)snprintf(verdict->reason, sizeof verdict->reason,
        "%s keeps %.2f (at least %.2f) of the signal for %.2f of the seconds: worth %.2f (at least %.2f)",
        way, option->energy.snr2, option->energy.snr2_low, verdict->cost_ratio, verdict->gain,
        verdict->gain_low);
}

ga_verdict ga_guard_judge(const ga_guard_options *guard, const ga_guard_evidence *evidence,
    const ga_option *options, int32_t count, int32_t current) {
    const ga_verdict setting = judge_setting(evidence, options, count);
    if (setting.answer != GA_GUARD_PAYS) {
        return setting;
    }
    weighed any = {-1, 0, 0, 0};
    if (evidence->has_probe) {
        any = best_of(guard, evidence, options, count, current, false);
    }
    if (any.option < 0) {
        return judge_unmeasured(guard, evidence, options, count);
    }
    const weighed allowed = best_of(guard, evidence, options, count, current, true);
    const double enter = 1.0 + guard->enter_margin, stay = 1.0 - guard->enter_margin;
    const weighed *best = allowed.option >= 0 ? &allowed : &any;
    const bool worth = best->gain_low >= (best->option == current ? stay : enter);
    const ga_guard_answer answer = !worth                ? GA_GUARD_COSTS_MORE
                                   : allowed.option >= 0 ? GA_GUARD_PAYS
                                                         : GA_GUARD_LOSES;
    ga_verdict verdict = answer_with(answer, best, options);
    put_reason(options, &evidence->risk, &verdict);
    return verdict;
}

/* ---- the newest updates ---- */

void ga_trend_add(ga_trend *trend, const ga_agreement *update) {
    trend->updates[trend->next] = *update;
    trend->next = (trend->next + 1) % GA_TREND_UPDATES;
    trend->count += trend->count < GA_TREND_UPDATES;
}

static ga_agreement newest(const ga_trend *trend, int32_t updates) {
    ga_agreement sums = {0};
    for (int32_t i = 1; i <= updates; i++) {
        ga_agreement_join(&sums, &trend->updates[(trend->next - i + GA_TREND_UPDATES) % GA_TREND_UPDATES]);
    }
    return sums;
}

bool ga_trend_has_ended(
    const ga_trend *trend, double rho_min, double confidence, ga_agreement_figures *figures_out) {
    const double windows = 6; /* 1, 2, 4, 8, 16, 32 */
    const double each = 1.0 - (1.0 - confidence) / windows;
    for (int32_t updates = 1; updates <= trend->count; updates *= 2) {
        const ga_agreement sums = newest(trend, updates);
        const ga_agreement_figures figures = ga_agreement_read(&sums, each);
        if (figures.rho_high < rho_min) {
            *figures_out = figures;
            return true;
        }
    }
    const ga_agreement sums = newest(trend, trend->count);
    *figures_out = ga_agreement_read(&sums, confidence);
    return false;
}

/* ---- patience ---- */

bool ga_patience_take(ga_patience *patience, bool pruning, bool pays, int32_t updates) {
    patience->pays = pays ? patience->pays + 1 : 0;
    patience->pays_not = pays ? 0 : patience->pays_not + 1;
    const bool change = (pruning ? patience->pays_not : patience->pays) >= updates;
    if (change) {
        *patience = (ga_patience){0};
    }
    return change;
}
