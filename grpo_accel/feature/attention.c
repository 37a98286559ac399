#include "grpo_accel/feature/attention.h"

#include "grpo_accel/compute/text.h"
#include "grpo_accel/feature/read.h"

int32_t ga_attention_count(uint32_t statistics) {
    return __builtin_popcount(statistics == 0 ? GA_ATTENTION_DEFAULT : statistics);
}

static ga_status check_place(
    const ga_tensor *tensor, const char *name, const ga_tensor *query, ga_error *error) {
    const bool same_index = tensor->device_index == query->device_index || query->device == GA_DEVICE_CPU;
    if (tensor->device != query->device || !same_index) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %s is on device %d:%d, query on %d:%d", name,
            tensor->device, tensor->device_index, query->device, query->device_index);
    }
    return GA_OK;
}

/* `tokens` −1: any number. */
static ga_status check_tensor(const ga_attention_views *views, const ga_tensor *tensor, const char *name,
    int32_t tokens, ga_error *error) {
    if (tensor == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %s is not given", name);
    }
    GA_TRY(ga_read_check(tensor, name, 4, error));
    if (tensor->shape[0] != views->query->shape[0] || tensor->shape[1] != views->heads ||
        (tokens >= 0 && tensor->shape[2] != tokens) || tensor->shape[3] != views->head_size) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "attention: %s is [%lld, %lld, %lld, %lld]; expected [%lld, %d heads, %d tokens, %d values]",
            name, (long long)tensor->shape[0], (long long)tensor->shape[1], (long long)tensor->shape[2],
            (long long)tensor->shape[3], (long long)views->query->shape[0], views->heads, tokens,
            views->head_size);
    }
    return check_place(tensor, name, views->query, error);
}

ga_status ga_attention_check(const ga_attention_views *views, ga_error *error) {
    GA_TRY(check_tensor(views, views->query, "query", views->image_tokens, error));
    GA_TRY(check_tensor(views, views->key_text, "key_text", views->text_tokens, error));
    if (views->key_image != NULL) {
        GA_TRY(check_tensor(views, views->key_image, "key_image", -1, error));
    }
    /* so that the workspace's size can't overflow */
    if (views->head_size > 1 << 14 || views->text_tokens > 1 << 20) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %d text tokens, heads of %d values",
            views->text_tokens, views->head_size);
    }
    if (views->statistics >> GA_ATTENTION_STATISTIC_COUNT != 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: statistics 0x%x are not known", views->statistics);
    }
    if (views->rows < 1 || views->rows > views->query->shape[0] || views->threads < 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %d rows from tensors of %lld, on %d threads",
            views->rows, (long long)views->query->shape[0], views->threads);
    }
    return ga_text_check(views->content, views->query->shape[0], views->text_tokens, error);
}
