"""One batch of rollouts of this rank, from the first denoising step to its rewards.

Nothing is put on the host's modules but hooks for the one call at each step where the batch stops to look. The sampler
always sees the full batch: stopped rows get the denoiser's own input back as its output.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from .calls import Call, by_name, moment_of, of_rows, prediction_of, with_prediction
from .pairs import Seen
from .policy import Policy
from .signals import Signals, Stopwatch
from .taps import bare


class Rollout:
    """rows B, doubled to R = 2B under guidance. At each of the batch's steps the rows that still run are looked at and
    a decision stops some of them; from there on only those that it keeps are denoised, and in the end decoded.

    A batch without such steps rests: nothing is hooked, computed or decided.
    """

    def __init__(self, runtime, taps, pipeline, prompts, metadata, arguments=None, noise_window=(-1, -1)):
        self.runtime = runtime
        self.taps = taps
        self.pipeline = pipeline
        self.prompts = prompts
        self.metadata = metadata
        self.arguments = arguments or {}  # of the host's sampling function, by name
        self.noise_window = noise_window
        self.rows = len(prompts)
        self.batch = None
        self.begun = False
        self.blocks = []
        self.geometry = None
        self.text_tokens = 0
        self.decision = None  # the newest
        self.step = -1
        self.images = None
        self.timed = Stopwatch()
        self.signals = Signals(self)
        self._steps_ahead = []  # at which the batch stops to look
        self._calls = []  # of the step that is being looked at, with the rows that still run
        self._answers = []  # (what the host got, what it had asked about), of all rows, one for each call
        self._calls_expected = 1  # a step; two where the host asks for both branches of guidance apart
        self._calls_of_first_step = 0
        self._seen = []  # what the distilled adapter learns from, once the rows' ends are known
        self._moment = None
        self._compiled = False
        self._started_seconds = time.perf_counter()

    # ------------------------------------------------------------------ what the host calls

    def denoise(self, module, args, kwargs):
        """The host's denoiser call: of all rows before the first decision, of those that still run after it."""
        try:
            named = by_name(self.taps, args, kwargs)
            looks = self._before_call(named)
        except Exception as error:  # the host's call must go on whatever we did wrong
            self.runtime.degrade("a batch could not be followed, so it is not pruned", error)
            return module(*args, **kwargs)
        if looks:
            return self._look(module, named)
        return self._denoise_running(module, named)[0]

    def decode(self, latents, *args, **kwargs):
        """The host's VAE: kept rows are decoded, the others are zeros (grey after postprocessing)."""
        vae = self.pipeline.vae
        if latents.shape[0] == self.rows:
            self._take_latents(latents)
        if not self._pruned() or latents.shape[0] != self.rows:
            return vae.decode(latents, *args, **kwargs)
        kept = torch.tensor(self.decision.kept, device=latents.device)
        decoded = vae.decode(latents.index_select(0, kept), *args, **kwargs)
        part = prediction_of(decoded)
        full = part.new_zeros((self.rows, *part.shape[1:]))
        full.index_copy_(0, kept, part)
        return with_prediction(decoded, full)

    def finish(self, images) -> None:
        """Called with what the host's function returns; the reward wrapper finds this rollout by its images."""
        self.images = images
        if self.batch is None:
            self.runtime.session.missed_batch()
            return
        while self._steps_ahead:  # the host ended early: the other ranks wait for this one
            self._agree()
        self._take_images(images)
        self._seen = []
        self.timed.report(self.batch, time.perf_counter() - self._started_seconds)

    def kept(self) -> list:
        return self.decision.kept if self.decision is not None else list(range(self.rows))

    def stopped(self) -> list:
        """Rows that were not denoised to the end."""
        if not self._pruned():
            return []
        kept = set(self.decision.kept)
        return [row for row in range(self.rows) if row not in kept]

    # ------------------------------------------------------------------ steps

    def _pruned(self) -> bool:
        return self.decision is not None and self.decision.pruned

    def _before_call(self, kwargs) -> bool:
        """Counts steps by the change of what the denoiser is told of the noise level; True at a step where the batch stops to look."""
        moment = moment_of(self.taps, kwargs)
        if moment != self._moment:
            self._moment = moment
            self._next_step()
        if self.step == 0:
            self._calls_of_first_step += 1
        if self.step == 0 and not self.begun:
            self.begun = True
            with self.timed("own"):
                self._begin(kwargs)
        return bool(self._steps_ahead) and self.step == self._steps_ahead[0]

    def _next_step(self) -> None:
        if self.step == 0:
            self._calls_expected = min(self._calls_of_first_step, 2)
        self.step += 1
        while self._steps_ahead and self._steps_ahead[0] < self.step:  # it made fewer calls than it had promised
            self._agree()

    def _begin(self, kwargs) -> None:
        taps, runtime = self.taps, self.runtime
        state = kwargs[taps.STATE]
        denoiser = bare(getattr(self.pipeline, taps.DENOISER))
        self.blocks = taps.blocks(denoiser)
        self.geometry = geometry = taps.geometry(denoiser, kwargs)
        self.text_tokens = kwargs[taps.TEXT].shape[1]
        self._compiled = is_compiled(getattr(self.pipeline, taps.DENOISER))
        guided = state.shape[0] > self.rows or taps.is_guided(self.pipeline)
        self._calls_expected = 2 if guided and state.shape[0] == self.rows else 1
        if runtime.wants("cfg") and guided is False:
            runtime.warn_once(
                "cfg", "this host samples without guidance, so there is no cfg signal and nothing is pruned; "
                "take cfg out of probe.inputs")
        levels = taps.PROCESS(self.pipeline.scheduler).levels()
        self.batch = runtime.session.begin_batch(
            rows=self.rows, steps_total=len(levels) - 1, model=runtime.model_name(self.pipeline, taps, geometry),
            sigmas=levels, prompts=self.prompts, latent_shape=(geometry.channels, geometry.height, geometry.width),
            token_shape=geometry.tokens, block_names=[name for name, _ in self.blocks], text_tokens=self.text_tokens,
            hidden_values=self.signals.hidden_values(denoiser), prompt_values=taps.pooled(kwargs).shape[1],
            scores_per_preview=runtime.score_columns(),
            noise_window=self.noise_window,
        )
        self._steps_ahead = self.batch.steps()

    # ------------------------------------------------------------------ looks and decisions

    def _look(self, module, kwargs):
        """A call at a step where the batch stops to look, its signals, and the agreement with the other ranks."""
        asked = kwargs[self.taps.STATE]
        prompted = self._calls_expected == 1 or len(self._calls) == self.taps.CONDITIONAL_CALL
        with self.signals.watching(self._of_running(kwargs), prompted and not self._compiled):
            output, call = self._denoise_running(module, kwargs)
        if prompted and self._compiled:
            self.signals.watch_apart(call)
        self._calls.append(call)
        self._answers.append((prediction_of(output), asked))
        if len(self._calls) < self._calls_expected:
            return output
        self._observe()
        answers = self._answers
        self._agree()
        self._fill_stopped(answers)
        return output

    def _observe(self) -> None:
        try:
            asked, said = self._calls[0].kwargs[self.taps.STATE], self._calls[0].prediction
            if said.shape != asked.shape:
                raise ValueError(f"the denoiser answers {tuple(said.shape)} to a state of {tuple(asked.shape)}")
            running = self.kept()
            policy = self.policy()
            self.signals.observe(policy)
            if self.runtime.distilled is not None and not self.runtime.distilled.dropped:
                arguments = self.runtime.distilled.arguments(policy)
                self._seen.append((running, Seen(policy.state, policy.x0(), policy.level), arguments))
        except Exception as error:
            self.runtime.degrade("the signals of a batch could not be taken, so it is not pruned", error)

    def policy(self) -> Policy:
        """Of the rows that still run, at the step that is being looked at."""
        rows = len(self.kept())
        return Policy(self.taps, self.pipeline, self.geometry, rows, self.step, self._calls, self.arguments)

    def _agree(self) -> None:
        """The collective of a look; every rank comes here once for each, whatever went wrong before."""
        self._calls, self._answers = [], []
        self.timed.report_signals(self.batch)
        ahead = self._steps_ahead[1:]
        with self.timed("own"):
            try:
                self.decision = self.batch.decide()
                following = self.decision.next_step
                ahead = [step for step in ahead if 0 <= following <= step]
            except Exception as error:
                self.runtime.degrade("the ranks could not agree on a batch, so it is not pruned", error)
        self._steps_ahead = ahead
        if not ahead:
            self.runtime.decided(self)
            self.signals.shown = None

    # ------------------------------------------------------------------ the ends of kept rows

    def _take_latents(self, scaled) -> None:
        """The final latents, as the host hands them to its decoder: for the record and for the distilled adapter."""
        wanted = self.runtime.finals == "latent" and self.signals.observed
        if self.batch is None or not (self._seen or wanted):
            return
        try:
            kept, taps = self.kept(), self.taps
            finals = taps.state_of_decoder_input(
                self.pipeline.vae, scaled.index_select(0, _index(scaled, kept)), self.geometry)
            if wanted:
                self.batch.final(kept, taps.map_of(finals, self.geometry))
            if self._seen:
                seen = [states.of(_index(finals, _places(kept, rows))) for rows, states, _ in self._seen]
                rows, _, arguments = self._seen[-1]
                places = _index(finals, _places(kept, rows))
                arguments = {name: value.index_select(0, places) for name, value in arguments.items()}
                self.runtime.distilled.pairs.add(seen, finals, arguments, [self.prompts[row] for row in kept])
        except Exception as error:
            self.runtime.degrade("the final latents of a batch could not be kept", error)
        self._seen = []

    def _take_images(self, images) -> None:
        if self.runtime.finals != "image":
            return
        try:
            self.batch.final(self.kept(), still_images(images, self.kept()))
        except Exception as error:
            self.runtime.degrade("the final images of a batch could not be kept", error)

    # ------------------------------------------------------------------ kept rows only

    def _indices(self, total_rows: int, device):
        kept = self.decision.kept
        copies = total_rows // self.rows
        return torch.tensor([copy * self.rows + row for copy in range(copies) for row in kept], device=device)

    def _of_running(self, kwargs) -> dict:
        """The arguments of the rows that still run."""
        if not self._pruned():
            return kwargs
        state = kwargs[self.taps.STATE]
        return of_rows(self.taps, kwargs, self._indices(state.shape[0], state.device))

    def _denoise_running(self, module, kwargs) -> tuple:
        """(what the host gets, of all rows; the call as it was made, of the rows that still run)."""
        compact = self._of_running(kwargs)
        output = module(**compact)
        part = prediction_of(output)
        call = Call(module, compact, part)
        if not self._pruned():
            return output, call
        state = kwargs[self.taps.STATE]
        full = state.to(part.dtype, copy=True)
        full.index_copy_(0, self._indices(state.shape[0], state.device), part)
        return with_prediction(output, full), call

    def _fill_stopped(self, answers: list) -> None:
        """Stopped rows get the denoiser's input as its output, from this step on: finite and reproducible."""
        if not self._pruned():
            return
        try:
            for prediction, state in answers:
                kept = torch.zeros(self.rows, dtype=torch.bool, device=state.device)
                kept[self.decision.kept] = True
                stopped = (~kept).repeat(state.shape[0] // self.rows)
                prediction[stopped] = state[stopped].to(prediction.dtype)
        except Exception as error:
            self.runtime.degrade("stopped rows keep what the denoiser said of them", error)


def _index(tensor, rows: list):
    """int64 [rows] on the tensor's device."""
    return torch.tensor(rows, device=tensor.device)


def _places(rows: list, among: list) -> list:
    """Where `rows` stand in `among`, which has all of them."""
    place = {row: position for position, row in enumerate(among)}
    return [place[row] for row in rows]


def is_compiled(module) -> bool:
    """Does torch.compile stand around the model or any part of it?"""
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in (module, *module.modules())
    )


def still_images(images, rows: list):
    """[rows, 3, H, W] in 0…1 of what the host returns: a tensor, an array, or a list of pictures; of a video its middle
    frame."""
    if not isinstance(images, torch.Tensor):
        arrays = np.stack([np.asarray(images[row]) for row in rows])
        scale = 255.0 if arrays.dtype == np.uint8 else 1.0
        picked = torch.from_numpy(np.ascontiguousarray(np.moveaxis(arrays, -1, -3))).float() / scale
    else:
        picked = images[rows]
    return picked[:, picked.shape[1] // 2] if picked.dim() == 5 else picked
