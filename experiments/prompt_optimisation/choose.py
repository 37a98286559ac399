"""Decision step, look-ahead and threshold, chosen on prompts that nobody is judged on; and what predictions come from.

A walk goes along an intent's wordings until a prediction is good enough; here all of them are known beforehand.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from grpo_accel.early import EarlyRuns

from . import intents, table


def full_walk(reward: np.ndarray, wanted: float, total: int) -> tuple[float, float]:
    """(mean final reward, row-steps an intent) of generate-score-rewrite over reward [intents, wordings, seeds]."""
    lasts = _lasts(reward, wanted)
    best = [rewards[: last + 1].max() for rewards, last in zip(reward, lasts)]
    return float(np.mean(best)), float(np.mean(lasts + 1) * reward.shape[2] * total)


def early_walk(reward, prediction, threshold: float, try_steps: float, rest_steps: float) -> tuple[float, float]:
    """The same of ours: a row of a try takes `try_steps`, the completion of one `rest_steps`."""
    lasts = _lasts(prediction, threshold)
    best = [rewards[: last + 1].ravel()[np.argmax(predicted[: last + 1])]
            for rewards, predicted, last in zip(reward, prediction, lasts)]
    return float(np.mean(best)), float(np.mean(lasts + 1) * reward.shape[2] * try_steps + rest_steps)


def _lasts(values: np.ndarray, wanted: float) -> np.ndarray:
    good = values.mean(2) >= wanted
    return np.where(good.any(1), good.argmax(1), values.shape[1] - 1)


def choose(walks: list[dict], reward: float) -> dict:
    """The cheapest walk that reaches the reward; where none does, the one that comes nearest."""
    reaching = [walk for walk in walks if walk["reward"] >= reward]
    return min(reaching, key=lambda walk: walk["row_steps"]) if reaching else max(walks, key=lambda walk: walk["reward"])


def look_ahead(arrays: dict, config: dict) -> dict:
    """{step, forwards, threshold, …}, and what its predictions come from."""
    reward, _ = full_walk(arrays["reward"], config["wanted"], config["steps_total"])
    walks = []
    for (at, step), (m, forwards), threshold in itertools.product(
            enumerate(config["choice_steps"]), enumerate(config["choice_forwards"]), config["thresholds"]):
        walks.append(_walk(arrays["reward"], arrays["look"][..., at, m], threshold, step, forwards, config))
    best = choose(walks, reward + config["margin"])
    at = config["choice_steps"].index(best["step"]), config["choice_forwards"].index(best["forwards"])
    return {**best, "wanted_reward": reward, "parts": parts(arrays["reward"], arrays["look"][(..., *at)])}


def of_probe(arrays: dict, config: dict, seed: int, settings: dict) -> dict:
    """The same for a probe, whose predictions on the choice prompts are made here."""
    chosen = intents.intent_sets(config, seed)["choice"]
    early = EarlyRuns(intents.pipeline_of(config), max_rows=32, **settings)
    prediction = np.full(arrays["reward"].shape, np.nan)
    size = config["prompts_a_batch"]
    for batch, start in enumerate(range(0, len(chosen), size)):
        firsts = intents.first_prompts(chosen[start: start + size], config, seed)
        for place, texts in enumerate(zip(*(intents.chain(prompt, config, seed) for prompt in firsts))):
            runs = early.run(list(texts), intents.seeds_of(batch + 500, config, seed), only_early=True,
                             **intents.call_arguments(config))
            prediction[start: start + size, place] = [[run.prediction for run in some] for some in runs]
            early.forget()
    step, forwards = early.steps[0], settings["lookahead_steps"] or 0
    reward, _ = full_walk(arrays["reward"], config["wanted"], config["steps_total"])
    walks = [_walk(arrays["reward"], prediction, float(threshold), step, forwards, config)
             for threshold in np.quantile(prediction.mean(2), np.arange(0.3, 1.0, 0.05))]
    return {**choose(walks, reward + config["margin"]), "wanted_reward": reward, "parts": parts(arrays["reward"], prediction)}


def _walk(reward, prediction, threshold: float, step: int, forwards: int, config: dict) -> dict:
    rest = config["steps_total"] - step - 1
    final, cost = early_walk(reward, prediction, threshold, step + 1 + forwards, rest)
    return {"step": step, "forwards": forwards, "threshold": threshold, "reward": final, "row_steps": cost}


def parts(reward: np.ndarray, prediction: np.ndarray) -> dict:
    """What comes from the wording and what from the seed, over [intents, wordings, seeds]."""
    def share(values: np.ndarray) -> float:
        """Of the variance, what lies between wordings; the mean of few seeds still has seeds' noise, which is taken off."""
        within = values.var(2, ddof=1).mean()
        between = values.mean(2).var() - within / values.shape[2]
        return float(between / (between + within))

    apart = [values - values.mean(2, keepdims=True) for values in (reward, prediction)]
    return {
        "reward_share_of_wording": share(reward), "prediction_share_of_wording": share(prediction),
        "spearman_pooled": float(spearmanr(prediction.ravel(), reward.ravel())[0]),
        "spearman_between_wordings": float(spearmanr(prediction.mean(2).ravel(), reward.mean(2).ravel())[0]),
        "correlation_within_wordings": float(np.corrcoef(apart[0].ravel(), apart[1].ravel())[0, 1]),
    }


def arrays_of(folder: Path) -> dict:
    return table.read(folder)
