#include "grpo_accel/config/schema.h"

#include <float.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "grpo_accel/config/nearest.h"

#define KEYS_MAX 96
#define FIELD(name) offsetof(ga_config, name)

/* 2^53: the largest integer that every JSON reader keeps exact. */
#define EXACT_INTEGER_MAX 9007199254740992.0

const ga_schema_entry ga_schema[] = {
    {"version", GA_SCHEMA_INTEGER, 0, 1, 1, NULL, "", "1", "Version of this grammar.", FIELD(version)},
    {"mode", GA_SCHEMA_WORD, 0, 0, 0, "off shadow prune auto", "", "shadow",
        "off: nothing attaches. shadow: scores and logs, prunes nothing. prune: stops rollouts. "
        "auto: watches, prunes while the measured benefit exceeds the measured cost, and stops when it no "
        "longer does.",
        FIELD(mode)},
    {"seed", GA_SCHEMA_INTEGER, 0, 0, EXACT_INTEGER_MAX, NULL, "", "0",
        "Of every random choice: the same seed on the same scores keeps the same rollouts.", FIELD(seed)},
    {"run_dir", GA_SCHEMA_TEXT, GA_SCHEMA_OWN_TO_RANK, 0, 0, NULL, "folder", "runs/accel",
        "Where the record, the probes and the metrics of this run are written.", FIELD(run_dir)},

    {"decision.step", GA_SCHEMA_STEPS, GA_SCHEMA_MAY_BE_AUTO, 1, 10000, NULL, "denoising steps", "3",
        "Decide after so many denoising steps; the next step still runs for all rows, for its signals. A "
        "list of up to 3 (racing): at each the least informative of the rows still running stop. auto "
        "(modes auto and shadow): each of decision.candidates.",
        FIELD(decision.step)},
    {"decision.candidates", GA_SCHEMA_STEPS, GA_SCHEMA_MAY_BE_AUTO, 1, 10000, NULL, "denoising steps", "auto",
        "With decision.step auto: up to 4 steps that are looked at, from which mode auto chooses. auto: the "
        "first behind the noisy steps and three later ones, up to half of the rollout.",
        FIELD(decision.candidates)},
    {"decision.sigma", GA_SCHEMA_REAL, GA_SCHEMA_MAY_BE_NULL | GA_SCHEMA_ABOVE_MIN, 0, 1, NULL, "sigma",
        "null",
        "Instead of step: decide after the first step that ends at or below this noise level, behind the "
        "noisy steps where the host says which those are. Resolved at the first batch; the same on all "
        "ranks.",
        FIELD(decision.sigma)},
    {"decision.keep", GA_SCHEMA_SHARES, GA_SCHEMA_MAY_BE_AUTO | GA_SCHEMA_ABOVE_MIN, 0, 1, NULL,
        "share of rows", "0.5",
        "Share of its rows that each rank keeps; a list with a list of steps, each share of all rows, none "
        "above the one before. auto (mode auto): the share that pays best.",
        FIELD(decision.keep)},
    {"decision.policy", GA_SCHEMA_WORD, 0, 0, 0, "extremes neyman topk random threshold budget", "",
        "extremes",
        "Which rows are kept. extremes: the largest expected squared advantage. topk: the highest "
        "predictions relative to their group (the paper's; biases the group's mean). random: by chance, "
        "needs no probe. threshold: those past decision.threshold, on each rank the same number, whatever "
        "decision.keep is. neyman: by chance, in proportion to the root of the expected squared advantage. "
        "budget: the rows are dealt to groups by their predicted spread, inside a group as extremes.",
        FIELD(decision.policy)},
    {"decision.threshold.kind", GA_SCHEMA_WORD, 0, 0, 0, "absolute quantile advantage", "", "quantile",
        "Of policy threshold: a predicted reward, a quantile of the batch's predictions, or a predicted "
        "advantage.",
        FIELD(decision.threshold.kind)},
    {"decision.threshold.value", GA_SCHEMA_REAL, GA_SCHEMA_NO_RANGE, 0, 0, NULL, "by kind", "0.5",
        "Rows predicted below it are pruned. A quantile lies in 0 to 1; a reward is in the reward's units; "
        "an "
        "advantage in standard deviations.",
        FIELD(decision.threshold.value)},
    {"decision.min_group", GA_SCHEMA_INTEGER, GA_SCHEMA_MAY_BE_AUTO, 0, 4096, NULL, "rows", "auto",
        "Rows of each prompt group that are kept at least. auto: 0 where the host divides all advantages by "
        "one standard deviation, 2 where by the group's.",
        FIELD(decision.min_group)},
    {"decision.max_group", GA_SCHEMA_INTEGER, 0, 0, 4096, NULL, "rows", "0",
        "Rows of each prompt group that are kept at most; 0: no limit.", FIELD(decision.max_group)},
    {"decision.even_groups", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "false",
        "Every prompt group keeps as many rows, up to one, at each decision: instead of decision.min_group "
        "and decision.max_group.",
        FIELD(decision.even_groups)},
    {"decision.min_inclusion", GA_SCHEMA_REAL, GA_SCHEMA_BELOW_MAX, 0, 1, NULL, "probability", "0.05",
        "Smallest probability with which policies that draw by chance (neyman) keep a row.",
        FIELD(decision.min_inclusion)},
    {"decision.audit", GA_SCHEMA_REAL, 0, 0, 1, NULL, "share of batches", "0.1",
        "Share of pruned batches whose rows are kept by chance alone: what honest figures are measured on.",
        FIELD(decision.audit)},
    {"decision.timeout_seconds", GA_SCHEMA_REAL, GA_SCHEMA_ABOVE_MIN, 0, 3600, NULL, "seconds", "10",
        "How long a rank waits for the others at the decision before it keeps all its rows of the batch; "
        "at the end of an update six times as long.",
        FIELD(decision.timeout_seconds)},

    {"probe.path", GA_SCHEMA_TEXT, GA_SCHEMA_MAY_BE_NULL, 0, 0, NULL, "file", "null",
        "Trained probe (safetensors). null: the newest in run_dir/probes; while there is none, watch and "
        "learn one from the record.",
        FIELD(probe.path)},
    {"probe.direct", GA_SCHEMA_WORD, 0, 0, 0, "none preview lookahead", "", "none",
        "Instead of a probe: the combined score of a row's preview or look-ahead is its prediction as it is, "
        "from the first batch on. none: a probe predicts.",
        FIELD(probe.direct)},
    {"probe.inputs", GA_SCHEMA_WORDS, GA_SCHEMA_MAY_BE_AUTO, 0, 0,
        "attention x0 cfg hidden prompt preview lookahead distilled", "", "[attention, x0, preview]",
        "What the probe sees. attention: cross-attention maps. x0: the preview latent. cfg: where guidance "
        "changes the velocity. hidden: the pooled hidden state of a block. prompt: the pooled text "
        "embedding. "
        "preview: the host's score of the decoded x0. lookahead: the same after a few big steps. distilled: "
        "the same after one step of a trained copy. auto: attention, x0, preview.",
        FIELD(probe.inputs)},
    {"probe.blocks", GA_SCHEMA_BLOCKS, 0, 1, GA_CONFIG_BLOCKS_MAX, NULL, "blocks", "middle:10",
        "Tapped blocks of the model: middle:N consecutive ones around the middle, last_encoder:N of a UNet, "
        "or "
        "a list of names. At most as many as the model has.",
        FIELD(probe.blocks)},
    {"probe.statistics", GA_SCHEMA_WORDS, 0, 0, 0, "mass entropy maximum spread share concentration", "",
        "[mass, entropy, maximum]",
        "Maps taken of each tapped block. mass: attention to the text. entropy, maximum: of the attention to "
        "text tokens. spread: between content tokens. share: of the strongest content token. concentration: "
        "how little of the image that token takes.",
        FIELD(probe.statistics)},
    {"probe.hidden_block", GA_SCHEMA_TEXT, 0, 0, 0, NULL, "", "middle",
        "Block whose hidden state input hidden takes: middle, or its name.", FIELD(probe.hidden_block)},
    {"probe.map_size", GA_SCHEMA_INTEGER, 0, 4, 64, NULL, "cells a side", "16",
        "Feature maps are pooled to this size, never enlarged.", FIELD(probe.map_size)},
    {"probe.provider", GA_SCHEMA_WORD, 0, 0, 0, "auto torch native", "", "auto",
        "Who computes. native: C and OpenBLAS on the CPU. torch: the host's PyTorch, on the host's device. "
        "auto: torch where the host samples on a GPU and has it, else native.",
        FIELD(probe.provider)},
    {"probe.preview.scorers", GA_SCHEMA_NAMES, GA_SCHEMA_MAY_BE_NULL, 0, 0, NULL, "", "null",
        "Those of the host's scorers that score previews (also of lookahead and distilled); others are not "
        "called. A row's scores are their weighted sum and, where several are listed, each scorer's own in "
        "this order. null: the host's combined score alone.",
        FIELD(probe.preview.scorers)},
    {"probe.preview.decoder", GA_SCHEMA_TEXT, GA_SCHEMA_MAY_BE_NULL, 0, 0, NULL, "folder", "null",
        "AutoencoderTiny that decodes previews. null: the host's own VAE.", FIELD(probe.preview.decoder)},
    {"probe.lookahead.steps", GA_SCHEMA_INTEGER, 0, 1, 3, NULL, "denoising steps", "2",
        "Of input lookahead: forwards of the policy for each row, over the rest of the schedule.",
        FIELD(probe.lookahead.steps)},
    {"probe.lookahead.guided", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "true",
        "Of input lookahead: with the host's guidance.", FIELD(probe.lookahead.guided)},
    {"probe.distilled.lora", GA_SCHEMA_TEXT, GA_SCHEMA_MAY_BE_NULL, 0, 0, NULL, "file or folder", "null",
        "Of input distilled: a LoRA of the policy that maps a noisy state to the end in one pass. null: one "
        "is trained from the run's own rollouts.",
        FIELD(probe.distilled.lora)},
    {"probe.distilled.rank", GA_SCHEMA_INTEGER, 0, 1, 256, NULL, "", "8", "Rank of the trained LoRA.",
        FIELD(probe.distilled.rank)},
    {"probe.distilled.every_updates", GA_SCHEMA_INTEGER, 0, 0, 1000000, NULL, "updates", "10",
        "Updates between two trainings of the LoRA; 0: never.", FIELD(probe.distilled.every_updates)},
    {"probe.distilled.seconds", GA_SCHEMA_REAL, GA_SCHEMA_ABOVE_MIN, 0, 86400, NULL, "seconds", "60",
        "That one training of the LoRA takes at most.", FIELD(probe.distilled.seconds)},
    {"probe.distilled.pairs", GA_SCHEMA_INTEGER, 0, 16, 1048576, NULL, "pairs", "4096",
        "Newest pairs of state and final latent that are kept in memory to train the LoRA on.",
        FIELD(probe.distilled.pairs)},
    {"probe.network.architecture", GA_SCHEMA_WORD, 0, 0, 0, "joined paper none", "", "joined",
        "joined: maps, scalars and prompt together. paper: maps alone, the probe of arXiv 2602.23783. none: "
        "no network, ridge and single scores only.",
        FIELD(probe.network.architecture)},
    {"probe.network.condition", GA_SCHEMA_WORD, 0, 0, 0, "head blocks", "", "head",
        "Where prompt and noise level enter joined. head: behind the pooling, so that one pass over a "
        "picture "
        "serves rewards under many prompts (training.relabels). blocks: in every normalisation.",
        FIELD(probe.network.condition)},
    {"probe.network.channels", GA_SCHEMA_WIDTHS, 0, 1, 1024, NULL, "channels", "[24, 32, 48, 64]",
        "Width of the stem and of each level behind it, which halves the map.",
        FIELD(probe.network.channels)},
    {"probe.network.hidden", GA_SCHEMA_INTEGER, 0, 1, 4096, NULL, "units", "32",
        "Width of the layer before the last.", FIELD(probe.network.hidden)},
    {"probe.network.blocks_per_level", GA_SCHEMA_INTEGER, 0, 1, 4, NULL, "blocks", "1",
        "Residual blocks of each level.", FIELD(probe.network.blocks_per_level)},
    {"probe.network.heteroscedastic", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "true",
        "The network answers a variance of each row beside its mean.", FIELD(probe.network.heteroscedastic)},
    {"probe.network.condition_width", GA_SCHEMA_INTEGER, 0, 1, 1024, NULL, "units", "32",
        "Width of the embeddings of noise level and prompt, which modulate the network.",
        FIELD(probe.network.condition_width)},

    {"training.rank_weight", GA_SCHEMA_REAL, 0, 0, 1000, NULL, "", "1",
        "Of the listwise term of the loss: the order within a group.", FIELD(training.rank_weight)},
    {"training.raw_weight", GA_SCHEMA_REAL, 0, 0, 1000, NULL, "", "0.05",
        "Of the squared error of the reward itself.", FIELD(training.raw_weight)},
    {"training.centred_weight", GA_SCHEMA_REAL, 0, 0, 1000, NULL, "", "1",
        "Of the squared error of rewards less their group's mean.", FIELD(training.centred_weight)},
    {"training.oversample_low", GA_SCHEMA_REAL, 0, 0, 100, NULL, "", "0",
        "The lowest rewards of the data count 1 + so many times as much as the highest.",
        FIELD(training.oversample_low)},
    {"training.learning_rate", GA_SCHEMA_REAL, GA_SCHEMA_ABOVE_MIN, 0, 1, NULL, "", "0.003",
        "Largest step of AdamW.", FIELD(training.learning_rate)},
    {"training.weight_decay", GA_SCHEMA_REAL, 0, 0, 10, NULL, "", "0.05", "Of AdamW, decoupled.",
        FIELD(training.weight_decay)},
    {"training.batch_rows", GA_SCHEMA_INTEGER, 0, 2, 65536, NULL, "rows", "256",
        "Rows of a minibatch, which holds whole groups.", FIELD(training.batch_rows)},
    {"training.rounds_max", GA_SCHEMA_INTEGER, 0, 0, 100000, NULL, "rounds", "60",
        "Passes over the rows at most.", FIELD(training.rounds_max)},
    {"training.patience_rounds", GA_SCHEMA_INTEGER, 0, 1, 100000, NULL, "rounds", "8",
        "A training ends after so many rounds without getting better.", FIELD(training.patience_rounds)},
    {"training.seconds_max", GA_SCHEMA_REAL, 0, 0, 8640000, NULL, "seconds", "0",
        "A training ends after so many seconds; 0: no limit. A run that it ends is not repeatable bit for "
        "bit.",
        FIELD(training.seconds_max)},
    {"training.ema", GA_SCHEMA_REAL, GA_SCHEMA_BELOW_MAX, 0, 1, NULL, "", "0.99",
        "Decay of the average of the weights that is kept; 0: the last weights.", FIELD(training.ema)},
    {"training.relabels", GA_SCHEMA_INTEGER, 0, 0, 64, NULL, "rewards a row", "0",
        "Rewards of a row's final image under other prompts (`grpo-accel relabel`) that a training takes at "
        "most.",
        FIELD(training.relabels)},

    {"advantage.estimator", GA_SCHEMA_WORD, 0, 0, 0, "shrunk difference survivors predicted", "", "shrunk",
        "Baseline of a group that lost rows. shrunk: difference estimator shrunk towards the predictions. "
        "difference: the same unshrunk. survivors: mean of the kept rows (biased; for comparison). "
        "predicted: "
        "mean of the predictions alone; with weights inverse, clip null and leave_one_out the gradient has "
        "no "
        "bias.",
        FIELD(advantage.estimator)},
    {"advantage.weights", GA_SCHEMA_WORD, 0, 0, 0, "one inverse", "", "one",
        "Weight of a kept row in the gradient: one, or the inverse of its inclusion probability (no bias, "
        "more "
        "noise).",
        FIELD(advantage.weights)},
    {"advantage.clip", GA_SCHEMA_REAL, GA_SCHEMA_MAY_BE_NULL, 1, 1000, NULL, "weight", "10",
        "Largest inverse inclusion probability that counts; null: no limit (less bias, more noise).",
        FIELD(advantage.clip)},
    {"advantage.std", GA_SCHEMA_WORD, 0, 0, 0, "auto global group", "", "auto",
        "By what advantages are divided: one standard deviation for all rows, or the group's. auto: as the "
        "host does.",
        FIELD(advantage.std)},
    {"advantage.leave_one_out", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "false",
        "A row's baseline leaves its own reward out.", FIELD(advantage.leave_one_out)},
    {"advantage.prefix_credit", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "false",
        "Pruned rows teach too, with their predicted advantage, and kept rows correct it (doubly robust). "
        "Where all noisy steps come before the decision only; saves no training.",
        FIELD(advantage.prefix_credit)},
    {"advantage.train_share", GA_SCHEMA_REAL, GA_SCHEMA_ABOVE_MIN, 0, 1, NULL, "share of kept rows", "1",
        "Share of the kept rows that trains: those with the largest squared advantage, as many on each rank.",
        FIELD(advantage.train_share)},
    {"advantage.drop_stopped_rows", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "false",
        "Scripts that train on every row, whatever its advantage: takes stopped rows out of the script's own "
        "samples.",
        FIELD(advantage.drop_stopped_rows)},

    {"retrain.every_updates", GA_SCHEMA_INTEGER, 0, 0, 1000000, NULL, "updates", "50",
        "Updates between two trainings of the probe; 0: never. Without a record nothing is trained.",
        FIELD(retrain.every_updates)},
    {"retrain.on_drift", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "true",
        "Train also as soon as features or scores have drifted (guard.drift_max).", FIELD(retrain.on_drift)},
    {"retrain.background", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "true",
        "Train beside the rollouts; false: every rank waits for the training, so that a run repeats exactly.",
        FIELD(retrain.background)},
    {"retrain.window_rows", GA_SCHEMA_INTEGER, 0, 64, 10000000, NULL, "rows", "20000",
        "A training reads the newest whole updates with at least so many rows.", FIELD(retrain.window_rows)},

    {"guard.confidence", GA_SCHEMA_REAL, GA_SCHEMA_ABOVE_MIN | GA_SCHEMA_BELOW_MAX, 0.5, 1, NULL,
        "probability", "0.95", "Of the guard's bounds and intervals.", FIELD(guard.confidence)},
    {"guard.lost_extremes_max", GA_SCHEMA_REAL, 0, 0, 1, NULL, "share of extremes", "0.2",
        "Mode auto prunes no more than this share of the true extremes of a group away, as far as audited "
        "rows tell (conformal risk control).",
        FIELD(guard.lost_extremes_max)},
    {"guard.slowdown_max", GA_SCHEMA_REAL, 0, 0, 1, NULL, "share of rollout", "0.02",
        "Mode auto spends at most this share of the rollout's seconds on looking while it does not prune.",
        FIELD(guard.slowdown_max)},
    {"guard.drift_max", GA_SCHEMA_REAL, GA_SCHEMA_ABOVE_MIN, 0, 100, NULL, "PSI", "0.25",
        "Population stability index of scores or features, against those that the probe was trained on, from "
        "which they count as drifted.",
        FIELD(guard.drift_max)},
    {"guard.patience_updates", GA_SCHEMA_INTEGER, 0, 1, 1000, NULL, "updates", "2",
        "Mode auto switches when its verdict was the same in so many updates one after the other.",
        FIELD(guard.patience_updates)},

    {"record.enabled", GA_SCHEMA_BOOLEAN, 0, 0, 0, NULL, "", "true",
        "Log features, predictions and rewards to HDF5.", FIELD(record.enabled)},
    {"record.segment_rows", GA_SCHEMA_INTEGER, 0, 1, 65536, NULL, "rows", "2048",
        "Rows of one HDF5 segment, which is written at the latest a minute after its first row; what a "
        "killed rank can lose.",
        FIELD(record.segment_rows)},
    {"record.prompts", GA_SCHEMA_WORD, 0, 0, 0, "hash text", "", "hash",
        "hash: only a digest of the prompt is stored. text: the prompt too.", FIELD(record.prompts)},
    {"record.finals", GA_SCHEMA_WORD, 0, 0, 0, "none latent image", "", "none",
        "Store the final latent (with the state at the decision) or image of kept rows, for scoring them "
        "again and for training on them.",
        FIELD(record.finals)},

    {"distributed.transport", GA_SCHEMA_WORD, 0, 0, 0, "auto mpi nccl torch local", "", "auto",
        "How ranks agree. auto: MPI under mpirun, else local. local: each process alone. nccl and torch come "
        "with a later version.",
        FIELD(distributed.transport)},

    {"metrics.wandb", GA_SCHEMA_WORD, GA_SCHEMA_OWN_TO_RANK, 0, 0, "auto true false", "", "auto",
        "Add prune/*, probe/*, seconds/*, comm/*, record/* to the host's wandb run. auto and true: when "
        "there is one. false: never.",
        FIELD(metrics.wandb)},
    {"metrics.jsonl", GA_SCHEMA_BOOLEAN, GA_SCHEMA_OWN_TO_RANK, 0, 0, NULL, "", "true",
        "Write run_dir/metrics.jsonl, a line an update.", FIELD(metrics.jsonl)},
};

const size_t ga_schema_count = sizeof ga_schema / sizeof ga_schema[0];
_Static_assert(sizeof ga_schema / sizeof ga_schema[0] <= KEYS_MAX, "raise KEYS_MAX");

const ga_schema_entry *ga_schema_find(const char *path) {
    for (size_t i = 0; i < ga_schema_count; i++) {
        if (strcmp(ga_schema[i].path, path) == 0) {
            return &ga_schema[i];
        }
    }
    return NULL;
}

int32_t ga_schema_steps_max(const ga_schema_entry *entry) {
    return entry->offset == FIELD(decision.candidates) ? GA_CONFIG_CANDIDATES_MAX : GA_CONFIG_STAGES_MAX;
}

bool ga_schema_is_section(const char *path) {
    const size_t length = strlen(path);
    for (size_t i = 0; i < ga_schema_count; i++) {
        if (strncmp(ga_schema[i].path, path, length) == 0 && ga_schema[i].path[length] == '.') {
            return true;
        }
    }
    return false;
}

/* What follows the last point. */
static const char *last_part(const char *path) {
    const char *point = strrchr(path, '.');
    return point != NULL ? point + 1 : path;
}

/* The first key whose last part is `tail`; NULL if there is none. */
static const char *find_tail(const char *tail) {
    for (size_t i = 0; i < ga_schema_count; i++) {
        if (strcmp(last_part(ga_schema[i].path), tail) == 0) {
            return ga_schema[i].path;
        }
    }
    return NULL;
}

const char *ga_schema_nearest(const char *path) {
    const char *paths[KEYS_MAX], *tails[KEYS_MAX];
    for (size_t i = 0; i < ga_schema_count; i++) {
        paths[i] = ga_schema[i].path;
        tails[i] = last_part(ga_schema[i].path);
    }
    /* The right word without its section, such as `keep` at the top. */
    const char *near = strchr(path, '.') == NULL ? find_tail(path) : NULL;
    if (near == NULL) {
        near = ga_nearest(path, paths, ga_schema_count);
    }
    if (near == NULL) {
        const char *tail = ga_nearest(last_part(path), tails, ga_schema_count);
        near = tail != NULL ? find_tail(tail) : NULL;
    }
    return near;
}

bool ga_schema_word(const char *words, size_t index, char word_out[GA_WORD_BYTES]) {
    const char *at = words;
    for (size_t i = 0; i < index; i++) {
        at = strchr(at, ' ');
        if (at == NULL) {
            return false;
        }
        at++;
    }
    const size_t length = strcspn(at, " ");
    if (length == 0 || length >= GA_WORD_BYTES) {
        return false;
    }
    memcpy(word_out, at, length);
    word_out[length] = '\0';
    return true;
}

/* " from 1 to 3", " above 0, at most 1", or nothing. */
static void expect_range(const ga_schema_entry *entry, char *text, size_t bytes) {
    if ((entry->flags & GA_SCHEMA_NO_RANGE) != 0) {
        text[0] = '\0';
        return;
    }
    const bool above = (entry->flags & GA_SCHEMA_ABOVE_MIN) != 0;
    const bool below = (entry->flags & GA_SCHEMA_BELOW_MAX) != 0;
    if (!above && !below && entry->min == entry->max) {
        (void)snprintf(text, bytes, ", namely %.0f", entry->min);
    } else if (!above && !below) {
        (void)snprintf(text, bytes, " from %.17g to %.17g", entry->min, entry->max);
    } else {
        (void)snprintf(text, bytes, " %s %.17g, %s %.17g", above ? "above" : "at least", entry->min,
            below ? "below" : "at most", entry->max);
    }
}

/* "one of a, b, c" */
static void expect_words(const char *start, const char *words, char *text, size_t bytes) {
    char word[GA_WORD_BYTES];
    size_t used = (size_t)snprintf(text, bytes, "%s", start);
    for (size_t i = 0; used < bytes && ga_schema_word(words, i, word); i++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i == 0 ? " " : ", ", word);
    }
}

static void expect_core(const ga_schema_entry *entry, char *text, size_t bytes) {
    char range[96];
    expect_range(entry, range, sizeof range);
    switch (entry->type) {
    case GA_SCHEMA_BOOLEAN: (void)snprintf(text, bytes, "true or false"); break;
    case GA_SCHEMA_INTEGER: (void)snprintf(text, bytes, "a whole number%s", range); break;
    case GA_SCHEMA_REAL: (void)snprintf(text, bytes, "a number%s", range); break;
    case GA_SCHEMA_WORD: expect_words("one of", entry->words, text, bytes); break;
    case GA_SCHEMA_TEXT: (void)snprintf(text, bytes, "a text"); break;
    case GA_SCHEMA_STEPS:
        (void)snprintf(text, bytes, "a whole number%s, or an ascending list of up to %d", range,
            (int)ga_schema_steps_max(entry));
        break;
    case GA_SCHEMA_SHARES:
        (void)snprintf(text, bytes, "a number%s, or a list of up to %d", range, GA_CONFIG_STAGES_MAX);
        break;
    case GA_SCHEMA_WORDS: expect_words("a list of", entry->words, text, bytes); break;
    case GA_SCHEMA_NAMES: (void)snprintf(text, bytes, "a list of up to %d names", GA_CONFIG_NAMES_MAX); break;
    case GA_SCHEMA_WIDTHS:
        (void)snprintf(text, bytes, "a list of up to %d whole numbers, each%s", GA_CONFIG_WIDTHS_MAX, range);
        break;
    case GA_SCHEMA_BLOCKS:
        (void)snprintf(text, bytes,
            "middle:N or last_encoder:N with N from 1 to %.0f, or a list of block names", entry->max);
        break;
    }
}

void ga_schema_expect(const ga_schema_entry *entry, char text_out[GA_EXPECTED_BYTES]) {
    char core[GA_EXPECTED_BYTES - 32];
    expect_core(entry, core, sizeof core);
    (void)snprintf(text_out, GA_EXPECTED_BYTES, "%s%s%s", core,
        (entry->flags & GA_SCHEMA_MAY_BE_AUTO) != 0 ? ", or auto" : "",
        (entry->flags & GA_SCHEMA_MAY_BE_NULL) != 0 ? ", or null" : "");
}
