#include "grpo_accel/session/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dist/launch.h"
#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/capture/tap.h"
#include "grpo_accel/feature/feature.h"
#include "grpo_accel/record/manifest.h"
#include "grpo_accel/session/batch.h"
#include "grpo_accel/session/decide.h"
#include "grpo_accel/session/update.h"

/* What ranks tell each other once, when they open. */
typedef struct hello {
    uint64_t fingerprint;
    uint64_t next_batch, next_row;
    uint32_t next_update;
    uint32_t probe_version;
    uint32_t can_record;
    uint32_t can_probe;
} hello;

extern char **environ;

/* ---- small questions ---- */

int32_t ga_session_decision_step(const ga_session *session) {
    return session->config->decision.step.values[0];
}

int32_t ga_session_keep_count(const ga_session *session, int32_t rows) {
    const double wanted = session->config->decision.keep.values[0] * (double)rows;
    const int32_t count = (int32_t)(wanted + 0.5);
    return count < 1 ? 1 : count > rows ? rows : count;
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

static ga_status open_world(ga_session *session, ga_error *error) {
    static const ga_transport transports[] = {
        GA_TRANSPORT_AUTO, GA_TRANSPORT_MPI, GA_TRANSPORT_NCCL, GA_TRANSPORT_TORCH, GA_TRANSPORT_LOCAL};
    const ga_world_options options = {
        .transport = transports[session->config->distributed.transport], .clock = session->clock};
    ga_launch_place place;
    GA_TRY(ga_launch_read(ga_environment_process(), &place, error));
    if (options.transport == GA_TRANSPORT_LOCAL && place.size > 1) {
        return GA_FAIL(error, GA_ERR_MISSING,
            "distributed.transport is local, but this is one of %d processes: they can't agree and would "
            "write to the "
            "same record; use auto or mpi",
            (int)place.size);
    }
    GA_TRY(ga_world_open(&options, &session->world, error));
    session->rank = ga_world_rank(session->world);
    session->world_size = ga_world_size(session->world);
    char prefix[32] = "";
    if (session->world_size > 1) {
        (void)snprintf(prefix, sizeof prefix, "rank %d: ", (int)session->rank);
    }
    ga_log_set_prefix(prefix);
    return GA_OK;
}

/* mkdir -p */
static bool make_folder(const char *path) {
    char part[4096];
    const int length = snprintf(part, sizeof part, "%s", path);
    if (length <= 0 || length >= (int)sizeof part) {
        return false;
    }
    for (char *end = strchr(part + 1, '/'); end != NULL; end = strchr(end + 1, '/')) {
        *end = '\0';
        (void)mkdir(part, 0750);
        *end = '/';
    }
    return mkdir(part, 0750) == 0 || errno == EEXIST;
}

/* This rank's folder of the record, made and writable; `path` [bytes] is written. */
static ga_status make_record_folder(const ga_session *session, char *path, size_t bytes, ga_error *error) {
    const int length =
        snprintf(path, bytes, "%s/record/rank-%05d", session->config->run_dir, (int)session->rank);
    if (length < 0 || (size_t)length >= bytes) {
        return GA_FAIL(error, GA_ERR_IO, "run_dir is too long: %s", session->config->run_dir);
    }
    if (!make_folder(path) || access(path, W_OK) != 0) {
        return GA_FAIL(error, GA_ERR_IO,
            "the record can't be written to %s: %s; set run_dir to a folder that every rank may write", path,
            strerror(errno));
    }
    return GA_OK;
}

/* Takes over where one rank's manifest stops; row ids are each rank's own. */
static ga_status read_manifest(ga_session *session, const char *folder, bool own, ga_error *error) {
    ga_manifest manifest;
    GA_TRY(ga_manifest_read(folder, &manifest, error));
    for (size_t i = 0; i < manifest.count; i++) {
        const ga_manifest_line *line = &manifest.lines[i];
        if (line->last_batch >= session->next_batch) {
            session->next_batch = line->last_batch + 1;
        }
        if (line->last_update >= session->next_update) {
            session->next_update = (uint32_t)line->last_update + 1;
        }
        if (own && line->last_row_id >= session->next_row) {
            session->next_row = line->last_row_id + 1;
        }
    }
    ga_manifest_free(&manifest);
    return GA_OK;
}

/* Where earlier runs in this folder stopped, on however many ranks, so that numbers go on from there. */
static ga_status read_resume_point(ga_session *session, ga_error *error) {
    char folder[4096];
    for (int32_t rank = 0;; rank++) {
        (void)snprintf(folder, sizeof folder, "%s/record/rank-%05d", session->config->run_dir, (int)rank);
        if (access(folder, R_OK) != 0 && rank >= session->world_size) {
            return GA_OK;
        }
        if (access(folder, R_OK) == 0) {
            GA_TRY(read_manifest(session, folder, rank == session->rank, error));
        }
    }
}

static ga_status open_folders(ga_session *session, ga_error *error) {
    char path[4096];
    session->next_row = (uint64_t)session->rank << 40;
    if (!make_folder(session->config->run_dir)) {
        return GA_FAIL(
            error, GA_ERR_IO, "run_dir %s can't be made: %s", session->config->run_dir, strerror(errno));
    }
    if (!session->config->record.enabled) {
        return GA_OK;
    }
    GA_TRY(make_record_folder(session, path, sizeof path, error));
    return read_resume_point(session, error);
}

/* The configured probe, or the newest that an earlier run in this folder trained. */
static ga_status open_probe(ga_session *session, ga_error *error) {
    char path[4096];
    const char *chosen = session->config->probe.path;
    if (chosen == NULL) {
        const uint32_t version = ga_retrain_newest(session);
        if (version == 0 || !ga_retrain_path(session, version, path, sizeof path)) {
            return GA_OK;
        }
        chosen = path;
    }
    GA_TRY(ga_probe_open(chosen, session->compute, &session->probe, error));
    (void)snprintf(session->probe_path, sizeof session->probe_path, "%s", chosen);
    session->probe_version = ga_probe_get_info(session->probe)->version;
    return GA_OK;
}

static void drop_probe(ga_session *session) {
    ga_probe_close(&session->probe);
    session->probe_version = 0;
}

/* Everybody prunes with the same probe and can log, or nobody prunes. The verdict is the same on every rank.
 */
static void settle(ga_session *session, const hello *ranks, const ga_error *own_error) {
    int32_t without_record = -1, without_probe = -1, other_config = -1;
    for (int32_t rank = session->world_size - 1; rank >= 0; rank--) {
        const hello *h = &ranks[rank];
        without_record = h->can_record ? without_record : rank;
        without_probe = h->can_probe && h->probe_version == ranks[0].probe_version ? without_probe : rank;
        other_config = h->fingerprint == ranks[0].fingerprint ? other_config : rank;
        session->next_batch = h->next_batch > session->next_batch ? h->next_batch : session->next_batch;
        session->next_update = h->next_update > session->next_update ? h->next_update : session->next_update;
    }
    ga_error why = {0};
    if (other_config >= 0) {
        (void)GA_FAIL(
            &why, GA_ERR_MISMATCH, "rank %d runs another configuration than rank 0", (int)other_config);
    } else if (without_record >= 0) {
        (void)GA_FAIL(&why, GA_ERR_IO, "%s",
            without_record == session->rank ? own_error->message
                                            : "another rank can't read or write its record");
    }
    if (why.status != GA_OK && (session->rank == 0 || without_record == session->rank)) {
        ga_session_pass_through(session, &why);
    } else if (why.status != GA_OK) {
        session->mode = GA_MODE_PASS_THROUGH;
    }
    if (without_probe >= 0) {
        drop_probe(session);
        if (without_probe == session->rank && why.status == GA_OK) {
            ga_log(GA_LOG_WARNING, "nothing is pruned until a probe is trained: %s", own_error->message);
        }
    }
}

static ga_status agree(ga_session *session, ga_error *error) {
    ga_error own = {0};
    hello mine = {.fingerprint = session->fingerprint};
    mine.can_record = open_folders(session, &own) == GA_OK;
    mine.can_probe = mine.can_record && open_probe(session, &own) == GA_OK;
    mine.probe_version = session->probe_version;
    mine.next_batch = session->next_batch;
    mine.next_update = session->next_update;
    hello *ranks = calloc((size_t)session->world_size, sizeof *ranks);
    if (ranks == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d ranks", (int)session->world_size);
    }
    const ga_status status = ga_world_gather(session->world, &mine, sizeof mine, ranks, 120.0, NULL, error);
    if (status == GA_OK) {
        settle(session, ranks, &own);
    }
    free(ranks);
    return status;
}

static void announce(const ga_session *session) {
    if (session->rank == 0) {
        ga_log(GA_LOG_INFO, "%s, %d %s over %s, decision after step %d, keep %.3g, policy %s, probe %s",
            session->mode == GA_MODE_PRUNE    ? "prune"
            : session->mode == GA_MODE_SHADOW ? "shadow"
                                              : "pass-through",
            (int)session->world_size, session->world_size == 1 ? "rank" : "ranks",
            ga_world_transport_name(session->world), (int)ga_session_decision_step(session),
            session->config->decision.keep.values[0], ga_session_policy_name(session),
            session->probe != NULL ? "loaded" : "to be learned");
    }
}

static const ga_mode mode_of_config[] = {GA_MODE_OFF, GA_MODE_SHADOW, GA_MODE_PRUNE};

/*
 * Joins the other ranks. Once the world is there nothing fails any more: MPI has to be left in step at the
 * end of a job that succeeds, so a session that can't agree passes everything through.
 */
static ga_status join(ga_session *session, ga_error *error) {
    GA_TRY(open_world(session, error));
    ga_error why = {0};
    if (agree(session, &why) != GA_OK) {
        ga_session_pass_through(session, &why);
    }
    if (session->mode != GA_MODE_PASS_THROUGH) {
        ga_metrics_open(&session->metrics, session->config->run_dir,
            session->rank == 0 && session->config->metrics.jsonl);
        announce(session);
    }
    return GA_OK;
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
    session->mode = mode_of_config[session->config->mode];
    session->fingerprint = session->config->fingerprint;
    return session->mode == GA_MODE_OFF ? GA_OK : join(session, error);
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

/* ---- shapes of the run ---- */

static ga_shapes shapes_of(const ga_session *session, const ga_batch_options *o) {
    ga_shapes shapes;
    memset(&shapes, 0, sizeof shapes); /* compared and digested as bytes */
    (void)snprintf(shapes.model, sizeof shapes.model, "%s", o->model != NULL ? o->model : "");
    shapes.rows = o->rows;
    shapes.steps_total = o->steps_total;
    shapes.latent_channels = o->latent_channels;
    shapes.latent_height = o->latent_height;
    shapes.latent_width = o->latent_width;
    shapes.token_height = o->token_height;
    shapes.token_width = o->token_width;
    shapes.block_count = o->block_count;
    shapes.text_tokens = o->text_tokens;
    shapes.sigma = o->sigmas[ga_session_decision_step(session)];
    return shapes;
}

static ga_status choose_blocks(ga_session *session, const ga_batch_options *options, ga_error *error) {
    if ((session->config->probe.inputs & GA_INPUT_BIT(GA_INPUT_ATTENTION)) == 0) {
        return GA_OK;
    }
    const ga_config_blocks *blocks = &session->config->probe.blocks;
    free(session->blocks); /* of an attempt that failed */
    session->block_count = 0;
    session->blocks = calloc((size_t)options->block_count + 1, sizeof *session->blocks);
    if (session->blocks == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d blocks", (int)options->block_count);
    }
    ga_tap_selection selection = {
        .kind = (ga_tap_kind)blocks->choice, .count = blocks->count, .names = blocks->names};
    return ga_tap_choose(&selection, options->block_names, options->block_count, session->blocks,
        &session->block_count, error);
}

static ga_status make_schema(ga_session *session, ga_error *error) {
    const ga_shapes *shapes = &session->shapes;
    const ga_feature_options options = {
        .inputs = session->config->probe.inputs,
        .map_size = (int32_t)session->config->probe.map_size,
        .attention_blocks = session->block_count,
        .token_height = shapes->token_height,
        .token_width = shapes->token_width,
        .latent_channels = shapes->latent_channels,
        .latent_height = shapes->latent_height,
        .latent_width = shapes->latent_width,
        .preview_scores = 1,
    };
    return ga_feature_schema_make(&options, &session->schema, error);
}

/* A probe that was made for something else is put aside, with its reason, and the session learns a new one.
 */
static void check_probe(ga_session *session) {
    if (session->probe == NULL) {
        return;
    }
    ga_error why = {0};
    if (ga_session_probe_fits(session, session->probe, &why) != GA_OK) {
        if (session->rank == 0) {
            ga_log(GA_LOG_WARNING, "nothing is pruned until a new probe is trained: %s", why.message);
        }
        drop_probe(session);
    }
}

ga_status ga_session_probe_fits(const ga_session *session, const ga_probe *probe, ga_error *error) {
    const ga_probe_requirement requirement = {
        .schema = &session->schema,
        .model = session->shapes.model,
        .step = ga_session_decision_step(session),
        .steps_total = session->shapes.steps_total,
    };
    return ga_probe_match(probe, &requirement, error);
}

ga_status ga_session_prepare(ga_session *session, const ga_batch_options *options, ga_error *error) {
    if (ga_session_decision_step(session) >= options->steps_total) {
        return GA_FAIL(error, GA_ERR_DATA,
            "decision.step is %d, but a rollout has only %d steps: nothing could be saved",
            (int)ga_session_decision_step(session), (int)options->steps_total);
    }
    const ga_shapes shapes = shapes_of(session, options);
    if (session->prepared) {
        return memcmp(&shapes, &session->shapes, sizeof shapes) == 0
                   ? GA_OK
                   : GA_FAIL(error, GA_ERR_DATA,
                         "batch %llu has other shapes than the first one (%d rows against %d, or another "
                         "model, resolution or schedule)",
                         (unsigned long long)session->next_batch, (int)shapes.rows,
                         (int)session->shapes.rows);
    }
    session->shapes = shapes;
    GA_TRY(choose_blocks(session, options, error));
    GA_TRY(make_schema(session, error));
    session->fingerprint = ga_digest_join(session->config->fingerprint, ga_digest64(&shapes, sizeof shapes));
    session->prepared = true;
    check_probe(session);
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
    close_record(session);
    close_world(session, in_step);
    ga_probe_close(&session->probe);
    ga_metrics_close(&session->metrics);
    ga_log_set_sink(NULL, NULL);
    ga_log_set_prefix("");
    ga_arena_destroy(&session->update_arena);
    while (session->spare_arena_count > 0) {
        ga_arena_destroy(&session->spare_arenas[--session->spare_arena_count]);
    }
    ga_config_free(&session->config);
    (void)pthread_mutex_destroy(&session->lock);
    free(session->blocks);
    free(session);
    *session_pointer = NULL;
}
