#include "grpo_accel/record/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grpo_accel/record/publish.h"

static bool is_folder(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool is_file(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static char *join(const char *folder, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Takes over `path`. */
static bool add_file(ga_record_files *files, char *path, size_t folder) {
    ga_record_file *grown = realloc(files->files, (files->count + 1) * sizeof *grown);
    if (grown == NULL) {
        free(path);
        return false;
    }
    files->files = grown;
    const char *name = last_part(path);
    grown[files->count++] = (ga_record_file){path, name, folder, ga_segment_sequence(name)};
    return true;
}

/* Takes over `path`. */
static bool add_folder(ga_record_files *files, char *path) {
    char **grown = realloc(files->folders, (files->folder_count + 1) * sizeof *grown);
    if (grown == NULL) {
        free(path);
        return false;
    }
    files->folders = grown;
    grown[files->folder_count++] = path;
    return true;
}

static bool ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), end_length = strlen(end);
    return length > end_length && strcmp(text + length - end_length, end) == 0;
}

/* Every *.h5 of a folder. */
static ga_status list_folder(ga_record_files *files, size_t folder, ga_error *error) {
    const char *path = files->folders[folder];
    DIR *listing = opendir(path);
    if (listing == NULL) {
        return GA_FAIL(error, GA_ERR_FILE, "folder %s can't be listed: %s", path, strerrordesc_np(errno));
    }
    bool memory = true;
    for (const struct dirent *entry = readdir(listing); memory && entry != NULL; entry = readdir(listing)) {
        if (entry->d_name[0] == '.' || !ends_with(entry->d_name, ".h5")) {
            continue;
        }
        char *file = join(path, entry->d_name);
        if (file != NULL && !is_file(file)) {
            free(file);
            continue;
        }
        memory = file != NULL && add_file(files, file, folder);
    }
    (void)closedir(listing);
    return memory ? GA_OK : GA_FAIL(error, GA_ERR_MEMORY, "no memory for the files of %s", path);
}

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* rank-* below a record folder, and the folder itself for files that stand in it. */
static ga_status find_folders(ga_record_files *files, const char *path, ga_error *error) {
    DIR *listing = opendir(path);
    if (listing == NULL) {
        return GA_FAIL(error, GA_ERR_FILE, "folder %s can't be listed: %s", path, strerrordesc_np(errno));
    }
    char *own = strdup(path);
    bool memory = own != NULL && add_folder(files, own);
    for (const struct dirent *entry = readdir(listing); memory && entry != NULL; entry = readdir(listing)) {
        if (strncmp(entry->d_name, "rank-", 5) != 0) {
            continue;
        }
        char *folder = join(path, entry->d_name);
        if (folder != NULL && !is_folder(folder)) {
            free(folder);
            continue;
        }
        memory = folder != NULL && add_folder(files, folder);
    }
    (void)closedir(listing);
    if (!memory) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the folders of %s", path);
    }
    qsort(files->folders, files->folder_count, sizeof *files->folders, compare_texts);
    return GA_OK;
}

static int compare_files(const void *a, const void *b) {
    const ga_record_file *left = a, *right = b;
    if (left->folder != right->folder) {
        return left->folder < right->folder ? -1 : 1;
    }
    if (left->sequence != right->sequence) {
        return left->sequence < right->sequence ? -1 : 1;
    }
    return strcmp(left->name, right->name);
}

static ga_status list_tree(ga_record_files *files, const char *path, ga_error *error) {
    char *record = join(path, "record");
    if (record == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a path");
    }
    ga_status status = find_folders(files, is_folder(record) ? record : path, error);
    free(record);
    for (size_t i = 0; i < files->folder_count && status == GA_OK; i++) {
        status = list_folder(files, i, error);
    }
    if (status == GA_OK && files->count > 1) {
        qsort(files->files, files->count, sizeof *files->files, compare_files);
    }
    return status;
}

/* One file: its folder is known, so that its manifest is found. */
static ga_status list_file(ga_record_files *files, const char *path, ga_error *error) {
    const size_t folder_bytes = (size_t)(last_part(path) - path);
    char *folder = folder_bytes > 1 ? strndup(path, folder_bytes - 1) : strdup(folder_bytes == 1 ? "/" : ".");
    char *copy = strdup(path);
    if (folder == NULL || copy == NULL) {
        free(folder);
        free(copy);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a path");
    }
    if (!add_folder(files, folder)) {
        free(copy);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a path");
    }
    return add_file(files, copy, 0) ? GA_OK : GA_FAIL(error, GA_ERR_MEMORY, "no memory for a path");
}

ga_status ga_record_files_list(const char *path, ga_record_files *files_out, ga_error *error) {
    struct stat info;
    if (stat(path, &info) != 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: %s", path, strerrordesc_np(errno));
    }
    ga_record_files files = {0};
    const ga_status status =
        S_ISDIR(info.st_mode) ? list_tree(&files, path, error) : list_file(&files, path, error);
    if (status != GA_OK) {
        ga_record_files_free(&files);
        return status;
    }
    *files_out = files;
    return GA_OK;
}

void ga_record_files_free(ga_record_files *files) {
    for (size_t i = 0; i < files->count; i++) {
        free(files->files[i].path);
    }
    for (size_t i = 0; i < files->folder_count; i++) {
        free(files->folders[i]);
    }
    free(files->files);
    free(files->folders);
    *files = (ga_record_files){0};
}

/* Fills bytes; returns 0, an errno, or EIO where the file became shorter. */
static int read_all(int fd, char *bytes, size_t size) {
    while (size > 0) {
        const ssize_t count = read(fd, bytes, size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return count < 0 ? errno : EIO;
        }
        bytes += count;
        size -= (size_t)count;
    }
    return 0;
}

static ga_status read_open_file(
    int fd, const char *path, void **bytes_out, size_t *size_out, ga_error *error) {
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: not a regular file", path);
    }
    if (info.st_size > GA_RECORD_FILE_BYTES_MAX) {
        return GA_FAIL(
            error, GA_ERR_FILE, "%s: larger than 4 GiB; keep the segments instead of one file", path);
    }
    const size_t size = (size_t)info.st_size;
    char *bytes = malloc(size + 1);
    if (bytes == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "%s: no memory for %zu bytes", path, size);
    }
    const int number = read_all(fd, bytes, size);
    if (number != 0) {
        free(bytes);
        return GA_FAIL(error, GA_ERR_FILE, "%s: %s", path, strerrordesc_np(number));
    }
    *bytes_out = bytes;
    *size_out = size;
    return GA_OK;
}

ga_status ga_record_file_read(const char *path, void **bytes_out, size_t *size_out, ga_error *error) {
    /* O_NONBLOCK: a pipe put in a file's place must not hang the reader */
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: %s", path, strerrordesc_np(errno));
    }
    const ga_status status = read_open_file(fd, path, bytes_out, size_out, error);
    (void)close(fd);
    return status;
}
