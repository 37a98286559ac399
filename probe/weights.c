#include "probe/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grpo_accel/compute/tensor.h"
#include "probe/json.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors data is little-endian");

#define ARRAYS_MAX 320
#define TEXTS_MAX 128

typedef struct weights_text {
    char key[GA_WEIGHTS_NAME_BYTES];
    char value[GA_WEIGHTS_VALUE_BYTES];
} weights_text;

struct ga_weights {
    int32_t array_count;
    ga_weights_array arrays[ARRAYS_MAX];
    int32_t text_count;
    weights_text texts[TEXTS_MAX];
};

ga_status ga_weights_create(ga_weights **weights_out, ga_error *error) {
    ga_weights *weights = calloc(1, sizeof *weights);
    if (weights == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a probe's weights");
    }
    *weights_out = weights;
    return GA_OK;
}

void ga_weights_destroy(ga_weights **weights) {
    if (*weights == NULL) {
        return;
    }
    for (int32_t i = 0; i < (*weights)->array_count; i++) {
        free((*weights)->arrays[i].values);
    }
    free(*weights);
    *weights = NULL;
}

static weights_text *find_text(ga_weights *weights, const char *key) {
    for (int32_t i = 0; i < weights->text_count; i++) {
        if (strcmp(weights->texts[i].key, key) == 0) {
            return &weights->texts[i];
        }
    }
    return NULL;
}

ga_status ga_weights_set_text(ga_weights *weights, const char *key, const char *value, ga_error *error) {
    if (strlen(key) >= GA_WEIGHTS_NAME_BYTES || strlen(value) >= GA_WEIGHTS_VALUE_BYTES) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "text \"%.40s\" of a probe is longer than %d bytes", key,
            GA_WEIGHTS_VALUE_BYTES - 1);
    }
    weights_text *text = find_text(weights, key);
    if (text == NULL) {
        if (weights->text_count == TEXTS_MAX) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "a probe file holds at most %d texts", TEXTS_MAX);
        }
        text = &weights->texts[weights->text_count++];
    }
    strcpy(text->key, key);
    strcpy(text->value, value);
    return GA_OK;
}

const char *ga_weights_text(const ga_weights *weights, const char *key) {
    for (int32_t i = 0; i < weights->text_count; i++) {
        if (strcmp(weights->texts[i].key, key) == 0) {
            return weights->texts[i].value;
        }
    }
    return NULL;
}

const ga_weights_array *ga_weights_find(const ga_weights *weights, const char *name) {
    for (int32_t i = 0; i < weights->array_count; i++) {
        if (strcmp(weights->arrays[i].name, name) == 0) {
            return &weights->arrays[i];
        }
    }
    return NULL;
}

/* A new array with room for its values; the caller has checked name and shape. */
static ga_status append_array(ga_weights *weights, const char *name, int32_t dims, const int64_t *shape,
    int64_t count, ga_weights_array **array_out, ga_error *error) {
    if (weights->array_count == ARRAYS_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "a probe file holds at most %d arrays", ARRAYS_MAX);
    }
    float *values = malloc(((size_t)count + 1) * sizeof *values);
    if (values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for array %s of %lld values", name, (long long)count);
    }
    ga_weights_array *array = &weights->arrays[weights->array_count++];
    memset(array, 0, sizeof *array);
    strcpy(array->name, name);
    array->dims = dims;
    for (int32_t i = 0; i < dims; i++) {
        array->shape[i] = shape[i];
    }
    array->count = count;
    array->values = values;
    *array_out = array;
    return GA_OK;
}

/* Product of the shape; false for a negative size or more values than a file may hold. */
static bool count_of(int32_t dims, const int64_t *shape, int64_t *count) {
    int64_t product = 1;
    for (int32_t i = 0; i < dims; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(product, shape[i], &product) ||
            product > (int64_t)GA_WEIGHTS_FILE_BYTES_MAX) {
            return false;
        }
    }
    *count = product;
    return true;
}

ga_status ga_weights_add(ga_weights *weights, const char *name, int32_t dims, const int64_t *shape,
    const float *values, ga_error *error) {
    int64_t count;
    if (strlen(name) >= GA_WEIGHTS_NAME_BYTES || strcmp(name, "__metadata__") == 0 || dims < 0 ||
        dims > GA_WEIGHTS_DIMS_MAX || !count_of(dims, shape, &count)) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "array \"%.40s\" has a name or shape that no probe file holds", name);
    }
    if (ga_weights_find(weights, name) != NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "array \"%s\" is there already", name);
    }
    ga_weights_array *array;
    GA_TRY(append_array(weights, name, dims, shape, count, &array, error));
    memcpy(array->values, values, (size_t)count * sizeof *values);
    return GA_OK;
}

/* ---- reading ---- */

/* One entry of the header, as it stands there. */
typedef struct header_entry {
    char name[GA_WEIGHTS_NAME_BYTES];
    char dtype[16];
    int32_t dims;
    int64_t shape[GA_WEIGHTS_DIMS_MAX];
    int64_t begin, end; /* bytes in the data */
} header_entry;

typedef struct header_reader {
    const char *path;
    ga_json json;
    ga_weights *weights;
    int32_t entry_count;
    header_entry entries[ARRAYS_MAX];
} header_reader;

static ga_status refuse(const header_reader *reader, const char *what, ga_error *error) {
    return GA_FAIL(error, GA_ERR_FILE, "%s: not a probe file that can be read: %s (byte %zu of the header)",
        reader->path, what, reader->json.at);
}

static ga_status read_metadata(header_reader *reader, ga_error *error) {
    ga_json *json = &reader->json;
    if (!ga_json_take(json, '{')) {
        return refuse(reader, "__metadata__ is not an object", error);
    }
    if (ga_json_take(json, '}')) {
        return GA_OK;
    }
    do {
        char key[GA_WEIGHTS_NAME_BYTES], value[GA_WEIGHTS_VALUE_BYTES];
        if (!ga_json_take_string(json, key, sizeof key) || !ga_json_take(json, ':') ||
            !ga_json_take_string(json, value, sizeof value)) {
            return refuse(reader, "__metadata__ holds something else than short texts", error);
        }
        if (ga_weights_text(reader->weights, key) != NULL) {
            return refuse(reader, "a text in __metadata__ stands twice", error);
        }
        GA_TRY(ga_weights_set_text(reader->weights, key, value, error));
    } while (ga_json_take(json, ','));
    return ga_json_take(json, '}') ? GA_OK : refuse(reader, "__metadata__ does not end", error);
}

/* One of dtype, shape, data_offsets; `seen` has a bit for each. */
static bool read_field(ga_json *json, header_entry *entry, unsigned *seen) {
    char field[16];
    if (!ga_json_take_string(json, field, sizeof field) || !ga_json_take(json, ':')) {
        return false;
    }
    unsigned bit = 0;
    bool taken = false;
    if (strcmp(field, "dtype") == 0) {
        bit = 1u;
        taken = ga_json_take_string(json, entry->dtype, sizeof entry->dtype);
    } else if (strcmp(field, "shape") == 0) {
        bit = 2u;
        taken = ga_json_take_integers(json, entry->shape, GA_WEIGHTS_DIMS_MAX, &entry->dims);
    } else if (strcmp(field, "data_offsets") == 0) {
        int64_t offsets[2] = {0, 0};
        int32_t count = 0;
        bit = 4u;
        taken = ga_json_take_integers(json, offsets, 2, &count) && count == 2;
        entry->begin = offsets[0];
        entry->end = offsets[1];
    }
    const bool fresh = taken && (*seen & bit) == 0;
    *seen |= bit;
    return fresh;
}

static ga_status read_entry(header_reader *reader, const char *name, ga_error *error) {
    for (int32_t i = 0; i < reader->entry_count; i++) {
        if (strcmp(reader->entries[i].name, name) == 0) {
            return refuse(reader, "an array stands twice", error);
        }
    }
    if (reader->entry_count == ARRAYS_MAX) {
        return refuse(reader, "too many arrays", error);
    }
    header_entry *entry = &reader->entries[reader->entry_count++];
    memset(entry, 0, sizeof *entry);
    strcpy(entry->name, name);
    unsigned seen = 0;
    if (!ga_json_take(&reader->json, '{')) {
        return refuse(reader, "an array is not described by an object", error);
    }
    do {
        if (!read_field(&reader->json, entry, &seen)) {
            return refuse(reader, "dtype, shape or data_offsets of an array is wrong", error);
        }
    } while (ga_json_take(&reader->json, ','));
    if (seen != 7u || !ga_json_take(&reader->json, '}')) {
        return refuse(reader, "an array lacks dtype, shape or data_offsets", error);
    }
    return GA_OK;
}

static ga_status read_header(header_reader *reader, ga_error *error) {
    if (!ga_json_take(&reader->json, '{')) {
        return refuse(reader, "the header is not an object", error);
    }
    bool has_metadata = false;
    if (!ga_json_take(&reader->json, '}')) {
        do {
            char name[GA_WEIGHTS_NAME_BYTES];
            if (!ga_json_take_string(&reader->json, name, sizeof name) || !ga_json_take(&reader->json, ':')) {
                return refuse(reader, "the name of an array is wrong", error);
            }
            if (strcmp(name, "__metadata__") != 0) {
                GA_TRY(read_entry(reader, name, error));
            } else if (has_metadata) {
                return refuse(reader, "__metadata__ stands twice", error);
            } else {
                has_metadata = true;
                GA_TRY(read_metadata(reader, error));
            }
        } while (ga_json_take(&reader->json, ','));
        if (!ga_json_take(&reader->json, '}')) {
            return refuse(reader, "the header does not end", error);
        }
    }
    return ga_json_at_end(&reader->json) ? GA_OK : refuse(reader, "something follows the header", error);
}

static bool dtype_of(const char *name, ga_dtype *dtype) {
    static const char *const names[] = {"F32", "F16", "BF16", "F64"};
    static const ga_dtype dtypes[] = {GA_F32, GA_F16, GA_BF16, GA_F64};
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) == 0) {
            *dtype = dtypes[i];
            return true;
        }
    }
    return false;
}

static int compare_begin(const void *a, const void *b) {
    const header_entry *x = a;
    const header_entry *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return x->end < y->end ? -1 : x->end > y->end ? 1 : 0;
}

/* The arrays tile the data: sorted by begin, each starts where the one before ends, the last ends at the end.
 */
static ga_status check_offsets(header_reader *reader, size_t data_bytes, ga_error *error) {
    qsort(reader->entries, (size_t)reader->entry_count, sizeof reader->entries[0], compare_begin);
    int64_t end = 0;
    for (int32_t i = 0; i < reader->entry_count; i++) {
        const header_entry *entry = &reader->entries[i];
        if (entry->begin != end || entry->end < entry->begin || entry->end > (int64_t)data_bytes) {
            return GA_FAIL(error, GA_ERR_FILE,
                "%s: array \"%s\" claims bytes %lld to %lld of %zu; arrays must follow each other without "
                "overlap or gap",
                reader->path, entry->name, (long long)entry->begin, (long long)entry->end, data_bytes);
        }
        end = entry->end;
    }
    if (end != (int64_t)data_bytes) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: %zu bytes of data, but the arrays end at %lld", reader->path,
            data_bytes, (long long)end);
    }
    return GA_OK;
}

static ga_status load_entry(header_reader *reader, const header_entry *entry, char *data, ga_error *error) {
    ga_dtype dtype;
    int64_t count;
    if (!dtype_of(entry->dtype, &dtype)) {
        return GA_FAIL(error, GA_ERR_FILE,
            "%s: array \"%s\" has dtype %s; F32, F16, BF16 and F64 can be read", reader->path, entry->name,
            entry->dtype);
    }
    const int64_t element_bytes = (int64_t)ga_dtype_bytes((int32_t)dtype);
    if (!count_of(entry->dims, entry->shape, &count) || count * element_bytes != entry->end - entry->begin) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: array \"%s\" has %lld bytes, which is not its shape in %s",
            reader->path, entry->name, (long long)(entry->end - entry->begin), entry->dtype);
    }
    ga_weights_array *array;
    GA_TRY(append_array(reader->weights, entry->name, entry->dims, entry->shape, count, &array, error));
    /* an array may begin at any byte: align it before it is read as numbers */
    char *aligned = malloc((size_t)(count * element_bytes) + 1);
    if (aligned == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for array %s", entry->name);
    }
    memcpy(aligned, data + entry->begin, (size_t)(count * element_bytes));
    const ga_tensor view = ga_tensor_make(aligned, dtype, 1, &count);
    const ga_status status = ga_tensor_to_float(&view, array->values, error);
    free(aligned);
    return status;
}

static ga_status parse_file(header_reader *reader, char *bytes, size_t count, ga_error *error) {
    uint64_t header_bytes = 0;
    if (count < 8) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: %zu bytes are too few for a probe file", reader->path, count);
    }
    for (size_t i = 0; i < 8; i++) {
        header_bytes |= (uint64_t)(unsigned char)bytes[i] << (8 * i);
    }
    if (header_bytes > GA_WEIGHTS_HEADER_BYTES_MAX || header_bytes > count - 8) {
        return GA_FAIL(error, GA_ERR_FILE,
            "%s: the header claims %llu bytes of a file of %zu; the file is cut off or no safetensors file",
            reader->path, (unsigned long long)header_bytes, count);
    }
    reader->json.text = bytes + 8;
    reader->json.bytes = (size_t)header_bytes;
    GA_TRY(read_header(reader, error));
    GA_TRY(check_offsets(reader, count - 8 - (size_t)header_bytes, error));
    for (int32_t i = 0; i < reader->entry_count; i++) {
        GA_TRY(load_entry(reader, &reader->entries[i], bytes + 8 + header_bytes, error));
    }
    return GA_OK;
}

/* The whole regular file; *bytes_out is the caller's. */
static ga_status read_bytes(const char *path, char **bytes_out, size_t *count_out, ga_error *error) {
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo must not make us wait */
    if (file < 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: can't be opened: %s", path, strerror(errno));
    }
    struct stat info;
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) ||
        info.st_size > (off_t)GA_WEIGHTS_FILE_BYTES_MAX) {
        close(file);
        return GA_FAIL(error, GA_ERR_FILE, "%s: not a regular file of at most %zu bytes", path,
            GA_WEIGHTS_FILE_BYTES_MAX);
    }
    const size_t count = (size_t)info.st_size;
    char *bytes = malloc(count + 1);
    if (bytes == NULL) {
        close(file);
        return GA_FAIL(error, GA_ERR_MEMORY, "%s: no memory for %zu bytes", path, count);
    }
    size_t done = 0;
    while (done < count) {
        const ssize_t got = read(file, bytes + done, count - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            close(file);
            free(bytes);
            return GA_FAIL(error, GA_ERR_FILE, "%s: only %zu of %zu bytes could be read", path, done, count);
        }
        done += (size_t)got;
    }
    close(file);
    *bytes_out = bytes;
    *count_out = count;
    return GA_OK;
}

ga_status ga_weights_read(const char *path, ga_weights **weights_out, ga_error *error) {
    char *bytes = NULL;
    size_t count = 0;
    GA_TRY(read_bytes(path, &bytes, &count, error));
    header_reader *reader = calloc(1, sizeof *reader);
    ga_status status = GA_OK;
    if (reader == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "%s: no memory for its header", path);
        goto free_bytes;
    }
    reader->path = path;
    status = ga_weights_create(&reader->weights, error);
    if (status != GA_OK) {
        goto free_reader;
    }
    status = parse_file(reader, bytes, count, error);
    if (status != GA_OK) {
        ga_weights_destroy(&reader->weights);
    } else {
        *weights_out = reader->weights;
    }
free_reader:
    free(reader);
free_bytes:
    free(bytes);
    return status;
}

/* ---- writing ---- */

/* Longest description of an array behind its name. */
#define ENTRY_BYTES 256

static size_t header_capacity(const ga_weights *weights) {
    size_t bytes = 64;
    for (int32_t i = 0; i < weights->text_count; i++) {
        bytes +=
            ga_json_quoted_bytes(weights->texts[i].key) + ga_json_quoted_bytes(weights->texts[i].value) + 2;
    }
    for (int32_t i = 0; i < weights->array_count; i++) {
        bytes += ga_json_quoted_bytes(weights->arrays[i].name) + ENTRY_BYTES;
    }
    return bytes;
}

static char *put_text(char *target, const char *text) {
    const size_t bytes = strlen(text);
    memcpy(target, text, bytes);
    return target + bytes;
}

static char *put_entry(char *target, const ga_weights_array *array, long long begin) {
    char text[ENTRY_BYTES];
    target = ga_json_quote(array->name, target);
    target = put_text(target, ":{\"dtype\":\"F32\",\"shape\":[");
    for (int32_t i = 0; i < array->dims; i++) {
        snprintf(text, sizeof text, "%s%lld", i > 0 ? "," : "", (long long)array->shape[i]);
        target = put_text(target, text);
    }
    snprintf(
        text, sizeof text, "],\"data_offsets\":[%lld,%lld]}", begin, begin + 4 * (long long)array->count);
    return put_text(target, text);
}

/* The header with its length before it, padded with spaces to 8 bytes; returns all bytes. */
static size_t make_header(const ga_weights *weights, char *header) {
    char *target = put_text(header + 8, "{\"__metadata__\":{");
    for (int32_t i = 0; i < weights->text_count; i++) {
        target = put_text(target, i > 0 ? "," : "");
        target = ga_json_quote(weights->texts[i].key, target);
        target = put_text(target, ":");
        target = ga_json_quote(weights->texts[i].value, target);
    }
    target = put_text(target, "}");
    long long begin = 0;
    for (int32_t i = 0; i < weights->array_count; i++) {
        target = put_text(target, ",");
        target = put_entry(target, &weights->arrays[i], begin);
        begin += 4 * (long long)weights->arrays[i].count;
    }
    target = put_text(target, "}");
    while ((target - header) % 8 != 0) {
        *target++ = ' ';
    }
    const uint64_t bytes = (uint64_t)(target - header) - 8;
    for (size_t i = 0; i < 8; i++) {
        header[i] = (char)(unsigned char)(bytes >> (8 * i));
    }
    return (size_t)(target - header);
}

static bool write_all(int file, const void *data, size_t bytes) {
    const char *next = data;
    while (bytes > 0) {
        const ssize_t written = write(file, next, bytes);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return false;
        }
        next += written;
        bytes -= (size_t)written;
    }
    return true;
}

static bool write_content(int file, const ga_weights *weights, const char *header, size_t header_bytes) {
    if (!write_all(file, header, header_bytes)) {
        return false;
    }
    for (int32_t i = 0; i < weights->array_count; i++) {
        if (!write_all(file, weights->arrays[i].values, (size_t)weights->arrays[i].count * sizeof(float))) {
            return false;
        }
    }
    return fsync(file) == 0;
}

/* Makes the rename itself durable. */
static bool sync_folder(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    const size_t length = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (length >= sizeof folder) {
        return false;
    }
    memcpy(folder, path, length);
    folder[length] = '\0';
    const int file = open(length == 0 ? "." : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) {
        return false;
    }
    /* some file systems know no fsync of folders */
    const bool synced = fsync(file) == 0 || errno == EINVAL || errno == ENOTSUP;
    close(file);
    return synced;
}

static ga_status publish(
    const ga_weights *weights, const char *path, const char *header, size_t header_bytes, ga_error *error) {
    char temporary[4096];
    const int length = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (length < 0 || (size_t)length >= sizeof temporary) {
        return GA_FAIL(
            error, GA_ERR_IO, "the path of the probe file is longer than %zu bytes", sizeof temporary);
    }
    const int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (file < 0) {
        return GA_FAIL(error, GA_ERR_IO, "%s: can't be created: %s", temporary, strerror(errno));
    }
    const bool written = write_content(file, weights, header, header_bytes);
    const int reason = errno;
    const bool closed = close(file) == 0;
    if (!written || !closed) {
        unlink(temporary);
        return GA_FAIL(
            error, GA_ERR_IO, "%s: can't be written: %s", temporary, strerror(written ? errno : reason));
    }
    if (rename(temporary, path) != 0) {
        const int cause = errno;
        unlink(temporary);
        return GA_FAIL(error, GA_ERR_IO, "%s: can't take its place: %s", path, strerror(cause));
    }
    if (!sync_folder(path)) {
        return GA_FAIL(
            error, GA_ERR_IO, "%s: written, but its folder can't be synced: %s", path, strerror(errno));
    }
    return GA_OK;
}

ga_status ga_weights_write(const ga_weights *weights, const char *path, ga_error *error) {
    char *header = malloc(header_capacity(weights) + 16);
    if (header == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "%s: no memory for its header", path);
    }
    const size_t header_bytes = make_header(weights, header);
    const ga_status status = publish(weights, path, header, header_bytes, error);
    free(header);
    return status;
}
