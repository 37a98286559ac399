/* Tables as CSV (RFC 4180): a header, then a line a row. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/whatif/table.h"

enum { CELL_BYTES = 4096, COLUMNS_MAX = 1024 };

typedef enum csv_column { GROUP, SCORE, REWARD, BATCH, RANK, SCORE2, SCORE3, COLUMN_COUNT } csv_column;
static const char *const names[COLUMN_COUNT] = {
    "group", "score", "reward", "batch", "rank", "score2", "score3"};

typedef struct reading {
    const char *name; /* of the file */
    const char *at, *end;
    int64_t line; /* from 1 */
    const char *line_start;
    int32_t place[COLUMN_COUNT]; /* in a line; −1: not there */
    int32_t cells;               /* of a line */
    ga_whatif_table *table;
} reading;

/* One cell of a line, without quotes and the blanks around it. */
typedef struct cell {
    char text[CELL_BYTES];
    int64_t line, column; /* of its first character, from 1 */
    bool cut;             /* the text is not all of it: too long, or with a zero byte */
    bool last;            /* of its line */
} cell;

static ga_status refuse_at(
    const reading *r, int64_t line, int64_t column, ga_error *error, const char *what, const char *text) {
    return GA_FAIL(error, GA_ERR_DATA, "%.200s:%lld:%lld: %s%s%.64s%s", r->name, (long long)line,
        (long long)column, what, text != NULL ? ": '" : "", text != NULL ? text : "",
        text != NULL ? "'" : "");
}

static ga_status refuse(
    const reading *r, const cell *c, ga_error *error, const char *what, const char *text) {
    return refuse_at(r, c->line, c->column, error, what, text);
}

static void trim(cell *c, size_t length) {
    size_t first = 0;
    while (first < length && (c->text[first] == ' ' || c->text[first] == '\t')) {
        first++;
    }
    while (length > first &&
           (c->text[length - 1] == ' ' || c->text[length - 1] == '\t' || c->text[length - 1] == '\r')) {
        length--;
    }
    memmove(c->text, c->text + first, length - first);
    c->text[length - first] = '\0';
}

/* Steps over a line end, or the comma after a cell. */
static void pass_end(reading *r, cell *c) {
    c->last = r->at == r->end || *r->at == '\n';
    if (r->at < r->end) {
        r->at++;
    }
}

/* A cell that nobody asks for may hold anything: what can't be kept of it is only noted. */
static ga_status read_cell(reading *r, cell *c, ga_error *error) {
    size_t length = 0;
    bool quoted = false;
    c->line = r->line;
    c->column = r->at - r->line_start + 1;
    c->cut = false;
    for (; r->at < r->end; r->at++) {
        if (*r->at == '"' && (quoted || length == 0)) {
            if (quoted && r->at + 1 < r->end && r->at[1] == '"') {
                r->at++; /* a doubled quote is one */
            } else {
                quoted = !quoted;
                continue;
            }
        } else if (!quoted && (*r->at == ',' || *r->at == '\n')) {
            break;
        }
        if (*r->at == '\n') { /* inside quotes: the line goes on in the file's next one */
            r->line++;
            r->line_start = r->at + 1;
        }
        if (*r->at == '\0' || length + 1 >= sizeof c->text) {
            c->cut = true;
        } else {
            c->text[length++] = *r->at;
        }
    }
    if (quoted) {
        return refuse(r, c, error, "a quote is not closed", NULL);
    }
    trim(c, length);
    pass_end(r, c);
    return GA_OK;
}

static void begin_line(reading *r) {
    r->line_start = r->at;
    r->line++;
}

static ga_status read_header(reading *r, ga_error *error) {
    if (r->end - r->at >= 3 && memcmp(r->at, "\xef\xbb\xbf", 3) == 0) {
        r->at += 3; /* byte order mark */
    }
    for (int k = 0; k < COLUMN_COUNT; k++) {
        r->place[k] = -1;
    }
    begin_line(r);
    cell c;
    c.last = false;
    while (!c.last) {
        GA_TRY(read_cell(r, &c, error));
        for (int k = 0; k < COLUMN_COUNT; k++) {
            if (c.cut || strcmp(c.text, names[k]) != 0) {
                continue;
            }
            if (r->place[k] >= 0) {
                return refuse(r, &c, error, "the column is there twice", c.text);
            }
            r->place[k] = r->cells;
        }
        if (++r->cells > COLUMNS_MAX) {
            return refuse(r, &c, error, "too many columns", NULL);
        }
    }
    for (int k = GROUP; k <= REWARD; k++) {
        if (r->place[k] < 0) {
            return refuse_at(r, 1, 1, error, "the header has no column of this name", names[k]);
        }
    }
    return r->place[SCORE3] >= 0 && r->place[SCORE2] < 0
               ? refuse_at(r, 1, 1, error, "the header has score3, but no column of this name", names[SCORE2])
               : GA_OK;
}

static int64_t count_lines(const char *at, const char *end) {
    int64_t lines = 0;
    while (at < end) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        lines++;
        at = next != NULL ? next + 1 : end;
    }
    return lines;
}

/*
 * A whole number as it is counted (digits without sign or leading zeros) is itself, any other text its
 * digest: 1, 01, 1.0 and 0x1 are four names.
 */
static uint64_t key_of(const char *text) {
    const size_t length = strlen(text);
    const bool digits = strspn(text, "0123456789") == length && (text[0] != '0' || length == 1);
    errno = 0;
    const unsigned long long whole = digits ? strtoull(text, NULL, 10) : 0;
    return digits && errno == 0 ? whole : ga_digest64(text, length);
}

static ga_status number_of(
    const reading *r, const cell *c, bool may_be_missing, double *value_out, ga_error *error) {
    char *rest = NULL;
    const double value = strtod(c->text, &rest);
    if (c->text[0] == '\0' || (rest != c->text && *rest == '\0' && isnan(value))) {
        *value_out = (double)NAN;
        return may_be_missing ? GA_OK : refuse(r, c, error, "a number is missing", NULL);
    }
    if (rest == c->text || *rest != '\0' || !isfinite(value)) {
        return refuse(r, c, error, "not a finite number", c->text);
    }
    if (fabs(value) > GA_WHATIF_VALUE_MAX) {
        return refuse(r, c, error, "too large a number (at most 1e18 either way)", c->text);
    }
    *value_out = value;
    return GA_OK;
}

static ga_status take_cell(const reading *r, const cell *c, csv_column which, int32_t row, ga_error *error) {
    ga_whatif_table *table = r->table;
    double value = 0;
    if (c->cut) {
        return refuse(r, c, error, "a cell with a zero byte, or of more than 4095", NULL);
    }
    switch (which) {
    case GROUP:
    case BATCH:
        if (c->text[0] == '\0') {
            return refuse(r, c, error, "an empty name of", names[which]);
        }
        (which == GROUP ? table->group : table->batch)[row] = key_of(c->text);
        return GA_OK;
    case RANK:
        GA_TRY(number_of(r, c, false, &value, error));
        if (value < 0 || value > INT32_MAX || floor(value) != value) {
            return refuse(r, c, error, "a rank is a whole number from 0", c->text);
        }
        table->rank[row] = (int32_t)value;
        return GA_OK;
    case REWARD: return number_of(r, c, false, &table->reward[row], error);
    case SCORE: return number_of(r, c, true, &table->score[0][row], error);
    case SCORE2: return number_of(r, c, true, &table->score[1][row], error);
    case SCORE3: return number_of(r, c, true, &table->score[2][row], error);
    case COLUMN_COUNT: break;
    }
    return GA_OK;
}

static ga_status read_line(reading *r, int32_t row, ga_error *error) {
    cell c;
    int32_t cells = 0;
    c.last = false;
    while (!c.last) {
        GA_TRY(read_cell(r, &c, error));
        for (int k = 0; k < COLUMN_COUNT; k++) {
            if (r->place[k] == cells) {
                GA_TRY(take_cell(r, &c, (csv_column)k, row, error));
            }
        }
        cells++;
    }
    if (cells != r->cells) {
        return GA_FAIL(error, GA_ERR_DATA, "%.200s:%lld:%lld: %d cells where the header has %d", r->name,
            (long long)c.line, (long long)c.column, (int)cells, (int)r->cells);
    }
    return GA_OK;
}

static bool is_blank(const reading *r) {
    return r->at < r->end && (*r->at == '\n' || (*r->at == '\r' && r->at + 1 < r->end && r->at[1] == '\n'));
}

static ga_status read_lines(reading *r, ga_error *error) {
    int32_t row = 0;
    while (r->at < r->end) {
        begin_line(r);
        if (is_blank(r)) {
            r->at += *r->at == '\r' ? 2 : 1;
            continue;
        }
        GA_TRY(read_line(r, row, error));
        row++;
    }
    if (row == 0) {
        return refuse_at(r, r->line, 1, error, "there are no rows below the header", NULL);
    }
    r->table->rows = row;
    return GA_OK;
}

ga_status ga_whatif_parse_csv(
    const char *name, const char *text, size_t bytes, ga_whatif_table **table_out, ga_error *error) {
    reading r = {.name = name, .at = text, .end = text + bytes, .line_start = text};
    GA_TRY(read_header(&r, error));
    const int64_t lines = count_lines(r.at, r.end);
    if (lines < 1 || lines > GA_WHATIF_ROWS_MAX) {
        return GA_FAIL(error, GA_ERR_DATA, "%.200s:2:1: %lld rows below the header, not 1 to %d", name,
            (long long)lines, GA_WHATIF_ROWS_MAX);
    }
    const int32_t stages = r.place[SCORE3] >= 0 ? 3 : r.place[SCORE2] >= 0 ? 2 : 1;
    GA_TRY(ga_whatif_table_create(lines, stages, r.place[RANK] >= 0, &r.table, error));
    const ga_status status = read_lines(&r, error);
    if (status != GA_OK) {
        ga_whatif_table_free(&r.table);
        return status;
    }
    *table_out = r.table;
    return GA_OK;
}
