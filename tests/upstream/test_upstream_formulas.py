"""The small trainer computes what flow-grpo computes: the same numbers from the same inputs.

Needs a flow-grpo checkout in FLOW_GRPO_DIR; its two files are loaded from there under names of their own.
"""

import ast
import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import running  # noqa: E402

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.skipif(running.checkout() is None, reason="FLOW_GRPO_DIR names no flow-grpo checkout")

OURS = running.ROOT / "experiments" / "mini_flow_grpo"


def load(root, path):
    name = f"{root.name}_{Path(path).stem}".replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, root / "flow_grpo" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair(request):
    return load(OURS, request.param), load(running.checkout(), request.param)


@pytest.mark.parametrize("pair", ["stat_tracking.py"], indirect=True)
@pytest.mark.parametrize("global_std", [True, False])
def test_advantages(pair, global_std):
    rng = np.random.default_rng(0)
    ours, theirs = (module.PerPromptStatTracker(global_std) for module in pair)
    for _ in range(3):  # clear() between updates, and once not
        prompts = rng.choice(["a", "b", "c", "d"], size=24).tolist()
        rewards = np.repeat(rng.random((24, 1)), 5, axis=1)
        np.testing.assert_array_equal(ours.update(prompts, rewards), theirs.update(prompts, rewards))
        assert ours.get_stats() == theirs.get_stats()
        ours.clear(), theirs.clear()


@pytest.mark.parametrize("pair", ["diffusers_patch/sd3_sde_with_logprob.py"], indirect=True)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_steps(pair, shift):
    ours, theirs = pair
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(10)
    sample, velocity = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps[:9]:
        results = []
        for module in (ours, theirs):
            torch.manual_seed(1)
            taken = module.sde_step_with_logprob(scheduler, velocity, t[None], sample, noise_level=0.7)
            scored = module.sde_step_with_logprob(
                scheduler, velocity, t.repeat(3), sample, noise_level=0.7, prev_sample=taken[0]
            )
            results.append((*taken, *scored[:3]))
        for mine, yours in zip(*results):
            torch.testing.assert_close(mine, yours, rtol=1e-5, atol=1e-5)
        sample = results[0][0]


@pytest.mark.parametrize("pair", ["diffusers_patch/train_dreambooth_lora_sd3.py"], indirect=True)
def test_encode_prompt_takes_the_same_arguments(pair):
    ours, theirs = (list(inspect.signature(m.encode_prompt).parameters) for m in pair)
    assert theirs[: len(ours)] == ours


def arguments_of(root, path):
    """Parameter names of ``pipeline_with_logprob``, without the pipeline itself; read, not imported."""
    tree = ast.parse((root / "flow_grpo" / path).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "pipeline_with_logprob":
            return {argument.arg for argument in node.args.args[1:]}
    raise AssertionError(f"{root / 'flow_grpo' / path} defines no pipeline_with_logprob")


@pytest.mark.parametrize("variant", ["", "_fast"])
def test_rollouts_take_the_same_arguments(variant):
    path = f"diffusers_patch/sd3_pipeline_with_logprob{variant}.py"
    assert arguments_of(OURS, path) <= arguments_of(running.checkout(), path)
