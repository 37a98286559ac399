#include "probe/train/score.h"

#include <stdlib.h>

#include "probe/parts.h"

/* Features that are held at a time. */
#define BLOCK_BYTES ((size_t)1 << 20)

static ga_status score_block(ga_probe *probe, const ga_dataset *dataset, const int64_t *rows, int64_t count,
    ga_half *features, float *sigma, float *score, float *level, ga_error *error) {
    GA_TRY(ga_dataset_features(dataset, rows, count, features, error));
    for (int64_t i = 0; i < count; i++) {
        sigma[i] = dataset->sigma[rows[i]];
    }
    const ga_probe_rows block = {
        .features = features, .count = count, .sigma = sigma, .partial = dataset->partial};
    return ga_probe_score_rows(probe, &block, score, level, error);
}

ga_status ga_dataset_score(ga_probe *probe, const ga_dataset *dataset, const int64_t *rows, int64_t count,
    float *score_out, float *level_out, ga_error *error) {
    if (dataset->features != NULL) {
        const ga_probe_rows all = {.features = dataset->features,
            .rows = rows,
            .count = count,
            .sigma = dataset->sigma,
            .partial = dataset->partial};
        return ga_probe_score_rows(probe, &all, score_out, level_out, error);
    }
    const size_t values = (size_t)dataset->schema->values_per_row;
    const size_t wanted = BLOCK_BYTES / ((values + 1) * sizeof(ga_half));
    const int64_t block = wanted < GA_PROBE_CHUNK_ROWS ? GA_PROBE_CHUNK_ROWS : (int64_t)wanted;
    ga_half *features = malloc((size_t)block * values * sizeof *features);
    float *sigma = malloc((size_t)block * sizeof *sigma);
    ga_status status = GA_OK;
    if (features == NULL || sigma == NULL) {
        status = GA_FAIL(error, GA_ERR_MEMORY, "no memory to score %lld rows at a time", (long long)block);
    }
    for (int64_t first = 0; first < count && status == GA_OK; first += block) {
        const int64_t rows_now = count - first < block ? count - first : block;
        status = score_block(probe, dataset, rows + first, rows_now, features, sigma, score_out + first,
            level_out + first, error);
    }
    free(features);
    free(sigma);
    return status;
}
