"""Draws docs/images/auto_mode.png from results.json: what mode auto did in each arm, and what a probe's end costs."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import yaml  # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parents[1] / "docs" / "images" / "auto_mode.png"
NAMES = {"pays": "a good probe", "random_probe": "a random probe", "shared_state": "rollouts that share their noise",
         "expensive_preview": "an expensive preview"}


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    noise_update = yaml.safe_load((HERE / "config.yaml").read_text())["noise_update"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4))
    for shift, (name, arm) in enumerate(results["arms"].items()):
        stopped = [rate + shift * 0.006 for rate in arm["rate"]]  # so that lines at 0 are seen beside each other
        left.step(range(len(stopped)), stopped, where="mid", label=NAMES[name])
    left.set(title="Four jobs in mode auto", xlabel="update", ylabel="share of rollouts stopped", ylim=(-0.03, 1))
    left.legend(frameon=False, fontsize=8)
    noise = results["noise_in_mid_run"]
    for pair in noise["pairs"]:
        middle.step(range(len(pair["noise"]["rate"])), pair["noise"]["rate"], where="mid", color="tab:blue", alpha=0.4)
    middle.axvline(noise_update - 0.5, color="tab:red", lw=1)
    middle.text(noise_update, 0.93, "the probe turns to noise", color="tab:red", fontsize=8)
    middle.set(title=f"{len(noise['pairs'])} jobs whose probe is replaced", xlabel="update", ylim=(-0.03, 1))
    ratios = noise["ratios"]
    right.scatter(range(len(ratios)), ratios, color="tab:blue")
    right.axhline(1.0, color="0.5", lw=1)
    right.axhline(1.02, color="tab:red", lw=1, ls="--")
    low, high = noise["ratio"]["ci95"]
    right.axhspan(low, high, color="tab:blue", alpha=0.15)
    right.set(title="their processor seconds / the trainer's alone", xlabel="pair", xticks=range(len(ratios)))
    figure.tight_layout()
    figure.savefig(IMAGE, dpi=80)


if __name__ == "__main__":
    main()
