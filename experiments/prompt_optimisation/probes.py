"""Probes that learn from wordings of intents that nobody is judged on.

    python -m experiments.prompt_optimisation.probes --out FOLDER [--step K] [--lookahead-steps M]

`joined` sees the prompt, the preview latent, the hidden state and a look-ahead's score, `features` no score.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from grpo_accel import learn

from . import intents

INPUTS = {"joined": ["prompt", "x0", "hidden", "lookahead"], "features": ["prompt", "x0", "hidden"]}


def wordings(config: dict, seed: int) -> list[str]:
    """One of each intent's wordings, from the first prompt to the last rewriting in turn."""
    firsts = intents.first_prompts(intents.intent_sets(config, seed)["probe"], config, seed)
    return list(dict.fromkeys(
        intents.chain(prompt, config, seed)[place % (config["rounds"] + 1)] for place, prompt in enumerate(firsts)))


def make(out: Path, config: dict, step: int, forwards: int, seed: int) -> None:
    if (out / "done").exists():
        return
    pipeline = intents.pipeline_of(config)
    learn.learn(
        pipeline, wordings(config, seed), intents.score, out, seeds=range(900, 900 + config["probe_seeds"]), steps=[step],
        inputs=INPUTS["joined"], lookahead_steps=forwards, decoder=str(intents.MODELS / config["tiny_decoder"]),
        max_rows=48, options={}, quiet=True, arguments=intents.call_arguments(config))
    (out / "joined.safetensors").write_bytes((out / "probe.safetensors").read_bytes())
    shutil.copy(out / "probe.json", out / "joined.json")
    for name in INPUTS:
        probe = out / f"{name}.safetensors"
        if name == "features":
            learn._program(["train", "--data", out / "learn", "--out", probe, "--config", out / "learn.yaml", "--quiet",
                            "--inputs", ",".join(INPUTS[name])])
            probe.with_suffix(".json").write_text(json.dumps({"settings": {"probe.inputs": INPUTS[name]}}) + "\n")
        figures = learn._program(["evaluate", "--probe", probe, "--data", out / "judge", "--json",
                                  "--predictions", out / f"{name}.csv"], codes=(0, 1))
        (out / f"{name}-figures.json").write_text(figures)
    (out / "done").write_text("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step", type=int, default=3)
    parser.add_argument("--lookahead-steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    make(options.out, intents.load_config(False), options.step, options.lookahead_steps, options.seed)


if __name__ == "__main__":
    main()
