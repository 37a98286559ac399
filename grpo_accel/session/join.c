#include "grpo_accel/session/join.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dist/launch.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/record/manifest.h"
#include "grpo_accel/session/decide.h"

/* What ranks tell each other once, when they open. */
typedef struct hello {
    uint64_t fingerprint;
    uint64_t next_batch, next_row;
    uint32_t next_update;
    uint32_t probe_version;
    uint32_t can_record;
    uint32_t can_probe;
} hello;

/* ---- the world and the folders ---- */

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
        const uint32_t version = ga_retrain_current(session);
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

/* ---- agreement ---- */

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
        ga_session_drop_probe(session);
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

/* "after steps 2, 4", "at sigma 0.7": as configured; the first batch may say more. */
static void moments_in_words(const ga_config *config, char *text, size_t bytes) {
    const ga_config_steps *steps = &config->decision.step;
    if (config->decision.sigma > 0) {
        (void)snprintf(text, bytes, "at sigma %.3g", config->decision.sigma);
        return;
    }
    size_t used = (size_t)snprintf(text, bytes, steps->count == 0 ? "auto" : "after step");
    for (int32_t i = 0; i < steps->count && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s %d", i > 0 ? "," : "", (int)steps->values[i]);
    }
}

static void shares_in_words(const ga_config_shares *shares, char *text, size_t bytes) {
    size_t used = (size_t)snprintf(text, bytes, "%s", shares->count == 0 ? "auto" : "");
    for (int32_t i = 0; i < shares->count && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s%.3g", i > 0 ? ", " : "", shares->values[i]);
    }
}

static void announce(const ga_session *session) {
    static const char *const modes[] = {"off", "shadow", "prune", "auto"};
    char moments[64], shares[64];
    moments_in_words(session->config, moments, sizeof moments);
    shares_in_words(&session->config->decision.keep, shares, sizeof shares);
    if (session->rank == 0) {
        ga_log(GA_LOG_INFO, "%s, %d %s over %s, decision %s, keep %s, policy %s, probe %s",
            modes[session->config->mode], (int)session->world_size,
            session->world_size == 1 ? "rank" : "ranks", ga_world_transport_name(session->world), moments,
            shares, ga_session_policy_name(session), session->probe != NULL ? "loaded" : "to be learned");
    }
}

ga_status ga_session_join(ga_session *session, ga_error *error) {
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
