"""Group-relative advantages: how much better a rollout is than the others of its prompt."""

import numpy as np


class PerPromptStatTracker:
    """Collects the rewards of an update by prompt and normalises them.

    Args:
        global_std: divide by the standard deviation of all rewards of the update; otherwise by that of
            the prompt's own rewards.
    """

    def __init__(self, global_std=False):
        self.global_std = global_std
        self.stats = {}
        self.history_prompts = set()

    def update(self, prompts, rewards, type="grpo"):
        """Advantages of one update, over all ranks.

        Args:
            prompts: N strings. rewards: [N, T], one column a trained step.
            type: only "grpo": (reward - mean of the prompt) / (standard deviation + 1e-4).

        Returns:
            float64 [N, T].
        """
        if type != "grpo":
            raise ValueError(f"unknown advantage type {type!r}: this tracker knows 'grpo' only")
        prompts = np.asarray(prompts)
        rewards = np.asarray(rewards, dtype=np.float64)
        advantages = np.zeros_like(rewards)
        for prompt in np.unique(prompts):
            members = prompts == prompt
            known = self.stats.get(prompt)
            seen = rewards[members] if known is None else np.concatenate([known, rewards[members]])
            self.stats[prompt] = seen
            self.history_prompts.add(hash(prompt))
            spread = rewards if self.global_std else seen
            std = np.std(spread, axis=0, keepdims=True) + 1e-4
            advantages[members] = (rewards[members] - np.mean(seen, axis=0, keepdims=True)) / std
        return advantages

    def get_stats(self):
        """(mean number of rollouts a prompt since ``clear``, number of different prompts ever seen)."""
        sizes = [len(rewards) for rewards in self.stats.values()]
        return (sum(sizes) / len(sizes) if sizes else 0), len(self.history_prompts)

    def clear(self):
        """Forgets the rewards, as is done after each update."""
        self.stats = {}
