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
 *             for each step of ga_batch_get_steps:                (none: this batch rests)
 *               ga_batch_observe_… / _state                       (rows that still run)
 *               ga_batch_decide                                   (collective)
 *             ga_batch_final, ga_batch_reward                     (any thread, kept rows only)
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
#define GA_ABI_VERSION 4

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

/* What a text token is to the image tokens of its row; values of `content` below. */
typedef enum ga_text {
    GA_TEXT_PLAIN = 0,   /* attended, but padding or special: not content */
    GA_TEXT_CONTENT = 1, /* attended, a token of the prompt's own words */
    GA_TEXT_HIDDEN = 2   /* not attended: the model masks its key, which takes no part in the softmax */
} ga_text;

/* Name of a status ("late", "config", …), static storage. Any thread. */
GA_API const char *ga_status_text(ga_status status);

/* "0.1.0", static storage; GA_ABI_VERSION that the library was built with. Any thread. */
GA_API const char *ga_version(void);
GA_API int32_t ga_abi_version(void);

/* Operators of PyTorch that provider torch calls, one line each: "name<tab>signature", as written for. A host
 * whose PyTorch has other ones should set probe.provider to native. Static storage. Any thread. */
GA_API const char *ga_torch_schemas(void);

/* ------------------------------------------------------------------------------------------------- session
 */

typedef struct ga_session ga_session;
typedef struct ga_batch ga_batch;

/* What the session is doing. */
typedef enum ga_mode {
    GA_MODE_OFF = 0,         /* observes nothing */
    GA_MODE_SHADOW = 1,      /* scores and logs, prunes nothing */
    GA_MODE_PRUNE = 2,       /* stops rollouts once it has a probe */
    GA_MODE_PASS_THROUGH = 3 /* something failed for good: as if off, one warning was given */
} ga_mode;

/* level: 0 error, 1 warning, 2 info, 3 debug. Called from any thread. */
typedef void (*ga_log_function)(void *user, int level, const char *line);

typedef struct ga_session_options {
    size_t size; /* sizeof(ga_session_options) */
    const char *config_path;
    const char *const *overrides; /* "key=value", may be NULL */
    size_t override_count;
    ga_log_function log; /* NULL: standard error */
    void *log_user;
} ga_session_options;

/*
 * Reads the configuration, joins the other ranks, opens the probe. *session_out is owned by the caller until
 * ga_session_close; on failure nothing is owned. Collective. One thread.
 * Errors: CONFIG (the configuration is wrong: nothing was done), MISSING, FILE, WORLD, MISMATCH, MEMORY.
 */
GA_API ga_status ga_session_open(
    const ga_session_options *options, ga_session **session_out, ga_error *error);

/*
 * Publishes what is pending, ends the background training, leaves the other ranks, sets *session to NULL.
 * Collective when `in_step` (every rank closes); with 0, e.g. after an exception in the host, nobody is
 * waited for. NULL is allowed.
 */
GA_API void ga_session_close(ga_session **session, int32_t in_step);

/* What the adapter needs to know. Not collective. */
typedef struct ga_session_info {
    size_t size; /* sizeof(ga_session_info), set by the caller */
    int32_t mode;
    int32_t rank;
    int32_t world_size;
    int32_t decision_step; /* denoising steps done before the first decision; −1: that is known when the
                              first batch has begun (decision.sigma, candidates auto) */
    uint32_t inputs; /* bit i: input i of {attention, x0, cfg, hidden, prompt, preview, lookahead, distilled}
                        is wanted */
    uint32_t probe_version;
    int32_t std_kind;            /* what advantage.std says: 0 auto, 1 global, 2 group */
    int32_t updates;             /* updates ended in this run so far */
    int32_t wandb;               /* 1: hand the numbers to the host's wandb run, if there is one */
    const char *run_dir;         /* texts here and below are owned by the session */
    const char *preview_scorers; /* names, comma between them, as the user listed them; NULL: the host's
                                    combined one */
    const char *preview_decoder; /* folder of a tiny decoder; NULL: the host's own */
    int32_t lookahead_steps;     /* forwards for each row */
    int32_t lookahead_guided;    /* 1: with the host's guidance */
    const char *hidden_block;    /* "middle", or the block's name */
    const char *distilled_lora;  /* file or folder; NULL: trained from the run */
    int32_t distilled;           /* 1: input distilled is wanted */
    int32_t distilled_rank;
    int32_t distilled_every_updates; /* 0: never trained */
    int32_t distilled_pairs;
    double distilled_seconds; /* that one training may take */
    int32_t finals;           /* what ga_batch_final takes: 0 nothing, 1 latents (and states), 2 images */
    int32_t
        drop_stopped_rows; /* 1: where the host trains on every row, take stopped ones out of its samples */
} ga_session_info;
GA_API ga_status ga_session_get_info(const ga_session *session, ga_session_info *info);

/*
 * For callers that know before their first update what an update would show: by what they divide (host_std as
 * in ga_update_options) and that batches may be pruned from the first one on, since stopped rows teach
 * nothing there. Every rank calls it, before its first batch. Not collective. Errors: ARGUMENT.
 */
GA_API ga_status ga_session_set_host(
    ga_session *session, int32_t host_std, int32_t prunable, ga_error *error);

/* Newest numbers as one JSON object (prune/…, probe/…, seconds/…, cost/…, record/…, comm/…); owned by the
 * session until the next call. */
GA_API const char *ga_session_metrics_json(ga_session *session);

/* --------------------------------------------------------------------------------------------------- batch
 */

typedef struct ga_batch_options {
    size_t size; /* sizeof(ga_batch_options) */
    int32_t rows;
    int32_t steps_total;
    const char *model;          /* what the host runs; a probe is bound to it */
    const double *sigmas;       /* [steps_total + 1], noise level before each step and at the end */
    const char *const *prompts; /* [rows], UTF-8 */
    int32_t latent_channels;
    int32_t latent_height;
    int32_t latent_width;
    int32_t token_height; /* grid of image tokens, of the coarsest block that could be tapped; others may be
                             finer */
    int32_t token_width;
    int32_t block_count;            /* blocks that could be tapped, in order of depth */
    int32_t text_tokens;            /* of this batch: other batches may have more or fewer */
    const char *const *block_names; /* [block_count] */
    int32_t hidden_values;          /* width of the vectors of input hidden; 0: not known */
    int32_t prompt_values;          /* of input prompt */
    int32_t scores_per_preview;     /* scores a row of inputs preview, lookahead, distilled; 0: one */
    int32_t noise_begin_step; /* steps begin … end − 1 add noise; −1, −1 (or an empty range): not known, */
    int32_t noise_end_step; /* or all do. Where the host draws the range, the whole that it draws from */
} ga_batch_options;

/*
 * Begins a batch of rollouts of this rank. *batch_out belongs to the session and lives until ga_update_end or
 * ga_batch_abandon. Not collective. The first batch fixes the shapes of the run and, where decision.sigma is
 * set, the step of the decision.
 * Errors: ARGUMENT, DATA (shapes changed), FILE (the probe does not fit), MEMORY; then the host goes on
 * alone.
 */
GA_API ga_status ga_batch_begin(
    ga_session *session, const ga_batch_options *options, ga_batch **batch_out, ga_error *error);

/* Blocks to tap: indices into block_names, ascending; owned by the batch. */
GA_API ga_status ga_batch_blocks(const ga_batch *batch, const int32_t **blocks_out, int32_t *count_out);

/*
 * Steps at which this batch stops to look: denoising steps done, ascending; owned by the batch. At each of
 * them, in this order, signals are observed and ga_batch_decide is called. *count_out 0: the batch rests,
 * nothing is observed and nothing decided, all its rows are kept and logged without features.
 */
GA_API ga_status ga_batch_get_steps(const ga_batch *batch, const int32_t **steps_out, int32_t *count_out);

/* The first of them; −1: none, or NULL. */
GA_API int32_t ga_batch_decision_step(const ga_batch *batch);

/*
 * What follows is observed at each step. There `rows` means the rows that still run, in ascending order of
 * their index in the batch: at the first step all, later ga_decision.kept of the step before.
 */

/*
 * Attention of tapped block number `tap` (0 … count-1 of ga_batch_blocks) at the decision step.
 * query, key_image [rows, heads, image tokens, head size], key_text [rows, heads, text tokens, head size]:
 * after normalisation and rotary embedding, conditional rows only, any strides. key_image->data may be NULL
 * for true cross-attention; image keys may be more than image tokens (those of a reference image). content
 * [rows, text tokens] in host memory: ga_text values in any pattern; NULL: all are content. The keys of
 * hidden tokens are not read; a row whose text is all hidden has 0 in every statistic. On the CPU, or on the
 * device of probe.provider torch. ARGUMENT: shapes that don't fit each other, another value in content.
 */
GA_API ga_status ga_batch_observe_attention(ga_batch *batch, int32_t tap, const ga_tensor *query,
    const ga_tensor *key_image, const ga_tensor *key_text, const uint8_t *content, ga_error *error);

/*
 * Input x0. State and guided velocity at the decision step, both [rows, channels, height, width] on the CPU;
 * x0 = latent − sigma·velocity.
 */
GA_API ga_status ga_batch_observe_latent(
    ga_batch *batch, const ga_tensor *latent, const ga_tensor *velocity, double sigma, ga_error *error);

/* Input cfg. Velocities with and without the prompt, before they are combined; both [rows, channels, height,
 * width] on the CPU. */
GA_API ga_status ga_batch_observe_guidance(
    ga_batch *batch, const ga_tensor *conditional, const ga_tensor *unconditional, ga_error *error);

#define GA_VECTORS_HIDDEN 3
#define GA_VECTORS_PROMPT 4
/* Input hidden or prompt. [rows, hidden_values or prompt_values of the options] on the CPU. */
GA_API ga_status ga_batch_observe_vectors(
    ga_batch *batch, int32_t input, const ga_tensor *vectors, ga_error *error);

#define GA_SCORES_PREVIEW 5
#define GA_SCORES_LOOKAHEAD 6
#define GA_SCORES_DISTILLED 7
/*
 * Input preview, lookahead or distilled: what the host's scorers say of the decoded guesses. values
 * [rows][count], row by row; count is scores_per_preview of the options: the combined score first and, where
 * probe.preview.scorers lists several, each of them behind it in that order. NaN where a scorer said nothing.
 */
GA_API ga_status ga_batch_observe_scores(
    ga_batch *batch, int32_t input, int32_t count, const double *values, ga_error *error);

/* As ga_batch_observe_scores of the preview with one score a row. */
GA_API ga_status ga_batch_observe_preview(ga_batch *batch, const double *scores, ga_error *error);

/*
 * The state at the decision step, [rows, channels, height, width] on the CPU: logged beside the finals where
 * those are latents; ignored otherwise.
 */
GA_API ga_status ga_batch_state(ga_batch *batch, const ga_tensor *latent, ga_error *error);

typedef struct ga_decision {
    size_t size;             /* sizeof(ga_decision), set by the caller */
    int32_t rows;            /* of the whole batch */
    int32_t kept_count;      /* never more than at the step before */
    const int32_t *kept;     /* [kept_count] rows that go on, ascending; owned by the batch, valid until the
                                next decision */
    const float *prediction; /* [rows] newest predicted reward of each row of the batch, NaN where there is
                                none; owned by the batch */
    int32_t audited;         /* 1: the kept rows were drawn by chance alone */
    int32_t pruned;          /* 1: some rank may have stopped rows in this batch */
    const char
        *reason; /* one of "shadow", "no probe yet", "pruned", "audit", "late", "mismatch", …; static */
    int32_t
        next_step; /* denoising steps done before the next decision of this batch; −1: this was the last */
} ga_decision;

/*
 * Scores the rows that still run, agrees with the other ranks, and says which of them go on. Every rank must
 * call it once for each step of the batch, whatever it observed. When anything is wrong all rows that still
 * run are kept, at this step and at those that follow. Collective, with a deadline.
 */
GA_API ga_status ga_batch_decide(ga_batch *batch, ga_decision *decision_out, ga_error *error);

/* Checksum of which rows of all ranks the batch's decisions kept: the same on every rank that made the plans;
 * 0: nothing was planned, or NULL. Not collective. */
GA_API uint64_t ga_batch_plan_checksum(const ga_batch *batch);

/*
 * Final rewards of `count` rows under one scorer ("avg" is the combined one). Any thread, also after the next
 * batch has begun.
 */
GA_API ga_status ga_batch_reward(ga_batch *batch, const char *scorer, const int32_t *rows,
    const double *values, int32_t count, ga_error *error);

/*
 * How `count` rows ended, as record.finals asks: latents [count, channels, height, width], or images [count,
 * 3, height, width] of values in 0 … 1, both floating point on the CPU; ignored where it asks for none. They
 * are logged when the update ends. Any thread, also after the next batch has begun.
 */
GA_API ga_status ga_batch_final(
    ga_batch *batch, const int32_t *rows, int32_t count, const ga_tensor *finals, ga_error *error);

/*
 * Seconds that a phase of the host took for this batch, added up: 0 denoise, 1 signal (all of 3, 4 and 5), 2
 * reward, 3 preview, 4 lookahead, 5 distilled (forwards, decoding and scoring of each), 6 features (around
 * the calls that take them, these included). Any thread.
 */
GA_API ga_status ga_batch_seconds(ga_batch *batch, int32_t phase, double seconds);

/* Forgets a batch that ended in an exception. Not collective. */
GA_API void ga_batch_abandon(ga_batch *batch);

/*
 * A batch that this rank rolls out but could not begin (ga_batch_begin failed, or its prompts are not known):
 * keeps this rank in step with the others. Not collective.
 */
GA_API void ga_batch_missed(ga_session *session);

/* -------------------------------------------------------------------------------------------------- update
 */

typedef struct ga_update_options {
    size_t size;                   /* sizeof(ga_update_options) */
    int64_t count;                 /* rows of all ranks: rank after rank, batch after batch, row after row */
    const int64_t *groups;         /* [count] the host's own grouping, any numbers */
    const double *rewards;         /* [count] as the host gathered them; the prediction where pruned */
    const double *host_advantages; /* [count] what the host computes from them */
    int32_t host_std;              /* what the host divides by: 0 one standard deviation, 1 the group's */
    int32_t prunable; /* 1: the host trains by these advantages and leaves out rows whose advantage is 0 */
} ga_update_options;

/*
 * Ends an update: all batches begun since the last one. Writes the advantages of whole groups, exactly 0 for
 * pruned rows and for those that the second stage leaves out, and only for them (a kept row whose reward is
 * its baseline has 1e-12); exactly host_advantages where nothing was pruned on any rank. Logs every row of
 * this rank. Batches of the update are freed. Collective, with a deadline. On any error advantages_out holds
 * host_advantages with this rank's pruned rows set to 0.
 */
GA_API ga_status ga_update_end(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error);

/*
 * Advantages once more for the rows of the update that ended last, under other rewards: hosts that ask for
 * each scorer, or each weight, apart. `rewards` are those of one scorer, of the combined reward or a multiple
 * of either; the rows that train are those of the first call. Not collective: every rank that asks gets the
 * same. On any error advantages_out holds host_advantages, with this rank's pruned rows set to 0 where count
 * is the first call's.
 */
GA_API ga_status ga_update_again(
    ga_session *session, const ga_update_options *options, double *advantages_out, ga_error *error);

#ifdef __cplusplus
}
#endif

#endif
