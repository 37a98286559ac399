/*
 * One rank of a real job, for run_ranks: plays the scenario that its first argument names and prints lines of
 * the form "rank 2: word=value …". Exit code 0: all was as the scenario says; 1: not, with a line saying
 * what.
 */
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dist/exchange.h"
#include "dist/reduce.h"
#include "dist/world.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/select/plan.h"

#if defined(GA_HAVE_MPI)
#include <mpi.h>
#endif

#define ROWS_ALL 48
#define LONG_SECONDS 20.0

static int32_t rank_of_this;

/* Ends the scenario with exit code 1 where a condition does not hold. */
#define EXPECT(condition, error)                                                                             \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("rank %d: line %d: not so: %s (%s)\n", rank_of_this, __LINE__, #condition,                \
                (error)->message);                                                                           \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

static void nap(double seconds) {
    const ga_clock *clock = ga_clock_system();
    clock->sleep_seconds(clock->user, seconds);
}

/* Row number `number` of the job, whichever rank holds it. */
static ga_candidate make_row(const ga_world *world, int32_t number, uint64_t batch) {
    const int32_t rows = ROWS_ALL / ga_world_size(world);
    ga_random random = ga_random_make((uint64_t)number, batch, GA_STREAM_TEST);
    return (ga_candidate){.group = (uint64_t)number / 12,
        .mean = (float)ga_random_normal(&random),
        .variance = (float)ga_random_uniform(&random),
        .rank = number / rows,
        .index = number % rows};
}

/* One exchange of ROWS_ALL rows over all ranks. */
static ga_status exchange(ga_world *world, ga_exchange_header header, double deadline_seconds,
    ga_candidate *all, ga_exchange_report *report, ga_error *error) {
    ga_candidate own[ROWS_ALL];
    const int32_t rows = ROWS_ALL / ga_world_size(world);
    for (int32_t i = 0; i < rows; i++) {
        own[i] = make_row(world, ga_world_rank(world) * rows + i, header.batch);
    }
    header.rows = header.rows == 0 ? (uint32_t)rows : header.rows;
    ga_error_clear(error);
    return ga_exchange_batch(world, &header, own, deadline_seconds, all, report, error);
}

/* What a plan is made from, without the rank that holds a row: the same on 1, 2 and 4 ranks. */
static uint64_t digest_of_rows(const ga_candidate *all) {
    uint64_t digest = 0;
    for (int32_t i = 0; i < ROWS_ALL; i++) {
        digest = ga_digest_join(digest, all[i].group);
        digest = ga_digest_join(digest, ga_digest64(&all[i].mean, sizeof all[i].mean));
        digest = ga_digest_join(digest, ga_digest64(&all[i].variance, sizeof all[i].variance));
    }
    return digest;
}

/* Checksum of a plan that keeps a quarter of the rows; 0 if there is none. */
static uint64_t plan_of(const ga_world *world, const ga_candidate *all, uint64_t batch) {
    const ga_plan_options options = {.policy = GA_POLICY_EXTREMES,
        .ranks = ga_world_size(world),
        .keep_per_rank = ROWS_ALL / ga_world_size(world) / 4,
        .seed = 9,
        .batch = batch,
        .std_kind = GA_STD_GLOBAL};
    ga_arena *arena = ga_arena_create(0);
    ga_plan plan = {0};
    const ga_status status = ga_plan_make(&options, all, ROWS_ALL, arena, &plan, NULL);
    ga_arena_destroy(&arena);
    return status == GA_OK ? plan.checksum : 0;
}

/* The gathered rows, changed so that one of each four consecutive ones is worth most: then equal quotas a
 * rank choose the same rows on 1, 2, 3 and 4 ranks. */
static void make_quotas_equal(ga_candidate *all) {
    for (int32_t i = 0; i < ROWS_ALL; i++) {
        const int32_t best = (int32_t)(all[i / 4 * 4].group + (uint64_t)(i / 4)) % 4;
        all[i].mean = 0.0f;
        all[i].variance = i % 4 == best ? 1.0f + all[i].variance : 0.1f * all[i].variance;
    }
}

static int play_same(ga_world *world) {
    ga_error error;
    ga_exchange_report report;
    ga_candidate all[ROWS_ALL];
    uint64_t digest = 0, plan = 0, plan_anywhere = 0;
    for (uint64_t batch = 1; batch <= 20; batch++) {
        const ga_exchange_header header = {.batch = batch, .fingerprint = 5};
        EXPECT(exchange(world, header, LONG_SECONDS, all, &report, &error) == GA_OK, &error);
        digest = ga_digest_join(digest, digest_of_rows(all));
        plan = ga_digest_join(plan, plan_of(world, all, batch));
        EXPECT(plan_of(world, all, batch) != 0, &error);
        make_quotas_equal(all);
        plan_anywhere = ga_digest_join(plan_anywhere, plan_of(world, all, batch));
    }
    printf("rank %d: size=%d transport=%s digest=%016llx bytes=%016llx plan=%016llx plan_anywhere=%016llx\n",
        rank_of_this, ga_world_size(world), ga_world_transport_name(world), (unsigned long long)digest,
        (unsigned long long)report.digest, (unsigned long long)plan, (unsigned long long)plan_anywhere);
    return 0;
}

/* Rank 1 comes seconds after the deadline of the others; afterwards all is well again. */
static int play_late(ga_world *world) {
    ga_error error;
    ga_exchange_report report;
    ga_candidate all[ROWS_ALL];
    for (uint64_t batch = 1; batch <= 5; batch++) {
        const bool late = batch == 2;
        if (late && rank_of_this == 1) {
            nap(4);
        }
        const ga_status status = exchange(
            world, (ga_exchange_header){.batch = batch}, late ? 1.5 : LONG_SECONDS, all, &report, &error);
        if (!late || rank_of_this == 1) {
            EXPECT(status == GA_OK, &error);
            continue;
        }
        EXPECT(status == GA_ERR_LATE, &error);
        if (report.late.exact) {
            EXPECT(report.late.count == 1 && report.late.ranks[0] == 1, &error);
        }
        printf("rank %d: late=%s\n", rank_of_this, error.message);
    }
    printf("rank %d: recovered=1\n", rank_of_this);
    return 0;
}

static int play_mismatch(ga_world *world) {
    ga_error error;
    ga_exchange_report report;
    ga_candidate all[ROWS_ALL];
    const ga_exchange_header odd = {.batch = 1, .fingerprint = rank_of_this == 1 ? 6 : 5};
    EXPECT(exchange(world, odd, LONG_SECONDS, all, &report, &error) == GA_ERR_MISMATCH, &error);
    EXPECT(report.differing_rank == 1 && strcmp(report.differing_field, "fingerprint") == 0, &error);
    printf("rank %d: mismatch=%s\n", rank_of_this, error.message);
    ga_exchange_header fewer = {.batch = 2, .rows = rank_of_this == 1 ? 3u : 0u};
    EXPECT(exchange(world, fewer, LONG_SECONDS, all, &report, &error) == GA_ERR_MISMATCH, &error);
    EXPECT(report.differing_rank == 1 && strcmp(report.differing_field, "rows") == 0, &error);
    EXPECT(exchange(world, (ga_exchange_header){.batch = 3}, LONG_SECONDS, all, &report, &error) == GA_OK,
        &error);
    return 0;
}

/* Messages far beyond what MPI sends eagerly, one rank late with them, then sums and a broadcast. */
static int play_long(ga_world *world) {
    ga_error error = {.status = GA_OK};
    const size_t count = 300000;
    const size_t size = (size_t)ga_world_size(world);
    double *own = malloc(count * sizeof *own), *all = malloc(size * count * sizeof *all);
    EXPECT(own != NULL && all != NULL, &error);
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < count; i++) {
            own[i] = (double)i + round + rank_of_this;
        }
        if (round == 1 && rank_of_this == 1) {
            nap(1.5);
        }
        ga_error_clear(&error);
        const ga_status status = ga_world_gather(
            world, own, count * sizeof *own, all, round == 1 ? 0.4 : LONG_SECONDS, NULL, &error);
        EXPECT(round == 1 || status == GA_OK, &error);
        EXPECT(round != 1 || rank_of_this == 1 || status == GA_ERR_LATE, &error);
        for (size_t rank = 0; status == GA_OK && rank < size; rank++) {
            EXPECT(all[rank * count + count - 1] == (double)(count - 1) + round + (double)rank, &error);
        }
    }
    ga_error_clear(&error);
    EXPECT(ga_reduce_sum_f64(world, own, count, LONG_SECONDS, NULL, &error) == GA_OK, &error);
    EXPECT(own[1] == (double)size * 4 + (double)(size * (size - 1) / 2), &error);
    own[7] = rank_of_this == 0 ? -1 : 0;
    EXPECT(ga_world_broadcast(world, own, count * sizeof *own, LONG_SECONDS, NULL, &error) == GA_OK, &error);
    EXPECT(own[7] == -1, &error);
    printf(
        "rank %d: digest=%016llx\n", rank_of_this, (unsigned long long)ga_digest64(own, count * sizeof *own));
    free(own);
    free(all);
    return 0;
}

/* A forked child gets an error and touches nothing; its parent goes on. */
static int play_fork(ga_world *world) {
    ga_error error;
    ga_exchange_report report;
    ga_candidate all[ROWS_ALL];
    const pid_t child = fork();
    if (child == 0) {
        ga_status status = exchange(world, (ga_exchange_header){.batch = 1}, 1, all, &report, &error);
        ga_world *copy = world;
        const ga_status closed = ga_world_close(&copy, 1, NULL);
        _exit(status == GA_ERR_WORLD && closed == GA_ERR_WORLD && copy == NULL ? 0 : 1);
    }
    int status = 0;
    error.message[0] = '\0';
    EXPECT(child > 0 && waitpid(child, &status, 0) == child, &error);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, &error);
    EXPECT(exchange(world, (ga_exchange_header){.batch = 1}, LONG_SECONDS, all, &report, &error) == GA_OK,
        &error);
    return 0;
}

/* Rank 1 dies; the others wait long, and mpirun has to end them. */
static int play_killed(ga_world *world) {
    ga_error error;
    ga_exchange_report report;
    ga_candidate all[ROWS_ALL];
    if (rank_of_this == 1) {
        (void)raise(SIGKILL);
    }
    (void)exchange(world, (ga_exchange_header){.batch = 1}, 50, all, &report, &error);
    printf("rank %d: outlived rank 1\n", rank_of_this);
    return 0;
}

/* Seconds of one exchange, as a fact to read: nothing is asserted about time. */
static int play_time(ga_world *world) {
    ga_error error;
    ga_exchange_report report;
    ga_candidate all[ROWS_ALL];
    const int count = 2000;
    const ga_clock *clock = ga_clock_system();
    double begin_seconds = 0;
    for (int i = -100; i < count; i++) {
        begin_seconds = i == 0 ? ga_clock_now(clock) : begin_seconds;
        EXPECT(exchange(world, (ga_exchange_header){.batch = 1}, LONG_SECONDS, all, &report, &error) == GA_OK,
            &error);
    }
    printf("rank %d: size=%d exchange_microseconds=%.1f\n", rank_of_this, ga_world_size(world),
        1e6 * (ga_clock_now(clock) - begin_seconds) / count);
    return 0;
}

/* Rank 1 reaches the close late: it still ends well on all ranks. */
static int play_late_close(ga_world *world) {
    ga_error error;
    ga_exchange_report report;
    ga_candidate all[ROWS_ALL];
    EXPECT(exchange(world, (ga_exchange_header){.batch = 1}, LONG_SECONDS, all, &report, &error) == GA_OK,
        &error);
    if (rank_of_this == 1) {
        nap(2);
    }
    return 0;
}

typedef struct scenario {
    const char *name;
    int (*play)(ga_world *world);
    bool host_initialises;    /* the host has MPI up before and keeps it after */
    bool abandons;            /* rank 1 leaves by an error, without close */
    int32_t direct_ranks_max; /* 1: parcels travel in bundles */
    double close_seconds;
} scenario;

static const scenario scenarios[] = {{"same", play_same, false, false, 0, LONG_SECONDS},
    {"same_groups", play_same, false, false, 1, LONG_SECONDS},
    {"late", play_late, false, false, 0, LONG_SECONDS},
    {"late_groups", play_late, false, false, 1, LONG_SECONDS},
    {"mismatch", play_mismatch, false, false, 0, LONG_SECONDS},
    {"long", play_long, false, false, 0, LONG_SECONDS},
    {"long_groups", play_long, false, false, 1, LONG_SECONDS},
    {"fork", play_fork, false, false, 0, LONG_SECONDS},
    {"killed", play_killed, false, false, 0, LONG_SECONDS}, {"abandon", play_same, false, true, 0, 50},
    {"late_close", play_late_close, false, false, 0, 0.5}, {"time", play_time, false, false, 0, LONG_SECONDS},
    {"host", play_same, true, false, 0, LONG_SECONDS}};

/* Is MPI up? 0 where this program has none. */
static int mpi_is_up(void) {
    int initialised = 0, finalized = 0;
#if defined(GA_HAVE_MPI)
    (void)MPI_Initialized(&initialised);
    (void)MPI_Finalized(&finalized);
#endif
    return initialised && !finalized;
}

static int run(const scenario *played) {
    ga_error error;
    ga_world *world = NULL;
    ga_error_clear(&error);
    const ga_world_options options = {.direct_ranks_max = played->direct_ranks_max};
    EXPECT(ga_world_open(&options, &world, &error) == GA_OK, &error);
    rank_of_this = ga_world_rank(world);
    EXPECT((ga_world_size(world) > 1 || played->host_initialises) == (mpi_is_up() != 0), &error);
    const int failed = played->play(world);
    if (failed || (played->abandons && rank_of_this == 1)) {
        ga_world_abandon(&world);
        return 3;
    }
    ga_error_clear(&error);
    const ga_status closed = ga_world_close(&world, played->close_seconds, &error);
    const bool may_be_late = strcmp(played->name, "late_close") == 0;
    EXPECT(closed == GA_OK || (may_be_late && closed == GA_ERR_LATE), &error);
    EXPECT(mpi_is_up() == (played->host_initialises ? 1 : 0), &error);
    printf("rank %d: closed=1\n", rank_of_this);
    return 0;
}

int main(int argc, char **argv) {
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; argc > 1 && i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (strcmp(argv[1], scenarios[i].name) != 0) {
            continue;
        }
#if defined(GA_HAVE_MPI)
        if (scenarios[i].host_initialises) {
            (void)MPI_Init(&argc, &argv);
        }
#endif
        const int code = run(&scenarios[i]);
#if defined(GA_HAVE_MPI)
        if (scenarios[i].host_initialises) {
            (void)MPI_Finalize();
        }
#endif
        return code;
    }
    printf("unknown scenario\n");
    return 2;
}
