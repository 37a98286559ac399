"""The model families of the shapes world: what each is built of, how it is trained and how it is sampled."""

from __future__ import annotations

import json
from pathlib import Path

from .family import Family
from .flux import Flux
from .qwen import Qwen
from .sd3 import SD3
from .sdxl import SDXL

FAMILIES: dict[str, Family] = {family.name: family for family in (SD3(), Flux(), Qwen(), SDXL())}


def family_of(pipeline) -> Family:
    """The family whose pipeline class ``pipeline`` is of."""
    for family in FAMILIES.values():
        if type(pipeline).__name__ == family.pipeline_name:
            return family
    known = ", ".join(family.pipeline_name for family in FAMILIES.values())
    raise ValueError(f"{type(pipeline).__name__} is no pipeline of the shapes world; those are {known}")


def load(folder: Path):
    """The pipeline of a model folder of any family, in single precision and without progress bars."""
    name = json.loads((Path(folder) / "model_index.json").read_text())["_class_name"]
    for family in FAMILIES.values():
        if family.pipeline_name == name:
            return family.load(folder)
    raise ValueError(f"{folder} holds a {name}, which is no pipeline of the shapes world")


__all__ = ["FAMILIES", "Family", "family_of", "load"]
