"""Draws docs/images/probe_inputs.png from results.json: how well each signal orders rollouts, against its cost."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parents[1] / "docs" / "images" / "probe_inputs.png"
PANELS = (
    ("T = 10, window of 2", "window2", 10, 1.0), ("T = 20, window of 2", "window2", 20, 1.0),
    ("T = 28, window of 2", "window2", 28, 1.0), ("T = 10, window of 2, shift 3", "window2", 10, 3.0),
    ("T = 10, noise in every step", "all_sde", 10, 1.0),
)
STYLES = {
    "preview": ("tab:blue", "o", "preview"), "lookahead 1": ("tab:cyan", "^", "look-ahead, 1 forward"),
    "lookahead 2": ("tab:green", "^", "look-ahead, 2 forwards"), "lookahead 3": ("tab:olive", "^", "look-ahead, 3 forwards"),
    "distilled": ("tab:purple", "D", "distilled copy"), "attention": ("0.6", "s", "attention, ridge"),
    "x0": ("0.4", "v", "x0, ridge"), "hidden": ("0.75", "P", "hidden state, ridge"),
    "features": ("tab:orange", "s", "features alone, network"), "joined": ("tab:red", "*", "joined probe"),
    "distilled+features": ("tab:pink", "*", "joined probe on the distilled copy"),
}


def line_of(row: dict) -> str | None:
    """Which line a row belongs to; None where it is not drawn."""
    if "probe" in row:
        return row["probe"] if row["probe"] in STYLES else None
    if row["decoder"] != "tiny":
        return None
    return f"lookahead {row['lookahead_steps']}" if "lookahead_steps" in row else row["inputs"][0]


def draw(axes, rows: list[dict], title: str) -> None:
    for name, (colour, marker, label) in STYLES.items():
        points = sorted((row for row in rows if line_of(row) == name), key=lambda row: row["cost_rollout_fraction"])
        if not points:
            continue
        x, y = ([row[key] for row in points] for key in ("cost_rollout_fraction", "within_spearman"))
        errors = [[value - row["within_ci95"][0] for value, row in zip(y, points)],
                  [row["within_ci95"][1] - value for value, row in zip(y, points)]]
        size = 9 if marker == "*" else 5
        axes.errorbar(x, y, errors, color=colour, marker=marker, ms=size, lw=1.4, elinewidth=0.6, label=label)
    axes.set(title=title, xlabel="cost of a stopped row / full rollout", ylabel="Spearman within prompts", ylim=(-0.05, 1.0))
    axes.grid(alpha=0.25)


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    figure, panels = plt.subplots(2, 3, figsize=(15, 9))
    handles = {}
    for axes, (title, key, steps, shift) in zip(panels.flat, PANELS):
        rows = [row for row in results["rows"] if (row["sampler"], row["steps_total"], row["shift"]) == (key, steps, shift)]
        draw(axes, rows, title)
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels())))
    panels.flat[-1].axis("off")
    panels.flat[-1].legend(handles.values(), handles.keys(), loc="center", frameon=False, fontsize=11)
    figure.tight_layout()
    figure.savefig(IMAGE, dpi=80)


if __name__ == "__main__":
    main()
