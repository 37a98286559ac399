#include "grpo_accel/compute/torch_check.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/compute/torch.h"

/* ---- signatures ---- */

static const char schemas[] =
    "convolution\taten::convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] "
    "padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor\n"
    "convolution_backward\taten::convolution_backward(Tensor grad_output, Tensor input, Tensor weight, "
    "SymInt[]? bias_sizes, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] "
    "output_padding, SymInt groups, bool[3] output_mask) -> (Tensor, Tensor, Tensor)\n"
    "native_group_norm\taten::native_group_norm(Tensor input, Tensor? weight, Tensor? bias, SymInt N, SymInt "
    "C, SymInt HxW, int group, float eps) -> (Tensor, Tensor, Tensor)\n"
    "native_group_norm_backward\taten::native_group_norm_backward(Tensor grad_out, Tensor input, Tensor "
    "mean, "
    "Tensor rstd, Tensor? weight, SymInt N, SymInt C, SymInt HxW, int group, bool[3] output_mask) -> "
    "(Tensor, "
    "Tensor, Tensor)\n"
    "silu.out\taten::silu.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)\n"
    "silu_backward.grad_input\taten::silu_backward.grad_input(Tensor grad_output, Tensor self, *, Tensor(a!) "
    "grad_input) -> Tensor(a!)\n"
    "mean.out\taten::mean.out(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None, "
    "Tensor(a!) out) -> Tensor(a!)\n"
    "sum.IntList_out\taten::sum.IntList_out(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? "
    "dtype=None, Tensor(a!) out) -> Tensor(a!)\n"
    "sum.dim_IntList\taten::sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? "
    "dtype=None) -> Tensor\n"
    "amax.out\taten::amax.out(Tensor self, int[1] dim=[], bool keepdim=False, *, Tensor(a!) out) -> "
    "Tensor(a!)\n"
    "mm\taten::mm(Tensor self, Tensor mat2) -> Tensor\n"
    "mm.out\taten::mm.out(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)\n"
    "bmm.out\taten::bmm.out(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)\n"
    "linear.out\taten::linear.out(Tensor input, Tensor weight, Tensor? bias=None, *, Tensor(a!) out) -> "
    "Tensor(a!)\n"
    "mul.out\taten::mul.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)\n"
    "div.out\taten::div.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)\n"
    "maximum.out\taten::maximum.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)\n"
    "sqrt.out\taten::sqrt.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)\n"
    "special_entr.out\taten::special_entr.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)\n"
    "_softmax.out\taten::_softmax.out(Tensor self, int dim, bool half_to_float, *, Tensor(a!) out) -> "
    "Tensor(a!)\n"
    "fill_.Tensor\taten::fill_.Tensor(Tensor(a!) self, Tensor value) -> Tensor(a!)\n"
    "_foreach_addcmul_.Tensor\taten::_foreach_addcmul_.Tensor(Tensor(a!)[] self, Tensor[] tensor1, Tensor[] "
    "tensor2, Tensor scalars) -> ()\n"
    "_fused_sgd_\taten::_fused_sgd_(Tensor(a!)[] self, Tensor(b!)[] grads, Tensor(c!)[] "
    "momentum_buffer_list, "
    "*, float weight_decay, float momentum, float lr, float dampening, bool nesterov, bool maximize, bool "
    "is_first_step, Tensor? grad_scale=None, Tensor? found_inf=None) -> ()\n"
    "_fused_adamw_\taten::_fused_adamw_(Tensor(a!)[] self, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, "
    "Tensor(d!)[] exp_avg_sqs, Tensor(e!)[] max_exp_avg_sqs, Tensor[] state_steps, *, float lr, float beta1, "
    "float beta2, float weight_decay, float eps, bool amsgrad, bool maximize, Tensor? grad_scale=None, "
    "Tensor? found_inf=None) -> ()\n";

const char *ga_compute_torch_schemas(void) {
    return schemas;
}

/* ---- a small comparison ---- */

enum { FLOATS = 192, CHECK_ROWS = 2, IN = 3, OUT = 4, SIDE = 4, PLANE = SIDE * SIDE };
#define TOLERANCE 1e-4

/* The arrays of one table: on its device, and what came back. */
typedef struct side {
    const ga_compute *compute;
    float *a, *b, *c, *d, *e, *f;
    float host[4][FLOATS];
} side;

/* −4 … 4 in sixteenths, different for every salt, never a pattern that hides a transposition. */
static void fill_exact(float *values, uint32_t salt) {
    uint32_t state = salt * 2654435761u + 12345u;
    for (int i = 0; i < FLOATS; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)((int32_t)(state >> 24) - 128) / 32.0f;
    }
}

static ga_status fill_side(side *s, ga_error *error) {
    float *const arrays[] = {s->a, s->b, s->c, s->d, s->e, s->f};
    float values[FLOATS];
    for (uint32_t i = 0; i < 6; i++) {
        fill_exact(values, i + 1);
        GA_TRY(s->compute->upload(FLOATS, values, arrays[i], error));
    }
    return GA_OK;
}

static ga_status bring_back(side *s, ga_error *error) {
    const float *const arrays[] = {s->c, s->d, s->e, s->f};
    for (int i = 0; i < 4; i++) {
        GA_TRY(s->compute->download(FLOATS, arrays[i], s->host[i], error));
    }
    return GA_OK;
}

typedef ga_status (*check_step)(side *s, ga_error *error);

static ga_status step_convolution(side *s, ga_error *error) {
    const ga_conv conv = {CHECK_ROWS, IN, OUT, SIDE, SIDE, 3, 2};
    float workspace[2048]; /* the native table's; torch has its own */
    return s->compute->conv_forward(&conv, s->a, s->b, s->e, workspace, s->c, error);
}

static ga_status step_convolution_backward(side *s, ga_error *error) {
    const ga_conv conv = {CHECK_ROWS, IN, OUT, SIDE, SIDE, 3, 1};
    float workspace[4096];
    return s->compute->conv_backward(&conv, s->a, s->b, s->f, workspace, s->c, s->d, s->e, error);
}

static ga_status step_group_norm(side *s, ga_error *error) {
    const ga_group_norm norm = {CHECK_ROWS, OUT, 2, PLANE, 1e-5f};
    return s->compute->group_norm_forward(&norm, s->a, s->b, s->e, s->c, s->d, s->f, error);
}

static ga_status step_group_norm_backward(side *s, ga_error *error) {
    const ga_group_norm norm = {CHECK_ROWS, OUT, 2, PLANE, 1e-5f};
    GA_TRY(s->compute->group_norm_forward(&norm, s->a, s->b, s->e, s->c, s->d, s->f, error));
    const float *grad_output = s->b + FLOATS - CHECK_ROWS * OUT * PLANE; /* behind the scale */
    return s->compute->group_norm_backward(
        &norm, s->a, s->b, s->d, s->f, grad_output, s->e, s->e + OUT, s->c, error);
}

static ga_status step_linear(side *s, ga_error *error) {
    GA_TRY(s->compute->linear_forward(6, 5, 7, s->a, s->b, s->e, s->c, error));
    return s->compute->linear_backward(6, 5, 7, s->a, s->b, s->f, s->d, s->e, NULL, error);
}

static ga_status step_adamw(side *s, ga_error *error) {
    GA_TRY(s->compute->zero(FLOATS, s->d, error));
    GA_TRY(s->compute->zero(FLOATS, s->e, error));
    for (int64_t step = 1; step <= 3; step++) {
        const ga_adamw adamw = {step, 0.03f, 0.9f, 0.99f, 1e-6f, 0.1f};
        GA_TRY(s->compute->adamw(&adamw, FLOATS, step == 2 ? s->b : s->a, s->c, s->d, s->e, error));
    }
    return s->compute->lerp(FLOATS, 0.9f, s->c, s->f, error);
}

static const struct {
    const char *name;
    check_step step;
} checks[] = {{"convolution", step_convolution}, {"convolution_backward", step_convolution_backward},
    {"native_group_norm", step_group_norm}, {"native_group_norm_backward", step_group_norm_backward},
    {"linear", step_linear}, {"_fused_adamw_", step_adamw}};

static ga_status compare(const side *torch, const side *native, const char *name, ga_error *error) {
    for (int array = 0; array < 4; array++) {
        for (int i = 0; i < FLOATS; i++) {
            const double expected = (double)native->host[array][i], got = (double)torch->host[array][i];
            if (!(fabs(got - expected) <= TOLERANCE * (1.0 + fabs(expected)))) {
                return GA_FAIL(error, GA_ERR_MISSING,
                    "provider torch: operator %s of this PyTorch behaves differently (%.6g where %.6g is "
                    "right); use the provider native",
                    name, got, expected);
            }
        }
    }
    return GA_OK;
}

static ga_status allocate_side(side *s, ga_error *error) {
    float *memory;
    GA_TRY(s->compute->allocate((size_t)6 * FLOATS, &memory, error));
    s->a = memory;
    s->b = s->a + FLOATS;
    s->c = s->b + FLOATS;
    s->d = s->c + FLOATS;
    s->e = s->d + FLOATS;
    s->f = s->e + FLOATS;
    return GA_OK;
}

static ga_status run_checks(side *torch, side *native, ga_error *error) {
    side *const sides[2] = {torch, native};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        for (int which = 0; which < 2; which++) {
            GA_TRY(fill_side(sides[which], error));
            GA_TRY(checks[i].step(sides[which], error));
            GA_TRY(bring_back(sides[which], error));
        }
        GA_TRY(compare(torch, native, checks[i].name, error));
    }
    return GA_OK;
}

ga_status ga_torch_check(const ga_compute *torch, const ga_compute *native, ga_error *error) {
    side ours = {.compute = torch}, reference = {.compute = native};
    ga_status status = allocate_side(&ours, error);
    if (status == GA_OK) {
        status = allocate_side(&reference, error);
    }
    if (status == GA_OK) {
        status = run_checks(&ours, &reference, error);
    }
    torch->release(ours.a);
    native->release(reference.a);
    return status;
}
