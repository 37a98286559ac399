#include "grpo_accel/record/load.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/record/hdf5_file.h"

#define DIMENSIONS_MAX 5

/* What all functions below work on. */
typedef struct source {
    hid_t file;
    hid_t half;
    size_t bytes;
    uint32_t version; /* of the file's schema */
} source;

/* Exactly `count` values of an attribute of integers or floats. */
static ga_status read_attribute(
    const source *from, const char *name, hid_t memory_type, hssize_t count, void *values, ga_error *error) {
    const hid_t attribute = H5Aexists(from->file, name) > 0 ? H5Aopen(from->file, name, H5P_DEFAULT) : -1;
    const hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    const hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool ok = space >= 0 && type >= 0 && H5Sget_simple_extent_npoints(space) == count;
    if (ok) {
        const H5T_class_t kind = H5Tget_class(type);
        ok = (kind == H5T_INTEGER || kind == H5T_FLOAT) && H5Aread(attribute, memory_type, values) >= 0;
    }
    (void)(type >= 0 && H5Tclose(type) >= 0);
    (void)(space >= 0 && H5Sclose(space) >= 0);
    (void)(attribute >= 0 && H5Aclose(attribute) >= 0);
    return ok ? GA_OK : GA_FAIL(error, GA_ERR_FILE, "attribute %s: missing, or not as expected", name);
}

/* Fixed-width text; cut where it is longer than the target. */
static ga_status read_text_attribute(
    const source *from, const char *name, char *text, size_t bytes, ga_error *error) {
    char buffer[1024] = {0};
    const hid_t attribute = H5Aexists(from->file, name) > 0 ? H5Aopen(from->file, name, H5P_DEFAULT) : -1;
    const hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    const hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool ok = space >= 0 && type >= 0 && H5Sget_simple_extent_npoints(space) == 1;
    if (ok) {
        ok = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
             H5Tget_size(type) < sizeof buffer && H5Aread(attribute, type, buffer) >= 0;
    }
    (void)(type >= 0 && H5Tclose(type) >= 0);
    (void)(space >= 0 && H5Sclose(space) >= 0);
    (void)(attribute >= 0 && H5Aclose(attribute) >= 0);
    if (!ok) {
        return GA_FAIL(error, GA_ERR_FILE, "attribute %s: missing, or not a text of fixed width", name);
    }
    const size_t length = strnlen(buffer, bytes - 1);
    memcpy(text, buffer, length);
    text[length] = 0;
    return GA_OK;
}

/* Reads a dataset whose dimensions must be those given. */
static ga_status read_dataset(const source *from, const char *path, hid_t memory_type, int dimension_count,
    const hsize_t *expected, void *values, ga_error *error) {
    hid_t dataset = H5I_INVALID_HID;
    GA_TRY(ga_hdf5_open_dataset(from->file, path, from->bytes, &dataset, error));
    hsize_t found[DIMENSIONS_MAX];
    bool same = ga_hdf5_dimensions(dataset, found, DIMENSIONS_MAX) == dimension_count;
    size_t total = 1;
    for (int i = 0; same && i < dimension_count; i++) {
        same = found[i] == expected[i];
        total *= (size_t)expected[i];
    }
    ga_status status = GA_OK;
    if (!same) {
        status = GA_FAIL(error, GA_ERR_FILE, "dataset %s: its shape does not fit the file's rows", path);
    } else if (total > 0 && H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) {
        char cause[160];
        status =
            GA_FAIL(error, GA_ERR_FILE, "dataset %s: damaged (%s)", path, ga_hdf5_cause(cause, sizeof cause));
    }
    (void)H5Dclose(dataset);
    return status;
}

/* Dimensions of a dataset that may be opened; the first one below 2^31. */
static ga_status read_dimensions(
    const source *from, const char *path, int *count_out, hsize_t *dimensions, ga_error *error) {
    hid_t dataset = H5I_INVALID_HID;
    GA_TRY(ga_hdf5_open_dataset(from->file, path, from->bytes, &dataset, error));
    const int count = ga_hdf5_dimensions(dataset, dimensions, DIMENSIONS_MAX);
    (void)H5Dclose(dataset);
    if (count < 1) {
        return GA_FAIL(error, GA_ERR_FILE, "dataset %s: %d dimensions", path, count);
    }
    for (int i = 0; i < count; i++) {
        if (dimensions[i] > INT_MAX) {
            return GA_FAIL(error, GA_ERR_FILE, "dataset %s: dimension %d is too large", path, i);
        }
    }
    *count_out = count;
    return GA_OK;
}

static ga_status load_candidates(const source *from, ga_record_layout *layout, ga_error *error) {
    int count = 0;
    hsize_t dimensions[DIMENSIONS_MAX];
    GA_TRY(read_dimensions(from, "prediction", &count, dimensions, error));
    if (count != 2 || dimensions[1] < 1 || dimensions[1] > GA_RECORD_CANDIDATES_MAX) {
        return GA_FAIL(error, GA_ERR_FILE, "dataset prediction: not [rows, 1 to %d candidates]",
            GA_RECORD_CANDIDATES_MAX);
    }
    layout->candidate_count = (int32_t)dimensions[1];
    GA_TRY(read_attribute(
        from, "candidate_steps", H5T_NATIVE_INT32, layout->candidate_count, layout->candidate_steps, error));
    return read_attribute(from, "candidate_sigmas", H5T_NATIVE_DOUBLE, layout->candidate_count,
        layout->candidate_sigmas, error);
}

static ga_status load_scorers(const source *from, ga_record_layout *layout, ga_error *error) {
    H5G_info_t info;
    if (!ga_hdf5_has(from->file, "reward") ||
        H5Gget_info_by_name(from->file, "reward", &info, H5P_DEFAULT) < 0 ||
        info.nlinks > GA_RECORD_SCORERS_MAX + 1) {
        return GA_FAIL(
            error, GA_ERR_FILE, "group reward: missing, or more than %d scorers", GA_RECORD_SCORERS_MAX);
    }
    for (hsize_t i = 0; i < info.nlinks; i++) {
        char name[GA_RECORD_NAME_BYTES];
        const ssize_t length = H5Lget_name_by_idx(
            from->file, "reward", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
        if (length < 1 || (size_t)length >= sizeof name) {
            return GA_FAIL(error, GA_ERR_FILE, "group reward: the name of scorer %d is too long", (int)i);
        }
        if (strcmp(name, "combined") != 0 && layout->scorer_count < GA_RECORD_SCORERS_MAX) {
            memcpy(layout->scorers[layout->scorer_count++], name, sizeof name);
        }
    }
    return GA_OK;
}

/* Adds the input below features/ to the schema, if it is there. */
static ga_status load_input_shape(
    const source *from, ga_input input, ga_record_layout *layout, ga_error *error) {
    char path[GA_RECORD_NAME_BYTES];
    (void)snprintf(path, sizeof path, "features/%s", ga_record_input_name(input));
    if (!ga_hdf5_has(from->file, path)) {
        return GA_OK;
    }
    int count = 0;
    hsize_t dimensions[DIMENSIONS_MAX];
    GA_TRY(read_dimensions(from, path, &count, dimensions, error));
    const bool map = count == 5;
    if ((!map && count != 3) || dimensions[1] != (hsize_t)layout->candidate_count) {
        return GA_FAIL(error, GA_ERR_FILE, "dataset %s: not [rows, candidates, …]", path);
    }
    ga_feature_schema *schema = &layout->features;
    const int32_t height = map ? (int32_t)dimensions[3] : 1;
    const int32_t width = map ? (int32_t)dimensions[4] : 1;
    const int64_t plane = (int64_t)height * width; /* < 2^62 */
    if (plane > INT_MAX || plane * (int64_t)dimensions[2] + schema->values_per_row > INT_MAX) {
        return GA_FAIL(error, GA_ERR_FILE, "dataset %s: more than 2^31 values a row", path);
    }
    schema->inputs[schema->input_count++] =
        (ga_input_shape){input, (int32_t)dimensions[2], height, width, schema->values_per_row};
    schema->values_per_row += (int32_t)(plane * (int64_t)dimensions[2]);
    return GA_OK;
}

static ga_status load_final_shape(const source *from, ga_record_layout *layout, ga_error *error) {
    if (!ga_hdf5_has(from->file, "final")) {
        return GA_OK;
    }
    int count = 0;
    hsize_t dimensions[DIMENSIONS_MAX];
    GA_TRY(read_dimensions(from, "final", &count, dimensions, error));
    if (count != 4) {
        return GA_FAIL(error, GA_ERR_FILE, "dataset final: %d dimensions, not 4", count);
    }
    for (int i = 0; i < 3; i++) {
        layout->final_shape[i] = (int32_t)dimensions[i + 1];
    }
    const hid_t dataset = H5Dopen2(from->file, "final", H5P_DEFAULT);
    const hid_t type = dataset >= 0 ? H5Dget_type(dataset) : -1;
    const bool image = type >= 0 && H5Tget_class(type) == H5T_INTEGER;
    layout->final_kind = image ? GA_RECORD_FINAL_IMAGE : GA_RECORD_FINAL_LATENT;
    (void)(type >= 0 && H5Tclose(type) >= 0);
    (void)(dataset >= 0 && H5Dclose(dataset) >= 0);
    return GA_OK;
}

static ga_status load_version(source *from, ga_error *error) {
    GA_TRY(read_attribute(from, "schema_version", H5T_NATIVE_UINT32, 1, &from->version, error));
    if (from->version < 1 || from->version > GA_RECORD_SCHEMA_VERSION) {
        return GA_FAIL(error, GA_ERR_FILE,
            "schema version %u; this build reads 1 to %d: use a newer grpo_accel", from->version,
            GA_RECORD_SCHEMA_VERSION);
    }
    return GA_OK;
}

static ga_status load_layout(const source *from, ga_record_layout *layout, ga_error *error) {
    GA_TRY(read_text_attribute(from, "run_id", layout->run_id, sizeof layout->run_id, error));
    GA_TRY(read_text_attribute(from, "model", layout->model, sizeof layout->model, error));
    GA_TRY(read_attribute(from, "rank", H5T_NATIVE_INT32, 1, &layout->rank, error));
    GA_TRY(read_attribute(from, "world_size", H5T_NATIVE_INT32, 1, &layout->world_size, error));
    GA_TRY(
        read_attribute(from, "config_fingerprint", H5T_NATIVE_UINT64, 1, &layout->config_fingerprint, error));
    GA_TRY(load_candidates(from, layout, error));
    GA_TRY(load_scorers(from, layout, error));
    for (int i = 0; i < GA_INPUT_COUNT; i++) {
        GA_TRY(load_input_shape(from, (ga_input)i, layout, error));
    }
    GA_TRY(read_attribute(from, "feature_schema_id", H5T_NATIVE_UINT64, 1, &layout->features.id, error));
    layout->prompt_text = ga_hdf5_has(from->file, "prompt");
    return load_final_shape(from, layout, error);
}

static ga_status load_columns(const source *from, ga_record_table *table, ga_error *error) {
    for (int i = 0; i < GA_COLUMN_COUNT; i++) {
        const ga_record_column *column = &ga_record_columns[i];
        if (column->since > from->version) {
            continue;
        }
        const hsize_t dimensions[2] = {
            (hsize_t)table->rows, (hsize_t)ga_column_values(column->kind, table->layout.candidate_count)};
        GA_TRY(read_dataset(from, column->name, ga_hdf5_memory_type(column->type),
            column->kind == GA_COLUMN_ONE ? 1 : 2, dimensions, ga_record_table_column(table, i), error));
    }
    return GA_OK;
}

static ga_status load_rewards(const source *from, ga_record_table *table, ga_error *error) {
    const size_t rows = (size_t)table->rows;
    const size_t scorers = (size_t)table->layout.scorer_count;
    float *values = malloc((rows + 1) * sizeof *values);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for rewards");
    }
    ga_status status = GA_OK;
    for (size_t k = 0; k < scorers && status == GA_OK; k++) {
        char path[GA_RECORD_NAME_BYTES + 8];
        (void)snprintf(path, sizeof path, "reward/%s", table->layout.scorers[k]);
        const hsize_t dimension = (hsize_t)rows;
        status = read_dataset(from, path, H5T_NATIVE_FLOAT, 1, &dimension, values, error);
        for (size_t i = 0; i < rows && status == GA_OK; i++) {
            table->rewards[i * scorers + k] = values[i];
        }
    }
    free(values);
    return status;
}

static ga_status load_input(
    const source *from, ga_record_table *table, const ga_input_shape *shape, ga_error *error) {
    char path[GA_RECORD_NAME_BYTES];
    (void)snprintf(path, sizeof path, "features/%s", ga_record_input_name(shape->input));
    const size_t count = (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
    const size_t states = (size_t)table->rows * (size_t)table->layout.candidate_count;
    const bool scalars = shape->height == 1 && shape->width == 1;
    hsize_t dimensions[DIMENSIONS_MAX] = {(hsize_t)table->rows, (hsize_t)table->layout.candidate_count,
        (hsize_t)shape->channels, (hsize_t)shape->height, (hsize_t)shape->width};
    int found_count = 0;
    hsize_t found[DIMENSIONS_MAX];
    GA_TRY(read_dimensions(from, path, &found_count, found, error));
    /* a map of 1 × 1 may have been written either way */
    const int dimension_count = scalars ? found_count : 5;
    ga_half *values = malloc((states * count + 1) * sizeof *values);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %s", path);
    }
    const ga_status status = read_dataset(from, path, from->half, dimension_count, dimensions, values, error);
    const size_t width = (size_t)table->layout.features.values_per_row;
    for (size_t i = 0; i < states && status == GA_OK; i++) {
        memcpy(
            table->features + i * width + (size_t)shape->offset, values + i * count, count * sizeof *values);
    }
    free(values);
    return status;
}

static ga_status load_finals(const source *from, ga_record_table *table, ga_error *error) {
    const ga_record_layout *layout = &table->layout;
    if (table->finals == NULL) {
        return GA_OK;
    }
    const hsize_t dimensions[4] = {(hsize_t)table->rows, (hsize_t)layout->final_shape[0],
        (hsize_t)layout->final_shape[1], (hsize_t)layout->final_shape[2]};
    const hid_t type = layout->final_kind == GA_RECORD_FINAL_IMAGE ? H5T_NATIVE_UINT8 : from->half;
    GA_TRY(read_dataset(from, "final", type, 4, dimensions, table->finals, error));
    if (table->states == NULL) {
        return GA_OK;
    }
    if (from->version >= 2) {
        return read_dataset(from, "state", from->half, 4, dimensions, table->states, error);
    }
    for (size_t i = 0; i < (size_t)table->rows * ga_record_final_values(layout); i++) {
        table->states[i] = GA_RECORD_HALF_NAN;
    }
    return GA_OK;
}

/* 0 where there are none; one more than the longest, so that each ends with a zero byte. */
static ga_status prompt_width(const source *from, size_t *bytes_out, ga_error *error) {
    hid_t dataset = H5I_INVALID_HID;
    GA_TRY(ga_hdf5_open_dataset(from->file, "prompt", from->bytes, &dataset, error));
    const hid_t type = H5Dget_type(dataset);
    const bool text = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
                      H5Tget_size(type) <= GA_RECORD_PROMPT_BYTES_MAX;
    if (text) {
        *bytes_out = H5Tget_size(type) + 1;
    }
    (void)(type >= 0 && H5Tclose(type) >= 0);
    (void)H5Dclose(dataset);
    return text ? GA_OK : GA_FAIL(error, GA_ERR_FILE, "dataset prompt: not text of fixed width");
}

static ga_status load_prompts(const source *from, ga_record_table *table, ga_error *error) {
    if (table->prompts == NULL) {
        return GA_OK;
    }
    const hid_t type = H5Tcopy(H5T_C_S1);
    ga_status status = GA_OK;
    if (type < 0 || H5Tset_size(type, table->prompt_bytes) < 0 || H5Tset_strpad(type, H5T_STR_NULLPAD) < 0 ||
        H5Tset_cset(type, H5T_CSET_UTF8) < 0) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory for prompts");
    } else {
        const hsize_t dimension = (hsize_t)table->rows;
        status = read_dataset(from, "prompt", type, 1, &dimension, table->prompts, error);
    }
    (void)(type >= 0 && H5Tclose(type) >= 0);
    return status;
}

static ga_status load_batches(const source *from, ga_record_table *table, ga_error *error) {
    const size_t count = (size_t)table->batch_count;
    char *values = malloc(count * sizeof(uint64_t) + 1);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for batches");
    }
    ga_status status = GA_OK;
    for (int k = 0; k < GA_BATCH_COLUMN_COUNT && status == GA_OK; k++) {
        const ga_record_column *column = &ga_record_batch_columns[k];
        if (column->since > from->version) {
            continue;
        }
        const size_t bytes = ga_column_bytes(column->type);
        const hsize_t dimension = (hsize_t)count;
        status =
            read_dataset(from, column->name, ga_hdf5_memory_type(column->type), 1, &dimension, values, error);
        for (size_t i = 0; i < count && status == GA_OK; i++) {
            memcpy((char *)&table->batches[i] + column->offset, values + i * bytes, bytes);
        }
    }
    free(values);
    return status;
}

/* The inputs of one state of a row whose values are all finite, as bits. */
static uint8_t find_complete(const ga_feature_schema *schema, const ga_half *values) {
    unsigned bits = 0;
    for (int32_t i = 0; i < schema->input_count; i++) {
        const ga_input_shape *shape = &schema->inputs[i];
        const int32_t count = shape->channels * shape->height * shape->width;
        int32_t k = 0;
        while (k < count && (values[shape->offset + k] & 0x7c00u) != 0x7c00u) { /* infinite or NaN */
            k++;
        }
        bits |= k == count ? GA_INPUT_BIT(shape->input) : 0u;
    }
    return (uint8_t)bits;
}

static void fill_complete(ga_record_table *table) {
    const ga_feature_schema *schema = &table->layout.features;
    for (int64_t state = 0; state < table->rows * table->layout.candidate_count; state++) {
        table->complete[state] = find_complete(schema, table->features + state * schema->values_per_row);
    }
}

static ga_status load_content(const source *from, ga_record_table *table, ga_error *error) {
    GA_TRY(load_columns(from, table, error));
    GA_TRY(load_rewards(from, table, error));
    for (int32_t i = 0; i < table->layout.features.input_count; i++) {
        GA_TRY(load_input(from, table, &table->layout.features.inputs[i], error));
    }
    fill_complete(table);
    GA_TRY(load_finals(from, table, error));
    GA_TRY(load_prompts(from, table, error));
    return load_batches(from, table, error);
}

static ga_status load_file(source *from, ga_record_table **table_out, ga_error *error) {
    ga_record_layout layout;
    memset(&layout, 0, sizeof layout);
    int count = 0;
    hsize_t rows[DIMENSIONS_MAX], batches[DIMENSIONS_MAX];
    size_t prompt_bytes = 0;
    GA_TRY(load_version(from, error));
    GA_TRY(load_layout(from, &layout, error));
    GA_TRY(read_dimensions(from, "row_id", &count, rows, error));
    GA_TRY(read_dimensions(from, "batches/batch", &count, batches, error));
    if (layout.prompt_text) {
        GA_TRY(prompt_width(from, &prompt_bytes, error));
    }
    ga_record_table *table = NULL;
    const ga_record_size size = {
        .rows = (int64_t)rows[0], .batches = (int64_t)batches[0], .prompt_bytes = prompt_bytes};
    GA_TRY(ga_record_table_create(&layout, &size, &table, error));
    const ga_status status = load_content(from, table, error);
    if (status != GA_OK) {
        ga_record_table_free(&table);
        return status;
    }
    table->segment_count = 1;
    *table_out = table;
    return GA_OK;
}

ga_status ga_segment_load(
    const void *image, size_t bytes, const char *name, ga_record_table **table_out, ga_error *error) {
    ga_error inner;
    ga_error_clear(&inner);
    ga_hdf5_scope scope;
    ga_hdf5_enter(&scope);
    char cause[160] = "no memory";
    source from = {H5I_INVALID_HID, ga_hdf5_half_type(), bytes, 0};
    from.file = ga_hdf5_open_image(image, bytes, cause, sizeof cause);
    ga_status status = GA_OK;
    if (from.file < 0 || from.half < 0) {
        status = GA_FAIL(&inner, GA_ERR_FILE, "not a complete HDF5 file (%s)", cause);
    } else {
        status = load_file(&from, table_out, &inner);
    }
    (void)(from.half >= 0 && H5Tclose(from.half) >= 0);
    (void)(from.file >= 0 && H5Fclose(from.file) >= 0);
    ga_hdf5_leave(&scope);
    return status == GA_OK ? GA_OK : GA_FAIL(error, status, "%s: %.400s", name, inner.message);
}
