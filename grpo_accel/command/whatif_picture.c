/* The picture of replay and simulate: what is kept against how much is kept, and where that pays. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/command/page.h"
#include "grpo_accel/command/plot.h"
#include "grpo_accel/command/whatif_answer.h"

enum { PLOT_WIDTH = 560, PLOT_HEIGHT = 320, HEAD = 46, TITLE = 24, LEGEND_WIDTH = 92, POINTS_MAX = 64 };

/* A class of the page's style for each policy. */
static const char *const series[GA_POLICY_COUNT] = {"a", "e", "b", "d", "f", "c"};
static const char *const colours[] = {"#2563a8", "#c2570c", "#2e7d4f", "#858b94", "#8a4fbf", "#b08a00"};

static const char style[] =
    "text{font:12px system-ui,sans-serif;fill:#5c646e}.label{fill:#1d2126}.head{font-size:15px;fill:#1d2126}"
    ".grid{stroke:#dfe2e6;stroke-width:1}.frame{fill:none;stroke:#dfe2e6}"
    ".guide{stroke:#5c646e;stroke-width:1.2;stroke-dasharray:4 4}.line{fill:none;stroke-width:2}"
    ".whisker{stroke-width:2;opacity:.75}.dot,.key{stroke:none}";

static bool is_in(const ga_answer_panel *panel, ga_policy_kind policy) {
    for (int32_t i = 0; i < panel->count; i++) {
        if (panel->cases[i]->options.policy == policy) {
            return true;
        }
    }
    return false;
}

/* Points of one policy with one decision, by ascending share. */
static int32_t collect(const ga_answer_panel *panel, ga_policy_kind policy, const ga_case **points) {
    int32_t count = 0;
    for (int32_t i = 0; i < panel->count && count < POINTS_MAX; i++) {
        const ga_case *c = panel->cases[i];
        if (c->options.policy != policy || c->options.stage_count != 1) {
            continue;
        }
        int32_t at = count++;
        for (; at > 0 && points[at - 1]->report.keep_share > c->report.keep_share; at--) {
            points[at] = points[at - 1];
        }
        points[at] = c;
    }
    return count;
}

static void draw_point(const ga_plot *plot, const ga_case *c) {
    const ga_replay_report *r = &c->report;
    ga_plot_point(plot, r->keep_share, r->value[GA_FIGURE_ENERGY], r->low[GA_FIGURE_ENERGY],
        r->high[GA_FIGURE_ENERGY], series[c->options.policy]);
}

static void draw_policy(const ga_plot *plot, const ga_answer_panel *panel, ga_policy_kind policy) {
    const ga_case *points[POINTS_MAX];
    double x[POINTS_MAX], y[POINTS_MAX];
    const int32_t count = collect(panel, policy, points);
    for (int32_t i = 0; i < count; i++) {
        x[i] = points[i]->report.keep_share;
        y[i] = points[i]->report.value[GA_FIGURE_ENERGY];
    }
    if (count > 1) {
        ga_plot_line(plot, x, y, count, series[policy]);
    }
    for (int32_t i = 0; i < panel->count; i++) {
        if (panel->cases[i]->options.policy == policy) {
            draw_point(plot, panel->cases[i]); /* several decisions: a dot without a line */
        }
    }
}

/* The energy that has to be exceeded, which is the cost ratio: a straight line in the kept share. */
static void draw_break_even(const ga_plot *plot, const ga_answer_panel *panel) {
    for (int32_t i = 0; i < panel->count; i++) {
        const ga_case *c = panel->cases[i];
        if (c->options.stage_count == 1) {
            const double none = 0, all = 1;
            ga_plot_guide(
                plot, 0, ga_shares_cost(&c->shares, 1, &none), 1, ga_shares_cost(&c->shares, 1, &all));
            return;
        }
    }
}

static void draw_panel(FILE *out, const ga_answer_panel *panel) {
    const ga_plot_axis x = {.label = "share of the rows kept", .low = 0, .high = 1};
    const ga_plot_axis y = {.label = "squared advantage kept; dashed: break-even", .low = 0, .high = 1};
    const ga_plot plot = ga_plot_begin(out, panel->title, &x, &y);
    draw_break_even(&plot, panel);
    for (int policy = 0; policy < GA_POLICY_COUNT; policy++) {
        draw_policy(&plot, panel, (ga_policy_kind)policy);
    }
    ga_plot_end(&plot);
}

static int list_policies(const ga_answer_panel *panels, int32_t count, const char *(*legend)[2]) {
    int used = 0;
    for (int policy = 0; policy < GA_POLICY_COUNT; policy++) {
        bool there = false;
        for (int32_t i = 0; i < count; i++) {
            there = there || is_in(&panels[i], (ga_policy_kind)policy);
        }
        if (there) {
            legend[used][0] = series[policy];
            legend[used++][1] = ga_answer_policy((ga_policy_kind)policy);
        }
    }
    return used;
}

static void write_svg(FILE *out, const char *title, const ga_answer_panel *panels, int32_t count) {
    const char *legend[GA_POLICY_COUNT][2];
    const int policies = list_policies(panels, count, legend);
    const int height = HEAD + count * (PLOT_HEIGHT + TITLE);
    (void)fprintf(out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
        "height=\"%d\">\n<style>%s",
        PLOT_WIDTH, height, PLOT_WIDTH, height, style);
    for (int i = 0; i < GA_POLICY_COUNT; i++) {
        (void)fprintf(out, ".line.%c,.whisker.%c{stroke:%s}.dot.%c,.key.%c{fill:%s}", 'a' + i, 'a' + i,
            colours[i], 'a' + i, 'a' + i, colours[i]);
    }
    (void)fprintf(out,
        "</style>\n<rect width=\"%d\" height=\"%d\" fill=\"#fcfcfb\"/>\n<text class=\"head\" x=\"12\" "
        "y=\"20\">",
        PLOT_WIDTH, height);
    ga_plot_write_text(out, title);
    (void)fputs("</text>\n", out);
    for (int i = 0; i < policies; i++) {
        (void)fprintf(out,
            "<rect class=\"key %s\" x=\"%d\" y=\"31\" width=\"14\" height=\"4\"/><text x=\"%d\" y=\"37\">",
            legend[i][0], 12 + i * LEGEND_WIDTH, 30 + i * LEGEND_WIDTH);
        ga_plot_write_text(out, legend[i][1]);
        (void)fputs("</text>\n", out);
    }
    for (int32_t i = 0; i < count; i++) {
        const int top = HEAD + i * (PLOT_HEIGHT + TITLE);
        (void)fprintf(out, "<text class=\"label\" x=\"12\" y=\"%d\">", top + 14);
        ga_plot_write_text(out, panels[i].title);
        (void)fprintf(out, "</text>\n<svg x=\"0\" y=\"%d\" width=\"%d\" height=\"%d\">", top + TITLE,
            PLOT_WIDTH, PLOT_HEIGHT);
        draw_panel(out, &panels[i]);
        (void)fputs("</svg>\n", out);
    }
    (void)fputs("</svg>\n", out);
}

static void write_page(FILE *out, const char *title, const ga_answer_panel *panels, int32_t count) {
    ga_page_begin(out, title);
    ga_page_row_begin(out);
    for (int32_t i = 0; i < count; i++) {
        const char *legend[GA_POLICY_COUNT][2];
        const int policies = list_policies(&panels[i], 1, legend);
        ga_page_figure_begin(out, panels[i].title, (const char *const(*)[2])legend, policies);
        draw_panel(out, &panels[i]);
        ga_page_figure_end(out, "Above the dashed line pruning pays; whiskers are 95 % intervals.");
    }
    ga_page_row_end(out);
    ga_page_end(out);
}

static bool ends_with(const char *text, const char *ending) {
    const size_t length = strlen(text), tail = strlen(ending);
    return length > tail && strcmp(text + length - tail, ending) == 0;
}

ga_status ga_answer_picture(
    const char *path, const char *title, const ga_answer_panel *panels, int32_t count, ga_error *error) {
    char temporary[4096];
    const bool svg = ends_with(path, ".svg");
    if (!svg && !ends_with(path, ".html")) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "option '--plot': FILE.svg or FILE.html; found '%.200s'", path);
    }
    const int length = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (length < 0 || (size_t)length >= sizeof temporary) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "option '--plot': the path is too long");
    }
    FILE *file = fopen(temporary, "we");
    if (file == NULL) {
        return GA_FAIL(error, GA_ERR_IO, "%.200s: can't write the picture: %s", temporary, strerror(errno));
    }
    (svg ? write_svg : write_page)(file, title, panels, count);
    const bool written = fflush(file) == 0 && ferror(file) == 0 && fsync(fileno(file)) == 0;
    const bool complete = fclose(file) == 0 && written;
    if (!complete || rename(temporary, path) != 0) {
        const ga_status status =
            GA_FAIL(error, GA_ERR_IO, "%.200s: can't write the picture: %s", path, strerror(errno));
        (void)unlink(temporary);
        return status;
    }
    return GA_OK;
}
