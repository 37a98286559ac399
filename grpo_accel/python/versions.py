"""Which version of a package is here, and whether it is one that grpo_accel was tested with.

The one table of tested ranges: warnings quote it, and so does `grpo-accel doctor`. Nothing is imported: versions come
from what the installer wrote down, places from the import system.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tested:
    """The oldest and the newest version that the tests ran with, both included; `needed`: nothing works without it."""

    oldest: str
    newest: str
    needed: bool = False

    def holds(self, version: str) -> bool:
        """Is this version in the range? One that ends early, "2.13", stands for all of its patches."""
        length = max(len(parts(self.oldest)), len(parts(self.newest)))
        here = parts(version)[:length]
        return parts(self.oldest) <= here and here[: len(parts(self.newest))] <= parts(self.newest)

    def words(self) -> str:
        return f"{self.oldest} to {self.newest}"


TESTED = {
    "torch": Tested("2.6", "2.14", needed=True),
    "numpy": Tested("1.26", "2.4", needed=True),
    "diffusers": Tested("0.33.1", "0.42.1"),
    "transformers": Tested("4.40.0", "5.23"),
    "peft": Tested("0.10.0", "0.21.2"),
    "accelerate": Tested("1.4.0", "1.15.0"),
}


def parts(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: "2.13.0+cpu" → (2, 13, 0), "0.38.0.dev0" → (0, 38, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def number(name: str) -> str | None:
    """Version of an installed package, None where it is not installed or says none."""
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def where(name: str) -> Path | None:
    """The folder, or the file, that `import name` would take; None where there is none. Imports nothing."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.has_location else None


def of(name: str) -> str:
    """ "diffusers 0.42.1"; a checkout that no installer knows is named by its folder."""
    version = number(name)
    if version is not None:
        return f"{name} {version}"
    place = where(name)
    return f"{name} ({place}, no version)" if place is not None else f"{name} (not installed)"


def is_tested(name: str) -> bool | None:
    """Is the installed version in the tested range? None: not installed, without a version, or not in the table."""
    version, tested = number(name), TESTED.get(name)
    return tested.holds(version) if version is not None and tested is not None else None


def describe(names: Iterable[str]) -> str:
    """For a warning: "diffusers 0.45.0 (tested: 0.33.1 to 0.42.1), flow_grpo (/src/flow_grpo, no version)"."""
    said = []
    for name in names:
        text = of(name)
        said.append(text if is_tested(name) is not False else f"{text} (tested: {TESTED[name].words()})")
    return ", ".join(said)
