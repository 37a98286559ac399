"""The shapes world's models of every family: folders, text, samplers, and the shipped weights' quality."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from experiments.shapes import build
from experiments.shapes.draw import draw as draw_truth
from experiments.shapes.families import FAMILIES, family_of, load
from experiments.shapes.families.family import pack, unpack
from experiments.shapes.sampler import draw
from experiments.shapes.scorer import score
from experiments.shapes.train import to_tensor
from experiments.shapes.world import load_prompts, parse, words

MODELS = Path(build.__file__).parent / "models"
NAMES = ("flux", "qwen", "sdxl")
PROMPTS = ["a red circle left of a blue square", "two green triangles"]

pytest.importorskip("diffusers", reason="the models are diffusers folders")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks gain nothing from more threads, and on busy cores these wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=NAMES)
def untrained(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / request.param
    build.main(["--untrained", "--model", request.param, "--out", str(folder)])
    return folder


@pytest.fixture(scope="module", params=NAMES)
def shipped(request):
    return load(MODELS / request.param)


def call(pipeline, prompts: list[str], settings, **arguments):
    """The pipeline's own sampling under ``settings``."""
    guidance = "true_cfg_scale" if family_of(pipeline).name == "qwen" else "guidance_scale"
    arguments |= {"qwen": {"negative_prompt": [" "] * len(prompts)}, "flux": {"max_sequence_length": 16}}.get(
        family_of(pipeline).name, {}
    )
    return pipeline(
        prompts,
        height=32,
        width=32,
        num_inference_steps=settings.steps,
        output_type="pt",
        **{guidance: settings.guidance_scale},
        **arguments,
    ).images


def test_untrained_folder_samples(untrained):
    pipeline = load(untrained)
    images = call(pipeline, PROMPTS, replace(family_of(pipeline).settings, steps=2))
    assert images.shape == (2, 3, 32, 32) and torch.isfinite(images).all()


def test_untrained_folder_is_the_shipped_one_but_for_the_trained_parts(untrained):
    ours, theirs = load(untrained), load(MODELS / untrained.name)
    assert ours.components.keys() == theirs.components.keys()
    for name in (name for name in ours.components if name.startswith("text_encoder")):
        first, second = getattr(ours, name).state_dict(), getattr(theirs, name).state_dict()
        assert first.keys() == second.keys()
        # Orthogonal matrices round differently under other numbers of threads.
        assert all(torch.allclose(first[key], second[key], atol=4e-3) for key in first)
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    family = family_of(ours)
    assert family.network(ours).state_dict().keys() == family.network(theirs).state_dict().keys()


def test_sampler_without_noise_is_the_pipelines(shipped):
    settings = replace(family_of(shipped).settings, steps=3, window=(0, 0))
    theirs = call(shipped, PROMPTS, settings, generator=torch.Generator().manual_seed(7))
    assert torch.allclose(draw(shipped, PROMPTS, settings, seed=7), theirs, atol=1e-4)


def test_shipped_model_draws_what_is_asked(shipped):
    prompts = [prompt for prompt in load_prompts("test")[::6] for _ in range(3)]
    images = draw(shipped, prompts, seed=3)
    assert torch.isfinite(images).all()
    rewards = np.array(score(images, prompts)).reshape(-1, 3)
    assert rewards.mean() > 0.45
    assert rewards.std(1, ddof=1).mean() > 0.12
    shifted = prompts[9:] + prompts[:9]
    assert rewards.mean() > np.mean(score(images, shifted)) + 0.1


def test_shipped_folder_loads_the_same_twice(shipped):
    family = family_of(shipped)
    again = load(MODELS / family.name)
    first, second = family.network(shipped).state_dict(), family.network(again).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    settings = replace(family.settings, steps=2)
    assert torch.equal(draw(shipped, PROMPTS, settings, seed=1), draw(again, PROMPTS, settings, seed=1))
    assert not torch.equal(draw(shipped, PROMPTS, settings, seed=1), draw(shipped, PROMPTS, settings, seed=2))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_folder_is_small_half_precision_and_logged(name):
    files = {path: path.stat().st_size for path in (MODELS / name).rglob("*") if path.is_file()}
    assert sum(files.values()) <= 8_000_000 and max(files.values()) <= 5_000_000
    for path in (MODELS / name).rglob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_tensor(key).dtype for key in tensors.keys()} <= {torch.float16, torch.int64}
    lines = [json.loads(line) for line in (MODELS / name / "training_log.jsonl").read_text().splitlines()]
    assert lines[-1]["reward"] >= 0.5 and lines[-1]["stage"] == ("distil" if FAMILIES[name].distil_steps else "flow")


def test_all_models_together_are_small():
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= 25_000_000


def test_vae_keeps_the_reward(shipped):
    family, prompts = family_of(shipped), load_prompts("test")[::3]
    pictures = to_tensor(draw_truth([parse(prompt) for prompt in prompts], seed=2))
    with torch.no_grad():
        latents = family.encode(shipped.vae, pictures)
        assert latents.shape[1:] == family.latent_shape
        assert abs(latents.mean()) < 0.1 and abs(latents.std() - 1.0) < 0.1
        assert np.mean(score(family.decode(shipped.vae, latents), prompts)) > 0.95


def test_conditions_tell_order_and_emptiness(shipped):
    family = family_of(shipped)
    told = family.conditions(shipped, ["a red circle and a blue square", "a blue circle and a red square", ""])
    assert not torch.allclose(told["text"][0], told["text"][1])
    assert not torch.allclose(told["text"][0], told["text"][2])


def test_packing_is_inverted():
    latents = torch.randn(2, 4, 16, 16)
    tokens = pack(latents)
    assert tokens.shape == (2, 64, 16) and torch.equal(unpack(tokens, 16, 16), latents)
    assert torch.equal(tokens[0, 1], latents[0, :, 0:2, 2:4].reshape(-1))  # the second square of the first row


def test_words_survive_the_template():
    """Qwen-Image drops its template's first tokens: what is left starts with the prompt's own words."""
    pipeline = load(MODELS / "qwen")
    kept = pipeline.prompt_template_encode_start_idx
    for prompt in load_prompts("test")[::16]:
        tokens = pipeline.tokenizer(pipeline.prompt_template_encode.format(prompt)).input_ids[kept:]
        assert pipeline.tokenizer.decode(tokens).startswith(prompt + "<|im_end|>")
        assert len(tokens) == len(prompt.split()) + 5
    numbers = [pipeline.tokenizer(" " + word).input_ids for word in words()]
    assert all(len(number) == 1 for number in numbers) and len({number[0] for number in numbers}) == len(numbers)


def test_flux_heeds_its_guidance():
    pipeline = load(MODELS / "flux")
    settings = replace(FAMILIES["flux"].settings, steps=3)
    low, high = (draw(pipeline, PROMPTS, replace(settings, guidance_scale=scale), seed=1) for scale in (1.0, 4.0))
    assert (low - high).abs().max() > 0.05


def test_sdxl_refuses_a_stochastic_window():
    pipeline = load(MODELS / "sdxl")
    with pytest.raises(ValueError, match="empty window"):
        draw(pipeline, PROMPTS, replace(FAMILIES["sdxl"].settings, window=(1, 3)))


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(ValueError, match="PixArtAlphaPipeline"):
        load(tmp_path)
