/* train: from a record to a probe file, alone or with the ranks of a job. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/base/digest.h"
#include "grpo_accel/command/figures.h"
#include "grpo_accel/command/train_call.h"
#include "grpo_accel/command/train_ranks.h"
#include "grpo_accel/command/train_report.h"
#include "grpo_accel/session/lesson_runs.h"

/* One training from the ranks' meeting to their parting. */
typedef struct training {
    const ga_call *call;
    ga_train_call train;
    ga_train_ranks ranks;
    ga_train_bar bar;
    const ga_compute *compute;
    ga_lessons *lessons;
    ga_learned_run runs[GA_LEARNED_RUNS_MAX];
    ga_probe *probe;
    ga_train_report report;
} training;

/* ---- interruption ---- */

static volatile sig_atomic_t interrupted;

/* The first ^C ends the training with the best probe so far; the second ends the program. */
static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

static void watch_interrupt(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    action.sa_flags = (int)SA_RESETHAND;
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

static bool is_interrupted(void *user) {
    (void)user;
    return interrupted != 0;
}

static void show_progress(void *user, const ga_train_progress *progress) {
    ga_train_bar_show(&((training *)user)->bar, progress);
}

/* ---- the parts of a training ---- */

/* Torch was asked for: on this rank's GPU where there is one, else on the CPU. */
static ga_status open_torch(const training *t, ga_error *error) {
    training *own = (training *)(uintptr_t)t;
    const int32_t place = ga_world_local_rank(t->ranks.world);
    if (ga_compute_open(GA_PROVIDER_TORCH, GA_DEVICE_CUDA, place, t->train.torch, &own->compute, NULL) ==
        GA_OK) {
        return GA_OK;
    }
    return ga_compute_open(GA_PROVIDER_TORCH, GA_DEVICE_CPU, 0, t->train.torch, &own->compute, error);
}

static ga_status open_provider(training *t, ga_error *error) {
    if (t->train.provider == GA_PROVIDER_TORCH) {
        return open_torch(t, error);
    }
    const bool native = t->train.provider == GA_PROVIDER_NATIVE || t->train.torch == NULL;
    const int32_t place = ga_world_local_rank(t->ranks.world);
    return ga_compute_open(native ? GA_PROVIDER_NATIVE : GA_PROVIDER_AUTO,
        native ? GA_DEVICE_CPU : GA_DEVICE_CUDA, native ? 0 : place, t->train.torch, &t->compute, error);
}

/* Several ranks must learn from the same rows, also where a run goes on writing. */
static ga_status read_lessons(training *t, ga_error *error) {
    const ga_lessons_options source = {.path = t->train.data,
        .newest_rows = t->train.window_rows,
        .step = t->train.step,
        .steps = t->train.step_count > 0 ? t->train.steps : NULL,
        .step_count = t->train.step_count,
        .inputs = t->train.inputs,
        .targets = t->train.targets,
        .relabels = (int32_t)t->train.relabels,
        .rank = ga_world_rank(t->ranks.world),
        .ranks = ga_world_size(t->ranks.world)};
    GA_TRY(ga_lessons_read(&source, &t->lessons, error));
    const ga_record_table *table = ga_lessons_table(t->lessons);
    if (table->rows == 0) {
        return GA_FAIL(error, GA_ERR_DATA, "%.200s: the record has no rows to learn from", t->train.data);
    }
    const uint64_t rows = ga_digest64(table->row_id, (size_t)table->rows * sizeof *table->row_id);
    return ga_train_ranks_agree(&t->ranks, rows, "rows to learn from (is the run still writing?)", error);
}

/* What the probe will be bound to stands in the record. */
static ga_status bind_options(training *t, ga_error *error) {
    const ga_record_table *table = ga_lessons_table(t->lessons);
    ga_train_options *options = &t->train.options;
    const int64_t last = table->rows - 1;
    options->model = table->layout.model;
    options->clean = ga_lessons_clean(t->lessons);
    options->step_count = ga_lessons_steps(t->lessons, &options->steps);
    options->steps_total = table->steps_total[last];
    options->version = table->probe_version[last] + 1;
    options->runs = t->runs;
    return ga_lesson_runs_list(t->lessons, t->runs, &options->run_count, error);
}

static ga_status learn(training *t, ga_error *error) {
    GA_TRY(bind_options(t, error));
    const ga_train_callbacks callbacks = {.reduce = ga_train_ranks_reduce(&t->ranks),
        .stop = is_interrupted,
        .progress = show_progress,
        .user = t};
    const ga_status status = ga_train(ga_lessons_dataset(t->lessons), &t->train.options, &callbacks,
        t->compute, &t->probe, &t->report, error);
    ga_train_bar_clear(&t->bar);
    return status;
}

/* The probe, and no state where nothing is left to go on with. */
static ga_status save(training *t, ga_error *error) {
    GA_TRY(ga_probe_save(t->probe, t->train.out, error));
    if (t->report.end != GA_TRAIN_END_STOP && t->report.end != GA_TRAIN_END_SECONDS) {
        (void)unlink(t->train.state);
    }
    return GA_OK;
}

static void report(const training *t) {
    const ga_train_result result = {.train = &t->train,
        .info = ga_probe_get_info(t->probe),
        .report = &t->report,
        .provider = t->compute->name,
        .ranks = ga_world_size(t->ranks.world)};
    if (t->call->json) {
        ga_train_result_as_json(&result);
    } else if (!t->call->quiet) {
        ga_train_result_as_text(&result);
    }
}

static ga_status train_together(training *t, ga_error *error) {
    const bool first = ga_world_rank(t->ranks.world) == 0;
    t->bar = ga_train_bar_make(t->call->quiet || !first);
    GA_TRY(open_provider(t, error));
    GA_TRY(read_lessons(t, error));
    if (first) {
        ga_command_warn_refused(ga_lessons_table(t->lessons));
    }
    GA_TRY(learn(t, error));
    if (first) {
        GA_TRY(save(t, error));
        report(t);
    }
    return GA_OK;
}

static ga_status train(training *t, ga_error *error) {
    GA_TRY(ga_train_call_read(t->call, &t->train, error));
    GA_TRY(ga_train_ranks_begin(t->train.timeout_seconds, &t->ranks, error));
    watch_interrupt();
    ga_status status = train_together(t, error);
    ga_probe_close(&t->probe);
    ga_lessons_free(&t->lessons);
    const ga_status ended = ga_train_ranks_end(&t->ranks, status == GA_OK, status == GA_OK ? error : NULL);
    return status != GA_OK ? status : ended;
}

ga_exit ga_command_train(const ga_call *call) {
    training t = {.call = call};
    ga_error error;
    ga_error_clear(&error);
    return train(&t, &error) == GA_OK ? GA_EXIT_DONE : ga_command_fail(call, &error);
}
