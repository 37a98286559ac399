#include "grpo_accel/command/page.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/command/plot.h"

static const char style[] =
    ":root{color-scheme:light "
    "dark;--paper:#fcfcfb;--ink:#1d2126;--soft:#5c646e;--rule:#dfe2e6;--field:#f4f5f6;"
    "--a:#2563a8;--b:#c2570c;--c:#2e7d4f;--d:#858b94;--e:#8a4fbf;--f:#b08a00}\n"
    "@media(prefers-color-scheme:dark){:root{--paper:#16181b;--ink:#e6e8ea;--soft:#a0a7b0;--rule:#33383f;"
    "--field:#1e2125;--a:#72aaf2;--b:#f0a05c;--c:#70cc96;--d:#8d949e;--e:#bb8be8;--f:#d9b84a}}\n"
    "body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\n"
    "main{max-width:1160px;margin:0 auto;padding:28px 24px 60px}\n"
    "h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:38px 0 4px;border-top:1px solid "
    "var(--rule);padding-top:18px}\n"
    "p{margin:4px 0 10px;max-width:78ch}.note{color:var(--soft)}code{font-size:.92em}\n"
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:18px 0}\n"
    ".card{background:var(--field);border-radius:8px;padding:12px 14px}.card b{display:block;font-size:28px;"
    "font-variant-numeric:tabular-nums;line-height:1.25}.card "
    "span{color:var(--soft);font-size:13px;display:block}\n"
    ".row{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:18px 26px}\n"
    "figure{margin:8px 0;max-width:580px}figure "
    "h3{font-size:15px;margin:0}figcaption{color:var(--soft);font-size:13px}\n"
    ".legend{font-size:13px;color:var(--soft);margin:2px 0 4px}.legend i{display:inline-block;width:14px;"
    "height:4px;border-radius:2px;margin:0 5px 3px 0;vertical-align:middle}.legend span{margin-right:14px}\n"
    "svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}\n"
    "svg .label{fill:var(--ink)}svg .grid{stroke:var(--rule);stroke-width:1}"
    "svg .frame{fill:none;stroke:var(--rule)}\n"
    "svg .guide{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 4}svg "
    ".line{fill:none;stroke-width:2}\n"
    "svg .whisker{stroke-width:2;opacity:.75}svg .band{opacity:.18;stroke:none}\n"
    "svg .a{stroke:var(--a)}svg .b{stroke:var(--b)}svg .c{stroke:var(--c)}svg .d{stroke:var(--d)}"
    "svg .e{stroke:var(--e)}svg .f{stroke:var(--f)}\n"
    "svg .dot{stroke:none}svg .bar{stroke:none}\n"
    "svg .dot.a,svg .bar.a,svg .band.a,.legend .a{fill:var(--a);background:var(--a)}\n"
    "svg .dot.b,svg .bar.b,svg .band.b,.legend .b{fill:var(--b);background:var(--b)}\n"
    "svg .dot.c,svg .bar.c,svg .band.c,.legend .c{fill:var(--c);background:var(--c)}\n"
    "svg .dot.d,svg .bar.d,svg .band.d,.legend .d{fill:var(--d);background:var(--d)}\n"
    "svg .dot.e,.legend .e{fill:var(--e);background:var(--e)}\n"
    "svg .dot.f,.legend .f{fill:var(--f);background:var(--f)}\n"
    "div.scroll{overflow-x:auto}table{border-collapse:collapse;margin:10px "
    "0;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:4px 14px 4px 0;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}\n"
    "th{font-weight:600;font-size:13px;color:var(--soft)}th:first-child,td:first-child,td.text{text-align:"
    "left}\n"
    "td.text{white-space:normal}\n";

void ga_page_begin(FILE *out, const char *title) {
    (void)fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
        out);
    ga_plot_write_text(out, title);
    (void)fprintf(out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n<h1>", style);
    ga_plot_write_text(out, title);
    (void)fputs("</h1>\n", out);
}

void ga_page_end(FILE *out) {
    (void)fputs("</main>\n</body>\n</html>\n", out);
}

void ga_page_section(FILE *out, const char *heading, const char *note) {
    (void)fputs("<h2>", out);
    ga_plot_write_text(out, heading);
    (void)fputs("</h2>\n", out);
    if (note != NULL) {
        (void)fputs("<p class=\"note\">", out);
        ga_plot_write_text(out, note);
        (void)fputs("</p>\n", out);
    }
}

void ga_page_row_begin(FILE *out) {
    (void)fputs("<div class=\"row\">\n", out);
}

void ga_page_row_end(FILE *out) {
    (void)fputs("</div>\n", out);
}

void ga_page_figure_begin(FILE *out, const char *title, const char *const (*legend)[2], int count) {
    (void)fputs("<figure>\n<h3>", out);
    ga_plot_write_text(out, title);
    (void)fputs("</h3>\n", out);
    if (count > 0) {
        (void)fputs("<div class=\"legend\">", out);
        for (int i = 0; i < count; i++) {
            (void)fprintf(out, "<span><i class=\"%s\"></i>", legend[i][0]);
            ga_plot_write_text(out, legend[i][1]);
            (void)fputs("</span>", out);
        }
        (void)fputs("</div>\n", out);
    }
}

void ga_page_figure_end(FILE *out, const char *caption) {
    if (caption != NULL) {
        (void)fputs("<figcaption>", out);
        ga_plot_write_text(out, caption);
        (void)fputs("</figcaption>\n", out);
    }
    (void)fputs("</figure>\n", out);
}

void ga_page_table_begin(FILE *out, const char *headings) {
    (void)fputs("<div class=\"scroll\"><table>\n<tr>", out);
    for (const char *at = headings; *at != '\0';) {
        const size_t length = strcspn(at, "|");
        (void)fprintf(out, "<th>%.*s</th>", (int)length, at);
        at += length + (at[length] == '|' ? 1 : 0);
    }
    (void)fputs("</tr>\n", out);
}

void ga_page_table_row(FILE *out, const char *name) {
    (void)fputs("<tr><td>", out);
    ga_plot_write_text(out, name);
    (void)fputs("</td>", out);
}

void ga_page_cell_text(FILE *out, const char *text) {
    (void)fputs("<td class=\"text\">", out);
    ga_plot_write_text(out, text);
    (void)fputs("</td>", out);
}

void ga_page_cell_number(FILE *out, double value, int digits) {
    if (isfinite(value)) {
        (void)fprintf(out, "<td>%.*f</td>", digits, value);
    } else {
        (void)fputs("<td>–</td>", out);
    }
}

void ga_page_cell_count(FILE *out, long long value) {
    (void)fprintf(out, "<td>%lld</td>", value);
}

void ga_page_cell_within(FILE *out, const ga_within *within) {
    ga_page_cell_number(out, within->value, 3);
    if (isfinite(within->low) && isfinite(within->high)) {
        (void)fprintf(out, "<td>%.3f … %.3f</td>", within->low, within->high);
    } else {
        (void)fputs("<td>–</td>", out);
    }
    ga_page_cell_count(out, (long long)within->groups);
}

void ga_page_table_row_end(FILE *out) {
    (void)fputs("</tr>\n", out);
}

void ga_page_table_end(FILE *out) {
    (void)fputs("</table></div>\n", out);
}

void ga_page_card(FILE *out, const char *name, const ga_within *within, const char *words) {
    (void)fputs("<div class=\"card\"><span>", out);
    ga_plot_write_text(out, name);
    if (isfinite(within->value)) {
        (void)fprintf(out, "</span><b>%.3f</b><span>95 %%: %.3f … %.3f</span><span>", within->value,
            within->low, within->high);
    } else {
        (void)fputs("</span><b>–</b><span>", out);
    }
    ga_plot_write_text(out, words);
    (void)fputs("</span></div>\n", out);
}
