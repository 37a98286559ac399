#include "grpo_accel/record/segment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/clock.h"
#include "grpo_accel/record/hdf5_file.h"

#define CHUNK_BYTES_MAX ((size_t)1 << 20)
#define DIMENSIONS_MAX 5

/* One dataset about to be written. */
typedef struct dataset {
    const char *path;
    hid_t file_type;
    hid_t memory_type;
    const void *fill; /* NULL: zero */
    int dimension_count;
    hsize_t dimensions[DIMENSIONS_MAX];
} dataset;

/* Blocks of rows of at most CHUNK_BYTES_MAX, checksummed. Nothing to check where there are no rows. */
static bool set_chunks(hid_t creation, const dataset *what) {
    if (what->dimensions[0] == 0) {
        return true;
    }
    size_t row_bytes = H5Tget_size(what->file_type);
    hsize_t chunk[DIMENSIONS_MAX];
    for (int i = 1; i < what->dimension_count; i++) {
        chunk[i] = what->dimensions[i];
        row_bytes *= (size_t)what->dimensions[i];
    }
    const hsize_t rows = row_bytes < CHUNK_BYTES_MAX ? CHUNK_BYTES_MAX / row_bytes : 1;
    chunk[0] = rows < what->dimensions[0] ? rows : what->dimensions[0];
    return H5Pset_chunk(creation, what->dimension_count, chunk) >= 0 && H5Pset_fletcher32(creation) >= 0;
}

static hid_t dataset_properties(const dataset *what) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (creation < 0) {
        return creation;
    }
    const bool ok = set_chunks(creation, what) && H5Pset_obj_track_times(creation, 0) >= 0 &&
                    (what->fill == NULL || H5Pset_fill_value(creation, what->memory_type, what->fill) >= 0);
    if (!ok) {
        (void)H5Pclose(creation);
        return H5I_INVALID_HID;
    }
    return creation;
}

static ga_status write_dataset(hid_t file, const dataset *what, const void *values, ga_error *error) {
    const hid_t space = H5Screate_simple(what->dimension_count, what->dimensions, NULL);
    const hid_t creation = dataset_properties(what);
    hid_t id = H5I_INVALID_HID;
    if (space >= 0 && creation >= 0) {
        id = H5Dcreate2(file, what->path, what->file_type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    }
    bool ok = id >= 0;
    if (ok && what->dimensions[0] > 0) {
        ok = H5Dwrite(id, what->memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
    }
    char cause[160] = "";
    if (!ok) {
        (void)ga_hdf5_cause(cause, sizeof cause);
    }
    (void)(id >= 0 && H5Dclose(id) >= 0);
    (void)(creation >= 0 && H5Pclose(creation) >= 0);
    (void)(space >= 0 && H5Sclose(space) >= 0);
    return ok ? GA_OK : GA_FAIL(error, GA_ERR_IO, "record: dataset %s: %s", what->path, cause);
}

static const void *fill_of(ga_column_type type) {
    static const float nan_float = NAN;
    static const double nan_double = NAN;
    return type == GA_COLUMN_F32 ? (const void *)&nan_float
                                 : (type == GA_COLUMN_F64 ? (const void *)&nan_double : NULL);
}

/* Gathers one column from an array of structs and writes it. */
static ga_status write_column(hid_t file, const ga_record_column *column, int32_t candidates,
    const void *structs, size_t struct_bytes, int32_t count, ga_error *error) {
    const int32_t values = ga_column_values(column->kind, candidates);
    const size_t bytes = ga_column_bytes(column->type) * (size_t)values;
    char *gathered = malloc(bytes * (size_t)count + 1);
    if (gathered == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for column %s", column->name);
    }
    for (size_t i = 0; i < (size_t)count; i++) {
        memcpy(gathered + i * bytes, (const char *)structs + i * struct_bytes + column->offset, bytes);
    }
    const dataset what = {column->name, ga_hdf5_file_type(column->type), ga_hdf5_memory_type(column->type),
        fill_of(column->type), column->kind == GA_COLUMN_ONE ? 1 : 2, {(hsize_t)count, (hsize_t)values}};
    const ga_status status = write_dataset(file, &what, gathered, error);
    free(gathered);
    return status;
}

static ga_status write_columns(hid_t file, const ga_segment *segment, ga_error *error) {
    for (int i = 0; i < GA_COLUMN_COUNT; i++) {
        GA_TRY(write_column(file, &ga_record_columns[i], segment->layout->candidate_count, segment->rows,
            sizeof *segment->rows, segment->row_count, error));
    }
    for (int i = 0; i < GA_BATCH_COLUMN_COUNT; i++) {
        GA_TRY(write_column(file, &ga_record_batch_columns[i], 1, segment->batches, sizeof *segment->batches,
            segment->batch_count, error));
    }
    return GA_OK;
}

static ga_status write_rewards(hid_t file, const ga_segment *segment, ga_error *error) {
    const size_t rows = (size_t)segment->row_count;
    float *values = malloc((rows + 1) * sizeof *values);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for rewards");
    }
    ga_status status = GA_OK;
    for (int32_t k = 0; k < segment->layout->scorer_count && status == GA_OK; k++) {
        char path[GA_RECORD_NAME_BYTES + 8];
        (void)snprintf(path, sizeof path, "reward/%s", segment->layout->scorers[k]);
        for (size_t i = 0; i < rows; i++) {
            values[i] = segment->rows[i].rewards != NULL ? segment->rows[i].rewards[k] : NAN;
        }
        const dataset what = {
            path, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, fill_of(GA_COLUMN_F32), 1, {(hsize_t)rows}};
        status = write_dataset(file, &what, values, error);
    }
    free(values);
    return status;
}

/* [rows, candidates, values] of one input, NaN where a candidate was not taken. */
static void gather_input(
    const ga_segment *segment, const ga_input_shape *shape, size_t count, ga_half *values) {
    const int32_t candidates = segment->layout->candidate_count;
    for (int32_t i = 0; i < segment->row_count; i++) {
        for (int32_t c = 0; c < candidates; c++) {
            const ga_half *row = segment->rows[i].features[c];
            ga_half *target = values + ((size_t)i * (size_t)candidates + (size_t)c) * count;
            for (size_t j = 0; j < count; j++) {
                target[j] = row != NULL ? row[(size_t)shape->offset + j] : GA_RECORD_HALF_NAN;
            }
        }
    }
}

static ga_status write_input(
    hid_t file, hid_t half, const ga_segment *segment, const ga_input_shape *shape, ga_error *error) {
    static const ga_half fill = GA_RECORD_HALF_NAN;
    const size_t count = (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
    const size_t candidates = (size_t)segment->layout->candidate_count;
    size_t total = 0;
    if (!ga_multiply_size(count * candidates * sizeof(ga_half), (size_t)segment->row_count, &total)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: too many features for one segment");
    }
    ga_half *values = malloc(total + 1);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for %zu bytes of features", total);
    }
    gather_input(segment, shape, count, values);
    char path[GA_RECORD_NAME_BYTES];
    (void)snprintf(path, sizeof path, "features/%s", ga_record_input_name(shape->input));
    const bool scalars = shape->height == 1 && shape->width == 1;
    const dataset what = {path, half, half, &fill, scalars ? 3 : 5,
        {(hsize_t)segment->row_count, candidates, (hsize_t)shape->channels, (hsize_t)shape->height,
            (hsize_t)shape->width}};
    const ga_status status = write_dataset(file, &what, values, error);
    free(values);
    return status;
}

/* "final" or "state": what the rows have, shaped as finals are; NaN (images: zeros) where they have none. */
static ga_status write_ends(
    hid_t file, hid_t half, const ga_segment *segment, const char *path, size_t offset, ga_error *error) {
    const ga_record_layout *layout = segment->layout;
    const size_t bytes = ga_record_final_values(layout) * ga_record_final_bytes(layout);
    const bool latent = layout->final_kind == GA_RECORD_FINAL_LATENT;
    char *values = calloc((size_t)segment->row_count + 1, bytes);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for %s", path);
    }
    for (size_t i = 0; i < (size_t)segment->row_count; i++) {
        const void *source = NULL;
        memcpy(&source, (const char *)&segment->rows[i] + offset, sizeof source);
        if (source != NULL) {
            memcpy(values + i * bytes, source, bytes);
        } else if (latent) {
            for (size_t j = 0; j < bytes; j += sizeof(ga_half)) {
                memcpy(values + i * bytes + j, &(ga_half){GA_RECORD_HALF_NAN}, sizeof(ga_half));
            }
        }
    }
    const hid_t image_type = H5T_STD_U8LE;
    const dataset what = {path, latent ? half : image_type, latent ? half : image_type, NULL, 4,
        {(hsize_t)segment->row_count, (hsize_t)layout->final_shape[0], (hsize_t)layout->final_shape[1],
            (hsize_t)layout->final_shape[2]}};
    const ga_status status = write_dataset(file, &what, values, error);
    free(values);
    return status;
}

static ga_status write_finals(hid_t file, hid_t half, const ga_segment *segment, ga_error *error) {
    if (ga_record_final_values(segment->layout) == 0) {
        return GA_OK;
    }
    GA_TRY(write_ends(file, half, segment, "final", offsetof(ga_record_row, final), error));
    return ga_record_has_states(segment->layout)
               ? write_ends(file, half, segment, "state", offsetof(ga_record_row, state), error)
               : GA_OK;
}

/* Longest prefix of at most `limit` bytes that does not cut a UTF-8 character. */
static size_t text_prefix(const char *text, size_t limit) {
    size_t length = strnlen(text, limit + 1);
    if (length > limit) {
        length = limit;
        while (length > 0 && ((unsigned char)text[length] & 0xc0u) == 0x80u) {
            length--;
        }
    }
    return length;
}

/* Fixed-width text: the reader needs no variable-length heap, which is where HDF5 files go wrong. */
static ga_status write_prompts(hid_t file, const ga_segment *segment, ga_error *error) {
    if (!segment->layout->prompt_text) {
        return GA_OK;
    }
    size_t width = 1;
    for (int32_t i = 0; i < segment->row_count; i++) {
        const char *prompt = segment->rows[i].prompt;
        const size_t length = prompt != NULL ? text_prefix(prompt, GA_RECORD_PROMPT_BYTES_MAX) : 0;
        width = length > width ? length : width;
    }
    char *values = calloc((size_t)segment->row_count + 1, width);
    const hid_t type = H5Tcopy(H5T_C_S1);
    ga_status status = GA_OK;
    if (values == NULL || type < 0 || H5Tset_size(type, width) < 0 ||
        H5Tset_strpad(type, H5T_STR_NULLPAD) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for prompts");
        goto close_type;
    }
    for (size_t i = 0; i < (size_t)segment->row_count; i++) {
        const char *prompt = segment->rows[i].prompt;
        if (prompt != NULL) {
            memcpy(values + i * width, prompt, text_prefix(prompt, width));
        }
    }
    const dataset what = {"prompt", type, type, NULL, 1, {(hsize_t)segment->row_count}};
    status = write_dataset(file, &what, values, error);
close_type:
    (void)(type >= 0 && H5Tclose(type) >= 0);
    free(values);
    return status;
}

/* count 0: a scalar. */
static bool write_attribute(
    hid_t file, const char *name, hid_t file_type, hid_t memory_type, hsize_t count, const void *values) {
    const hid_t space = count == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &count, NULL);
    hid_t attribute = H5I_INVALID_HID;
    if (space >= 0) {
        attribute = H5Acreate2(file, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    }
    const bool ok = attribute >= 0 && H5Awrite(attribute, memory_type, values) >= 0;
    (void)(attribute >= 0 && H5Aclose(attribute) >= 0);
    (void)(space >= 0 && H5Sclose(space) >= 0);
    return ok;
}

static bool write_text_attribute(hid_t file, const char *name, const char *text) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    const size_t length = strlen(text);
    const bool ok = type >= 0 && H5Tset_size(type, length > 0 ? length : 1) >= 0 &&
                    H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0 &&
                    write_attribute(file, name, type, type, 0, text);
    (void)(type >= 0 && H5Tclose(type) >= 0);
    return ok;
}

static ga_status write_attributes(hid_t file, const ga_record_layout *layout, ga_error *error) {
    static const uint32_t version = GA_RECORD_SCHEMA_VERSION;
    char created[32];
    ga_clock_utc(created, sizeof created);
    const hsize_t candidates = (hsize_t)layout->candidate_count;
    const bool ok =
        write_attribute(file, "schema_version", H5T_STD_U32LE, H5T_NATIVE_UINT32, 0, &version) &&
        write_text_attribute(file, "run_id", layout->run_id) &&
        write_attribute(file, "rank", H5T_STD_I32LE, H5T_NATIVE_INT32, 0, &layout->rank) &&
        write_attribute(file, "world_size", H5T_STD_I32LE, H5T_NATIVE_INT32, 0, &layout->world_size) &&
        write_attribute(
            file, "config_fingerprint", H5T_STD_U64LE, H5T_NATIVE_UINT64, 0, &layout->config_fingerprint) &&
        write_text_attribute(file, "model", layout->model) &&
        write_text_attribute(file, "created_utc", created) &&
        write_attribute(
            file, "candidate_steps", H5T_STD_I32LE, H5T_NATIVE_INT32, candidates, layout->candidate_steps) &&
        write_attribute(file, "candidate_sigmas", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, candidates,
            layout->candidate_sigmas) &&
        write_attribute(file, "feature_schema_id", H5T_STD_U64LE, H5T_NATIVE_UINT64, 0, &layout->features.id);
    char cause[160];
    return ok ? GA_OK
              : GA_FAIL(error, GA_ERR_IO, "record: attributes: %s", ga_hdf5_cause(cause, sizeof cause));
}

static bool create_group(hid_t file, const char *name) {
    const hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    return group >= 0 && H5Gclose(group) >= 0;
}

static ga_status write_features(hid_t file, hid_t half, const ga_segment *segment, ga_error *error) {
    for (int32_t i = 0; i < segment->layout->features.input_count; i++) {
        GA_TRY(write_input(file, half, segment, &segment->layout->features.inputs[i], error));
    }
    return GA_OK;
}

static ga_status write_content(hid_t file, hid_t half, const ga_segment *segment, ga_error *error) {
    if (half < 0 || !create_group(file, "reward") || !create_group(file, "features") ||
        !create_group(file, "batches")) {
        char cause[160];
        return GA_FAIL(error, GA_ERR_IO, "record: groups: %s", ga_hdf5_cause(cause, sizeof cause));
    }
    GA_TRY(write_attributes(file, segment->layout, error));
    GA_TRY(write_columns(file, segment, error));
    GA_TRY(write_rewards(file, segment, error));
    GA_TRY(write_features(file, half, segment, error));
    GA_TRY(write_finals(file, half, segment, error));
    return write_prompts(file, segment, error);
}

static uint32_t rotate(uint32_t value, int count) {
    return value << count | value >> (32 - count);
}

static void mix(uint32_t s[3]) {
    static const int counts[6] = {4, 6, 8, 16, 19, 4};
    for (int i = 0; i < 6; i++) {
        uint32_t *a = &s[i % 3], *b = &s[(i + 1) % 3], *c = &s[(i + 2) % 3];
        *a = (*a - *c) ^ rotate(*c, counts[i]);
        *c += *b;
    }
}

static uint32_t finish(uint32_t s[3]) {
    static const int counts[7] = {14, 11, 25, 16, 4, 14, 24};
    for (int i = 0; i < 7; i++) {
        uint32_t *to = &s[(i + 2) % 3];
        const uint32_t from = s[(i + 1) % 3];
        *to = (*to ^ from) - rotate(from, counts[i]);
    }
    return s[2];
}

/* Jenkins' lookup3 ("hashlittle", start value 0) of the 44 bytes that a superblock's checksum covers. */
static uint32_t superblock_checksum(const unsigned char *bytes) {
    uint32_t words[11];
    for (int i = 0; i < 11; i++) {
        const unsigned char *byte = bytes + (ptrdiff_t)4 * i;
        words[i] =
            (uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24;
    }
    uint32_t s[3] = {0xdeadbeefu + 44u, 0xdeadbeefu + 44u, 0xdeadbeefu + 44u};
    for (int i = 0; i < 11; i++) {
        s[i % 3] += words[i];
        if (i % 3 == 2) {
            mix(s);
        }
    }
    return finish(s);
}

/* H5Fget_file_image clears "open for writing" in the superblock and (1.10.8) forgets to renew the
 * superblock's checksum: no reader would open such an image. Where a version does renew it, this changes
 * nothing. */
static void renew_superblock_checksum(unsigned char *image, size_t bytes) {
    const size_t version_place = 8, offset_size_place = 9, covered = 44;
    if (bytes < covered + 4 || image[version_place] != 2 || image[offset_size_place] != 8) {
        return;
    }
    const uint32_t checksum = superblock_checksum(image);
    for (size_t i = 0; i < 4; i++) {
        image[covered + i] = (unsigned char)(checksum >> (8 * i));
    }
}

static ga_status take_image(hid_t file, void **image_out, size_t *bytes_out, ga_error *error) {
    char cause[160];
    if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0) {
        return GA_FAIL(error, GA_ERR_IO, "record: flush: %s", ga_hdf5_cause(cause, sizeof cause));
    }
    const ssize_t bytes = H5Fget_file_image(file, NULL, 0);
    void *image = bytes > 0 ? malloc((size_t)bytes) : NULL;
    if (image == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for a segment of %zd bytes", bytes);
    }
    if (H5Fget_file_image(file, image, (size_t)bytes) != bytes) {
        free(image);
        return GA_FAIL(error, GA_ERR_IO, "record: image: %s", ga_hdf5_cause(cause, sizeof cause));
    }
    renew_superblock_checksum(image, (size_t)bytes);
    *image_out = image;
    *bytes_out = (size_t)bytes;
    return GA_OK;
}

ga_status ga_segment_build(const ga_segment *segment, void **image_out, size_t *bytes_out, ga_error *error) {
    ga_hdf5_scope scope;
    ga_hdf5_enter(&scope);
    const hid_t half = ga_hdf5_half_type();
    const hid_t file = ga_hdf5_create_image();
    ga_status status = GA_OK;
    if (file < 0) {
        char cause[160];
        status = GA_FAIL(
            error, GA_ERR_MEMORY, "record: no file in memory: %s", ga_hdf5_cause(cause, sizeof cause));
        goto leave;
    }
    status = write_content(file, half, segment, error);
    if (status == GA_OK) {
        status = take_image(file, image_out, bytes_out, error);
    }
    (void)H5Fclose(file);
leave:
    (void)(half >= 0 && H5Tclose(half) >= 0);
    ga_hdf5_leave(&scope);
    return status;
}
