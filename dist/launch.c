#include "dist/launch.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/base/digest.h"

#define PORT_FIRST 20000u
#define PORT_COUNT 10000u
#define PORT_DEFAULT 29500u /* torch's own, where nothing names the job */
#define HOST_BYTES 256

static const char *process_get(void *user, const char *name) {
    (void)user;
    return getenv(name);
}

static bool process_set(void *user, const char *name, const char *value) {
    (void)user;
    return setenv(name, value, 1) == 0;
}

const ga_environment *ga_environment_process(void) {
    static const ga_environment environment = {process_get, process_set, NULL};
    return &environment;
}

/* A launcher and the names under which it tells a process its place. */
typedef struct launcher {
    const char *name;
    const char *rank;
    const char *size;
    const char *local_rank;
    const char *local_size; /* NULL: it does not say */
    bool mpi;
} launcher;

/* The first whose rank and size are both set counts. Slurm's step variables and not SLURM_NTASKS: that is set
 * in a batch script too, where one process runs and no task. Torch's come last: mpirun's processes have them
 * as well, once grpo-accel run has set them. */
static const launcher launchers[] = {{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                         "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", true},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", true},
    {"Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", NULL, true},
    {"torch", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", false}};

static const char *get_text(const ga_environment *environment, const char *name) {
    const char *text = name != NULL ? environment->get(environment->user, name) : NULL;
    return text != NULL && text[0] != '\0' ? text : NULL;
}

/* A whole number in [least, INT32_MAX]. Not set: `missing`. */
static ga_status get_number(const ga_environment *environment, const char *name, int32_t least,
    int32_t missing, int32_t *number_out, ga_error *error) {
    const char *text = get_text(environment, name);
    if (text == NULL) {
        *number_out = missing;
        return GA_OK;
    }
    char *end = NULL;
    errno = 0;
    const long number = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || number < least || number > INT32_MAX) {
        return GA_FAIL(error, GA_ERR_CONFIG, "environment: %s is \"%.60s\", expected a whole number from %d",
            name, text, least);
    }
    *number_out = (int32_t)number;
    return GA_OK;
}

static const launcher *find_launcher(const ga_environment *environment) {
    for (size_t i = 0; i < sizeof launchers / sizeof launchers[0]; i++) {
        if (get_text(environment, launchers[i].rank) != NULL &&
            get_text(environment, launchers[i].size) != NULL) {
            return &launchers[i];
        }
    }
    return NULL;
}

/* RANK or WORLD_SIZE, where set, must say what the launcher says. */
static ga_status check_torch(
    const ga_environment *environment, const ga_launch_place *place, ga_error *error) {
    int32_t rank = 0, size = 0;
    GA_TRY(get_number(environment, "RANK", 0, place->rank, &rank, error));
    GA_TRY(get_number(environment, "WORLD_SIZE", 1, place->size, &size, error));
    if (size != place->size) {
        return GA_FAIL(error, GA_ERR_CONFIG,
            "environment: WORLD_SIZE is %d but %s started %d processes; torchrun or accelerate inside "
            "mpirun? "
            "Start one process per rank: mpirun -np %d grpo-accel run …",
            size, place->launcher, place->size, size);
    }
    if (rank != place->rank) {
        return GA_FAIL(error, GA_ERR_CONFIG,
            "environment: RANK is %d but %s says rank %d of %d; unset RANK, or start without a second "
            "launcher",
            rank, place->launcher, place->rank, place->size);
    }
    return GA_OK;
}

ga_status ga_launch_read(const ga_environment *environment, ga_launch_place *place_out, ga_error *error) {
    const ga_environment *source = environment != NULL ? environment : ga_environment_process();
    const launcher *found = find_launcher(source);
    ga_launch_place place = {.rank = 0, .size = 1, .local_size = 1, .launcher = "none"};
    if (found == NULL) {
        *place_out = place;
        return GA_OK;
    }
    place.launcher = found->name;
    place.mpi = found->mpi;
    GA_TRY(get_number(source, found->size, 1, 1, &place.size, error));
    GA_TRY(get_number(source, found->rank, 0, 0, &place.rank, error));
    GA_TRY(get_number(source, found->local_rank, 0, 0, &place.local_rank, error));
    GA_TRY(get_number(source, found->local_size, 1, place.size == 1 ? 1 : 0, &place.local_size, error));
    if (place.rank >= place.size || (place.local_size > 0 && place.local_rank >= place.local_size)) {
        return GA_FAIL(error, GA_ERR_CONFIG, "environment (%s): rank %d of %d, local rank %d of %d",
            found->name, place.rank, place.size, place.local_rank, place.local_size);
    }
    GA_TRY(check_torch(source, &place, error));
    *place_out = place;
    return GA_OK;
}

bool ga_launch_is_first(const ga_environment *environment) {
    const ga_environment *source = environment != NULL ? environment : ga_environment_process();
    for (size_t i = 0; i < sizeof launchers / sizeof launchers[0]; i++) {
        const char *rank = get_text(source, launchers[i].rank);
        if (rank != NULL) {
            return strcmp(rank, "0") == 0;
        }
    }
    return true;
}

/* Copies text up to the first of `ends` into host (HOST_BYTES); false if empty or too long. */
static bool copy_until(const char *text, const char *ends, char *host) {
    const size_t length = strcspn(text, ends);
    if (length == 0 || length >= HOST_BYTES) {
        return false;
    }
    memcpy(host, text, length);
    host[length] = '\0';
    return true;
}

/* First host of Slurm's list: "a1,b2" → a1; "gpu[007-012,020]-ib,…" → gpu007-ib. */
static bool slurm_first_host(const char *list, char *host) {
    const size_t prefix = strcspn(list, "[,");
    if (list[prefix] != '[') {
        return copy_until(list, ",", host);
    }
    const char *number = list + prefix + 1;
    const size_t digits = strcspn(number, "-,]");
    const char *close = strchr(number, ']');
    if (close == NULL || digits == 0) {
        return false;
    }
    const size_t suffix = strcspn(close + 1, "[,");
    if (prefix + digits + suffix >= HOST_BYTES) {
        return false;
    }
    memcpy(host, list, prefix);
    memcpy(host + prefix, number, digits);
    memcpy(host + prefix + digits, close + 1, suffix);
    host[prefix + digits + suffix] = '\0';
    return true;
}

/*
 * First address of mpirun's own machine, from "1275658240.0;tcp://192.0.2.2,10.0.0.2:34091;tcp6://…".
 * Rank 0 runs there unless a host file says otherwise, which rank 0 sees: its daemon is another one.
 */
static bool mpirun_host(const ga_environment *environment, const ga_launch_place *place, char *host) {
    const char *uri = get_text(environment, "OMPI_MCA_orte_hnp_uri");
    const char *daemon = get_text(environment, "OMPI_MCA_orte_local_daemon_uri");
    const char *address = uri != NULL ? strstr(uri, "tcp://") : NULL;
    if (address == NULL || (place->rank == 0 && daemon != NULL && strcmp(daemon, uri) != 0)) {
        return false;
    }
    return copy_until(address + strlen("tcp://"), ",:;", host);
}

static ga_status find_master(
    const ga_environment *environment, const ga_launch_place *place, char *host, ga_error *error) {
    static const char *const slurm_lists[] = {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"};
    if (place->local_size == place->size) {
        memcpy(host, "127.0.0.1", sizeof "127.0.0.1");
        return GA_OK;
    }
    if (mpirun_host(environment, place, host)) {
        return GA_OK;
    }
    /* under srun the step's list begins with rank 0's machine; under mpirun rank 0 may be elsewhere */
    for (size_t i = 0; strcmp(place->launcher, "Slurm") == 0 && i < 3; i++) {
        const char *list = get_text(environment, slurm_lists[i]);
        if (list != NULL && slurm_first_host(list, host)) {
            return GA_OK;
        }
    }
    return GA_FAIL(error, GA_ERR_CONFIG,
        "rank %d: the job of %d ranks spans several machines and %s does not say where rank 0 runs; "
        "set MASTER_ADDR to its host name (mpirun -x MASTER_ADDR=HOST …)",
        place->rank, place->size, place->launcher);
}

/* A number that all ranks of a job share and two jobs on one machine hardly do: mpirun's address holds the
 * port on which it listens, Slurm's job and step are counted. */
static uint32_t find_port(const ga_environment *environment) {
    static const char *const names[][2] = {{"OMPI_MCA_orte_hnp_uri", "OMPI_MCA_ess_base_jobid"},
        {"PMIX_NAMESPACE", NULL}, {"SLURM_JOB_ID", "SLURM_STEP_ID"}, {"SLURM_JOBID", "SLURM_STEPID"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *first = get_text(environment, names[i][0]);
        const char *second = get_text(environment, names[i][1]);
        if (first != NULL) {
            const uint64_t digest = ga_digest_join(
                ga_digest64(first, strlen(first)), second != NULL ? ga_digest64(second, strlen(second)) : 0);
            return PORT_FIRST + (uint32_t)(digest % PORT_COUNT);
        }
    }
    return PORT_DEFAULT;
}

static ga_status set_if_unset(
    const ga_environment *environment, const char *name, const char *value, ga_error *error) {
    if (get_text(environment, name) != NULL) {
        return GA_OK;
    }
    if (!environment->set(environment->user, name, value)) {
        return GA_FAIL(error, GA_ERR_MEMORY, "can't set %s=%s in the environment", name, value);
    }
    return GA_OK;
}

static ga_status set_number_if_unset(
    const ga_environment *environment, const char *name, uint32_t value, ga_error *error) {
    char text[16];
    (void)snprintf(text, sizeof text, "%u", value);
    return set_if_unset(environment, name, text, error);
}

static ga_status set_all(const ga_environment *environment, const ga_launch_place *place, ga_error *error) {
    char host[HOST_BYTES];
    const bool has_master = get_text(environment, "MASTER_ADDR") != NULL;
    if (!has_master) {
        GA_TRY(find_master(environment, place, host, error));
        GA_TRY(set_if_unset(environment, "MASTER_ADDR", host, error));
    }
    GA_TRY(set_number_if_unset(environment, "MASTER_PORT", find_port(environment), error));
    GA_TRY(set_number_if_unset(environment, "RANK", (uint32_t)place->rank, error));
    GA_TRY(set_number_if_unset(environment, "WORLD_SIZE", (uint32_t)place->size, error));
    GA_TRY(set_number_if_unset(environment, "LOCAL_RANK", (uint32_t)place->local_rank, error));
    if (place->local_size > 0) {
        GA_TRY(set_number_if_unset(environment, "LOCAL_WORLD_SIZE", (uint32_t)place->local_size, error));
    }
    return GA_OK;
}

static int32_t count_allowed_cores(void) {
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? (int32_t)CPU_COUNT(&cores) : 0;
}

/* Open MPI binds each rank to one core unless told otherwise; loaders and reward threads then share it. */
static void warn_of_binding(const ga_launch_options *options, ga_launch_report *report) {
    const int32_t allowed = options->cores_allowed > 0 ? options->cores_allowed : count_allowed_cores();
    const int32_t online =
        options->cores_online > 0 ? options->cores_online : (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    if (allowed == 1 && online > 1) {
        (void)snprintf(report->warning, sizeof report->warning,
            "rank %d is bound to 1 of %d cores, which data loaders and reward threads then share; "
            "use mpirun --bind-to none",
            report->place.rank, online);
    }
}

ga_status ga_launch_environment(
    const ga_launch_options *options, ga_launch_report *report_out, ga_error *error) {
    static const ga_launch_options defaults = {NULL, 0, 0};
    const ga_launch_options *chosen = options != NULL ? options : &defaults;
    const ga_environment *environment =
        chosen->environment != NULL ? chosen->environment : ga_environment_process();
    ga_launch_report report = {.warning = ""};
    GA_TRY(ga_launch_read(environment, &report.place, error));
    if (report.place.mpi) {
        GA_TRY(set_all(environment, &report.place, error));
        warn_of_binding(chosen, &report);
    }
    *report_out = report;
    return GA_OK;
}
