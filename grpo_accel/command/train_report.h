/* What train says while it works and of what came of it. */
#ifndef GA_COMMAND_TRAIN_REPORT_H
#define GA_COMMAND_TRAIN_REPORT_H

#include "grpo_accel/command/train_call.h"

/* A bar that renews itself on a terminal, from the third second on; nothing elsewhere. */
typedef struct ga_train_bar {
    bool on;
    bool shown;
    double next_seconds; /* of the training's own clock */
} ga_train_bar;

ga_train_bar ga_train_bar_make(bool quiet);
void ga_train_bar_show(ga_train_bar *bar, const ga_train_progress *progress);
void ga_train_bar_clear(ga_train_bar *bar);

/* What a report needs beside the training's own. */
typedef struct ga_train_result {
    const ga_train_call *train;
    const ga_probe_info *info;
    const ga_train_report *report;
    const char *provider;
    int32_t ranks;
} ga_train_result;

void ga_train_result_as_json(const ga_train_result *result);
void ga_train_result_as_text(const ga_train_result *result);

#endif
