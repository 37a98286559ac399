#include "grpo_accel/command/command.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMON_OPTIONS                                                                                       \
    {"json", NULL, "one JSON document on standard output"}, {"quiet", NULL, "only the answer and errors"},   \
        {"help", NULL, "this help"}, {                                                                       \
        NULL, NULL, NULL                                                                                     \
    }

#define CONFIG_OPTION                                                                                        \
    { "config", "FILE", "YAML configuration" }
#define SET_OPTION                                                                                           \
    { "set", "KEY=VALUE", "overrides a key of the configuration; may be given again" }

static const ga_option run_options[] = {
    {"config", "FILE", "YAML configuration of the run"},
    SET_OPTION,
    {"dry-run", NULL, "rehearse with made-up batches on every rank, without starting the script"},
    {"timeout", "S", "of a dry run: ends it (default: 180 and 6 times decision.timeout_seconds)"},
    COMMON_OPTIONS,
};
static const ga_option config_options[] = {CONFIG_OPTION, SET_OPTION, COMMON_OPTIONS};
static const ga_option check_options[] = {SET_OPTION, COMMON_OPTIONS};
static const ga_option plain_options[] = {COMMON_OPTIONS};
static const ga_option doctor_options[] = {
    {"config", "FILE", "check this configuration too, and try writing in its record folder"},
    SET_OPTION,
    {"folder", "FOLDER", "where to try writing (default: the record folder, else the working folder)"},
    {"issue", NULL, "a block to paste into an issue"},
    COMMON_OPTIONS,
};
#if defined(GA_HAVE_TRAIN)
static const ga_option train_options[] = {
    {"data", "FOLDER", "run or record folder to learn from"},
    {"out", "FILE", "probe to write (safetensors)"},
    CONFIG_OPTION,
    SET_OPTION,
    {"inputs", "NAMES", "learn from these inputs of the record only, as in attention,x0 (default: all)"},
    {"step", "STEPS", "rows after these steps, as in 2,3,4, or all (default: the configuration's)"},
    {"targets", "NAMES", "scorers to predict beside the combined reward, with commas, or all"},
    {"rows", "N", "the newest updates with at least so many rows; 0: all (default: retrain.window_rows)"},
    {"seed", "N", "of splits, order and initial weights (default: the configuration's)"},
    {"seconds", "S", "stop training after so many seconds (default: training.seconds_max)"},
    {"seconds-max", "S", "the older name of --seconds"},
    {"relabels", "N", "use at most N labels under other prompts for each row (default: training.relabels)"},
    {"resume", NULL, "go on from FILE.state, where an interrupted call left one"},
    {"provider", "NAME", "auto, torch or native (default: probe.provider)"},
    {"torch", "FOLDER", "the torch/lib folder of a PyTorch to compute with"},
    {"timeout", "S", "under mpirun: how long a rank waits for the others (default: 60)"},
    COMMON_OPTIONS,
};
static const ga_option relabel_options[] = {
    {"scorer", "MODULE:FUNCTION", "the reward: called with uint8 images [n, height, width, 3] and n prompts"},
    {"prompts", "N", "other prompts for each image (default: 2)"},
    {"seed", "N", "of the draw of prompts (default: 0)"},
    {"decoder", "FOLDER", "model whose autoencoder turns logged latents into images"},
    COMMON_OPTIONS,
};
static const ga_option evaluate_options[] = {
    {"probe", "FILE", "probe to judge (safetensors)"},
    {"data", "FOLDER", "run or record folder"},
    {"report", "FOLDER", "write index.html (figures and tables) and metrics.json here"},
    {"predictions", "FILE", "write a CSV line for each judged row: row_id, prediction, reward, ..."},
    {"against", "FILE", "compare with this probe on the same rows, pair by pair"},
    {"step", "N", "judge at this decision step (default: all that the probe knows)"},
    {"categories", "FILE", "CSV lines 'prompt or its hash,category': figures by category"},
    {"all-rows", NULL, "also rows that the probe has learned from; left out else, where its file names them"},
    {"curve", NULL, "train again on parts of the record: figures against the number of rows (takes time)"},
    {"gate", "RHO", "least lower bound of the within-group Spearman for the answer yes (default: 0)"},
    COMMON_OPTIONS,
};
static const ga_option seeds_options[] = {
    {"model", "FOLDER", "a diffusers pipeline (a folder, or a name that is in the local cache)"},
    {"prompt", "TEXT", "may be given several times"},
    {"prompts", "FILE", "a prompt a line"},
    {"seeds", "N|LIST", "so many seeds from 0 on, or the seeds themselves, as in 3,17,4 (default: 10)"},
    {"keep", "K|LIST", "seeds of each prompt that go on, at each decision (default: 1)"},
    {"steps", "K|LIST", "decide after so many denoising steps (default: the probe's, else an eighth of all)"},
    {"inference-steps", "N", "denoising steps of a whole image (default: the pipeline's)"},
    {"argument", "NAME=VALUE",
        "of the pipeline's call, as in guidance_scale=4.5; may be given several times"},
    {"probe", "FILE", "predicts the reward (safetensors); refused where it was made for something else"},
    {"scorer", "MODULE:FUNCTION", "called with uint8 images [n, height, width, 3] and n prompts"},
    {"scorer-command", "COMMAND", "a program that scores image files: see docs/seeds.md"},
    {"direct", "KIND", "without a probe the scorer judges guesses: lookahead (default) or preview"},
    {"lookahead-steps", "N", "further forwards of a look-ahead, 1 to 3"},
    {"decoder", "FOLDER", "AutoencoderTiny that decodes guesses"},
    {"learn", NULL, "train a probe for this model, prompts and scorer; it becomes OUT/probe.safetensors"},
    {"inputs", "LIST", "with --learn: what the probe sees (default: x0,hidden,prompt,lookahead)"},
    {"set", "KEY=VALUE", "a configuration key of the private session"},
    {"max-rows", "N", "rows of one batch at most (default: 32)"},
    {"device", "NAME", "as in cuda:0 (default: cuda where there is one)"},
    {"dtype", "NAME", "float32, float16 or bfloat16 (default: float32 on a CPU, else bfloat16)"},
    {"out", "FOLDER", "images, previews, index.json and sheet.png; with --learn the probe"},
    COMMON_OPTIONS,
};
static const ga_option prompts_options[] = {
    {"model", "FOLDER", "a diffusers pipeline (a folder, or a name that is in the local cache)"},
    {"prompt", "TEXT", "what is wanted"},
    {"threshold", "V|qQ|budget:N",
        "good enough: a prediction, a quantile of the probe's (q0.8), or row-steps to spend"},
    {"rewriter", "MODULE:FUNCTION|URL",
        "finds other words: called with the prompt and the tries, or an OpenAI-compatible endpoint"},
    {"rewriter-model", "NAME", "of the endpoint; a key is read from GRPO_ACCEL_REWRITER_KEY"},
    {"rewriter-timeout", "S", "of one answer of the endpoint (default: 30)"},
    {"rounds", "N", "rewritings at most (default: 4)"},
    {"seeds", "N|LIST", "of each wording: so many from 0 on, or the seeds themselves (default: 2)"},
    {"step", "K", "decide after so many denoising steps (default: the probe's, else an eighth of all)"},
    {"inference-steps", "N", "denoising steps of a whole image (default: the pipeline's)"},
    {"argument", "NAME=VALUE", "of the pipeline's call; may be given several times"},
    {"probe", "FILE", "predicts the reward (safetensors); refused where it was made for something else"},
    {"scorer", "MODULE:FUNCTION",
        "called with uint8 images [n, height, width, 3] and n times the prompt as asked"},
    {"scorer-command", "COMMAND", "the same, reading JSON lines with image and prompt, writing numbers"},
    {"direct", "KIND", "without a probe the scorer judges guesses: lookahead (default) or preview"},
    {"lookahead-steps", "N", "further forwards of a look-ahead, 1 to 3"},
    {"decoder", "FOLDER", "AutoencoderTiny that decodes guesses"},
    {"set", "KEY=VALUE", "a configuration key of the private session"},
    {"max-rows", "N", "rows of one batch at most (default: 32)"},
    {"device", "NAME", "as in cuda:0 (default: cuda where there is one)"},
    {"dtype", "NAME", "float32, float16 or bfloat16 (default: float32 on a CPU, else bfloat16)"},
    {"out", "FOLDER", "the image, result.json and events.jsonl"},
    {"json-lines", NULL, "requests on standard input, a JSON object a line; events on standard output"},
    COMMON_OPTIONS,
};
static const ga_option rollback_options[] = {
    {"to", "VERSION", "use this version (default: the one before that in use)"},
    COMMON_OPTIONS,
};
#endif

#if defined(GA_HAVE_WHATIF)
#define WHATIF_OPTIONS                                                                                       \
    {"std", "KIND", "advantages are divided by: global (default), group, or global,group"},                  \
        {"min-group", "N", "kept rows that each group has at least (default 0)"},                            \
        {"max-group", "N", "kept rows that each group has at most; 0: no limit (default)"},                  \
        {"min-inclusion", "P", "least inclusion probability of neyman (default 0.05)"},                      \
        {"threshold", "KIND:VALUE", "of policy threshold: absolute, quantile or advantage (quantile:0.5)"},  \
        {"audit", "E", "share of the batches that keep by chance alone (default 0)"},                        \
        {"clip", "W", "largest weight 1/P (default: none)"},                                                 \
        {"estimator", "NAME", "baseline whose signal counts: shrunk (default), difference, survivors"},      \
        {"weights", "KIND", "one (default) or inverse: weights whose signal counts"},                        \
        {"costs", "LIST", "before=S,signal=V,reward=R,after=F; see above"},                                  \
        {"seed", "N", "of every choice (default 0)"}, {                                                      \
        "plot", "FILE", "draw kept energy against kept share: FILE.svg or FILE.html"                         \
    }
static const ga_option replay_options[] = {
    {"policy", "NAMES", "extremes (default), budget, neyman, topk, random, threshold; a list, or all"},
    {"ranks", "R", "deal each batch's rows to so many ranks (a rank column is followed)"},
    {"keep-per-rank", "C", "rows that each rank keeps; below 1: a share; 5:2: two decisions; a list"},
    {"deal", NULL, "deal rows by chance though there is a rank column"},
    {"repeat", "N", "so many times, with other chances (default 1)"},
    {"step", "N", "steps that a stopped row has run, the decision's own with it; 5:8 for two decisions"},
    {"steps-total", "T", "steps of a whole rollout (default 20)"},
    {"score", "NAME", "of a record: prediction (default), preview, lookahead or distilled"},
    {"at", "STEP", "of a record: after which decision step (default: the last); 2:4 for two decisions"},
    WHATIF_OPTIONS,
    COMMON_OPTIONS,
};
static const ga_option simulate_options[] = {
    {"recipe", "NAME", "a world fitted to a real model and reward: flux-imagereward"},
    {"rho", "LIST", "Spearman within groups, as measured in groups of this size (default 0.3,0.5,0.7)"},
    {"steps", "LIST", "steps that a stopped row has run; with as many rhos: what is known when"},
    {"steps-total", "T", "steps of a whole rollout (default 20)"},
    {"step", "N", "the same as --steps with one number"},
    {"keep", "LIST", "rows that each rank keeps, or shares below 1 (default 1,2,3,5)"},
    {"policy", "NAMES", "a list of policies, or all (default extremes,topk,random)"},
    {"racing", NULL, "also two decisions, one after the other, for all steps and keeps"},
    {"shape", "LIST", "of rewards inside a group: gaussian (default), skewed, binary"},
    {"group-size", "G", "rows of a group (default 24)"},
    {"groups", "N", "groups of a batch (default 12)"},
    {"batches", "N", "batches of a world (default 16)"},
    {"repeat", "N", "worlds (default 4; of a recipe without --racing 1)"},
    {"ranks", "R", "ranks that a batch is dealt to (default 32)"},
    {"sd-spread", "S", "spread over groups of the log of their deviation (default 0; 0.46: a factor of ten)"},
    {"mean-spread", "S", "spread of groups' means, in deviations inside a group (default 1)"},
    {"offset", "S", "how wrong scores are about a group's level, in the same units (default 0.3)"},
    {"skew", "K", "of shape skewed: lognormal's sigma, tail to the left (default 0.3)"},
    {"success", "P", "of shape binary: mean success rate (default 0.5)"},
    {"success-spread", "S", "of shape binary: spread of groups' rates, in latent deviations (default 1)"},
    WHATIF_OPTIONS,
    COMMON_OPTIONS,
};
#endif

const ga_command ga_commands[] = {
    {"run", "--config FILE [--set KEY=VALUE]... [--dry-run] -- SCRIPT ARGS...",
        "run an unmodified training script with grpo_accel attached",
        "Under mpirun: mpirun -np N grpo-accel run --config accel.yaml -- train.py ARGS...\n"
        "Checks the configuration, sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and their like from\n"
        "mpirun's, and becomes the Python interpreter: the exit code is the script's own. The interpreter "
        "is\n"
        "$GRPO_ACCEL_PYTHON, else the one beside grpo-accel, else python3. GRPO_ACCEL_DISABLE=1 runs the\n"
        "script as if grpo_accel were not installed. Warnings begin with 'grpo_accel: warning:'; "
        "GRPO_ACCEL_LOG=error,\n"
        "warning, info or debug says how much is written.",
        run_options, 0, 0, true, ga_command_run},
#if defined(GA_HAVE_TRAIN)
    {"train", "--data FOLDER --out FILE [--config FILE] [--inputs NAMES] [--step STEPS] [--resume]",
        "train a probe from a record",
        "Reads the newest updates with at least retrain.window_rows rows and holds out the prompts seen "
        "last.\n"
        "Three kinds compete: scalar (one score alone, such as the preview's), ridge, and network (on top "
        "of the\n"
        "ridge). The one that orders the held-out prompts' rollouts best is written. probe.network.* and\n"
        "training.* of the configuration, or --set, shape the network and its training. Without --config "
        "it\n"
        "learns the record's first decision step. Ctrl-C ends the training with the best so far and leaves\n"
        "FILE.state, from which --resume goes on; a second Ctrl-C ends the program. Under mpirun each rank\n"
        "brings its share of the prompts, and rank 0 writes.",
        train_options, 0, 0, false, ga_command_train},
    {"relabel", "RUN --scorer MODULE:FUNCTION [--prompts N] [--seed N] [--decoder FOLDER]",
        "score a run's final images under other prompts of the run",
        "More labels than rollouts, for train --relabels. The run must have logged final images and prompts\n"
        "(record.finals: image or latent; record.prompts: text). The scorer must be the run's own reward. "
        "Writes\n"
        "RUN/relabels; a second call does what is missing. Ctrl-C keeps what is done.",
        relabel_options, 1, 1, false, ga_command_relabel},
    {"evaluate", "--probe FILE --data FOLDER [--report FOLDER] [--against FILE] [--curve] [--gate RHO]",
        "judge a probe on a record, within prompt groups",
        "On rows that it has learned from a probe looks better than it is: they are left out, unless "
        "--all-rows\n"
        "takes them; in_sample says whether some are judged. Of a record with stopped rows only audited ones "
        "are taken.\n"
        "Exit code 1 when the lower bound of the within-group Spearman is not above the gate. Figures "
        "called\n"
        "pooled mix prompts: they say how well prompts are told apart, not rollouts of one prompt.\n"
        "Where the record has a scorer named retest (a second end of the same rollout), the largest "
        "correlation\n"
        "that is possible is given, too.",
        evaluate_options, 0, 0, false, ga_command_evaluate},
    {"select-seeds", "--model FOLDER --prompt TEXT [--seeds 10] [--keep 1] --out FOLDER",
        "the best of several seeds; the others are stopped early",
        "Runs all seeds of a prompt to the decision, and only the most promising ones to the end. Promising "
        "is what\n"
        "the probe predicts or, without one, what the scorer says of a look-ahead. --seeds 10 --steps 3,5\n"
        "--keep 5,1 decides twice. --learn trains a probe; exit code 1, with the figures, where it is not "
        "worth\n"
        "using. OUT/index.json says what became of every seed.",
        seeds_options, 0, 0, false, ga_command_select_seeds},
    {"optimize-prompt", "--model FOLDER --prompt TEXT --threshold V --rewriter WHO --out FOLDER",
        "other wordings of a prompt, judged early; the best is completed",
        "Each wording runs to the decision from a few seeds. Only where its prediction is below the "
        "threshold\n"
        "is the rewriter asked for another. The best of all tried is completed; its first steps are not "
        "paid\n"
        "twice. With --json-lines a request is {\"id\": ..., \"prompt\": ..., \"threshold\": ...}; events\n"
        "early, decision, rewrite, finished, image and error are written as they happen.",
        prompts_options, 0, 0, false, ga_command_optimize_prompt},
    {"rollback", "RUN [--to VERSION]", "let a run use an earlier probe again",
        "RUN is a run folder. A job that runs takes the probe at the end of its next updates, one that is "
        "started\n"
        "again begins with it. Later trainings go on and are compared with it. RUN/probes/journal.jsonl "
        "has one\n"
        "line a training with its verdict.",
        rollback_options, 1, 1, false, ga_command_rollback},
#endif
#if defined(GA_HAVE_RECORD)
    {"inspect", "FOLDER", "what is in a record",
        "FOLDER is a run folder, its record folder, one rank's folder, or one segment.", plain_options, 1, 1,
        false, ga_command_inspect},
    {"verify", "FOLDER", "does a record have gaps or damage?",
        "Reads every byte once and changes nothing. Exit code 1 when rows are missing or damaged.",
        plain_options, 1, 1, false, ga_command_verify},
#endif
#if defined(GA_HAVE_WHATIF)
    {"replay", "TABLE_OR_RUN --keep-per-rank C [--ranks R] [--policy NAMES] [--plot FILE] ...",
        "what a policy would have done with rollouts whose rewards are known",
        "TABLE is CSV with a header or HDF5: group, score, reward, optional batch, rank, score2, score3. RUN "
        "is a run\n"
        "folder whose batches kept everything (mode: shadow). Plans and advantages are those of a run. Costs "
        "are in\n"
        "shares: before, of the steps that a stopped row has run; signal, looking at a row, and reward, "
        "decoding and\n"
        "scoring it, in denoisings of a row; after, of an iteration, what follows the rollout and the "
        "rewards. Defaults:\n"
        "before=0.3,signal=0.01,reward=0,after=0.5; a record brings its own but for after.\n\n"
        "  grpo-accel replay runs/shadow --policy all --keep-per-rank 1,2,3,5 --plot kept.svg\n"
        "  grpo-accel replay scores.csv --ranks 32 --keep-per-rank 3 --std group --costs after=.78 --json",
        replay_options, 1, 1, false, ga_command_replay},
    {"simulate", "[--rho LIST] [--keep LIST] [--steps LIST] [--racing] [--recipe NAME] [--plot FILE] ...",
        "where pruning would pay, in made-up groups",
        "Rewards of a given shape, scores that order them by a Gaussian copula as well as --rho says; every "
        "policy,\n"
        "keep and step of the lists. The last lines name what is worth most. Costs as for replay.\n\n"
        "  grpo-accel simulate --rho .3,.5,.7 --keep .1,.2,.35,.5 --plot pays.html\n"
        "  grpo-accel simulate --steps 4,6,8 --rho .5,.7,.79 --policy extremes --keep 1,2,3,4,5 --racing\n"
        "  grpo-accel simulate --recipe flux-imagereward",
        simulate_options, 0, 0, false, ga_command_simulate},
#endif
    {"config dump", "[--config FILE] [--set KEY=VALUE]...",
        "what is in force, and where each value came from",
        "Defaults, then the file, then GRPO_ACCEL_SECTION__KEY from the environment, then --set.",
        config_options, 0, 0, false, ga_command_config_dump},
    {"config check", "FILE [--set KEY=VALUE]...", "is a configuration right?",
        "Exit code 2 with file:line:column, the key and the nearest key when it is not.", check_options, 1, 1,
        false, ga_command_config_check},
    {"config schema", "", "all keys as JSON Schema", "For editors and other tools that check YAML.",
        plain_options, 0, 0, false, ga_command_config_schema},
    {"config docs", "", "all keys as a Markdown page", "What docs/configuration.md is made from.",
        plain_options, 0, 0, false, ga_command_config_docs},
    {"doctor", "[--config FILE] [--issue] [-- SCRIPT ARGS...]", "is everything here that a run needs?",
        "Exit code 1 when a line says FAIL. Start it as the run is started: under mpirun rank 0 prints, and "
        "of the\n"
        "other ranks what differs. Packages are those of the interpreter that run would take. A SCRIPT is "
        "read, not\n"
        "run: which of flow-grpo's modules are replaced for it, and what a stopped rollout saves there.",
        doctor_options, 0, 0, true, ga_command_doctor},
};
const size_t ga_command_count = sizeof ga_commands / sizeof ga_commands[0];

ga_exit ga_exit_of(ga_status status) {
    switch (status) {
    case GA_OK: return GA_EXIT_DONE;
    case GA_ERR_ARGUMENT:
    case GA_ERR_CONFIG:
    case GA_ERR_MISMATCH: return GA_EXIT_USAGE;
    case GA_ERR_MISSING:
    case GA_ERR_WORLD:
    case GA_ERR_LATE: return GA_EXIT_MISSING;
    case GA_ERR_FILE:
    case GA_ERR_DATA:
    case GA_ERR_MEMORY:
    case GA_ERR_IO: return GA_EXIT_INPUT;
    case GA_ERR_BUG: break;
    }
    return GA_EXIT_DEFECT;
}

static void write_json_error(ga_status status, const char *message) {
    ga_json json = ga_json_make(stdout);
    ga_json_object(&json, NULL);
    ga_json_object(&json, "error");
    ga_json_text(&json, "status", ga_status_name(status));
    ga_json_text(&json, "message", message);
    ga_json_integer(&json, "exit_code", ga_exit_of(status));
    ga_json_end(&json);
    ga_json_end(&json);
}

ga_exit ga_command_fail(const ga_call *call, const ga_error *error) {
    (void)fprintf(stderr, "grpo-accel: %s\n", error->message);
    if (ga_exit_of(error->status) == GA_EXIT_DEFECT) {
        (void)fprintf(stderr,
            "grpo-accel: this is a defect of grpo-accel (%s:%d); no job was harmed. Please report it with "
            "the\n"
            "output of 'grpo-accel doctor --json'.\n",
            error->file != NULL ? error->file : "?", error->line);
    }
    if (call->json) {
        write_json_error(error->status, error->message);
    }
    return ga_exit_of(error->status);
}

ga_exit ga_command_refuse(const ga_call *call, ga_status status, const char *format, ...) {
    ga_error error = {.status = status, .file = __FILE__, .line = __LINE__};
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(error.message, sizeof error.message, format, arguments);
    va_end(arguments);
    return ga_command_fail(call, &error);
}

ga_status ga_command_load_config(
    const ga_call *call, const char *path, ga_config **config_out, ga_error *error) {
    const char **sets = calloc(call->arguments.given_count + 1, sizeof *sets);
    if (sets == NULL) {
        return GA_FAIL(error, GA_ERR_MEMORY, "out of memory while loading the configuration");
    }
    const size_t count = ga_arguments_values(&call->arguments, "set", sets);
    const ga_status status =
        ga_config_load(path, sets, count, (const char *const *)environ, config_out, error);
    free(sets);
    return status;
}

void ga_command_hex(uint64_t value, char text_out[17]) {
    (void)snprintf(text_out, 17, "%016" PRIx64, value);
}
