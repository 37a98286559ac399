"""Quality and speed of a model folder on the held-out prompts: ``python -m experiments.shapes.measure``."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .contact_sheet import MODEL
from .families import family_of, load
from .sampler import Settings, draw
from .scorer import score
from .world import KINDS, load_prompts, parse


def rewards(pipeline, prompts: list[str], settings: Settings, group: int, lengths: dict[str, int]) -> np.ndarray:
    """Rewards [prompts, group]."""
    repeated = [prompt for prompt in prompts for _ in range(group)]
    images = draw(pipeline, repeated, settings, seed=0, **lengths)
    return np.array(score(images, repeated)).reshape(-1, group)


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
def seconds_per_step(pipeline, rows: int = 64, repeats: int = 8) -> float:
    """CPU seconds of the fastest of some forwards of ``rows`` rows without guidance, one thread."""
    family = family_of(pipeline)
    told = family.conditions(pipeline, ["a red circle above a blue square"] * rows)
    latents, level = torch.randn(rows, *family.latent_shape), torch.full((rows,), 0.5)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        family.run(family.network(pipeline), latents, level, told)
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="the model folder (default: the SD3-like one)")
    parser.add_argument("--group", type=int, default=8, help="samples a prompt")
    parser.add_argument("--every", type=int, default=1, help="use every n-th held-out prompt")
    parser.add_argument("--steps", type=int, help="instead of the family's")
    parser.add_argument("--guidance", type=float, help="instead of the family's")
    parser.add_argument("--ode", action="store_true", help="no stochastic step")
    parser.add_argument("--long", action="store_true", help="pad the prompts as hosts do for the large models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load(arguments.model)
    family = family_of(pipeline)
    if arguments.long and not family.long_padding:
        parser.error(f"the family {family.name} has one length of prompts only")
    window = (0, 0) if arguments.ode else None
    given = {"steps": arguments.steps, "guidance_scale": arguments.guidance, "window": window}
    settings = replace(family.settings, **{name: value for name, value in given.items() if value is not None})
    prompts = load_prompts("test")[:: arguments.every]
    lengths = family.long_padding if arguments.long else {}
    result = summary(rewards(pipeline, prompts, settings, arguments.group, lengths), prompts)
    result["cpu_seconds_per_step_of_64_rows"] = round(seconds_per_step(pipeline), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
