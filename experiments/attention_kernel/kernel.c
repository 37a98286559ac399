/* The kernel as a function of plain arguments, for ctypes: what `run` measures. Not installed. */
#include "grpo_accel/compute/tensor.h"
#include "grpo_accel/feature/attention.h"

__attribute__((visibility("default"))) int32_t attention_kernel_compute(int32_t rows, int32_t heads,
    int32_t image_tokens, int32_t text_tokens, int32_t head_size, float *query, float *key_image,
    float *key_text, int32_t threads, float *maps_out);

/* Contiguous fp32 [rows, heads, tokens, head_size] → maps_out [rows, 3, image_tokens]: mass, entropy,
 * maximum, all text tokens content. 0 or a ga_status. */
int32_t attention_kernel_compute(int32_t rows, int32_t heads, int32_t image_tokens, int32_t text_tokens,
    int32_t head_size, float *query, float *key_image, float *key_text, int32_t threads, float *maps_out) {
    const int64_t image[4] = {rows, heads, image_tokens, head_size};
    const int64_t text[4] = {rows, heads, text_tokens, head_size};
    const ga_tensor query_view = ga_tensor_make(query, GA_F32, 4, image);
    const ga_tensor image_view = ga_tensor_make(key_image, GA_F32, 4, image);
    const ga_tensor text_view = ga_tensor_make(key_text, GA_F32, 4, text);
    const ga_attention_views views = {.rows = rows,
        .heads = heads,
        .image_tokens = image_tokens,
        .text_tokens = text_tokens,
        .head_size = head_size,
        .query = &query_view,
        .key_image = &image_view,
        .key_text = &text_view,
        .threads = threads};
    const ga_status status = ga_attention_check(&views, NULL);
    return (int32_t)(status == GA_OK ? ga_attention_compute(&views, maps_out, NULL) : status);
}
