#include "probe/probe.h"

#include <math.h>
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

const ga_probe_info *ga_probe_get_info(const ga_probe *probe) {
    return &probe->info;
}

void ga_probe_set_version(ga_probe *probe, uint32_t version) {
    probe->info.version = version;
}

static ga_status create_room(ga_probe *probe, ga_error *error) {
    const ga_inputs *inputs = &probe->inputs;
    const size_t chunk = GA_PROBE_CHUNK_ROWS;
    const size_t row = (size_t)inputs->schema.values_per_row, pooled = (size_t)inputs->pooled_count;
    const size_t maps = chunk * (size_t)inputs->map_channels * (size_t)inputs->height * (size_t)inputs->width;
    const size_t scalars = chunk * (size_t)inputs->scalar_count;
    probe->row = calloc(row + pooled + maps + scalars + 2 * chunk, sizeof *probe->row);
    if (probe->row == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to score rows of %zu values", row);
    }
    probe->pooled = probe->row + row;
    probe->maps = probe->pooled + pooled;
    probe->scalars = probe->maps + maps;
    probe->log_sigma = probe->scalars + scalars;
    probe->answer = probe->log_sigma + chunk;
    return GA_OK;
}

static ga_status fill_probe(ga_probe *probe, const ga_feature_schema *schema, ga_error *error) {
    GA_TRY(ga_inputs_plan(schema, &probe->inputs, error));
    const ga_inputs *inputs = &probe->inputs;
    probe->info.kind = GA_PROBE_RIDGE;
    probe->info.schema = *schema;
    probe->info.calibration.slope = 1.0;
    probe->reward_scale = 1.0;
    ga_network_plan(
        inputs->map_channels, inputs->height, inputs->width, inputs->scalar_count, &probe->network);
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

ga_status ga_probe_add_network(ga_probe *probe, ga_error *error) {
    if (probe->parameters == NULL) {
        probe->parameters = calloc((size_t)probe->network.parameter_count, sizeof *probe->parameters);
    }
    if (probe->parameters == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the probe's network");
    }
    probe->info.kind = GA_PROBE_NETWORK;
    return GA_OK;
}

void ga_probe_close(ga_probe **probe) {
    if (*probe == NULL) {
        return;
    }
    ga_moments_destroy(&(*probe)->pooled_moments);
    ga_moments_destroy(&(*probe)->map_moments);
    ga_ridge_destroy(&(*probe)->ridge);
    ga_network_pass_destroy(&(*probe)->pass);
    free((*probe)->parameters);
    free((*probe)->row);
    free(*probe);
    *probe = NULL;
}

static void fill_maps(const ga_probe *probe, const float *row, float *maps) {
    const ga_inputs *inputs = &probe->inputs;
    ga_inputs_maps(inputs, row, maps);
    ga_moments_apply_maps(&probe->map_moments, inputs->height * inputs->width, maps);
}

void ga_probe_prepare_maps(const ga_probe *probe, const ga_half *features, float *row, float *maps) {
    ga_half_to_float_array(features, row, (size_t)probe->inputs.schema.values_per_row);
    fill_maps(probe, row, maps);
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

/* One row into place `slot` of the chunk, and what the ridge says of it. */
static void score_row(
    ga_probe *probe, const ga_half *features, double sigma, int32_t slot, float *score, float *level) {
    const ga_inputs *inputs = &probe->inputs;
    const bool network = probe->info.kind == GA_PROBE_NETWORK;
    const size_t map_values = (size_t)inputs->map_channels * (size_t)inputs->height * (size_t)inputs->width;
    float *maps = probe->maps + (size_t)slot * map_values;
    float *scalars = probe->scalars + (size_t)slot * (size_t)inputs->scalar_count;
    probe->log_sigma[slot] = 0.0f;
    if (!ga_probe_prepare_row(probe, features, sigma, probe->row, probe->pooled, network ? maps : NULL)) {
        memset(maps, 0, map_values * sizeof *maps); /* the network must not see what is left there */
        memset(scalars, 0, (size_t)inputs->scalar_count * sizeof *scalars);
        *score = NAN;
        *level = NAN;
        return;
    }
    ga_inputs_scalars(inputs, probe->pooled, scalars);
    probe->log_sigma[slot] = ga_inputs_log_sigma(sigma);
    ga_ridge_predict(&probe->ridge, probe->pooled, score, level);
}

/* Adds the network's answer for the first `count` places of the chunk. */
static ga_status add_network_answer(ga_probe *probe, int32_t count, float *score, ga_error *error) {
    if (probe->pass == NULL) {
        GA_TRY(ga_network_pass_create(
            &probe->network, probe->compute, GA_PROBE_CHUNK_ROWS, false, &probe->pass, error));
    }
    const ga_network_input input = {
        .rows = count, .maps = probe->maps, .scalars = probe->scalars, .log_sigma = probe->log_sigma};
    GA_TRY(ga_network_forward(probe->pass, probe->parameters, &input, probe->answer, error));
    for (int32_t i = 0; i < count; i++) {
        score[i] += (float)probe->reward_scale * probe->answer[i];
    }
    return GA_OK;
}

ga_status ga_probe_score_rows(
    ga_probe *probe, const ga_probe_rows *rows, float *score_out, float *level_out, ga_error *error) {
    const int64_t values = probe->inputs.schema.values_per_row;
    for (int64_t first = 0; first < rows->count; first += GA_PROBE_CHUNK_ROWS) {
        const int64_t left = rows->count - first;
        const int32_t count = left < GA_PROBE_CHUNK_ROWS ? (int32_t)left : GA_PROBE_CHUNK_ROWS;
        for (int32_t i = 0; i < count; i++) {
            const int64_t row = rows->rows == NULL ? first + i : rows->rows[first + i];
            const double sigma = rows->sigma == NULL ? rows->sigma_all : (double)rows->sigma[row];
            score_row(
                probe, rows->features + row * values, sigma, i, &score_out[first + i], &level_out[first + i]);
        }
        if (probe->info.kind == GA_PROBE_NETWORK) {
            GA_TRY(add_network_answer(probe, count, score_out + first, error));
        }
    }
    return GA_OK;
}

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

ga_status ga_probe_score(ga_probe *probe, const ga_feature_block *block, double sigma, float *mean_out,
    float *variance_out, ga_error *error) {
    const ga_probe_info *info = &probe->info;
    if (block->rows < 0 || block->schema == NULL || !ga_schema_equal(block->schema, &info->schema)) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "the features have another layout than the probe was trained on");
    }
    GA_TRY(check_sigma(info, sigma, error));
    for (int32_t first = 0; first < block->rows; first += GA_PROBE_CHUNK_ROWS) {
        float level[GA_PROBE_CHUNK_ROWS];
        const int32_t left = block->rows - first;
        const ga_probe_rows rows = {
            .features = block->values + (ptrdiff_t)first * info->schema.values_per_row,
            .count = left < GA_PROBE_CHUNK_ROWS ? left : GA_PROBE_CHUNK_ROWS,
            .sigma_all = sigma};
        GA_TRY(ga_probe_score_rows(probe, &rows, mean_out + first, level, error));
        for (int32_t i = 0; i < (int32_t)rows.count; i++) {
            float *mean = &mean_out[first + i];
            *mean = (float)(info->calibration.intercept + info->calibration.slope * (double)*mean +
                            (double)level[i]);
            *mean = isfinite(*mean) ? *mean : NAN;
            if (variance_out != NULL) {
                variance_out[first + i] = isfinite(*mean) ? (float)info->calibration.sigma_r2 : NAN;
            }
        }
    }
    return GA_OK;
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
