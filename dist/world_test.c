#include "dist/world_test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dist/world_table.h"
#include "grpo_accel/base/check.h"

#define LEAST_DELAY_SECONDS 1e-6

/* A message on its way, or in the queue of its receiver. */
typedef struct parcel_post {
    struct parcel_post *next;
    double arrives_seconds;
    char *data;
    size_t bytes;
} parcel_post;

/* One thread's side of the stage. */
typedef struct actor {
    struct stage *stage;
    int32_t rank;
    pthread_t thread;
    double wakes_seconds; /* while asleep */
    bool asleep;
    ga_clock clock;
    void (*rank_main)(ga_world **world, void *user);
    void *user;
    ga_status status; /* of making its world */
} actor;

/* All ranks, the messages between them, and the time. */
typedef struct stage {
    const ga_world_script *script;
    pthread_mutex_t mutex;
    pthread_cond_t time_moved;
    double now_seconds;
    int32_t running_count; /* actors that neither sleep nor have ended */
    parcel_post **queues;  /* [to * size + from], oldest first */
    actor *actors;
} stage;

/* With the mutex held: if nobody runs, time jumps to the next wake-up. */
static void move_time(stage *on) {
    if (on->running_count > 0) {
        return;
    }
    double next_seconds = -1;
    for (int32_t i = 0; i < on->script->size; i++) {
        const actor *one = &on->actors[i];
        if (one->asleep && (next_seconds < 0 || one->wakes_seconds < next_seconds)) {
            next_seconds = one->wakes_seconds;
        }
    }
    if (next_seconds < 0) {
        return;
    }
    on->now_seconds = next_seconds;
    for (int32_t i = 0; i < on->script->size; i++) {
        if (on->actors[i].asleep && on->actors[i].wakes_seconds <= on->now_seconds) {
            on->actors[i].asleep = false;
            on->running_count++;
        }
    }
    (void)pthread_cond_broadcast(&on->time_moved);
}

static double actor_now(void *user) {
    actor *self = user;
    (void)pthread_mutex_lock(&self->stage->mutex);
    const double now_seconds = self->stage->now_seconds;
    (void)pthread_mutex_unlock(&self->stage->mutex);
    return now_seconds;
}

static void actor_sleep(void *user, double seconds) {
    actor *self = user;
    stage *on = self->stage;
    (void)pthread_mutex_lock(&on->mutex);
    self->wakes_seconds = on->now_seconds + (seconds > 0 ? seconds : 0);
    self->asleep = true;
    on->running_count--;
    move_time(on);
    while (self->asleep) {
        (void)pthread_cond_wait(&on->time_moved, &on->mutex);
    }
    (void)pthread_mutex_unlock(&on->mutex);
}

static parcel_post *pack(const ga_parcel *pieces, int32_t piece_count) {
    size_t bytes = 0;
    for (int32_t i = 0; i < piece_count; i++) {
        bytes += pieces[i].bytes;
    }
    parcel_post *posted = calloc(1, sizeof *posted);
    char *data = malloc(bytes);
    if (posted == NULL || data == NULL) {
        free(posted);
        free(data);
        return NULL;
    }
    posted->data = data;
    posted->bytes = bytes;
    for (int32_t i = 0; i < piece_count; i++) {
        if (pieces[i].bytes > 0) {
            memcpy(data, pieces[i].data, pieces[i].bytes);
            data += pieces[i].bytes;
        }
    }
    return posted;
}

static void parcel_post_free(parcel_post *posted) {
    free(posted->data);
    free(posted);
}

/* With the mutex held. Order between two ranks is kept: a message arrives no earlier than the one before it.
 */
static void deliver(stage *on, int32_t from, int32_t to, parcel_post *posted) {
    const ga_world_script *script = on->script;
    uint64_t number;
    memcpy(&number, posted->data, sizeof number);
    const double delay_seconds = script->delay_seconds != NULL
                                     ? script->delay_seconds(script->user, from, to, number)
                                     : LEAST_DELAY_SECONDS;
    if (delay_seconds < 0) {
        parcel_post_free(posted);
        return;
    }
    if (script->alter != NULL) {
        script->alter(script->user, from, to, number, posted->data, posted->bytes);
    }
    posted->arrives_seconds =
        on->now_seconds + (delay_seconds > LEAST_DELAY_SECONDS ? delay_seconds : LEAST_DELAY_SECONDS);
    parcel_post **link = &on->queues[to * script->size + from];
    for (; *link != NULL; link = &(*link)->next) {
        if ((*link)->arrives_seconds > posted->arrives_seconds) {
            posted->arrives_seconds = (*link)->arrives_seconds;
        }
    }
    *link = posted;
}

static ga_status test_post(void *state, const int32_t *ranks, int32_t rank_count, const ga_parcel *pieces,
    int32_t piece_count, ga_error *error) {
    actor *self = state;
    for (int32_t i = 0; i < rank_count; i++) {
        parcel_post *posted = pack(pieces, piece_count);
        if (posted == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a message to rank %d", ranks[i]);
        }
        (void)pthread_mutex_lock(&self->stage->mutex);
        deliver(self->stage, self->rank, ranks[i], posted);
        (void)pthread_mutex_unlock(&self->stage->mutex);
    }
    return GA_OK;
}

static ga_status test_peek(void *state, int32_t rank, ga_parcel *message_out, ga_error *error) {
    actor *self = state;
    stage *on = self->stage;
    (void)error;
    (void)pthread_mutex_lock(&on->mutex);
    const parcel_post *oldest = on->queues[self->rank * on->script->size + rank];
    if (oldest != NULL && oldest->arrives_seconds <= on->now_seconds) {
        *message_out = (ga_parcel){oldest->data, oldest->bytes};
    }
    (void)pthread_mutex_unlock(&on->mutex);
    return GA_OK;
}

static void test_drop(void *state, int32_t rank) {
    actor *self = state;
    stage *on = self->stage;
    (void)pthread_mutex_lock(&on->mutex);
    parcel_post **oldest = &on->queues[self->rank * on->script->size + rank];
    if (*oldest != NULL) {
        parcel_post *dropped = *oldest;
        *oldest = dropped->next;
        parcel_post_free(dropped);
    }
    (void)pthread_mutex_unlock(&on->mutex);
}

static ga_status test_flush(void *state, uint64_t since, bool *done_out, ga_error *error) {
    (void)state;
    (void)since;
    (void)error;
    *done_out = true;
    return GA_OK;
}

static ga_status test_close(void *state, bool quiet, ga_error *error) {
    (void)state;
    (void)quiet;
    (void)error;
    return GA_OK;
}

static void test_abandon(void *state, bool child) {
    (void)state;
    (void)child;
}

static const ga_world_table test_table = {
    GA_WORLD_TABLE_VERSION, "test", test_post, test_peek, test_drop, test_flush, test_close, test_abandon};

static void play(actor *self) {
    const int32_t size = self->stage->script->size;
    const ga_launch_place place = {
        .rank = self->rank, .size = size, .local_rank = self->rank, .local_size = size, .launcher = "test"};
    const ga_world_options options = {
        .clock = &self->clock, .direct_ranks_max = self->stage->script->direct_ranks_max};
    ga_world *world = NULL;
    self->status = ga_world_make(&test_table, self, &place, &options, &world, NULL);
    if (self->status == GA_OK) {
        self->rank_main(&world, self->user);
        ga_world_abandon(&world);
    }
}

/* Plays, then leaves the stage: those that sleep must not wait for it. */
static void *actor_main(void *user) {
    actor *self = user;
    play(self);
    (void)pthread_mutex_lock(&self->stage->mutex);
    self->stage->running_count--;
    move_time(self->stage);
    (void)pthread_mutex_unlock(&self->stage->mutex);
    return NULL;
}

static void stage_close(stage *on) {
    const int32_t size = on->script->size;
    for (int32_t i = 0; on->queues != NULL && i < size * size; i++) {
        while (on->queues[i] != NULL) {
            parcel_post *next = on->queues[i]->next;
            parcel_post_free(on->queues[i]);
            on->queues[i] = next;
        }
    }
    free(on->queues);
    free(on->actors);
    (void)pthread_cond_destroy(&on->time_moved);
    (void)pthread_mutex_destroy(&on->mutex);
}

static ga_status stage_open(stage *on, const ga_world_script *script, ga_error *error) {
    const size_t size = ga_size(script->size);
    memset(on, 0, sizeof *on);
    on->script = script;
    (void)pthread_mutex_init(&on->mutex, NULL);
    (void)pthread_cond_init(&on->time_moved, NULL);
    on->queues = calloc(size * size, sizeof *on->queues);
    on->actors = calloc(size, sizeof *on->actors);
    if (on->queues == NULL || on->actors == NULL) {
        stage_close(on);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a scripted world of %d ranks", script->size);
    }
    return GA_OK;
}

/* Starts all threads behind the closed curtain (the mutex), so that none runs before all exist. */
static int32_t start_actors(stage *on, void (*rank_main)(ga_world **world, void *user), void *user) {
    int32_t started = 0;
    (void)pthread_mutex_lock(&on->mutex);
    on->running_count = on->script->size;
    for (; started < on->script->size; started++) {
        actor *one = &on->actors[started];
        *one = (actor){.stage = on, .rank = started, .rank_main = rank_main, .user = user};
        one->clock = (ga_clock){actor_now, actor_sleep, one};
        if (pthread_create(&one->thread, NULL, actor_main, one) != 0) {
            break;
        }
    }
    on->running_count -= on->script->size - started;
    (void)pthread_mutex_unlock(&on->mutex);
    return started;
}

ga_status ga_world_script_run(const ga_world_script *script, void (*rank_main)(ga_world **world, void *user),
    void *user, ga_error *error) {
    stage on;
    GA_TRY(stage_open(&on, script, error));
    const int32_t started = start_actors(&on, rank_main, user);
    ga_status status = started == script->size
                           ? GA_OK
                           : GA_FAIL(error, GA_ERR_MEMORY,
                                 "only %d of %d threads of a scripted world started", started, script->size);
    for (int32_t i = 0; i < started; i++) {
        (void)pthread_join(on.actors[i].thread, NULL);
        if (status == GA_OK && on.actors[i].status != GA_OK) {
            status = GA_FAIL(error, on.actors[i].status, "rank %d of a scripted world did not open", i);
        }
    }
    stage_close(&on);
    return status;
}
