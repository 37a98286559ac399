"""Every wording's look-aheads and rewards on the choice prompts: what the setting is chosen on.

    python -m experiments.prompt_optimisation.table --out FOLDER [--quick]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from experiments.seed_selection.table import Maker

from . import intents


class Wordings(Maker):
    """Rollouts of the shapes model with look-aheads, scored under what a wording means."""

    def score(self, latents: torch.Tensor, tiny: bool) -> np.ndarray:
        from experiments.shapes import sampler

        with torch.no_grad():
            images = (self.tiny.decode(latents).sample * 0.5 + 0.5).clamp(0.0, 1.0) if tiny else sampler.decode(
                self.pipeline.vae, latents)
        return np.array(intents.score(images, self.prompts), dtype=np.float32)

    @torch.no_grad()
    def of(self, prompts: list[str], seeds: list[int]) -> dict[str, np.ndarray]:
        """reward [prompts, seeds] and look [prompts, seeds, steps, forwards]."""
        self.prompts = [prompt for prompt in prompts for _ in seeds]
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=16)
        self.text, self.pooled = text.repeat_interleave(len(seeds), 0), pooled.repeat_interleave(len(seeds), 0)
        noise = torch.cat([torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        final, looks = self.roll_out(
            noise.repeat(len(prompts), 1, 1, 1), self.levels(self.config["steps_total"]), self.config["looks"])
        shape = (len(prompts), len(seeds))
        return {"reward": self.score(final, tiny=False).reshape(shape),
                "look": np.moveaxis(looks, -1, 0).reshape(*shape, *looks.shape[:2])}


def make(folder: Path, config: dict, seed: int) -> None:
    """Arrays of every batch of intents: reward [intents, wordings, seeds], look [intents, wordings, seeds, steps, forwards]."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen, size = intents.intent_sets(config, seed)["choice"], config["prompts_a_batch"]
    maker = None
    for batch, start in enumerate(range(0, len(chosen), size)):
        path = folder / f"choice-{start:04d}.npz"
        if path.exists():
            continue
        maker = maker or Wordings({**config, "looks": config["choice_steps"], "forwards": config["choice_forwards"]}, seed)
        chains = [intents.chain(prompt, config, seed) for prompt in intents.first_prompts(chosen[start: start + size], config, seed)]
        parts = [maker.of(list(texts), intents.seeds_of(batch + 500, config, seed)) for texts in zip(*chains)]
        np.savez(path, **{key: np.stack([part[key] for part in parts], 1) for key in parts[0]})
        print(f"choice: {min(start + size, len(chosen))} of {len(chosen)} prompts", flush=True)


def read(folder: Path) -> dict[str, np.ndarray]:
    parts = [np.load(path) for path in sorted(folder.glob("choice-*.npz"))]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0].files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make(options.out, intents.load_config(options.quick), options.seed)


if __name__ == "__main__":
    main()
