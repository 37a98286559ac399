/*
 * grpo_accel.h: the public interface of libgrpo_accel, the one installed header.
 *
 * A guest in a diffusion RL job: it watches every rollout of a rank, predicts its reward early, agrees with
 * the other ranks which rollouts to stop, and logs what it saw. The order of calls on each rank:
 *
 *     ga_session_open
 *       for each update:
 *         for each rollout batch:
 *           ga_batch_begin
 *             ga_batch_observe_attention / _latent / _preview     (at the decision step)
 *             ga_batch_decide                                     (collective)
 *             ga_batch_reward                                     (any thread, kept rows only)
 *         ga_update_end                                           (collective, closes the update's batches)
 *     ga_session_close
 *
 * Every function that can fail returns a ga_status and, where `error` is not NULL, words the cause there.
 * No status asks the caller to end its job: the worst answer is "nothing is pruned".
 */
#ifndef GRPO_ACCEL_H
#define GRPO_ACCEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(GA_BUILD_SHARED)
#define GA_API __attribute__((visibility("default")))
#else
#define GA_API
#endif

/* Raised when a struct or a function of this header changes its meaning or layout. */
#define GA_ABI_VERSION 1

/* Grouped by what still works after it. */
typedef enum ga_status {
    GA_OK = 0,
    /* the caller may correct its input and call again */
    GA_ERR_ARGUMENT = 1, /* a public function got an impossible argument */
    GA_ERR_CONFIG = 2,   /* the configuration is wrong; message has file:line:column */
    GA_ERR_FILE = 3,     /* an input file can't be read, is damaged, or was refused */
    GA_ERR_MISSING = 4,  /* a component is not there (library, provider, build option) */
    /* this batch: nothing is pruned, the next batch may be fine */
    GA_ERR_LATE = 16,     /* other ranks did not answer within the deadline */
    GA_ERR_MISMATCH = 17, /* ranks disagree on configuration, batch or probe version */
    GA_ERR_DATA = 18,     /* values that can't be used: not finite, wrong shape, no spread */
    /* the session: from now on everything passes through unpruned */
    GA_ERR_MEMORY = 32,
    GA_ERR_IO = 33,    /* writing failed: full disk, missing right */
    GA_ERR_WORLD = 34, /* the communicator failed */
    GA_ERR_BUG = 70    /* one of our own invariants does not hold */
} ga_status;

/* Where and why something failed. The first writer wins; clear with ga_error_clear before reuse. */
typedef struct ga_error {
    ga_status status;
    int line;
    const char *file; /* source file, static storage */
    char message[512];
} ga_error;

typedef enum ga_dtype { GA_F32 = 0, GA_F16 = 1, GA_BF16 = 2, GA_F64 = 3, GA_I64 = 4 } ga_dtype;

typedef enum ga_device { GA_DEVICE_CPU = 0, GA_DEVICE_CUDA = 1 } ga_device;

#define GA_TENSOR_DIMS_MAX 6

/* A view of memory that somebody else owns; it must stay valid during the call it is passed to. */
typedef struct ga_tensor {
    void *data;
    int64_t shape[GA_TENSOR_DIMS_MAX];
    int64_t strides[GA_TENSOR_DIMS_MAX]; /* in elements */
    int32_t dims;
    int32_t dtype;  /* ga_dtype */
    int32_t device; /* ga_device */
    int32_t device_index;
    void *stream; /* cudaStream_t of the device, NULL on the CPU */
} ga_tensor;

#ifdef __cplusplus
}
#endif

#endif
