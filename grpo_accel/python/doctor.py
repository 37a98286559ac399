"""`python -m grpo_accel.doctor`: what this interpreter has that a run needs, a JSON line each.

`grpo-accel doctor` starts it in the interpreter that `grpo-accel run` would take, reads its lines and prints them among
its own. A check that fails in an unforeseen way becomes a line of its own and the others go on.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import ctypes
import glob
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from . import script, versions

OK, WARNING, FAIL = "OK", "WARNING", "FAIL"
TEXT_CHARACTERS_MAX = 500


class Report:
    """Prints a line a check."""

    def __init__(self, out):
        self._out = out

    def note(self, name: str, verdict: str, text: str, **more: str) -> None:
        line = {"name": name, "verdict": verdict, "text": " ".join(text.split())[:TEXT_CHARACTERS_MAX], **more}
        print(json.dumps(line, ensure_ascii=False), file=self._out, flush=True)

    def run(self, name: str, check: Callable[..., None], *arguments) -> None:
        """Calls check(self, …); whatever it raises is a warning."""
        try:
            check(self, *arguments)
        except Exception as error:
            self.note(name, WARNING, f"could not be examined: {type(error).__name__}: {error}")


def check_python(report: Report) -> None:
    here = f"{platform.python_version()} at {sys.executable}"
    old = sys.version_info < (3, 10)
    report.note("Python", FAIL if old else OK, f"{here}; 3.10 or newer is needed" if old else here)


def check_library(report: Report, program: str | None) -> None:
    """The shared library that this package opens."""
    from . import library

    try:
        opened = library.load()
    except library.GrpoAccelError as error:
        report.note("library", FAIL, str(error))
        return
    version = opened.ga_version().decode()
    text = f"{version}, interface {opened.ga_abi_version()}, {library.find_library()}"
    if program is not None and program != version:
        report.note("library", WARNING, f"{text}; the program grpo-accel is {program}: install both from one build")
    else:
        report.note("library", OK, text)


def check_torch(report: Report) -> None:
    try:
        import torch
    except Exception as error:
        text = f"can't be imported: {error}; without it nothing attaches"
        report.note("torch", FAIL if versions.where("torch") else WARNING, text)
        return
    folder = Path(torch.__file__).parent
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    hip = getattr(torch.version, "hip", None)
    build = f"ROCm {hip}" if hip else build
    tested = versions.TESTED["torch"]
    fits = tested.holds(torch.__version__)
    outside = "" if fits else f"; tested: {tested.words()}"
    text = f"{torch.__version__} ({build} build) at {folder}{outside}"
    report.note("torch", OK if fits else WARNING, text, torch_lib=str(folder / "lib"))


def check_adapter(report: Report) -> list[str]:
    """Does what `attach` needs come up here? Gives the classes of pipelines that can be watched."""
    try:
        importlib.import_module(f"{__package__}.attach")
        from .models import families

        known = families()
    except Exception as error:
        report.note("adapter", FAIL, f"nothing attaches: {type(error).__name__}: {error}")
        return []
    report.note("adapter", OK, f"{len(known)} model families are known")
    return [name for taps in known for name in taps.PIPELINES]


def check_operators(report: Report) -> None:
    """Do PyTorch's operators have the signatures that provider torch was written for?"""
    if versions.where("torch") is None:
        return
    from . import library, schemas

    listing = schemas.expected(library.load())
    changed = schemas.changed(listing)
    count = len(listing.splitlines())
    if changed:
        names = ", ".join(changed)
        text = f"{len(changed)} of {count} have another signature ({names}): the probe is computed natively"
        report.note("operators", WARNING, text)
    else:
        report.note("operators", OK, f"{count} of {count} as expected")


def check_gpu(report: Report) -> None:
    if versions.where("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        devices = glob.glob("/dev/nvidia[0-9]*")
        if devices:
            why = "its driver is not usable" if built else "this PyTorch is a CPU build"
            report.note("GPU", WARNING, f"{len(devices)} devices are there, but PyTorch sees none: {why}")
        else:
            report.note("GPU", OK, "none: everything is computed on the CPU")
        return
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    told = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    local = os.environ.get("LOCAL_RANK") or os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK") or "0"
    few = local.isdigit() and int(local) >= len(names)
    more = f"; local rank {local} has none of its own" if few else ""
    report.note("GPU", WARNING if few else OK, told + more)


def _nccl_candidates() -> list[str]:
    named = os.environ.get("GRPO_ACCEL_NCCL")
    if named:
        return [named]
    folders = [place for place in (versions.where("nvidia"), versions.where("torch")) if place is not None]
    inside = [str(path) for folder in folders for path in sorted(folder.glob("**/libnccl.so*"))]
    return [*inside, "libnccl.so.2"]


def _nccl_version(number: int) -> str:
    """22703 is 2.27.3; before 2.9 it was 2804 for 2.8.4."""
    major, minor = divmod(number // 100, 100 if number >= 10000 else 10)
    return f"{major}.{minor}.{number % 100}"


def check_nccl(report: Report) -> None:
    for path in _nccl_candidates():
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            found = ctypes.c_int()
            if library.ncclGetVersion(ctypes.byref(found)) == 0:
                number = found.value
                report.note("NCCL", OK, f"{_nccl_version(number)}, {path}")
                return
    named = os.environ.get("GRPO_ACCEL_NCCL")
    if named:
        report.note("NCCL", WARNING, f"GRPO_ACCEL_NCCL={named} can't be used")
    else:
        report.note("NCCL", OK, "not found; ranks agree by MPI")


def check_packages(report: Report) -> None:
    for name, tested in versions.TESTED.items():
        if name == "torch":
            continue
        version = versions.number(name)
        if version is None:
            needed = "needed" if tested.needed else "flow-grpo needs it"
            report.note(name, FAIL if tested.needed else WARNING, f"not installed; {needed}, tested: {tested.words()}")
        elif not tested.holds(version):
            report.note(name, WARNING, f"{version}; tested: {tested.words()}. Begin with mode: shadow")
        else:
            report.note(name, OK, version)


# ---- the host


def _defines(path: Path) -> set[str]:
    """Names of the functions and classes of a file's top level; empty where it can't be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def _expected() -> dict[str, str]:
    """What each module that is replaced must define."""
    from . import seams

    return {
        script.REWARDS: "multi_score", script.TRACKER: "PerPromptStatTracker",
        **getattr(seams, "PIPELINE_FUNCTIONS", {}), **getattr(seams, "ENCODER_FUNCTIONS", {}),
    }


def check_host(report: Report) -> None:
    """flow_grpo as this interpreter would import it, and whether its functions are where they are looked for."""
    folder = versions.where(script.HOST)
    if folder is None:
        report.note(script.HOST, OK, "can't be imported from here; its scripts need it on PYTHONPATH, or installed")
        return
    missing, there, expected = [], 0, _expected()
    for module, name in expected.items():
        path = folder.joinpath(*module.split(".")[1:]).with_suffix(".py")
        if path.is_file():
            there += 1
            if name not in _defines(path):
                missing.append(f"{path} has no {name}, so it is not replaced")
    text = f"{folder}, {there} of {len(expected)} modules that are known"
    report.note(script.HOST, WARNING if missing else OK, "; ".join([text, *missing]))


def _short(module: str) -> str:
    return module.removeprefix("flow_grpo.").removeprefix("diffusers_patch.")


def check_script(report: Report, path: str, pipelines: list[str]) -> None:
    """What `grpo-accel run … -- path` would replace, and what a stopped rollout would save there."""
    from . import seams

    refused = getattr(seams, "REFUSED", {})
    modules = [module for module in seams.SEAM_MODULES if module not in refused]
    try:
        found = script.examine(path, modules, pipelines, refused)
    except (OSError, SyntaxError, ValueError) as error:
        report.note("script", FAIL, f"{path}: {error}")
        return
    for package, reason in refused.items():
        if any(module == package or module.startswith(package + ".") for module in found.refused):
            report.note("script refused", WARNING, reason)
    if not found.replaced:
        known = f"; it uses {', '.join(found.plain_pipelines)}: see grpo_accel.attach" if found.plain_pipelines else ""
        report.note("script", WARNING, f"{path} imports nothing of flow_grpo that is replaced: it runs as it is{known}")
        return
    report.note("script", OK, f"{path}: replaced are {', '.join(map(_short, found.replaced))}")
    if found.unknown_rollouts:
        names = ", ".join(map(_short, found.unknown_rollouts))
        report.note("script rollout", WARNING, f"{names} is not a sampling function that is known: it runs as it is")
    if found.left_alone:
        report.note("script others", OK, f"left alone: {', '.join(map(_short, found.left_alone))}")
    report.note("script saves", *_savings(found))


def _savings(found: script.Findings) -> tuple[str, str]:
    """Verdict and words for what stopping a rollout saves."""
    if found.other_kind:
        return WARNING, "nothing: the tracker is asked for another type than grpo, so no rollout is stopped"
    if not found.saves_rollout:
        return WARNING, "nothing: no rollout of this script is watched"
    saved = ["rollout"] + ["reward"] * found.saves_reward + ["training"] * found.saves_training
    text = f"a stopped rollout saves {', '.join(saved)}"
    if found.saves_training:
        return OK, text + " (rows without advantage leave training by the script's own mask)"
    return WARNING, (
        f"{text}; not training: no line of the script leaves rows without advantage out "
        "(advantages.abs().sum(…) != 0). advantage.drop_stopped_rows: true takes them out of its samples"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="grpo_accel.doctor")
    parser.add_argument("--program", help="version of the program grpo-accel")
    parser.add_argument("--script", help="training script to look at; it is read and not run")
    given = parser.parse_args(arguments)
    out, sys.stdout = sys.stdout, sys.stderr  # what packages print at import is no line of ours
    out.reconfigure(encoding="utf-8", errors="backslashreplace")  # whatever the locale: a line is read as UTF-8
    report = Report(out)
    if given.script:
        sys.path.insert(0, str(Path(given.script).resolve().parent))  # as for the script itself
    report.run("Python", check_python)
    report.run("library", check_library, given.program)
    report.run("torch", check_torch)
    pipelines = check_adapter(report)
    report.run("operators", check_operators)
    report.run("GPU", check_gpu)
    report.run("NCCL", check_nccl)
    report.run("packages", check_packages)
    report.run(script.HOST, check_host)
    if given.script:
        report.run("script", check_script, given.script, pipelines)


if __name__ == "__main__":
    main()
