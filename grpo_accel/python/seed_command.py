"""`grpo-accel select-seeds`: arguments, the pipeline, the scorer, and the answer."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import terminal
from .library import GrpoAccelError

DONE, NO, USAGE, INPUT, MISSING = 0, 1, 2, 3, 4  # exit codes of grpo-accel
EXIT_OF = {"argument": USAGE, "config": USAGE, "missing": MISSING}  # of an error's status; others are inputs


class ScorerFailed(RuntimeError):
    """The user's scorer gave no scores."""


def add_early_options(parser: argparse.ArgumentParser) -> None:
    """What every command that runs a pipeline early is told: of the pipeline, of its judge, of what is left behind."""
    parser.add_argument("--inference-steps", type=int)
    parser.add_argument("--argument", action="append", default=[])
    parser.add_argument("--probe")
    parser.add_argument("--scorer")
    parser.add_argument("--scorer-command")
    parser.add_argument("--direct", choices=("lookahead", "preview"))
    parser.add_argument("--lookahead-steps", type=int)
    parser.add_argument("--decoder")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--max-rows", type=int, default=32)
    parser.add_argument("--device")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="grpo-accel select-seeds")
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--prompts")
    parser.add_argument("--seeds", default="10")
    parser.add_argument("--keep", default="1")
    parser.add_argument("--steps")
    add_early_options(parser)
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--inputs", default="x0,hidden,prompt,lookahead")
    return parser.parse_args(arguments)


# ---------------------------------------------------------------------- what the options mean


def whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise GrpoAccelError("argument", f"--{name} {text}: a whole number, or several with commas") from None


def seeds_of(text: str) -> list[int]:
    """"10": 0 … 9; "3,17": these; "7,": 7 alone."""
    if "," in text:
        return whole_numbers("seeds", text.rstrip(","))
    return list(range(whole_numbers("seeds", text)[0]))


def prompts_of(options: argparse.Namespace) -> list[str]:
    lines = Path(options.prompts).read_text().splitlines() if options.prompts else []
    prompts = [*options.prompt, *(line.strip() for line in lines if line.strip())]
    if not prompts:
        raise GrpoAccelError("argument", "no prompt: --prompt TEXT, or --prompts FILE with a prompt a line")
    return list(dict.fromkeys(prompts))


def pairs_of(name: str, given: list[str]) -> dict[str, Any]:
    """NAME=VALUE texts; a value is JSON where it can be."""
    pairs: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise GrpoAccelError("argument", f"--{name} {text}: NAME=VALUE")
        try:
            pairs[key] = json.loads(value)
        except ValueError:
            pairs[key] = value
    return pairs


def call_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Of the pipeline's call."""
    steps = {} if options.inference_steps is None else {"num_inference_steps": options.inference_steps}
    return {**pairs_of("argument", options.argument), **steps}


def pipeline_of(options: argparse.Namespace) -> Any:
    """The pipeline on its device; on standard output diffusers says nothing."""
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as reason:
        raise GrpoAccelError("missing", f"diffusers and torch are needed: {reason}") from reason
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("float32" if device == "cpu" else "bfloat16"))
    try:
        pipeline = DiffusionPipeline.from_pretrained(options.model, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as reason:
        raise GrpoAccelError("file", f"--model {options.model}: {reason}") from reason
    pipeline.set_progress_bar_config(disable=options.quiet or options.json or not sys.stderr.isatty())
    return pipeline.to(device)


def scorer_of(options: argparse.Namespace) -> Callable[..., list[float]] | None:
    """scorer(images [n, 3, H, W] in 0…1, prompts), from a Python function of pixels or a command."""
    if options.scorer and options.scorer_command:
        raise GrpoAccelError("argument", "--scorer and --scorer-command: give one of them")
    if options.scorer_command:
        return lambda images, prompts: run_command(options.scorer_command, pixels_of(images), list(prompts))
    if not options.scorer:
        return None
    module, _, name = options.scorer.partition(":")
    sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as reason:
        raise GrpoAccelError("argument", f"--scorer {options.scorer}: {reason}") from reason

    def score(images: Any, prompts: Any) -> list[float]:
        try:
            values = [float(value) for value in np.asarray(function(pixels_of(images), list(prompts))).reshape(-1)]
        except Exception as reason:
            raise ScorerFailed(f"--scorer {options.scorer} failed: {type(reason).__name__}: {reason}") from reason
        return counted(f"--scorer {options.scorer}", values, len(prompts))

    return score


def counted(who: str, values: list[float], count: int) -> list[float]:
    if len(values) != count:
        raise ScorerFailed(f"{who} gave {len(values)} numbers for {count} images")
    return values


def pixels_of(images: Any) -> np.ndarray:
    """uint8 [n, H, W, 3] of images [n, 3, H, W] in 0…1."""
    array = images.detach().float().clamp(0, 1).cpu().numpy()
    return (np.moveaxis(array, 1, -1) * 255).round().astype(np.uint8)


def run_command(command: str, pixels: np.ndarray, prompts: list[str]) -> list[float]:
    """Scores of a program that reads a JSON line an image and writes a number for each."""
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="grpo-accel-") as folder:
        lines = []
        for row, (image, prompt) in enumerate(zip(pixels, prompts)):
            path = Path(folder) / f"{row:06d}.png"
            Image.fromarray(image).save(path)
            lines.append(json.dumps({"image": str(path), "prompt": prompt}))
        try:
            done = subprocess.run(shlex.split(command), input="\n".join(lines) + "\n", capture_output=True, text=True)
        except (OSError, ValueError) as reason:
            raise ScorerFailed(f"--scorer-command {command}: {reason}") from reason
    if done.returncode != 0:
        raise ScorerFailed(f"--scorer-command {command} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    try:
        values = [float(word) for word in done.stdout.split()]
    except ValueError as reason:
        raise ScorerFailed(f"--scorer-command {command} wrote something else than numbers: {reason}") from reason
    return counted(f"--scorer-command {command}", values, len(prompts))


# ---------------------------------------------------------------------- the command


def select(options: argparse.Namespace) -> tuple[int, dict]:
    from .seeds import select_seeds

    keep = whole_numbers("keep", options.keep)
    steps = whole_numbers("steps", options.steps) if options.steps else None
    selection = select_seeds(
        pipeline_of(options), prompts_of(options), keep=keep, probe=options.probe, steps=steps,
        seeds=seeds_of(options.seeds), scorer=scorer_of(options), direct=options.direct,
        lookahead_steps=options.lookahead_steps, decoder=options.decoder, max_rows=options.max_rows, out=options.out,
        progress=not (options.quiet or options.json), options=pairs_of("set", options.set), **call_arguments(options))
    answer = json.loads((Path(options.out) / "index.json").read_text())
    text = "\n".join(
        f"{prompt}: seed {seed}" + ("" if selection.scores is None else f", score {selection.scores[row]:.3f}")
        for row, (prompt, seed) in enumerate(zip(selection.prompts, selection.seeds)))
    saved = f"{selection.row_steps_run:.0f} of {selection.row_steps_full:.0f} row-steps; {options.out}/sheet.png"
    return DONE, {**answer, "out": options.out, "text": f"{text}\n{saved}"}


def answer_of(options: argparse.Namespace) -> tuple[int, dict]:
    if not options.learn:
        return select(options)
    from .learn import learn

    scorer = scorer_of(options)
    if scorer is None:
        raise GrpoAccelError("argument", "--learn needs --scorer or --scorer-command")
    steps = whole_numbers("steps", options.steps) if options.steps else None
    report = learn(
        pipeline_of(options), prompts_of(options), scorer, Path(options.out),
        seeds=seeds_of(options.seeds), steps=steps,
        inputs=options.inputs.split(","), lookahead_steps=options.lookahead_steps, decoder=options.decoder,
        max_rows=options.max_rows, options=pairs_of("set", options.set), quiet=options.quiet or options.json,
        arguments=call_arguments(options))
    return (DONE if report["useful"] else NO), report


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr), terminal.errors_only(options.quiet or options.json):
            code, answer = answer_of(options)
    except GrpoAccelError as error:
        return refuse(options, error.status, str(error))
    except (OSError, ScorerFailed) as error:
        return refuse(options, "file", str(error))
    text = answer.pop("text")
    if options.json:
        print(json.dumps(answer))
    elif not options.quiet or code != DONE:
        print(text)
    return code


def refuse(options: argparse.Namespace, status: str, message: str) -> int:
    code = EXIT_OF.get(status, INPUT)
    print(f"grpo-accel: select-seeds: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": {"status": status, "message": message, "exit_code": code}}))
    return code


if __name__ == "__main__":
    sys.exit(main())
