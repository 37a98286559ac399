"""results.json from what was measured."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np

from .judge import overhead, spent_of, strategy_of
from .measure import row_step_seconds
from .strategies import Strategy, all_strategies, chosen_rewards, expected_best, gain_share
from .table import read


def joined_table(place: Path) -> dict[str, np.ndarray]:
    """Rewards of all judged prompts, those of the curve first."""
    curve, rest = read(place / "table", "curve"), read(place / "table", "rest")
    return {key: np.concatenate([curve[key], rest[key]]) for key in ("prompt", "reward")}


def judged(place: Path) -> tuple[list[str], np.ndarray, np.ndarray, list[dict]]:
    """(prompts, rewards of the best finished seed, batch of each prompt, spent of each batch) of real calls."""
    batches = [json.loads(path.read_text()) for path in sorted(place.glob("*.json"))]
    prompts = [entry[0] for batch in batches for entry in batch["chosen"]]
    rewards = np.array([entry[2] for batch in batches for entry in batch["chosen"]])
    owner = np.array([number for number, batch in enumerate(batches) for _ in batch["chosen"]])
    return prompts, rewards, owner, [batch["spent"] for batch in batches]


def headline(place: Path, config: dict, seed: int) -> dict:
    table, timed = joined_table(place), json.loads((place / "timed.json").read_text())
    prompts, rewards, owner, spent = judged(place / "headline")
    assert prompts == list(table["prompt"][: len(prompts)])
    step = row_step_seconds(spent_of(timed["full"]))
    cost = np.array([(one.row_steps + one.overhead(step)) / one.prompts for one in spent_of(spent)])[owner]
    full = config["seeds"] * config["steps_total"]
    draws = np.random.RandomState(seed).randint(0, len(prompts), (config["resamples"], len(prompts)))
    ratios = full / cost[draws].mean(1)
    share, interval = gain_share(table["reward"][: len(prompts)], rewards, config["resamples"], seed)
    costs = overhead(timed)
    seconds = [sum(one["seconds"] for one in timed[way]) for way in ("full", "ours")]
    return {
        "n_prompts": len(prompts), "cost_ratio": full / cost.mean(), "cost_ratio_ci95": list(np.quantile(ratios, [0.025, 0.975])),
        "gain_share": share, "gain_share_ci95": interval,
        "row_steps_full": full, "row_steps_ours": sum(one["row_steps"] for one in spent) / len(prompts),
        "overhead_row_steps_ours": float(cost.mean() - sum(one["row_steps"] for one in spent) / len(prompts)),
        "overhead_row_steps_full": costs["full"],
        "cost_ratio_with_overhead_of_both": (full + costs["full"]) / cost.mean(), "processor_seconds_ratio": seconds[0] / seconds[1],
        "row_step_seconds": step, "reward_mean": float(table["reward"][: len(prompts)].mean()),
        "reward_best": float(table["reward"][: len(prompts)].max(1).mean()), "reward_ours": float(rewards.mean()),
        "survivors_compared": timed["survivors"], "survivors_bit_identical": timed["bit_identical"],
        "largest_difference": timed["largest_difference"],
    }


def other_models(place: Path, config: dict, seed: int) -> list[dict]:
    """The headline's figures of each other model, with the setting that was chosen on the first."""
    found = []
    for other in config["others"]:
        batches = [json.loads(path.read_text()) for path in sorted((place / "others" / other).glob("*.json"))]
        full, ours = (spent_of([batch[way] for batch in batches]) for way in ("full", "spent"))
        step = row_step_seconds(full)
        table = np.concatenate([batch["rewards"] for batch in batches])
        rewards = np.array([entry[2] for batch in batches for entry in batch["chosen"]])
        share, interval = gain_share(table, rewards, config["resamples"], seed)
        cost = sum(one.row_steps + one.overhead(step) for one in ours) / len(table)
        found.append({
            "model": other, "n_prompts": len(table), "cost_ratio": config["seeds"] * config["steps_total"] / cost,
            "cost_row_steps": cost, "gain_share": share, "gain_share_ci95": interval, "reward_mean": float(table.mean()),
            "reward_ours": float(rewards.mean()), "reward_best": float(table.max(1).mean()),
            "processor_seconds_ratio": sum(one.seconds for one in full) / sum(one.seconds for one in ours)})
    return found


class Curve:
    """Rows of the curve: each way of choosing on the same prompts."""

    def __init__(self, place: Path, config: dict, seed: int, head: dict):
        self.place, self.config, self.seed = place, config, seed
        self.table = read(place / "table", "curve")
        self.ours, self.full = head["overhead_row_steps_ours"], head["overhead_row_steps_full"]
        self.total, self.n = config["steps_total"], config["seeds"]

    def row(self, method: str, rewards: np.ndarray, cost: float, **more) -> dict:
        share, interval = gain_share(
            self.table["reward"][: len(rewards)], rewards, self.config["resamples"], self.seed)
        return {"method": method, **more, "cost_row_steps": cost, "cost_ratio": self.n * self.total / cost,
                "gain_share": share, "gain_share_ci95": interval, "n_prompts": len(rewards)}

    def of(self, strategy: Strategy) -> dict:
        forwards, looks = strategy.looks[0].forwards, [look.step for look in strategy.looks]
        kind = "x0 preview" if forwards == 0 else f"look-ahead {forwards}"
        cost = strategy.row_steps(self.n, self.total) + self.ours * (1 + sum(strategy.guesses) / self.n)
        return self.row(kind if len(looks) == 1 else f"{kind}, halving", chosen_rewards(strategy, self.table, self.config), cost,
                        steps=looks, forwards=forwards, keep=list(strategy.keep))

    def few(self) -> list[dict]:
        rewards, rows = self.table["reward"], []
        for kind, steps in enumerate(self.config["few_steps"]):
            best = self.table["few"][:, :, kind].argmax(1)
            cost = self.n * steps + self.total + self.ours
            rows.append(self.row(f"few-step preview, {steps} steps", rewards[np.arange(len(rewards)), best], cost, steps=[steps]))
        return rows

    def chance(self) -> list[dict]:
        """Full best-of-count of seeds drawn by chance; with one seed: random."""
        rewards = self.table["reward"]
        return [self.row("random" if count == 1 else "full best-of-n", expected_best(rewards, count),
                         count * (self.total + self.full / self.n), keep=[count]) for count in range(1, self.n + 1)]

    def probe(self) -> list[dict]:
        if not (self.place / "probe.json").exists():
            return []
        known = json.loads((self.place / "probe.json").read_text())
        prompts, rewards, _, spent = judged(self.place / "joined")
        timed = json.loads((self.place / "timed.json").read_text())
        step = row_step_seconds(spent_of(timed["full"]))
        cost = sum(one.row_steps + one.overhead(step) for one in spent_of(spent)) / len(prompts)
        return [self.row("joined probe", rewards, cost, steps=[known["step"]], keep=[1], inputs=known["settings"]["probe.inputs"],
                         within_spearman=known["within_spearman"], within_ci95=known["within_ci95"])]

    def rows(self) -> list[dict]:
        strategies = all_strategies(self.config, self.n)
        return [*map(self.of, strategies), *self.few(), *self.chance(), *self.probe()]


def write(place: Path, config: dict, seed: int, command: str, seconds: float, target: Path) -> dict:
    chosen = json.loads((place / "chosen.json").read_text())
    head = headline(place, config, seed)
    best = strategy_of(chosen)
    head = {**head, "steps": [look.step for look in best.looks], "forwards": best.looks[0].forwards, "keep": list(best.keep)}
    results = {
        "command": command, "seconds": round(seconds, 1),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "numpy")},
        "model": config["model"], "seeds": config["seeds"], "steps_total": config["steps_total"],
        "headline": head, "others": other_models(place, config, seed), "choice": chosen["candidates"], "rows": Curve(place, config, seed, head).rows(),
    }
    target.write_text(json.dumps(_rounded(results), indent=1) + "\n")
    return results


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
