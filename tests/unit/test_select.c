#include "tests/unit/select_batch.h"

#include "grpo_accel/select/compact.h"
#include "grpo_accel/select/extremes.h"
#include "grpo_accel/select/inclusion.h"
#include "grpo_accel/select/rounding.h"

/* ---- extremes against brute force ---- */

enum { SMALL_MAX = 12 };

static int compare_int32(const void *left, const void *right) {
    const int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

static bool quota_holds(const ga_grid *grid, const uint8_t *kept, int32_t keep) {
    for (int32_t rank = 0; rank < grid->ranks; rank++) {
        int32_t count = 0;
        for (int32_t i = 0; i < grid->rows_per_rank; i++) {
            count += kept[rank * grid->rows_per_rank + i];
        }
        if (count != keep) {
            return false;
        }
    }
    return true;
}

/* What a set grants: each group's count cut at the floor asked for, ascending; rows short of even more. */
static void sorted_floors(
    const ga_grid *grid, const uint8_t *kept, const int32_t *asked, int32_t sorted[SMALL_MAX]) {
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t held = kept_of_group(grid, kept, group);
        sorted[group] = held < asked[group] ? held : asked[group];
    }
    qsort(sorted, (size_t)grid->groups, sizeof *sorted, compare_int32);
}

/* Rows above each cap, negative, ascending: the worst group first, so that larger is better here too. */
static void sorted_excesses(
    const ga_grid *grid, const uint8_t *kept, const int32_t *asked, int32_t sorted[SMALL_MAX]) {
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t excess = kept_of_group(grid, kept, group) - asked[group];
        sorted[group] = excess > 0 ? -excess : 0;
    }
    qsort(sorted, (size_t)grid->groups, sizeof *sorted, compare_int32);
}

static int compare_sorted(const int32_t *a, const int32_t *b, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        if (a[i] != b[i]) {
            return a[i] < b[i] ? -1 : 1;
        }
    }
    return 0;
}

static bool bounds_hold(const ga_grid *grid, const uint8_t *kept, const ga_bounds *bounds) {
    for (int32_t group = 0; group < grid->groups; group++) {
        const int32_t held = kept_of_group(grid, kept, group);
        if (held < bounds->floor[group] || held > bounds->cap[group]) {
            return false;
        }
    }
    return true;
}

typedef struct best {
    int32_t floors[SMALL_MAX];
    int32_t excesses[SMALL_MAX];
    double energy; /* among the sets within `granted` */
} best;

/* All sets with the quota: the most even floors and caps that any of them has, the best one within `granted`.
 */
static best brute_force(const ga_grid *grid, const double *weight, int32_t keep, const ga_bounds *asked,
    const ga_bounds *granted) {
    best found = {.energy = -(double)INFINITY};
    bool first = true;
    for (unsigned set = 0; set < 1u << grid->count; set++) {
        uint8_t kept[SMALL_MAX];
        int32_t floors[SMALL_MAX], excesses[SMALL_MAX];
        for (int32_t i = 0; i < grid->count; i++) {
            kept[i] = (uint8_t)(set >> i & 1u);
        }
        if (!quota_holds(grid, kept, keep)) {
            continue;
        }
        sorted_floors(grid, kept, asked->floor, floors);
        sorted_excesses(grid, kept, asked->cap, excesses);
        if (first || compare_sorted(floors, found.floors, grid->groups) > 0) {
            memcpy(found.floors, floors, sizeof floors);
        }
        if (first || compare_sorted(excesses, found.excesses, grid->groups) > 0) {
            memcpy(found.excesses, excesses, sizeof excesses);
        }
        first = false;
        if (bounds_hold(grid, kept, granted)) {
            found.energy = fmax(found.energy, energy(weight, kept, grid->count));
        }
    }
    return found;
}

/* A small batch with groups of any size, weights with ties, bounds with and without room. */
typedef struct small_case {
    batch *b;
    ga_grid grid;
    int32_t keep;
    double weight[SMALL_MAX];
    ga_bounds asked, granted;
    uint8_t kept[SMALL_MAX];
} small_case;

static small_case make_small(ga_random *random, int trial, ga_arena *arena) {
    static const int32_t shapes[][2] = {
        {1, 6}, {2, 3}, {2, 5}, {3, 3}, {3, 4}, {4, 2}, {5, 2}, {2, 4}, {4, 3}, {6, 2}};
    small_case c = {0};
    c.b = make_batch(random, shapes[trial % 10][0], shapes[trial % 10][1], 1);
    const uint32_t groups = 1 + ga_random_below(random, 6);
    for (int32_t i = 0; i < c.b->count; i++) {
        c.b->rows[i].group = ga_random_below(random, groups);
        c.weight[i] = trial % 3 == 0 ? ga_random_below(random, 3) : ga_random_normal(random);
        c.weight[i] = trial % 5 == 0 && ga_random_below(random, 4) == 0 ? 1000 : c.weight[i];
    }
    c.grid = grid_of(c.b, arena);
    c.keep = 1 + (int32_t)ga_random_below(random, (uint32_t)c.grid.rows_per_rank);
    const int32_t min_group = (int32_t)ga_random_below(random, 4);
    const int32_t max_group = (int32_t)ga_random_below(random, 5);
    test_ok(ga_bounds_make(&c.grid, min_group, max_group, arena, &c.asked, NULL), NULL);
    for (int32_t group = 0; trial % 2 == 0 && group < c.grid.groups; group++) {
        c.asked.cap[group] = (int32_t)ga_random_below(random, 5);
        c.asked.floor[group] = (int32_t)ga_random_below(random, (uint32_t)c.asked.cap[group] + 1);
        const int32_t size = ga_grid_group_size(&c.grid, group);
        c.asked.floor[group] = c.asked.floor[group] > size ? size : c.asked.floor[group];
    }
    test_ok(ga_bounds_make(&c.grid, 0, 0, arena, &c.granted, NULL), NULL);
    memcpy(c.granted.floor, c.asked.floor, (size_t)c.grid.groups * sizeof(int32_t));
    memcpy(c.granted.cap, c.asked.cap, (size_t)c.grid.groups * sizeof(int32_t));
    return c;
}

static void choose_small(small_case *c, ga_random random, ga_arena *arena) {
    double weight[SMALL_MAX];
    for (int32_t i = 0; i < c->grid.count; i++) {
        weight[i] = c->weight[i] >= 1000 ? (double)INFINITY : c->weight[i];
    }
    test_ok(ga_extremes_choose(&c->grid, weight, c->keep, random, arena, &c->granted, c->kept, NULL), NULL);
}

static void extremes_equal_brute_force(void **state) {
    (void)state;
    ga_random random = test_random(10);
    ga_arena *arena = ga_arena_create(0);
    int lowered = 0, raised = 0, both = 0, moved = 0;
    for (int trial = 0; trial < 4000; trial++) {
        small_case c = make_small(&random, trial, arena);
        choose_small(&c, random, arena);
        const best expected = brute_force(&c.grid, c.weight, c.keep, &c.asked, &c.granted);
        assert_true(quota_holds(&c.grid, c.kept, c.keep));
        assert_true(bounds_hold(&c.grid, c.kept, &c.granted));
        assert_near(energy(c.weight, c.kept, c.grid.count), expected.energy, 1e-9);
        int32_t floors[SMALL_MAX], excesses[SMALL_MAX];
        int lowered_here = 0, raised_here = 0;
        for (int32_t group = 0; group < c.grid.groups; group++) {
            floors[group] = c.granted.floor[group];
            excesses[group] = c.asked.cap[group] - c.granted.cap[group];
            lowered_here += c.granted.floor[group] < c.asked.floor[group];
            raised_here += c.granted.cap[group] > c.asked.cap[group];
        }
        qsort(floors, (size_t)c.grid.groups, sizeof *floors, compare_int32);
        qsort(excesses, (size_t)c.grid.groups, sizeof *excesses, compare_int32);
        assert_int_equal(compare_sorted(floors, expected.floors, c.grid.groups), 0);
        assert_int_equal(compare_sorted(excesses, expected.excesses, c.grid.groups), 0);
        lowered += lowered_here > 0;
        raised += raised_here > 0;
        both += lowered_here > 0 && raised_here > 0;
        uint8_t bounded[SMALL_MAX];
        memcpy(bounded, c.kept, sizeof bounded);
        test_ok(ga_bounds_make(&c.grid, 0, 0, arena, &c.granted, NULL), NULL);
        choose_small(&c, random, arena);
        moved += memcmp(bounded, c.kept, (size_t)c.grid.count) != 0;
        ga_arena_reset(arena);
        free(c.b);
    }
    /* The cases that matter did occur. */
    assert_true(lowered > 300 && raised > 300 && both > 5 && moved > 300);
    ga_arena_destroy(&arena);
}

/* Groups that a rank holds alone, long chains of exchanges: group k sits on ranks k and k+1 only. */
static void floors_travel_along_a_chain(void **state) {
    (void)state;
    enum { RANKS = 40 };
    ga_arena *arena = ga_arena_create(0);
    batch *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->ranks = RANKS;
    b->rows_per_rank = 2;
    b->count = 2 * RANKS;
    for (int32_t i = 0; i < b->count; i++) {
        b->rows[i] = (ga_candidate){.group = (uint64_t)((i + 1) / 2), .rank = i / 2, .index = i % 2};
    }
    const ga_grid grid = grid_of(b, arena);
    /* One row a rank, RANKS + 1 groups: all but one group can have a row. Every rank prefers its second. */
    double weight[2 * RANKS];
    uint8_t kept[2 * RANKS];
    ga_bounds bounds;
    for (int32_t i = 0; i < b->count; i++) {
        weight[i] = i % 2 == 1 ? 1 : 0;
    }
    test_ok(ga_bounds_make(&grid, 1, 0, arena, &bounds, NULL), NULL);
    test_ok(ga_extremes_choose(&grid, weight, 1, test_random(1), arena, &bounds, kept, NULL), NULL);
    assert_near(energy(weight, kept, b->count), RANKS, 0);
    assert_int_equal(bounds.floor[0], 0);
    /* The last group's only row is far too bad, but now it is the first group that everybody can spare. */
    weight[b->count - 1] = -100;
    b->rows[0].group = 1;
    ga_arena_reset(arena);
    const ga_grid shifted = grid_of(b, arena);
    for (int32_t max_group = 0; max_group <= 1; max_group++) {
        /* The same by a floor, and by a cap: RANKS groups, one row each. */
        test_ok(ga_bounds_make(&shifted, 1 - max_group, max_group, arena, &bounds, NULL), NULL);
        test_ok(ga_extremes_choose(&shifted, weight, 1, test_random(1), arena, &bounds, kept, NULL), NULL);
        for (int32_t group = 0; group < shifted.groups; group++) {
            assert_int_equal(bounds.floor[group], 1 - max_group);
            assert_int_equal(kept_of_group(&shifted, kept, group), 1);
        }
    }
    free(b);
    ga_arena_destroy(&arena);
}

static void infinite_weights_come_first(void **state) {
    (void)state;
    ga_random random = test_random(11);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 6, 5, 6);
    const ga_grid grid = grid_of(b, arena);
    double weight[30];
    uint8_t kept[30];
    ga_bounds bounds;
    test_ok(ga_bounds_make(&grid, 2, 0, arena, &bounds, NULL), NULL);
    for (int32_t i = 0; i < 30; i++) {
        weight[i] = i % 5 == 2 ? (double)INFINITY : 1e300 * ga_random_uniform(&random) - 5e299;
    }
    test_ok(ga_extremes_choose(&grid, weight, 2, random, arena, &bounds, kept, NULL), NULL);
    for (int32_t i = 2; i < 30; i += 5) {
        assert_true(kept[i]);
    }
    weight[7] = (double)NAN;
    ga_error error;
    ga_error_clear(&error);
    assert_int_equal(ga_extremes_choose(&grid, weight, 2, random, arena, &bounds, kept, &error), GA_ERR_DATA);
    assert_non_null(strstr(error.message, "rank 1 row 2"));
    assert_int_equal(
        ga_extremes_choose(&grid, weight, 0, random, arena, &bounds, kept, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(
        ga_extremes_choose(&grid, weight, 6, random, arena, &bounds, kept, NULL), GA_ERR_ARGUMENT);
    bounds.floor[1] = bounds.cap[1] + 1;
    assert_int_equal(
        ga_extremes_choose(&grid, weight, 2, random, arena, &bounds, kept, NULL), GA_ERR_ARGUMENT);
    free(b);
    ga_arena_destroy(&arena);
}

/* ---- rounding ---- */

static void random_inclusion(
    ga_random *random, const ga_grid *grid, int32_t keep, ga_arena *arena, double *out) {
    double weight[ROWS_MAX];
    const ga_inclusion_limits limits = {.keep_per_rank = keep};
    for (int32_t i = 0; i < grid->count; i++) {
        weight[i] = 0.05 + ga_random_uniform(random) * (ga_random_below(random, 5) == 0 ? 20 : 1);
    }
    test_ok(ga_inclusion_fit(grid, weight, &limits, arena, out, NULL), NULL);
}

/* Exact quotas, group counts within one of expectation, over many shapes. */
static void rounding_keeps_sums(void **state) {
    (void)state;
    ga_random random = test_random(20);
    ga_arena *arena = ga_arena_create(0);
    for (int trial = 0; trial < 2000; trial++) {
        const int32_t ranks = 1 + (int32_t)ga_random_below(&random, 20);
        const int32_t rows = 1 + (int32_t)ga_random_below(&random, 9);
        batch *b = make_batch(&random, ranks, rows, 1 + (int32_t)ga_random_below(&random, 12));
        const ga_grid grid = grid_of(b, arena);
        const int32_t keep = 1 + (int32_t)ga_random_below(&random, (uint32_t)rows);
        double inclusion[ROWS_MAX];
        uint8_t kept[ROWS_MAX];
        random_inclusion(&random, &grid, keep, arena, inclusion);
        test_ok(ga_rounding_draw(&grid, inclusion, ga_random_make(3, (uint64_t)trial, GA_STREAM_ROUNDING),
                    arena, kept, NULL),
            NULL);
        assert_true(quota_holds(&grid, kept, keep));
        for (int32_t group = 0; group < grid.groups; group++) {
            const double sum = sum_of_group(&grid, inclusion, group);
            const int32_t held = kept_of_group(&grid, kept, group);
            assert_true(held >= floor(sum + 1e-9 - 1e-8) && held <= ceil(sum + 1e-8));
        }
        for (int32_t i = 0; i < grid.count; i++) {
            assert_true(inclusion[i] > 0 || !kept[i]);
            assert_true(inclusion[i] < 1 || kept[i]);
        }
        ga_arena_reset(arena);
        free(b);
    }
    ga_arena_destroy(&arena);
}

/* P(kept) = π row by row: no frequency is further off than 5 standard errors. */
static void rounding_meets_probabilities(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    ga_random random = test_random(21);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 8, 6, 7);
    const ga_grid grid = grid_of(b, arena);
    double inclusion[ROWS_MAX];
    int hits[48] = {0};
    random_inclusion(&random, &grid, 2, arena, inclusion);
    ga_arena *scratch = ga_arena_create(0);
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        uint8_t kept[48];
        test_ok(ga_rounding_draw(&grid, inclusion, ga_random_make(test_seed(), draw, GA_STREAM_ROUNDING),
                    scratch, kept, NULL),
            NULL);
        for (int i = 0; i < 48; i++) {
            hits[i] += kept[i];
        }
        ga_arena_reset(scratch);
    }
    for (int i = 0; i < 48; i++) {
        const double error = sqrt(inclusion[i] * (1 - inclusion[i]) / DRAWS);
        assert_near(hits[i] / (double)DRAWS, inclusion[i], 5 * error + 1e-9);
    }
    ga_arena_destroy(&scratch);
    free(b);
    ga_arena_destroy(&arena);
}

/* Sums that are no integers end on one side or the other, with the right odds. */
static void rounding_of_open_sums(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    ga_arena *arena = ga_arena_create(0);
    const ga_candidate rows[] = {{.group = 1}, {.group = 1, .index = 1}, {.group = 2, .index = 2}};
    ga_grid grid;
    test_ok(ga_grid_make(rows, 3, 1, arena, &grid, NULL), NULL);
    const double inclusion[] = {0.5, 0.25, 0.6}; /* 1.35 in all */
    int hits[3] = {0}, twos = 0;
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        uint8_t kept[3];
        test_ok(ga_rounding_draw(&grid, inclusion, ga_random_make(test_seed(), draw, GA_STREAM_ROUNDING),
                    arena, kept, NULL),
            NULL);
        const int count = kept[0] + kept[1] + kept[2];
        assert_true(count == 1 || count == 2);
        assert_true(kept[0] + kept[1] <= 1);
        twos += count == 2;
        for (int i = 0; i < 3; i++) {
            hits[i] += kept[i];
        }
    }
    assert_near(twos / (double)DRAWS, 0.35, 0.02);
    for (int i = 0; i < 3; i++) {
        assert_near(hits[i] / (double)DRAWS, inclusion[i], 0.02);
    }
    const double wrong[] = {0.5, 1.25, NAN};
    uint8_t kept[3] = {9, 9, 9};
    assert_int_equal(ga_rounding_draw(&grid, wrong, test_random(0), arena, kept, NULL), GA_ERR_DATA);
    assert_int_equal(kept[0], 9);
    ga_arena_destroy(&arena);
}

/* ---- inclusion ---- */

/* The weights' proportions wherever no limit is in the way: Kuhn-Tucker conditions of relative entropy. */
static bool is_in_proportion(const ga_grid *grid, const double *weight, const ga_bounds *bounds, double least,
    const double *inclusion) {
    bool open[ROWS_MAX];
    for (int32_t group = 0; group < grid->groups; group++) {
        const double sum = sum_of_group(grid, inclusion, group);
        open[group] = sum > bounds->floor[group] + 1e-6 && sum < bounds->cap[group] - 1e-6;
    }
    for (int32_t rank = 0; rank < grid->ranks; rank++) {
        double factor = -1;
        for (int32_t i = 0; i < grid->rows_per_rank; i++) {
            const int32_t slot = rank * grid->rows_per_rank + i;
            const bool between = inclusion[slot] > least + 1e-6 && inclusion[slot] < 1 - 1e-6;
            if (between && open[grid->group[slot]]) {
                const double ratio = inclusion[slot] / weight[slot];
                if (factor > 0 && fabs(ratio / factor - 1) > 1e-5) {
                    return false;
                }
                factor = ratio;
            }
        }
    }
    return true;
}

/* Thousands of cases, with floors and caps that leave room, none, or that quotas forbid: sums are met. */
static void inclusion_meets_quotas_and_bounds(void **state) {
    (void)state;
    ga_random random = test_random(30);
    ga_arena *arena = ga_arena_create(0);
    int bounded = 0, gave_way = 0, out_of_proportion = 0;
    for (int trial = 0; trial < 3000; trial++) {
        const int32_t ranks = 1 + (int32_t)ga_random_below(&random, 8);
        const int32_t rows = 1 + (int32_t)ga_random_below(&random, 6);
        batch *b = make_batch(&random, ranks, rows, 1 + (int32_t)ga_random_below(&random, 9));
        const ga_grid grid = grid_of(b, arena);
        const int32_t keep = 1 + (int32_t)ga_random_below(&random, (uint32_t)rows);
        const double least = trial % 3 == 0 ? 0 : 0.3 * ga_random_uniform(&random);
        double weight[ROWS_MAX], inclusion[ROWS_MAX];
        uint8_t kept[ROWS_MAX];
        for (int32_t i = 0; i < b->count; i++) {
            weight[i] = trial % 2 == 0 ? 1 : ga_random_uniform(&random) * ga_random_below(&random, 3);
        }
        ga_bounds bounds;
        const int32_t max_group = (int32_t)ga_random_below(&random, 5);
        test_ok(ga_bounds_make(&grid, (int32_t)ga_random_below(&random, 4), max_group, arena, &bounds, NULL),
            NULL);
        test_ok(ga_extremes_choose(&grid, weight, keep, random, arena, &bounds, kept, NULL), NULL);
        const ga_inclusion_limits limits = {keep, least, &bounds};
        test_ok(ga_inclusion_fit(&grid, weight, &limits, arena, inclusion, NULL), NULL);
        const double by_chance = fmin(least, (double)keep / rows);
        for (int32_t rank = 0; rank < ranks; rank++) {
            double sum = 0;
            for (int32_t i = 0; i < rows; i++) {
                assert_true(inclusion[rows * rank + i] >= 0 && inclusion[rows * rank + i] <= 1);
                gave_way += inclusion[rows * rank + i] < by_chance - 1e-9;
                sum += inclusion[rows * rank + i];
            }
            assert_near(sum, keep, 1e-11);
        }
        for (int32_t group = 0; group < grid.groups; group++) {
            const double sum = sum_of_group(&grid, inclusion, group);
            assert_true(sum >= bounds.floor[group] - 1e-11 && sum <= bounds.cap[group] + 1e-11);
            bounded += sum < bounds.floor[group] + 1e-6 || sum > bounds.cap[group] - 1e-6;
        }
        for (int32_t i = 0; i < b->count; i++) {
            weight[i] = fmax(weight[i], 1e-12);
        }
        out_of_proportion += !is_in_proportion(&grid, weight, &bounds, least, inclusion);
        ga_arena_reset(arena);
        free(b);
    }
    assert_true(bounded > 1000 && gave_way > 100);
    /* The rest leaves so little choice that 60 sweeps don't get there; sums hold all the same. */
    assert_true(out_of_proportion < 45);
    ga_arena_destroy(&arena);
}

static void inclusion_is_in_proportion(void **state) {
    (void)state;
    ga_arena *arena = ga_arena_create(0);
    const ga_candidate rows[] = {
        {.group = 1}, {.group = 1, .index = 1}, {.group = 1, .index = 2}, {.group = 1, .index = 3}};
    ga_inclusion_limits limits = {.keep_per_rank = 2};
    ga_grid grid;
    double inclusion[4];
    test_ok(ga_grid_make(rows, 4, 1, arena, &grid, NULL), NULL);
    const double plain[] = {1, 2, 3, 4};
    test_ok(ga_inclusion_fit(&grid, plain, &limits, arena, inclusion, NULL), NULL);
    assert_near(inclusion[0], 0.2, 1e-12);
    assert_near(inclusion[3], 0.8, 1e-12);
    const double steep[] = {1, 1, 2, 100};
    test_ok(ga_inclusion_fit(&grid, steep, &limits, arena, inclusion, NULL), NULL);
    assert_near(inclusion[0], 0.25, 1e-12);
    assert_near(inclusion[2], 0.5, 1e-12);
    assert_near(inclusion[3], 1, 0);
    const double sure[] = {0, 0, (double)INFINITY, 0};
    test_ok(ga_inclusion_fit(&grid, sure, &limits, arena, inclusion, NULL), NULL);
    assert_near(inclusion[0], 1.0 / 3.0, 1e-9);
    assert_near(inclusion[2], 1, 0);
    ga_inclusion_mix_audit(inclusion, 4, 0.1, 2, 4);
    assert_near(inclusion[2], 0.95, 1e-12);
    /* A least probability takes from the others in proportion; more than c/B it can't be. */
    limits.least = 0.3;
    test_ok(ga_inclusion_fit(&grid, plain, &limits, arena, inclusion, NULL), NULL);
    const double raised[] = {0.3, 0.4, 0.6, 0.8};
    for (int i = 0; i < 4; i++) {
        assert_near(inclusion[i], (i == 0 ? 0.3 : raised[i] * 1.7 / 1.8), 1e-12);
    }
    limits.least = 0.9;
    test_ok(ga_inclusion_fit(&grid, steep, &limits, arena, inclusion, NULL), NULL);
    for (int i = 0; i < 4; i++) {
        assert_near(inclusion[i], 0.5, 1e-12);
    }
    const double wrong[] = {1, -1, 1, 1};
    assert_int_equal(ga_inclusion_fit(&grid, wrong, &limits, arena, inclusion, NULL), GA_ERR_DATA);
    ga_arena_destroy(&arena);
}

static void scale_factors(void **state) {
    (void)state;
    ga_random random = test_random(31);
    for (int trial = 0; trial < 3000; trial++) {
        double weight[20], low[20], high[20], low_sum = 0, high_sum = 0, sum = 0;
        const int32_t count = 1 + (int32_t)ga_random_below(&random, 20);
        for (int32_t i = 0; i < count; i++) {
            weight[i] = pow(10, 24 * ga_random_uniform(&random) - 12);
            low[i] = trial % 2 == 0 ? 0 : ga_random_uniform(&random);
            high[i] = low[i] + (ga_random_below(&random, 4) == 0 ? 0 : ga_random_uniform(&random));
            low_sum += low[i];
            high_sum += high[i];
        }
        const double target = low_sum + (1.4 * ga_random_uniform(&random) - 0.2) * (high_sum - low_sum);
        const double factor = ga_scale_factor(weight, low, high, count, target);
        for (int32_t i = 0; i < count; i++) {
            sum += fmin(high[i], fmax(low[i], factor * weight[i]));
        }
        assert_near(sum, fmin(high_sum, fmax(low_sum, target)), 1e-12 * (1 + high_sum));
    }
}

/* ---- compact ---- */

static void compact_lists(void **state) {
    (void)state;
    ga_random random = test_random(60);
    ga_arena *arena = ga_arena_create(0);
    batch *b = make_batch(&random, 5, 7, 7);
    const ga_plan_options options = default_options(b, 3);
    const ga_plan plan = plan_of(&options, b, arena);
    for (int32_t rank = 0; rank < 5; rank++) {
        ga_compact compact, doubled;
        test_ok(ga_compact_make(b->rows, &plan, rank, arena, &compact, NULL), NULL);
        assert_int_equal(compact.rows, 7);
        assert_int_equal(compact.kept, 3);
        int32_t next = 0;
        for (int32_t row = 0; row < 7; row++) {
            if (plan.kept[7 * rank + row]) {
                assert_int_equal(compact.gather[next], row);
                assert_int_equal(compact.scatter[row], next++);
            } else {
                assert_int_equal(compact.scatter[row], -1);
            }
        }
        test_ok(ga_compact_repeat(&compact, 2, arena, &doubled, NULL), NULL);
        assert_int_equal(doubled.rows, 14);
        assert_int_equal(doubled.kept, 6);
        for (int32_t i = 0; i < 6; i++) {
            assert_int_equal(doubled.gather[i], compact.gather[i % 3] + (i < 3 ? 0 : 7));
            assert_int_equal(doubled.scatter[doubled.gather[i]], i);
        }
    }
    ga_compact compact = {.kept = -7};
    assert_int_equal(ga_compact_make(b->rows, &plan, 5, arena, &compact, NULL), GA_ERR_DATA);
    assert_int_equal(ga_compact_make(NULL, &plan, 0, arena, &compact, NULL), GA_ERR_ARGUMENT);
    assert_int_equal(compact.kept, -7);
    compact.rows = INT32_MAX;
    assert_int_equal(ga_compact_repeat(&compact, 2, arena, &compact, NULL), GA_ERR_ARGUMENT);
    free(b);
    ga_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extremes_equal_brute_force),
        cmocka_unit_test(floors_travel_along_a_chain),
        cmocka_unit_test(infinite_weights_come_first),
        cmocka_unit_test(rounding_keeps_sums),
        cmocka_unit_test(rounding_meets_probabilities),
        cmocka_unit_test(rounding_of_open_sums),
        cmocka_unit_test(inclusion_meets_quotas_and_bounds),
        cmocka_unit_test(inclusion_is_in_proportion),
        cmocka_unit_test(scale_factors),
        cmocka_unit_test(compact_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
