#include "tests/providers/operations.h"

#include "grpo_accel/compute/shape.h"

static int32_t between(ga_random *random, int32_t low, int32_t high) {
    return low + (int32_t)ga_random_below(random, (uint32_t)(high - low + 1));
}

static size_t times(int64_t a, int64_t b, int64_t c) {
    return (size_t)(a * b * c);
}

/* ---- matrices ---- */

static ga_status do_sgemm(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return compute->sgemm(shape, x[0], x[1], x[2], error);
}

static pair_case make_sgemm(ga_random *random, case_shape *s) {
    ga_gemm g = {.transpose_a = between(random, 0, 1) != 0, .transpose_b = between(random, 0, 1) != 0};
    g.m = between(random, 1, 40);
    g.n = between(random, 1, 40);
    g.k = between(random, 0, 60);
    g.lda = (g.transpose_a ? g.m : g.k) + between(random, 0, 2) + (g.k == 0);
    g.ldb = (g.transpose_b ? g.k : g.n) + between(random, 0, 2) + (g.k == 0);
    g.ldc = g.n + between(random, 0, 2);
    g.alpha = between(random, 0, 1) != 0 ? 1.0f : -0.7f;
    g.beta = between(random, 0, 1) != 0 ? 0.0f : 0.5f;
    s->gemm = g;
    return (pair_case){"sgemm", do_sgemm, s, 3,
        {times(g.transpose_a ? g.k : g.m, g.lda, 1) + 1, times(g.transpose_b ? g.n : g.k, g.ldb, 1) + 1,
            times(g.m, g.ldc, 1)},
        1u << 2, 0};
}

static ga_status do_linear(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    return compute->linear_forward(n[0], n[1], n[2], x[0], x[1], n[3] != 0 ? x[2] : NULL, x[3], error);
}

static ga_status do_linear_backward(
    const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    return compute->linear_backward(
        n[0], n[1], n[2], x[0], x[1], x[3], x[5], n[3] != 0 ? x[6] : NULL, x[4], error);
}

static void linear_shape(ga_random *random, case_shape *s) {
    for (int i = 0; i < 3; i++) {
        s->sizes[i] = between(random, 1, 40);
    }
    s->sizes[3] = between(random, 0, 1);
}

static pair_case make_linear(ga_random *random, case_shape *s) {
    linear_shape(random, s);
    const int32_t *n = s->sizes;
    return (pair_case){"linear", do_linear, s, 4,
        {times(n[0], n[1], 1), times(n[2], n[1], 1), times(n[2], 1, 1), times(n[0], n[2], 1)}, 1u << 3, 0};
}

static pair_case make_linear_backward(ga_random *random, case_shape *s) {
    linear_shape(random, s);
    const int32_t *n = s->sizes;
    return (pair_case){"linear_backward", do_linear_backward, s, 7,
        {times(n[0], n[1], 1), times(n[2], n[1], 1), times(n[2], 1, 1), times(n[0], n[2], 1),
            times(n[0], n[1], 1), times(n[2], n[1], 1), times(n[2], 1, 1)},
        0, 1u << 4 | 1u << 5 | 1u << 6};
}

/* ---- convolution; the workspace is an array like others ---- */

static ga_status do_conv(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return compute->conv_forward(shape, x[0], x[1], x[2], x[4], x[3], error);
}

static ga_status do_conv_backward(
    const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return compute->conv_backward(shape, x[0], x[1], x[3], x[7], x[5], x[6], x[4], error);
}

static void conv_shape(ga_random *random, case_shape *s) {
    s->conv = (ga_conv){.rows = between(random, 1, 5),
        .in_channels = between(random, 1, 9),
        .out_channels = between(random, 1, 9),
        .height = between(random, 1, 17),
        .width = between(random, 1, 17),
        .kernel = between(random, 0, 1) != 0 ? 3 : 1,
        .stride = between(random, 1, 2)};
}

static void conv_sizes(const ga_conv *c, size_t sizes[5]) {
    sizes[0] = times(c->rows, c->in_channels, c->height * c->width);
    sizes[1] = times(c->out_channels, c->in_channels, c->kernel * c->kernel);
    sizes[2] = (size_t)c->out_channels;
    sizes[3] = times(c->rows, c->out_channels, ga_shape_conv_out_height(c) * ga_shape_conv_out_width(c));
    sizes[4] = pair_native->conv_workspace_floats(c);
}

static pair_case make_conv(ga_random *random, case_shape *s) {
    conv_shape(random, s);
    size_t n[5];
    conv_sizes(&s->conv, n);
    return (pair_case){"conv", do_conv, s, 5, {n[0], n[1], n[2], n[3], n[4]}, 1u << 3, 0};
}

static pair_case make_conv_backward(ga_random *random, case_shape *s) {
    conv_shape(random, s);
    size_t n[5];
    conv_sizes(&s->conv, n);
    return (pair_case){"conv_backward", do_conv_backward, s, 8,
        {n[0], n[1], n[2], n[3], n[0], n[1], n[2], n[4]}, 0, 1u << 4 | 1u << 5 | 1u << 6};
}

/* ---- group norm ---- */

static ga_status do_norm(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return compute->group_norm_forward(shape, x[0], x[1], x[2], x[3], x[4], x[5], error);
}

/* Statistics first: a backward pass follows a forward one. */
static ga_status do_norm_backward(
    const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    GA_TRY(compute->group_norm_forward(shape, x[0], x[1], x[2], x[4], x[7], x[8], error));
    return compute->group_norm_backward(shape, x[0], x[1], x[7], x[8], x[3], x[5], x[6], x[4], error);
}

static void norm_shape(ga_random *random, case_shape *s) {
    const int32_t groups = between(random, 1, 4);
    s->norm = (ga_group_norm){.rows = between(random, 1, 6),
        .channels = groups * between(random, 1, 4),
        .groups = groups,
        .positions = between(random, 2, 70),
        .epsilon = 1e-5f};
}

static pair_case make_norm(ga_random *random, case_shape *s) {
    norm_shape(random, s);
    const ga_group_norm *n = &s->norm;
    const size_t all = times(n->rows, n->channels, n->positions), channels = (size_t)n->channels;
    const size_t slices = times(n->rows, n->groups, 1);
    return (pair_case){"group_norm", do_norm, s, 6, {all, channels, channels, all, slices, slices},
        1u << 3 | 1u << 4 | 1u << 5, 0};
}

static pair_case make_norm_backward(ga_random *random, case_shape *s) {
    norm_shape(random, s);
    const ga_group_norm *n = &s->norm;
    const size_t all = times(n->rows, n->channels, n->positions), channels = (size_t)n->channels;
    const size_t slices = times(n->rows, n->groups, 1);
    return (pair_case){"group_norm_backward", do_norm_backward, s, 9,
        {all, channels, channels, all, all, channels, channels, slices, slices}, 0,
        1u << 4 | 1u << 5 | 1u << 6};
}

/* ---- value by value ---- */

static ga_status do_silu(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    GA_TRY(compute->silu_forward(n[0], x[0], x[1], error));
    return compute->silu_forward(n[0], x[2], x[2], error); /* in place */
}

static ga_status do_silu_backward(
    const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    GA_TRY(compute->silu_backward(n[0], x[0], x[1], x[2], error));
    return n[1] != 0 ? GA_OK : compute->silu_backward(n[0], x[0], x[1], x[1], error); /* in place */
}

static pair_case make_silu(ga_random *random, case_shape *s) {
    s->sizes[0] = between(random, 1, 400);
    const size_t n = (size_t)s->sizes[0];
    return (pair_case){"silu", do_silu, s, 3, {n, n, n}, 1u << 1 | 1u << 2, 0};
}

static pair_case make_silu_backward(ga_random *random, case_shape *s) {
    s->sizes[0] = between(random, 1, 400);
    s->sizes[1] = 0;
    const size_t n = (size_t)s->sizes[0];
    return (pair_case){"silu_backward", do_silu_backward, s, 3, {n, n, n}, 0, 1u << 1 | 1u << 2};
}

static ga_status do_sums(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const case_shape *s = shape;
    GA_TRY(compute->accumulate(s->plain.rows, s->plain.factor, x[0], x[1], error));
    return compute->lerp(s->plain.rows, s->plain.factor, x[0], x[2], error);
}

static pair_case make_sums(ga_random *random, case_shape *s) {
    s->plain.rows = between(random, 1, 400);
    s->plain.factor = (float)ga_random_uniform(random);
    const size_t n = (size_t)s->plain.rows;
    return (pair_case){"accumulate, lerp", do_sums, s, 3, {n, n, n}, 1u << 1 | 1u << 2, 0};
}

static ga_status do_columns(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const case_shape *s = shape;
    GA_TRY(compute->copy_columns(
        s->plain.rows, s->plain.count, s->plain.source_stride, x[0], s->plain.target_stride, x[1], error));
    return compute->zero((size_t)s->plain.count, x[2], error);
}

static pair_case make_columns(ga_random *random, case_shape *s) {
    s->plain.rows = between(random, 1, 9);
    s->plain.count = between(random, 0, 12);
    s->plain.source_stride = s->plain.count + between(random, 0, 4);
    s->plain.target_stride = s->plain.count + between(random, 0, 4);
    return (pair_case){"copy_columns, zero", do_columns, s, 3,
        {times(s->plain.rows, s->plain.source_stride, 1) + 1,
            times(s->plain.rows, s->plain.target_stride, 1) + 1, (size_t)s->plain.count + 5},
        1u << 1 | 1u << 2, 0};
}

static ga_status do_adamw(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    ga_adamw adamw = ((const case_shape *)shape)->adamw;
    GA_TRY(compute->zero(200, x[2], error));
    GA_TRY(compute->zero(200, x[3], error));
    for (int i = 0; i < 3; i++, adamw.step++) {
        GA_TRY(compute->adamw(&adamw, 200, x[0], x[1], x[2], x[3], error));
    }
    return GA_OK;
}

static pair_case make_adamw(ga_random *random, case_shape *s) {
    s->adamw = (ga_adamw){.step = between(random, 1, 1000),
        .learning_rate = 0.03f,
        .beta1 = 0.9f,
        .beta2 = 0.99f,
        .epsilon = 1e-6f,
        .weight_decay = 0.05f};
    return (pair_case){"adamw", do_adamw, s, 4, {200, 200, 200, 200}, 1u << 1 | 1u << 2 | 1u << 3, 0};
}

/* ---- channels ---- */

static ga_status do_pool(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    return compute->mean_pool_forward(n[0], n[1], n[2], x[0], x[1], error);
}

static ga_status do_pool_backward(
    const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    return compute->mean_pool_backward(n[0], n[1], n[2], x[1], x[2], error);
}

static ga_status do_scale(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    GA_TRY(compute->copy_columns(
        1, n[0] * n[1] * n[2], n[0] * n[1] * n[2], x[0], n[0] * n[1] * n[2], x[2], error));
    return compute->channel_scale_forward(n[0], n[1], n[2], x[1], x[2], error);
}

static ga_status do_scale_backward(
    const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    GA_TRY(compute->copy_columns(
        1, n[0] * n[1] * n[2], n[0] * n[1] * n[2], x[2], n[0] * n[1] * n[2], x[3], error));
    return compute->channel_scale_backward(n[0], n[1], n[2], x[1], x[0], x[3], x[4], error);
}

static ga_status do_shift(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    GA_TRY(compute->copy_columns(
        1, n[0] * n[1] * n[2], n[0] * n[1] * n[2], x[0], n[0] * n[1] * n[2], x[2], error));
    return compute->channel_shift_forward(n[0], n[1], n[2], x[1], x[2], error);
}

static ga_status do_shift_backward(
    const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    GA_TRY(compute->copy_columns(
        1, n[0] * n[1] * n[2], n[0] * n[1] * n[2], x[2], n[0] * n[1] * n[2], x[3], error));
    return compute->channel_shift_backward(n[0], n[1], n[2], x[2], x[4], error);
}

static void planes_shape(ga_random *random, case_shape *s) {
    s->sizes[0] = between(random, 1, 6);
    s->sizes[1] = between(random, 1, 9);
    s->sizes[2] = between(random, 1, 70);
}

/* pool: maps, means, gradient of maps; scale and shift: maps, factors, maps, gradient of maps, of factors. */
static pair_case make_planes(ga_random *random, case_shape *s, const char *name, pair_operation operation,
    uint32_t outputs, uint32_t gradients) {
    planes_shape(random, s);
    const size_t all = times(s->sizes[0], s->sizes[1], s->sizes[2]),
                 planes = times(s->sizes[0], s->sizes[1], 1);
    return (pair_case){name, operation, s, 5, {all, planes, all, all, planes}, outputs, gradients};
}

static pair_case make_pool(ga_random *random, case_shape *s) {
    return make_planes(random, s, "mean_pool", do_pool, 1u << 1, 0);
}
static pair_case make_pool_backward(ga_random *random, case_shape *s) {
    return make_planes(random, s, "mean_pool_backward", do_pool_backward, 0, 1u << 2);
}
static pair_case make_scale(ga_random *random, case_shape *s) {
    return make_planes(random, s, "channel_scale", do_scale, 1u << 2, 0);
}
static pair_case make_scale_backward(ga_random *random, case_shape *s) {
    return make_planes(random, s, "channel_scale_backward", do_scale_backward, 0, 1u << 3 | 1u << 4);
}
static pair_case make_shift(ga_random *random, case_shape *s) {
    return make_planes(random, s, "channel_shift", do_shift, 1u << 2, 0);
}
static pair_case make_shift_backward(ga_random *random, case_shape *s) {
    return make_planes(random, s, "channel_shift_backward", do_shift_backward, 0, 1u << 4);
}

const named_maker case_makers[] = {{"sgemm", make_sgemm}, {"linear", make_linear},
    {"linear_backward", make_linear_backward}, {"conv", make_conv}, {"conv_backward", make_conv_backward},
    {"group_norm", make_norm}, {"group_norm_backward", make_norm_backward}, {"silu", make_silu},
    {"silu_backward", make_silu_backward}, {"sums", make_sums}, {"columns", make_columns},
    {"adamw", make_adamw}, {"pool", make_pool}, {"pool_backward", make_pool_backward}, {"scale", make_scale},
    {"scale_backward", make_scale_backward}, {"shift", make_shift}, {"shift_backward", make_shift_backward}};
const size_t case_maker_count = sizeof case_makers / sizeof case_makers[0];

/* ---- at the shapes of a probe ---- */

#define BENCH_MAPS ((size_t)64 * 32 * 256)

const size_t bench_case_count = 8;

pair_case bench_case_make(size_t which, case_shape *s) {
    const size_t maps = BENCH_MAPS, weights = 32 * 32 * 9;
    s->conv = (ga_conv){64, 32, 32, 16, 16, 3, 1};
    const size_t room = pair_native->conv_workspace_floats(&s->conv);
    switch (which) {
    case 0:
        return (pair_case){
            "convolution 32→32 of 16×16, 64 rows", do_conv, s, 5, {maps, weights, 32, maps, room}, 0, 0};
    case 1:
        return (pair_case){"its backward pass", do_conv_backward, s, 8,
            {maps, weights, 32, maps, maps, weights, 32, room}, 0, 0};
    default: break;
    }
    s->norm = (ga_group_norm){64, 32, 8, 256, 1e-5f};
    switch (which) {
    case 2: return (pair_case){"group norm", do_norm, s, 6, {maps, 32, 32, maps, 512, 512}, 0, 0};
    case 3:
        return (pair_case){"group norm, forward and backward", do_norm_backward, s, 9,
            {maps, 32, 32, maps, maps, 32, 32, 512, 512}, 0, 0};
    default: break;
    }
    s->sizes[0] = which < 6 ? (int32_t)maps : 1;
    s->sizes[1] = 1;
    s->sizes[2] = 1;
    s->sizes[3] = 1;
    switch (which) {
    case 4: return (pair_case){"SiLU, twice", do_silu, s, 3, {maps, maps, maps}, 0, 0};
    case 5: return (pair_case){"SiLU backward", do_silu_backward, s, 3, {maps, maps, maps}, 0, 0};
    case 6: return (pair_case){"linear 1→1 of 1 row: what a call costs", do_linear, s, 4, {1, 1, 1, 1}, 0, 0};
    default: break;
    }
    s->adamw = (ga_adamw){1, 0.003f, 0.9f, 0.999f, 1e-8f, 0.05f};
    return (pair_case){"AdamW of 200 values, three steps", do_adamw, s, 4, {200, 200, 200, 200}, 0, 0};
}

/* ---- layers, for gradients by differences ---- */

/* inputs …, grad output, grad inputs … → what the operations above want */

static ga_status back_linear(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    return compute->linear_backward(n[0], n[1], n[2], x[0], x[1], x[3], x[5], x[6], x[4], error);
}

static ga_status back_conv(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    float *workspace;
    const size_t floats = compute->conv_workspace_floats(shape);
    GA_TRY(compute->allocate(floats, &workspace, error));
    const ga_status status =
        compute->conv_backward(shape, x[0], x[1], x[3], workspace, x[5], x[6], x[4], error);
    compute->release(workspace);
    return status;
}

static ga_status forth_conv(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    float *workspace;
    GA_TRY(compute->allocate(compute->conv_workspace_floats(shape), &workspace, error));
    const ga_status status = compute->conv_forward(shape, x[0], x[1], x[2], workspace, x[3], error);
    compute->release(workspace);
    return status;
}

static ga_status with_statistics(
    const ga_compute *compute, float *const *x, const void *shape, bool backward, ga_error *error) {
    const ga_group_norm *n = shape;
    const size_t slices = times(n->rows, n->groups, 1), all = times(n->rows, n->channels, n->positions);
    float *room;
    GA_TRY(compute->allocate(2 * slices + all, &room, error));
    float *mean = room, *rstd = room + slices, *output = room + 2 * slices;
    ga_status status =
        compute->group_norm_forward(n, x[0], x[1], x[2], backward ? output : x[3], mean, rstd, error);
    if (status == GA_OK && backward) {
        status = compute->group_norm_backward(n, x[0], x[1], mean, rstd, x[3], x[5], x[6], x[4], error);
    }
    compute->release(room);
    return status;
}

static ga_status forth_norm(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return with_statistics(compute, x, shape, false, error);
}
static ga_status back_norm(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return with_statistics(compute, x, shape, true, error);
}

static ga_status forth_silu(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return compute->silu_forward(((const int32_t *)shape)[0], x[0], x[1], error);
}
static ga_status back_silu(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    return compute->silu_backward(((const int32_t *)shape)[0], x[0], x[1], x[2], error);
}

static ga_status back_scale(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    const int32_t all = n[0] * n[1] * n[2];
    GA_TRY(compute->copy_columns(1, all, all, x[2], all, x[3], error));
    return compute->channel_scale_backward(n[0], n[1], n[2], x[1], x[0], x[3], x[4], error);
}

static ga_status back_shift(const ga_compute *compute, float *const *x, const void *shape, ga_error *error) {
    const int32_t *n = shape;
    const int32_t all = n[0] * n[1] * n[2];
    GA_TRY(compute->copy_columns(1, all, all, x[2], all, x[3], error));
    return compute->channel_shift_backward(n[0], n[1], n[2], x[2], x[4], error);
}

const size_t layer_case_count = 7;

layer_case layer_case_make(size_t which, ga_random *random) {
    layer_case c = {0};
    switch (which) {
    case 0:
        conv_shape(random, &c.shape);
        c = (layer_case){"conv", forth_conv, back_conv, 3, {0}, 0, c.shape};
        size_t n[5];
        conv_sizes(&c.shape.conv, n);
        memcpy(c.floats, n, 3 * sizeof n[0]);
        c.output_floats = n[3];
        return c;
    case 1: {
        norm_shape(random, &c.shape);
        const ga_group_norm *g = &c.shape.norm;
        const size_t all = times(g->rows, g->channels, g->positions), channels = (size_t)g->channels;
        return (layer_case){"group_norm", forth_norm, back_norm, 3, {all, channels, channels}, all, c.shape};
    }
    case 2: {
        linear_shape(random, &c.shape);
        c.shape.sizes[3] = 1;
        const int32_t *s = c.shape.sizes;
        return (layer_case){"linear", do_linear, back_linear, 3,
            {times(s[0], s[1], 1), times(s[2], s[1], 1), (size_t)s[2]}, times(s[0], s[2], 1), c.shape};
    }
    case 3:
        c.shape.sizes[0] = between(random, 1, 100);
        return (layer_case){
            "silu", forth_silu, back_silu, 1, {(size_t)c.shape.sizes[0]}, (size_t)c.shape.sizes[0], c.shape};
    default: break;
    }
    planes_shape(random, &c.shape);
    const int32_t *s = c.shape.sizes;
    const size_t all = times(s[0], s[1], s[2]), planes = times(s[0], s[1], 1);
    if (which == 4) {
        return (layer_case){"mean_pool", do_pool, do_pool_backward, 1, {all}, planes, c.shape};
    }
    return which == 5 ? (layer_case){"channel_scale", do_scale, back_scale, 2, {all, planes}, all, c.shape}
                      : (layer_case){"channel_shift", do_shift, back_shift, 2, {all, planes}, all, c.shape};
}
