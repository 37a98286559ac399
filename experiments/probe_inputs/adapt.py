"""What the distilled copy says of states that were logged: its x0 decoded and scored, beside the policy's own features.

    python -m experiments.probe_inputs.adapt --runs FOLDER --adapter FOLDER --steps 3 4

For each run FOLDER/step-K a run FOLDER/step-K-distilled with the same rows in the same order.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import yaml

import grpo_accel
from experiments.shapes import scorer
from grpo_accel import library
from grpo_accel.lora import Lora

from .collect import (
    HERE, MODEL_NAME, TOKENS, Seconds, Taps, World, accel_config, end_update, observe_attention, observe_vectors,
    prompts_in,
)


@torch.no_grad()
def adapt(world: World, adapter: Lora, folder: Path, step: int, config: dict, seconds: Seconds) -> np.ndarray:
    """Writes FOLDER/step-K-distilled and returns the scores of its previews."""
    record = grpo_accel.open_record(folder / f"step-{step}")
    session = library.Session(str(accel_config(folder / f"step-{step}-distilled", step, "distilled")))
    sigma, size = 1.0 - step / 10, config["group_size"]
    per_batch, taps, scores = config["batch_groups"] * size, Taps(world.transformer), []
    prompts, rewards = prompts_in(record), np.asarray(record["reward/combined"], dtype=np.float64)
    for start in range(0, len(prompts), per_batch):
        rows = slice(start, start + per_batch)
        state = torch.from_numpy(record["state"][rows].astype(np.float32))
        text, pooled = world.encode(prompts[rows], 1)
        batch = session.begin_batch(
            rows=len(state), steps_total=10, model=MODEL_NAME, sigmas=[1.0 - i / 10 for i in range(11)],
            prompts=prompts[rows], latent_shape=tuple(state.shape[1:]), token_shape=(8, 8), block_names=taps.names,
            text_tokens=2 * TOKENS, hidden_values=2 * world.transformer.inner_dim, prompt_values=pooled.shape[1],
        )
        with taps:
            velocity = world.velocity(state, sigma, text, pooled)
        observe_attention(batch, taps, world.content(prompts[rows]))
        observe_vectors(batch, taps, pooled, state, velocity, sigma)
        with seconds("step_adapted", len(state)), adapter.on(world.transformer):
            velocity = world.velocity(state, sigma, text, pooled)
        images = world.decode(state - sigma * velocity, tiny=True)
        scores.append(np.array(scorer.score(images, prompts[rows]), dtype=np.float64))
        batch.observe_scores("distilled", scores[-1][:, None])
        batch.decide()
        end_update(session, batch, rewards[rows], size)
        print(f"step {step}: {start + per_batch} of {len(prompts)} rows", flush=True)
    session.close(True)
    return np.concatenate(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--steps", type=int, nargs="+", required=True)
    parser.add_argument("--config", default=HERE / "config.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load(Path(options.config).read_text())
    world, folder, seconds = World(), Path(options.runs), Seconds()
    adapter = Lora.load(Path(options.adapter), world.transformer)
    scores = {f"distilled@{step}|tiny": adapt(world, adapter, folder, step, config, seconds) for step in options.steps}
    np.savez_compressed(folder / "scores-distilled.npz", **scores)
    (folder / "seconds-distilled.json").write_text(json.dumps(seconds.per_row(), indent=1) + "\n")


if __name__ == "__main__":
    main()
