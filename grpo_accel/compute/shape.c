#include "grpo_accel/compute/shape.h"

ga_status ga_shape_check_gemm(const ga_gemm *gemm, ga_error *error) {
    const int32_t columns_a = gemm->transpose_a ? gemm->m : gemm->k;
    const int32_t columns_b = gemm->transpose_b ? gemm->k : gemm->n;
    if (gemm->m < 0 || gemm->n < 0 || gemm->k < 0) {
        return GA_FAIL(
            error, GA_ERR_ARGUMENT, "sgemm: negative size (m %d, n %d, k %d)", gemm->m, gemm->n, gemm->k);
    }
    if (gemm->lda < columns_a || gemm->ldb < columns_b || gemm->ldc < gemm->n || gemm->lda < 1 ||
        gemm->ldb < 1 || gemm->ldc < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "sgemm: leading dimensions %d, %d, %d are below the columns %d, %d, %d", gemm->lda, gemm->ldb,
            gemm->ldc, columns_a, columns_b, gemm->n);
    }
    return GA_OK;
}

bool ga_shape_conv_is_possible(const ga_conv *conv) {
    const bool positive = conv->rows >= 0 && conv->in_channels > 0 && conv->out_channels > 0 &&
                          conv->height > 0 && conv->width > 0;
    const bool known = (conv->kernel == 1 || conv->kernel == 3) && (conv->stride == 1 || conv->stride == 2);
    if (!positive || !known) {
        return false;
    }
    /* one row's columns must be countable in 32 bits, as BLAS counts */
    int64_t column_floats;
    const int64_t wider = conv->in_channels > conv->out_channels ? conv->in_channels : conv->out_channels;
    return !__builtin_mul_overflow((int64_t)conv->height * conv->width, wider, &column_floats) &&
           !__builtin_mul_overflow(column_floats, (int64_t)conv->kernel * conv->kernel, &column_floats) &&
           column_floats <= INT32_MAX / 2;
}

ga_status ga_shape_check_conv(const ga_conv *conv, ga_error *error) {
    if (!ga_shape_conv_is_possible(conv)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "convolution %d rows, %d → %d channels of %d×%d, kernel %d, stride %d can't be computed",
            conv->rows, conv->in_channels, conv->out_channels, conv->height, conv->width, conv->kernel,
            conv->stride);
    }
    return GA_OK;
}

ga_status ga_shape_check_group_norm(const ga_group_norm *norm, ga_error *error) {
    const bool possible = norm->rows >= 0 && norm->groups > 0 && norm->channels > 0 && norm->positions > 0 &&
                          norm->channels % norm->groups == 0 && norm->epsilon >= 0.0f;
    if (!possible) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "group norm of %d rows, %d channels in %d groups, %d positions is impossible", norm->rows,
            norm->channels, norm->groups, norm->positions);
    }
    return GA_OK;
}

ga_status ga_shape_check_count(const char *name, int64_t count, ga_error *error) {
    if (count < 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: negative count %lld", name, (long long)count);
    }
    return GA_OK;
}

ga_status ga_shape_check_sizes(const char *name, int32_t rows, int32_t a, int32_t b, ga_error *error) {
    if (rows < 0 || a < 1 || b < 1) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: impossible sizes %d, %d, %d", name, rows, a, b);
    }
    return GA_OK;
}

ga_status ga_shape_check_columns(
    int32_t rows, int32_t count, int32_t source_stride, int32_t target_stride, ga_error *error) {
    if (rows < 0 || count < 0 || source_stride < count || target_stride < count) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "copy columns: %d rows of %d columns, strides %d and %d", rows,
            count, source_stride, target_stride);
    }
    return GA_OK;
}

ga_status ga_shape_check_adamw(const ga_adamw *adamw, int64_t count, ga_error *error) {
    GA_TRY(ga_shape_check_count("adamw", count, error));
    const bool betas =
        adamw->beta1 >= 0.0f && adamw->beta1 < 1.0f && adamw->beta2 >= 0.0f && adamw->beta2 < 1.0f;
    if (adamw->step < 1 || !betas) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "adamw: step %lld must be 1 or more, betas %g, %g in [0, 1)",
            (long long)adamw->step, (double)adamw->beta1, (double)adamw->beta2);
    }
    return GA_OK;
}

int32_t ga_shape_conv_out_height(const ga_conv *conv) {
    return (conv->height + conv->stride - 1) / conv->stride;
}

int32_t ga_shape_conv_out_width(const ga_conv *conv) {
    return (conv->width + conv->stride - 1) / conv->stride;
}
