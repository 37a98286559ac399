"""How well scores order the rollouts of a prompt, with intervals over prompts."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks along the last axis."""
    order = np.argsort(values, axis=-1, kind="stable")
    result = np.empty(values.shape)
    for row, (one, by) in enumerate(zip(values.reshape(-1, values.shape[-1]), order.reshape(-1, values.shape[-1]))):
        _, inverse, counts = np.unique(one, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        result.reshape(-1, values.shape[-1])[row] = (ends - (counts - 1) / 2.0)[inverse]
    return result


def spearman_by_group(score: np.ndarray, reward: np.ndarray, size: int) -> np.ndarray:
    """Spearman of each group of `size` rows; 0 where the score says nothing, NaN where the rewards are all equal."""
    a, b = (ranks(values.reshape(-1, size)) for values in (score, reward))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    result = np.where(spread > 1e-12, (a * b).sum(1) / np.maximum(spread, 1e-12), 0.0)
    return np.where((b**2).sum(1) > 1e-12, result, np.nan)


def interval(by_group: np.ndarray, resamples: int, seed: int) -> tuple[float, list[float]]:
    """Mean over groups and its 95 % bootstrap interval."""
    known = by_group[np.isfinite(by_group)]
    draws = np.random.RandomState(seed).randint(len(known), size=(resamples, len(known)))
    low, high = np.percentile(known[draws].mean(1), [2.5, 97.5])
    return float(known.mean()), [round(float(low), 4), round(float(high), 4)]


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half."""
    order = ranks(score[None])[0]
    count = positive.sum()
    return float((order[positive].sum() - count * (count + 1) / 2) / (count * (len(score) - count)))


def figures(score: np.ndarray, reward: np.ndarray, size: int, resamples: int, seed: int) -> dict:
    """What results.json says of one score."""
    value, ci = interval(spearman_by_group(score, reward, size), resamples, seed)
    pooled = ranks(np.stack([score, reward]))
    return {
        "within_spearman": round(value, 4), "within_ci95": ci,
        "pooled_spearman": round(float(np.corrcoef(pooled)[0, 1]), 4),
        "pooled_pearson": round(float(np.corrcoef(score, reward)[0, 1]), 4),
        "auc": round(auc(score, reward >= np.quantile(reward, 0.75)), 4),
        "n_groups": int(len(reward) // size),
    }


def difference(a: np.ndarray, b: np.ndarray, reward: np.ndarray, size: int, resamples: int, seed: int) -> dict:
    """Of two scores on the same rows: how much better `a` orders, paired over groups."""
    by_group = spearman_by_group(a, reward, size) - spearman_by_group(b, reward, size)
    value, ci = interval(by_group, resamples, seed)
    return {"difference": round(value, 4), "ci95": ci}
