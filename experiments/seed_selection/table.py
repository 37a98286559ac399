"""Every early score, and the reward at the end, of ten seeds of many prompts: what strategies are compared on.

    python -m experiments.seed_selection.table --out FOLDER [--quick]

Seeds, noise and schedule are those of `grpo_accel.select_seeds` on the same pipeline, so that a seed here is the same
image there. One array a batch of prompts in FOLDER; what is there is not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

from experiments.shapes import sampler, scorer, world
from grpo_accel.lookahead import points

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "shapes" / "models"
TOKENS = 16  # of T5


def load_config(quick: bool) -> dict:
    config = yaml.safe_load((HERE / "config.yaml").read_text())
    small = config.pop("quick")
    return {**config, **small} if quick else config


def prompt_sets(config: dict, seed: int) -> dict[str, list[str]]:
    """Disjoint prompts: `choice`, `probe` and the judged ones, `curve` (held-out prompts first) and `rest`."""
    train, held = world.load_prompts("train"), world.load_prompts("test")
    shuffled = [train[i] for i in np.random.RandomState(seed).permutation(len(train))]
    judged = (held + shuffled)[: config["judged_prompts"]]
    rest = [prompt for prompt in shuffled if prompt not in set(judged)]
    choice = rest[: config["choice_prompts"]]
    curve = judged[: config["curve_prompts"]]
    return {"curve": curve, "rest": judged[len(curve):], "choice": choice, "probe": rest[len(choice):][: config["probe_prompts"]]}


def seeds_of(prompt: str, count: int, seed: int) -> list[int]:
    """Each prompt has seeds of its own."""
    first = int.from_bytes(prompt.encode(), "big") % 1_000_003
    return [seed * 2_000_000_000 + first * 1000 + index for index in range(count)]


class Maker:
    """Rollouts of a batch with guesses at every look."""

    def __init__(self, config: dict, seed: int):
        from diffusers import AutoencoderTiny, StableDiffusion3Pipeline

        self.config, self.seed = config, seed
        self.pipeline = StableDiffusion3Pipeline.from_pretrained(MODELS / config["model"], dtype=torch.float32)
        self.tiny = AutoencoderTiny.from_pretrained(MODELS / config["tiny_decoder"], dtype=torch.float32)

    def levels(self, steps: int) -> list[float]:
        self.pipeline.scheduler.set_timesteps(steps)
        return [float(sigma) for sigma in self.pipeline.scheduler.sigmas]

    def velocity(self, latents: torch.Tensor, level: float) -> torch.Tensor:
        return sampler.velocity(self.pipeline.transformer, latents, level, self.text, self.pooled)

    def score(self, latents: torch.Tensor, tiny: bool) -> np.ndarray:
        if tiny:
            images = (self.tiny.decode(latents).sample * 0.5 + 0.5).clamp(0.0, 1.0)
        else:
            images = sampler.decode(self.pipeline.vae, latents)
        return np.array(scorer.score(images, self.prompts), dtype=np.float32)

    def looked_ahead(self, latents, velocity, levels: list[float], step: int, forwards: int):
        ends = points(levels, step, forwards) if forwards else [levels[step], 0.0]
        for position, (level, following) in enumerate(zip(ends, ends[1:])):
            velocity = self.velocity(latents, level) if position else velocity
            latents = latents + (following - level) * velocity
        return latents

    def roll_out(self, latents, levels: list[float], looks: list[int]) -> tuple:
        """(final latents, [looks, forwards, rows] scores)."""
        scores = []
        for step, (level, following) in enumerate(zip(levels, levels[1:])):
            velocity = self.velocity(latents, level)
            if step in looks:
                guesses = [self.looked_ahead(latents, velocity, levels, step, m) for m in self.config["forwards"]]
                scores.append([self.score(guess, tiny=True) for guess in guesses])
            latents = latents + (following - level) * velocity
        return latents, np.array(scores, dtype=np.float32)

    @torch.no_grad()
    def __call__(self, prompts: list[str], looks: bool) -> dict[str, np.ndarray]:
        """reward [prompts, seeds]; with looks: look [prompts, seeds, looks, forwards], few [prompts, seeds, kinds]."""
        count = self.config["seeds"]
        self.prompts = [prompt for prompt in prompts for _ in range(count)]
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=TOKENS)
        self.text, self.pooled = text.repeat_interleave(count, 0), pooled.repeat_interleave(count, 0)
        noise = torch.cat([
            torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(seed))
            for prompt in prompts for seed in seeds_of(prompt, count, self.seed)])
        shape = (len(prompts), count)
        final, scores = self.roll_out(noise, self.levels(self.config["steps_total"]), self.config["looks"] if looks else [])
        arrays = {"prompt": np.array(prompts), "reward": self.score(final, tiny=False).reshape(shape)}
        if looks:
            kinds = self.config["few_steps"]
            few = [self.score(self.roll_out(noise, self.levels(steps), [])[0], tiny=True) for steps in kinds]
            arrays["few"] = np.stack(few, axis=-1).reshape(*shape, len(few))
            arrays["look"] = np.moveaxis(scores, -1, 0).reshape(*shape, *scores.shape[:2])
        return arrays


def make(folder: Path, config: dict, seed: int) -> None:
    maker, size = None, config["prompts_a_batch"]
    folder.mkdir(parents=True, exist_ok=True)
    sets = prompt_sets(config, seed)
    for name in ("choice", "curve", "rest"):
        for start in range(0, len(sets[name]), size):
            path = folder / f"{name}-{start:04d}.npz"
            if path.exists():
                continue
            maker = maker or Maker(config, seed)
            arrays = maker(sets[name][start: start + size], looks=name != "rest")
            partial = path.with_suffix(".tmp.npz")
            np.savez(partial, **arrays)
            partial.rename(path)
            print(f"{name}: {start + size} of {len(sets[name])} prompts", flush=True)


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    parts = [np.load(path) for path in sorted(folder.glob(f"{name}-*.npz"))]
    return {key: np.concatenate([part[key] for part in parts]) for key in (parts[0].files if parts else ())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make(options.out, load_config(options.quick), options.seed)


if __name__ == "__main__":
    main()
