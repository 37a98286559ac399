#include "grpo_accel/compute/torch_symbols.h"

#include <dlfcn.h>
#include <link.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 1024
#define CPU_LIBRARY "libtorch_cpu.so"
#define CUDA_LIBRARY "libtorch_cuda.so"

typedef enum function_place { CORE, BACKPORT, OPTIONAL, CUDA } function_place;

typedef struct wanted_function {
    const char *symbol;
    size_t offset; /* of the member of ga_torch_symbols */
    function_place place;
} wanted_function;

static const wanted_function wanted_functions[] = {
#define GA_TORCH_WANTED(member, symbol, place, result, parameters)                                           \
    {symbol, offsetof(ga_torch_symbols, member), place},
    GA_TORCH_FUNCTIONS(GA_TORCH_WANTED)
#undef GA_TORCH_WANTED
};
#define WANTED_COUNT (sizeof wanted_functions / sizeof wanted_functions[0])

/* Libraries that a search goes through, in this order; and the texts of ga_torch_info. */
typedef struct found_libraries {
    void *cpu, *cuda, *backport;
    bool backport_first; /* the user named it: it is wanted even where PyTorch has the functions */
    char cpu_path[PATH_BYTES], cuda_path[PATH_BYTES], backport_path[PATH_BYTES];
    char version[32], missing[PATH_BYTES];
} found_libraries;

/* ---- loaded libraries ---- */

typedef struct loaded_search {
    const char *file; /* "libtorch_cpu.so": also matches a versioned "libtorch_cpu.so.2.6" */
    char *path;       /* [PATH_BYTES], "" until found */
} loaded_search;

static int match_loaded(struct dl_phdr_info *info, size_t bytes, void *user) {
    (void)bytes;
    const loaded_search *search = user;
    const char *slash = info->dlpi_name != NULL ? strrchr(info->dlpi_name, '/') : NULL;
    const size_t length = strlen(search->file);
    const bool same = slash != NULL && strncmp(slash + 1, search->file, length) == 0 &&
                      (slash[1 + length] == '\0' || slash[1 + length] == '.');
    if (same && strlen(info->dlpi_name) < PATH_BYTES) {
        strcpy(search->path, info->dlpi_name);
        return 1;
    }
    return 0;
}

/* A handle on the library of that name which the process has loaded; NULL: none. */
static void *open_loaded(const char *file, char path_out[PATH_BYTES]) {
    loaded_search search = {file, path_out};
    path_out[0] = '\0';
    dl_iterate_phdr(match_loaded, &search); /* dlopen inside the callback could deadlock */
    return path_out[0] != '\0' ? dlopen(path_out, RTLD_LAZY | RTLD_NOLOAD) : NULL;
}

static bool is_same_file(const char *a, const char *b) {
    char *real_a = realpath(a, NULL), *real_b = realpath(b, NULL);
    const bool same = real_a != NULL && real_b != NULL && strcmp(real_a, real_b) == 0;
    free(real_a);
    free(real_b);
    return same;
}

static bool join_path(const char *directory, const char *file, char path_out[PATH_BYTES]) {
    const int length = snprintf(path_out, PATH_BYTES, "%s/%s", directory, file);
    return length > 0 && length < PATH_BYTES;
}

/* ---- PyTorch ---- */

/* Two PyTorch in one process would fight over everything: one that is loaded is the only one to be used. */
static ga_status find_cpu(const char *directory, found_libraries *found, ga_error *error) {
    found->cpu = open_loaded(CPU_LIBRARY, found->cpu_path);
    if (found->cpu == NULL && directory == NULL) {
        return GA_FAIL(error, GA_ERR_MISSING,
            "provider torch: no %s is loaded in this process; import torch first, or name PyTorch's folder "
            "torch/lib, or use the provider native",
            CPU_LIBRARY);
    }
    if (directory == NULL) {
        return GA_OK;
    }
    char path[PATH_BYTES];
    if (!join_path(directory, CPU_LIBRARY, path)) {
        return GA_FAIL(error, GA_ERR_MISSING, "provider torch: the path %.200s… is too long", directory);
    }
    if (found->cpu != NULL) {
        return is_same_file(path, found->cpu_path)
                   ? GA_OK
                   : GA_FAIL(error, GA_ERR_MISSING,
                         "provider torch: %s was asked for, but this process has loaded %s; leave the folder "
                         "out",
                         path, found->cpu_path);
    }
    found->cpu = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (found->cpu == NULL) {
        return GA_FAIL(error, GA_ERR_MISSING, "provider torch: can't load %s: %s", path, dlerror());
    }
    strcpy(found->cpu_path, path);
    return GA_OK;
}

static ga_status find_cuda(const char *directory, found_libraries *found, ga_error *error) {
    found->cuda = open_loaded(CUDA_LIBRARY, found->cuda_path);
    if (found->cuda == NULL && directory != NULL && join_path(directory, CUDA_LIBRARY, found->cuda_path)) {
        found->cuda = dlopen(found->cuda_path, RTLD_LAZY | RTLD_LOCAL);
    }
    if (found->cuda == NULL) {
        return GA_FAIL(error, GA_ERR_MISSING,
            "provider torch: a CUDA device was asked for, but the PyTorch at %s has no %s; install a CUDA "
            "build of PyTorch, or use the CPU",
            found->cpu_path, CUDA_LIBRARY);
    }
    return GA_OK;
}

/* The folder of the library or program that this code is in; false: unknown. */
static bool own_folder(char folder_out[PATH_BYTES]) {
    static const char anchor = 0;
    Dl_info info;
    if (dladdr(&anchor, &info) == 0 || info.dli_fname == NULL || strlen(info.dli_fname) >= PATH_BYTES) {
        return false;
    }
    strcpy(folder_out, info.dli_fname);
    char *slash = strrchr(folder_out, '/');
    if (slash == NULL) {
        return false;
    }
    *slash = '\0';
    return true;
}

/* Loads the back-port if the user names one, or if it is needed and lies beside us. */
static ga_status find_backport(bool needed, found_libraries *found, ga_error *error) {
    const char *named = getenv("GRPO_ACCEL_TORCH_COMPAT");
    char folder[PATH_BYTES];
    if (named != NULL && named[0] != '\0') {
        found->backport_first = true;
        snprintf(found->backport_path, PATH_BYTES, "%s", named);
    } else if (!needed || !own_folder(folder) ||
               !join_path(folder, GA_TORCH_BACKPORT_FILE, found->backport_path)) {
        found->backport_path[0] = '\0';
        return GA_OK;
    }
    /* RTLD_NOW: a back-port that was built for another PyTorch lacks symbols, and is refused here */
    found->backport = dlopen(found->backport_path, RTLD_NOW | RTLD_LOCAL);
    if (found->backport == NULL && found->backport_first) {
        return GA_FAIL(error, GA_ERR_MISSING, "provider torch: can't load the back-port %s: %s",
            found->backport_path, dlerror());
    }
    if (found->backport == NULL) {
        found->backport_path[0] = '\0';
    }
    return GA_OK;
}

/* ---- functions ---- */

static void *find_function(const wanted_function *wanted, const found_libraries *found) {
    if (wanted->place == CUDA) {
        return found->cuda != NULL ? dlsym(found->cuda, wanted->symbol) : NULL;
    }
    void *brought = NULL;
    if (found->backport != NULL && wanted->place != CORE) {
        /* only what the back-port itself defines: its own dependencies are PyTorch again */
        Dl_info info;
        brought = dlsym(found->backport, wanted->symbol);
        if (brought != NULL && dladdr(brought, &info) != 0 &&
            !is_same_file(info.dli_fname, found->backport_path)) {
            brought = NULL;
        }
    }
    if (brought != NULL && found->backport_first) {
        return brought;
    }
    void *own = dlsym(found->cpu, wanted->symbol);
    return own != NULL ? own : brought;
}

/* Fills the table; false: a function is missing that nothing replaces. missing names all that are. */
static bool fill_symbols(found_libraries *found, bool cuda, ga_torch_symbols *symbols, ga_torch_info *info) {
    bool complete = true;
    info->functions_found = 0;
    info->functions_wanted = 0;
    found->missing[0] = '\0';
    for (size_t i = 0; i < WANTED_COUNT; i++) {
        const wanted_function *wanted = &wanted_functions[i];
        if (wanted->place == CUDA && !cuda) {
            continue;
        }
        void *address = find_function(wanted, found);
        memcpy((char *)symbols + wanted->offset, &address, sizeof address);
        info->functions_wanted++;
        info->functions_found += address != NULL;
        if (address == NULL) {
            const size_t used = strlen(found->missing);
            snprintf(found->missing + used, sizeof found->missing - used, "%s%s", used > 0 ? ", " : "",
                wanted->symbol);
            complete = complete && wanted->place == OPTIONAL;
        }
    }
    return complete;
}

static void write_version(const ga_torch_symbols *symbols, char *version, size_t bytes) {
    if (symbols->abi_version == NULL) {
        snprintf(version, bytes, "2.6 … 2.8");
        return;
    }
    const uint64_t word = symbols->abi_version(); /* major, minor, patch: a byte each, from the top */
    snprintf(version, bytes, "%u.%u.%u", (unsigned)(word >> 56), (unsigned)(word >> 48 & 0xff),
        (unsigned)(word >> 40 & 0xff));
}

ga_status ga_torch_symbols_find(const ga_torch_options *options, ga_torch_symbols *symbols_out,
    ga_torch_info *info_out, ga_error *error) {
    static found_libraries found; /* its texts are shown as long as the process lives */
    memset(&found, 0, sizeof found);
    const bool cuda = options->device == GA_DEVICE_CUDA;
    *info_out = (ga_torch_info){.library = found.cpu_path,
        .version = found.version,
        .backport = found.backport_path,
        .missing = found.missing};
    GA_TRY(find_cpu(options->directory, &found, error));
    if (cuda) {
        GA_TRY(find_cuda(options->directory, &found, error));
    }
    GA_TRY(find_backport(dlsym(found.cpu, "torch_call_dispatcher") == NULL, &found, error));
    ga_torch_symbols symbols;
    const bool complete = fill_symbols(&found, cuda, &symbols, info_out);
    write_version(&symbols, found.version, sizeof found.version);
    if (!complete || (symbols.new_value == NULL && symbols.operator_new == NULL)) {
        return GA_FAIL(error, GA_ERR_MISSING,
            "provider torch: PyTorch %s at %.150s lacks %.150s; 2.10 or newer has all, for 2.6 … 2.9 build "
            "the "
            "back-port (meson option torch_compat)",
            found.version, found.cpu_path, found.missing);
    }
    *symbols_out = symbols;
    return GA_OK;
}
