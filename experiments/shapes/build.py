"""Writes a model folder with random weights: ``python -m experiments.shapes.build --untrained --out FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .families import FAMILIES


def write_untrained(name: str, folder: Path, seed: int = 0) -> None:
    """A complete folder of the family ``name`` whose network and autoencoder were never trained."""
    family = FAMILIES[name]
    torch.manual_seed(seed)
    family.save(family.make_pipeline(family.make_vae(), family.make_network()), folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--untrained", action="store_true", required=True, help="random weights (the only choice)")
    parser.add_argument("--model", choices=sorted(FAMILIES), default="sd3", help="the family (default: sd3)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    write_untrained(arguments.model, arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
