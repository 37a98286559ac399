#include "grpo_accel/command/examination.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grpo_accel/base/clock.h"
#include "probe/json.h"

#define OUTPUT_BYTES_MAX ((size_t)256 * 1024)
#define COMPLAINT_BYTES 400
#define CHILD_FAILED 125 /* could not be prepared; 126 and 127 as a shell's */

static const char *const verdict_words[] = {"OK", "WARNING", "FAIL"};

const char *ga_verdict_word(ga_verdict verdict) {
    return verdict_words[verdict];
}

/* One line of whole characters: a text that was cut may end inside one. */
static void tidy_text(char *text) {
    char *c = text, *last = text;
    for (; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ') {
            *c = ' ';
        }
        if (((unsigned char)*c & 0xC0) != 0x80) {
            last = c;
        }
    }
    const unsigned char lead = (unsigned char)*last;
    const int needed = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (c - last < needed) {
        *last = '\0';
    }
}

static ga_check *add(ga_examination *e, const char *name, ga_verdict verdict) {
    if (e->count == GA_CHECKS_MAX) {
        return NULL;
    }
    ga_check *made = &e->checks[e->count++];
    memset(made, 0, sizeof *made);
    made->verdict = verdict;
    (void)snprintf(made->name, sizeof made->name, "%s", name);
    return made;
}

void ga_examination_note(ga_examination *e, const char *name, ga_verdict verdict, const char *format, ...) {
    ga_check *made = add(e, name, verdict);
    if (made == NULL) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(made->text, sizeof made->text, format, arguments);
    va_end(arguments);
    tidy_text(made->text);
}

ga_verdict ga_examination_worst(const ga_examination *e) {
    ga_verdict worst = GA_VERDICT_OK;
    for (size_t i = 0; i < e->count; i++) {
        worst = e->checks[i].verdict > worst ? e->checks[i].verdict : worst;
    }
    return worst;
}

/* ---- as lines ---- */

static char *put(char *at, const char *text) {
    const size_t length = strlen(text);
    memcpy(at, text, length);
    return at + length;
}

char *ga_examination_write(const ga_examination *e) {
    size_t bytes = 1;
    for (size_t i = 0; i < e->count; i++) {
        const ga_check *c = &e->checks[i];
        bytes += ga_json_quoted_bytes(c->name) + ga_json_quoted_bytes(c->text) + 64;
    }
    char *text = malloc(bytes);
    if (text == NULL) {
        return NULL;
    }
    char *at = text;
    for (size_t i = 0; i < e->count; i++) {
        const ga_check *c = &e->checks[i];
        at = ga_json_quote(c->name, put(at, "{\"name\": "));
        at = ga_json_quote(ga_verdict_word(c->verdict), put(at, ", \"verdict\": "));
        at = ga_json_quote(c->text, put(at, ", \"text\": "));
        at = put(at, "}\n");
    }
    *at = '\0';
    return text;
}

static bool read_verdict(const char *word, ga_verdict *verdict_out) {
    for (int i = 0; i < 3; i++) {
        if (strcmp(word, verdict_words[i]) == 0) {
            *verdict_out = (ga_verdict)i;
            return true;
        }
    }
    return false;
}

/* {"key": "value", …} of one line; keys that nobody knows are passed over. */
static bool read_line(ga_json *json, ga_examination *e) {
    ga_check check;
    memset(&check, 0, sizeof check);
    char key[32], value[4096], word[16] = "";
    bool more = ga_json_take(json, '{');
    while (more) {
        if (!ga_json_take_string(json, key, sizeof key) || !ga_json_take(json, ':') ||
            !ga_json_take_string(json, value, sizeof value)) {
            return false;
        }
        if (strcmp(key, "name") == 0) {
            (void)snprintf(check.name, sizeof check.name, "%.31s", value);
        } else if (strcmp(key, "text") == 0) {
            (void)snprintf(check.text, sizeof check.text, "%.639s", value);
        } else if (strcmp(key, "verdict") == 0) {
            (void)snprintf(word, sizeof word, "%.15s", value);
        } else if (strcmp(key, "torch_lib") == 0) {
            (void)snprintf(e->torch_folder, sizeof e->torch_folder, "%.1023s", value);
        }
        more = ga_json_take(json, ',');
    }
    if (!ga_json_take(json, '}') || !ga_json_at_end(json) || !read_verdict(word, &check.verdict)) {
        return false;
    }
    ga_examination_note(e, check.name, check.verdict, "%s", check.text);
    return true;
}

bool ga_examination_read(const char *text, size_t bytes, ga_examination *e) {
    size_t at = 0;
    while (at < bytes) {
        const char *end = memchr(text + at, '\n', bytes - at);
        const size_t length = end != NULL ? (size_t)(end - (text + at)) : bytes - at;
        ga_json json = {.text = text + at, .bytes = length};
        if (length > 0 && !read_line(&json, e)) {
            return false;
        }
        at += length + 1;
    }
    return true;
}

/* ---- in another process ---- */

/* A child and what it says: checks on `output`, anything else on `complaint`. */
typedef struct child {
    pid_t pid;
    int output, complaint; /* −1: closed */
    char *text;            /* [OUTPUT_BYTES_MAX] of output */
    size_t bytes;
    char last[COMPLAINT_BYTES]; /* the end of complaint */
    int state;                  /* as waitpid gives it */
    bool late;
} child;

static void close_both(int ends[2]) {
    (void)close(ends[0]);
    (void)close(ends[1]);
}

/* A crash of a child is told by its parent, not by the program's own handlers. */
static void let_crash(void) {
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
        (void)signal(crashes[i], SIG_DFL);
    }
}

/* Forks with both pipes in place; in the child only the writing ends are left. Gives fork's answer. */
static pid_t start(child *c, int ends_out[2]) {
    int output[2], complaint[2];
    if (pipe2(output, O_CLOEXEC) != 0) {
        return -1;
    }
    if (pipe2(complaint, O_CLOEXEC) != 0) {
        close_both(output);
        return -1;
    }
    (void)fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0) {
        close_both(output);
        close_both(complaint);
        return -1;
    }
    const int mine = pid == 0 ? 1 : 0;
    (void)close(output[1 - mine]);
    (void)close(complaint[1 - mine]);
    c->pid = pid;
    c->output = output[mine];
    c->complaint = complaint[mine];
    ends_out[0] = output[mine];
    ends_out[1] = complaint[mine];
    return pid;
}

/* Keeps the newest bytes of what a child complains of. */
static void keep_end(char *last, const char *text, size_t bytes) {
    const size_t space = COMPLAINT_BYTES - 1, had = strlen(last);
    const size_t take = bytes < space ? bytes : space;
    const size_t keep = had + take <= space ? had : space - take;
    memmove(last, last + had - keep, keep);
    memcpy(last + keep, text + bytes - take, take);
    last[keep + take] = '\0';
}

/* One read of a pipe that has something, or has ended (its descriptor becomes −1). */
static void take(child *c, int *descriptor) {
    char block[4096];
    const ssize_t got = read(*descriptor, block, sizeof block);
    if (got <= 0) {
        if (got == 0 || errno != EINTR) {
            (void)close(*descriptor);
            *descriptor = -1;
        }
        return;
    }
    const size_t bytes = (size_t)got;
    if (descriptor == &c->complaint) {
        keep_end(c->last, block, bytes);
    } else if (c->bytes + bytes <= OUTPUT_BYTES_MAX) {
        memcpy(c->text + c->bytes, block, bytes);
        c->bytes += bytes;
    }
}

/* Until both pipes have ended or the time is over; then the child is gone. */
static void attend(child *c, double timeout_seconds) {
    const ga_clock *clock = ga_clock_system();
    const double end_seconds = ga_clock_now(clock) + timeout_seconds;
    while (c->output >= 0 || c->complaint >= 0) {
        const double left_seconds = end_seconds - ga_clock_now(clock);
        if (left_seconds <= 0) {
            c->late = true;
            break;
        }
        struct pollfd waits[2] = {
            {.fd = c->output, .events = POLLIN}, {.fd = c->complaint, .events = POLLIN}};
        (void)poll(waits, 2, left_seconds < 1 ? (int)(left_seconds * 1000) + 1 : 1000);
        if (waits[0].revents != 0) {
            take(c, &c->output);
        }
        if (waits[1].revents != 0) {
            take(c, &c->complaint);
        }
    }
    (void)kill(c->pid, SIGKILL); /* both ends closed: it has ended, or has nothing more to say */
    while (waitpid(c->pid, &c->state, 0) < 0 && errno == EINTR) {
    }
}

static void end(child *c) {
    if (c->output >= 0) {
        (void)close(c->output);
    }
    if (c->complaint >= 0) {
        (void)close(c->complaint);
    }
    free(c->text);
}

/* The last line that is not empty. */
static const char *last_line(char *text) {
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' ')) {
        text[--length] = '\0';
    }
    const char *line = strrchr(text, '\n');
    return line != NULL ? line + 1 : text;
}

/* What the child said, and one line more where it did not end well. */
static void conclude(child *c, ga_examination *e, const char *name, ga_verdict bad, double timeout_seconds) {
    const bool read = ga_examination_read(c->text, c->bytes, e);
    const char *last = last_line(c->last);
    if (c->late) {
        ga_examination_note(e, name, bad, "no answer within %.0f s; it was ended", timeout_seconds);
    } else if (c->bytes == 0 || !read) {
        const bool signalled = WIFSIGNALED(c->state) && WTERMSIG(c->state) != SIGKILL;
        ga_examination_note(e, name, bad, "%s%s%s", last[0] != '\0' ? last : "it said nothing",
            signalled ? "; it crashed: " : "", signalled ? strsignal(WTERMSIG(c->state)) : "");
    }
}

void ga_examination_apart(ga_examination *e, const char *name,
    void (*work)(void *user, ga_examination *inner), void *user, double timeout_seconds) {
    child c = {.text = malloc(OUTPUT_BYTES_MAX), .output = -1, .complaint = -1};
    int ends[2];
    const pid_t pid = c.text != NULL ? start(&c, ends) : -1;
    if (pid < 0) {
        ga_examination_note(e, name, GA_VERDICT_WARNING, "not examined: %s", strerror(errno));
        free(c.text);
        return;
    }
    if (pid == 0) {
        static ga_examination inner;
        let_crash();
        (void)dup2(ends[1], STDERR_FILENO);
        (void)dup2(ends[1], STDOUT_FILENO);
        work(user, &inner);
        char *lines = ga_examination_write(&inner);
        const size_t bytes = lines != NULL ? strlen(lines) : 0;
        _exit(bytes > 0 && write(ends[0], lines, bytes) == (ssize_t)bytes ? 0 : CHILD_FAILED);
    }
    attend(&c, timeout_seconds);
    conclude(&c, e, name, GA_VERDICT_WARNING, timeout_seconds);
    end(&c);
}

void ga_examination_program(
    ga_examination *e, const char *name, const char *const *words, double timeout_seconds) {
    child c = {.text = malloc(OUTPUT_BYTES_MAX), .output = -1, .complaint = -1};
    int ends[2];
    const pid_t pid = c.text != NULL ? start(&c, ends) : -1;
    if (pid < 0) {
        ga_examination_note(e, name, GA_VERDICT_FAIL, "can't start %.200s: %s", words[0], strerror(errno));
        free(c.text);
        return;
    }
    if (pid == 0) {
        (void)dup2(ends[0], STDOUT_FILENO);
        (void)dup2(ends[1], STDERR_FILENO);
        (void)execvp(words[0], (char *const *)(uintptr_t)words);
        (void)fprintf(stderr, "can't start %.200s: %s\n", words[0], strerror(errno));
        _exit(127);
    }
    attend(&c, timeout_seconds);
    conclude(&c, e, name, GA_VERDICT_FAIL, timeout_seconds);
    end(&c);
}
