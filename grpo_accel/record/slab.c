#include "grpo_accel/record/slab.h"

#include "grpo_accel/record/hdf5_file.h"

#define DIMENSIONS_MAX 5

/* Read-only, without locks: nobody changes a published segment. */
static hid_t open_file(const char *path) {
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    hid_t file = H5I_INVALID_HID;
    if (access >= 0 && H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0) {
#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
        (void)H5Pset_file_locking(access, 0, 1);
#endif
        file = H5Fopen(path, H5F_ACC_RDONLY, access);
    }
    (void)(access >= 0 && H5Pclose(access) >= 0);
    return file;
}

/* The part of the file's dataset that the slab wants; false where it isn't there. */
static bool select_part(hid_t dataset, hid_t space, const ga_slab *slab, hsize_t *total_out) {
    hsize_t size[DIMENSIONS_MAX], start[DIMENSIONS_MAX] = {0};
    const int dimensions = ga_hdf5_dimensions(dataset, size, DIMENSIONS_MAX);
    if (dimensions < 1 || slab->first < 0 || slab->count < 1 ||
        (hsize_t)slab->first + (hsize_t)slab->count > size[0]) {
        return false;
    }
    start[0] = (hsize_t)slab->first;
    size[0] = (hsize_t)slab->count;
    if (slab->candidate >= 0) {
        if (dimensions < 2 || (hsize_t)slab->candidate >= size[1]) {
            return false;
        }
        start[1] = (hsize_t)slab->candidate;
        size[1] = 1;
    }
    hsize_t values = 1;
    for (int i = 1; i < dimensions; i++) {
        values *= size[i];
    }
    *total_out = values * size[0];
    return values == slab->row_values &&
           H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, size, NULL) >= 0;
}

static bool read_selected(hid_t dataset, hid_t space, hsize_t total, const ga_slab *slab) {
    const hid_t memory = H5Screate_simple(1, &total, NULL);
    const hid_t half = ga_hdf5_half_type();
    const hid_t types[] = {[GA_SLAB_HALF] = half,
        [GA_SLAB_U8] = H5T_NATIVE_UINT8,
        [GA_SLAB_U64] = H5T_NATIVE_UINT64,
        [GA_SLAB_F32] = H5T_NATIVE_FLOAT};
    const bool ok =
        memory >= 0 && half >= 0 &&
        (total == 0 || H5Dread(dataset, types[slab->type], memory, space, H5P_DEFAULT, slab->values) >= 0);
    (void)(half >= 0 && H5Tclose(half) >= 0);
    (void)(memory >= 0 && H5Sclose(memory) >= 0);
    return ok;
}

static ga_status read_slab(hid_t file, size_t file_bytes, const ga_slab *slab, ga_error *error) {
    hid_t dataset = H5I_INVALID_HID;
    GA_TRY(ga_hdf5_open_dataset(file, slab->dataset, file_bytes, &dataset, error));
    const hid_t space = H5Dget_space(dataset);
    hsize_t total = 0;
    ga_status status = GA_OK;
    if (space < 0 || !select_part(dataset, space, slab, &total)) {
        status = GA_FAIL(error, GA_ERR_FILE, "dataset %s: its shape is not what it was", slab->dataset);
    } else if (!read_selected(dataset, space, total, slab)) {
        char cause[160];
        status = GA_FAIL(error, GA_ERR_FILE, "dataset %s: damaged (%s)", slab->dataset,
            ga_hdf5_cause(cause, sizeof cause));
    }
    (void)(space >= 0 && H5Sclose(space) >= 0);
    (void)H5Dclose(dataset);
    return status;
}

/* What is done with an open file. */
typedef ga_status (*file_job)(hid_t file, size_t file_bytes, void *user, ga_error *error);

static ga_status with_file(const char *path, file_job job, void *user, ga_error *error) {
    ga_error inner;
    ga_error_clear(&inner);
    ga_hdf5_scope scope;
    ga_hdf5_enter(&scope);
    const hid_t file = open_file(path);
    hsize_t bytes = 0;
    ga_status status = GA_OK;
    if (file < 0 || H5Fget_filesize(file, &bytes) < 0) {
        char cause[160];
        status = GA_FAIL(&inner, GA_ERR_FILE, "can't be opened (%s)", ga_hdf5_cause(cause, sizeof cause));
    } else {
        status = job(file, (size_t)bytes, user, &inner);
    }
    (void)(file >= 0 && H5Fclose(file) >= 0);
    ga_hdf5_leave(&scope);
    return status == GA_OK ? GA_OK : GA_FAIL(error, status, "%.300s: %.180s", path, inner.message);
}

typedef struct slab_list {
    const ga_slab *slabs;
    int32_t count;
} slab_list;

static ga_status read_slabs(hid_t file, size_t file_bytes, void *user, ga_error *error) {
    const slab_list *list = user;
    for (int32_t i = 0; i < list->count; i++) {
        GA_TRY(read_slab(file, file_bytes, &list->slabs[i], error));
    }
    return GA_OK;
}

ga_status ga_segment_read_slabs(const char *path, const ga_slab *slabs, int32_t slab_count, ga_error *error) {
    slab_list list = {.slabs = slabs, .count = slab_count};
    return with_file(path, read_slabs, &list, error);
}

typedef struct row_count {
    const char *dataset;
    int64_t rows;
} row_count;

static ga_status count_rows(hid_t file, size_t file_bytes, void *user, ga_error *error) {
    row_count *count = user;
    hid_t dataset = H5I_INVALID_HID;
    hsize_t size[DIMENSIONS_MAX];
    GA_TRY(ga_hdf5_open_dataset(file, count->dataset, file_bytes, &dataset, error));
    const int dimensions = ga_hdf5_dimensions(dataset, size, DIMENSIONS_MAX);
    (void)H5Dclose(dataset);
    if (dimensions < 1 || size[0] > INT32_MAX) {
        return GA_FAIL(error, GA_ERR_FILE, "dataset %s: not a column", count->dataset);
    }
    count->rows = (int64_t)size[0];
    return GA_OK;
}

ga_status ga_segment_count_rows(const char *path, const char *dataset, int64_t *rows_out, ga_error *error) {
    row_count count = {.dataset = dataset};
    GA_TRY(with_file(path, count_rows, &count, error));
    *rows_out = count.rows;
    return GA_OK;
}
