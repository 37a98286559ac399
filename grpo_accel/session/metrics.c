#include "grpo_accel/session/metrics.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

void ga_metrics_open(ga_metrics *metrics, const char *run_dir, bool write) {
    if (!write) {
        return;
    }
    char path[4096];
    if (snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir) < (int)sizeof path) {
        const int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        metrics->file = file >= 0 ? fdopen(file, "a") : NULL;
    }
}

void ga_metrics_close(ga_metrics *metrics) {
    if (metrics->file != NULL) {
        (void)fclose(metrics->file);
        metrics->file = NULL;
    }
}

/* A JSON text under construction; what does not fit is left out whole, so that it always stays valid. */
typedef struct text {
    char *memory;
    size_t used_bytes, capacity_bytes;
} text;

static void add(text *json, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(text *json, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const size_t room = json->capacity_bytes - json->used_bytes - 2; /* for "}" and the end */
    const int written = vsnprintf(json->memory + json->used_bytes, room, format, arguments);
    va_end(arguments);
    if (written > 0 && (size_t)written < room) {
        json->used_bytes += (size_t)written;
    } else {
        json->memory[json->used_bytes] = '\0';
    }
}

static void add_number(text *json, const char *key, double value) {
    if (isfinite(value)) {
        add(json, ", \"%s\": %.9g", key, value);
    } else {
        add(json, ", \"%s\": null", key);
    }
}

static void add_count(text *json, const char *key, int64_t value) {
    add(json, ", \"%s\": %lld", key, (long long)value);
}

static void add_pruning(text *json, const ga_metrics *m) {
    add_count(json, "prune/rows", m->rows);
    add_count(json, "prune/kept_rows", m->kept_rows);
    add_count(json, "prune/audited_rows", m->audited_rows);
    add_number(json, "prune/rate", m->rows > 0 ? 1.0 - (double)m->kept_rows / (double)m->rows : 0.0);
    add_count(json, "prune/row_steps_run", m->row_steps_run);
    add_count(json, "prune/row_steps_full", m->row_steps_full);
    add_count(json, "prune/batches", m->batches);
    add_count(json, "prune/pruned_batches", m->pruned_batches);
    add_number(json, "prune/reward_kept_mean", m->reward_kept_mean);
    add_number(json, "prune/imputed_share", m->imputed_share);
}

static void add_probe(text *json, const ga_metrics *m) {
    add_count(json, "probe/version", m->probe_version);
    add_number(json, "probe/spearman_group", m->within_known ? m->within.value : NAN);
    add_number(json, "probe/spearman_group_low", m->within_known ? m->within.low : NAN);
    add_number(json, "probe/spearman_group_high", m->within_known ? m->within.high : NAN);
    add_count(json, "probe/audited_groups", m->within_known ? m->within.groups : 0);
    add_number(json, "probe/tau2", m->tau2);
    add_number(json, "probe/residual_variance", m->residual_variance);
}

/* Of an update in which a rank stopped rows, or in which some are left out of training. */
static void add_advantages(text *json, const ga_taught_figures *taught) {
    const ga_advantage_report *report = &taught->report;
    if (taught->trained_rows > 0) {
        add_count(json, "advantage/trained_rows_a_rank", taught->trained_rows);
    }
    if (report->count == 0) {
        return;
    }
    add_number(json, "advantage/sigma", report->sigma);
    add_number(json, "advantage/shrink_mean", report->shrink_mean);
    add_number(json, "advantage/shrink_min", report->shrink_min);
    add_number(json, "advantage/shrink_max", report->shrink_max);
    add_count(json, "advantage/survivors_groups", report->fallback_group_count);
    add_count(json, "advantage/unrewarded_rows", report->unrewarded_count);
    add_count(json, "advantage/clipped_rows", report->clipped_count);
    add_count(json, "advantage/credited_rows", report->credited_count);
    add_number(json, "advantage/clip_left_out", report->clip_left_out);
    add_number(json, "advantage/clip_shift", report->clip_shift);
}

/* Keys that never have a value in a run are left out: signals that are not wanted cost nothing. */
static void add_known(text *json, const char *key, double value) {
    if (isfinite(value)) {
        add_number(json, key, value);
    }
}

static void add_costs(text *json, const ga_costs *costs) {
    static const char *const keys[GA_COST_COUNT] = {"cost/preview_row_steps", "cost/lookahead_row_steps",
        "cost/distilled_row_steps", "cost/features_row_steps", "cost/reward_row_steps", "cost/look_row_steps",
        "cost/own_row_steps"};
    add_known(json, "cost/row_step_seconds", ga_costs_row_step_seconds(costs));
    for (int i = 0; i < GA_COST_COUNT; i++) {
        add_known(json, keys[i], ga_costs_row_steps(costs, (ga_cost)i));
    }
}

/* A text of ours: no control characters, but perhaps quotes and backslashes. */
static void add_text(text *json, const char *key, const char *value) {
    char escaped[600];
    size_t used = 0;
    for (const char *c = value; *c != '\0' && used + 2 < sizeof escaped; c++) {
        if (*c == '"' || *c == '\\') {
            escaped[used++] = '\\';
        }
        escaped[used++] = (unsigned char)*c < 0x20 ? ' ' : *c;
    }
    escaped[used] = '\0';
    add(json, ", \"%s\": \"%s\"", key, escaped);
}

static void add_guard_costs(text *json, const ga_seconds *seconds) {
    add_number(json, "guard/row_step_seconds", seconds->step);
    add_number(json, "guard/forward_seconds", seconds->forward);
    add_number(json, "guard/look_seconds", seconds->signal[0]);
    add_number(json, "guard/reward_seconds", seconds->reward);
    add_number(json, "guard/train_seconds", seconds->train);
    add_number(json, "guard/fixed_seconds", seconds->fixed);
    add_number(json, "guard/own_seconds", seconds->own);
}

static void add_guard(text *json, const ga_guard_metrics *g) {
    if (g->answer == NULL) {
        return;
    }
    add_text(json, "guard/answer", g->answer);
    add_text(json, "guard/reason", g->reason);
    add(json, ", \"guard/prunes\": %s", g->prunes ? "true" : "false");
    add_count(json, "guard/step", g->step);
    add_number(json, "guard/keep", g->keep);
    add_number(json, "guard/rho", g->rho);
    add_number(json, "guard/rho_low", g->rho_low);
    add_number(json, "guard/rho_high", g->rho_high);
    add_number(json, "guard/break_even_rho", g->break_even_rho);
    add_number(json, "guard/calibration_slope", g->slope);
    add_number(json, "guard/coverage90", g->coverage90);
    add_number(json, "guard/energy", g->energy);
    add_number(json, "guard/energy_low", g->energy_low);
    add_number(json, "guard/energy_high", g->energy_high);
    add_number(json, "guard/snr2", g->snr2);
    add_number(json, "guard/snr2_low", g->snr2_low);
    add_number(json, "guard/cost_ratio", g->cost_ratio);
    add_number(json, "guard/speed_up", g->speed_up);
    add_number(json, "guard/speed_up_low", g->speed_up_low);
    add_number(json, "guard/psi_scores", g->psi_scores);
    add_number(json, "guard/ks_scores", g->ks_scores);
    add_number(json, "guard/psi_features", g->psi_features);
    add_number(json, "guard/ks_features", g->ks_features);
    add_text(json, "guard/drifting_input", g->feature != NULL ? g->feature : "");
    add_number(json, "guard/lost_extremes", g->lost_extremes);
    add_number(json, "guard/lost_extremes_bound", g->lost_extremes_bound);
    add_number(json, "guard/alpha", g->alpha);
    add_number(json, "guard/explore_share", g->explore_share);
    add_count(json, "guard/groups", g->groups);
    add_guard_costs(json, &g->seconds);
}

static void add_seconds(text *json, const ga_metrics *m) {
    add_number(json, "seconds/denoise", m->seconds_denoise);
    add_number(json, "seconds/signal", m->seconds_signal);
    add_number(json, "seconds/reward", m->seconds_reward);
    add_number(json, "seconds/own", m->seconds_own);
    add_number(json, "seconds/preview", m->seconds_preview);
    add_number(json, "seconds/lookahead", m->seconds_lookahead);
    add_number(json, "seconds/distilled", m->seconds_distilled);
    add_number(json, "seconds/features", m->seconds_features);
    add_number(json, "comm/wait_seconds", m->wait_seconds);
    add_count(json, "comm/late_batches", m->late_batches);
    add_count(json, "record/rows", m->record_rows);
    add_count(json, "record/segments", m->record_segments);
    add_count(json, "record/bytes", m->record_bytes);
    add_count(json, "record/dropped", m->record_dropped);
}

void ga_metrics_reset(ga_metrics *m) {
    m->rows = m->kept_rows = m->audited_rows = 0;
    m->row_steps_run = m->row_steps_full = 0;
    m->batches = m->pruned_batches = m->late_batches = 0;
    m->reward_kept_mean = m->imputed_share = 0.0;
    m->within_known = false;
    m->seconds_denoise = m->seconds_signal = m->seconds_reward = m->seconds_own = 0.0;
    m->seconds_preview = m->seconds_lookahead = m->seconds_distilled = m->seconds_features = 0.0;
    m->wait_seconds = 0.0;
}

void ga_metrics_publish(ga_metrics *metrics, const ga_costs *costs) {
    text json = {metrics->json, 0, sizeof metrics->json};
    add(&json, "{\"prune/update\": %u, \"prune/mode\": \"%s\"", (unsigned)metrics->update, metrics->mode);
    add_pruning(&json, metrics);
    add_probe(&json, metrics);
    add_advantages(&json, &metrics->taught);
    add_seconds(&json, metrics);
    add_costs(&json, costs);
    add_guard(&json, &metrics->guard);
    metrics->json[json.used_bytes] = '}';
    metrics->json[json.used_bytes + 1] = '\0';
    if (metrics->file != NULL) {
        (void)fprintf(metrics->file, "%s\n", metrics->json);
        (void)fflush(metrics->file);
    }
}
