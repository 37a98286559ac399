"""From results.json: docs/images/estimator_bias.png, and the tables between the marks in docs/statistics.md."""

import json
from pathlib import Path
from typing import Any, Callable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
BEGIN, END = "<!-- estimator_bias: begin -->", "<!-- estimator_bias: end -->"
ESTIMATORS = ("shrunk", "difference", "survivors", "predicted")
WEIGHTS = ("one", "inverse", "inverse, no clip")

Row = dict[str, Any]


def cell(bias: dict[str, float]) -> str:
    return f"{bias['percent']:+.1f} ± {bias['standard_error']:.1f}".replace("-", "−")


def find(rows: list[Row], **wanted: Any) -> Row:
    (row,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return row


def table(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def main_table(rows: list[Row], policies: list[str]) -> str:
    """Bias against the host's own advantages of whole groups: every policy, σ and weight, one estimator a column."""
    lines = []
    for policy in policies:
        for std in ("global", "group"):
            for weights in WEIGHTS:
                same = {"policy": policy, "std": std, "weights": weights, "leave_one_out": False, "prefix_credit": False}
                cells = [cell(find(rows, estimator=name, **same)["bias"]) for name in ESTIMATORS]
                shrunk = find(rows, estimator="shrunk", **same)
                across = f"{abs(shrunk['bias']['across_percent']):.0f}"
                lines.append([policy, std, weights, *cells, across, f"{shrunk['noise']:.1f}"])
    return table(["policy", "σ", "weights", *ESTIMATORS, "across", "noise"], lines)


def fixed_table(rows: list[Row], policies: list[str]) -> str:
    """Bias against the true gradient with a fixed σ and no clip: what is exact, and what the own row costs."""
    options: dict[str, Callable[[str], Row]] = {
        "predicted": lambda policy: {"estimator": "predicted", "leave_one_out": False, "prefix_credit": False},
        "predicted, leave-one-out": lambda policy: {"estimator": "predicted", "leave_one_out": True, "prefix_credit": False},
        "predicted, leave-one-out, prefix credit": lambda policy: {
            "estimator": "predicted", "leave_one_out": True, "prefix_credit": True},
        "shrunk, leave-one-out": lambda policy: {"estimator": "shrunk", "leave_one_out": True, "prefix_credit": False},
    }
    lines = []
    for policy in policies:
        same = {"policy": policy, "std": "fixed", "weights": "inverse, no clip"}
        found = [find(rows, **same, **choose(policy)) for choose in options.values()]
        lines.append([policy, *(f"{cell(row['bias_true'])} ({row['noise']:.1f})" for row in found)])
    return table(["policy", *options], lines)


def draw(rows: list[Row], policies: list[str]) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True, layout="constrained")
    for axis, weights in zip(axes, WEIGHTS):
        for k, name in enumerate(ESTIMATORS):
            found = [
                find(rows, policy=policy, std="global", weights=weights, estimator=name, leave_one_out=False,
                     prefix_credit=False)["bias"]
                for policy in policies
            ]
            places = [i + 0.2 * (k - 1.5) for i in range(len(policies))]
            axis.bar(places, [bias["percent"] for bias in found], 0.18, label=name,
                     yerr=[2 * bias["standard_error"] for bias in found])
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(policies)), policies, rotation=30, ha="right")
        axis.set_title(f"weights: {weights}", fontsize=10)
    axes[0].set_ylabel("bias along the gradient, %")
    axes[0].legend(fontsize=8)
    figure.savefig(DOCS / "images" / "estimator_bias.png", dpi=110)


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    rows, policies = results["rows"], results["config"]["policies"]
    draw(rows, policies)
    page = DOCS / "statistics.md"
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    tables = f"{main_table(rows, policies)}\n\n{fixed_title()}\n\n{fixed_table(rows, policies)}"
    page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")


def fixed_title() -> str:
    return ("Against the true gradient, fixed σ, weights `inverse` without a clip; in brackets the noise. Under prefix "
            "credit only the steps before the decision train.")


if __name__ == "__main__":
    main()
