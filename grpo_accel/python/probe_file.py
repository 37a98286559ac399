"""What a probe file says it was made for, and in which words another use of it is refused."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from .library import GrpoAccelError

HEADER_BYTES_MAX = 1 << 24
MODEL_PARTS = ("pipeline", "denoiser", "scheduler", "resolution")  # of the model's name, in its order


@dataclass(frozen=True)
class ProbeFile:
    """`inputs`: what it sees; `steps`: denoising steps done where it can be asked; `spearman`: within prompts, on
    held-out ones, with its interval; `settings`: configuration keys under which its data were made, where known."""

    path: Path
    model: str
    inputs: tuple[str, ...]
    steps: tuple[int, ...]
    steps_total: int
    spearman: tuple[float, float, float]
    held_groups: int
    settings: dict

    def check_model(self, name: str) -> None:
        """Raises GrpoAccelError, and says what differs, where `name` (`Runtime.model_name`) is another model."""
        mine, other = self.model.split("/"), name.split("/")
        if mine == other:
            return
        if len(mine) != len(other):
            raise GrpoAccelError("mismatch", f"{self.path} was made for another model: {self.model}, this is {name}")
        differ = [f"{part} ({old}, this is {new})" for part, old, new in zip(MODEL_PARTS, mine, other) if old != new]
        raise GrpoAccelError("mismatch", f"{self.path} was made for another {' and '.join(differ)}; train one for this")

    def check_steps(self, steps: list[int]) -> None:
        missing = [step for step in steps if step not in self.steps]
        if missing:
            known = ", ".join(map(str, self.steps))
            raise GrpoAccelError("mismatch", f"{self.path} decides after step {known}, not after step {missing[0]}")

    def check_steps_total(self, total: int) -> None:
        if total != self.steps_total:
            raise GrpoAccelError(
                "mismatch", f"{self.path} was made for rollouts of {self.steps_total} steps, this one has {total}")


def read_header(path: str | os.PathLike[str]) -> tuple[dict, int]:
    """(what stands in a probe file, by name, where its arrays begin in bytes). Raises OSError, or ValueError where it is no
    safetensors file."""
    with open(path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else HEADER_BYTES_MAX + 1
        if length > HEADER_BYTES_MAX:
            raise ValueError("no safetensors header")
        return json.loads(file.read(length)), 8 + length


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a probe file says of itself; errors of `read_header`."""
    return dict(read_header(path)[0]["__metadata__"])


def read_probe(path: str | os.PathLike[str]) -> ProbeFile:
    """GrpoAccelError where the file is none of ours. Settings stand beside it, as NAME.json, where it was learnt here."""
    path = Path(path)
    try:
        texts = read_texts(path)
        beside = path.with_suffix(".json")
        settings = json.loads(beside.read_text())["settings"] if beside.is_file() else {}
        return ProbeFile(
            path=path, model=texts["model"], steps_total=int(texts["steps_total"]),
            inputs=tuple(part.partition(":")[0] for part in texts["schema"].split(";")),
            steps=tuple(int(step) for step in texts["steps"].split(",")),
            spearman=tuple(float(texts[f"within_spearman{end}"]) for end in ("", "_low", "_high")),
            held_groups=int(texts["held_groups"]), settings=settings,
        )
    except (OSError, ValueError, KeyError) as reason:
        raise GrpoAccelError("file", f"{path}: no probe file: {type(reason).__name__}: {reason}") from reason
