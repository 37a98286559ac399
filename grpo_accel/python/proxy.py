"""The pipeline's stand-in during one rollout batch, and the rollout itself.

`pipeline_with_logprob` receives a PipelineProxy whose `transformer` and `vae` are callables. Nothing is put on the
host's modules but a forward pre-hook on the tapped attention modules, for the one call at the decision step.
The sampler always sees the full batch: pruned rows get the denoiser's own input back as its output.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from . import previews


class _Forwarding:
    """Reads and writes of everything but the replaced parts go to the real object."""

    def __init__(self, target: Any, parts: dict):
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_parts", parts)

    def __getattr__(self, name):
        parts = object.__getattribute__(self, "_parts")
        return parts[name] if name in parts else getattr(object.__getattribute__(self, "_target"), name)

    def __setattr__(self, name, value):
        setattr(object.__getattribute__(self, "_target"), name, value)


class _CallableProxy(_Forwarding):
    """A module whose calls go through `call(module, args, kwargs)`."""

    def __init__(self, target, call):
        super().__init__(target, {})
        object.__setattr__(self, "_call", call)

    def __call__(self, *args, **kwargs):
        return object.__getattribute__(self, "_call")(object.__getattribute__(self, "_target"), args, kwargs)


class PipelineProxy(_Forwarding):
    def __init__(self, pipeline, rollout: "Rollout"):
        vae = _Forwarding(pipeline.vae, {"decode": rollout.decode})
        denoiser = _CallableProxy(getattr(pipeline, rollout.taps.DENOISER), rollout.denoise)
        super().__init__(pipeline, {rollout.taps.DENOISER: denoiser, "vae": vae})


class Rollout:
    """One batch of rollouts of this rank, from the first denoising step to its rewards.

    rows B, doubled to R = 2B under guidance; after the decision only `kept` rows are denoised, decoded and scored.
    """

    def __init__(self, runtime, taps, pipeline, prompts, metadata):
        self.runtime = runtime
        self.taps = taps
        self.pipeline = pipeline
        self.prompts = prompts
        self.metadata = metadata
        self.rows = len(prompts)
        self.batch = None
        self.begun = False
        self.blocks = []
        self.text_tokens = 0
        self.decision = None
        self.step = -1
        self.images = None
        self.preview_images = None
        self.preview_scores = None
        self.own_seconds = 0.0
        self.signal_seconds = 0.0
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
        if not self._pruned() or latents.shape[0] != self.rows:
            return vae.decode(latents, *args, **kwargs)
        kept = torch.tensor(self.decision.kept, device=latents.device)
        decoded = vae.decode(latents.index_select(0, kept), *args, **kwargs)
        part = decoded[0] if isinstance(decoded, tuple) else decoded.sample
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
        elif self.decision is None:
            self._agree_late()
        total_seconds = time.perf_counter() - self._started_seconds
        if self.batch is not None:
            self.batch.seconds(0, total_seconds - self.own_seconds - self.signal_seconds)
            self.batch.seconds(1, self.signal_seconds)

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
            self._timestep = timestep
            self.step += 1
        if self.step == 0 and not self.begun:
            self.begun = True
            self._begin(kwargs)
        if self._pruned():
            return "compact"
        if self.batch is not None and self.decision is None and self.step == self.runtime.decision_step:
            return "decide"
        return "pass"

    def _begin(self, kwargs) -> None:
        started = time.perf_counter()
        state, text = kwargs[self.taps.STATE_ARGUMENT], kwargs[self.taps.TEXT_ARGUMENT]
        denoiser = getattr(self.pipeline, self.taps.DENOISER)
        self.blocks = self.taps.blocks(denoiser)
        self.text_tokens = text.shape[1]
        sigmas = [float(sigma) for sigma in self.pipeline.scheduler.sigmas]
        self.batch = self.runtime.session.begin_batch(
            rows=self.rows, steps_total=len(sigmas) - 1, model=self.runtime.model_name(self.pipeline, self.taps), sigmas=sigmas,
            prompts=self.prompts, latent_shape=tuple(state.shape[1:]),
            token_shape=self.taps.token_shape(denoiser, *state.shape[2:]),
            block_names=[name for name, _ in self.blocks], text_tokens=self.text_tokens,
        )
        self.own_seconds += time.perf_counter() - started

    # ------------------------------------------------------------------ the decision

    def _conditional(self, total_rows: int) -> slice:
        if total_rows == self.rows:
            return slice(0, self.rows)
        start = self.taps.CONDITIONAL_HALF * self.rows
        return slice(start, start + self.rows)

    def _decide(self, module, args, kwargs):
        """The full batch's call at the decision step, its signals, and the agreement with the other ranks."""
        state = kwargs[self.taps.STATE_ARGUMENT]
        handles = self._install_hooks(state.shape[0])
        try:
            output = module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        prediction = output[0] if isinstance(output, tuple) else output.sample
        self._observe(state, prediction)
        self._agree_late()
        try:
            if self._pruned():
                self._fill_stopped(prediction, state)
        except Exception as error:
            self.runtime.degrade("stopped rows keep what the denoiser said of them", error)
        return output

    def _install_hooks(self, total_rows: int) -> list:
        handles = []
        if not self.runtime.wants("attention"):
            return handles
        try:
            rows = self._conditional(total_rows)
            content = self._content()
            for tap, block in enumerate(self.batch.blocks()):
                hook = self._attention_hook(tap, rows, content)
                handles.append(self.blocks[block][1].register_forward_pre_hook(hook, with_kwargs=True))
        except Exception as error:
            self.runtime.degrade("attention could not be tapped", error)
        return handles

    def _attention_hook(self, tap: int, rows: slice, content):
        def hook(attention, args, kwargs):
            started = time.perf_counter()
            try:
                with torch.no_grad():
                    query, key_image, key_text = self.taps.query_and_keys(attention, kwargs, rows)
                    self.batch.observe_attention(tap, query, key_image, key_text, content)
            except Exception as error:
                self.runtime.degrade("the attention of a block could not be captured", error)
            self.own_seconds += time.perf_counter() - started

        return hook

    def _content(self):
        """uint8 [rows, text tokens], 1 where a token belongs to the prompt's own words; None if that is not known."""
        started = time.perf_counter()
        try:
            masks = [self.runtime.content_mask(self.pipeline, self.taps, prompt, self.text_tokens) for prompt in self.prompts]
            return torch.tensor(masks, dtype=torch.uint8)
        except Exception as error:
            self.runtime.degrade("content tokens are not known, so all text tokens count", error)
            return None
        finally:
            self.own_seconds += time.perf_counter() - started

    def _guided(self, prediction):
        """The velocity that the host will step with: guidance applied as its pipeline does, [B, …] fp32."""
        if prediction.shape[0] == self.rows:
            return prediction.float()
        halves = prediction.float().chunk(2)
        conditional = halves[self.taps.CONDITIONAL_HALF]
        unconditional = halves[1 - self.taps.CONDITIONAL_HALF]
        return unconditional + self.pipeline.guidance_scale * (conditional - unconditional)

    def _observe(self, state, prediction) -> None:
        """x0 and preview; what fails is missing in the record, and the batch is not pruned."""
        if state.is_cuda:
            torch.cuda.synchronize(state.device)  # what was queued before is the host's time, not ours
        started = time.perf_counter()
        x0 = None
        try:
            sigma = float(self.pipeline.scheduler.sigmas[self.step])
            latent = state[: self.rows].float()
            velocity = self._guided(prediction)
            x0 = latent - sigma * velocity
            if self.runtime.wants("x0"):
                self.batch.observe_latent(latent, velocity, sigma)
        except Exception as error:
            self.runtime.degrade("the preview latent of a batch could not be taken, so it is not pruned", error)
        self.own_seconds += time.perf_counter() - started
        if x0 is not None and self.runtime.wants("preview"):
            self._observe_preview(x0)

    def _observe_preview(self, x0) -> None:
        started = time.perf_counter()
        try:
            with previews.generators_untouched():
                self.preview_images = previews.decode(self.pipeline, x0)
                self.preview_scores = previews.score(
                    self.runtime.scorer(), self.preview_images, self.prompts, self.metadata
                )
            self.batch.observe_preview(self.preview_scores)
        except Exception as error:
            self.runtime.degrade("the previews of a batch could not be scored, so it is not pruned", error)
        self.signal_seconds += time.perf_counter() - started

    def _agree_late(self) -> None:
        """The collective of the batch; every rank comes here once, whatever went wrong before."""
        started = time.perf_counter()
        try:
            self.decision = self.batch.decide()
        except Exception as error:
            self.runtime.degrade("the ranks could not agree on a batch, so it is not pruned", error)
        self.own_seconds += time.perf_counter() - started
        if self.decision is not None:
            self.runtime.decided(self)
        self.preview_images = None

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
        part = output[0] if isinstance(output, tuple) else output.sample
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
