"""What a row costs, part by part, on an otherwise idle machine: medians of interleaved rounds.

    python -m experiments.probe_inputs.timing --adapter FOLDER --probe FILE --out timing.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml

from experiments.shapes import scorer, world
from grpo_accel import library
from grpo_accel.lora import Lora

from .collect import (
    HERE, MODEL_NAME, TOKENS, Taps, World, accel_config, end_update, observe_attention, observe_vectors,
)
from .samplers import load

ROUNDS = 25


class Parts:
    """Seconds of named parts, a value a round."""

    def __init__(self, rows: int):
        self.rows, self.values = rows, {}

    def time(self, name: str, function):
        started = time.perf_counter()
        result = function()
        self.values.setdefault(name, []).append((time.perf_counter() - started) / self.rows)
        return result

    def medians(self) -> dict:
        return {name: statistics.median(values) for name, values in self.values.items()}


@torch.no_grad()
def measure(config: dict, adapter: str, probe: str) -> dict:
    sampler, step = load(config)[0], config["main_step"]
    sigmas, sigma = sampler.sigmas(), sampler.sigmas()[step]
    place = World()
    adapted, taps = Lora.load(Path(adapter), place.transformer), Taps(place.transformer)
    names = world.load_prompts("test")[: config["batch_groups"]]
    prompts = [name for name in names for _ in range(config["group_size"])]
    text, pooled = place.encode(names, config["group_size"])
    content, parts = place.content(prompts), Parts(len(prompts))
    state = torch.randn((len(prompts), 8, 8, 8), generator=torch.Generator().manual_seed(config["seed"]))
    for index in range(step):
        state = state + (sigmas[index + 1] - sigmas[index]) * place.velocity(state, sigmas[index], text, pooled)
    with tempfile.TemporaryDirectory() as folder:
        path = accel_config(Path(folder), step, "preview")
        session = library.Session(str(path), [f"probe.path={probe}", "record.enabled=false", "probe.inputs=[x0, hidden, prompt, preview]"])
        watched = library.Session(str(accel_config(Path(folder) / "attention", step, "preview")), ["record.enabled=false"])
        for _ in range(ROUNDS):
            begun = dict(
                rows=len(prompts), steps_total=sampler.steps, model=MODEL_NAME, sigmas=sigmas, prompts=prompts,
                latent_shape=(8, 8, 8), token_shape=(8, 8), block_names=taps.names, text_tokens=2 * TOKENS,
                hidden_values=2 * place.transformer.inner_dim, prompt_values=pooled.shape[1],
            )
            batch, other = session.begin_batch(**begun), watched.begin_batch(**begun)
            velocity = parts.time("step", lambda: place.velocity(state, sigma, text, pooled))
            with taps:
                parts.time("step_tapped", lambda: place.velocity(state, sigma, text, pooled))
            with adapted.on(place.transformer):
                parts.time("step_adapted", lambda: place.velocity(state, sigma, text, pooled))
            parts.time("attention", lambda: observe_attention(other, taps, content))
            parts.time("vectors", lambda: observe_vectors(batch, taps, pooled, state, velocity, sigma))
            images = parts.time("decode_tiny", lambda: place.decode(state - sigma * velocity, True))
            images = parts.time("decode", lambda: place.decode(state - sigma * velocity, False))
            scores = parts.time("reward", lambda: scorer.score(images, prompts))
            batch.observe_scores("preview", torch.tensor(scores, dtype=torch.float64).numpy()[:, None])
            parts.time("decide", batch.decide)
            other.decide()
            rewards = torch.tensor(scores, dtype=torch.float64).numpy()
            for one, of in ((batch, session), (other, watched)):
                end_update(of, one, rewards, config["group_size"])
        session.close(True)
        watched.close(True)
    return parts.medians()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=HERE / "config.yaml")
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--probe", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load(Path(options.config).read_text())
    Path(options.out).write_text(json.dumps(measure(config, options.adapter, options.probe), indent=1) + "\n")


if __name__ == "__main__":
    main()
