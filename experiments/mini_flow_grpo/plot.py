"""Draws docs/images/mini_flow_grpo.png from results.json: reward against updates and time."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parents[1] / "docs" / "images" / "mini_flow_grpo.png"
SMOOTHED_OVER = 10  # updates


def smoothed(values):
    """Mean over the last few values."""
    spans = [values[max(0, i + 1 - SMOOTHED_OVER) : i + 1] for i in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def minutes_at(results):
    """Minutes of training at the end of each number of updates, the evaluations left out."""
    # A line's evaluation is made before its update: its time is the end of the update before.
    return [0.0, *(row["training_seconds"] / 60 for row in results["rows"])]


def draw_held_out(axes, x, values, errors):
    lower, upper = ([v + sign * e for v, e in zip(values, errors)] for sign in (-1, 1))
    axes.fill_between(x, lower, upper, color="tab:orange", alpha=0.2, lw=0, label="± standard error")
    axes.plot(x, values, "o-", color="tab:orange", ms=4, label="held-out prompts, ODE")


def draw_rewards(axes, trained, evaluated):
    numbers, rewards = [row["update"] + 1 for row in trained], [row["reward"] for row in trained]
    axes.plot(numbers, rewards, color="0.85", lw=1, label="rollouts of each update")
    axes.plot(numbers, smoothed(rewards), color="tab:blue", label=f"rollouts, mean of {SMOOTHED_OVER}")
    draw_held_out(
        axes,
        [row["update"] for row in evaluated],
        [row["eval_reward"] for row in evaluated],
        [row["eval_reward_error"] for row in evaluated],
    )
    axes.set(xlabel="updates", ylabel="mean reward")
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.3 * (high - low), high)  # room for the legend
    axes.legend(frameon=False, loc="lower right", fontsize="small", ncols=2)


def draw_rise(axes, minutes, evaluated):
    axes.axhline(0, color="0.5", lw=1)
    draw_held_out(
        axes,
        [minutes[row["update"]] for row in evaluated],
        [row["eval_rise"] for row in evaluated],
        [row["eval_rise_error"] for row in evaluated],
    )
    axes.set(xlabel="minutes of training, evaluations left out", ylabel="rise of the held-out reward")
    axes.legend(frameon=False, loc="upper left", fontsize="small")


def main():
    results = json.loads((HERE / "results.json").read_text())
    trained = [row for row in results["rows"] if "reward" in row]
    evaluated = [row for row in results["rows"] if "eval_reward" in row]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    draw_rewards(left, trained, evaluated)
    draw_rise(right, minutes_at(results), evaluated)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=110)


if __name__ == "__main__":
    main()
