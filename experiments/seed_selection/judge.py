"""The experiment's stages after the table: overhead, the choice of a setting, and the headline from real calls.

    python -m experiments.seed_selection.judge --place runs/seed_selection [--quick]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from .measure import MODELS, Bench, Spent, compare, row_step_seconds, score
from .strategies import Look, Strategy, all_strategies, chosen_rewards, gain_share
from .table import load_config, prompt_sets, read


def spent_of(entries: list[dict]) -> list[Spent]:
    return [Spent(**entry) for entry in entries]


def overhead(timed: dict) -> dict:
    """Row-steps a prompt that are no denoising, of both ways; medians over batches."""
    full = spent_of(timed["full"])
    step = row_step_seconds(full)
    return {
        "row_step_seconds": step,
        "ours": float(np.median([one.overhead(step) / one.prompts for one in spent_of(timed["ours"])])),
        "full": float(np.median([one.overhead(step) / one.prompts for one in full])),
    }


def choose(table: dict, config: dict, costs: dict) -> tuple[Strategy, list[dict]]:
    """The largest share of the gain on the choice prompts, among those that are cheap enough; more guesses are
    taken to cost as much more as they are more."""
    n, total = config["seeds"], config["steps_total"]
    full = n * total + costs["full"]
    found = []
    for strategy in all_strategies(config, n):
        guesses = 1 + sum(strategy.guesses) / n
        ratio = full / (strategy.row_steps(n, total) + costs["ours"] * guesses)
        share = gain_share(table["reward"], chosen_rewards(strategy, table, config), 200, 0)[0]
        found.append((share, ratio, strategy))
    cheap = [entry for entry in found if entry[1] >= config["cost_ratio_wanted"] * config["margin"]]
    best = max(cheap, key=lambda entry: (round(entry[0], 3), entry[1]))
    ranked = sorted(cheap, key=lambda entry: -entry[0])[:10]
    return best[2], [{"setting": one.name(), "forwards": one.looks[0].forwards, "gain_share": share, "cost_ratio": ratio}
                     for share, ratio, one in ranked]


def cached(path: Path, make):
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1) + "\n")
    return json.loads(path.read_text())


def strategy_of(entry: dict) -> Strategy:
    return Strategy(tuple(Look(**look) for look in entry["looks"]), tuple(entry["keep"]))


def judged_batch(bench: Bench, prompts: list[str], strategy: Strategy, probe: str | None) -> dict:
    selection, spent = bench.selected(prompts, strategy, probe)
    best: dict[str, tuple[int, float]] = {}
    for prompt, seed, score in zip(selection.prompts, selection.seeds, selection.scores):
        best.setdefault(prompt, (seed, score))  # the best of a prompt comes first
    return {"spent": asdict(spent), "chosen": [[prompt, *best[prompt]] for prompt in prompts]}


def judge(bench: Bench, place: Path, prompts: list[str], strategy: Strategy, probe: str | None = None) -> None:
    """One file a batch of prompts; what is there is not made again."""
    place.mkdir(parents=True, exist_ok=True)
    size = bench.config["prompts_a_batch"]
    for start in range(0, len(prompts), size):
        part = prompts[start: start + size]
        cached(place / f"{start:04d}.json", lambda part=part: judged_batch(bench, part, strategy, probe))
        print(f"{place.name}: {start + len(part)} of {len(prompts)} prompts", flush=True)


def judged_both(bench: Bench, prompts: list[str], strategy: Strategy) -> dict:
    """A batch of another model: ours, and every seed to the end."""
    _, rewards, full = bench.full(prompts)
    return {**judged_batch(bench, prompts, strategy, None), "full": asdict(full), "rewards": rewards.tolist()}


def judge_others(config: dict, seed: int, place: Path, prompts: list[str], strategy: Strategy) -> None:
    """The setting that was chosen on the first model, on the other ones."""
    size = config["prompts_a_batch"]
    for other in config["others"]:
        (place / other).mkdir(parents=True, exist_ok=True)
        bench = Bench(config, seed, other)
        for start in range(0, len(prompts), size):
            part = prompts[start: start + size]
            cached(place / other / f"{start:04d}.json", lambda part=part: judged_both(bench, part, strategy))
        print(f"{other}: {len(prompts)} prompts", flush=True)


def learn_probe(bench: Bench, place: Path, prompts: list[str]) -> dict:
    """The joined probe of the configuration, as `grpo-accel select-seeds --learn` makes it."""
    from grpo_accel.learn import learn

    wanted = bench.config["probe"]
    arguments = {name: value for name, value in bench.call.items() if name != "output_type"}
    report = learn(
        bench.pipeline, prompts, score, place / "probe", seeds=range(bench.config["seeds"]), steps=[wanted["step"]],
        inputs=wanted["inputs"], lookahead_steps=wanted["forwards"], decoder=str(MODELS / bench.config["tiny_decoder"]),
        max_rows=bench.config["seeds"] * bench.config["prompts_a_batch"], options={}, quiet=True, arguments=arguments)
    return {name: value for name, value in report.items() if name not in ("text", "probe")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, place = load_config(options.quick), options.place
    sets, bench = prompt_sets(config, options.seed), Bench(config, options.seed)
    trial = Strategy((Look(config["looks"][0], 2),), (1,))
    size = config["prompts_a_batch"]
    timed = cached(place / "overhead.json", lambda: compare(bench, sets["choice"][: 2 * size], trial))
    costs = overhead(timed)
    print(json.dumps(costs), flush=True)
    best, ranked = choose(read(place / "table", "choice"), config, costs)
    cached(place / "chosen.json", lambda: {**asdict(best), "candidates": ranked})
    print(best.name(), best.looks[0].forwards, flush=True)
    judged = [*sets["curve"], *sets["rest"]]
    judge(bench, place / "headline", judged, best)
    cached(place / "timed.json", lambda: compare(bench, judged[: config["identical_prompts"]], best))
    judge_others(config, options.seed, place / "others", judged[: config["other_prompts"]], best)
    cached(place / "probe.json", lambda: learn_probe(bench, place, sets["probe"]))
    after = Strategy((Look(config["probe"]["step"], config["probe"]["forwards"]),), (1,))
    judge(bench, place / "joined", judged[: config["probe"]["prompts"]], after, str(place / "probe" / "probe.safetensors"))


if __name__ == "__main__":
    main()
