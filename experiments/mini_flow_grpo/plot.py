"""Draws docs/images/mini_flow_grpo.png from results.json: reward against training time, without pruning."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parents[1] / "docs" / "images" / "mini_flow_grpo.png"
SMOOTHED_OVER = 5  # updates


def smoothed(values):
    """Mean over the last few values."""
    return [
        sum(values[max(0, i + 1 - SMOOTHED_OVER) : i + 1]) / min(i + 1, SMOOTHED_OVER) for i in range(len(values))
    ]


def main():
    results = json.loads((HERE / "results.json").read_text())
    updates = [row for row in results["rows"] if "reward" in row]
    evaluated = [row for row in results["rows"] if "eval_reward" in row]
    minutes = [row["training_seconds"] / 60 for row in updates]

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(3, 2), layout="constrained")
    left.plot(minutes, [row["reward"] for row in updates], color="0.8", lw=1, label="rollouts, each update")
    left.plot(
        minutes,
        smoothed([row["reward"] for row in updates]),
        color="tab:blue",
        label=f"rollouts, mean of {SMOOTHED_OVER} updates",
    )
    left.plot(
        # A line's evaluation is made before its update: its time is the end of the update before.
        [results["rows"][row["update"] - 1]["training_seconds"] / 60 if row["update"] else 0 for row in evaluated],
        [row["eval_reward"] for row in evaluated],
        "o-",
        color="tab:orange",
        label="held-out prompts, ODE",
    )
    left.set(xlabel="training time, minutes (evaluation left out)", ylabel="mean reward")
    left.legend(frameon=False, loc="lower right")
    left.grid(alpha=0.3)

    shares = results["headline"]["seconds_per_update"]
    names = {"rollout": "rollouts", "reward": "waiting for rewards", "train": "training"}
    right.barh([names[name] for name in shares], list(shares.values()), color="tab:blue")
    right.bar_label(right.containers[0], fmt="%.2f s", padding=3)
    right.invert_yaxis()
    right.margins(x=0.2)
    right.set(xlabel="seconds an update", title=f"{results['rows'][0]['rows']} rollouts on {results['ranks']} ranks")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=110)


if __name__ == "__main__":
    main()
