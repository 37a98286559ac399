/* The folder of a run's probes: which versions there are, which is in use, what the journal says. */
#include "tests/unit/support.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grpo_accel/session/versions.h"

static void write_file(const char *run, const char *name, const char *text) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/probes/%s", run, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

static char *read_file(const char *run, const char *name) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/probes/%s", run, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char *text = calloc(1, 8192);
    assert_true(fread(text, 1, 8191, file) > 0);
    (void)fclose(file);
    return text;
}

/* A run with versions 1, 2 and 5, and files that are none. */
static char *make_run(void) {
    char *run = test_folder_make();
    test_ok(ga_versions_make_folder(run, NULL), NULL);
    test_ok(ga_versions_make_folder(run, NULL), NULL);
    write_file(run, "probe-000005.safetensors", "5");
    write_file(run, "probe-000001.safetensors", "1");
    write_file(run, "probe-000002.safetensors", "2");
    write_file(run, "probe-000009.safetensors.123.tmp", "torn");
    write_file(run, "probe-8.safetensors", "short");
    write_file(run, "notes.txt", "mine");
    return run;
}

static void versions_are_listed_in_order(void **state) {
    (void)state;
    char *run = make_run();
    uint32_t *versions = NULL;
    size_t count = 0;
    test_ok(ga_versions_list(run, &versions, &count, NULL), NULL);
    assert_int_equal(count, 3);
    assert_true(versions[0] == 1 && versions[1] == 2 && versions[2] == 5);
    free(versions);
    char path[64];
    assert_true(ga_versions_path("r", 7, path, sizeof path));
    assert_string_equal(path, "r/probes/probe-000007.safetensors");
    assert_false(ga_versions_path("r", 7, path, 10));
    assert_false(ga_versions_path("r", GA_VERSION_MAX + 1, path, sizeof path));
    assert_int_equal(ga_versions_list("/nowhere/at/all", &versions, &count, NULL), GA_ERR_FILE);
    test_folder_remove(run);
    run = test_folder_make(); /* a run without probes */
    test_ok(ga_versions_list(run, &versions, &count, NULL), NULL);
    assert_int_equal(count, 0);
    free(versions);
    assert_int_equal(ga_versions_current(run), 0);
    assert_int_equal(ga_versions_next(run, 0), 1);
    test_folder_remove(run);
}

static void the_version_in_use_is_what_was_said_last(void **state) {
    (void)state;
    char *run = make_run();
    assert_int_equal(ga_versions_current(run), 5); /* an older run without the file: the newest */
    test_ok(ga_versions_use(run, 2, NULL), NULL);
    assert_int_equal(ga_versions_current(run), 2);
    test_ok(ga_versions_use(run, 1, NULL), NULL);
    assert_int_equal(ga_versions_current(run), 1);
    ga_error error = {0};
    assert_int_equal(ga_versions_use(run, 3, &error), GA_ERR_FILE);
    assert_non_null(strstr(error.message, "no version 3"));
    assert_int_equal(ga_versions_current(run), 1);
    const char *const damaged[] = {"", "2", "x\n", "3\n", "-1\n", "99999999999999999999\n", "1 2\n"};
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        write_file(run, "current", damaged[i]);
        assert_int_equal(ga_versions_current(run), 5);
    }
    /* nothing half-written is left */
    char *folder = test_path(run, "probes/current.tmp");
    assert_int_not_equal(access(folder, F_OK), 0);
    free(folder);
    test_folder_remove(run);
}

static void a_version_that_cannot_be_said_leaves_the_old(void **state) {
    (void)state;
    char *run = make_run();
    test_ok(ga_versions_use(run, 2, NULL), NULL);
    char *current = test_path(run, "probes/current");
    (void)unlink(current);
    assert_int_equal(mkdir(current, 0750), 0); /* a folder can't be replaced by a file */
    ga_error error = {0};
    assert_int_equal(ga_versions_use(run, 1, &error), GA_ERR_IO);
    assert_non_null(strstr(error.message, "current can't be written"));
    assert_int_equal(ga_versions_current(run), 5);
    free(current);
    test_folder_remove(run);
}

static void the_journal_has_one_line_for_each_training(void **state) {
    (void)state;
    char *run = make_run();
    ga_promotion promotion = {.promote = true,
        .candidate = 0.5,
        .current = NAN,
        .difference = {.value = NAN, .low = NAN, .high = NAN},
        .groups = 40};
    (void)snprintf(promotion.reason, sizeof promotion.reason, "promoted: there is no probe in use");
    test_ok(ga_versions_note_training(run, 6, 50, &promotion, NULL), NULL);
    promotion.promote = false;
    promotion.current = 0.52;
    promotion.difference = (ga_within){.value = -0.02, .low = -0.06, .high = 0.01};
    test_ok(ga_versions_note_training(run, 11, 100, &promotion, NULL), NULL);
    test_ok(ga_versions_note_rollback(run, 5, 2, NULL), NULL);
    char *text = read_file(run, "journal.jsonl");
    int lines = 0;
    for (const char *at = text; *at != '\0'; at++) {
        lines += *at == '\n';
    }
    assert_int_equal(lines, 3);
    assert_non_null(strstr(text, "{\"version\": 6, \"update\": 50, "));
    assert_non_null(strstr(text, "\"promoted\": true, \"candidate\": 0.5, \"current\": null"));
    assert_non_null(strstr(text, "\"difference\": {\"value\": -0.02, \"ci95\": [-0.06, 0.01]}"));
    assert_non_null(strstr(text, "{\"rollback\": {\"from\": 5, \"to\": 2}"));
    free(text);
    /* a training that was kept out has used its number */
    assert_int_equal(ga_versions_next(run, 0), 12);
    assert_int_equal(ga_versions_next(run, 20), 21);
    /* a torn line stays alone */
    char *path = test_path(run, "probes/journal.jsonl");
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    (void)fputs("{\"version\": 4", file);
    (void)fclose(file);
    free(path);
    test_ok(ga_versions_note_rollback(run, 2, 1, NULL), NULL);
    text = read_file(run, "journal.jsonl");
    assert_non_null(strstr(text, "{\"version\": 4\n{\"rollback\""));
    free(text);
    test_folder_remove(run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_are_listed_in_order),
        cmocka_unit_test(the_version_in_use_is_what_was_said_last),
        cmocka_unit_test(a_version_that_cannot_be_said_leaves_the_old),
        cmocka_unit_test(the_journal_has_one_line_for_each_training),
    };
    return cmocka_run_group_tests_name("versions", tests, NULL, NULL);
}
