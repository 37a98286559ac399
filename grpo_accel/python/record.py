"""Reading a record with h5py: the files are plain HDF5, this only joins the segments of all ranks."""

from __future__ import annotations

from pathlib import Path


def open_record(folder) -> dict:
    """Columns of a run's record as numpy arrays, rows in the order of ranks and segments.

    `folder` is a run folder, its record folder, or one rank's folder. Keys are dataset names such as "reward/combined"
    or "features/x0"; "batches/…" hold one row a batch. Columns that only some segments have are left out.
    """
    import h5py
    import numpy as np

    root = Path(folder)
    root = root / "record" if (root / "record").is_dir() else root
    paths = sorted(root.glob("rank-*/segment-*.h5")) or sorted(root.glob("segment-*.h5"))
    if not paths:
        raise FileNotFoundError(f"no segments below {root}")
    columns: dict = {}
    for path in paths:
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: columns.setdefault(name, []).append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return {name: np.concatenate(parts) for name, parts in columns.items() if len(parts) == len(paths)}
