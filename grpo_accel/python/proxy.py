"""The pipeline's stand-in during one rollout batch.

`pipeline_with_logprob` receives a PipelineProxy whose denoiser and `vae.decode` are callables; every other read and
write goes to the host's own object, and nothing is put on it.
"""

from __future__ import annotations

from typing import Any


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
    """`rollout` gets the denoiser's calls (`denoise`) and the decoder's (`decode`)."""

    def __init__(self, pipeline, rollout):
        vae = _Forwarding(pipeline.vae, {"decode": rollout.decode})
        denoiser = _CallableProxy(getattr(pipeline, rollout.taps.DENOISER), rollout.denoise)
        super().__init__(pipeline, {rollout.taps.DENOISER: denoiser, "vae": vae})
