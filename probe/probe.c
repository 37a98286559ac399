#include "probe/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/compute/half.h"
#include "probe/parts.h"

/* How far outside the trained noise levels a score is still given. */
#define SIGMA_SLACK 0.1

const char *ga_probe_kind_name(ga_probe_kind kind) {
    static const char *const names[GA_PROBE_KIND_COUNT] = {"scalar", "ridge", "network"};
    return (int)kind >= 0 && kind < GA_PROBE_KIND_COUNT ? names[kind] : "unknown";
}

const ga_reference *ga_probe_get_reference(const ga_probe *probe) {
    return probe->reference.step_count > 0 ? &probe->reference : NULL;
}

const ga_learned *ga_probe_get_learned(const ga_probe *probe) {
    return probe->learned.run_count > 0 ? &probe->learned : NULL;
}

const ga_probe_info *ga_probe_get_info(const ga_probe *probe) {
    return &probe->info;
}

void ga_probe_set_version(ga_probe *probe, uint32_t version) {
    probe->info.version = version;
}

/* ---- making ---- */

static ga_status create_room(ga_probe *probe, ga_error *error) {
    const ga_inputs *inputs = &probe->inputs;
    const size_t chunk = GA_PROBE_CHUNK_ROWS, targets = GA_NETWORK_TARGETS_MAX;
    const size_t row = (size_t)inputs->schema.values_per_row, pooled = (size_t)inputs->pooled_count;
    const size_t maps = chunk * (size_t)inputs->map_channels * (size_t)inputs->height * (size_t)inputs->width;
    const size_t scalars = chunk * (size_t)inputs->scalar_count,
                 prompt = chunk * (size_t)inputs->prompt_count;
    probe->row =
        calloc(row + pooled + maps + scalars + prompt + chunk * (1 + 5 * targets), sizeof *probe->row);
    if (probe->row == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to score rows of %zu values", row);
    }
    probe->pooled = probe->row + row;
    probe->maps = probe->pooled + pooled;
    probe->scalars = probe->maps + maps;
    probe->prompt = probe->scalars + scalars;
    probe->log_sigma = probe->prompt + prompt;
    probe->answer = probe->log_sigma + chunk;
    probe->score = probe->answer + 2 * chunk * targets;
    probe->level = probe->score + chunk * targets;
    probe->variance = probe->level + chunk * targets;
    return GA_OK;
}

static ga_status fill_probe(ga_probe *probe, const ga_feature_schema *schema, ga_error *error) {
    GA_TRY(ga_inputs_plan(schema, &probe->inputs, error));
    const ga_inputs *inputs = &probe->inputs;
    probe->info.kind = GA_PROBE_RIDGE;
    probe->info.schema = *schema;
    probe->info.calibration.slope = 1.0;
    probe->info.target_count = 1;
    strcpy(probe->info.target_names[0], "reward");
    probe->reward_scale = 1.0;
    GA_TRY(ga_moments_create(inputs->pooled_count, &probe->pooled_moments, error));
    GA_TRY(ga_moments_create(inputs->map_channels, &probe->map_moments, error));
    GA_TRY(ga_ridge_create(inputs->pooled_count, &probe->ridge, error));
    return create_room(probe, error);
}

ga_status ga_probe_create(
    const ga_feature_schema *schema, const ga_compute *compute, ga_probe **probe_out, ga_error *error) {
    ga_probe *probe = calloc(1, sizeof *probe);
    if (probe == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a probe");
    }
    probe->compute = compute;
    const ga_status status = fill_probe(probe, schema, error);
    if (status != GA_OK) {
        ga_probe_close(&probe);
        return status;
    }
    *probe_out = probe;
    return GA_OK;
}

static ga_status name_targets(ga_probe_info *info, const char *const *names, ga_error *error) {
    for (int32_t i = 0; i < info->target_count; i++) {
        char *name = info->target_names[i];
        const int length = names != NULL ? snprintf(name, GA_PROBE_TARGET_BYTES, "%s", names[i])
                           : i > 0       ? snprintf(name, GA_PROBE_TARGET_BYTES, "target%d", i)
                                         : snprintf(name, GA_PROBE_TARGET_BYTES, "reward");
        if (length < 1 || length >= GA_PROBE_TARGET_BYTES) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "the name of target %d must have 1 to %d bytes", i,
                GA_PROBE_TARGET_BYTES - 1);
        }
    }
    return GA_OK;
}

ga_status ga_probe_set_targets(ga_probe *probe, int32_t count, const char *const *names, ga_error *error) {
    if (count < 1 || count > GA_NETWORK_TARGETS_MAX || probe->others != NULL || probe->parameters != NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a probe predicts 1 to %d targets, set once before its network is made; %d were asked for",
            GA_NETWORK_TARGETS_MAX, count);
    }
    probe->others = count > 1 ? calloc((size_t)count - 1, sizeof *probe->others) : NULL;
    if (count > 1 && probe->others == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d targets", count);
    }
    probe->info.target_count = count;
    for (int32_t i = 0; i < count - 1; i++) {
        probe->others[i].scale = 1.0;
        probe->others[i].calibration.slope = 1.0;
        GA_TRY(ga_ridge_create(probe->inputs.pooled_count, &probe->others[i].ridge, error));
    }
    return name_targets(&probe->info, names, error);
}

static ga_network_shape network_shape(const ga_inputs *inputs, ga_network_architecture architecture) {
    const bool apart = architecture == GA_NETWORK_JOINED; /* the prompt is a condition, not a scalar */
    const ga_network_shape shape = {.map_channels = inputs->map_channels,
        .height = inputs->height,
        .width = inputs->width,
        .scalars = inputs->scalar_count - (apart ? inputs->prompt_count : 0),
        .prompt = apart ? inputs->prompt_count : 0};
    return shape;
}

ga_status ga_probe_add_network(ga_probe *probe, const ga_network_options *options, ga_error *error) {
    ga_network_options asked = *options;
    asked.targets = probe->info.target_count;
    const ga_network_shape shape = network_shape(&probe->inputs, asked.architecture);
    ga_network *network = malloc(sizeof *network); /* too large for a stack that is not ours */
    if (network == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the probe's network");
    }
    ga_status status = ga_network_plan(&asked, &shape, network, error);
    float *parameters = NULL;
    if (status == GA_OK) {
        parameters = calloc((size_t)network->parameter_count, sizeof *parameters);
        status = parameters != NULL ? GA_OK
                                    : GA_FAIL(error, GA_ERR_MEMORY, "no memory for a network of %lld weights",
                                          (long long)network->parameter_count);
    }
    if (status == GA_OK) {
        ga_probe_remove_network(probe);
        probe->network = *network;
        probe->parameters = parameters;
        probe->info.kind = GA_PROBE_NETWORK;
        probe->info.network = network->options;
    }
    free(network);
    return status;
}

void ga_probe_remove_network(ga_probe *probe) {
    ga_network_pass_destroy(&probe->pass);
    if (probe->loaded != NULL) {
        probe->compute->release(probe->loaded);
    }
    free(probe->parameters);
    probe->loaded = NULL;
    probe->loaded_is_current = false;
    probe->parameters = NULL;
    if (probe->info.kind == GA_PROBE_NETWORK) {
        probe->info.kind = GA_PROBE_RIDGE;
    }
}

void ga_probe_close(ga_probe **probe) {
    if (*probe == NULL) {
        return;
    }
    ga_probe_remove_network(*probe);
    ga_moments_destroy(&(*probe)->pooled_moments);
    ga_moments_destroy(&(*probe)->map_moments);
    ga_ridge_destroy(&(*probe)->ridge);
    for (int32_t i = 0; i < (*probe)->info.target_count - 1 && (*probe)->others != NULL; i++) {
        ga_ridge_destroy(&(*probe)->others[i].ridge);
    }
    ga_learned_clear(&(*probe)->learned);
    free((*probe)->others);
    free((*probe)->row);
    free(*probe);
    *probe = NULL;
}

/* ---- parts ---- */

bool ga_probe_has_ridge(const ga_probe *probe) {
    return probe->info.kind != GA_PROBE_NETWORK || probe->info.network.architecture != GA_NETWORK_PAPER;
}

const ga_ridge *ga_probe_ridge(const ga_probe *probe, int32_t target) {
    return target == 0 ? &probe->ridge : &probe->others[target - 1].ridge;
}

double ga_probe_scale(const ga_probe *probe, int32_t target) {
    return target == 0 ? probe->reward_scale : probe->others[target - 1].scale;
}

ga_calibration *ga_probe_calibration(ga_probe *probe, int32_t target) {
    return target == 0 ? &probe->info.calibration : &probe->others[target - 1].calibration;
}

ga_status ga_probe_load(ga_probe *probe, ga_error *error) {
    const size_t count = (size_t)probe->network.parameter_count;
    if (probe->loaded == NULL) {
        GA_TRY(probe->compute->allocate(count, &probe->loaded, error));
        probe->loaded_is_current = false;
    }
    if (!probe->loaded_is_current) {
        GA_TRY(probe->compute->upload(count, probe->parameters, probe->loaded, error));
        probe->loaded_is_current = true;
    }
    return GA_OK;
}

/* ---- inputs of a row ---- */

static void fill_maps(const ga_probe *probe, const float *row, float *maps) {
    const ga_inputs *inputs = &probe->inputs;
    ga_inputs_maps(inputs, row, maps);
    ga_moments_apply_maps(&probe->map_moments, inputs->height * inputs->width, maps);
}

void ga_probe_prepare_maps(const ga_probe *probe, const ga_half *features, float *row, float *maps) {
    ga_half_to_float_array(features, row, (size_t)probe->inputs.schema.values_per_row);
    fill_maps(probe, row, maps);
}

void ga_probe_prepare_vectors(const ga_probe *probe, const float *pooled, float *scalars, float *prompt) {
    const ga_network_shape *shape = &probe->network.shape;
    if (shape->scalars > 0) {
        ga_inputs_scalars(&probe->inputs, pooled, shape->scalars == probe->inputs.scalar_count, scalars);
    }
    if (shape->prompt > 0) {
        ga_inputs_prompt(&probe->inputs, pooled, prompt);
    }
}

bool ga_probe_prepare_row(
    const ga_probe *probe, const ga_half *features, double sigma, float *row, float *pooled, float *maps) {
    ga_half_to_float_array(features, row, (size_t)probe->inputs.schema.values_per_row);
    if (!ga_inputs_pool(&probe->inputs, row, sigma, pooled)) {
        return false;
    }
    ga_moments_apply(&probe->pooled_moments, pooled);
    if (maps != NULL) {
        fill_maps(probe, row, maps);
    }
    return true;
}

void ga_probe_prepare_known(
    const ga_probe *probe, const ga_half *features, double sigma, float *row, float *pooled, float *maps) {
    ga_half_to_float_array(features, row, (size_t)probe->inputs.schema.values_per_row);
    ga_inputs_pool_known(&probe->inputs, row, sigma, pooled);
    ga_moments_apply(&probe->pooled_moments, pooled);
    if (maps != NULL) {
        fill_maps(probe, row, maps);
    }
}

/* ---- answers ---- */

/* Where the inputs of a row stand in the chunk. */
typedef struct row_place {
    float *maps, *scalars, *prompt;
    size_t map_values, scalar_values, prompt_values;
} row_place;

static row_place place_of(const ga_probe *probe, int32_t slot) {
    const ga_inputs *inputs = &probe->inputs;
    const ga_network_shape *shape = &probe->network.shape;
    const size_t map_values = (size_t)inputs->map_channels * (size_t)inputs->height * (size_t)inputs->width;
    const row_place place = {.maps = probe->maps + (size_t)slot * map_values,
        .scalars = probe->scalars + (size_t)slot * (size_t)shape->scalars,
        .prompt = probe->prompt + (size_t)slot * (size_t)shape->prompt,
        .map_values = map_values,
        .scalar_values = (size_t)shape->scalars,
        .prompt_values = (size_t)shape->prompt};
    return place;
}

/* A row whose features can't be used: the network must not see what is left in its place. */
static void void_row(ga_probe *probe, const row_place *place, int32_t slot) {
    const int32_t targets = probe->info.target_count;
    memset(place->maps, 0, place->map_values * sizeof *place->maps);
    memset(place->scalars, 0, place->scalar_values * sizeof *place->scalars);
    memset(place->prompt, 0, place->prompt_values * sizeof *place->prompt);
    for (int32_t target = 0; target < targets; target++) {
        probe->score[slot * targets + target] = NAN;
        probe->level[slot * targets + target] = NAN;
    }
}

/* One row into place `slot` of the chunk, and what the ridges say of it. */
static void prepare_slot(ga_probe *probe, const ga_half *features, double sigma, bool partial, int32_t slot) {
    const bool network = probe->info.kind == GA_PROBE_NETWORK, ridge = ga_probe_has_ridge(probe);
    const int32_t targets = probe->info.target_count;
    const row_place place = place_of(probe, slot);
    probe->log_sigma[slot] = 0.0f;
    float *maps = network ? place.maps : NULL;
    if (partial) {
        ga_probe_prepare_known(probe, features, sigma, probe->row, probe->pooled, maps);
    } else if (!ga_probe_prepare_row(probe, features, sigma, probe->row, probe->pooled, maps)) {
        void_row(probe, &place, slot);
        return;
    }
    if (network) {
        ga_probe_prepare_vectors(probe, probe->pooled, place.scalars, place.prompt);
        probe->log_sigma[slot] = ga_inputs_log_sigma(sigma);
    }
    for (int32_t target = 0; target < targets; target++) {
        float *score = &probe->score[slot * targets + target],
              *level = &probe->level[slot * targets + target];
        *score = 0.0f;
        *level = 0.0f;
        if (ridge) {
            ga_ridge_predict(ga_probe_ridge(probe, target), probe->pooled, score, level);
        }
    }
}

/* The network's answers of one row onto what the ridges said. */
static void add_answer(ga_probe *probe, int32_t slot) {
    const int32_t targets = probe->info.target_count, outputs = probe->network.outputs;
    for (int32_t target = 0; target < targets; target++) {
        const double scale = ga_probe_scale(probe, target);
        const float *answer = probe->answer + (ptrdiff_t)slot * outputs;
        probe->score[slot * targets + target] += (float)scale * answer[target];
        if (outputs > targets) {
            const double grown = exp(fmin((double)answer[targets + target], 60.0));
            probe->variance[slot * targets + target] =
                (float)(scale * scale * (probe->variance_floor + grown));
        }
    }
}

static ga_status add_network_answers(ga_probe *probe, int32_t count, ga_error *error) {
    GA_TRY(ga_probe_load(probe, error));
    if (probe->pass == NULL) {
        GA_TRY(ga_network_pass_create(&probe->network, probe->compute, GA_PROBE_CHUNK_ROWS,
            GA_PROBE_CHUNK_ROWS, false, &probe->pass, error));
    }
    const ga_network_input input = {.rows = count,
        .maps = probe->maps,
        .scalars = probe->scalars,
        .prompt = probe->prompt,
        .log_sigma = probe->log_sigma};
    GA_TRY(ga_network_forward(probe->pass, probe->loaded, &input, probe->answer, error));
    for (int32_t slot = 0; slot < count; slot++) {
        add_answer(probe, slot);
    }
    return GA_OK;
}

/* Rows first … first + count - 1 into score, level and variance of the chunk. */
static ga_status answer_chunk(
    ga_probe *probe, const ga_probe_rows *rows, int64_t first, int32_t count, ga_error *error) {
    const int32_t values = count * probe->info.target_count;
    for (int32_t i = 0; i < count; i++) {
        const int64_t row = rows->rows == NULL ? first + i : rows->rows[first + i];
        const double sigma = rows->sigma == NULL ? rows->sigma_all : (double)rows->sigma[row];
        prepare_slot(
            probe, rows->features + row * probe->inputs.schema.values_per_row, sigma, rows->partial, i);
    }
    for (int32_t i = 0; i < values; i++) {
        probe->variance[i] = NAN;
    }
    return probe->info.kind == GA_PROBE_NETWORK ? add_network_answers(probe, count, error) : GA_OK;
}

/* Rows to score as one job of the provider; `columns` of the targets are wanted. */
typedef struct answer_job {
    ga_probe *probe;
    const ga_probe_rows *rows;
    int32_t columns;
    float *score, *level, *variance; /* [count, columns]; variance may be NULL */
} answer_job;

static void take_answers(const answer_job *job, int64_t first, int32_t count) {
    const ga_probe *probe = job->probe;
    for (int32_t i = 0; i < count; i++) {
        for (int32_t column = 0; column < job->columns; column++) {
            const int64_t to = (first + i) * job->columns + column;
            const int32_t from = i * probe->info.target_count + column;
            job->score[to] = probe->score[from];
            job->level[to] = probe->level[from];
            if (job->variance != NULL) {
                job->variance[to] = probe->variance[from];
            }
        }
    }
}

static ga_status run_answers(void *user, ga_error *error) {
    const answer_job *job = user;
    for (int64_t first = 0; first < job->rows->count; first += GA_PROBE_CHUNK_ROWS) {
        const int64_t left = job->rows->count - first;
        const int32_t count = left < GA_PROBE_CHUNK_ROWS ? (int32_t)left : GA_PROBE_CHUNK_ROWS;
        GA_TRY(answer_chunk(job->probe, job->rows, first, count, error));
        take_answers(job, first, count);
    }
    return GA_OK;
}

ga_status ga_probe_score_rows(
    ga_probe *probe, const ga_probe_rows *rows, float *score_out, float *level_out, ga_error *error) {
    answer_job job = {.probe = probe, .rows = rows, .columns = 1, .score = score_out, .level = level_out};
    return probe->compute->run(run_answers, &job, error);
}

ga_status ga_probe_answer_rows(ga_probe *probe, const ga_probe_rows *rows, float *score_out, float *level_out,
    float *variance_out, ga_error *error) {
    answer_job job = {.probe = probe,
        .rows = rows,
        .columns = probe->info.target_count,
        .score = score_out,
        .level = level_out,
        .variance = variance_out};
    return probe->compute->run(run_answers, &job, error);
}

/* ---- calibrated scores ---- */

static ga_status check_sigma(const ga_probe_info *info, double sigma, ga_error *error) {
    const double low = info->sigma_low * (1.0 - SIGMA_SLACK);
    const double high = info->sigma_high * (1.0 + SIGMA_SLACK);
    if (!(sigma >= low && sigma <= high)) {
        return GA_FAIL(error, GA_ERR_DATA,
            "the noise level at the decision is %g, the probe was trained from %g to %g; retrain it for this "
            "schedule",
            sigma, info->sigma_low, info->sigma_high);
    }
    return GA_OK;
}

/* A block to score with calibration; `columns` of the targets. */
typedef struct score_job {
    ga_probe *probe;
    const ga_feature_block *block;
    double sigma;
    int32_t columns;
    float *mean, *variance; /* variance may be NULL */
} score_job;

/* Row `slot` of the chunk into place `to` of the outputs. */
static void calibrate_slot(const score_job *job, int32_t slot, int64_t to) {
    ga_probe *probe = job->probe;
    for (int32_t column = 0; column < job->columns; column++) {
        const ga_calibration *calibration = ga_probe_calibration(probe, column);
        const int32_t from = slot * probe->info.target_count + column;
        const double mean = calibration->intercept + calibration->slope * (double)probe->score[from] +
                            (double)probe->level[from];
        const bool usable = isfinite((float)mean);
        job->mean[to * job->columns + column] = usable ? (float)mean : NAN;
        if (job->variance != NULL) {
            job->variance[to * job->columns + column] =
                usable ? (float)ga_calibration_variance(calibration, (double)probe->variance[from]) : NAN;
        }
    }
}

static ga_status run_scores(void *user, ga_error *error) {
    const score_job *job = user;
    const ga_probe_rows rows = {
        .features = job->block->values, .count = job->block->rows, .sigma_all = job->sigma};
    for (int64_t first = 0; first < rows.count; first += GA_PROBE_CHUNK_ROWS) {
        const int64_t left = rows.count - first;
        const int32_t count = left < GA_PROBE_CHUNK_ROWS ? (int32_t)left : GA_PROBE_CHUNK_ROWS;
        GA_TRY(answer_chunk(job->probe, &rows, first, count, error));
        for (int32_t slot = 0; slot < count; slot++) {
            calibrate_slot(job, slot, first + slot);
        }
    }
    return GA_OK;
}

static ga_status score_block(ga_probe *probe, const ga_feature_block *block, double sigma, int32_t columns,
    float *mean_out, float *variance_out, ga_error *error) {
    const ga_probe_info *info = &probe->info;
    if (block->rows < 0 || block->schema == NULL || !ga_schema_equal(block->schema, &info->schema)) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "the features have another layout than the probe was trained on");
    }
    GA_TRY(check_sigma(info, sigma, error));
    score_job job = {.probe = probe,
        .block = block,
        .sigma = sigma,
        .columns = columns,
        .mean = mean_out,
        .variance = variance_out};
    return probe->compute->run(run_scores, &job, error);
}

ga_status ga_probe_score(ga_probe *probe, const ga_feature_block *block, double sigma, float *mean_out,
    float *variance_out, ga_error *error) {
    return score_block(probe, block, sigma, 1, mean_out, variance_out, error);
}

ga_status ga_probe_score_all(ga_probe *probe, const ga_feature_block *block, double sigma, float *mean_out,
    float *variance_out, ga_error *error) {
    return score_block(probe, block, sigma, probe->info.target_count, mean_out, variance_out, error);
}

static bool knows_step(const ga_probe_info *info, int32_t step) {
    for (int32_t i = 0; i < info->step_count; i++) {
        if (info->steps[i] == step) {
            return true;
        }
    }
    return false;
}

ga_status ga_probe_match(const ga_probe *probe, const ga_probe_requirement *requirement, ga_error *error) {
    const ga_probe_info *info = &probe->info;
    if (strcmp(info->model, requirement->model) != 0) {
        return GA_FAIL(error, GA_ERR_FILE,
            "the probe is for model \"%.150s\", the host runs \"%.150s\"; train one for it", info->model,
            requirement->model);
    }
    if (info->steps_total != requirement->steps_total || !knows_step(info, requirement->step)) {
        return GA_FAIL(error, GA_ERR_FILE,
            "the probe decides after step %d of %d (it knows %d such steps), the host decides after step %d "
            "of %d; "
            "change decision.step or train one for it",
            info->step_count > 0 ? info->steps[0] : -1, info->steps_total, info->step_count,
            requirement->step, requirement->steps_total);
    }
    if (!ga_schema_equal(&info->schema, requirement->schema)) {
        char ours[GA_SCHEMA_TEXT_BYTES], theirs[GA_SCHEMA_TEXT_BYTES];
        ga_schema_to_text(&info->schema, ours);
        ga_schema_to_text(requirement->schema, theirs);
        return GA_FAIL(error, GA_ERR_FILE,
            "the probe takes features %.160s (schema %016llx), the host gives %.160s (schema %016llx); "
            "change probe.inputs or train one for it",
            ours, (unsigned long long)info->schema.id, theirs, (unsigned long long)requirement->schema->id);
    }
    return GA_OK;
}
