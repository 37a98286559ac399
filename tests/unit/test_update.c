#include "tests/unit/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/grpo_accel.h"

/* A host of two groups and two scorers; what it is told goes through the public interface. */
enum { ROWS = 16, STEPS = 5, BATCHES = 2, ALL = ROWS * BATCHES };

static const double SIGMAS[STEPS + 1] = {1.0, 0.8, 0.6, 0.4, 0.2, 0.0};

typedef struct host {
    char *folder;
    ga_session *session;
    ga_random random;
    int32_t batches, noise_end; /* −1: not known */
    bool other_kind;            /* not trained by these advantages */
    bool ties;                  /* every reward is the same */
    bool direct;                /* the preview's score stands in for a probe */
    double red[ALL], blue[ALL], combined[ALL], preview[ALL];
    int64_t group[ALL];
    uint8_t kept[ALL];
    int32_t kept_count;
    int warnings;
    char warning[512];
} host;

static void keep_warning(void *user, int level, const char *line) {
    host *h = user;
    if (level <= 1) {
        h->warnings++;
        (void)snprintf(h->warning, sizeof h->warning, "%s", line);
    }
}

static void start(host *h, const char *yaml) {
    h->folder = test_folder_make();
    h->random = test_random(21);
    char *path = test_path(h->folder, "accel.yaml");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    (void)fprintf(
        file, "version: 1\nrun_dir: %s/run\nmode: prune\nprobe: {inputs: [preview]}\n%s", h->folder, yaml);
    assert_int_equal(fclose(file), 0);
    const char *const overrides[] = {"probe.direct=preview"};
    const ga_session_options options = {.size = sizeof options,
        .config_path = path,
        .overrides = overrides,
        .override_count = h->direct ? 1 : 0,
        .log = keep_warning,
        .log_user = h};
    ga_error error;
    test_ok(ga_session_open(&options, &h->session, &error), &error);
    free(path);
}

static void stop(host *h) {
    ga_session_close(&h->session, 1);
    test_folder_remove(h->folder);
}

static ga_batch *begin(host *h) {
    char text[2][64];
    const char *prompts[ROWS];
    for (int32_t i = 0; i < ROWS; i++) {
        (void)snprintf(text[i % 2], 64, "prompt %d", (int)(h->batches * 2 + i % 2));
        prompts[i] = text[i % 2];
    }
    const ga_batch_options options = {.size = sizeof options,
        .rows = ROWS,
        .steps_total = STEPS,
        .model = "test/update",
        .sigmas = SIGMAS,
        .prompts = prompts,
        .latent_channels = 2,
        .latent_height = 4,
        .latent_width = 4,
        .noise_begin_step = h->noise_end > 0 ? 0 : -1,
        .noise_end_step = h->noise_end};
    ga_batch *batch = NULL;
    ga_error error;
    test_ok(ga_batch_begin(h->session, &options, &batch, &error), &error);
    h->batches++;
    return batch;
}

static void report(ga_batch *batch, const char *scorer, const double *values, const ga_decision *decision) {
    double kept[ROWS];
    for (int32_t i = 0; i < decision->kept_count; i++) {
        kept[i] = values[decision->kept[i]];
    }
    ga_error error;
    test_ok(ga_batch_reward(batch, scorer, decision->kept, kept, decision->kept_count, &error), &error);
}

/* One batch: the preview sees most of what red will say; blue has a will of its own. */
static void roll(host *h, int32_t first) {
    ga_batch *batch = begin(h);
    double preview[ROWS];
    for (int32_t i = 0; i < ROWS; i++) {
        const double seen = 0.3 * ga_random_normal(&h->random);
        h->red[first + i] = 0.2 * (i % 2) + seen + 0.05 * ga_random_normal(&h->random);
        h->blue[first + i] = 7 + 0.5 * seen + 0.3 * ga_random_normal(&h->random);
        h->combined[first + i] = h->ties ? 0.5 : h->red[first + i] + 0.1 * h->blue[first + i];
        h->group[first + i] = (h->batches - 1) % BATCHES * 2 + i % 2;
        preview[i] = h->preview[first + i] = seen;
    }
    ga_error error;
    test_ok(ga_batch_observe_preview(batch, preview, &error), &error);
    ga_decision decision = {.size = sizeof decision};
    test_ok(ga_batch_decide(batch, &decision, &error), &error);
    memset(h->kept + first, 0, ROWS);
    for (int32_t i = 0; i < decision.kept_count; i++) {
        h->kept[first + decision.kept[i]] = 1;
    }
    h->kept_count += decision.kept_count;
    report(batch, "avg", h->combined + first, &decision);
    report(batch, "red", h->red + first, &decision);
    report(batch, "blue", h->blue + first, &decision);
}

static void roll_all(host *h) {
    h->kept_count = 0;
    for (int32_t b = 0; b < BATCHES; b++) {
        roll(h, b * ROWS);
    }
}

typedef ga_status (*call)(ga_session *, const ga_update_options *, double *, ga_error *);

/* The host's tracker, of rewards with 0.123 in the places of stopped rows. */
static ga_status ask(host *h, call function, const double *reward, double factor, double *own,
    double *advantage, ga_error *error) {
    double rewards[ALL];
    for (int32_t i = 0; i < ALL; i++) {
        rewards[i] = h->kept[i] ? factor * reward[i] : 0.123;
    }
    for (int32_t i = 0; i < ALL; i++) {
        own[i] = rewards[i] - 0.5 * factor;
    }
    const ga_update_options options = {.size = sizeof options,
        .count = ALL,
        .groups = h->group,
        .rewards = rewards,
        .host_advantages = own,
        .prunable = h->other_kind ? 0 : 1};
    return function(h->session, &options, advantage, error);
}

/* An update like all others; returns the rows that have an advantage. */
static int32_t update(host *h, double *own, double *advantage) {
    ga_error error;
    roll_all(h);
    test_ok(ask(h, ga_update_end, h->combined, 1, own, advantage, &error), &error);
    int32_t trained = 0;
    for (int32_t i = 0; i < ALL; i++) {
        trained += advantage[i] != 0;
    }
    return trained;
}

#define RANDOM "decision: {step: 2, keep: 0.5, policy: random, audit: 0.0}\nretrain: {every_updates: 0}\n"

/* Half of the rows that are there train: of all, while none is stopped, then of the kept ones. */
static void second_stage_trains_the_largest(void **state) {
    (void)state;
    host h = {.noise_end = -1};
    double own[ALL], advantage[ALL];
    start(&h, RANDOM "advantage: {train_share: 0.5}\n");
    for (int u = 0; u < 3; u++) {
        const int32_t trained = update(&h, own, advantage);
        assert_int_equal(h.kept_count, u == 0 ? ALL : ALL / 2);
        assert_int_equal(trained, h.kept_count / 2);
        double smallest = (double)INFINITY;
        for (int32_t i = 0; i < ALL; i++) {
            smallest = advantage[i] != 0 ? fmin(smallest, fabs(advantage[i])) : smallest;
            assert_true(h.kept[i] || advantage[i] == 0);
            assert_true(u > 0 || advantage[i] == 0 || advantage[i] == own[i]);
        }
        for (int32_t i = 0; i < ALL && u == 0; i++) {
            assert_true(advantage[i] != 0 || fabs(own[i]) <= smallest);
        }
    }
    assert_int_equal(h.warnings, 0);
    const char *numbers = ga_session_metrics_json(h.session);
    assert_non_null(strstr(numbers, "\"advantage/trained_rows_a_rank\": 8"));
    assert_non_null(strstr(numbers, "\"advantage/clip_left_out\": 0"));
    stop(&h);
}

static void second_stage_waits_for_a_host_that_prunes(void **state) {
    (void)state;
    host h = {.noise_end = -1, .other_kind = true};
    double own[ALL], advantage[ALL];
    start(&h, RANDOM "advantage: {train_share: 0.5}\n");
    (void)update(&h, own, advantage);
    assert_memory_equal(own, advantage, sizeof own);
    stop(&h);
}

#define LEARNED                                                                                              \
    "decision: {step: 2, keep: 0.5, policy: random, audit: 0.0}\n"                                           \
    "retrain: {every_updates: 12, background: false}\n"                                                      \
    "advantage: {prefix_credit: true, weights: inverse}\n"

/* Noise in steps 0 and 1, the decision after them: stopped rows teach by what is predicted of them. */
static void prefix_credit_where_noise_ends_before(void **state) {
    (void)state;
    host h = {.noise_end = 2};
    double own[ALL], advantage[ALL];
    start(&h, LEARNED);
    int pruned = 0, agree = 0, stopped = 0;
    for (int u = 0; u < 18; u++) {
        const int32_t trained = update(&h, own, advantage);
        if (u < 13) { /* no probe yet: nothing is known of stopped rows */
            assert_int_equal(trained, h.kept_count);
            continue;
        }
        pruned += h.kept_count < ALL;
        assert_int_equal(trained, ALL);
        for (int32_t i = 0; i < ALL; i++) {
            double mean = 0;
            for (int32_t k = 0; k < ALL; k++) {
                mean += h.group[k] == h.group[i] ? h.combined[k] / (ROWS / 2) : 0;
            }
            stopped += !h.kept[i];
            agree += !h.kept[i] && (h.combined[i] > mean) == (advantage[i] > 0);
        }
    }
    assert_int_equal(pruned, 5);
    assert_true(agree > 0.75 * stopped);
    assert_int_equal(h.warnings, 0);
    stop(&h);
}

static void no_credit_where_noise_goes_on(void **state) {
    (void)state;
    const int32_t ends[] = {3, -1, STEPS};
    for (int k = 0; k < 3; k++) {
        host h = {.noise_end = ends[k]};
        double own[ALL], advantage[ALL];
        start(&h, RANDOM "advantage: {prefix_credit: true, weights: inverse}\n");
        const int before = h.warnings;
        for (int u = 0; u < 3; u++) {
            const int32_t trained = update(&h, own, advantage);
            assert_int_equal(trained, h.kept_count);
        }
        assert_non_null(strstr(h.warning, "advantage.prefix_credit"));
        assert_true(h.warnings >= before + 1);
        stop(&h);
    }
}

/* Root mean square over kept rows of the distance from what everything kept would have given, in σ. */
static double distance(const host *h, const double *reward, const double *advantage) {
    double mean = 0, square = 0, error = 0;
    for (int32_t i = 0; i < ALL; i++) {
        mean += reward[i] / ALL;
    }
    for (int32_t i = 0; i < ALL; i++) {
        square += (reward[i] - mean) * (reward[i] - mean) / ALL;
    }
    for (int32_t i = 0; i < ALL; i++) {
        double group_mean = 0;
        for (int32_t k = 0; k < ALL; k++) {
            group_mean += h->group[k] == h->group[i] ? reward[k] / (ROWS / 2) : 0;
        }
        const double whole = (reward[i] - group_mean) / sqrt(square);
        error += h->kept[i] ? (advantage[i] - whole) * (advantage[i] - whole) / h->kept_count : 0;
    }
    return sqrt(error);
}

/* The rows of a group with a larger score of the preview. */
static int32_t better(const host *h, int32_t row) {
    int32_t count = 0;
    for (int32_t i = row / ROWS * ROWS; i < (row / ROWS + 1) * ROWS; i++) {
        count += h->group[i] == h->group[row] && h->preview[i] > h->preview[row];
    }
    return count;
}

/* A score is taken at its word: nothing has to be learned, and each group keeps the best of its own. */
static void a_direct_score_keeps_the_best_of_each_group(void **state) {
    (void)state;
    host h = {.noise_end = -1, .direct = true};
    double own[ALL], advantage[ALL];
    start(&h, "decision: {step: 2, keep: 0.25, policy: topk, audit: 0.0, even_groups: true}\n"
              "retrain: {every_updates: 0}\n");
    for (int u = 0; u < 3; u++) {
        (void)update(&h, own, advantage);
        for (int32_t i = 0; i < ALL; i++) {
            assert_int_equal(h.kept[i], u == 0 || better(&h, i) < ROWS / 2 / 4);
        }
    }
    assert_int_equal(h.warnings, 0);
    stop(&h);
}

/* Rewards that tell no row from another: stopped rows have 0, and only they. */
static void kept_rows_that_tie_are_no_stopped_rows(void **state) {
    (void)state;
    host h = {.noise_end = -1, .ties = true};
    double own[ALL], advantage[ALL];
    start(&h, RANDOM);
    for (int u = 0; u < 3; u++) {
        (void)update(&h, own, advantage);
        assert_int_equal(h.kept_count, u == 0 ? ALL : ALL / 2);
        for (int32_t i = 0; i < ALL; i++) {
            assert_true(h.kept_count < ALL || advantage[i] == own[i]);
            assert_int_equal((float)advantage[i] != 0, h.kept_count == ALL ? own[i] != 0 : h.kept[i]);
            assert_true(h.kept_count == ALL || fabs(advantage[i]) <= 1e-12);
        }
    }
    stop(&h);
}

/* The tracker once for each scorer: the first call ends the update, the others find its rows again. */
static void a_tracker_called_once_a_scorer(void **state) {
    (void)state;
    host h = {.noise_end = -1};
    double own[ALL], advantage[ALL];
    ga_error error;
    start(&h, "decision: {step: 2, keep: 0.5, policy: extremes, audit: 0.0}\n"
              "retrain: {every_updates: 12, background: false}\n");
    const double *const rewards[] = {h.red, h.blue, h.combined, h.combined};
    const double factors[] = {1, 1, 1, 2.5};
    double sum[4] = {0};
    int pruned = 0;
    for (int u = 0; u < 24; u++) {
        roll_all(&h);
        for (int k = 0; k < 4; k++) {
            test_ok(ask(&h, k == 0 ? ga_update_end : ga_update_again, rewards[k], factors[k], own, advantage,
                        &error),
                &error);
            for (int32_t i = 0; i < ALL; i++) {
                assert_true(h.kept_count == ALL ? advantage[i] == own[i] : h.kept[i] || advantage[i] == 0);
            }
            sum[k] += h.kept_count < ALL ? distance(&h, rewards[k], advantage) : 0;
        }
        pruned += h.kept_count < ALL;
    }
    assert_true(pruned >= 8);
    for (int k = 0; k < 4; k++) {
        printf("# call %d: %.3f σ from the advantages of whole groups\n", k, sum[k] / pruned);
        assert_true(sum[k] / pruned < (k == 1 ? 0.6 : 0.4));
    }
    assert_int_equal(h.warnings, 1);
    assert_non_null(strstr(h.warning, "red"));
    stop(&h);
}

/* What is left out by the first call is left out by all. */
static void further_calls_train_the_same_rows(void **state) {
    (void)state;
    host h = {.noise_end = -1};
    double own[ALL], first[ALL], second[ALL];
    ga_error error;
    start(&h, RANDOM "advantage: {train_share: 0.5}\n");
    for (int u = 0; u < 3; u++) {
        roll_all(&h);
        test_ok(ask(&h, ga_update_end, h.red, 1, own, first, &error), &error);
        test_ok(ask(&h, ga_update_again, h.blue, 1, own, second, &error), &error);
        for (int32_t i = 0; i < ALL; i++) {
            assert_int_equal(first[i] != 0, second[i] != 0);
        }
    }
    stop(&h);
}

/* Rewards of no scorer: the host's own advantages, and zeros for stopped rows, whichever call it is. */
static void unknown_rewards_are_not_guessed(void **state) {
    (void)state;
    host h = {.noise_end = -1};
    double own[ALL], advantage[ALL], strange[ALL];
    ga_error error;
    start(&h, RANDOM);
    assert_int_equal(ask(&h, ga_update_again, h.red, 1, own, advantage, &error), GA_ERR_DATA);
    assert_memory_equal(own, advantage, sizeof own);
    assert_int_equal(update(&h, own, advantage), ALL);
    for (int first = 1; first >= 0; first--) {
        roll_all(&h);
        for (int32_t i = 0; i < ALL; i++) {
            strange[i] = h.combined[ALL - 1 - i];
        }
        if (first == 0) {
            test_ok(ask(&h, ga_update_end, h.combined, 1, own, advantage, &error), &error);
        }
        const call function = first == 1 ? ga_update_end : ga_update_again;
        assert_int_equal(ask(&h, function, strange, 1, own, advantage, &error), GA_ERR_DATA);
        assert_non_null(strstr(error.message, "no scorer"));
        for (int32_t i = 0; i < ALL; i++) {
            assert_true(advantage[i] == (h.kept[i] ? own[i] : 0));
        }
    }
    stop(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(second_stage_trains_the_largest),
        cmocka_unit_test(second_stage_waits_for_a_host_that_prunes),
        cmocka_unit_test(prefix_credit_where_noise_ends_before),
        cmocka_unit_test(no_credit_where_noise_goes_on),
        cmocka_unit_test(a_direct_score_keeps_the_best_of_each_group),
        cmocka_unit_test(kept_rows_that_tie_are_no_stopped_rows),
        cmocka_unit_test(a_tracker_called_once_a_scorer),
        cmocka_unit_test(further_calls_train_the_same_rows),
        cmocka_unit_test(unknown_rewards_are_not_guessed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
