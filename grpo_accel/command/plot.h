/*
 * Plots as inline SVG: axes with round numbers, lines, bands, points with intervals, bars. Colours are
 * classes that the page's style defines (a, b, c, … for series), so that a page can be light or dark.
 *
 * Values that are not finite are left out.
 */
#ifndef GA_COMMAND_PLOT_H
#define GA_COMMAND_PLOT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct ga_plot_axis {
    const char *label;
    double low, high; /* low < high; widened a little where both are the same */
    bool whole;       /* round numbers are whole ones */
} ga_plot_axis;

typedef struct ga_plot {
    FILE *out;
    ga_plot_axis x, y;
    double left, top, width, height; /* of the field in the picture */
    bool has_names;                  /* rows with names instead of numbers on the y axis */
} ga_plot;

/* Begins a picture with frame, grid and numbers. `title` is for those who can't see it. */
ga_plot ga_plot_begin(FILE *out, const char *title, const ga_plot_axis *x, const ga_plot_axis *y);

/* The same with `count` named rows from top to bottom instead of a y axis; row i lies at y = i + ½. */
ga_plot ga_plot_begin_rows(
    FILE *out, const char *title, const ga_plot_axis *x, const char *const *names, int32_t count);

void ga_plot_line(const ga_plot *plot, const double *x, const double *y, int32_t count, const char *series);
/* Between low and high. */
void ga_plot_band(const ga_plot *plot, const double *x, const double *low, const double *high, int32_t count,
    const char *series);
/* One point with its interval, upright; low = high: none. */
void ga_plot_point(const ga_plot *plot, double x, double y, double low, double high, const char *series);
/* One point with its interval, lying. */
void ga_plot_row(const ga_plot *plot, double y, double x, double low, double high, const char *series);
/* From the axis y = 0 to y. */
void ga_plot_bar(const ga_plot *plot, double x_low, double x_high, double y, const char *series);
/* A straight line through the field, such as a diagonal or a limit. */
void ga_plot_guide(const ga_plot *plot, double x0, double y0, double x1, double y1);

void ga_plot_end(const ga_plot *plot);

/* Text for HTML and XML: &, <, >, quotes, control characters and bytes that are no UTF-8 are safe. */
void ga_plot_write_text(FILE *out, const char *text);

#endif
