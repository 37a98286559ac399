#include "grpo_accel/record/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/record/slab.h"

#define CACHE_BYTES ((size_t)64 << 20)
#define BLOCK_BYTES_MAX ((size_t)4 << 20)
#define BLOCK_BYTES_MIN ((size_t)64 << 10)

/* Neighbouring rows of one file. */
typedef struct block {
    int32_t source; /* −1: empty */
    int32_t number; /* rows number · block_rows … of the file */
    uint64_t used;
    char *states; /* [block_rows][candidates][state_bytes] */
} block;

struct ga_record_stream {
    const ga_record_table *table;
    bool finals;
    ga_feature_schema schema;
    int32_t candidates[GA_RECORD_CANDIDATES_MAX];
    int32_t candidate_count;
    size_t state_bytes, row_bytes;
    int32_t block_rows, block_count;
    block *blocks;
    int64_t *source_rows; /* [sources] rows that the file has at least */
    char *scratch;        /* [block_rows][state_bytes] */
    uint64_t clock;
    int32_t last; /* block that was asked for last */
};

/* ---- opening ---- */

static bool has_shape(const ga_feature_schema *schema, const ga_input_shape *shape) {
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *other = &schema->inputs[i];
        if (other->input == shape->input && other->channels == shape->channels &&
            other->height == shape->height && other->width == shape->width) {
            return true;
        }
    }
    return false;
}

static ga_status check_options(
    const ga_record_table *table, const ga_record_stream_options *options, ga_error *error) {
    if (options->schema == NULL) {
        return table->layout.final_kind != GA_RECORD_FINAL_NONE
                   ? GA_OK
                   : GA_FAIL(
                         error, GA_ERR_ARGUMENT, "the record has no finals (record.finals: latent or image)");
    }
    for (int32_t i = 0; i < options->schema->input_count; i++) {
        const ga_input_shape *shape = &options->schema->inputs[i];
        if (!has_shape(&table->layout.features, shape)) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "the record has no input %s of this shape",
                ga_record_input_name(shape->input));
        }
    }
    bool known = options->candidate_count >= 1 && options->candidate_count <= GA_RECORD_CANDIDATES_MAX;
    for (int32_t i = 0; known && i < options->candidate_count; i++) {
        known = options->candidates[i] >= 0 && options->candidates[i] < table->layout.candidate_count;
    }
    return known ? GA_OK : GA_FAIL(error, GA_ERR_ARGUMENT, "stream: no such candidate steps");
}

/* Ranks write at the same time: a batch's rows lie in as many files, all of which should fit the cache. */
static int32_t count_writers(const ga_record_table *table) {
    int32_t writers = 1;
    for (int32_t i = 0; i < table->source_count; i++) {
        const int32_t world = table->sources[i].layout.world_size;
        writers = world > writers ? world : writers;
    }
    return writers;
}

static void choose_blocks(ga_record_stream *stream, size_t cache_bytes) {
    const size_t share = cache_bytes / (4 * ga_size(count_writers(stream->table)));
    const size_t most = share < BLOCK_BYTES_MAX ? share : BLOCK_BYTES_MAX;
    const size_t bytes = most > BLOCK_BYTES_MIN ? most : BLOCK_BYTES_MIN;
    const size_t rows = bytes / stream->row_bytes + 1;
    stream->block_rows = (int32_t)rows;
    const size_t count = cache_bytes / (rows * stream->row_bytes);
    stream->block_count = (int32_t)(count < 2 ? 2 : count);
}

static ga_status take_memory(ga_record_stream *stream, ga_error *error) {
    const ga_record_table *table = stream->table;
    stream->blocks = calloc(ga_size(stream->block_count), sizeof *stream->blocks);
    stream->source_rows = calloc(ga_size(table->source_count) + 1, sizeof *stream->source_rows);
    stream->scratch = malloc(ga_size(stream->block_rows) * stream->state_bytes + 1);
    if (stream->blocks == NULL || stream->source_rows == NULL || stream->scratch == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to stream a record");
    }
    for (int32_t i = 0; i < stream->block_count; i++) {
        stream->blocks[i].source = -1;
    }
    for (int64_t row = 0; row < table->rows; row++) {
        int64_t *rows = &stream->source_rows[table->source[row]];
        *rows = table->place[row] >= *rows ? table->place[row] + 1 : *rows;
    }
    return GA_OK;
}

static void set_sizes(ga_record_stream *stream, const ga_record_stream_options *options) {
    const ga_record_layout *layout = &stream->table->layout;
    stream->finals = options->schema == NULL;
    stream->candidate_count = stream->finals ? 1 : options->candidate_count;
    if (stream->finals) {
        stream->state_bytes = ga_record_final_values(layout) * ga_record_final_bytes(layout);
    } else {
        stream->schema = *options->schema;
        stream->state_bytes = ga_size(stream->schema.values_per_row) * sizeof(ga_half);
        memcpy(stream->candidates, options->candidates,
            ga_size(options->candidate_count) * sizeof *options->candidates);
    }
    stream->row_bytes = stream->state_bytes * ga_size(stream->candidate_count);
}

ga_status ga_record_stream_open(const ga_record_table *table, const ga_record_stream_options *options,
    ga_record_stream **stream_out, ga_error *error) {
    GA_TRY(check_options(table, options, error));
    ga_record_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to stream a record");
    }
    stream->table = table;
    set_sizes(stream, options);
    choose_blocks(stream, options->cache_bytes > 0 ? options->cache_bytes : CACHE_BYTES);
    const ga_status status = take_memory(stream, error);
    if (status != GA_OK) {
        ga_record_stream_close(&stream);
        return status;
    }
    *stream_out = stream;
    return GA_OK;
}

void ga_record_stream_close(ga_record_stream **stream_pointer) {
    ga_record_stream *stream = *stream_pointer;
    if (stream == NULL) {
        return;
    }
    for (int32_t i = 0; i < stream->block_count && stream->blocks != NULL; i++) {
        free(stream->blocks[i].states);
    }
    free(stream->blocks);
    free(stream->source_rows);
    free(stream->scratch);
    free(stream);
    *stream_pointer = NULL;
}

size_t ga_record_stream_state_bytes(const ga_record_stream *stream) {
    return stream->state_bytes;
}

int64_t ga_record_stream_window(const ga_record_stream *stream) {
    return (int64_t)stream->block_rows * (stream->block_count > 2 ? stream->block_count / 2 : 1);
}

/* ---- blocks ---- */

static int32_t find_step(const ga_record_layout *layout, int32_t step) {
    for (int32_t i = 0; i < layout->candidate_count; i++) {
        if (layout->candidate_steps[i] == step) {
            return i;
        }
    }
    return -1;
}

static void fill_with_nan(char *states, size_t bytes) {
    const ga_half nan = GA_RECORD_HALF_NAN;
    for (size_t i = 0; i < bytes; i += sizeof nan) {
        memcpy(states + i, &nan, sizeof nan);
    }
}

/* One input at one candidate, of the block's rows; `count` values a row, `target` is the first row's place.
 */
static ga_status read_input(ga_record_stream *stream, const ga_record_source *source,
    const ga_input_shape *shape, int32_t candidate, ga_slab slab, char *target, ga_error *error) {
    char path[GA_RECORD_NAME_BYTES];
    (void)snprintf(path, sizeof path, "features/%s", ga_record_input_name(shape->input));
    slab.dataset = path;
    slab.type = GA_SLAB_HALF;
    slab.candidate = candidate;
    slab.row_values = ga_size(shape->channels) * ga_size(shape->height) * ga_size(shape->width);
    slab.values = stream->scratch;
    GA_TRY(ga_segment_read_slabs(source->path, &slab, 1, error));
    const size_t bytes = slab.row_values * sizeof(ga_half);
    for (size_t i = 0; i < (size_t)slab.count; i++) {
        memcpy(target + i * stream->row_bytes, stream->scratch + i * bytes, bytes);
    }
    return GA_OK;
}

static ga_status read_features(ga_record_stream *stream, const ga_record_source *source, const ga_slab *rows,
    block *target, ga_error *error) {
    const ga_record_layout *layout = &stream->table->layout;
    fill_with_nan(target->states, ga_size(stream->block_rows) * stream->row_bytes);
    for (int32_t c = 0; c < stream->candidate_count; c++) {
        const int32_t candidate = find_step(&source->layout, layout->candidate_steps[stream->candidates[c]]);
        for (int32_t i = 0; i < stream->schema.input_count && candidate >= 0; i++) {
            const ga_input_shape *shape = &stream->schema.inputs[i];
            if (has_shape(&source->layout.features, shape)) {
                char *place = target->states + ga_size(c) * stream->state_bytes +
                              ga_size(shape->offset) * sizeof(ga_half);
                GA_TRY(read_input(stream, source, shape, candidate, *rows, place, error));
            }
        }
    }
    return GA_OK;
}

static ga_status read_finals(ga_record_stream *stream, const ga_record_source *source, const ga_slab *rows,
    block *target, ga_error *error) {
    const ga_record_layout *layout = &stream->table->layout;
    if (source->layout.final_kind != layout->final_kind ||
        memcmp(source->layout.final_shape, layout->final_shape, sizeof layout->final_shape) != 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%.300s: its finals have another shape", source->path);
    }
    ga_slab slab = *rows;
    slab.dataset = "final";
    slab.type = layout->final_kind == GA_RECORD_FINAL_IMAGE ? GA_SLAB_U8 : GA_SLAB_HALF;
    slab.candidate = -1;
    slab.row_values = ga_record_final_values(layout);
    slab.values = target->states;
    return ga_segment_read_slabs(source->path, &slab, 1, error);
}

static ga_status fill_block(ga_record_stream *stream, block *target, ga_error *error) {
    const ga_record_source *source = &stream->table->sources[target->source];
    ga_slab rows = {.first = (int64_t)target->number * stream->block_rows};
    const int64_t left = stream->source_rows[target->source] - rows.first;
    rows.count = left < stream->block_rows ? left : stream->block_rows;
    return stream->finals ? read_finals(stream, source, &rows, target, error)
                          : read_features(stream, source, &rows, target, error);
}

/* The block that is not in use for longest. */
static block *oldest_block(ga_record_stream *stream) {
    block *oldest = &stream->blocks[0];
    for (int32_t i = 1; i < stream->block_count; i++) {
        oldest = stream->blocks[i].used < oldest->used ? &stream->blocks[i] : oldest;
    }
    return oldest;
}

static ga_status replace_block(
    ga_record_stream *stream, int32_t source, int32_t number, block **block_out, ga_error *error) {
    block *target = oldest_block(stream);
    if (target->states == NULL) {
        target->states = malloc(ga_size(stream->block_rows) * stream->row_bytes);
    }
    if (target->states == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d rows of a record", stream->block_rows);
    }
    target->source = source;
    target->number = number;
    const ga_status status = fill_block(stream, target, error);
    if (status != GA_OK) {
        target->source = -1;
        return status;
    }
    *block_out = target;
    return GA_OK;
}

static ga_status find_block(
    ga_record_stream *stream, int32_t source, int32_t number, block **block_out, ga_error *error) {
    for (int32_t k = 0; k < stream->block_count; k++) {
        block *it = &stream->blocks[(stream->last + k) % stream->block_count];
        if (it->source == source && it->number == number) {
            stream->last = (int32_t)(it - stream->blocks);
            *block_out = it;
            return GA_OK;
        }
    }
    GA_TRY(replace_block(stream, source, number, block_out, error));
    stream->last = (int32_t)(*block_out - stream->blocks);
    return GA_OK;
}

ga_status ga_record_stream_read(ga_record_stream *stream, const int64_t *rows, const int32_t *candidates,
    int64_t count, void *states_out, ga_error *error) {
    for (int64_t i = 0; i < count; i++) {
        const int32_t place = stream->table->place[rows[i]];
        block *found = NULL;
        GA_TRY(find_block(stream, stream->table->source[rows[i]], place / stream->block_rows, &found, error));
        found->used = ++stream->clock;
        const size_t state = ga_size(place % stream->block_rows) * ga_size(stream->candidate_count) +
                             ga_size(candidates != NULL ? candidates[i] : 0);
        memcpy((char *)states_out + (size_t)i * stream->state_bytes,
            found->states + state * stream->state_bytes, stream->state_bytes);
    }
    return GA_OK;
}
