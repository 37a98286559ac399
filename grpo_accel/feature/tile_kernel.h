/* The kernels that are built, each from tile_kernel.c with its own options of the compiler. */
#ifndef GA_FEATURE_TILE_KERNEL_H
#define GA_FEATURE_TILE_KERNEL_H

#include "grpo_accel/feature/tile.h"

extern const ga_tile_kernel ga_tile_kernel_portable;
#ifdef GA_TILE_X86
extern const ga_tile_kernel ga_tile_kernel_avx2;
extern const ga_tile_kernel ga_tile_kernel_avx512;
#endif

#endif
