"""The model families that can be watched; the first whose classes name a pipeline's is taken."""

from __future__ import annotations

import importlib
from typing import Any

from .taps import Taps

FAMILIES = (  # module beside this one, class
    ("taps_sd3", "StableDiffusion3"),
    ("taps_flux", "Flux"),
    ("taps_qwen", "QwenImage"),
    ("taps_unet", "UNet"),
    ("taps_wan", "Wan"),
)


def families() -> list[Taps]:
    return [getattr(importlib.import_module(f".{module}", __package__), name)() for module, name in FAMILIES]


def taps_of(pipeline: Any) -> Taps | None:
    """What is known of a pipeline's model: by its class, or by one that it derives from; None: nothing."""
    names = [kind.__name__ for kind in type(pipeline).__mro__]
    known = families()
    for name in names:
        for taps in known:
            if name in taps.PIPELINES:
                return taps
    return None
