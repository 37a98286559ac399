/* A small host for tests of batches with several looks: rewards that anybody can ask for, previews that get
 * better with the step, batches of two prompts, updates. */
#ifndef GA_TESTS_STAGES_H
#define GA_TESTS_STAGES_H

#include "grpo_accel/grpo_accel.h"
#include "grpo_accel/session/batch.h"
#include "tests/unit/support.h"

enum { STAGES_ROWS = 12, STAGES_STEPS = 6, STAGES_LOOKS_MAX = GA_CANDIDATES_MAX };

extern const double stages_sigmas[STAGES_STEPS + 1];

typedef struct stages_job {
    char *folder; /* made by the first stages_open */
    ga_session *session;
    int warnings;
    char warning[512];
} stages_job;

/* `yaml`: all but version and run_dir. */
void stages_open(stages_job *j, const char *yaml);
void stages_close(stages_job *j);

/* What a row ends with, and what is seen of it after `step` steps. */
double stages_reward(int32_t rank, uint64_t batch, int32_t row);
double stages_preview(int32_t rank, uint64_t batch, int32_t row, int32_t step);

/* NULL where the batch can't begin. */
ga_batch *stages_begin(ga_session *session);

/* Previews of the rows that still run. */
ga_status stages_observe(ga_batch *batch);

/* Rewards of the kept rows. */
void stages_give_rewards(ga_batch *batch);

/* All looks of a batch and its rewards; kept counts after each. */
ga_batch *stages_roll(stages_job *j, int32_t counts[STAGES_LOOKS_MAX]);

/* Ends an update of the session's open batches, with everybody's rewards in the host's order. */
ga_status stages_end_update(ga_session *session, double *advantages);

/* An update of one batch. */
void stages_update(stages_job *j, int32_t counts[STAGES_LOOKS_MAX]);

/* One probe for steps 2, 3 and 4, from a run that looked at all of them; its file in j's folder. */
void stages_make_probe(char *path, size_t bytes, stages_job *j);

/* Racing over these steps: 9, 6, 3 of 12 rows. */
void stages_racing_yaml(char *yaml, size_t bytes, const char *probe, const char *audit);

#endif
