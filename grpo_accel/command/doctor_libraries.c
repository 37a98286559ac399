/* What doctor finds out about MPI, HDF5 and PyTorch. Only the rooms that own them see their headers, so their
 * functions are looked up by name. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "grpo_accel/command/doctor.h"
#include "grpo_accel/config/document.h"
#if defined(GA_HAVE_TRAIN)
#include "grpo_accel/compute/torch.h"
#endif

#define MPI_SECONDS 30.0
#define TORCH_SECONDS 60.0
#define MPI_TEXT_BYTES 8192 /* MPI_MAX_LIBRARY_VERSION_STRING is at most this in Open MPI and MPICH */

static void *find_function(const char *name, const char *const *libraries) {
    void *function = dlsym(RTLD_DEFAULT, name);
    for (size_t i = 0; function == NULL && libraries[i] != NULL; i++) {
        void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_LOCAL);
        function = library != NULL ? dlsym(library, name) : NULL;
    }
    return function;
}

/* ---- HDF5 ---- */

static void check_hdf5(ga_examination *e) {
    static const char *const libraries[] = {NULL};
    int (*get_version)(unsigned *, unsigned *, unsigned *) = NULL;
    *(void **)&get_version = find_function("H5get_libversion", libraries);
    unsigned major = 0, minor = 0, release = 0;
    if (get_version == NULL || get_version(&major, &minor, &release) < 0) {
        ga_examination_note(e, "HDF5", GA_VERDICT_FAIL,
            "not in this build: nothing can be recorded; install libhdf5-dev, build again");
    } else if (major == 1 && minor < 10) {
        ga_examination_note(
            e, "HDF5", GA_VERDICT_FAIL, "%u.%u.%u is too old; 1.10 or newer", major, minor, release);
    } else {
        ga_examination_note(e, "HDF5", GA_VERDICT_OK, "%u.%u.%u", major, minor, release);
    }
}

/* ---- MPI ---- */

static void *find_mpi(const char *name) {
    static const char *const libraries[] = {"libmpi.so.40", "libmpi.so.12", "libmpi.so", NULL};
    return find_function(name, libraries);
}

/* "Open MPI v4.1.4" or "MPICH Version: 4.1": up to the first comma or line end. False: no MPI. */
static bool read_flavour(char text[MPI_TEXT_BYTES]) {
    int (*get_version)(char *, int *) = NULL;
    *(void **)&get_version = find_mpi("MPI_Get_library_version");
    int length = 0;
    text[0] = '\0';
    if (get_version == NULL || get_version(text, &length) != 0) {
        return false;
    }
    text[strcspn(text, ",\n")] = '\0';
    return true;
}

/* Started by one MPI's mpirun and linked with another, each process thinks that it is alone. */
static bool is_foreign(const char *flavour, const ga_launch_place *place) {
    const bool open_mpi = strncmp(flavour, "Open MPI", 8) == 0;
    return (open_mpi && strcmp(place->launcher, "PMI") == 0) ||
           (!open_mpi && strcmp(place->launcher, "Open MPI") == 0);
}

static void check_mpi(ga_examination *e, const ga_launch_place *place) {
    char text[MPI_TEXT_BYTES];
    if (!read_flavour(text)) {
        ga_examination_note(e, "MPI", GA_VERDICT_WARNING,
            "no MPI library: ranks can't agree; install Open MPI for more than one rank");
    } else if (is_foreign(text, place)) {
        ga_examination_note(e, "MPI", place->size > 1 ? GA_VERDICT_FAIL : GA_VERDICT_WARNING,
            "grpo-accel is linked with %.100s, but mpirun is another's (%s): every rank would be alone; "
            "use the mpirun that belongs to the library",
            text, place->launcher);
    } else {
        ga_examination_note(e, "MPI", GA_VERDICT_OK, "%.200s", text);
    }
}

/* level: as MPI_Query_thread gives it, in the standard's order. */
static void note_level(ga_examination *e, int level) {
    static const char *const names[] = {"single", "funneled", "serialized", "multiple"};
    const bool known = level >= 0 && level < 4;
    ga_examination_note(e, "MPI threads", level == 0 ? GA_VERDICT_WARNING : GA_VERDICT_OK, "%s%s",
        known ? names[level] : "another level than the standard's",
        level == 0 ? ": a host with threads needs funneled" : "");
}

/* MPI_THREAD_MULTIPLE is 3 in the common interface of MPICH and its kin, and in Open MPI. */
static void start_mpi(void *user, ga_examination *inner) {
    (void)user;
    int (*init)(int *, char ***, int, int *) = NULL;
    int (*finalize)(void) = NULL;
    *(void **)&init = find_mpi("MPI_Init_thread");
    *(void **)&finalize = find_mpi("MPI_Finalize");
    int level = -1;
    if (init == NULL || finalize == NULL || init(NULL, NULL, 3, &level) != 0) {
        ga_examination_note(inner, "MPI threads", GA_VERDICT_WARNING, "MPI does not start without mpirun");
        return;
    }
    note_level(inner, level);
    (void)finalize();
}

void ga_doctor_mpi_alone(ga_examination *e) {
    if (find_mpi("MPI_Init_thread") != NULL) {
        ga_examination_apart(e, "MPI threads", start_mpi, NULL, MPI_SECONDS);
    }
}

void ga_doctor_mpi_joined(ga_examination *e) {
    int (*query)(int *) = NULL;
    *(void **)&query = find_mpi("MPI_Query_thread");
    int level = -1;
    if (query != NULL && query(&level) == 0) {
        note_level(e, level);
    }
}

void ga_doctor_libraries(ga_examination *e, const ga_launch_place *place) {
    ga_examination_note(e, "libyaml", GA_VERDICT_OK, "%s", ga_document_yaml_version());
    check_hdf5(e);
    check_mpi(e, place);
}

/* ---- PyTorch ---- */

#if defined(GA_HAVE_TRAIN)
static void open_torch(void *user, ga_examination *inner) {
    const ga_torch_options options = {.directory = user, .device = GA_DEVICE_CPU};
    const ga_compute *compute = NULL;
    ga_error error;
    ga_error_clear(&error);
    const ga_status status = ga_compute_torch(&options, &compute, &error);
    const ga_torch_info *info = ga_compute_torch_info();
    if (status == GA_OK) {
        ga_examination_note(inner, "torch provider", GA_VERDICT_OK,
            "%d of %d functions of PyTorch's C interface%s%.200s%s; small products are right",
            info->functions_found, info->functions_wanted, info->missing[0] != '\0' ? ", without " : "",
            info->missing, info->backport[0] != '\0' ? ", with the back-port" : "");
    } else {
        ga_examination_note(inner, "torch provider", GA_VERDICT_WARNING,
            "%d of %d functions; the probe is computed natively: %.400s", info->functions_found,
            info->functions_wanted, error.message);
    }
}

void ga_doctor_torch(ga_examination *e) {
    if (e->torch_folder[0] != '\0') {
        ga_examination_apart(e, "torch provider", open_torch, e->torch_folder, TORCH_SECONDS);
    }
}
#else
void ga_doctor_torch(ga_examination *e) {
    (void)e;
}
#endif
