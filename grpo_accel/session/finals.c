#include "grpo_accel/session/finals.h"

#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/compute/half.h"
#include "grpo_accel/compute/tensor.h"
#include "grpo_accel/session/batch.h"

const void *ga_ends_row(const ga_ends *ends, int32_t row, size_t record_bytes) {
    const bool there = ends->values != NULL && ends->bytes == record_bytes && ends->present[row] != 0;
    return there ? ends->values + ga_size(row) * ends->bytes : NULL;
}

void ga_ends_free(ga_ends *ends) {
    free(ends->values);
    *ends = (ga_ends){0};
}

/* ---- checks ---- */

static ga_status check_rows(const ga_batch *batch, const int32_t *rows, int32_t count, ga_error *error) {
    for (int32_t i = 0; i < count; i++) {
        if (rows[i] < 0 || rows[i] >= batch->rows) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "finals: row %d of a batch of %d", (int)rows[i], (int)batch->rows);
        }
    }
    return GA_OK;
}

static ga_status check_tensor(const ga_tensor *tensor, const char *name, int32_t count, ga_error *error) {
    GA_TRY(ga_tensor_check(tensor, name, error));
    if (tensor->dims != 4 || tensor->shape[0] != count || ga_tensor_count(tensor) < 1) {
        return GA_FAIL(error, GA_ERR_DATA, "%s: needs 4 dimensions, %d rows first; it has %d, %lld rows",
            name, (int)count, (int)tensor->dims, (long long)(tensor->dims > 0 ? tensor->shape[0] : 0));
    }
    return GA_OK;
}

static ga_status check_latent(
    const ga_batch *batch, const ga_tensor *tensor, const char *name, ga_error *error) {
    const ga_shapes *shapes = &batch->session->shapes;
    if (tensor->shape[1] != shapes->latent_channels || tensor->shape[2] != shapes->latent_height ||
        tensor->shape[3] != shapes->latent_width) {
        return GA_FAIL(error, GA_ERR_DATA, "%s: latents of %lld × %lld × %lld in a run of %d × %d × %d", name,
            (long long)tensor->shape[1], (long long)tensor->shape[2], (long long)tensor->shape[3],
            (int)shapes->latent_channels, (int)shapes->latent_height, (int)shapes->latent_width);
    }
    return GA_OK;
}

/* The first image fixes the size of all. Under the lock. */
static ga_status check_image(ga_session *session, const ga_tensor *tensor, ga_error *error) {
    int32_t *shape = session->final_shape;
    if (tensor->shape[1] != 3 || tensor->shape[2] > 1 << 14 || tensor->shape[3] > 1 << 14) {
        return GA_FAIL(error, GA_ERR_DATA, "finals: images of %lld × %lld × %lld; needs 3 × height × width",
            (long long)tensor->shape[1], (long long)tensor->shape[2], (long long)tensor->shape[3]);
    }
    if (shape[0] == 0) {
        shape[0] = (int32_t)tensor->shape[2];
        shape[1] = (int32_t)tensor->shape[3];
        shape[2] = 3;
    }
    if (tensor->shape[2] != shape[0] || tensor->shape[3] != shape[1]) {
        return GA_FAIL(error, GA_ERR_DATA, "finals: images of %lld × %lld in a run of %d × %d",
            (long long)tensor->shape[2], (long long)tensor->shape[3], (int)shape[0], (int)shape[1]);
    }
    return GA_OK;
}

/* ---- values ---- */

/* Under the lock. */
static ga_status make_room(ga_ends *ends, int32_t rows, size_t bytes, ga_error *error) {
    if (ends->values != NULL) {
        return GA_OK;
    }
    ends->values = calloc(ga_size(rows), bytes + 1);
    if (ends->values == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d finals of %zu bytes", (int)rows, bytes);
    }
    ends->present = ends->values + ga_size(rows) * bytes;
    ends->bytes = bytes;
    return GA_OK;
}

/* 0 … 1 → 0 … 255, rounded; what is not a number is black. */
static uint8_t byte_of(float value) {
    const float scaled = value > 0.0f ? value * 255.0f + 0.5f : 0.0f;
    return (uint8_t)(scaled < 255.0f ? scaled : 255.0f);
}

/* Planes [3, height, width] → pixels [height, width, 3]. */
static void write_image(const float *planes, size_t plane, uint8_t *pixels) {
    for (size_t i = 0; i < plane; i++) {
        for (size_t channel = 0; channel < 3; channel++) {
            pixels[i * 3 + channel] = byte_of(planes[channel * plane + i]);
        }
    }
}

/* Writes rows of a checked tensor. `floats` holds all its values. Under the lock. */
static void write_rows(
    const float *floats, size_t values, const int32_t *rows, int32_t count, bool image, const ga_ends *ends) {
    for (int32_t i = 0; i < count; i++) {
        const int32_t row = rows[i];
        const float *source = floats + ga_size(i) * values;
        uint8_t *target = ends->values + ga_size(row) * ends->bytes;
        if (image) {
            write_image(source, values / 3, target);
        }
        for (size_t k = 0; k < values && !image; k++) {
            const ga_half half = ga_half_from_float(source[k]);
            memcpy(target + k * sizeof half, &half, sizeof half);
        }
        ends->present[row] = 1;
    }
}

static ga_status take(ga_batch *batch, ga_ends *ends, const int32_t *rows, const ga_tensor *tensor,
    bool image, ga_error *error) {
    const int32_t count = (int32_t)tensor->shape[0];
    const size_t values = ga_size(ga_tensor_count(tensor) / count);
    float *floats = malloc(values * ga_size(count) * sizeof *floats);
    if (floats == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "no memory for %d finals", (int)count);
    }
    ga_status status = ga_tensor_to_float(tensor, floats, error);
    if (status == GA_OK) {
        ga_session *session = batch->session;
        (void)pthread_mutex_lock(&session->lock);
        status = image ? check_image(session, tensor, error) : GA_OK;
        if (status == GA_OK) {
            status = make_room(ends, batch->rows, values * (image ? 1 : sizeof(ga_half)), error);
        }
        if (status == GA_OK) {
            write_rows(floats, values, rows, count, image, ends);
        }
        (void)pthread_mutex_unlock(&session->lock);
    }
    free(floats);
    return status;
}

ga_status ga_batch_take_final(
    ga_batch *batch, const int32_t *rows, int32_t count, const ga_tensor *finals, ga_error *error) {
    const ga_config_finals kind = batch->session->config->record.finals;
    if (kind == GA_CONFIG_FINALS_NONE || !batch->session->config->record.enabled || count == 0) {
        return GA_OK;
    }
    GA_TRY(check_rows(batch, rows, count, error));
    GA_TRY(check_tensor(finals, "finals", count, error));
    if (kind == GA_CONFIG_FINALS_LATENT) {
        GA_TRY(check_latent(batch, finals, "finals", error));
    }
    return take(batch, &batch->finals, rows, finals, kind == GA_CONFIG_FINALS_IMAGE, error);
}

ga_status ga_batch_take_state(ga_batch *batch, const ga_tensor *latent, ga_error *error) {
    if (batch->session->config->record.finals != GA_CONFIG_FINALS_LATENT ||
        !batch->session->config->record.enabled) {
        return GA_OK;
    }
    ga_look *look = NULL;
    GA_TRY(ga_batch_current_look(batch, &look, error));
    GA_TRY(check_tensor(latent, "state", look->block.rows, error));
    GA_TRY(check_latent(batch, latent, "state", error));
    return take(batch, &batch->states, look->row, latent, false, error);
}
