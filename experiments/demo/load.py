"""Reads what a demo run left behind into plain arrays. Nothing here computes a figure.

A run's folder holds ``progress.jsonl`` (the trainer: one line an update), ``record/rank-*/segment-*.h5`` and
``metrics.jsonl`` (the runtime), ``previews/`` and ``evaluations/*.json``. Only ``progress.jsonl`` must be
there. What can't be read is left out and named in ``Run.problems``.
"""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

MODES = {0: "off", 1: "shadow", 2: "prune", 3: "pass_through"}
ROW_COLUMNS = {
    "update": np.int64,
    "batch": np.uint64,
    "group": np.uint64,
    "rank": np.int64,
    "step": np.int64,
    "steps_total": np.int64,
    "probe_version": np.int64,
    "inclusion": np.float64,
    "kept": bool,
    "audit": bool,
}
BATCH_COLUMNS = ("batch", "update", "audited", "seconds_denoise", "seconds_signal", "seconds_reward", "seconds_own")


@dataclass
class Preview:
    """The image guessed at the decision, and what became of its row."""

    png: bytes
    update: int
    prompt: str
    prediction: float
    kept: bool


@dataclass
class Record:
    """Rows of all ranks. ``rows["prediction"]`` and ``rows["reward"]`` are f64 [n], NaN where there is none."""

    rows: dict
    batches: dict  # columns [n], ``mode`` as text, ``rank`` added
    attributes: dict
    segments: int
    bytes: int
    ranks: int


@dataclass
class Run:
    folder: Path
    updates: list
    record: Record | None
    metrics: list
    previews: list
    evaluations: dict  # file name -> JSON of `grpo-accel evaluate --json`
    problems: list = field(default_factory=list)


def read_json_lines(path, problems):
    """The objects of a JSON-lines file; a last line cut off by a kill is left out, and so is a missing file."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            problems.append(f"{path.name}:{number}: not JSON, left out")
    return found


# ------------------------------------------------------------------------------------------------ the record


def mode_names(values):
    """Numbers of ``ga_mode`` as words."""
    return np.array([MODES.get(int(v), f"mode {v}") for v in values], dtype=object)


def prediction_at_decision(file):
    """``prediction`` [rows, candidates] at each row's own decision step: [rows], NaN where there is none."""
    prediction = file["prediction"][()].astype(np.float64)
    prediction = prediction.reshape(len(prediction), -1)
    matches = file["step"][()].astype(int)[:, None] == np.atleast_1d(file.attrs["candidate_steps"])[None, :]
    found = np.where(matches, prediction, np.nan)
    taken = found[np.arange(len(found)), matches.argmax(axis=1)]
    return np.where(matches.any(axis=1), taken, np.nan)


def read_segment(path):
    """(rows, batches, attributes) of a segment; raises OSError, KeyError or ValueError when it is damaged."""
    with h5py.File(path, "r") as file:
        rows = {name: file[name][()].astype(dtype) for name, dtype in ROW_COLUMNS.items()}
        rows["prediction"] = prediction_at_decision(file)
        rows["reward"] = file["reward/combined"][()].astype(np.float64)
        batches = {name: file[f"batches/{name}"][()] for name in BATCH_COLUMNS}
        batches["mode"] = mode_names(file["batches/mode"][()])
        attributes = {name: file.attrs[name] for name in file.attrs}
    rank = int(attributes["rank"])
    batches["rank"] = np.full(len(batches["batch"]), rank)
    return rows, batches, attributes


def join(tables):
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def read_record(folder, problems):
    """All segments of all ranks, or None when there are none."""
    paths = sorted(folder.glob("rank-*/segment-*.h5"))
    parts = []
    for path in paths:
        try:
            parts.append(read_segment(path))
        except (OSError, KeyError, ValueError) as error:
            problems.append(f"{path.parent.name}/{path.name}: {error}, left out")
    if not parts:
        return None
    return Record(
        rows=join([rows for rows, _, _ in parts]),
        batches=join([batches for _, batches, _ in parts]),
        attributes=parts[-1][2],
        segments=len(parts),
        bytes=sum(path.stat().st_size for path in paths),
        ranks=len({path.parent.name for path in paths}),
    )


# -------------------------------------------------------------------------------------------------- previews


def png_bytes(image):
    """An image [H, W, 3] u8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def read_preview_batch(path):
    """A batch's ``.npz``: images [n, 3, H, W] or [n, H, W, 3], prompts, prediction, kept [n], and update."""
    with np.load(path, allow_pickle=False) as arrays:
        images = arrays["images"]
        if images.shape[-1] != 3:
            images = images.transpose(0, 2, 3, 1)
        columns = [arrays[name] for name in ("prompts", "prediction", "kept")]
        update = int(arrays["update"])
    return [
        Preview(png_bytes(image), update, str(prompt), float(prediction), bool(kept))
        for image, prompt, prediction, kept in zip(images, *columns)
    ]


def read_previews(folder, problems):
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            found += read_preview_batch(path)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            problems.append(f"previews/{path.name}: not a batch of previews, left out")
    return found


# ------------------------------------------------------------------------------------------------------- run


def read_evaluations(folder, problems):
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            problems.append(f"evaluations/{path.name}: {error}, left out")
    return found


def read_run(folder):
    """Everything a run left behind. Raises FileNotFoundError without a usable ``progress.jsonl``."""
    folder, problems = Path(folder), []
    updates = read_json_lines(folder / "progress.jsonl", problems)
    if not updates:
        raise FileNotFoundError(f"{folder / 'progress.jsonl'} is missing or empty: has the trainer run?")
    return Run(
        folder=folder,
        updates=updates,
        record=read_record(folder / "record", problems),
        metrics=read_json_lines(folder / "metrics.jsonl", problems),
        previews=read_previews(folder / "previews", problems),
        evaluations=read_evaluations(folder / "evaluations", problems),
        problems=problems,
    )
