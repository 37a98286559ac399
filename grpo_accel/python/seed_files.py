"""What a selection leaves in a folder: images, previews, index.json and a contact sheet."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

TILE, GAP, CAPTION = 96, 6, 24  # pixels
SHEET_PROMPTS = 24
KEPT, STOPPED, TEXT, PAPER = (34, 139, 84), (170, 170, 170), (30, 30, 30), (255, 255, 255)


def write(folder: Path, selection: Any, settings: dict) -> None:
    """OUT/images/PROMPT-SEED.png of finished seeds, OUT/previews/… of the guess at the newest decision, OUT/sheet.png,
    and OUT/index.json, which names them and comes last."""
    for name in ("images", "previews"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entries = [
        {"prompt": runs[0].prompt, "seeds": [_entry(folder, place, run) for run in runs]}
        for place, runs in enumerate(selection.runs)
    ]
    sheet(selection.runs[:SHEET_PROMPTS]).save(folder / "sheet.png")
    index = {
        **settings, "row_steps_run": selection.row_steps_run, "row_steps_full": selection.row_steps_full,
        "seconds": round(selection.seconds, 3), "sheet": "sheet.png", "prompts": entries,
    }
    partial = folder / f"index.json.{os.getpid()}.tmp"
    partial.write_text(json.dumps(index, indent=1) + "\n")
    os.replace(partial, folder / "index.json")


def _entry(folder: Path, place: int, run: Any) -> dict:
    name = f"{place:04d}-{run.seed}.png"
    known: dict[str, Any] = {
        "seed": run.seed, "finished": run.finished, "stopped_step": run.stopped_step, "steps_run": run.steps_run,
        "predictions": {str(step): _number(value) for step, value in run.predictions.items()},
        "score": _number(run.score),
    }
    for kind, picture in (("images", run.image), ("previews", run.preview)):
        if picture is not None:
            as_picture(picture).save(folder / kind / name)
            known[kind[:-1]] = f"{kind}/{name}"
    return known


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def as_picture(image: Any) -> Any:
    """A PIL image of what a pipeline returns for one row: a picture, an array [H, W, 3], a tensor [3, H, W]."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    if hasattr(image, "detach"):
        image = np.moveaxis(image.detach().float().cpu().numpy(), -3, -1)
    array = np.asarray(image)
    if array.ndim == 4:  # of a video its middle frame
        array = array[len(array) // 2]
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"an image of shape {array.shape} can't be saved; output_type must be one of images")
    if array.dtype != np.uint8:
        array = (np.clip(array, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(array)


def sheet(prompts: list[list[Any]]) -> Any:
    """A row a prompt, its seeds in their order: finished ones framed, stopped ones as they were guessed, greyed."""
    from PIL import Image, ImageDraw

    width = GAP + max(len(runs) for runs in prompts) * (TILE + GAP)
    height = len(prompts) * (TILE + 2 * CAPTION + GAP) + GAP
    page = Image.new("RGB", (max(width, 240), height), PAPER)
    pen = ImageDraw.Draw(page)
    for place, runs in enumerate(prompts):
        top = GAP + place * (TILE + 2 * CAPTION + GAP)
        pen.text((GAP, top), runs[0].prompt[:160], fill=TEXT)
        for column, run in enumerate(runs):
            _tile(page, pen, run, GAP + column * (TILE + GAP), top + CAPTION // 2 + 4)
    return page


def _tile(page: Any, pen: Any, run: Any, left: int, top: int) -> None:
    from PIL import Image

    picture = run.image if run.finished else run.preview
    if picture is not None:
        tile = as_picture(picture).convert("RGB")
        large = tile.resize((TILE, TILE), Image.Resampling.NEAREST if tile.width < TILE else Image.Resampling.LANCZOS)
        pale = Image.blend(large, Image.new("RGB", large.size, PAPER), 0.45)
        page.paste(large if run.finished else pale, (left, top))
    frame = (left - 2, top - 2, left + TILE + 1, top + TILE + 1)
    pen.rectangle(frame, outline=KEPT if run.finished else STOPPED, width=2)
    words = [f"{run.seed}"] if run.score is None else [f"{run.seed}: true {run.score:.2f}"]
    words.append(f"predicted {run.prediction:.2f}" if math.isfinite(run.prediction) else "not predicted")
    for line, text in enumerate(words):
        pen.text((left, top + TILE + 3 + line * 11), text, fill=KEPT if run.finished else TEXT)
