"""Which probes are trained from which runs, and how: by `grpo-accel train`, as any user would."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = ROOT / ".venv" / "bin" / "grpo-accel"
FEATURES = ("x0", "hidden", "prompt")


@dataclass
class Probe:
    """A probe for one decision step. ``spent``: what a stopped row has cost, in named parts of results' seconds."""

    name: str
    train: Path  # run folder
    held: Path
    inputs: tuple[str, ...]
    place: Path  # where its files go
    settings: dict = field(default_factory=dict)  # of the YAML
    same_as: str | None = None  # name of the probe whose file is used: it is not trained again

    @property
    def file(self) -> Path:
        return self.place / "probes" / f"{(self.same_as or self.name).replace('/', '_')}.safetensors"

    @property
    def predictions(self) -> Path:
        return self.place / "probes" / f"{self.name.replace('/', '_')}.csv"

    def train_command(self) -> list:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        config = self.file.with_suffix(".yaml")
        config.write_text(yaml.safe_dump({"version": 1, **self.settings}, sort_keys=False))
        return [PROGRAM, "train", "--data", self.train, "--out", self.file, "--inputs", ",".join(self.inputs),
                "--rows", "0", "--step", str(step_of(self.train)), "--config", config, "--json"]

    def predict_command(self) -> list:
        return [PROGRAM, "evaluate", "--probe", self.file, "--data", self.held, "--predictions", self.predictions, "--json"]


def step_of(run: Path) -> int:
    return int(run.name.split("-")[1])


def run_of(place: Path, sampler: str, split: str, step: int, distilled: bool = False) -> Path:
    return place / sampler / split / (f"step-{step}-distilled" if distilled else f"step-{step}")


def join_of(sampler: dict, step: int) -> str:
    return "lookahead" if sampler["joined"][step] else "preview"


def _settings(config: dict, network: bool, relabels: int = 0, seconds: float | None = None) -> dict:
    training = {**config["training"], "relabels": relabels}
    if seconds is not None:
        training["seconds_max"] = seconds
    return {"seed": config["seed"], "probe": {"network": {"architecture": "joined" if network else "none", **config["network"]}},
            "training": training}


def wanted(place: Path, config: dict) -> list[Probe]:
    """Every probe of the experiment.

    A sampler with ``trained_on`` uses the probes of that other one: where noise is added does not change how states at
    a noise level are distributed, so rows of one policy at one noise level teach for both.
    """
    found, home = [], config["samplers"][0]

    def add(sampler: dict, step: int, label: str, inputs, network: bool, relabels: int = 0, distilled: bool = False):
        place_of_rows = sampler.get("trained_on", sampler["name"])
        runs = [run_of(place, place_of_rows, "train", step, distilled), run_of(place, sampler["name"], "held", step, distilled)]
        seconds = config["seconds"].get(f"{sampler['name']}@{step}/{label}", config["seconds_elsewhere"])
        settings = _settings(config, network, relabels, seconds)
        same_as = f"{home['name']}@{step}/{label}" if place_of_rows != sampler["name"] else None
        found.append(Probe(f"{sampler['name']}@{step}/{label}", *runs, tuple(inputs), place, settings, same_as))

    relabels = config["relabels"]
    for sampler in config["samplers"]:
        for step in sorted(sampler["looks"]):
            for name in ("attention", "x0", "hidden"):
                add(sampler, step, name, [name], network=False)
            if sampler is home:
                add(sampler, step, "features", FEATURES, True, relabels)
            if "trained_on" not in sampler or join_of(sampler, step) == join_of(home, step):
                add(sampler, step, "joined", (*FEATURES, join_of(sampler, step)), True, relabels)
    for step in config["distilled"]["steps"]:
        add(home, step, "distilled+features", ("attention", *FEATURES, "distilled"), True, distilled=True)
    step = config["main_step"]
    for name in ("attention", "x0", "hidden"):
        add(home, step, f"{name}-network", [name], network=True)
    for name in ("x0", "hidden"):  # labels under other prompts need to see what there is to see
        add(home, step, f"{name}+prompt-relabelled", [name, "prompt"], True, relabels)
    add(home, step, "features+attention", ("attention", *FEATURES), True, relabels)
    add(home, step, "features+attention-without-relabels", ("attention", *FEATURES), True)
    add(home, step, "joined+attention", ("attention", *FEATURES, join_of(home, step)), True, relabels)
    add(home, step, "joined+attention-without-relabels", ("attention", *FEATURES, join_of(home, step)), True)
    paper = _settings(config, True)
    paper["probe"]["network"]["architecture"] = "paper"
    runs = [run_of(place, home["name"], split, step) for split in ("train", "held")]
    found.append(Probe(f"{home['name']}@{step}/paper", *runs, ("attention",), place, paper))
    return found + moved(place, config, found)


def moved(place: Path, config: dict, known: list[Probe]) -> list[Probe]:
    """Probes on the rollouts of the policy that was trained on: as they were, and trained anew."""
    home, step, found = config["samplers"][0], config["main_step"], []
    runs = [run_of(place, "moved", split, step) for split in ("train", "held")]
    for probe in known:
        label = probe.name.split("/")[1]
        if probe.name.startswith(f"{home['name']}@{step}/") and label in config["aging"]:
            found.append(replace(probe, name=f"moved@{step}/{label}-old", held=runs[1], same_as=probe.name))
            name = f"moved@{step}/{label}-new"
            training = {**probe.settings["training"], "seconds_max": config["seconds"].get(name, config["seconds_elsewhere"])}
            found.append(replace(probe, name=name, train=runs[0], held=runs[1], settings={**probe.settings, "training": training}))
    return found


def collected(config: dict) -> list[dict]:
    """Samplers whose own rollouts teach."""
    return [sampler for sampler in config["samplers"] if "trained_on" not in sampler]


def relabelled_runs(place: Path, config: dict) -> list[Path]:
    """One run of each sampler's training split: the rows and finals of its other steps' runs are the same."""
    runs = [run_of(place, sampler["name"], "train", min(sampler["looks"])) for sampler in collected(config)]
    return [*runs, run_of(place, "moved", "train", config["main_step"])]


def share_relabels(place: Path, config: dict) -> None:
    """The other steps' runs get the labels too."""
    for sampler, run in zip(collected(config), relabelled_runs(place, config)):
        for step in sampler["looks"]:
            target = run_of(place, sampler["name"], "train", step) / "relabels"
            if not target.exists():
                shutil.copytree(run / "relabels", target)


def relabel_command(run: Path, config: dict) -> list:
    return [PROGRAM, "relabel", run, "--scorer", "experiments.shapes.scorer:score", "--prompts", str(config["relabels"]),
            "--seed", str(config["seed"]), "--decoder", ROOT / "experiments" / "shapes" / "models" / "sd3", "--quiet"]
