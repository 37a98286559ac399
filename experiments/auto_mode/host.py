"""The small trainer as a host for this experiment: process time of its loop, and three ways to make pruning not pay.

    python experiments/auto_mode/host.py --report FOLDER [--slow-scorer SECONDS] [--same-noise] [--noise-probe RUN:UPDATE]
        -- experiments/mini_flow_grpo/train_sd3.py --config …

--slow-scorer: a score costs so much processor time an image. --same-noise: all rollouts of a batch begin with the same
latents. --noise-probe: at the beginning of that update a probe that knows nothing becomes the run's current one, as
`grpo-accel rollback` would make an older one. Rank 0 does that; every rank writes FOLDER/clock-<rank>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def slow_scorer(seconds: float) -> None:
    """The exact detector, after so much work for each image."""
    import flow_grpo.rewards as rewards

    quick = rewards.SCORERS["shapes"]

    def slow(device):
        scorer = quick(device)

        def _fn(images, prompts, metadata):
            until = time.thread_time() + seconds * len(prompts)
            while time.thread_time() < until:
                pass
            return scorer(images, prompts, metadata)

        return _fn

    rewards.SCORERS["shapes"] = slow


def same_noise() -> None:
    """Every rollout of a batch starts from the first one's latents."""
    from flow_grpo.diffusers_patch import sd3_pipeline_with_logprob_fast as fast

    prepare = fast.prepare

    def shared(*args, **kwargs):
        latents, *rest = prepare(*args, **kwargs)
        return latents[:1].expand_as(latents).clone(), *rest

    fast.prepare = shared


def watch(trainer, report: Path, noise_probe: str | None) -> None:
    """Wraps the loop: its process time by update, and the swap of the probe."""
    run, update = trainer.run, trainer.update
    path, _, when = (noise_probe or "").rpartition(":")
    clock = []

    def timed_update(self, epoch, seconds):
        clock.append(time.process_time())
        if noise_probe and epoch == int(when) and self.rank == 0:
            from experiments.auto_mode import noise

            noise.put_in_use(Path(path))
        return update(self, epoch, seconds)

    def timed_run(self):
        run(self)
        clock.append(time.process_time())
        report.mkdir(parents=True, exist_ok=True)
        (report / f"clock-{self.rank}.json").write_text(json.dumps(clock))

    trainer.run, trainer.update = timed_run, timed_update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--slow-scorer", type=float, default=0.0)
    parser.add_argument("--same-noise", action="store_true")
    parser.add_argument("--noise-probe")
    split = sys.argv.index("--")
    options = parser.parse_args(sys.argv[1:split])
    script = sys.argv[split + 1]
    for folder in (ROOT, Path(script).resolve().parent):
        sys.path.insert(0, str(folder))
    if options.slow_scorer:
        slow_scorer(options.slow_scorer)
    if options.same_noise:
        same_noise()
    sys.argv = sys.argv[split + 1 :]
    from absl import app

    module = runpy.run_path(script, run_name="mini_flow_grpo")
    watch(module["Trainer"], options.report, options.noise_probe)
    app.run(module["main"])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
