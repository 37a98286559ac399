/* One HTML page that needs nothing else: style for light and dark, tables and figures. */
#ifndef GA_COMMAND_PAGE_H
#define GA_COMMAND_PAGE_H

#include <stdio.h>

#include "grpo_accel/base/correlation.h"

/* The page up to its heading. */
void ga_page_begin(FILE *out, const char *title);
void ga_page_end(FILE *out);

/* A heading and, below it, what the section says; `note` may be NULL and is plain text. */
void ga_page_section(FILE *out, const char *heading, const char *note);

/* Plots stand side by side between these. */
void ga_page_row_begin(FILE *out);
void ga_page_row_end(FILE *out);

/* A figure around a plot: title, and a legend of `count` pairs (class of the series, what it is). */
void ga_page_figure_begin(FILE *out, const char *title, const char *const (*legend)[2], int count);
void ga_page_figure_end(FILE *out, const char *caption);

/* A table: headings are separated by '|'; the first column is text, the others numbers. */
void ga_page_table_begin(FILE *out, const char *headings);
void ga_page_table_row(FILE *out, const char *name);
void ga_page_cell_text(FILE *out, const char *text);
void ga_page_cell_number(FILE *out, double value, int digits);
void ga_page_cell_count(FILE *out, long long value);
/* Three cells: value, 95 % interval, groups. */
void ga_page_cell_within(FILE *out, const ga_within *within);
void ga_page_table_row_end(FILE *out);
void ga_page_table_end(FILE *out);

/* A large number with its interval and a line of words. Cards stand in a row. */
void ga_page_card(FILE *out, const char *name, const ga_within *within, const char *words);

#endif
