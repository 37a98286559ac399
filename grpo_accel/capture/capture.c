#include "grpo_accel/capture/capture.h"

#include <math.h>
#include <string.h>

#include "grpo_accel/compute/tensor.h"
#include "grpo_accel/compute/text.h"

/* A tensor of four dimensions, none empty, all of them below 2^31. */
static ga_status check_view(const ga_tensor *tensor, const char *name, ga_error *error) {
    GA_TRY(ga_tensor_check(tensor, name, error));
    if (tensor->dtype != GA_F32 && tensor->dtype != GA_F16 && tensor->dtype != GA_BF16) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: dtype %s; expected f32, f16 or bf16", name,
            ga_dtype_name(tensor->dtype));
    }
    if (tensor->dims != 4) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: %d dimensions, expected 4", name, tensor->dims);
    }
    for (int i = 0; i < 4; i++) {
        if (tensor->shape[i] < 1 || tensor->shape[i] > INT32_MAX / 2) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "%s: dimension %d is %lld", name, i, (long long)tensor->shape[i]);
        }
    }
    return GA_OK;
}

static ga_status take_view(
    const ga_tensor *tensor, const char *name, int32_t batch_rows, ga_tensor *view_out, ga_error *error) {
    if (tensor == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: not given", name);
    }
    GA_TRY(check_view(tensor, name, error));
    ga_error inner;
    ga_error_clear(&inner);
    const ga_status status = ga_rows_conditional(tensor, batch_rows, view_out, &inner);
    return status == GA_OK ? GA_OK : GA_FAIL(error, status, "%s: %s", name, inner.message);
}

static ga_status take_host_view(
    const ga_tensor *tensor, const char *name, int32_t batch_rows, ga_tensor *view_out, ga_error *error) {
    if (tensor != NULL && tensor->device != GA_DEVICE_CPU) {
        return GA_FAIL(error, GA_ERR_MISSING, "%s: on device %d:%d; hand in a copy on the CPU", name,
            tensor->device, tensor->device_index);
    }
    return take_view(tensor, name, batch_rows, view_out, error);
}

/* Two views must agree in one dimension. */
static ga_status check_same(const ga_tensor *a, const char *a_name, const ga_tensor *b, const char *b_name,
    int dimension, const char *dimension_name, ga_error *error) {
    if (a->shape[dimension] != b->shape[dimension]) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s has %lld %s, %s has %lld", a_name,
            (long long)a->shape[dimension], dimension_name, b_name, (long long)b->shape[dimension]);
    }
    return GA_OK;
}

static ga_status take_image_keys(
    const ga_tensor *key_image, int32_t batch_rows, ga_capture_attention *captured, ga_error *error) {
    captured->has_image_keys = key_image != NULL && key_image->data != NULL;
    if (!captured->has_image_keys) {
        return GA_OK;
    }
    GA_TRY(take_view(key_image, "key_image", batch_rows, &captured->key_image, error));
    GA_TRY(check_same(&captured->query, "query", &captured->key_image, "key_image", 1, "heads", error));
    return check_same(
        &captured->query, "query", &captured->key_image, "key_image", 3, "values a head", error);
}

ga_status ga_capture_attention_take(const ga_tensor *query, const ga_tensor *key_image,
    const ga_tensor *key_text, const uint8_t *content, int32_t batch_rows, ga_capture_attention *captured_out,
    ga_error *error) {
    ga_capture_attention captured;
    memset(&captured, 0, sizeof captured);
    GA_TRY(take_view(query, "query", batch_rows, &captured.query, error));
    GA_TRY(take_view(key_text, "key_text", batch_rows, &captured.key_text, error));
    GA_TRY(check_same(&captured.query, "query", &captured.key_text, "key_text", 1, "heads", error));
    GA_TRY(check_same(&captured.query, "query", &captured.key_text, "key_text", 3, "values a head", error));
    GA_TRY(take_image_keys(key_image, batch_rows, &captured, error));
    GA_TRY(ga_text_check(content, batch_rows, (int32_t)captured.key_text.shape[2], error));
    captured.content = content;
    captured.rows = batch_rows;
    captured.heads = (int32_t)captured.query.shape[1];
    captured.image_tokens = (int32_t)captured.query.shape[2];
    captured.head_size = (int32_t)captured.query.shape[3];
    captured.text_tokens = (int32_t)captured.key_text.shape[2];
    *captured_out = captured;
    return GA_OK;
}

ga_status ga_capture_latent_take(const ga_tensor *latent, const ga_tensor *velocity, double sigma,
    int32_t batch_rows, ga_capture_latent *captured_out, ga_error *error) {
    static const char *const names[] = {"rows", "channels", "rows of pixels", "columns of pixels"};
    ga_capture_latent captured;
    memset(&captured, 0, sizeof captured);
    if (!isfinite(sigma) || sigma <= 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "latent: sigma is %g; expected a noise level above 0", sigma);
    }
    GA_TRY(take_host_view(latent, "latent", batch_rows, &captured.latent, error));
    GA_TRY(take_host_view(velocity, "velocity", batch_rows, &captured.velocity, error));
    for (int i = 1; i < 4; i++) {
        GA_TRY(check_same(&captured.latent, "latent", &captured.velocity, "velocity", i, names[i], error));
    }
    captured.sigma = sigma;
    captured.rows = batch_rows;
    captured.channels = (int32_t)captured.latent.shape[1];
    captured.height = (int32_t)captured.latent.shape[2];
    captured.width = (int32_t)captured.latent.shape[3];
    *captured_out = captured;
    return GA_OK;
}
