/* A probe as a file: safetensors arrays, and everything it is bound to as text beside them. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe/parts.h"
#include "probe/weights.h"

#define FORMAT "grpo_accel.probe.2"

/* What programs before this one wrote: one target, one architecture, no variance of the network's own. */
#define FORMAT_FIRST "grpo_accel.probe.1"

/* ---- texts ---- */

/* A number of the info that stands in the file under `key`; one of the pointers is set. */
typedef struct number_field {
    const char *key;
    double *real;
    int64_t *whole;
} number_field;

#define NUMBER_FIELDS 14

static void list_numbers(ga_probe_info *info, number_field fields[NUMBER_FIELDS]) {
    const number_field list[NUMBER_FIELDS] = {
        {"sigma_low", &info->sigma_low, NULL},
        {"sigma_high", &info->sigma_high, NULL},
        {"trained_rows", NULL, &info->trained_rows},
        {"trained_groups", NULL, &info->trained_groups},
        {"held_rows", NULL, &info->held_rows},
        {"held_groups", NULL, &info->held_groups},
        {"within_spearman", &info->spearman, NULL},
        {"within_spearman_low", &info->spearman_low, NULL},
        {"within_spearman_high", &info->spearman_high, NULL},
        {"calibration_slope", &info->calibration.slope, NULL},
        {"calibration_intercept", &info->calibration.intercept, NULL},
        {"sigma_r2", &info->calibration.sigma_r2, NULL},
        {"tau2", &info->calibration.tau2, NULL},
        {"residual_variance", &info->residual_variance, NULL},
    };
    memcpy(fields, list, sizeof list);
}

static ga_status set_integer(ga_weights *weights, const char *key, long long value, ga_error *error) {
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    return ga_weights_set_text(weights, key, text, error);
}

/* 17 digits: the same double comes back. */
static ga_status set_double(ga_weights *weights, const char *key, double value, ga_error *error) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    return ga_weights_set_text(weights, key, text, error);
}

static ga_status missing(const char *path, const char *key, ga_error *error) {
    return GA_FAIL(error, GA_ERR_FILE, "%s: \"%s\" is missing or wrong; the file is no probe of this program",
        path, key);
}

static ga_status get_text(
    const ga_weights *weights, const char *path, const char *key, const char **text_out, ga_error *error) {
    *text_out = ga_weights_text(weights, key);
    return *text_out == NULL ? missing(path, key, error) : GA_OK;
}

static ga_status get_integer(const ga_weights *weights, const char *path, const char *key, int64_t low,
    int64_t high, int64_t *value_out, ga_error *error) {
    const char *text;
    char *end;
    GA_TRY(get_text(weights, path, key, &text, error));
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || value < low || value > high) {
        return missing(path, key, error);
    }
    *value_out = value;
    return GA_OK;
}

static ga_status get_double(
    const ga_weights *weights, const char *path, const char *key, double *value_out, ga_error *error) {
    const char *text;
    char *end;
    GA_TRY(get_text(weights, path, key, &text, error));
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value)) {
        return missing(path, key, error);
    }
    *value_out = value;
    return GA_OK;
}

/* A finite number that is not negative. */
static ga_status get_factor(
    const ga_weights *weights, const char *path, const char *key, double *value_out, ga_error *error) {
    double value = 0.0;
    GA_TRY(get_double(weights, path, key, &value, error));
    if (value < 0.0) {
        return missing(path, key, error);
    }
    *value_out = value;
    return GA_OK;
}

static ga_status put_steps(ga_weights *weights, const ga_probe_info *info, ga_error *error) {
    char text[GA_PROBE_STEPS_MAX * 12 + 1] = "";
    size_t used = 0;
    for (int32_t i = 0; i < info->step_count; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", i > 0 ? "," : "", info->steps[i]);
    }
    return ga_weights_set_text(weights, "steps", text, error);
}

static ga_status put_network(ga_weights *weights, const ga_probe *probe, ga_error *error) {
    const ga_network_options *options = &probe->info.network;
    char text[GA_NETWORK_LEVELS_MAX * 12 + 1] = "";
    size_t used = 0;
    for (int32_t i = 0; i < options->levels; i++) {
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%d", i > 0 ? "," : "", options->channels[i]);
    }
    GA_TRY(ga_weights_set_text(
        weights, "architecture", ga_network_architecture_name(options->architecture), error));
    GA_TRY(ga_weights_set_text(weights, "condition", ga_network_condition_name(options->condition), error));
    GA_TRY(ga_weights_set_text(weights, "channels", text, error));
    GA_TRY(set_integer(weights, "blocks_per_level", options->blocks_per_level, error));
    GA_TRY(set_integer(weights, "hidden", options->hidden, error));
    GA_TRY(set_integer(weights, "condition_width", options->condition_width, error));
    GA_TRY(set_integer(weights, "heteroscedastic", options->heteroscedastic ? 1 : 0, error));
    return set_double(weights, "variance_floor", probe->variance_floor, error);
}

/* The numbers of a target beyond the first; `target` counts from 1. */
#define TARGET_NUMBERS 6

typedef struct target_number {
    char key[40];
    double *value;
} target_number;

static void list_target(ga_probe_target *values, int32_t target, target_number numbers[TARGET_NUMBERS]) {
    const char *const parts[TARGET_NUMBERS] = {
        "scale", "slope", "intercept", "sigma_r2", "tau2", "variance_factor"};
    double *const places[TARGET_NUMBERS] = {&values->scale, &values->calibration.slope,
        &values->calibration.intercept, &values->calibration.sigma_r2, &values->calibration.tau2,
        &values->calibration.variance_factor};
    for (int i = 0; i < TARGET_NUMBERS; i++) {
        snprintf(numbers[i].key, sizeof numbers[i].key, "target%d_%s", target, parts[i]);
        numbers[i].value = places[i];
    }
}

static ga_status put_targets(ga_weights *weights, const ga_probe *probe, ga_error *error) {
    const ga_probe_info *info = &probe->info;
    char key[40];
    GA_TRY(set_integer(weights, "target_count", info->target_count, error));
    for (int32_t i = 0; i < info->target_count; i++) {
        snprintf(key, sizeof key, "target%d_name", i);
        GA_TRY(ga_weights_set_text(weights, key, info->target_names[i], error));
    }
    for (int32_t i = 1; i < info->target_count; i++) {
        target_number numbers[TARGET_NUMBERS];
        list_target(&probe->others[i - 1], i, numbers);
        for (int k = 0; k < TARGET_NUMBERS; k++) {
            GA_TRY(set_double(weights, numbers[k].key, *numbers[k].value, error));
        }
    }
    return GA_OK;
}

static ga_status put_texts(ga_weights *weights, const ga_probe *probe, ga_error *error) {
    const ga_probe_info *info = &probe->info;
    char text[GA_SCHEMA_TEXT_BYTES];
    GA_TRY(ga_weights_set_text(weights, "format", FORMAT, error));
    GA_TRY(ga_weights_set_text(weights, "kind", ga_probe_kind_name(info->kind), error));
    GA_TRY(ga_weights_set_text(weights, "model", info->model, error));
    GA_TRY(set_integer(weights, "version", (long long)info->version, error));
    GA_TRY(put_steps(weights, info, error));
    GA_TRY(set_integer(weights, "steps_total", info->steps_total, error));
    ga_schema_to_text(&info->schema, text);
    GA_TRY(ga_weights_set_text(weights, "schema", text, error));
    snprintf(text, sizeof text, "%016llx", (unsigned long long)info->schema.id);
    GA_TRY(ga_weights_set_text(weights, "schema_id", text, error));
    GA_TRY(set_double(weights, "reward_scale", probe->reward_scale, error));
    GA_TRY(set_double(weights, "variance_factor", info->calibration.variance_factor, error));
    GA_TRY(put_targets(weights, probe, error));
    if (info->kind == GA_PROBE_NETWORK) {
        GA_TRY(put_network(weights, probe, error));
    }
    ga_probe_info copy = *info;
    number_field fields[NUMBER_FIELDS];
    list_numbers(&copy, fields);
    for (int i = 0; i < NUMBER_FIELDS; i++) {
        GA_TRY(fields[i].whole != NULL ? set_integer(weights, fields[i].key, *fields[i].whole, error)
                                       : set_double(weights, fields[i].key, *fields[i].real, error));
    }
    return GA_OK;
}

static ga_status get_kind(
    const ga_weights *weights, const char *path, ga_probe_kind *kind_out, ga_error *error) {
    const char *text;
    GA_TRY(get_text(weights, path, "kind", &text, error));
    for (int kind = 0; kind < GA_PROBE_KIND_COUNT; kind++) {
        if (strcmp(text, ga_probe_kind_name((ga_probe_kind)kind)) == 0) {
            *kind_out = (ga_probe_kind)kind;
            return GA_OK;
        }
    }
    return missing(path, "kind", error);
}

static ga_status get_steps(
    const ga_weights *weights, const char *path, ga_probe_info *info, ga_error *error) {
    const char *text;
    int64_t total;
    GA_TRY(get_text(weights, path, "steps", &text, error));
    GA_TRY(get_integer(weights, path, "steps_total", 1, 100000, &total, error));
    info->steps_total = (int32_t)total;
    info->step_count = 0;
    do {
        char *end;
        const long step = strtol(text, &end, 10);
        if (end == text || step < 0 || step > total || info->step_count == GA_PROBE_STEPS_MAX ||
            (*end != ',' && *end != '\0') || (*end == ',' && end[1] == '\0')) {
            return missing(path, "steps", error);
        }
        info->steps[info->step_count++] = (int32_t)step;
        text = *end == ',' ? end + 1 : end;
    } while (*text != '\0');
    return GA_OK;
}

static ga_status get_schema(
    const ga_weights *weights, const char *path, ga_feature_schema *schema_out, ga_error *error) {
    const char *layout, *id_text;
    char *end;
    GA_TRY(get_text(weights, path, "schema", &layout, error));
    GA_TRY(get_text(weights, path, "schema_id", &id_text, error));
    const unsigned long long id = strtoull(id_text, &end, 16);
    if (strlen(id_text) != 16 || *end != '\0' || ga_schema_from_text(layout, id, schema_out, NULL) != GA_OK) {
        return missing(path, "schema", error);
    }
    return GA_OK;
}

/* "24,32,48": whole numbers without gap; false for any other text. */
static bool take_list(const char *text, int32_t capacity, int32_t *values, int32_t *count_out) {
    int32_t count = 0;
    do {
        char *end;
        const long value = strtol(text, &end, 10);
        if (end == text || value < 1 || value > INT32_MAX || count == capacity ||
            (*end != ',' && *end != '\0') || (*end == ',' && end[1] == '\0')) {
            return false;
        }
        values[count++] = (int32_t)value;
        text = *end == ',' ? end + 1 : end;
    } while (*text != '\0');
    *count_out = count;
    return true;
}

/* What format 1 meant without saying so. */
static ga_network_options first_options(void) {
    ga_network_options options = ga_network_options_default();
    options.architecture = GA_NETWORK_FIRST;
    options.condition_width = 16;
    options.heteroscedastic = false;
    return options;
}

static ga_status get_network(
    const ga_weights *weights, const char *path, ga_network_options *options, ga_error *error) {
    const char *architecture, *condition_place, *channels;
    int64_t blocks, hidden, condition, heteroscedastic;
    GA_TRY(get_text(weights, path, "architecture", &architecture, error));
    GA_TRY(get_text(weights, path, "condition", &condition_place, error));
    GA_TRY(get_text(weights, path, "channels", &channels, error));
    GA_TRY(get_integer(weights, path, "blocks_per_level", 1, INT32_MAX, &blocks, error));
    GA_TRY(get_integer(weights, path, "hidden", 1, INT32_MAX, &hidden, error));
    GA_TRY(get_integer(weights, path, "condition_width", 1, INT32_MAX, &condition, error));
    GA_TRY(get_integer(weights, path, "heteroscedastic", 0, 1, &heteroscedastic, error));
    *options = ga_network_options_default();
    if (!ga_network_architecture_from_name(architecture, &options->architecture)) {
        return missing(path, "architecture", error);
    }
    if (!ga_network_condition_from_name(condition_place, &options->condition)) {
        return missing(path, "condition", error);
    }
    if (!take_list(channels, GA_NETWORK_LEVELS_MAX, options->channels, &options->levels)) {
        return missing(path, "channels", error);
    }
    options->blocks_per_level = (int32_t)blocks;
    options->hidden = (int32_t)hidden;
    options->condition_width = (int32_t)condition;
    options->heteroscedastic = heteroscedastic != 0;
    return GA_OK;
}

static ga_status get_targets(const ga_weights *weights, const char *path, ga_probe *probe, ga_error *error) {
    int64_t count;
    const char *names[GA_NETWORK_TARGETS_MAX];
    char key[40];
    GA_TRY(get_integer(weights, path, "target_count", 1, GA_NETWORK_TARGETS_MAX, &count, error));
    for (int32_t i = 0; i < (int32_t)count; i++) {
        snprintf(key, sizeof key, "target%d_name", i);
        GA_TRY(get_text(weights, path, key, &names[i], error));
    }
    if (ga_probe_set_targets(probe, (int32_t)count, names, NULL) != GA_OK) {
        return missing(path, "target_count", error);
    }
    for (int32_t i = 1; i < (int32_t)count; i++) {
        target_number numbers[TARGET_NUMBERS];
        list_target(&probe->others[i - 1], i, numbers);
        for (int k = 0; k < TARGET_NUMBERS; k++) {
            const bool signed_number = numbers[k].value == &probe->others[i - 1].calibration.intercept;
            GA_TRY(signed_number ? get_double(weights, path, numbers[k].key, numbers[k].value, error)
                                 : get_factor(weights, path, numbers[k].key, numbers[k].value, error));
        }
    }
    return GA_OK;
}

/* Everything but kind, schema, targets and the network's options. */
static ga_status get_texts(const ga_weights *weights, const char *path, ga_probe *probe, ga_error *error) {
    ga_probe_info *info = &probe->info;
    const char *model;
    int64_t version;
    GA_TRY(get_text(weights, path, "model", &model, error));
    if (strlen(model) >= sizeof info->model) {
        return missing(path, "model", error);
    }
    strcpy(info->model, model);
    GA_TRY(get_integer(weights, path, "version", 0, UINT32_MAX, &version, error));
    info->version = (uint32_t)version;
    GA_TRY(get_steps(weights, path, info, error));
    GA_TRY(get_double(weights, path, "reward_scale", &probe->reward_scale, error));
    number_field fields[NUMBER_FIELDS];
    list_numbers(info, fields);
    for (int i = 0; i < NUMBER_FIELDS; i++) {
        GA_TRY(fields[i].whole != NULL
                   ? get_integer(weights, path, fields[i].key, 0, INT64_MAX, fields[i].whole, error)
                   : get_double(weights, path, fields[i].key, fields[i].real, error));
    }
    if (info->calibration.sigma_r2 < 0.0 || info->calibration.tau2 < 0.0 || info->calibration.slope < 0.0) {
        return missing(path, "calibration", error);
    }
    return GA_OK;
}

/* ---- arrays ---- */

/* An array of the probe that every kind has. */
typedef struct probe_array {
    const char *name;
    float *values;
    int32_t count;
} probe_array;

#define COMMON_ARRAYS 8

static void list_arrays(const ga_probe *probe, probe_array arrays[COMMON_ARRAYS]) {
    const int32_t pooled = probe->inputs.pooled_count, maps = probe->inputs.map_channels;
    const probe_array list[COMMON_ARRAYS] = {
        {"pooled.center", probe->pooled_moments.center, pooled},
        {"pooled.scale", probe->pooled_moments.scale, pooled},
        {"pooled.limit", probe->pooled_moments.limit, pooled},
        {"maps.center", probe->map_moments.center, maps},
        {"maps.scale", probe->map_moments.scale, maps},
        {"maps.limit", probe->map_moments.limit, maps},
        {"ridge.within", probe->ridge.within, pooled},
        {"ridge.level", probe->ridge.level, pooled},
    };
    memcpy(arrays, list, sizeof list);
}

static ga_status put_arrays(ga_weights *weights, const ga_probe *probe, ga_error *error) {
    probe_array arrays[COMMON_ARRAYS];
    list_arrays(probe, arrays);
    for (int i = 0; i < COMMON_ARRAYS; i++) {
        const int64_t shape[1] = {arrays[i].count};
        GA_TRY(ga_weights_add(weights, arrays[i].name, 1, shape, arrays[i].values, error));
    }
    for (int32_t i = 1; i < probe->info.target_count; i++) {
        const ga_ridge *ridge = ga_probe_ridge(probe, i);
        const int64_t shape[1] = {ridge->count};
        char name[32];
        snprintf(name, sizeof name, "ridge%d.within", i);
        GA_TRY(ga_weights_add(weights, name, 1, shape, ridge->within, error));
        snprintf(name, sizeof name, "ridge%d.level", i);
        GA_TRY(ga_weights_add(weights, name, 1, shape, ridge->level, error));
    }
    for (int32_t t = 0; t < probe->network.tensor_count && probe->info.kind == GA_PROBE_NETWORK; t++) {
        const ga_network_tensor *tensor = &probe->network.tensors[t];
        int64_t shape[4];
        char name[48];
        for (int32_t i = 0; i < tensor->dims; i++) {
            shape[i] = tensor->shape[i];
        }
        snprintf(name, sizeof name, "network.%s", tensor->name);
        GA_TRY(ga_weights_add(weights, name, tensor->dims, shape, probe->parameters + tensor->offset, error));
    }
    return GA_OK;
}

/* The named array, of that shape and finite (or infinite where that is meant). */
static ga_status get_array(const ga_weights *weights, const char *path, const char *name, int32_t dims,
    const int32_t *shape, bool may_be_infinite, float *values, ga_error *error) {
    const ga_weights_array *array = ga_weights_find(weights, name);
    bool fits = array != NULL && array->dims == dims;
    for (int32_t i = 0; i < dims && fits; i++) {
        fits = array->shape[i] == shape[i];
    }
    if (!fits) {
        return GA_FAIL(error, GA_ERR_FILE,
            "%s: array \"%s\" is missing or has another shape than its schema asks for", path, name);
    }
    for (int64_t i = 0; i < array->count; i++) {
        const bool usable = may_be_infinite ? array->values[i] >= 0.0f : isfinite(array->values[i]) != 0;
        if (!usable) {
            return GA_FAIL(error, GA_ERR_FILE, "%s: array \"%s\" holds %g at place %lld", path, name,
                (double)array->values[i], (long long)i);
        }
    }
    memcpy(values, array->values, (size_t)array->count * sizeof *values);
    return GA_OK;
}

static ga_status check_scales(const ga_moments *moments, const char *path, ga_error *error) {
    for (int32_t i = 0; i < moments->count; i++) {
        if (!(moments->scale[i] > 0.0f)) {
            return GA_FAIL(
                error, GA_ERR_FILE, "%s: a feature is divided by %g", path, (double)moments->scale[i]);
        }
    }
    return GA_OK;
}

static ga_status get_other_ridges(
    const ga_weights *weights, const char *path, ga_probe *probe, ga_error *error) {
    for (int32_t i = 1; i < probe->info.target_count; i++) {
        ga_ridge *ridge = &probe->others[i - 1].ridge;
        char name[32];
        snprintf(name, sizeof name, "ridge%d.within", i);
        GA_TRY(get_array(weights, path, name, 1, &ridge->count, false, ridge->within, error));
        snprintf(name, sizeof name, "ridge%d.level", i);
        GA_TRY(get_array(weights, path, name, 1, &ridge->count, false, ridge->level, error));
    }
    return GA_OK;
}

static ga_status get_arrays(const ga_weights *weights, const char *path, ga_probe *probe, ga_error *error) {
    probe_array arrays[COMMON_ARRAYS];
    list_arrays(probe, arrays);
    for (int i = 0; i < COMMON_ARRAYS; i++) {
        const bool limit = strstr(arrays[i].name, ".limit") != NULL;
        GA_TRY(get_array(weights, path, arrays[i].name, 1, &arrays[i].count, limit, arrays[i].values, error));
    }
    GA_TRY(check_scales(&probe->pooled_moments, path, error));
    GA_TRY(check_scales(&probe->map_moments, path, error));
    GA_TRY(get_other_ridges(weights, path, probe, error));
    for (int32_t t = 0; t < probe->network.tensor_count && probe->info.kind == GA_PROBE_NETWORK; t++) {
        const ga_network_tensor *tensor = &probe->network.tensors[t];
        char name[48];
        snprintf(name, sizeof name, "network.%s", tensor->name);
        GA_TRY(get_array(weights, path, name, tensor->dims, tensor->shape, false,
            probe->parameters + tensor->offset, error));
    }
    return GA_OK;
}

/* ---- the two ways ---- */

/* Numbers are written and read with a point whatever locale the host has set. */
typedef struct number_locale {
    locale_t c, before;
} number_locale;

static number_locale enter_c_locale(void) {
    number_locale both = {.c = newlocale(LC_ALL_MASK, "C", (locale_t)0)};
    if (both.c != (locale_t)0) {
        both.before = uselocale(both.c);
    }
    return both;
}

static void leave_c_locale(number_locale *both) {
    if (both->c != (locale_t)0) {
        uselocale(both->before);
        freelocale(both->c);
    }
}

ga_status ga_probe_save(const ga_probe *probe, const char *path, ga_error *error) {
    ga_weights *weights = NULL;
    GA_TRY(ga_weights_create(&weights, error));
    number_locale locales = enter_c_locale();
    ga_status status = put_texts(weights, probe, error);
    leave_c_locale(&locales);
    if (status == GA_OK) {
        status = put_arrays(weights, probe, error);
    }
    if (status == GA_OK) {
        status = ga_reference_put(&probe->reference, weights, error);
    }
    if (status == GA_OK) {
        status = ga_learned_put(&probe->learned, weights, error);
    }
    if (status == GA_OK) {
        status = ga_weights_write(weights, path, error);
    }
    ga_weights_destroy(&weights);
    return status;
}

static ga_status get_format(const ga_weights *weights, const char *path, bool *first_out, ga_error *error) {
    const char *format;
    GA_TRY(get_text(weights, path, "format", &format, error));
    *first_out = strcmp(format, FORMAT_FIRST) == 0;
    if (!*first_out && strcmp(format, FORMAT) != 0) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: format \"%.60s\"; this program reads \"%s\" and \"%s\"", path,
            format, FORMAT, FORMAT_FIRST);
    }
    return GA_OK;
}

/* A layout that asks for more than the file brings is refused before memory is taken for it. */
static ga_status check_size(
    const ga_weights *weights, const char *path, const ga_feature_schema *schema, ga_error *error) {
    ga_inputs inputs;
    GA_TRY(ga_inputs_plan(schema, &inputs, error));
    const ga_weights_array *center = ga_weights_find(weights, "pooled.center");
    if (center == NULL || center->count != inputs.pooled_count) {
        return GA_FAIL(
            error, GA_ERR_FILE, "%s: array \"pooled.center\" is missing or does not fit the schema", path);
    }
    return GA_OK;
}

/* Its memory is bounded by GA_NETWORK_PARAMETERS_MAX, whatever the file claims. */
static ga_status add_network(
    const ga_weights *weights, const char *path, bool first, ga_probe *probe, ga_error *error) {
    ga_network_options options = first_options();
    ga_error reason = {0};
    if (!first) {
        GA_TRY(get_network(weights, path, &options, error));
        GA_TRY(get_factor(weights, path, "variance_floor", &probe->variance_floor, error));
    }
    const ga_status status = ga_probe_add_network(probe, &options, &reason);
    if (status == GA_ERR_ARGUMENT) {
        return GA_FAIL(error, GA_ERR_FILE, "%s: %.300s", path, reason.message);
    }
    return status == GA_OK ? GA_OK : GA_FAIL(error, status, "%s: %.300s", path, reason.message);
}

static ga_status fill_probe(const ga_weights *weights, const char *path, bool first, ga_probe_kind kind,
    ga_probe *probe, ga_error *error) {
    if (!first) {
        GA_TRY(get_targets(weights, path, probe, error));
        GA_TRY(get_factor(weights, path, "variance_factor", &probe->info.calibration.variance_factor, error));
    }
    if (kind == GA_PROBE_NETWORK) {
        GA_TRY(add_network(weights, path, first, probe, error));
    }
    probe->info.kind = kind;
    GA_TRY(get_texts(weights, path, probe, error));
    GA_TRY(
        ga_reference_get(weights, path, probe->info.steps, probe->info.step_count, &probe->reference, error));
    GA_TRY(ga_learned_get(weights, path, &probe->learned, error));
    return get_arrays(weights, path, probe, error);
}

static ga_status build_probe(const ga_weights *weights, const char *path, const ga_compute *compute,
    ga_probe **probe_out, ga_error *error) {
    ga_feature_schema schema;
    ga_probe_kind kind = GA_PROBE_RIDGE;
    bool first;
    GA_TRY(get_format(weights, path, &first, error));
    GA_TRY(get_kind(weights, path, &kind, error));
    GA_TRY(get_schema(weights, path, &schema, error));
    GA_TRY(check_size(weights, path, &schema, error));
    ga_probe *probe = NULL;
    GA_TRY(ga_probe_create(&schema, compute, &probe, error));
    const ga_status status = fill_probe(weights, path, first, kind, probe, error);
    if (status != GA_OK) {
        ga_probe_close(&probe);
        return status;
    }
    *probe_out = probe;
    return GA_OK;
}

ga_status ga_probe_open(const char *path, const ga_compute *compute, ga_probe **probe_out, ga_error *error) {
    ga_weights *weights = NULL;
    GA_TRY(ga_weights_read(path, &weights, error));
    number_locale locales = enter_c_locale();
    const ga_status status = build_probe(weights, path, compute, probe_out, error);
    leave_c_locale(&locales);
    ga_weights_destroy(&weights);
    return status;
}
