#include "probe/train/dataset.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/random.h"

#define TRAIN_GROUPS_MIN 4
#define JUDGE_GROUPS_MIN 2

static bool has_columns(const ga_dataset *dataset) {
    const bool features = dataset->features != NULL ||
                          (dataset->fetch != NULL && dataset->complete != NULL && dataset->window_rows >= 1);
    return features && dataset->reward != NULL && dataset->group != NULL && dataset->prompt != NULL &&
           dataset->update != NULL && dataset->inclusion != NULL && dataset->sigma != NULL;
}

ga_status ga_dataset_check(const ga_dataset *dataset, ga_error *error) {
    if (dataset->schema == NULL || dataset->rows < 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a dataset needs a schema and a number of rows");
    }
    if (dataset->rows > 0 && !has_columns(dataset)) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "a dataset of %lld rows lacks a column", (long long)dataset->rows);
    }
    if (dataset->target_count < 0 || dataset->target_count > GA_TARGETS_MAX ||
        (dataset->target_count > 1 && (dataset->targets == NULL || dataset->target_names == NULL))) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a dataset of %d targets: 1 to %d, with labels and names",
            dataset->target_count, GA_TARGETS_MAX);
    }
    return GA_OK;
}

static bool is_complete(const ga_dataset *dataset, int64_t row) {
    if (dataset->complete != NULL) {
        return dataset->complete[row] != 0;
    }
    const int32_t values = dataset->schema->values_per_row;
    const ga_half *features = dataset->features + row * values;
    for (int32_t i = 0; i < values; i++) {
        if ((features[i] & 0x7c00u) == 0x7c00u) { /* infinite or NaN */
            return false;
        }
    }
    return true;
}

bool ga_dataset_usable(const ga_dataset *dataset, int64_t row) {
    const float inclusion = dataset->inclusion[row];
    const float sigma = dataset->sigma[row];
    return isfinite(dataset->reward[row]) && inclusion > 0.0f && inclusion <= 1.0f && isfinite(sigma) &&
           sigma >= 0.0f && is_complete(dataset, row);
}

ga_status ga_dataset_features(
    const ga_dataset *dataset, const int64_t *rows, int64_t count, ga_half *values_out, ga_error *error) {
    if (dataset->features == NULL) {
        return dataset->fetch(dataset->user, rows, count, values_out, error);
    }
    const size_t values = (size_t)dataset->schema->values_per_row;
    for (int64_t i = 0; i < count; i++) {
        memcpy(values_out + (size_t)i * values, dataset->features + (size_t)rows[i] * values,
            values * sizeof *values_out);
    }
    return GA_OK;
}

int32_t ga_dataset_target_count(const ga_dataset *dataset) {
    return dataset->target_count > 1 ? dataset->target_count : 1;
}

int64_t ga_dataset_more(const ga_dataset *dataset, int64_t row, int32_t *count_out) {
    const ga_more_labels *more = dataset->more;
    *count_out = more != NULL ? more->count[row / more->share] : 0;
    return more != NULL ? more->begin[row / more->share] : 0;
}

float ga_dataset_target(const ga_dataset *dataset, int64_t row, int32_t target) {
    return target == 0 ? dataset->reward[row] : dataset->targets[row * dataset->target_count + target];
}

/* Spreads neighbouring keys (finaliser of splitmix64, Steele, Lea, Flood, OOPSLA 2014). */
static uint64_t mix(uint64_t key) {
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    return key ^ (key >> 31);
}

typedef enum part_side { SIDE_TRAIN = 0, SIDE_TUNE = 1, SIDE_REPORT = 2 } part_side;

/* A usable row while it is sorted. */
typedef struct row_key {
    uint64_t prompt, group;
    int64_t row, first; /* first: row of its group that comes first */
    uint32_t update;
    part_side side;
} row_key;

static int compare_u64(uint64_t a, uint64_t b) {
    return a < b ? -1 : a > b ? 1 : 0;
}

static int by_group(const void *a, const void *b) {
    const row_key *x = a;
    const row_key *y = b;
    const int group = compare_u64(x->group, y->group);
    return group != 0 ? group : x->row < y->row ? -1 : x->row > y->row ? 1 : 0;
}

static int by_place(const void *a, const void *b) {
    const row_key *x = a;
    const row_key *y = b;
    const int64_t left = x->first != y->first ? x->first : x->row;
    const int64_t right = x->first != y->first ? y->first : y->row;
    return left < right ? -1 : left > right ? 1 : 0;
}

/* Whole groups, in the order of their first rows. */
static void sort_groups(row_key *keys, int64_t count) {
    qsort(keys, (size_t)count, sizeof *keys, by_group);
    for (int64_t i = 0; i < count; i++) {
        keys[i].first = i > 0 && keys[i].group == keys[i - 1].group ? keys[i - 1].first : keys[i].row;
    }
    qsort(keys, (size_t)count, sizeof *keys, by_place);
}

static int by_prompt(const void *a, const void *b) {
    const row_key *x = a;
    const row_key *y = b;
    const int prompt = compare_u64(x->prompt, y->prompt);
    return prompt != 0 ? prompt : by_group(a, b);
}

/* ---- parts ---- */

static ga_status part_create(
    int64_t count, int64_t groups, int64_t all_groups, ga_part *part, ga_error *error) {
    memset(part, 0, sizeof *part);
    part->rows = malloc(((size_t)count + 1) * sizeof *part->rows);
    part->target = malloc(((size_t)count + 1) * sizeof *part->target);
    part->weight = malloc(((size_t)count + 1) * sizeof *part->weight);
    part->begin = malloc(((size_t)groups + 1) * sizeof *part->begin);
    part->fold = malloc(((size_t)groups + 1) * sizeof *part->fold);
    part->all_rows = calloc((size_t)all_groups + 1, sizeof *part->all_rows);
    part->all_place = malloc(((size_t)all_groups + 1) * sizeof *part->all_place);
    part->all_key = malloc(((size_t)all_groups + 1) * sizeof *part->all_key);
    part->all_prompt = malloc(((size_t)all_groups + 1) * sizeof *part->all_prompt);
    if (part->rows == NULL || part->target == NULL || part->weight == NULL || part->begin == NULL ||
        part->fold == NULL || part->all_rows == NULL || part->all_place == NULL || part->all_key == NULL ||
        part->all_prompt == NULL) {
        ga_part_destroy(part);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %lld rows of examples", (long long)count);
    }
    part->count = count;
    part->all_groups = (int32_t)all_groups;
    return GA_OK;
}

void ga_part_destroy(ga_part *part) {
    free(part->rows);
    free(part->target);
    free(part->weight);
    free(part->begin);
    free(part->fold);
    free(part->all_rows);
    free(part->all_place);
    free(part->all_key);
    free(part->all_prompt);
    memset(part, 0, sizeof *part);
}

/* Does the row belong to a part that takes the sides whose bits are set? */
static bool on_side(const row_key *key, unsigned sides) {
    return (sides & (1u << (unsigned)key->side)) != 0;
}

static bool is_mine(const ga_dataset *dataset, const row_key *key) {
    return dataset->mine == NULL || dataset->mine[key->row] != 0;
}

/* How much a part will hold, here and everywhere; keys are whole groups. */
typedef struct part_size {
    int64_t rows, groups, all_groups;
    double weight_mean;
} part_size;

static double weight_of(const ga_dataset *dataset, const row_key *key, double weight_max) {
    return fmin(1.0 / (double)dataset->inclusion[key->row], weight_max);
}

static part_size part_measure(
    const ga_dataset *dataset, const row_key *keys, int64_t key_count, unsigned sides, double weight_max) {
    part_size size = {0};
    double weights = 0.0;
    int64_t all_rows = 0;
    uint64_t last = 0;
    for (int64_t i = 0; i < key_count; i++) {
        if (!on_side(&keys[i], sides)) {
            continue;
        }
        const bool first = all_rows == 0 || keys[i].group != last;
        const bool mine = is_mine(dataset, &keys[i]);
        last = keys[i].group;
        all_rows++;
        weights += weight_of(dataset, &keys[i], weight_max);
        size.all_groups += first ? 1 : 0;
        size.groups += first && mine ? 1 : 0;
        size.rows += mine ? 1 : 0;
    }
    size.weight_mean = all_rows > 0 ? weights / (double)all_rows : 1.0;
    return size;
}

/* A group begins: its place in the list of all, and in this process's part. */
static void part_open_group(ga_part *part, const row_key *key, bool mine, int32_t *all, int64_t used) {
    const int32_t number = (*all)++;
    part->all_key[number] = key->group;
    part->all_prompt[number] = key->prompt;
    part->all_place[number] = mine ? part->grouped.groups : -1;
    if (mine) {
        part->fold[part->grouped.groups] = (int32_t)(mix(key->prompt) % GA_FOLDS);
        part->begin[part->grouped.groups++] = used;
    }
}

static ga_status part_fill(const ga_dataset *dataset, const row_key *keys, int64_t key_count, unsigned sides,
    double weight_max, ga_part *part_out, ga_error *error) {
    const part_size size = part_measure(dataset, keys, key_count, sides, weight_max);
    ga_part part;
    GA_TRY(part_create(size.rows, size.groups, size.all_groups, &part, error));
    int64_t used = 0;
    int32_t all = 0;
    for (int64_t i = 0; i < key_count; i++) {
        if (!on_side(&keys[i], sides)) {
            continue;
        }
        const bool mine = is_mine(dataset, &keys[i]);
        if (all == 0 || keys[i].group != part.all_key[all - 1]) {
            part_open_group(&part, &keys[i], mine, &all, used);
        }
        part.all_rows[all - 1]++;
        if (mine) {
            part.rows[used] = keys[i].row;
            part.target[used] = dataset->reward[keys[i].row];
            part.weight[used++] = (float)(weight_of(dataset, &keys[i], weight_max) / size.weight_mean);
        }
    }
    part.begin[part.grouped.groups] = used;
    part.grouped = (ga_grouped){.groups = part.grouped.groups,
        .begin = part.begin,
        .target = part.target,
        .weight = part.weight,
        .fold = part.fold};
    *part_out = part;
    return GA_OK;
}

/* A group of `from` behind what `part` has. */
static void part_append(const ga_part *from, int32_t number, ga_part *part) {
    const int32_t group = from->all_place[number], all = part->all_groups++;
    part->all_key[all] = from->all_key[number];
    part->all_prompt[all] = from->all_prompt[number];
    part->all_rows[all] = from->all_rows[number];
    part->all_place[all] = group < 0 ? -1 : part->grouped.groups;
    if (group < 0) {
        return;
    }
    part->fold[part->grouped.groups] = from->fold[group];
    part->begin[part->grouped.groups++] = part->count;
    for (int64_t i = from->begin[group]; i < from->begin[group + 1]; i++, part->count++) {
        part->rows[part->count] = from->rows[i];
        part->target[part->count] = from->target[i];
        part->weight[part->count] = from->weight[i];
    }
    part->begin[part->grouped.groups] = part->count;
}

ga_status ga_part_thin(const ga_part *part, int64_t rows_max, ga_part *part_out, ga_error *error) {
    int64_t all = 0;
    for (int32_t i = 0; i < part->all_groups; i++) {
        all += part->all_rows[i];
    }
    const int64_t every = rows_max > 0 ? (all + rows_max - 1) / rows_max : 1;
    ga_part thin;
    GA_TRY(part_create(part->count, part->grouped.groups, part->all_groups, &thin, error));
    thin.count = 0;
    thin.all_groups = 0;
    thin.begin[0] = 0;
    for (int64_t i = 0; i<part->all_groups; i += every> 0 ? every : 1) {
        part_append(part, (int32_t)i, &thin);
    }
    thin.grouped = (ga_grouped){.groups = thin.grouped.groups,
        .begin = thin.begin,
        .target = thin.target,
        .weight = thin.weight,
        .fold = thin.fold};
    *part_out = thin;
    return GA_OK;
}

/* Keys of usable rows; *keys_out is the caller's. */
static ga_status collect_keys(
    const ga_dataset *dataset, bool audited_only, row_key **keys_out, int64_t *count_out, ga_error *error) {
    GA_TRY(ga_dataset_check(dataset, error));
    row_key *keys = malloc(((size_t)dataset->rows + 1) * sizeof *keys);
    if (keys == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort %lld rows", (long long)dataset->rows);
    }
    int64_t count = 0;
    for (int64_t row = 0; row < dataset->rows; row++) {
        const bool audited = dataset->audit != NULL && dataset->audit[row] != 0;
        if ((!audited_only || audited) && ga_dataset_usable(dataset, row)) {
            keys[count++] = (row_key){.prompt = dataset->prompt[row],
                .group = dataset->group[row],
                .row = row,
                .update = dataset->update[row]};
        }
    }
    *keys_out = keys;
    *count_out = count;
    return GA_OK;
}

ga_status ga_part_all(
    const ga_dataset *dataset, bool audited_only, double weight_max, ga_part *part_out, ga_error *error) {
    row_key *keys;
    int64_t count;
    GA_TRY(collect_keys(dataset, audited_only, &keys, &count, error));
    sort_groups(keys, count);
    const ga_status status = part_fill(dataset, keys, count, 1u << SIDE_TRAIN, weight_max, part_out, error);
    free(keys);
    return status;
}

/* ---- prompts ---- */

static int by_key(const void *a, const void *b) {
    return compare_u64(*(const uint64_t *)a, *(const uint64_t *)b);
}

ga_status ga_part_prompts(const ga_part *part, uint64_t **prompts_out, int32_t *count_out, ga_error *error) {
    const size_t groups = (size_t)part->all_groups;
    uint64_t *prompts = malloc((groups + 1) * sizeof *prompts);
    if (prompts == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the prompts of %zu groups", groups);
    }
    memcpy(prompts, part->all_prompt, groups * sizeof *prompts);
    qsort(prompts, groups, sizeof *prompts, by_key);
    int32_t count = 0;
    for (size_t i = 0; i < groups; i++) {
        if (count == 0 || prompts[i] != prompts[count - 1]) {
            prompts[count++] = prompts[i];
        }
    }
    *prompts_out = prompts;
    *count_out = count;
    return GA_OK;
}

bool ga_prompts_have(const uint64_t *prompts, int32_t count, uint64_t prompt) {
    return bsearch(&prompt, prompts, (size_t)count, sizeof prompt, by_key) != NULL;
}

ga_status ga_part_of_prompts(
    const ga_dataset *dataset, const ga_part *like, double weight_max, ga_part *part_out, ga_error *error) {
    uint64_t *prompts;
    int32_t prompt_count;
    row_key *keys;
    int64_t count;
    GA_TRY(ga_part_prompts(like, &prompts, &prompt_count, error));
    ga_status status = collect_keys(dataset, false, &keys, &count, error);
    if (status == GA_OK) {
        sort_groups(keys, count);
        for (int64_t i = 0; i < count; i++) {
            keys[i].side = ga_prompts_have(prompts, prompt_count, keys[i].prompt) ? SIDE_TRAIN : SIDE_TUNE;
        }
        status = part_fill(dataset, keys, count, 1u << SIDE_TRAIN, weight_max, part_out, error);
        free(keys);
    }
    free(prompts);
    return status;
}

/* ---- order ---- */

/* Groups from `first` until they have window_rows rows; returns the group after the last. */
static int32_t window_end(const ga_part *part, int32_t first, int64_t window_rows) {
    int64_t rows = 0;
    int32_t end = first;
    while (end < part->all_groups && (end == first || rows + part->all_rows[end] <= window_rows)) {
        rows += part->all_rows[end++];
    }
    return end;
}

/* Beginnings of the windows, shuffled; the first window is cut short so that no two passes cut alike. */
static int32_t cut_windows(
    const ga_part *part, int64_t window_rows, ga_random *random, int32_t *begin, int32_t *number) {
    int32_t count = 0;
    int64_t rows = 1 + (int64_t)(ga_random_uniform(random) * (double)window_rows);
    for (int32_t first = 0; first < part->all_groups; first = begin[count]) {
        number[count] = count;
        begin[count++] = first;
        begin[count] = window_end(part, first, rows);
        rows = window_rows;
    }
    ga_random_shuffle(random, number, (uint32_t)count);
    return count;
}

ga_status ga_part_shuffle(const ga_dataset *dataset, const ga_part *part, uint64_t seed, uint64_t epoch,
    int32_t *order_out, ga_error *error) {
    ga_random random = ga_random_make(seed, epoch, GA_STREAM_TRAIN);
    if (dataset->features != NULL) {
        for (int32_t i = 0; i < part->all_groups; i++) {
            order_out[i] = i;
        }
        ga_random_shuffle(&random, order_out, (uint32_t)part->all_groups);
        return GA_OK;
    }
    int32_t *begin = malloc(2 * ((size_t)part->all_groups + 1) * sizeof *begin);
    if (begin == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to shuffle %d groups", part->all_groups);
    }
    int32_t *number = begin + part->all_groups + 1;
    const int32_t windows = cut_windows(part, dataset->window_rows, &random, begin, number);
    int32_t used = 0;
    for (int32_t i = 0; i < windows; i++) {
        const int32_t start = used;
        for (int32_t group = begin[number[i]]; group < begin[number[i] + 1]; group++) {
            order_out[used++] = group;
        }
        ga_random_shuffle(&random, order_out + start, (uint32_t)(used - start));
    }
    free(begin);
    return GA_OK;
}

/* ---- split ---- */

/* A prompt's run of keys (sorted by prompt), how new it is and how many groups it has. */
typedef struct prompt_run {
    int64_t first, end, groups;
    uint64_t mixed; /* order among prompts of the same age: fixed, but not that of the keys */
    uint32_t newest;
} prompt_run;

static int newest_first(const void *a, const void *b) {
    const prompt_run *x = a;
    const prompt_run *y = b;
    if (x->newest != y->newest) {
        return x->newest > y->newest ? -1 : 1;
    }
    return compare_u64(x->mixed, y->mixed);
}

static int64_t find_prompts(const row_key *keys, int64_t count, prompt_run *runs) {
    int64_t run_count = 0;
    for (int64_t i = 0; i < count; i++) {
        if (i == 0 || keys[i].prompt != keys[i - 1].prompt) {
            runs[run_count++] = (prompt_run){.first = i, .mixed = mix(keys[i].prompt)};
        }
        prompt_run *run = &runs[run_count - 1];
        run->groups += i == run->first || keys[i].group != keys[i - 1].group ? 1 : 0;
        run->newest = keys[i].update > run->newest ? keys[i].update : run->newest;
        run->end = i + 1;
    }
    return run_count;
}

/* Marks the keys of the newest prompts as report and tune. */
static ga_status mark_held(row_key *keys, int64_t count, double held_share, ga_error *error) {
    prompt_run *runs = malloc(((size_t)count + 1) * sizeof *runs);
    if (runs == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to sort the prompts of %lld rows", (long long)count);
    }
    const int64_t run_count = find_prompts(keys, count, runs);
    int64_t groups = 0;
    for (int64_t i = 0; i < run_count; i++) {
        groups += runs[i].groups;
    }
    qsort(runs, (size_t)run_count, sizeof *runs, newest_first);
    int64_t held[2] = {0, 0};
    for (int64_t i = 0; i < run_count && (double)(held[0] + held[1]) < held_share * (double)groups; i++) {
        const int side = held[0] <= held[1] ? 0 : 1;
        held[side] += runs[i].groups;
        for (int64_t k = runs[i].first; k < runs[i].end; k++) {
            keys[k].side = side == 0 ? SIDE_REPORT : SIDE_TUNE;
        }
    }
    free(runs);
    return GA_OK;
}

/* Groups, of all processes, that can order anything. */
static int32_t groups_of_two(const ga_part *part) {
    int32_t groups = 0;
    for (int32_t g = 0; g < part->all_groups; g++) {
        groups += part->all_rows[g] >= 2 ? 1 : 0;
    }
    return groups;
}

static ga_status check_enough(const ga_split *split, ga_error *error) {
    const int32_t train = groups_of_two(&split->train), tune = groups_of_two(&split->tune),
                  report = groups_of_two(&split->report);
    if (train < TRAIN_GROUPS_MIN || tune < JUDGE_GROUPS_MIN || report < JUDGE_GROUPS_MIN) {
        return GA_FAIL(error, GA_ERR_DATA,
            "too little to train a probe: %d groups to learn from (%d needed), %d and %d of other prompts to "
            "judge it "
            "(%d needed each); log more updates first",
            train, TRAIN_GROUPS_MIN, tune, report, JUDGE_GROUPS_MIN);
    }
    return GA_OK;
}

static ga_status fill_split(const ga_dataset *dataset, row_key *keys, int64_t count, double held_share,
    double weight_max, ga_split *split, ga_error *error) {
    qsort(keys, (size_t)count, sizeof *keys, by_prompt);
    GA_TRY(mark_held(keys, count, held_share, error));
    sort_groups(keys, count);
    const unsigned tune = 1u << SIDE_TUNE, report = 1u << SIDE_REPORT;
    GA_TRY(part_fill(dataset, keys, count, 1u << SIDE_TRAIN, weight_max, &split->train, error));
    GA_TRY(part_fill(dataset, keys, count, tune, weight_max, &split->tune, error));
    GA_TRY(part_fill(dataset, keys, count, report, weight_max, &split->report, error));
    GA_TRY(part_fill(dataset, keys, count, tune | report, weight_max, &split->held, error));
    return check_enough(split, error);
}

ga_status ga_dataset_split(
    const ga_dataset *dataset, double held_share, double weight_max, ga_split *split_out, ga_error *error) {
    row_key *keys;
    int64_t count;
    GA_TRY(collect_keys(dataset, false, &keys, &count, error));
    ga_split split;
    memset(&split, 0, sizeof split);
    const ga_status status = fill_split(dataset, keys, count, held_share, weight_max, &split, error);
    free(keys);
    if (status != GA_OK) {
        ga_split_destroy(&split);
        return status;
    }
    *split_out = split;
    return GA_OK;
}

void ga_split_destroy(ga_split *split) {
    ga_part_destroy(&split->train);
    ga_part_destroy(&split->tune);
    ga_part_destroy(&split->report);
    ga_part_destroy(&split->held);
}
