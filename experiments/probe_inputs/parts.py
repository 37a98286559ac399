"""Which statistic, block and head of attention carries most: a ridge on each alone, judged within held-out prompts.

    python -m experiments.probe_inputs.parts --runs FOLDER --step 3 --out parts.json

One forward of the logged states; of each block's joint attention, head by head and averaged over heads, the text mass, entropy,
maximum, share and concentration over content tokens, each as mean, deviation and maximum over the image.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import yaml

import grpo_accel

from . import judge
from .collect import HERE, Taps, World, prompts_in

STATISTICS = ("mass", "entropy", "maximum", "share", "concentration")
TRAIN_ROWS = 6144
PENALTY = 10.0  # of the ridge, on standardised group-centred values


def statistics(probability: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """P [rows, image, text] and content [rows, 1, text] → [rows, statistics, image]; as grpo_accel/feature/attention.h."""
    inside = probability * content
    shares = inside / inside.sum(-1, keepdim=True).clamp_min(1e-20)
    entropy = -torch.xlogy(shares, shares).sum(-1)
    spatial = inside / inside.sum(1, keepdim=True).clamp_min(1e-20)
    concentration = 1.0 + torch.xlogy(spatial, spatial).sum(1) / math.log(probability.shape[1])
    mixed = (shares * concentration[:, None, :]).sum(-1)
    return torch.stack([probability.sum(-1), entropy, inside.amax(-1), shares.amax(-1), mixed], 1)


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """[rows, statistics, image] → [rows, statistics, 3]."""
    return torch.stack([maps.mean(-1), maps.std(-1), maps.amax(-1)], -1)


@torch.no_grad()
def features(world: World, run: Path, sigma: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """[rows, blocks, heads + 1, statistics, 3], the mean over heads last, and rewards."""
    record = grpo_accel.open_record(run)
    prompts, taps, parts = prompts_in(record)[:limit], Taps(world.transformer), []
    for start in range(0, len(prompts), 64):
        rows = slice(start, start + 64)
        state = torch.from_numpy(record["state"][rows].astype(np.float32))
        text, embedded = world.encode(prompts[rows], 1)
        content = world.content(prompts[rows]).float()[:, None, :]
        with taps:
            world.velocity(state, sigma, text, embedded)
        blocks = []
        for query, key_image, key_text in taps.attention:
            keys = torch.cat([key_image, key_text], 2)
            all_heads = torch.softmax(query @ keys.transpose(2, 3) / query.shape[-1] ** 0.5, -1)[..., key_image.shape[2] :]
            heads = [pooled(statistics(all_heads[:, head], content)) for head in range(all_heads.shape[1])]
            blocks.append(torch.stack([*heads, pooled(statistics(all_heads.mean(1), content))], 1))
        parts.append(torch.stack(blocks, 1).numpy())
    return np.concatenate(parts), np.asarray(record["reward/combined"], dtype=np.float64)[:limit]


def centred(values: np.ndarray, size: int) -> np.ndarray:
    grouped = values.reshape(-1, size, *values.shape[1:])
    return (grouped - grouped.mean(1, keepdims=True)).reshape(values.shape)


def ridge(train: np.ndarray, reward: np.ndarray, held: np.ndarray, size: int) -> np.ndarray:
    """Scores of `held` [rows, values] from a ridge on group-centred values."""
    x, y = centred(train, size), centred(reward, size)
    scale = x.std(0) + 1e-9
    weights = np.linalg.solve((x / scale).T @ (x / scale) + PENALTY * np.eye(x.shape[1]), (x / scale).T @ y)
    return (held / scale) @ weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=HERE / "config.yaml")
    parser.add_argument("--runs", required=True, help="folder with train/step-K and held/step-K")
    parser.add_argument("--step", type=int, required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load(Path(options.config).read_text())
    size, world, sigma = config["group_size"], World(), 1.0 - options.step / 10
    train, reward = features(world, Path(options.runs) / "train" / f"step-{options.step}", sigma, TRAIN_ROWS)
    held, truth = features(world, Path(options.runs) / "held" / f"step-{options.step}", sigma, 10**9)
    heads = [*map(str, range(train.shape[2] - 1)), "mean"]
    rows = []

    def add(name: dict, chosen) -> None:
        score = ridge(chosen(train).reshape(len(train), -1), reward, chosen(held).reshape(len(held), -1), size)
        rows.append({**name, **judge.figures(score, truth, size, config["resamples"], config["seed"])})

    for block in range(train.shape[1]):
        for head, title in enumerate(heads):
            for number, statistic in enumerate(STATISTICS):
                add({"block": block, "head": title, "statistic": statistic}, lambda v: v[:, block, head, number])
        add({"block": block, "head": "mean", "statistic": "all"}, lambda v: v[:, block, -1])
    for number, statistic in enumerate(STATISTICS):
        add({"block": "all", "head": "mean", "statistic": statistic}, lambda v: v[:, :, -1, number])
        add({"block": "all", "head": "each", "statistic": statistic}, lambda v: v[:, :, :-1, number])
    add({"block": "all", "head": "each", "statistic": "all"}, lambda v: v[:, :, :-1])
    Path(options.out).write_text(json.dumps({"n_train_rows": len(train), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
