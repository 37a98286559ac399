#include "grpo_accel/command/plot.h"

#include <math.h>
#include <string.h>

enum { PICTURE_WIDTH = 560, PICTURE_HEIGHT = 320, ROW_HEIGHT = 30 };
enum { MARGIN_LEFT = 58, MARGIN_RIGHT = 16, MARGIN_TOP = 12, MARGIN_BOTTOM = 46, NAMES_WIDTH = 190 };

/* ---- text ---- */

/* Length of a valid UTF-8 sequence of two bytes or more; 0: none starts here. */
static size_t sequence_length(const unsigned char *text) {
    const size_t length = text[0] >= 0xf0 && text[0] <= 0xf4  ? 4
                          : text[0] >= 0xe0 && text[0] < 0xf0 ? 3
                          : text[0] >= 0xc2 && text[0] < 0xe0 ? 2
                                                              : 0;
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return length;
}

static const char *escape_of(unsigned char byte) {
    switch (byte) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

void ga_plot_write_text(FILE *out, const char *text) {
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        const char *escape = escape_of(*at);
        const size_t length = *at >= 0x80 ? sequence_length(at) : 1;
        if (escape != NULL) {
            (void)fputs(escape, out);
        } else if (length == 0 || (*at < 0x20 && *at != '\n' && *at != '\t') || *at == 0x7f) {
            (void)fputs("\xef\xbf\xbd", out); /* U+FFFD */
        } else {
            (void)fwrite(at, 1, length, out);
        }
        at += length > 0 ? length : 1;
    }
}

/* ---- the field ---- */

static double x_of(const ga_plot *plot, double x) {
    const double share = (x - plot->x.low) / (plot->x.high - plot->x.low);
    return plot->left + plot->width * fmin(1.0, fmax(0.0, share));
}

static double y_of(const ga_plot *plot, double y) {
    const double share = (y - plot->y.low) / (plot->y.high - plot->y.low);
    return plot->top + plot->height * (1.0 - fmin(1.0, fmax(0.0, share)));
}

/* The largest round distance (1, 2, 5 times a power of ten) that gives at least four ticks. */
static double tick_distance(const ga_plot_axis *axis) {
    const double span = axis->high - axis->low;
    const double power = pow(10.0, floor(log10(span / 4.0)));
    const double times = span / 4.0 / power;
    const double distance = power * (times >= 5.0 ? 5.0 : times >= 2.0 ? 2.0 : 1.0);
    return axis->whole && distance < 1.0 ? 1.0 : distance;
}

static void write_number(FILE *out, double value, double distance) {
    const int digits = distance >= 1.0 ? 0 : (int)ceil(-log10(distance) - 1e-9);
    const double zero = fabs(value) < distance * 1e-6 ? 0.0 : value; /* no −0 */
    (void)fprintf(out, "%.*f", digits < 9 ? digits : 9, zero);
}

static void draw_x_ticks(const ga_plot *plot) {
    const double distance = tick_distance(&plot->x), bottom = plot->top + plot->height;
    for (double x = ceil(plot->x.low / distance - 1e-9) * distance; x <= plot->x.high + 1e-9 * distance;
         x += distance) {
        const double at = x_of(plot, x);
        (void)fprintf(plot->out, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", at,
            plot->top, at, bottom);
        (void)fprintf(plot->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", at, bottom + 16.0);
        write_number(plot->out, x, distance);
        (void)fputs("</text>\n", plot->out);
    }
}

static void draw_y_ticks(const ga_plot *plot) {
    const double distance = tick_distance(&plot->y), right = plot->left + plot->width;
    for (double y = ceil(plot->y.low / distance - 1e-9) * distance; y <= plot->y.high + 1e-9 * distance;
         y += distance) {
        const double at = y_of(plot, y);
        (void)fprintf(plot->out, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>",
            plot->left, at, right, at);
        (void)fprintf(
            plot->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", plot->left - 6.0, at + 4.0);
        write_number(plot->out, y, distance);
        (void)fputs("</text>\n", plot->out);
    }
}

static void draw_labels(const ga_plot *plot) {
    const double middle = plot->left + plot->width / 2.0;
    (void)fprintf(plot->out, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", middle,
        plot->top + plot->height + 36.0);
    ga_plot_write_text(plot->out, plot->x.label);
    (void)fputs("</text>\n", plot->out);
    if (plot->has_names) {
        return;
    }
    const double y = plot->top + plot->height / 2.0;
    (void)fprintf(plot->out,
        "<text class=\"label\" x=\"14\" y=\"%.1f\" transform=\"rotate(-90 14 %.1f)\" text-anchor=\"middle\">",
        y, y);
    ga_plot_write_text(plot->out, plot->y.label);
    (void)fputs("</text>\n", plot->out);
}

static void widen(ga_plot_axis *axis) {
    if (!(axis->high > axis->low)) {
        const double reach = axis->low != 0.0 ? 0.1 * fabs(axis->low) : 1.0;
        axis->low -= reach;
        axis->high += reach;
    }
}

static void open_picture(const ga_plot *plot, const char *title, double height) {
    (void)fprintf(plot->out, "<svg viewBox=\"0 0 %d %.0f\" role=\"img\"><title>", PICTURE_WIDTH, height);
    ga_plot_write_text(plot->out, title);
    (void)fputs("</title>\n", plot->out);
}

static void draw_frame(const ga_plot *plot) {
    (void)fprintf(plot->out, "<rect class=\"frame\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
        plot->left, plot->top, plot->width, plot->height);
}

ga_plot ga_plot_begin(FILE *out, const char *title, const ga_plot_axis *x, const ga_plot_axis *y) {
    ga_plot plot = {.out = out,
        .x = *x,
        .y = *y,
        .left = MARGIN_LEFT,
        .top = MARGIN_TOP,
        .width = PICTURE_WIDTH - MARGIN_LEFT - MARGIN_RIGHT,
        .height = PICTURE_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM};
    widen(&plot.x);
    widen(&plot.y);
    open_picture(&plot, title, PICTURE_HEIGHT);
    draw_x_ticks(&plot);
    draw_y_ticks(&plot);
    draw_frame(&plot);
    draw_labels(&plot);
    return plot;
}

ga_plot ga_plot_begin_rows(
    FILE *out, const char *title, const ga_plot_axis *x, const char *const *names, int32_t count) {
    ga_plot plot = {.out = out,
        .x = *x,
        .y = {.label = "", .low = 0.0, .high = (double)count},
        .left = NAMES_WIDTH,
        .top = MARGIN_TOP,
        .width = PICTURE_WIDTH - NAMES_WIDTH - MARGIN_RIGHT,
        .height = (double)count * ROW_HEIGHT,
        .has_names = true};
    widen(&plot.x);
    open_picture(&plot, title, plot.height + MARGIN_TOP + MARGIN_BOTTOM);
    draw_x_ticks(&plot);
    draw_frame(&plot);
    draw_labels(&plot);
    for (int32_t i = 0; i < count; i++) {
        (void)fprintf(out, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">",
            plot.left - 8.0, plot.top + ((double)i + 0.5) * ROW_HEIGHT + 4.0);
        ga_plot_write_text(out, names[i]);
        (void)fputs("</text>\n", out);
    }
    return plot;
}

void ga_plot_end(const ga_plot *plot) {
    (void)fputs("</svg>\n", plot->out);
}

/* ---- what is in it ---- */

void ga_plot_line(const ga_plot *plot, const double *x, const double *y, int32_t count, const char *series) {
    (void)fprintf(plot->out, "<polyline class=\"line %s\" points=\"", series);
    for (int32_t i = 0; i < count; i++) {
        if (isfinite(x[i]) && isfinite(y[i])) {
            (void)fprintf(plot->out, "%.1f,%.1f ", x_of(plot, x[i]), y_of(plot, y[i]));
        }
    }
    (void)fputs("\"/>\n", plot->out);
}

void ga_plot_band(const ga_plot *plot, const double *x, const double *low, const double *high, int32_t count,
    const char *series) {
    (void)fprintf(plot->out, "<polygon class=\"band %s\" points=\"", series);
    for (int32_t i = 0; i < 2 * count; i++) {
        const int32_t at = i < count ? i : 2 * count - 1 - i;
        const double y = i < count ? low[at] : high[at];
        if (isfinite(x[at]) && isfinite(y)) {
            (void)fprintf(plot->out, "%.1f,%.1f ", x_of(plot, x[at]), y_of(plot, y));
        }
    }
    (void)fputs("\"/>\n", plot->out);
}

static void draw_dot(const ga_plot *plot, double x, double y, const char *series) {
    (void)fprintf(plot->out, "<circle class=\"dot %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", series, x, y);
}

static void draw_whisker(
    const ga_plot *plot, double x0, double y0, double x1, double y1, const char *series) {
    (void)fprintf(plot->out, "<line class=\"whisker %s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>",
        series, x0, y0, x1, y1);
}

void ga_plot_point(const ga_plot *plot, double x, double y, double low, double high, const char *series) {
    if (!isfinite(x) || !isfinite(y)) {
        return;
    }
    if (isfinite(low) && isfinite(high) && high > low) {
        draw_whisker(plot, x_of(plot, x), y_of(plot, low), x_of(plot, x), y_of(plot, high), series);
    }
    draw_dot(plot, x_of(plot, x), y_of(plot, y), series);
}

void ga_plot_row(const ga_plot *plot, double y, double x, double low, double high, const char *series) {
    if (!isfinite(x) || !isfinite(y)) {
        return;
    }
    const double at = plot->top + y * ROW_HEIGHT;
    if (isfinite(low) && isfinite(high) && high > low) {
        draw_whisker(plot, x_of(plot, low), at, x_of(plot, high), at, series);
    }
    draw_dot(plot, x_of(plot, x), at, series);
}

void ga_plot_bar(const ga_plot *plot, double x_low, double x_high, double y, const char *series) {
    const double left = x_of(plot, x_low), right = x_of(plot, x_high), zero = y_of(plot, 0.0),
                 end = y_of(plot, y);
    if (isfinite(y)) {
        (void)fprintf(plot->out,
            "<rect class=\"bar %s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", series,
            left + 0.5, fmin(zero, end), fmax(right - left - 1.0, 0.5), fabs(zero - end));
    }
}

void ga_plot_guide(const ga_plot *plot, double x0, double y0, double x1, double y1) {
    (void)fprintf(plot->out, "<line class=\"guide\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
        x_of(plot, x0), y_of(plot, y0), x_of(plot, x1), y_of(plot, y1));
}
