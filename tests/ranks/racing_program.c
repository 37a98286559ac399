/*
 * One rank of a job that races, for run_ranks: updates of two batches with two decisions each, and the
 * advantages that come back. Arguments: a configuration and "well" or "late" (rank 1 comes after the deadline
 * to the second decision of one batch). Prints lines as ranks_program does.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/base/random.h"
#include "grpo_accel/grpo_accel.h"

enum { ROWS = 12, STEPS = 6, UPDATES = 16, BATCHES = 2, RANKS_MAX = 4, LATE_UPDATE = 14 };

static const double SIGMAS[STEPS + 1] = {1.0, 0.9, 0.75, 0.6, 0.4, 0.2, 0.0};

static int32_t rank_of_this, world_size;
static bool is_late;

/* Ends the job with exit code 1 where a call fails. */
#define EXPECT(condition, error)                                                                             \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("rank %d: line %d: not so: %s (%s)\n", rank_of_this, __LINE__, #condition,                \
                (error)->message);                                                                           \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

static double reward_of(int32_t rank, int32_t batch, int32_t row) {
    ga_random random = ga_random_make((uint64_t)(rank * ROWS + row), (uint64_t)batch, GA_STREAM_TEST);
    return 0.5 + 0.2 * ga_random_normal(&random);
}

static ga_status begin(ga_session *session, int32_t number, ga_batch **batch_out, ga_error *error) {
    char text[3][32];
    const char *prompts[ROWS];
    for (int32_t i = 0; i < 3; i++) {
        (void)snprintf(text[i], sizeof text[i], "prompt %d of %d", (int)i, (int)number);
    }
    for (int32_t i = 0; i < ROWS; i++) {
        prompts[i] = text[i % 3];
    }
    const ga_batch_options options = {.size = sizeof options,
        .rows = ROWS,
        .steps_total = STEPS,
        .model = "test/racing",
        .sigmas = SIGMAS,
        .prompts = prompts,
        .latent_channels = 2,
        .latent_height = 4,
        .latent_width = 4,
        .noise_begin_step = -1,
        .noise_end_step = -1};
    return ga_batch_begin(session, &options, batch_out, error);
}

static void give_rewards(ga_batch *batch, int32_t number, const ga_decision *decision) {
    for (int32_t i = 0; i < decision->kept_count; i++) {
        const int32_t row = decision->kept[i];
        const double value = reward_of(rank_of_this, number, row);
        (void)ga_batch_reward(batch, "avg", &row, &value, 1, NULL);
    }
}

/* One batch; counts[look]: rows that went on. */
static int roll(ga_session *session, int32_t number, int32_t counts[2], ga_error *error) {
    ga_batch *batch = NULL;
    const int32_t *steps = NULL;
    int32_t looks = 0;
    ga_decision decision = {.size = sizeof decision};
    int32_t running[ROWS], running_count = ROWS;
    for (int32_t i = 0; i < ROWS; i++) {
        running[i] = i;
    }
    EXPECT(begin(session, number, &batch, error) == GA_OK, error);
    EXPECT(ga_batch_get_steps(batch, &steps, &looks) == GA_OK && looks == 2, error);
    for (int32_t look = 0; look < looks; look++) {
        double preview[ROWS];
        for (int32_t i = 0; i < running_count; i++) {
            ga_random random = ga_random_make((uint64_t)(rank_of_this * ROWS + running[i]),
                (uint64_t)(number * 10 + steps[look]), GA_STREAM_POLICY);
            preview[i] =
                reward_of(rank_of_this, number, running[i]) + 0.2 / steps[look] * ga_random_normal(&random);
        }
        if (is_late && rank_of_this == 1 && look == 1 && number == LATE_UPDATE * BATCHES) {
            const ga_clock *clock = ga_clock_system();
            clock->sleep_seconds(clock->user, 9.0);
        }
        EXPECT(ga_batch_observe_preview(batch, preview, error) == GA_OK, error);
        EXPECT(ga_batch_decide(batch, &decision, error) == GA_OK, error);
        counts[look] = running_count = decision.kept_count;
        memcpy(running, decision.kept, sizeof *running * (size_t)running_count);
    }
    EXPECT(decision.next_step == -1, error);
    give_rewards(batch, number, &decision);
    return 0;
}

/* Advantages of the update's rows, in the host's order: rank after rank. */
static int end_update(ga_session *session, int32_t update, double *advantages, ga_error *error) {
    static int64_t groups[RANKS_MAX * BATCHES * ROWS];
    static double rewards[RANKS_MAX * BATCHES * ROWS], host[RANKS_MAX * BATCHES * ROWS];
    const int32_t count = world_size * BATCHES * ROWS;
    for (int32_t i = 0; i < count; i++) {
        const int32_t rank = i / (BATCHES * ROWS), b = i / ROWS % BATCHES, row = i % ROWS;
        groups[i] = b * 3 + row % 3;
        rewards[i] = reward_of(rank, update * BATCHES + b, row);
        host[i] = rewards[i] - 0.5;
    }
    const ga_update_options options = {.size = sizeof options,
        .count = count,
        .groups = groups,
        .rewards = rewards,
        .host_advantages = host,
        .prunable = 1};
    EXPECT(ga_update_end(session, &options, advantages, error) == GA_OK, error);
    return 0;
}

static int play(ga_session *session) {
    static double advantages[RANKS_MAX * BATCHES * ROWS];
    ga_error error = {.status = GA_OK};
    for (int32_t update = 0; update < UPDATES; update++) {
        int32_t counts[BATCHES][2] = {{0}};
        for (int32_t b = 0; b < BATCHES; b++) {
            if (roll(session, update * BATCHES + b, counts[b], &error) != 0) {
                return 1;
            }
        }
        if (end_update(session, update, advantages, &error) != 0) {
            return 1;
        }
        const size_t bytes = (size_t)world_size * BATCHES * ROWS * sizeof *advantages;
        printf("rank %d: update=%d counts=%d,%d,%d,%d advantages=%d:%016llx\n", rank_of_this, (int)update,
            (int)counts[0][0], (int)counts[0][1], (int)counts[1][0], (int)counts[1][1], (int)update,
            (unsigned long long)ga_digest64(advantages, bytes));
    }
    return 0;
}

int main(int argc, char **argv) {
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 3) {
        printf("usage: racing_program CONFIG well|late\n");
        return 2;
    }
    is_late = strcmp(argv[2], "late") == 0;
    ga_error error = {.status = GA_OK};
    ga_session *session = NULL;
    const ga_session_options options = {.size = sizeof options, .config_path = argv[1]};
    EXPECT(ga_session_open(&options, &session, &error) == GA_OK, &error);
    ga_session_info info = {.size = sizeof info};
    EXPECT(ga_session_get_info(session, &info) == GA_OK, &error);
    rank_of_this = info.rank;
    world_size = info.world_size;
    const int failed = play(session);
    printf("rank %d: metrics %s\n", rank_of_this, ga_session_metrics_json(session));
    ga_session_close(&session, !failed);
    if (!failed) {
        printf("rank %d: closed=1\n", rank_of_this);
    }
    return failed;
}
