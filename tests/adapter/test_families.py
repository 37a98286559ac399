"""Every family under a loop of one's own: what the decision sees, what survives it, and that nothing stays behind."""

import random
import sys
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers", "h5py"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import attached  # noqa: E402
import family_hosts  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from family_hosts import HOSTS, PROMPTS, ROWS, Caught  # noqa: E402
from watched_rollouts import one_thread  # noqa: E402

grpo_accel = pytest.importorskip("grpo_accel")
__all__ = ["one_thread"]  # a fixture
FAMILIES = ("sd3", "flux", "qwen", "sdxl")
STEP = 2
INPUTS = ("attention", "x0", "hidden", "prompt", "preview", "lookahead")


@pytest.fixture(scope="module")
def pipelines():
    """pipelines(family), each made once."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = family_hosts.make_pipeline(family)
        return made[family]

    return get


class Scorer:
    """Rewards are mean brightness; keeps the images that it was asked about."""

    def __init__(self):
        self.images = []

    def __call__(self, images, prompts):
        assert len(images) == len(prompts)
        self.images.append(images.clone())
        return [float(image.mean()) for image in images]


@pytest.fixture
def attach(tmp_path, monkeypatch):
    """attach(host, …) → (attachment that prunes its first batch, its scorer)."""
    for name in ("OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    opened = []

    def make(host, steps=(STEP,), keeps=(0.5,), mode="prune", inputs=None, **sections):
        wanted = inputs or INPUTS + (("cfg",) if host.guided else ())
        config = attached.write_config(
            tmp_path / "accel.yaml", run_dir=str(tmp_path / "run"), mode=mode,
            decision=f"{{step: {list(steps)}, keep: {list(keeps)}, policy: random, audit: 0.0}}",
            probe=f"{{inputs: [{', '.join(wanted)}], lookahead: {{steps: 1}}}}", record="{segment_rows: 8}", **sections)
        scorer = Scorer()
        opened.append(grpo_accel.attach(config, scorer=scorer))
        opened[-1].session.set_host(0, True)
        return opened[-1], scorer

    yield make
    for attachment in opened:
        attachment.detach()


def roll_out(attachment, pipeline, host, **more):
    """(images, the rollout) of the batch that `family_hosts.sample` samples without us."""
    torch.manual_seed(7)
    with attachment.rollout(pipeline, PROMPTS) as rollout:
        images = rollout.sample(**host.arguments(**more)).images
    return images, rollout


def end_update(attachment, rollout, images):
    """Rewards of the kept rows and the update's advantages."""
    rewards = rollout.rewards([float(images[row].mean()) for row in rollout.kept])
    return attachment.advantages(PROMPTS, rewards)


def random_states():
    return random.getstate()[1], np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()


# ---------------------------------------------------------------------- survivors


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("steps, keeps", [((STEP,), (0.5,)), ((1, 3), (0.75, 0.5))], ids=["once", "twice"])
def test_survivors_are_what_they_would_have_been(pipelines, attach, capfd, name, steps, keeps):
    """Kept rows bit for bit where the matrix kernels allow it, stopped ones grey, and the host's own state as ever."""
    host = HOSTS[name]
    if steps != (STEP,) and name not in FAMILIES:
        pytest.skip("racing is looked at once a family")
    pipeline = pipelines(host.family)
    stages = []
    with Caught(pipeline, host) as caught:
        plain = family_hosts.sample(pipeline, host)
    assert len(caught.calls) == family_hosts.STEPS * host.calls
    states, schedule = random_states(), family_hosts.scheduler_state(pipeline.scheduler)
    hooks = family_hosts.hooks(pipeline)
    attachment, _ = attach(host, steps, keeps)
    attachment.decided = lambda rollout: stages.append(rollout.kept())
    images, rollout = roll_out(attachment, pipeline, host)
    assert random_states() == states and family_hosts.scheduler_state(pipeline.scheduler) == schedule
    assert family_hosts.hooks(pipeline) == hooks
    kept = rollout.kept
    assert len(kept) == round(keeps[-1] * ROWS) and stages == [kept]
    assert attached.warnings_in(capfd.readouterr().err) == []
    exact = len(steps) == 1 and family_hosts.subset_is_identical(pipeline, host, caught, kept, steps[0] + 1)
    print(f"{name}: kept {kept}, bit-identical: {exact}")
    assert torch.isfinite(images).all() and images.shape == plain.shape
    if exact:
        assert torch.equal(images[kept], plain[kept])
    torch.testing.assert_close(images[kept], plain[kept], rtol=0, atol=1e-4)
    stopped = [row for row in range(ROWS) if row not in kept]
    assert (images[stopped] - 0.5).abs().max() < 1e-6, "stopped rows are grey"
    assert (plain[stopped] - 0.5).abs().max() > 1e-3, "which they would not have been"
    advantages = end_update(attachment, rollout, images)
    assert advantages.shape == (ROWS,) and not advantages[stopped].any() and advantages[kept].any()
    # A call of the pipeline outside of a rollout, as evaluation makes them, is the host's own.
    assert torch.equal(family_hosts.sample(pipeline, host), plain) and attachment.open_rollouts == []


@pytest.mark.parametrize("name", FAMILIES)
def test_watching_changes_no_bit(pipelines, attach, name):
    host = HOSTS[name]
    pipeline = pipelines(host.family)
    plain = family_hosts.sample(pipeline, host)
    attachment, _ = attach(host, mode="shadow")
    images, rollout = roll_out(attachment, pipeline, host)
    assert torch.equal(images, plain) and rollout.kept == list(range(ROWS))
    rewards = rollout.rewards([float(image.mean()) for image in images])
    advantages = attachment.advantages(PROMPTS, rewards)
    off = grpo_accel.attach(attached.write_config(Path(attachment.run_dir).parent / "off.yaml", mode="off"))
    np.testing.assert_allclose(advantages, off.advantages(PROMPTS, rewards), rtol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_leaves_nothing_behind(pipelines, attach, name):
    host = HOSTS[name]
    pipeline = pipelines(host.family)
    attachment, _ = attach(host)
    denoiser = getattr(pipeline, host.denoiser)

    def fail(module, args, kwargs):
        rows = len(args[0] if args else kwargs[host.state])
        if rows < ROWS * (2 if host.doubled else 1):  # behind the decision
            raise RuntimeError("the host is ill")

    family_hosts.sample(pipeline, host)  # text encoders put hooks of their own on themselves when they first run
    hooks = family_hosts.hooks(pipeline)
    handle = denoiser.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="the host is ill"):
        roll_out(attachment, pipeline, host)
    handle.remove()
    assert attachment.open_rollouts == [] and family_hosts.hooks(pipeline) == hooks
    images, rollout = roll_out(attachment, pipeline, host)  # and the next batch is an ordinary one
    assert len(rollout.kept) == ROWS // 2
    assert end_update(attachment, rollout, images).any()


# ---------------------------------------------------------------------- what the decision saw


def expected_shapes(host, pipeline):
    """Of one row's features, from the models' configurations."""
    config = getattr(pipeline, host.denoiser).config
    if host.family == "sdxl":  # 5 blocks with cross-attention, the middle one's width; the coarsest grid
        blocks, width, grid = 10, config.block_out_channels[-1], config.sample_size // 2
        latent = config.in_channels
    else:
        blocks = config.num_layers + (config.num_single_layers if host.family == "flux" else 0)
        width = config.num_attention_heads * config.attention_head_dim
        grid, latent = 8, config.in_channels // (1 if host.family == "sd3" else 4)
    pooled = {"sd3": 96, "flux": 48, "qwen": 96, "sdxl": 48}[host.family]
    shapes = {
        "attention": (3 * min(10, blocks), grid, grid), "x0": (latent, grid, grid), "hidden": (2 * width,),
        "prompt": (pooled,), "preview": (1,), "lookahead": (1,),
    }
    return shapes | ({"cfg": (1, grid, grid)} if host.guided else {})


@pytest.mark.parametrize("name", HOSTS)
def test_the_decision_sees_what_the_pipeline_computed(pipelines, attach, tmp_path, name):
    """All inputs in the record; x0 and the look-ahead of one step are those that the pipeline's own pieces give."""
    host = HOSTS[name]
    pipeline = pipelines(host.family)
    with Caught(pipeline, host) as caught:
        family_hosts.sample(pipeline, host)
    attachment, scorer = attach(host)
    images, rollout = roll_out(attachment, pipeline, host)
    x0 = family_hosts.x0_at(pipeline, host, caught, STEP)
    ahead = family_hosts.looked_ahead(pipeline, host, caught, STEP)
    shown = [family_hosts.decoded(pipeline, host, state) for state in (x0, ahead)]
    assert len(scorer.images) == 2
    for ours, theirs in zip(scorer.images, shown):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (shown[0] - shown[1]).abs().max() > 1e-3
    end_update(attachment, rollout, images)
    attachment.detach()
    record = grpo_accel.open_record(tmp_path / "run")
    columns = [name for name in record if name.startswith("features/")]
    features = {name.removeprefix("features/"): record[name].astype(np.float32) for name in columns}
    assert {k: v.shape for k, v in features.items()} == {
        k: (ROWS, 1, *shape) for k, shape in expected_shapes(host, pipeline).items()}
    for input_name, values in features.items():
        assert np.isfinite(values).all() and values.std() > 0, input_name
    maps = family_hosts.latent_map(pipeline, host, x0)
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, features["x0"].shape[-2:]).numpy()
    np.testing.assert_allclose(features["x0"][:, 0], pooled, rtol=2e-3, atol=2e-3)
    for column, theirs in zip(("preview", "lookahead"), shown):
        np.testing.assert_allclose(features[column].ravel(), theirs.mean(dim=(1, 2, 3)).numpy(), rtol=1e-3, atol=1e-4)


def test_content_tokens_are_found_where_the_text_has_two_parts(pipelines, attach):
    """SD3's text is CLIP's tokens, then T5's: how many is said by the pipeline's own argument."""
    host = HOSTS["sd3"]
    attachment, _ = attach(host, inputs=("attention",))
    _, rollout = roll_out(attachment, pipelines("sd3"), host)
    pipeline = pipelines("sd3")
    (masks,) = {tuple(mask) for key, mask in attachment._content.items() if key[0] == PROMPTS[0]}
    clip = pipeline.tokenizer.model_max_length
    assert len(masks) == clip + 16
    words = len(PROMPTS[0].split())
    assert sum(masks[:clip]) == words and sum(masks[clip:]) == words
