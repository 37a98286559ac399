#include "probe/train/fit_batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/compute/half.h"

/* A feature that is not known. */
#define HALF_NAN ((ga_half)0x7e00u)

#define BATCH_ROWS_MAX 4096

/* Rows of a pass with those under other prompts. */
#define ROOM_ROWS_MAX 2048

/* Where they share the pictures' maps. */
#define ROOM_SHARED_ROWS_MAX 8192

/* Weight of the squared error of rewards under other prompts, all of a row together, beside the row's own
 * loss.
 */
#define MORE_WEIGHT 2.0

/* ---- room ---- */

static int32_t clamp_batch_rows(int32_t rows) {
    return rows < 8 ? 8 : rows > BATCH_ROWS_MAX ? BATCH_ROWS_MAX : rows;
}

/* The most labels under other prompts that any row of the dataset has: the same in every process. */
static int32_t most_labels(const ga_dataset *dataset) {
    int32_t most = 0;
    for (int64_t row = 0; row < dataset->rows && dataset->more != NULL; row += dataset->more->share) {
        int32_t count;
        (void)ga_dataset_more(dataset, row, &count);
        most = count > most ? count : most;
    }
    return most;
}

/* As many rows as were asked for, or fewer where their other labels fill a pass. */
static void choose_room(ga_fit_source *source) {
    const int32_t labels = 1 + most_labels(source->fit->dataset);
    const int32_t rows = clamp_batch_rows(source->fit->options->batch_rows);
    const bool shares = source->probe->network.shares_pictures;
    const int32_t most = clamp_batch_rows((shares ? ROOM_SHARED_ROWS_MAX : ROOM_ROWS_MAX) / labels);
    source->batch_rows = labels > 1 && most < rows ? most : rows;
    source->room_rows = source->batch_rows * labels;
    source->room_pictures = shares ? source->batch_rows : source->room_rows;
    const ga_feature_schema *schema = &source->probe->inputs.schema;
    for (int32_t i = 0; i < schema->input_count; i++) {
        if (schema->inputs[i].input == GA_INPUT_PROMPT) {
            source->prompt = schema->inputs[i];
        }
    }
}

static bool create_batch(const ga_probe *probe, int32_t batch_rows, int32_t pictures, ga_fit_batch *batch) {
    const ga_inputs *inputs = &probe->inputs;
    const ga_network_shape *shape = &probe->network.shape;
    const size_t rows = (size_t)batch_rows, targets = (size_t)probe->info.target_count;
    const size_t map = (size_t)shape->map_channels * (size_t)shape->height * (size_t)shape->width;
    const size_t scalars = (size_t)shape->scalars, prompt = (size_t)shape->prompt;
    const size_t outputs = (size_t)probe->network.outputs;
    const size_t maps = (size_t)pictures * map;
    batch->maps =
        malloc((maps + rows * (scalars + prompt + 2 + 2 * targets + 2 * outputs) + 1) * sizeof(float));
    batch->begin = malloc((2 * rows + 1) * sizeof *batch->begin);
    batch->noise = malloc(rows * sizeof *batch->noise);
    batch->number = malloc(2 * rows * sizeof *batch->number);
    batch->features = malloc(rows * (size_t)inputs->schema.values_per_row * sizeof *batch->features);
    if (batch->maps == NULL || batch->begin == NULL || batch->noise == NULL || batch->number == NULL ||
        batch->features == NULL) {
        return false;
    }
    batch->place = batch->number + rows;
    batch->picture = batch->begin + rows + 1;
    batch->scalars = batch->maps + maps;
    batch->prompt = batch->scalars + rows * scalars;
    batch->log_sigma = batch->prompt + rows * prompt;
    batch->weight = batch->log_sigma + rows;
    batch->base = batch->weight + rows;
    batch->target = batch->base + rows * targets;
    batch->answer = batch->target + rows * targets;
    batch->grad = batch->answer + rows * outputs;
    return true;
}

/* Means over all training rows of all processes: the level that the raw term takes, and the rewards' spread.
 */
static ga_status find_levels(ga_fit_source *source, ga_error *error) {
    const ga_fit *fit = source->fit;
    const bool ridge = ga_probe_has_ridge(source->probe);
    const int32_t targets = source->probe->info.target_count;
    double sums[3 + 2 * GA_NETWORK_TARGETS_MAX] = {
        0}; /* Σw, Σw·reward, Σw·reward²; label and weight a target */
    for (int64_t i = 0; i < fit->train->count; i++) {
        const double w = (double)fit->train->weight[i], reward = (double)fit->train->target[i];
        sums[0] += w;
        sums[1] += w * reward;
        sums[2] += w * reward * reward;
        for (int32_t target = 0; target < targets; target++) {
            const double label = (double)ga_dataset_target(fit->dataset, fit->train->rows[i], target);
            const double base = ridge && target == 0
                                    ? (double)fit->train_score[i] + (double)fit->train_level[i]
                                    : 0.0; /* features are centred: the other ridges' means are near 0 */
            if (isfinite(label)) {
                sums[3 + 2 * target] += w * (label - base);
                sums[4 + 2 * target] += w;
            }
        }
    }
    GA_TRY(ga_reduce_sum(&fit->callbacks->reduce, sums, 3 + 2 * targets, error));
    const double weight = sums[0] > 0.0 ? sums[0] : 1.0;
    source->reward_mean = sums[1] / weight;
    source->reward_deviation = sqrt(fmax(sums[2] / weight - source->reward_mean * source->reward_mean, 0.0));
    for (int32_t target = 0; target < targets; target++) {
        const double labelled = sums[4 + 2 * target];
        source->bias[target] =
            labelled > 0.0 ? sums[3 + 2 * target] / labelled / ga_probe_scale(source->probe, target) : 0.0;
    }
    return GA_OK;
}

static ga_status begin_pass(ga_fit_source *source, ga_error *error) {
    const ga_fit *fit = source->fit;
    GA_TRY(
        ga_part_shuffle(fit->dataset, fit->train, fit->options->seed, source->epoch, source->order, error));
    source->epoch++;
    source->next_group = 0;
    source->next_row = 0;
    return GA_OK;
}

ga_status ga_fit_source_create(
    const ga_fit *fit, const ga_probe *probe, ga_fit_source *source, ga_error *error) {
    const ga_inputs *inputs = &probe->inputs;
    memset(source, 0, sizeof *source);
    source->fit = fit;
    source->probe = probe;
    choose_room(source);
    source->order = malloc(((size_t)fit->train->all_groups + 1) * sizeof *source->order);
    source->row =
        malloc(((size_t)inputs->schema.values_per_row + (size_t)inputs->pooled_count) * sizeof(float));
    if (source->order == NULL || source->row == NULL ||
        !create_batch(probe, source->room_rows, source->room_pictures, &source->batch)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for batches of %d rows", source->room_rows);
    }
    source->pooled = source->row + inputs->schema.values_per_row;
    source->next_group = fit->train->all_groups; /* the first batch shuffles */
    return find_levels(source, error);
}

void ga_fit_source_destroy(ga_fit_source *source) {
    free(source->order);
    free(source->row);
    free(source->batch.maps);
    free(source->batch.begin);
    free(source->batch.noise);
    free(source->batch.number);
    free(source->batch.features);
    memset(source, 0, sizeof *source);
}

ga_status ga_fit_source_seek(
    ga_fit_source *source, uint64_t epoch, int32_t next_group, int32_t next_row, ga_error *error) {
    if (epoch > 0) {
        source->epoch = epoch - 1;
        GA_TRY(begin_pass(source, error));
        source->next_group = next_group;
        source->next_row = next_row;
    }
    return GA_OK;
}

/* ---- rows ---- */

/* Uniform noise of standard deviation `deviation`, two values out of 32 bits: as good a guard as normal
 * noise, and quick. */
static void add_noise(ga_random *random, double deviation, int64_t count, float *values) {
    const float width = (float)(deviation * sqrt(12.0) * 0x1p-16);
    const float half = (float)(deviation * sqrt(3.0));
    for (int64_t i = 0; i < count && deviation > 0.0; i += 2) {
        const uint32_t bits = ga_random_u32(random);
        values[i] += width * (float)(bits & 0xffffu) - half;
        if (i + 1 < count) {
            values[i + 1] += width * (float)(bits >> 16) - half;
        }
    }
}

/* Makes a row a little different each time it is seen: what can't be learned by heart must be understood. */
static void disturb_row(
    const ga_fit_source *source, ga_random *random, float *maps, float *scalars, float *prompt) {
    const ga_network_shape *shape = &source->probe->network.shape;
    const ga_train_options *options = source->fit->options;
    const int64_t positions = (int64_t)shape->height * shape->width;
    for (int32_t channel = 0; maps != NULL && channel < shape->map_channels; channel++, maps += positions) {
        if (ga_random_uniform(random) < options->channel_drop) {
            memset(maps, 0, (size_t)positions * sizeof *maps);
        } else {
            add_noise(random, options->input_noise, positions, maps);
        }
    }
    add_noise(random, options->input_noise, shape->scalars, scalars);
    add_noise(random, options->input_noise, shape->prompt, prompt);
}

/* What the ridges say of the row, and what is left of its labels for the network. */
static void put_labels(ga_fit_source *source, const float *pooled, int32_t slot) {
    const ga_fit *fit = source->fit;
    const ga_probe *probe = source->probe;
    const int32_t targets = probe->info.target_count;
    const bool ridge = ga_probe_has_ridge(probe);
    for (int32_t target = 0; target < targets; target++) {
        const double scale = ga_probe_scale(probe, target);
        const float label = ga_dataset_target(fit->dataset, source->batch.number[slot], target);
        float score = 0.0f, level = 0.0f;
        if (ridge) {
            ga_ridge_predict(ga_probe_ridge(probe, target), pooled, &score, &level);
        }
        source->batch.base[slot * targets + target] = (float)((double)score / scale);
        source->batch.target[slot * targets + target] =
            (float)(((double)label - (double)level) / scale - source->bias[target]);
    }
}

/* Low rewards count more, up to 1 + oversample_low times: weight 1 + o · P(a normal reward is higher). On
 * purpose not corrected for: it is what the option is for. */
static float weight_of(const ga_fit_source *source, int64_t place) {
    const ga_fit *fit = source->fit;
    const double more = fit->options->oversample_low;
    if (!(more > 0.0) || !(source->reward_deviation > 0.0)) {
        return fit->train->weight[place];
    }
    const double z = ((double)fit->train->target[place] - source->reward_mean) / source->reward_deviation;
    return fit->train->weight[place] * (float)(1.0 + more * 0.5 * erfc(z * M_SQRT1_2));
}

/* Row `slot` of the batch, whose number, place and features are there. */
static void put_row(ga_fit_source *source, ga_random *random, int32_t slot) {
    const ga_fit *fit = source->fit;
    const ga_probe *probe = source->probe;
    const ga_network_shape *shape = &probe->network.shape;
    ga_fit_batch *batch = &source->batch;
    const size_t map = (size_t)shape->map_channels * (size_t)shape->height * (size_t)shape->width;
    const int64_t place = batch->place[slot], number = batch->number[slot];
    float *maps = batch->maps + (size_t)slot * map;
    float *scalars = batch->scalars + (size_t)slot * (size_t)shape->scalars;
    float *prompt = batch->prompt + (size_t)slot * (size_t)shape->prompt;
    const double sigma = (double)fit->dataset->sigma[number];
    const ga_half *features = batch->features + (size_t)slot * (size_t)probe->inputs.schema.values_per_row;
    const float *pooled = source->pooled;
    if (fit->pooled != NULL) {
        pooled = fit->pooled + place * probe->inputs.pooled_count;
        if (map > 0) {
            ga_probe_prepare_maps(probe, features, source->row, maps);
        }
    } else {
        ga_probe_prepare_known(probe, features, sigma, source->row, source->pooled, map > 0 ? maps : NULL);
    }
    ga_probe_prepare_vectors(probe, pooled, scalars, prompt);
    batch->picture[slot] = slot;
    put_labels(source, pooled, slot);
    disturb_row(source, random, maps, scalars, prompt);
    batch->log_sigma[slot] = ga_inputs_log_sigma(sigma);
    batch->weight[slot] = weight_of(source, place);
}

/* ---- batches ---- */

/* `rows` of this process's group from its row `first` on, behind those that the batch has. */
static void add_group(ga_fit_source *source, int32_t group, int32_t first, int32_t rows) {
    const ga_part *part = source->fit->train;
    ga_fit_batch *batch = &source->batch;
    for (int32_t i = 0; i < rows; i++) {
        const int64_t place = part->begin[group] + first + i;
        batch->place[batch->rows + i] = place;
        batch->number[batch->rows + i] = part->rows[place];
    }
    batch->rows += rows;
    batch->begin[++batch->groups] = batch->rows;
}

/* Whole groups, or pieces of those that have more rows than a batch, until the next would not fit. */
static ga_status choose_groups(ga_fit_source *source, ga_error *error) {
    const ga_part *part = source->fit->train;
    ga_fit_batch *batch = &source->batch;
    int32_t rows = 0;
    batch->rows = 0;
    batch->groups = 0;
    batch->begin[0] = 0;
    for (int32_t taken = 0; taken < part->all_groups; taken++) {
        if (source->next_group >= part->all_groups) {
            GA_TRY(begin_pass(source, error));
        }
        const int32_t group = source->order[source->next_group];
        const int32_t left = part->all_rows[group] - source->next_row;
        const int32_t piece = left < source->batch_rows ? left : source->batch_rows;
        if (rows + piece > source->batch_rows) {
            return GA_OK;
        }
        if (part->all_place[group] >= 0) {
            batch->noise[batch->groups] =
                ga_random_make(source->fit->options->seed + (uint64_t)source->next_row,
                    source->epoch << 32 | (uint32_t)group, GA_STREAM_WEIGHTS);
            add_group(source, part->all_place[group], source->next_row, piece);
        }
        rows += piece;
        source->next_row = piece < left ? source->next_row + piece : 0;
        source->next_group += piece < left ? 0 : 1;
    }
    return GA_OK;
}

/* ---- labels under other prompts ---- */

/* The picture of row `from` under the prompt of a label; what belongs to its own prompt is unknown. */
static void copy_picture(ga_fit_source *source, int32_t from, int64_t label, int32_t to) {
    const ga_feature_schema *schema = &source->probe->inputs.schema;
    const size_t values = (size_t)schema->values_per_row;
    const ga_half *own = source->batch.features + (size_t)from * values;
    ga_half *features = source->batch.features + (size_t)to * values;
    const ga_more_labels *more = source->fit->dataset->more;
    for (size_t k = 0; k < values; k++) {
        features[k] = HALF_NAN;
    }
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        if (shape->input == GA_INPUT_X0 || shape->input == GA_INPUT_HIDDEN) {
            const size_t count = (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
            memcpy(features + shape->offset, own + shape->offset, count * sizeof *features);
        }
    }
    const size_t width = (size_t)source->prompt.channels;
    memcpy(features + source->prompt.offset, more->vectors + (size_t)more->vector[label] * width,
        width * sizeof *features);
}

/*
 * A row with one label is a group of its own: of the loss only the raw term sees it, a squared error. No
 * grouping by the other prompt, because what a label under it teaches is how well the picture fits, at the
 * level that all pictures share.
 */
static void put_label(ga_fit_source *source, ga_random *random, int32_t from, int64_t label, double weight) {
    ga_fit_batch *batch = &source->batch;
    const ga_probe *probe = source->probe;
    const int32_t slot = batch->rows++, targets = probe->info.target_count;
    const ga_network_shape *shape = &probe->network.shape;
    const size_t map = (size_t)shape->map_channels * (size_t)shape->height * (size_t)shape->width;
    const size_t values = (size_t)probe->inputs.schema.values_per_row;
    const bool own = map > 0 && !probe->network.shares_pictures;
    float *maps = own ? batch->maps + (size_t)slot * map : NULL;
    float *scalars = batch->scalars + (size_t)slot * (size_t)shape->scalars;
    float *prompt = batch->prompt + (size_t)slot * (size_t)shape->prompt;
    batch->picture[slot] = own || map == 0 ? slot : from;
    copy_picture(source, from, label, slot);
    const double sigma = (double)source->fit->dataset->sigma[batch->number[from]];
    ga_probe_prepare_known(
        probe, batch->features + (size_t)slot * values, sigma, source->row, source->pooled, maps);
    ga_probe_prepare_vectors(probe, source->pooled, scalars, prompt);
    disturb_row(source, random, maps, scalars, prompt);
    float score = 0.0f, level = 0.0f;
    if (ga_probe_has_ridge(probe)) {
        ga_ridge_predict(ga_probe_ridge(probe, 0), source->pooled, &score, &level);
    }
    const double scale = ga_probe_scale(probe, 0);
    const double reward = (double)source->fit->dataset->more->reward[label];
    for (int32_t target = 0; target < targets; target++) {
        batch->base[slot * targets + target] = 0.0f;
        batch->target[slot * targets + target] = NAN;
    }
    batch->base[slot * targets] = (float)((double)score / scale);
    batch->target[slot * targets] = (float)((reward - (double)level) / scale - source->bias[0]);
    batch->log_sigma[slot] = ga_inputs_log_sigma(sigma);
    batch->weight[slot] = (float)weight;
    batch->begin[++batch->groups] = batch->rows;
}

static void put_more(ga_fit_source *source, ga_random *random, int32_t slot) {
    const ga_fit *fit = source->fit;
    int32_t count;
    const int64_t first = ga_dataset_more(fit->dataset, source->batch.number[slot], &count);
    if (count == 0 || source->prompt.channels == 0 || !(fit->options->loss.raw > 0.0)) {
        return;
    }
    const double weight = (double)fit->train->weight[source->batch.place[slot]] * MORE_WEIGHT /
                          (fit->options->loss.raw * (double)count);
    for (int32_t i = 0; i < count; i++) {
        put_label(source, random, slot, first + i, weight);
    }
}

ga_status ga_fit_source_next(ga_fit_source *source, ga_error *error) {
    ga_fit_batch *batch = &source->batch;
    GA_TRY(choose_groups(source, error));
    if (batch->rows > 0) {
        GA_TRY(ga_dataset_features(source->fit->dataset, batch->number, batch->rows, batch->features, error));
    }
    const int32_t groups = batch->groups;
    batch->own_rows = batch->rows;
    for (int32_t group = 0; group < groups; group++) {
        for (int32_t slot = batch->begin[group]; slot < batch->begin[group + 1]; slot++) {
            put_row(source, &batch->noise[group], slot);
            put_more(source, &batch->noise[group], slot);
        }
    }
    return GA_OK;
}
