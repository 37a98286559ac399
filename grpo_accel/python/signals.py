"""What one batch shows at the decision step: features, and scores of guessed images.

Every signal is guarded by itself: what fails is missing in the record, and the batch is not pruned.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np
import torch

from . import lookahead, previews
from .policy import conditional_rows

GUESSES = ("preview", "lookahead", "distilled")  # in the order in which they are started and waited for
PHASES = {"denoise": 0, "signal": 1, "preview": 3, "lookahead": 4, "distilled": 5, "features": 6}


class Stopwatch:
    """Seconds of the main thread by name, with the device's queue run dry at both ends."""

    def __init__(self):
        self.seconds = {"own": 0.0, "features": 0.0, **{name: 0.0 for name in GUESSES}}

    @contextmanager
    def __call__(self, name: str, device=None):
        _settle(device)
        started = time.perf_counter()
        try:
            yield
        finally:
            _settle(device)
            self.seconds[name] += time.perf_counter() - started

    def report(self, batch, total_seconds: float) -> None:
        """Hands the batch its phases: the host's denoising is what is left of the whole."""
        signal = sum(self.seconds[name] for name in GUESSES)
        batch.seconds(PHASES["denoise"], total_seconds - signal - self.seconds["own"] - self.seconds["features"])
        batch.seconds(PHASES["signal"], signal)
        for name in ("features", *GUESSES):
            batch.seconds(PHASES[name], self.seconds[name])


def _settle(device) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


class Signals:
    """The signals of one rollout batch, each taken where the run's configuration wants it."""

    def __init__(self, rollout):
        self._rollout = rollout
        self._runtime = rollout.runtime
        self._taps = rollout.taps
        self.preview_images = None
        self.scores = {}  # float64 [rows, columns] by signal

    # ------------------------------------------------------------------ during the denoiser's call

    def watch(self, total_rows: int) -> list:
        """Hooks for the one call that carries the prompt; the caller removes them after it."""
        handles = []
        rows = conditional_rows(self._taps, total_rows, self._rollout.rows)
        if self._runtime.wants("attention"):
            self._guard("attention could not be tapped", self._watch_attention, handles, rows)
        if self._runtime.wants("hidden"):
            self._guard("the hidden state could not be tapped", self._watch_hidden, handles, rows)
        return handles

    def _guard(self, what: str, function, *arguments):
        try:
            return function(*arguments)
        except Exception as error:
            self._runtime.degrade(what, error)
            return None

    def _watch_attention(self, handles: list, rows: slice) -> None:
        rollout = self._rollout
        with rollout.timed("features"):
            content = self._guard("content tokens are not known, so all text tokens count", self._content)
        for tap, block in enumerate(rollout.batch.blocks()):
            hook = self._attention_hook(tap, rows, content)
            handles.append(rollout.blocks[block][1].register_forward_pre_hook(hook, with_kwargs=True))

    def _content(self):
        """uint8 [rows, text tokens], 1 where a token belongs to the prompt's own words."""
        rollout = self._rollout
        masks = [
            self._runtime.content_mask(rollout.pipeline, self._taps, prompt, rollout.text_tokens)
            for prompt in rollout.prompts
        ]
        return torch.tensor(masks, dtype=torch.uint8)

    def _attention_hook(self, tap: int, rows: slice, content):
        def take(attention, kwargs):
            query, key_image, key_text = self._taps.query_and_keys(attention, kwargs, rows)
            self._rollout.batch.observe_attention(tap, query, key_image, key_text, content)

        def hook(attention, args, kwargs):
            with self._rollout.timed("features", kwargs["hidden_states"].device), torch.no_grad():
                self._guard("the attention of a block could not be captured", take, attention, kwargs)

        return hook

    def _watch_hidden(self, handles: list, rows: slice) -> None:
        rollout = self._rollout
        block = self._taps.hidden_block(getattr(rollout.pipeline, self._taps.DENOISER), self._runtime.hidden_block)

        def take(output):
            rollout.batch.observe_vectors("hidden", pooled_hidden(self._taps.hidden_state(output)[rows]))

        def hook(module, args, output):
            with rollout.timed("features", self._taps.hidden_state(output).device), torch.no_grad():
                self._guard("the hidden state could not be taken", take, output)

        handles.append(block.register_forward_hook(hook))

    # ------------------------------------------------------------------ after it

    def observe(self, policy) -> None:
        with self._rollout.timed("features", policy.device):
            for name in ("x0", "cfg", "prompt", "state"):
                wanted = self._runtime.finals == "latent" if name == "state" else self._runtime.wants(name)
                if wanted:
                    self._guard(f"{name} of a batch could not be taken", getattr(self, f"_observe_{name}"), policy)
        if any(self._runtime.wants(name) for name in GUESSES):
            self._guard("generators could not be kept", self._observe_guesses, policy)

    def _observe_x0(self, policy) -> None:
        self._rollout.batch.observe_latent(policy.state, policy.velocity, policy.sigma)

    def _observe_cfg(self, policy) -> None:
        if policy.unconditional is not None:
            self._rollout.batch.observe_guidance(policy.conditional, policy.unconditional)

    def _observe_prompt(self, policy) -> None:
        self._rollout.batch.observe_vectors("prompt", policy.argument(self._taps.POOLED_ARGUMENT).float())

    def _observe_state(self, policy) -> None:
        self._rollout.batch.state(policy.state)

    def _observe_guesses(self, policy) -> None:
        """Previews of all kinds. Their scorers run beside each other where the host's executor has free threads."""
        if self._runtime.distilled is not None:
            self._runtime.distilled.meet(policy)
        with previews.generators_untouched():
            pending = {name: self._start(name, policy) for name in GUESSES if self._is_asked(name)}
            for name, job in pending.items():
                if job is not None:
                    with self._rollout.timed(name, policy.device):
                        self.scores[name] = self._guard(f"the {name} of a batch could not be scored", job.result)
        if self._runtime.wants("distilled") and "distilled" not in pending:
            self.scores["distilled"] = self.scores.get("preview")
        for name, scores in self.scores.items():
            if scores is not None and self._runtime.wants(name):
                observe = self._rollout.batch.observe_scores
                self._guard(f"the {name} of a batch could not be observed", observe, name, scores)

    def _is_asked(self, name: str) -> bool:
        distilled = self._runtime.distilled
        if name == "distilled":
            return distilled is not None and distilled.speaks()
        if name == "preview" and distilled is not None:
            return True  # the distilled signal is audited against it
        return self._runtime.wants(name)

    def _start(self, name: str, policy):
        with self._rollout.timed(name, policy.device):
            return self._guard(f"the {name} of a batch could not be made", self._guess, name, policy)

    def _guess(self, name: str, policy):
        runtime, rollout = self._runtime, self._rollout
        latent = {
            "preview": policy.x0,
            "lookahead": lambda: lookahead.final_latent(policy, runtime.lookahead_steps, runtime.lookahead_guided),
            "distilled": lambda: runtime.distilled.final_latent(policy),
        }[name]()
        images = runtime.previewer.decode(rollout.pipeline, latent)
        if name == "preview":
            self.preview_images = images
        return runtime.previewer.start(images, rollout.prompts, rollout.metadata)

    def audited_scores(self):
        """float32 [rows, 2]: combined scores of distilled and preview, NaN where the distilled one did not speak."""
        pair = [self.scores.get(name) for name in ("distilled", "preview")]
        if any(scores is None for scores in pair) or pair[0] is pair[1]:
            return np.full((self._rollout.rows, 2), np.nan, dtype=np.float32)
        return np.stack([scores[:, 0] for scores in pair], axis=1).astype(np.float32)


def pooled_hidden(state):
    """[rows, tokens, width] → [rows, 2·width] fp32: mean and standard deviation over the tokens."""
    state = state.float()
    return torch.cat([state.mean(dim=1), state.std(dim=1, unbiased=False)], dim=1)
