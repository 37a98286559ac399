"""One batch of rollouts of this rank, from the first denoising step to its rewards.

Nothing is put on the host's modules but hooks for the one call at the decision step. The sampler always sees the
full batch: stopped rows get the denoiser's own input back as its output.
"""

from __future__ import annotations

import time

import torch

from .policy import Call, Policy, prediction_of
from .signals import Signals, Stopwatch


class Rollout:
    """rows B, doubled to R = 2B under guidance; after the decision only `kept` rows are denoised and decoded."""

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
        self.decision = None
        self.decision_step = -1
        self.step = -1
        self.images = None
        self.timed = Stopwatch()
        self.signals = Signals(self)
        self._calls = []  # of the decision step
        self._calls_expected = 1  # a step; two where the host asks for both branches of guidance apart
        self._calls_of_first_step = 0
        self._pair = None  # what the distilled adapter learns from, once the row's end is known
        self._timestep = None
        self._started_seconds = time.perf_counter()

    # ------------------------------------------------------------------ what the host calls

    def denoise(self, module, args, kwargs):
        """The host's denoiser call, of all rows before the decision and of kept rows after it."""
        try:
            plan = self._before_call(kwargs)
        except Exception as error:  # the host's call must go on whatever we did wrong
            self.runtime.degrade("a batch could not be followed, so it is not pruned", error)
            plan = "pass"
        if plan == "decide":
            return self._decide(module, args, kwargs)
        if plan == "compact":
            return self._denoise_kept(module, args, kwargs)
        return module(*args, **kwargs)

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
        if self.decision is None:
            self._agree()
        self._take_images(images)
        self._pair = None
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

    def _before_call(self, kwargs) -> str:
        """Counts steps by the change of the timestep's value: "pass", "decide" or "compact"."""
        timestep = float(kwargs["timestep"].flatten()[0])
        if timestep != self._timestep:
            if self.step == 0:
                self._calls_expected = min(self._calls_of_first_step, 2)
            self._timestep = timestep
            self.step += 1
        if self.step == 0:
            self._calls_of_first_step += 1
        if self.step == 0 and not self.begun:
            self.begun = True
            with self.timed("own"):
                self._begin(kwargs)
        if self._pruned():
            return "compact"
        if self.batch is not None and self.decision is None and self.step == self.decision_step:
            return "decide"
        return "pass"

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
        self.decision_step = self.batch.decision_step

    # ------------------------------------------------------------------ the decision

    def _decide(self, module, args, kwargs):
        """The full batch's call at the decision step, its signals, and the agreement with the other ranks."""
        state = kwargs[self.taps.STATE_ARGUMENT]
        prompted = self._calls_expected == 1 or len(self._calls) == self.taps.CONDITIONAL_CALL
        handles = self.signals.watch(state.shape[0]) if prompted else []
        try:
            output = module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        self._calls.append(Call(module, args, kwargs, prediction_of(output)))
        if len(self._calls) < self._calls_expected:
            return output
        self._observe()
        self._agree()
        try:
            if self._pruned():
                for call in self._calls:
                    self._fill_stopped(call.prediction, call.kwargs[self.taps.STATE_ARGUMENT])
        except Exception as error:
            self.runtime.degrade("stopped rows keep what the denoiser said of them", error)
        self._calls = []
        return output

    def _observe(self) -> None:
        try:
            policy = Policy(self.taps, self.pipeline, self.rows, self.step, self._calls)
            self.signals.observe(policy)
            if self.runtime.distilled is not None and not self.runtime.distilled.dropped:
                self._pair = (policy.state, policy.x0(), policy.sigma, self.runtime.distilled.arguments(policy))
        except Exception as error:
            self.runtime.degrade("the signals of a batch could not be taken, so it is not pruned", error)

    def _agree(self) -> None:
        """The collective of the batch; every rank comes here once, whatever went wrong before."""
        with self.timed("own"):
            try:
                self.decision = self.batch.decide()
            except Exception as error:
                self.runtime.degrade("the ranks could not agree on a batch, so it is not pruned", error)
        if self.decision is not None:
            self.runtime.decided(self)
        self.signals.preview_images = None

    # ------------------------------------------------------------------ the ends of kept rows

    def _take_latents(self, scaled) -> None:
        """The final latents, as the host hands them to its decoder: for the record and for the distilled adapter."""
        if self.batch is None or (self._pair is None and self.runtime.finals != "latent"):
            return
        try:
            config = self.pipeline.vae.config
            kept = self.kept()
            rows = torch.tensor(kept, device=scaled.device)
            shift = getattr(config, "shift_factor", None) or 0.0
            finals = (scaled.index_select(0, rows).float() - shift) * config.scaling_factor
            if self.runtime.finals == "latent":
                self.batch.final(kept, finals)
            if self._pair is not None:
                state, x0, sigma, arguments = self._pair
                arguments = {name: value.index_select(0, rows) for name, value in arguments.items()}
                prompts = [self.prompts[row] for row in kept]
                self.runtime.distilled.pairs.add(state[rows], finals, x0[rows], sigma, arguments, prompts)
        except Exception as error:
            self.runtime.degrade("the final latents of a batch could not be kept", error)
        self._pair = None

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

    def _denoise_kept(self, module, args, kwargs):
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
        if isinstance(output, tuple):
            return (full, *output[1:])
        output.sample = full
        return output

    def _fill_stopped(self, prediction, state) -> None:
        """Stopped rows get the denoiser's input as its output, from this step on: finite and reproducible."""
        kept = torch.zeros(self.rows, dtype=torch.bool, device=state.device)
        kept[self.decision.kept] = True
        stopped = (~kept).repeat(state.shape[0] // self.rows)
        prediction[stopped] = state[stopped].to(prediction.dtype)
