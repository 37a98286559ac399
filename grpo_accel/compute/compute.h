/*
 * The table of operations that features and probes are computed with; one table per provider.
 *
 * All arrays are fp32, contiguous unless a leading dimension is given, in the memory of the provider's device
 * (native: the CPU), and never overlap unless said. Maps are [rows, channels, height, width]. Operations
 * allocate nothing: where one needs room, the caller gives a workspace. They hold no state, so several
 * threads may use one table at a time. Not collective. Each returns GA_ERR_ARGUMENT for an impossible shape
 * and then has written nothing. Gradients named "grad_…" of parameters are added to, gradients of inputs
 * overwritten.
 */
#ifndef GA_COMPUTE_COMPUTE_H
#define GA_COMPUTE_COMPUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grpo_accel/base/status.h"

/* Grows when an entry is appended; entries never change their meaning. */
#define GA_COMPUTE_VERSION 2u

/* Row-major C[m, n] = alpha · op(A)[m, k] · op(B)[k, n] + beta · C; op transposes where the flag is set, so A
 * is stored [k, m] then. ld*: elements from a stored row to the next. beta = 0 never reads C. */
typedef struct ga_gemm {
    bool transpose_a, transpose_b;
    int32_t m, n, k;
    int32_t lda, ldb, ldc;
    float alpha, beta;
} ga_gemm;

/* Convolution of kernel 3 (padding 1) or 1 (padding 0), stride 1 or 2.
 * input [rows, in_channels, height, width], weight [out_channels, in_channels, kernel, kernel],
 * output [rows, out_channels, ceil(height / stride), ceil(width / stride)]. */
typedef struct ga_conv {
    int32_t rows, in_channels, out_channels;
    int32_t height, width; /* of the input */
    int32_t kernel, stride;
} ga_conv;

/* Normalisation of `channels / groups` channels × `positions` values at a time; scale and shift per channel.
 */
typedef struct ga_group_norm {
    int32_t rows, channels, groups, positions;
    float epsilon;
} ga_group_norm;

/* Decoupled weight decay: Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019, as PyTorch
 * orders it. `step` is 1 at the first call: the caller counts up before the call. */
typedef struct ga_adamw {
    int64_t step;
    float learning_rate, beta1, beta2, epsilon, weight_decay;
} ga_adamw;

/* What ga_compute.attention reduces to maps; the definitions of the statistics are those of
 * grpo_accel/feature/attention.h. All tensors on the provider's device. */
typedef struct ga_attention_op {
    int32_t rows, heads, image_tokens, text_tokens, head_size;
    const ga_tensor *query;     /* [R, heads, image tokens, head size] f32, f16 or bf16, any strides */
    const ga_tensor *key_image; /* [R, heads, image keys, head size]; NULL: softmax over the text alone */
    const ga_tensor *key_text;  /* [R, heads, text tokens, head size] */
    const uint8_t *content;     /* [R, text tokens] in host memory, of ga_text; NULL: all are content */
    const int32_t *row_index;   /* [rows] which of the R rows; NULL: 0 … rows − 1; host memory */
    uint32_t statistics;        /* bit i: statistic i, never 0 */
} ga_attention_op;

/* A piece of work that uses the table, see ga_compute.run. */
typedef ga_status (*ga_compute_job)(void *user, ga_error *error);

typedef struct ga_compute {
    uint32_t version; /* GA_COMPUTE_VERSION of the provider */
    const char *name; /* "native", … */

    ga_status (*sgemm)(const ga_gemm *gemm, const float *a, const float *b, float *c, ga_error *error);

    /* Floats of workspace that conv_forward and conv_backward need; 0 for an impossible shape. */
    size_t (*conv_workspace_floats)(const ga_conv *conv);
    /* output = weight ∗ input + bias; bias [out_channels] or NULL. */
    ga_status (*conv_forward)(const ga_conv *conv, const float *input, const float *weight, const float *bias,
        float *workspace, float *output, ga_error *error);
    /* Adds to grad_weight and grad_bias (NULL: not wanted), overwrites grad_input (NULL: not wanted). */
    ga_status (*conv_backward)(const ga_conv *conv, const float *input, const float *weight,
        const float *grad_output, float *workspace, float *grad_weight, float *grad_bias, float *grad_input,
        ga_error *error);

    /* output = (input − mean) / sqrt(variance + epsilon) · scale + shift, variance with divisor n (Wu, He,
     * "Group normalization", ECCV 2018). mean_out, rstd_out: [rows, groups], for the backward pass. */
    ga_status (*group_norm_forward)(const ga_group_norm *norm, const float *input, const float *scale,
        const float *shift, float *output, float *mean_out, float *rstd_out, ga_error *error);
    ga_status (*group_norm_backward)(const ga_group_norm *norm, const float *input, const float *scale,
        const float *mean, const float *rstd, const float *grad_output, float *grad_scale, float *grad_shift,
        float *grad_input, ga_error *error);

    /* output = input · sigmoid(input), count values; output may be input. */
    ga_status (*silu_forward)(int64_t count, const float *input, float *output, ga_error *error);
    /* grad_input may be grad_output. */
    ga_status (*silu_backward)(
        int64_t count, const float *input, const float *grad_output, float *grad_input, ga_error *error);

    /* output[rows, outputs] = input[rows, inputs] · weight[outputs, inputs]ᵀ + bias (NULL: none). */
    ga_status (*linear_forward)(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
        const float *weight, const float *bias, float *output, ga_error *error);
    /* Adds to grad_weight and grad_bias (NULL: not wanted), overwrites grad_input (NULL: not wanted). */
    ga_status (*linear_backward)(int32_t rows, int32_t inputs, int32_t outputs, const float *input,
        const float *weight, const float *grad_output, float *grad_weight, float *grad_bias,
        float *grad_input, ga_error *error);

    /* output[rows, channels] = mean over positions of input[rows, channels, positions]. */
    ga_status (*mean_pool_forward)(int32_t rows, int32_t channels, int32_t positions, const float *input,
        float *output, ga_error *error);
    ga_status (*mean_pool_backward)(int32_t rows, int32_t channels, int32_t positions,
        const float *grad_output, float *grad_input, ga_error *error);

    /* values[rows, channels, positions] += shift[rows, channels]. */
    ga_status (*channel_shift_forward)(int32_t rows, int32_t channels, int32_t positions, const float *shift,
        float *values, ga_error *error);
    /* grad_shift[rows, channels] = sum over positions of grad_values. */
    ga_status (*channel_shift_backward)(int32_t rows, int32_t channels, int32_t positions,
        const float *grad_values, float *grad_shift, ga_error *error);

    /* target += alpha · source, count values. */
    ga_status (*accumulate)(int64_t count, float alpha, const float *source, float *target, ga_error *error);

    /* One step over a flat buffer: parameter, first and second moment are updated in place. */
    ga_status (*adamw)(const ga_adamw *adamw, int64_t count, const float *gradient, float *parameter,
        float *first_moment, float *second_moment, ga_error *error);

    /* ---- since version 2 ---- */

    int32_t device; /* ga_device that all arrays above must live on */
    int32_t device_index;

    /* Arrays on the device, zeroed; freed with release (NULL allowed). Pointers into an array are as good as
     * its start. upload, download: contiguous copies from and to host memory, complete on return. */
    ga_status (*allocate)(size_t floats, float **memory_out, ga_error *error);
    void (*release)(float *memory);
    ga_status (*upload)(size_t floats, const float *host, float *memory, ga_error *error);
    ga_status (*download)(size_t floats, const float *memory, float *host, ga_error *error);
    ga_status (*zero)(size_t floats, float *memory, ga_error *error);

    /* Runs `job` where the caller's autocast and grad mode don't reach, on the caller's device and stream,
     * and returns its status when it is done. The native table calls it directly. Everything that uses the
     * table of another provider than native goes through here. Not reentrant from inside a job: a nested call
     * runs directly. */
    ga_status (*run)(ga_compute_job job, void *user, ga_error *error);

    /* values[rows, channels, positions] *= 1 + scale[rows, channels]. */
    ga_status (*channel_scale_forward)(int32_t rows, int32_t channels, int32_t positions, const float *scale,
        float *values, ga_error *error);
    /* input: the values before the scaling. grad_scale overwritten; grad_values [rows, channels, positions]
     * becomes the gradient of the input in place. */
    ga_status (*channel_scale_backward)(int32_t rows, int32_t channels, int32_t positions, const float *scale,
        const float *input, float *grad_values, float *grad_scale, ga_error *error);

    /* target[row · target_stride + i] = source[row · source_stride + i], i < count: joins and cuts columns.
     */
    ga_status (*copy_columns)(int32_t rows, int32_t count, int32_t source_stride, const float *source,
        int32_t target_stride, float *target, ga_error *error);

    /* target = decay · target + (1 − decay) · source: the moving average of weights. */
    ga_status (*lerp)(int64_t count, float decay, const float *source, float *target, ga_error *error);

    /* maps_out [rows, statistics, image tokens] in host memory, statistics in ascending order of their bits.
     * NULL: the provider has none of its own (native: room feature's fused kernel is the implementation). */
    ga_status (*attention)(const ga_attention_op *op, float *maps_out, ga_error *error);
} ga_compute;

/* Plain C and OpenBLAS on the CPU. Never NULL; static storage. Thread-safe. */
const ga_compute *ga_compute_native(void);

#endif
