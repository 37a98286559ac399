#include "grpo_accel/compute/torch_run.h"

#include <pthread.h>
#include <signal.h>

/* The job in hand: `stream` is the caller's current one. */
typedef struct running_job {
    ga_compute_job job;
    void *user;
    ga_error *error;
    void *stream;
    ga_status status;
} running_job;

/* The thread and what it shares with callers. `job` is set by a caller and taken back when `done`. */
typedef struct job_thread {
    pthread_mutex_t turn; /* held by the caller whose job is in hand */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    running_job *job;
    bool started, done;
} job_thread;

static job_thread worker = {.turn = PTHREAD_MUTEX_INITIALIZER,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .changed = PTHREAD_COND_INITIALIZER};
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static _Thread_local bool inside_job;

/* A fork copies no thread, and locks in whatever state they were in. */
static void begin_anew(void) {
    worker = (job_thread){.turn = PTHREAD_MUTEX_INITIALIZER,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .changed = PTHREAD_COND_INITIALIZER};
    inside_job = false;
}

static void watch_forks(void) {
    (void)pthread_atfork(NULL, NULL, begin_anew);
}

/* ---- device and stream ---- */

static ga_status enter_stream(void *stream, void **guard_out, ga_error *error) {
    *guard_out = NULL;
    if (ga_torch.is_cuda &&
        ga_torch.symbols.new_stream_guard(stream, ga_torch.device_index, guard_out) != 0) {
        return ga_torch_fail("taking over the caller's stream", error);
    }
    return GA_OK;
}

static void leave_stream(void *guard) {
    if (guard != NULL) {
        (void)ga_torch.symbols.delete_stream_guard(guard);
    }
}

static ga_status run_on_stream(const running_job *job) {
    void *guard;
    GA_TRY(enter_stream(job->stream, &guard, job->error));
    const ga_status status = job->job(job->user, job->error);
    leave_stream(guard);
    return status;
}

/* ---- the thread ---- */

static void *serve(void *unused) {
    (void)unused;
    inside_job = true; /* for all that this thread ever runs */
    ga_torch.symbols.grad_mode_set_enabled(false);
    pthread_mutex_lock(&worker.lock);
    for (;;) {
        while (worker.job == NULL || worker.done) {
            pthread_cond_wait(&worker.changed, &worker.lock);
        }
        running_job *job = worker.job;
        pthread_mutex_unlock(&worker.lock);
        job->status = run_on_stream(job);
        pthread_mutex_lock(&worker.lock);
        worker.done = true;
        pthread_cond_broadcast(&worker.changed);
    }
    return NULL;
}

/* Signals stay with the host's threads. */
static bool start_thread(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_t thread;
    bool started = pthread_attr_init(&attributes) == 0;
    if (started) {
        started = pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0 &&
                  pthread_create(&thread, &attributes, serve, NULL) == 0;
        pthread_attr_destroy(&attributes);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* Hands the job over and waits; false: there is no thread. */
static bool hand_over(running_job *job) {
    pthread_mutex_lock(&worker.turn);
    pthread_mutex_lock(&worker.lock);
    if (!worker.started) {
        worker.started = start_thread();
    }
    const bool served = worker.started;
    if (served) {
        worker.job = job;
        worker.done = false;
        pthread_cond_broadcast(&worker.changed);
        while (!worker.done) {
            pthread_cond_wait(&worker.changed, &worker.lock);
        }
        worker.job = NULL;
    }
    pthread_mutex_unlock(&worker.lock);
    pthread_mutex_unlock(&worker.turn);
    return served;
}

/* Better than nothing: autocast of the caller would still matter, grad mode would not. */
static ga_status run_directly(const running_job *job) {
    const bool before = ga_torch.symbols.grad_mode_is_enabled();
    ga_torch.symbols.grad_mode_set_enabled(false);
    inside_job = true;
    const ga_status status = run_on_stream(job);
    inside_job = false;
    ga_torch.symbols.grad_mode_set_enabled(before);
    return status;
}

ga_status ga_torch_run(ga_compute_job job, void *user, ga_error *error) {
    if (inside_job) {
        return job(user, error);
    }
    running_job work = {.job = job, .user = user, .error = error, .status = GA_ERR_BUG};
    if (ga_torch.is_cuda && ga_torch.symbols.current_stream(ga_torch.device_index, &work.stream) != 0) {
        return ga_torch_fail("asking for the current stream", error);
    }
    (void)pthread_once(&fork_once, watch_forks);
    return hand_over(&work) ? work.status : run_directly(&work);
}
