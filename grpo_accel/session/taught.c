#include "grpo_accel/session/taught.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/estimate/downsample.h"
#include "grpo_accel/estimate/transfer.h"
#include "grpo_accel/session/batch.h"

/* Rewards are the same where they differ by no more than half precision would. */
static const double TOLERANCE = 1e-3;

/* ---- this rank's rows ---- */

static int32_t count_rows(const ga_session *session) {
    int32_t rows = 0;
    for (int32_t i = 0; i < session->batch_count; i++) {
        rows += session->batches[i]->rows;
    }
    return rows;
}

static ga_status start(ga_session *session, const ga_update_options *options, ga_error *error) {
    ga_taught *t = &session->taught;
    ga_arena *arena = t->arena != NULL ? t->arena : ga_arena_create(0);
    *t = (ga_taught){.arena = arena, .batches = session->batch_count, .current = true};
    if (arena == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the rows of an update");
    }
    ga_arena_reset(arena);
    t->own_rows = count_rows(session);
    t->own_start = t->own_rows * session->rank;
    t->count = (int64_t)t->own_rows * session->world_size;
    t->column_count = session->scorer_count + 1;
    t->own = ga_arena_take(arena, ga_size(t->own_rows) + 1, sizeof *t->own);
    t->all = ga_arena_take(arena, ga_size(t->own_rows) * ga_size(session->world_size) + 1, sizeof *t->all);
    t->columns =
        ga_arena_take(arena, ga_size(t->own_rows) * ga_size(t->column_count) + 1, sizeof *t->columns);
    if (t->own == NULL || t->all == NULL || t->columns == NULL) {
        t->own_rows = 0;
        t->count = 0;
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the rows of an update");
    }
    t->placed = options->count == t->count;
    return GA_OK;
}

static void fill_columns(ga_taught *t, const ga_batch *batch, int32_t row, double *columns) {
    const bool kept = batch->kept[row] != 0;
    columns[0] = kept ? batch->combined[row] : (double)NAN;
    for (int32_t s = 0; s + 1 < t->column_count; s++) {
        columns[s + 1] = kept && batch->reward[s] != NULL ? batch->reward[s][row] : (double)NAN;
    }
}

static void fill_batch(
    ga_session *session, const ga_update_options *options, const ga_batch *batch, int32_t start_row) {
    ga_taught *t = &session->taught;
    for (int32_t row = 0; row < batch->rows; row++) {
        const int32_t own = start_row + row;
        double *columns = t->columns + (size_t)own * ga_size(t->column_count);
        ga_outcome *outcome = &t->own[own];
        fill_columns(t, batch, row, columns);
        *outcome = ga_batch_outcome(batch, row);
        outcome->index = own;
        if (t->placed) {
            const double gathered = options->rewards[t->own_start + own];
            outcome->group = (uint64_t)options->groups[t->own_start + own];
            outcome->reward = outcome->kept == 0 ? (double)NAN : isfinite(columns[0]) ? columns[0] : gathered;
        }
    }
    t->prunes |= batch->strategy.prune;
}

/* ---- which column? ---- */

static bool is_near(double a, double b) {
    return fabs(a - b) <= TOLERANCE * (1 + fabs(a));
}

/* Factor by which a column of this rank's kept rows is the gathered rewards: 1, or, where `scaled`, another
 * one. NaN: it isn't. *known_out: rows that the column says something of. */
static double factor_of(
    const ga_taught *t, const double *rewards, int32_t column, bool scaled, int32_t *known_out) {
    double product = 0, square = 0, largest = 0, factor = 1;
    for (int pass = scaled ? 0 : 1; pass < 2; pass++) {
        *known_out = 0;
        for (int32_t i = 0; i < t->own_rows; i++) {
            const double reported = t->columns[(size_t)i * ga_size(t->column_count) + (size_t)column];
            const double gathered = rewards[t->own_start + i];
            if (!isfinite(reported)) {
                continue;
            }
            ++*known_out;
            product += pass == 0 ? reported * gathered : 0;
            square += pass == 0 ? reported * reported : 0;
            largest = fmax(largest, fabs(gathered));
            const bool same = scaled ? fabs(factor * reported - gathered) <= TOLERANCE * largest
                                     : is_near(reported, gathered);
            if (pass == 1 && !same) {
                return (double)NAN;
            }
        }
        factor = scaled && square > 0 ? product / square : 1;
    }
    return factor;
}

/* The column that the gathered rewards are: 0 combined, 1 … scorers; −1: the scorers reported nothing. */
static ga_status find_column(
    const ga_session *session, const double *rewards, int32_t *column_out, ga_error *error) {
    const ga_taught *t = &session->taught;
    bool known = false;
    for (int scaled = 0; scaled < 2; scaled++) {
        for (int32_t column = 0; column < t->column_count; column++) {
            int32_t rows = 0;
            const double factor = factor_of(t, rewards, column, scaled != 0, &rows);
            known |= rows > 0 || isnan(factor);
            if (rows > 0 && !isnan(factor)) {
                *column_out = column;
                return GA_OK;
            }
        }
    }
    *column_out = -1;
    return known ? GA_FAIL(error, GA_ERR_DATA,
                       "rank %d: the rewards that the host gathered are those of no scorer that was seen, so "
                       "it orders or changes them in a way that is not known; its own advantages are used",
                       (int)session->rank)
                 : GA_OK;
}

ga_status ga_taught_collect(ga_session *session, const ga_update_options *options, ga_error *error) {
    GA_TRY(start(session, options, error));
    const ga_taught *t = &session->taught;
    for (int32_t i = 0, row = 0; i < session->batch_count; row += session->batches[i]->rows, i++) {
        fill_batch(session, options, session->batches[i], row);
    }
    if (!t->placed) {
        return GA_FAIL(error, GA_ERR_DATA,
            "the host computes advantages of %lld rows, %d ranks sampled %d rows each; its own advantages "
            "are used",
            (long long)options->count, (int)session->world_size, (int)t->own_rows);
    }
    int32_t column = -1;
    return find_column(session, options->rewards, &column, error);
}

void ga_taught_host_advantages(
    const ga_taught *taught, const ga_update_options *options, double *advantages_out) {
    memcpy(advantages_out, options->host_advantages, ga_size(options->count) * sizeof *advantages_out);
    for (int32_t i = 0; i < taught->own_rows && taught->placed; i++) {
        if (taught->own[i].kept == 0) {
            advantages_out[taught->own_start + i] = 0.0;
        }
    }
}

/* ---- prefix credit ---- */

bool ga_taught_may_credit(ga_session *session) {
    if (!session->config->advantage.prefix_credit) {
        return false;
    }
    for (int32_t i = 0; i < session->batch_count; i++) {
        const ga_batch *batch = session->batches[i];
        const bool before =
            batch->noise_end_step > 0 && batch->look_count > 0 && batch->noise_end_step <= batch->steps[0];
        if (batch->pruned && !before) {
            ga_log_once(&session->warned[GA_WARNING_CREDIT], GA_LOG_WARNING,
                "advantage.prefix_credit: %s, so pruned rows don't teach; noise must end before "
                "decision.step",
                batch->noise_end_step > 0 ? "noise is added behind the first decision"
                                          : "which steps add noise is not known, or all do");
            return false;
        }
    }
    return true;
}

/* ---- advantages ---- */

void ga_taught_offsets(const ga_session *session, double *tau2_out, double *sigma_r2_out) {
    *tau2_out = *sigma_r2_out = (double)NAN;
    if (!ga_offsets_estimate(&session->offsets, tau2_out, sigma_r2_out) && session->probe != NULL) {
        *tau2_out = ga_probe_get_info(session->probe)->calibration.tau2;
        *sigma_r2_out = ga_probe_get_info(session->probe)->calibration.sigma_r2;
    }
}

ga_advantage_options ga_taught_estimator(const ga_session *session) {
    static const ga_estimator estimators[] = {
        GA_ESTIMATOR_SHRUNK, GA_ESTIMATOR_DIFFERENCE, GA_ESTIMATOR_SURVIVORS, GA_ESTIMATOR_PREDICTED};
    const ga_config *config = session->config;
    return (ga_advantage_options){.estimator = estimators[config->advantage.estimator],
        .weighting = config->advantage.weights == GA_CONFIG_WEIGHTS_ONE ? GA_WEIGHT_ONE : GA_WEIGHT_INVERSE,
        .clip = config->advantage.clip > 0 ? config->advantage.clip : (double)INFINITY,
        .std_kind = ga_session_std(session),
        .epsilon = 1e-4,
        .tau2 = (double)NAN,
        .sigma_r2 = (double)NAN,
        .leave_one_out = config->advantage.leave_one_out,
        .prefix_credit = config->advantage.prefix_credit};
}

static ga_advantage_options options_of(const ga_session *session, const ga_update_options *host) {
    ga_advantage_options options = ga_taught_estimator(session);
    if (session->config->advantage.std == GA_CONFIG_STD_AUTO) {
        options.std_kind = host->host_std == 0 ? GA_STD_GLOBAL : GA_STD_GROUP;
    }
    options.prefix_credit = session->taught.credits;
    ga_taught_offsets(session, &options.tau2, &options.sigma_r2);
    return options;
}

/* Puts the host's rewards on kept rows; are they the combined ones, which the predictions are of? */
static bool put_rewards(const ga_taught *t, const double *rewards, ga_outcome *outcomes) {
    bool combined = true;
    for (int64_t i = 0; i < t->count; i++) {
        outcomes[i] = t->all[i];
        if (outcomes[i].kept != 0) {
            combined = combined && (!isfinite(rewards[i]) || is_near(t->all[i].reward, rewards[i]));
            outcomes[i].reward = rewards[i];
        }
    }
    return combined;
}

static void tell_of_transfer(ga_session *session, const double *rewards, bool fitted) {
    int32_t column = -1;
    (void)find_column(session, rewards, &column, NULL);
    ga_log_once(&session->warned[GA_WARNING_SCORER], GA_LOG_WARNING,
        "the host asks for advantages of %s alone, the probe predicts the combined reward: %s",
        column > 0 ? session->scorers[column - 1].text : "a multiple of the rewards",
        fitted ? "its predictions are fitted to them on the kept rows"
               : "with so few kept rows the mean of these stands for the group's");
}

static ga_status compute(ga_session *session, const ga_update_options *host, double *advantages_out,
    ga_advantage_report *report_out, ga_error *error) {
    const ga_taught *t = &session->taught;
    ga_arena *arena = session->update_arena;
    ga_outcome *outcomes = ga_arena_take(arena, ga_size((int32_t)t->count), sizeof *outcomes);
    if (outcomes == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the advantages of an update");
    }
    ga_advantage_options options = options_of(session, host);
    if (!put_rewards(t, host->rewards, outcomes)) {
        ga_transfer transfer;
        GA_TRY(ga_transfer_predictions(outcomes, (int32_t)t->count, arena, &transfer, error));
        options.tau2 = transfer.tau2;
        options.sigma_r2 = transfer.sigma_r2;
        tell_of_transfer(session, host->rewards, transfer.known);
    }
    return ga_advantage_compute(
        &options, outcomes, (int32_t)t->count, arena, advantages_out, report_out, error);
}

/* ---- the second stage ---- */

/* The first call of an update chooses by its advantages who trains. */
static ga_status choose_trained(ga_session *session, const ga_update_options *host, double *advantages,
    int32_t *trained_out, ga_error *error) {
    ga_taught *t = &session->taught;
    const double share = session->config->advantage.train_share;
    if (share >= 1 || !t->prunes || host->prunable == 0) {
        return GA_OK;
    }
    const ga_downsample_options options = {.share = share, .multiple = t->batches > 0 ? t->batches : 1};
    const int32_t count = (int32_t)t->count;
    uint8_t *trains = ga_arena_take(t->arena, ga_size(count) + 1, sizeof *trains);
    if (trains == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to choose the rows that train");
    }
    GA_TRY(ga_downsample_advantages(
        &options, t->all, count, session->update_arena, advantages, trained_out, error));
    bool some = false;
    for (int32_t i = 0; i < count; i++) {
        trains[i] = advantages[i] != 0;
        some |= trains[i] != 0;
    }
    t->trains = some ? trains : NULL; /* rewards that tell no row from another choose nobody */
    return GA_OK;
}

static void leave_out(const ga_taught *t, double *advantages) {
    for (int64_t i = 0; i < t->count; i++) {
        advantages[i] = t->trains[i] != 0 ? advantages[i] : 0.0;
    }
}

/*
 * Hosts tell the rows that train from stopped ones by an advantage that is not 0, and where these do not come
 * out even they make up the number with any others: a stopped row would train. A kept row whose reward is its
 * baseline therefore says so by a number that moves nothing.
 */
static void mark_kept(const ga_taught *t, double *advantages) {
    for (int64_t i = 0; i < t->count; i++) {
        if (t->all[i].kept != 0 && advantages[i] == 0) {
            advantages[i] = GA_TAUGHT_ADVANTAGE_MIN;
        }
    }
}

ga_status ga_taught_advantages(ga_session *session, const ga_update_options *options, double *advantages_out,
    ga_taught_figures *figures_out, ga_error *error) {
    ga_taught *t = &session->taught;
    memset(figures_out, 0, sizeof *figures_out);
    ga_taught_host_advantages(t, options, advantages_out);
    ga_status status = GA_OK;
    if (t->pruned) {
        status = compute(session, options, advantages_out, &figures_out->report, error);
        figures_out->report.baseline = figures_out->report.row_sigma = NULL;
    }
    if (status == GA_OK && t->trains == NULL) {
        status = choose_trained(session, options, advantages_out, &figures_out->trained_rows, error);
    } else if (status == GA_OK) {
        leave_out(t, advantages_out);
    }
    if (status != GA_OK) {
        ga_taught_host_advantages(t, options, advantages_out);
    } else if (t->pruned && t->trains == NULL) {
        mark_kept(t, advantages_out);
    }
    return status;
}

ga_status ga_taught_again(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error) {
    const ga_taught *t = &session->taught;
    memcpy(advantages_out, options->host_advantages, ga_size(options->count) * sizeof *advantages_out);
    if (!t->current) {
        return GA_FAIL(error, GA_ERR_DATA,
            "no update has ended since batches began; the host's own advantages are used");
    }
    if (!t->placed || t->count != options->count) {
        return GA_FAIL(error, GA_ERR_DATA,
            "the host computes advantages of %lld rows, the update that ended last had %lld; its own "
            "advantages are used",
            (long long)options->count, (long long)t->count);
    }
    ga_taught_host_advantages(t, options, advantages_out);
    if (!t->matched) {
        return GA_FAIL(error, GA_ERR_DATA,
            "the rows of the update that ended last are not known; the host's own advantages are used");
    }
    int32_t column = -1;
    ga_taught_figures figures;
    GA_TRY(find_column(session, options->rewards, &column, error));
    const ga_status status = ga_taught_advantages(session, options, advantages_out, &figures, error);
    ga_arena_reset(session->update_arena);
    return status;
}

void ga_taught_close(ga_taught *taught) {
    ga_arena_destroy(&taught->arena);
}
