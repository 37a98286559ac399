"""Where the numbers of an update go: the host's wandb run without taking its steps, and JSON lines with or without it."""

import json
import sys
import types

import pytest

for package in ("torch", "numpy"):
    pytest.importorskip(package)
import numpy as np  # noqa: E402


class History:
    """A wandb of our own: rows by step, as its documentation describes log(data, step, commit)."""

    def __init__(self):
        self.calls, self.rows = [], []  # rows: (step, data) that were finished
        self.step, self.pending = 0, {}

    def log(self, data, step=None, commit=None):
        self.calls.append((dict(data), step, commit))
        if step is not None and step < self.step:
            return  # "steps must be monotonically increasing": dropped
        if step is not None and step > self.step:
            self.finish()
            self.step = step
        self.pending.update(data)
        if commit or (commit is None and step is None):
            self.finish()
            self.step += 1

    def finish(self):
        if self.pending:
            self.rows.append((self.step, self.pending))
        self.pending = {}


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    history = History()
    module.run, module.log = object(), history.log
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module, history


def attached(folder, *overrides):
    from grpo_accel.attach import Runtime

    config = folder / "accel.yaml"
    config.write_text(f"version: 1\nmode: shadow\nrun_dir: {folder}/run\nprobe: {{inputs: [preview]}}\n")
    return Runtime(str(config), overrides)


def roll_out(runtime):
    """One update of one made-up batch, ended as the tracker's wrap ends it."""
    from grpo_accel import synthetic

    rollouts = synthetic.Rollouts(synthetic.Shapes(), {"preview"}, 0)
    batch = rollouts.begin(runtime.session)
    for step in batch.steps():
        rollouts.observe(batch, step, list(range(synthetic.ROWS)))
        batch.decide()
    rewards = rollouts.rewards
    batch.reward("avg", range(len(rewards)), rewards.tolist())
    runtime.session.end_update(np.arange(len(rewards)) % 4, rewards, rewards, 0, True, [batch])
    runtime.update_ended(rollouts.prompts, rewards)


def lines(folder):
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def test_numbers_ride_on_the_host_s_steps(wandb, tmp_path):
    _, history = wandb
    runtime = attached(tmp_path)
    for epoch in range(3):  # as flow-grpo does: before and after the tracker, each with its own step
        history.log({"epoch": epoch}, step=2 * epoch)
        roll_out(runtime)
        history.log({"loss": 0.5}, step=2 * epoch + 1)
    runtime.detach()
    history.finish()
    ours = [call for call in history.calls if any(name.startswith("prune/") for name in call[0])]
    assert len(ours) == 3 and all(step is None and commit is False for _, step, commit in ours)
    assert [step for step, _ in history.rows] == [0, 1, 2, 3, 4, 5]
    for step, row in history.rows:
        assert ("epoch" in row) == (step % 2 == 0) and ("loss" in row) == (step % 2 == 1)
        assert any(name.startswith("prune/") for name in row) == (step % 2 == 0)
    assert all("/" in name for data, _, _ in ours for name in data if name != "update"), ours[0]
    assert len(lines(tmp_path)) == 3


@pytest.mark.parametrize("why", ["not imported", "no run", "not wanted", "broken"])
def test_json_lines_without_wandb(why, wandb, tmp_path, monkeypatch, capfd):
    module, history = wandb
    if why == "not imported":
        monkeypatch.delitem(sys.modules, "wandb")
    elif why == "no run":
        module.run = None
    elif why == "broken":
        module.log = None
    runtime = attached(tmp_path, *(["metrics.wandb=false"] if why == "not wanted" else []))
    roll_out(runtime)
    roll_out(runtime)
    runtime.detach()
    assert history.calls == []
    found = lines(tmp_path)
    assert len(found) == 2 and all("prune/rate" in line or "prune/rows" in line for line in found), sorted(found[0])
    said = capfd.readouterr().err
    assert said.count("numbers could not be handed to wandb") == (1 if why == "broken" else 0)


def test_no_json_lines_where_they_are_not_wanted(wandb, tmp_path):
    _, history = wandb
    runtime = attached(tmp_path, "metrics.jsonl=false")
    roll_out(runtime)
    runtime.detach()
    assert len(history.calls) == 1 and not (tmp_path / "run/metrics.jsonl").exists()
