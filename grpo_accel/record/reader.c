#include "grpo_accel/record/reader.h"
#include "grpo_accel/base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/digest.h"
#include "grpo_accel/record/files.h"
#include "grpo_accel/record/load.h"
#include "grpo_accel/record/manifest.h"

/* One file that may be read, with what the manifest says of it. */
typedef struct candidate_file {
    const ga_record_file *file;
    const ga_manifest_line *line; /* NULL: not in the manifest */
} candidate_file;

/* One row or batch of the result, and where it comes from. */
typedef struct entry {
    uint32_t update;
    int32_t rank;
    uint64_t batch;
    int64_t place; /* in its part */
    int32_t index; /* 0 for batches */
    int32_t part;
} entry;

/* Everything a read collects on its way. */
typedef struct collection {
    ga_record_read_options options;
    ga_record_files files;
    ga_manifest *manifests; /* one per folder */
    candidate_file *order;  /* newest first */
    ga_record_table **parts;
    const char **part_paths; /* views of files */
    int32_t part_count;
    entry *rows;
    size_t row_count;
    entry *batches;
    size_t batch_count;
    int64_t refused_count;
    ga_error refused;
} collection;

static int compare_entries(const void *a, const void *b) {
    const entry *left = a, *right = b;
    if (left->update != right->update) {
        return left->update < right->update ? -1 : 1;
    }
    if (left->batch != right->batch) {
        return left->batch < right->batch ? -1 : 1;
    }
    if (left->rank != right->rank) {
        return left->rank < right->rank ? -1 : 1;
    }
    if (left->index != right->index) {
        return left->index < right->index ? -1 : 1;
    }
    if (left->part != right->part) {
        return left->part < right->part ? -1 : 1;
    }
    return (left->place > right->place) - (left->place < right->place);
}

static uint64_t newest_update(const candidate_file *candidate) {
    return candidate->line != NULL ? candidate->line->last_update : UINT64_MAX;
}

/* Newest first; files that the manifest does not know come before all others. */
static int compare_candidates(const void *a, const void *b) {
    const candidate_file *left = a, *right = b;
    const uint64_t left_update = newest_update(left), right_update = newest_update(right);
    if (left_update != right_update) {
        return left_update > right_update ? -1 : 1;
    }
    return (left->file > right->file) - (left->file < right->file);
}

static ga_status find_files(collection *all, const char *path, ga_error *error) {
    GA_TRY(ga_record_files_list(path, &all->files, error));
    const size_t count = all->files.count;
    if (count == 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: no segments; expected rank-*/segment-*.h5 below it", path);
    }
    all->manifests = calloc(all->files.folder_count, sizeof *all->manifests);
    all->order = calloc(count, sizeof *all->order);
    all->parts = calloc(count, sizeof(ga_record_table *));
    all->part_paths = calloc(count, sizeof(char *));
    if (all->manifests == NULL || all->order == NULL || all->parts == NULL || all->part_paths == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "%s: no memory for a list of %zu files", path, count);
    }
    for (size_t i = 0; i < all->files.folder_count; i++) {
        /* a manifest that can't be read takes nothing from the segments */
        (void)ga_manifest_read(all->files.folders[i], &all->manifests[i], NULL);
    }
    for (size_t i = 0; i < count; i++) {
        const ga_record_file *file = &all->files.files[i];
        all->order[i] = (candidate_file){file, ga_manifest_find(&all->manifests[file->folder], file->name)};
    }
    qsort(all->order, count, sizeof *all->order, compare_candidates);
    return GA_OK;
}

static bool is_outside(const ga_record_read_options *options, const ga_manifest_line *line) {
    return options->limit_updates && line != NULL &&
           (line->last_update < options->first_update || line->first_update > options->last_update);
}

static bool is_wanted(const ga_record_read_options *options, const ga_record_table *part, int64_t i) {
    if (options->limit_updates &&
        (part->update[i] < options->first_update || part->update[i] > options->last_update)) {
        return false;
    }
    return (!options->only_kept || part->kept[i] != 0) && (!options->only_audit || part->audit[i] != 0);
}

static ga_status load_candidate(
    const candidate_file *candidate, ga_record_table **part_out, ga_error *error) {
    void *bytes = NULL;
    size_t size = 0;
    const char *path = candidate->file->path;
    GA_TRY(ga_record_file_read(path, &bytes, &size, error));
    ga_status status = GA_OK;
    if (candidate->line != NULL && ga_digest64(bytes, size) != candidate->line->checksum) {
        status = GA_FAIL(error, GA_ERR_FILE, "%s: its checksum is not the one in the manifest", path);
    } else {
        status = ga_segment_load(bytes, size, path, part_out, error);
    }
    free(bytes);
    return status;
}

/* Entries of a part's wanted rows and batches. Takes over the part. */
static ga_status add_part(collection *all, ga_record_table *part, const char *path, ga_error *error) {
    const int32_t number = all->part_count;
    all->part_paths[number] = path;
    all->parts[all->part_count++] = part;
    if (all->options.narrow) {
        ga_record_table_narrow(part);
    }
    entry *rows = realloc(all->rows, (all->row_count + (size_t)part->rows + 1) * sizeof *rows);
    all->rows = rows != NULL ? rows : all->rows;
    entry *batches =
        realloc(all->batches, (all->batch_count + (size_t)part->batch_count + 1) * sizeof *batches);
    all->batches = batches != NULL ? batches : all->batches;
    if (rows == NULL || batches == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the rows of a record");
    }
    for (int64_t i = 0; i < part->rows; i++) {
        if (is_wanted(&all->options, part, i)) {
            rows[all->row_count++] =
                (entry){part->update[i], part->rank[i], part->batch[i], i, part->index[i], number};
        }
    }
    for (int64_t i = 0; i < part->batch_count; i++) {
        const ga_record_batch *batch = &part->batches[i];
        const bool outside = all->options.limit_updates && (batch->update < all->options.first_update ||
                                                               batch->update > all->options.last_update);
        if (!outside) {
            batches[all->batch_count++] = (entry){batch->update, batch->rank, batch->batch, i, 0, number};
        }
    }
    return GA_OK;
}

/* Are there enough rows that are newer than anything in the file? */
static bool is_enough(const collection *all, const candidate_file *next) {
    if (all->options.newest_rows <= 0 || next->line == NULL) {
        return false;
    }
    int64_t newer = 0;
    for (size_t i = 0; i < all->row_count; i++) {
        newer += all->rows[i].update > next->line->last_update;
    }
    return newer >= all->options.newest_rows;
}

static ga_status load_files(collection *all, ga_error *error) {
    for (size_t i = 0; i < all->files.count; i++) {
        const candidate_file *candidate = &all->order[i];
        if (is_enough(all, candidate)) {
            break;
        }
        if (is_outside(&all->options, candidate->line)) {
            continue;
        }
        ga_error inner;
        ga_error_clear(&inner);
        ga_record_table *part = NULL;
        const ga_status status = load_candidate(candidate, &part, &inner);
        if (status == GA_OK) {
            GA_TRY(add_part(all, part, candidate->file->path, error));
            continue;
        }
        if (status != GA_ERR_FILE || all->options.strict) {
            return GA_FAIL(error, status, "%s", inner.message);
        }
        all->refused_count++;
        all->refused = all->refused_count == 1 ? inner : all->refused;
    }
    return all->part_count > 0 || all->refused_count == 0
               ? GA_OK
               : GA_FAIL(error, GA_ERR_FILE, "no segment is readable; the first: %s", all->refused.message);
}

static bool same_row(const collection *all, const entry *a, const entry *b) {
    return all->parts[a->part]->row_id[a->place] == all->parts[b->part]->row_id[b->place];
}

static bool same_batch(const entry *a, const entry *b) {
    return a->update == b->update && a->batch == b->batch && a->rank == b->rank;
}

/* Sorts, and drops what stands in two files. */
static void sort_entries(collection *all) {
    if (all->part_count == 0) {
        return;
    }
    qsort(all->rows, all->row_count, sizeof *all->rows, compare_entries);
    qsort(all->batches, all->batch_count, sizeof *all->batches, compare_entries);
    size_t kept = 0;
    for (size_t i = 0; i < all->row_count; i++) {
        if (kept == 0 || !same_row(all, &all->rows[kept - 1], &all->rows[i])) {
            all->rows[kept++] = all->rows[i];
        }
    }
    all->row_count = kept;
    kept = 0;
    for (size_t i = 0; i < all->batch_count; i++) {
        if (kept == 0 || !same_batch(&all->batches[kept - 1], &all->batches[i])) {
            all->batches[kept++] = all->batches[i];
        }
    }
    all->batch_count = kept;
}

/* Position of the first row of the newest whole updates that have enough rows. */
static size_t first_wanted_row(const collection *all) {
    const int64_t wanted = all->options.newest_rows;
    if (wanted <= 0 || (uint64_t)wanted >= all->row_count) {
        return 0;
    }
    size_t first = all->row_count - (size_t)wanted;
    while (first > 0 && all->rows[first - 1].update == all->rows[first].update) {
        first--;
    }
    return first;
}

/* Drops rows, and batches, that are older than the newest whole updates asked for. */
static void cut_entries(collection *all) {
    if (all->options.newest_rows <= 0 || all->row_count == 0) {
        return;
    }
    const size_t first = first_wanted_row(all);
    const uint32_t oldest = all->rows[first].update;
    all->row_count -= first;
    memmove(all->rows, all->rows + first, all->row_count * sizeof *all->rows);
    size_t batch = 0;
    while (batch < all->batch_count && all->batches[batch].update < oldest) {
        batch++;
    }
    all->batch_count -= batch;
    memmove(all->batches, all->batches + batch, all->batch_count * sizeof *all->batches);
}

static int32_t find_scorer(const ga_record_layout *layout, const char *name) {
    for (int32_t i = 0; i < layout->scorer_count; i++) {
        if (strcmp(layout->scorers[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

/* The newest part's layout, with the scorers of all; *prompt_bytes_out the widest prompt's. */
static ga_record_layout merge_layouts(const collection *all, size_t *prompt_bytes_out) {
    const int32_t newest = all->row_count > 0 ? all->rows[all->row_count - 1].part : all->part_count - 1;
    ga_record_layout layout = all->parts[newest]->layout;
    *prompt_bytes_out = 0;
    for (int32_t p = 0; p < all->part_count; p++) {
        const ga_record_layout *other = &all->parts[p]->layout;
        layout.rank = layout.rank == other->rank ? layout.rank : -1;
        layout.prompt_text = layout.prompt_text || other->prompt_text;
        for (int32_t k = 0; k < other->scorer_count && layout.scorer_count < GA_RECORD_SCORERS_MAX; k++) {
            if (find_scorer(&layout, other->scorers[k]) < 0) {
                memcpy(layout.scorers[layout.scorer_count++], other->scorers[k], GA_RECORD_NAME_BYTES);
            }
        }
        const size_t bytes = all->parts[p]->prompt_bytes;
        *prompt_bytes_out = bytes > *prompt_bytes_out ? bytes : *prompt_bytes_out;
    }
    return layout;
}

/* Where the result finds its values in a part; −1: not there. */
typedef struct part_map {
    int32_t candidates[GA_RECORD_CANDIDATES_MAX];
    int32_t scorers[GA_RECORD_SCORERS_MAX];
    int32_t offsets[GA_INPUT_COUNT]; /* of the result's inputs */
    bool finals;
} part_map;

static int32_t find_offset(const ga_feature_schema *schema, const ga_input_shape *shape) {
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *other = &schema->inputs[i];
        if (other->input == shape->input && other->channels == shape->channels &&
            other->height == shape->height && other->width == shape->width) {
            return other->offset;
        }
    }
    return -1;
}

static part_map map_part(const ga_record_layout *target, const ga_record_layout *source) {
    part_map map;
    for (int32_t c = 0; c < target->candidate_count; c++) {
        map.candidates[c] = -1;
        for (int32_t d = 0; d < source->candidate_count; d++) {
            if (target->candidate_steps[c] == source->candidate_steps[d]) {
                map.candidates[c] = d;
            }
        }
    }
    for (int32_t k = 0; k < target->scorer_count; k++) {
        map.scorers[k] = find_scorer(source, target->scorers[k]);
    }
    for (int32_t i = 0; i < target->features.input_count; i++) {
        map.offsets[i] = find_offset(&source->features, &target->features.inputs[i]);
    }
    map.finals = target->final_kind != GA_RECORD_FINAL_NONE && target->final_kind == source->final_kind &&
                 memcmp(target->final_shape, source->final_shape, sizeof target->final_shape) == 0;
    return map;
}

static void copy_columns(
    ga_record_table *table, int64_t to, const ga_record_table *part, int64_t from, const part_map *map) {
    for (int i = 0; i < GA_COLUMN_COUNT; i++) {
        const ga_record_column *column = &ga_record_columns[i];
        char *target = ga_record_table_column(table, i);
        const char *source = ga_record_table_column(part, i);
        if (column->kind != GA_COLUMN_CANDIDATES) {
            const size_t bytes = ga_column_bytes(column->type) * (size_t)ga_column_values(column->kind, 1);
            memcpy(target + (size_t)to * bytes, source + (size_t)from * bytes, bytes);
            continue;
        }
        for (int32_t c = 0; c < table->layout.candidate_count; c++) { /* all of these are floats */
            const float missing = NAN;
            const int64_t place = from * part->layout.candidate_count + map->candidates[c];
            const void *value = map->candidates[c] < 0
                                    ? (const void *)&missing
                                    : (const void *)(source + (size_t)place * sizeof missing);
            memcpy(target + ((size_t)to * (size_t)table->layout.candidate_count + (size_t)c) * sizeof missing,
                value, sizeof missing);
        }
    }
    for (int32_t k = 0; k < table->layout.scorer_count; k++) {
        const int32_t s = map->scorers[k];
        table->rewards[to * table->layout.scorer_count + k] =
            s < 0 ? NAN : part->rewards[from * part->layout.scorer_count + s];
    }
}

/* Bits of the inputs that the table and the part have in the same shape, and the part's row has finite. */
static uint8_t map_complete(const ga_record_table *table, uint8_t bits, const part_map *map) {
    unsigned same = 0;
    for (int32_t i = 0; i < table->layout.features.input_count; i++) {
        same |= map->offsets[i] >= 0 ? GA_INPUT_BIT(table->layout.features.inputs[i].input) : 0u;
    }
    return (uint8_t)(bits & same);
}

static void copy_features(
    ga_record_table *table, int64_t to, const ga_record_table *part, int64_t from, const part_map *map) {
    const ga_feature_schema *schema = &table->layout.features;
    for (int32_t c = 0; c < table->layout.candidate_count && table->features != NULL; c++) {
        ga_half *target = table->features + (to * table->layout.candidate_count + c) * schema->values_per_row;
        const int64_t state = from * part->layout.candidate_count + map->candidates[c];
        for (int32_t i = 0; i < schema->input_count; i++) {
            const ga_input_shape *shape = &schema->inputs[i];
            const size_t count = (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
            if (map->candidates[c] >= 0 && map->offsets[i] >= 0) {
                const ga_half *source =
                    part->features + state * part->layout.features.values_per_row + map->offsets[i];
                memcpy(target + shape->offset, source, count * sizeof *source);
                continue;
            }
            for (size_t j = 0; j < count; j++) {
                target[(size_t)shape->offset + j] = GA_RECORD_HALF_NAN;
            }
        }
    }
}

static void copy_extras(
    ga_record_table *table, int64_t to, const ga_record_table *part, int64_t from, const part_map *map) {
    const int32_t candidates = table->layout.candidate_count;
    for (int32_t c = 0; c < candidates; c++) {
        const int32_t d = map->candidates[c];
        const uint8_t bits = d < 0 ? 0 : part->complete[from * part->layout.candidate_count + d];
        table->complete[to * candidates + c] = map_complete(table, bits, map);
    }
    if (map->finals && table->finals != NULL) {
        const size_t bytes = ga_record_final_values(&table->layout) * ga_record_final_bytes(&table->layout);
        memcpy(table->finals + (size_t)to * bytes, part->finals + (size_t)from * bytes, bytes);
    }
    if (map->finals && table->states != NULL) {
        const size_t count = ga_record_final_values(&table->layout);
        memcpy(table->states + (size_t)to * count, part->states + (size_t)from * count,
            count * sizeof *table->states);
    }
    if (table->prompts != NULL && part->prompts != NULL) {
        memcpy(table->prompts + (size_t)to * table->prompt_bytes,
            part->prompts + (size_t)from * part->prompt_bytes, part->prompt_bytes);
    }
}

static void fill_table(ga_record_table *table, const collection *all, const part_map *maps) {
    for (size_t i = 0; i < all->row_count; i++) {
        const entry *row = &all->rows[i];
        const ga_record_table *part = all->parts[row->part];
        copy_columns(table, (int64_t)i, part, row->place, &maps[row->part]);
        copy_features(table, (int64_t)i, part, row->place, &maps[row->part]);
        copy_extras(table, (int64_t)i, part, row->place, &maps[row->part]);
        table->source[i] = row->part;
        table->place[i] = (int32_t)row->place;
    }
    for (size_t i = 0; i < all->batch_count; i++) {
        const entry *batch = &all->batches[i];
        table->batches[i] = all->parts[batch->part]->batches[batch->place];
    }
    table->segment_count = all->part_count;
    table->refused_count = all->refused_count;
    table->refused = all->refused;
}

/* The parts' files, in the order of the parts. */
static ga_status add_sources(const collection *all, ga_record_table *table, ga_error *error) {
    table->sources = calloc(ga_size(all->part_count), sizeof *table->sources);
    if (table->sources == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a list of %d files", all->part_count);
    }
    for (int32_t p = 0; p < all->part_count; p++) {
        char *path = strdup(all->part_paths[p]);
        if (path == NULL) {
            return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the names of %d files", all->part_count);
        }
        table->sources[table->source_count++] =
            (ga_record_source){.path = path, .layout = all->parts[p]->layout};
    }
    return GA_OK;
}

static ga_status build_table(const collection *all, ga_record_table **table_out, ga_error *error) {
    if (all->part_count == 0) {
        return GA_FAIL(error, GA_ERR_FILE, "no segment has rows of these updates");
    }
    size_t prompt_bytes = 0;
    const ga_record_layout layout = merge_layouts(all, &prompt_bytes);
    part_map *maps = calloc(ga_size(all->part_count), sizeof *maps);
    if (maps == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d parts", all->part_count);
    }
    for (int32_t p = 0; p < all->part_count; p++) {
        maps[p] = map_part(&layout, &all->parts[p]->layout);
    }
    ga_record_table *table = NULL;
    const ga_record_size size = {.rows = (int64_t)all->row_count,
        .batches = (int64_t)all->batch_count,
        .prompt_bytes = prompt_bytes,
        .narrow = all->options.narrow};
    ga_status status = ga_record_table_create(&layout, &size, &table, error);
    if (status == GA_OK) {
        fill_table(table, all, maps);
        status = add_sources(all, table, error);
    }
    if (status == GA_OK) {
        *table_out = table;
    } else {
        ga_record_table_free(&table);
    }
    free(maps);
    return status;
}

static void free_collection(collection *all) {
    for (size_t i = 0; all->manifests != NULL && i < all->files.folder_count; i++) {
        ga_manifest_free(&all->manifests[i]);
    }
    for (int32_t p = 0; p < all->part_count; p++) {
        ga_record_table_free(&all->parts[p]);
    }
    free(all->manifests);
    free(all->order);
    free(all->parts);
    free(all->part_paths);
    free(all->rows);
    free(all->batches);
    ga_record_files_free(&all->files);
}

ga_status ga_record_read(
    const char *path, const ga_record_read_options *options, ga_record_table **table_out, ga_error *error) {
    collection all;
    memset(&all, 0, sizeof all);
    if (options != NULL) {
        all.options = *options;
    }
    ga_status status = find_files(&all, path, error);
    if (status == GA_OK) {
        status = load_files(&all, error);
    }
    if (status == GA_OK) {
        sort_entries(&all);
        cut_entries(&all);
        status = build_table(&all, table_out, error);
    }
    free_collection(&all);
    return status;
}
