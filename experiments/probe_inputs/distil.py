"""Trains the distilled copy: an adapter that maps the state at a decision step to the final latent in one forward.

    python -m experiments.probe_inputs.distil --runs FOLDER --out FOLDER

Learns from the (state, final latent) pairs that the sessions of the training split have logged; no reward is used.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import yaml

import grpo_accel
from grpo_accel.taps_sd3 import StableDiffusion3
from grpo_accel.lora import Lora

from .collect import HERE, World, prompts_in


def pairs(folder: Path) -> dict:
    """state, final [rows, 8, 8, 8] and prompt of every row of one decision step's run."""
    record = grpo_accel.open_record(folder)
    return {"state": record["state"], "final": record["final"], "prompt": np.array(prompts_in(record), dtype=object)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", required=True, help="folder with step-K runs of the training split")
    parser.add_argument("--out", required=True)
    parser.add_argument("--updates", type=int)
    parser.add_argument("--config", default=HERE / "config.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load(Path(options.config).read_text())
    distilled = config["distilled"]
    updates = options.updates or distilled["updates"]
    world = World()
    model = world.transformer.requires_grad_(False)
    adapter = Lora.fresh(model, StableDiffusion3.LORA_TARGETS, distilled["rank"], config["seed"])
    weights = adapter.tensors()
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(weights, lr=distilled["learning_rate"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, distilled["learning_rate"], total_steps=updates)
    data = {step: pairs(Path(options.runs) / f"step-{step}") for step in distilled["steps"]}
    random = np.random.RandomState(config["seed"])
    sigma_of = {step: 1.0 - step / 10 for step in data}
    started = time.perf_counter()
    for update in range(updates):
        step = distilled["steps"][update % len(data)]
        rows = random.choice(len(data[step]["state"]), distilled["batch_rows"], replace=False)
        state = torch.from_numpy(data[step]["state"][rows].astype(np.float32))
        final = torch.from_numpy(data[step]["final"][rows].astype(np.float32))
        text, pooled = world.encode(list(data[step]["prompt"][rows]), 1)
        with adapter.on(model):
            time_ = torch.full((len(rows),), 1000.0 * sigma_of[step])
            velocity = model(hidden_states=state, timestep=time_, encoder_hidden_states=text,
                             pooled_projections=pooled, return_dict=False)[0]
        loss = ((state - sigma_of[step] * velocity - final) ** 2).mean()
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights)):
            weight.grad = gradient
        optimiser.step()
        schedule.step()
        if update % 50 == 0:
            print(f"update {update} loss {loss.item():.4f} {time.perf_counter() - started:.0f} s", flush=True)
    adapter.save(options.out)


if __name__ == "__main__":
    main()
