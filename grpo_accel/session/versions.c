#include "grpo_accel/session/versions.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grpo_accel/base/clock.h"

enum { PATH_BYTES = 4096, LINE_BYTES = 1536 };

/* "<run>/probes/name"; false where it does not fit. */
static bool path_of(const char *run, const char *name, char path[PATH_BYTES]) {
    const int length = snprintf(path, PATH_BYTES, "%s/probes%s%s", run, name[0] != '\0' ? "/" : "", name);
    return length > 0 && length < PATH_BYTES;
}

bool ga_versions_path(const char *run, uint32_t version, char *path, size_t bytes) {
    const int length = snprintf(path, bytes, "%s/probes/probe-%06u.safetensors", run, (unsigned)version);
    return length > 0 && (size_t)length < bytes && version <= GA_VERSION_MAX;
}

ga_status ga_versions_make_folder(const char *run, ga_error *error) {
    char path[PATH_BYTES];
    if (!path_of(run, "", path) || (mkdir(path, 0750) != 0 && errno != EEXIST)) {
        return GA_FAIL(error, GA_ERR_IO, "%.300s/probes can't be made: %s", run, strerror(errno));
    }
    return GA_OK;
}

/* ---- which there are ---- */

/* The number in "probe-000002.safetensors"; 0: another file. */
static uint32_t version_of(const char *name) {
    unsigned version = 0;
    int end = 0;
    const bool fits = sscanf(name, "probe-%6u.safetensors%n", &version, &end) == 1 && end > 0;
    return fits && name[end] == '\0' && strlen(name) == strlen("probe-000000.safetensors") ? version : 0;
}

static int rising(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* Grows by doubling; false when memory is out. */
static bool append(uint32_t **list, size_t *count, uint32_t version) {
    if ((*count & (*count - 1)) == 0) {
        uint32_t *grown = realloc(*list, (*count > 0 ? 2 * *count : 1) * sizeof **list);
        if (grown == NULL) {
            return false;
        }
        *list = grown;
    }
    (*list)[(*count)++] = version;
    return true;
}

/* Like ga_versions_list, but a run without the folder has none. */
static ga_status read_folder(const char *run, uint32_t **versions_out, size_t *count_out, ga_error *error) {
    char path[PATH_BYTES];
    uint32_t *list = NULL;
    size_t count = 0;
    DIR *entries = path_of(run, "", path) ? opendir(path) : NULL;
    bool memory = true;
    for (struct dirent *entry = entries != NULL ? readdir(entries) : NULL; entry != NULL && memory;
         entry = readdir(entries)) {
        const uint32_t version = version_of(entry->d_name);
        memory = version == 0 || append(&list, &count, version);
    }
    if (entries != NULL) {
        (void)closedir(entries);
    }
    if (!memory) {
        free(list);
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to list the probes of %.300s", run);
    }
    if (count > 0) {
        qsort(list, count, sizeof *list, rising);
    }
    *versions_out = list;
    *count_out = count;
    return GA_OK;
}

ga_status ga_versions_list(const char *run, uint32_t **versions_out, size_t *count_out, ga_error *error) {
    struct stat info;
    if (stat(run, &info) != 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%.300s: %s", run, strerror(errno));
    }
    if (!S_ISDIR(info.st_mode)) {
        return GA_FAIL(error, GA_ERR_FILE, "%.300s is no run folder", run);
    }
    return read_folder(run, versions_out, count_out, error);
}

static bool is_there(const char *run, uint32_t version) {
    char path[PATH_BYTES];
    struct stat info;
    return version > 0 && ga_versions_path(run, version, path, sizeof path) && stat(path, &info) == 0 &&
           S_ISREG(info.st_mode);
}

static uint32_t newest_of(const char *run) {
    uint32_t *list = NULL;
    size_t count = 0;
    if (read_folder(run, &list, &count, NULL) != GA_OK) {
        return 0;
    }
    const uint32_t newest = count > 0 ? list[count - 1] : 0;
    free(list);
    return newest;
}

/* ---- which is in use ---- */

/* The beginning of a file as text; false if there is none. */
static bool read_small(const char *path, char *text, size_t bytes) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return false;
    }
    const ssize_t length = read(file, text, bytes - 1);
    (void)close(file);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

uint32_t ga_versions_current(const char *run) {
    char path[PATH_BYTES], text[32];
    if (path_of(run, "current", path) && read_small(path, text, sizeof text)) {
        char *end = NULL;
        const unsigned long version = strtoul(text, &end, 10);
        if (end != text && *end == '\n' && version <= GA_VERSION_MAX && is_there(run, (uint32_t)version)) {
            return (uint32_t)version;
        }
    }
    return newest_of(run);
}

/* All bytes on disk; 0 or an errno. Closes the file. */
static int write_and_close(int file, const char *text, size_t bytes) {
    int number = 0;
    while (bytes > 0 && number == 0) {
        const ssize_t written = write(file, text, bytes);
        if (written > 0) {
            text += written;
            bytes -= (size_t)written;
        } else if (written == 0 || errno != EINTR) {
            number = written == 0 ? ENOSPC : errno;
        }
    }
    number = number == 0 && fsync(file) != 0 ? errno : number;
    return close(file) != 0 && number == 0 ? errno : number;
}

/* The folder's new name on disk; file systems without it are as good as they are. */
static void sync_folder(const char *run) {
    char path[PATH_BYTES];
    const int folder = path_of(run, "", path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (folder >= 0) {
        (void)fsync(folder);
        (void)close(folder);
    }
}

ga_status ga_versions_use(const char *run, uint32_t version, ga_error *error) {
    char path[PATH_BYTES], temporary[PATH_BYTES], text[32], name[64];
    if (!is_there(run, version)) {
        return GA_FAIL(error, GA_ERR_FILE, "%.300s/probes has no version %u", run, (unsigned)version);
    }
    (void)snprintf(name, sizeof name, "current.%ld.tmp", (long)getpid());
    const int length = snprintf(text, sizeof text, "%u\n", (unsigned)version);
    if (!path_of(run, "current", path) || !path_of(run, name, temporary)) {
        return GA_FAIL(error, GA_ERR_IO, "the path of %.300s is too long", run);
    }
    const int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
    int number = file < 0 ? errno : write_and_close(file, text, (size_t)length);
    number = number == 0 && rename(temporary, path) != 0 ? errno : number;
    if (number != 0) {
        (void)unlink(temporary);
        return GA_FAIL(error, GA_ERR_IO, "%.300s/probes/current can't be written: %s", run, strerror(number));
    }
    sync_folder(run);
    return GA_OK;
}

/* ---- the journal ---- */

/* Adds one line with one write; a torn last line stays on its own. */
static ga_status add_line(const char *run, const char *line, ga_error *error) {
    char path[PATH_BYTES], text[LINE_BYTES + 2];
    struct stat info;
    char last = '\n';
    int number = ENAMETOOLONG;
    const int file =
        path_of(run, "journal.jsonl", path) ? open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640) : -1;
    if (file >= 0) {
        if (fstat(file, &info) == 0 && info.st_size > 0) {
            (void)(pread(file, &last, 1, info.st_size - 1) == 1);
        }
        const int length = snprintf(text, sizeof text, "%s%s\n", last == '\n' ? "" : "\n", line);
        number = write_and_close(file, text, (size_t)length);
    } else {
        number = errno;
    }
    return number == 0 ? GA_OK
                       : GA_FAIL(error, GA_ERR_IO, "%.300s/probes/journal.jsonl can't be written: %s", run,
                             strerror(number));
}

/* JSON has no NaN. */
static const char *as_number(double value, char text[32]) {
    if (!isfinite(value)) {
        return "null";
    }
    (void)snprintf(text, 32, "%.9g", value);
    return text;
}

ga_status ga_versions_note_training(
    const char *run, uint32_t version, uint32_t update, const ga_promotion *promotion, ga_error *error) {
    char line[LINE_BYTES], utc[24], number[5][32];
    ga_clock_utc(utc, sizeof utc);
    const ga_within *difference = &promotion->difference;
    /* the reason is ours: nothing in it needs escaping */
    const int length = snprintf(line, sizeof line,
        "{\"version\": %u, \"update\": %u, \"utc\": \"%s\", \"promoted\": %s, \"candidate\": %s, "
        "\"current\": %s, \"difference\": {\"value\": %s, \"ci95\": [%s, %s]}, \"n_groups\": %lld, "
        "\"audited_only\": %s, \"reason\": \"%s\"}",
        (unsigned)version, (unsigned)update, utc, promotion->promote ? "true" : "false",
        as_number(promotion->candidate, number[0]), as_number(promotion->current, number[1]),
        as_number(difference->value, number[2]), as_number(difference->low, number[3]),
        as_number(difference->high, number[4]), (long long)promotion->groups,
        promotion->audited_only ? "true" : "false", promotion->reason);
    return length > 0 && length < LINE_BYTES
               ? add_line(run, line, error)
               : GA_FAIL(error, GA_ERR_IO, "a line of the probes' journal is too long");
}

ga_status ga_versions_note_rollback(const char *run, uint32_t from, uint32_t to, ga_error *error) {
    char line[LINE_BYTES], utc[24];
    ga_clock_utc(utc, sizeof utc);
    (void)snprintf(line, sizeof line, "{\"rollback\": {\"from\": %u, \"to\": %u}, \"utc\": \"%s\"}",
        (unsigned)from, (unsigned)to, utc);
    return add_line(run, line, error);
}

/* Highest version of a training in the journal. */
static uint32_t newest_noted(const char *run) {
    char path[PATH_BYTES], line[LINE_BYTES + 2];
    FILE *file = path_of(run, "journal.jsonl", path) ? fopen(path, "re") : NULL;
    uint32_t newest = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        unsigned version = 0;
        if (sscanf(line, "{\"version\": %6u,", &version) == 1 && version > newest) {
            newest = version;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return newest;
}

uint32_t ga_versions_next(const char *run, uint32_t above) {
    const uint32_t newest = newest_of(run), noted = newest_noted(run);
    const uint32_t highest = newest > noted ? newest : noted;
    return (highest > above ? highest : above) + 1;
}
