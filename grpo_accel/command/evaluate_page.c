/* evaluate's answer as one HTML page. A pooled figure never stands without the one within groups beside it.
 */
#include <math.h>
#include <string.h>

#include "grpo_accel/base/clock.h"
#include "grpo_accel/command/evaluate.h"
#include "grpo_accel/command/page.h"
#include "grpo_accel/command/plot.h"

enum { TEXT_BYTES = 512 };

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ---- head ---- */

static void say_sample(const ga_evaluated *e, FILE *out) {
    char text[TEXT_BYTES];
    if (e->in_sample == GA_SAMPLE_UNKNOWN) {
        (void)snprintf(text, sizeof text,
            " The probe's file does not say which rows it has learned from; if they are among these, it "
            "looks "
            "better than it is.");
    } else if (e->in_sample == GA_SAMPLE_IN) {
        (void)snprintf(text, sizeof text,
            " IN SAMPLE: it has learned from %lld of these rows and looks better than it is.",
            (long long)e->learned_rows);
    } else {
        (void)snprintf(text, sizeof text,
            " It has learned from none of these rows; %lld that it has learned from are left out.",
            (long long)e->left_out_rows);
    }
    ga_plot_write_text(out, text);
}

static void write_head(const ga_evaluated *e, FILE *out) {
    const ga_probe_info *info = &e->probe;
    char text[TEXT_BYTES], utc[24];
    ga_clock_utc(utc, sizeof utc);
    ga_page_begin(out, "How well does this probe order rollouts of the same prompt?");
    (void)snprintf(text, sizeof text, "%.150s: %s, version %u, for %.100s, decides after step %d of %d.",
        e->probe_path, ga_probe_kind_name(info->kind), info->version, info->model, info->steps[0],
        info->steps_total);
    (void)fputs("<p>", out);
    ga_plot_write_text(out, text);
    (void)snprintf(text, sizeof text, " Judged on %lld rows in %lld prompt groups of %.200s%s, %s.",
        (long long)e->figures.rows, (long long)e->figures.groups, e->data,
        e->audited_only ? ", rows kept by chance only" : "", utc);
    ga_plot_write_text(out, text);
    (void)snprintf(text, sizeof text,
        " The lower end of the within-group Spearman is %sabove the gate of %.3f. Intervals are 95 %%, over "
        "groups.",
        ga_evaluated_is_above_gate(e) ? "" : "NOT ", e->gate);
    ga_plot_write_text(out, text);
    say_sample(e, out);
    (void)fputs("</p>\n", out);
}

/* The rival with the highest Spearman among single inputs; NULL: there is none. */
static const ga_evaluated_rival *best_input(const ga_evaluated *e) {
    const ga_evaluated_rival *best = NULL;
    for (int32_t i = 0; i < e->rival_count; i++) {
        const char *end = strstr(e->rivals[i].name, " alone");
        if (end != NULL &&
            (best == NULL || e->rivals[i].baseline.spearman.value > best->baseline.spearman.value)) {
            best = &e->rivals[i];
        }
    }
    return best;
}

static void write_cards(const ga_evaluated *e, FILE *out) {
    const ga_evaluation *f = &e->figures;
    char text[TEXT_BYTES];
    (void)fputs("<div class=\"cards\">\n", out);
    (void)snprintf(text, sizeof text, "pooled over prompts: %.3f", f->pooled_spearman);
    ga_page_card(out, "Spearman within groups", &f->within[GA_WITHIN_SPEARMAN], text);
    const ga_energy_point *half = &f->energy[GA_STD_GLOBAL][5];
    (void)snprintf(text, sizeof text, "by chance %.3f, at best %.3f", half->random, half->oracle);
    ga_page_card(out, "Signal kept by half of the rows", &half->probe, text);
    ga_page_card(out, "AUC, best quarter of the group", &f->top.auc, "chance is 0.5");
    const ga_evaluated_rival *best = best_input(e);
    if (best != NULL) {
        (void)snprintf(text, sizeof text, "Spearman of the probe less that of %s", best->name);
        ga_page_card(out, "Over the best single input", &best->baseline.difference, text);
    }
    ga_page_card(out, "Slope of reward on prediction", &f->reliability.slope, "1 is right, inside groups");
    (void)fputs("</div>\n", out);
}

/* ---- tables ---- */

static void within_row(FILE *out, const char *name, const ga_within *within, double pooled) {
    ga_page_table_row(out, name);
    ga_page_cell_within(out, within);
    ga_page_cell_number(out, pooled, 3);
    ga_page_table_row_end(out);
}

static void write_within(const ga_evaluated *e, FILE *out) {
    const ga_evaluation *f = &e->figures;
    ga_page_section(out, "Order within groups",
        "What a trainer that subtracts the group's mean can use. The pooled figures mix prompts: they mostly "
        "say "
        "how well prompts are told apart, and the prompt's mean alone, which orders nothing inside a group, "
        "reaches the pooled value in the table of comparisons.");
    ga_page_table_begin(out, "figure|within groups|95 %|groups|pooled");
    within_row(out, "Spearman", &f->within[GA_WITHIN_SPEARMAN], f->pooled_spearman);
    within_row(out, "Pearson", &f->within[GA_WITHIN_PEARSON], f->pooled_pearson);
    within_row(out, "Kendall (tau-b)", &f->within[GA_WITHIN_KENDALL], (double)NAN);
    within_row(out, "pairs in the right order", &f->within[GA_WITHIN_PAIRWISE], (double)NAN);
    within_row(out, "AUC, best quarter", &f->within[GA_WITHIN_AUC_TOP_QUARTER], f->pooled_auc);
    within_row(out, "AUC, worst quarter", &f->within[GA_WITHIN_AUC_BOTTOM_QUARTER], (double)NAN);
    within_row(out, "AUC, above the median", &f->within[GA_WITHIN_AUC_MEDIAN], (double)NAN);
    if (e->has_ceiling) {
        within_row(out, "Pearson of the reward with its retest", &e->ceiling.retest, (double)NAN);
        within_row(out, "largest Pearson that is possible (its root)", &e->ceiling.ceiling, (double)NAN);
    }
    ga_page_table_end(out);
}

/* Nothing where there are fewer than lines_min. */
static void write_lines(
    FILE *out, const char *heading, const char *note, const ga_evaluated_lines *lines, int32_t lines_min) {
    if (lines->count < lines_min) {
        return;
    }
    ga_page_section(out, heading, note);
    ga_page_table_begin(out, "|Spearman within groups|95 %|groups|rows");
    for (int32_t i = 0; i < lines->count; i++) {
        ga_page_table_row(out, lines->lines[i].name);
        ga_page_cell_within(out, &lines->lines[i].spearman);
        ga_page_cell_count(out, (long long)lines->lines[i].spearman.rows);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

/* ---- comparisons ---- */

static void write_rivals(const ga_evaluated *e, FILE *out) {
    static const char *const legend[][2] = {{"a", "the probe"}, {"d", "others"}};
    const char *names[GA_INPUT_COUNT + 5];
    const ga_within *own = &e->figures.within[GA_WITHIN_SPEARMAN];
    double low = fmin(0.0, own->low), high = own->high;
    names[0] = "this probe";
    for (int32_t i = 0; i < e->rival_count; i++) {
        names[i + 1] = e->rivals[i].name;
        low = fmin(low, e->rivals[i].baseline.spearman.low);
        high = fmax(high, e->rivals[i].baseline.spearman.high);
    }
    ga_page_section(out, "Against other predictors", "On the same rows. Differences are paired over groups.");
    ga_page_row_begin(out);
    ga_page_figure_begin(out, "Spearman within groups", legend, COUNT(legend));
    const ga_plot_axis x = {.label = "Spearman within groups", .low = low - 0.02, .high = high + 0.02};
    const ga_plot plot =
        ga_plot_begin_rows(out, "Spearman of the probe and of others", &x, names, e->rival_count + 1);
    ga_plot_guide(&plot, 0.0, 0.0, 0.0, (double)(e->rival_count + 1));
    ga_plot_row(&plot, 0.5, own->value, own->low, own->high, "a");
    for (int32_t i = 0; i < e->rival_count; i++) {
        const ga_within *s = &e->rivals[i].baseline.spearman;
        ga_plot_row(&plot, (double)i + 1.5, s->value, s->low, s->high, "d");
    }
    ga_plot_end(&plot);
    ga_page_figure_end(out, NULL);
    ga_page_row_end(out);
    ga_page_table_begin(out, "predictor|within groups|95 %|groups|pooled|probe − it|95 %|groups");
    for (int32_t i = 0; i < e->rival_count; i++) {
        const ga_baseline *b = &e->rivals[i].baseline;
        ga_page_table_row(out, e->rivals[i].name);
        ga_page_cell_within(out, &b->spearman);
        ga_page_cell_number(out, b->pooled_spearman, 3);
        ga_page_cell_within(out, &b->difference);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

/* ---- distribution ---- */

static void write_distribution(const ga_evaluated *e, FILE *out) {
    const ga_distribution *d = &e->figures.distribution;
    char text[TEXT_BYTES];
    double most = 1.0;
    for (int i = 0; i < GA_HISTOGRAM; i++) {
        most = fmax(most, (double)d->histogram[i]);
    }
    (void)snprintf(text, sizeof text,
        "%lld groups, standard deviation %.3f; %.1f %% of the groups are ordered the wrong way. A small "
        "group's "
        "Spearman scatters by chance, too.",
        (long long)d->groups, d->sd, 100.0 * d->below_zero);
    ga_page_section(out, "Distribution over groups", text);
    ga_page_row_begin(out);
    ga_page_figure_begin(out, "Spearman of each group", NULL, 0);
    const ga_plot_axis x = {.label = "Spearman", .low = -1.0, .high = 1.0};
    const ga_plot_axis y = {.label = "groups", .low = 0.0, .high = most * 1.05, .whole = true};
    const ga_plot plot = ga_plot_begin(out, "Histogram of the groups' Spearman", &x, &y);
    for (int i = 0; i < GA_HISTOGRAM; i++) {
        const double low = -1.0 + 2.0 * (double)i / GA_HISTOGRAM;
        ga_plot_bar(&plot, low, low + 2.0 / GA_HISTOGRAM, (double)d->histogram[i], "a");
    }
    const double mean = e->figures.within[GA_WITHIN_SPEARMAN].value;
    ga_plot_guide(&plot, mean, 0.0, mean, most * 1.05);
    ga_plot_end(&plot);
    ga_page_figure_end(out, "The dashed line is the mean.");
    ga_page_row_end(out);
    ga_page_table_begin(out, "|lowest|10 %|20 %|30 %|40 %|median|60 %|70 %|80 %|90 %|highest");
    ga_page_table_row(out, "Spearman");
    for (int i = 0; i < GA_DECILES; i++) {
        ga_page_cell_number(out, d->decile[i], 2);
    }
    ga_page_table_row_end(out);
    ga_page_table_end(out);
}

static void write_worst(const ga_evaluated *e, FILE *out) {
    ga_page_section(out, "Worst groups", NULL);
    ga_page_table_begin(out, "prompt|update|rows|Spearman");
    for (int32_t i = 0; i < e->figures.worst_count; i++) {
        const bool text = e->worst[i].prompt[0] != '\0';
        ga_page_table_row(out, text ? e->worst[i].prompt : e->worst[i].prompt_hash);
        ga_page_cell_count(out, e->worst[i].update);
        ga_page_cell_count(out, (long long)e->figures.worst[i].rows);
        ga_page_cell_number(out, e->figures.worst[i].spearman, 3);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

/* ---- energy ---- */

static void write_energy(const ga_evaluated *e, ga_std_kind std, const char *title, FILE *out) {
    static const char *const legend[][2] = {{"a", "the probe"}, {"c", "best possible"}, {"d", "chance"}};
    const ga_energy_point *points = e->figures.energy[std];
    double keep[GA_ENERGY_POINTS + 2] = {0}, probe[GA_ENERGY_POINTS + 2] = {0},
                                   low[GA_ENERGY_POINTS + 2] = {0}, high[GA_ENERGY_POINTS + 2] = {0},
                                   oracle[GA_ENERGY_POINTS + 2] = {0};
    const int count = GA_ENERGY_POINTS + 2;
    for (int p = 0; p < GA_ENERGY_POINTS; p++) {
        keep[p + 1] = points[p].keep;
        probe[p + 1] = points[p].probe.value;
        low[p + 1] = points[p].probe.low;
        high[p + 1] = points[p].probe.high;
        oracle[p + 1] = points[p].oracle;
    }
    keep[count - 1] = probe[count - 1] = low[count - 1] = high[count - 1] = oracle[count - 1] = 1.0;
    ga_page_figure_begin(out, title, legend, COUNT(legend));
    const ga_plot_axis x = {.label = "share of the rows that are kept", .low = 0.0, .high = 1.0};
    const ga_plot_axis y = {.label = "share of ΣA² that they hold", .low = 0.0, .high = 1.0};
    const ga_plot plot = ga_plot_begin(out, title, &x, &y);
    ga_plot_band(&plot, keep, low, high, count, "a");
    ga_plot_line(&plot, keep, keep, count, "d");
    ga_plot_line(&plot, keep, oracle, count, "c");
    ga_plot_line(&plot, keep, probe, count, "a");
    ga_plot_end(&plot);
    ga_page_figure_end(out, NULL);
}

static void write_energy_table(const ga_evaluated *e, FILE *out) {
    ga_page_table_begin(
        out, "kept|one σ for all|95 %|groups|best possible|σ of the group|95 %|groups|best possible");
    for (int p = 0; p < GA_ENERGY_POINTS; p++) {
        char name[16];
        (void)snprintf(name, sizeof name, "%.0f %%", 100.0 * e->figures.energy[0][p].keep);
        ga_page_table_row(out, name);
        ga_page_cell_within(out, &e->figures.energy[GA_STD_GLOBAL][p].probe);
        ga_page_cell_number(out, e->figures.energy[GA_STD_GLOBAL][p].oracle, 3);
        ga_page_cell_within(out, &e->figures.energy[GA_STD_GROUP][p].probe);
        ga_page_cell_number(out, e->figures.energy[GA_STD_GROUP][p].oracle, 3);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

static void write_energies(const ga_evaluated *e, FILE *out) {
    ga_page_section(out, "Signal kept when rows are dropped",
        "A is the reward less its group's mean. Kept are the rows with the largest expected A² over all "
        "groups, "
        "in units of what the host divides advantages by. Chance keeps the share of the rows.");
    ga_page_row_begin(out);
    write_energy(e, GA_STD_GLOBAL, "One σ for all groups", out);
    write_energy(e, GA_STD_GROUP, "Each group's own σ", out);
    ga_page_row_end(out);
    write_energy_table(e, out);
}

/* ---- quarters ---- */

static void write_curve(const ga_evaluated *e, bool precision, FILE *out) {
    static const char *const legend[][2] = {{"a", "best quarter"}, {"b", "worst quarter"}, {"d", "chance"}};
    const ga_quarter *quarters[2] = {&e->figures.top, &e->figures.bottom};
    static const char *const series[2] = {"a", "b"};
    const char *title = precision ? "Precision against recall" : "ROC";
    ga_page_figure_begin(out, title, legend, COUNT(legend));
    const ga_plot_axis x = {.label = precision ? "recall" : "others taken, share", .low = 0.0, .high = 1.0};
    const ga_plot_axis y = {
        .label = precision ? "precision" : "quarter found, share", .low = 0.0, .high = 1.0};
    const ga_plot plot = ga_plot_begin(out, title, &x, &y);
    for (int q = 0; q < 2; q++) {
        double xs[GA_CURVE_POINTS + 1] = {0}, ys[GA_CURVE_POINTS + 1] = {0};
        for (int p = 0; p < GA_CURVE_POINTS; p++) {
            const ga_curve_point *point = &quarters[q]->curve[p];
            xs[p + 1] = precision ? point->recall : point->fall_out;
            ys[p + 1] = precision ? point->precision : point->recall;
        }
        const double chance = quarters[q]->positives;
        const double flat_x[2] = {0.0, 1.0}, flat_y[2] = {precision ? chance : 0.0, precision ? chance : 1.0};
        ga_plot_line(&plot, flat_x, flat_y, 2, "d");
        ga_plot_line(&plot, xs + (precision ? 1 : 0), ys + (precision ? 1 : 0),
            GA_CURVE_POINTS + (precision ? 0 : 1), series[q]);
    }
    ga_plot_end(&plot);
    ga_page_figure_end(out, NULL);
}

static void write_quarters(const ga_evaluated *e, FILE *out) {
    ga_page_section(out, "Finding the best and the worst quarter of a group",
        "Curves are means over groups of what is found when the same share of each group is taken.");
    ga_page_row_begin(out);
    write_curve(e, false, out);
    write_curve(e, true, out);
    ga_page_row_end(out);
    ga_page_table_begin(out, "|AUC|95 %|groups|average precision|95 %|groups|chance");
    const ga_quarter *quarters[2] = {&e->figures.top, &e->figures.bottom};
    for (int q = 0; q < 2; q++) {
        ga_page_table_row(out, q == 0 ? "best quarter" : "worst quarter");
        ga_page_cell_within(out, &quarters[q]->auc);
        ga_page_cell_within(out, &quarters[q]->average_precision);
        ga_page_cell_number(out, quarters[q]->positives, 3);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

static void write_best(const ga_evaluated *e, FILE *out) {
    ga_page_section(out, "Best of a group",
        "Recall: the group's best row is among the k predicted best. Regret: how far the best of them falls "
        "short "
        "of it, in standard deviations of the group.");
    ga_page_table_begin(out, "k|recall|95 %|groups|chance|regret|95 %|groups|chance|share of the gain");
    for (int p = 0; p < GA_BEST_POINTS; p++) {
        const ga_best_point *point = &e->figures.best[p];
        char name[16];
        (void)snprintf(name, sizeof name, "%d", point->k);
        ga_page_table_row(out, name);
        ga_page_cell_within(out, &point->recall);
        ga_page_cell_number(out, point->recall_random, 3);
        ga_page_cell_within(out, &point->regret);
        ga_page_cell_number(out, point->regret_random, 3);
        ga_page_cell_number(out, 1.0 - point->regret.value / point->regret_random, 3);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

/* ---- reliability ---- */

static void write_bins(
    const ga_reliability_bin *bins, int32_t count, const char *title, const char *caption, FILE *out) {
    double low = INFINITY, high = -INFINITY;
    for (int32_t b = 0; b < count; b++) {
        low = fmin(low, fmin(bins[b].prediction, bins[b].reward.low));
        high = fmax(high, fmax(bins[b].prediction, bins[b].reward.high));
    }
    const double reach = 0.05 * (high - low);
    ga_page_figure_begin(out, title, NULL, 0);
    const ga_plot_axis x = {.label = "mean prediction", .low = low - reach, .high = high + reach};
    const ga_plot_axis y = {.label = "mean reward", .low = low - reach, .high = high + reach};
    const ga_plot plot = ga_plot_begin(out, title, &x, &y);
    ga_plot_guide(&plot, low - reach, low - reach, high + reach, high + reach);
    for (int32_t b = 0; b < count; b++) {
        ga_plot_point(
            &plot, bins[b].prediction, bins[b].reward.value, bins[b].reward.low, bins[b].reward.high, "a");
    }
    ga_plot_end(&plot);
    ga_page_figure_end(out, caption);
}

static void write_reliability(const ga_evaluated *e, FILE *out) {
    const ga_reliability *r = &e->figures.reliability;
    ga_page_section(out, "Are predictions right as numbers?", "On the dashed line they are.");
    ga_page_row_begin(out);
    write_bins(r->within, r->bins, "Inside groups",
        "Prediction and reward less their group's means, in tenths.", out);
    write_bins(r->reward, r->bins, "Rewards as they are (pooled)",
        "The same over all prompts, means included.", out);
    ga_page_row_end(out);
    ga_page_table_begin(
        out, "interval that is stated|inside groups: covered|95 %|groups|single reward: covered|95 %|groups");
    for (int level = 0; level < GA_COVERAGE_LEVELS; level++) {
        char name[16];
        (void)snprintf(name, sizeof name, "%.0f %%", 100.0 * r->within_coverage[level].level);
        ga_page_table_row(out, name);
        ga_page_cell_within(out, &r->within_coverage[level].share);
        ga_page_cell_within(out, &r->reward_coverage[level].share);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

/* ---- drift ---- */

static void plot_drift(const ga_evaluated *e, FILE *out) {
    const ga_evaluation *f = &e->figures;
    double x[GA_DRIFT_BINS] = {0}, spearman[GA_DRIFT_BINS] = {0}, low[GA_DRIFT_BINS] = {0},
           high[GA_DRIFT_BINS] = {0};
    double bottom = 0.0, top = 0.1;
    for (int32_t b = 0; b < f->drift_count; b++) {
        x[b] = 0.5 * ((double)f->drift[b].update_first + (double)f->drift[b].update_last);
        spearman[b] = f->drift[b].spearman.value;
        low[b] = f->drift[b].spearman.low;
        high[b] = f->drift[b].spearman.high;
        bottom = isfinite(low[b]) ? fmin(bottom, low[b]) : bottom;
        top = isfinite(high[b]) ? fmax(top, high[b]) : top;
    }
    ga_page_figure_begin(out, "Spearman within groups over updates", NULL, 0);
    const ga_plot_axis horizontal = {.label = "policy update",
        .low = (double)f->drift[0].update_first,
        .high = (double)f->drift[f->drift_count - 1].update_last,
        .whole = true};
    const ga_plot_axis vertical = {.label = "Spearman within groups", .low = bottom, .high = top * 1.05};
    const ga_plot plot = ga_plot_begin(out, "Spearman over policy updates", &horizontal, &vertical);
    ga_plot_band(&plot, x, low, high, f->drift_count, "a");
    ga_plot_line(&plot, x, spearman, f->drift_count, "a");
    for (int32_t b = 0; b < f->drift_count; b++) {
        ga_plot_point(&plot, x[b], spearman[b], spearman[b], spearman[b], "a");
    }
    ga_plot_end(&plot);
    ga_page_figure_end(out, NULL);
}

static void write_drift(const ga_evaluated *e, FILE *out) {
    const ga_evaluation *f = &e->figures;
    if (f->drift_count < 2) {
        return;
    }
    ga_page_section(out, "Drift with the policy",
        "A falling Spearman or a slope away from 1 asks for a new training. The stability index compares the "
        "predictions with those of the first span: below 0.1 little has changed, above 0.25 much.");
    ga_page_row_begin(out);
    plot_drift(e, out);
    ga_page_row_end(out);
    ga_page_table_begin(
        out, "updates|rows|Spearman|95 %|groups|slope|95 %|groups|reward − prediction|stability index");
    for (int32_t b = 0; b < f->drift_count; b++) {
        const ga_drift_bin *bin = &f->drift[b];
        char name[32];
        (void)snprintf(name, sizeof name, "%u – %u", bin->update_first, bin->update_last);
        ga_page_table_row(out, name);
        ga_page_cell_count(out, (long long)bin->rows);
        ga_page_cell_within(out, &bin->spearman);
        ga_page_cell_within(out, &bin->slope);
        ga_page_cell_number(out, bin->bias, 3);
        ga_page_cell_number(out, bin->shift, 3);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

/* ---- learning curve ---- */

static void plot_learning(const ga_evaluated *e, FILE *out) {
    static const char *const legend[][2] = {{"c", "scalar"}, {"b", "ridge"}, {"a", "network"}};
    static const char *const series[GA_PROBE_KIND_COUNT] = {"c", "b", "a"};
    const ga_learning_point *last = &e->learning[e->learning_count - 1];
    double low = 0.0, high = 0.1;
    for (int32_t i = 0; i < e->learning_count; i++) {
        for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
            low = fmin(low, e->learning[i].spearman[kind].low);
            high = fmax(high, e->learning[i].spearman[kind].high);
        }
    }
    ga_page_figure_begin(out, "Spearman on held-out prompts", legend, COUNT(legend));
    const ga_plot_axis x = {
        .label = "rows learned from", .low = 0.0, .high = (double)last->rows * 1.05, .whole = true};
    const ga_plot_axis y = {.label = "Spearman within groups", .low = low, .high = high * 1.05};
    const ga_plot plot = ga_plot_begin(out, "Spearman against rows", &x, &y);
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        double xs[GA_LEARNING_POINTS] = {0}, ys[GA_LEARNING_POINTS] = {0};
        for (int32_t i = 0; i < e->learning_count; i++) {
            const ga_within *s = &e->learning[i].spearman[kind];
            xs[i] = (double)e->learning[i].rows;
            ys[i] = s->groups > 0 ? s->value : (double)NAN;
            ga_plot_point(&plot, xs[i], ys[i], s->low, s->high, series[kind]);
        }
        ga_plot_line(&plot, xs, ys, e->learning_count, series[kind]);
    }
    ga_plot_end(&plot);
    ga_page_figure_end(out, NULL);
}

static void write_learning(const ga_evaluated *e, FILE *out) {
    if (e->learning_count == 0) {
        return;
    }
    ga_page_section(out, "With how many rows?",
        "Trained again on parts of this record's prompts; the prompts that judge are the same for all "
        "parts.");
    ga_page_row_begin(out);
    plot_learning(e, out);
    ga_page_row_end(out);
    ga_page_table_begin(out, "share|rows|groups|chosen|Spearman|95 %|groups|residual sd");
    for (int32_t i = 0; i < e->learning_count; i++) {
        const ga_learning_point *point = &e->learning[i];
        char name[16];
        (void)snprintf(name, sizeof name, "%.0f %%", 100.0 * point->share);
        ga_page_table_row(out, name);
        ga_page_cell_count(out, (long long)point->rows);
        ga_page_cell_count(out, (long long)point->groups);
        ga_page_cell_text(out, ga_probe_kind_name(point->chosen));
        ga_page_cell_within(out, &point->spearman[point->chosen]);
        ga_page_cell_number(out, point->residual, 4);
        ga_page_table_row_end(out);
    }
    ga_page_table_end(out);
}

void ga_evaluated_as_page(const ga_evaluated *e, FILE *out) {
    write_head(e, out);
    write_cards(e, out);
    write_within(e, out);
    write_rivals(e, out);
    write_energies(e, out);
    write_quarters(e, out);
    write_best(e, out);
    write_distribution(e, out);
    write_reliability(e, out);
    write_drift(e, out);
    write_lines(out, "By decision step", NULL, &e->by_step, 2);
    write_lines(out, "By scorer", "How the prediction of the combined reward orders each scorer's reward.",
        &e->by_target, 2);
    write_lines(out, "By scorer, with its own head",
        "How the probe's own prediction of each scorer orders it.", &e->by_head, 1);
    write_lines(out, "By category of prompt", NULL, &e->by_category, 1);
    write_learning(e, out);
    write_worst(e, out);
    ga_page_end(out);
}
