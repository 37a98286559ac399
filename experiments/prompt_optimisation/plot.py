"""results.json and its picture: final reward against row-steps.

    python -m experiments.prompt_optimisation.plot --work FOLDER [--quick]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from . import intents, report

OFFSETS = {report.FULL: (-8, 10, "right"), "lookahead": (10, -8, "left"), "last rewriting, unseen": (8, 6, "left"),
           "first prompt, one image": (8, -4, "left")}
COLOURS = {report.FULL: "tab:red", "lookahead": "tab:blue", "features": "tab:green"}
NAMES = {report.FULL: "generate, score, rewrite", "lookahead": "early look-ahead", "features": "probe, no score"}


def draw(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=110)
    for row in results["rows"]:
        name = row["method"]
        bill = row["row_steps"] + row.get("overhead_row_steps", 0.0)
        colour = COLOURS.get(name, "0.45")
        axes.plot(bill, row["reward"], "o" if name in COLOURS else "x", color=colour, markersize=9 if name in COLOURS else 7)
        right, up, side = OFFSETS.get(name, (8, -4, "left"))
        axes.annotate(NAMES.get(name, name), (bill, row["reward"]), (right, up), textcoords="offset points", ha=side, color=colour)
    for name in (report.FULL, "lookahead"):
        points = [(row["row_steps"], row["reward"]) for row in results["choice"]["curve"] if row["method"] == name]
        axes.plot(*zip(*points), ".", color=COLOURS[name], alpha=0.3, label=f"{NAMES[name]}: other settings, on the choice prompts")
    axes.set_xlim(0, None)
    axes.set_xlabel("row-steps a prompt (large marks: with our overhead)")
    axes.set_ylabel("final reward under what was meant")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.margins(x=0.2)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--command", default="experiments/prompt_optimisation/run")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    results = report.results(options.work, intents.load_config(options.quick), options.command)
    folder = options.work if options.quick else intents.HERE
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    images = options.work if options.quick else intents.HERE.parents[1] / "docs" / "images"
    draw(results, images / "prompt_optimisation.png")


if __name__ == "__main__":
    main()
