"""What is captured of a block is what it attends with: softmax(q·k/√d)·v of captured q and k is the block's own result.

v is what the model hands to PyTorch's attention. Every family, every kind of block, with LoRA and with fused
projections, in the version of diffusers that is installed.
"""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parent))
import diffusers  # noqa: E402
import tiny_models  # noqa: E402
import torch  # noqa: E402
from tiny_models import MODELS, ROWS, TEXT_TOKENS, Model  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from grpo_accel.taps import Layout  # noqa: E402

POSITIONS = ("hidden_states", "encoder_hidden_states", "attention_mask")
TAKEN = slice(1, ROWS)  # not the first, so that rows are told apart
RELATIVE = 1e-5


class Attended(TorchFunctionMode):
    """Every scaled dot product attention by the block that asked for it, and the block's arguments."""

    def __init__(self, blocks):
        super().__init__()
        self.calls, self.arguments = {}, {}
        self._asking = None
        for name, attention in blocks:
            attention.register_forward_pre_hook(self._enter(name), with_kwargs=True)
            attention.register_forward_hook(self._leave)

    def _enter(self, name):
        def hook(attention, args, kwargs):
            self._asking = name
            self.arguments[name] = {**dict(zip(POSITIONS, args)), **kwargs}

        return hook

    def _leave(self, *_):
        self._asking = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function is functional.scaled_dot_product_attention and self._asking is not None:
            given = {**dict(zip(("query", "key", "value", "attn_mask"), args)), **(kwargs or {})}
            assert self._asking not in self.calls, "a block attended twice"
            self.calls[self._asking] = (given, output)
        return output


def attend(query, keys, value, mask):
    """Attention by its definition."""
    logits = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return logits.softmax(-1) @ value


def run(model: Model, denoiser):
    """(layout, kwargs of the call, blocks, what they attended to)."""
    kwargs = model.call()
    blocks = model.taps.blocks(denoiser)
    attended = Attended(blocks)
    with torch.no_grad(), attended:
        denoiser(**kwargs)
    return Layout(model.taps.geometry(denoiser, kwargs), TEXT_TOKENS), kwargs, blocks, attended


def compare(model: Model, denoiser) -> None:
    layout, kwargs, blocks, attended = run(model, denoiser)
    assert blocks and set(attended.calls) == {name for name, _ in blocks}
    hidden = model.taps.attended(kwargs)
    for name, attention in blocks:
        given, output = attended.calls[name]
        with torch.no_grad():
            query, image, text = model.taps.query_and_keys(attention, attended.arguments[name], TAKEN, layout)
        keys, own, visible = joined(model, layout, query, image, text, hidden)
        told = given.get("attn_mask")
        if told is not None:
            told = told.expand(ROWS, 1, output.shape[2] if told.shape[2] > 1 else 1, keys.shape[2])[TAKEN]
        assert (told is None) == (visible is None), f"{name}: is padding attended to?"
        assert told is None or torch.equal(told.expand_as(visible), visible)
        expected = output[TAKEN][:, :, own]
        found = attend(query, keys, given["value"][TAKEN], visible)
        assert found.shape == expected.shape, name
        difference = (found - expected).abs().max() / expected.abs().max()
        assert difference < RELATIVE, f"{name}: {difference}"


def joined(model: Model, layout, query, image, text, hidden):
    """(keys in the model's order, places of the image's queries, which keys are seen)."""
    assert text.shape[2] == TEXT_TOKENS and query.shape[:2] == text.shape[:2]
    if image is None:
        return text, slice(None), None
    assert query.shape[2] == layout.geometry.image_tokens
    start = TEXT_TOKENS if model.text_first else 0
    keys = torch.cat([text, image] if model.text_first else [image, text], dim=2)
    seen = None
    if hidden is not None:
        rest = torch.ones(ROWS, image.shape[2], dtype=torch.bool)
        seen = torch.cat([hidden, rest] if model.text_first else [rest, hidden], dim=1)[TAKEN, None, None]
    return keys, slice(start, start + query.shape[2]), seen


@pytest.mark.parametrize("name", MODELS)
def test_captured_query_and_keys_are_what_the_blocks_attend_with(name):
    compare(MODELS[name], MODELS[name].denoiser())


@pytest.mark.parametrize("name", MODELS)
def test_with_lora_the_adapters_are_in_what_is_captured(name):
    peft = pytest.importorskip("peft")
    model = MODELS[name]
    config = peft.LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=list(model.lora))
    denoiser = peft.get_peft_model(model.denoiser(), config).eval()
    assert any("lora_B" in key and bool(value.any()) for key, value in denoiser.state_dict().items())
    compare(model, denoiser)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("qwen")])
def test_fused_projections_are_read_where_the_host_fuses_them(name):
    model = MODELS[name]
    denoiser = (model.fusable or model.denoiser)()
    if not hasattr(denoiser, "fuse_qkv_projections"):
        pytest.skip(f"{type(denoiser).__name__} of diffusers {diffusers.__version__} can't fuse its projections")
    with torch.no_grad():
        denoiser.fuse_qkv_projections()
        for _, attention in model.taps.blocks(denoiser):  # the separate ones are out of use: they must not be read
            for part in ("to_k", "add_k_proj"):
                if getattr(attention, part, None) is not None:
                    getattr(attention, part).weight.fill_(torch.nan)
    compare(model, denoiser)


def test_sd3_blocks_with_a_second_attention_are_tapped_at_the_first():
    model = MODELS["sd3"]
    denoiser = model.denoiser()
    assert denoiser.transformer_blocks[0].attn2 is not None and denoiser.transformer_blocks[1].attn2 is None
    assert [name for name, _ in model.taps.blocks(denoiser)] == [f"transformer_blocks.{i}.attn" for i in range(3)]


def test_the_blocks_of_a_unet_come_in_order_of_depth_and_say_where_they_lie():
    names = [name for name, _ in MODELS["sdxl"].taps.blocks(tiny_models.sdxl_denoiser())]
    assert names[0] == "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    assert names[1:3] == [f"down_blocks.2.attentions.0.transformer_blocks.{i}.attn2" for i in range(2)]
    places = [name.partition(".")[0] for name in names]
    assert places == sorted(places, key=("down_blocks", "mid_block", "up_blocks").index)
    assert {"down_blocks", "mid_block", "up_blocks"} == set(places)


@pytest.mark.parametrize("name", MODELS)
def test_the_hidden_state_is_the_images_own_of_every_block(name):
    model = MODELS[name]
    denoiser = model.denoiser()
    seen = {}
    for block_name, block in model.taps.hidden_blocks(denoiser):
        block.register_forward_hook(lambda module, args, output, key=block_name: seen.update({key: output}))
    layout, _, _, _ = run(model, denoiser)
    for block_name, block in model.taps.hidden_blocks(denoiser):
        state = model.taps.hidden_state(seen[block_name], layout)
        assert state.dim() == 3 and state.shape[0] == ROWS
        assert state.shape[2] == model.taps.hidden_width(denoiser, block)
        if not isinstance(model.taps, tiny_models.UNet):
            assert state.shape[1] == layout.geometry.image_tokens


def test_the_hidden_state_of_a_single_flux_block_is_behind_the_text():
    """The state behind the last single block is what the model goes on with."""
    model = MODELS["flux"]
    denoiser = model.denoiser()
    seen = {}
    denoiser.single_transformer_blocks[-1].register_forward_hook(lambda module, args, output: seen.update(last=output))
    denoiser.norm_out.register_forward_pre_hook(lambda module, args: seen.update(next=args[0]))
    layout, _, _, _ = run(model, denoiser)
    assert torch.equal(model.taps.hidden_state(seen["last"], layout), seen["next"])
