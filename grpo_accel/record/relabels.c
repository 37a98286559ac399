#include "grpo_accel/record/relabels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/record/files.h"
#include "grpo_accel/record/slab.h"

#define PATH_BYTES 4096

/* "RUN/relabels" of a run folder or of its record folder. */
static ga_status find_folder(const char *path, char folder[PATH_BYTES], ga_error *error) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    static const char record[] = "record";
    const size_t name = sizeof record - 1;
    if (length >= name && strncmp(path + length - name, record, name) == 0 &&
        (length == name || path[length - name - 1] == '/')) {
        length -= name;
    }
    const char *slash = length > 0 && path[length - 1] != '/' ? "/" : "";
    const int written = snprintf(folder, PATH_BYTES, "%.*s%srelabels", (int)length, path, slash);
    return written > 0 && written < PATH_BYTES
               ? GA_OK
               : GA_FAIL(error, GA_ERR_FILE, "%.200s: the path is too long", path);
}

static ga_status grow(ga_relabels *all, int64_t rows, ga_error *error) {
    const size_t count = ga_size(all->count + rows) + 1;
    uint64_t *row_id = realloc(all->row_id, count * sizeof *row_id);
    all->row_id = row_id != NULL ? row_id : all->row_id;
    uint64_t *donor = realloc(all->donor_row_id, count * sizeof *donor);
    all->donor_row_id = donor != NULL ? donor : all->donor_row_id;
    uint8_t(*hash)[16] = realloc(all->prompt_hash, count * sizeof *hash);
    all->prompt_hash = hash != NULL ? hash : all->prompt_hash;
    float *reward = realloc(all->reward, count * sizeof *reward);
    all->reward = reward != NULL ? reward : all->reward;
    return row_id != NULL && donor != NULL && hash != NULL && reward != NULL
               ? GA_OK
               : GA_FAIL(error, GA_ERR_MEMORY, "no memory for %zu labels", count);
}

/* Adds a file's labels; nothing where it is damaged. */
static ga_status add_file(ga_relabels *all, const char *path, ga_error *error) {
    int64_t rows = 0;
    GA_TRY(ga_segment_count_rows(path, "row_id", &rows, error));
    GA_TRY(grow(all, rows, error));
    if (rows == 0) {
        return GA_OK;
    }
    const ga_slab slabs[] = {{"row_id", GA_SLAB_U64, 0, rows, -1, 1, all->row_id + all->count},
        {"donor_row_id", GA_SLAB_U64, 0, rows, -1, 1, all->donor_row_id + all->count},
        {"prompt_hash", GA_SLAB_U8, 0, rows, -1, 16, all->prompt_hash + all->count},
        {"reward", GA_SLAB_F32, 0, rows, -1, 1, all->reward + all->count}};
    GA_TRY(ga_segment_read_slabs(path, slabs, sizeof slabs / sizeof slabs[0], error));
    all->count += rows;
    return GA_OK;
}

static ga_status add_files(ga_relabels *all, const ga_record_files *files, ga_error *error) {
    for (size_t i = 0; i < files->count; i++) {
        ga_error inner;
        ga_error_clear(&inner);
        const ga_status status = add_file(all, files->files[i].path, &inner);
        if (status == GA_ERR_FILE) {
            all->refused_count++;
            all->refused = all->refused_count == 1 ? inner : all->refused;
        } else if (status != GA_OK) {
            return GA_FAIL(error, status, "%s", inner.message);
        }
    }
    return all->count > 0 || all->refused_count == 0
               ? GA_OK
               : GA_FAIL(error, GA_ERR_FILE, "no labels are readable; the first: %s", all->refused.message);
}

ga_status ga_relabels_read(const char *path, ga_relabels *relabels_out, ga_error *error) {
    char folder[PATH_BYTES];
    ga_record_files files;
    GA_TRY(find_folder(path, folder, error));
    if (ga_record_files_list(folder, &files, NULL) != GA_OK) {
        return GA_FAIL(error, GA_ERR_FILE,
            "%.300s: no labels under other prompts; make them with grpo-accel relabel", folder);
    }
    ga_relabels all;
    memset(&all, 0, sizeof all);
    const ga_status status = add_files(&all, &files, error);
    ga_record_files_free(&files);
    if (status != GA_OK) {
        ga_relabels_free(&all);
        return status;
    }
    *relabels_out = all;
    return GA_OK;
}

void ga_relabels_free(ga_relabels *relabels) {
    free(relabels->row_id);
    free(relabels->donor_row_id);
    free(relabels->prompt_hash);
    free(relabels->reward);
    memset(relabels, 0, sizeof *relabels);
}
