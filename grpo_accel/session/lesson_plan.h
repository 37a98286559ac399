/* What a configuration says of training, as options of a training. */
#ifndef GA_SESSION_LESSON_PLAN_H
#define GA_SESSION_LESSON_PLAN_H

#include "grpo_accel/config/config.h"
#include "probe/train/train.h"

/*
 * Defaults with probe.network.*, training.* and the seed of `config`; what the probe is bound to is left
 * empty. Not collective. Any thread.
 */
ga_train_options ga_lesson_plan(const ga_config *config);

#endif
