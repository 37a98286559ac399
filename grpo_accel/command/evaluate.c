/* evaluate: how good a probe is on a record, within prompt groups; pooled figures are labelled as pooled. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/command/figures.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/session/lessons.h"
#include "grpo_accel/session/projection.h"
#include "probe/train/evaluate.h"

#define RESAMPLES 1000

/* What the call asks for, and what it is answered from. */
typedef struct evaluating {
    const char *probe_path;
    const char *data;
    const char *report; /* NULL: no file */
    double gate;
    ga_probe *probe;
    ga_lessons *lessons;
    bool audited_only; /* pruned rows are there, so only rows kept by chance are honest */
    ga_evaluation figures;
    ga_within by_input[GA_INPUT_COUNT]; /* groups 0: not a single number */
} evaluating;

static ga_status read_call(const ga_call *call, evaluating *e, ga_error *error) {
    e->probe_path = ga_arguments_value(&call->arguments, "probe");
    e->data = ga_arguments_value(&call->arguments, "data");
    e->report = ga_arguments_value(&call->arguments, "report");
    if (e->probe_path == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "evaluate: --probe FILE is missing");
    }
    if (e->data == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "evaluate: --data FOLDER is missing");
    }
    return ga_arguments_real(&call->arguments, "gate", -1, 1, 0, &e->gate, error);
}

static ga_status open_both(evaluating *e, ga_error *error) {
    GA_TRY(ga_probe_open(e->probe_path, ga_compute_native(), &e->probe, error));
    const ga_probe_info *info = ga_probe_get_info(e->probe);
    const ga_lessons_options source = {
        .path = e->data, .step = info->steps[0], .inputs = ga_projection_inputs(&info->schema)};
    GA_TRY(ga_lessons_read(&source, &e->lessons, error));
    const ga_record_table *table = ga_lessons_table(e->lessons);
    ga_command_warn_refused(table);
    if (table->rows == 0) {
        return GA_FAIL(error, GA_ERR_DATA, "%.200s: the record has no rows", e->data);
    }
    const ga_probe_requirement requirement = {.schema = ga_lessons_dataset(e->lessons)->schema,
        .model = table->layout.model,
        .step = info->steps[0],
        .steps_total = table->steps_total[table->rows - 1]};
    return ga_probe_match(e->probe, &requirement, error);
}

/* Rows that a prediction chose to keep flatter or spoil it; rows kept by chance do neither. */
static void choose_rows(evaluating *e) {
    const ga_record_table *table = ga_lessons_table(e->lessons);
    int64_t pruned = 0, audited = 0;
    for (int64_t i = 0; i < table->rows; i++) {
        pruned += table->kept[i] == 0;
        audited += table->audit[i] != 0;
    }
    e->audited_only = pruned > 0 && audited > 0;
    if (pruned > 0 && audited == 0) {
        (void)fputs("grpo-accel: warning: rows were pruned by prediction and none was kept by chance: these "
                    "figures are "
                    "of selected rows; set decision.audit above 0\n",
            stderr);
    }
}

/* The order that one number alone, such as the preview's score, gives. Fields without order stay at groups 0.
 */
static ga_status judge_input(
    evaluating *e, const ga_part *part, const ga_input_shape *input, float *score, ga_error *error) {
    const ga_dataset *dataset = ga_lessons_dataset(e->lessons);
    for (int64_t i = 0; i < part->count; i++) {
        const int64_t at = part->rows[i] * dataset->schema->values_per_row + input->offset;
        score[i] = ga_half_to_float(dataset->features[at]);
    }
    return ga_evaluate_part(
        GA_WITHIN_SPEARMAN, dataset, part, score, 0, RESAMPLES, NULL, &e->by_input[input->input], error);
}

static ga_status judge_inputs(evaluating *e, ga_error *error) {
    const ga_feature_schema *schema = ga_lessons_dataset(e->lessons)->schema;
    ga_part part;
    GA_TRY(ga_part_all(ga_lessons_dataset(e->lessons), e->audited_only, 1, &part, error));
    float *score = calloc((size_t)part.count + 1, sizeof *score);
    ga_status status = GA_OK;
    if (score == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    for (int32_t i = 0; i < schema->input_count && status == GA_OK; i++) {
        const ga_input_shape *input = &schema->inputs[i];
        if (input->channels == 1 && input->height == 1 && input->width == 1) {
            status = judge_input(e, &part, input, score, error);
        }
    }
    free(score);
    ga_part_destroy(&part);
    return status;
}

static ga_status evaluate(evaluating *e, ga_error *error) {
    GA_TRY(open_both(e, error));
    choose_rows(e);
    const ga_evaluate_options options = {.seed = 0, .resamples = RESAMPLES, .audited_only = e->audited_only};
    GA_TRY(ga_evaluate(e->probe, ga_lessons_dataset(e->lessons), &options, &e->figures, error));
    return judge_inputs(e, error);
}

/* ---- the answer ---- */

static bool is_above_gate(const evaluating *e) {
    return e->figures.within[GA_WITHIN_SPEARMAN].low > e->gate;
}

static void baseline_as_json(ga_json *json, const char *name, const ga_baseline *baseline) {
    ga_json_object(json, name);
    ga_command_within(json, "within_spearman", &baseline->spearman);
    ga_json_real(json, "pooled_spearman", baseline->pooled_spearman);
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

static void parts_as_json(ga_json *json, const evaluating *e) {
    const ga_probe_info *info = ga_probe_get_info(e->probe);
    char step[16];
    (void)snprintf(step, sizeof step, "%d", info->steps[0]);
    ga_json_object(json, "by_step");
    ga_command_within(json, step, &e->figures.within[GA_WITHIN_SPEARMAN]);
    ga_json_end(json);
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

static void write_json(const evaluating *e, FILE *out) {
    const ga_evaluation *figures = &e->figures;
    ga_json json = ga_json_make(out);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "probe", e->probe_path);
    ga_json_text(&json, "kind", ga_probe_kind_name(ga_probe_get_info(e->probe)->kind));
    ga_json_integer(&json, "n_rows", figures->rows);
    ga_json_integer(&json, "n_groups", figures->groups);
    ga_json_boolean(&json, "audited_only", e->audited_only);
    ga_json_real(&json, "gate", e->gate);
    ga_json_boolean(&json, "above_gate", is_above_gate(e));
    within_as_json(&json, figures);
    ga_json_object(&json, "pooled");
    ga_json_real(&json, "spearman", figures->pooled_spearman);
    ga_json_real(&json, "pearson", figures->pooled_pearson);
    ga_json_real(&json, "auc", figures->pooled_auc);
    ga_json_end(&json);
    ga_json_object(&json, "baselines");
    baseline_as_json(&json, "prompt_mean", &figures->prompt_mean);
    baseline_as_json(&json, "ridge", &figures->ridge);
    baseline_as_json(&json, "random", &figures->random);
    ga_json_end(&json);
    ga_json_object(&json, "kept_energy");
    ga_json_real(&json, "0.25", figures->energy[GA_STD_GLOBAL][2].probe.value);
    ga_json_real(&json, "0.5", figures->energy[GA_STD_GLOBAL][5].probe.value);
    ga_json_end(&json);
    ga_json_object(&json, "calibration");
    ga_json_real(&json, "slope", figures->reliability.slope.value);
    ga_json_real(&json, "coverage90", figures->reliability.reward_coverage[2].share.value);
    ga_json_end(&json);
    parts_as_json(&json, e);
    training_as_json(&json, ga_probe_get_info(e->probe));
    ga_json_end(&json);
}

static void print_within(const char *name, const ga_within *within) {
    (void)printf("  %-18s %6.3f  [%6.3f, %6.3f]\n", name, within->value, within->low, within->high);
}

static void print_figures(const evaluating *e) {
    const ga_evaluation *f = &e->figures;
    (void)printf("%s (%s), %lld rows in %lld prompt groups%s\n", e->probe_path,
        ga_probe_kind_name(ga_probe_get_info(e->probe)->kind), (long long)f->rows, (long long)f->groups,
        e->audited_only ? ", audited rows only" : "");
    const ga_probe_info *info = ga_probe_get_info(e->probe);
    (void)printf("trained on %lld rows; on prompts held out then: Spearman %.3f [%.3f, %.3f]\n",
        (long long)info->trained_rows, info->spearman, info->spearman_low, info->spearman_high);
    (void)printf("on this record, within prompt groups, 95 %% interval over groups:\n");
    print_within("Spearman", &f->within[GA_WITHIN_SPEARMAN]);
    print_within("  its ridge", &f->ridge.spearman);
    for (int i = 0; i < GA_INPUT_COUNT; i++) {
        if (e->by_input[i].groups > 0) {
            char name[48];
            (void)snprintf(name, sizeof name, "  %s alone", ga_record_input_name((ga_input)i));
            print_within(name, &e->by_input[i]);
        }
    }
    print_within("Pearson", &f->within[GA_WITHIN_PEARSON]);
    print_within("Kendall", &f->within[GA_WITHIN_KENDALL]);
    print_within("AUC top quarter", &f->within[GA_WITHIN_AUC_TOP_QUARTER]);
    print_within("pairwise", &f->within[GA_WITHIN_PAIRWISE]);
    (void)printf("energy kept: %.3f of a quarter of the rows, %.3f of a half\n",
        f->energy[GA_STD_GLOBAL][2].probe.value, f->energy[GA_STD_GLOBAL][5].probe.value);
    (void)printf("calibration: slope %.3f, %.3f of rewards in the 90 %% interval\n",
        f->reliability.slope.value, f->reliability.reward_coverage[2].share.value);
    (void)printf(
        "pooled over prompts (how well prompts are told apart): Spearman %.3f, Pearson %.3f, AUC %.3f\n",
        f->pooled_spearman, f->pooled_pearson, f->pooled_auc);
}

static ga_status can_not_write(const char *path, ga_error *error) {
    return GA_FAIL(error, GA_ERR_IO, "%.200s: can't write the report: %s", path, strerror(errno));
}

/* metrics.json, whole or not at all. */
static ga_status write_report(const evaluating *e, ga_error *error) {
    char path[4096], temporary[4096];
    const int length = snprintf(path, sizeof path, "%s/metrics.json", e->report);
    if (length < 0 || (size_t)length + 8 >= sizeof path) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "evaluate: the path of --report is too long");
    }
    (void)snprintf(temporary, sizeof temporary, "%.4080s.tmp", path);
    if (mkdir(e->report, 0750) != 0 && errno != EEXIST) {
        return can_not_write(e->report, error);
    }
    FILE *file = fopen(temporary, "w");
    if (file == NULL) {
        return can_not_write(temporary, error);
    }
    write_json(e, file);
    const bool written = fflush(file) == 0 && fsync(fileno(file)) == 0;
    const bool complete = fclose(file) == 0 && written;
    if (!complete || rename(temporary, path) != 0) {
        (void)can_not_write(path, error);
        (void)unlink(temporary);
        return GA_ERR_IO;
    }
    return GA_OK;
}

ga_exit ga_command_evaluate(const ga_call *call) {
    evaluating e = {.probe = NULL};
    ga_error error;
    ga_error_clear(&error);
    ga_status status = read_call(call, &e, &error);
    if (status == GA_OK) {
        status = evaluate(&e, &error);
    }
    if (status == GA_OK && e.report != NULL) {
        status = write_report(&e, &error);
    }
    ga_exit code = GA_EXIT_DONE;
    if (status != GA_OK) {
        code = ga_command_fail(call, &error);
    } else {
        code = is_above_gate(&e) ? GA_EXIT_DONE : GA_EXIT_NO;
        if (call->json) {
            write_json(&e, stdout);
        } else if (!call->quiet) {
            print_figures(&e);
        }
    }
    ga_lessons_free(&e.lessons);
    ga_probe_close(&e.probe);
    return code;
}
