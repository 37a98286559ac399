#include "grpo_accel/session/lesson_runs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpo_accel/base/check.h"

/* The table, and for each of its files a number: of the run that its rows belong to, −1: of none. */
typedef struct by_file {
    const ga_record_table *table;
    const uint64_t *prompt; /* [rows · steps] */
    int32_t steps;
    int32_t *run; /* [source_count] */
} by_file;

static ga_status open_files(const ga_lessons *lessons, by_file *f, ga_error *error) {
    const int32_t *steps = NULL;
    f->table = ga_lessons_table(lessons);
    f->prompt = ga_lessons_dataset(lessons)->prompt;
    f->steps = ga_lessons_steps(lessons, &steps);
    f->run = calloc(ga_size(f->table->source_count) + 1, sizeof *f->run);
    return f->run != NULL ? GA_OK
                          : GA_FAIL(error, GA_ERR_MEMORY, "no memory for the runs of %d files",
                                (int)f->table->source_count);
}

static int32_t run_of(const by_file *f, int64_t row) {
    return f->run[f->table->source[row]];
}

static uint64_t digest_of(const by_file *f, int64_t row) {
    return ga_learned_digest(f->table->row_id[row], f->prompt[row * f->steps], f->table->reward[row]);
}

static int32_t find_run(const ga_learned_run *runs, int32_t count, const char *id) {
    for (int32_t i = 0; i < count; i++) {
        if (strcmp(runs[i].id, id) == 0) {
            return i;
        }
    }
    return -1;
}

/* ---- the runs that are there ---- */

/* Returns how many runs the files name; beyond the room for them all count as one more. */
static int32_t name_runs(by_file *f, ga_learned_run *runs) {
    int32_t count = 0;
    for (int32_t i = 0; i < f->table->source_count; i++) {
        const char *id = f->table->sources[i].layout.run_id;
        const int32_t known = count < GA_LEARNED_RUNS_MAX ? count : GA_LEARNED_RUNS_MAX;
        int32_t run = find_run(runs, known, id);
        if (run < 0 && count < GA_LEARNED_RUNS_MAX) {
            run = count++;
            runs[run] = (ga_learned_run){.oldest_update = UINT32_MAX};
            (void)snprintf(runs[run].id, sizeof runs[run].id, "%s", id);
        } else if (run < 0) {
            count = GA_LEARNED_RUNS_MAX + 1;
        }
        f->run[i] = run;
    }
    return count;
}

/* Updates and row ids; labelled [runs]: rows that can bear witness. */
static void span_runs(const by_file *f, ga_learned_run *runs, int64_t *labelled) {
    for (int64_t row = 0; row < f->table->rows; row++) {
        if (run_of(f, row) < 0) {
            continue;
        }
        ga_learned_run *run = &runs[run_of(f, row)];
        const uint32_t update = f->table->update[row];
        run->oldest_update = update < run->oldest_update ? update : run->oldest_update;
        run->newest_update = update > run->newest_update ? update : run->newest_update;
        run->newest_row = f->table->row_id[row] > run->newest_row ? f->table->row_id[row] : run->newest_row;
        labelled[run_of(f, row)] += isfinite(f->table->reward[row]) != 0;
    }
}

/* Rows with a reward, evenly spread. */
static void choose_witnesses(const by_file *f, ga_learned_run *runs, const int64_t *labelled) {
    int64_t seen[GA_LEARNED_RUNS_MAX] = {0};
    for (int64_t row = 0; row < f->table->rows; row++) {
        const int32_t number = run_of(f, row);
        if (number < 0 || isfinite(f->table->reward[row]) == 0) {
            continue;
        }
        ga_learned_run *run = &runs[number];
        if (run->witness_count < GA_LEARNED_WITNESSES &&
            seen[number] >= labelled[number] * run->witness_count / GA_LEARNED_WITNESSES) {
            run->witness[run->witness_count++] =
                (ga_learned_witness){f->table->row_id[row], digest_of(f, row)};
        }
        seen[number]++;
    }
}

ga_status ga_lesson_runs_list(
    const ga_lessons *lessons, ga_learned_run *runs_out, int32_t *count_out, ga_error *error) {
    by_file f;
    int64_t labelled[GA_LEARNED_RUNS_MAX] = {0};
    GA_TRY(open_files(lessons, &f, error));
    *count_out = name_runs(&f, runs_out);
    span_runs(&f, runs_out, labelled);
    choose_witnesses(&f, runs_out, labelled);
    free(f.run);
    return GA_OK;
}

/* ---- rows that a probe knows ---- */

/* Forgets runs that only share a name: a witness contradicts, and none agrees. */
static void refute_runs(by_file *f, const ga_learned *learned) {
    bool agrees[GA_LEARNED_RUNS_MAX] = {false}, contradicts[GA_LEARNED_RUNS_MAX] = {false};
    for (int64_t row = 0; row < f->table->rows; row++) {
        const int32_t number = run_of(f, row);
        for (int32_t i = 0; number >= 0 && i < learned->runs[number].witness_count; i++) {
            const ga_learned_witness *witness = &learned->runs[number].witness[i];
            if (witness->row_id == f->table->row_id[row]) {
                const bool same = witness->digest == digest_of(f, row);
                agrees[number] = agrees[number] || same;
                contradicts[number] = contradicts[number] || !same;
            }
        }
    }
    for (int32_t i = 0; i < f->table->source_count; i++) {
        if (f->run[i] >= 0 && contradicts[f->run[i]] && !agrees[f->run[i]]) {
            f->run[i] = -1;
        }
    }
}

ga_status ga_lesson_runs_mark(
    const ga_lessons *lessons, const ga_learned *learned, uint8_t *mark_out, ga_error *error) {
    by_file f;
    GA_TRY(open_files(lessons, &f, error));
    for (int32_t i = 0; i < f.table->source_count; i++) {
        f.run[i] = find_run(learned->runs, learned->run_count, f.table->sources[i].layout.run_id);
    }
    refute_runs(&f, learned);
    for (int64_t row = 0; row < f.table->rows * f.steps; row++) {
        const int32_t run = run_of(&f, row / f.steps);
        mark_out[row] =
            run >= 0 && ga_learned_has(learned, run, f.table->update[row / f.steps], f.prompt[row]) ? 1 : 0;
    }
    free(f.run);
    return GA_OK;
}
