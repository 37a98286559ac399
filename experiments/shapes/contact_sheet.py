"""Samples of a shipped model with their rewards: ``python -m experiments.shapes.contact_sheet --out PICTURE``."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import matplotlib
import torch

from .families import load
from .sampler import draw
from .scorer import score
from .world import KINDS, load_prompts, parse

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend has to be chosen first)

MODEL = Path(__file__).parent / "models" / "sd3"
PER_KIND = {"one": 1, "two": 3, "counting": 3, "position": 3}
SAMPLES = 6


def chosen_prompts() -> list[str]:
    """Held-out prompts of every kind, evenly spaced in the list."""
    by_kind = {kind: [prompt for prompt in load_prompts("test") if parse(prompt).kind == kind] for kind in KINDS}
    return [by_kind[kind][len(by_kind[kind]) * i // count] for kind, count in PER_KIND.items() for i in range(count)]


def draw_sheet(images: torch.Tensor, rewards: list[float], prompts: list[str], path: Path) -> None:
    """One row a prompt, one column a seed; the reward stands above its image."""
    figure, axes = plt.subplots(len(prompts), SAMPLES + 1, figsize=(SAMPLES + 3.2, 1.22 * len(prompts)), dpi=80,
                                gridspec_kw={"width_ratios": [2.4] + [1] * SAMPLES})  # fmt: skip
    for row, prompt in enumerate(prompts):
        axes[row, 0].text(1.0, 0.5, textwrap.fill(prompt, 22), ha="right", va="center", fontsize=10)
        for column in range(SAMPLES):
            index = row * SAMPLES + column
            axis = axes[row, column + 1]
            axis.imshow(images[index].permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_title(f"{rewards[index]:.2f}", fontsize=8, pad=2)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.4, h_pad=0.5)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="the model folder (default: the SD3-like one)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prompts = chosen_prompts()
    repeated = [prompt for prompt in prompts for _ in range(SAMPLES)]
    images = draw(load(arguments.model), repeated, seed=arguments.seed)
    draw_sheet(images, score(images, repeated), prompts, arguments.out)


if __name__ == "__main__":
    main()
