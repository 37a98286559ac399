#include "grpo_accel/compute/torch_attention.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"
#include "grpo_accel/compute/tensor.h"
#include "grpo_accel/compute/text.h"
#include "grpo_accel/compute/torch_memory.h"
#include "grpo_accel/compute/torch_ops.h"

/* Floats of a tile of logits; as many again of probabilities: 64 MiB each. */
#define TILE_FLOATS ((int64_t)1 << 24)

/* The statistics, in the order of grpo_accel/feature/attention.h, which this room can't see. */
enum { MASS, ENTROPY, MAXIMUM, SPREAD, SHARE, CONCENTRATION, STATISTICS };

/* Scratch on the device. H heads, K keys (image, then text), T text tokens that the row can see, I image
 * tokens, t a tile of them. Sized for a row that sees all of its text. */
typedef struct scratch {
    float *all;         /* the one allocation */
    float *query;       /* [H, t, D] */
    float *keys;        /* [H, K, D] */
    float *logits;      /* [H, t, K] */
    float *joint;       /* [H, t, K] softmax of them */
    float *probability; /* [I, T] of the text, mean over heads */
    float *weights;     /* [I, T] content only; then divided by its sum */
    float *work;        /* [I, T] */
    float *mask;        /* [T] 1: content */
    float *content;     /* [I] Σ over content, at least FLT_MIN */
    float *column;      /* [I] */
    float *tokens;      /* [T] */
    float *maps;        /* [statistics, I] of one row */
} scratch;

/* The text that a row can see, in host memory with room for all of it. */
typedef struct visible_text {
    int32_t *tokens;  /* which, ascending */
    uint8_t *content; /* never hidden */
    float *mask;      /* 1: content */
    int32_t count, content_count;
} visible_text;

typedef struct attention_work {
    const ga_attention_op *op;
    int64_t image_keys, keys, tile; /* keys: those of the row */
    int32_t statistics;             /* how many */
    visible_text text;              /* of the row */
    scratch at;
} attention_work;

/* ---- checks ---- */

static int32_t dtype_of(const ga_tensor *tensor) {
    switch (tensor->dtype) {
    case GA_F32: return ga_torch.float32;
    case GA_F16: return ga_torch.float16;
    case GA_BF16: return ga_torch.bfloat16;
    default: return -1;
    }
}

static ga_status check_place(const ga_tensor *tensor, const char *name, ga_error *error) {
    const int32_t device = ga_torch.is_cuda ? GA_DEVICE_CUDA : GA_DEVICE_CPU;
    if (tensor->device != device || (ga_torch.is_cuda && tensor->device_index != ga_torch.device_index)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %s is on device %d:%d, the provider on %d:%d",
            name, tensor->device, tensor->device_index, device, ga_torch.device_index);
    }
    for (int32_t dim = 0; dim < tensor->dims; dim++) {
        if (tensor->strides[dim] < 0) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %s has a negative stride", name);
        }
    }
    return GA_OK;
}

static ga_status check_tensor(
    const ga_attention_op *op, const ga_tensor *tensor, const char *name, int64_t tokens, ga_error *error) {
    if (tensor == NULL) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: %s is not given", name);
    }
    GA_TRY(ga_tensor_check(tensor, name, error));
    if (tensor->dims != 4 || dtype_of(tensor) < 0 || tensor->shape[0] != op->query->shape[0] ||
        tensor->shape[1] != op->heads || (tokens >= 0 && tensor->shape[2] != tokens) ||
        tensor->shape[2] < 1 || tensor->shape[3] != op->head_size) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "attention: %s must be f32, f16 or bf16 [%lld, %d heads, %lld tokens, %d values]", name,
            (long long)op->query->shape[0], op->heads, (long long)tokens, op->head_size);
    }
    return check_place(tensor, name, error);
}

static ga_status check(const ga_attention_op *op, ga_error *error) {
    if (op->rows < 1 || op->heads < 1 || op->head_size < 1 || op->image_tokens < 1 || op->text_tokens < 1 ||
        op->statistics == 0 || op->statistics >> STATISTICS != 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "attention: %d rows, %d heads of %d values, %d image and %d text tokens, statistics 0x%x",
            op->rows, op->heads, op->head_size, op->image_tokens, op->text_tokens, op->statistics);
    }
    GA_TRY(check_tensor(op, op->query, "query", op->image_tokens, error));
    GA_TRY(check_tensor(op, op->key_text, "key_text", op->text_tokens, error));
    if (op->key_image != NULL) {
        GA_TRY(check_tensor(op, op->key_image, "key_image", -1, error));
    }
    for (int32_t i = 0; i < op->rows; i++) {
        const int32_t row = op->row_index != NULL ? op->row_index[i] : i;
        if (row < 0 || row >= op->query->shape[0]) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "attention: row %d from tensors of %lld rows", row,
                (long long)op->query->shape[0]);
        }
    }
    return ga_text_check(op->content, op->query->shape[0], op->text_tokens, error);
}

/* ---- scratch ---- */

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static ga_status set_up(attention_work *w, ga_error *error) {
    const ga_attention_op *op = w->op;
    w->image_keys = op->key_image != NULL ? op->key_image->shape[2] : 0;
    w->keys = w->image_keys + op->text_tokens;
    w->statistics = __builtin_popcount(op->statistics);
    const int64_t per_query = op->heads * w->keys;
    w->tile = smaller(op->image_tokens, per_query < TILE_FLOATS ? TILE_FLOATS / per_query : 1);
    const int64_t table = (int64_t)op->image_tokens * op->text_tokens;
    float **const parts[] = {&w->at.query, &w->at.keys, &w->at.logits, &w->at.joint, &w->at.probability,
        &w->at.weights, &w->at.work, &w->at.mask, &w->at.content, &w->at.column, &w->at.tokens, &w->at.maps};
    const int64_t sizes[] = {op->heads * w->tile * op->head_size, per_query * op->head_size,
        w->tile * per_query, w->tile * per_query, table, table, table, op->text_tokens, op->image_tokens,
        op->image_tokens, op->text_tokens, (int64_t)w->statistics * op->image_tokens};
    enum { PARTS = sizeof sizes / sizeof sizes[0] };
    size_t total = 0;
    for (int i = 0; i < PARTS; i++) {
        total += ((size_t)sizes[i] + 15) / 16 * 16; /* each begins at a cache line */
    }
    GA_TRY(ga_torch_allocate_scratch(total, &w->at.all, error));
    float *next = w->at.all;
    for (int i = 0; i < PARTS; i++) {
        *parts[i] = next;
        next += (sizes[i] + 15) / 16 * 16;
    }
    return GA_OK;
}

/* ---- probabilities of one row ---- */

/* [heads, count, head size] of a row of q or k, from token `first` on. */
static ga_torch_view tokens_of(
    const ga_attention_op *op, const ga_tensor *tensor, int32_t row, int64_t first, int64_t count) {
    const int64_t offset = row * tensor->strides[0] + first * tensor->strides[2];
    return (ga_torch_view){
        .data = (const char *)tensor->data + offset * (int64_t)ga_dtype_bytes(tensor->dtype),
        .dims = 3,
        .dtype = dtype_of(tensor),
        .sizes = {op->heads, count, op->head_size},
        .strides = {tensor->strides[1], tensor->strides[2], tensor->strides[3]}};
}

/* `count` keys of all heads from `first` on, to key `at` of the row's, as fp32. */
static ga_status gather_run(const attention_work *w, const ga_tensor *from, int32_t row, int64_t first,
    int64_t count, int64_t at, ga_error *error) {
    const ga_attention_op *op = w->op;
    const ga_torch_view source = tokens_of(op, from, row, first, count);
    ga_torch_view target = ga_torch_view3(w->at.keys, op->heads, w->keys, op->head_size);
    target.data = w->at.keys + at * op->head_size;
    target.sizes[1] = count;
    return ga_torch_copy(&target, &source, error);
}

/* Where the run of neighbours that begins at visible token `i` ends. */
static int32_t end_of_run(const visible_text *text, int32_t i) {
    int32_t end = i + 1;
    while (end < text->count && text->tokens[end] == text->tokens[end - 1] + 1) {
        end++;
    }
    return end;
}

/* Image keys, then visible text keys: one copy for each run of them, and padding leaves one run. */
static ga_status gather_keys(const attention_work *w, int32_t row, ga_error *error) {
    const visible_text *text = &w->text;
    if (w->op->key_image != NULL) {
        GA_TRY(gather_run(w, w->op->key_image, row, 0, w->image_keys, 0, error));
    }
    for (int32_t i = 0; i < text->count;) {
        const int32_t end = end_of_run(text, i);
        GA_TRY(gather_run(w, w->op->key_text, row, text->tokens[i], end - i, w->image_keys + i, error));
        i = end;
    }
    return GA_OK;
}

static ga_status softmax(ga_torch_view logits, ga_torch_view target, ga_error *error) {
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::_softmax", "out", error);
    ga_torch_give_view(&call, logits);
    ga_torch_give_int(&call, 2);
    ga_torch_give_bool(&call, false);
    ga_torch_give_view(&call, target);
    return ga_torch_call_finish_in_place(&call, 1);
}

/* probability[first … first + count) from softmax(q · kᵀ / sqrt(D)) of every head. */
static ga_status take_tile(
    const attention_work *w, int32_t row, int64_t first, int64_t count, ga_error *error) {
    const ga_attention_op *op = w->op;
    const float scale = 1.0f / sqrtf((float)op->head_size);
    const ga_torch_view source = tokens_of(op, op->query, row, first, count);
    const ga_torch_view query = ga_torch_view3(w->at.query, op->heads, count, op->head_size);
    GA_TRY(ga_torch_copy(&query, &source, error));
    GA_TRY(ga_torch_combine("aten::mul", query, ga_torch_view_number(&scale), query, error));
    ga_torch_view keys = ga_torch_view3(w->at.keys, op->heads, op->head_size, w->keys);
    keys.strides[1] = 1;
    keys.strides[2] = op->head_size;
    const ga_torch_view logits = ga_torch_view3(w->at.logits, op->heads, count, w->keys);
    GA_TRY(ga_torch_multiply("aten::bmm", query, keys, logits, error));
    ga_torch_view joint = ga_torch_view3(w->at.joint, op->heads, count, w->keys);
    GA_TRY(softmax(logits, joint, error));
    joint.data = w->at.joint + w->image_keys; /* of it, the text keys */
    joint.sizes[2] = w->text.count;
    return ga_torch_reduce("aten::mean", "out", joint, 0,
        ga_torch_view2(w->at.probability + first * w->text.count, count, w->text.count), error);
}

/* ---- statistics of one row ---- */

static ga_torch_view table_at(const attention_work *w, const float *data) {
    return ga_torch_view2(data, w->op->image_tokens, w->text.count);
}

/* A vector over image tokens, as a column that broadcasts over text tokens. */
static ga_torch_view column_at(const attention_work *w, const float *data) {
    return ga_torch_view2(data, w->op->image_tokens, 1);
}

static ga_torch_view vector_at(const attention_work *w, const float *data) {
    return ga_torch_view1(data, w->op->image_tokens);
}

static ga_status apply(const char *name, ga_torch_view source, ga_torch_view target, ga_error *error) {
    ga_torch_call call;
    ga_torch_call_begin(&call, name, "out", error);
    ga_torch_give_view(&call, source);
    ga_torch_give_view(&call, target);
    return ga_torch_call_finish_in_place(&call, 1);
}

static ga_status sum_over(ga_torch_view source, int64_t dim, ga_torch_view target, ga_error *error) {
    return ga_torch_reduce("aten::sum", "IntList_out", source, dim, target, error);
}

/* Largest weight of each image token. */
static ga_status largest(const attention_work *w, float *map, ga_error *error) {
    const int64_t dim = 1;
    ga_torch_call call;
    ga_torch_call_begin(&call, "aten::amax", "out", error);
    ga_torch_give_view(&call, table_at(w, w->at.weights));
    ga_torch_give_ints(&call, &dim, 1);
    ga_torch_give_bool(&call, false); /* keepdim */
    ga_torch_give_view(&call, vector_at(w, map));
    return ga_torch_call_finish_in_place(&call, 1);
}

/* target = source, or the smallest float where that is larger: divisors that are never 0. NaN stays NaN. */
static ga_status at_least_smallest(ga_torch_view vector, ga_error *error) {
    const float smallest = FLT_MIN;
    return ga_torch_combine("aten::maximum", vector, ga_torch_view_number(&smallest), vector, error);
}

/* Standard deviation over content tokens divided by their mean. Expects weights not yet divided. */
static ga_status spread(const attention_work *w, float *map, ga_error *error) {
    const int32_t content_count = w->text.content_count;
    const float share = 1.0f / (float)(content_count > 0 ? content_count : 1);
    const ga_torch_view work = table_at(w, w->at.work), column = vector_at(w, w->at.column);
    GA_TRY(ga_torch_combine(
        "aten::mul", vector_at(w, w->at.content), ga_torch_view_number(&share), column, error)); /* means */
    /* work = (weights − mean · mask)² */
    const ga_torch_view weights = table_at(w, w->at.weights);
    GA_TRY(ga_torch_copy(&work, &weights, error));
    GA_TRY(ga_torch_add_product(
        work, column_at(w, w->at.column), ga_torch_view2(w->at.mask, 1, w->text.count), -1.0f, error));
    GA_TRY(ga_torch_combine("aten::mul", work, work, work, error));
    const ga_torch_view target = vector_at(w, map);
    GA_TRY(sum_over(work, 1, target, error));
    GA_TRY(ga_torch_combine("aten::mul", target, ga_torch_view_number(&share), target, error));
    GA_TRY(apply("aten::sqrt", target, target, error));
    GA_TRY(at_least_smallest(column, error));
    return ga_torch_combine("aten::div", target, column, target, error);
}

/* Σ over content of −w ln w. Expects weights divided by their sum. */
static ga_status entropy(const attention_work *w, float *map, ga_error *error) {
    GA_TRY(apply("aten::special_entr", table_at(w, w->at.weights), table_at(w, w->at.work), error));
    return sum_over(table_at(w, w->at.work), 1, vector_at(w, map), error);
}

/*
 * Σ over content j of w[i, j] · c[j], c[j] = 1 − H(q[j]) / ln(image tokens), q[j] the attention that token j
 * gets, as a distribution over image tokens. Expects weights divided by their sum; masked ones are 0, so what
 * c is there doesn't matter.
 */
static ga_status concentration(const attention_work *w, float *map, ga_error *error) {
    const ga_attention_op *op = w->op;
    const ga_torch_view work = table_at(w, w->at.work);
    const ga_torch_view tokens = ga_torch_view1(w->at.tokens, w->text.count);
    const ga_torch_view row = ga_torch_view2(w->at.tokens, 1, w->text.count);
    GA_TRY(sum_over(table_at(w, w->at.probability), 0, tokens, error));
    GA_TRY(at_least_smallest(tokens, error));
    GA_TRY(ga_torch_combine("aten::div", table_at(w, w->at.probability), row, work, error));
    GA_TRY(apply("aten::special_entr", work, work, error));
    GA_TRY(sum_over(work, 0, tokens, error)); /* H */
    const float factor = op->image_tokens > 1 ? -1.0f / logf((float)op->image_tokens) : 0.0f;
    GA_TRY(ga_torch_combine("aten::mul", tokens, ga_torch_view_number(&factor), tokens, error));
    const ga_torch_view column = ga_torch_view2(w->at.tokens, w->text.count, 1);
    const ga_torch_view target = ga_torch_view2(map, op->image_tokens, 1);
    GA_TRY(ga_torch_multiply("aten::mm", table_at(w, w->at.weights), column, target, error));
    /* Σ w · 1 is 1 where there is content, else 0 */
    GA_TRY(sum_over(table_at(w, w->at.weights), 1, vector_at(w, w->at.column), error));
    return ga_torch_add_broadcast(vector_at(w, map), vector_at(w, w->at.column), 1.0f, error);
}

/* mask, and weights = probability · mask with their sum in `content`. */
static ga_status mask_content(const attention_work *w, ga_error *error) {
    GA_TRY(ga_torch_upload((size_t)w->text.count, w->text.mask, w->at.mask, error));
    GA_TRY(ga_torch_combine("aten::mul", table_at(w, w->at.probability),
        ga_torch_view2(w->at.mask, 1, w->text.count), table_at(w, w->at.weights), error));
    return sum_over(table_at(w, w->at.weights), 1, vector_at(w, w->at.content), error);
}

static bool is_wanted(const attention_work *w, int statistic) {
    return (w->op->statistics >> statistic & 1u) != 0;
}

/* Where the map of a statistic belongs: they stand in ascending order of their bits. */
static float *map_of(const attention_work *w, int statistic) {
    const uint32_t before = w->op->statistics & ((1u << statistic) - 1u);
    return w->at.maps + (ptrdiff_t)__builtin_popcount(before) * w->op->image_tokens;
}

/* Those that need the probabilities as they are. */
static ga_status write_plain_statistics(const attention_work *w, ga_error *error) {
    if (is_wanted(w, MASS)) {
        const bool joint = w->op->key_image != NULL;
        const ga_torch_view of = table_at(w, joint ? w->at.probability : w->at.weights);
        GA_TRY(sum_over(of, 1, vector_at(w, map_of(w, MASS)), error));
    }
    if (is_wanted(w, MAXIMUM)) {
        GA_TRY(largest(w, map_of(w, MAXIMUM), error));
    }
    return is_wanted(w, SPREAD) ? spread(w, map_of(w, SPREAD), error) : GA_OK;
}

/* Those that need them as shares of the content; `weights` becomes that. */
static ga_status write_share_statistics(const attention_work *w, ga_error *error) {
    const uint32_t shares = 1u << ENTROPY | 1u << SHARE | 1u << CONCENTRATION;
    if ((w->op->statistics & shares) == 0) {
        return GA_OK;
    }
    GA_TRY(at_least_smallest(vector_at(w, w->at.content), error));
    const ga_torch_view weights = table_at(w, w->at.weights);
    GA_TRY(ga_torch_combine("aten::div", weights, column_at(w, w->at.content), weights, error));
    if (is_wanted(w, ENTROPY)) {
        GA_TRY(entropy(w, map_of(w, ENTROPY), error));
    }
    if (is_wanted(w, SHARE)) {
        GA_TRY(largest(w, map_of(w, SHARE), error));
    }
    return is_wanted(w, CONCENTRATION) ? concentration(w, map_of(w, CONCENTRATION), error) : GA_OK;
}

/* ---- rows ---- */

/* Room for all of a row's text in one block; free text.mask. */
static ga_status make_text(int32_t text_tokens, visible_text *text_out, ga_error *error) {
    const size_t count = (size_t)text_tokens;
    float *mask = malloc(count * (sizeof(float) + sizeof(int32_t) + sizeof(uint8_t)));
    if (mask == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "attention: no memory for %d text tokens", text_tokens);
    }
    int32_t *tokens = (int32_t *)(void *)(mask + count);
    *text_out = (visible_text){.mask = mask, .tokens = tokens, .content = (uint8_t *)(tokens + count)};
    return GA_OK;
}

static void choose_text(attention_work *w, int32_t row) {
    const ga_attention_op *op = w->op;
    visible_text *text = &w->text;
    const uint8_t *content = op->content == NULL ? NULL : op->content + (ptrdiff_t)row * op->text_tokens;
    text->count = ga_text_visible(content, op->text_tokens, text->tokens, text->content);
    text->content_count = 0;
    for (int32_t j = 0; j < text->count; j++) {
        text->mask[j] = text->content[j] == GA_TEXT_CONTENT ? 1.0f : 0.0f;
        text->content_count += text->content[j] == GA_TEXT_CONTENT;
    }
    w->keys = w->image_keys + text->count;
}

/* maps_out [statistics, image tokens] */
static ga_status take_row(attention_work *w, int32_t row, float *maps_out, ga_error *error) {
    const ga_attention_op *op = w->op;
    const size_t floats = (size_t)w->statistics * (size_t)op->image_tokens;
    choose_text(w, row);
    if (w->text.count == 0) { /* a softmax over no key at all would be NaN */
        memset(maps_out, 0, floats * sizeof *maps_out);
        return GA_OK;
    }
    GA_TRY(gather_keys(w, row, error));
    for (int64_t first = 0; first < op->image_tokens; first += w->tile) {
        GA_TRY(take_tile(w, row, first, smaller(w->tile, op->image_tokens - first), error));
    }
    GA_TRY(mask_content(w, error));
    GA_TRY(write_plain_statistics(w, error));
    GA_TRY(write_share_statistics(w, error));
    return ga_torch_download(floats, w->at.maps, maps_out, error);
}

ga_status ga_torch_attention(const ga_attention_op *op, float *maps_out, ga_error *error) {
    GA_TRY(check(op, error));
    attention_work work = {.op = op};
    GA_TRY(make_text(op->text_tokens, &work.text, error));
    ga_status status = set_up(&work, error);
    const size_t row_floats = ga_size((int64_t)work.statistics * op->image_tokens);
    for (int32_t i = 0; i < op->rows && status == GA_OK; i++) {
        const int32_t row = op->row_index != NULL ? op->row_index[i] : i;
        status = take_row(&work, row, maps_out + (size_t)i * row_floats, error);
    }
    ga_torch_release(work.at.all);
    free(work.text.mask);
    return status;
}
