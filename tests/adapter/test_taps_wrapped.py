"""Capture where the host wraps its denoiser: what is taken is still, bit for bit, what the blocks attend with."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parent))
import torch  # noqa: E402
from test_taps_attention import Attended, compare  # noqa: E402
from tiny_models import MODELS, ROWS, TEXT_TOKENS  # noqa: E402

from grpo_accel.taps import Layout, bare  # noqa: E402

ALL = slice(0, ROWS)


class Captured:
    """Query and keys as a run takes them: in a hook in front of the block, with the block's own autocast."""

    def __init__(self, model, denoiser, kwargs):
        self.layout = Layout(model.taps.geometry(denoiser, kwargs), TEXT_TOKENS)
        self.taken = {}
        self._model = model
        for name, attention in model.taps.blocks(denoiser):
            attention.register_forward_pre_hook(self._take(name), with_kwargs=True)

    def _take(self, name):
        def hook(attention, args, kwargs):
            named = {**dict(zip(("hidden_states", "encoder_hidden_states"), args)), **kwargs}
            with torch.no_grad():
                self.taken[name] = self._model.taps.query_and_keys(attention, named, ALL, self.layout)

        return hook


def compare_bits(model, called, inner):
    """Runs `called`, whose bare model is `inner`; returns the values that its blocks attended to."""
    kwargs = model.call()
    attended, captured = Attended(model.taps.blocks(inner)), Captured(model, inner, kwargs)
    with torch.no_grad(), attended:
        called(**kwargs)
    names = [name for name, _ in model.taps.blocks(inner)]
    assert list(captured.taken) == names == list(attended.calls)
    for name in names:
        query, image, text = captured.taken[name]
        given = attended.calls[name][0]
        keys = [text] if image is None else [text, image] if model.text_first else [image, text]
        start = TEXT_TOKENS if image is not None and model.text_first else 0
        own = given["query"][:, :, start : start + query.shape[2]]
        assert query.dtype == own.dtype and torch.equal(query, own), name
        assert torch.equal(torch.cat(keys, dim=2), given["key"]), name
    return [given["value"] for given, _ in attended.calls.values()]


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_under_autocast(name, kind):
    model = MODELS[name]
    denoiser = model.denoiser()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[kind]
    with torch.autocast("cpu", dtype=half):
        values = compare_bits(model, denoiser, denoiser)
    assert {value.dtype for value in values} == {half}  # q and k may be back in fp32 behind their norms


@pytest.mark.parametrize("name", MODELS)
def test_with_gradient_checkpointing_on(name):
    """Rollouts have no gradients, so nothing is computed twice: a block that attends twice fails."""
    model = MODELS[name]
    denoiser = model.denoiser().train()
    denoiser.enable_gradient_checkpointing()
    compare_bits(model, denoiser, denoiser)


@pytest.mark.parametrize("name", MODELS)
def test_behind_torch_compile(name):
    """A compiled denoiser skips hooks; asked again without compiling, as a look does it, the blocks are the same."""
    model = MODELS[name]
    compiled = torch.compile(model.denoiser(), backend="eager")
    with torch.no_grad():
        compiled(**model.call())
    inner = bare(compiled)
    assert not hasattr(inner, "_orig_mod")
    with torch.compiler.set_stance("force_eager"):
        compare_bits(model, compiled, inner)


@pytest.fixture(scope="module")
def alone():
    """A process group of one."""
    import torch.distributed as dist

    if dist.is_initialized():
        pytest.skip("there is a process group already")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", MODELS)
def test_behind_ddp(alone, name):
    model = MODELS[name]
    wrapped = torch.nn.parallel.DistributedDataParallel(model.denoiser().requires_grad_(True))
    compare_bits(model, wrapped, bare(wrapped))


@pytest.mark.parametrize("name", MODELS)
def test_behind_ddp_with_lora(alone, name):
    """What accelerate makes of flow-grpo's model: adapters, then DDP."""
    peft = pytest.importorskip("peft")
    model = MODELS[name]
    config = peft.LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=list(model.lora))
    wrapped = torch.nn.parallel.DistributedDataParallel(peft.get_peft_model(model.denoiser(), config))
    compare_bits(model, wrapped, bare(wrapped))
    compare(model, bare(wrapped))
