"""docs/images/seed_selection.png: share of the best-of-ten gain against cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parents[1] / "docs" / "images" / "seed_selection.png"
COLOURS = {"x0 preview": "#7f7f7f", "look-ahead 1": "#9ecae1", "look-ahead 2": "#3182bd", "look-ahead 3": "#08306b"}


def frontier(rows: list[dict]) -> list[dict]:
    """Those that no cheaper one beats, by cost."""
    best, found = -1.0, []
    for row in sorted(rows, key=lambda row: row["cost_row_steps"]):
        if row["gain_share"] > best:
            best = row["gain_share"]
            found.append(row)
    return found


def line(axes, rows: list[dict], **style) -> None:
    if not rows:
        return
    share = [100 * row["cost_ratio"] ** -1 for row in rows]
    axes.plot(share, [100 * row["gain_share"] for row in rows], **style)


def draw(results: dict, picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.6), dpi=110)
    rows = results["rows"]
    for name, colour in COLOURS.items():
        single = [row for row in rows if row["method"] == name and row["keep"] == [1]]
        line(axes, single, color=colour, marker="o", label=f"{name}, one decision")
    halving = [row for row in rows if row["method"].endswith("halving")]
    line(axes, frontier(halving), color="#31a354", linestyle="--", marker=".", label="halving, the best of each cost")
    line(axes, [row for row in rows if row["method"] in ("random", "full best-of-n")], color="#de2d26", marker="s",
         markersize=4, label="full best-of-n (n = 1: random)")
    line(axes, [row for row in rows if row["method"].startswith("few-step")], color="#e6a000", marker="^", linestyle="",
         label="few-step preview")
    line(axes, [row for row in rows if row["method"] == "joined probe"], color="#756bb1", marker="D", linestyle="",
         label="joined probe")
    head = results["headline"]
    axes.errorbar([100 / head["cost_ratio"]], [100 * head["gain_share"]],
                  yerr=[[100 * (head["gain_share"] - head["gain_share_ci95"][0])], [100 * (head["gain_share_ci95"][1] - head["gain_share"])]],
                  color="black", marker="*", markersize=13, capsize=3, linestyle="",
                  label=f"headline: real calls, {head['n_prompts']} prompts")
    axes.set_xlabel("cost, % of running all ten seeds to the end")
    axes.set_ylabel("share of the best-of-ten gain, %")
    axes.set_xlim(8, 70)
    axes.set_ylim(-3, 105)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(picture)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    draw(json.loads(source.read_text()), Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURE)
