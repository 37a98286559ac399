"""The small trainer as a program: under mpirun and alone, to its end."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
for package in ("diffusers", "accelerate", "peft", "absl", "ml_collections", "safetensors"):
    pytest.importorskip(package)

sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return mini_flow_grpo.build_model(tmp_path_factory.mktemp("model") / "sd3")


def adapter_weights(folder):
    return load_file(next(folder.glob("checkpoints/*/lora/adapter_model.safetensors")))


def changed_weights(model, folder):
    """Names of the transformer's weights that the last checkpoint holds otherwise than the model does."""
    before = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(next(folder.glob("checkpoints/*/transformer/diffusion_pytorch_model.safetensors")))
    assert before.keys() == after.keys()
    return {name for name in before if not before[name].float().equal(after[name].float())}


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
def test_two_ranks_train_with_a_window(model, tmp_path):
    lines = mini_flow_grpo.train(model, tmp_path / "out", "test_window", ranks=2)
    assert [line["update"] for line in lines] == [0, 1, 2]
    assert ["eval_reward" in line for line in lines] == [True, False, True]
    for line in lines[:2]:
        assert line["rows"] == 16 and line["group_size"] == 4
        assert line["transformer_rows"]["sampled"] == 16 * 4
        assert line["transformer_rows"]["trained"] == line["rows_trained"] * 2
        assert set(line["seconds"]) >= {"rollout", "reward", "train"}
        # The first micro-batch is on policy and the second nearly so: the ratio is 1 up to rounding.
        assert line["approx_kl"] < 1e-6
    assert lines[0]["elapsed"] < lines[1]["elapsed"] < lines[2]["elapsed"]
    text = (tmp_path / "out" / "evaluations.jsonl").read_text()
    held_out = [json.loads(line) for line in text.splitlines()]
    assert [line["update"] for line in held_out] == [0, 2]
    for line, evaluated in zip((lines[0], lines[2]), held_out):
        by_prompt = np.mean(evaluated["rewards"], axis=0)
        assert len(by_prompt) == 5
        assert line["eval_reward"] == pytest.approx(by_prompt.mean(), abs=1e-4)
        assert line["eval_reward_error"] == pytest.approx(by_prompt.std(ddof=1) / 5**0.5, abs=1e-4)
    weights = adapter_weights(tmp_path / "out")
    assert any(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)  # B starts at zero


def test_one_process_trains_all_steps_with_guidance(model, tmp_path):
    overrides = ("--config.num_epochs=1", "--config.eval_freq=0", "--config.sample.guidance_scale=2.0")
    lines = mini_flow_grpo.train(model, tmp_path / "out", "test_sde", *overrides)
    assert [line["update"] for line in lines] == [0, 1]
    assert not any("eval_reward" in line for line in lines)
    assert lines[0]["transformer_rows"]["sampled"] == 16 * 4 * 2
    assert lines[0]["transformer_rows"]["trained"] == lines[0]["rows_trained"] * 3 * 2
    # By default only the named modules learn.
    changed = changed_weights(model, tmp_path / "out")
    assert changed and all(name.startswith("time_text_embed.") for name in changed)
