"""What one batch shows at each step where it stops to look: features, and scores of guessed images.

Every signal is guarded by itself: what fails is missing in the record, and the batch is not pruned.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np
import torch

from . import lookahead, previews
from .calls import Call, of_rows
from .policy import conditional_rows
from .taps import HIDDEN, Layout, bare

GUESSES = ("preview", "lookahead", "distilled")  # in the order in which they are started and waited for
ATTENTION_ARGUMENTS = ("hidden_states", "encoder_hidden_states", "attention_mask", "rotary_emb")  # by position
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

    @contextmanager
    def watching(self, kwargs: dict, wanted: bool = True):
        """Hooks for one call of the denoiser with these arguments, the one that carries the prompt."""
        handles = self._watch(kwargs) if wanted else []
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def watch_apart(self, call: Call) -> None:
        """A compiled denoiser can't be watched: the prompted rows are asked again, uncompiled, and the answer dropped."""
        rows = conditional_rows(self._taps, call.kwargs[self._taps.STATE].shape[0], len(self._rollout.kept()))
        kwargs = of_rows(self._taps, call.kwargs, rows)
        if self._runtime.wants("attention") or self._runtime.wants("hidden"):
            with self.watching(kwargs), torch.compiler.set_stance("force_eager"):
                self._guard("a compiled denoiser could not be watched", call.again, kwargs)

    def _watch(self, kwargs: dict) -> list:
        handles = []
        running = len(self._rollout.kept())
        rows = conditional_rows(self._taps, kwargs[self._taps.STATE].shape[0], running)
        if self._runtime.wants("attention"):
            self._guard("attention could not be tapped", self._watch_attention, handles, rows, kwargs)
        if self._runtime.wants("hidden"):
            self._guard("the hidden state could not be tapped", self._watch_hidden, handles, rows)
        return handles

    @property
    def _layout(self) -> Layout:
        return Layout(self._rollout.geometry, self._rollout.text_tokens)

    def _guard(self, what: str, function, *arguments):
        try:
            return function(*arguments)
        except Exception as error:
            self._runtime.degrade(what, error)
            return None

    def _watch_attention(self, handles: list, rows: slice, kwargs: dict) -> None:
        rollout = self._rollout
        with rollout.timed("features"):
            content = self._guard("content tokens are not known, so all text tokens count", self._content, rows, kwargs)
        for tap, block in enumerate(rollout.batch.blocks()):
            hook = self._attention_hook(tap, rows, content)
            handles.append(rollout.blocks[block][1].register_forward_pre_hook(hook, with_kwargs=True))

    def _content(self, rows: slice, kwargs: dict):
        """uint8 [running, text tokens]: 1 where a token belongs to the prompt's own words, HIDDEN where no image
        token may look at it."""
        rollout, prompted = self._rollout, of_rows(self._taps, kwargs, rows)
        running = rollout.kept()
        valid = self._taps.valid_tokens(prompted)
        counts = [None] * len(running) if valid is None else valid.tolist()
        masks = torch.tensor([
            self._runtime.content(rollout.pipeline, self._taps, rollout.prompts[row], rollout.text_tokens, count)
            for row, count in zip(running, counts)
        ], dtype=torch.uint8)
        attended = self._taps.attended(prompted)
        if attended is not None:
            masks[~attended.cpu()] = HIDDEN
        return masks

    def _attention_hook(self, tap: int, rows: slice, content):
        def take(attention, kwargs):
            query, key_image, key_text = self._taps.query_and_keys(attention, kwargs, rows, self._layout)
            self._rollout.batch.observe_attention(tap, query, key_image, key_text, content)

        @torch.compiler.disable
        def hook(attention, args, kwargs):
            named = {**dict(zip(ATTENTION_ARGUMENTS, args)), **kwargs}
            with self._rollout.timed("features", named["hidden_states"].device), torch.no_grad():
                self._guard("the attention of a block could not be captured", take, attention, named)

        return hook

    def hidden_values(self, denoiser) -> int:
        """Width of input hidden, 0 where it is not wanted; a block that is not there is told of when it is watched."""
        if not self._runtime.wants("hidden"):
            return 0
        try:
            block = self._hidden_block(denoiser)
        except ValueError:
            block = self._taps.hidden_blocks(denoiser)[0][1]
        return 2 * self._taps.hidden_width(denoiser, block)

    def _hidden_block(self, denoiser):
        """The block whose hidden state is taken: "middle", or a block by the name of it or of its attention."""
        found, name = self._taps.hidden_blocks(denoiser), self._runtime.hidden_block
        if name == "middle":
            return found[len(found) // 2][1]
        wanted = name.removesuffix(".attn")
        for known, block in found:
            if known == wanted:
                return block
        raise ValueError(
            f"there is no block {name}: probe.hidden_block is middle or one of {found[0][0]} to {found[-1][0]}")

    def _watch_hidden(self, handles: list, rows: slice) -> None:
        rollout = self._rollout
        block = self._hidden_block(bare(getattr(rollout.pipeline, self._taps.DENOISER)))

        def take(output):
            state = self._taps.hidden_state(output, self._layout)
            with rollout.timed("features", state.device), torch.no_grad():
                rollout.batch.observe_vectors("hidden", pooled_hidden(state[rows]))

        @torch.compiler.disable
        def hook(module, args, output):
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
        velocity = policy.process.velocity(policy.state, policy.prediction, policy.level)
        self._rollout.batch.observe_latent(policy.map_of(policy.state), policy.map_of(velocity), policy.level)

    def _observe_cfg(self, policy) -> None:
        if policy.unconditional is not None:
            self._rollout.batch.observe_guidance(
                policy.map_of(policy.conditional), policy.map_of(policy.unconditional))

    def _observe_prompt(self, policy) -> None:
        self._rollout.batch.observe_vectors("prompt", self._taps.pooled(policy.prompted_arguments()))

    def _observe_state(self, policy) -> None:
        self._rollout.batch.state(policy.map_of(policy.state))

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
        shown = self.scores.get(self._runtime.shown_guess())
        if self.shown is not None and shown is not None:
            self.shown[1][self._rollout.kept()] = shown[:, 0]
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
        images = runtime.previewer.decode(rollout.taps, rollout.pipeline, latent, policy.geometry)
        running = rollout.kept()
        if name == runtime.shown_guess() and runtime.keeps_previews():
            self.show(running, images)
        prompts, metadata = ([values[row] for row in running] for values in (rollout.prompts, rollout.metadata))
        return runtime.previewer.start(images, prompts, metadata)

    def show(self, running: list, images) -> None:
        """Keeps images [running, 3, H, W] as the previews of these rows."""
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
