/*
 * Messages over MPI: the only file that knows MPI.
 *
 * Rules behind it: a communicator of our own, errors returned and not fatal, nothing blocking, MPI_Finalized
 * asked before each call, MPI_Finalize only if we called MPI_Init_thread and only from ga_world_close. Host
 * memory only. Receiving is a matched probe and a receive into memory of the found length, so a peer that
 * sends another length than expected is seen and not truncated.
 */
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "dist/world_table.h"
#include "grpo_accel/base/check.h"

#define TAG 7411
#define OPEN_DEADLINE_SECONDS 120.0

/* The message from one rank that is next in order. */
typedef struct inbox {
    char *data;
    size_t capacity;
    size_t bytes;
    MPI_Request request;
    enum { INBOX_EMPTY = 0, INBOX_RECEIVING, INBOX_FULL } phase;
} inbox;

/* A message to several ranks; its memory lives until the last of them has taken it. */
typedef struct letter {
    struct letter *next;
    char *data;
    size_t capacity;
    uint64_t sequence;
    MPI_Request *requests;
    int32_t request_capacity;
    int request_count;
} letter;

typedef struct mpi_state {
    MPI_Comm communicator;
    bool owns_mpi;
    bool main_thread_only;
    int32_t size;
    inbox *inboxes; /* [size] */
    letter *under_way;
    letter *spare;
} mpi_state;

static ga_status fail_mpi(int code, const char *what, ga_error *error) {
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0;
    (void)MPI_Error_string(code, text, &length);
    return GA_FAIL(error, GA_ERR_WORLD, "%s failed: %.300s", what, text);
}

static ga_status check_mpi(const mpi_state *state, ga_error *error) {
    int finalized = 0, main_thread = 1;
    (void)MPI_Finalized(&finalized);
    if (finalized) {
        return GA_FAIL(error, GA_ERR_WORLD, "MPI was finalized by the host; nothing is agreed any more");
    }
    if (state->main_thread_only) {
        (void)MPI_Is_thread_main(&main_thread);
    }
    if (!main_thread) {
        return GA_FAIL(error, GA_ERR_WORLD,
            "called from a second thread, but the host initialised MPI for the main thread only; initialise "
            "it with MPI_THREAD_SERIALIZED or MULTIPLE, or let grpo_accel do it");
    }
    return GA_OK;
}

static letter *letter_make(size_t bytes, int32_t request_count, letter *reuse) {
    letter *made = reuse != NULL ? reuse : calloc(1, sizeof *made);
    if (made == NULL) {
        return NULL;
    }
    char *data = made->capacity < bytes ? realloc(made->data, bytes) : made->data;
    if (data != NULL) {
        made->data = data;
        made->capacity = made->capacity < bytes ? bytes : made->capacity;
    }
    MPI_Request *requests = made->request_capacity < request_count
                                ? realloc(made->requests, ga_size(request_count) * sizeof *requests)
                                : made->requests;
    if (requests != NULL) {
        made->requests = requests;
        made->request_capacity =
            made->request_capacity < request_count ? request_count : made->request_capacity;
    }
    made->request_count = 0;
    return made;
}

static void letter_free(letter *old) {
    free(old->data);
    free(old->requests);
    free(old);
}

static void letters_free(letter **list) {
    while (*list != NULL) {
        letter *next = (*list)->next;
        letter_free(*list);
        *list = next;
    }
}

static bool pieces_bytes(const ga_parcel *pieces, int32_t piece_count, size_t *bytes_out) {
    size_t bytes = 0;
    for (int32_t i = 0; i < piece_count; i++) {
        if (pieces[i].bytes > (size_t)INT_MAX - bytes) {
            return false;
        }
        bytes += pieces[i].bytes;
    }
    *bytes_out = bytes;
    return true;
}

static void letter_fill(letter *filled, const ga_parcel *pieces, int32_t piece_count) {
    size_t used = 0;
    for (int32_t i = 0; i < piece_count; i++) {
        if (pieces[i].bytes > 0) {
            memcpy(filled->data + used, pieces[i].data, pieces[i].bytes);
        }
        used += pieces[i].bytes;
    }
    memcpy(&filled->sequence, filled->data, sizeof filled->sequence);
}

static ga_status mpi_post(void *user, const int32_t *ranks, int32_t rank_count, const ga_parcel *pieces,
    int32_t piece_count, ga_error *error) {
    mpi_state *state = user;
    size_t bytes = 0;
    GA_TRY(check_mpi(state, error));
    if (rank_count == 0) {
        return GA_OK;
    }
    if (!pieces_bytes(pieces, piece_count, &bytes)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a message of 2 GiB or more; send it in parts");
    }
    letter *reuse = state->spare;
    state->spare = reuse != NULL ? reuse->next : NULL;
    letter *sent = letter_make(bytes, rank_count, reuse);
    if (sent == NULL || sent->capacity < bytes || sent->request_capacity < rank_count) {
        if (sent != NULL) {
            letter_free(sent);
        }
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a message of %zu bytes", bytes);
    }
    letter_fill(sent, pieces, piece_count);
    sent->next = state->under_way;
    state->under_way = sent;
    for (int32_t i = 0; i < rank_count; i++) {
        const int code = MPI_Isend(sent->data, (int)bytes, MPI_BYTE, ranks[i], TAG, state->communicator,
            &sent->requests[sent->request_count]);
        if (code != MPI_SUCCESS) {
            return fail_mpi(code, "sending to a rank", error);
        }
        sent->request_count++;
    }
    return GA_OK;
}

/* Starts receiving the next message if one has come. */
static ga_status start_receiving(mpi_state *state, int32_t rank, inbox *box, ga_error *error) {
    int found = 0, bytes = 0;
    MPI_Message message;
    MPI_Status status;
    int code = MPI_Improbe(rank, TAG, state->communicator, &found, &message, &status);
    if (code != MPI_SUCCESS) {
        return fail_mpi(code, "looking for a message", error);
    }
    if (!found) {
        return GA_OK;
    }
    (void)MPI_Get_count(&status, MPI_BYTE, &bytes);
    box->bytes = ga_size(bytes);
    if (box->data == NULL || box->capacity < box->bytes) {
        char *grown = realloc(box->data, box->bytes + 1);
        if (grown == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d bytes from rank %d", bytes, rank);
        }
        box->data = grown;
        box->capacity = box->bytes;
    }
    code = MPI_Imrecv(box->data, bytes, MPI_BYTE, &message, &box->request);
    if (code != MPI_SUCCESS) {
        return fail_mpi(code, "receiving a message", error);
    }
    box->phase = INBOX_RECEIVING;
    return GA_OK;
}

static ga_status mpi_peek(void *user, int32_t rank, ga_parcel *message_out, ga_error *error) {
    mpi_state *state = user;
    inbox *box = &state->inboxes[rank];
    if (box->phase != INBOX_FULL) {
        GA_TRY(check_mpi(state, error));
    }
    if (box->phase == INBOX_EMPTY) {
        GA_TRY(start_receiving(state, rank, box, error));
    }
    if (box->phase == INBOX_RECEIVING) {
        int done = 0;
        const int code = MPI_Test(&box->request, &done, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS) {
            return fail_mpi(code, "receiving a message", error);
        }
        box->phase = done ? INBOX_FULL : INBOX_RECEIVING;
    }
    if (box->phase == INBOX_FULL) {
        *message_out = (ga_parcel){box->data, box->bytes};
    }
    return GA_OK;
}

static void mpi_drop(void *user, int32_t rank) {
    mpi_state *state = user;
    if (state->inboxes[rank].phase == INBOX_FULL) {
        state->inboxes[rank].phase = INBOX_EMPTY;
    }
}

static ga_status mpi_flush(void *user, uint64_t since, bool *done_out, ga_error *error) {
    mpi_state *state = user;
    bool all_done = true;
    GA_TRY(check_mpi(state, error));
    for (letter **link = &state->under_way; *link != NULL;) {
        letter *sent = *link;
        int done = 0;
        const int code = MPI_Testall(sent->request_count, sent->requests, &done, MPI_STATUSES_IGNORE);
        if (code != MPI_SUCCESS) {
            return fail_mpi(code, "sending a message", error);
        }
        if (done) {
            *link = sent->next;
            sent->next = state->spare;
            state->spare = sent;
        } else {
            all_done = all_done && sent->sequence < since;
            link = &sent->next;
        }
    }
    *done_out = all_done;
    return GA_OK;
}

/* Frees all that MPI does not hold any more; until it is finalized, what a pending message needs stays. */
static void free_state(mpi_state *state, bool finalized) {
    for (int32_t rank = 0; state->inboxes != NULL && rank < state->size; rank++) {
        if (finalized || state->inboxes[rank].phase != INBOX_RECEIVING) {
            free(state->inboxes[rank].data);
        }
    }
    free(state->inboxes);
    letters_free(&state->spare);
    if (finalized) {
        letters_free(&state->under_way);
    }
    free(state);
}

static void mpi_abandon(void *user, bool child) {
    mpi_state *state = user;
    bool done = false;
    if (!child) {
        (void)mpi_flush(state, 0, &done, NULL);
    }
    free_state(state, false);
}

static ga_status mpi_close(void *user, bool quiet, ga_error *error) {
    mpi_state *state = user;
    ga_status status = check_mpi(state, error);
    if (status == GA_OK && quiet) {
        (void)MPI_Comm_free(&state->communicator);
    }
    if (status == GA_OK && state->owns_mpi) {
        const int code = MPI_Finalize();
        status = code == MPI_SUCCESS ? GA_OK : fail_mpi(code, "MPI_Finalize", error);
    }
    int finalized = 0;
    (void)MPI_Finalized(&finalized);
    free_state(state, finalized != 0);
    return status;
}

bool ga_world_mpi_is_up(void) {
    int initialised = 0, finalized = 0;
    (void)MPI_Initialized(&initialised);
    (void)MPI_Finalized(&finalized);
    return initialised && !finalized;
}

static ga_status start_mpi(mpi_state *state, ga_error *error) {
    int level = MPI_THREAD_SINGLE, finalized = 0;
    (void)MPI_Finalized(&finalized);
    if (finalized) {
        return GA_FAIL(error, GA_ERR_WORLD, "MPI was finalized before grpo_accel attached");
    }
    if (!ga_world_mpi_is_up()) {
        const int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
        if (code != MPI_SUCCESS) {
            return GA_FAIL(error, GA_ERR_WORLD, "MPI_Init_thread failed with code %d", code);
        }
        state->owns_mpi = true;
    } else {
        (void)MPI_Query_thread(&level);
    }
    state->main_thread_only = level < MPI_THREAD_SERIALIZED;
    return GA_OK;
}

/* MPI's own rank and size; they must be those that the launcher announced. */
static ga_status read_place(const ga_launch_place *announced, ga_launch_place *place_out, ga_error *error) {
    int rank = 0, size = 0;
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (announced->size != size && (announced->size > 1 || announced->mpi)) {
        return GA_FAIL(error, GA_ERR_CONFIG,
            "MPI says rank %d of %d, the environment (%s) rank %d of %d; start one process per rank with one "
            "mpirun",
            rank, size, announced->launcher, announced->rank, announced->size);
    }
    *place_out = *announced;
    place_out->rank = rank;
    place_out->size = size;
    return GA_OK;
}

/* A communicator of our own, within a deadline. */
static ga_status make_communicator(
    mpi_state *state, const ga_world_options *options, int32_t rank, ga_error *error) {
    const double deadline_seconds =
        options->open_deadline_seconds > 0 ? options->open_deadline_seconds : OPEN_DEADLINE_SECONDS;
    MPI_Request request;
    int done = 0;
    int code = MPI_Comm_idup(MPI_COMM_WORLD, &state->communicator, &request);
    ga_wait wait =
        ga_wait_begin(options->clock != NULL ? options->clock : ga_clock_system(), deadline_seconds);
    while (code == MPI_SUCCESS && !done) {
        code = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (code == MPI_SUCCESS && !done && !ga_wait_sleep(&wait)) {
            return GA_FAIL(error, GA_ERR_LATE,
                "rank %d: not all ranks attached within %g s; do all of them run grpo_accel?", rank,
                deadline_seconds);
        }
    }
    if (code == MPI_SUCCESS) {
        code = MPI_Comm_set_errhandler(state->communicator, MPI_ERRORS_RETURN);
    }
    return code == MPI_SUCCESS ? GA_OK : fail_mpi(code, "making a communicator", error);
}

static ga_status open_state(mpi_state *state, const ga_launch_place *announced,
    const ga_world_options *options, ga_launch_place *place_out, ga_error *error) {
    GA_TRY(start_mpi(state, error));
    GA_TRY(read_place(announced, place_out, error));
    state->size = place_out->size;
    state->inboxes = calloc(ga_size(state->size), sizeof *state->inboxes);
    if (state->inboxes == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the inboxes of %d ranks", state->size);
    }
    return make_communicator(state, options, place_out->rank, error);
}

ga_status ga_world_mpi_open(
    const ga_launch_place *place, const ga_world_options *options, ga_world **world_out, ga_error *error) {
    static const ga_world_table table = {
        GA_WORLD_TABLE_VERSION, "mpi", mpi_post, mpi_peek, mpi_drop, mpi_flush, mpi_close, mpi_abandon};
    mpi_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the state of MPI");
    }
    ga_launch_place own_place;
    ga_status status = open_state(state, place, options, &own_place, error);
    if (status == GA_OK) {
        status = ga_world_make(&table, state, &own_place, options, world_out, error);
    }
    if (status != GA_OK) {
        free_state(state, false);
    }
    return status;
}
