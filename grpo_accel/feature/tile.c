#include "grpo_accel/feature/tile.h"

#include <pthread.h>

#include "grpo_accel/feature/tile_kernel.h"

enum { KERNELS_MAX = 3 };

static const ga_tile_kernel *kernels[KERNELS_MAX];
static int32_t kernel_count;

static void find_kernels(void) {
#ifdef GA_TILE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) {
        kernels[kernel_count++] = &ga_tile_kernel_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        kernels[kernel_count++] = &ga_tile_kernel_avx2;
    }
#endif
    kernels[kernel_count++] = &ga_tile_kernel_portable;
}

const ga_tile_kernel *const *ga_tile_kernels(int32_t *count_out) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_kernels);
    *count_out = kernel_count;
    return kernels;
}
