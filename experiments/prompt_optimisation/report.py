"""results.json from what the judged searches left: rewards, row-steps with everything of ours counted, intervals over prompts."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np

from . import choose

FULL = "generate-score-rewrite"


def judged(work: Path, name: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((work / f"judged-{name}").glob("*.json"))]


def joined(batches: list[dict], name: str) -> dict:
    """rewards, row_steps [prompts] and tries, and summed seconds."""
    parts = [batch["methods"][name] for batch in batches]
    return {key: np.concatenate([part[key] for part in parts]) for key in ("rewards", "row_steps")} | {
        "tries": float(np.mean([len(tries) for part in parts for tries in part["tries"]])),
        "seconds": sum(part["seconds"] for part in parts), "denoiser_seconds": sum(part["denoiser_seconds"] for part in parts)}


def interval(statistic, count: int, resamples: int) -> list[float]:
    draws = np.random.Generator(np.random.Philox(key=0)).integers(0, count, (resamples, count))
    return [float(value) for value in np.quantile([statistic(draw) for draw in draws], [0.025, 0.975])]


def row_of(name: str, ours: dict, full: dict, resamples: int) -> dict:
    """Our overhead is every CPU second outside the denoiser; a row-step is a CPU second of the full method's denoiser in its share."""
    second = full["denoiser_seconds"] / full["row_steps"].sum()
    overhead = (ours["seconds"] - ours["denoiser_seconds"]) / second
    bill = ours["row_steps"] * (1.0 + overhead / ours["row_steps"].sum())

    def ratio(rows):
        return full["row_steps"][rows].sum() / bill[rows].sum()

    def difference(rows):
        return (ours["rewards"][rows] - full["rewards"][rows]).mean()

    def share(rows):
        return ours["rewards"][rows].mean() / full["rewards"][rows].mean()

    every, count = np.arange(len(bill)), len(bill)
    return {
        "method": name, "n_prompts": count, "reward": float(ours["rewards"].mean()), "tries": ours["tries"],
        "row_steps": float(ours["row_steps"].mean()), "overhead_row_steps": float(overhead / count),
        "cost_ratio": float(ratio(every)), "cost_ratio_ci95": interval(ratio, count, resamples),
        "gain_share": float(share(every)), "gain_share_ci95": interval(share, count, resamples),
        "reward_difference": float(difference(every)), "reward_difference_ci95": interval(difference, count, resamples),
        "cpu_seconds_ratio": float(full["seconds"] / ours["seconds"]), "cpu_seconds_a_prompt": float(ours["seconds"] / count)}


def flat(name: str, rewards: np.ndarray, row_steps: float) -> dict:
    return {"method": name, "n_prompts": len(rewards), "reward": float(np.mean(rewards)), "row_steps": row_steps}


def results(work: Path, config: dict, command: str) -> dict:
    batches = judged(work, "lookahead")
    full = joined(batches, FULL)
    first = np.concatenate([batch["methods"][FULL]["first_rewards"] for batch in batches])
    rows = [{**flat(FULL, full["rewards"], float(full["row_steps"].mean())), "tries": full["tries"],
             "cpu_seconds_a_prompt": full["seconds"] / len(first)}]
    settings = {}
    for name in ("lookahead", "features"):
        found = judged(work, name)
        if not found:
            continue
        settings |= json.loads((work / f"{name}.json").read_text())
        settings[name].pop("probe", None)
        rows.append(row_of(name, joined(found, name), full, config["resamples"]))
    whole = config["steps_total"]
    rows.append(flat("first prompt, one image", first, float(whole)))
    unseen = judged(work, "unseen")
    for name, key in (("last rewriting, unseen", "blind"), ("the world's own words, one image", "own_words")):
        if unseen:
            rows.append(flat(name, np.concatenate([batch[key] for batch in unseen]), float(whole)))
    best = rows[1]
    gain = (best["reward"] - first.mean()) / (full["rewards"].mean() - first.mean())
    arrays = choose.arrays_of(work / "table")
    return {
        "headline": {key: best[key] for key in ("n_prompts", "cost_ratio", "cost_ratio_ci95", "gain_share", "gain_share_ci95",
                                                "reward_difference", "reward_difference_ci95")}
        | {"gain_over_first_prompt_share": float(gain)},
        "rows": rows, "settings": settings,
        "choice": {"n_prompts": len(arrays["reward"]), "curve": curve(arrays, config)},
        "command": command, "seconds": span(work), "versions": versions()}


def span(work: Path) -> float:
    """Wall seconds from the first file of the work to the last, pauses between interrupted calls with them."""
    times = [path.stat().st_mtime for path in work.glob("**/*") if path.suffix in (".npz", ".json", ".h5") and path.name != "results.json"]
    return round(max(times) - min(times), 1)


def curve(arrays: dict, config: dict) -> list[dict]:
    """Reward and row-steps (overhead left out) on the choice prompts, for other thresholds of both methods."""
    found = []
    for wanted in np.arange(0.3, 0.85, 0.1):
        reward, cost = choose.full_walk(arrays["reward"], wanted, config["steps_total"])
        found.append({"method": FULL, "threshold": float(wanted), "reward": reward, "row_steps": cost})
    for at, step in enumerate(config["choice_steps"]):
        for m, forwards in enumerate(config["choice_forwards"]):
            for threshold in config["thresholds"]:
                reward, cost = choose.early_walk(arrays["reward"], arrays["look"][..., at, m], threshold, step + 1 + forwards,
                                                 config["steps_total"] - step - 1)
                found.append({"method": "lookahead", "step": step, "forwards": forwards, "threshold": threshold,
                              "reward": reward, "row_steps": cost})
    return found


def versions() -> dict[str, str]:
    import diffusers
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__}
