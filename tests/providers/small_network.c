#include "tests/providers/small_network.h"

#include <stdlib.h>

#define IN 3

typedef struct sizes {
    ga_conv first, second;
    ga_group_norm norm;
    size_t inputs, hidden; /* floats of the batch, of a hidden layer */
    size_t weight1, weight2, width;
    size_t parameters, workspace;
} sizes;

static sizes sizes_of(const ga_compute *compute, const small_network *n) {
    sizes s;
    const int32_t half = (n->side + 1) / 2;
    s.first = (ga_conv){n->rows, IN, n->width, n->side, n->side, 3, 2};
    s.second = (ga_conv){n->rows, n->width, n->width, half, half, 3, 1};
    s.norm = (ga_group_norm){n->rows, n->width, n->width / 4, half * half, 1e-5f};
    s.width = (size_t)n->width;
    s.inputs = (size_t)n->rows * IN * (size_t)n->side * (size_t)n->side;
    s.hidden = (size_t)n->rows * s.width * (size_t)(half * half);
    s.weight1 = s.width * IN * 9;
    s.weight2 = s.width * s.width * 9;
    s.parameters = s.weight1 + s.weight2 + 5 * s.width + 1;
    const size_t a = compute->conv_workspace_floats(&s.first), b = compute->conv_workspace_floats(&s.second);
    s.workspace = a > b ? a : b;
    return s;
}

size_t small_network_parameters(const small_network *network) {
    return sizes_of(pair_native, network).parameters;
}

/* Parameters, or their gradients, in one array. */
typedef struct parts {
    float *weight1, *bias1, *scale, *shift, *weight2, *bias2, *head, *head_bias;
} parts;

static parts parts_of(const sizes *s, float *all) {
    parts p;
    p.weight1 = all;
    p.bias1 = p.weight1 + s->weight1;
    p.scale = p.bias1 + s->width;
    p.shift = p.scale + s->width;
    p.weight2 = p.shift + s->width;
    p.bias2 = p.weight2 + s->weight2;
    p.head = p.bias2 + s->width;
    p.head_bias = p.head + s->width;
    return p;
}

typedef struct training {
    const ga_compute *compute;
    const small_network *network;
    int64_t steps;
    const float *inputs, *targets;
    float *parameters, *predictions;
    double seconds;
    sizes s;
    float *all; /* the one allocation on the device, divided into what follows */
    float *input, *parameter, *gradient, *moment1, *moment2;
    float *hidden1, *normal, *active, *hidden2, *grad1, *grad2, *pooled, *grad_pooled, *mean, *rstd, *output,
        *grad_output, *workspace;
} training;

static ga_status set_up(training *t, ga_error *error) {
    const sizes *s = &t->s;
    const size_t rows = (size_t)t->network->rows, pooled = rows * s->width;
    float **const arrays[] = {&t->input, &t->parameter, &t->gradient, &t->moment1, &t->moment2, &t->hidden1,
        &t->normal, &t->active, &t->hidden2, &t->grad1, &t->grad2, &t->pooled, &t->grad_pooled, &t->mean,
        &t->rstd, &t->output, &t->grad_output, &t->workspace};
    const size_t floats[] = {s->inputs, s->parameters, s->parameters, s->parameters, s->parameters, s->hidden,
        s->hidden, s->hidden, s->hidden, s->hidden, s->hidden, pooled, pooled, pooled, pooled, rows, rows,
        s->workspace};
    size_t total = 0;
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        total += (floats[i] + 15) / 16 * 16;
    }
    GA_TRY(t->compute->allocate(total, &t->all, error));
    float *next = t->all;
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        *arrays[i] = next;
        next += (floats[i] + 15) / 16 * 16;
    }
    GA_TRY(t->compute->upload(s->inputs, t->inputs, t->input, error));
    return t->compute->upload(s->parameters, t->parameters, t->parameter, error);
}

static ga_status forward(training *t, ga_error *error) {
    const ga_compute *c = t->compute;
    const sizes *s = &t->s;
    const parts p = parts_of(s, t->parameter);
    const int32_t rows = t->network->rows, width = t->network->width;
    GA_TRY(c->conv_forward(&s->first, t->input, p.weight1, p.bias1, t->workspace, t->hidden1, error));
    GA_TRY(c->group_norm_forward(&s->norm, t->hidden1, p.scale, p.shift, t->normal, t->mean, t->rstd, error));
    GA_TRY(c->silu_forward((int64_t)s->hidden, t->normal, t->active, error));
    GA_TRY(c->conv_forward(&s->second, t->active, p.weight2, p.bias2, t->workspace, t->hidden2, error));
    GA_TRY(c->mean_pool_forward(rows, width, s->norm.positions, t->hidden2, t->pooled, error));
    return c->linear_forward(rows, width, 1, t->pooled, p.head, p.head_bias, t->output, error);
}

static ga_status backward(training *t, ga_error *error) {
    const ga_compute *c = t->compute;
    const sizes *s = &t->s;
    const parts p = parts_of(s, t->parameter), g = parts_of(s, t->gradient);
    const int32_t rows = t->network->rows, width = t->network->width;
    GA_TRY(c->zero(s->parameters, t->gradient, error));
    GA_TRY(c->linear_backward(
        rows, width, 1, t->pooled, p.head, t->grad_output, g.head, g.head_bias, t->grad_pooled, error));
    GA_TRY(c->mean_pool_backward(rows, width, s->norm.positions, t->grad_pooled, t->grad2, error));
    GA_TRY(c->conv_backward(
        &s->second, t->active, p.weight2, t->grad2, t->workspace, g.weight2, g.bias2, t->grad1, error));
    GA_TRY(c->silu_backward((int64_t)s->hidden, t->normal, t->grad1, t->grad1, error));
    GA_TRY(c->group_norm_backward(
        &s->norm, t->hidden1, p.scale, t->mean, t->rstd, t->grad1, g.scale, g.shift, t->grad2, error));
    return c->conv_backward(
        &s->first, t->input, p.weight1, t->grad2, t->workspace, g.weight1, g.bias1, NULL, error);
}

static ga_status one_step(training *t, int64_t step, float *grad, ga_error *error) {
    const size_t rows = (size_t)t->network->rows;
    GA_TRY(forward(t, error));
    GA_TRY(t->compute->download(rows, t->output, t->predictions, error));
    for (size_t i = 0; i < rows; i++) {
        grad[i] = 2.0f * (t->predictions[i] - t->targets[i]) / (float)rows;
    }
    GA_TRY(t->compute->upload(rows, grad, t->grad_output, error));
    GA_TRY(backward(t, error));
    const ga_adamw adamw = {step, 3e-3f, 0.9f, 0.999f, 1e-5f, 0.05f};
    return t->compute->adamw(
        &adamw, (int64_t)t->s.parameters, t->gradient, t->parameter, t->moment1, t->moment2, error);
}

static ga_status steps_of(training *t, float *grad, ga_error *error) {
    GA_TRY(set_up(t, error));
    const ga_clock *clock = ga_clock_system();
    const double began = ga_clock_now(clock);
    for (int64_t step = 1; step <= t->steps; step++) {
        GA_TRY(one_step(t, step, grad, error));
    }
    GA_TRY(t->compute->download(t->s.parameters, t->parameter, t->parameters, error));
    t->seconds = ga_clock_now(clock) - began;
    return GA_OK;
}

static ga_status train(void *user, ga_error *error) {
    training *t = user;
    float *grad = malloc((size_t)t->network->rows * sizeof *grad);
    const ga_status status = grad != NULL ? steps_of(t, grad, error) : GA_ERR_MEMORY;
    t->compute->release(t->all);
    free(grad);
    return status;
}

void small_network_train(const ga_compute *compute, const small_network *network, int64_t steps,
    const float *inputs, const float *targets, float *parameters, float *predictions_out,
    double *seconds_out) {
    training t = {.compute = compute,
        .network = network,
        .steps = steps,
        .inputs = inputs,
        .targets = targets,
        .parameters = parameters,
        .predictions = predictions_out,
        .s = sizes_of(compute, network)};
    ga_error error = {0};
    test_ok(compute->run(train, &t, &error), &error);
    if (seconds_out != NULL) {
        *seconds_out = t.seconds;
    }
}
