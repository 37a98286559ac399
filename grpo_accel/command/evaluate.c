/* evaluate: how good a probe is on a record, within prompt groups; pooled figures are labelled as pooled. */
#include "grpo_accel/command/evaluate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/command/categories.h"
#include "grpo_accel/command/command.h"
#include "grpo_accel/command/figures.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/session/projection.h"

#define RESAMPLES 1000
#define STEP_MAX 65535

/* What the call asks for, and what it is answered from. */
typedef struct evaluating {
    const char *report;      /* NULL: no files */
    const char *predictions; /* NULL: no file */
    const char *categories_path;
    bool curve, all_rows;
    int64_t step; /* 0: all of the probe's */
    ga_probe *probe;
    ga_lessons *lessons;
    float *reward;      /* of the rows that are judged, NaN for others */
    ga_dataset dataset; /* the lessons with these */
    ga_judged judged;
    ga_evaluated *found;
} evaluating;

static const ga_dataset *dataset_of(const evaluating *e) {
    return &e->dataset;
}

/* ---- the call ---- */

static ga_status read_call(const ga_call *call, evaluating *e, ga_error *error) {
    ga_evaluated *found = e->found;
    found->probe_path = ga_arguments_value(&call->arguments, "probe");
    found->data = ga_arguments_value(&call->arguments, "data");
    found->against_path = ga_arguments_value(&call->arguments, "against");
    e->report = ga_arguments_value(&call->arguments, "report");
    e->predictions = ga_arguments_value(&call->arguments, "predictions");
    e->categories_path = ga_arguments_value(&call->arguments, "categories");
    e->curve = ga_arguments_has(&call->arguments, "curve");
    e->all_rows = ga_arguments_has(&call->arguments, "all-rows");
    if (found->probe_path == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "evaluate: --probe FILE is missing");
    }
    if (found->data == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "evaluate: --data FOLDER is missing");
    }
    GA_TRY(ga_arguments_integer(&call->arguments, "step", 1, STEP_MAX, 0, &e->step, error));
    return ga_arguments_real(&call->arguments, "gate", -1, 1, 0, &found->gate, error);
}

/* Rows after the wanted steps with some of the record's inputs (0: all). Row numbers do not depend on them.
 */
static ga_status read_lessons(
    const evaluating *e, uint32_t inputs, const char *targets, ga_lessons **lessons_out, ga_error *error) {
    const ga_probe_info *info = ga_probe_get_info(e->probe);
    const int32_t one = (int32_t)e->step;
    const ga_lessons_options source = {.path = e->found->data,
        .steps = e->step > 0 ? &one : info->steps,
        .step_count = e->step > 0 ? 1 : info->step_count,
        .inputs = inputs,
        .targets = targets};
    return ga_lessons_read(&source, lessons_out, error);
}

static ga_status open_both(evaluating *e, ga_error *error) {
    GA_TRY(ga_probe_open(e->found->probe_path, ga_compute_native(), &e->probe, error));
    const ga_probe_info *info = ga_probe_get_info(e->probe);
    e->found->probe = *info;
    GA_TRY(read_lessons(e, ga_projection_inputs(&info->schema), "all", &e->lessons, error));
    const ga_record_table *table = ga_lessons_table(e->lessons);
    ga_command_warn_refused(table);
    if (table->rows == 0) {
        return GA_FAIL(error, GA_ERR_DATA, "%.200s: the record has no rows", e->found->data);
    }
    e->dataset = *ga_lessons_dataset(e->lessons);
    const ga_probe_requirement requirement = {.schema = e->dataset.schema,
        .model = table->layout.model,
        .step = e->step > 0 ? (int32_t)e->step : info->steps[0],
        .steps_total = table->steps_total[table->rows - 1]};
    return ga_probe_match(e->probe, &requirement, error);
}

/* Rows that a prediction chose to keep flatter or spoil it; rows kept by chance do neither. */
static void choose_audited(evaluating *e) {
    const ga_record_table *table = ga_lessons_table(e->lessons);
    int64_t pruned = 0, audited = 0;
    for (int64_t i = 0; i < table->rows; i++) {
        pruned += table->kept[i] == 0;
        audited += table->audit[i] != 0;
    }
    e->found->audited_only = pruned > 0 && audited > 0;
    if (pruned > 0 && audited == 0) {
        (void)fputs("grpo-accel: warning: rows were pruned by prediction and none was kept by chance: these "
                    "figures are of selected rows; set decision.audit above 0\n",
            stderr);
    }
}

static ga_status choose_rows(evaluating *e, ga_error *error) {
    choose_audited(e);
    e->reward = calloc(ga_size(e->dataset.rows) + 1, sizeof *e->reward);
    if (e->reward == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    GA_TRY(ga_evaluated_choose_rows(e->probe, e->lessons, e->all_rows, e->reward, e->found, error));
    e->dataset.reward = e->reward;
    return GA_OK;
}

/* ---- rivals ---- */

/* A figure that no group has is left out; anything else is a failure. */
static ga_status pass_missing(ga_status status, const ga_error *why, ga_error *error) {
    return status == GA_OK || status == GA_ERR_DATA ? GA_OK : GA_FAIL(error, status, "%s", why->message);
}

static ga_status add_rival(
    evaluating *e, const char *key, const char *name, const double *score, ga_error *error) {
    ga_evaluated *found = e->found;
    ga_evaluated_rival *rival = &found->rivals[found->rival_count];
    ga_error why = {0};
    const ga_status status = ga_judge_against(&e->judged, score, 0, RESAMPLES, &rival->baseline, &why);
    if (status == GA_OK) {
        rival->key = key;
        (void)snprintf(rival->name, sizeof rival->name, "%s", name);
        found->rival_count++;
    }
    return pass_missing(status, &why, error);
}

static void add_known_rival(
    ga_evaluated *found, const char *key, const char *name, const ga_baseline *baseline) {
    ga_evaluated_rival *rival = &found->rivals[found->rival_count++];
    rival->key = key;
    (void)snprintf(rival->name, sizeof rival->name, "%s", name);
    rival->baseline = *baseline;
}

/* The order that one number alone, such as the preview's score, gives. score: scratch [rows]. */
static ga_status judge_inputs(evaluating *e, const ga_dataset *all, double *score, ga_error *error) {
    for (int32_t i = 0; i < all->schema->input_count; i++) {
        const ga_input_shape *input = &all->schema->inputs[i];
        const bool scores = input->input == GA_INPUT_PREVIEW || input->input == GA_INPUT_LOOKAHEAD ||
                            input->input == GA_INPUT_DISTILLED;
        const bool number = input->channels == 1 && input->height == 1 && input->width == 1;
        if (!scores && !number) {
            continue;
        }
        char name[GA_EVALUATED_NAME_BYTES];
        (void)snprintf(name, sizeof name, "%s alone", ga_record_input_name(input->input));
        GA_TRY(ga_judged_feature(all, &e->judged, input->offset, score, error));
        const int32_t before = e->found->rival_count;
        GA_TRY(add_rival(e, ga_record_input_name(input->input), name, score, error));
        if (e->found->rival_count > before) {
            e->found->by_input[input->input] = e->found->rivals[before].baseline.spearman;
        }
    }
    return GA_OK;
}

/* Also inputs that the record has and the probe does not take. */
static ga_status judge_all_inputs(evaluating *e, double *score, ga_error *error) {
    if (ga_lessons_table(e->lessons)->layout.features.input_count == dataset_of(e)->schema->input_count) {
        return judge_inputs(e, dataset_of(e), score, error);
    }
    ga_lessons *all = NULL;
    GA_TRY(read_lessons(e, 0, NULL, &all, error));
    const ga_status status = judge_inputs(e, ga_lessons_dataset(all), score, error);
    ga_lessons_free(&all);
    return status;
}

static ga_status score_other(const evaluating *e, ga_probe *other, double *score, ga_error *error) {
    ga_lessons *lessons = NULL;
    const ga_probe_info *info = ga_probe_get_info(other);
    GA_TRY(read_lessons(e, ga_projection_inputs(&info->schema), NULL, &lessons, error));
    const ga_status status = ga_judged_score(other, ga_lessons_dataset(lessons), &e->judged, score, error);
    ga_lessons_free(&lessons);
    return status;
}

/* The probe of --against on the same rows. */
static ga_status judge_other(evaluating *e, double *score, ga_error *error) {
    if (e->found->against_path == NULL) {
        return GA_OK;
    }
    ga_probe *other = NULL;
    GA_TRY(ga_probe_open(e->found->against_path, ga_compute_native(), &other, error));
    ga_status status = score_other(e, other, score, error);
    if (status == GA_OK) {
        status = ga_evaluated_sample_of(other, e->lessons, &e->judged, &e->found->other_in_sample, error);
    }
    char name[GA_EVALUATED_NAME_BYTES];
    (void)snprintf(name, sizeof name, "probe version %u (--against)", ga_probe_get_info(other)->version);
    ga_probe_close(&other);
    return status == GA_OK ? add_rival(e, "against", name, score, error) : status;
}

static ga_status judge_rivals(evaluating *e, ga_error *error) {
    double *score = calloc(ga_size(e->judged.rows) + 1, sizeof *score);
    if (score == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    const ga_evaluation *figures = &e->found->figures;
    add_known_rival(e->found, "ridge", "its own ridge", &figures->ridge);
    ga_status status = judge_all_inputs(e, score, error);
    if (status == GA_OK) {
        status = judge_other(e, score, error);
    }
    add_known_rival(e->found, "random", "random order", &figures->random);
    add_known_rival(e->found, "prompt_mean", "prompt mean", &figures->prompt_mean);
    free(score);
    return status;
}

/* ---- by step, scorer, category ---- */

static ga_status add_slice(evaluating *e, ga_evaluated_lines *lines, const char *name, const int32_t *label,
    int32_t value, ga_error *error) {
    if (lines->count == GA_EVALUATED_LINES_MAX) {
        return GA_OK;
    }
    ga_evaluated_line *line = &lines->lines[lines->count];
    ga_error why = {0};
    const ga_status status = ga_judge_slice(&e->judged, label, value, 0, RESAMPLES, &line->spearman, &why);
    if (status == GA_OK) {
        (void)snprintf(line->name, sizeof line->name, "%s", name);
        lines->count++;
    }
    return pass_missing(status, &why, error);
}

static ga_status judge_steps(evaluating *e, ga_error *error) {
    const int32_t *steps = NULL;
    const int32_t count = ga_lessons_steps(e->lessons, &steps);
    ga_evaluated_lines *lines = &e->found->by_step;
    for (int32_t i = 0; i < count; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "%d", steps[i]);
        if (dataset_of(e)->step != NULL && count > 1) {
            GA_TRY(add_slice(e, lines, name, dataset_of(e)->step, steps[i], error));
        } else {
            (void)snprintf(lines->lines[0].name, sizeof lines->lines[0].name, "%s", name);
            lines->lines[0].spearman = e->found->figures.within[GA_WITHIN_SPEARMAN];
            lines->count = 1;
        }
    }
    return GA_OK;
}

/* Scratch of what follows. */
typedef struct scorer_room {
    double *target, *prediction; /* [rows] */
} scorer_room;

static ga_status add_line(evaluating *e, ga_evaluated_lines *lines, const char *name,
    const double *prediction, const double *target, ga_error *error) {
    ga_evaluated_line *line = &lines->lines[lines->count];
    ga_error why = {0};
    const ga_status status = ga_within_estimate(GA_WITHIN_SPEARMAN, prediction, target, e->judged.group,
        ga_size(e->judged.rows), 0, RESAMPLES, &line->spearman, &why);
    if (status == GA_OK) {
        (void)snprintf(line->name, sizeof line->name, "%s", name);
        lines->count++;
    }
    return pass_missing(status, &why, error);
}

/* How the prediction of the combined reward orders a scorer's own, and how the probe's head for it does. */
static ga_status judge_target(evaluating *e, int32_t index, const scorer_room *room, ga_error *error) {
    const ga_dataset *dataset = dataset_of(e);
    const ga_judged *judged = &e->judged;
    const char *name = dataset->target_names != NULL ? dataset->target_names[index] : "combined";
    for (int64_t i = 0; i < judged->rows; i++) {
        room->target[i] = (double)ga_dataset_target(dataset, judged->row[i], index);
    }
    GA_TRY(add_line(e, &e->found->by_target, name, judged->prediction, room->target, error));
    const ga_probe_info *info = &e->found->probe;
    for (int32_t head = 1; head < info->target_count; head++) {
        if (strcmp(info->target_names[head], name) == 0) {
            GA_TRY(ga_judged_score_target(e->probe, dataset, judged, head, room->prediction, error));
            return add_line(e, &e->found->by_head, name, room->prediction, room->target, error);
        }
    }
    return GA_OK;
}

static ga_status judge_targets(evaluating *e, ga_error *error) {
    const size_t rows = ga_size(e->judged.rows);
    double *memory = calloc(2 * rows + 1, sizeof *memory);
    if (memory == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    const scorer_room room = {.target = memory, .prediction = memory + rows};
    ga_status status = GA_OK;
    const int32_t count = ga_dataset_target_count(dataset_of(e));
    for (int32_t i = 0; i < count && i < GA_EVALUATED_LINES_MAX && status == GA_OK; i++) {
        status = judge_target(e, i, &room, error);
    }
    free(memory);
    return status;
}

static ga_status judge_labels(evaluating *e, const ga_categories *categories, ga_error *error) {
    const ga_dataset *dataset = dataset_of(e);
    int32_t *label = calloc(ga_size(dataset->rows) + 1, sizeof *label);
    if (label == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    for (int64_t i = 0; i < dataset->rows; i++) {
        label[i] = ga_categories_find(categories, dataset->prompt[i]);
    }
    ga_status status = GA_OK;
    for (int32_t c = 0; c < ga_categories_count(categories) && status == GA_OK; c++) {
        status = add_slice(e, &e->found->by_category, ga_categories_name(categories, c), label, c, error);
    }
    if (status == GA_OK) {
        status = add_slice(e, &e->found->by_category, "(no category)", label, -1, error);
    }
    free(label);
    return status;
}

static ga_status judge_categories(evaluating *e, ga_error *error) {
    if (e->categories_path == NULL) {
        return GA_OK;
    }
    ga_categories *categories = NULL;
    GA_TRY(ga_categories_read(e->categories_path, &categories, error));
    const ga_status status = judge_labels(e, categories, error);
    ga_categories_free(&categories);
    return status;
}

/* ---- what the record says of groups ---- */

/* The table's row behind a row of the dataset. */
static int64_t table_row(const evaluating *e, int64_t row) {
    const int32_t *steps = NULL;
    const int32_t count = ga_lessons_steps(e->lessons, &steps);
    return row / (count > 0 ? count : 1);
}

static void name_worst(evaluating *e) {
    const ga_record_table *table = ga_lessons_table(e->lessons);
    for (int32_t i = 0; i < e->found->figures.worst_count; i++) {
        ga_evaluated_group *group = &e->found->worst[i];
        const int64_t row = table_row(e, e->found->figures.worst[i].row);
        for (int b = 0; b < 16; b++) {
            (void)snprintf(group->prompt_hash + 2 * b, 3, "%02x", table->prompt_hash[row][b]);
        }
        if (table->prompts != NULL) {
            (void)snprintf(group->prompt, sizeof group->prompt, "%.159s",
                table->prompts + ga_size(row) * table->prompt_bytes);
        }
        group->update = table->update[row];
    }
}

/* Where the record has second rewards from the same states. */
static ga_status judge_retest(evaluating *e, ga_error *error) {
    const ga_record_table *table = ga_lessons_table(e->lessons);
    int32_t scorer = -1;
    for (int32_t s = 0; s < table->layout.scorer_count; s++) {
        scorer = strcmp(table->layout.scorers[s], GA_LESSONS_RETEST) == 0 ? s : scorer;
    }
    if (scorer < 0) {
        return GA_OK;
    }
    double *again = calloc(ga_size(e->judged.rows) + 1, sizeof *again);
    if (again == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    for (int64_t i = 0; i < e->judged.rows; i++) {
        const int64_t row = table_row(e, e->judged.row[i]);
        again[i] = (double)table->rewards[row * table->layout.scorer_count + scorer];
    }
    ga_error why = {0};
    const ga_status status = ga_judge_ceiling(&e->judged, again, 0, RESAMPLES, &e->found->ceiling, &why);
    e->found->has_ceiling = status == GA_OK;
    free(again);
    return pass_missing(status, &why, error);
}

/* ---- figures against the number of rows ---- */

static ga_status measure_curve(evaluating *e, ga_error *error) {
    static const double shares[GA_LEARNING_POINTS] = {0.25, 0.5, 0.75, 1.0};
    const ga_probe_info *info = &e->found->probe;
    ga_train_options options = ga_train_options_default();
    options.model = info->model;
    options.steps = info->steps;
    options.step_count = info->step_count;
    options.steps_total = info->steps_total;
    const ga_train_callbacks callbacks = {.stop = NULL};
    ga_evaluated *found = e->found;
    for (int i = 0; i < GA_LEARNING_POINTS && e->curve; i++) {
        ga_error why = {0};
        const ga_status status = ga_learning_measure(ga_lessons_dataset(e->lessons), &options, &callbacks,
            ga_compute_native(), shares[i], &found->learning[found->learning_count], &why);
        found->learning_count += status == GA_OK ? 1 : 0;
        GA_TRY(pass_missing(status, &why, error));
    }
    return GA_OK;
}

static ga_status evaluate(evaluating *e, ga_error *error) {
    GA_TRY(open_both(e, error));
    GA_TRY(choose_rows(e, error));
    const ga_evaluate_options options = {
        .seed = 0, .resamples = RESAMPLES, .audited_only = e->found->audited_only};
    GA_TRY(ga_judge(e->probe, dataset_of(e), options.audited_only, &e->judged, error));
    GA_TRY(ga_evaluate_judged(e->probe, dataset_of(e), &e->judged, &options, &e->found->figures, error));
    GA_TRY(judge_rivals(e, error));
    GA_TRY(judge_steps(e, error));
    GA_TRY(judge_targets(e, error));
    GA_TRY(judge_categories(e, error));
    GA_TRY(judge_retest(e, error));
    name_worst(e);
    return measure_curve(e, error);
}

/* ---- the answer ---- */

bool ga_evaluated_is_above_gate(const ga_evaluated *e) {
    return e->figures.within[GA_WITHIN_SPEARMAN].low > e->gate;
}

static void print_within(const char *name, const ga_within *within) {
    (void)printf("  %-28s %6.3f  [%6.3f, %6.3f]\n", name, within->value, within->low, within->high);
}

static void print_rivals(const ga_evaluated *e) {
    (void)printf("beside it, on the same rows (Spearman within groups; probe − rival, paired):\n");
    for (int32_t i = 0; i < e->rival_count; i++) {
        const ga_baseline *b = &e->rivals[i].baseline;
        (void)printf("  %-28s %6.3f  [%6.3f, %6.3f]   %+.3f [%+.3f, %+.3f]\n", e->rivals[i].name,
            b->spearman.value, b->spearman.low, b->spearman.high, b->difference.value, b->difference.low,
            b->difference.high);
    }
}

static void print_lines(const char *title, const ga_evaluated_lines *lines) {
    for (int32_t i = 0; i < lines->count && lines->count > 1; i++) {
        char name[GA_EVALUATED_NAME_BYTES + 16];
        (void)snprintf(name, sizeof name, "%s %s", title, lines->lines[i].name);
        print_within(name, &lines->lines[i].spearman);
    }
}

static void print_sample(const ga_evaluated *e) {
    if (e->in_sample == GA_SAMPLE_UNKNOWN) {
        (void)puts("its file does not say which rows it has learned from: if they are among these, it looks "
                   "better than it is");
    } else if (e->in_sample == GA_SAMPLE_IN) {
        (void)printf("IN SAMPLE: it has learned from %lld of these rows and looks better than it is\n",
            (long long)e->learned_rows);
    } else if (e->left_out_rows > 0) {
        (void)printf("%lld more rows are left out because it has learned from them (--all-rows takes them)\n",
            (long long)e->left_out_rows);
    }
}

static void print_figures(const ga_evaluated *e) {
    const ga_evaluation *f = &e->figures;
    const ga_probe_info *info = &e->probe;
    (void)printf("%s (%s), %lld rows in %lld prompt groups%s\n", e->probe_path,
        ga_probe_kind_name(info->kind), (long long)f->rows, (long long)f->groups,
        e->audited_only ? ", audited rows only" : "");
    (void)printf("trained on %lld rows; on prompts held out then: Spearman %.3f [%.3f, %.3f]\n",
        (long long)info->trained_rows, info->spearman, info->spearman_low, info->spearman_high);
    print_sample(e);
    (void)printf("on this record, within prompt groups, 95 %% interval over groups:\n");
    print_within("Spearman", &f->within[GA_WITHIN_SPEARMAN]);
    print_within("Pearson", &f->within[GA_WITHIN_PEARSON]);
    print_within("Kendall", &f->within[GA_WITHIN_KENDALL]);
    print_within("AUC top quarter", &f->within[GA_WITHIN_AUC_TOP_QUARTER]);
    print_within("AUC bottom quarter", &f->within[GA_WITHIN_AUC_BOTTOM_QUARTER]);
    print_within("pairwise", &f->within[GA_WITHIN_PAIRWISE]);
    print_lines("step", &e->by_step);
    print_lines("scorer", &e->by_target);
    print_lines("own head for", &e->by_head);
    print_lines("category", &e->by_category);
    if (e->has_ceiling) {
        print_within("largest Pearson possible", &e->ceiling.ceiling);
    }
    print_rivals(e);
    const ga_energy_point *energy = f->energy[GA_STD_GLOBAL];
    (void)printf("energy kept: %.3f of a quarter of the rows, %.3f of a half\n", energy[2].probe.value,
        energy[5].probe.value);
    (void)printf("calibration: slope %.3f, %.3f of rewards in the 90 %% interval\n",
        f->reliability.slope.value, f->reliability.reward_coverage[2].share.value);
    (void)printf(
        "pooled over prompts (how well prompts are told apart): Spearman %.3f, Pearson %.3f, AUC %.3f\n",
        f->pooled_spearman, f->pooled_pearson, f->pooled_auc);
}

static ga_status can_not_write(const char *path, ga_error *error) {
    return GA_FAIL(error, GA_ERR_IO, "%.200s: can't write the report: %s", path, strerror(errno));
}

/* One file of the report, whole or not at all. */
static ga_status write_file(const evaluating *e, const char *name,
    void (*write)(const ga_evaluated *found, FILE *out), ga_error *error) {
    char path[4096], temporary[4096];
    const int length = snprintf(path, sizeof path, "%s/%s", e->report, name);
    if (length < 0 || (size_t)length + 8 >= sizeof path) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "evaluate: the path of --report is too long");
    }
    (void)snprintf(temporary, sizeof temporary, "%.4080s.tmp", path);
    FILE *file = fopen(temporary, "we");
    if (file == NULL) {
        return can_not_write(temporary, error);
    }
    write(e->found, file);
    const bool written = fflush(file) == 0 && ferror(file) == 0 && fsync(fileno(file)) == 0;
    const bool complete = fclose(file) == 0 && written;
    if (!complete || rename(temporary, path) != 0) {
        (void)can_not_write(path, error);
        (void)unlink(temporary);
        return GA_ERR_IO;
    }
    return GA_OK;
}

static ga_status write_report(const evaluating *e, ga_error *error) {
    if (e->predictions != NULL) {
        GA_TRY(ga_evaluated_write_rows(e->predictions, &e->judged, e->lessons, error));
    }
    if (e->report == NULL) {
        return GA_OK;
    }
    if (mkdir(e->report, 0750) != 0 && errno != EEXIST) {
        return can_not_write(e->report, error);
    }
    GA_TRY(write_file(e, "metrics.json", ga_evaluated_as_json, error));
    return write_file(e, "index.html", ga_evaluated_as_page, error);
}

static ga_exit answer(const ga_call *call, const ga_evaluated *found) {
    if (call->json) {
        ga_evaluated_as_json(found, stdout);
    } else if (!call->quiet) {
        print_figures(found);
    }
    return ga_evaluated_is_above_gate(found) ? GA_EXIT_DONE : GA_EXIT_NO;
}

ga_exit ga_command_evaluate(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    evaluating e = {.found = calloc(1, sizeof *e.found)};
    ga_status status = GA_OK;
    if (e.found == NULL) {
        status = GA_FAIL(&error, GA_ERR_MEMORY, "evaluate: out of memory");
    }
    if (status == GA_OK) {
        status = read_call(call, &e, &error);
    }
    if (status == GA_OK) {
        status = evaluate(&e, &error);
    }
    if (status == GA_OK) {
        status = write_report(&e, &error);
    }
    const ga_exit code = status == GA_OK ? answer(call, e.found) : ga_command_fail(call, &error);
    ga_judged_destroy(&e.judged);
    free(e.reward);
    ga_lessons_free(&e.lessons);
    ga_probe_close(&e.probe);
    free(e.found);
    return code;
}
