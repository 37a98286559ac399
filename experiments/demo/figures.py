"""Figures of a demo run: how well rewards were predicted, what was stopped, where the seconds went."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

MIN_GROUP_ROWS = 3  # two rows can only agree or not: their Spearman is ±1
MIN_GROUPS = 8
RESAMPLES = 2000
PHASES = ("rollout", "signal", "reward", "train", "accel")


@dataclass
class Judged:
    """Rows on which a prediction may be judged, with where they come from."""

    prediction: np.ndarray
    reward: np.ndarray
    group: np.ndarray
    source: str


def kept_by_chance(record):
    """Rows with prediction and reward whose keeping did not depend on the prediction.

    These are the audited rows. Before enough groups were audited, rows of shadow updates join them, where
    every row is kept.
    """
    rows = record.rows
    known = rows["kept"] & np.isfinite(rows["prediction"]) & np.isfinite(rows["reward"])
    audited = known & rows["audit"]
    if len(usable_groups(rows, audited)) >= MIN_GROUPS:
        chosen, source = audited, "audited rows"
    else:
        shadow = np.isin(rows["batch"], record.batches["batch"][record.batches["mode"] == "shadow"])
        chosen, source = audited | (known & shadow), "audited rows and rows of shadow updates"
    return Judged(rows["prediction"][chosen], rows["reward"][chosen], rows["group"][chosen], source)


def usable_groups(rows, chosen):
    groups, counts = np.unique(rows["group"][chosen], return_counts=True)
    return groups[counts >= MIN_GROUP_ROWS]


def rows_by_group(groups):
    """Index arrays of the groups with enough rows."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return [members for members in np.split(order, starts) if len(members) >= MIN_GROUP_ROWS]


def group_spearmans(judged):
    """Spearman of each group in which both prediction and reward vary: f64 [groups]."""
    found = []
    for members in rows_by_group(judged.group):
        prediction, reward = judged.prediction[members], judged.reward[members]
        if np.ptp(prediction) > 0 and np.ptp(reward) > 0:
            found.append(stats.spearmanr(prediction, reward).statistic)
    return np.array(found)


def bootstrap_interval(values, seed=0):
    """95 % interval of the mean, groups drawn with replacement; None with fewer than two groups."""
    if len(values) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return [float(bound) for bound in np.quantile(values[draws].mean(axis=1), [0.025, 0.975])]


def top_quarter_auc(prediction, reward):
    """Pooled area under the ROC curve for "in the top quarter of the rewards"; None without both classes."""
    top = reward >= np.quantile(reward, 0.75)
    positives, negatives = int(top.sum()), int((~top).sum())
    if positives == 0 or negatives == 0:
        return None
    ranks = stats.rankdata(prediction)
    return float((ranks[top].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def centred(judged):
    """(prediction, reward) minus their group's means, of the groups with enough rows."""
    prediction, reward = [], []
    for members in rows_by_group(judged.group):
        prediction.append(judged.prediction[members] - judged.prediction[members].mean())
        reward.append(judged.reward[members] - judged.reward[members].mean())
    if not prediction:
        return np.empty(0), np.empty(0)
    return np.concatenate(prediction), np.concatenate(reward)


def probe_figures(record):
    """The summary's ``probe`` and the rows behind it."""
    judged = kept_by_chance(record)
    spearmans = group_spearmans(judged)
    varied = len(judged.reward) > 2 and np.ptp(judged.prediction) > 0 and np.ptp(judged.reward) > 0
    return {
        "step": decision_step(record),
        "version": int(record.rows["probe_version"].max(initial=0)),
        "within_spearman": float(spearmans.mean()) if len(spearmans) else None,
        "within_ci95": bootstrap_interval(spearmans),
        "pooled_spearman": float(stats.spearmanr(judged.prediction, judged.reward).statistic) if varied else None,
        "auc": top_quarter_auc(judged.prediction, judged.reward) if varied else None,
        "n_groups": len(spearmans),
    }, judged


def decision_step(record):
    """The newest update's most frequent decision step."""
    rows = record.rows
    if len(rows["update"]) == 0:
        return None
    newest = rows["step"][rows["update"] == rows["update"].max()]
    steps, counts = np.unique(newest, return_counts=True)
    return int(steps[counts.argmax()])


def row_counts(record):
    rows = record.rows
    # The decision needs the velocity at its state, so a stopped row has run that step too.
    run = np.where(rows["kept"], rows["steps_total"], np.minimum(rows["step"] + 1, rows["steps_total"]))
    return {
        "rows_total": len(rows["kept"]),
        "rows_pruned": int((~rows["kept"]).sum()),
        "row_steps_run": int(run.sum()),
        "row_steps_full": int(rows["steps_total"].sum()),
    }


def mode_by_update(record):
    """update -> mode; an update is ``prune`` when any of its batches may have been pruned."""
    modes = {}
    for update, mode in zip(record.batches["update"], record.batches["mode"]):
        update = int(update)
        modes[update] = mode if modes.get(update) != "prune" else "prune"
    return modes


def batch_seconds(record, column, update):
    """Seconds of an update's batches, mean over the ranks."""
    batches = record.batches
    mine = batches["update"] == update
    return float(np.nansum(batches[column][mine])) / max(record.ranks, 1)


def update_seconds(line, record):
    """Seconds of one update by phase; the parts add up to what the trainer measured.

    The trainer's rollout contains the previews and the runtime's own work; both are taken out of it and
    stand for themselves. Where the runtime worked outside the rollout (advantages, record), rollout is too
    small by that and the overhead fraction too large: the error is to our disadvantage.
    """
    host = line["seconds"]
    signal = batch_seconds(record, "seconds_signal", line["update"])
    accel = batch_seconds(record, "seconds_own", line["update"])
    return {
        "rollout": max(host.get("rollout", 0.0) - signal - accel, 0.0),
        "signal": signal,
        "reward": host.get("reward", 0.0),
        "train": host.get("train", 0.0),
        "accel": accel,
    }


def seconds_by_mode(run):
    """mode -> mean seconds of an update by phase, None for a mode that did not occur."""
    modes = mode_by_update(run.record)
    found = {"shadow": [], "prune": []}
    for line in run.updates:
        mode = modes.get(line["update"])
        if mode in found and "rollout" in line.get("seconds", {}):
            found[mode].append(update_seconds(line, run.record))
    return {
        mode: {phase: float(np.mean([s[phase] for s in rows])) for phase in PHASES} if rows else None
        for mode, rows in found.items()
    }


def reward_change(updates):
    """First and last held-out reward; of the training rollouts where nothing was held out."""
    for name in ("eval_reward", "reward"):
        values = [line[name] for line in updates if name in line]
        if len(values) >= 2:
            return {"start": values[0], "end": values[-1]}
    return {"start": None, "end": None}


def overhead_fraction(seconds):
    prune = seconds["prune"]
    return prune["accel"] / prune["rollout"] if prune and prune["rollout"] > 0 else None


def summarise(run, verified=None):
    """(summary as it is written to ``summary.json``, the judged rows)."""
    record = run.record
    if record is None:
        raise ValueError(f"{run.folder / 'record'} holds no readable segment: was the run started with shadow or auto?")
    probe, judged = probe_figures(record)
    seconds = seconds_by_mode(run)
    return {
        "ranks": record.ranks,
        "updates": len({int(u) for u in record.rows["update"]}),
        **row_counts(record),
        "seconds": seconds,
        "reward": reward_change(run.updates),
        "probe": probe,
        "record": {
            "rows": len(record.rows["kept"]),
            "segments": record.segments,
            "bytes": record.bytes,
            "verified": verified,
        },
        "overhead_fraction": overhead_fraction(seconds),
    }, judged
