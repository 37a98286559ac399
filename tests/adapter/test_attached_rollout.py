"""One rollout batch in this process: survivors are what they would have been, and nothing stays behind."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import attached  # noqa: E402
import numpy as np  # noqa: E402
import rollouts  # noqa: E402
import torch  # noqa: E402
from rollouts import PROMPTS, encode, meet_the_tracker, sample  # noqa: E402
from watched_rollouts import one_thread, pipeline  # noqa: E402

grpo_accel = pytest.importorskip("grpo_accel")
__all__ = ["one_thread", "pipeline"]  # fixtures


@pytest.fixture
def attach(tmp_path, monkeypatch):
    """attach(decision=…, …) → the attachment, with flow_grpo imported anew behind it."""
    for name in ("OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    opened = []

    def make(**sections):
        config = attached.write_config(tmp_path / "accel.yaml", run_dir=str(tmp_path / "run"), **sections)
        rollouts.forget_host()
        opened.append(grpo_accel.attach(str(config)))
        return opened[-1]

    yield make
    for attachment in opened:
        attachment.detach()
    rollouts.forget_host()


def watch_decisions(monkeypatch):
    """A list that gets the kept rows of every decision from here on."""
    from grpo_accel import library

    found = []
    decide = library.Batch.decide

    def watched(batch):
        decision = decide(batch)
        found.append(decision.kept)
        return decision

    monkeypatch.setattr(library.Batch, "decide", watched)
    return found


def subset_is_identical(pipeline, embeds, kept, guidance):
    """Do this machine's matrix kernels give kept rows the same bits in the smaller batch? (without any plugin)"""
    (text, pooled), _ = embeds
    copies = 2 if guidance > 1 else 1
    generator = torch.Generator().manual_seed(1)
    config = pipeline.transformer.config
    latents = torch.randn(
        (len(PROMPTS), config.in_channels, config.sample_size, config.sample_size), generator=generator
    )
    arguments = {"hidden_states": latents, "timestep": torch.full((len(PROMPTS),), 500.0),
                 "encoder_hidden_states": text, "pooled_projections": pooled}
    full = {name: torch.cat([value] * copies) for name, value in arguments.items()}
    rows = [copy * len(PROMPTS) + row for copy in range(copies) for row in kept]
    part = {name: value[rows] for name, value in full.items()}
    with torch.no_grad():
        whole = pipeline.transformer(**full, return_dict=False)[0]
        return bool((pipeline.transformer(**part, return_dict=False)[0] == whole[rows]).all())


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("steps, keeps", [([2], [0.25]), ([2], [0.5]), ([2, 4], [0.75, 0.25])])
def test_survivors_are_what_they_would_have_been(pipeline, attach, monkeypatch, guidance, steps, keeps):
    """After each decision the kept rows go on as in the whole batch, bit for bit where the matrix kernels allow it."""
    stages = watch_decisions(monkeypatch)
    attach(mode="prune", probe="{inputs: [attention, x0]}",
           decision=f"{{step: {steps}, keep: {keeps}, policy: random, audit: 0.0}}")
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    embeds = encode(pipeline)
    images, latents, log_probs = sample(pipeline_with_logprob.__wrapped__, pipeline, embeds, guidance)
    watched_images, watched_latents, _ = sample(pipeline_with_logprob, pipeline, embeds, guidance)
    assert (watched_images == images).all() and all((a == b).all() for a, b in zip(watched_latents, latents))
    meet_the_tracker()
    stages.clear()
    pruned_images, pruned_latents, pruned_log_probs = sample(pipeline_with_logprob, pipeline, embeds, guidance)
    assert [len(kept) for kept in stages] == [round(keep * len(PROMPTS)) for keep in keeps]
    assert all(set(later) < set(earlier) for earlier, later in zip(stages, stages[1:]))
    exact = [subset_is_identical(pipeline, embeds, kept, guidance) for kept in stages]
    print(f"kept {stages}, guidance {guidance}, bit-identical: {exact}")
    kept = stages[-1]
    for step, (ours, theirs) in enumerate(zip(pruned_latents, latents)):
        assert torch.isfinite(ours).all()
        # The call at a decision's step still has every row that it decides on.
        if all(same for decided, same in zip(steps, exact) if decided + 1 < step):
            assert (ours[kept] == theirs[kept]).all(), step
        assert torch.allclose(ours[kept], theirs[kept], atol=1e-5), step
    for ours, theirs in zip(pruned_log_probs, log_probs):
        assert torch.allclose(ours[kept], theirs[kept], atol=1e-4)
    stopped = [row for row in range(len(PROMPTS)) if row not in kept]
    assert (pruned_latents[-1][stopped] != latents[-1][stopped]).any()
    assert torch.allclose(pruned_images[kept], images[kept], atol=1e-4)
    assert (pruned_images[stopped] - 0.5).abs().max() < 1e-6, "stopped rows are grey"


def test_evaluation_is_untouched(pipeline, attach):
    attachment = attach(mode="prune", decision="{step: 2, keep: 0.5, policy: random, audit: 0.0}", probe="{inputs: [x0]}")
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    embeds = encode(pipeline)
    ours = sample(pipeline_with_logprob, pipeline, embeds, 1.0, noise_level=0)
    theirs = sample(pipeline_with_logprob.__wrapped__, pipeline, embeds, 1.0, noise_level=0)
    assert (ours[0] == theirs[0]).all() and attachment.open_rollouts == []


def test_attention_maps_are_those_of_the_module(pipeline, attach, tmp_path):
    """Text mass, entropy and maximum in the record against a plain computation from the module's own q and k."""
    from grpo_accel.taps_sd3 import StableDiffusion3

    taps = StableDiffusion3()
    attachment = attach(mode="shadow", decision="{step: 2}", probe="{inputs: [attention]}", record="{segment_rows: 12}")
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    embeds = encode(pipeline)
    caught = {}
    blocks = taps.blocks(pipeline.transformer)
    calls = {"count": 0}

    def catch(name):
        def hook(module, args, kwargs):
            if calls["count"] == 2:
                caught[name] = taps.query_and_keys(module, kwargs, slice(0, len(PROMPTS)), None)
        return hook

    def count(module, args, kwargs, output):
        calls["count"] += 1

    handles = [module.register_forward_pre_hook(catch(name), with_kwargs=True) for name, module in blocks]
    handles.append(pipeline.transformer.register_forward_hook(count, with_kwargs=True))
    sample(pipeline_with_logprob, pipeline, embeds, 1.0)
    for handle in handles:
        handle.remove()
    meet_the_tracker()
    content = [taps.content(pipeline, prompt, embeds[0][0].shape[1], 16, None) for prompt in PROMPTS]
    masks = np.array(content, dtype=bool)
    attachment.detach()
    features = grpo_accel.open_record(tmp_path / "run")["features/attention"].astype(np.float32)[:, 0]
    per_block = features.shape[1] // len(blocks)
    for position, (name, _) in enumerate(blocks):
        query, key_image, key_text = (tensor.double() for tensor in caught[name])
        keys = torch.cat([key_image, key_text], dim=2)
        weights = torch.softmax(query @ keys.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1).mean(dim=1)
        mass = weights[..., key_image.shape[2]:].sum(-1).reshape(len(PROMPTS), *features.shape[2:])
        assert np.allclose(features[:, position * per_block], mass.numpy(), atol=2e-3), name
    assert masks.any(axis=1).all() and not masks.all()


def test_an_exception_in_the_host_leaves_nothing_behind(pipeline, attach):
    attachment = attach(mode="prune", decision="{step: 2, keep: 0.5, policy: random}", probe="{inputs: [attention, x0]}")
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    embeds = encode(pipeline)
    calls = {"count": 0}

    def fail(module, args, kwargs):
        calls["count"] += 1
        if calls["count"] == 3:
            raise RuntimeError("the host is ill")

    handle = pipeline.transformer.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="the host is ill"):
        sample(pipeline_with_logprob, pipeline, embeds, 1.0)
    handle.remove()
    assert attachment.open_rollouts == []
    from grpo_accel import models

    for _, module in models.taps_of(pipeline).blocks(pipeline.transformer):
        assert not module._forward_pre_hooks
    attachment.detach()
    import flow_grpo.rewards
    import flow_grpo.stat_tracking

    assert not hasattr(flow_grpo.rewards.multi_score, "__wrapped__")
    assert not hasattr(flow_grpo.stat_tracking.PerPromptStatTracker.update, "__wrapped__")


INPUTS = ("attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled")


EARLY_NOISE = {"sde_window_size": 2, "sde_window_range": (0, 2)}
LATE_NOISE = {"sde_window_size": 1, "sde_window_range": (4, 5)}


def update(attachment, pipeline, embeds, **arguments):
    """One update of a host that rewards by file size; its rollout. Arguments: of the sampler with a window."""
    from flow_grpo.diffusers_patch import sd3_pipeline_with_logprob, sd3_pipeline_with_logprob_fast
    from flow_grpo.rewards import multi_score

    score = multi_score("cpu", {"jpeg_compressibility": 1.0})
    patch = sd3_pipeline_with_logprob_fast if arguments else sd3_pipeline_with_logprob
    guidance = 1.0 if arguments else 2.5
    images = sample(patch.pipeline_with_logprob, pipeline, embeds, guidance, **arguments)[0]
    (rollout,) = attachment.open_rollouts
    meet_the_tracker(score(images, PROMPTS, [{}] * len(PROMPTS))[0]["avg"])
    return rollout


@pytest.mark.parametrize("wanted", [*((name,) for name in INPUTS), INPUTS])
def test_signals_reach_the_record(pipeline, attach, tmp_path, wanted, capfd):
    """Each by itself, then all: the second update is pruned, which it is only when no signal is missing."""
    attachment = attach(
        mode="prune", decision="{step: 2, keep: 0.5, policy: random, audit: 0.0}", record="{finals: latent}",
        probe=f"{{inputs: [{', '.join(wanted)}], distilled: {{every_updates: 1, seconds: 0.5}}}}",
    )
    embeds = encode(pipeline)
    seen = [update(attachment, pipeline, embeds) for _ in range(2)]
    attachment.detach()
    assert attached.warnings_in(capfd.readouterr().err) == []
    record = grpo_accel.open_record(tmp_path / "run")
    columns = {name.removeprefix("features/") for name in record if name.startswith("features/")}
    assert columns == set(wanted)
    kept = record["kept"] == 1
    assert kept[record["update"] == 0].all() and kept[record["update"] == 1].mean() == 0.5
    features = {name: record[f"features/{name}"].astype(np.float32)[:, 0].reshape(len(kept), -1) for name in wanted}
    for name, values in features.items():
        assert np.isfinite(values).all() and values.std() > 0, name
    second = slice(len(PROMPTS), None)
    for name in {"preview", "lookahead", "distilled"} & set(wanted):
        assert np.allclose(features[name][second], seen[1].signals.scores[name], rtol=1e-3)
    if "prompt" in wanted:
        pooled = embeds[0][1].numpy().astype(np.float16).astype(np.float32)
        assert np.array_equal(features["prompt"][second], pooled)
    assert np.array_equal(record["final_present"] == 1, kept)
    for name in ("state", "final"):
        assert np.array_equal(np.isfinite(record[name]).all(axis=(1, 2, 3)), kept), f"{name} of kept rows alone"
    guesses = [name for name in ("preview", "lookahead") if name in wanted]
    assert all((record[f"batches/seconds_{name}"] > 0).all() for name in guesses)


def test_a_host_without_guidance_is_not_pruned_by_guidance(pipeline, attach, tmp_path, capfd):
    attachment = attach(
        mode="prune", decision="{step: 2, keep: 0.5, policy: random, audit: 0.0}", probe="{inputs: [cfg, x0]}"
    )
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    embeds = encode(pipeline)
    for _ in range(2):
        sample(pipeline_with_logprob, pipeline, embeds, 1.0)
        assert not attachment.open_rollouts[0].stopped()
        meet_the_tracker()
    assert capfd.readouterr().err.count("samples without guidance") == 1


def learn(attach, pipeline, tmp_path):
    """A probe that has seen this world after two steps and after four, learned from a few updates in shadow."""
    attachment = attach(mode="shadow", decision="{step: [2, 4], keep: [0.75, 0.5]}", probe="{inputs: [x0]}")
    for seed in range(12):  # a probe is judged on prompts that it has not learned from
        embeds = encode(pipeline, [f"{prompt} {seed}" for prompt in PROMPTS])
        update(attachment, pipeline, embeds, generator=torch.Generator().manual_seed(seed), **EARLY_NOISE)
    attachment.detach()
    probe = tmp_path / "probe.safetensors"
    command = [attached.COMMAND, "train", "--data", tmp_path / "run", "--out", probe, "--step", "all",
               "--set", "probe.network.architecture=none"]
    trained = subprocess.run(command, capture_output=True, text=True)
    assert trained.returncode in (0, 1), trained.stderr
    shutil.rmtree(tmp_path / "run")
    return probe


@pytest.mark.skipif(not attached.COMMAND.exists(), reason="grpo-accel is not installed beside this Python")
def test_groups_that_share_their_state_are_refused_with_the_reason(pipeline, attach, tmp_path, capfd):
    """same_latent of the fast scripts, noise only after the decisions: until then rows of a prompt are all the same."""
    probe = learn(attach, pipeline, tmp_path)
    attachment = attach(
        mode="prune", probe=f"{{inputs: [x0], path: {probe}}}",
        decision="{step: [2, 4], keep: [0.75, 0.5], policy: extremes, audit: 0.0}",
    )
    embeds = encode(pipeline)
    same = [torch.Generator().manual_seed(1 + PROMPTS.index(prompt)) for prompt in PROMPTS]
    different = torch.Generator().manual_seed(99)
    stopped = []
    usual = different, EARLY_NOISE
    for generator, noise in (usual, usual, (same, LATE_NOISE), usual):
        stopped.append(len(update(attachment, pipeline, embeds, generator=generator, **noise).stopped()))
    assert stopped == [0, 6, 0, 6], "the host's first update, a pruned one, a refused one, a pruned one"
    attachment.detach()
    warned = attached.warnings_in(capfd.readouterr().err)
    assert len(warned) == 2 and "comes before the noise" in warned[0], warned
    assert "same initial noise" in warned[1] and "decision.step" in warned[1]
    record = grpo_accel.open_record(tmp_path / "run")
    refused = record["update"] == 2
    assert record["kept"][refused].all() and (record["inclusion"][refused] == 1).all()
    assert np.isfinite(record["reward/combined"][refused]).all()
    predicted = record["prediction"][record["update"] == 1]
    assert np.isfinite(predicted[:, 0]).all() and np.isfinite(predicted[:, 1]).sum() == 9
