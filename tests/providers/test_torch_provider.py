"""The provider `torch` inside the process of a Python host: gradients against autograd, and what a host must never
notice. GA_PROVIDER_LIBRARY names the test library that exports the tables."""
import os
import random
from collections.abc import Iterator

import numpy
import pytest
import torch
import torch.nn.functional as F
from table import AdamW, Attention, Conv, GroupNorm, Table, view
from ctypes import c_int64, pointer

pytestmark = pytest.mark.skipif(
    "GA_PROVIDER_LIBRARY" not in os.environ, reason="GA_PROVIDER_LIBRARY is not set: run this through meson test")
TORCH, NATIVE = 1, 2
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(TORCH, "cuda" if os.environ.get("GA_PROVIDER_DEVICE") == "cuda" else "cpu")


@pytest.fixture(scope="module")
def device(table: Table) -> str:
    return "cuda" if table.compute.device == 1 else "cpu"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    seed = int(os.environ.get("GA_TEST_SEED", "20261124"))
    torch.manual_seed(seed)
    print("GA_TEST_SEED", seed)
    yield


def near(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert float((got - expected).abs().max()) <= tolerance * max(float(expected.abs().max()), 1e-6)


def conv_case(device: str, kernel: int, stride: int) -> tuple[Conv, list[torch.Tensor]]:
    conv = Conv(3, 5, 4, 9, 7, kernel, stride)
    shapes = [(3, 5, 9, 7), (4, 5, kernel, kernel), (4,)]
    return conv, [torch.randn(shape, device=device) for shape in shapes]


def run_conv(table: Table, conv: Conv, inputs: list[torch.Tensor]) -> torch.Tensor:
    shape = (conv.rows, conv.out_channels, -(-conv.height // conv.stride), -(-conv.width // conv.stride))
    output = torch.empty(shape, device=inputs[0].device)
    table.job("conv_forward", conv, *inputs, table.workspace(conv), output)
    return output


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_convolution_equals_autograd(table: Table, device: str, kernel: int, stride: int) -> None:
    conv, inputs = conv_case(device, kernel, stride)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = F.conv2d(*leaves, stride=stride, padding=kernel // 2)
    near(run_conv(table, conv, inputs), expected.detach(), 1e-5)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    grads = [torch.zeros_like(x) for x in inputs]
    table.job("conv_backward", conv, inputs[0], inputs[1], grad, table.workspace(conv), grads[1], grads[2], grads[0])
    for got, leaf in zip(grads, leaves):
        near(got, leaf.grad, 1e-4)
    table.job("conv_backward", conv, inputs[0], inputs[1], grad, table.workspace(conv), grads[1], None, None)
    near(grads[1], 2 * leaves[1].grad, 1e-4)  # parameters' gradients are added to


def test_group_norm_equals_autograd(table: Table, device: str) -> None:
    norm = GroupNorm(3, 6, 2, 35, 1e-5)
    inputs = [torch.randn(shape, device=device) for shape in [(3, 6, 35), (6,), (6,)]]
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = F.group_norm(leaves[0], 2, leaves[1], leaves[2], 1e-5)
    output, mean, rstd = torch.empty_like(inputs[0]), torch.empty(6, device=device), torch.empty(6, device=device)
    table.job("group_norm_forward", norm, *inputs, output, mean, rstd)
    near(output, expected.detach(), 1e-5)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    grads = [torch.zeros_like(x) for x in inputs]
    table.job("group_norm_backward", norm, inputs[0], inputs[1], mean, rstd, grad, grads[1], grads[2], grads[0])
    for got, leaf in zip(grads, leaves):
        near(got, leaf.grad, 1e-4)


def test_linear_and_silu_equal_autograd(table: Table, device: str) -> None:
    inputs = [torch.randn(shape, device=device) for shape in [(7, 5), (3, 5), (3,)]]
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = F.silu(F.linear(*leaves))
    middle, output = torch.empty(7, 3, device=device), torch.empty(7, 3, device=device)
    table.job("linear_forward", 7, 5, 3, *inputs, middle)
    table.job("silu_forward", c_int64(21), middle, output)
    near(output, expected.detach(), 1e-5)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    grads = [torch.zeros_like(x) for x in inputs]
    table.job("silu_backward", c_int64(21), middle, grad, grad)
    table.job("linear_backward", 7, 5, 3, inputs[0], inputs[1], grad, grads[1], grads[2], grads[0])
    for got, leaf in zip(grads, leaves):
        near(got, leaf.grad, 1e-4)


def test_channels_equal_autograd(table: Table, device: str) -> None:
    maps, scale = torch.randn(3, 4, 11, device=device), torch.randn(3, 4, device=device)
    leaves = [maps.clone().requires_grad_(), scale.clone().requires_grad_()]
    expected = (leaves[0] * (1 + leaves[1][:, :, None])).mean(2)
    values, pooled = maps.clone(), torch.empty(3, 4, device=device)
    table.job("channel_scale_forward", 3, 4, 11, scale, values)
    table.job("mean_pool_forward", 3, 4, 11, values, pooled)
    near(pooled, expected.detach(), 1e-5)
    grad = torch.randn_like(pooled)
    expected.backward(grad)
    grad_maps, grad_scale = torch.empty_like(maps), torch.empty_like(scale)
    table.job("mean_pool_backward", 3, 4, 11, grad, grad_maps)
    table.job("channel_scale_backward", 3, 4, 11, scale, maps, grad_maps, grad_scale)
    near(grad_maps, leaves[0].grad, 1e-4)
    near(grad_scale, leaves[1].grad, 1e-4)


def test_adamw_equals_pytorch(table: Table, device: str) -> None:
    parameter = torch.randn(50, device=device)
    leaf = parameter.clone().requires_grad_()
    optimiser = torch.optim.AdamW([leaf], lr=3e-3, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.05, fused=True)
    moments = [torch.zeros(50, device=device) for _ in range(2)]
    for step in range(1, 51):
        leaf.grad = torch.randn(50, device=device)
        table.job("adamw", AdamW(step, 3e-3, 0.9, 0.99, 1e-6, 0.05), c_int64(50), leaf.grad, parameter, *moments)
        optimiser.step()
        near(parameter, leaf.detach(), 1e-5)


HIDDEN = 2  # GA_TEXT_HIDDEN


def attention_by_the_book(query: torch.Tensor, key_image: torch.Tensor | None, key_text: torch.Tensor,
                          content: torch.Tensor) -> torch.Tensor:
    """[rows, 6, image tokens], as grpo_accel/feature/attention.h defines them, in double."""
    query, key_text = query.double(), key_text.double()
    keys = key_text if key_image is None else torch.cat([key_image.double(), key_text], 2)
    logits = query @ keys.transpose(2, 3) / query.shape[3] ** 0.5
    logits[..., -key_text.shape[2]:].masked_fill_((content == HIDDEN)[:, None, None], -torch.inf)
    joint = torch.softmax(logits, 3).mean(1)
    text = joint[:, :, keys.shape[2] - key_text.shape[2]:]
    mask = (content == 1)[:, None, :].double()
    masked = text * mask
    total, count = masked.sum(2), mask.sum(2)
    mean = total / count
    share = masked / total[:, :, None]
    received = (text / text.sum(1, keepdim=True)).nan_to_num()  # nobody looks at a hidden token
    concentration = 1 - torch.special.entr(received).sum(1) / numpy.log(text.shape[1])
    return torch.stack([
        text.sum(2) if key_image is not None else total,
        torch.special.entr(share).sum(2),
        masked.amax(2),
        (((text - mean[:, :, None]) ** 2 * mask).sum(2) / count).sqrt() / mean,
        share.amax(2),
        (share * concentration[:, None, :]).sum(2)], 1).float()


def run_attention(table: Table, query: torch.Tensor, key_image: torch.Tensor | None, key_text: torch.Tensor,
                  content: torch.Tensor, statistics: int = 0x3f) -> torch.Tensor:
    views = [None if x is None else view(x) for x in (query, key_image, key_text)]
    held = content.to(torch.uint8).contiguous().cpu()
    maps = torch.empty(query.shape[0], statistics.bit_count(), query.shape[2])
    operation = Attention(query.shape[0], query.shape[1], query.shape[2], key_text.shape[2], query.shape[3],
                          *(None if v is None else pointer(v) for v in views), held.data_ptr(), None, statistics)
    table.job("attention", operation, maps)
    return maps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("layout", ["plain", "projection", "sliced"])
@pytest.mark.parametrize("hidden", [False, True])
def test_attention_equals_its_definition(
        table: Table, device: str, dtype: torch.dtype, joint: bool, layout: str, hidden: bool) -> None:
    def draw(tokens: int) -> torch.Tensor:
        if layout == "plain":
            return torch.randn(2, 3, tokens, 16, device=device).to(dtype)
        if layout == "projection":  # as a linear layer leaves it: tokens before heads
            return torch.randn(2, tokens, 3, 16, device=device).to(dtype).transpose(1, 2)
        return torch.randn(4, 3, 2 * tokens, 20, device=device).to(dtype)[::2, :, 1::2, 2:18]

    query, key_text = draw(25), draw(7)
    key_image = draw(37) if joint else None  # a reference image has keys and no queries
    content = (torch.rand(2, 7, device=device) < 0.7).to(torch.uint8)
    if hidden:
        content[torch.rand(2, 7, device=device) < 0.4] = HIDDEN
    content[:, 0] = 1
    got = run_attention(table, query, key_image, key_text, content)
    expected = attention_by_the_book(query, key_image, key_text, content).cpu()
    for statistic in range(6):
        near(got[:, statistic], expected[:, statistic], 2e-5)
    near(run_attention(table, query, key_image, key_text, content, 0b101)[:, 1], expected[:, 2], 2e-5)


@pytest.mark.parametrize("context", [
    torch.inference_mode, torch.no_grad, torch.enable_grad,
    lambda: torch.autocast("cpu", torch.bfloat16), lambda: torch.autocast("cuda", torch.float16)])
def test_contexts_of_the_host_neither_matter_nor_change(table: Table, device: str, context: object) -> None:
    conv, inputs = conv_case(device, 3, 1)
    expected = F.conv2d(*inputs, padding=1)
    query, key = torch.randn(1, 2, 9, 8, device=device), torch.randn(1, 2, 5, 8, device=device)
    content = torch.ones(1, 5, dtype=torch.bool)
    maps = run_attention(table, query, None, key, content)
    with context():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        inside = [x.clone() for x in inputs]  # inference tensors under inference_mode
        near(run_conv(table, conv, inside), expected, 1e-5)
        grads = [torch.zeros_like(x) for x in inside]
        table.job("conv_backward", conv, inside[0], inside[1], expected.clone(), table.workspace(conv), grads[1],
                  grads[2], grads[0])
        assert torch.equal(run_attention(table, query, None, key, content), maps)
        parameter = inside[2].clone()
        table.job("adamw", AdamW(1, 0.1, 0.9, 0.99, 1e-6, 0.0), c_int64(4), grads[2], parameter,
                  torch.zeros(4, device=device), torch.zeros(4, device=device))
        near(parameter, inside[2] - 0.1 * grads[2].sign(), 1e-4)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                torch.is_autocast_enabled("cpu")) == before


def test_tensors_that_require_grad_are_only_read(table: Table, device: str) -> None:
    conv, inputs = conv_case(device, 3, 1)
    leaves = [x.requires_grad_() for x in inputs]
    versions = [x._version for x in leaves]
    output = run_conv(table, conv, leaves)
    assert not output.requires_grad
    assert [x._version for x in leaves] == versions
    assert all(x.grad is None for x in leaves)


def test_generators_and_settings_of_the_host_stay(table: Table, device: str) -> None:
    states = [torch.get_rng_state(), torch.tensor(random.getstate()[1]), torch.tensor(numpy.random.get_state()[1])]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    threads, default = torch.get_num_threads(), torch.get_default_dtype()
    conv, inputs = Conv(3, 5, 4, 9, 7, 3, 1), [torch.ones(3, 5, 9, 7), torch.ones(4, 5, 3, 3), torch.ones(4)]
    inputs = [x.to(device) for x in inputs]
    run_conv(table, conv, inputs)
    key = torch.ones(1, 2, 5, 8, device=device)
    run_attention(table, key, key, key, torch.ones(1, 5, dtype=torch.bool))
    table.job("adamw", AdamW(1, 0.1, 0.9, 0.99, 1e-6, 0.0), c_int64(4), inputs[2], inputs[2].clone(),
              torch.zeros(4, device=device), torch.zeros(4, device=device))
    after = [torch.get_rng_state(), torch.tensor(random.getstate()[1]), torch.tensor(numpy.random.get_state()[1])]
    assert all(torch.equal(a, b) for a, b in zip(states, after))
    assert all(torch.equal(a, b) for a, b in zip(cuda, torch.cuda.get_rng_state_all() if cuda else []))
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, default)


def test_a_failing_operator_says_why(table: Table, device: str) -> None:
    query = torch.randn(1, 2, 9, 8, device=device)
    with pytest.raises(RuntimeError, match="key_text must be"):
        run_attention(table, query, None, torch.randn(1, 2, 5, 4, device=device), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="kernel 5"):
        table.job("conv_forward", Conv(1, 1, 1, 4, 4, 5, 1), None, None, None, None, None)


def test_signatures_are_those_of_this_pytorch(table: Table) -> None:
    schemas = table.schemas()
    assert len(schemas) > 20
    for name, recorded in schemas.items():
        operator, _, overload = name.partition(".")
        found = getattr(getattr(torch.ops.aten, operator), overload or "default")
        assert str(found._schema) == recorded


def test_the_library_in_the_process_is_the_one(table: Table) -> None:
    info = table.info()
    assert os.path.samefile(info.path.decode(), os.path.join(os.path.dirname(torch.__file__), "lib/libtorch_cpu.so"))
    assert info.open and info.functions_found <= info.functions_wanted
    if info.version.decode()[:3] not in ("2.6", ""):
        assert info.version.decode() == torch.__version__.split("+")[0]


def test_native_and_torch_agree_in_one_process(table: Table) -> None:
    if table.compute.device == 1:
        pytest.skip("the torch provider of this process is on CUDA; the C program compares on the CPU")
    native = Table(NATIVE)
    conv, inputs = conv_case("cpu", 3, 2)
    near(run_conv(table, conv, inputs), run_conv(native, conv, inputs), 1e-5)


@needs_cuda
def test_cuda_uses_the_current_stream(table: Table, device: str) -> None:
    if device != "cuda":
        pytest.skip("one device a process: set GA_PROVIDER_DEVICE=cuda")
    conv, inputs = conv_case(device, 3, 1)
    expected = F.conv2d(*inputs, padding=1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        slow = torch.randn(4000, 4000, device=device)
        for _ in range(20):
            slow = slow @ slow / 4000
        late = inputs[0] + 0 * slow[0, 0].nan_to_num()  # ready only when the stream has got there
        output = run_conv(table, conv, [late, *inputs[1:]])
    stream.synchronize()
    near(output, expected, 1e-3)


@needs_cuda
def test_cuda_and_native_agree(table: Table, device: str) -> None:
    if device != "cuda":
        pytest.skip("one device a process: set GA_PROVIDER_DEVICE=cuda")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    conv, inputs = conv_case(device, 3, 2)
    near(run_conv(table, conv, inputs).cpu(), run_conv(Table(NATIVE), conv, [x.cpu() for x in inputs]), 1e-5)
    torch.backends.cudnn.allow_tf32 = before
