"""Look-ahead: a few big ODE steps of the policy from the decision step to the end of the schedule."""

from __future__ import annotations

SPACING = 1.5  # power with which the steps grow towards the end


def points(sigmas: list, step: int, evaluations: int) -> list:
    """σ of the ends of the look-ahead's steps, from the decision's to the schedule's last: `evaluations` + 2 values.

    Places on the host's own remaining schedule, between its σ where need be: a shifted schedule spends its steps where
    the policy's path bends, and the big steps then follow the host's. The steps grow towards the end: early on, what
    the image will be is decided, late on only how crisp it is.
    Fewer values where fewer steps are left.
    """
    left = len(sigmas) - 1 - step
    evaluations = min(evaluations, left - 1)
    places = [step + left * (index / (evaluations + 1)) ** SPACING for index in range(evaluations + 1)]
    between = [(int(place), place - int(place)) for place in places]
    return [sigmas[i] + share * (sigmas[i + 1] - sigmas[i]) for i, share in between] + [sigmas[-1]]


def final_latent(policy, evaluations: int, guided: bool):
    """Where the policy's ODE ends, guessed with `evaluations` further forwards of every row; [rows, …] fp32.

    The first step takes the prediction that the host has just computed, so it costs nothing: with m further forwards
    there are m + 1 Euler steps. Unguided forwards take half of the rows where the host is guided.
    """
    state, prediction = policy.state, policy.prediction
    ends = points(policy.levels, policy.step, evaluations)
    for position, (level, following) in enumerate(zip(ends, ends[1:])):
        if position > 0:
            prediction = policy.prediction_at(state, level, guided)
        state = policy.move(state, prediction, level, following)
    return state
