#include "grpo_accel/session/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/log.h"
#include "grpo_accel/session/batch.h"
#include "grpo_accel/session/join.h"
#include "grpo_accel/session/mode.h"
#include "grpo_accel/session/update.h"

extern char **environ;

/* ---- small questions ---- */

int32_t ga_session_decision_step(const ga_session *session) {
    const ga_config *config = session->config;
    if (session->prepared) {
        return session->shapes.candidate_steps[0];
    }
    if (config->decision.sigma > 0) {
        return -1;
    }
    const ga_config_steps *given =
        config->decision.step.count > 0 ? &config->decision.step : &config->decision.candidates;
    return given->count > 0 ? given->values[0] : -1;
}

void ga_session_drop_probe(ga_session *session) {
    ga_probe_close(&session->probe);
    session->probe_version = 0;
}

ga_std_kind ga_session_std(const ga_session *session) {
    switch (session->config->advantage.std) {
    case GA_CONFIG_STD_GLOBAL: return GA_STD_GLOBAL;
    case GA_CONFIG_STD_GROUP: return GA_STD_GROUP;
    case GA_CONFIG_STD_AUTO: break;
    }
    return session->host_std;
}

void ga_session_pass_through(ga_session *session, const ga_error *error) {
    if (session->mode != GA_MODE_PASS_THROUGH) {
        session->mode = GA_MODE_PASS_THROUGH;
        ga_log(
            GA_LOG_WARNING, "from here on nothing is pruned or logged, the job goes on: %s", error->message);
    }
}

/* ---- opening ---- */

static const ga_mode mode_of_config[] = {GA_MODE_OFF, GA_MODE_SHADOW, GA_MODE_PRUNE, GA_MODE_SHADOW};

/* "a,b" of probe.preview.scorers; rules.h bounds the names. */
static void join_names(const ga_config_names *names, char *text, size_t bytes) {
    size_t used = 0;
    for (int32_t i = 0; i < names->count && used < bytes; i++) {
        const int length = snprintf(text + used, bytes - used, "%s%s", i == 0 ? "" : ",", names->names[i]);
        used += length > 0 ? (size_t)length : 0;
    }
}

static ga_status set_up(ga_session *session, const ga_session_options *options, ga_error *error) {
    session->clock = ga_clock_system();
    session->compute = ga_compute_native();
    session->world_size = 1;
    session->offsets = ga_offsets_make(GA_SESSION_OFFSETS_HALF_LIFE_UPDATES);
    for (int i = 0; i < GA_WARNING_COUNT; i++) {
        atomic_flag_clear(&session->warned[i]);
    }
    session->update_arena = ga_arena_create(0);
    if (session->update_arena == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a session");
    }
    if (options->log != NULL) {
        ga_log_set_sink(options->log, options->log_user);
    }
    GA_TRY(ga_config_load(options->config_path, options->overrides, options->override_count,
        (const char *const *)environ, &session->config, error));
    join_names(
        &session->config->probe.preview.scorers, session->preview_scorers, sizeof session->preview_scorers);
    session->costs = ga_costs_make(GA_SESSION_COSTS_HALF_LIFE_UPDATES);
    session->mode = mode_of_config[session->config->mode];
    session->strategy = ga_strategy_of_config(session);
    session->fingerprint = session->config->fingerprint;
    return session->mode == GA_MODE_OFF ? GA_OK : ga_session_join(session, error);
}

ga_status ga_session_create(const ga_session_options *options, ga_session **session_out, ga_error *error) {
    ga_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a session");
    }
    (void)pthread_mutex_init(&session->lock, NULL);
    const ga_status status = set_up(session, options, error);
    if (status != GA_OK) {
        ga_session_destroy(&session, false);
        return status;
    }
    *session_out = session;
    return GA_OK;
}

/* ---- closing ---- */

static void close_record(ga_session *session) {
    ga_error why = {0};
    if (session->record != NULL && ga_record_close(&session->record, &why) != GA_OK) {
        ga_log(GA_LOG_WARNING, "the last rows of the record are lost: %s", why.message);
    }
}

static void close_world(ga_session *session, bool in_step) {
    ga_error why = {0};
    if (session->world == NULL) {
        return;
    }
    if (!in_step) {
        ga_world_abandon(&session->world);
    } else if (ga_world_close(&session->world, 60.0, &why) != GA_OK) {
        ga_log(GA_LOG_WARNING, "leaving the other ranks: %s", why.message);
    }
}

void ga_session_destroy(ga_session **session_pointer, bool in_step) {
    if (session_pointer == NULL || *session_pointer == NULL) {
        return;
    }
    ga_session *session = *session_pointer;
    ga_retrain_stop(session);
    while (session->batch_count > 0) {
        ga_batch_drop(session->batches[session->batch_count - 1]);
    }
    ga_mode_close(session);
    close_record(session);
    close_world(session, in_step);
    ga_probe_close(&session->probe);
    ga_metrics_close(&session->metrics);
    ga_log_set_sink(NULL, NULL);
    ga_log_set_prefix("");
    ga_arena_destroy(&session->update_arena);
    ga_taught_close(&session->taught);
    while (session->spare_arena_count > 0) {
        ga_arena_destroy(&session->spare_arenas[--session->spare_arena_count]);
    }
    ga_config_free(&session->config);
    (void)pthread_mutex_destroy(&session->lock);
    free(session->blocks);
    free(session);
    *session_pointer = NULL;
}
