"""The small trainer's hosts for FLUX, Qwen-Image and SDXL: their samplers against the pipelines' own calls."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

for package in ("torch", "diffusers", "accelerate", "peft", "absl", "ml_collections", "h5py"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import attached  # noqa: E402
import family_hosts  # noqa: E402
import mini_flow_grpo  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from watched_rollouts import one_thread  # noqa: E402

__all__ = ["one_thread"]  # a fixture
SCRIPTS = {"flux": "train_flux", "qwen": "train_qwenimage", "sdxl": "train_sdxl"}
PROMPTS = ["a red circle", "two blue squares", "a red circle"]
SCALE = {"flux": 3.5, "qwen": 3.0, "sdxl": 4.0}
STEPS = 5
WINDOW = dict(sde_window_size=2, sde_window_range=(1, 3))


@pytest.fixture(scope="module", params=SCRIPTS)
def host(request):
    """What a trainer's methods need of it, around an untrained pipeline that says something."""
    name = request.param
    if name == "sdxl":
        pytest.importorskip("grpo_accel")
    trainer = mini_flow_grpo.load(SCRIPTS[name]).Trainer
    pipeline = family_hosts.make_pipeline(name)
    sample = SimpleNamespace(guidance_scale=SCALE[name], noise_level=0.7, **WINDOW)
    found = SimpleNamespace(
        name=name, trainer=trainer, pipeline=pipeline, device=torch.device("cpu"),
        transformer=getattr(pipeline, trainer.DENOISER),
        config=SimpleNamespace(sample=sample, resolution=32, max_sequence_length=16))
    for method in ("encode", "sampler_arguments", "repeated", "rollout", "velocity", "step_log_prob"):
        setattr(found, method, getattr(trainer, method).__get__(found))
    if name == "sdxl":
        found.without = trainer.without.__get__(found)
    found.no_text = found.encode([""])
    return found


def plain_call(host, **more):
    named = {
        "flux": dict(guidance_scale=3.5, max_sequence_length=16),
        "qwen": dict(true_cfg_scale=3.0, negative_prompt=[" "] * len(PROMPTS)),
        "sdxl": dict(guidance_scale=4.0),  # without a negative prompt that branch is told zeros
    }[host.name]
    with torch.no_grad():
        return host.pipeline(prompt=list(PROMPTS), height=32, width=32, num_inference_steps=STEPS, output_type="pt",
                             generator=torch.Generator().manual_seed(3), **named, **more).images


def test_without_noise_it_samples_as_the_pipeline_does(host):
    ours = host.rollout(PROMPTS, STEPS, 0, torch.Generator().manual_seed(3))[0]
    theirs = plain_call(host)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert ours.std() > 0.01


def test_a_rollout_scores_the_same_again(host):
    """Ratios begin at 1: the steps that were taken have the log-probability that training computes."""
    torch.manual_seed(1)
    images, latents, log_probs, timesteps, text = host.rollout(PROMPTS, STEPS, 0.7)
    rows = len(PROMPTS)
    assert images.shape == (rows, 3, 32, 32) and latents.shape[:2] == (rows, 3) and log_probs.shape == (rows, 2)
    assert timesteps.tolist() == host.pipeline.scheduler.timesteps[1:3].tolist()
    assert (latents[:, 1:] - latents[:, :-1]).abs().min(dim=0).values.max() > 0
    sample = {"latents": latents[:, :-1], "next_latents": latents[:, 1:], "timesteps": timesteps.repeat(rows, 1), **text}
    for j in range(2):
        with torch.no_grad():
            again = host.step_log_prob(sample, j)
        torch.testing.assert_close(again, log_probs[:, j], rtol=0, atol=1e-4)
        shifted = {**sample, "next_latents": sample["next_latents"] + 0.1}
        with torch.no_grad():
            assert (host.step_log_prob(shifted, j) != log_probs[:, j]).all()


def job(name, folder, model, config):
    """The whole trainer on two ranks: two small updates and no evaluation."""
    script = str(mini_flow_grpo.TRAINER / f"{SCRIPTS[name]}.py")
    if name == "sdxl":
        command = [sys.executable, script, "--accel", str(config), f"--accel_set=run_dir={folder}"]
    else:
        command = [str(attached.COMMAND), "run", "--config", str(config), "--set", f"run_dir={folder}", "--", script]
    settings = {
        "pretrained.model": model, "save_dir": folder, "num_epochs": 2, "eval_freq": 0, "sample.num_steps": 4,
        "sample.num_groups": 4, "sample.num_image_per_prompt": 4, "sample.sde_window_range": "(0, 2)",
    }
    return [
        *("mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2"), *command,
        *("--config", f"{mini_flow_grpo.TRAINER / 'config.py'}:shapes_{name}"),
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
@pytest.mark.skipif(not attached.COMMAND.exists(), reason="grpo-accel is not installed beside this Python")
@pytest.mark.parametrize("name", SCRIPTS)
def test_stopped_rows_leave_rollouts_and_training(name, tmp_path):
    import grpo_accel

    model, folder = mini_flow_grpo.build_model(tmp_path / "model", name), tmp_path / "run"
    config = attached.write_config(
        tmp_path / "accel.yaml", mode="prune", decision="{step: 2, keep: 0.5, policy: random, audit: 0.0}",
        probe="{inputs: [attention, x0, preview]}")
    environment = mini_flow_grpo.mpi_environment(MASTER_ADDR="127.0.0.1")
    done = subprocess.run(job(name, folder, model, config), env=environment, cwd=mini_flow_grpo.ROOT,
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert attached.warnings(done) == []
    first, second = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()][:2]
    assert first["rows"] == second["rows"] == 16
    assert second["rows_trained"] == 8
    copies = 1 if name == "flux" else 2
    assert first["transformer_rows"]["sampled"] == copies * 16 * 4
    assert second["transformer_rows"]["sampled"] == copies * (16 * 3 + 8)  # the step of the decision still has all
    record = grpo_accel.open_record(folder)
    kept = record["kept"] == 1
    assert kept[record["update"] == 0].all() and kept[record["update"] == 1].mean() == 0.5
    assert np.isfinite(record["reward/combined"][kept]).all() and not record["advantage"][~kept].any()
