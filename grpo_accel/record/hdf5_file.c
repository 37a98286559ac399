#include "grpo_accel/record/hdf5_file.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* deflate can't shrink more than about 1030 times; what claims more is a bomb */
#define DEFLATE_RATIO_MAX 1032u
/* half of the chunks in a node of a dataset's index: we have few, and each dataset has a node */
#define CHUNK_INDEX_RANK 4u
#define IMAGE_GROWTH_BYTES ((size_t)1 << 20)

/* Not every build of HDF5 is thread-safe, and those that are have one lock of their own anyway. */
static pthread_mutex_t hdf5_lock = PTHREAD_MUTEX_INITIALIZER;

void ga_hdf5_enter(ga_hdf5_scope *scope) {
    (void)pthread_mutex_lock(&hdf5_lock);
    *scope = (ga_hdf5_scope){NULL, NULL, H5PL_ALL_PLUGIN};
    (void)H5Eget_auto2(H5E_DEFAULT, &scope->handler, &scope->handler_data);
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    (void)H5PLget_loading_state(&scope->plugins);
    (void)H5PLset_loading_state(0);
}

void ga_hdf5_leave(const ga_hdf5_scope *scope) {
    (void)H5PLset_loading_state(scope->plugins);
    (void)H5Eset_auto2(H5E_DEFAULT, scope->handler, scope->handler_data);
    (void)pthread_mutex_unlock(&hdf5_lock);
}

typedef struct cause_text {
    char *text;
    size_t bytes;
} cause_text;

/* upward: the first call is the innermost, which knows most */
static herr_t keep_first(unsigned position, const H5E_error2_t *entry, void *user) {
    const cause_text *cause = user;
    if (position == 0 && entry->desc != NULL) {
        (void)snprintf(cause->text, cause->bytes, "%s", entry->desc);
    }
    return 0;
}

const char *ga_hdf5_cause(char *text, size_t bytes) {
    cause_text cause = {text, bytes};
    (void)snprintf(text, bytes, "no reason given");
    (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &cause);
    return text;
}

hid_t ga_hdf5_half_type(void) {
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type < 0) {
        return type;
    }
    if (H5Tset_fields(type, 15, 10, 5, 0, 10) < 0 || H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, 15) < 0) {
        (void)H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

hid_t ga_hdf5_memory_type(ga_column_type type) {
    switch (type) {
    case GA_COLUMN_U8: return H5T_NATIVE_UINT8;
    case GA_COLUMN_U16: return H5T_NATIVE_UINT16;
    case GA_COLUMN_U32: return H5T_NATIVE_UINT32;
    case GA_COLUMN_U64: return H5T_NATIVE_UINT64;
    case GA_COLUMN_I32: return H5T_NATIVE_INT32;
    case GA_COLUMN_F32: return H5T_NATIVE_FLOAT;
    case GA_COLUMN_F64: return H5T_NATIVE_DOUBLE;
    }
    return H5I_INVALID_HID;
}

hid_t ga_hdf5_file_type(ga_column_type type) {
    switch (type) {
    case GA_COLUMN_U8: return H5T_STD_U8LE;
    case GA_COLUMN_U16: return H5T_STD_U16LE;
    case GA_COLUMN_U32: return H5T_STD_U32LE;
    case GA_COLUMN_U64: return H5T_STD_U64LE;
    case GA_COLUMN_I32: return H5T_STD_I32LE;
    case GA_COLUMN_F32: return H5T_IEEE_F32LE;
    case GA_COLUMN_F64: return H5T_IEEE_F64LE;
    }
    return H5I_INVALID_HID;
}

/* A file that lives in memory only: backing store off. */
static hid_t memory_access(void) {
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    /* strong: closing the file closes whatever a damaged one left open */
    if (access >= 0 && (H5Pset_fapl_core(access, IMAGE_GROWTH_BYTES, 0) < 0 ||
                           H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0)) {
        (void)H5Pclose(access);
        return H5I_INVALID_HID;
    }
    return access;
}

hid_t ga_hdf5_create_image(void) {
    const hid_t access = memory_access();
    const hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    hid_t file = H5I_INVALID_HID;
    /* the oldest format that has checksums on metadata: readers back to 1.8 open it */
    if (access >= 0 && creation >= 0 && H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
        H5Pset_istore_k(creation, CHUNK_INDEX_RANK) >= 0) {
        file = H5Fcreate("segment", H5F_ACC_TRUNC, creation, access);
    }
    (void)(creation >= 0 && H5Pclose(creation) >= 0);
    (void)(access >= 0 && H5Pclose(access) >= 0);
    return file;
}

hid_t ga_hdf5_open_image(const void *image, size_t bytes, char *cause, size_t cause_bytes) {
    const hid_t access = memory_access();
    if (access < 0) {
        return access;
    }
    hid_t file = H5I_INVALID_HID;
    /* HDF5 takes its own copy; the union only follows a signature that forgot const */
    union {
        const void *constant;
        void *plain;
    } view = {.constant = image};
    if (H5Pset_file_image(access, view.plain, bytes) >= 0) {
        file = H5Fopen("segment", H5F_ACC_RDONLY, access);
    }
    if (file < 0) { /* before the next call wipes it */
        (void)ga_hdf5_cause(cause, cause_bytes);
    }
    (void)H5Pclose(access);
    return file;
}

bool ga_hdf5_has(hid_t file, const char *path) {
    char part[GA_RECORD_NAME_BYTES * 2];
    const size_t length = strlen(path);
    if (length == 0 || length >= sizeof part) {
        return false;
    }
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != 0) {
            continue;
        }
        memcpy(part, path, i);
        part[i] = 0;
        H5L_info_t info;
        if (H5Lget_info(file, part, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD) {
            return false;
        }
    }
    return true;
}

/* Filters that come with every HDF5; *deflate_out tells whether the size may exceed the file's. */
static bool filters_are_known(hid_t creation, bool *deflate_out) {
    const int count = H5Pget_nfilters(creation);
    *deflate_out = false;
    for (int i = 0; i < count; i++) {
        unsigned flags = 0;
        size_t values = 0;
        const H5Z_filter_t filter =
            H5Pget_filter2(creation, (unsigned)i, &flags, &values, NULL, 0, NULL, NULL);
        if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32) {
            return false;
        }
        *deflate_out = *deflate_out || filter == H5Z_FILTER_DEFLATE;
    }
    return count >= 0;
}

static bool storage_is_inside(hid_t creation) {
    const H5D_layout_t layout = H5Pget_layout(creation);
    if (layout != H5D_COMPACT && layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED) {
        return false;
    }
    return H5Pget_external_count(creation) == 0;
}

/* Numbers and text of fixed width: other types make HDF5 follow references when it reads. */
static bool type_is_plain(hid_t dataset) {
    const hid_t type = H5Dget_type(dataset);
    if (type < 0) {
        return false;
    }
    const H5T_class_t kind = H5Tget_class(type);
    const bool plain =
        kind == H5T_INTEGER || kind == H5T_FLOAT || (kind == H5T_STRING && H5Tis_variable_str(type) == 0);
    (void)H5Tclose(type);
    return plain;
}

/* Are so many values of the stored type possible in a file of this size? */
static bool size_is_possible(hid_t dataset, size_t file_bytes, bool deflate) {
    hsize_t dimensions[H5S_MAX_RANK];
    const int rank = ga_hdf5_dimensions(dataset, dimensions, H5S_MAX_RANK);
    const hid_t type = H5Dget_type(dataset);
    if (rank < 0 || type < 0) {
        return false;
    }
    size_t bytes = H5Tget_size(type);
    (void)H5Tclose(type);
    for (int i = 0; i < rank; i++) {
        if (__builtin_mul_overflow(bytes, (size_t)dimensions[i], &bytes)) {
            return false;
        }
    }
    return bytes / (deflate ? DEFLATE_RATIO_MAX : 1u) <= file_bytes;
}

static ga_status check_dataset(hid_t dataset, const char *path, size_t file_bytes, ga_error *error) {
    const hid_t creation = H5Dget_create_plist(dataset);
    if (creation < 0) {
        return GA_FAIL(error, GA_ERR_FILE, "dataset %s: its description can't be read", path);
    }
    bool deflate = false;
    const bool inside = storage_is_inside(creation);
    const bool known = filters_are_known(creation, &deflate);
    (void)H5Pclose(creation);
    if (!inside) {
        return GA_FAIL(error, GA_ERR_FILE,
            "dataset %s: refused, its values are outside the file (external or virtual storage)", path);
    }
    if (!known) {
        return GA_FAIL(error, GA_ERR_FILE,
            "dataset %s: refused, it uses a filter other than deflate, shuffle and fletcher32", path);
    }
    if (!type_is_plain(dataset)) {
        return GA_FAIL(
            error, GA_ERR_FILE, "dataset %s: refused, neither numbers nor text of fixed width", path);
    }
    if (!size_is_possible(dataset, file_bytes, deflate)) {
        return GA_FAIL(error, GA_ERR_FILE,
            "dataset %s: refused, its size is not possible for a file of %zu bytes", path, file_bytes);
    }
    return GA_OK;
}

ga_status ga_hdf5_open_dataset(
    hid_t file, const char *path, size_t file_bytes, hid_t *dataset_out, ga_error *error) {
    if (!ga_hdf5_has(file, path)) {
        return GA_FAIL(error, GA_ERR_FILE,
            "dataset %s: not there, or refused because it is a soft or "
            "external link",
            path);
    }
    const hid_t dataset = H5Dopen2(file, path, H5P_DEFAULT);
    if (dataset < 0) {
        char cause[160];
        return GA_FAIL(
            error, GA_ERR_FILE, "dataset %s: can't be opened (%s)", path, ga_hdf5_cause(cause, sizeof cause));
    }
    const ga_status status = check_dataset(dataset, path, file_bytes, error);
    if (status != GA_OK) {
        (void)H5Dclose(dataset);
        return status;
    }
    *dataset_out = dataset;
    return GA_OK;
}

int ga_hdf5_dimensions(hid_t dataset, hsize_t *dimensions, int capacity) {
    const hid_t space = H5Dget_space(dataset);
    if (space < 0) {
        return -1;
    }
    const int rank = H5Sget_simple_extent_ndims(space);
    const bool fits = rank >= 0 && rank <= capacity;
    if (fits) {
        (void)H5Sget_simple_extent_dims(space, dimensions, NULL);
    }
    (void)H5Sclose(space);
    return fits ? rank : -1;
}
