/* What a call of train asks for: the command line over the configuration. */
#ifndef GA_COMMAND_TRAIN_CALL_H
#define GA_COMMAND_TRAIN_CALL_H

#include "grpo_accel/command/command.h"
#include "grpo_accel/compute/torch.h"
#include "grpo_accel/session/lessons.h"
#include "probe/train/train.h"

#define GA_TRAIN_PATH_BYTES 4096

typedef struct ga_train_call {
    const char *data;
    const char *out;
    char state[GA_TRAIN_PATH_BYTES]; /* out with .state behind it */
    ga_train_options options;        /* but for what the probe is bound to */
    int64_t window_rows;             /* 0: all */
    int32_t step;                    /* 0: the record's first; GA_LESSONS_ALL_STEPS */
    int32_t steps[GA_PROBE_STEPS_MAX];
    int32_t step_count; /* 0: step */
    uint32_t inputs;    /* GA_INPUT_BIT(…); 0: all */
    const char *targets;
    int64_t relabels; /* a row at most */
    ga_provider_kind provider;
    const char *torch;      /* folder to load PyTorch from; NULL: don't load */
    double timeout_seconds; /* that one rank waits for the others */
} ga_train_call;

/* Texts point into the call; `train` must stay where it is while its options are used. GA_ERR_ARGUMENT,
 * GA_ERR_CONFIG. */
ga_status ga_train_call_read(const ga_call *call, ga_train_call *train, ga_error *error);

#endif
