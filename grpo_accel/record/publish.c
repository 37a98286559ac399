#include "grpo_accel/record/publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER_BYTES 4096
#define RENAME_ATTEMPTS 1000
#define SEQUENCE_MAX INT64_C(999999999)

struct ga_publisher {
    int folder_fd;
    int64_t next;
    char folder[FOLDER_BYTES];
};

/* The words of an errno; thread-safe, unlike strerror. */
static const char *words(int number) {
    const char *text = strerrordesc_np(number);
    return text != NULL ? text : "unknown error";
}

void ga_segment_name(int64_t sequence, char name_out[GA_SEGMENT_NAME_BYTES]) {
    (void)snprintf(name_out, GA_SEGMENT_NAME_BYTES, "segment-%06lld.h5", (long long)sequence);
}

int64_t ga_segment_sequence(const char *name) {
    static const char head[] = "segment-";
    if (strncmp(name, head, sizeof head - 1) != 0) {
        return -1;
    }
    const char *digits = name + sizeof head - 1;
    const size_t count = strspn(digits, "0123456789");
    if (count < 6 || count > 9 || strcmp(digits + count, ".h5") != 0) {
        return -1;
    }
    return strtoll(digits, NULL, 10);
}

/* mkdir -p with 0750; existing folders are left as they are. */
static ga_status make_folders(const char *folder, ga_error *error) {
    char path[FOLDER_BYTES];
    (void)snprintf(path, sizeof path, "%s", folder);
    for (size_t i = 1;; i++) {
        const char here = path[i];
        if (here != '/' && here != 0) {
            continue;
        }
        path[i] = 0;
        if (mkdir(path, 0750) != 0 && errno != EEXIST && errno != EISDIR) {
            const int number = errno;
            return GA_FAIL(error, GA_ERR_IO, "record: folder %s can't be made: %s; choose another run_dir",
                path, words(number));
        }
        path[i] = here;
        if (here == 0) {
            return GA_OK;
        }
    }
}

/* The process id in "….PID.tmp"; 0 if the name is none of ours. */
static long temporary_owner(const char *name) {
    const size_t length = strlen(name);
    if (length < 7 || strcmp(name + length - 4, ".tmp") != 0 || strncmp(name, "segment-", 8) != 0) {
        return 0;
    }
    const char *dot = memrchr(name, '.', length - 4);
    if (dot == NULL) {
        return 0;
    }
    char *end = NULL;
    const long owner = strtol(dot + 1, &end, 10);
    return end == name + length - 4 && owner > 0 ? owner : 0;
}

static bool is_dead(long owner) {
    /* our own id: left behind by an earlier process that had it, since the folder is ours alone now */
    return owner == (long)getpid() || (kill((pid_t)owner, 0) != 0 && errno == ESRCH);
}

/* Finds the highest number and removes what dead writers left. */
static ga_status scan_folder(ga_publisher *publisher, ga_error *error) {
    const int fd = fcntl(publisher->folder_fd, F_DUPFD_CLOEXEC, 0);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    if (listing == NULL) {
        const int number = errno;
        (void)(fd >= 0 && close(fd) == 0);
        return GA_FAIL(
            error, GA_ERR_IO, "record: folder %s can't be listed: %s", publisher->folder, words(number));
    }
    rewinddir(listing);
    for (const struct dirent *entry = readdir(listing); entry != NULL; entry = readdir(listing)) {
        const int64_t sequence = ga_segment_sequence(entry->d_name);
        if (sequence >= publisher->next) {
            publisher->next = sequence + 1;
        }
        const long owner = temporary_owner(entry->d_name);
        if (owner != 0 && is_dead(owner)) {
            (void)unlinkat(publisher->folder_fd, entry->d_name, 0);
        }
    }
    (void)closedir(listing);
    return GA_OK;
}

static ga_status open_folder(ga_publisher *publisher, ga_error *error) {
    publisher->folder_fd = open(publisher->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (publisher->folder_fd < 0) {
        const int number = errno;
        return GA_FAIL(
            error, GA_ERR_IO, "record: folder %s can't be opened: %s", publisher->folder, words(number));
    }
    if (flock(publisher->folder_fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return GA_FAIL(error, GA_ERR_IO,
            "record: another process or record writes to %s; give each run its own run_dir",
            publisher->folder);
    }
    if (faccessat(publisher->folder_fd, ".", W_OK | X_OK, 0) != 0) {
        const int number = errno;
        return GA_FAIL(
            error, GA_ERR_IO, "record: folder %s can't be written to: %s", publisher->folder, words(number));
    }
    return scan_folder(publisher, error);
}

ga_status ga_publisher_open(const char *folder, ga_publisher **publisher_out, ga_error *error) {
    const size_t length = strlen(folder);
    if (length == 0 || length >= FOLDER_BYTES) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "record: a folder name of %zu bytes", length);
    }
    GA_TRY(make_folders(folder, error));
    ga_publisher *publisher = calloc(1, sizeof *publisher);
    if (publisher == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "record: no memory for a publisher");
    }
    memcpy(publisher->folder, folder, length + 1);
    const ga_status status = open_folder(publisher, error);
    if (status != GA_OK) {
        ga_publisher_close(&publisher);
        return status;
    }
    *publisher_out = publisher;
    return GA_OK;
}

void ga_publisher_close(ga_publisher **publisher) {
    if (*publisher == NULL) {
        return;
    }
    if ((*publisher)->folder_fd >= 0) {
        (void)close((*publisher)->folder_fd);
    }
    free(*publisher);
    *publisher = NULL;
}

int64_t ga_publisher_next(const ga_publisher *publisher) {
    return publisher->next;
}

/* All bytes, whatever signals and short writes do. Returns 0 or an errno. */
static int write_all(int fd, const void *bytes, size_t size) {
    const char *next = bytes;
    while (size > 0) {
        const ssize_t written = write(fd, next, size);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return errno;
        }
        if (written == 0) {
            return ENOSPC;
        }
        next += written;
        size -= (size_t)written;
    }
    return 0;
}

/* Until it succeeds or fails for good. Returns 0 or an errno; folders on some file systems have no fsync. */
static int sync_file(int fd, bool folder) {
    while (fsync(fd) != 0) {
        if (errno == EINTR) {
            continue;
        }
        return folder && (errno == EINVAL || errno == ENOTSUP || errno == EBADF) ? 0 : errno;
    }
    return 0;
}

/* A complete file under a temporary name, on disk. Returns 0 or an errno, and then there is no such file. */
static int write_temporary(int folder_fd, const char *name, const void *bytes, size_t size) {
    const int fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0) {
        return errno;
    }
    int number = write_all(fd, bytes, size);
    if (number == 0) {
        number = sync_file(fd, false);
    }
    /* some file systems (NFS) tell only at close that a write failed */
    if (close(fd) != 0 && number == 0 && errno != EINTR) {
        number = errno;
    }
    if (number != 0) {
        (void)unlinkat(folder_fd, name, 0);
    }
    return number;
}

/* Gives the file its name without ever replacing another. Returns 0 or an errno. */
static int rename_new(int folder_fd, const char *from, const char *to) {
    if (renameat2(folder_fd, from, folder_fd, to, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return errno;
    }
    /* a file system without it: the folder is locked by us, so looking first is safe enough */
    struct stat info;
    if (fstatat(folder_fd, to, &info, AT_SYMLINK_NOFOLLOW) == 0) {
        return EEXIST;
    }
    return renameat(folder_fd, from, folder_fd, to) == 0 ? 0 : errno;
}

/* Takes the next free number. Returns 0 or an errno. */
static int name_segment(ga_publisher *publisher, const char *temporary) {
    int number = EEXIST;
    for (int i = 0; i < RENAME_ATTEMPTS && number == EEXIST && publisher->next <= SEQUENCE_MAX; i++) {
        char name[GA_SEGMENT_NAME_BYTES];
        ga_segment_name(publisher->next, name);
        number = rename_new(publisher->folder_fd, temporary, name);
        publisher->next += number == EEXIST;
    }
    return number;
}

ga_status ga_publish_segment(
    ga_publisher *publisher, const void *bytes, size_t size, int64_t *sequence_out, ga_error *error) {
    char name[GA_SEGMENT_NAME_BYTES], temporary[GA_SEGMENT_NAME_BYTES + 32];
    ga_segment_name(publisher->next, name);
    (void)snprintf(temporary, sizeof temporary, "%s.%ld.tmp", name, (long)getpid());
    (void)unlinkat(publisher->folder_fd, temporary, 0);
    int number = write_temporary(publisher->folder_fd, temporary, bytes, size);
    if (number == 0) {
        number = name_segment(publisher, temporary);
        if (number != 0) {
            (void)unlinkat(publisher->folder_fd, temporary, 0);
        }
    }
    if (number != 0) {
        return GA_FAIL(error, GA_ERR_IO, "record: segment %s (%zu bytes) in %s could not be written: %s",
            name, size, publisher->folder, words(number));
    }
    *sequence_out = publisher->next++;
    number = sync_file(publisher->folder_fd, true);
    /* named but perhaps not yet on disk: the rows are readable, so they are not written a second time */
    return number == 0 ? GA_OK
                       : GA_FAIL(error, GA_ERR_IO, "record: folder %s could not be synced: %s",
                             publisher->folder, words(number));
}

/* Does a file opened for reading end within a line? */
static bool ends_torn(int fd) {
    struct stat info;
    char last = '\n';
    if (fstat(fd, &info) != 0 || info.st_size == 0) {
        return false;
    }
    return pread(fd, &last, 1, info.st_size - 1) == 1 && last != '\n';
}

static int append_line(int folder_fd, const char *name, const char *line) {
    const int flags = O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC;
    const int fd = openat(folder_fd, name, flags, 0640);
    if (fd < 0) {
        return errno;
    }
    const size_t length = strlen(line);
    char *bytes = malloc(length + 3);
    int number = bytes == NULL ? ENOMEM : 0;
    if (number == 0) {
        const int written = snprintf(bytes, length + 3, "%s%s\n", ends_torn(fd) ? "\n" : "", line);
        number = write_all(fd, bytes, (size_t)written);
    }
    if (number == 0) {
        number = sync_file(fd, false);
    }
    if (close(fd) != 0 && number == 0 && errno != EINTR) {
        number = errno;
    }
    free(bytes);
    return number;
}

ga_status ga_publish_line(ga_publisher *publisher, const char *name, const char *line, ga_error *error) {
    const int number = append_line(publisher->folder_fd, name, line);
    if (number != 0) {
        return GA_FAIL(error, GA_ERR_IO, "record: %s/%s could not be extended: %s", publisher->folder, name,
            words(number));
    }
    return GA_OK;
}
