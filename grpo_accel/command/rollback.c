/* rollback: a run uses an earlier probe again. */
#include <stdlib.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/compute/compute.h"
#include "grpo_accel/session/versions.h"
#include "probe/probe.h"

/* What the call asks for, and what there is. */
typedef struct rolling {
    const char *run;
    uint32_t *versions; /* [count], rising */
    size_t count;
    uint32_t from, to;
} rolling;

/* "1, 2, 5" */
static void list_versions(const rolling *r, char *text, size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < r->count && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s%u", i > 0 ? ", " : "", r->versions[i]);
    }
}

/* Without --to: the newest that is older than the one in use. */
static ga_status choose(const ga_call *call, rolling *r, ga_error *error) {
    char known[256];
    list_versions(r, known, sizeof known);
    int64_t wanted = 0;
    GA_TRY(ga_arguments_integer(&call->arguments, "to", 1, GA_VERSION_MAX, 0, &wanted, error));
    for (size_t i = 0; i < r->count; i++) {
        const bool asked_for = r->versions[i] == (uint32_t)wanted;
        const bool before = wanted == 0 && r->versions[i] < r->from;
        r->to = asked_for || before ? r->versions[i] : r->to;
    }
    if (r->to == 0 && wanted != 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "rollback: %.200s has no probe version %lld; it has %s",
            r->run, (long long)wanted, known);
    }
    if (r->to == 0) {
        return GA_FAIL(error, GA_ERR_ARGUMENT,
            "rollback: probe %u is in use and none is older; %.200s has %s, --to takes one of these",
            (unsigned)r->from, r->run, known);
    }
    return GA_OK;
}

/* A version that can't be read must not become the one in use. */
static ga_status try_version(const rolling *r, ga_error *error) {
    char path[4096];
    ga_probe *probe = NULL;
    if (!ga_versions_path(r->run, r->to, path, sizeof path)) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "rollback: the path of %.200s is too long", r->run);
    }
    GA_TRY(ga_probe_open(path, ga_compute_native(), &probe, error));
    ga_probe_close(&probe);
    return GA_OK;
}

static ga_status roll_back(const ga_call *call, rolling *r, ga_error *error) {
    r->run = call->arguments.positional[0];
    GA_TRY(ga_versions_list(r->run, &r->versions, &r->count, error));
    if (r->count == 0) {
        return GA_FAIL(
            error, GA_ERR_FILE, "rollback: %.300s has no probes (no probes/probe-*.safetensors)", r->run);
    }
    r->from = ga_versions_current(r->run);
    GA_TRY(choose(call, r, error));
    GA_TRY(try_version(r, error));
    GA_TRY(ga_versions_use(r->run, r->to, error));
    return ga_versions_note_rollback(r->run, r->from, r->to, error);
}

static void answer_as_json(const rolling *r) {
    char path[4096];
    (void)ga_versions_path(r->run, r->to, path, sizeof path);
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_text(&json, "run", r->run);
    ga_json_integer(&json, "version", r->to);
    ga_json_integer(&json, "previous", r->from);
    ga_json_text(&json, "probe", path);
    ga_json_array(&json, "versions");
    for (size_t i = 0; i < r->count; i++) {
        ga_json_integer(&json, NULL, r->versions[i]);
    }
    ga_json_end(&json);
    ga_json_end(&json);
}

ga_exit ga_command_rollback(const ga_call *call) {
    rolling r = {.run = NULL};
    ga_error error;
    ga_error_clear(&error);
    const ga_status status = roll_back(call, &r, &error);
    if (status == GA_OK && call->json) {
        answer_as_json(&r);
    } else if (status == GA_OK && !call->quiet) {
        (void)printf("%s: probe %u is in use (it was %u). A job that runs takes it at the end of its next "
                     "updates, one that starts with probe.path null begins with it.\n",
            r.run, (unsigned)r.to, (unsigned)r.from);
    }
    free(r.versions);
    return status == GA_OK ? GA_EXIT_DONE : ga_command_fail(call, &error);
}
