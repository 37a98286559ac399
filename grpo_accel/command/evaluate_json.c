/* evaluate's answer as JSON. Scripts rely on its members: they are only added to. */
#include <string.h>

#include "grpo_accel/command/evaluate.h"
#include "grpo_accel/command/figures.h"
#include "grpo_accel/record/row.h"

static void baseline_as_json(ga_json *json, const char *name, const ga_baseline *baseline) {
    ga_json_object(json, name);
    ga_command_within(json, "within_spearman", &baseline->spearman);
    ga_json_real(json, "pooled_spearman", baseline->pooled_spearman);
    ga_command_within(json, "probe_minus_it", &baseline->difference);
    ga_json_end(json);
}

static void within_as_json(ga_json *json, const ga_evaluation *figures) {
    static const struct {
        const char *name;
        ga_within_kind kind;
    } members[] = {{"spearman", GA_WITHIN_SPEARMAN}, {"pearson", GA_WITHIN_PEARSON},
        {"kendall", GA_WITHIN_KENDALL}, {"auc_top_quarter", GA_WITHIN_AUC_TOP_QUARTER},
        {"auc_above_median", GA_WITHIN_AUC_MEDIAN}, {"pairwise_accuracy", GA_WITHIN_PAIRWISE}};
    ga_json_object(json, "within");
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        ga_command_within(json, members[i].name, &figures->within[members[i].kind]);
    }
    ga_json_end(json);
}

static void pooled_as_json(ga_json *json, const ga_evaluation *figures) {
    ga_json_object(json, "pooled");
    ga_json_real(json, "spearman", figures->pooled_spearman);
    ga_json_real(json, "pearson", figures->pooled_pearson);
    ga_json_real(json, "auc", figures->pooled_auc);
    ga_json_end(json);
    ga_json_object(json, "baselines");
    baseline_as_json(json, "prompt_mean", &figures->prompt_mean);
    baseline_as_json(json, "ridge", &figures->ridge);
    baseline_as_json(json, "random", &figures->random);
    ga_json_end(json);
    ga_json_object(json, "kept_energy");
    ga_json_real(json, "0.25", figures->energy[GA_STD_GLOBAL][2].probe.value);
    ga_json_real(json, "0.5", figures->energy[GA_STD_GLOBAL][5].probe.value);
    ga_json_end(json);
    ga_json_object(json, "calibration");
    ga_json_real(json, "slope", figures->reliability.slope.value);
    ga_json_real(json, "coverage90", figures->reliability.reward_coverage[2].share.value);
    ga_json_end(json);
}

static void lines_as_json(ga_json *json, const char *name, const ga_evaluated_lines *lines) {
    ga_json_object(json, name);
    for (int32_t i = 0; i < lines->count; i++) {
        ga_command_within(json, lines->lines[i].name, &lines->lines[i].spearman);
    }
    ga_json_end(json);
}

static void inputs_as_json(ga_json *json, const ga_evaluated *e) {
    ga_json_object(json, "by_input");
    for (int i = 0; i < GA_INPUT_COUNT; i++) {
        if (e->by_input[i].groups > 0) {
            ga_command_within(json, ga_record_input_name((ga_input)i), &e->by_input[i]);
        }
    }
    ga_json_end(json);
}

/* What the training itself measured, on prompts that it had held out. */
static void training_as_json(ga_json *json, const ga_probe_info *info) {
    const ga_within held = {.value = info->spearman,
        .low = info->spearman_low,
        .high = info->spearman_high,
        .rows = info->held_rows,
        .groups = info->held_groups};
    ga_json_object(json, "training");
    ga_json_integer(json, "n_rows", info->trained_rows);
    ga_json_integer(json, "n_groups", info->trained_groups);
    ga_command_within(json, "held_out_spearman", &held);
    ga_json_end(json);
}

static void distribution_as_json(ga_json *json, const ga_distribution *d) {
    ga_json_object(json, "distribution");
    ga_json_integer(json, "n_groups", d->groups);
    ga_json_real(json, "sd", d->sd);
    ga_json_real(json, "below_zero", d->below_zero);
    ga_json_array(json, "deciles");
    for (int i = 0; i < GA_DECILES; i++) {
        ga_json_real(json, NULL, d->decile[i]);
    }
    ga_json_end(json);
    ga_json_array(json, "histogram");
    for (int i = 0; i < GA_HISTOGRAM; i++) {
        ga_json_integer(json, NULL, d->histogram[i]);
    }
    ga_json_end(json);
    ga_json_end(json);
}

static void worst_as_json(ga_json *json, const ga_evaluated *e) {
    ga_json_array(json, "worst_groups");
    for (int32_t i = 0; i < e->figures.worst_count; i++) {
        ga_json_object(json, NULL);
        ga_json_text(json, "prompt_hash", e->worst[i].prompt_hash);
        ga_json_text(json, "prompt", e->worst[i].prompt[0] != '\0' ? e->worst[i].prompt : NULL);
        ga_json_integer(json, "update", e->worst[i].update);
        ga_json_integer(json, "n_rows", e->figures.worst[i].rows);
        ga_json_real(json, "spearman", e->figures.worst[i].spearman);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void quarter_as_json(ga_json *json, const char *name, const ga_quarter *quarter) {
    ga_json_object(json, name);
    ga_command_within(json, "auc", &quarter->auc);
    ga_command_within(json, "average_precision", &quarter->average_precision);
    ga_json_real(json, "positives", quarter->positives);
    ga_json_array(json, "curve");
    for (int p = 0; p < GA_CURVE_POINTS; p++) {
        const ga_curve_point *point = &quarter->curve[p];
        ga_json_object(json, NULL);
        ga_json_real(json, "taken", point->taken);
        ga_json_real(json, "recall", point->recall);
        ga_json_real(json, "fall_out", point->fall_out);
        ga_json_real(json, "precision", point->precision);
        ga_json_end(json);
    }
    ga_json_end(json);
    ga_json_end(json);
}

static void best_as_json(ga_json *json, const ga_best_point *points) {
    ga_json_array(json, "best_of_group");
    for (int p = 0; p < GA_BEST_POINTS; p++) {
        ga_json_object(json, NULL);
        ga_json_integer(json, "k", points[p].k);
        ga_command_within(json, "recall", &points[p].recall);
        ga_command_within(json, "regret", &points[p].regret);
        ga_json_real(json, "recall_random", points[p].recall_random);
        ga_json_real(json, "regret_random", points[p].regret_random);
        ga_json_real(json, "gain_share", 1.0 - points[p].regret.value / points[p].regret_random);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void energy_as_json(ga_json *json, const char *name, const ga_energy_point *points) {
    ga_json_array(json, name);
    for (int p = 0; p < GA_ENERGY_POINTS; p++) {
        ga_json_object(json, NULL);
        ga_json_real(json, "keep", points[p].keep);
        ga_command_within(json, "probe", &points[p].probe);
        ga_json_real(json, "random", points[p].random);
        ga_json_real(json, "oracle", points[p].oracle);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void bins_as_json(ga_json *json, const char *name, const ga_reliability_bin *bins, int32_t count) {
    ga_json_array(json, name);
    for (int32_t b = 0; b < count; b++) {
        ga_json_object(json, NULL);
        ga_json_real(json, "prediction", bins[b].prediction);
        ga_command_within(json, "reward", &bins[b].reward);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void coverage_as_json(ga_json *json, const char *name, const ga_coverage *coverage) {
    ga_json_array(json, name);
    for (int level = 0; level < GA_COVERAGE_LEVELS; level++) {
        ga_json_object(json, NULL);
        ga_json_real(json, "level", coverage[level].level);
        ga_command_within(json, "covered", &coverage[level].share);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void reliability_as_json(ga_json *json, const ga_reliability *r) {
    ga_json_object(json, "reliability");
    ga_command_within(json, "slope", &r->slope);
    bins_as_json(json, "within", r->within, r->bins);
    bins_as_json(json, "pooled", r->reward, r->bins);
    coverage_as_json(json, "coverage_within", r->within_coverage);
    coverage_as_json(json, "coverage_reward", r->reward_coverage);
    ga_json_end(json);
}

static void drift_as_json(ga_json *json, const ga_evaluation *figures) {
    ga_json_array(json, "drift");
    for (int32_t b = 0; b < figures->drift_count; b++) {
        const ga_drift_bin *bin = &figures->drift[b];
        ga_json_object(json, NULL);
        ga_json_array(json, "updates");
        ga_json_integer(json, NULL, bin->update_first);
        ga_json_integer(json, NULL, bin->update_last);
        ga_json_end(json);
        ga_json_integer(json, "n_rows", bin->rows);
        ga_command_within(json, "spearman", &bin->spearman);
        ga_command_within(json, "slope", &bin->slope);
        ga_json_real(json, "bias", bin->bias);
        ga_json_real(json, "stability_index", bin->shift);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void sample_as_json(ga_json *json, ga_sample sample) {
    if (sample == GA_SAMPLE_UNKNOWN) {
        ga_json_text(json, "in_sample", NULL);
    } else {
        ga_json_boolean(json, "in_sample", sample == GA_SAMPLE_IN);
    }
}

static void rivals_as_json(ga_json *json, const ga_evaluated *e) {
    ga_json_array(json, "comparisons");
    for (int32_t i = 0; i < e->rival_count; i++) {
        ga_json_object(json, NULL);
        ga_json_text(json, "key", e->rivals[i].key);
        ga_json_text(json, "name", e->rivals[i].name);
        ga_command_within(json, "within_spearman", &e->rivals[i].baseline.spearman);
        ga_json_real(json, "pooled_spearman", e->rivals[i].baseline.pooled_spearman);
        ga_command_within(json, "probe_minus_it", &e->rivals[i].baseline.difference);
        if (strcmp(e->rivals[i].key, "against") == 0) {
            sample_as_json(json, e->other_in_sample);
        }
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void ceiling_as_json(ga_json *json, const ga_evaluated *e) {
    if (!e->has_ceiling) {
        return;
    }
    ga_json_object(json, "ceiling");
    ga_command_within(json, "retest_pearson", &e->ceiling.retest);
    ga_command_within(json, "pearson_max", &e->ceiling.ceiling);
    ga_json_end(json);
}

static void learning_as_json(ga_json *json, const ga_evaluated *e) {
    if (e->learning_count == 0) {
        return;
    }
    ga_json_array(json, "learning_curve");
    for (int32_t i = 0; i < e->learning_count; i++) {
        const ga_learning_point *point = &e->learning[i];
        ga_json_object(json, NULL);
        ga_json_real(json, "share", point->share);
        ga_json_integer(json, "n_rows", point->rows);
        ga_json_integer(json, "n_groups", point->groups);
        ga_json_text(json, "chosen", ga_probe_kind_name(point->chosen));
        ga_json_real(json, "residual_sd", point->residual);
        ga_json_object(json, "spearman");
        for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
            if (point->spearman[kind].groups > 0) {
                ga_command_within(json, ga_probe_kind_name((ga_probe_kind)kind), &point->spearman[kind]);
            }
        }
        ga_json_end(json);
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void head_as_json(ga_json *json, const ga_evaluated *e) {
    ga_json_text(json, "probe", e->probe_path);
    ga_json_text(json, "kind", ga_probe_kind_name(e->probe.kind));
    ga_json_integer(json, "n_rows", e->figures.rows);
    ga_json_integer(json, "n_groups", e->figures.groups);
    ga_json_boolean(json, "audited_only", e->audited_only);
    sample_as_json(json, e->in_sample);
    ga_json_integer(json, "n_rows_learned", e->learned_rows);
    ga_json_integer(json, "n_rows_left_out", e->left_out_rows);
    ga_json_real(json, "gate", e->gate);
    ga_json_boolean(json, "above_gate", ga_evaluated_is_above_gate(e));
}

void ga_evaluated_as_json(const ga_evaluated *e, FILE *out) {
    ga_json json = ga_json_make(out);
    ga_json_object(&json, NULL);
    head_as_json(&json, e);
    within_as_json(&json, &e->figures);
    pooled_as_json(&json, &e->figures);
    lines_as_json(&json, "by_step", &e->by_step);
    inputs_as_json(&json, e);
    lines_as_json(&json, "by_scorer", &e->by_target);
    if (e->by_head.count > 0) {
        lines_as_json(&json, "by_head", &e->by_head);
    }
    if (e->by_category.count > 0) {
        lines_as_json(&json, "by_category", &e->by_category);
    }
    training_as_json(&json, &e->probe);
    rivals_as_json(&json, e);
    distribution_as_json(&json, &e->figures.distribution);
    worst_as_json(&json, e);
    quarter_as_json(&json, "top_quarter", &e->figures.top);
    quarter_as_json(&json, "bottom_quarter", &e->figures.bottom);
    best_as_json(&json, e->figures.best);
    ga_json_object(&json, "energy");
    energy_as_json(&json, "global", e->figures.energy[GA_STD_GLOBAL]);
    energy_as_json(&json, "group", e->figures.energy[GA_STD_GROUP]);
    ga_json_end(&json);
    reliability_as_json(&json, &e->figures.reliability);
    drift_as_json(&json, &e->figures);
    ceiling_as_json(&json, e);
    learning_as_json(&json, e);
    ga_json_end(&json);
}
