#include "tests/unit/support.h"

#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "grpo_accel/compute/half.h"
#include "probe/calibration.h"
#include "probe/json.h"
#include "probe/parts.h"
#include "probe/weights.h"

/* ---- inputs ---- */

/* Two maps inputs and two scalar inputs. */
static ga_feature_schema make_schema(int32_t height, int32_t width, bool maps) {
    ga_feature_schema schema;
    memset(&schema, 0, sizeof schema);
    int32_t offset = 0;
    const ga_input_shape shapes[] = {
        {.input = GA_INPUT_ATTENTION, .channels = 2, .height = height, .width = width},
        {.input = GA_INPUT_X0, .channels = 1, .height = height, .width = width},
        {.input = GA_INPUT_PROMPT, .channels = 3, .height = 1, .width = 1},
        {.input = GA_INPUT_PREVIEW, .channels = 1, .height = 1, .width = 1}};
    for (int32_t i = maps ? 0 : 2; i < 4; i++) {
        ga_input_shape *shape = &schema.inputs[schema.input_count++];
        *shape = shapes[i];
        shape->offset = offset;
        offset += shape->channels * shape->height * shape->width;
    }
    schema.values_per_row = offset;
    schema.id = 0xabcdef0123456789u;
    return schema;
}

static void pooled_statistics_of_a_known_map(void **state) {
    (void)state;
    const ga_feature_schema schema = make_schema(2, 3, true);
    ga_inputs inputs;
    test_ok(ga_inputs_plan(&schema, &inputs, NULL), NULL);
    assert_int_equal(inputs.map_channels, 3);
    assert_int_equal(inputs.scalar_count, 4);
    assert_int_equal(inputs.pooled_count, 3 * GA_INPUTS_MAP_STATISTICS + 4 + 1);
    float row[22] = {0, 0, 0, 0, 0, 6, 5, 5, 5, 5, 5, 5, -1, 1, -1, 1, -1, 1, 7, 8, 9, 10};
    float pooled[20], scalars[4], maps[18];
    assert_true(ga_inputs_pool(&inputs, row, 0.5, pooled));
    const float expected[20] = {1.0f, sqrtf(5.0f), 6.0f, 2.0f, 1.0f, 5.0f, 0.0f, 5.0f, 1.0f, 0.5f, 0.0f, 1.0f,
        1.0f, 1.0f, 2.0f / 3.0f, 7.0f, 8.0f, 9.0f, 10.0f, logf(0.5f)};
    for (int i = 0; i < 20; i++) {
        assert_true(fabsf(pooled[i] - expected[i]) < 1e-6f);
    }
    ga_inputs_scalars(&inputs, pooled, true, scalars);
    assert_true(scalars[0] == 7.0f && scalars[3] == 10.0f);
    ga_inputs_scalars(&inputs, pooled, false, scalars);
    assert_true(scalars[0] == 10.0f && inputs.prompt_count == 3);
    ga_inputs_prompt(&inputs, pooled, scalars);
    assert_true(scalars[0] == 7.0f && scalars[2] == 9.0f);
    ga_inputs_maps(&inputs, row, maps);
    assert_memory_equal(maps, row, sizeof maps);
    int32_t count;
    assert_int_equal(ga_inputs_place(&inputs, GA_INPUT_PREVIEW, &count), 18);
    assert_int_equal(count, 1);
    assert_int_equal(ga_inputs_place(&inputs, GA_INPUT_CFG, &count), -1);
    for (int i = 0; i < 22; i++) {
        const float value = row[i];
        row[i] = i % 2 == 0 ? NAN : INFINITY;
        assert_false(ga_inputs_pool(&inputs, row, 0.5, pooled));
        row[i] = value;
    }
    assert_false(ga_inputs_pool(&inputs, row, (double)NAN, pooled));
    assert_true(ga_inputs_pool(&inputs, row, 0.0, pooled)); /* σ = 0: the end of a schedule */
}

/* Folding keeps inner products up to noise of 1/√256 and never drops a value. */
static void wide_scalars_are_folded(void **state) {
    (void)state;
    ga_feature_schema schema = {.input_count = 1, .values_per_row = 2000, .id = 5};
    schema.inputs[0] = (ga_input_shape){.input = GA_INPUT_HIDDEN, .channels = 2000, .height = 1, .width = 1};
    ga_inputs inputs;
    test_ok(ga_inputs_plan(&schema, &inputs, NULL), NULL);
    assert_int_equal(inputs.pooled_count, GA_INPUTS_SKETCH + 1);
    float row[2000] = {0}, pooled[GA_INPUTS_SKETCH + 1];
    for (int i = 0; i < 2000; i++) {
        row[i] = 3.0f;
        assert_true(ga_inputs_pool(&inputs, row, 1.0, pooled));
        double squares = 0.0;
        for (int k = 0; k < GA_INPUTS_SKETCH; k++) {
            squares += (double)pooled[k] * (double)pooled[k];
        }
        assert_true(squares == 9.0);
        row[i] = 0.0f;
    }
    row[1999] = NAN;
    assert_false(ga_inputs_pool(&inputs, row, 1.0, pooled));
}

static void impossible_schemas_are_refused(void **state) {
    (void)state;
    ga_feature_schema bad[10];
    ga_inputs inputs;
    for (int i = 0; i < 10; i++) {
        bad[i] = make_schema(8, 8, true);
    }
    bad[0].id = 0;
    bad[1].input_count = 0;
    bad[2].input_count = GA_INPUT_COUNT + 1;
    bad[3].inputs[1].offset = 1; /* overlaps */
    bad[4].inputs[3].offset = bad[4].values_per_row;
    bad[5].inputs[1].height = 4; /* maps of two sizes */
    bad[6].inputs[0].channels = INT32_MAX;
    bad[7].inputs[0].offset = -1;
    bad[8].inputs[0].input = (ga_input)99;
    bad[9].values_per_row = INT32_MAX;
    for (int i = 0; i < 10; i++) {
        ga_error error = {0};
        assert_int_equal(ga_inputs_plan(&bad[i], &inputs, &error), GA_ERR_ARGUMENT);
        assert_true(error.message[0] != '\0');
    }
    assert_int_equal(ga_inputs_plan(NULL, &inputs, NULL), GA_ERR_ARGUMENT);
}

static void layout_text_comes_back_or_is_refused(void **state) {
    (void)state;
    const ga_feature_schema schema = make_schema(8, 4, true);
    ga_feature_schema back;
    char text[GA_SCHEMA_TEXT_BYTES];
    ga_schema_to_text(&schema, text);
    assert_string_equal(text, "attention:2x8x4@0;x0:1x8x4@64;prompt:3x1x1@96;preview:1x1x1@99");
    test_ok(ga_schema_from_text(text, schema.id, &back, NULL), NULL);
    assert_true(ga_schema_equal(&schema, &back));
    back.inputs[2].channels = 2;
    assert_false(ga_schema_equal(&schema, &back));
    const char *bad[] = {"", ";", "x0", "x0:1x8x8", "x0:1x8x8@", "y0:1x8x8@0", "x0:0x8x8@0", "x0:-1x8x8@0",
        "x0:1x8x8@0;", "x0:1x8x8@0;x0:1x8x8@0", "x0:1x8x8@0 ", "x0:999999999x999999999x999999999@0",
        "x0:1x8x8@-4", "x0:1x8x8@999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(ga_schema_from_text(bad[i], 1, &back, NULL), GA_ERR_ARGUMENT);
    }
}

/* ---- calibration and ridge ---- */

#define GROUPS 200
#define GROUP_ROWS 10
#define ROWS (GROUPS * GROUP_ROWS)
#define FEATURES 4

typedef struct planted {
    int64_t begin[GROUPS + 1];
    int32_t fold[GROUPS];
    float target[ROWS], weight[ROWS], score[ROWS], level[ROWS];
    float features[ROWS * FEATURES]; /* within, within, prompt, constant */
    ga_grouped grouped;
} planted;

static const float equal_penalties[FEATURES] = {1.0f, 1.0f, 1.0f, 1.0f};

/* target = 3 + .5·f0 − .2·f1 + .8·f2 + N(0, τ² = .09) a group + N(0, σ² = .04) a row */
static planted *make_planted(void) {
    planted *p = calloc(1, sizeof *p);
    ga_random random = test_random(3);
    for (int g = 0; g < GROUPS; g++) {
        const double prompt = ga_random_normal(&random), offset = 0.3 * ga_random_normal(&random);
        p->begin[g] = (int64_t)g * GROUP_ROWS;
        p->fold[g] = g % GA_FOLDS;
        for (int i = g * GROUP_ROWS; i < (g + 1) * GROUP_ROWS; i++) {
            const double a = ga_random_normal(&random), b = ga_random_normal(&random);
            const float features[FEATURES] = {(float)a, (float)(5.0 + 0.1 * b), (float)prompt, 7.0f};
            memcpy(&p->features[i * FEATURES], features, sizeof features);
            p->weight[i] = 1.0f;
            p->score[i] = (float)(2.0 * (0.5 * a - 0.2 * b)); /* twice too large: slope ½ */
            p->level[i] = (float)(0.8 * prompt);
            p->target[i] =
                (float)(3.0 + 0.5 * a - 0.2 * b + 0.8 * prompt + offset + 0.2 * ga_random_normal(&random));
        }
    }
    p->begin[GROUPS] = ROWS;
    p->grouped = (ga_grouped){
        .groups = GROUPS, .begin = p->begin, .target = p->target, .weight = p->weight, .fold = p->fold};
    return p;
}

static void calibration_finds_what_was_planted(void **state) {
    (void)state;
    planted *p = make_planted();
    ga_calibration calibration;
    test_ok(ga_calibrate(&p->grouped, p->score, p->level, NULL, &calibration, NULL), NULL);
    assert_true(fabs(calibration.slope - 0.5) < 0.02);
    assert_true(fabs(calibration.intercept - 3.0) < 0.08);
    assert_true(fabs(calibration.sigma_r2 - 0.04) < 0.005);
    assert_true(fabs(calibration.tau2 - 0.09) < 0.03);
    for (int i = 0; i < ROWS; i++) {
        p->score[i] = -p->score[i];
    }
    test_ok(ga_calibrate(&p->grouped, p->score, p->level, NULL, &calibration, NULL), NULL);
    assert_true(calibration.slope == 0.0); /* the wrong way is no way */
    assert_true(calibration.sigma_r2 > 0.3);
    memset(p->score, 0, sizeof p->score);
    test_ok(ga_calibrate(&p->grouped, p->score, p->level, NULL, &calibration, NULL), NULL);
    assert_true(calibration.slope == 0.0 && isfinite(calibration.tau2));
    p->grouped.groups = 1;
    assert_int_equal(ga_calibrate(&p->grouped, p->score, p->level, NULL, &calibration, NULL), GA_ERR_DATA);
    p->grouped.groups = 0;
    assert_int_equal(ga_calibrate(&p->grouped, p->score, p->level, NULL, &calibration, NULL), GA_ERR_DATA);
    free(p);
}

static void ridge_finds_what_was_planted(void **state) {
    (void)state;
    planted *p = make_planted();
    ga_moments moments;
    ga_ridge ridge;
    uint8_t varies[FEATURES];
    test_ok(ga_moments_create(FEATURES, &moments, NULL), NULL);
    test_ok(ga_ridge_create(FEATURES, &ridge, NULL), NULL);
    test_ok(ga_ridge_moments(&p->grouped, p->features, NULL, &moments, varies, NULL), NULL);
    const uint8_t expected[FEATURES] = {1, 1, 0, 0};
    assert_memory_equal(varies, expected, sizeof expected);
    assert_true(fabsf(moments.center[1] - 5.0f) < 0.02f && fabsf(moments.scale[1] - 0.1f) < 0.01f);
    assert_true(moments.limit[3] == 0.0f);
    for (int i = 0; i < ROWS; i++) {
        ga_moments_apply(&moments, &p->features[i * FEATURES]);
        assert_true(p->features[i * FEATURES + 3] == 0.0f);
    }
    test_ok(ga_ridge_fit(
                &p->grouped, p->features, varies, equal_penalties, ga_compute_native(), NULL, &ridge, NULL),
        NULL);
    const double scale = (double)moments.scale[0], small = (double)moments.scale[1] / 0.1;
    assert_true(fabs((double)ridge.within[0] / scale - 0.5) < 0.03);
    assert_true(fabs((double)ridge.within[1] / small + 0.2) < 0.03);
    assert_true(ridge.within[2] == 0.0f && ridge.within[3] == 0.0f);
    assert_true(fabs((double)ridge.level[2] / (double)moments.scale[2] - 0.8) < 0.1);
    assert_true(ridge.level[0] == 0.0f && ridge.level[3] == 0.0f);
    float score, level;
    const float row[FEATURES] = {1.0f, 0.0f, 2.0f, 0.0f};
    ga_ridge_predict(&ridge, row, &score, &level);
    assert_true(score == ridge.within[0] && level == 2.0f * ridge.level[2]);
    ga_ridge_destroy(&ridge);
    ga_moments_destroy(&moments);
    ga_ridge_destroy(&ridge);
    free(p);
}

static void ridge_of_noise_is_nearly_nothing(void **state) {
    (void)state;
    planted *p = make_planted();
    ga_random random = test_random(4);
    ga_ridge ridge;
    const uint8_t varies[FEATURES] = {1, 1, 1, 1};
    test_ok(ga_ridge_create(FEATURES, &ridge, NULL), NULL);
    for (int i = 0; i < ROWS; i++) {
        p->target[i] = (float)ga_random_normal(&random);
        for (int k = 0; k < FEATURES; k++) {
            p->features[i * FEATURES + k] = (float)ga_random_normal(&random);
        }
    }
    test_ok(ga_ridge_fit(
                &p->grouped, p->features, varies, equal_penalties, ga_compute_native(), NULL, &ridge, NULL),
        NULL);
    for (int k = 0; k < FEATURES; k++) {
        assert_true(fabsf(ridge.within[k]) < 0.1f);
    }
    memset(p->features, 0, sizeof p->features); /* no information at all */
    test_ok(ga_ridge_fit(
                &p->grouped, p->features, varies, equal_penalties, ga_compute_native(), NULL, &ridge, NULL),
        NULL);
    for (int k = 0; k < FEATURES; k++) {
        assert_true(ridge.within[k] == 0.0f && ridge.level[k] == 0.0f);
    }
    ga_ridge_destroy(&ridge);
    free(p);
}

static void moments_clip_and_carry_over_maps(void **state) {
    (void)state;
    ga_moments moments;
    test_ok(ga_moments_create(2, &moments, NULL), NULL);
    moments.center[1] = 10.0f;
    moments.scale[1] = 2.0f;
    moments.limit[1] = 3.0f;
    float values[6] = {1.0f, 2.0f, 100.0f, 12.0f, -100.0f, 10.0f};
    ga_moments_apply_maps(&moments, 3, values);
    const float expected[6] = {1.0f, 2.0f, 100.0f, 1.0f, -3.0f, 0.0f};
    assert_memory_equal(values, expected, sizeof expected);
    ga_moments_destroy(&moments);
    assert_null(moments.center);
    ga_moments_destroy(&moments);
}

/* ---- JSON ---- */

static ga_json json_of(const char *text) {
    const ga_json json = {.text = text, .bytes = strlen(text)};
    return json;
}

static void json_strings_are_taken_strictly(void **state) {
    (void)state;
    const char *good[][2] = {{"\"\"", ""}, {" \t\n\"a b\"", "a b"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u00e9\\u20AC\\ud83d\\ude00\"", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\"\xc3\xa9\"", "\xc3\xa9"}};
    const char *bad[] = {"", "a", "\"", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\u0000\"",
        "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\n\"", "\"\xff\"", "\"\xc0\x80\"",
        "\"\xed\xa0\x80\"", "\"\xe2\x82\"", "\"\xf4\x90\x80\x80\"", "\"12345678\""};
    char text[32];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        ga_json json = json_of(good[i][0]);
        assert_true(ga_json_take_string(&json, text, sizeof text));
        assert_string_equal(text, good[i][1]);
        assert_true(ga_json_at_end(&json));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ga_json json = json_of(bad[i]);
        assert_false(ga_json_take_string(&json, text, 8));
    }
}

static void json_integers_are_taken_strictly(void **state) {
    (void)state;
    int64_t value, values[3];
    int32_t count;
    ga_json json = json_of(" 9007199254740992 0[ 1 ,2,3 ][]");
    assert_true(ga_json_take_integer(&json, &value));
    assert_true(value == (int64_t)1 << 53);
    assert_true(ga_json_take_integer(&json, &value) && value == 0);
    assert_true(ga_json_take_integers(&json, values, 3, &count) && count == 3 && values[2] == 3);
    assert_true(ga_json_take_integers(&json, values, 3, &count) && count == 0);
    const char *bad[] = {"", "-1", "+1", "01", "9007199254740993", "99999999999999999999999", "x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json = json_of(bad[i]);
        assert_false(ga_json_take_integer(&json, &value));
    }
    const char *bad_lists[] = {"[1,2,3,4]", "[1", "[1,]", "[,1]", "1", "[1.5]", "[1 2]"};
    for (size_t i = 0; i < sizeof bad_lists / sizeof bad_lists[0]; i++) {
        json = json_of(bad_lists[i]);
        assert_false(ga_json_take_integers(&json, values, 3, &count));
    }
}

static void json_quotes_what_it_reads(void **state) {
    (void)state;
    const char *text = "a \"quoted\" back\\slash\n\x01 \xc3\xa9";
    char quoted[128], back[64];
    const size_t bytes = ga_json_quoted_bytes(text);
    assert_true(ga_json_quote(text, quoted) == quoted + bytes);
    quoted[bytes] = '\0';
    ga_json json = json_of(quoted);
    assert_true(ga_json_take_string(&json, back, sizeof back));
    assert_string_equal(back, text);
}

/* ---- weights ---- */

/* Writes a safetensors file from a header and `data_bytes` bytes of data; claimed: the length it claims. */
static void write_file(
    const char *path, const char *header, size_t claimed, const void *data, size_t data_bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (size_t i = 0; i < 8; i++) {
        fputc((int)((uint64_t)claimed >> (8 * i) & 0xff), file);
    }
    fwrite(header, 1, strlen(header), file);
    fwrite(data, 1, data_bytes, file);
    fclose(file);
}

#define GOOD "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}"
#define AB(b) "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":" b "}"

static void damaged_files_are_refused_in_words(void **state) {
    (void)state;
    const char *headers[] = {"", "[]", "{", "{}", "null", GOOD "x", "{\"a\":1}", "{\"a\":{}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}",
        "{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,12]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[9007199254740992,9007199254740992],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"more\":1}}",
        AB("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"), /* overlap */
        AB("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}"),
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":["
        "1],"
        "\"data_offsets\":[4,8]}}",
        "{\"__metadata__\":{\"k\":1},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":"
        "[0,8]}}",
        "{\"__metadata__\":{},\"__metadata__\":{},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,"
        "8]}}",
        "{\"__metadata__\":[],\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"an array with a name of more than sixty-three bytes, which is longer than any of "
        "ours\":{\"dtype\":\"F32\","
        "\"shape\":[2],\"data_offsets\":[0,8]}}"};
    char *folder = test_folder_make(), *path = test_path(folder, "bad.safetensors");
    const float data[2] = {1.0f, 2.0f};
    ga_weights *weights = NULL;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        ga_error error = {0};
        write_file(path, headers[i], strlen(headers[i]), data, sizeof data);
        if (ga_weights_read(path, &weights, &error) != GA_ERR_FILE) {
            fail_msg("taken: %s", headers[i]);
        }
        assert_non_null(strstr(error.message, "bad.safetensors"));
        assert_null(weights);
    }
    const size_t claims[] = {
        0, 7, strlen(GOOD) - 1, strlen(GOOD) + 1, strlen(GOOD) + 9, SIZE_MAX, SIZE_MAX / 2};
    for (size_t i = 0; i < sizeof claims / sizeof claims[0]; i++) {
        write_file(path, GOOD, claims[i], data, sizeof data);
        assert_int_equal(ga_weights_read(path, &weights, NULL), GA_ERR_FILE);
    }
    write_file(path, GOOD, strlen(GOOD), data, sizeof data);
    test_ok(ga_weights_read(path, &weights, NULL), NULL);
    assert_memory_equal(ga_weights_find(weights, "a")->values, data, sizeof data);
    ga_weights_destroy(&weights);
    assert_int_equal(ga_weights_read(folder, &weights, NULL), GA_ERR_FILE);
    assert_int_equal(ga_weights_read("/nonexistent/probe", &weights, NULL), GA_ERR_FILE);
    free(path);
    test_folder_remove(folder);
}

static void other_dtypes_are_converted(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "mixed.safetensors");
    const char *header = "{\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},"
                         "\"d\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[2,10]},"
                         "\"b\":{\"dtype\":\"BF16\",\"shape\":[1,1],\"data_offsets\":[10,12]},"
                         "\"e\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[12,12]}} ";
    unsigned char data[12] = {0x00, 0x3e, 0, 0, 0, 0, 0, 0, 0x04, 0xc0, 0x40, 0x40};
    ga_weights *weights = NULL;
    ga_error error = {0};
    write_file(path, header, strlen(header), data, sizeof data);
    test_ok(ga_weights_read(path, &weights, &error), &error);
    assert_true(ga_weights_find(weights, "h")->values[0] == 1.5f);
    assert_true(ga_weights_find(weights, "d")->values[0] == -2.5f);
    assert_int_equal(ga_weights_find(weights, "d")->dims, 0);
    assert_true(ga_weights_find(weights, "b")->values[0] == 3.0f);
    assert_int_equal(ga_weights_find(weights, "e")->count, 0);
    ga_weights_destroy(&weights);
    free(path);
    test_folder_remove(folder);
}

static void weights_come_back_as_written(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "w.safetensors");
    ga_weights *weights = NULL, *back = NULL;
    const int64_t shape[3] = {2, 1, 2}, bad_shape[1] = {-1};
    const float values[4] = {1.0f, -0.0f, 1e-42f, INFINITY};
    ga_error error = {0};
    test_ok(ga_weights_create(&weights, &error), &error);
    test_ok(ga_weights_set_text(weights, "model", "first", &error), &error);
    test_ok(ga_weights_set_text(weights, "model", "a \"quoted\"\\\n\x02 \xc3\xa9", &error), &error);
    test_ok(ga_weights_add(weights, "x", 3, shape, values, &error), &error);
    test_ok(ga_weights_add(weights, "y", 1, shape, values, &error), &error);
    assert_int_equal(ga_weights_add(weights, "x", 3, shape, values, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_weights_add(weights, "z", 1, bad_shape, values, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(ga_weights_add(weights, "__metadata__", 3, shape, values, NULL), GA_ERR_ARGUMENT);
    test_ok(ga_weights_write(weights, path, &error), &error);
    test_ok(ga_weights_read(path, &back, &error), &error);
    assert_string_equal(ga_weights_text(back, "model"), ga_weights_text(weights, "model"));
    assert_null(ga_weights_text(back, "other"));
    assert_null(ga_weights_find(back, "z"));
    const ga_weights_array *array = ga_weights_find(back, "x");
    assert_int_equal(array->dims, 3);
    assert_int_equal(array->shape[2], 2);
    assert_memory_equal(array->values, values, sizeof values);
    char *temporary = test_path(folder, "w.safetensors.tmp");
    assert_null(fopen(temporary, "rb"));
    assert_int_equal(ga_weights_write(weights, "/nonexistent/folder/w", &error), GA_ERR_IO);
    assert_non_null(strstr(error.message, "/nonexistent/folder/w"));
    ga_weights_destroy(&weights);
    ga_weights_destroy(&back);
    ga_weights_destroy(&back);
    free(temporary);
    free(path);
    test_folder_remove(folder);
}

/* ---- the whole probe ---- */

/* A probe with weights of every kind filled in. */
static ga_probe *make_probe(ga_probe_kind kind, bool maps) {
    const ga_feature_schema schema = make_schema(8, 8, maps);
    ga_random random = test_random(5);
    ga_probe *probe = NULL;
    test_ok(ga_probe_create(&schema, ga_compute_native(), &probe, NULL), NULL);
    for (int32_t i = 0; i < probe->inputs.pooled_count; i++) {
        probe->pooled_moments.center[i] = (float)ga_random_normal(&random);
        probe->pooled_moments.scale[i] = (float)(0.5 + ga_random_uniform(&random));
        probe->pooled_moments.limit[i] = i % 3 == 0 ? INFINITY : 4.0f;
        probe->ridge.within[i] = (float)ga_random_normal(&random);
        probe->ridge.level[i] = (float)ga_random_normal(&random);
    }
    if (kind == GA_PROBE_NETWORK) {
        const ga_network_options options = ga_network_options_default();
        test_ok(ga_probe_add_network(probe, &options, NULL), NULL);
        ga_network_initialise(&probe->network, 8, probe->parameters);
        for (int64_t i = 0; i < probe->network.parameter_count; i++) {
            probe->parameters[i] += 0.03f * (float)ga_random_normal(&random);
        }
    }
    ga_probe_info *info = &probe->info;
    info->kind = kind;
    info->version = 4000000000u;
    strcpy(info->model, "a \"model\" \xc3\xa9");
    info->step_count = 2;
    info->steps[0] = 3;
    info->steps[1] = 5;
    info->steps_total = 10;
    info->sigma_low = 0.4;
    info->sigma_high = 0.7;
    info->trained_rows = 1234567890123;
    info->trained_groups = 17;
    info->held_rows = 5;
    info->held_groups = 3;
    info->spearman = 0.1 + 0.2;
    info->spearman_low = -0.25;
    info->spearman_high = 1.0 / 3.0;
    info->calibration = (ga_calibration){.slope = 0.7, .intercept = -2.0, .sigma_r2 = 0.04, .tau2 = 1e-300};
    info->residual_variance = 0.04;
    probe->reward_scale = 0.2;
    return probe;
}

#define BLOCK_ROWS 150

static ga_half *make_block(const ga_feature_schema *schema, ga_feature_block *block) {
    ga_random random = test_random(6);
    const size_t count = BLOCK_ROWS * (size_t)schema->values_per_row;
    ga_half *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = ga_half_from_float((float)ga_random_normal(&random));
    }
    *block = (ga_feature_block){.schema = schema, .rows = BLOCK_ROWS, .values = values};
    return values;
}

static void check_saved_probe(ga_probe_kind kind, bool maps) {
    char *folder = test_folder_make(), *path = test_path(folder, "probe.safetensors");
    ga_probe *probe = make_probe(kind, maps), *back = NULL;
    const ga_feature_schema schema = probe->info.schema;
    ga_feature_block block;
    ga_half *values = make_block(&schema, &block);
    values[77 * schema.values_per_row + 2] = 0x7e00;
    float mean[BLOCK_ROWS], variance[BLOCK_ROWS], mean_back[BLOCK_ROWS];
    ga_error error = {0};
    test_ok(ga_probe_save(probe, path, &error), &error);
    test_ok(ga_probe_open(path, ga_compute_native(), &back, &error), &error);
    test_ok(ga_probe_score(probe, &block, 0.5, mean, variance, &error), &error);
    test_ok(ga_probe_score(back, &block, 0.5, mean_back, NULL, &error), &error);
    for (int i = 0; i < BLOCK_ROWS; i++) {
        assert_true(isnan(mean[i]) == (i == 77));
        assert_true(isnan(variance[i]) == (i == 77));
        assert_true(i == 77 || variance[i] == 0.04f);
        assert_true(i == 77 || memcmp(&mean[i], &mean_back[i], sizeof(float)) == 0);
    }
    const ga_probe_info *a = ga_probe_get_info(probe), *b = ga_probe_get_info(back);
    assert_true(a->kind == b->kind && a->version == b->version && strcmp(a->model, b->model) == 0);
    assert_true(ga_schema_equal(&a->schema, &b->schema));
    assert_true(b->step_count == 2 && b->steps[1] == 5 && b->steps_total == 10);
    assert_true(a->sigma_low == b->sigma_low && a->sigma_high == b->sigma_high);
    assert_true(a->trained_rows == b->trained_rows && a->trained_groups == b->trained_groups);
    assert_true(a->held_rows == b->held_rows && a->held_groups == b->held_groups);
    assert_true(a->spearman == b->spearman && a->spearman_high == b->spearman_high);
    assert_true(memcmp(&a->calibration, &b->calibration, sizeof a->calibration) == 0);
    ga_probe_set_version(back, 2);
    assert_int_equal(ga_probe_get_info(back)->version, 2);
    ga_probe_close(&probe);
    ga_probe_close(&back);
    ga_probe_close(&back);
    free(values);
    free(path);
    test_folder_remove(folder);
}

static void saved_probes_score_bit_for_bit(void **state) {
    (void)state;
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        check_saved_probe((ga_probe_kind)kind, true);
        check_saved_probe((ga_probe_kind)kind, false);
    }
    assert_string_equal(ga_probe_kind_name(GA_PROBE_NETWORK), "network");
    assert_string_equal(ga_probe_kind_name((ga_probe_kind)9), "unknown");
}

static void a_row_scores_the_same_by_definition(void **state) {
    (void)state;
    ga_probe *probe = make_probe(GA_PROBE_RIDGE, false);
    const ga_feature_schema schema = probe->info.schema;
    ga_half values[4];
    const float row[4] = {0.5f, -1.0f, 0.25f, 2.0f};
    ga_half_from_float_array(row, values, 4);
    const ga_feature_block block = {.schema = &schema, .rows = 1, .values = values};
    double expected = -2.0;
    for (int i = 0; i < 5; i++) {
        const double value = i < 4 ? (double)row[i] : log(0.5);
        double standard =
            (value - (double)probe->pooled_moments.center[i]) / (double)probe->pooled_moments.scale[i];
        const double limit = (double)probe->pooled_moments.limit[i];
        standard = fmin(fmax(standard, -limit), limit);
        expected += (0.7 * (double)probe->ridge.within[i] + (double)probe->ridge.level[i]) * standard;
    }
    float mean, variance;
    test_ok(ga_probe_score(probe, &block, 0.5, &mean, &variance, NULL), NULL);
    assert_true(fabs((double)mean - expected) < 1e-4);
    ga_probe_close(&probe);
}

static void foreign_features_and_noise_levels_are_refused(void **state) {
    (void)state;
    ga_probe *probe = make_probe(GA_PROBE_RIDGE, true);
    ga_feature_schema schema = probe->info.schema;
    ga_feature_block block;
    ga_half *values = make_block(&schema, &block);
    float mean[BLOCK_ROWS];
    ga_error error = {0};
    test_ok(ga_probe_score(probe, &block, 0.37, mean, NULL, NULL), NULL);
    const double bad[] = {0.35, 0.78, (double)NAN, -1.0, (double)INFINITY};
    for (int i = 0; i < 5; i++) {
        ga_error_clear(&error);
        assert_int_equal(ga_probe_score(probe, &block, bad[i], mean, NULL, &error), GA_ERR_DATA);
        assert_non_null(strstr(error.message, "0.4 to 0.7"));
    }
    schema.id++;
    assert_int_equal(ga_probe_score(probe, &block, 0.5, mean, NULL, NULL), GA_ERR_ARGUMENT);
    schema.id--;
    block.rows = 0;
    test_ok(ga_probe_score(probe, &block, 0.5, mean, NULL, NULL), NULL);
    block.rows = -1;
    assert_int_equal(ga_probe_score(probe, &block, 0.5, mean, NULL, NULL), GA_ERR_ARGUMENT);
    free(values);
    ga_probe_close(&probe);
}

static void a_probe_for_something_else_is_refused_by_name(void **state) {
    (void)state;
    ga_probe *probe = make_probe(GA_PROBE_RIDGE, true);
    strcpy(probe->info.model, "flux");
    ga_feature_schema schema = probe->info.schema;
    ga_probe_requirement need = {.schema = &schema, .model = "flux", .step = 5, .steps_total = 10};
    ga_error error = {0};
    test_ok(ga_probe_match(probe, &need, &error), &error);
    need.model = "sd3";
    assert_int_equal(ga_probe_match(probe, &need, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "\"flux\""));
    assert_non_null(strstr(error.message, "\"sd3\""));
    need.model = "flux";
    need.step = 4;
    ga_error_clear(&error);
    assert_int_equal(ga_probe_match(probe, &need, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "step 3 of 10"));
    assert_non_null(strstr(error.message, "step 4 of 10"));
    need.step = 3;
    need.steps_total = 20;
    assert_int_equal(ga_probe_match(probe, &need, NULL), GA_ERR_FILE);
    need.steps_total = 10;
    schema.inputs[0].channels = 1;
    ga_error_clear(&error);
    assert_int_equal(ga_probe_match(probe, &need, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "attention:2x8x8"));
    assert_non_null(strstr(error.message, "attention:1x8x8"));
    ga_probe_close(&probe);
}

/* Rewrites one text of a saved probe. */
static void save_with_text(const char *from, const char *to, const char *key, const char *value) {
    ga_weights *weights = NULL;
    test_ok(ga_weights_read(from, &weights, NULL), NULL);
    test_ok(ga_weights_set_text(weights, key, value, NULL), NULL);
    test_ok(ga_weights_write(weights, to, NULL), NULL);
    ga_weights_destroy(&weights);
}

static void each_wrong_text_of_a_probe_file_is_refused(void **state) {
    (void)state;
    const char *bad[][2] = {{"format", "other.1"}, {"kind", "forest"}, {"version", "-1"}, {"version", "1x"},
        {"version", "4294967296"}, {"steps", ""}, {"steps", "3,"}, {"steps", "11"},
        {"steps", "1,2,3,4,5,6,7,8,9"}, {"steps_total", "0"}, {"schema", "x0:1x8x8@0"},
        {"schema", "nonsense"}, {"schema_id", "0"}, {"schema_id", "0000000000000000"},
        {"schema_id", "zzzzzzzzzzzzzzzz"}, {"sigma_low", "nan"}, {"sigma_high", "inf"},
        {"trained_rows", "-4"}, {"calibration_slope", "-0.5"}, {"sigma_r2", "-1"}, {"tau2", "1,5"},
        {"tau2", ""}, {"reward_scale", "wide"}, {"variance_factor", "-1"}, {"variance_floor", "-0.1"},
        {"architecture", "none"}, {"architecture", "tower"}, {"channels", "24,,48"}, {"channels", "0"},
        {"channels", "24,32,48,64,80,96"}, {"channels", "9999999"}, {"hidden", "0"}, {"hidden", "1000000"},
        {"blocks_per_level", "99"}, {"condition_width", "-3"}, {"heteroscedastic", "2"},
        {"target_count", "0"}, {"target_count", "9"}, {"target_count", "2"}, {"target0_name", ""},
        {"schema", "attention:700x38x38@0;x0:1x38x38@1010800"}};
    char *folder = test_folder_make(), *path = test_path(folder, "p.safetensors"),
         *other = test_path(folder, "q.safetensors");
    ga_probe *probe = make_probe(GA_PROBE_NETWORK, true), *back = NULL;
    test_ok(ga_probe_save(probe, path, NULL), NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ga_error error = {0};
        save_with_text(path, other, bad[i][0], bad[i][1]);
        if (ga_probe_open(other, ga_compute_native(), &back, &error) != GA_ERR_FILE) {
            fail_msg("taken: %s = %s", bad[i][0], bad[i][1]);
        }
        assert_non_null(strstr(error.message, "q.safetensors"));
        assert_null(back);
    }
    ga_probe_close(&probe);
    free(path);
    free(other);
    test_folder_remove(folder);
}

/* Two runs, and 64-bit keys of prompts that no float holds as they are. */
static void give_learned(ga_probe *probe) {
    const ga_learned_run runs[2] = {{.id = "run \"one\", 1",
                                        .oldest_update = 3,
                                        .newest_update = 9,
                                        .newest_row = (UINT64_C(5) << 40) + 7,
                                        .witness_count = 2,
                                        .witness = {{UINT64_MAX, 1}, {0, UINT64_MAX - 1}}},
        {.id = "two", .oldest_update = 0, .newest_update = UINT32_MAX}};
    uint64_t *held = malloc(3 * sizeof *held);
    assert_non_null(held);
    held[0] = 1;
    held[1] = UINT64_C(0x123456789abcdef1);
    held[2] = UINT64_MAX;
    ga_learned_set(&probe->learned, runs, 2, held, 3);
}

static void what_it_has_learned_from_comes_back(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "p.safetensors");
    ga_probe *probe = make_probe(GA_PROBE_RIDGE, false), *back = NULL;
    assert_null(ga_probe_get_learned(probe));
    test_ok(ga_probe_save(probe, path, NULL), NULL);
    test_ok(ga_probe_open(path, ga_compute_native(), &back, NULL), NULL);
    assert_null(ga_probe_get_learned(back)); /* as in files of programs before this one */
    ga_probe_close(&back);
    give_learned(probe);
    test_ok(ga_probe_save(probe, path, NULL), NULL);
    test_ok(ga_probe_open(path, ga_compute_native(), &back, NULL), NULL);
    const ga_learned *learned = ga_probe_get_learned(back);
    assert_non_null(learned);
    assert_int_equal(learned->run_count, 2);
    assert_memory_equal(learned->runs, probe->learned.runs, 2 * sizeof *learned->runs);
    assert_int_equal(learned->held_count, 3);
    assert_memory_equal(learned->held, probe->learned.held, 3 * sizeof *learned->held);
    assert_true(ga_learned_has(learned, 0, 3, 5) && ga_learned_has(learned, 0, 9, 5));
    assert_false(ga_learned_has(learned, 0, 2, 5) || ga_learned_has(learned, 0, 10, 5));
    assert_false(ga_learned_has(learned, 0, 4, UINT64_C(0x123456789abcdef1)));
    assert_true(ga_learned_has(learned, 1, 10, 5));
    ga_learned_set(&probe->learned, learned->runs, GA_LEARNED_RUNS_MAX + 1, NULL, 0);
    assert_null(ga_probe_get_learned(probe)); /* too many to name: it says nothing */
    ga_probe_close(&probe);
    ga_probe_close(&back);
    free(path);
    test_folder_remove(folder);
}

static void damage_to_what_it_has_learned_from_is_refused(void **state) {
    (void)state;
    const char *bad[][2] = {{"learned_runs", "9"}, {"learned_runs", "0"}, {"learned_runs", "3"},
        {"learned0_oldest_update", "-1"}, {"learned0_newest_update", "4294967296"},
        {"learned1_newest_row", ""}, {"learned0_witnesses", "1"}, {"learned0_witnesses", "1:2;3:4"},
        {"learned0_witnesses", "1:2,3:4,5:6,7:8,9:a"},
        {"learned0_run",
            "a name of more than sixty-three bytes, which no record of this program could have"}};
    char *folder = test_folder_make(), *path = test_path(folder, "p.safetensors"),
         *other = test_path(folder, "q.safetensors");
    ga_probe *probe = make_probe(GA_PROBE_RIDGE, false), *back = NULL;
    give_learned(probe);
    test_ok(ga_probe_save(probe, path, NULL), NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ga_error error = {0};
        save_with_text(path, other, bad[i][0], bad[i][1]);
        if (ga_probe_open(other, ga_compute_native(), &back, &error) != GA_ERR_FILE) {
            fail_msg("taken: %s = %s", bad[i][0], bad[i][1]);
        }
        assert_non_null(strstr(error.message, "q.safetensors"));
    }
    probe->learned.held[0] = probe->learned.held[1]; /* not ascending */
    test_ok(ga_probe_save(probe, path, NULL), NULL);
    assert_int_equal(ga_probe_open(path, ga_compute_native(), &back, NULL), GA_ERR_FILE);
    ga_probe_close(&probe);
    free(path);
    free(other);
    test_folder_remove(folder);
}

static void each_wrong_array_of_a_probe_file_is_refused(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "p.safetensors");
    ga_probe *back = NULL;
    for (int fault = 0; fault < 6; fault++) {
        ga_probe *probe = make_probe(GA_PROBE_NETWORK, true);
        switch (fault) {
        case 0: probe->pooled_moments.scale[3] = 0.0f; break;
        case 1: probe->ridge.within[0] = NAN; break;
        case 2: probe->pooled_moments.limit[1] = -1.0f; break;
        case 3: probe->parameters[7] = INFINITY; break;
        case 4: probe->network.tensors[4].shape[0]++; break; /* claims one output too many */
        default: strcpy(probe->network.tensors[0].name, "renamed"); break;
        }
        if (fault == 4) {
            probe->network.tensors[4].dims = 1;
            probe->network.tensors[4].shape[0] = 1;
        }
        test_ok(ga_probe_save(probe, path, NULL), NULL);
        ga_error error = {0};
        assert_int_equal(ga_probe_open(path, ga_compute_native(), &back, &error), GA_ERR_FILE);
        assert_non_null(strstr(error.message, "p.safetensors"));
        assert_null(back);
        ga_probe_close(&probe);
    }
    free(path);
    test_folder_remove(folder);
}

static size_t read_whole(const char *path, char **bytes) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    const size_t count = (size_t)ftell(file);
    rewind(file);
    *bytes = malloc(count);
    assert_int_equal(fread(*bytes, 1, count, file), count);
    fclose(file);
    return count;
}

static void write_whole(const char *path, const char *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

/* Cut anywhere: refused. One byte changed anywhere in the header: refused or another finite probe, never a
 * crash. */
static void cut_and_scratched_files_do_no_harm(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "p.safetensors"), *bytes = NULL;
    ga_probe *probe = make_probe(GA_PROBE_RIDGE, false), *back = NULL;
    test_ok(ga_probe_save(probe, path, NULL), NULL);
    const size_t count = read_whole(path, &bytes);
    for (size_t cut = 0; cut < count; cut += cut < 64 ? 1 : 13) {
        write_whole(path, bytes, cut);
        assert_int_equal(ga_probe_open(path, ga_compute_native(), &back, NULL), GA_ERR_FILE);
    }
    ga_random random = test_random(7);
    for (int round = 0; round < 400; round++) {
        const size_t at = ga_random_below(&random, (uint32_t)count);
        const char before = bytes[at];
        bytes[at] = (char)(unsigned char)ga_random_below(&random, 256);
        write_whole(path, bytes, count);
        const ga_status status = ga_probe_open(path, ga_compute_native(), &back, NULL);
        assert_true(status == GA_ERR_FILE || (status == GA_OK && back != NULL));
        ga_probe_close(&back);
        bytes[at] = before;
    }
    free(bytes);
    ga_probe_close(&probe);
    free(path);
    test_folder_remove(folder);
}

static void files_do_not_depend_on_the_locale(void **state) {
    (void)state;
    char *folder = test_folder_make(), *path = test_path(folder, "p.safetensors");
    const char *locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "C"}; /* the last is always there */
    for (size_t i = 0; i < 3; i++) {
        if (setlocale(LC_ALL, locales[i]) == NULL) {
            continue;
        }
        ga_probe *probe = make_probe(GA_PROBE_RIDGE, true), *back = NULL;
        test_ok(ga_probe_save(probe, path, NULL), NULL);
        ga_weights *weights = NULL;
        test_ok(ga_weights_read(path, &weights, NULL), NULL);
        assert_string_equal(ga_weights_text(weights, "calibration_intercept"), "-2");
        assert_string_equal(ga_weights_text(weights, "within_spearman_low"), "-0.25");
        test_ok(ga_probe_open(path, ga_compute_native(), &back, NULL), NULL);
        assert_true(back->info.spearman_low == -0.25);
        ga_weights_destroy(&weights);
        ga_probe_close(&probe);
        ga_probe_close(&back);
    }
    setlocale(LC_ALL, "C");
    free(path);
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pooled_statistics_of_a_known_map),
        cmocka_unit_test(wide_scalars_are_folded),
        cmocka_unit_test(impossible_schemas_are_refused),
        cmocka_unit_test(layout_text_comes_back_or_is_refused),
        cmocka_unit_test(calibration_finds_what_was_planted),
        cmocka_unit_test(ridge_finds_what_was_planted),
        cmocka_unit_test(ridge_of_noise_is_nearly_nothing),
        cmocka_unit_test(moments_clip_and_carry_over_maps),
        cmocka_unit_test(json_strings_are_taken_strictly),
        cmocka_unit_test(json_integers_are_taken_strictly),
        cmocka_unit_test(json_quotes_what_it_reads),
        cmocka_unit_test(damaged_files_are_refused_in_words),
        cmocka_unit_test(other_dtypes_are_converted),
        cmocka_unit_test(weights_come_back_as_written),
        cmocka_unit_test(saved_probes_score_bit_for_bit),
        cmocka_unit_test(a_row_scores_the_same_by_definition),
        cmocka_unit_test(foreign_features_and_noise_levels_are_refused),
        cmocka_unit_test(a_probe_for_something_else_is_refused_by_name),
        cmocka_unit_test(each_wrong_text_of_a_probe_file_is_refused),
        cmocka_unit_test(what_it_has_learned_from_comes_back),
        cmocka_unit_test(damage_to_what_it_has_learned_from_is_refused),
        cmocka_unit_test(each_wrong_array_of_a_probe_file_is_refused),
        cmocka_unit_test(cut_and_scratched_files_do_no_harm),
        cmocka_unit_test(files_do_not_depend_on_the_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
