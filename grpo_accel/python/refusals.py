"""What makes a pipeline of a known class one that can't be followed: parts that ask or answer something else."""

from __future__ import annotations

from typing import Any

from . import versions


def first(*reasons: str | None) -> str | None:
    """The first reason there is."""
    return next((reason for reason in reasons if reason is not None), None)


def of_scheduler(taps: Any, pipeline: Any) -> str | None:
    """A scheduler that asks twice a step, or whose predictions are of another kind than the family's."""
    scheduler = pipeline.scheduler
    kind, order = type(scheduler).__name__, getattr(scheduler, "order", 1)
    if order != 1:
        return f"its scheduler {kind} takes steps of order {order}: states between two steps mean nothing yet"
    if hasattr(scheduler, "plms_timesteps"):
        return f"its scheduler {kind} asks for one step twice: steps can't be told by their noise level"
    try:
        taps.PROCESS(scheduler)
    except (ValueError, AttributeError) as error:
        return f"its scheduler {kind} ({versions.of('diffusers')}) is of another kind: {error}"
    return None


def of_processors(denoiser: Any) -> str | None:
    """Attention to something else than image and text."""
    for processor in getattr(denoiser, "attn_processors", {}).values():
        kind = type(processor).__name__
        if "IPAdapter" in kind:
            return f"its blocks also attend to an image prompt ({kind}), which the features leave out"
    return None


def of_channels(denoiser: Any, asked: int, answered: int | None) -> str | None:
    """A denoiser that is shown more than the state: a mask, a masked image, a control image."""
    if answered is None or asked == answered:
        return None
    return (
        f"its {type(denoiser).__name__} takes {asked} channels and returns {answered}: "
        "a state comes with a mask or another image there"
    )
