"""Real searches on the judged prompts: generate-score-rewrite, and `grpo_accel.optimize_prompt` in each setting.

    python -m experiments.prompt_optimisation.judge --work FOLDER [--part I --parts N] [--quick]

FOLDER/NAME.json says how the early methods decide (--settings NAME; the full method is judged beside the look-ahead's; --settings
unseen: words that nobody tries first). One file a batch; what is there is not made again. The methods
of a batch run one after the other in one process with one thread, and CPU seconds are noted with them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from grpo_accel.prompts import PromptSearch

from . import intents


class Clock:
    """CPU seconds in all, and those of the denoiser."""

    def __init__(self, transformer: torch.nn.Module):
        self.denoiser = 0.0
        transformer.register_forward_pre_hook(self._begin)
        transformer.register_forward_hook(self._end)

    def _begin(self, *_) -> None:
        self._started = time.process_time()

    def _end(self, *_) -> None:
        self.denoiser += time.process_time() - self._started

    def start(self) -> None:
        self._all, self._before = time.process_time(), self.denoiser

    def stop(self) -> dict[str, float]:
        return {"seconds": time.process_time() - self._all, "denoiser_seconds": self.denoiser - self._before}


class Judge:
    def __init__(self, config: dict, settings: dict, seed: int):
        self.config, self.settings, self.seed = config, settings, seed
        self.pipeline = intents.pipeline_of(config)
        self.clock = Clock(self.pipeline.transformer)
        self.rewrite = intents.rewriter_of(config, seed)

    def __call__(self, wanted: list[str], batch: int) -> dict:
        firsts, seeds = intents.first_prompts(wanted, self.config, self.seed), intents.seeds_of(batch, self.config, self.seed)
        methods = {name: self.early(firsts, seeds, setting) for name, setting in self.settings.items()}
        if "lookahead" in methods:
            methods["generate-score-rewrite"] = self.full(firsts, seeds)
        return {"intents": wanted, "first_prompts": firsts, "methods": methods}

    def unseen(self, wanted: list[str], batch: int) -> dict:
        """One image each of the last rewriting, and of the world's own words."""
        firsts, seeds = intents.first_prompts(wanted, self.config, self.seed), intents.seeds_of(batch, self.config, self.seed)
        last = [intents.chain(first, self.config, self.seed)[-1] for first in firsts]
        return {"blind": self.whole(last, seeds[:1])[:, 0].tolist(), "own_words": self.whole(wanted, seeds[:1])[:, 0].tolist()}

    def whole(self, prompts: list[str], seeds: list[int]) -> np.ndarray:
        """Rewards [prompts, seeds] of whole rollouts."""
        images = self.pipeline(
            prompts, num_images_per_prompt=len(seeds), generator=intents.generators(prompts, seeds),
            **intents.call_arguments(self.config)).images
        with self.uncounted():
            return np.array(intents.score(images, [p for p in prompts for _ in seeds])).reshape(-1, len(seeds))

    def uncounted(self):
        return _Uncounted(self)

    def full(self, firsts: list[str], seeds: list[int]) -> dict:
        """Whole rollouts, their real score, and other words while it is below what is wanted. Scoring is not charged to it."""
        self.scoring_seconds = 0.0
        self.clock.start()
        known: list[dict[str, np.ndarray]] = [{} for _ in firsts]
        tried = [[first] for first in firsts]
        open_ = list(range(len(firsts)))
        while open_:
            new = [place for place in open_ if tried[place][-1] not in known[place]]
            if new:
                for place, rewards in zip(new, self.whole([tried[place][-1] for place in new], seeds)):
                    known[place][tried[place][-1]] = rewards
            open_ = [place for place in open_ if known[place][tried[place][-1]].mean() < self.config["wanted"]
                     and len(tried[place]) <= self.config["rounds"]]
            for place in open_:
                tried[place].append(self.rewrite(tried[place][-1], tried[place]))
        cost = self.clock.stop()
        cost["seconds"] -= self.scoring_seconds
        return {
            **cost, "rewards": [float(max(rewards.max() for rewards in one.values())) for one in known],
            "first_rewards": [float(one[texts[0]].mean()) for one, texts in zip(known, tried)],
            "row_steps": [float(len(one) * len(seeds) * self.config["steps_total"]) for one in known],
            "tries": [[{"prompt": text, "rewards": one[text].tolist()} for text in texts] for one, texts in zip(known, tried)]}

    def early(self, firsts: list[str], seeds: list[int], setting: dict) -> dict:
        """optimize_prompt with everything that it does on the bill: session, features, decoding, scoring, probe, completion."""
        scorer = intents.score if setting["scorer"] else None
        search = PromptSearch(
            self.pipeline, self.rewrite, probe=setting.get("probe"), step=setting["step"], rounds=self.config["rounds"],
            seeds=seeds, scorer=scorer, direct=setting.get("direct"), lookahead_steps=setting["forwards"] or None,
            decoder=str(intents.MODELS / self.config["tiny_decoder"]) if setting["scorer"] else None,
            **intents.call_arguments(self.config))
        self.clock.start()
        found = search.run(firsts, setting["threshold"])
        cost = self.clock.stop()
        images = torch.stack([one.image for one in found])
        return {
            **cost, "rewards": intents.score(images, firsts), "row_steps": [one.row_steps for one in found],
            "tries": [[{"prompt": t.prompt, "predictions": t.predictions} for t in one.tries] for one in found]}


class _Uncounted:
    """Scoring of the full method, whose seconds are taken off its bill."""

    def __init__(self, judge: Judge):
        self._judge = judge

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *_) -> None:
        self._judge.scoring_seconds = getattr(self._judge, "scoring_seconds", 0.0) + time.process_time() - self._started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settings", default="lookahead")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = intents.load_config(options.quick)
    unseen = options.settings == "unseen"
    settings = {} if unseen else json.loads((options.work / f"{options.settings}.json").read_text())
    judge = Judge(config, settings, options.seed)
    wanted, size = intents.intent_sets(config, options.seed)["judged"], config["prompts_a_batch"]
    folder = options.work / f"judged-{options.settings}"
    folder.mkdir(exist_ok=True)
    for batch, start in enumerate(range(0, len(wanted), size)):
        path = folder / f"{batch:03d}.json"
        if batch % options.parts != options.part or path.exists():
            continue
        answer = (judge.unseen if unseen else judge)(wanted[start: start + size], batch)
        path.with_suffix(".tmp").write_text(json.dumps(answer))
        path.with_suffix(".tmp").rename(path)
        print(f"batch {batch}: " + ", ".join(f"{name} {np.mean(one['rewards']):.3f} at {np.mean(one['row_steps']):.0f} "
              f"row-steps, {one['seconds']:.1f} s" for name, one in answer.get("methods", {}).items()), flush=True)


if __name__ == "__main__":
    main()
