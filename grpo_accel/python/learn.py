"""A probe for a model, a list of prompts and a scorer, from rollouts that are made for it.

Shadow rollouts with the record on, `grpo-accel train` on four fifths of the prompts, `grpo-accel evaluate` on the
rest, and what the probe is worth there: the share of the best-of-n gain that its favourite has, with an interval over
prompts.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .attach import Runtime
from .library import GrpoAccelError
from .own_loop import OwnRollout
from .probe_file import read_probe
from .rollout import still_images
from .seeds import default_step

PROMPTS_MIN = 10
HELD_EVERY = 5  # one prompt of five judges
RESAMPLES = 2000


def learn(
    pipeline: Any, prompts: Sequence[str], scorer: Callable[..., Any], out: Path, *, seeds: Sequence[int],
    steps: Sequence[int] | None, inputs: Sequence[str], lookahead_steps: int | None, decoder: str | None, max_rows: int,
    options: Mapping[str, Any], quiet: bool, arguments: Mapping[str, Any],
) -> dict:
    """Writes OUT/probe.safetensors, OUT/probe.json (settings and figures) and OUT/{learn,judge}/record. `useful` is
    false where the probe's favourite is not surely better than a seed drawn by chance."""
    if len(prompts) < PROMPTS_MIN:
        raise GrpoAccelError("argument", f"--learn: {len(prompts)} prompts; at least {PROMPTS_MIN}, better hundreds")
    if len(seeds) < 2:
        raise GrpoAccelError("argument", "--learn: a prompt needs at least 2 seeds")
    step = list(steps) if steps else [default_step(pipeline, arguments)]
    if len(step) > 1:
        raise GrpoAccelError("argument", "--learn: one decision step (--steps K)")
    settings = _settings(inputs, lookahead_steps, decoder, options)
    out.mkdir(parents=True, exist_ok=True)
    parts = {
        "judge": [prompt for place, prompt in enumerate(prompts) if place % HELD_EVERY == 0],
        "learn": [prompt for place, prompt in enumerate(prompts) if place % HELD_EVERY],
    }
    for name, some in parts.items():
        _collect(pipeline, some, list(seeds), scorer, out / name, step[0], settings, max_rows, arguments)
    probe = out / "probe.safetensors"
    config = _write_config(out / "learn.yaml", out / "learn", step[0], settings)
    _program(["train", "--data", out / "learn", "--out", probe, "--config", config, *(["--quiet"] if quiet else [])])
    figures = json.loads(_program(
        ["evaluate", "--probe", probe, "--data", out / "judge", "--predictions", out / "judge.csv", "--json"],
        codes=(0, 1)))
    return _report(out, probe, step[0], settings, parts, figures)


def _settings(inputs: Sequence[str], lookahead_steps: int | None, decoder: str | None, options: Mapping) -> dict:
    """Keys of the configuration that a probe's data depend on."""
    keys: dict[str, Any] = {"probe.inputs": list(inputs)}
    if lookahead_steps is not None:
        keys["probe.lookahead.steps"] = lookahead_steps
    if decoder is not None:
        keys["probe.preview.decoder"] = str(decoder)
    return {**keys, **options}


def _write_config(path: Path, run_dir: Path, step: int, settings: Mapping) -> Path:
    """A YAML file (JSON is YAML) of the session that only watches."""
    tree: dict[str, Any] = {"version": 1, "mode": "shadow", "run_dir": str(run_dir), "decision": {"step": step}}
    fixed = {"retrain.every_updates": 0, "retrain.on_drift": False, "metrics.wandb": "false",
             "distributed.transport": "local"}
    for key, value in {**fixed, **settings}.items():
        *folders, name = key.split(".")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    path.write_text(json.dumps(tree, indent=1) + "\n")
    return path


def _collect(
    pipeline: Any, prompts: list[str], seeds: list[int], scorer: Callable[..., Any], run_dir: Path, step: int,
    settings: Mapping, max_rows: int, arguments: Mapping,
) -> None:
    """Rollouts of every prompt from every seed, with their signals and rewards in the record of `run_dir`."""
    shutil.rmtree(run_dir, ignore_errors=True)  # of an earlier call: its rows would stand before these
    with Runtime(_write_config(run_dir.with_suffix(".yaml"), run_dir, step, settings)) as runtime:
        runtime.use_scorer(scorer)
        for part in batches_of(prompts, max(1, max_rows // len(seeds))):
            rows = [prompt for prompt in part for _ in seeds]
            with runtime.rollout(pipeline, rows, arguments=dict(arguments)) as rollout:
                images = _sample(rollout, part, seeds, arguments)
            scores = [float(value) for value in scorer(images, rows)]
            runtime.advantages(rows, rollout.rewards(scores))
    if not list(run_dir.glob("record/rank-*/segment-*.h5")):
        raise GrpoAccelError("data", f"{run_dir}: nothing was recorded; see the warnings before")


def batches_of(prompts: list[str], largest: int) -> list[list[str]]:
    """As many prompts in each, since a session's batches are alike; fewer than there are batches are left out."""
    count = -(-len(prompts) // largest)
    size = len(prompts) // count
    return [prompts[first: first + size] for first in range(0, count * size, size)]


def _sample(rollout: OwnRollout, prompts: list[str], seeds: list[int], arguments: Mapping) -> torch.Tensor:
    rows = [(prompt, seed) for prompt in prompts for seed in seeds]
    generators = [torch.Generator().manual_seed(seed) for _, seed in rows]
    given = {"prompt": [prompt for prompt, _ in rows], "generator": generators, "output_type": "pt"}
    texts = {name: [value] * len(rows) for name, value in arguments.items()
             if isinstance(value, str) and name.startswith(("prompt_", "negative_prompt"))}
    return still_images(rollout.sample(**{**arguments, **texts, **given}).images, list(range(len(rows))))


def _program(arguments: list[Any], codes: tuple[int, ...] = (0,)) -> str:
    """Runs grpo-accel; its standard output."""
    beside = Path(sys.executable).parent / "grpo-accel"
    program = os.environ.get("GRPO_ACCEL_PROGRAM") or (str(beside) if beside.is_file() else shutil.which("grpo-accel"))
    if program is None:
        raise GrpoAccelError("missing", "the program grpo-accel was not found; set GRPO_ACCEL_PROGRAM to it")
    done = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode not in codes:
        said = done.stderr.strip()[-500:]
        raise GrpoAccelError("data", f"grpo-accel {arguments[0]} ended with {done.returncode}: {said}")
    return done.stdout


# ---------------------------------------------------------------------- what it is worth


def gain_share(groups: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> tuple[float, float, float]:
    """(share, low, high) of the gain of the best reward over the mean that the row of the highest prediction has, over
    groups of (predictions, rewards); 95 % bootstrap interval over groups. Chance has 0."""
    gains = np.array([rewards[np.argmax(predictions)] - rewards.mean() for predictions, rewards in groups])
    best = np.array([rewards.max() - rewards.mean() for _, rewards in groups])
    draws = np.random.Generator(np.random.Philox(key=seed)).integers(0, len(groups), (RESAMPLES, len(groups)))
    spread = best[draws].sum(1)
    shares = gains[draws].sum(1)[spread > 0] / spread[spread > 0]
    if best.sum() <= 0 or not len(shares):
        return 0.0, 0.0, 0.0  # nothing to choose from
    return float(gains.sum() / best.sum()), *(float(value) for value in np.quantile(shares, [0.025, 0.975]))


def _groups_of(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(predictions, rewards) of each prompt that `evaluate --predictions` wrote."""
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            rows[line["group"]].append((float(line["prediction"]), float(line["reward"])))
    return [tuple(np.array(values).T) for values in rows.values() if len(values) > 1]


def _report(out: Path, probe: Path, step: int, settings: dict, parts: dict, figures: dict) -> dict:
    share, low, high = gain_share(_groups_of(out / "judge.csv"))
    within = figures["within"]["spearman"]
    useful = low > 0
    known = read_probe(probe)
    report = {
        "probe": str(probe), "useful": useful, "step": step, "steps_total": known.steps_total, "settings": settings,
        "prompts_learned": len(parts["learn"]), "prompts_judged": figures["n_groups"],
        "within_spearman": within["value"], "within_ci95": within["ci95"],
        "gain_share": share, "gain_share_ci95": [low, high],
    }
    probe.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    verdict = "worth using" if useful else "not worth using: not surely better than a seed drawn by chance (0)"
    report["text"] = (
        f"{probe}: after step {step} of {known.steps_total}, on {figures['n_groups']} prompts that it has not "
        f"learned from:\nSpearman within prompts {within['value']:.2f} ({within['ci95'][0]:.2f} to "
        f"{within['ci95'][1]:.2f}); its favourite has "
        f"{100 * share:.0f} % of the best seed's gain ({100 * low:.0f} to {100 * high:.0f} %): {verdict}")
    return report
