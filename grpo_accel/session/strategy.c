#include "grpo_accel/session/strategy.h"

#include <math.h>

#include "grpo_accel/base/random.h"
#include "grpo_accel/session/decide.h"
#include "grpo_accel/session/session.h"

/* ---- of the configuration ---- */

ga_strategy ga_strategy_of_config(const ga_session *session) {
    const ga_config *config = session->config;
    const bool listed = config->decision.sigma == 0 && config->decision.step.count > 1;
    const int32_t given = listed ? config->decision.step.count : 1;
    ga_strategy strategy = {.prune = config->mode == GA_CONFIG_MODE_PRUNE,
        .stage_count = given < GA_STAGES_MAX ? given : GA_STAGES_MAX,
        .explore_share = 1.0};
    const ga_config_shares *keep = &config->decision.keep;
    for (int32_t stage = 0; stage < strategy.stage_count; stage++) {
        const int32_t place = stage < keep->count ? stage : keep->count - 1;
        strategy.candidate[stage] = stage;
        strategy.keep[stage] = keep->count > 0 ? keep->values[place] : 0.5;
    }
    return strategy;
}

static int32_t round_count(double share, int32_t rows) {
    const int32_t count = (int32_t)(share * (double)rows + 0.5);
    return count < 1 ? 1 : count > rows ? rows : count;
}

int32_t ga_strategy_keep_count(const ga_strategy *strategy, int32_t stage, int32_t rows) {
    int32_t count = rows;
    for (int32_t i = 0; i <= stage; i++) {
        const int32_t wanted = round_count(strategy->keep[i], rows);
        count = wanted < count ? wanted : count;
    }
    return count;
}

/* ---- of a batch ---- */

/* Drawn by (seed, batch) alone, so all ranks rest together. */
static bool is_explored(const ga_session *session, uint64_t batch) {
    const double share = session->strategy.explore_share;
    ga_random random = ga_random_make((uint64_t)session->config->seed, batch, GA_STREAM_EXPLORE);
    return share >= 1.0 || ga_random_uniform(&random) < share;
}

/* Decisions of a batch under any strategy that this run may come to. */
static int32_t decisions_most(const ga_session *session) {
    const ga_config_mode mode = session->config->mode;
    const bool may_prune = mode == GA_CONFIG_MODE_PRUNE || mode == GA_CONFIG_MODE_AUTO;
    return may_prune ? ga_strategy_of_config(session).stage_count : 0;
}

ga_strategy_looks ga_strategy_look(const ga_session *session, uint64_t batch) {
    const ga_strategy *strategy = &session->strategy;
    ga_strategy_looks looks = {0};
    if (strategy->prune) {
        looks.count = strategy->stage_count;
        looks.decisions = ga_decide_collective(session) ? looks.count : 0;
    } else if (is_explored(session, batch)) {
        looks.count = session->shapes.candidate_count;
    }
    for (int32_t i = 0; i < looks.count; i++) {
        looks.candidate[i] = strategy->prune ? strategy->candidate[i] : i;
    }
    looks.idle = decisions_most(session) - looks.decisions;
    return looks;
}

/* ---- of a schedule ---- */

/* The step among first … last whose σ is next to `sigma`. */
static int32_t step_near(const double *sigmas, int32_t first, int32_t last, double sigma) {
    int32_t best = first;
    for (int32_t step = first; step <= last; step++) {
        best = fabs(sigmas[step] - sigma) < fabs(sigmas[best] - sigma) ? step : best;
    }
    return best;
}

static int32_t first_candidate(const ga_batch_options *options) {
    const int32_t begin = options->noise_begin_step, end = options->noise_end_step;
    const bool known = begin >= 0 && begin < end;
    const bool leaves_some = end < options->steps_total;
    return known && leaves_some ? end : 1;
}

int32_t ga_strategy_candidates(const ga_batch_options *options, int32_t *steps_out) {
    if (options->steps_total < 2) {
        return 0;
    }
    const int32_t first = first_candidate(options);
    const int32_t last = first + (options->steps_total - first) / 2;
    const int32_t end = last < options->steps_total ? last : options->steps_total - 1;
    const double *sigmas = options->sigmas;
    int32_t count = 0;
    steps_out[count++] = first;
    for (int32_t i = 1; i < GA_CANDIDATES_MAX; i++) {
        const double share = (double)i / (GA_CANDIDATES_MAX - 1);
        const double sigma = sigmas[first] + share * (sigmas[end] - sigmas[first]);
        const int32_t step = step_near(sigmas, first, end, sigma);
        if (step > steps_out[count - 1]) {
            steps_out[count++] = step;
        }
    }
    return count;
}
