"""The distilled adapter by itself: what it learns, what its files are, and that the host's model never notices."""

import hashlib
import sys
import types
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers", "safetensors"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

mini_flow_grpo.use_its_modules()
pytest.importorskip("grpo_accel")
from grpo_accel import calls, distilled, lora, pairs, policy  # noqa: E402
from grpo_accel.taps_sd3 import StableDiffusion3  # noqa: E402

MODEL = mini_flow_grpo.ROOT / "experiments" / "shapes" / "models" / "sd3"
STEPS, DECISION = 10, 3


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(MODEL)
    pipeline.set_progress_bar_config(disable=True)
    pipeline._guidance_scale = 1.0
    pipeline.scheduler.set_timesteps(STEPS)
    return pipeline


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Host:
    """What the adapter asks of the runtime, and what it was told."""

    rank, world_size = 0, 1

    def __init__(self, folder):
        self.run_dir = Path(folder)
        self.lines = []

    def warn_once(self, key, text):
        self.lines.append(text)

    def log_info(self, text):
        self.lines.append(text)


def roll_out(pipeline, prompts, seed):
    """(policy at the decision step, final latents) of an ODE rollout by plain calls."""
    taps = StableDiffusion3()
    with torch.no_grad():
        text, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=16
        )
        sigmas = pipeline.scheduler.sigmas
        state = torch.randn((len(prompts), 8, 8, 8), generator=torch.Generator().manual_seed(seed))
        for step in range(STEPS):
            arguments = {
                "hidden_states": state, "timestep": (1000 * sigmas[step]).expand(len(prompts)),
                "encoder_hidden_states": text, "pooled_projections": pooled, "joint_attention_kwargs": None,
                "return_dict": False,
            }
            velocity = pipeline.transformer(**arguments)[0]
            if step == DECISION:
                met = policy.Policy(
                    taps, pipeline, taps.geometry(pipeline.transformer, arguments), len(prompts), step,
                    [calls.Call(pipeline.transformer, arguments, velocity)], {},
                )
            state = state + (sigmas[step + 1] - sigmas[step]) * velocity
    return met, state


def fill(adapter, pipeline, batches, rows=8, first_seed=0):
    prompts = (mini_flow_grpo.ROOT / "experiments" / "shapes" / "prompts" / "train.txt").read_text().splitlines()
    for batch in range(batches):
        chosen = [prompts[(97 * (batch + first_seed) + 13 * (row // 4)) % len(prompts)] for row in range(rows)]
        met, finals = roll_out(pipeline, chosen, first_seed + batch)
        adapter.meet(met)
        adapter.pairs.add([pairs.Seen(met.state, met.x0(), met.level)], finals, adapter.arguments(met), chosen)
    return met, finals


def fingerprint(module):
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def hooks(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def make(tmp_path, **changes):
    options = {"path": None, "rank": 8, "every_updates": 1, "seconds": 60.0, "pairs": 4096, **changes}
    return distilled.Distilled(Host(tmp_path), **options)


def test_it_learns_to_end_where_the_host_ends(pipeline, tmp_path):
    torch.manual_seed(7)
    transformer = pipeline.transformer
    for parameter in transformer.parameters():
        parameter.requires_grad_(True)  # as a host that trains all weights has them
    before, modules, generator = fingerprint(transformer), list(transformer.modules()), torch.random.get_rng_state()
    adapter = make(tmp_path)
    fill(adapter, pipeline, batches=5)
    held = adapter.pairs.held()
    untrained = adapter.error(held)
    preview = sum(pair.preview_error for pair in held) / len(held)
    assert untrained == pytest.approx(preview, rel=1e-2), "without guidance a new adapter changes nothing"
    assert adapter.train(seconds=120, steps_max=40) == 40
    trained = adapter.error(held)
    print(f"held-out x0 error: preview {preview:.4f}, adapter {untrained:.4f}, after 40 steps {trained:.4f}")
    assert trained < 0.9 * preview
    fresh = make(tmp_path)
    fill(fresh, pipeline, batches=1, first_seed=50)
    rows = list(fresh.pairs._pairs)
    fresh.lora = adapter.lora
    preview = sum(pair.preview_error for pair in rows) / len(rows)
    assert fresh.error(rows) < 0.95 * preview, "prompts and noise not seen before"
    assert fingerprint(transformer) == before and hooks(transformer) == 0
    assert list(transformer.modules()) == modules
    assert all(parameter.grad is None for parameter in transformer.parameters())
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_its_forward_is_the_policys_with_the_low_rank_part_added(pipeline, tmp_path):
    met, _ = roll_out(pipeline, ["a red circle"] * 4, 3)
    adapter = make(tmp_path)
    adapter.meet(met)
    generator = torch.Generator().manual_seed(1)
    for down, up in adapter.lora.pairs.values():
        up.copy_(0.1 * torch.randn(up.shape, generator=generator))
    ours = adapter.final_latent(met)
    weights = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    with torch.no_grad():
        for name, (down, up) in adapter.lora.pairs.items():
            pipeline.transformer.get_submodule(name).weight.add_(up @ down)
        merged = met.state - met.level * met.prediction_at(met.state, met.level, guided=False)
        pipeline.transformer.load_state_dict(weights)
    assert (ours - met.x0()).abs().max() > 1e-2
    assert torch.allclose(ours, merged, atol=1e-4)


def test_files_are_pefts_in_both_directions(pipeline, tmp_path):
    peft = pytest.importorskip("peft")
    import copy

    met, _ = roll_out(pipeline, ["a red circle"] * 4, 3)
    theirs = peft.get_peft_model(
        copy.deepcopy(pipeline.transformer),
        peft.LoraConfig(r=4, lora_alpha=12, init_lora_weights=False, target_modules=["attn.to_q", "ff.net.0.proj"]),
    )
    theirs.save_pretrained(tmp_path / "theirs")
    adapter = make(tmp_path, path=str(tmp_path / "theirs"))
    adapter.meet(met)
    assert adapter.speaks(), "an adapter that the user has speaks from the start"
    with torch.no_grad():
        expected = met.state - met.level * theirs(**{**met.calls[0].kwargs})[0]
    assert torch.allclose(adapter.final_latent(met), expected, atol=1e-4)
    adapter.lora.save(tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(pipeline.transformer), str(tmp_path / "ours"))
    with torch.no_grad():
        back = met.state - met.level * loaded(**{**met.calls[0].kwargs})[0]
    assert torch.allclose(back, expected, atol=1e-4)
    on_peft = lora.Lora.load(tmp_path / "ours" / "adapter_model.safetensors", theirs)
    assert sorted(on_peft.pairs) == sorted(adapter.lora.pairs), "a wrapped model has the same layers"


@pytest.mark.parametrize("fault", ["missing", "other model", "not a file of weights"])
def test_a_file_that_does_not_fit_drops_the_signal_and_says_why(pipeline, tmp_path, fault):
    from safetensors.torch import save_file

    path = tmp_path / "adapter_model.safetensors"
    if fault == "other model":
        save_file({"transformer.blocks.7.to_q.lora_A.weight": torch.zeros(2, 5),
                   "transformer.blocks.7.to_q.lora_B.weight": torch.zeros(5, 2)}, str(path))
    elif fault == "not a file of weights":
        save_file({"a": torch.zeros(2, 2)}, str(path))
    adapter = make(tmp_path, path=str(path))
    adapter.meet(roll_out(pipeline, ["a red circle"] * 2, 3)[0])
    assert adapter.dropped and not adapter.speaks()
    assert len(adapter._runtime.lines) == 1 and "preview stands in" in adapter._runtime.lines[0]


def test_it_is_dropped_when_it_does_not_beat_the_preview(pipeline, tmp_path):
    generator = np.random.default_rng(0)
    prompts = [f"prompt {row // 8}" for row in range(64)]
    better, worse = make(tmp_path), make(tmp_path)
    for adapter, noise in ((better, 0.1), (worse, 3.0)):
        adapter.lora, adapter.trained, adapter._every_updates = types.SimpleNamespace(tensors=list), True, 0
        for update in range(1, 8):
            rewards = generator.normal(size=64)
            errors = generator.normal(size=(64, 2)) * [noise, 1.0]
            scores = rewards[:, None] + errors
            scores[::5] = np.nan  # stopped rows
            adapter.after_update(update, prompts, rewards, scores.astype(np.float32))
    assert better.speaks() and better.metrics()["distilled/active"] == 1
    assert better.metrics()["distilled/within_spearman"] > better.metrics()["distilled/preview_within_spearman"] + 0.1
    assert worse.dropped and "Spearman" in worse._runtime.lines[0] and len(worse._runtime.lines) == 1


def test_ranks_leave_together_and_never_exchange_unequal_rows(tmp_path):
    """A rank that has dropped the signal still answers once; one that saw other rows only sits an update out."""

    class Peers:
        def __init__(self, other):
            self.other, self.asked, self.gathered = other, 0, 0

        def tell(self, *numbers):
            self.asked += 1
            return [numbers, self.other(numbers)]

        def gather(self, values):
            self.gathered += 1
            return values

    def run(other):
        adapter = make(tmp_path)
        adapter.lora, adapter.trained, adapter._every_updates = types.SimpleNamespace(tensors=list), True, 0
        adapter.peers = Peers(other)
        for update in range(1, 4):
            adapter.after_update(update, ["a"] * 4, np.zeros(4), np.zeros((4, 2), dtype=np.float32))
        return adapter

    gone = run(lambda numbers: (-1, 0, 0))
    assert gone.dropped and gone.peers.asked == 1 and gone.peers.gathered == 0
    unequal = run(lambda numbers: (8, *numbers[1:]))
    assert not unequal.dropped and unequal.peers.asked == 3 and unequal.peers.gathered == 0
    equal = run(lambda numbers: numbers)
    assert not equal.dropped and equal.peers.gathered == 3
    late = make(tmp_path)
    late.peers = Peers(lambda numbers: (4, 0, 1))
    late.drop("a reason of its own")
    for update in range(1, 4):
        late.after_update(update, ["a"] * 4, np.zeros(4), None)
    assert late.peers.asked == 1


def test_group_correlation_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    prompts = ["a"] * 9 + ["b"] * 7 + ["c"] * 2 + ["d"] * 5
    rewards = np.round(generator.normal(size=23), 1)
    rewards[18:] = 0.5  # d: all the same, no order
    scores = np.round(generator.normal(size=(23, 2)), 1)
    found = distilled.group_spearmans(prompts, rewards, scores)
    wanted = [
        tuple(stats.spearmanr(scores[part, column], rewards[part]).statistic for column in (0, 1))
        for part in (slice(0, 9), slice(9, 16))
    ]
    assert np.allclose(found, wanted)


def test_pairs_are_bounded_and_share_what_a_prompt_shares(monkeypatch):
    store = pairs.Pairs(10)
    rows = torch.arange(6.0)[:, None].expand(6, 4)
    for batch in range(4):
        text = {"text": torch.full((6, 3, 2), float(batch))}
        store.add([pairs.Seen(rows, rows, 0.7)], rows + 1, text, ["a", "b", "a", "b", "a", "b"])
    assert len(store) == 10 and len(store.held()) + len(store.trained()) == 10 and len(store.held()) >= 1
    newest = list(store._pairs)[-6:]
    assert newest[0].arguments is newest[2].arguments and newest[0].arguments is not newest[1].arguments
    assert newest[0].state.dtype == torch.float16 and newest[0].preview_error == 1.0
    assert store._bytes == sum(p.state.nbytes + p.final.nbytes for p in store._pairs) + sum(
        {id(p.arguments): p.arguments["text"].nbytes for p in store._pairs}.values()
    )
    monkeypatch.setattr(pairs, "BYTES_MAX", 100)
    store.add([pairs.Seen(rows, rows, 0.7)], rows, {"text": torch.zeros(6, 3, 2)}, list("aaaaaa"))
    assert 0 < len(store) < 10 and store._bytes <= 100


def test_a_model_spread_over_ranks_is_left_alone(pipeline, tmp_path, monkeypatch):
    class FullyShardedDataParallel(torch.nn.Module):
        pass

    met, _ = roll_out(pipeline, ["a red circle"] * 2, 3)
    monkeypatch.setattr(met.calls[0], "module", torch.nn.Sequential(FullyShardedDataParallel()))
    adapter = make(tmp_path)
    adapter.meet(met)
    assert adapter.dropped and "spread over ranks" in adapter._runtime.lines[0]
