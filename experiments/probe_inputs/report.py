"""results.json from what was measured: every score on the same held-out rollouts, and what each has cost."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
from pathlib import Path

import numpy as np

from . import judge, probes

GUESSES = ("preview", "lookahead", "distilled")


class Costs:
    """Shares of a full rollout: what a row that is stopped has cost, from this run's own seconds per row."""

    def __init__(self, place: Path, steps: int):
        self.seconds = json.loads((place / "timing.json").read_text())
        self.full = steps * self.step + self.seconds["decode"] + self.seconds["reward"]

    @property
    def step(self) -> float:
        return self.seconds["step"]

    def of(self, step: int, *, looks: int = 0, distilled: bool = False, guess: str | None = None, inputs=()) -> float:
        """`step` steps, the forward at the decision, `looks` further ones, a decode ("decode" or "decode_tiny")."""
        spent = (step + 1 + looks) * self.step + (self.seconds["step_adapted"] if distilled else 0.0)
        if guess:
            spent += self.seconds[guess] + self.seconds["reward"]
        if "attention" in inputs:
            spent += self.seconds["attention"] + self.seconds["step_tapped"] - self.step
        if inputs:
            spent += self.seconds["vectors"] + self.seconds["decide"]
        return spent / self.full


def read_predictions(path: Path) -> np.ndarray:
    """Of a probe, in the order of the record's rows."""
    with open(path) as file:
        lines = sorted(csv.DictReader(file), key=lambda line: int(line["row_id"]))
    return np.array([float(line["prediction"]) for line in lines])


class Judged:
    """Held-out rollouts of one sampler (or, as `name` says, of another policy under it) and the scores they got."""

    def __init__(self, place: Path, config: dict, sampler: dict, name: str | None = None):
        folder = place / (name or sampler["name"]) / "held"
        self.config, self.sampler, self.place = config, sampler, place
        self.columns = dict(np.load(folder / "scores.npz"))
        extra = folder / "scores-distilled.npz"
        self.columns |= dict(np.load(extra)) if extra.exists() else {}
        self.reward = self.columns["reward"]
        self.costs = Costs(place, sampler["steps"])
        self.rows = []

    def add(self, score: np.ndarray, step: int, inputs: list, cost: float, trained: int, **more) -> None:
        config = self.config
        row = {
            "inputs": inputs, "target": "shapes", "model": "sd3", "sampler": self.sampler["key"],
            "shift": self.sampler["shift"], "step": step, "steps_total": self.sampler["steps"],
            **judge.figures(score, self.reward, config["group_size"], config["resamples"], config["seed"]),
            "n_train_rows": trained, "cost_rollout_fraction": round(cost, 4), **more,
        }
        self.rows.append((row, score))

    def add_single(self) -> None:
        """Scores that need no training."""
        for name, score in self.columns.items():
            if "@" not in name:
                continue
            signal, where = name.split("@")
            step, _, decoder = where.partition("|")
            looks = int(signal[-1]) if signal.startswith("lookahead") else 0
            kind = "lookahead" if looks else signal
            guess = "decode_tiny" if decoder else "decode"
            cost = self.costs.of(int(step), distilled=kind == "distilled", looks=looks, guess=guess)
            self.add(score, int(step), [kind], cost, 0, decoder=decoder or "vae", **({"lookahead_steps": looks} if looks else {}))

    def add_probe(self, probe) -> None:
        step = probes.step_of(probe.train)
        guess = next((name for name in probe.inputs if name in GUESSES), None)
        looks = self.sampler["joined"][step] if guess == "lookahead" else 0
        cost = self.costs.of(step, distilled=guess == "distilled", looks=looks, guess="decode_tiny" if guess else None,
                             inputs=probe.inputs)
        log = f"train_{(probe.same_as or probe.name).replace('/', '_')}.log"
        train = json.loads(_last_json(probe.place / "logs" / log))
        more = {"probe": probe.name.split("/")[1], "kind": train["chosen"], "relabels": probe.settings["training"]["relabels"]}
        if guess:
            more["decoder"] = "tiny"
        if looks:
            more["lookahead_steps"] = looks
        trained = train["train_rows"] + train["held_rows"]  # the held ones choose among candidates and end the training
        self.add(read_predictions(probe.predictions), step, list(probe.inputs), cost, trained, **more)


def _last_json(path: Path) -> str:
    """The JSON document at the end of a log that has other lines before it."""
    lines = path.read_text().splitlines()
    start = max(index for index, line in enumerate(lines) if line.startswith("{"))
    return "\n".join(lines[start:])


def gains(judged: list, config: dict) -> list:
    """Each joined probe against the best single signal that costs at most as much (2 % more allowed), paired over groups."""
    found = []
    for one in judged:
        singles = [(row, score) for row, score in one.rows if len(row["inputs"]) == 1]
        for row, score in one.rows:
            if row.get("probe") not in ("features", "joined", "distilled+features"):
                continue
            rivals = [pair for pair in singles if pair[0]["cost_rollout_fraction"] <= row["cost_rollout_fraction"] + 0.005]
            if not rivals:
                continue
            best, rival = max(rivals, key=lambda pair: pair[0]["within_spearman"])
            found.append({
                "sampler": one.sampler["name"], "step": row["step"], "probe": row["probe"], "inputs": row["inputs"],
                "cost_rollout_fraction": row["cost_rollout_fraction"], "joined": row["within_spearman"],
                "best_single": {key: best.get(key) for key in ("inputs", "probe", "step", "decoder", "lookahead_steps",
                                                               "within_spearman", "cost_rollout_fraction")},
                **judge.difference(score, rival, one.reward, config["group_size"], config["resamples"], config["seed"]),
            })
    return found


def aging(place: Path, config: dict, before: Judged) -> dict:
    """What a policy's move does to each signal: the same table before it and after it, with and without retraining."""
    step, home = config["main_step"], config["samplers"][0]
    after = Judged(place, config, home, "moved")
    after.add_single()
    for probe in probes.wanted(place, config):
        if probe.name.startswith("moved@"):
            after.add_probe(probe)
    keep = ("inputs", "probe", "decoder", "lookahead_steps", "within_spearman", "within_ci95", "pooled_spearman", "auc")
    here = [row for row, _ in before.rows if row["step"] == step and (
        "probe" not in row or row["probe"] in config["aging"]) and row["inputs"] != ["distilled"]]
    return {
        "updates": config["aging_updates"],
        "reward": {"before": round(float(before.reward.mean()), 4), "after": round(float(after.reward.mean()), 4)},
        "before": [{key: row[key] for key in keep if key in row} for row in here],
        "after": [{key: row[key] for key in keep if key in row} for row, _ in after.rows],
    }


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {os.cpu_count()} cores"


def results(place: Path, config: dict) -> dict:
    from . import joining

    judged, wanted = [], probes.wanted(place, config)
    for sampler in config["samplers"]:
        one = Judged(place, config, sampler)
        one.add_single()
        for probe in wanted:
            if probe.name.split("@")[0] == sampler["name"]:
                one.add_probe(probe)
        judged.append(one)
    return {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "numpy")},
        "machine": machine(),
        "seconds_per_row": {name: round(value, 6) for name, value in judged[0].costs.seconds.items()},
        "joined_against_best_single": gains(judged, config),
        "most_that_weights_could_add": joining.bounds(judged, wanted, config),
        "attention_parts": json.loads((place / "parts.json").read_text()),
        "aging": aging(place, config, judged[0]) if (place / "moved").exists() else None,
        "rows": [row for one in judged for row, _ in one.rows],
    }


def text(results: dict) -> str:
    lines = []
    for row in sorted(results["rows"], key=lambda row: (row["steps_total"], row["shift"], row["sampler"], row["cost_rollout_fraction"])):
        low, high = row["within_ci95"]
        name = row.get("probe") or "+".join(row["inputs"]) + str(row.get("lookahead_steps", ""))
        lines.append(f"{row['sampler']:8} T={row['steps_total']:2} shift {row['shift']:.0f} step {row['step']}: {name:28} "
                     f"{row['within_spearman']:.3f} [{low:.2f}, {high:.2f}] at {row['cost_rollout_fraction']:.3f}")
    return "\n".join(lines)
