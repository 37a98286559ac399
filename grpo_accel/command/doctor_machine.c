/* What doctor finds out about the machine and the launcher. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "grpo_accel/command/doctor.h"

#define GIBIBYTE 1073741824.0

/* ---- launcher ---- */

static bool is_set(const char *name) {
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0';
}

/* LOCAL_RANK decides whether accelerate takes a GPU; only an MPI launcher's is set by grpo-accel run. */
static void check_local_rank(ga_examination *e, const ga_launch_place *place) {
    if (place->size == 1 && strcmp(place->launcher, "none") == 0) {
        return;
    }
    if (is_set("LOCAL_RANK")) {
        ga_examination_note(e, "LOCAL_RANK", GA_VERDICT_OK, "set");
    } else if (place->mpi) {
        ga_examination_note(e, "LOCAL_RANK", GA_VERDICT_OK,
            "not set: grpo-accel run sets it, RANK, WORLD_SIZE and MASTER_ADDR; without it accelerate 1.4 "
            "to 1.9 trains "
            "on the CPU");
    } else {
        ga_examination_note(e, "LOCAL_RANK", GA_VERDICT_WARNING,
            "RANK and WORLD_SIZE are set but not LOCAL_RANK: accelerate 1.4 to 1.9 then trains on the CPU; "
            "start by mpirun and grpo-accel run");
    }
}

static void check_ranks(ga_examination *e, const ga_launch_place *place) {
    if (place->size > 1 && !place->mpi) {
        ga_examination_note(e, "launcher", GA_VERDICT_WARNING,
            "torchrun or accelerate: %d ranks that can't agree, so nothing is pruned; start by mpirun -np %d "
            "grpo-accel "
            "run …",
            place->size, place->size);
    } else if (place->local_size > 0 && place->size > 1) {
        ga_examination_note(e, "launcher", GA_VERDICT_OK, "%s: %d ranks, %d on this machine", place->launcher,
            place->size, place->local_size);
    } else {
        ga_examination_note(e, "launcher", GA_VERDICT_OK, "%s: %d rank%s", place->launcher, place->size,
            place->size > 1 ? "s" : "");
    }
}

bool ga_doctor_launcher(ga_examination *e, ga_launch_place *place_out) {
    ga_error error;
    ga_error_clear(&error);
    if (ga_launch_read(NULL, place_out, &error) != GA_OK) {
        ga_examination_note(e, "launcher", GA_VERDICT_FAIL, "%.400s", error.message);
        return false;
    }
    check_ranks(e, place_out);
    check_local_rank(e, place_out);
    if (geteuid() == 0 && !is_set("OMPI_ALLOW_RUN_AS_ROOT")) {
        ga_examination_note(e, "user", GA_VERDICT_WARNING,
            "root: Open MPI's mpirun refuses root unless OMPI_ALLOW_RUN_AS_ROOT=1 and "
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 are set");
    }
    return true;
}

/* ---- machine ---- */

static void check_cores(ga_examination *e) {
    cpu_set_t cores;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) {
        return;
    }
    const int allowed = CPU_COUNT(&cores);
    const bool bound = allowed == 1 && online > 1;
    ga_examination_note(e, "cores", bound ? GA_VERDICT_WARNING : GA_VERDICT_OK, "%d of %ld%s", allowed,
        online, bound ? ": data loaders and reward threads share it; use mpirun --bind-to none" : "");
}

static void check_devices(ga_examination *e) {
    glob_t found;
    if (glob("/dev/nvidia[0-9]*", 0, NULL, &found) != 0) {
        return;
    }
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    ga_examination_note(e, "GPU devices", GA_VERDICT_OK, "%zu of NVIDIA%s%.200s", found.gl_pathc,
        visible != NULL ? ", CUDA_VISIBLE_DEVICES=" : "", visible != NULL ? visible : "");
    globfree(&found);
}

static void check_limits(ga_examination *e) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        const bool few = limit.rlim_cur < 1024;
        ga_examination_note(e, "open files", few ? GA_VERDICT_WARNING : GA_VERDICT_OK, "limit %llu%s",
            (unsigned long long)limit.rlim_cur, few ? "; raise it with ulimit -n 4096" : "");
    }
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        const bool none = limit.rlim_cur == RLIM_INFINITY;
        ga_examination_note(e, "locked memory", GA_VERDICT_OK,
            none ? "no limit" : "limit %.0f MiB; InfiniBand wants none (ulimit -l unlimited)",
            (double)limit.rlim_cur / 1048576.0);
    }
    if (getrlimit(RLIMIT_AS, &limit) == 0) {
        const bool none = limit.rlim_cur == RLIM_INFINITY;
        ga_examination_note(e, "address space", none ? GA_VERDICT_OK : GA_VERDICT_WARNING,
            none ? "no limit" : "limit %.1f GiB: CUDA reserves far more than it uses; ulimit -v unlimited",
            (double)limit.rlim_cur / GIBIBYTE);
    }
}

static void check_shared_memory(ga_examination *e) {
    struct statvfs shared;
    if (statvfs("/dev/shm", &shared) != 0) {
        ga_examination_note(e, "shared memory", GA_VERDICT_WARNING, "/dev/shm: %s", strerror(errno));
        return;
    }
    const double unit = (double)shared.f_frsize / GIBIBYTE;
    const double free_gib = (double)shared.f_bavail * unit;
    ga_examination_note(e, "shared memory", free_gib < 0.5 ? GA_VERDICT_WARNING : GA_VERDICT_OK,
        "%.2f of %.2f GiB free in /dev/shm%s", free_gib, (double)shared.f_blocks * unit,
        free_gib < 0.5 ? "; MPI, NCCL and data loaders may fail (containers: --shm-size)" : "");
}

void ga_doctor_machine(ga_examination *e) {
    check_cores(e);
    check_devices(e);
    check_limits(e);
    check_shared_memory(e);
}

/* ---- folder ---- */

/* The way a segment is published: write, fsync, rename, gone again. Gives the failing step, or NULL. */
static const char *try_writing(const char *folder, int *reason_out) {
    char temporary[4200], final[4200];
    (void)snprintf(temporary, sizeof temporary, "%.4000s/.grpo-accel-doctor-%ld.tmp", folder, (long)getpid());
    (void)snprintf(final, sizeof final, "%.4000s/.grpo-accel-doctor-%ld", folder, (long)getpid());
    const int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (file < 0) {
        *reason_out = errno;
        return "create";
    }
    static const char block[4096];
    const char *failed = write(file, block, sizeof block) != (ssize_t)sizeof block ? "write" : NULL;
    failed = failed == NULL && fsync(file) != 0 ? "fsync" : failed;
    *reason_out = errno;
    (void)close(file);
    if (failed == NULL && rename(temporary, final) != 0) {
        *reason_out = errno;
        failed = "rename";
    }
    (void)unlink(temporary);
    (void)unlink(final);
    return failed;
}

/* Cuts the last parts of a path until it is there; "" means ".". */
static void find_existing(char *path) {
    struct stat info;
    while (path[0] != '\0' && stat(path, &info) != 0 && errno == ENOENT) {
        char *slash = strrchr(path, '/');
        if (slash == path) {
            path[1] = '\0';
            return;
        }
        *(slash != NULL ? slash : path) = '\0';
    }
}

static void check_space(ga_examination *e, const char *folder) {
    struct statvfs space;
    if (statvfs(folder, &space) != 0) {
        return;
    }
    const double free_gib = (double)space.f_bavail * (double)space.f_frsize / GIBIBYTE;
    ga_examination_note(e, "free space", free_gib < 1 ? GA_VERDICT_WARNING : GA_VERDICT_OK, "%.1f GiB%s",
        free_gib, free_gib < 1 ? "; a record may need more" : "");
    if (space.f_files > 0 && space.f_favail < 10000) {
        ga_examination_note(e, "free inodes", GA_VERDICT_WARNING, "%llu; each segment is a file",
            (unsigned long long)space.f_favail);
    }
}

void ga_doctor_folder(ga_examination *e, const char *what, const char *folder) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s", folder);
    const bool made_by_run = strcmp(what, "record") == 0;
    if (made_by_run) {
        find_existing(path);
    }
    const char *there = path[0] != '\0' ? path : ".";
    const bool missing = strcmp(there, folder) != 0;
    int reason = 0;
    const char *failed = try_writing(there, &reason);
    if (failed != NULL) {
        ga_examination_note(
            e, what, GA_VERDICT_FAIL, "%.400s: can't %s a file: %s", there, failed, strerror(reason));
        return;
    }
    ga_examination_note(e, what, GA_VERDICT_OK, "%.300s: write, fsync and rename work%s%.200s", there,
        missing ? "; there a run makes " : "", missing ? folder : "");
    check_space(e, there);
}
