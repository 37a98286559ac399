#include "grpo_accel/command/whatif_ask.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { PART_BYTES = 64 };
static const double DEFAULT_BEFORE = 0.3, DEFAULT_SIGNAL = 0.01, DEFAULT_AFTER = 0.5;

bool ga_ask_next(const char **at, char separator, char *part, size_t bytes) {
    if (*at == NULL) {
        return false;
    }
    const char *end = strchr(*at, separator);
    const size_t length = end != NULL ? (size_t)(end - *at) : strlen(*at);
    const size_t kept = length < bytes - 1 ? length : bytes - 1;
    memcpy(part, *at, kept);
    part[kept] = '\0';
    *at = end != NULL ? end + 1 : NULL;
    return true;
}

ga_status ga_ask_reals(const char *what, const char *text, double min, double max, char separator,
    int32_t most, double *list_out, int32_t *count_out, ga_error *error) {
    char part[PART_BYTES];
    int32_t count = 0;
    for (const char *at = text; ga_ask_next(&at, separator, part, sizeof part);) {
        double value = 0;
        if (count >= most) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "option '--%s': at most %d numbers", what, (int)most);
        }
        if (!ga_arguments_parse_real(part, &value) || !(value >= min && value <= max)) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "option '--%s': expected numbers from %g to %g; found '%.64s'", what, min, max, part);
        }
        list_out[count++] = value;
    }
    *count_out = count;
    return GA_OK;
}

static ga_status read_policies(const ga_call *call, ga_ask *ask, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "policy");
    char part[PART_BYTES];
    if (text == NULL) {
        text = "extremes";
    }
    if (strcmp(text, "all") == 0) {
        text = "extremes,budget,neyman,topk,random";
    }
    for (const char *at = text; ga_ask_next(&at, ',', part, sizeof part);) {
        if (ask->policy_count == GA_POLICY_COUNT) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "option '--policy': at most %d policies", GA_POLICY_COUNT);
        }
        GA_TRY(ga_policy_parse(part, &ask->policies[ask->policy_count++], error));
    }
    return GA_OK;
}

static ga_status read_stds(const ga_call *call, ga_ask *ask, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "std");
    char part[PART_BYTES];
    for (const char *at = text != NULL ? text : "global"; ga_ask_next(&at, ',', part, sizeof part);) {
        const bool group = strcmp(part, "group") == 0;
        if ((!group && strcmp(part, "global") != 0) || ask->std_count == 2) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "option '--std': global, group or global,group; found '%.64s'", part);
        }
        ask->stds[ask->std_count++] = group ? GA_STD_GROUP : GA_STD_GLOBAL;
    }
    return GA_OK;
}

/* "1.0" could be meant as one row or as all of them. */
static ga_status check_keep(const char *name, const char *text, ga_error *error) {
    char part[PART_BYTES];
    for (const char *at = text; ga_ask_next(&at, ':', part, sizeof part);) {
        double value = 0;
        if (ga_arguments_parse_real(part, &value) && value >= 1 &&
            strspn(part, "0123456789") != strlen(part)) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "option '--%s': whole numbers are rows, numbers below 1 are shares; found '%.64s'", name,
                part);
        }
    }
    return GA_OK;
}

static ga_status read_keeps(const ga_call *call, const char *name, ga_ask *ask, ga_error *error) {
    char part[PART_BYTES];
    for (const char *at = ga_arguments_value(&call->arguments, name);
         ga_ask_next(&at, ',', part, sizeof part);) {
        if (ask->keep_count == GA_ASK_LIST_MAX) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "option '--%s': at most %d", name, GA_ASK_LIST_MAX);
        }
        GA_TRY(check_keep(name, part, error));
        ga_keep *keep = &ask->keeps[ask->keep_count++];
        GA_TRY(ga_ask_reals(
            name, part, DBL_MIN, 1e6, ':', GA_WHATIF_STAGES_MAX, keep->value, &keep->stage_count, error));
    }
    return GA_OK;
}

static ga_status read_threshold(const ga_call *call, ga_ask *ask, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "threshold");
    ask->options.threshold = (ga_threshold){GA_THRESHOLD_QUANTILE, 0.5};
    if (text == NULL) {
        return GA_OK;
    }
    char kind[PART_BYTES];
    const char *at = text;
    (void)ga_ask_next(&at, ':', kind, sizeof kind);
    GA_TRY(ga_threshold_parse(kind, &ask->options.threshold.kind, error));
    if (at == NULL || !ga_arguments_parse_real(at, &ask->options.threshold.value)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--threshold': KIND:VALUE, as in quantile:0.5; found '%.64s'", text);
    }
    return GA_OK;
}

/* ---- costs ---- */

static ga_status read_cost(const char *part, ga_ask *ask, ga_error *error) {
    char name[PART_BYTES];
    const char *value = part;
    int32_t count = 0;
    double list[GA_WHATIF_STAGES_MAX] = {0};
    ga_shares *shares = &ask->shares;
    (void)ga_ask_next(&value, '=', name, sizeof name);
    const bool before = strcmp(name, "before") == 0, signal = strcmp(name, "signal") == 0;
    const bool reward = strcmp(name, "reward") == 0, after = strcmp(name, "after") == 0;
    if (value == NULL || !(before || signal || reward || after)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--costs': before=S,signal=V,reward=R,after=F; found '%.64s'", part);
    }
    const double most = before ? 1 : after ? 0.999 : 1000;
    GA_TRY(ga_ask_reals("costs", value, before ? 0.001 : 0, most, ':',
        before || signal ? GA_WHATIF_STAGES_MAX : 1, list, &count, error));
    for (int32_t k = 0; k < GA_WHATIF_STAGES_MAX; k++) {
        const double given = list[k < count ? k : count - 1];
        *(before     ? &shares->before[k]
            : signal ? &shares->signal[k]
            : reward ? &shares->reward
                     : &shares->after) = given;
    }
    ask->before_count = before ? count : ask->before_count;
    ask->signal_count = signal ? count : ask->signal_count;
    *(before     ? &ask->before_origin
        : signal ? &ask->signal_origin
        : reward ? &ask->reward_origin
                 : &ask->after_origin) = GA_COST_GIVEN;
    return GA_OK;
}

static ga_status read_steps(const ga_call *call, ga_ask *ask, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "step");
    int64_t total = 0;
    double steps[GA_WHATIF_STAGES_MAX] = {0};
    GA_TRY(ga_arguments_integer(&call->arguments, "steps-total", 1, 100000, 20, &total, error));
    if (text == NULL) {
        return GA_OK;
    }
    GA_TRY(ga_ask_reals(
        "step", text, 1, (double)total, ':', GA_WHATIF_STAGES_MAX, steps, &ask->before_count, error));
    for (int32_t k = 0; k < GA_WHATIF_STAGES_MAX; k++) {
        ask->shares.before[k] = steps[k < ask->before_count ? k : ask->before_count - 1] / (double)total;
    }
    ask->before_origin = GA_COST_GIVEN;
    return GA_OK;
}

static ga_status read_costs(const ga_call *call, ga_ask *ask, ga_error *error) {
    ask->shares.after = DEFAULT_AFTER;
    for (int32_t k = 0; k < GA_WHATIF_STAGES_MAX; k++) {
        ask->shares.before[k] = DEFAULT_BEFORE;
        ask->shares.signal[k] = DEFAULT_SIGNAL;
    }
    GA_TRY(read_steps(call, ask, error));
    char part[PART_BYTES];
    for (const char *at = ga_arguments_value(&call->arguments, "costs");
         ga_ask_next(&at, ',', part, sizeof part);) {
        GA_TRY(read_cost(part, ask, error));
    }
    for (int32_t k = 1; k < ask->before_count; k++) {
        if (!(ask->shares.before[k] > ask->shares.before[k - 1])) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "later decisions come after more steps: %g, then %g",
                ask->shares.before[k - 1], ask->shares.before[k]);
        }
    }
    return GA_OK;
}

/* ---- the rest ---- */

static ga_status read_numbers(const ga_call *call, ga_ask *ask, ga_error *error) {
    const ga_arguments *arguments = &call->arguments;
    ga_replay_options *o = &ask->options;
    int64_t ranks = 0, min_group = 0, max_group = 0, seed = 0, repeat = 0;
    GA_TRY(ga_arguments_integer(arguments, "ranks", 1, 1 << 20, 0, &ranks, error));
    GA_TRY(ga_arguments_integer(arguments, "min-group", 0, 1 << 20, 0, &min_group, error));
    GA_TRY(ga_arguments_integer(arguments, "max-group", 0, 1 << 20, 0, &max_group, error));
    GA_TRY(ga_arguments_integer(arguments, "seed", 0, INT64_MAX, 0, &seed, error));
    GA_TRY(ga_arguments_integer(arguments, "repeat", 1, 100000, 1, &repeat, error));
    GA_TRY(ga_arguments_real(arguments, "audit", 0, 1, 0, &o->audit_share, error));
    GA_TRY(ga_arguments_real(arguments, "min-inclusion", 0, 1, 0.05, &o->min_inclusion, error));
    GA_TRY(ga_arguments_real(arguments, "clip", 1, DBL_MAX, DBL_MAX, &o->clip, error));
    o->ranks = (int32_t)ranks;
    o->min_group = (int32_t)min_group;
    o->max_group = (int32_t)max_group;
    o->seed = (uint64_t)seed;
    o->repeat = (int32_t)repeat;
    o->resamples = 1000;
    o->deal = ga_arguments_has(arguments, "deal");
    return GA_OK;
}

static ga_status read_worth(const ga_call *call, ga_ask *ask, ga_error *error) {
    const char *estimator = ga_arguments_value(&call->arguments, "estimator");
    const char *weights = ga_arguments_value(&call->arguments, "weights");
    ga_estimator kind = GA_ESTIMATOR_SHRUNK;
    ga_weighting weighting = GA_WEIGHT_ONE;
    if (estimator != NULL) {
        GA_TRY(ga_estimator_parse(estimator, &kind, error));
    }
    if (weights != NULL) {
        GA_TRY(ga_weighting_parse(weights, &weighting, error));
    }
    if (kind > GA_ESTIMATOR_SURVIVORS || (weighting == GA_WEIGHT_INVERSE && kind != GA_ESTIMATOR_SHRUNK)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--estimator': shrunk, difference or survivors; weights inverse go with shrunk");
    }
    ask->estimator = weighting == GA_WEIGHT_INVERSE ? 3 : (int32_t)kind;
    return GA_OK;
}

ga_status ga_ask_read(const ga_call *call, const char *keep_name, ga_ask *ask_out, ga_error *error) {
    ga_ask ask = {.policy_count = 0};
    GA_TRY(read_policies(call, &ask, error));
    GA_TRY(read_stds(call, &ask, error));
    GA_TRY(read_keeps(call, keep_name, &ask, error));
    GA_TRY(read_threshold(call, &ask, error));
    GA_TRY(read_numbers(call, &ask, error));
    GA_TRY(read_costs(call, &ask, error));
    GA_TRY(read_worth(call, &ask, error));
    ask.plot = ga_arguments_value(&call->arguments, "plot");
    *ask_out = ask;
    return GA_OK;
}

ga_figure ga_ask_worth(const ga_ask *ask, ga_std_kind std_kind) {
    return (
        ga_figure)((int)(std_kind == GA_STD_GROUP ? GA_FIGURE_HOST : GA_FIGURE_SNR2) + (int)ask->estimator);
}

ga_status ga_ask_keep_rows(const ga_keep *keep, int32_t rows_per_rank, int32_t *rows_out, ga_error *error) {
    for (int32_t k = 0; k < keep->stage_count; k++) {
        const double value = keep->value[k];
        const int32_t rows = value < 1 ? ga_case_keep(value, rows_per_rank) : (int32_t)value;
        if ((value >= 1 && floor(value) != value) || rows > rows_per_rank ||
            (k > 0 && rows > rows_out[k - 1])) {
            return GA_FAIL(error, GA_ERR_ARGUMENT,
                "keep %g: a rank has %d rows; give whole numbers up to that, or shares below 1, never more "
                "later",
                value, (int)rows_per_rank);
        }
        rows_out[k] = rows;
    }
    return GA_OK;
}
