"""What one batch shows at each step where it stops to look: features, and scores of guessed images.

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
        self.seconds = dict.fromkeys(("own", "features", *GUESSES), 0.0)
        self._reported = dict.fromkeys(("features", *GUESSES), 0.0)

    @contextmanager
    def __call__(self, name: str, device=None):
        _settle(device)
        started = time.perf_counter()
        try:
            yield
        finally:
            _settle(device)
            self.seconds[name] += time.perf_counter() - started

    def report_signals(self, batch) -> None:
        """Hands the batch what signals took since the last report: before each decision, those that it is based on."""
        taken = {name: self.seconds[name] - self._reported[name] for name in self._reported}
        batch.seconds(PHASES["signal"], sum(taken[name] for name in GUESSES))
        for name, seconds in taken.items():
            batch.seconds(PHASES[name], seconds)
        self._reported = {name: self.seconds[name] for name in taken}

    def report(self, batch, total_seconds: float) -> None:
        """Hands the batch what is left: the host's denoising is the whole without all that was timed."""
        self.report_signals(batch)
        batch.seconds(PHASES["denoise"], total_seconds - sum(self.seconds.values()))


def _settle(device) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


class Signals:
    """The signals of one rollout batch, each taken where the run's configuration wants it.

    Tensors and scores are of the rows that still run, `Rollout.kept`, in their order.
    """

    def __init__(self, rollout):
        self._rollout = rollout
        self._runtime = rollout.runtime
        self._taps = rollout.taps
        self.observed = False  # some step was looked at
        self.scores = {}  # float64 [running, columns] by signal, of the newest look
        self.shown = None  # (images, combined scores) of the previews, [rows, …]: each row's newest, where wanted
        self._audited = None  # see audited_scores

    # ------------------------------------------------------------------ during the denoiser's call

    def watch(self, copies: int) -> list:
        """Hooks for the one call that carries the prompt, and each row `copies` times; the caller removes them."""
        handles = []
        running = len(self._rollout.kept())
        rows = conditional_rows(self._taps, copies * running, running)
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
        """uint8 [running, text tokens], 1 where a token belongs to the prompt's own words."""
        rollout = self._rollout
        masks = [
            self._runtime.content_mask(rollout.pipeline, self._taps, rollout.prompts[row], rollout.text_tokens)
            for row in rollout.kept()
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
        self.scores = {}
        with self._rollout.timed("features", policy.device):
            for name in ("x0", "cfg", "prompt", "state"):
                wanted = self._runtime.finals == "latent" if name == "state" else self._runtime.wants(name)
                if wanted:
                    self._guard(f"{name} of a batch could not be taken", getattr(self, f"_observe_{name}"), policy)
        if any(self._runtime.wants(name) for name in GUESSES):
            self._guard("generators could not be kept", self._observe_guesses, policy)
        if not self.observed:  # the one look at which all rows still run
            self._audited = self._pair_of_scores()
        self.observed = True

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
        if self.shown is not None and self.scores.get("preview") is not None:
            self.shown[1][self._rollout.kept()] = self.scores["preview"][:, 0]
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
        running = rollout.kept()
        if name == "preview" and runtime.keeps_previews():
            self._show(running, images)
        prompts, metadata = ([values[row] for row in running] for values in (rollout.prompts, rollout.metadata))
        return runtime.previewer.start(images, prompts, metadata)

    def _show(self, running: list, images) -> None:
        rows = self._rollout.rows
        if self.shown is None:
            self.shown = images.new_zeros((rows, *images.shape[1:])), np.full(rows, np.nan)
        self.shown[0][running] = images

    def audited_scores(self):
        """float32 [rows, 2]: combined scores of distilled and preview at the batch's first look, where all rows ran.

        NaN where the distilled signal did not speak, or nobody looked.
        """
        if self._audited is None:
            return np.full((self._rollout.rows, 2), np.nan, dtype=np.float32)
        return self._audited.copy()

    def _pair_of_scores(self):
        pair = [self.scores.get(name) for name in ("distilled", "preview")]
        if any(scores is None for scores in pair) or pair[0] is pair[1]:
            return None
        return np.stack([scores[:, 0] for scores in pair], axis=1).astype(np.float32)


def pooled_hidden(state):
    """[rows, tokens, width] → [rows, 2·width] fp32: mean and standard deviation over the tokens."""
    state = state.float()
    return torch.cat([state.mean(dim=1), state.std(dim=1, unbiased=False)], dim=1)
