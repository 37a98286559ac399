/* The one door to OpenBLAS: single precision products, one thread, results that repeat. */
#ifndef GA_COMPUTE_BLAS_H
#define GA_COMPUTE_BLAS_H

#include "grpo_accel/compute/compute.h"

/*
 * Makes OpenBLAS use one thread, unless this copy of it also serves PyTorch or NumPy in this process: then
 * the setting is theirs. The first call counts; thread-safe. Products must not run before it.
 */
void ga_blas_prepare(void);

/* C = alpha · op(A) · op(B) + beta · C; the caller has checked the shape. */
void ga_blas_multiply(const ga_gemm *gemm, const float *a, const float *b, float *c);

#endif
