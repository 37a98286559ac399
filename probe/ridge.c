#include "probe/ridge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Penalties per row, in units where a feature's variance is 1; the last is "no weights". */
static const double penalties[] = {1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0, INFINITY};
#define PENALTIES (sizeof penalties / sizeof penalties[0])

/* Rows that one product takes together. */
#define CHUNK_ROWS 256

/* Standard deviations at which a feature is clipped. */
#define CLIP_DEVIATIONS 6.0

/* Below this share of all spread, what varies inside groups is rounding. */
#define WITHIN_SHARE 1e-4

ga_status ga_ridge_create(int32_t count, ga_ridge *ridge_out, ga_error *error) {
    float *block = calloc((size_t)count * 2 + 1, sizeof *block);
    if (block == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for a ridge of %d features", count);
    }
    *ridge_out = (ga_ridge){.count = count,
        .within = block,
        .level = block + count,
        .lambda_within = INFINITY,
        .lambda_level = INFINITY};
    return GA_OK;
}

void ga_ridge_destroy(ga_ridge *ridge) {
    free(ridge->within);
    memset(ridge, 0, sizeof *ridge);
}

void ga_ridge_predict(const ga_ridge *ridge, const float *features, float *score, float *level) {
    double score_sum = 0.0;
    double level_sum = 0.0;
    for (int32_t i = 0; i < ridge->count; i++) {
        score_sum += (double)ridge->within[i] * (double)features[i];
        level_sum += (double)ridge->level[i] * (double)features[i];
    }
    *score = (float)score_sum;
    *level = (float)level_sum;
}

/* ---- moments ---- */

/* sums[0 … count) of features, sums[count] of rows. */
static void add_means(const ga_grouped *grouped, const float *features, int32_t count, double *sums) {
    const int64_t rows = ga_grouped_rows(grouped);
    for (int64_t row = 0; row < rows; row++) {
        for (int32_t i = 0; i < count; i++) {
            sums[i] += (double)features[row * count + i];
        }
    }
    sums[count] += (double)rows;
}

/* squares[0 … count): around `center`; squares[count … 2·count): around the group's own mean. */
static void add_squares(const ga_grouped *grouped, const float *features, const ga_moments *moments,
    double *group_mean, double *squares) {
    const int32_t count = moments->count;
    for (int32_t group = 0; group < grouped->groups; group++) {
        const int64_t first = grouped->begin[group], end = grouped->begin[group + 1];
        memset(group_mean, 0, (size_t)count * sizeof *group_mean);
        for (int64_t row = first; row < end; row++) {
            for (int32_t i = 0; i < count; i++) {
                group_mean[i] += (double)features[row * count + i] / (double)(end - first);
            }
        }
        for (int64_t row = first; row < end; row++) {
            for (int32_t i = 0; i < count; i++) {
                const double value = (double)features[row * count + i];
                const double all = value - (double)moments->center[i];
                const double inside = value - group_mean[i];
                squares[i] += all * all;
                squares[count + i] += inside * inside;
            }
        }
    }
}

static void set_moment(ga_moments *moments, int32_t i, double all, double inside, uint8_t *varies) {
    const double floor = 1e-6 * (1.0 + fabs((double)moments->center[i]));
    *varies = inside > WITHIN_SHARE * all && inside > floor ? 1 : 0;
    if (all <= floor) {
        moments->scale[i] = 1.0f;
        moments->limit[i] = 0.0f;
        return;
    }
    const double scale = *varies != 0 ? inside : all;
    moments->scale[i] = (float)scale;
    moments->limit[i] = (float)(CLIP_DEVIATIONS * all / scale);
}

ga_status ga_ridge_moments(const ga_grouped *grouped, const float *features, const ga_reduce *reduce,
    ga_moments *moments_out, uint8_t *within_out, ga_error *error) {
    const int32_t count = moments_out->count;
    double *sums = calloc((size_t)count * 3 + 1, sizeof *sums);
    if (sums == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the moments of %d features", count);
    }
    add_means(grouped, features, count, sums);
    ga_status status = ga_reduce_sum(reduce, sums, count + 1, error);
    const double rows = sums[count] > 0.0 ? sums[count] : 1.0;
    for (int32_t i = 0; i < count; i++) {
        moments_out->center[i] = (float)(sums[i] / rows);
    }
    if (status == GA_OK) {
        memset(sums, 0, ((size_t)count * 3 + 1) * sizeof *sums);
        add_squares(grouped, features, moments_out, sums + 2 * (size_t)count, sums);
        status = ga_reduce_sum(reduce, sums, 2 * (int64_t)count, error);
    }
    for (int32_t i = 0; i < count && status == GA_OK; i++) {
        set_moment(moments_out, i, sqrt(sums[i] / rows), sqrt(sums[count + i] / rows), &within_out[i]);
    }
    free(sums);
    return status;
}

/* ---- normal equations ---- */

/* Sums of products of one regression, one set for each fold. One block of memory, at gram. */
typedef struct normal_system {
    int32_t count;
    const float *penalty; /* [count] relative */
    double *gram;         /* [folds, count, count] */
    double *right;        /* [folds, count] */
    double *square;       /* [folds] Σ w·target² */
    double *weight;       /* [folds] Σ w */
    int64_t floats;       /* of the block */
} normal_system;

static ga_status system_create(int32_t count, const float *penalty, normal_system *system, ga_error *error) {
    const size_t square = (size_t)count * (size_t)count;
    const size_t total = GA_FOLDS * (square + (size_t)count + 2);
    double *block = calloc(total, sizeof *block);
    if (block == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for the normal equations of %d features", count);
    }
    *system = (normal_system){.count = count,
        .penalty = penalty,
        .gram = block,
        .right = block + GA_FOLDS * square,
        .square = block + GA_FOLDS * (square + (size_t)count),
        .weight = block + GA_FOLDS * (square + (size_t)count + 1),
        .floats = (int64_t)total};
    return GA_OK;
}

/* Rows [rows, count] and targets, both times √w already, into a fold; `product` [count, count] is scratch. */
static ga_status system_add(normal_system *system, int32_t fold, const float *rows, const float *targets,
    int32_t row_count, const ga_compute *compute, float *product, ga_error *error) {
    const int32_t count = system->count;
    const ga_gemm gemm = {.transpose_a = true,
        .m = count,
        .n = count,
        .k = row_count,
        .lda = count,
        .ldb = count,
        .ldc = count,
        .alpha = 1.0f};
    GA_TRY(compute->sgemm(&gemm, rows, rows, product, error));
    double *gram = system->gram + (size_t)fold * (size_t)count * (size_t)count;
    for (size_t i = 0; i < (size_t)count * (size_t)count; i++) {
        gram[i] += (double)product[i];
    }
    double *right = system->right + (size_t)fold * (size_t)count;
    for (int32_t row = 0; row < row_count; row++) {
        const double target = (double)targets[row];
        for (int32_t i = 0; i < count; i++) {
            right[i] += target * (double)rows[(size_t)row * (size_t)count + (size_t)i];
        }
        system->square[fold] += target * target;
    }
    return GA_OK;
}

/* Lower Cholesky factor in place, column by column so that the inner loop runs along a row of the transpose;
 * the matrix is symmetric and kept as its upper half. False where it is not positive definite. */
static bool cholesky(double *matrix, int32_t count) {
    const size_t n = (size_t)count;
    for (size_t k = 0; k < n; k++) {
        double *line = matrix + k * n;
        if (!(line[k] > 0.0)) {
            return false;
        }
        const double inverse = 1.0 / sqrt(line[k]);
        for (size_t j = k; j < n; j++) {
            line[j] *= inverse;
        }
        for (size_t i = k + 1; i < n; i++) {
            const double factor = line[i];
            double *restrict target = matrix + i * n;
            const double *restrict source = line;
            for (size_t j = i; j < n && factor != 0.0; j++) {
                target[j] -= factor * source[j];
            }
        }
    }
    return true;
}

/* Solves Uᵀ·U·x = x in place. */
static void solve_factored(const double *upper, int32_t count, double *x) {
    const size_t n = (size_t)count;
    for (size_t k = 0; k < n; k++) {
        x[k] /= upper[k * n + k];
        for (size_t j = k + 1; j < n; j++) {
            x[j] -= upper[k * n + j] * x[k];
        }
    }
    for (size_t k = n; k-- > 0;) {
        for (size_t j = k + 1; j < n; j++) {
            x[k] -= upper[k * n + j] * x[j];
        }
        x[k] /= upper[k * n + k];
    }
}

/* Weights fitted to all folds but `left_out` (-1: to all); matrix [count, count] is scratch. */
static bool system_solve(
    const normal_system *system, int32_t left_out, double penalty, double *matrix, double *weights) {
    const size_t n = (size_t)system->count;
    memset(weights, 0, n * sizeof *weights);
    if (isinf(penalty)) {
        return true;
    }
    memset(matrix, 0, n * n * sizeof *matrix);
    double weight = 0.0;
    for (int32_t fold = 0; fold < GA_FOLDS; fold++) {
        if (fold == left_out) {
            continue;
        }
        weight += system->weight[fold];
        for (size_t i = 0; i < n * n; i++) {
            matrix[i] += system->gram[(size_t)fold * n * n + i];
        }
        for (size_t i = 0; i < n; i++) {
            weights[i] += system->right[(size_t)fold * n + i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        matrix[i * n + i] += penalty * (double)system->penalty[i] * weight + 1e-9;
    }
    if (!cholesky(matrix, system->count)) {
        return false;
    }
    solve_factored(matrix, system->count, weights);
    return true;
}

/* Σ w·(target − prediction)² over a fold. */
static double fold_error(const normal_system *system, int32_t fold, const double *weights) {
    const size_t n = (size_t)system->count;
    const double *gram = system->gram + (size_t)fold * n * n;
    double error = system->square[fold];
    for (size_t i = 0; i < n; i++) {
        double product = 0.0;
        for (size_t j = 0; j < n && weights[i] != 0.0; j++) {
            product += gram[i * n + j] * weights[j];
        }
        error += weights[i] * (product - 2.0 * system->right[(size_t)fold * n + i]);
    }
    return error;
}

/* Penalty with the smallest cross-validated error; `scratch` holds count² + count values. */
static double choose_penalty(const normal_system *system, double *scratch) {
    double *weights = scratch + (size_t)system->count * (size_t)system->count;
    double best_error = INFINITY;
    double best = INFINITY;
    for (size_t k = PENALTIES; k-- > 0;) {
        double error = 0.0;
        for (int32_t fold = 0; fold < GA_FOLDS; fold++) {
            const bool solved = system_solve(system, fold, penalties[k], scratch, weights);
            error += solved ? fold_error(system, fold, weights) : INFINITY;
        }
        if (error < best_error) {
            best_error = error;
            best = penalties[k];
        }
    }
    return best;
}

static ga_status system_fit(
    const normal_system *system, float *weights_out, double *lambda_out, ga_error *error) {
    const size_t n = (size_t)system->count;
    double *scratch = malloc((n * n + n) * sizeof *scratch);
    if (scratch == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory to solve for %d weights", system->count);
    }
    *lambda_out = choose_penalty(system, scratch);
    double *weights = scratch + n * n;
    const bool solved = system_solve(system, -1, *lambda_out, scratch, weights);
    for (size_t i = 0; i < n; i++) {
        weights_out[i] = solved && isfinite(weights[i]) ? (float)weights[i] : 0.0f;
    }
    free(scratch);
    return solved ? GA_OK : GA_FAIL(error, GA_ERR_DATA, "the ridge's normal equations have no solution");
}

/* ---- the two regressions ---- */

/* A group's weighted means of features and target; returns Σw. */
static double group_means(const ga_grouped *grouped, int32_t group, const float *features, int32_t count,
    double *means, double *target) {
    double weights = 0.0;
    *target = 0.0;
    memset(means, 0, (size_t)count * sizeof *means);
    for (int64_t row = grouped->begin[group]; row < grouped->begin[group + 1]; row++) {
        const double w = (double)grouped->weight[row];
        weights += w;
        *target += w * (double)grouped->target[row];
        for (int32_t i = 0; i < count; i++) {
            means[i] += w * (double)features[row * count + i];
        }
    }
    for (int32_t i = 0; i < count && weights > 0.0; i++) {
        means[i] /= weights;
    }
    *target = weights > 0.0 ? *target / weights : 0.0;
    return weights;
}

/* Where rows wait for the next product. */
typedef struct row_buffer {
    float *rows;    /* [CHUNK_ROWS, count] */
    float *targets; /* [CHUNK_ROWS] */
    float *product; /* [count, count] */
    double *means;  /* [count] */
    int32_t used, fold;
} row_buffer;

static ga_status buffer_create(int32_t count, row_buffer *buffer, ga_error *error) {
    const size_t n = (size_t)count;
    double *block = malloc(n * sizeof(double) + (CHUNK_ROWS * (n + 1) + n * n) * sizeof(float));
    if (block == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for rows of %d features", count);
    }
    float *floats = (float *)(void *)(block + n);
    *buffer = (row_buffer){.means = block,
        .rows = floats,
        .targets = floats + CHUNK_ROWS * n,
        .product = floats + CHUNK_ROWS * (n + 1)};
    return GA_OK;
}

static ga_status buffer_flush(
    row_buffer *buffer, normal_system *system, const ga_compute *compute, ga_error *error) {
    const int32_t used = buffer->used;
    buffer->used = 0;
    return used == 0 ? GA_OK
                     : system_add(system, buffer->fold, buffer->rows, buffer->targets, used, compute,
                           buffer->product, error);
}

/* The next free row of the buffer, for `fold`; flushes when it is full or the fold changes. */
static ga_status buffer_next(row_buffer *buffer, normal_system *system, int32_t fold,
    const ga_compute *compute, float **row, ga_error *error) {
    if (buffer->used == CHUNK_ROWS || (buffer->used > 0 && buffer->fold != fold)) {
        GA_TRY(buffer_flush(buffer, system, compute, error));
    }
    buffer->fold = fold;
    *row = buffer->rows + (size_t)buffer->used * (size_t)system->count;
    buffer->used++;
    return GA_OK;
}

/* Group-centred rows into the system, features that don't vary inside groups as zero. */
static ga_status gather_within(const ga_grouped *grouped, const float *features, const uint8_t *varies,
    const ga_compute *compute, row_buffer *buffer, normal_system *system, ga_error *error) {
    const int32_t count = system->count;
    for (int32_t group = 0; group < grouped->groups; group++) {
        double target_mean;
        (void)group_means(grouped, group, features, count, buffer->means, &target_mean);
        const int32_t fold = grouped->fold[group];
        for (int64_t row = grouped->begin[group]; row < grouped->begin[group + 1]; row++) {
            float *line;
            GA_TRY(buffer_next(buffer, system, fold, compute, &line, error));
            const double root = sqrt((double)grouped->weight[row]);
            for (int32_t i = 0; i < count; i++) {
                const double centred = (double)features[row * count + i] - buffer->means[i];
                line[i] = varies[i] != 0 ? (float)(root * centred) : 0.0f;
            }
            buffer->targets[buffer->used - 1] = (float)(root * ((double)grouped->target[row] - target_mean));
            system->weight[fold] += (double)grouped->weight[row];
        }
    }
    return buffer_flush(buffer, system, compute, error);
}

/* What a group's mean reward has beyond its mean score; mean over groups of all ranks. */
static ga_status mean_offset(const ga_grouped *grouped, const float *features, const ga_ridge *ridge,
    const ga_reduce *reduce, double *means, double *mean_out, ga_error *error) {
    double sums[2] = {0.0, 0.0};
    for (int32_t group = 0; group < grouped->groups; group++) {
        double target;
        if (group_means(grouped, group, features, ridge->count, means, &target) > 0.0) {
            for (int32_t i = 0; i < ridge->count; i++) {
                target -= (double)ridge->within[i] * means[i];
            }
            sums[0] += target;
            sums[1] += 1.0;
        }
    }
    GA_TRY(ga_reduce_sum(reduce, sums, 2, error));
    *mean_out = sums[1] > 0.0 ? sums[0] / sums[1] : 0.0;
    return GA_OK;
}

/* One row a group: means of the features that don't vary inside groups, offset from the mean offset. */
static ga_status gather_level(const ga_grouped *grouped, const float *features, const uint8_t *varies,
    const ga_ridge *ridge, double offset_mean, const ga_compute *compute, row_buffer *buffer,
    normal_system *system, ga_error *error) {
    for (int32_t group = 0; group < grouped->groups; group++) {
        double target;
        if (group_means(grouped, group, features, ridge->count, buffer->means, &target) <= 0.0) {
            continue;
        }
        float *line;
        GA_TRY(buffer_next(buffer, system, grouped->fold[group], compute, &line, error));
        for (int32_t i = 0; i < ridge->count; i++) {
            line[i] = varies[i] != 0 ? 0.0f : (float)buffer->means[i];
            target -= (double)ridge->within[i] * buffer->means[i];
        }
        buffer->targets[buffer->used - 1] = (float)(target - offset_mean);
        system->weight[grouped->fold[group]] += 1.0;
    }
    return buffer_flush(buffer, system, compute, error);
}

static ga_status fit_level(const ga_grouped *grouped, const float *features, const uint8_t *varies,
    const ga_compute *compute, const ga_reduce *reduce, row_buffer *buffer, normal_system *system,
    ga_ridge *ridge, ga_error *error) {
    double offset_mean;
    GA_TRY(mean_offset(grouped, features, ridge, reduce, buffer->means, &offset_mean, error));
    memset(system->gram, 0, (size_t)system->floats * sizeof *system->gram);
    GA_TRY(gather_level(grouped, features, varies, ridge, offset_mean, compute, buffer, system, error));
    GA_TRY(ga_reduce_sum(reduce, system->gram, system->floats, error));
    return system_fit(system, ridge->level, &ridge->lambda_level, error);
}

ga_status ga_ridge_fit(const ga_grouped *grouped, const float *features, const uint8_t *varies,
    const float *penalty, const ga_compute *compute, const ga_reduce *reduce, ga_ridge *ridge,
    ga_error *error) {
    normal_system system = {0};
    row_buffer buffer = {0};
    GA_TRY(system_create(ridge->count, penalty, &system, error));
    ga_status status = buffer_create(ridge->count, &buffer, error);
    if (status != GA_OK) {
        goto free_system;
    }
    status = gather_within(grouped, features, varies, compute, &buffer, &system, error);
    if (status == GA_OK) {
        status = ga_reduce_sum(reduce, system.gram, system.floats, error);
    }
    if (status == GA_OK) {
        status = system_fit(&system, ridge->within, &ridge->lambda_within, error);
    }
    if (status == GA_OK) {
        status = fit_level(grouped, features, varies, compute, reduce, &buffer, &system, ridge, error);
    }
    free(buffer.means);
free_system:
    free(system.gram);
    return status;
}
