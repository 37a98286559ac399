#include "grpo_accel/feature/attention_work.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/feature/read.h"

/* Image keys that are packed at a time: 64 KiB for heads of 64 values, so that they stay in the second-level
 * cache while all queries of a piece pass by. */
#define KEY_TILE 256

/* Without a shift, sums within these bounds have lost nothing: the largest power is at least 2^-20 over the
 * number of keys, and what is left out below 2^-126 can't matter. */
#define SUM_LEAST 0x1p-20f
#define SUM_MOST 0x1p100f

/* A piece of the work and its parts of the workspace. P = panels of queries, Q = queries of a panel. */
typedef struct piece {
    const ga_attention_views *views;
    const ga_tile_kernel *kernel;
    const ga_attention_text *shown;
    int32_t row, first, count;
    int32_t panels;      /* P */
    int32_t text_panels; /* of keys */
    float *query;        /* [P][head size][Q], scaled by log2(e) / sqrt(head size) */
    float *image;        /* [panels of KEY_TILE][head size][keys] */
    float *text;         /* [text panels][head size][keys] */
    float *powers;       /* [Q][text panels · keys], also of one panel of image keys */
    float *values;       /* [head size], a token as it is read */
    float *sums;         /* [P][Q][lanes] */
    float *shifts;       /* [P][Q] */
    uint8_t *failed;     /* [P]: the sums of a panel are out of bounds */
    float *probability;  /* [count, shown tokens] */
} piece;

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static int32_t panels_of(int32_t count, int32_t size) {
    return (count + size - 1) / size;
}

/* ---- workspace ---- */

/* Divides a workspace; returns its size. With workspace NULL only the size means something. */
static size_t divide(
    piece *p, const ga_attention_views *views, const ga_tile_kernel *kernel, float *workspace) {
    const size_t head_size = (size_t)views->head_size, keys = (size_t)kernel->keys;
    const size_t queries = (size_t)kernel->queries;
    const size_t panels = (size_t)panels_of(GA_ATTENTION_PIECE, kernel->queries);
    const size_t text_panels = (size_t)panels_of(views->text_tokens, kernel->keys);
    const struct {
        float **part;
        size_t floats;
    } parts[] = {{&p->query, panels * head_size * queries},
        {&p->image, (size_t)panels_of(KEY_TILE, kernel->keys) * head_size * keys},
        {&p->text, text_panels * head_size * keys}, {&p->powers, queries * text_panels * keys},
        {&p->values, head_size}, {&p->sums, panels * queries * (size_t)kernel->lanes},
        {&p->shifts, panels * queries}};
    size_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = workspace == NULL ? NULL : workspace + total;
        total += (parts[i].floats + 15) / 16 * 16;
    }
    p->failed = workspace == NULL ? NULL : (uint8_t *)(workspace + total);
    return total + (panels + 63) / 64 * 16;
}

size_t ga_attention_work_floats(const ga_attention_views *views, const ga_tile_kernel *kernel) {
    piece unused;
    return divide(&unused, views, kernel, NULL);
}

/* ---- packing ---- */

/* Tokens of a view: those in the list, or without one first … first + count − 1. */
typedef struct chosen_tokens {
    const ga_tensor *view;
    const int32_t *list; /* [count] or NULL */
    int32_t first, count;
} chosen_tokens;

/*
 * Tokens of a head as panels of `size`, [head size][size] each; the last panel is filled up with copies of
 * the last token, which change no maximum.
 */
static void pack(
    const piece *p, const chosen_tokens *tokens, int32_t head, int32_t size, float scale, float *panels) {
    const ga_tensor *view = tokens->view;
    const int32_t head_size = p->views->head_size;
    const int64_t start = p->row * view->strides[0] + head * view->strides[1];
    for (int32_t i = 0; i < panels_of(tokens->count, size) * size; i++) {
        float *to = panels + (ptrdiff_t)(i / size) * head_size * size + i % size;
        if (i < tokens->count) {
            const int64_t token = tokens->list != NULL ? tokens->list[i] : tokens->first + i;
            const int64_t offset = start + token * view->strides[2];
            ga_read_run(view, offset, view->strides[3], head_size, scale, p->values);
        }
        for (int32_t d = 0; d < head_size; d++) {
            to[d * size] = p->values[d];
        }
    }
}

static void pack_head(const piece *p, int32_t head) {
    const float scale = (float)(1.4426950408889634 / sqrt((double)p->views->head_size));
    const chosen_tokens queries = {p->views->query, NULL, p->first, p->count};
    const chosen_tokens text = {p->views->key_text, p->shown->tokens, 0, p->shown->count};
    pack(p, &queries, head, p->kernel->queries, scale, p->query);
    pack(p, &text, head, p->kernel->keys, 1.0f, p->text);
}

static float *query_panel(const piece *p, int32_t panel) {
    return p->query + (ptrdiff_t)panel * p->views->head_size * p->kernel->queries;
}

static const float *key_panel(const piece *p, const float *keys, int32_t panel) {
    return keys + (ptrdiff_t)panel * p->views->head_size * p->kernel->keys;
}

static int32_t lanes_of_panel(const piece *p) {
    return p->kernel->queries * p->kernel->lanes;
}

/* ---- sums over image keys ---- */

/* The last panel of image keys, of which only `valid` are keys. */
static void sum_part(const piece *p, const float *keys, int32_t valid) {
    for (int32_t panel = 0; panel < p->panels; panel++) {
        const float *shifts = p->shifts + panel * p->kernel->queries;
        p->kernel->write_powers(p->views->head_size, 1, query_panel(p, panel), keys, shifts, p->powers);
        float *sums = p->sums + (ptrdiff_t)panel * lanes_of_panel(p);
        for (int32_t q = 0; q < p->kernel->queries; q++) {
            for (int32_t k = 0; k < valid; k++) {
                sums[q * p->kernel->lanes + k % p->kernel->lanes] += p->powers[q * p->kernel->keys + k];
            }
        }
    }
}

static void sum_tile(const piece *p, int32_t keys) {
    const int32_t size = p->kernel->keys, full = keys / size;
    for (int32_t k = 0; k < full; k++) {
        p->kernel->sum_powers(
            p->views->head_size, p->panels, p->query, key_panel(p, p->image, k), p->shifts, p->sums);
    }
    if (full * size < keys) {
        sum_part(p, key_panel(p, p->image, full), keys - full * size);
    }
}

static void raise_tile(const piece *p, const float *keys, int32_t panels) {
    for (int32_t k = 0; k < panels; k++) {
        p->kernel->raise_highest(p->views->head_size, p->panels, p->query, key_panel(p, keys, k), p->sums);
    }
}

/* Tile by tile over the image keys: sums of powers, or the highest logits. */
static void pass_image(const piece *p, int32_t head, bool highest) {
    const ga_tensor *key = p->views->key_image;
    const int32_t tokens = key != NULL ? (int32_t)key->shape[2] : 0;
    for (int32_t first = 0; first < tokens; first += KEY_TILE) {
        const int32_t keys = smaller(KEY_TILE, tokens - first);
        const chosen_tokens image = {key, NULL, first, keys};
        pack(p, &image, head, p->kernel->keys, 1.0f, p->image);
        if (highest) {
            raise_tile(p, p->image, panels_of(keys, p->kernel->keys));
        } else {
            sum_tile(p, keys);
        }
    }
}

static void sum_image(const piece *p, int32_t head) {
    memset(p->sums, 0, sizeof(float) * (size_t)p->panels * (size_t)lanes_of_panel(p));
    pass_image(p, head, false);
}

/* ---- text keys ---- */

static float add_lanes(const float *lanes, int32_t count) {
    float sum = 0;
    for (int32_t l = 0; l < count; l++) {
        sum += lanes[l];
    }
    return sum;
}

/* Σ of `count` values, in partial sums of a fixed order. */
static float sum_of(const float *values, int32_t count) {
    float lanes[8] = {0};
    int32_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (int l = 0; l < 8; l++) {
            lanes[l] += values[i + l];
        }
    }
    for (; i < count; i++) {
        lanes[i % 8] += values[i];
    }
    return add_lanes(lanes, 8);
}

/* Powers of one panel over the text, and totals[Q] over all keys. */
static void total_panel(const piece *p, int32_t panel, float *totals) {
    const ga_tile_kernel *kernel = p->kernel;
    kernel->write_powers(p->views->head_size, p->text_panels, query_panel(p, panel), p->text,
        p->shifts + panel * kernel->queries, p->powers);
    const int32_t stride = p->text_panels * kernel->keys;
    const float *sums = p->sums + (ptrdiff_t)panel * lanes_of_panel(p);
    for (int32_t q = 0; q < kernel->queries; q++) {
        totals[q] = add_lanes(sums + q * kernel->lanes, kernel->lanes) +
                    sum_of(p->powers + (ptrdiff_t)q * stride, p->shown->count);
    }
}

static void add_scaled(int32_t count, float factor, const float *restrict from, float *restrict to) {
    for (int32_t j = 0; j < count; j++) {
        to[j] += factor * from[j];
    }
}

/* probability += softmax / heads, for one panel. */
static void add_panel(const piece *p, int32_t panel, const float *totals) {
    const int32_t begin = panel * p->kernel->queries, stride = p->text_panels * p->kernel->keys;
    const int32_t text_tokens = p->shown->count;
    for (int32_t q = 0; q < smaller(p->kernel->queries, p->count - begin); q++) {
        add_scaled(text_tokens, 1.0f / (totals[q] * (float)p->views->heads),
            p->powers + (ptrdiff_t)q * stride, p->probability + (ptrdiff_t)(begin + q) * text_tokens);
    }
}

static bool within_bounds(const float *totals, int32_t count) {
    for (int32_t q = 0; q < count; q++) {
        if (!(totals[q] >= SUM_LEAST && totals[q] <= SUM_MOST)) { /* NaN too */
            return false;
        }
    }
    return true;
}

/* ---- a head ---- */

#define QUERIES_MAX 32 /* of a panel */

/* All panels whose sums need no shift; false if there are others. */
static bool add_plain_panels(const piece *p) {
    bool all = true;
    for (int32_t panel = 0; panel < p->panels; panel++) {
        float totals[QUERIES_MAX];
        total_panel(p, panel, totals);
        const bool good = within_bounds(totals, p->kernel->queries);
        p->failed[panel] = !good;
        all = all && good;
        if (good) {
            add_panel(p, panel, totals);
        }
    }
    return all;
}

/* shifts = each query's highest logit. */
static void find_shifts(const piece *p, int32_t head) {
    const int32_t lanes = p->kernel->lanes, queries = p->panels * p->kernel->queries;
    for (int32_t i = 0; i < queries * lanes; i++) {
        p->sums[i] = -INFINITY;
    }
    raise_tile(p, p->text, p->text_panels);
    pass_image(p, head, true);
    for (int32_t q = 0; q < queries; q++) {
        float highest = -INFINITY;
        for (int32_t l = 0; l < lanes; l++) {
            const float value = p->sums[q * lanes + l];
            highest = value > highest ? value : highest;
        }
        p->shifts[q] = highest;
    }
}

/* The failed panels again, with shifts. What is not finite becomes NaN here and stays so. */
static void add_shifted_panels(const piece *p, int32_t head) {
    find_shifts(p, head);
    sum_image(p, head);
    for (int32_t panel = 0; panel < p->panels; panel++) {
        if (p->failed[panel] != 0) {
            float totals[QUERIES_MAX];
            total_panel(p, panel, totals);
            add_panel(p, panel, totals);
        }
    }
}

/* Most models' logits are far from what a float's exponent can hold, so the usual shift by the highest logit,
 * and with it a pass over the keys, is left out until a sum shows that it is needed. */
static void add_head(const piece *p, int32_t head) {
    pack_head(p, head);
    memset(p->shifts, 0, sizeof(float) * (size_t)p->panels * (size_t)p->kernel->queries);
    sum_image(p, head);
    if (!add_plain_panels(p)) {
        add_shifted_panels(p, head);
    }
}

void ga_attention_work(const ga_attention_views *views, const ga_tile_kernel *kernel,
    const ga_attention_text *text, int32_t row, int32_t first, int32_t count, float *workspace,
    float *probability) {
    piece p = {.views = views, .kernel = kernel, .shown = text, .row = row, .first = first, .count = count};
    divide(&p, views, kernel, workspace);
    p.panels = panels_of(count, kernel->queries);
    p.text_panels = panels_of(text->count, kernel->keys);
    p.probability = probability;
    memset(probability, 0, sizeof(float) * (size_t)count * (size_t)text->count);
    /* without text there is nothing to give: a softmax over no key at all must not be asked for */
    for (int32_t head = 0; text->count > 0 && head < views->heads; head++) {
        add_head(&p, head);
    }
}
