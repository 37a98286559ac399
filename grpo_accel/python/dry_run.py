"""`python -m grpo_accel.dry_run`: what `grpo-accel run --dry-run` becomes. A rehearsal without the script.

Every rank opens the real session with the real configuration in a temporary run folder beside the configured one, and
takes one made-up batch through begin, observe, decide, reward and the end of its update. Where the configuration
stops nothing in a first batch (shadow, auto, no probe yet), a second session does it by chance, so that a plan of all
ranks is made and compared. Then each rank verifies what it has logged. Rank 0 says it for all. Exit code 0, or 1 and
what to do.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from . import schemas, synthetic
from .library import INPUTS, MODES, Decision, GrpoAccelError, Session, load

PLANNED = ("pruned", "audit")  # what a decision calls a plan of all ranks
UNPLANNED = ("shadow", "no probe yet", "first update", "the batch rests")  # and what it calls none, as configured
MARGIN_SECONDS = 10.0  # between what others are waited for and the end of everything


class Phases:
    """Seconds by phase, and which one is under way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.now = "start"

    @contextlib.contextmanager
    def of(self, name: str):
        self.now = name
        begun = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def end_late(plan: dict[str, Any], phases: Phases) -> threading.Timer:
    """Ends the process at the plan's limit, wherever it waits: MPI's own start has no deadline."""
    rank, limit = plan["rank"], plan["limit_seconds"]

    def leave() -> None:
        text = f"rank {rank} of the dry run was still in '{phases.now}' after {limit:.0f} s"
        advice = "look at the ranks that said nothing, or give --timeout"
        print(f"grpo_accel: error: {text}; {advice}", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(limit, leave)
    timer.daemon = True
    timer.start()
    return timer


class Meeting:
    """Texts between the ranks, by a TCP store at MASTER_ADDR as torch would make it; alone it is a dictionary."""

    def __init__(self, rank: int, ranks: int, limit_seconds: float):
        self.rank, self.ranks = rank, ranks
        self.folder: str | None = None  # the temporary run folder, once it is known
        self._texts: dict[str, str] = {}
        self._store: Any = None
        self._end = time.monotonic() + limit_seconds - min(MARGIN_SECONDS, limit_seconds / 2)
        if ranks > 1:
            from torch.distributed import TCPStore

            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            limit = timedelta(seconds=self._left())
            self._store = TCPStore(host, port, ranks, rank == 0, limit, wait_for_workers=False)

    def _left(self) -> float:
        return max(self._end - time.monotonic(), 0.1)

    def say(self, key: str, text: str) -> None:
        if self._store is None:
            self._texts[key] = text
        else:
            self._store.set(key, text)

    def hear(self, key: str) -> str | None:
        """None: nobody said it in time."""
        if self._store is None:
            return self._texts.get(key)
        try:
            self._store.wait([key], timedelta(seconds=self._left()))
            return self._store.get(key).decode()
        except Exception:  # torch has a kind of its own for a timeout, by version
            return None

    def missing(self) -> list[int]:
        """Says that this rank is here; gives those that are not by the time."""
        self.say(f"here-{self.rank}", "1")
        return [rank for rank in range(self.ranks) if self.hear(f"here-{rank}") is None]


# ---- one rank


def overrides() -> list[str]:
    given = [line for line in os.environ.get("GRPO_ACCEL_OVERRIDES", "").split("\n") if line]
    changed = schemas.changed(schemas.expected(load()))
    return [*given, "probe.provider=native"] if changed else given


def plan_checksum(session: Session, batch: Any) -> int:
    function = session._library.ga_batch_plan_checksum
    function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_void_p]
    return function(batch._handle)


class Rehearsal:
    """One rank's part; `problem` is None while all is well."""

    def __init__(self, plan: dict[str, Any], folder: str, phases: Phases):
        self.plan, self.folder, self.phases = plan, folder, phases
        self.said: list[str] = []
        self.problem: str | None = None
        self.planned = False
        self.reason, self.kept, self.checksum, self.advantages = "", synthetic.ROWS, 0, ""
        self.step = 0

    def _hear(self, level: int, line: str) -> None:
        if level <= 1 and line not in self.said:
            self.said.append(line)

    def _open(self, name: str, *more: str) -> Session:
        with self.phases.of("open"):
            session = Session(
                os.environ["GRPO_ACCEL_CONFIG"], [*overrides(), *more, f"run_dir={self.folder}/{name}"], self._hear)
        mode = MODES[session.info().mode]
        if mode == "pass-through":
            raise GrpoAccelError("mismatch", "the session would pass everything through: " + "; ".join(self.said))
        return session

    def run(self) -> None:
        """Collective. Errors become `problem`; what was opened is closed, the first session last: MPI is its own."""
        opened = []
        try:
            opened.append(self._open("configured"))
            self._batch(opened[0])
            if not self.planned:
                step = [] if self.plan["sigma"] else [f"decision.step={self.step or 1}"]
                chance = ["mode=prune", "decision.policy=random", "decision.keep=0.5", "decision.audit=0"]
                opened.append(self._open("by-chance", *chance, *step))
                self._batch(opened[1])
        except Exception as error:
            self.problem = str(error) if isinstance(error, GrpoAccelError) else f"{type(error).__name__}: {error}"
        with self.phases.of("close"):
            for session in reversed(opened):
                session.close(self.problem is None)
        if self.problem is None:
            with self.phases.of("verify"):
                self._verify()

    def _batch(self, session: Session) -> None:
        info = session.info()
        session.set_host(0, True)
        inputs = {name for bit, name in enumerate(INPUTS) if info.inputs >> bit & 1}
        rollouts = synthetic.Rollouts(synthetic.shapes_for(self.plan), inputs, info.rank)
        with self.phases.of("begin"):
            batch = rollouts.begin(session)
        decision = self._decide(rollouts, batch)
        kept = decision.kept if decision is not None else list(range(synthetic.ROWS))
        self.reason = decision.reason if decision is not None else "the batch rests"
        self.planned, self.kept = self.reason in PLANNED, len(kept)
        if self.reason not in PLANNED + UNPLANNED:
            raise GrpoAccelError("late", f"no plan: {self.reason}; " + "; ".join(self.said))
        self.checksum = plan_checksum(session, batch) if self.planned else 0
        with self.phases.of("reward"):
            batch.reward("avg", kept, [float(rollouts.rewards[row]) for row in kept])
        with self.phases.of("update"):
            self._end_update(session, batch, rollouts, kept, info.world_size)

    def _decide(self, rollouts: synthetic.Rollouts, batch: Any) -> Decision | None:
        """Observes and decides at each of the batch's steps; the last decision, None where the batch rests."""
        decision, kept = None, list(range(synthetic.ROWS))
        for step in batch.steps():
            self.step = self.step or step
            with self.phases.of("observe"):
                rollouts.observe(batch, step, kept)
            with self.phases.of("decide"):
                decision = batch.decide()
            kept = decision.kept
        return decision

    def _end_update(self, session: Session, batch: Any, rollouts: synthetic.Rollouts, kept: list, ranks: int) -> None:
        """Rewards of all ranks as a host gathers them: each rank can make up those of the others."""
        everybody = [synthetic.Rollouts(rollouts.shapes, set(), rank).rewards for rank in range(ranks)]
        rewards = np.concatenate(everybody)
        groups = np.tile(np.arange(synthetic.ROWS) % synthetic.PROMPTS, ranks)
        means = np.array([rewards[groups == group].mean() for group in groups])
        host = (rewards - means) / (rewards.std() + 1e-4)
        advantages = session.end_update(groups, rewards, host, 0, True, [batch])
        self.advantages = hashlib.sha256(advantages.tobytes()).hexdigest()[:16]
        own = advantages[rollouts_slice(session.info().rank)]
        if not np.isfinite(advantages).all() or any(own[row] != 0 for row in set(range(len(own))) - set(kept)):
            raise GrpoAccelError("bug", "advantages of stopped rows are not 0, or not finite")

    def _verify(self) -> None:
        """Reads this rank's segments back by the program itself; a run that logs nothing has none."""
        for folder in sorted(Path(self.folder).glob(f"*/record/rank-{self.plan['rank']:05d}")):
            words = [self.plan["program"], "verify", "--json", str(folder)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            try:
                found = json.loads(done.stdout)
            except ValueError:
                found = {}
            if done.returncode != 0 or not found.get("rows"):
                self.problem = f"the record in {folder} could not be verified: {done.stdout or done.stderr}"
                return

    def rows_logged(self) -> int:
        return synthetic.ROWS * len(list(Path(self.folder).glob(f"*/record/rank-{self.plan['rank']:05d}/segment-*.h5")))

    def report(self) -> dict[str, Any]:
        return {
            "rank": self.plan["rank"], "host": socket.gethostname(),
            "ok": self.problem is None, "problem": self.problem,
            "reason": self.reason, "rows": synthetic.ROWS, "kept": self.kept, "plan": f"{self.checksum:016x}",
            "advantages": self.advantages, "rows_logged": self.rows_logged(), "warnings": self.said,
            "seconds": {name: round(seconds, 4) for name, seconds in self.phases.seconds.items()},
        }


def rollouts_slice(rank: int) -> slice:
    return slice(rank * synthetic.ROWS, (rank + 1) * synthetic.ROWS)


# ---- all ranks


def make_folder(run_dir: str) -> str:
    """A temporary run folder on the disk of the configured one, in the nearest folder that is there."""
    place = Path(run_dir).absolute().parent
    while not place.is_dir():
        place = place.parent
    return tempfile.mkdtemp(prefix=".grpo-accel-dry-run-", dir=place)


def rehearse(plan: dict[str, Any], meeting: Meeting, phases: Phases) -> dict[str, Any]:
    """This rank's report; the folder is made by rank 0 and removed by every rank of what it sees."""
    if meeting.rank == 0:
        try:
            meeting.say("folder", make_folder(plan["run_dir"]))
        except OSError as error:
            meeting.say("folder", f"!run_dir {plan['run_dir']} can't be made: {error}")
    folder = meeting.hear("folder") or "!rank 0 made no folder"
    rehearsal = Rehearsal(plan, folder, phases)
    if folder.startswith("!"):
        rehearsal.problem = folder[1:]
    else:
        meeting.folder = folder
        rehearsal.run()
    return rehearsal.report()


def agreement(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What the reports of all ranks say together; problems in words."""
    problems = [f"rank {report['rank']}: {report['problem']}" for report in reports if not report["ok"]]
    compared = {"plan": "another plan", "advantages": "other advantages", "reason": "another kind of batch"}
    for key, what in compared.items():
        values = [report.get(key) for report in reports if report["ok"]]
        common = max(set(values), key=values.count) if values else None
        problems += [f"rank {report['rank']} has {what} than most ({report[key]}, {common})"
                     for report in reports if report["ok"] and report[key] != common]
    if not problems and reports[0]["plan"] == f"{0:016x}":
        problems.append(f"no plan was made ({reports[0]['reason']})")
    return {"ready": not problems, "problems": problems, "plan": reports[0].get("plan")}


def say(document: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(document, indent=2))
        return
    if not quiet:
        ranks = document["environment"]["WORLD_SIZE"] or 1
        print(f"rank 0 of {ranks} (launcher: {document['launcher']}), mode {document['mode']}")
        print(f"would start: {' '.join(document['command'])}")
        for report in document["ranks"]:
            if report["ok"]:
                seconds = ", ".join(f"{name} {value:.3f}" for name, value in report["seconds"].items())
                print(f"rank {report['rank']}: ok; kept {report['kept']} of {report['rows']} rows "
                      f"({report['reason']}), logged {report['rows_logged']}; seconds: {seconds}")
    for warning in dict.fromkeys(line for report in document["ranks"] for line in report.get("warnings", ())):
        print(f"warning: {warning}")
    for problem in document["problems"]:
        print(f"FAILED: {problem}")
    if document["ready"] and not quiet and document["ranks"]:
        print(f"all ranks agree: plan {document['plan']}, advantages {document['ranks'][0]['advantages']}")


def absent(rank: int, limit_seconds: float) -> dict[str, Any]:
    return {"rank": rank, "ok": False, "problem": f"no answer within {limit_seconds:.0f} s", "seconds": {}}


def gather(plan: dict[str, Any], meeting: Meeting, phases: Phases) -> list[dict[str, Any]]:
    """The reports of all ranks on rank 0, only the own one elsewhere."""
    gone = meeting.missing()
    if gone:
        return [absent(rank, plan["limit_seconds"]) for rank in gone]
    report = rehearse(plan, meeting, phases)
    meeting.say(f"report-{meeting.rank}", json.dumps(report))
    if meeting.rank != 0:
        return [report]
    heard = [meeting.hear(f"report-{rank}") for rank in range(meeting.ranks)]
    limit = plan["limit_seconds"]
    return [json.loads(text) if text is not None else absent(rank, limit) for rank, text in enumerate(heard)]


def take_leave(meeting: Meeting, ready: bool) -> bool:
    """Rank 0's verdict for everybody; it holds the store, so it leaves last."""
    if meeting.rank == 0:
        meeting.say("verdict", "1" if ready else "0")
    verdict = meeting.hear("verdict")
    meeting.say(f"left-{meeting.rank}", "1")
    if meeting.rank == 0:
        for rank in range(meeting.ranks):
            meeting.hear(f"left-{rank}")
    return verdict == "1"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="grpo_accel.dry_run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args(arguments)
    document = json.loads(os.environ.pop("GRPO_ACCEL_DRY_RUN"))
    plan = document.pop("rehearsal")
    if document["mode"] == "off":
        if plan["rank"] == 0:
            say({**document, "ready": True, "problems": [], "ranks": []}, given.json, given.quiet)
        return 0
    phases = Phases()
    timer = end_late(plan, phases)
    with phases.of("meet"):
        meeting = Meeting(plan["rank"], plan["ranks"], plan["limit_seconds"])
    reports = gather(plan, meeting, phases)
    found = agreement(reports)
    ready = take_leave(meeting, found["ready"])
    if meeting.rank == 0:
        say({**document, **found, "ranks": reports}, given.json, given.quiet)
        sys.stdout.flush()
    if meeting.folder is not None:
        shutil.rmtree(meeting.folder, ignore_errors=True)
    timer.cancel()
    return 0 if ready else 1


if __name__ == "__main__":
    raise SystemExit(main())
