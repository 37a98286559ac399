"""What users put around a denoiser: LoRA, autocast, checkpointing, torch.compile, DDP, FSDP, accelerate.

Each test says what it is about in its name; scripts/model_matrix sorts them into its columns by that.
"""

import contextlib
import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers", "peft"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import attached  # noqa: E402
import family_hosts  # noqa: E402
import mini_flow_grpo  # noqa: E402
import torch  # noqa: E402
from family_hosts import HOSTS, ROWS  # noqa: E402
from watched_rollouts import one_thread  # noqa: E402

grpo_accel = pytest.importorskip("grpo_accel")
__all__ = ["one_thread"]  # a fixture
FAMILIES = ("sd3", "flux", "qwen", "sdxl")
OBSERVED = ("observe_attention", "observe_latent", "observe_guidance", "observe_vectors")
INPUTS = ("attention", "x0", "hidden", "prompt")
COARSE = 0.1  # from here on a tolerance is of the whole tensor's norm: half precision
LORA_TARGETS = ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"]


class Watched:
    """Runs batches of a host attached, and keeps what its decisions were shown."""

    def __init__(self, folder, monkeypatch):
        from grpo_accel import library

        self._folder, self._runs = folder, 0
        self.shown = []
        for name in OBSERVED:
            monkeypatch.setattr(library.Batch, name, self._kept(name, getattr(library.Batch, name)))

    def _kept(self, name, observe):
        def watched(batch, *arguments):
            copies = [a.detach().clone().float() if isinstance(a, torch.Tensor) else a for a in arguments]
            self.shown.append((name, copies))
            return observe(batch, *arguments)

        return watched

    @contextlib.contextmanager
    def attached(self, mode):
        self._runs += 1
        config = attached.write_config(
            self._folder / f"accel-{self._runs}.yaml", run_dir=str(self._folder / f"run-{self._runs}"), mode=mode,
            decision="{step: 2, keep: 0.5, policy: random, audit: 0.0}", probe=f"{{inputs: [{', '.join(INPUTS)}]}}")
        with grpo_accel.attach(config) as attachment:
            attachment.session.set_host(0, True)
            yield attachment

    def run(self, pipeline, host, mode, attachment=None):
        """(images, kept rows, what was shown) of one batch, the one that `family_hosts.sample` samples."""
        self.shown = []
        with contextlib.ExitStack() as stack:
            here = attachment or stack.enter_context(self.attached(mode))
            torch.manual_seed(7)
            with here.rollout(pipeline, family_hosts.PROMPTS) as rollout:
                images = rollout.sample(**host.arguments()).images
            kept = rollout.kept
            here.advantages(family_hosts.PROMPTS, rollout.rewards([float(images[row].mean()) for row in kept]))
        return images, kept, self.shown


@pytest.fixture
def watched(tmp_path, monkeypatch):
    for name in ("OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return Watched(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def originals():
    """originals(family): an untrained pipeline, made once; tests wrap copies of its denoiser."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = family_hosts.make_pipeline(family)
        return made[family]

    return get


@pytest.fixture
def pipeline_of(originals):
    """pipeline_of(host) → the family's pipeline, its denoiser a copy that the test may change."""
    changed = []

    def get(host):
        pipeline = originals(host.family)
        denoiser = getattr(pipeline, host.denoiser)
        changed.append((pipeline, host.denoiser, denoiser))
        setattr(pipeline, host.denoiser, copy.deepcopy(denoiser))
        return pipeline

    yield get
    for pipeline, name, denoiser in reversed(changed):
        setattr(pipeline, name, denoiser)


def assert_shown_alike(ours, theirs, tolerance):
    """Everything that a decision saw, in whatever order."""
    names = sorted(name for name, _ in ours)
    assert names == sorted(name for name, _ in theirs) and {"observe_attention", "observe_vectors"} < set(names)

    def by_name(shown):
        return sorted(shown, key=lambda entry: (entry[0], str([a for a in entry[1] if isinstance(a, (str, int))])))

    for (name, left), (_, right) in zip(by_name(ours), by_name(theirs)):
        for a, b in zip(left, right):
            if isinstance(a, torch.Tensor) and tolerance < COARSE:
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")
            elif isinstance(a, torch.Tensor) and a.is_floating_point():
                assert torch.isfinite(a).all() and (a - b).norm() < tolerance * b.norm(), name


def assert_transparent(watched, pipeline, host, reference, capfd, tolerance=1e-5, images_tolerance=1e-4):
    """Watching changes no bit of what the wrapped model gives, what is seen is what the bare one shows (`reference`),
    and pruned batches keep their survivors."""
    plain = family_hosts.sample(pipeline, host)
    images, kept, shown = watched.run(pipeline, host, "shadow")
    assert torch.equal(images, plain) and kept == list(range(ROWS))
    assert_shown_alike(shown, reference, tolerance)
    images, kept, _ = watched.run(pipeline, host, "prune")
    assert len(kept) == ROWS // 2
    if tolerance < COARSE:
        torch.testing.assert_close(images[kept], plain[kept], rtol=0, atol=images_tolerance)
    else:
        assert (images[kept] - plain[kept]).abs().mean() < images_tolerance
    assert attached.warnings_in(capfd.readouterr().err) == []


def bare_shown(watched, pipeline, host):
    return watched.run(pipeline, host, "shadow")[2]


# ---------------------------------------------------------------------- around the weights and the arithmetic


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_is_seen_as_the_merged_model(watched, pipeline_of, capfd, name):
    from peft import LoraConfig, get_peft_model

    host = HOSTS[name]
    pipeline = pipeline_of(host)
    bare = bare_shown(watched, pipeline, host)
    torch.manual_seed(1)
    adapted = get_peft_model(
        getattr(pipeline, host.denoiser), LoraConfig(r=4, init_lora_weights=False, target_modules=LORA_TARGETS))
    adapted.eval()
    setattr(pipeline, host.denoiser, copy.deepcopy(adapted).merge_and_unload())
    merged = bare_shown(watched, pipeline, host)
    with pytest.raises(AssertionError):  # the adapter says something
        assert_shown_alike(merged, bare, 1e-3)
    setattr(pipeline, host.denoiser, adapted)
    assert_transparent(watched, pipeline, host, merged, capfd, tolerance=1e-4, images_tolerance=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_autocast(watched, pipeline_of, capfd, name, dtype):
    host = HOSTS[name]
    pipeline = pipeline_of(host)
    bare = bare_shown(watched, pipeline, host)
    with torch.autocast("cpu", dtype=dtype):
        try:
            family_hosts.sample(pipeline, host)
        except RuntimeError as error:
            pytest.skip(f"this PyTorch can't sample that way on a CPU: {error}")
        assert_transparent(watched, pipeline, host, bare, capfd, tolerance=0.3, images_tolerance=0.03)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing(watched, pipeline_of, capfd, name):
    host = HOSTS[name]
    pipeline = pipeline_of(host)
    bare = bare_shown(watched, pipeline, host)
    denoiser = getattr(pipeline, host.denoiser)
    denoiser.requires_grad_(True).train()
    denoiser.enable_gradient_checkpointing()
    assert_transparent(watched, pipeline, host, bare, capfd)
    with family_hosts.Caught(pipeline, host) as caught:
        family_hosts.sample(pipeline, host)
    arguments = caught.calls[0][0]
    output = denoiser(**arguments)  # a training pass, after the rollouts
    (output[0] if isinstance(output, tuple) else output.sample).square().mean().backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in denoiser.parameters())


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_inference_mode(watched, pipeline_of, capfd, name):
    host = HOSTS[name]
    pipeline = pipeline_of(host)
    bare = bare_shown(watched, pipeline, host)
    with torch.inference_mode():
        assert_transparent(watched, pipeline, host, bare, capfd)


# ---------------------------------------------------------------------- torch.compile


def compile_whole(pipeline, host):
    setattr(pipeline, host.denoiser, torch.compile(getattr(pipeline, host.denoiser), backend="eager"))
    return 1


def compile_in_place(pipeline, host):
    getattr(pipeline, host.denoiser).compile(backend="eager")
    return 1


def compile_blocks(pipeline, host):
    denoiser = getattr(pipeline, host.denoiser)
    blocks = [*denoiser.transformer_blocks, *getattr(denoiser, "single_transformer_blocks", [])]
    for block in blocks:
        block.compile(backend="eager")
    return len(blocks)


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("name, how", [
    ("sd3_unguided", compile_whole), ("sd3_unguided", compile_in_place), ("sd3_unguided", compile_blocks),
    ("flux", compile_whole), ("flux", compile_blocks),
], ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_compiled(watched, pipeline_of, capfd, name, how):
    """The host's output is the compiled model's bit for bit, what is seen is the bare model's, and watching compiles
    nothing anew; pruning does once for its second number of rows."""
    host = HOSTS[name]
    pipeline = pipeline_of(host)
    bare = bare_shown(watched, pipeline, host)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    parts = how(pipeline, host)
    plain = family_hosts.sample(pipeline, host)
    compiled = graphs()
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    assert compiled >= 1
    images, _, shown = watched.run(pipeline, host, "shadow")
    assert torch.equal(images, plain) and graphs() == compiled
    assert_shown_alike(shown, bare, 1e-5)
    with watched.attached("prune") as attachment:
        for repetition in range(2):
            images, kept, _ = watched.run(pipeline, host, "prune", attachment)
            torch.testing.assert_close(images[kept], plain[kept], rtol=0, atol=1e-4)
            assert len(kept) == ROWS // 2
            if repetition == 0:
                again = graphs()
    assert graphs() == again <= compiled + max(parts, compiled), "two numbers of rows, and no more"
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) <= 2 * breaks
    assert attached.warnings_in(capfd.readouterr().err) == []


# ---------------------------------------------------------------------- several processes


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_ddp(watched, pipeline_of, capfd, process_group, name):
    """The pipeline samples through the wrapper, which is trained between."""
    host = HOSTS[name]
    pipeline = pipeline_of(host)
    bare = bare_shown(watched, pipeline, host)
    denoiser = getattr(pipeline, host.denoiser).requires_grad_(True)
    wrapped = torch.nn.parallel.DistributedDataParallel(denoiser, find_unused_parameters=True)
    for name_read in ("config", "cache_context"):  # what pipelines read of their denoiser
        if hasattr(denoiser, name_read):
            setattr(wrapped, name_read, getattr(denoiser, name_read))
    setattr(pipeline, host.denoiser, wrapped)
    assert_transparent(watched, pipeline, host, bare, capfd)
    with family_hosts.Caught(pipeline, host) as caught:
        family_hosts.sample(pipeline, host)
    wrapped(**caught.calls[0][0])[0].square().mean().backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in denoiser.parameters())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_prepared(watched, pipeline_of, capfd, precision):
    accelerate = pytest.importorskip("accelerate")
    host = HOSTS["sd3"]
    pipeline = pipeline_of(host)
    bare = bare_shown(watched, pipeline, host)
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    pipeline.transformer = accelerator.prepare(pipeline.transformer.requires_grad_(True))
    coarse = precision == "bf16"
    assert_transparent(
        watched, pipeline, host, bare, capfd, tolerance=0.3 if coarse else 1e-5,
        images_tolerance=0.03 if coarse else 1e-4)
    accelerate.state.AcceleratorState._reset_state(True)


FSDP_JOB = """
import json, os, sys, runpy
sys.path[:0] = [{folder!r}]
for ours, theirs in (("RANK", "RANK"), ("WORLD_SIZE", "SIZE")):
    os.environ[ours] = os.environ["OMPI_COMM_WORLD_" + theirs]
import torch
torch.set_num_threads(1)
import family_hosts, grpo_accel
kind, out = sys.argv[1:]
torch.distributed.init_process_group("gloo")
rank, host = torch.distributed.get_rank(), family_hosts.HOSTS["sd3"]
pipeline = family_hosts.make_pipeline("sd3")
plain = family_hosts.sample(pipeline, host)
found = dict(rank=rank)
try:
    if kind == "fully_shard":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (2,))
        for block in pipeline.transformer.transformer_blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(pipeline.transformer, mesh=mesh)
    else:
        from functools import partial
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
        blocks = {{type(block) for block in pipeline.transformer.transformer_blocks}}
        pipeline.transformer = FullyShardedDataParallel(
            pipeline.transformer.requires_grad_(True), use_orig_params=True, device_id=torch.device("cpu"),
            auto_wrap_policy=partial(transformer_auto_wrap_policy, transformer_layer_cls=blocks))
    sharded = family_hosts.sample(pipeline, host)
except Exception as error:
    found["refused"] = type(error).__name__ + ": " + str(error)
else:
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    def score(images, prompts):
        return [float(image.mean()) for image in images]
    with grpo_accel.attach(os.path.join(out, "accel.yaml"), scorer=score) as accel:
        accel.session.set_host(0, True)
        torch.manual_seed(7)
        with accel.rollout(pipeline, family_hosts.PROMPTS) as rollout:
            images = rollout.sample(**host.arguments()).images
        kept = rollout.kept
        rewards = rollout.rewards([float(images[row].mean()) for row in kept])
        advantages = accel.advantages(family_hosts.PROMPTS, rewards)
    found |= dict(
        calls=len(calls), kept=kept, advantages=advantages.tolist(), plain=float((sharded - plain).abs().max()),
        survivors=float((images[kept] - sharded[kept]).abs().max()))
with open(os.path.join(out, f"found-{{rank}}.json"), "w") as file:
    json.dump(found, file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
@pytest.mark.parametrize("kind", ["fully_shard", "FullyShardedDataParallel"])
def test_fsdp_ranks_make_as_many_calls(tmp_path, kind):
    """Each forward is a collective there: both ranks make as many, and survivors and features are as ever."""
    attached.write_config(
        tmp_path / "accel.yaml", run_dir=str(tmp_path / "run"), mode="prune",
        decision="{step: 2, keep: 0.5, policy: random, audit: 0.0}",
        probe="{inputs: [attention, x0, hidden, prompt, cfg, preview, lookahead], lookahead: {steps: 1}}")
    (tmp_path / "job.py").write_text(FSDP_JOB.format(folder=str(Path(__file__).parent)))
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", sys.executable, str(tmp_path / "job.py"),
               kind, str(tmp_path)]
    environment = mini_flow_grpo.mpi_environment(MASTER_ADDR="127.0.0.1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2)]
    if "refused" in found[0]:
        pytest.skip(f"this PyTorch shards nothing on a CPU that way: {found[0]['refused'][:200]}")
    assert attached.warnings_in(done.stderr) == []
    assert found[0]["calls"] == found[1]["calls"] == family_hosts.STEPS + 1, "one further call looks ahead"
    for rank in found:
        assert len(rank["kept"]) == ROWS // 2 and rank["plain"] < 1e-4 and rank["survivors"] < 1e-4
        stopped = [row for row in range(ROWS) if row not in rank["kept"]]
        assert not any(rank["advantages"][row] for row in stopped)
    record = grpo_accel.open_record(tmp_path / "run")
    features = [name for name in record if name.startswith("features/")]
    assert len(features) == 7
    for name in features:
        assert abs(record[name].astype("float32")).max() < 1e4 and record[name].astype("float32").std() > 0, name
