"""How each early method decides: FOLDER/NAME.json from the choice prompts.

    python -m experiments.prompt_optimisation.settings --work FOLDER --name lookahead|features [--quick]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from . import choose, intents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--name", choices=("lookahead", "features"), required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, arrays = intents.load_config(options.quick), choose.arrays_of(options.work / "table")
    if options.name == "lookahead":
        setting = {**choose.look_ahead(arrays, config), "direct": "lookahead", "scorer": True}
    else:
        probe = options.work / "probes" / "features.safetensors"
        setting = {
            **choose.of_probe(arrays, config, options.seed, {"probe": probe, "lookahead_steps": None}),
            "probe": str(probe), "scorer": False}
    (options.work / f"{options.name}.json").write_text(json.dumps({options.name: setting}, indent=1) + "\n")


if __name__ == "__main__":
    main()
