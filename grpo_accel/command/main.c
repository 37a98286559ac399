/* grpo-accel: finds the command, reads its arguments, calls it. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grpo_accel/command/command.h"
#include "grpo_accel/config/nearest.h"

#define COMMANDS_MAX 32

static const char exit_codes[] =
    "Exit codes: 0 done; 1 done, and the answer is no; 2 wrong usage or configuration; 3 a file can't be "
    "read\n"
    "or written, or was refused; 4 a component is missing; 70 a defect of grpo-accel.\n";

static void print_overview(FILE *out) {
    (void)fputs("usage: grpo-accel COMMAND [options]\n\n"
                "Stops rollouts of text-to-image RL jobs early where a probe says they teach nothing.\n\n"
                "commands:\n",
        out);
    for (size_t i = 0; i < ga_command_count; i++) {
        (void)fprintf(out, "  %-14s %s\n", ga_commands[i].name, ga_commands[i].summary);
    }
    (void)fprintf(out,
        "\n'grpo-accel COMMAND --help' explains one. 'grpo-accel --version' says which this is.\n%s",
        exit_codes);
}

static void print_help(const ga_command *command) {
    (void)printf("usage: grpo-accel %s %s\n\n%s\n\n%s\n\noptions:\n", command->name, command->shape,
        command->summary, command->details);
    for (const ga_option *option = command->options; option->name != NULL; option++) {
        char left[64];
        (void)snprintf(left, sizeof left, "--%s%s%s", option->name, option->value != NULL ? " " : "",
            option->value != NULL ? option->value : "");
        (void)printf("  %-18s %s\n", left, option->help);
    }
    (void)printf("\n%s", exit_codes);
}

/* Writes "run, train, …". */
static void list_names(char *text, size_t bytes) {
    size_t used = 0;
    for (size_t i = 0; i < ga_command_count && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i > 0 ? ", " : "", ga_commands[i].name);
    }
}

/* "config dump" takes two words of argv, "train" one. Gives NULL where no command has these words. */
static const ga_command *find_command(int argc, char **argv, int *words_out) {
    for (size_t i = 0; i < ga_command_count; i++) {
        const char *name = ga_commands[i].name;
        const size_t first_length = strcspn(name, " ");
        if (strlen(argv[1]) != first_length || strncmp(argv[1], name, first_length) != 0) {
            continue;
        }
        if (name[first_length] == '\0') {
            *words_out = 1;
            return &ga_commands[i];
        }
        if (argc > 2 && strcmp(argv[2], name + first_length + 1) == 0) {
            *words_out = 2;
            return &ga_commands[i];
        }
    }
    return NULL;
}

/* True if `word` is the first of commands with two words. */
static bool is_family(const char *word) {
    const size_t length = strlen(word);
    for (size_t i = 0; i < ga_command_count; i++) {
        if (strncmp(ga_commands[i].name, word, length) == 0 && ga_commands[i].name[length] == ' ') {
            return true;
        }
    }
    return false;
}

static void print_family(const char *family, FILE *out) {
    const size_t length = strlen(family);
    for (size_t i = 0; i < ga_command_count; i++) {
        if (strncmp(ga_commands[i].name, family, length) == 0 && ga_commands[i].name[length] == ' ') {
            (void)fprintf(out, "  grpo-accel %-14s %s\n", ga_commands[i].name, ga_commands[i].summary);
        }
    }
}

static ga_exit unknown_command(const ga_call *call, const char *word) {
    const char *names[COMMANDS_MAX];
    for (size_t i = 0; i < ga_command_count && i < COMMANDS_MAX; i++) {
        names[i] = ga_commands[i].name;
    }
    char known[256];
    list_names(known, sizeof known);
    const char *near = ga_nearest(word, names, ga_command_count);
    return ga_command_refuse(call, GA_ERR_ARGUMENT, "unknown command '%.64s'%s%s%s; known: %s", word,
        near != NULL ? ", did you mean '" : "", near != NULL ? near : "", near != NULL ? "'?" : "", known);
}

static ga_status check_shape(const ga_call *call, ga_error *error) {
    const ga_command *command = call->command;
    const ga_arguments *arguments = &call->arguments;
    const size_t max = (size_t)command->positional_max;
    if (arguments->positional_count > max && command->takes_rest) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: put -- before '%.64s': grpo-accel %s %s", command->name,
            arguments->positional[0], command->name, command->shape);
    }
    if (arguments->positional_count > max) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: '%.64s' is one argument too many: grpo-accel %s %s",
            command->name, arguments->positional[max], command->name, command->shape);
    }
    if (arguments->rest != NULL && !command->takes_rest) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: nothing may follow --", command->name);
    }
    if (arguments->positional_count < (size_t)command->positional_min) {
        return GA_FAIL(error, GA_ERR_ARGUMENT, "%s: an argument is missing: grpo-accel %s %s", command->name,
            command->name, command->shape);
    }
    return GA_OK;
}

static ga_exit call_command(ga_call *call, int argc, char **argv) {
    ga_error error;
    ga_error_clear(&error);
    if (ga_arguments_read(call->command->options, argc, argv, &call->arguments, &error) != GA_OK) {
        return ga_command_fail(call, &error);
    }
    call->json = ga_arguments_has(&call->arguments, "json");
    call->quiet = ga_arguments_has(&call->arguments, "quiet");
    ga_exit code = GA_EXIT_DONE;
    if (ga_arguments_has(&call->arguments, "help")) {
        print_help(call->command);
    } else if (check_shape(call, &error) != GA_OK) {
        code = ga_command_fail(call, &error);
    } else {
        code = call->command->run(call);
    }
    ga_arguments_free(&call->arguments);
    return code;
}

/* --json anywhere before `--`: needed to answer in JSON before the options are read. */
static bool wants_json(int argc, char **argv) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            return true;
        }
    }
    return false;
}

static ga_exit dispatch(int argc, char **argv) {
    ga_call call = {.program = argv[0], .json = wants_json(argc, argv)};
    if (argc < 2) {
        print_overview(stderr);
        return GA_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_overview(stdout);
        return GA_EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        (void)printf("grpo-accel %s\n", GA_COMMAND_VERSION);
        return GA_EXIT_DONE;
    }
    int words = 0;
    call.command = find_command(argc, argv, &words);
    if (call.command != NULL) {
        return call_command(&call, argc - 1 - words, argv + 1 + words);
    }
    if (!is_family(argv[1])) {
        return unknown_command(&call, argv[1]);
    }
    const bool asks_help = argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0);
    print_family(argv[1], asks_help ? stdout : stderr);
    return asks_help ? GA_EXIT_DONE
                     : ga_command_refuse(&call, GA_ERR_ARGUMENT, "%s: which of these?", argv[1]);
}

#if !defined(GA_ABORT_ON_BUG)
/* A crash of ours is told apart from any answer. Only async-signal-safe calls. */
static void on_crash(int number) {
    (void)number;
    static const char message[] = "grpo-accel: crashed. This is a defect of grpo-accel; no job was harmed. "
                                  "Please report it with the output of 'grpo-accel doctor --json'.\n";
    const ssize_t written = write(STDERR_FILENO, message, sizeof message - 1);
    (void)written;
    _exit(GA_EXIT_DEFECT);
}

static void watch_crashes(void) {
    const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_crash;
        (void)sigaction(crashes[i], &action, NULL);
    }
}
#endif

int main(int argc, char **argv) {
#if !defined(GA_ABORT_ON_BUG)
    watch_crashes();
#endif
    const ga_exit code = dispatch(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == GA_EXIT_DONE) {
        (void)fputs("grpo-accel: can't write to standard output\n", stderr);
        return GA_EXIT_INPUT;
    }
    return (int)code;
}
