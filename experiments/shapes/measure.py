"""Quality and speed of a model folder on the held-out prompts: ``python -m experiments.shapes.measure``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from .contact_sheet import MODEL
from .sampler import SETTINGS, Settings, decode, sample, velocity
from .scorer import score
from .world import KINDS, load_prompts, parse


def prompt_vectors(pipeline, prompts: list[str], clip_length: int, t5_length: int):
    """(text, pooled) with the given padding."""
    pipeline.tokenizer_max_length = clip_length
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=t5_length
    )
    return text, pooled


def rewards(pipeline, prompts, vectors, empty, settings: Settings, group: int) -> np.ndarray:
    """Rewards [prompts, group]."""
    text, pooled = (part.repeat_interleave(group, 0) for part in vectors)
    repeated = [prompt for prompt in prompts for _ in range(group)]
    latents = sample(pipeline.transformer, text, pooled, empty, settings, seed=0)
    return np.array(score(decode(pipeline.vae, latents), repeated)).reshape(-1, group)


def summary(values: np.ndarray, prompts: list[str]) -> dict[str, float]:
    """Mean reward, mean deviation within a prompt, deviation between prompts, and the mean of every kind."""
    kinds = np.array([parse(prompt).kind for prompt in prompts])
    result = {
        "reward": values.mean(),
        "within_prompt_deviation": values.std(1, ddof=1).mean(),
        "between_prompt_deviation": values.mean(1).std(ddof=1),
    }
    result |= {f"reward_{kind}": values[kinds == kind].mean() for kind in KINDS if (kinds == kind).any()}
    return {name: round(float(value), 4) for name, value in result.items()}


@torch.no_grad()
def seconds_per_step(pipeline, vectors, rows: int = 64, repeats: int = 8) -> float:
    """CPU seconds of the fastest of some forwards of ``rows`` rows without guidance, one thread."""
    text, pooled = (part[:1].expand(rows, *part.shape[1:]) for part in vectors)
    latents = torch.randn(rows, 8, 8, 8)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        velocity(pipeline.transformer, latents, 0.5, text, pooled)
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    from diffusers import StableDiffusion3Pipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--group", type=int, default=8, help="samples a prompt")
    parser.add_argument("--every", type=int, default=1, help="use every n-th held-out prompt")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--guidance", type=float, default=SETTINGS.guidance_scale)
    parser.add_argument("--ode", action="store_true", help="no stochastic step")
    parser.add_argument("--long", action="store_true", help="pad the prompts to 77 + 128 tokens")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = StableDiffusion3Pipeline.from_pretrained(arguments.model)
    prompts = load_prompts("test")[:: arguments.every]
    lengths = (77, 128) if arguments.long else (SETTINGS.max_sequence_length,) * 2
    vectors, empty = prompt_vectors(pipeline, prompts, *lengths), prompt_vectors(pipeline, [""], *lengths)
    window = (0, 0) if arguments.ode else SETTINGS.window
    settings = Settings(steps=arguments.steps, guidance_scale=arguments.guidance, window=window)
    result = summary(rewards(pipeline, prompts, vectors, empty, settings, arguments.group), prompts)
    result["cpu_seconds_per_step_of_64_rows"] = round(seconds_per_step(pipeline, vectors), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
