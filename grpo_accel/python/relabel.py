"""More labels than rows: scores the final images of a run under other prompts of the same run.

``python -m grpo_accel.relabel RUN --scorer MODULE:FUNCTION`` (what ``grpo-accel relabel`` starts) reads the record's
segments one after the other and writes ``RUN/relabels/rank-XXXXX/segment-XXXXXX.h5`` beside each: which row was
scored under which other prompt, and what it got. A file is there completely or not at all; calling again does what
is missing. ``FUNCTION(images, prompts)`` gets uint8 [n, height, width, 3] and n texts, and gives n numbers.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DONE, USAGE, INPUT, MISSING = 0, 2, 3, 4  # exit codes of grpo-accel
SCHEMA_VERSION = 1
BATCH_IMAGES = 256


class Refused(Exception):
    """Something to say to the user, with the exit code."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Prompt:
    """A prompt of the run, and a row that has it: where its features are found."""

    text: str
    donor_row_id: int


def run_folder(folder: Path) -> Path:
    """The run that a run folder or its record folder belongs to."""
    if (folder / "record").is_dir():
        return folder
    if folder.name == "record" and folder.is_dir():
        return folder.parent
    raise Refused(INPUT, f"{folder}: no run folder (one that has record/ in it)")


def find_segments(run: Path) -> list[Path]:
    paths = sorted((run / "record").glob("rank-*/segment-*.h5"))
    if not paths:
        raise Refused(INPUT, f"{run}/record: no segments")
    return paths


def open_segment(path: Path):
    """The file, or None where it can't be read: its rows are left out, as when training."""
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except OSError as reason:
        print(f"grpo-accel: warning: {path} is left out: {reason}", file=sys.stderr)
        return None


def read_prompts(segments: list[Path]) -> dict[bytes, Prompt]:
    """All prompts of the run by hash."""
    prompts: dict[bytes, Prompt] = {}
    for path in segments:
        file = open_segment(path)
        if file is None:
            continue
        with file:
            if "prompt" not in file:
                raise Refused(
                    INPUT, f"{path}: the prompts' text was not logged, so nothing can be scored under them; set "
                    "record.prompts: text (and record.finals: image) for the next run")
            texts, hashes, row_ids = file["prompt"][()], file["prompt_hash"][()], file["row_id"][()]
            for text, digest, row_id in zip(texts, hashes, row_ids):
                text = text.rstrip(b"\0").decode("utf-8", "replace")
                if text:
                    prompts.setdefault(digest.tobytes(), Prompt(text, int(row_id)))
    if len(prompts) < 2:
        raise Refused(INPUT, f"the run has {len(prompts)} prompt: there is no other one to score under")
    return prompts


def load_scorer(name: str):
    module, _, function = name.partition(":")
    if not module or not function:
        raise Refused(USAGE, f"--scorer {name}: MODULE:FUNCTION, as in experiments.shapes.scorer:score")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as reason:
        raise Refused(USAGE, f"--scorer {name}: {reason}") from reason


class Decoder:
    """Latents to images by the autoencoder of a diffusers folder (a pipeline's, or the autoencoder's own)."""

    def __init__(self, folder: str):
        try:
            import diffusers
            import torch
        except ImportError as reason:
            raise Refused(MISSING, f"--decoder needs diffusers and torch: {reason}") from reason
        path = Path(folder)
        path = path / "vae" if (path / "vae").is_dir() else path
        try:
            kind = getattr(diffusers, json.loads((path / "config.json").read_text())["_class_name"])
            self._vae = kind.from_pretrained(path).eval().requires_grad_(False)
        except (OSError, KeyError, AttributeError, ValueError) as reason:
            raise Refused(INPUT, f"--decoder {folder}: no autoencoder: {reason}") from reason
        self._torch = torch
        if torch.cuda.is_available():
            self._vae.to("cuda")

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        config = self._vae.config
        weight = next(self._vae.parameters())
        values = self._torch.from_numpy(latents.astype(np.float32)).to(weight.device, weight.dtype)
        values = values / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        with self._torch.inference_mode():
            images = self._vae.decode(values).sample
        images = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return np.round(images * 255).astype(np.uint8)


def read_finals(file, path: Path, rows: np.ndarray, decoder: Decoder | None) -> np.ndarray:
    """uint8 [rows, height, width, 3]"""
    finals = file["final"]
    if finals.dtype == np.uint8:
        return finals[rows]
    if decoder is None:
        raise Refused(
            INPUT, f"{path}: finals are latents; name the model with --decoder FOLDER, or log images with "
            "record.finals: image")
    return decoder(finals[rows])


def rows_with_finals(file, path: Path) -> np.ndarray:
    if "final" not in file:
        raise Refused(INPUT, f"{path}: final images were not logged; set record.finals: image (or latent)")
    present = file["final_present"][()] if "final_present" in file else file["kept"][()]
    return np.flatnonzero(present)


def draw_prompts(hashes: list[bytes], own: bytes, row_id: int, count: int, seed: int) -> list[bytes]:
    """`count` other prompts (fewer where the run has not as many), the same for the same seed and row."""
    others = [digest for digest in hashes if digest != own]
    generator = np.random.Generator(np.random.Philox(key=[seed, row_id]))
    return [others[i] for i in generator.choice(len(others), min(count, len(others)), replace=False)]


def score_images(scorer, name: str, images: np.ndarray, texts: list[str]) -> np.ndarray:
    try:
        rewards = np.asarray(scorer(images, texts), dtype=np.float32).reshape(-1)
    except Exception as reason:
        raise Refused(INPUT, f"--scorer {name} failed: {type(reason).__name__}: {reason}") from reason
    if len(rewards) != len(texts):
        raise Refused(INPUT, f"--scorer {name} gave {len(rewards)} numbers for {len(texts)} images")
    return rewards


def label_segment(file, path: Path, prompts: dict[bytes, Prompt], scorer, decoder, options) -> dict[str, np.ndarray]:
    """Columns of a segment's labels, one row for each row and other prompt."""
    hashes = sorted(prompts)
    row_ids, own = file["row_id"][()], file["prompt_hash"][()]
    columns: dict[str, list] = {"row_id": [], "prompt_hash": [], "donor_row_id": [], "reward": []}
    rows = rows_with_finals(file, path)
    step = max(1, BATCH_IMAGES // options.prompts)
    for first in range(0, len(rows), step):
        chosen = rows[first:first + step]
        images = read_finals(file, path, chosen, decoder)
        drawn = [draw_prompts(hashes, own[row].tobytes(), int(row_ids[row]), options.prompts, options.seed) for row in chosen]
        places = [place for place, digests in enumerate(drawn) for _ in digests]
        digests = [digest for some in drawn for digest in some]
        texts = [prompts[digest].text for digest in digests]
        columns["reward"].extend(score_images(scorer, options.scorer, images[places], texts))
        columns["row_id"].extend(int(row_ids[chosen[place]]) for place in places)
        columns["prompt_hash"].extend(np.frombuffer(digest, np.uint8) for digest in digests)
        columns["donor_row_id"].extend(prompts[digest].donor_row_id for digest in digests)
    return {
        "row_id": np.array(columns["row_id"], np.uint64),
        "prompt_hash": np.array(columns["prompt_hash"], np.uint8).reshape(-1, 16),
        "donor_row_id": np.array(columns["donor_row_id"], np.uint64),
        "reward": np.array(columns["reward"], np.float32),
    }


def attributes_of(file, options) -> dict:
    """What a file of labels was made with and from: the same again need not be made."""
    return {
        "schema_version": np.uint32(SCHEMA_VERSION), "run_id": file.attrs["run_id"], "scorer": options.scorer,
        "seed": np.uint64(options.seed), "prompts": np.uint32(options.prompts),
        "source_rows": np.uint64(len(file["row_id"])),
    }


def is_made(path: Path, wanted: dict) -> bool:
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return all(key in file.attrs and file.attrs[key] == value for key, value in wanted.items())
    except OSError:
        return False


def publish(path: Path, columns: dict[str, np.ndarray], attributes: dict) -> None:
    """Built in memory, written beside its place, synced, renamed: never a half file."""
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v108")) as file:
        for key, value in attributes.items():
            file.attrs[key] = np.bytes_(value) if isinstance(value, (str, bytes)) else value
        for name, values in columns.items():
            file.create_dataset(name, data=values, fletcher32=len(values) > 0, chunks=True if len(values) else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(image.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Progress:
    """A line on a terminal that renews itself, after two seconds."""

    def __init__(self, quiet: bool, total: int):
        self._shown = False
        self._on = not quiet and sys.stderr.isatty()
        self._total, self._next = total, time.monotonic() + 2

    def show(self, done: int, labels: int) -> None:
        if self._on and time.monotonic() >= self._next:
            self._next, self._shown = time.monotonic() + 0.2, True
            print(f"\r\033[K{done} of {self._total} segments, {labels} labels", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def relabel(options) -> dict:
    run = run_folder(Path(options.folder))
    segments = find_segments(run)
    scorer = load_scorer(options.scorer)
    prompts = read_prompts(segments)
    decoder = Decoder(options.decoder) if options.decoder else None
    answer = {"folder": str(run / "relabels"), "prompts": len(prompts), "segments": 0, "segments_there": 0, "labels": 0,
              "interrupted": False}
    progress = Progress(options.quiet, len(segments))
    try:
        for number, path in enumerate(segments):
            label_one(run, path, prompts, scorer, decoder, options, answer)
            progress.show(number + 1, answer["labels"])
    except KeyboardInterrupt:
        answer["interrupted"] = True
    progress.clear()
    return answer


def label_one(run: Path, path: Path, prompts, scorer, decoder, options, answer: dict) -> None:
    file = open_segment(path)
    if file is None:
        return
    with file:
        target = run / "relabels" / path.parent.name / path.name
        attributes = attributes_of(file, options)
        wanted = {key: np.bytes_(value) if isinstance(value, (str, bytes)) else value for key, value in attributes.items()}
        if is_made(target, wanted):
            answer["segments_there"] += 1
            return
        columns = label_segment(file, path, prompts, scorer, decoder, options)
        publish(target, columns, attributes)
        answer["segments"] += 1
        answer["labels"] += len(columns["reward"])


def parse(arguments: list[str] | None):
    parser = argparse.ArgumentParser(prog="grpo-accel relabel")
    parser.add_argument("folder")
    parser.add_argument("--scorer", required=True)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    started = time.monotonic()
    try:
        answer = relabel(options)
    except Refused as refusal:
        return say_refusal(options, refusal.code, str(refusal))
    except (OSError, ImportError) as reason:
        return say_refusal(options, MISSING if isinstance(reason, ImportError) else INPUT, f"relabel: {reason}")
    answer["seconds"] = round(time.monotonic() - started, 3)
    if options.json:
        print(json.dumps(answer))
    elif not options.quiet:
        note = "; interrupted, call again for the rest" if answer["interrupted"] else ""
        print(f"{answer['labels']} labels under {answer['prompts']} prompts in {answer['segments']} segments "
              f"({answer['segments_there']} were there) below {answer['folder']}{note}")
    return DONE


def say_refusal(options, code: int, message: str) -> int:
    print(f"grpo-accel: {message}", file=sys.stderr)
    if options.json:
        status = {USAGE: "argument", INPUT: "file", MISSING: "missing"}[code]
        print(json.dumps({"error": {"status": status, "message": message, "exit_code": code}}))
    return code


if __name__ == "__main__":
    sys.exit(main())
