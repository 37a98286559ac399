"""Reading a record with h5py: the files are plain HDF5, this only joins the segments of all ranks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def open_record(folder: str | os.PathLike[str], columns: Iterable[str] | None = None) -> dict[str, numpy.ndarray]:
    """Columns of a run's record as numpy arrays, rows in the order of ranks and segments.

    `folder` is a run folder, its record folder, or one rank's folder. Keys are dataset names such as "reward/combined"
    or "features/x0"; "batches/…" hold one row a batch. `columns`: names to read, or beginnings of names that end
    with "/"; none reads all. Columns that only some segments have are left out.

    With record.finals set, "final" holds where kept rows ended: latents float16 [rows, channels, height, width], beside
    "state", their latents at the decision step; or images uint8 [rows, height, width, 3]. "final_present" is 0 where
    a row has no end; its values mean nothing. They are large: name the columns that you need.
    """
    import h5py
    import numpy as np

    columns = None if columns is None else list(columns)
    root = Path(folder)
    root = root / "record" if (root / "record").is_dir() else root
    paths = sorted(root.glob("rank-*/segment-*.h5")) or sorted(root.glob("segment-*.h5"))
    if not paths:
        raise FileNotFoundError(f"no segments below {root}")
    parts: dict = {}

    def wanted(name: str) -> bool:
        return columns is None or any(name.startswith(key) if key.endswith("/") else name == key for key in columns)

    def take(name: str, item) -> None:
        if isinstance(item, h5py.Dataset) and wanted(name):
            parts.setdefault(name, []).append(item[()])

    for path in paths:
        with h5py.File(path, "r") as file:
            file.visititems(take)
    return {name: np.concatenate(found) for name, found in parts.items() if len(found) == len(paths)}
