/* simulate: what pruning would be worth, in worlds that are made up to order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/command/whatif_answer.h"
#include "grpo_accel/whatif/recipe.h"

enum { POINTS_MAX = 16, SETS_MAX = 256, LABEL_BYTES = 64 };

/* One moment at which a decision can be taken. */
typedef struct point {
    char name[LABEL_BYTES];
    uint64_t seed; /* added to the user's */
    double before; /* share of the steps that a row stopped there has run */
    double signal_cost;
    int32_t score; /* which of its world's */
    ga_synthetic_signal signal;
} point;

/* Decisions one after the other, in a world of one shape. */
typedef struct decision_set {
    ga_shape shape;
    int32_t count;
    int32_t points[GA_WHATIF_STAGES_MAX];
    int32_t first_case, case_count;
} decision_set;

typedef struct simulating {
    const ga_recipe *recipe; /* NULL: none */
    ga_ask ask;
    ga_synthetic world;
    int32_t repeat, ranks, rows_per_rank;
    int32_t shape_count;
    ga_shape shapes[GA_SHAPE_COUNT];
    int32_t point_count;
    point points[POINTS_MAX];
    int32_t set_count;
    decision_set sets[SETS_MAX];
    ga_case *cases;
    int32_t case_count;
} simulating;

/* ---- the world ---- */

static ga_status read_shapes(const ga_call *call, simulating *s, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "shape");
    char part[LABEL_BYTES];
    if (text == NULL) {
        s->shapes[s->shape_count++] = s->world.shape;
        return GA_OK;
    }
    for (const char *at = text; ga_ask_next(&at, ',', part, sizeof part);) {
        if (s->shape_count == GA_SHAPE_COUNT) {
            return GA_FAIL(error, GA_ERR_ARGUMENT, "option '--shape': at most %d shapes", GA_SHAPE_COUNT);
        }
        GA_TRY(ga_shape_parse(part, &s->shapes[s->shape_count++], error));
    }
    return GA_OK;
}

static ga_status read_counts(const ga_call *call, simulating *s, ga_error *error) {
    const ga_arguments *a = &call->arguments;
    int64_t batches = 0, groups = 0, size = 0, ranks = 0, repeat = 0;
    GA_TRY(ga_arguments_integer(a, "batches", 2, 100000, s->world.batches, &batches, error));
    GA_TRY(ga_arguments_integer(a, "groups", 1, 100000, s->world.groups, &groups, error));
    GA_TRY(ga_arguments_integer(a, "group-size", 2, 100000, s->world.group_size, &size, error));
    GA_TRY(ga_arguments_integer(a, "ranks", 1, 1 << 20, s->ranks, &ranks, error));
    const bool one_draw = s->recipe != NULL && !ga_arguments_has(a, "racing");
    GA_TRY(ga_arguments_integer(a, "repeat", 1, 10000, one_draw ? 1 : 4, &repeat, error));
    s->world.batches = (int32_t)batches;
    s->world.groups = (int32_t)groups;
    s->world.group_size = (int32_t)size;
    s->world.seed = s->ask.options.seed;
    s->ranks = (int32_t)ranks;
    s->repeat = (int32_t)repeat;
    if (groups * size < ranks) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "a batch of %lld groups of %lld rows is less than a row on each of %lld "
            "ranks",
            (long long)groups, (long long)size, (long long)ranks);
    }
    s->rows_per_rank = (int32_t)(groups * size / ranks);
    return GA_OK;
}

static ga_status read_spreads(const ga_call *call, simulating *s, ga_error *error) {
    const ga_arguments *a = &call->arguments;
    ga_synthetic *w = &s->world;
    GA_TRY(ga_arguments_real(a, "sd-spread", 0, 5, w->sd_spread, &w->sd_spread, error));
    GA_TRY(ga_arguments_real(a, "mean-spread", 0, 1e6, w->mean_spread, &w->mean_spread, error));
    GA_TRY(ga_arguments_real(a, "skew", 0, 2, w->skew, &w->skew, error));
    GA_TRY(ga_arguments_real(a, "success", 0.001, 0.999, w->success, &w->success, error));
    return ga_arguments_real(a, "success-spread", 0, 5, w->success_spread, &w->success_spread, error);
}

static ga_status read_world(const ga_call *call, simulating *s, ga_error *error) {
    const char *name = ga_arguments_value(&call->arguments, "recipe");
    s->world = (ga_synthetic){.shape = GA_SHAPE_GAUSSIAN,
        .batches = 16,
        .groups = 12,
        .group_size = 24,
        .mean_spread = 1,
        .skew = 0.3,
        .success = 0.5,
        .success_spread = 1};
    s->ranks = 32;
    if (name != NULL) {
        GA_TRY(ga_recipe_find(name, &s->recipe, error));
        const double success = s->world.success, spread = s->world.success_spread;
        s->world = s->recipe->world;
        s->world.success = success;
        s->world.success_spread = spread;
        s->ranks = s->recipe->ranks;
    }
    GA_TRY(read_shapes(call, s, error));
    GA_TRY(read_counts(call, s, error));
    return read_spreads(call, s, error);
}

/* ---- moments ---- */

/* Racing compares decisions, which takes one world for all; else each signal has the recipe's own draw. */
static void add_recipe_points(simulating *s, bool racing) {
    for (int32_t k = 0; k < s->recipe->signal_count; k++) {
        const ga_recipe_signal *from = &s->recipe->signals[k];
        point *p = &s->points[s->point_count++];
        *p = (point){.seed = racing ? 0 : from->seed,
            .before = (double)from->step / s->recipe->steps_total,
            .signal_cost = s->recipe->signal_cost,
            .signal = from->signal};
        (void)snprintf(p->name, sizeof p->name, "%s", from->name);
    }
    if (s->ask.before_origin == GA_COST_DEFAULT) {
        s->ask.before_origin = GA_COST_RECIPE;
    }
    if (s->ask.signal_origin == GA_COST_DEFAULT) {
        s->ask.signal_origin = GA_COST_RECIPE;
    }
}

/* The steps of --steps; 0 of them: each rho has the share of --costs before. */
static ga_status read_steps(
    const ga_call *call, simulating *s, double *steps, int32_t *count, ga_error *error) {
    const char *text = ga_arguments_value(&call->arguments, "steps");
    int64_t total = 0;
    GA_TRY(ga_arguments_integer(&call->arguments, "steps-total", 1, 100000, 20, &total, error));
    if (text == NULL) {
        return GA_OK;
    }
    if (s->ask.before_count > 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "option '--steps' says after which steps rows stop, and so does %s: give one of them",
            ga_arguments_has(&call->arguments, "step") ? "'--step'" : "'--costs before=…'");
    }
    GA_TRY(ga_ask_reals("steps", text, 1, (double)total, ',', POINTS_MAX, steps, count, error));
    for (int32_t k = 0; k < *count; k++) {
        steps[k] /= (double)total;
    }
    s->ask.before_origin = GA_COST_GIVEN;
    return GA_OK;
}

static ga_status add_points(const ga_call *call, simulating *s, ga_error *error) {
    const char *rho_text = ga_arguments_value(&call->arguments, "rho");
    double rho[POINTS_MAX] = {0}, before[POINTS_MAX] = {s->ask.shares.before[0]}, offset = 0;
    int32_t rhos = 0, count = 0;
    GA_TRY(ga_arguments_real(&call->arguments, "offset", 0, 1e6, 0.3, &offset, error));
    GA_TRY(ga_ask_reals(
        "rho", rho_text != NULL ? rho_text : "0.3,0.5,0.7", -0.99, 0.99, ',', POINTS_MAX, rho, &rhos, error));
    GA_TRY(read_steps(call, s, before, &count, error));
    if (count > 1 && rhos > 1 && count != rhos) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%d steps and %d rhos: as many of both, or one of either",
            (int)count, (int)rhos);
    }
    s->point_count = count > rhos ? count : rhos;
    for (int32_t k = 0; k < s->point_count; k++) {
        s->points[k] = (point){.before = before[count > 1 ? k : 0],
            .signal_cost = s->ask.shares.signal[0],
            .signal = {.spearman = rho[rhos > 1 ? k : 0], .offset = offset, .sd_keep = 1}};
    }
    return GA_OK;
}

/* moment[k]: which decision step a point has, counted from the earliest; returns how many steps there are. */
static int32_t number_moments(const simulating *s, int32_t *moment) {
    int32_t count = 0;
    for (int32_t k = 0; k < s->point_count; k++) {
        moment[k] = 0;
        for (int32_t i = 0; i < s->point_count; i++) {
            bool first = s->points[i].before < s->points[k].before;
            for (int32_t j = 0; j < i && first; j++) {
                first = s->points[j].before != s->points[i].before;
            }
            moment[k] += first ? 1 : 0;
        }
        count = moment[k] + 1 > count ? moment[k] + 1 : count;
    }
    return count;
}

static ga_status check_share_count(const char *name, int32_t given, int32_t moments, ga_error *error) {
    return given <= 1 || given == moments
               ? GA_OK
               : GA_FAIL(error, GA_ERR_ARGUMENT,
                     "option '--costs': %s=… with %d numbers for %d moments of decision: one for all, or one "
                     "for each",
                     name, (int)given, (int)moments);
}

/* Shares that --costs gives: one for all moments, or one for each. Of rhos alone each is a moment. */
static ga_status give_costs(simulating *s, bool each_its_own, ga_error *error) {
    int32_t moment[POINTS_MAX] = {0};
    int32_t moments = number_moments(s, moment);
    for (int32_t k = 0; k < s->point_count && each_its_own; k++) {
        moment[k] = k;
        moments = s->point_count;
    }
    const ga_ask *ask = &s->ask;
    GA_TRY(check_share_count("before", ask->before_count, moments, error));
    GA_TRY(check_share_count("signal", ask->signal_count, moments, error));
    for (int32_t k = 0; k < s->point_count; k++) {
        point *p = &s->points[k];
        if (ask->before_count > 0) {
            p->before = ask->shares.before[ask->before_count > 1 ? moment[k] : 0];
        }
        if (ask->signal_count > 0) {
            p->signal_cost = ask->shares.signal[ask->signal_count > 1 ? moment[k] : 0];
        }
    }
    return GA_OK;
}

/* Does point i come before point j among the scores of their world, least knowing first? */
static bool knows_less(const simulating *s, int32_t i, int32_t j) {
    const point *a = &s->points[i], *b = &s->points[j];
    const double left = fabs(a->signal.spearman), right = fabs(b->signal.spearman);
    if (left != right) {
        return left < right;
    }
    return a->before != b->before ? a->before < b->before : i < j;
}

static void number_scores(simulating *s) {
    for (int32_t k = 0; k < s->point_count; k++) {
        for (int32_t i = 0; i < s->point_count; i++) {
            s->points[k].score += s->points[i].seed == s->points[k].seed && knows_less(s, i, k) ? 1 : 0;
        }
    }
}

static ga_status read_points(const ga_call *call, simulating *s, ga_error *error) {
    const ga_arguments *a = &call->arguments;
    const bool stepped = ga_arguments_has(a, "steps"), own = ga_arguments_has(a, "rho") || stepped;
    if (s->recipe != NULL && !own) {
        add_recipe_points(s, ga_arguments_has(a, "racing"));
        GA_TRY(give_costs(s, false, error));
    } else {
        GA_TRY(add_points(call, s, error));
        GA_TRY(give_costs(s, !stepped, error));
        for (int32_t k = 0; k < s->point_count; k++) {
            point *p = &s->points[k];
            (void)snprintf(
                p->name, sizeof p->name, "rho %.2f after %.0f %%", p->signal.spearman, 100 * p->before);
        }
    }
    number_scores(s);
    return GA_OK;
}

/* ---- sets of decisions ---- */

static ga_status add_set(simulating *s, ga_shape shape, int32_t first, int32_t second, ga_error *error) {
    if (s->set_count == SETS_MAX) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "too many combinations of steps: at most %d", SETS_MAX);
    }
    s->sets[s->set_count++] = (decision_set){
        .shape = shape, .count = second < 0 ? 1 : 2, .points = {first, second < 0 ? 0 : second}};
    return GA_OK;
}

static ga_status list_sets(const ga_call *call, simulating *s, ga_error *error) {
    const bool racing = ga_arguments_has(&call->arguments, "racing");
    for (int32_t shape = 0; shape < s->shape_count; shape++) {
        for (int32_t i = 0; i < s->point_count; i++) {
            GA_TRY(add_set(s, s->shapes[shape], i, -1, error));
        }
        for (int32_t i = 0; racing && i < s->point_count; i++) {
            for (int32_t j = 0; j < s->point_count; j++) {
                if (s->points[j].before > s->points[i].before && s->points[j].score > s->points[i].score) {
                    GA_TRY(add_set(s, s->shapes[shape], i, j, error));
                }
            }
        }
    }
    return GA_OK;
}

static ga_status add_case(simulating *s, const decision_set *set, ga_std_kind std_kind, ga_policy_kind policy,
    const ga_keep *keep, ga_error *error) {
    ga_case *grown = realloc(s->cases, (size_t)(s->case_count + 1) * sizeof *grown);
    if (grown == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "simulate: out of memory");
    }
    s->cases = grown;
    ga_case *c = &s->cases[s->case_count++];
    *c = (ga_case){
        .options = s->ask.options, .shares = s->ask.shares, .worth = ga_ask_worth(&s->ask, std_kind)};
    c->options.std_kind = std_kind;
    c->options.policy = policy;
    c->options.ranks = s->ranks;
    c->options.stage_count = set->count;
    for (int32_t k = 0; k < set->count; k++) {
        c->options.score[k] = s->points[set->points[k]].score;
        c->shares.before[k] = s->points[set->points[k]].before;
        c->shares.signal[k] = s->points[set->points[k]].signal_cost;
        c->options.seed = s->world.seed + s->points[set->points[0]].seed;
    }
    return ga_ask_keep_rows(keep, s->rows_per_rank, c->options.keep_per_rank, error);
}

/* Of two decisions: keeps as given with ':', and every pair of single keeps where the later one is smaller.
 */
static ga_status add_keeps(
    simulating *s, const decision_set *set, ga_std_kind std_kind, ga_policy_kind policy, ga_error *error) {
    for (int32_t i = 0; i < s->ask.keep_count; i++) {
        const ga_keep *keep = &s->ask.keeps[i];
        if (keep->stage_count == set->count) {
            GA_TRY(add_case(s, set, std_kind, policy, keep, error));
        }
        for (int32_t j = 0; set->count == 2 && keep->stage_count == 1 && j < s->ask.keep_count; j++) {
            const ga_keep *later = &s->ask.keeps[j];
            const ga_keep pair = {.stage_count = 2, .value = {keep->value[0], later->value[0]}};
            if (later->stage_count == 1 && later->value[0] < keep->value[0] &&
                (later->value[0] < 1) == (keep->value[0] < 1)) {
                GA_TRY(add_case(s, set, std_kind, policy, &pair, error));
            }
        }
    }
    return GA_OK;
}

static ga_status list_cases(simulating *s, ga_error *error) {
    for (int32_t i = 0; i < s->set_count; i++) {
        decision_set *set = &s->sets[i];
        set->first_case = s->case_count;
        for (int32_t d = 0; d < s->ask.std_count; d++) {
            for (int32_t p = 0; p < s->ask.policy_count; p++) {
                GA_TRY(add_keeps(s, set, s->ask.stds[d], s->ask.policies[p], error));
            }
        }
        set->case_count = s->case_count - set->first_case;
        if (s->case_count > GA_ASK_CASES_MAX) {
            return GA_FAIL(
                error, GA_ERR_ARGUMENT, "more than %d combinations: shorten the lists", GA_ASK_CASES_MAX);
        }
    }
    return s->case_count > 0
               ? GA_OK
               : GA_FAIL(error, GA_ERR_ARGUMENT, "simulate: no keep fits the decisions; 5:2 needs --racing");
}

/* Keeps, policies and standard deviations that nobody gave. */
static ga_status fill_lists(const ga_call *call, simulating *s, ga_error *error) {
    static const int32_t keeps[] = {1, 2, 3, 5};
    ga_ask *ask = &s->ask;
    const bool recipe = s->recipe != NULL;
    for (int32_t k = 0; ask->keep_count < 4 && k < (recipe ? s->recipe->keep_count : 4); k++) {
        const double rows = recipe ? s->recipe->keep_per_rank[k] : keeps[k];
        if (!ga_arguments_has(&call->arguments, "keep") && rows <= s->rows_per_rank) {
            ask->keeps[ask->keep_count++] = (ga_keep){.stage_count = 1, .value = {rows}};
        }
    }
    if (!ga_arguments_has(&call->arguments, "policy")) {
        ask->policy_count = 3;
        ask->policies[0] = GA_POLICY_EXTREMES;
        ask->policies[1] = GA_POLICY_TOPK;
        ask->policies[2] = GA_POLICY_RANDOM;
    }
    if (recipe && !ga_arguments_has(&call->arguments, "std")) {
        ask->std_count = 2;
        ask->stds[0] = GA_STD_GLOBAL;
        ask->stds[1] = GA_STD_GROUP;
    }
    return ask->keep_count > 0 ? GA_OK : GA_FAIL(error, GA_ERR_ARGUMENT, "simulate: no keep is left");
}

static ga_status read_call(const ga_call *call, simulating *s, ga_error *error) {
    GA_TRY(ga_ask_read(call, "keep", &s->ask, error));
    GA_TRY(read_world(call, s, error));
    GA_TRY(fill_lists(call, s, error));
    GA_TRY(read_points(call, s, error));
    GA_TRY(list_sets(call, s, error));
    return list_cases(s, error);
}

/* The world of a set: all moments with its seed have their score in it. */
static ga_synthetic world_of(const simulating *s, const decision_set *set) {
    const uint64_t seed = s->points[set->points[0]].seed;
    ga_synthetic world = s->world;
    world.shape = set->shape;
    world.seed += seed;
    world.signal_count = 0;
    for (int32_t k = 0; k < s->point_count; k++) {
        if (s->points[k].seed == seed) {
            world.signal[s->points[k].score] = s->points[k].signal;
            world.signal_count++;
        }
    }
    return world;
}

/* Sets of one world, which stand together, are answered on it together: one and two decisions alike. */
static ga_status run_sets(simulating *s, ga_error *error) {
    for (int32_t i = 0; i < s->set_count;) {
        const decision_set *first = &s->sets[i];
        const ga_synthetic world = world_of(s, first);
        int32_t count = 0;
        for (; i < s->set_count; i++) {
            const decision_set *set = &s->sets[i];
            if (set->shape != first->shape ||
                s->points[set->points[0]].seed != s->points[first->points[0]].seed) {
                break;
            }
            count += set->case_count;
        }
        GA_TRY(ga_cases_run_on_synthetic(&world, s->repeat, s->cases + first->first_case, count, error));
    }
    return GA_OK;
}

/* ---- the answer ---- */

static void label_of(const simulating *s, const decision_set *set, char *text, size_t bytes) {
    const point *p = &s->points[set->points[0]];
    const char *shape = s->shape_count > 1 ? ga_shape_name(set->shape) : "";
    const char *gap = s->shape_count > 1 ? ", " : "";
    if (set->count == 1) {
        (void)snprintf(text, bytes, "%s%s%s", shape, gap, p->name);
    } else {
        const point *q = &s->points[set->points[1]];
        (void)snprintf(text, bytes, "%s%srho %.2f>%.2f, %.0f>%.0f %%", shape, gap, p->signal.spearman,
            q->signal.spearman, 100 * p->before, 100 * q->before);
    }
}

static ga_answer_frame frame_of(const simulating *s) {
    const int64_t batches = (int64_t)s->world.batches * s->repeat;
    return (ga_answer_frame){.rows = batches * s->world.groups * s->world.group_size,
        .groups = batches * s->world.groups,
        .batches = batches};
}

static void write_case(ga_json *json, const simulating *s, const decision_set *set, const ga_case *c) {
    char label[160];
    const ga_answer_frame frame = frame_of(s);
    label_of(s, set, label, sizeof label);
    ga_json_object(json, NULL);
    ga_json_text(json, "signal", label);
    ga_json_text(json, "shape", ga_shape_name(set->shape));
    ga_json_array(json, "rho_asked");
    for (int32_t k = 0; k < set->count; k++) {
        ga_json_real(json, NULL, s->points[set->points[k]].signal.spearman);
    }
    ga_json_end(json);
    ga_answer_members(json, &s->ask, c, &frame);
    ga_json_end(json);
}

/* The best case with so many decisions under one standard deviation; its set. NULL: there is none. */
static const ga_case *best_of(
    const simulating *s, ga_std_kind std_kind, int32_t decisions, const decision_set **set_out) {
    const ga_case *best = NULL;
    for (int32_t i = 0; i < s->set_count; i++) {
        const decision_set *set = &s->sets[i];
        for (int32_t k = set->first_case; set->count == decisions && k < set->first_case + set->case_count;
             k++) {
            const ga_case *c = &s->cases[k];
            if (c->options.std_kind == std_kind && isfinite(c->gain) &&
                (best == NULL || c->gain > best->gain)) {
                best = c;
                *set_out = set;
            }
        }
    }
    return best;
}

static void write_best(ga_json *json, const simulating *s) {
    static const char *const names[2] = {"one_decision", "two_decisions"};
    ga_json_object(json, "best");
    for (int32_t d = 0; d < s->ask.std_count; d++) {
        ga_json_object(json, s->ask.stds[d] == GA_STD_GROUP ? "group" : "global");
        for (int32_t decisions = 1; decisions <= 2; decisions++) {
            const decision_set *set = NULL;
            const ga_case *c = best_of(s, s->ask.stds[d], decisions, &set);
            if (c != NULL) {
                ga_json_array(json, names[decisions - 1]);
                write_case(json, s, set, c);
                ga_json_end(json);
            }
        }
        ga_json_end(json);
    }
    ga_json_end(json);
}

static void answer_json(const simulating *s) {
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "recipe", s->recipe != NULL ? s->recipe->name : NULL);
    ga_json_integer(&json, "group_size", s->world.group_size);
    ga_json_integer(&json, "groups_per_batch", s->world.groups);
    ga_json_integer(&json, "ranks", s->ranks);
    ga_json_integer(&json, "worlds", s->repeat);
    ga_json_array(&json, "results");
    for (int32_t i = 0; i < s->set_count; i++) {
        for (int32_t k = 0; k < s->sets[i].case_count; k++) {
            write_case(&json, s, &s->sets[i], &s->cases[s->sets[i].first_case + k]);
        }
    }
    ga_json_end(&json);
    write_best(&json, s);
    ga_json_end(&json);
}

static void say_best(const simulating *s) {
    for (int32_t d = 0; d < s->ask.std_count; d++) {
        const char *name = s->ask.stds[d] == GA_STD_GROUP ? "group" : "global";
        const decision_set *set = NULL;
        char label[160];
        const ga_case *one = best_of(s, s->ask.stds[d], 1, &set);
        if (one == NULL) {
            continue;
        }
        label_of(s, set, label, sizeof label);
        (void)printf("\nbest with std %s: %s, %s, %d of %d kept: %.2f times full rollouts%s", name, label,
            ga_answer_policy(one->options.policy), (int)one->options.keep_per_rank[0], (int)s->rows_per_rank,
            one->gain, one->pays == GA_PAYS_YES ? "" : " (pruning does not surely pay)");
        const ga_case *two = best_of(s, s->ask.stds[d], 2, &set);
        if (two != NULL) {
            label_of(s, set, label, sizeof label);
            (void)printf("\n  two decisions: %s, %s, %d, then %d kept: %.2f (%+.1f %%)", label,
                ga_answer_policy(two->options.policy), (int)two->options.keep_per_rank[0],
                (int)two->options.keep_per_rank[1], two->gain, 100 * (two->gain / one->gain - 1));
        }
    }
    (void)puts("");
}

static void answer_people(const simulating *s) {
    (void)printf("%s%s%d worlds of %d batches of %d groups of %d rows on %d ranks x %d rows\n\n",
        s->recipe != NULL ? s->recipe->name : "", s->recipe != NULL ? ": " : "", (int)s->repeat,
        (int)s->world.batches, (int)s->world.groups, (int)s->world.group_size, (int)s->ranks,
        (int)s->rows_per_rank);
    ga_answer_heading("signal");
    for (int32_t i = 0; i < s->set_count; i++) {
        char label[160];
        label_of(s, &s->sets[i], label, sizeof label);
        for (int32_t k = 0; k < s->sets[i].case_count; k++) {
            ga_answer_line(label, &s->cases[s->sets[i].first_case + k]);
        }
    }
    say_best(s);
}

/* A panel for each moment, shape and standard deviation. */
static ga_status draw(const simulating *s, ga_error *error) {
    if (s->ask.plot == NULL) {
        return GA_OK;
    }
    const size_t most = (size_t)s->set_count * 2;
    ga_answer_panel *panels = calloc(most, sizeof *panels);
    const ga_case **list = calloc((size_t)s->case_count * 2, sizeof *list);
    if (panels == NULL || list == NULL) {
        free(panels);
        free(list);
        return GA_FAIL(error, GA_ERR_MEMORY, "simulate: out of memory");
    }
    int32_t used = 0, filled = 0;
    for (int32_t i = 0; i < s->set_count; i++) {
        for (int32_t d = 0; d < s->ask.std_count; d++) {
            ga_answer_panel *panel = &panels[used++];
            char label[120];
            label_of(s, &s->sets[i], label, sizeof label);
            (void)snprintf(panel->title, sizeof panel->title, "%s; std %s", label,
                s->ask.stds[d] == GA_STD_GROUP ? "group" : "global");
            panel->cases = list + filled;
            for (int32_t k = 0; k < s->sets[i].case_count; k++) {
                const ga_case *c = &s->cases[s->sets[i].first_case + k];
                if (c->options.std_kind == s->ask.stds[d]) {
                    list[filled++] = c;
                    panel->count++;
                }
            }
        }
    }
    const ga_status status = ga_answer_picture(
        s->ask.plot, s->recipe != NULL ? s->recipe->name : "simulated groups", panels, used, error);
    free(panels);
    free(list);
    return status;
}

ga_exit ga_command_simulate(const ga_call *call) {
    ga_error error;
    ga_error_clear(&error);
    simulating *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return ga_command_refuse(call, GA_ERR_MEMORY, "simulate: out of memory");
    }
    ga_status status = read_call(call, s, &error);
    if (status == GA_OK) {
        status = run_sets(s, &error);
    }
    if (status == GA_OK) {
        status = draw(s, &error);
    }
    ga_exit code = GA_EXIT_DONE;
    if (status != GA_OK) {
        code = ga_command_fail(call, &error);
    } else if (call->json) {
        answer_json(s);
    } else if (!call->quiet) {
        answer_people(s);
    }
    free(s->cases);
    free(s);
    return code;
}
