/*
 * What doctor has found: a list of checks, and two ways to have some made in another process, so that a
 * library that crashes, hangs or prints costs one line and not the doctor.
 *
 * Between processes and ranks checks travel as JSON lines: {"name": …, "verdict": "OK", "text": …}.
 */
#ifndef GA_COMMAND_EXAMINATION_H
#define GA_COMMAND_EXAMINATION_H

#include <stdbool.h>
#include <stddef.h>

#include "grpo_accel/base/status.h"

#define GA_CHECKS_MAX 64
#define GA_CHECK_TEXT_BYTES 640

typedef enum ga_verdict { GA_VERDICT_OK = 0, GA_VERDICT_WARNING = 1, GA_VERDICT_FAIL = 2 } ga_verdict;

typedef struct ga_check {
    char name[32];
    ga_verdict verdict;
    char text[GA_CHECK_TEXT_BYTES];
} ga_check;

typedef struct ga_examination {
    ga_check checks[GA_CHECKS_MAX]; /* further ones are not kept */
    size_t count;
    char torch_folder[1024]; /* torch/lib of the interpreter's PyTorch; "": not known */
} ga_examination;

/* "OK", "WARNING", "FAIL". */
const char *ga_verdict_word(ga_verdict verdict);

/* Adds a check; text that is too long is cut, line ends become spaces. */
void ga_examination_note(ga_examination *e, const char *name, ga_verdict verdict, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The worst verdict; OK of nothing. */
ga_verdict ga_examination_worst(const ga_examination *e);

/* All checks as JSON lines, zero-terminated; the caller frees it. NULL: no memory. */
char *ga_examination_write(const ga_examination *e);

/* Adds the checks of JSON lines. False at the first line that is none; those before it are kept. */
bool ga_examination_read(const char *text, size_t bytes, ga_examination *e);

/*
 * Calls work(user, …) in a child process and adds the checks that it notes; its output is thrown away. Not
 * for a process that has initialised MPI. A crash, or no end within timeout_seconds, becomes a WARNING
 * `name`.
 */
void ga_examination_apart(ga_examination *e, const char *name,
    void (*work)(void *user, ga_examination *inner), void *user, double timeout_seconds);

/*
 * Starts a program (words: NULL-terminated, words[0] searched on PATH) and adds the checks that it prints. A
 * failure becomes a FAIL `name` with the last line that it wrote on standard error.
 */
void ga_examination_program(
    ga_examination *e, const char *name, const char *const *words, double timeout_seconds);

#endif
