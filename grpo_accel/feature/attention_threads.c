/* The pieces of a call, over threads: ga_attention_compute of attention.h. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "grpo_accel/feature/attention_work.h"
#include "grpo_accel/feature/statistics.h"

#define THREADS_MAX 64
#define THREADS_DEFAULT 4
/* Multiplications that are worth a thread: some milliseconds. */
#define WORK_LEAST 2e8
/* Probabilities that are held for concentration, if more than one row fits. */
#define HELD_FLOATS ((size_t)4 << 20)

/* A call. Rows begin … end − 1 are being worked on. */
typedef struct job {
    const ga_attention_views *views;
    const ga_tile_kernel *kernel;
    ga_attention_text *texts; /* [rows] */
    uint32_t statistics;
    int32_t begin, end;
    int32_t pieces; /* of a row */
    float *held;    /* [end − begin, image tokens, text tokens] at most, for concentration, else NULL */
    float *maps;    /* [rows, statistics, image tokens] */
    size_t workspace_bytes; /* of a thread */
    char *workspaces;
    atomic_int next_piece;
    atomic_int next_thread;
} job;

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static ga_attention_maps maps_of(const job *j, int32_t row) {
    const size_t tokens = (size_t)j->views->image_tokens;
    float *map = j->maps + (size_t)row * (size_t)ga_attention_count(j->statistics) * tokens;
    ga_attention_maps maps;
    for (int k = 0; k < GA_ATTENTION_STATISTIC_COUNT; k++) {
        const bool wanted = (j->statistics & GA_ATTENTION_BIT(k)) != 0;
        maps.maps[k] = wanted ? map : NULL;
        map += wanted ? tokens : 0;
    }
    return maps;
}

/* A row's [image tokens, visible text tokens]. */
static float *held_of(const job *j, int32_t row) {
    const size_t size = (size_t)j->views->image_tokens * (size_t)j->views->text_tokens;
    return j->held + (size_t)(row - j->begin) * size;
}

static void do_piece(const job *j, int32_t number, float *workspace) {
    const ga_attention_views *views = j->views;
    const int32_t row = j->begin + number / j->pieces, first = number % j->pieces * GA_ATTENTION_PIECE;
    const int32_t count = smaller(GA_ATTENTION_PIECE, views->image_tokens - first);
    const ga_attention_text *text = &j->texts[row];
    float *probability = workspace + ga_attention_work_floats(views, j->kernel);
    if (j->held != NULL) {
        probability = held_of(j, row) + (size_t)first * (size_t)text->count;
    }
    ga_attention_work(views, j->kernel, text, row, first, count, workspace, probability);
    const ga_attention_maps maps = maps_of(j, row);
    ga_statistics_write(
        probability, text->content, text->count, views->key_image != NULL, first, count, &maps);
}

/* Concentration needs a row's last piece; its few logarithms then cost less than sharing them out. */
static void concentrate(const job *j, double *workspace) {
    for (int32_t row = j->begin; j->held != NULL && row < j->end; row++) {
        const ga_attention_text *text = &j->texts[row];
        const ga_attention_maps maps = maps_of(j, row);
        ga_statistics_concentration(held_of(j, row), text->content, j->views->image_tokens, text->count,
            workspace, maps.maps[GA_ATTENTION_CONCENTRATION]);
    }
}

static void *work(void *user) {
    job *j = user;
    const size_t thread = (size_t)atomic_fetch_add(&j->next_thread, 1);
    float *workspace = (float *)(void *)(j->workspaces + thread * j->workspace_bytes);
    const int32_t pieces = (j->end - j->begin) * j->pieces;
    for (int32_t i = atomic_fetch_add(&j->next_piece, 1); i < pieces;
         i = atomic_fetch_add(&j->next_piece, 1)) {
        do_piece(j, i, workspace);
    }
    return NULL;
}

/* This thread and up to `threads` − 1 more. One that can't be had is done without. */
static void work_together(job *j, int32_t threads) {
    pthread_t others[THREADS_MAX];
    int32_t started = 0;
    sigset_t all, before;
    sigfillset(&all); /* the host's signals are for the host's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < threads - 1 && pthread_create(&others[started], NULL, work, j) == 0) {
        started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    work(j);
    for (int32_t i = 0; i < started; i++) {
        pthread_join(others[i], NULL);
    }
}

static int32_t processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? smaller(CPU_COUNT(&set), THREADS_DEFAULT) : 1;
}

static int32_t choose_threads(const job *j, int32_t rows_at_once) {
    const ga_attention_views *v = j->views;
    const double keys = (double)v->text_tokens + (v->key_image != NULL ? (double)v->key_image->shape[2] : 0);
    const double products = (double)v->image_tokens * keys * v->head_size * v->heads * rows_at_once;
    const int32_t wanted = smaller(v->threads > 0 ? v->threads : processors(), THREADS_MAX);
    const double worth = products / WORK_LEAST;
    const int32_t useful = worth > THREADS_MAX ? THREADS_MAX : worth < 1 ? 1 : (int32_t)worth;
    return smaller(smaller(wanted, useful), rows_at_once * j->pieces);
}

/* Rows that are worked on at once; those whose probabilities are to be held are limited. */
static int32_t choose_rows(const job *j, bool held) {
    const size_t row_floats = (size_t)j->views->image_tokens * (size_t)j->views->text_tokens;
    const size_t fitting = row_floats < HELD_FLOATS ? HELD_FLOATS / row_floats : 1;
    return held && fitting < (size_t)j->views->rows ? (int32_t)fitting : j->views->rows;
}

static size_t workspace_bytes(const job *j, bool held) {
    const size_t text_tokens = (size_t)j->views->text_tokens;
    const size_t own = held ? 4 * text_tokens : GA_ATTENTION_PIECE * text_tokens;
    const size_t floats = ga_attention_work_floats(j->views, j->kernel) + own;
    return (floats * sizeof(float) + 63) / 64 * 64;
}

/* Aligned for vectors and NULL when memory is out. */
static void *take_memory(size_t bytes) {
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void release(const job *j) {
    free(j->workspaces);
    free(j->held);
    free(j->texts);
}

static ga_status reserve(job *j, int32_t rows, int32_t threads, bool held, ga_error *error) {
    const size_t token_bytes = (size_t)j->views->text_tokens * sizeof(float);
    j->workspace_bytes = workspace_bytes(j, held);
    j->workspaces = take_memory((size_t)threads * j->workspace_bytes);
    j->held = held ? take_memory((size_t)rows * (size_t)j->views->image_tokens * token_bytes) : NULL;
    j->texts = ga_attention_texts_make(j->views);
    if (j->workspaces == NULL || j->texts == NULL || (held && j->held == NULL)) {
        release(j);
        return GA_FAIL(error, GA_ERR_MEMORY, "attention: no memory for %d text tokens on %d threads",
            j->views->text_tokens, threads);
    }
    return GA_OK;
}

ga_status ga_attention_compute(const ga_attention_views *views, float *maps_out, ga_error *error) {
    int32_t kernels = 0;
    job j = {.views = views, .maps = maps_out};
    j.kernel = views->kernel != NULL ? views->kernel : ga_tile_kernels(&kernels)[0];
    j.statistics = views->statistics == 0 ? GA_ATTENTION_DEFAULT : views->statistics;
    j.pieces = (views->image_tokens + GA_ATTENTION_PIECE - 1) / GA_ATTENTION_PIECE;
    const bool held = (j.statistics & GA_ATTENTION_BIT(GA_ATTENTION_CONCENTRATION)) != 0;
    const int32_t rows = choose_rows(&j, held), threads = choose_threads(&j, rows);
    GA_TRY(reserve(&j, rows, threads, held, error));
    for (j.begin = 0; j.begin < views->rows; j.begin = j.end) {
        j.end = smaller(j.begin + rows, views->rows);
        atomic_store(&j.next_piece, 0);
        atomic_store(&j.next_thread, 0);
        work_together(&j, threads);
        concentrate(&j, (double *)(void *)j.workspaces);
    }
    release(&j);
    return GA_OK;
}
