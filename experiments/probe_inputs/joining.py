"""How much any linear join could add to the best score: least squares fitted on the held-out prompts themselves.

Each prompt is judged by weights fitted on the other folds' prompts, on group-centred values. That is more than a probe
can know, which sees other prompts, other rows and has to find its features: an upper bound for joining by weights.
"""

from __future__ import annotations

import numpy as np

from . import judge, probes, report

FOLDS = 6
RIDGE = 1e-6


def centred(values: np.ndarray, size: int) -> np.ndarray:
    groups = values.reshape(-1, size)
    return (groups - groups.mean(axis=1, keepdims=True)).ravel()


def joined(columns: list, reward: np.ndarray, size: int) -> np.ndarray:
    """Cross-fitted least squares of the columns; [rows]."""
    values = np.stack([centred(column, size) for column in columns], axis=1)
    wanted = centred(reward, size)
    fold = np.repeat(np.arange(len(wanted) // size) % FOLDS, size)
    found = np.zeros(len(wanted))
    for held in range(FOLDS):
        known = values[fold != held]
        gram = known.T @ known + RIDGE * np.eye(known.shape[1])
        found[fold == held] = values[fold == held] @ np.linalg.solve(gram, known.T @ wanted[fold != held])
    return found


def learned(one: report.Judged, wanted: list, step: int) -> list:
    """What probes on features alone say of the held-out rows."""
    names = {f"{one.sampler['name']}@{step}/{label}" for label in ("attention", "x0", "hidden", "features")}
    return [report.read_predictions(probe.predictions) for probe in wanted if probe.name in names]


def bounds(judged: list, wanted: list, config: dict) -> list:
    """For each sampler, step and score: the score alone, and with everything learned joined to it."""
    size, found = config["group_size"], []
    for one in judged:
        for step, looks in sorted(one.sampler["looks"].items()):
            features = learned(one, wanted, step)
            for name in ["preview", *(f"lookahead{count}" for count in looks)]:
                score = one.columns[f"{name}@{step}|tiny"]
                both = joined([score, *features], one.reward, size)
                found.append({
                    "sampler": one.sampler["name"], "step": step, "score": name,
                    "alone": judge.figures(score, one.reward, size, config["resamples"], config["seed"])["within_spearman"],
                    **judge.difference(both, score, one.reward, size, config["resamples"], config["seed"]),
                })
    return found
