"""`grpo-accel optimize-prompt`: arguments, one prompt or lines of requests, and the answers."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from . import terminal
from .library import GrpoAccelError
from .prompts import Optimised, PromptSearch, Threshold, json_line
from .rewriters import PROMPT_BYTES_MAX, rewriter_of
from .seed_command import (
    DONE, EXIT_OF, INPUT, ScorerFailed, add_early_options, call_arguments, pairs_of, pipeline_of, scorer_of, seeds_of,
    whole_numbers,
)
from .seed_files import as_picture

LINE_BYTES_MAX = 1 << 20
REQUEST_KEYS = {"id", "prompt", "threshold"}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="grpo-accel optimize-prompt")
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt")
    parser.add_argument("--threshold")
    parser.add_argument("--rewriter", required=True)
    parser.add_argument("--rewriter-model")
    parser.add_argument("--rewriter-timeout", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seeds", default="2")
    parser.add_argument("--step")
    add_early_options(parser)
    parser.add_argument("--json-lines", action="store_true")
    return parser.parse_args(arguments)


def search_of(options: argparse.Namespace, log: Callable[[dict], None]) -> PromptSearch:
    if not math.isfinite(options.rewriter_timeout) or options.rewriter_timeout <= 0:
        raise GrpoAccelError("argument", f"--rewriter-timeout {options.rewriter_timeout:g}: a number of seconds above 0")
    if options.threshold is not None:
        Threshold.of(options.threshold, options.probe)  # said before a model is read
    return PromptSearch(
        pipeline_of(options), rewriter_of(options.rewriter, options.rewriter_model, options.rewriter_timeout),
        probe=options.probe, step=whole_numbers("step", options.step)[0] if options.step else None, rounds=options.rounds,
        seeds=seeds_of(options.seeds), scorer=scorer_of(options), direct=options.direct,
        lookahead_steps=options.lookahead_steps, decoder=options.decoder, max_rows=options.max_rows, log=log,
        options=pairs_of("set", options.set), **call_arguments(options))


class Events:
    """Writes each event to OUT/events.jsonl and, where wanted, to a stream as it happens."""

    def __init__(self, path: Path, stream: IO[str] | None):
        self._path, self._stream = path, stream
        self.identity: Any = None  # of the request that is answered

    def __call__(self, event: dict) -> None:
        line = json_line(event if self.identity is None else {"id": self.identity, **event})
        with open(self._path, "a") as file:
            file.write(line + "\n")
        if self._stream is not None:
            self._stream.write(line + "\n")
            self._stream.flush()


def save(folder: Path, name: str, found: Optimised) -> Path:
    path = folder / f"{name}.png"
    as_picture(found.image).save(path)
    return path


def answer_of(found: Optimised, image: Path) -> dict:
    return {
        "asked": found.asked, "prompt": found.prompt, "seed": found.seed, "prediction": found.prediction, "score": found.score,
        "reason": found.reason, "row_steps": found.row_steps, "image": str(image),
        "tries": [{"prompt": one.prompt, "seeds": one.seeds, "predictions": one.predictions, "prediction": one.prediction,
                   "decision": one.decision, "row_steps": one.row_steps} for one in found.tries]}


# ---------------------------------------------------------------------- lines of requests


def request_of(line: str, options: argparse.Namespace) -> tuple[Any, str, Any]:
    """(id, prompt, threshold); ValueError says what is wrong with the line."""
    if len(line) > LINE_BYTES_MAX:
        raise ValueError("the line is too long")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as reason:
        raise ValueError(f"no JSON: {reason}") from None
    if not isinstance(request, dict):
        raise ValueError("no JSON object")
    unknown = sorted(set(request) - REQUEST_KEYS)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are id, prompt and threshold")
    prompt, threshold = request.get("prompt"), request.get("threshold", options.threshold)
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt.encode("utf-8", "replace")) > PROMPT_BYTES_MAX:
        raise ValueError("prompt: a text that is neither empty nor endless is needed")
    if threshold is None or isinstance(threshold, bool) or not isinstance(threshold, (int, float, str)):
        raise ValueError("threshold: a number, qQ or budget:N is needed, in the request or as --threshold")
    return request.get("id"), prompt, threshold


def answer_lines(lines: Iterable[str], options: argparse.Namespace, search: PromptSearch, events: Events) -> int:
    """An event a step of every request; a bad line or a request that fails has an error event, and the next one is read."""
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        events.identity = number
        try:
            identity, prompt, threshold = request_of(line, options)
            events.identity = number if identity is None else identity
            found = search.run([prompt], threshold)[0]
            image = save(Path(options.out), f"{number:06d}", found)
        except Exception as error:
            events({"event": "error", "message": f"{type(error).__name__}: {error}"})
            continue
        events({"event": "image", **answer_of(found, image)})
    return DONE


# ---------------------------------------------------------------------- the command


def run(options: argparse.Namespace) -> tuple[int, dict | None]:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stream = sys.stdout if options.json_lines else None
    events = Events(out / "events.jsonl", stream)
    with contextlib.redirect_stdout(sys.stderr):
        search = search_of(options, events)
        if options.json_lines:
            return answer_lines(sys.stdin, options, search, events), None
        found = search.run([options.prompt], options.threshold)[0]
        answer = answer_of(found, save(out, "image", found))
    (out / "result.json").write_text(json_line(answer) + "\n")
    return DONE, answer


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if not options.json_lines and (options.prompt is None or options.threshold is None):
            raise GrpoAccelError("argument", "--prompt and --threshold are needed, or --json-lines")
        with terminal.errors_only(options.quiet or options.json or options.json_lines):
            code, answer = run(options)
    except GrpoAccelError as error:
        return refuse(options, error.status, str(error))
    except (OSError, ScorerFailed) as error:
        return refuse(options, "file", str(error))
    if answer is not None and options.json:
        print(json_line(answer))
    elif answer is not None and not options.quiet:
        score = "" if answer["score"] is None else f", score {answer['score']:.3f}"
        print(f"{answer['prompt']}: prediction {answer['prediction']:.3f}{score}, {len(answer['tries'])} tries "
              f"({answer['reason']}), {answer['row_steps']:.0f} row-steps; {answer['image']}")
    return code


def refuse(options: argparse.Namespace, status: str, message: str) -> int:
    code = EXIT_OF.get(status, INPUT)
    print(f"grpo-accel: optimize-prompt: {message}", file=sys.stderr)
    if options.json or options.json_lines:
        print(json.dumps({"error": {"status": status, "message": message, "exit_code": code}}))
    return code
