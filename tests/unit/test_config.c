#include "tests/unit/support.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grpo_accel/config/config.h"
#include "grpo_accel/config/document.h"
#include "grpo_accel/config/dump.h"
#include "grpo_accel/config/nearest.h"
#include "grpo_accel/config/schema.h"
#include "grpo_accel/config/value.h"

/* Folder of this test's files; the path of the one that was written last. */
static char *folder;
static char *file_path;

static int make_folder(void **state) {
    (void)state;
    folder = test_folder_make();
    file_path = test_path(folder, "accel.yaml");
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    free(file_path);
    test_folder_remove(folder);
    return 0;
}

static void write_bytes(const char *bytes, size_t count) {
    FILE *file = fopen(file_path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *text) {
    write_bytes(text, strlen(text));
}

static ga_status load_text(const char *yaml, ga_config **config_out, ga_error *error) {
    write_text(yaml);
    ga_error_clear(error);
    return ga_config_load(file_path, NULL, 0, NULL, config_out, error);
}

static ga_config *must_load(const char *yaml) {
    ga_error error;
    ga_config *config = NULL;
    test_ok(load_text(yaml, &config, &error), &error);
    assert_non_null(config);
    return config;
}

/* The text must be refused with exactly this message, the file's name before it left out. */
static void must_refuse(const char *yaml, const char *message) {
    ga_error error;
    ga_config *config = NULL;
    assert_int_equal(load_text(yaml, &config, &error), GA_ERR_CONFIG);
    assert_null(config);
    assert_int_equal(error.status, GA_ERR_CONFIG);
    assert_memory_equal(error.message, file_path, strlen(file_path));
    assert_string_equal(error.message + strlen(file_path), message);
}

/* The text must be refused, and the message must hold `part`. */
static void must_refuse_with(const char *yaml, const char *part) {
    ga_error error;
    ga_config *config = NULL;
    assert_int_equal(load_text(yaml, &config, &error), GA_ERR_CONFIG);
    assert_null(config);
    if (strstr(error.message, part) == NULL) {
        fail_msg("'%s' is not in '%s'", part, error.message);
    }
}

static ga_config *must_override(const char *const *environment, const char *const *sets, size_t set_count) {
    ga_error error;
    ga_error_clear(&error);
    ga_config *config = NULL;
    test_ok(ga_config_load(file_path, sets, set_count, environment, &config, &error), &error);
    return config;
}

static void must_refuse_override(const char *variable, const char *set, const char *message) {
    const char *const environment[] = {variable, NULL};
    ga_error error;
    ga_error_clear(&error);
    ga_config *config = NULL;
    assert_int_equal(
        ga_config_load(NULL, &set, set != NULL ? 1 : 0, environment, &config, &error), GA_ERR_CONFIG);
    assert_null(config);
    assert_string_equal(error.message, message);
}

static void defaults_are_those_of_the_contract(void **state) {
    (void)state;
    ga_config *c = must_load("");
    assert_int_equal(c->version, 1);
    assert_int_equal(c->mode, GA_CONFIG_MODE_SHADOW);
    assert_int_equal(c->decision.step.count, 1);
    assert_int_equal(c->decision.step.values[0], 3);
    assert_true(c->decision.sigma == 0);
    assert_int_equal(c->decision.keep.count, 1);
    assert_true(c->decision.keep.values[0] == 0.5);
    assert_int_equal(c->decision.policy, GA_CONFIG_POLICY_EXTREMES);
    assert_int_equal(c->decision.threshold.kind, GA_CONFIG_THRESHOLD_QUANTILE);
    assert_true(c->decision.threshold.value == 0.5);
    assert_int_equal(c->decision.min_group, GA_CONFIG_AUTO);
    assert_true(c->decision.audit == 0.1 && c->decision.timeout_seconds == 10);
    assert_null(c->probe.path);
    assert_int_equal(c->probe.inputs,
        GA_INPUT_BIT(GA_INPUT_ATTENTION) | GA_INPUT_BIT(GA_INPUT_X0) | GA_INPUT_BIT(GA_INPUT_PREVIEW));
    assert_int_equal(c->probe.lookahead.steps, 2);
    assert_true(c->probe.lookahead.guided);
    assert_int_equal(c->probe.blocks.choice, GA_CONFIG_BLOCKS_MIDDLE);
    assert_int_equal(c->probe.blocks.count, 10);
    assert_int_equal(c->probe.map_size, 16);
    assert_int_equal(c->advantage.std, GA_CONFIG_STD_AUTO);
    assert_true(c->advantage.clip == 10);
    assert_int_equal(c->retrain.every_updates, 50);
    assert_int_equal(c->retrain.window_rows, 20000);
    assert_true(c->record.enabled && c->metrics.jsonl);
    assert_int_equal(c->record.segment_rows, 2048);
    assert_int_equal(ga_config_origin(c, "decision.keep")->kind, GA_ORIGIN_DEFAULT);
    assert_null(ga_config_origin(c, "decision.kept"));
    ga_config_free(&c);
    assert_null(c);
    ga_config_free(&c);
    ga_config_free(NULL);
}

static void every_kind_of_value_is_read(void **state) {
    (void)state;
    ga_config *c = must_load("version: 1\n"
                             "mode: \"prune\"\n"
                             "seed: 9007199254740992\n"
                             "run_dir: 'runs/a b'\n"
                             "decision:\n"
                             "  step: 7\n"
                             "  keep: 2.5e-1\n"
                             "  policy: threshold\n"
                             "  threshold: {kind: absolute, value: -3.5}\n"
                             "  min_group: 2\n"
                             "probe:\n"
                             "  path: probe.safetensors\n"
                             "  inputs: [preview]\n"
                             "  blocks: [down.0, mid]\n"
                             "  lookahead:\n"
                             "metrics: {wandb: false, jsonl: false}\n");
    assert_int_equal(c->mode, GA_CONFIG_MODE_PRUNE);
    assert_int_equal(c->seed, 9007199254740992);
    assert_string_equal(c->run_dir, "runs/a b");
    assert_int_equal(c->decision.step.values[0], 7);
    assert_true(c->decision.keep.values[0] == 0.25);
    assert_int_equal(c->decision.policy, GA_CONFIG_POLICY_THRESHOLD);
    assert_int_equal(c->decision.threshold.kind, GA_CONFIG_THRESHOLD_ABSOLUTE);
    assert_true(c->decision.threshold.value == -3.5);
    assert_int_equal(c->decision.min_group, 2);
    assert_string_equal(c->probe.path, "probe.safetensors");
    assert_int_equal(c->probe.inputs, GA_INPUT_BIT(GA_INPUT_PREVIEW));
    assert_int_equal(c->probe.blocks.choice, GA_CONFIG_BLOCKS_NAMED);
    assert_int_equal(c->probe.blocks.count, 2);
    assert_string_equal(c->probe.blocks.names[1], "mid");
    assert_int_equal(c->metrics.wandb, GA_CONFIG_WANDB_FALSE);
    assert_false(c->metrics.jsonl);
    const ga_origin *origin = ga_config_origin(c, "decision.threshold.value");
    assert_int_equal(origin->kind, GA_ORIGIN_FILE);
    assert_int_equal(origin->line, 9);
    assert_int_equal(origin->column, 38);
    ga_config_free(&c);
}

static void unknown_keys_name_the_nearest(void **state) {
    (void)state;
    must_refuse("mode: shadow\ndescision:\n  keep: 0.5\n",
        ":2:1: unknown key 'descision.keep', did you mean 'decision.keep'?");
    must_refuse("decision:\n  kep: 0.5\n", ":2:3: unknown key 'decision.kep', did you mean 'decision.keep'?");
    must_refuse("keep: 0.5\n", ":1:1: unknown key 'keep', did you mean 'decision.keep'?");
    must_refuse(
        "recrod: {finals: none}\n", ":1:1: unknown key 'recrod.finals', did you mean 'record.finals'?");
    must_refuse("zzzzzzzzzz: 1\n", ":1:1: unknown key 'zzzzzzzzzz'; 'grpo-accel config dump' shows all keys");
    must_refuse("decision: {policy: extreems}\n",
        ":1:20: decision.policy: expected one of extremes, neyman, topk, random, threshold, budget; "
        "found 'extreems', did you mean 'extremes'?");
}

static void numbers_are_strict(void **state) {
    (void)state;
    static const char *const reals[] = {"0.3x", "0,3", "010", "nan", ".nan", "inf", "+0.5", ".5", "5.", "1e",
        "0x1", "1_0", "\"0.5\"", "- 1", "0.5 0.6", "1e999", "true", "1..2", "--1", "-", "1e+"};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        char yaml[128];
        (void)snprintf(yaml, sizeof yaml, "decision: {timeout_seconds: %s}\n", reals[i]);
        ga_error error;
        ga_config *config = NULL;
        if (load_text(yaml, &config, &error) != GA_ERR_CONFIG) {
            fail_msg("%s was accepted as a number", reals[i]);
        }
    }
    static const char *const integers[] = {
        "1.0", "010", "1e3", "9223372036854775808", "0x10", "-0x1", "+3", "ten"};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        char yaml[128];
        (void)snprintf(yaml, sizeof yaml, "seed: %s\n", integers[i]);
        must_refuse_with(yaml, ":1:7: seed: expected a whole number from 0 to 9007199254740992; found '");
    }
    must_refuse("decision: {audit: '0.1'}\n",
        ":1:19: decision.audit: expected a number from 0 to 1; found the "
        "quoted text '0.1' (write it without quotes)");
    must_refuse("decision:\n  audit: 010\n",
        ":2:10: decision.audit: expected a number from 0 to 1; found '010' (no leading zeros)");
}

static void booleans_are_strict(void **state) {
    (void)state;
    static const char *const words[] = {
        "yes", "no", "on", "off", "True", "1", "'true'", "\"false\"", "", "[true]"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        char yaml[128];
        (void)snprintf(yaml, sizeof yaml, "record:\n  enabled: %s\n", words[i]);
        must_refuse_with(yaml, "record.enabled: expected true or false; found ");
    }
}

/* One step outside of each range is refused, the bounds themselves are accepted where they belong to it. */
static void ranges_hold_for_every_number_of_the_schema(void **state) {
    (void)state;
    int tried_count = 0;
    for (size_t i = 0; i < ga_schema_count; i++) {
        const ga_schema_entry *entry = &ga_schema[i];
        const bool is_number = entry->type == GA_SCHEMA_INTEGER || entry->type == GA_SCHEMA_REAL ||
                               entry->type == GA_SCHEMA_STEPS || entry->type == GA_SCHEMA_SHARES;
        if (!is_number || (entry->flags & GA_SCHEMA_NO_RANGE) != 0) {
            continue;
        }
        const bool whole = entry->type == GA_SCHEMA_INTEGER || entry->type == GA_SCHEMA_STEPS;
        const double beyond[] = {whole ? entry->min - 1 : nextafter(entry->min, -DBL_MAX),
            whole ? entry->max + 2 : nextafter(entry->max, DBL_MAX), entry->min, entry->max};
        const bool inside[] = {false, false, (entry->flags & GA_SCHEMA_ABOVE_MIN) == 0,
            (entry->flags & GA_SCHEMA_BELOW_MAX) == 0};
        for (size_t j = 0; j < 4; j++) {
            char set[160];
            const char *sets = set;
            (void)snprintf(set, sizeof set, "%s=%.17g", entry->path, beyond[j]);
            ga_error error;
            ga_error_clear(&error);
            ga_config *config = NULL;
            const ga_status status = ga_config_load(NULL, &sets, 1, NULL, &config, &error);
            const bool refused_by_range = strstr(error.message, ": expected ") != NULL;
            if (inside[j] == refused_by_range || (status != GA_OK && config != NULL)) {
                fail_msg("%s: %s", set, inside[j] ? error.message : "accepted");
            }
            ga_config_free(&config);
            tried_count++;
        }
    }
    assert_true(tried_count >= 60);
}

static void wrong_shapes_are_refused(void **state) {
    (void)state;
    must_refuse("- mode\n", ":1:1: expected keys such as 'mode: shadow'");
    must_refuse("shadow\n", ":1:1: expected keys such as 'mode: shadow'");
    must_refuse(
        "decision: 3\n", ":1:11: decision: expected a section with keys below it; found a single value");
    must_refuse("decision: [3]\n", ":1:11: decision: expected a section with keys below it; found a list");
    must_refuse("mode: {a: b}\n", ":1:7: mode: expected one of off, shadow, prune, auto; found a section");
    must_refuse("mode:\n", ":1:6: mode: expected one of off, shadow, prune, auto; found no value");
    must_refuse("run_dir: null\n", ":1:10: run_dir: expected a text; found no value");
    must_refuse_with("run_dir: ''\n", "run_dir: expected a text");
    must_refuse_with("decision: {keep: []}\n", "decision.keep: expected ");
    must_refuse_with("decision: {keep: [0.1, 0.2, 0.3, 0.4]}\n", "found a list of 4");
    must_refuse_with("decision: {candidates: [1, 2, 3, 4, 5]}\n", "found a list of 5");
    must_refuse_with("decision: {step: [5, 3]}\n", "(not after the step before it)");
    must_refuse_with("probe: {inputs: [x0, x0]}\n", "found 'x0' a second time");
    must_refuse_with("probe: {inputs: []}\n", "found a list of 0");
    must_refuse_with("probe: {inputs: [atention]}\n", "did you mean 'attention'?");
    must_refuse_with("probe: {blocks: \"middle:0\"}\n", "found the quoted text 'middle:0'");
    must_refuse_with("probe: {blocks: center:3}\n", "middle:N or last_encoder:N");
    must_refuse_with("probe: {blocks: middle:3x}\n", "middle:N or last_encoder:N");
    must_refuse_with("probe: {blocks: [a, [b]]}\n", "found a list of 1");
    must_refuse_with("version: 2\n", "version: expected a whole number, namely 1; found '2'");
}

static void the_unsafe_part_of_yaml_is_refused(void **state) {
    (void)state;
    must_refuse("mode: off\nmode: shadow\n", ":2:1: key 'mode' is given twice, first in line 1");
    must_refuse_with(
        "decision:\n  keep: 0.5\n  audit: 0\n  \"keep\": 0.5\n", ":4:3: key 'keep' is given twice");
    must_refuse_with("mode: &a shadow\n", ":1:7: anchors");
    must_refuse_with("run_dir: *a\n", ":1:10: anchors");
    must_refuse_with("decision: &a {keep: 0.5}\n", ":1:11: anchors");
    must_refuse_with("mode: !!str shadow\n", ":1:7: tags");
    must_refuse_with("decision: !x {keep: 0.5}\n", ":1:11: tags");
    must_refuse_with("decision: {<<: {keep: 0.5}}\n", ":1:12: merge keys");
    must_refuse_with("? [a]\n: 1\n", ":1:3: a key must be a word");
    must_refuse_with("? {a: b}\n: 1\n", ":1:3: a key must be a word");
    must_refuse_with("'': 1\n", "a key is empty");
    must_refuse_with("mode: shadow\n---\nmode: off\n", ":2:1: a second document");
    must_refuse_with("run_dir: \"a\\0b\"\n", "zero byte");
    must_refuse_with("mode: [\n", "not valid YAML");
    must_refuse_with("mode: 'shadow\n", "not valid YAML");
    must_refuse_with("\tmode: shadow\n", ":1:1: not valid YAML");
    must_refuse_with("mode: shadow\n run_dir: a\n", "not valid YAML");
    must_refuse_with("mode: \xff\n", "not valid YAML");
    must_refuse_with("mode: \x01\n", "not valid YAML");
}

static void size_depth_and_entries_are_bounded(void **state) {
    (void)state;
    static char text[200001];
    memset(text, '[', sizeof text - 1);
    must_refuse_with(text, "a configuration may have 65536");
    text[60000] = '\0';
    must_refuse_with(text, ":1:17: nested deeper than 16 levels");
    size_t used = 0;
    for (int i = 0; i < 300; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "k%d: 1\n", i);
    }
    must_refuse_with(text, ":257:7: more than 256 entries");
    memset(text, 'a', 60000);
    text[60000] = '\0';
    must_refuse_with(text, "expected keys such as");
    memcpy(text + 60000, ": 1\n", 5);
    must_refuse_with(text, ": ");
    memset(text, '#', 65536);
    text[65536] = '\0';
    ga_config *config = must_load(text);
    ga_config_free(&config);
    text[65536] = '#';
    text[65537] = '\0';
    must_refuse_with(text, "65537 bytes");
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    ga_error error;
    ga_config *config = NULL;
    char *missing = test_path(folder, "missing.yaml");
    char *pipe_path = test_path(folder, "pipe");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    const char *const paths[] = {missing, folder, pipe_path, "/dev/zero", ""};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        ga_error_clear(&error);
        assert_int_equal(ga_config_load(paths[i], NULL, 0, NULL, &config, &error), GA_ERR_FILE);
        assert_memory_equal(error.message, paths[i], strlen(paths[i]));
        assert_null(config);
    }
    ga_error_clear(&error);
    assert_int_equal(ga_config_load(NULL, NULL, 0, NULL, NULL, &error), GA_ERR_ARGUMENT);
    assert_int_equal(ga_config_load(NULL, NULL, 1, NULL, &config, NULL), GA_ERR_ARGUMENT);
    free(missing);
    free(pipe_path);
}

static void overrides_come_in_order(void **state) {
    (void)state;
    write_text("decision: {keep: 0.3, audit: 0.3, step: 4}\n");
    const char *const environment[] = {"PATH=/bin", "GRPO_ACCEL_CONFIG=x", "GRPO_ACCEL_LOG=debug",
        "GRPO_ACCEL_DECISION__KEEP=0.4", "GRPO_ACCEL_DECISION__AUDIT=0.4", "GRPO_ACCEL_MODE=off",
        "GRPO_ACCEL_DECISION__THRESHOLD__KIND=absolute", "GRPO_ACCEL_ODD", "GRPO_ACCEL_=x", NULL};
    const char *const sets[] = {"decision.audit=0.9", "decision.audit=0.5", "probe.inputs=[x0, preview]",
        "run_dir=runs/a: b #c", "probe.path=null", "decision.threshold={value: 7}"};
    ga_config *c = must_override(environment, sets, 6);
    assert_int_equal(c->mode, GA_CONFIG_MODE_OFF);
    assert_int_equal(c->decision.step.values[0], 4);
    assert_true(c->decision.keep.values[0] == 0.4);
    assert_true(c->decision.audit == 0.5);
    assert_int_equal(c->probe.inputs, GA_INPUT_BIT(GA_INPUT_X0) | GA_INPUT_BIT(GA_INPUT_PREVIEW));
    assert_string_equal(c->run_dir, "runs/a: b #c");
    assert_int_equal(c->decision.threshold.kind, GA_CONFIG_THRESHOLD_ABSOLUTE);
    assert_true(c->decision.threshold.value == 7);
    const struct {
        const char *path, *origin;
    } expected[] = {{"decision.keep", "GRPO_ACCEL_DECISION__KEEP"}, {"decision.audit", "--set"},
        {"mode", "GRPO_ACCEL_MODE"}, {"guard.confidence", "default"}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        char origin[GA_ORIGIN_BYTES];
        ga_origin_format(ga_config_origin(c, expected[i].path), origin);
        assert_string_equal(origin, expected[i].origin);
    }
    ga_config_free(&c);
}

static void wrong_overrides_name_their_source(void **state) {
    (void)state;
    must_refuse_override("GRPO_ACCEL_DECISION__KEPE=1", NULL,
        "GRPO_ACCEL_DECISION__KEPE: unknown key 'decision.kepe', did you mean 'decision.keep'?");
    must_refuse_override("GRPO_ACCEL_DECISION__AUDIT=2", NULL,
        "GRPO_ACCEL_DECISION__AUDIT: decision.audit: expected a number from 0 to 1; found '2'");
    must_refuse_override("GRPO_ACCEL_DECISION__AUDIT=", NULL,
        "GRPO_ACCEL_DECISION__AUDIT: decision.audit: expected a number from 0 to 1; found no value");
    must_refuse_override(
        "X=", "decision.keep", "--set: 'decision.keep' is not of the form section.key=value");
    must_refuse_override("X=", "=1", "--set: '=1' is not of the form section.key=value");
    must_refuse_override("X=", "modus=off", "--set: unknown key 'modus', did you mean 'mode'?");
    must_refuse_override(
        "X=", "decision=3", "--set: decision: expected a section with keys below it; found a single value");
    must_refuse_override(
        "X=", "run_dir=a\nb", "--set: run_dir: the value is not clean text (UTF-8, no control characters)");
    must_refuse_override("X=", "run_dir=\xc0\x80",
        "--set: run_dir: the value is not clean text (UTF-8, no control characters)");
    must_refuse_override("GRPO_ACCEL_RUN_DIR=\xed\xa0\x80", NULL,
        "GRPO_ACCEL_RUN_DIR: run_dir: the value is not clean text (UTF-8, no control characters)");
}

static void later_versions_are_refused_by_name(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"distributed: {transport: nccl}\n",
            ":1:26: distributed.transport: nccl comes with a later version; write auto, mpi or local"},
        {"distributed: {transport: torch}\n",
            ":1:26: distributed.transport: torch comes with a later version; write auto, mpi or local"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        must_refuse(cases[i][0], cases[i][1]);
    }
}

static void steps_and_shares_must_agree(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"mode: prune\ndecision: {step: auto}\n",
            ":2:18: decision.step: auto chooses in mode auto only; write"},
        {"mode: prune\ndecision: {keep: auto}\n",
            ":2:18: decision.keep: auto chooses in mode auto only; write"},
        {"mode: prune\ndecision: {step: [2, 4]}\n",
            "decision.keep: one share for 2 decision steps; write a list"},
        {"decision: {keep: [0.5, 0.2]}\n", ":1:18: decision.keep: 2 shares for 1 decision steps; one each"},
        {"mode: auto\ndecision: {step: [2, 4], keep: auto}\n",
            "decision.keep: mode auto weighs 2 decision steps"},
        {"mode: auto\ndecision: {step: [2, 4], keep: 0.5}\n",
            "decision.keep: mode auto weighs 2 decision steps"},
        {"decision: {step: [2, 4], keep: [0.2, 0.5]}\n", "decision.keep: 0.5 after 0.2: a rollout that was"},
        {"decision: {step: [2, 3, 4, 5]}\n",
            "decision.step: expected a whole number from 1 to 10000, or an ascending list of up to 3"},
        {"decision: {min_group: 3, max_group: 2}\n", "decision.max_group: below decision.min_group"},
        {"advantage: {prefix_credit: true}\n", "advantage.prefix_credit: needs advantage.weights: inverse"},
        {"advantage: {prefix_credit: true, weights: inverse, train_share: 0.5}\n",
            "advantage.train_share: all rows train with advantage.prefix_credit"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        must_refuse_with(cases[i][0], cases[i][1]);
    }
}

static void auto_and_racing_are_taken(void **state) {
    (void)state;
    ga_config *c = must_load("mode: auto\n"
                             "decision: {step: auto, keep: auto, candidates: [2, 3, 4, 6]}\n"
                             "probe: {inputs: auto}\n");
    assert_int_equal(c->mode, GA_CONFIG_MODE_AUTO);
    assert_int_equal(c->decision.step.count, 0);
    assert_int_equal(c->decision.keep.count, 0);
    assert_int_equal(c->decision.candidates.count, 4);
    assert_int_equal(c->decision.candidates.values[3], 6);
    assert_int_equal(c->probe.inputs,
        GA_INPUT_BIT(GA_INPUT_ATTENTION) | GA_INPUT_BIT(GA_INPUT_X0) | GA_INPUT_BIT(GA_INPUT_PREVIEW));
    ga_config_free(&c);
    c = must_load("advantage: {estimator: predicted, weights: inverse, clip: null, leave_one_out: true}\n");
    assert_int_equal(c->advantage.estimator, GA_CONFIG_ESTIMATOR_PREDICTED);
    assert_true(c->advantage.clip == 0);
    ga_config_free(&c);
    c = must_load("mode: prune\ndecision: {step: [2, 4], keep: [0.75, 0.4], policy: neyman}\n");
    assert_int_equal(c->decision.step.count, 2);
    assert_true(c->decision.keep.values[1] < 0.41);
    assert_int_equal(c->decision.policy, GA_CONFIG_POLICY_NEYMAN);
    ga_config_free(&c);
}

static void a_score_may_stand_in_for_a_probe(void **state) {
    (void)state;
    ga_config *c = must_load("mode: prune\n"
                             "decision: {even_groups: true}\n"
                             "probe: {direct: lookahead, inputs: [lookahead]}\n"
                             "record: {enabled: false}\n"
                             "retrain: {every_updates: 0}\n");
    assert_int_equal(c->probe.direct, GA_CONFIG_DIRECT_LOOKAHEAD);
    assert_true(c->decision.even_groups);
    ga_config_free(&c);
    must_refuse_with("probe: {direct: lookahead}\n", "probe.direct: probe.inputs does not have that score");
    must_refuse_with("probe: {direct: preview, path: a.safetensors}\n", "probe.direct: a probe is given too");
    must_refuse_with("probe: {direct: x0}\n", "probe.direct");
}

static void every_signal_may_be_named(void **state) {
    (void)state;
    ga_config *c = must_load("decision:\n"
                             "  sigma: 0.7\n"
                             "probe:\n"
                             "  inputs: [cfg, hidden, prompt, lookahead, distilled]\n"
                             "  statistics: [share, mass]\n"
                             "  hidden_block: blocks.3\n"
                             "  provider: torch\n"
                             "  preview: {scorers: [shapes, \"two words\"], decoder: models/tiny}\n"
                             "  lookahead: {steps: 3, guided: false}\n"
                             "  distilled: {lora: a/b, rank: 4, every_updates: 0, seconds: 2.5, pairs: 64}\n"
                             "  network: {architecture: paper, channels: [20, 40], hidden: 8}\n"
                             "training: {ema: 0, relabels: 3, seconds_max: 1.5}\n"
                             "record: {finals: latent}\n");
    assert_true(c->decision.sigma == 0.7);
    assert_int_equal(c->probe.inputs, GA_INPUT_BIT(GA_INPUT_CFG) | GA_INPUT_BIT(GA_INPUT_HIDDEN) |
                                          GA_INPUT_BIT(GA_INPUT_PROMPT) | GA_INPUT_BIT(GA_INPUT_LOOKAHEAD) |
                                          GA_INPUT_BIT(GA_INPUT_DISTILLED));
    assert_int_equal(c->probe.statistics, 1u << 4 | 1u);
    assert_string_equal(c->probe.hidden_block, "blocks.3");
    assert_int_equal(c->probe.provider, GA_CONFIG_PROVIDER_TORCH);
    assert_int_equal(c->probe.preview.scorers.count, 2);
    assert_string_equal(c->probe.preview.scorers.names[1], "two words");
    assert_string_equal(c->probe.preview.decoder, "models/tiny");
    assert_int_equal(c->probe.lookahead.steps, 3);
    assert_false(c->probe.lookahead.guided);
    assert_string_equal(c->probe.distilled.lora, "a/b");
    assert_int_equal(c->probe.distilled.pairs, 64);
    assert_int_equal(c->probe.network.architecture, GA_CONFIG_ARCHITECTURE_PAPER);
    assert_int_equal(c->probe.network.channels.count, 2);
    assert_int_equal(c->probe.network.channels.values[1], 40);
    assert_int_equal(c->training.relabels, 3);
    assert_true(c->training.ema == 0);
    assert_int_equal(c->record.finals, GA_CONFIG_FINALS_LATENT);
    ga_config_free(&c);
    c = must_load("decision: {step: [2, 3], sigma: 0.5}\n"); /* sigma stands instead of the steps */
    ga_config_free(&c);
    must_refuse_with("probe: {statistics: []}\n", "probe.statistics: expected a list of mass, entropy");
    must_refuse_with("probe: {statistics: [mas]}\n", "did you mean 'mass'?");
    must_refuse_with("probe: {preview: {scorers: [a, a]}}\n", "found 'a' a second time");
    must_refuse_with("probe: {preview: {scorers: a}}\n", "expected a list of up to 16 names, or null");
    must_refuse_with("probe: {network: {channels: [8, 0]}}\n", "each from 1 to 1024; found '0'");
    must_refuse_with("probe: {network: {channels: [1, 2, 3, 4, 5, 6]}}\n", "found a list of 6");
    must_refuse_with("training: {ema: 1}\n", "training.ema: expected a number at least 0, below 1");
}

static void defaults_of_training_are_those_of_the_probe(void **state) {
    (void)state;
    ga_config *c = must_load("version: 1\n");
    static const int32_t channels[] = {24, 32, 48, 64};
    assert_int_equal(c->probe.statistics, 7);
    assert_string_equal(c->probe.hidden_block, "middle");
    assert_int_equal(c->probe.preview.scorers.count, 0);
    assert_null(c->probe.preview.decoder);
    assert_int_equal(c->probe.network.channels.count, 4);
    assert_memory_equal(c->probe.network.channels.values, channels, sizeof channels);
    assert_true(c->probe.network.heteroscedastic);
    assert_int_equal(c->training.batch_rows, 256);
    assert_true(c->training.ema == 0.99 && c->training.learning_rate == 0.003);
    assert_true(c->training.raw_weight == 0.05 && c->training.rank_weight == 1);
    ga_config_free(&c);
}

static void values_must_agree(void **state) {
    (void)state;
    must_refuse_with("decision: {threshold: {value: 1.5}}\n", ":1:31: decision.threshold.value: a quantile");
    must_refuse_with("advantage: {weights: inverse}\ndecision: {audit: 0}\n",
        ":1:22: advantage.weights: inverse needs a chance for every row");
    must_refuse_with("probe: {inputs: [distilled], distilled: {every_updates: 0}}\n",
        "probe.distilled.every_updates: input distilled needs a copy");
    must_refuse_with("probe: {preview: {scorers: [\"a,b\"]}}\n", "and no comma in it");
    must_refuse_with("mode: prune\nrecord: {enabled: false}\n", ":2:19: record.enabled: pruning without");
    must_refuse_with("mode: prune\nretrain: {every_updates: 0}\n", ":2:26: retrain.every_updates: pruning");
    static const char *const fine[] = {"advantage: {weights: inverse}\n",
        "advantage: {weights: inverse}\ndecision: {audit: 0, policy: random}\n",
        "mode: prune\nrecord: {enabled: false}\nprobe: {path: p.safetensors}\n",
        "mode: prune\nrecord: {enabled: false}\ndecision: {policy: random}\n",
        "decision: {threshold: {kind: advantage, value: -2}}\n"};
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        ga_config *config = must_load(fine[i]);
        ga_config_free(&config);
    }
}

static void a_dump_reads_back_to_the_same(void **state) {
    (void)state;
    ga_config *first =
        must_load("mode: prune\n"
                  "seed: 12345678901\n"
                  "run_dir: \"ru\\\"n: \\\\ \\xe9 #1\\n\"\n"
                  "decision: {keep: 0.1, audit: 0.30000000000000004, min_group: 0}\n"
                  "probe: {path: '9 lives', blocks: [a.b.0, \"x, y\", \"null\", -1], inputs: [x0]}\n"
                  "guard: {slowdown_max: 1e-7}\n");
    char *dumped = ga_config_dump(first);
    assert_non_null(dumped);
    ga_config *second = must_load(dumped);
    assert_int_equal(first->fingerprint, second->fingerprint);
    assert_string_equal(first->run_dir, second->run_dir);
    assert_string_equal(second->probe.path, "9 lives");
    assert_string_equal(second->probe.blocks.names[1], "x, y");
    assert_string_equal(second->probe.blocks.names[2], "null");
    assert_true(second->decision.audit == 0.30000000000000004);
    assert_int_equal(ga_config_origin(second, "guard.confidence")->kind, GA_ORIGIN_FILE);
    free(dumped);
    ga_config_free(&first);
    ga_config_free(&second);
}

static void a_dump_says_where_values_came_from(void **state) {
    (void)state;
    write_text("# one\ndecision:\n  keep: 0.25\n");
    const char *const environment[] = {"GRPO_ACCEL_DECISION__AUDIT=0.2", NULL};
    const char *const sets[] = {"seed=7"};
    ga_config *config = must_override(environment, sets, 1);
    char *text = ga_config_dump(config);
    assert_non_null(text);
    char keep[512];
    (void)snprintf(keep, sizeof keep, "  keep: 0.25                                 # %s:3\n", file_path);
    assert_non_null(strstr(text, keep));
    assert_non_null(
        strstr(text, "  audit: 0.2                                 # GRPO_ACCEL_DECISION__AUDIT\n"));
    assert_non_null(strstr(text, "\nseed: 7                                      # --set\n"));
    assert_non_null(strstr(text, "\n    kind: quantile                           # default\n"));
    free(text);
    ga_config_free(&config);
}

static void fingerprints_follow_decisions_only(void **state) {
    (void)state;
    ga_config *base = must_load("");
    ga_config *same =
        must_load("run_dir: elsewhere\nmetrics: {jsonl: false, wandb: true}\ndecision: {keep: 0.50}\n");
    ga_config *other = must_load("decision: {keep: 0.51}\n");
    assert_int_equal(base->fingerprint, same->fingerprint);
    assert_int_not_equal(base->fingerprint, other->fingerprint);
    assert_int_not_equal(base->fingerprint, 0);
    ga_config_free(&base);
    ga_config_free(&same);
    ga_config_free(&other);
}

/* A host may run under a locale whose decimal point is a comma. */
static void the_locale_of_the_host_does_not_matter(void **state) {
    (void)state;
    ga_config *before = must_load("decision: {keep: 0.25}\n");
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"};
    const char *found = NULL;
    for (size_t i = 0; i < 3 && found == NULL; i++) {
        found = setlocale(LC_ALL, commas[i]);
    }
    if (found == NULL) {
        ga_config_free(&before);
        skip();
    }
    ga_config *after = must_load("decision: {keep: 0.25}\n");
    char *text = ga_config_dump(after);
    (void)setlocale(LC_ALL, "C");
    assert_true(after->decision.keep.values[0] == 0.25);
    assert_int_equal(before->fingerprint, after->fingerprint);
    assert_non_null(text);
    assert_non_null(strstr(text, "keep: 0.25 "));
    free(text);
    ga_config_free(&before);
    ga_config_free(&after);
}

static void distances_are_edits(void **state) {
    (void)state;
    assert_int_equal(ga_nearest_distance("", ""), 0);
    assert_int_equal(ga_nearest_distance("keep", "keep"), 0);
    assert_int_equal(ga_nearest_distance("keep", "KEEP"), 0);
    assert_int_equal(ga_nearest_distance("kep", "keep"), 1);
    assert_int_equal(ga_nearest_distance("kepe", "keep"), 1);
    assert_int_equal(ga_nearest_distance("kitten", "sitting"), 3);
    assert_int_equal(ga_nearest_distance("", "abc"), 3);
    assert_int_equal(ga_nearest_distance("ca", "abc"), 3);
    char longest[GA_NEAREST_LENGTH_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[GA_NEAREST_LENGTH_MAX] = '\0';
    assert_int_equal(ga_nearest_distance(longest, ""), GA_NEAREST_LENGTH_MAX);
    longest[GA_NEAREST_LENGTH_MAX] = 'a';
    longest[GA_NEAREST_LENGTH_MAX + 1] = '\0';
    assert_true(ga_nearest_distance(longest, "a") == SIZE_MAX);
    const char *const words[] = {"run", "train"};
    assert_string_equal(ga_nearest("trian", words, 2), "train");
    assert_null(ga_nearest("replay", words, 2));
    assert_null(ga_nearest("replay", NULL, 0));
}

/* Random edits of a good file: every answer is a configuration or a message, never a crash. */
static void mutated_files_never_crash(void **state) {
    (void)state;
    static const char good[] =
        "version: 1\nmode: shadow\ndecision:\n  step: 3\n  keep: 0.5\n  threshold: {kind: "
        "absolute, value: 1}\nprobe:\n  inputs: [x0, preview]\n  blocks: \"middle:3\"\n";
    static const char alphabet[] = ":{}[],&*!|>'\"%@`#- \n\t0.5ae\\\xc3\xff?~<";
    ga_random random = test_random(7);
    int accepted_count = 0;
    for (int round = 0; round < 3000; round++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        const uint32_t edit_count = 1 + ga_random_below(&random, 4);
        for (uint32_t i = 0; i < edit_count; i++) {
            text[ga_random_below(&random, sizeof good - 1)] =
                alphabet[ga_random_below(&random, sizeof alphabet - 1)];
        }
        ga_error error;
        ga_error_clear(&error);
        ga_arena *arena = ga_arena_create(0);
        const ga_node *root = NULL;
        const ga_status status = ga_document_parse("text", text, strlen(text), arena, &root, &error);
        assert_true(status == GA_OK || (status == GA_ERR_CONFIG && error.message[0] != '\0'));
        ga_arena_destroy(&arena);
        ga_config *config = NULL;
        if (load_text(text, &config, &error) == GA_OK) {
            accepted_count++;
        } else {
            assert_true(error.message[0] != '\0');
        }
        ga_config_free(&config);
    }
    assert_true(accepted_count > 0 && accepted_count < 3000);
}

static void messages_show_no_control_characters(void **state) {
    (void)state;
    must_refuse_with("\"a\\e[31m\": 1\n", "unknown key 'a?[31m'");
    must_refuse_with("mode: \"\\e]0;x\\a\"\n", "found the quoted text '?]0;x?'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_contract),
        cmocka_unit_test(every_kind_of_value_is_read),
        cmocka_unit_test(unknown_keys_name_the_nearest),
        cmocka_unit_test(numbers_are_strict),
        cmocka_unit_test(booleans_are_strict),
        cmocka_unit_test(ranges_hold_for_every_number_of_the_schema),
        cmocka_unit_test(wrong_shapes_are_refused),
        cmocka_unit_test(the_unsafe_part_of_yaml_is_refused),
        cmocka_unit_test(size_depth_and_entries_are_bounded),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(overrides_come_in_order),
        cmocka_unit_test(wrong_overrides_name_their_source),
        cmocka_unit_test(later_versions_are_refused_by_name),
        cmocka_unit_test(steps_and_shares_must_agree),
        cmocka_unit_test(auto_and_racing_are_taken),
        cmocka_unit_test(a_score_may_stand_in_for_a_probe),
        cmocka_unit_test(every_signal_may_be_named),
        cmocka_unit_test(defaults_of_training_are_those_of_the_probe),
        cmocka_unit_test(values_must_agree),
        cmocka_unit_test(a_dump_reads_back_to_the_same),
        cmocka_unit_test(a_dump_says_where_values_came_from),
        cmocka_unit_test(fingerprints_follow_decisions_only),
        cmocka_unit_test(the_locale_of_the_host_does_not_matter),
        cmocka_unit_test(distances_are_edits),
        cmocka_unit_test(mutated_files_never_crash),
        cmocka_unit_test(messages_show_no_control_characters),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
