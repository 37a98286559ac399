#include "grpo_accel/command/train_report.h"

#include <stdio.h>
#include <unistd.h>

#include "grpo_accel/command/figures.h"

#define BAR_CELLS 24
#define QUIET_SECONDS 2.0
#define RENEW_SECONDS 0.2

/* ---- the bar ---- */

ga_train_bar ga_train_bar_make(bool quiet) {
    return (ga_train_bar){.on = !quiet && isatty(STDERR_FILENO) != 0, .next_seconds = QUIET_SECONDS};
}

void ga_train_bar_show(ga_train_bar *bar, const ga_train_progress *progress) {
    if (!bar->on || progress->seconds < bar->next_seconds) {
        return;
    }
    bar->next_seconds = progress->seconds + RENEW_SECONDS;
    bar->shown = true;
    const int32_t rounds = progress->rounds_max > 0 ? progress->rounds_max : 1;
    const int full = (int)((int64_t)progress->round * BAR_CELLS / rounds);
    char cells[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) {
        cells[i] = i < full ? '#' : '.';
    }
    cells[BAR_CELLS] = 0;
    (void)fprintf(stderr, "\r\033[K[%s] round %d of at most %d, %.0f s: loss %.4f, Spearman %.3f (best %.3f)",
        cells, progress->round, progress->rounds_max, progress->seconds, progress->loss, progress->spearman,
        progress->spearman_best);
    (void)fflush(stderr);
}

void ga_train_bar_clear(ga_train_bar *bar) {
    if (bar->shown) {
        (void)fputs("\r\033[K", stderr);
    }
}

/* ---- JSON ---- */

static const char *end_word(ga_train_end end) {
    static const char *const words[] = {"rounds", "patience", "seconds", "stop", "none"};
    return words[end];
}

static void candidates_as_json(ga_json *json, const ga_train_report *report) {
    ga_json_object(json, "candidates");
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        const ga_train_candidate *candidate = &report->candidates[kind];
        if (candidate->report.groups > 0) {
            ga_json_object(json, ga_probe_kind_name((ga_probe_kind)kind));
            ga_command_within(json, "tune", &candidate->tune);
            ga_command_within(json, "report", &candidate->report);
            ga_command_within(json, "held", &candidate->held);
            ga_json_end(json);
        }
    }
    ga_json_end(json);
}

static void curve_as_json(ga_json *json, const ga_train_report *report) {
    ga_json_array(json, "curve");
    for (int32_t i = 0; i < report->curve_count; i++) {
        const ga_train_progress *point = &report->curve[i];
        ga_json_object(json, NULL);
        ga_json_integer(json, "round", point->round);
        ga_json_real(json, "loss", point->loss);
        ga_json_real(json, "tune_spearman", point->spearman);
        ga_json_real(json, "tune_spearman_best", point->spearman_best);
        ga_json_real(json, "seconds", point->seconds);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void info_as_json(ga_json *json, const ga_probe_info *info) {
    ga_json_text(json, "model", info->model);
    ga_json_integer(json, "version", info->version);
    ga_json_array(json, "steps");
    for (int32_t i = 0; i < info->step_count; i++) {
        ga_json_integer(json, NULL, info->steps[i]);
    }
    ga_json_end(json);
    ga_json_integer(json, "steps_total", info->steps_total);
    ga_json_array(json, "inputs");
    for (int32_t i = 0; i < info->schema.input_count; i++) {
        ga_json_text(json, NULL, ga_record_input_name(info->schema.inputs[i].input));
    }
    ga_json_end(json);
    ga_json_array(json, "targets");
    for (int32_t i = 0; i < info->target_count; i++) {
        ga_json_text(json, NULL, info->target_names[i]);
    }
    ga_json_end(json);
    ga_json_object(json, "calibration");
    ga_json_real(json, "slope", info->calibration.slope);
    ga_json_real(json, "intercept", info->calibration.intercept);
    ga_json_real(json, "sigma_r2", info->calibration.sigma_r2);
    ga_json_real(json, "tau2", info->calibration.tau2);
    ga_json_end(json);
}

static void counts_as_json(ga_json *json, const ga_train_result *result) {
    const ga_train_report *report = result->report;
    const ga_probe_info *info = result->info;
    ga_json_text(json, "ended_by", end_word(report->end));
    ga_json_boolean(json, "interrupted", report->end == GA_TRAIN_END_STOP);
    ga_json_integer(json, "rounds", report->rounds);
    ga_json_integer(json, "rounds_resumed", report->resumed_rounds);
    ga_json_integer(json, "rounds_on_finals", report->clean_rounds);
    ga_json_integer(json, "labels_under_other_prompts", report->more_labels);
    ga_json_real(json, "seconds", report->seconds);
    ga_json_integer(json, "seed", (int64_t)result->train->options.seed);
    ga_json_text(json, "provider", result->provider);
    ga_json_integer(json, "ranks", result->ranks);
    ga_json_text(
        json, "architecture", ga_network_architecture_name(result->train->options.network.architecture));
    ga_json_integer(json, "train_rows", info->trained_rows);
    ga_json_integer(json, "train_groups", info->trained_groups);
    ga_json_integer(json, "held_rows", info->held_rows);
    ga_json_integer(json, "held_groups", info->held_groups);
}

void ga_train_result_as_json(const ga_train_result *result) {
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "out", result->train->out);
    ga_json_text(&json, "chosen", ga_probe_kind_name(result->report->chosen));
    ga_json_text(&json, "reason", result->report->reason);
    counts_as_json(&json, result);
    info_as_json(&json, result->info);
    candidates_as_json(&json, result->report);
    curve_as_json(&json, result->report);
    ga_json_end(&json);
}

/* ---- words ---- */

static const char *end_note(ga_train_end end) {
    return end == GA_TRAIN_END_STOP
               ? "interrupted: the best so far was saved, --resume goes on\n"
               : (end == GA_TRAIN_END_SECONDS ? "out of time: the best so far was saved, --resume goes on\n"
                                              : "");
}

void ga_train_result_as_text(const ga_train_result *result) {
    const ga_probe_info *info = result->info;
    const ga_train_report *report = result->report;
    (void)printf("%lld rows in %lld groups to learn from, %lld rows in %lld groups held out by prompt\n",
        (long long)info->trained_rows, (long long)info->trained_groups, (long long)info->held_rows,
        (long long)info->held_groups);
    (void)printf("Spearman within prompt groups, on prompts that no training saw:\n");
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        const ga_within *within = &report->candidates[kind].report;
        if (within->groups > 0) {
            (void)printf("  %-8s %6.3f  [%6.3f, %6.3f]%s\n", ga_probe_kind_name((ga_probe_kind)kind),
                within->value, within->low, within->high,
                report->chosen == (ga_probe_kind)kind ? "  chosen" : "");
        }
    }
    (void)printf("%s\n%s", report->reason, end_note(report->end));
    (void)printf("%s: version %u for %s after step %d of %d, %.1f s\n", result->train->out, info->version,
        info->model, info->steps[0], info->steps_total, report->seconds);
}
