"""What is wanted, in whose words, and what the rewriter makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml

from experiments.shapes import rewriter, scorer, world

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "shapes" / "models"
SIDE = 32


def load_config(quick: bool) -> dict:
    config = yaml.safe_load((HERE / "config.yaml").read_text())
    small = config.pop("quick")
    return {**config, **small} if quick else config


def call_arguments(config: dict) -> dict:
    """Of the pipeline's call; the shipped model needs no guidance."""
    return {"height": SIDE, "width": SIDE, "num_inference_steps": config["steps_total"], "guidance_scale": 1.0,
            "max_sequence_length": 16, "output_type": "pt"}


def pipeline_of(config: dict):
    import diffusers.utils.logging
    import transformers.utils.logging
    from diffusers import StableDiffusion3Pipeline

    for library in (diffusers, transformers):  # clumsy prompts are cut off, and each is warned of
        library.utils.logging.set_verbosity_error()
    pipeline = StableDiffusion3Pipeline.from_pretrained(MODELS / config["model"])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def intent_sets(config: dict, seed: int) -> dict[str, list[str]]:
    """Disjoint intents, as the world's own prompts: judged (held-out ones first), choice, probe."""
    train, held = world.load_prompts("train"), world.load_prompts("test")
    pool = held + [train[i] for i in np.random.RandomState(seed).permutation(len(train))]
    sets, first = {}, 0
    for name in ("judged", "choice", "probe"):
        count = config[f"{name}_prompts"]
        sets[name] = pool[first: first + count]
        first += count
    return sets


def first_prompts(intents: list[str], config: dict, seed: int) -> list[str]:
    return [rewriter.clumsy(intent, seed, *config["flaws"]) for intent in intents]


def rewriter_of(config: dict, seed: int) -> rewriter.Rewriter:
    return rewriter.Rewriter(seed, config["slip"])


def chain(prompt: str, config: dict, seed: int) -> list[str]:
    """A first prompt and all that the rewriter would make of it: it does not look at scores."""
    rewrite, texts = rewriter_of(config, seed), [prompt]
    while len(texts) <= config["rounds"]:
        texts.append(rewrite(texts[-1], texts))
    return texts


def score(images, prompts) -> list[float]:
    """Rewards under what the prompts mean, whatever their wording."""
    return scorer.score(images, [rewriter.meaning(prompt) for prompt in prompts])


def seeds_of(batch: int, config: dict, seed: int) -> list[int]:
    """Of a batch of prompts; the same for every wording and every method."""
    return [seed * 1_000_000 + batch * 1000 + index for index in range(config["seeds"])]


def generators(prompts: list[str], seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for _ in prompts for seed in seeds]
