"""The recipe of docs/own_loop.md as it is written there, on one rank and on two; and its calls one by one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers", "h5py"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import attached  # noqa: E402
import family_hosts  # noqa: E402
import mini_flow_grpo  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from family_hosts import HOSTS, PROMPTS, ROWS  # noqa: E402
from watched_rollouts import one_thread  # noqa: E402

grpo_accel = pytest.importorskip("grpo_accel")
__all__ = ["one_thread"]  # a fixture
PAGE = mini_flow_grpo.ROOT / "docs" / "own_loop.md"
RECIPE, YAML, RANKS = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
REWARDS = "def score(images, prompts):\n    return [float(image[0].mean()) for image in images]\n"
# Runs the page's loop and writes down what it ended with. The model says something: an untrained one's output is zero.
RUNNER = """
import json, os, runpy, sys
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
from diffusers import StableDiffusion3Pipeline
load = StableDiffusion3Pipeline.from_pretrained
def loud(folder):
    pipeline = load(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in pipeline.transformer.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return pipeline
StableDiffusion3Pipeline.from_pretrained = loud
if os.environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
    runpy.run_path("ranks.py")
left = runpy.run_path("loop.py", run_name="__main__")
rank = int(os.environ.get("RANK", "0"))
weights = sum(float(weight.double().abs().sum()) for weight in left["pipe"].transformer.parameters())
found = dict(advantages=left["advantages"].tolist(), rewards=left["rewards"], weights=weights)
found["kept"] = left["rollout"].kept
with open(f"found-{rank}.json", "w") as file:
    json.dump(found, file)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mini_flow_grpo.build_model(tmp_path_factory.mktemp("model") / "sd3")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """run(mode, ranks=1, **environment) → (what each rank ended with, stderr, the record's folder), each once."""
    done = {}

    def get(mode, ranks=1, **variables):
        key = (mode, ranks, *variables.items())
        if key not in done:
            done[key] = start(tmp_path_factory.mktemp("loop"), model, mode, ranks, variables)
        return done[key]

    return get


def start(folder, model, mode, ranks, variables):
    for name, text in (("loop.py", RECIPE), ("ranks.py", RANKS), ("accel.yaml", YAML), ("rewards.py", REWARDS),
                       ("run.py", RUNNER)):
        (folder / name).write_text(text, encoding="utf-8")
    settings = {"MODE": mode, "DECISION__POLICY": "random", "DECISION__AUDIT": "0.0"}  # needs no probe
    environment = mini_flow_grpo.mpi_environment(
        MASTER_ADDR="127.0.0.1", **{f"GRPO_ACCEL_{name}": value for name, value in settings.items()}, **variables)
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment.get("PYTHONPATH", "")])
    mpirun = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] if ranks > 1 else []
    process = subprocess.run([*mpirun, sys.executable, "run.py", str(model)], cwd=folder, env=environment,
                             capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(ranks)]
    return found, process.stderr, folder / "runs" / "own_loop"


def test_the_recipe_is_short():
    assert len(RECIPE.splitlines()) <= 30
    assert "import os" in RANKS and YAML.startswith("version: 1")


def plain(rewards, prompts):
    """Reward less its group's mean, over the deviation of all."""
    rewards, prompts = np.asarray(rewards, dtype=np.float64), np.asarray(prompts)
    means = np.array([rewards[prompts == prompt].mean() for prompt in prompts])
    return (rewards - means) / (rewards.std() + 1e-4)


def test_off_shadow_and_disabled_train_the_same_policy(run):
    (off,), text, record = run("off")
    assert "grpo_accel" not in text and not record.exists()
    (disabled,), text, record = run("prune", GRPO_ACCEL_DISABLE="1")
    assert disabled == off and "grpo_accel" not in text and not record.exists()
    (shadow,), text, record = run("shadow")
    assert attached.warnings_in(text) == [] and record.exists()
    assert shadow["rewards"] == off["rewards"] and off["kept"] == list(range(4))
    np.testing.assert_allclose(shadow["advantages"], off["advantages"], rtol=1e-6, atol=1e-7)
    assert shadow["weights"] == pytest.approx(off["weights"], rel=1e-6)
    np.testing.assert_allclose(off["advantages"], plain(off["rewards"], PROMPTS), rtol=1e-5)


def test_pruning_stops_half_of_the_second_update(run):
    (off,), _, _ = run("off")
    (pruned,), text, record = run("prune")
    assert attached.warnings_in(text) == []
    rewards, advantages = np.array(pruned["rewards"]), np.array(pruned["advantages"])
    stopped = np.isnan(rewards)
    assert stopped.sum() == ROWS // 2 and len(pruned["kept"]) == 2
    assert not advantages[stopped].any() and advantages[~stopped].all()
    columns = grpo_accel.open_record(record)
    assert (columns["update"] == np.repeat([0, 1], ROWS)).all()
    assert columns["kept"][:ROWS].all() and ((columns["kept"] == 0)[ROWS:] == stopped).all()
    np.testing.assert_allclose(columns["reward/combined"][ROWS:][~stopped], rewards[~stopped], rtol=1e-6)
    assert pruned["weights"] != off["weights"]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
@pytest.mark.parametrize("mode", ["off", "prune"])
def test_two_ranks_share_their_groups(run, mode):
    found, text, _ = run(mode, ranks=2)
    assert attached.warnings_in(text) == []
    assert found[0]["weights"] == found[1]["weights"], "gradients are summed over the ranks"
    rewards, advantages = (np.array([one[name] for one in found]) for name in ("rewards", "advantages"))
    stopped = np.isnan(rewards)
    assert not np.array_equal(rewards[0], rewards[1])
    if mode == "off":
        assert not stopped.any()
        expected = plain(rewards.ravel(), PROMPTS * 2).reshape(rewards.shape)
        np.testing.assert_allclose(advantages, expected, rtol=1e-5)
    else:
        assert (stopped.sum(axis=1) == ROWS // 2).all()
        assert not advantages[stopped].any() and advantages[~stopped].all()


# ---------------------------------------------------------------------- call by call


@pytest.fixture(scope="module")
def pipeline():
    return family_hosts.make_pipeline("sd3")


@pytest.fixture
def accel(tmp_path, monkeypatch):
    """A runtime that only watches."""
    for name in ("OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    config = attached.write_config(
        tmp_path / "accel.yaml", run_dir=str(tmp_path / "run"), mode="shadow", decision="{step: 2}",
        probe="{inputs: [x0]}")
    with grpo_accel.attach(config) as runtime:
        yield runtime


@pytest.mark.parametrize("std", ["global", "group"])
def test_advantages_are_the_plain_ones_where_nothing_is_stopped(pipeline, accel, std):
    with accel.rollout(pipeline, PROMPTS) as rollout:
        rollout.sample(**HOSTS["sd3_unguided"].arguments())
    rewards = rollout.rewards(np.linspace(0.0, 1.0, ROWS) ** 2)
    advantages = accel.advantages(PROMPTS, rewards, std=std)
    groups = np.array(rewards).reshape(2, 4)
    spread = groups.std() if std == "global" else groups.std(axis=1, keepdims=True)
    expected = (groups - groups.mean(axis=1, keepdims=True)) / (spread + 1e-4)
    np.testing.assert_allclose(advantages.reshape(2, 4), expected, rtol=1e-9)


def test_misuse_says_what_is_wrong(pipeline, accel):
    with accel.rollout(pipeline, PROMPTS) as rollout:
        rollout.sample(**HOSTS["sd3_unguided"].arguments())
    with pytest.raises(ValueError, match="3 rewards for 8 kept rows"):
        rollout.rewards([0.0, 1.0, 2.0])
    rewards = rollout.rewards([0.0] * ROWS)
    with pytest.raises(ValueError, match="8 rewards for 4 prompts"):
        accel.advantages(PROMPTS[:4], rewards)
    with pytest.raises(ValueError, match="4 rewards for the 8 rows"):
        accel.advantages(PROMPTS[:4], rewards[:4])
    with pytest.raises(ValueError, match="'global' or 'group'"):
        accel.advantages(PROMPTS, rewards, std="batch")
    assert not accel.advantages(PROMPTS, rewards).any()


def test_the_samplers_own_arguments_are_known(pipeline, accel):
    """Defaults of the pipeline's call too; what was said of the batch comes first."""
    with accel.rollout(pipeline, PROMPTS, arguments={"guidance_scale": 9.0}) as rollout:
        rollout.sample(**HOSTS["sd3"].arguments())
        told = accel.open_rollouts[-1].arguments
    assert told["guidance_scale"] == 9.0 and told["max_sequence_length"] == 16 and told["num_images_per_prompt"] == 1


def test_a_pipeline_that_is_not_known_runs_as_it_is(accel, capfd):
    class Painter:
        def __call__(self, prompt, size):
            return (torch.zeros(len(prompt), 3, size, size),)

    with accel.rollout(Painter(), PROMPTS) as rollout:
        (images,) = rollout.sample(size=4)
    assert images.shape == (ROWS, 3, 4, 4) and rollout.kept == list(range(ROWS))
    assert capfd.readouterr().err.count("Painter") == 1
    advantages = accel.advantages(PROMPTS, rollout.rewards(np.arange(ROWS)))
    np.testing.assert_allclose(advantages, plain(np.arange(ROWS), PROMPTS), rtol=1e-6)
