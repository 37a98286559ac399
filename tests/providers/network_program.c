/*
 * Runs the probe's network with one provider on inputs drawn from a seed, for tests and for measurements:
 *
 *   network_program [--provider native|torch] [--torch DIR] [--architecture joined|paper] [--channels a,b,…]
 *     [--maps C] [--side N] [--scalars S] [--prompt P] [--rows R] [--group G] [--batches B] [--targets T]
 *     [--blocks K] [--steps K] [--seed N] [--out FILE] [--bench SECONDS]
 *
 * Without --bench: one forward and one backward pass of the first batch, then `steps` steps of training (as
 * probe/train does them: gradient over the batch's weight, clipped, AdamW, averaged weights); all that went
 * in and came out stands in the safetensors file that --out names. With --bench: trains for so long and
 * prints one line of JSON with rows a second.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "grpo_accel/base/random.h"
#include "grpo_accel/compute/torch.h"
#include "probe/network.h"
#include "probe/train/loss.h"
#include "probe/weights.h"

typedef struct setting {
    const char *provider, *torch, *out;
    ga_network_options options;
    ga_network_shape shape;
    int32_t rows, group, batches, steps;
    uint64_t seed;
    double bench_seconds;
} setting;

/* One batch; every array has `rows` lines. */
typedef struct minibatch {
    float *maps, *scalars, *prompt, *log_sigma, *target, *weight;
} minibatch;

typedef struct bench {
    setting s;
    const ga_compute *compute;
    ga_network network;
    ga_network_pass *pass;
    minibatch *batches;
    int32_t *begin;
    float *answer, *grad_answer, *host;
    float *device, *parameters, *gradients, *first, *second, *average;
    int64_t count, step;
    double loss;
} bench;

static int die(const char *what) {
    fprintf(stderr, "network_program: %s\n", what);
    return 2;
}

/* ---- settings ---- */

static bool set_channels(const char *text, ga_network_options *options) {
    options->levels = 0;
    for (char *end; options->levels < GA_NETWORK_LEVELS_MAX; text = end + 1) {
        options->channels[options->levels++] = (int32_t)strtol(text, &end, 10);
        if (*end == '\0') {
            return true;
        }
    }
    return false;
}

static bool set_word(setting *s, const char *name, const char *value) {
    if (strcmp(name, "--provider") == 0) {
        s->provider = value;
    } else if (strcmp(name, "--torch") == 0) {
        s->torch = value;
    } else if (strcmp(name, "--out") == 0) {
        s->out = value;
    } else if (strcmp(name, "--architecture") == 0) {
        return ga_network_architecture_from_name(value, &s->options.architecture);
    } else if (strcmp(name, "--condition") == 0) {
        return ga_network_condition_from_name(value, &s->options.condition);
    } else if (strcmp(name, "--channels") == 0) {
        return set_channels(value, &s->options);
    } else if (strcmp(name, "--bench") == 0) {
        s->bench_seconds = strtod(value, NULL);
    } else if (strcmp(name, "--seed") == 0) {
        s->seed = strtoull(value, NULL, 10);
    } else {
        return false;
    }
    return true;
}

static bool set_number(setting *s, const char *name, const char *value) {
    const struct {
        const char *name;
        int32_t *place;
    } numbers[] = {{"--maps", &s->shape.map_channels}, {"--side", &s->shape.height},
        {"--scalars", &s->shape.scalars}, {"--prompt", &s->shape.prompt}, {"--rows", &s->rows},
        {"--group", &s->group}, {"--batches", &s->batches}, {"--targets", &s->options.targets},
        {"--steps", &s->steps}, {"--blocks", &s->options.blocks_per_level}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].place = (int32_t)strtol(value, NULL, 10);
            return true;
        }
    }
    return false;
}

static bool read_setting(int argc, char **argv, setting *s) {
    *s = (setting){.provider = "native",
        .options = ga_network_options_default(),
        .shape = {.map_channels = 20, .height = 16, .width = 16, .scalars = 3, .prompt = 64},
        .rows = 256,
        .group = 16,
        .batches = 4,
        .seed = 1};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!set_word(s, argv[i], argv[i + 1]) && !set_number(s, argv[i], argv[i + 1])) {
            return false;
        }
    }
    s->shape.width = s->shape.height;
    return argc % 2 == 1 && s->rows > 0 && s->group > 0 && s->rows % s->group == 0 && s->batches > 0;
}

/* ---- data ---- */

static void draw(ga_random *random, size_t count, float *values) {
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)ga_random_normal(random);
    }
}

static size_t map_values(const bench *b) {
    const ga_network_shape *shape = &b->s.shape;
    return (size_t)shape->map_channels * (size_t)shape->height * (size_t)shape->width;
}

/* Targets follow the maps' first channel, more or less; some labels of further targets are missing. */
static void draw_targets(ga_random *random, const bench *b, const minibatch *batch) {
    const size_t plane = (size_t)b->s.shape.height * (size_t)b->s.shape.width;
    for (int32_t row = 0; row < b->s.rows; row++) {
        double mean = 0.0;
        for (size_t i = 0; i < plane && map_values(b) > 0; i++) {
            mean += (double)batch->maps[(size_t)row * map_values(b) + i] / sqrt((double)plane);
        }
        for (int32_t t = 0; t < b->s.options.targets; t++) {
            const bool missing = t > 0 && row % 7 == 3;
            batch->target[row * b->s.options.targets + t] =
                missing ? NAN : (float)(0.7 * mean * (1 - 2 * (t % 2)) + 0.5 * ga_random_normal(random));
        }
        batch->weight[row] = (float)(0.5 + ga_random_uniform(random));
        batch->log_sigma[row] = (float)(-0.2 - 0.5 * ga_random_uniform(random));
    }
}

static bool make_batches(bench *b) {
    const size_t rows = (size_t)b->s.rows, scalars = (size_t)b->s.shape.scalars,
                 prompt = (size_t)b->s.shape.prompt, targets = (size_t)b->s.options.targets;
    ga_random random = ga_random_make(b->s.seed, 1, GA_STREAM_TEST);
    b->batches = calloc((size_t)b->s.batches, sizeof *b->batches);
    b->begin = calloc(rows / (size_t)b->s.group + 1, sizeof *b->begin);
    if (b->batches == NULL || b->begin == NULL) {
        return false;
    }
    for (int32_t i = 0; i < b->s.batches; i++) {
        minibatch *batch = &b->batches[i];
        batch->maps = malloc(rows * (map_values(b) + scalars + prompt + targets + 2) * sizeof(float));
        if (batch->maps == NULL) {
            return false;
        }
        batch->scalars = batch->maps + rows * map_values(b);
        batch->prompt = batch->scalars + rows * scalars;
        batch->log_sigma = batch->prompt + rows * prompt;
        batch->weight = batch->log_sigma + rows;
        batch->target = batch->weight + rows;
        draw(&random, rows * (map_values(b) + scalars + prompt), batch->maps);
        draw_targets(&random, b, batch);
    }
    for (int32_t g = 0; g <= b->s.rows / b->s.group; g++) {
        b->begin[g] = g * b->s.group;
    }
    return true;
}

/* ---- the network ---- */

static ga_status make_device(void *user, ga_error *error) {
    bench *b = user;
    const size_t count = ((size_t)b->count + 15) / 16 * 16;
    GA_TRY(b->compute->allocate(5 * count, &b->device, error));
    b->parameters = b->device;
    b->gradients = b->device + count;
    b->first = b->device + 2 * count;
    b->second = b->device + 3 * count;
    b->average = b->device + 4 * count;
    GA_TRY(b->compute->upload((size_t)b->count, b->host, b->parameters, error));
    GA_TRY(b->compute->upload((size_t)b->count, b->host, b->average, error));
    return ga_network_pass_create(&b->network, b->compute, b->s.rows, b->s.rows, true, &b->pass, error);
}

static ga_status make_network(bench *b, ga_error *error) {
    GA_TRY(ga_network_plan(&b->s.options, &b->s.shape, &b->network, error));
    b->count = b->network.parameter_count;
    const size_t outputs = (size_t)b->s.rows * (size_t)b->network.outputs;
    b->host = malloc((size_t)b->count * sizeof *b->host);
    b->answer = malloc(2 * outputs * sizeof *b->answer);
    if (b->host == NULL || b->answer == NULL || !make_batches(b)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory");
    }
    b->grad_answer = b->answer + outputs;
    ga_random random = ga_random_make(b->s.seed, 2, GA_STREAM_TEST);
    ga_network_initialise(&b->network, b->s.seed, b->host);
    for (int64_t i = 0; i < b->count && b->s.bench_seconds <= 0.0; i++) {
        b->host[i] += 0.05f * (float)ga_random_normal(&random); /* also what starts at zero */
    }
    return b->compute->run(make_device, b, error);
}

static ga_status forward_backward(bench *b, const minibatch *batch, bool given_gradient, ga_error *error) {
    const ga_network_input input = {.rows = b->s.rows,
        .maps = batch->maps,
        .scalars = batch->scalars,
        .prompt = batch->prompt,
        .log_sigma = batch->log_sigma};
    const ga_loss_batch rows = {.groups = b->s.rows / b->s.group,
        .begin = b->begin,
        .targets = b->s.options.targets,
        .variances = b->network.outputs > b->s.options.targets,
        .target = batch->target,
        .weight = batch->weight};
    const ga_loss loss = b->s.options.architecture == GA_NETWORK_PAPER ? ga_loss_paper() : ga_loss_default();
    GA_TRY(ga_network_forward(b->pass, b->parameters, &input, b->answer, error));
    if (!given_gradient) {
        b->loss = ga_loss_evaluate(&loss, &rows, b->answer, b->grad_answer);
    }
    GA_TRY(b->compute->zero((size_t)b->count, b->gradients, error));
    GA_TRY(ga_network_backward(b->pass, b->parameters, b->grad_answer, b->gradients, error));
    return b->compute->download((size_t)b->count, b->gradients, b->host, error);
}

static void clip(bench *b, const minibatch *batch) {
    double weight = 0.0, squares = 0.0;
    for (int32_t i = 0; i < b->s.rows; i++) {
        weight += (double)batch->weight[i];
    }
    for (int64_t i = 0; i < b->count; i++) {
        squares += (double)b->host[i] * (double)b->host[i];
    }
    const double norm = sqrt(squares) / weight, factor = (norm > 1.0 ? 1.0 / norm : 1.0) / weight;
    for (int64_t i = 0; i < b->count; i++) {
        b->host[i] = (float)((double)b->host[i] * factor);
    }
    b->loss /= weight;
}

static ga_status train_step(void *user, ga_error *error) {
    bench *b = user;
    const minibatch *batch = &b->batches[b->step % b->s.batches];
    GA_TRY(forward_backward(b, batch, false, error));
    clip(b, batch);
    const ga_adamw adamw = {.step = ++b->step,
        .learning_rate = 1e-3f,
        .beta1 = 0.9f,
        .beta2 = 0.99f,
        .epsilon = 1e-8f,
        .weight_decay = 0.05f};
    GA_TRY(b->compute->upload((size_t)b->count, b->host, b->gradients, error));
    GA_TRY(b->compute->adamw(&adamw, b->count, b->gradients, b->parameters, b->first, b->second, error));
    return b->compute->lerp(b->count, 0.99f, b->parameters, b->average, error);
}

/* ---- what comes out ---- */

static ga_status put(
    ga_weights *file, const char *name, int64_t lines, int64_t width, const float *values, ga_error *error) {
    const int64_t shape[2] = {lines, width};
    return ga_weights_add(file, name, 2, shape, values, error);
}

static ga_status put_batch(ga_weights *file, const bench *b, int32_t number, ga_error *error) {
    const minibatch *batch = &b->batches[number];
    const struct {
        const char *name;
        int64_t width;
        const float *values;
    } columns[] = {{"maps", (int64_t)map_values(b), batch->maps},
        {"scalars", b->s.shape.scalars, batch->scalars}, {"prompt", b->s.shape.prompt, batch->prompt},
        {"log_sigma", 1, batch->log_sigma}, {"weight", 1, batch->weight},
        {"target", b->s.options.targets, batch->target}};
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        char name[40];
        snprintf(name, sizeof name, "batch%d.%s", number, columns[i].name);
        GA_TRY(put(file, name, b->s.rows, columns[i].width, columns[i].values, error));
    }
    return GA_OK;
}

static ga_status put_tensors(
    ga_weights *file, const bench *b, const char *prefix, const float *values, ga_error *error) {
    for (int32_t t = 0; t < b->network.tensor_count; t++) {
        const ga_network_tensor *tensor = &b->network.tensors[t];
        char name[64];
        int64_t shape[4];
        for (int32_t i = 0; i < tensor->dims; i++) {
            shape[i] = tensor->shape[i];
        }
        snprintf(name, sizeof name, "%s.%s", prefix, tensor->name);
        GA_TRY(ga_weights_add(file, name, tensor->dims, shape, values + tensor->offset, error));
    }
    return GA_OK;
}

/* The first batch there and back, with a gradient of ones and a half. */
static ga_status put_pass(ga_weights *file, bench *b, ga_error *error) {
    GA_TRY(put_tensors(file, b, "start", b->host, error));
    for (int32_t i = 0; i < b->s.rows * b->network.outputs; i++) {
        b->grad_answer[i] = 0.5f + (float)(i % 3);
    }
    GA_TRY(forward_backward(b, &b->batches[0], true, error));
    GA_TRY(put(file, "answer", b->s.rows, b->network.outputs, b->answer, error));
    return put_tensors(file, b, "gradient", b->host, error);
}

static ga_status put_training(ga_weights *file, bench *b, ga_error *error) {
    float *losses = malloc(((size_t)b->s.steps + 1) * sizeof *losses);
    ga_status status = losses != NULL ? GA_OK : GA_FAIL(error, GA_ERR_MEMORY, "no memory");
    for (int32_t i = 0; i < b->s.steps && status == GA_OK; i++) {
        status = train_step(b, error);
        losses[i] = (float)b->loss;
    }
    if (status == GA_OK) {
        status = put(file, "losses", b->s.steps, 1, losses, error);
    }
    free(losses);
    GA_TRY(status);
    GA_TRY(forward_backward(b, &b->batches[0], false, error));
    GA_TRY(put(file, "trained_answer", b->s.rows, b->network.outputs, b->answer, error));
    GA_TRY(b->compute->download((size_t)b->count, b->average, b->host, error));
    return put_tensors(file, b, "average", b->host, error);
}

typedef struct file_job {
    bench *bench;
    ga_weights *file;
} file_job;

static ga_status fill_file(void *user, ga_error *error) {
    file_job *job = user;
    for (int32_t i = 0; i < job->bench->s.batches; i++) {
        GA_TRY(put_batch(job->file, job->bench, i, error));
    }
    GA_TRY(put_pass(job->file, job->bench, error));
    return put_training(job->file, job->bench, error);
}

static ga_status write_file(bench *b, ga_error *error) {
    file_job job = {.bench = b};
    GA_TRY(ga_weights_create(&job.file, error));
    ga_status status = b->compute->run(fill_file, &job, error);
    if (status == GA_OK) {
        status = ga_weights_write(job.file, b->s.out, error);
    }
    ga_weights_destroy(&job.file);
    return status;
}

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static ga_status measure(bench *b, ga_error *error) {
    for (int i = 0; i < 3; i++) {
        GA_TRY(b->compute->run(train_step, b, error));
    }
    const double begin = now(CLOCK_MONOTONIC), begin_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    int64_t steps = 0;
    while (now(CLOCK_MONOTONIC) - begin < b->s.bench_seconds) {
        GA_TRY(b->compute->run(train_step, b, error));
        steps++;
    }
    const double seconds = now(CLOCK_MONOTONIC) - begin, cpu = now(CLOCK_PROCESS_CPUTIME_ID) - begin_cpu;
    printf("{\"provider\": \"%s\", \"parameters\": %lld, \"steps\": %lld, \"step_seconds\": %.6f, "
           "\"step_cpu_seconds\": %.6f, \"rows_per_second\": %.1f, \"loss\": %.5f}\n",
        b->compute->name, (long long)b->count, (long long)steps, seconds / (double)steps, cpu / (double)steps,
        (double)steps * b->s.rows / seconds, b->loss);
    return GA_OK;
}

static ga_status open_provider(bench *b, ga_error *error) {
    const bool torch = strcmp(b->s.provider, "torch") == 0;
    return ga_compute_open(
        torch ? GA_PROVIDER_TORCH : GA_PROVIDER_NATIVE, 0, 0, b->s.torch, &b->compute, error);
}

static void release(bench *b) {
    ga_network_pass_destroy(&b->pass);
    if (b->device != NULL) {
        b->compute->release(b->device);
    }
    for (int32_t i = 0; i < b->s.batches && b->batches != NULL; i++) {
        free(b->batches[i].maps);
    }
    free(b->batches);
    free(b->begin);
    free(b->answer);
    free(b->host);
    free(b);
}

int main(int argc, char **argv) {
    bench *b = calloc(1, sizeof *b);
    if (b == NULL || !read_setting(argc, argv, &b->s)) {
        free(b);
        return die("wrong arguments; see the head of tests/providers/network_program.c");
    }
    ga_error error = {0};
    ga_status status = open_provider(b, &error);
    if (status == GA_OK) {
        status = make_network(b, &error);
    }
    if (status == GA_OK) {
        status = b->s.bench_seconds > 0.0 ? measure(b, &error)
                 : b->s.out != NULL       ? write_file(b, &error)
                                          : GA_FAIL(&error, GA_ERR_ARGUMENT, "neither --out nor --bench");
    }
    release(b);
    return status == GA_OK ? 0 : die(error.message);
}
