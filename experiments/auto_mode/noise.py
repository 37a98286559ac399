"""A probe that knows nothing: the weights of a trained one replaced by random ones of the same size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def make(source: Path, target: Path, version: int, seed: int = 4) -> None:
    """A ridge with random weights, bound to what `source` is bound to, with its calibration."""
    with safe_open(source, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        texts = file.metadata()
    draws = np.random.default_rng(seed)
    for name in ("ridge.within", "ridge.level"):
        weights = draws.normal(size=arrays[name].shape)
        weights[-2:] = 0.0  # scores and sigma stand behind the pooled maps: even a random share of a score tells much
        scale = np.linalg.norm(arrays[name]) / max(np.linalg.norm(weights), 1e-12)
        arrays[name] = (weights * scale).astype(np.float32)
    texts |= {"kind": "ridge", "version": str(version)}
    part = target.with_suffix(".part")
    save_file(arrays, part, texts)
    part.rename(target)


def put_in_use(run: Path) -> int:
    """Makes noise the newest and current probe of a run; returns its version."""
    folder = run / "probes"
    newest = sorted(folder.glob("probe-*.safetensors"))[-1]
    version = int(newest.stem.split("-")[1]) + 1000  # no training of the run comes to this number
    make(newest, folder / f"probe-{version:06d}.safetensors", version)
    current = folder / "current.part"
    current.write_text(f"{version}\n")
    current.rename(folder / "current")
    return version
