#include "grpo_accel/record/columns.h"

#include <math.h>
#include <stdlib.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"
#include "grpo_accel/record/files.h"
#include "grpo_accel/record/hdf5_file.h"

static const double WHOLE_MAX = 9007199254740992.0; /* 2^53: doubles below it tell whole numbers apart */

typedef enum number_kind { KIND_OTHER, KIND_REAL, KIND_SIGNED, KIND_UNSIGNED } number_kind;

static number_kind kind_of(hid_t dataset) {
    const hid_t type = H5Dget_type(dataset);
    number_kind kind = KIND_OTHER;
    if (type >= 0 && H5Tget_class(type) == H5T_FLOAT) {
        kind = KIND_REAL;
    } else if (type >= 0 && H5Tget_class(type) == H5T_INTEGER) {
        kind = H5Tget_sign(type) == H5T_SGN_2 ? KIND_SIGNED : KIND_UNSIGNED;
    }
    (void)(type >= 0 && H5Tclose(type) >= 0);
    return kind;
}

static bool read_reals(hid_t dataset, size_t rows, double **values_out) {
    double *values = calloc(rows + 1, sizeof *values);
    if (values != NULL && rows > 0 &&
        H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) {
        free(values);
        values = NULL;
    }
    *values_out = values;
    return values != NULL;
}

static uint64_t key_of_real(double value) {
    const bool whole = isfinite(value) && fabs(value) < WHOLE_MAX && floor(value) == value;
    return whole ? (uint64_t)(int64_t)value : ga_digest64(&value, sizeof value);
}

static bool read_keys(hid_t dataset, number_kind kind, size_t rows, uint64_t **keys_out) {
    double *reals = NULL;
    if (kind == KIND_REAL && !read_reals(dataset, rows, &reals)) {
        return false;
    }
    uint64_t *keys = calloc(rows + 1, sizeof *keys);
    bool ok = keys != NULL;
    if (ok && reals != NULL) {
        for (size_t i = 0; i < rows; i++) {
            keys[i] = key_of_real(reals[i]);
        }
    } else if (ok && rows > 0) {
        const hid_t type = kind == KIND_SIGNED ? H5T_NATIVE_INT64 : H5T_NATIVE_UINT64;
        ok = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, keys) >= 0;
    }
    free(reals);
    if (!ok) {
        free(keys);
        keys = NULL;
    }
    *keys_out = keys;
    return ok;
}

static ga_status read_column(
    hid_t file, size_t bytes, ga_record_named *column, int64_t *rows, ga_error *error) {
    if (!ga_hdf5_has(file, column->name)) {
        return GA_OK;
    }
    hid_t dataset = H5I_INVALID_HID;
    GA_TRY(ga_hdf5_open_dataset(file, column->name, bytes, &dataset, error));
    hsize_t length = 0;
    const bool flat = ga_hdf5_dimensions(dataset, &length, 1) == 1 && length <= INT32_MAX;
    const number_kind kind = kind_of(dataset);
    ga_status status = GA_OK;
    if (!flat || kind == KIND_OTHER) {
        status = GA_FAIL(error, GA_ERR_DATA, "dataset %s: not one number a row", column->name);
    } else if (*rows >= 0 && (int64_t)length != *rows) {
        status = GA_FAIL(error, GA_ERR_DATA, "dataset %s: %lld rows where another column has %lld",
            column->name, (long long)length, (long long)*rows);
    } else {
        *rows = (int64_t)length;
        const bool ok = column->is_key ? read_keys(dataset, kind, (size_t)length, &column->keys)
                                       : read_reals(dataset, (size_t)length, &column->values);
        status = ok ? GA_OK
                    : GA_FAIL(error, GA_ERR_FILE, "dataset %s: damaged, or no memory for it", column->name);
    }
    (void)H5Dclose(dataset);
    return status;
}

static ga_status read_columns(const void *image, size_t bytes, ga_record_named *columns, int32_t count,
    int64_t *rows, ga_error *error) {
    ga_hdf5_scope scope;
    char cause[160];
    ga_hdf5_enter(&scope);
    const hid_t file = ga_hdf5_open_image(image, bytes, cause, sizeof cause);
    ga_status status = file >= 0 ? GA_OK : GA_FAIL(error, GA_ERR_FILE, "not a whole HDF5 file (%s)", cause);
    for (int32_t i = 0; i < count && status == GA_OK; i++) {
        status = read_column(file, bytes, &columns[i], rows, error);
    }
    (void)(file >= 0 && H5Fclose(file) >= 0);
    ga_hdf5_leave(&scope);
    return status;
}

ga_status ga_record_read_named(
    const char *path, ga_record_named *columns, int32_t count, int64_t *rows_out, ga_error *error) {
    for (int32_t i = 0; i < count; i++) {
        columns[i].values = NULL;
        columns[i].keys = NULL;
    }
    void *image = NULL;
    size_t bytes = 0;
    GA_TRY(ga_record_file_read(path, &image, &bytes, error));
    int64_t rows = -1;
    ga_error why;
    ga_error_clear(&why);
    const ga_status status = read_columns(image, bytes, columns, count, &rows, &why);
    free(image);
    if (status != GA_OK) {
        for (int32_t i = 0; i < count; i++) {
            free(columns[i].values);
            free(columns[i].keys);
            columns[i].values = NULL;
            columns[i].keys = NULL;
        }
        return GA_FAIL(error, status, "%.200s: %.200s", path, why.message);
    }
    *rows_out = rows < 0 ? 0 : rows;
    return GA_OK;
}
