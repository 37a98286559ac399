#include "grpo_accel/session/retrain.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/log.h"
#include "grpo_accel/session/lesson_plan.h"
#include "grpo_accel/session/lesson_runs.h"
#include "grpo_accel/session/lessons.h"
#include "grpo_accel/session/logbook.h"
#include "grpo_accel/session/mode.h"
#include "grpo_accel/session/session.h"
#include "grpo_accel/session/versions.h"
#include "probe/train/promote.h"
#include "probe/train/train.h"

enum {
    STEP_ROWS_MIN = 64,     /* seen at each candidate step, for a probe that is used at all of them */
    WINDOW_GROWTH = 4,      /* of a window of rows in which some step is scarce */
    NICENESS = 5,           /* of the training's thread: it must not hold up a rollout */
    TRAINING_SECONDS = 1800 /* for a training in the foreground */
};

/* Loss of within-group Spearman that still counts as "not worse", and draws of its interval. */
#define PROMOTE_TOLERANCE 0.03
#define PROMOTE_RESAMPLES 1000

struct ga_retrain_job {
    pthread_t thread;
    bool threaded;
    atomic_bool done, stop;
    /* set before the thread starts, read by it alone */
    char run_dir[4096], path[4096], previous_path[4096];
    char model[GA_PROBE_MODEL_BYTES];
    const ga_compute *compute;
    uint32_t version, update;
    int64_t window_rows;
    uint64_t seed;
    int32_t steps[GA_CANDIDATES_MAX]; /* one probe for all candidate steps */
    int32_t step_count, steps_total, relabels;
    ga_train_options options; /* what the configuration says of network and training */
    /* set by the thread before `done` */
    ga_status status;
    ga_error error;
    bool promoted;
    char verdict[512];
};

/* ---- the version in use ---- */

uint32_t ga_retrain_current(const ga_session *session) {
    return ga_versions_current(session->config->run_dir);
}

bool ga_retrain_path(const ga_session *session, uint32_t version, char *path, size_t bytes) {
    return ga_versions_path(session->config->run_dir, version, path, bytes);
}

/* Rank 0: a version that a training or `grpo-accel rollback` put in use since the last look is announced. A
 * probe that the configuration names stays until then, whatever an earlier run left. */
static void look_for_version(ga_session *session) {
    ga_retrain *retrain = &session->retrain;
    const uint32_t current = ga_versions_current(session->config->run_dir);
    if (!retrain->watching) {
        retrain->watching = true;
        retrain->seen_version = session->config->probe.path == NULL ? session->probe_version : current;
    }
    if (current != retrain->seen_version && current != 0) {
        retrain->seen_version = current;
        retrain->ready_version = current;
    }
}

/* ---- the training itself, in its thread ---- */

static bool asked_to_stop(void *user) {
    return atomic_load(&((ga_retrain_job *)user)->stop);
}

/* The version in use, to be compared with; none is no error. */
static ga_probe *open_previous(const ga_retrain_job *job) {
    ga_probe *previous = NULL;
    if (job->previous_path[0] != '\0' &&
        ga_probe_open(job->previous_path, job->compute, &previous, NULL) != GA_OK) {
        previous = NULL;
    }
    return previous;
}

static ga_status promote(
    ga_retrain_job *job, ga_probe *candidate, const ga_dataset *dataset, ga_error *error) {
    ga_probe *previous = open_previous(job);
    ga_promotion promotion;
    const ga_promote_options options = {.held_share = ga_train_options_default().held_share,
        .tolerance = PROMOTE_TOLERANCE,
        .resamples = PROMOTE_RESAMPLES,
        .seed = job->seed};
    const ga_status status = ga_promote(candidate, previous, dataset, &options, &promotion, error);
    ga_probe_close(&previous);
    GA_TRY(status);
    job->promoted = promotion.promote;
    (void)snprintf(job->verdict, sizeof job->verdict, "%s", promotion.reason);
    if (promotion.promote) {
        ga_probe_set_version(candidate, job->version);
        GA_TRY(ga_probe_save(candidate, job->path, error));
        GA_TRY(ga_versions_use(job->run_dir, job->version, error));
    }
    /* a probe is as good without its line in the journal */
    ga_error why = {0};
    if (ga_versions_note_training(job->run_dir, job->version, job->update, &promotion, &why) != GA_OK) {
        (void)snprintf(job->verdict, sizeof job->verdict, "%.250s (%.200s)", promotion.reason, why.message);
    }
    return GA_OK;
}

/* Labels under other prompts are made by hand (grpo-accel relabel): a run that has none yet learns without.
 */
static ga_status read_window(
    const ga_retrain_job *job, int64_t newest_rows, ga_lessons **lessons_out, ga_error *error) {
    ga_lessons_options source = {.path = job->run_dir,
        .newest_rows = newest_rows,
        .steps = job->steps,
        .step_count = job->step_count,
        .relabels = job->relabels};
    ga_error why = {0};
    const ga_status status = ga_lessons_read(&source, lessons_out, &why);
    if (status == GA_OK || job->relabels == 0 || (status != GA_ERR_FILE && status != GA_ERR_DATA)) {
        return status == GA_OK ? GA_OK : GA_FAIL(error, status, "%s", why.message);
    }
    ga_log(GA_LOG_INFO, "this training goes without training.relabels: %s", why.message);
    source.relabels = 0;
    return ga_lessons_read(&source, lessons_out, error);
}

/* The step of which fewest rows were seen whole, and how many. */
static int64_t count_scarcest(const ga_retrain_job *job, const ga_lessons *lessons, int32_t *step_out) {
    const ga_dataset *dataset = ga_lessons_dataset(lessons);
    int64_t least = INT64_MAX;
    for (int32_t i = 0; i < job->step_count; i++) {
        int64_t seen = 0;
        for (int64_t row = 0; row < dataset->rows; row++) {
            seen += dataset->step[row] == job->steps[i] && dataset->complete[row] != 0 &&
                    isfinite(dataset->reward[row]);
        }
        if (seen < least) {
            least = seen;
            *step_out = job->steps[i];
        }
    }
    return least;
}

/*
 * After a long time of pruning at one step the newest rows hold no other, and a probe for all candidate steps
 * must have seen all: the window grows until it has, or holds the whole record.
 */
static ga_status read_lessons(const ga_retrain_job *job, ga_lessons **lessons_out, ga_error *error) {
    int64_t newest_rows = job->window_rows, rows_before = -1;
    for (;;) {
        ga_lessons *lessons = NULL;
        GA_TRY(read_window(job, newest_rows, &lessons, error));
        int32_t step = 0;
        const int64_t seen = count_scarcest(job, lessons, &step);
        const int64_t rows = ga_lessons_dataset(lessons)->rows;
        if (seen >= STEP_ROWS_MIN || job->step_count == 1) {
            *lessons_out = lessons;
            return GA_OK;
        }
        ga_lessons_free(&lessons);
        if (newest_rows == 0 || rows == rows_before || atomic_load(&job->stop)) {
            return GA_FAIL(error, GA_ERR_DATA,
                "only %lld rows with a reward were seen at step %d, and a probe for it needs %d",
                (long long)seen, (int)step, (int)STEP_ROWS_MIN);
        }
        rows_before = rows;
        newest_rows = WINDOW_GROWTH * newest_rows;
    }
}

static ga_status train_and_promote(ga_retrain_job *job, ga_error *error) {
    ga_lessons *lessons = NULL;
    GA_TRY(read_lessons(job, &lessons, error));
    if (atomic_load(&job->stop)) {
        ga_lessons_free(&lessons);
        return GA_FAIL(error, GA_ERR_DATA, "the run ended first");
    }
    ga_train_options options = job->options;
    options.seed = job->seed + job->version;
    options.version = job->version;
    options.model = job->model;
    options.steps = job->steps;
    options.step_count = job->step_count;
    options.steps_total = job->steps_total;
    options.clean = ga_lessons_clean(lessons);
    ga_learned_run runs[GA_LEARNED_RUNS_MAX];
    options.runs = runs;
    const ga_train_callbacks callbacks = {.stop = asked_to_stop, .user = job};
    ga_probe *probe = NULL;
    ga_train_report report;
    ga_status status = ga_lesson_runs_list(lessons, runs, &options.run_count, error);
    if (status == GA_OK) {
        status =
            ga_train(ga_lessons_dataset(lessons), &options, &callbacks, job->compute, &probe, &report, error);
    }
    if (status == GA_OK && atomic_load(&job->stop)) {
        status = GA_FAIL(error, GA_ERR_DATA, "the run ended first");
    }
    if (status == GA_OK) {
        status = promote(job, probe, ga_lessons_dataset(lessons), error);
    }
    ga_probe_close(&probe);
    ga_lessons_free(&lessons);
    return status;
}

static void *run(void *user) {
    ga_retrain_job *job = user;
    if (job->threaded) {
        (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS);
    }
    job->status = train_and_promote(job, &job->error);
    atomic_store(&job->done, true);
    return NULL;
}

/* ---- rank 0 ---- */

static ga_retrain_job *make_job(ga_session *session) {
    ga_retrain_job *job = calloc(1, sizeof *job);
    if (job == NULL || ga_versions_make_folder(session->config->run_dir, NULL) != GA_OK) {
        free(job);
        return NULL;
    }
    job->version = ga_versions_next(session->config->run_dir, session->probe_version);
    job->update = session->next_update;
    (void)snprintf(job->run_dir, sizeof job->run_dir, "%s", session->config->run_dir);
    (void)snprintf(job->model, sizeof job->model, "%s", session->shapes.model);
    if (!ga_retrain_path(session, job->version, job->path, sizeof job->path)) {
        free(job);
        return NULL;
    }
    if (session->probe != NULL) {
        (void)snprintf(job->previous_path, sizeof job->previous_path, "%s", session->probe_path);
    }
    job->compute = session->compute;
    job->window_rows = session->config->retrain.window_rows;
    job->seed = (uint64_t)session->config->seed;
    memcpy(job->steps, session->shapes.candidate_steps, sizeof job->steps);
    job->step_count = session->shapes.candidate_count;
    job->steps_total = session->shapes.steps_total;
    job->relabels = (int32_t)session->config->training.relabels;
    job->options = ga_lesson_plan(session->config);
    if (!(job->options.seconds_max > 0.0)) {
        /* beside a job none goes on for ever */
        job->options.seconds_max = ga_train_options_default().seconds_max;
    }
    return job;
}

static void start(ga_session *session) {
    if (session->retrain.job != NULL) {
        ga_log(GA_LOG_INFO, "a training still runs, so none is started after update %u",
            (unsigned)session->next_update);
        return;
    }
    ga_retrain_job *job = make_job(session);
    if (job == NULL) {
        ga_log_once(&session->warned[GA_WARNING_TRAINING], GA_LOG_WARNING,
            "no probe is trained: %s/probes can't be made", session->config->run_dir);
        return;
    }
    ga_log(GA_LOG_INFO, "after update %u a training begins: %s", (unsigned)session->next_update,
        session->retrain.reason);
    job->threaded = session->config->retrain.background;
    session->retrain.job = job;
    if (job->threaded && pthread_create(&job->thread, NULL, run, job) == 0) {
        return;
    }
    job->threaded = false;
    (void)run(job);
}

/* Takes over what a finished training left. Never waits. */
static void poll_job(ga_session *session) {
    ga_retrain_job *job = session->retrain.job;
    if (job == NULL || !atomic_load(&job->done)) {
        return;
    }
    if (job->threaded) {
        (void)pthread_join(job->thread, NULL);
    }
    if (job->status != GA_OK) {
        ga_log(job->status == GA_ERR_DATA ? GA_LOG_INFO : GA_LOG_WARNING,
            "the training after update %u gave no probe: %s", (unsigned)session->next_update,
            job->error.message);
    } else {
        ga_log(GA_LOG_INFO, "probe %u %s: %s", (unsigned)job->version,
            job->promoted ? "is trained" : "is not better and stays unused", job->verdict);
    }
    free(job);
    session->retrain.job = NULL;
}

void ga_retrain_stop(ga_session *session) {
    ga_retrain_job *job = session->retrain.job;
    if (job == NULL) {
        return;
    }
    atomic_store(&job->stop, true);
    if (job->threaded) {
        (void)pthread_join(job->thread, NULL);
    }
    free(job);
    session->retrain.job = NULL;
}

/* ---- all ranks ---- */

/* The same answer on every rank. */
static bool is_scheduled(const ga_session *session) {
    const uint64_t updates = (uint64_t)session->next_update + 1;
    const int64_t every = session->config->retrain.every_updates;
    return every > 0 && updates % (uint64_t)every == 0;
}

/* Is a training to be started as soon as all ranks have met? Their rows are on disk by then. A rank that
 * missed an update may not hear of the guard's wish, and then only its newest rows are missing. */
static bool ask(ga_session *session) {
    ga_retrain *retrain = &session->retrain;
    const char *reason = "it is time for one";
    const bool scheduled = is_scheduled(session);
    const bool wanted = ga_mode_wants_training(session, &reason) || scheduled;
    if (wanted && session->config->record.enabled && session->prepared) {
        retrain->pending = true;
        retrain->reason = reason;
    }
    if (retrain->pending) {
        ga_logbook_flush(session);
    }
    return retrain->pending;
}

/* In the foreground all ranks that have met wait for rank 0; the number of meetings must not depend on what
 * is asked for. */
static void wait_for_training(ga_session *session, bool met) {
    if (session->config->retrain.background) {
        return;
    }
    if (met) {
        (void)ga_world_agree(session->world, 0, TRAINING_SECONDS, &(bool){false}, NULL, NULL);
    } else {
        ga_world_skip(session->world);
    }
}

/* The probe of a version on this rank; NULL, with the reason, if it can't be used here. */
static ga_probe *open_version(
    ga_session *session, uint32_t version, char *path, size_t bytes, ga_error *why) {
    ga_probe *probe = NULL;
    if (!ga_retrain_path(session, version, path, bytes) ||
        ga_probe_open(path, session->compute, &probe, why) != GA_OK) {
        return NULL;
    }
    if (ga_session_probe_fits(session, probe, why) != GA_OK) {
        ga_probe_close(&probe);
    }
    return probe;
}

static void take(ga_session *session, ga_probe *probe, uint32_t version, const char *path) {
    ga_probe_close(&session->probe);
    session->probe = probe;
    session->probe_version = version;
    (void)snprintf(session->probe_path, sizeof session->probe_path, "%s", path);
    session->offsets = ga_offsets_make(GA_SESSION_OFFSETS_HALF_LIFE_UPDATES);
    ga_mode_probe_changed(session);
    if (session->rank == 0) {
        const ga_probe_info *info = ga_probe_get_info(probe);
        ga_log(GA_LOG_INFO,
            "from batch %llu on: probe %u, %s, Spearman within groups %.2f (%.2f to %.2f, %lld held-out "
            "groups)",
            (unsigned long long)session->next_batch, (unsigned)version, ga_probe_kind_name(info->kind),
            info->spearman, info->spearman_low, info->spearman_high, (long long)info->held_groups);
    }
}

/*
 * All ranks say which version they would use from here on; a new one is taken where all say it. A rank that
 * is late keeps the old one and tries again after the next update: its peers say the new version then, too.
 * Ranks that met in the update's exchange are here within moments; those that did not skip this, and nobody
 * waits for them longer than at a decision. Says whether all ranks have met. Collective.
 */
static bool swap(ga_session *session, uint32_t ready_version) {
    char path[4096];
    ga_error why = {0};
    ga_probe *probe = NULL;
    const bool wanted = ready_version != 0 && ready_version != session->probe_version &&
                        ready_version != session->retrain.refused_version;
    if (wanted) {
        probe = open_version(session, ready_version, path, sizeof path, &why);
        if (probe == NULL) {
            ga_log(GA_LOG_WARNING, "probe %u can't be used, so the old one stays on all ranks: %s",
                (unsigned)ready_version, why.message);
        }
    }
    bool all = false;
    const uint32_t version = probe != NULL ? ready_version : session->probe_version;
    const ga_status status =
        ga_world_agree(session->world, version, session->config->decision.timeout_seconds, &all, NULL, NULL);
    if (probe != NULL && status == GA_OK && all) {
        take(session, probe, ready_version, path);
        return true;
    }
    ga_probe_close(&probe);
    if (wanted && status == GA_OK) {
        session->retrain.refused_version = ready_version;
    }
    return status == GA_OK;
}

void ga_retrain_step(ga_session *session, bool exchanged, uint32_t ready_version) {
    const bool pending = ask(session);
    bool met = false;
    if (exchanged) {
        met = swap(session, ready_version);
    } else {
        ga_world_skip(session->world);
    }
    if (met && pending) {
        session->retrain.pending = false;
        if (session->rank == 0) {
            start(session);
        }
    }
    wait_for_training(session, met);
    poll_job(session);
    if (session->rank == 0) {
        look_for_version(session);
    }
}
