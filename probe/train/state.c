#include "probe/train/state.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/digest.h"
#include "probe/weights.h"

#define FORMAT "grpo_accel training state 1"

/* Whole numbers and doubles travel as four floats of 16 bits each: exact in any reader. */
#define PARTS 4

#define ARRAYS 5
static const char *const array_names[ARRAYS] = {
    "parameters", "first_moment", "second_moment", "average", "best"};

/* Order of `numbers`. */
enum {
    NUMBER_STAGE,
    NUMBER_FINGERPRINT,
    NUMBER_BEST_SPEARMAN,
    NUMBER_STEP,
    NUMBER_ROUND,
    NUMBER_ROUND_STEPS,
    NUMBER_ROUND_LOSS,
    NUMBER_WITHOUT_GAIN,
    NUMBER_EPOCH,
    NUMBER_NEXT_GROUP,
    NUMBER_NEXT_ROW,
    NUMBER_COUNT
};

/* Of a point of the curve. */
enum { POINT_ROUND, POINT_ROUNDS_MAX, POINT_SECONDS, POINT_LOSS, POINT_SPEARMAN, POINT_BEST, POINT_COUNT };

static void split(uint64_t value, float *parts) {
    for (int i = 0; i < PARTS; i++) {
        parts[i] = (float)(value >> (16 * i) & 0xffffu);
    }
}

static uint64_t join(const float *parts) {
    uint64_t value = 0;
    for (int i = 0; i < PARTS; i++) {
        value |= (parts[i] >= 0.0f && parts[i] <= 65535.0f ? (uint64_t)parts[i] : 0u) << (16 * i);
    }
    return value;
}

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double real_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int32_t small_of(uint64_t value) {
    return value <= INT32_MAX ? (int32_t)value : -1;
}

/* ---- writing ---- */

static ga_status add_arrays(const ga_fit_state *state, ga_weights *weights, ga_error *error) {
    const float *const arrays[ARRAYS] = {
        state->parameters, state->first_moment, state->second_moment, state->average, state->best};
    for (int i = 0; i < ARRAYS; i++) {
        GA_TRY(ga_weights_add(weights, array_names[i], 1, &state->parameter_count, arrays[i], error));
    }
    return GA_OK;
}

static ga_status add_numbers(const ga_fit_state *state, int32_t stage, ga_weights *weights, ga_error *error) {
    const uint64_t numbers[NUMBER_COUNT] = {[NUMBER_STAGE] = (uint64_t)stage,
        [NUMBER_FINGERPRINT] = state->fingerprint,
        [NUMBER_BEST_SPEARMAN] = bits_of(state->best_spearman),
        [NUMBER_STEP] = (uint64_t)state->step,
        [NUMBER_ROUND] = (uint64_t)state->round,
        [NUMBER_ROUND_STEPS] = (uint64_t)state->round_steps,
        [NUMBER_ROUND_LOSS] = bits_of(state->round_loss),
        [NUMBER_WITHOUT_GAIN] = (uint64_t)state->without_gain,
        [NUMBER_EPOCH] = state->epoch,
        [NUMBER_NEXT_GROUP] = (uint64_t)state->next_group,
        [NUMBER_NEXT_ROW] = (uint64_t)state->next_row};
    float parts[NUMBER_COUNT * PARTS];
    for (int i = 0; i < NUMBER_COUNT; i++) {
        split(numbers[i], parts + i * PARTS);
    }
    const int64_t shape[2] = {NUMBER_COUNT, PARTS};
    return ga_weights_add(weights, "numbers", 2, shape, parts, error);
}

static void split_point(const ga_train_progress *point, float *parts) {
    const uint64_t numbers[POINT_COUNT] = {[POINT_ROUND] = (uint64_t)point->round,
        [POINT_ROUNDS_MAX] = (uint64_t)point->rounds_max,
        [POINT_SECONDS] = bits_of(point->seconds),
        [POINT_LOSS] = bits_of(point->loss),
        [POINT_SPEARMAN] = bits_of(point->spearman),
        [POINT_BEST] = bits_of(point->spearman_best)};
    for (int i = 0; i < POINT_COUNT; i++) {
        split(numbers[i], parts + i * PARTS);
    }
}

static ga_status add_curve(const ga_fit_state *state, ga_weights *weights, ga_error *error) {
    if (state->curve_count == 0) {
        return GA_OK;
    }
    float *parts = malloc((size_t)state->curve_count * POINT_COUNT * PARTS * sizeof *parts);
    if (parts == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to save a training of %d rounds", state->curve_count);
    }
    for (int32_t i = 0; i < state->curve_count; i++) {
        split_point(&state->curve[i], parts + (size_t)i * POINT_COUNT * PARTS);
    }
    const int64_t shape[3] = {state->curve_count, POINT_COUNT, PARTS};
    const ga_status status = ga_weights_add(weights, "curve", 3, shape, parts, error);
    free(parts);
    return status;
}

/* Of all arrays, in the order in which they are written. */
static uint64_t checksum_of(const ga_weights *weights) {
    static const char *const others[2] = {"numbers", "curve"};
    uint64_t digest = 0;
    for (int i = 0; i < ARRAYS + 2; i++) {
        const ga_weights_array *array =
            ga_weights_find(weights, i < ARRAYS ? array_names[i] : others[i - ARRAYS]);
        if (array != NULL) {
            digest = ga_digest_join(digest, ga_digest64(array->values, (size_t)array->count * sizeof(float)));
        }
    }
    return digest;
}

static ga_status fill_weights(
    const ga_fit_state *state, int32_t stage, ga_weights *weights, ga_error *error) {
    char text[20];
    GA_TRY(add_arrays(state, weights, error));
    GA_TRY(add_numbers(state, stage, weights, error));
    GA_TRY(add_curve(state, weights, error));
    (void)snprintf(text, sizeof text, "%016" PRIx64, checksum_of(weights));
    GA_TRY(ga_weights_set_text(weights, "format", FORMAT, error));
    return ga_weights_set_text(weights, "checksum", text, error);
}

ga_status ga_train_state_write(const ga_fit_state *state, int32_t stage, const char *path, ga_error *error) {
    ga_weights *weights = NULL;
    GA_TRY(ga_weights_create(&weights, error));
    ga_status status = fill_weights(state, stage, weights, error);
    if (status == GA_OK) {
        status = ga_weights_write(weights, path, error);
    }
    ga_weights_destroy(&weights);
    return status;
}

/* ---- reading ---- */

static ga_status check_file(const ga_weights *weights, const char *path, ga_error *error) {
    const char *format = ga_weights_text(weights, "format");
    const char *checksum = ga_weights_text(weights, "checksum");
    if (format == NULL || strcmp(format, FORMAT) != 0 || checksum == NULL) {
        return GA_FAIL(error, GA_ERR_FILE, "%.300s: no state of a training that this build reads", path);
    }
    char text[20];
    (void)snprintf(text, sizeof text, "%016" PRIx64, checksum_of(weights));
    return strcmp(text, checksum) == 0
               ? GA_OK
               : GA_FAIL(error, GA_ERR_FILE, "%.300s: damaged, its checksum is wrong; train without --resume",
                     path);
}

static const float *find_values(const ga_weights *weights, const char *name, int64_t count) {
    const ga_weights_array *array = ga_weights_find(weights, name);
    return array != NULL && array->count == count ? array->values : NULL;
}

static bool find_arrays(const ga_weights *weights, ga_fit_state *state) {
    const ga_weights_array *first = ga_weights_find(weights, array_names[0]);
    state->parameter_count = first != NULL ? first->count : 0;
    const float **const arrays[ARRAYS] = {
        &state->parameters, &state->first_moment, &state->second_moment, &state->average, &state->best};
    for (int i = 0; i < ARRAYS; i++) {
        *arrays[i] = find_values(weights, array_names[i], state->parameter_count);
        if (*arrays[i] == NULL) {
            return false;
        }
    }
    return true;
}

static bool find_numbers(const ga_weights *weights, ga_train_state *state) {
    const float *parts = find_values(weights, "numbers", NUMBER_COUNT * PARTS);
    if (parts == NULL) {
        return false;
    }
    uint64_t numbers[NUMBER_COUNT];
    for (int i = 0; i < NUMBER_COUNT; i++) {
        numbers[i] = join(parts + i * PARTS);
    }
    ga_fit_state *fit = &state->state;
    state->stage = small_of(numbers[NUMBER_STAGE]);
    fit->fingerprint = numbers[NUMBER_FINGERPRINT];
    fit->best_spearman = real_of(numbers[NUMBER_BEST_SPEARMAN]);
    fit->step = (int64_t)numbers[NUMBER_STEP];
    fit->round = small_of(numbers[NUMBER_ROUND]);
    fit->round_steps = small_of(numbers[NUMBER_ROUND_STEPS]);
    fit->round_loss = real_of(numbers[NUMBER_ROUND_LOSS]);
    fit->without_gain = small_of(numbers[NUMBER_WITHOUT_GAIN]);
    fit->epoch = numbers[NUMBER_EPOCH];
    fit->next_group = small_of(numbers[NUMBER_NEXT_GROUP]);
    fit->next_row = small_of(numbers[NUMBER_NEXT_ROW]);
    return state->stage >= 0 && fit->step >= 0 && fit->round >= 0 && fit->round_steps >= 0 &&
           fit->without_gain >= 0 && fit->next_group >= 0 && fit->next_row >= 0;
}

static ga_status find_curve(const ga_weights *weights, ga_train_state *state, ga_error *error) {
    const ga_weights_array *array = ga_weights_find(weights, "curve");
    const int64_t count = array != NULL ? array->count / (POINT_COUNT * PARTS) : 0;
    state->curve = calloc((size_t)count + 1, sizeof *state->curve);
    if (state->curve == NULL || count > GA_FIT_ROUNDS_MAX) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a training of %lld rounds", (long long)count);
    }
    for (int64_t i = 0; i < count; i++) {
        const float *parts = array->values + i * POINT_COUNT * PARTS;
        state->curve[i] = (ga_train_progress){.round = small_of(join(parts + POINT_ROUND * PARTS)),
            .rounds_max = small_of(join(parts + POINT_ROUNDS_MAX * PARTS)),
            .seconds = real_of(join(parts + POINT_SECONDS * PARTS)),
            .loss = real_of(join(parts + POINT_LOSS * PARTS)),
            .spearman = real_of(join(parts + POINT_SPEARMAN * PARTS)),
            .spearman_best = real_of(join(parts + POINT_BEST * PARTS))};
    }
    state->state.curve = state->curve;
    state->state.curve_count = (int32_t)count;
    return GA_OK;
}

static ga_status read_state(const char *path, ga_train_state *state, ga_error *error) {
    GA_TRY(ga_weights_read(path, &state->weights, error));
    GA_TRY(check_file(state->weights, path, error));
    if (!find_arrays(state->weights, &state->state) || !find_numbers(state->weights, state)) {
        return GA_FAIL(error, GA_ERR_FILE, "%.300s: arrays or numbers are missing", path);
    }
    return find_curve(state->weights, state, error);
}

ga_status ga_train_state_read(const char *path, ga_train_state *state_out, ga_error *error) {
    ga_train_state state;
    memset(&state, 0, sizeof state);
    const ga_status status = read_state(path, &state, error);
    if (status != GA_OK) {
        ga_train_state_destroy(&state);
        return status;
    }
    *state_out = state;
    return GA_OK;
}

void ga_train_state_destroy(ga_train_state *state) {
    ga_weights_destroy(&state->weights);
    free(state->curve);
    memset(state, 0, sizeof *state);
}
