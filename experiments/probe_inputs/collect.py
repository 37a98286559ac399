"""Rolls out one sampler and takes every signal at its decision steps.

    python -m experiments.probe_inputs.collect SAMPLER train|held [--rollouts N] [--transformer FOLDER] [--tag NAME]

Features and the score that the probe joins go through grpo_accel's own session in shadow mode, one session a decision
step, so that each folder step-K is an ordinary run with a record. The scores of all single signals and the seconds of
every part go to scores.npz beside them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml

from experiments.shapes import sampler as shapes
from experiments.shapes import scorer, world
from grpo_accel import lookahead
from grpo_accel.taps_sd3 import StableDiffusion3
from grpo_accel import library
from grpo_accel.signals import pooled_hidden

from .samplers import Sampler, load

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SD3 = StableDiffusion3()
MODELS = ROOT / "experiments" / "shapes" / "models"
MODEL_NAME = "shapes-sd3"
TOKENS = 16  # of each text encoder


def prompts_in(record: dict) -> list[str]:
    """Of every row of a record that has the text."""
    return [prompt.decode() if isinstance(prompt, bytes) else str(prompt) for prompt in record["prompt"]]


class Seconds:
    """Seconds and rows by part of the work: what a row costs."""

    def __init__(self):
        self.seconds, self.rows = {}, {}

    @contextmanager
    def __call__(self, name: str, rows: int):
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        self.rows[name] = self.rows.get(name, 0) + rows

    def per_row(self) -> dict:
        return {name: seconds / self.rows[name] for name, seconds in self.seconds.items()}


class World:
    """The shipped model and everything that turns latents into rewards."""

    def __init__(self, transformer: str | None = None):
        from diffusers import AutoencoderTiny, SD3Transformer2DModel, StableDiffusion3Pipeline

        self.pipeline = StableDiffusion3Pipeline.from_pretrained(MODELS / "sd3", dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.tokenizer_max_length = TOKENS
        if transformer:
            self.pipeline.transformer = SD3Transformer2DModel.from_pretrained(transformer, dtype=torch.float32)
        self.transformer = self.pipeline.transformer.eval()
        self.tiny = AutoencoderTiny.from_pretrained(MODELS / "tiny", dtype=torch.float32)

    def encode(self, prompts: list[str], repeats: int):
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=TOKENS
        )
        return text.repeat_interleave(repeats, 0), pooled.repeat_interleave(repeats, 0)

    def content(self, prompts: list[str]) -> torch.Tensor:
        masks = [SD3.content(self.pipeline, prompt, 2 * TOKENS, TOKENS, None) for prompt in prompts]
        return torch.tensor(masks, dtype=torch.uint8)

    def velocity(self, latents, sigma: float, text, pooled):
        return shapes.velocity(self.transformer, latents, sigma, text, pooled)

    def decode(self, latents, tiny: bool):
        if tiny:
            return (self.tiny.decode(latents).sample * 0.5 + 0.5).clamp(0.0, 1.0)
        return shapes.decode(self.pipeline.vae, latents)


class Taps:
    """q, k and the hidden state of one forward."""

    def __init__(self, transformer):
        self.attention, self.hidden = [], None
        self._blocks = SD3.blocks(transformer)
        self.names = [name for name, _ in self._blocks]
        hidden = SD3.hidden_blocks(transformer)
        self._middle = hidden[len(hidden) // 2][1]
        self._handles = []

    def __enter__(self):
        self.attention = []
        for _, module in self._blocks:
            self._handles.append(module.register_forward_pre_hook(self._take_attention, with_kwargs=True))
        self._handles.append(self._middle.register_forward_hook(self._take_hidden))
        return self

    def __exit__(self, *_):
        while self._handles:
            self._handles.pop().remove()

    def _take_attention(self, module, args, kwargs):
        self.attention.append(SD3.query_and_keys(module, kwargs, slice(None), None))

    def _take_hidden(self, module, args, output):
        self.hidden = pooled_hidden(SD3.hidden_state(output, None))


def accel_config(folder: Path, step: int, join: str) -> Path:
    """The session's configuration for one decision step."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 1, "mode": "shadow", "run_dir": str(folder),
        "decision": {"step": step},
        "probe": {"inputs": ["attention", "x0", "hidden", "prompt", join], "blocks": "middle:10",
                  "statistics": ["mass", "entropy", "maximum", "share", "concentration"]},
        "retrain": {"every_updates": 0},
        "record": {"segment_rows": 2048, "prompts": "text", "finals": "latent"},
        "distributed": {"transport": "local"}, "metrics": {"jsonl": False, "wandb": "false"},
    }
    path = folder / "accel.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def observe_attention(batch, taps: Taps, content) -> None:
    for tap, block in enumerate(batch.blocks()):
        batch.observe_attention(tap, *taps.attention[block], content)


def observe_vectors(batch, taps: Taps, pooled, latents, velocity, sigma: float) -> None:
    """All other features that can be read from one forward."""
    batch.observe_vectors("hidden", taps.hidden)
    batch.observe_vectors("prompt", pooled)
    batch.observe_latent(latents, velocity, sigma)


def end_update(session: library.Session, batch, rewards: np.ndarray, size: int) -> None:
    """One batch is one update: its rewards, and the advantages as the host would divide them."""
    groups = np.repeat(np.arange(len(rewards) // size), size)
    means = rewards.reshape(-1, size).mean(1)[groups]
    batch.reward("avg", list(range(len(rewards))), list(rewards))
    session.end_update(groups, rewards, (rewards - means) / (rewards.std() + 1e-4), 0, True, [batch])


class Collector:
    def __init__(self, place: Path, config: dict, sampler: Sampler, split: str, world_: World, step: int | None):
        self.config, self.sampler, self.world, self.split = config, sampler, world_, split
        self.sigmas = sampler.sigmas()
        self.steps = [step] if step is not None else sorted(sampler.looks)
        self.taps = Taps(world_.transformer)
        self.seconds = Seconds()
        self.columns = {}
        self.join = {k: "lookahead" if sampler.joined[k] else "preview" for k in self.steps}
        self.sessions = {k: self.open(place / f"step-{k}", k, self.join[k]) for k in self.steps}

    def open(self, folder: Path, step: int, join: str) -> library.Session:
        return library.Session(str(accel_config(folder, step, join)))

    # ------------------------------------------------------------------ one batch

    def velocity(self, latents, sigma: float, name: str = "step"):
        with self.seconds(name, len(latents)):
            return self.world.velocity(latents, sigma, self.text, self.pooled)

    def scored(self, name: str, latents, tiny: bool) -> np.ndarray:
        with self.seconds("decode_tiny" if tiny else "decode", len(latents)):
            images = self.world.decode(latents, tiny)
        with self.seconds("reward", len(latents)):
            values = np.array(scorer.score(images, self.prompts), dtype=np.float64)
        if name:
            self.columns.setdefault(name, []).append(values)
        return values

    def looked_ahead(self, latents, velocity, step: int, evaluations: int):
        ends = lookahead.points(self.sigmas, step, evaluations)
        for position, (sigma, following) in enumerate(zip(ends, ends[1:])):
            if position:
                velocity = self.velocity(latents, sigma, "step")
            latents = latents + (following - sigma) * velocity
        return latents

    def begin(self, session: library.Session, prompts: list[str], latents):
        return session.begin_batch(
            rows=len(latents), steps_total=self.sampler.steps, model=MODEL_NAME, sigmas=self.sigmas, prompts=prompts,
            latent_shape=tuple(latents.shape[1:]), token_shape=(8, 8), block_names=self.taps.names,
            text_tokens=2 * TOKENS, hidden_values=2 * self.world.transformer.inner_dim, prompt_values=self.pooled.shape[1],
        )

    def at_decision(self, step: int, latents, batch):
        """The policy's own forward at a decision step, previews and look-aheads."""
        sigma = self.sigmas[step]
        with self.taps:
            velocity = self.velocity(latents, sigma, "step_tapped")
        with self.seconds("attention", len(latents)):
            observe_attention(batch, self.taps, self.content)
        with self.seconds("vectors", len(latents)):
            observe_vectors(batch, self.taps, self.pooled, latents, velocity, sigma)
        batch.state(latents)
        guesses = {0: latents - sigma * velocity}
        needed = self.sampler.looks[step] if self.split == "held" else (self.sampler.joined[step],)
        for evaluations in needed:
            if evaluations:
                guesses[evaluations] = self.looked_ahead(latents, velocity, step, evaluations)
        for evaluations, guess in guesses.items():
            name = f"preview@{step}" if evaluations == 0 else f"lookahead{evaluations}@{step}"
            values = self.scored(f"{name}/tiny", guess, tiny=True)
            if self.split == "held":
                self.scored(name, guess, tiny=False)
            if evaluations == self.sampler.joined[step]:
                batch.observe_scores(self.join[step], values[:, None])
        return velocity

    @torch.no_grad()
    def roll_out(self, prompts: list[str], seed: int) -> None:
        """One update of every session: `batch_groups` prompts, each `group_size` times."""
        size = self.config["group_size"]
        self.prompts = [prompt for prompt in prompts for _ in range(size)]
        self.text, self.pooled = self.world.encode(prompts, size)
        self.content = self.world.content(self.prompts)
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn((len(self.prompts), 8, 8, 8), generator=generator)
        batches = {step: self.begin(session, self.prompts, latents) for step, session in self.sessions.items()}
        for index, (sigma, following) in enumerate(zip(self.sigmas, self.sigmas[1:])):
            if index in batches:
                velocity = self.at_decision(index, latents, batches[index])
                with self.seconds("decide", len(latents)):
                    batches[index].decide()
            else:
                velocity = self.velocity(latents, sigma)
            level = self.sampler.noise_of(index)
            noise = torch.randn(latents.shape, generator=generator) if level else None
            latents = shapes.step(latents, velocity, sigma, following, level, noise, self.sigmas[1])
        self.finish(latents, batches)

    def finish(self, latents, batches: dict) -> None:
        rewards = self.scored("reward", latents, tiny=False)
        for step, session in self.sessions.items():
            batches[step].final(list(range(len(rewards))), latents)
            end_update(session, batches[step], rewards, self.config["group_size"])
        self.columns.setdefault("prompt", []).append(np.array(self.prompts))

    def close(self, place: Path) -> None:
        for session in self.sessions.values():
            session.close(True)
        arrays = {name.replace("/", "|"): np.concatenate(values) for name, values in self.columns.items()}
        np.savez_compressed(place / "scores.npz", **arrays)
        (place / "seconds.json").write_text(json.dumps(self.seconds.per_row(), indent=1) + "\n")


def prompts_of(split: str, groups: int, seed: int) -> list[str]:
    """Each prompt of the list once before any comes again, in a shuffled order; held-out ones as they stand."""
    listed = world.load_prompts("train" if split == "train" else "test")
    if split == "held":
        return listed[:groups]
    random = np.random.RandomState(seed)
    rounds = -(-groups // len(listed))
    return [listed[i] for i in np.concatenate([random.permutation(len(listed)) for _ in range(rounds)])[:groups]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sampler")
    parser.add_argument("split", choices=("train", "held"))
    parser.add_argument("--rollouts", type=int, help="of the training split; default: config.yaml's")
    parser.add_argument("--groups", type=int, help="of the held split; default: config.yaml's held_prompts")
    parser.add_argument("--transformer", help="folder of another policy")
    parser.add_argument("--step", type=int, help="this decision step only")
    parser.add_argument("--seed-offset", type=int, default=0)
    parser.add_argument("--out", required=True)
    parser.add_argument("--config", default=HERE / "config.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load(Path(options.config).read_text())
    sampler = {entry.name: entry for entry in load(config)}[options.sampler]
    size, place = config["group_size"], Path(options.out)
    rollouts = options.rollouts or sampler.train_rollouts
    groups = rollouts // size if options.split == "train" else options.groups or config["held_prompts"]
    shutil.rmtree(place, ignore_errors=True)  # of a run that was stopped: its rows would stand before these
    collector = Collector(place, config, sampler, options.split, World(options.transformer), options.step)
    prompts, per_batch = prompts_of(options.split, groups, config["seed"] + options.seed_offset), config["batch_groups"]
    offset = (1_000_000 if options.split == "train" else 0) + 10_000_000 * (config["seed"] + options.seed_offset)
    for start in range(0, groups, per_batch):
        collector.roll_out(prompts[start : start + per_batch], offset + start)
        print(f"{options.sampler} {options.split} {start + per_batch} of {groups} groups", flush=True)
    collector.close(place)


if __name__ == "__main__":
    main()
