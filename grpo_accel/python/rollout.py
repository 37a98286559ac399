"""One batch of rollouts of this rank, from the first denoising step to its rewards.

Nothing is put on the host's modules but hooks for the one call at each step where the batch stops to look. The sampler
always sees the full batch: stopped rows get the denoiser's own input back as its output.
"""

from __future__ import annotations

import time

import torch

from .pairs import Seen
from .policy import Call, Policy, prediction_of
from .signals import Signals, Stopwatch


class Rollout:
    """rows B, doubled to R = 2B under guidance. At each of the batch's steps the rows that still run are looked at and
    a decision stops some of them; from there on only those that it keeps are denoised, and in the end decoded.

    A batch without such steps rests: nothing is hooked, computed or decided.
    """

    def __init__(self, runtime, taps, pipeline, prompts, metadata, noise_window=(-1, -1)):
        self.runtime = runtime
        self.taps = taps
        self.pipeline = pipeline
        self.prompts = prompts
        self.metadata = metadata
        self.noise_window = noise_window
        self.rows = len(prompts)
        self.batch = None
        self.begun = False
        self.blocks = []
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
        self._timestep = None
        self._started_seconds = time.perf_counter()

    # ------------------------------------------------------------------ what the host calls

    def denoise(self, module, args, kwargs):
        """The host's denoiser call: of all rows before the first decision, of those that still run after it."""
        try:
            looks = self._before_call(kwargs)
        except Exception as error:  # the host's call must go on whatever we did wrong
            self.runtime.degrade("a batch could not be followed, so it is not pruned", error)
            return module(*args, **kwargs)
        if looks:
            return self._look(module, args, kwargs)
        return self._denoise_running(module, args, kwargs)[0]

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
        if isinstance(decoded, tuple):
            return (full, *decoded[1:])
        decoded.sample = full
        return decoded

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
        """Counts steps by the change of the timestep's value; True at a step where the batch stops to look."""
        timestep = float(kwargs["timestep"].flatten()[0])
        if timestep != self._timestep:
            self._timestep = timestep
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
        state, text = kwargs[taps.STATE_ARGUMENT], kwargs[taps.TEXT_ARGUMENT]
        denoiser = getattr(self.pipeline, taps.DENOISER)
        self.blocks = taps.blocks(denoiser)
        self.text_tokens = text.shape[1]
        guided = state.shape[0] > self.rows or taps.is_guided(self.pipeline)
        self._calls_expected = 2 if guided and state.shape[0] == self.rows else 1
        if runtime.wants("cfg") and not guided:
            runtime.warn_once(
                "cfg", "this host samples without guidance, so there is no cfg signal and nothing is pruned; "
                "take cfg out of probe.inputs")
        sigmas = [float(sigma) for sigma in self.pipeline.scheduler.sigmas]
        self.batch = runtime.session.begin_batch(
            rows=self.rows, steps_total=len(sigmas) - 1, model=runtime.model_name(self.pipeline, taps), sigmas=sigmas,
            prompts=self.prompts, latent_shape=tuple(state.shape[1:]),
            token_shape=taps.token_shape(denoiser, *state.shape[2:]),
            block_names=[name for name, _ in self.blocks], text_tokens=self.text_tokens,
            hidden_values=2 * taps.hidden_width(denoiser), prompt_values=kwargs[taps.POOLED_ARGUMENT].shape[1],
            scores_per_preview=runtime.score_columns(), noise_window=self.noise_window,
        )
        self._steps_ahead = self.batch.steps()

    # ------------------------------------------------------------------ looks and decisions

    def _look(self, module, args, kwargs):
        """A call at a step where the batch stops to look, its signals, and the agreement with the other ranks."""
        asked = kwargs[self.taps.STATE_ARGUMENT]
        prompted = self._calls_expected == 1 or len(self._calls) == self.taps.CONDITIONAL_CALL
        handles = self.signals.watch(asked.shape[0] // self.rows) if prompted else []
        try:
            output, call = self._denoise_running(module, args, kwargs)
        finally:
            for handle in handles:
                handle.remove()
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
            running = self.kept()
            policy = Policy(self.taps, self.pipeline, len(running), self.step, self._calls)
            self.signals.observe(policy)
            if self.runtime.distilled is not None and not self.runtime.distilled.dropped:
                arguments = self.runtime.distilled.arguments(policy)
                self._seen.append((running, Seen(policy.state, policy.x0(), policy.sigma), arguments))
        except Exception as error:
            self.runtime.degrade("the signals of a batch could not be taken, so it is not pruned", error)

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
            config = self.pipeline.vae.config
            kept = self.kept()
            shift = getattr(config, "shift_factor", None) or 0.0
            finals = (scaled.index_select(0, _index(scaled, kept)).float() - shift) * config.scaling_factor
            if wanted:
                self.batch.final(kept, finals)
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
            self.batch.final(self.kept(), images[self.kept()])
        except Exception as error:
            self.runtime.degrade("the final images of a batch could not be kept", error)

    # ------------------------------------------------------------------ kept rows only

    def _indices(self, total_rows: int, device):
        kept = self.decision.kept
        copies = total_rows // self.rows
        return torch.tensor([copy * self.rows + row for copy in range(copies) for row in kept], device=device)

    def _denoise_running(self, module, args, kwargs) -> tuple:
        """(what the host gets, of all rows; the call as it was made, of the rows that still run)."""
        if not self._pruned():
            output = module(*args, **kwargs)
            return output, Call(module, args, kwargs, prediction_of(output))
        state = kwargs[self.taps.STATE_ARGUMENT]
        indices = self._indices(state.shape[0], state.device)
        compact = {
            name: value.index_select(0, indices) if name in self.taps.ROW_ARGUMENTS and value is not None else value
            for name, value in kwargs.items()
        }
        output = module(*args, **compact)
        part = prediction_of(output)
        full = state.to(part.dtype, copy=True)
        full.index_copy_(0, indices, part)
        call = Call(module, args, compact, part)
        if isinstance(output, tuple):
            return (full, *output[1:]), call
        output.sample = full
        return output, call

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
