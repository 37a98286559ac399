#include "grpo_accel/record/writer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "grpo_accel/base/arena.h"
#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/record/manifest.h"
#include "grpo_accel/record/publish.h"
#include "grpo_accel/record/segment.h"

#define SEGMENT_ROWS_DEFAULT 2048
#define SEGMENT_ROWS_MAX (1 << 20)
#define SEGMENT_BYTES_DEFAULT ((size_t)32 << 20)
#define MEMORY_BYTES_DEFAULT ((size_t)512 << 20)
#define ARENA_BLOCK_BYTES ((size_t)1 << 20)
#define BATCHES_PER_BUCKET 256

/* Rows of one segment to be, with copies of what they point to. */
typedef struct bucket {
    struct bucket *next;
    ga_arena *arena;
    ga_record_row *rows; /* segment_rows of them */
    int32_t row_count;
    int32_t batch_count;
    ga_record_batch batches[BATCHES_PER_BUCKET];
    size_t bytes; /* that its rows count for in the bound */
    double opened_seconds;
} bucket;

typedef struct bucket_queue {
    bucket *first;
    bucket *last;
} bucket_queue;

/* A manifest line that is still to be written. */
typedef struct pending_line {
    struct pending_line *next;
    char text[GA_MANIFEST_LINE_BYTES];
} pending_line;

struct ga_record {
    ga_record_options options; /* folder is not used after open */
    pid_t owner;
    ga_publisher *publisher; /* the thread's, like lines */
    pending_line *lines;     /* oldest first */
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t work;  /* something to write, or stop */
    pthread_cond_t done;  /* something was written or failed */
    bucket *open;         /* takes rows; NULL: none yet */
    bucket *spare;        /* one empty bucket kept for reuse */
    bucket_queue ready;
    bucket_queue failed;
    size_t bytes_held;
    bool busy;
    bool stop;
    bool failing;  /* the last attempt failed */
    bool reported; /* ga_record_status has told of it */
    ga_error failure;
    ga_record_counters counters;
};

static void queue_add(bucket_queue *queue, bucket *added) {
    added->next = NULL;
    if (queue->last != NULL) {
        queue->last->next = added;
    } else {
        queue->first = added;
    }
    queue->last = added;
}

static bucket *queue_take(bucket_queue *queue) {
    bucket *taken = queue->first;
    if (taken != NULL) {
        queue->first = taken->next;
        queue->last = queue->first == NULL ? NULL : queue->last;
    }
    return taken;
}

/* Moves everything to the front of `to`: it is older than what waits there. */
static void queue_prepend(bucket_queue *to, bucket_queue *from) {
    if (from->first == NULL) {
        return;
    }
    from->last->next = to->first;
    to->last = to->last == NULL ? from->last : to->last;
    to->first = from->first;
    *from = (bucket_queue){NULL, NULL};
}

static void bucket_free(bucket *freed) {
    if (freed == NULL) {
        return;
    }
    ga_arena_destroy(&freed->arena);
    free(freed->rows);
    free(freed);
}

static bucket *bucket_create(int32_t segment_rows) {
    bucket *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return NULL;
    }
    made->arena = ga_arena_create(ARENA_BLOCK_BYTES);
    made->rows = calloc((size_t)segment_rows, sizeof *made->rows);
    if (made->arena == NULL || made->rows == NULL) {
        bucket_free(made);
        return NULL;
    }
    return made;
}

static bool is_empty(const bucket *asked) {
    return asked->row_count == 0 && asked->batch_count == 0;
}

static void bucket_clear(bucket *cleared) {
    ga_arena_reset(cleared->arena);
    cleared->row_count = 0;
    cleared->batch_count = 0;
    cleared->bytes = 0;
}

/* In the time of ga_clock_system, which is the conditions' clock too. */
static struct timespec deadline_after(double seconds) {
    const double bounded = seconds < 0 ? 0 : (seconds > 1e8 ? 1e8 : seconds);
    const double then = ga_clock_now(ga_clock_system()) + bounded;
    const time_t whole = (time_t)then;
    return (struct timespec){whole, (long)((then - (double)whole) * 1e9)};
}

/* The open bucket becomes ready. Under the lock. */
static void seal_open(ga_record *record) {
    if (record->open != NULL && !is_empty(record->open)) {
        queue_add(&record->ready, record->open);
        record->open = NULL;
        (void)pthread_cond_signal(&record->work);
    }
}

/* NULL: no memory. Under the lock. */
static bucket *open_bucket(ga_record *record) {
    if (record->open != NULL) {
        return record->open;
    }
    bucket *opened = record->spare;
    record->spare = NULL;
    if (opened == NULL) {
        opened = bucket_create(record->options.segment_rows);
    }
    if (opened != NULL) {
        opened->opened_seconds = ga_clock_now(ga_clock_system());
        record->open = opened;
        (void)pthread_cond_signal(&record->work); /* its age is watched from now on */
    }
    return opened;
}

/* ---- the thread ------------------------------------------------------------------------------------------
 */

static ga_manifest_line describe(const bucket *sealed, int64_t sequence, const void *image, size_t bytes) {
    ga_manifest_line line;
    memset(&line, 0, sizeof line);
    ga_segment_name(sequence, line.file);
    line.rows = (uint64_t)sealed->row_count;
    line.bytes = bytes;
    line.checksum = ga_digest64(image, bytes);
    line.sequence = (uint64_t)sequence;
    for (int32_t i = 0; i < sealed->row_count + sealed->batch_count; i++) {
        const ga_record_batch *figures =
            i < sealed->row_count ? NULL : &sealed->batches[i - sealed->row_count];
        const uint64_t batch = figures != NULL ? figures->batch : sealed->rows[i].row.batch;
        const uint64_t update = figures != NULL ? figures->update : sealed->rows[i].row.update;
        line.first_batch = i == 0 || batch < line.first_batch ? batch : line.first_batch;
        line.last_batch = batch > line.last_batch ? batch : line.last_batch;
        line.first_update = i == 0 || update < line.first_update ? update : line.first_update;
        line.last_update = update > line.last_update ? update : line.last_update;
    }
    if (sealed->row_count > 0) {
        line.first_row_id = sealed->rows[0].row.row_id;
        line.last_row_id = sealed->rows[sealed->row_count - 1].row.row_id;
    }
    return line;
}

/* Writes lines until one fails; what fails stays for the next time. */
static ga_status write_lines(ga_record *record, ga_error *error) {
    while (record->lines != NULL) {
        pending_line *line = record->lines;
        GA_TRY(ga_publish_line(record->publisher, GA_MANIFEST_NAME, line->text, error));
        record->lines = line->next;
        free(line);
    }
    return GA_OK;
}

static ga_status list_segment(ga_record *record, const ga_manifest_line *line, ga_error *error) {
    pending_line *added = calloc(1, sizeof *added);
    if (added == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for a manifest line");
    }
    ga_manifest_format(line, added->text);
    pending_line **end = &record->lines;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = added;
    return write_lines(record, error);
}

/* An empty bucket only asks for the lines that are still to be written.
 * *published_out tells whether the rows are safe, whatever the status says of the manifest and of syncing. */
static ga_status write_bucket(
    ga_record *record, const bucket *sealed, bool *published_out, size_t *bytes_out, ga_error *error) {
    const ga_segment segment = {
        &record->options.layout, sealed->rows, sealed->row_count, sealed->batches, sealed->batch_count};
    if (is_empty(sealed)) {
        *published_out = true;
        return write_lines(record, error);
    }
    void *image = NULL;
    int64_t sequence = -1;
    GA_TRY(ga_segment_build(&segment, &image, bytes_out, error));
    ga_status status = ga_publish_segment(record->publisher, image, *bytes_out, &sequence, error);
    *published_out = sequence >= 0;
    if (sequence >= 0) {
        const ga_manifest_line line = describe(sealed, sequence, image, *bytes_out);
        const ga_status listed = list_segment(record, &line, error);
        status = status != GA_OK ? status : listed;
    }
    free(image);
    return status;
}

/* Books the outcome of one attempt. Under the lock. Takes over the bucket. */
static void book(ga_record *record, bucket *sealed, ga_status status, bool published, size_t bytes,
    const ga_error *error) {
    if (status != GA_OK) {
        record->counters.failures++;
        record->reported = record->failing && record->reported;
        record->failure = *error;
    }
    record->failing = status != GA_OK;
    if (!published) {
        queue_add(&record->failed, sealed);
        return;
    }
    const bool request = is_empty(sealed);
    record->counters.segments += !request;
    record->counters.bytes += (int64_t)bytes;
    record->counters.rows_written += sealed->row_count;
    record->counters.rows_pending -= sealed->row_count;
    record->bytes_held -= sealed->bytes;
    bucket_clear(sealed);
    if (record->spare == NULL && !request) {
        record->spare = sealed;
    } else {
        bucket_free(sealed);
    }
    if (status == GA_OK) {
        queue_prepend(&record->ready, &record->failed); /* the disk is well again */
    }
}

/* Waits until there is something to write; NULL: the end. Under the lock. */
static bucket *next_bucket(ga_record *record) {
    for (;;) {
        const double age_limit = record->options.seal_seconds;
        if (record->open != NULL && age_limit >= 0) {
            const double age = ga_clock_now(ga_clock_system()) - record->open->opened_seconds;
            if (age >= age_limit) {
                seal_open(record);
            }
        }
        bucket *next = queue_take(&record->ready);
        if (next != NULL || record->stop) {
            return next;
        }
        if (record->open == NULL || age_limit < 0) {
            (void)pthread_cond_wait(&record->work, &record->lock);
            continue;
        }
        const double age = ga_clock_now(ga_clock_system()) - record->open->opened_seconds;
        const struct timespec deadline = deadline_after(age_limit - age + 0.001);
        (void)pthread_cond_timedwait(&record->work, &record->lock, &deadline);
    }
}

static void *run_thread(void *user) {
    ga_record *record = user;
    (void)pthread_mutex_lock(&record->lock);
    for (bucket *sealed = next_bucket(record); sealed != NULL; sealed = next_bucket(record)) {
        record->busy = true;
        (void)pthread_mutex_unlock(&record->lock);
        const double start = ga_clock_now(ga_clock_system());
        ga_error error;
        ga_error_clear(&error);
        bool published = false;
        size_t bytes = 0;
        const ga_status status = write_bucket(record, sealed, &published, &bytes, &error);
        const double seconds = ga_clock_now(ga_clock_system()) - start;
        (void)pthread_mutex_lock(&record->lock);
        record->busy = false;
        record->counters.seconds += seconds;
        book(record, sealed, status, published, bytes, &error);
        (void)pthread_cond_broadcast(&record->done);
    }
    (void)pthread_mutex_unlock(&record->lock);
    return NULL;
}

/* ---- open ------------------------------------------------------------------------------------------------
 */

static void set_defaults(ga_record_options *options) {
    if (options->segment_rows <= 0) {
        options->segment_rows = SEGMENT_ROWS_DEFAULT;
    }
    if (options->segment_rows > SEGMENT_ROWS_MAX) {
        options->segment_rows = SEGMENT_ROWS_MAX;
    }
    if (options->segment_bytes == 0) {
        options->segment_bytes = SEGMENT_BYTES_DEFAULT;
    }
    if (options->seal_seconds == 0) {
        options->seal_seconds = 60;
    }
    if (options->memory_bytes_max == 0) {
        options->memory_bytes_max = MEMORY_BYTES_DEFAULT;
    }
    if (options->wait_seconds == 0) {
        options->wait_seconds = 2;
    }
    if (options->flush_seconds == 0) {
        options->flush_seconds = 60;
    }
}

/* An empty segment tells at once whether this build and this layout can write at all. */
static ga_status try_layout(const ga_record_layout *layout, ga_error *error) {
    const ga_segment segment = {layout, NULL, 0, NULL, 0};
    void *image = NULL;
    size_t bytes = 0;
    GA_TRY(ga_segment_build(&segment, &image, &bytes, error));
    free(image);
    return GA_OK;
}

/* The host's signals are not for this thread; and SIGXFSZ blocked makes a full quota an errno. */
static ga_status start_thread(ga_record *record, ga_error *error) {
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&record->lock, NULL);
    (void)pthread_cond_init(&record->work, &attributes);
    (void)pthread_cond_init(&record->done, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    const int number = pthread_create(&record->thread, NULL, run_thread, record);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (number != 0) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: the writer's thread could not be started: %s",
            strerrordesc_np(number));
    }
    return GA_OK;
}

static ga_status open_rank_folder(ga_record *record, const char *folder, ga_error *error) {
    char path[4096];
    const int length = snprintf(path, sizeof path, "%s/rank-%05d", folder, record->options.layout.rank);
    if (length < 0 || (size_t)length >= sizeof path) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: the folder's name is too long");
    }
    return ga_publisher_open(path, &record->publisher, error);
}

ga_status ga_record_open(const ga_record_options *options, ga_record **record_out, ga_error *error) {
    if (options->folder == NULL || options->folder[0] == 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: no folder given");
    }
    GA_TRY(ga_record_layout_check(&options->layout, error));
    GA_TRY(try_layout(&options->layout, error));
    ga_record *record = calloc(1, sizeof *record);
    if (record == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for a writer");
    }
    record->options = *options;
    record->options.folder = NULL;
    record->owner = getpid();
    set_defaults(&record->options);
    ga_status status = open_rank_folder(record, options->folder, error);
    if (status == GA_OK) {
        status = start_thread(record, error);
    }
    if (status != GA_OK) {
        ga_publisher_close(&record->publisher);
        free(record);
        return status;
    }
    *record_out = record;
    return GA_OK;
}

/* ---- append ----------------------------------------------------------------------------------------------
 */

static size_t feature_bytes(const ga_record_layout *layout) {
    return (size_t)layout->features.values_per_row * sizeof(ga_half);
}

static size_t prompt_bytes(const ga_record_layout *layout, const ga_record_row *row) {
    return layout->prompt_text && row->prompt != NULL
               ? strnlen(row->prompt, GA_RECORD_PROMPT_BYTES_MAX + 4) + 1
               : 0;
}

static size_t row_bytes(const ga_record_layout *layout, const ga_record_row *row) {
    size_t bytes = sizeof *row + (size_t)layout->scorer_count * sizeof(float) + prompt_bytes(layout, row);
    for (int32_t c = 0; c < layout->candidate_count; c++) {
        bytes += row->features[c] != NULL ? feature_bytes(layout) : 0;
    }
    const size_t final_bytes = ga_record_final_values(layout) * ga_record_final_bytes(layout);
    bytes += row->final != NULL ? final_bytes : 0;
    bytes += row->state != NULL && ga_record_has_states(layout) ? final_bytes : 0;
    return bytes;
}

/* NULL stays NULL; *memory becomes false where there is no room for a copy. */
static void *copy_bytes(ga_arena *arena, const void *source, size_t bytes, bool *memory) {
    if (source == NULL || bytes == 0) {
        return NULL;
    }
    void *copy = ga_arena_take(arena, bytes, 1);
    if (copy == NULL) {
        *memory = false;
        return NULL;
    }
    memcpy(copy, source, bytes);
    return copy;
}

/* A zero byte is put after it, whether the original had one so soon or not. */
static char *copy_text(ga_arena *arena, const char *source, size_t bytes, bool *memory) {
    if (bytes == 0) {
        return NULL;
    }
    char *copy = ga_arena_take(arena, bytes, 1);
    if (copy == NULL) {
        *memory = false;
        return NULL;
    }
    memcpy(copy, source, bytes - 1);
    return copy;
}

static bool copy_row(bucket *target, const ga_record_layout *layout, const ga_record_row *row) {
    bool memory = true;
    ga_record_row copy = *row;
    const size_t reward_bytes = (size_t)layout->scorer_count * sizeof(float);
    const size_t final_bytes = ga_record_final_values(layout) * ga_record_final_bytes(layout);
    copy.rewards = copy_bytes(target->arena, row->rewards, reward_bytes, &memory);
    copy.final = copy_bytes(target->arena, row->final, final_bytes, &memory);
    copy.state =
        copy_bytes(target->arena, row->state, ga_record_has_states(layout) ? final_bytes : 0, &memory);
    copy.final_present = copy.final != NULL;
    copy.prompt = copy_text(target->arena, row->prompt, prompt_bytes(layout, row), &memory);
    for (int32_t c = 0; c < layout->candidate_count; c++) {
        copy.features[c] = copy_bytes(target->arena, row->features[c], feature_bytes(layout), &memory);
    }
    if (memory) {
        target->rows[target->row_count++] = copy;
    }
    return memory;
}

/* Waits for room for so many bytes, but not where the disk fails. Under the lock. */
static bool wait_for_room(ga_record *record, size_t bytes) {
    const struct timespec deadline = deadline_after(record->options.wait_seconds);
    while (record->bytes_held > 0 && record->bytes_held + bytes > record->options.memory_bytes_max) {
        seal_open(record);
        if (record->failing && record->ready.first == NULL && !record->busy) {
            return false;
        }
        if (pthread_cond_timedwait(&record->done, &record->lock, &deadline) == ETIMEDOUT) {
            return record->bytes_held + bytes <= record->options.memory_bytes_max;
        }
    }
    return true;
}

/* Under the lock. */
static ga_status append_row(ga_record *record, const ga_record_row *row, ga_error *error) {
    const size_t bytes = row_bytes(&record->options.layout, row);
    if (!wait_for_room(record, bytes)) {
        return GA_FAIL(error, GA_ERR_IO,
            "record: rows from id %llu on are dropped: %zu bytes wait for the disk%s%s",
            (unsigned long long)row->row.row_id, record->bytes_held, record->failing ? "; " : "",
            record->failing ? record->failure.message : "");
    }
    bucket *target = open_bucket(record);
    if (target == NULL || !copy_row(target, &record->options.layout, row)) {
        return GA_FAIL(
            error, GA_ERR_MEMORY, "record: no memory for row %llu", (unsigned long long)row->row.row_id);
    }
    target->bytes += bytes;
    record->bytes_held += bytes;
    record->counters.rows_pending++;
    if (target->row_count == record->options.segment_rows || target->bytes >= record->options.segment_bytes) {
        seal_open(record);
    }
    return GA_OK;
}

static ga_status check_owner(const ga_record *record, ga_error *error) {
    /* in a fork there is no writer's thread, and the lock may be held for ever */
    if (record->owner != getpid()) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: used in a fork (process %d) of its owner %d",
            (int)getpid(), (int)record->owner);
    }
    return GA_OK;
}

ga_status ga_record_append(ga_record *record, const ga_record_row *rows, int32_t count, ga_error *error) {
    GA_TRY(check_owner(record, error));
    (void)pthread_mutex_lock(&record->lock);
    ga_status status = GA_OK;
    for (int32_t i = 0; i < count; i++) {
        status = append_row(record, &rows[i], error);
        if (status != GA_OK) {
            record->counters.rows_dropped += count - i;
            break;
        }
    }
    (void)pthread_mutex_unlock(&record->lock);
    return status;
}

ga_status ga_record_append_batch(ga_record *record, const ga_record_batch *batch, ga_error *error) {
    GA_TRY(check_owner(record, error));
    (void)pthread_mutex_lock(&record->lock);
    ga_status status = GA_OK;
    if (record->open != NULL && record->open->batch_count == BATCHES_PER_BUCKET) {
        seal_open(record);
    }
    bucket *target = open_bucket(record);
    if (target == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for the figures of batch %llu",
            (unsigned long long)batch->batch);
    } else {
        ga_record_batch *copy = &target->batches[target->batch_count++];
        *copy = *batch;
        copy->rank = record->options.layout.rank;
    }
    (void)pthread_mutex_unlock(&record->lock);
    return status;
}

/* ---- flush, status, close --------------------------------------------------------------------------------
 */

/* Under the lock. */
static ga_status flush_locked(ga_record *record, ga_error *error) {
    const struct timespec deadline = deadline_after(record->options.flush_seconds);
    seal_open(record);
    queue_prepend(&record->ready, &record->failed);
    if (record->failing && record->ready.first == NULL) {
        bucket *request = bucket_create(1);
        if (request != NULL) {
            queue_add(&record->ready, request);
        }
    }
    (void)pthread_cond_signal(&record->work);
    while (record->ready.first != NULL || record->busy) {
        if (pthread_cond_timedwait(&record->done, &record->lock, &deadline) == ETIMEDOUT) {
            return GA_FAIL(error, GA_ERR_IO, "record: the disk did not take %lld rows within %g s",
                (long long)record->counters.rows_pending, record->options.flush_seconds);
        }
    }
    if (record->failing) {
        record->reported = true;
        return GA_FAIL(error, record->failure.status, "%s (%lld rows wait in memory)",
            record->failure.message, (long long)record->counters.rows_pending);
    }
    return GA_OK;
}

ga_status ga_record_flush(ga_record *record, ga_error *error) {
    GA_TRY(check_owner(record, error));
    (void)pthread_mutex_lock(&record->lock);
    const ga_status status = flush_locked(record, error);
    (void)pthread_mutex_unlock(&record->lock);
    return status;
}

ga_status ga_record_status(ga_record *record, ga_error *error) {
    GA_TRY(check_owner(record, error));
    (void)pthread_mutex_lock(&record->lock);
    ga_status status = GA_OK;
    if (record->failing && !record->reported) {
        record->reported = true;
        status = GA_FAIL(error, record->failure.status, "%s", record->failure.message);
    }
    (void)pthread_mutex_unlock(&record->lock);
    return status;
}

ga_record_counters ga_record_count(ga_record *record) {
    ga_record_counters counters = {0};
    if (record->owner == getpid()) {
        (void)pthread_mutex_lock(&record->lock);
        counters = record->counters;
        (void)pthread_mutex_unlock(&record->lock);
    }
    return counters;
}

static void free_queue(bucket_queue *queue) {
    for (bucket *freed = queue_take(queue); freed != NULL; freed = queue_take(queue)) {
        bucket_free(freed);
    }
}

/* After the thread has ended. */
static void free_record(ga_record *record) {
    free_queue(&record->ready);
    free_queue(&record->failed);
    bucket_free(record->open);
    bucket_free(record->spare);
    while (record->lines != NULL) {
        pending_line *line = record->lines;
        record->lines = line->next;
        free(line);
    }
    ga_publisher_close(&record->publisher);
    (void)pthread_mutex_destroy(&record->lock);
    (void)pthread_cond_destroy(&record->work);
    (void)pthread_cond_destroy(&record->done);
    free(record);
}

ga_status ga_record_close(ga_record **record, ga_error *error) {
    ga_record *closed = *record;
    if (closed == NULL) {
        return GA_OK;
    }
    *record = NULL;
    GA_TRY(check_owner(closed, error)); /* a fork leaves it to its owner */
    (void)pthread_mutex_lock(&closed->lock);
    const ga_status status = flush_locked(closed, error);
    closed->stop = true;
    const bool hangs = closed->busy;
    (void)pthread_cond_signal(&closed->work);
    (void)pthread_mutex_unlock(&closed->lock);
    if (hangs) {
        /* it may write for as long as the disk lets it; its memory goes with the process */
        (void)pthread_detach(closed->thread);
        return status;
    }
    (void)pthread_join(closed->thread, NULL);
    free_record(closed);
    return status;
}
