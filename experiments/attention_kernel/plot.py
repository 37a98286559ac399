"""Draws docs/images/attention_kernel.png from results.json: seconds and memory beside eager PyTorch's."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parents[1] / "docs" / "images" / "attention_kernel.png"
NAMES = {"ours": "grpo_accel", "eager": "PyTorch, eager"}


def draw(axes: Any, rows: list[dict[str, Any]], figure: str, label: str) -> None:
    """One group of bars for each number of threads."""
    for i, (name, text) in enumerate(NAMES.items()):
        values = [row[f"{name}_{figure}"] for row in rows]
        bars = axes.bar([k + 0.4 * (i - 0.5) for k in range(len(rows))], values, 0.37, label=text)
        axes.bar_label(bars, fmt=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}", fontsize=8)
    axes.set_xticks(range(len(rows)), [f"{row['threads']} thread{'s' * (row['threads'] > 1)}" for row in rows])
    axes.set_ylabel(label)
    axes.set_yscale("log")
    axes.margins(y=0.15)


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    draw(left, results["rows"], "seconds", "seconds a block (log)")
    draw(right, results["rows"], "extra_memory_mb", "additional memory, MiB (log)")
    left.legend(fontsize=8)
    config = results["config"]
    tokens = f"{config['image_tokens']} × ({config['image_tokens']} + {config['text_tokens']})"
    title = f"Attention statistics: {config['rows']} rows, {config['heads']} heads, {tokens} tokens"
    figure.suptitle(title, fontsize=10)
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=120)


if __name__ == "__main__":
    main()
