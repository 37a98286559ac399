"""The shapes world's SD3-like model: folder format, text vectors, sampler and the shipped weights' quality."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusion3Pipeline
from safetensors import safe_open

from experiments.shapes import build
from experiments.shapes.contact_sheet import MODEL
from experiments.shapes.sampler import SETTINGS, Settings, decode, sample, sigmas, step, velocity
from experiments.shapes.scorer import score
from experiments.shapes.world import load_prompts, words


def load(folder: Path) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def shipped() -> StableDiffusion3Pipeline:
    return load(MODEL)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> StableDiffusion3Pipeline:
    folder = tmp_path_factory.mktemp("untrained") / "sd3"
    build.main(["--untrained", "--out", str(folder)])
    return load(folder)


def vectors(pipeline, prompts: list[str], length: int = SETTINGS.max_sequence_length):
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=length
    )
    return text, pooled


def test_untrained_folder_samples(untrained):
    images = untrained(["a red circle"] * 2, num_inference_steps=2, guidance_scale=2.0, output_type="np").images
    assert images.shape == (2, 32, 32, 3) and np.isfinite(images).all()


def test_untrained_folder_is_the_shipped_one_but_for_the_trained_parts(untrained, shipped):
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        ours, theirs = getattr(untrained, name).state_dict(), getattr(shipped, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert untrained.transformer.config.num_layers == shipped.transformer.config.num_layers
    assert untrained.tokenizer.get_vocab() == shipped.tokenizer.get_vocab()


def test_every_word_is_one_token(shipped):
    for word in words():
        assert len(shipped.tokenizer(word).input_ids) == 3  # start, word, end
        assert len(shipped.tokenizer_3(word).input_ids) == 2  # word, end
    assert len(set(shipped.tokenizer(" ".join(words()), truncation=False).input_ids)) == len(words()) + 2
    assert shipped.tokenizer_3.unk_token_id not in shipped.tokenizer_3("any other words").input_ids


def test_text_vectors_know_order_and_neighbours(shipped):
    prompts = ["a red circle and a blue square", "a blue circle and a red square", ""]
    text, pooled = vectors(shipped, prompts)
    assert text.shape == (3, 32, 96) and pooled.shape == (3, 96)
    assert not torch.allclose(text[0], text[1]) and not torch.allclose(pooled[0], pooled[2])
    clip, t5 = text[:, :16], text[:, 16:]
    assert torch.allclose(clip[0, 3], clip[1, 3])  # CLIP's "circle" is the word and its position
    assert not torch.allclose(t5[0, 2], t5[1, 2])  # T5's "circle" knows the colour before it


def test_folder_is_small_and_half_precision():
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    for path in MODEL.rglob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_tensor(key).dtype for key in tensors.keys()} <= {torch.float16, torch.int64}
    index = json.loads((MODEL / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusion3Pipeline"
    assert index["tokenizer_3"][1] == "T5TokenizerFast"


def test_folder_loads_in_single_precision(shipped):
    parts = (shipped.transformer, shipped.vae, shipped.text_encoder, shipped.text_encoder_2, shipped.text_encoder_3)
    assert {part.dtype for part in parts} == {torch.float32}
    assert shipped.vae.config.shift_factor is not None and shipped.vae.config.scaling_factor != 1.0


def test_vae_keeps_the_reward(shipped):
    from experiments.shapes.draw import draw
    from experiments.shapes.families import FAMILIES
    from experiments.shapes.train import to_tensor
    from experiments.shapes.world import parse

    prompts = load_prompts("test")[::3]
    pictures = to_tensor(draw([parse(prompt) for prompt in prompts], seed=2))
    with torch.no_grad():
        latents = FAMILIES["sd3"].encode(shipped.vae, pictures)
    assert abs(latents.mean()) < 0.1 and abs(latents.std() - 1.0) < 0.1
    assert np.mean(score(decode(shipped.vae, latents), prompts)) > 0.97


def test_tiny_decoder_shows_what_the_vae_shows(shipped):
    """Of previews after three steps: nearly the same pictures, and rewards that order them as the VAE's do."""
    tiny = AutoencoderTiny.from_pretrained(MODEL.parent / "tiny", dtype=torch.float32)
    prompts = load_prompts("test")[4:60]
    text, pooled = vectors(shipped, prompts)
    with torch.no_grad():
        noisy = torch.randn((len(prompts), 8, 8, 8), generator=torch.Generator().manual_seed(4))
        state = noisy
        for sigma, following in ((1.0, 0.9), (0.9, 0.8), (0.8, 0.7)):
            state = state + (following - sigma) * velocity(shipped.transformer, state, sigma, text, pooled)
        preview = state - 0.7 * velocity(shipped.transformer, state, 0.7, text, pooled)
        full, quick = decode(shipped.vae, preview), (tiny.decode(preview).sample * 0.5 + 0.5).clamp(0, 1)
    assert ((full - quick) ** 2).mean() < 1e-3
    assert np.corrcoef(score(full, prompts), score(quick, prompts))[0, 1] > 0.8


def test_sampler_without_noise_is_the_pipelines(shipped):
    prompts = load_prompts("test")[:4]
    settings = Settings(steps=4, window=(0, 0))
    text, pooled = vectors(shipped, prompts)
    ours = sample(shipped.transformer, text, pooled, settings=settings, seed=7)
    theirs = shipped(
        prompts,
        sigmas=sigmas(4)[:-1].tolist(),
        guidance_scale=1.0,
        latents=torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(7)),
        max_sequence_length=SETTINGS.max_sequence_length,
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_stochastic_step_keeps_the_marginal():
    """For data at 0 the velocity at x is x / sigma and x has deviation sigma: one small step must keep that."""
    noise = torch.Generator().manual_seed(0)
    sigma, next_sigma = 0.6, 0.59
    latents = sigma * torch.randn(200_000, generator=noise)
    fresh = torch.randn(200_000, generator=noise)
    after = step(latents, latents / sigma, sigma, next_sigma, 0.7, fresh, 0.9)
    assert abs(after.std().item() - next_sigma) < 0.004
    plain = step(latents, latents / sigma, sigma, next_sigma, 0.0, fresh, 0.9)
    assert torch.allclose(plain, latents * next_sigma / sigma)


def test_samples_repeat_by_seed(shipped):
    text, pooled = vectors(shipped, load_prompts("test")[:2])
    settings = Settings(steps=3)
    first, again, other = (sample(shipped.transformer, text, pooled, None, settings, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_shipped_model_draws_what_is_asked(shipped):
    prompts = [prompt for prompt in load_prompts("test")[::3] for _ in range(3)]
    text, pooled = vectors(shipped, prompts)
    images = decode(shipped.vae, sample(shipped.transformer, text, pooled, seed=3))
    rewards = np.array(score(images, prompts)).reshape(-1, 3)
    assert rewards.mean() > 0.6
    assert rewards.std(1, ddof=1).mean() > 0.12
    shifted = prompts[30:] + prompts[:30]
    assert rewards.mean() > np.mean(score(images, shifted)) + 0.15


def test_long_padding_keeps_the_quality(shipped):
    prompts = load_prompts("test")[::4]
    shipped.tokenizer_max_length = 77
    try:
        text, pooled = vectors(shipped, prompts, length=128)
    finally:
        shipped.tokenizer_max_length = shipped.tokenizer.model_max_length
    assert text.shape == (len(prompts), 205, 96)
    latents = sample(shipped.transformer, text, pooled, settings=Settings(steps=6))
    assert np.mean(score(decode(shipped.vae, latents), prompts)) > 0.5


def test_contact_sheet_draws(tmp_path):
    from experiments.shapes.contact_sheet import SAMPLES, draw_sheet

    prompts = ["a red circle", "three green triangles"]
    images = torch.rand(len(prompts) * SAMPLES, 3, 32, 32)
    draw_sheet(images, [0.5] * len(images), prompts, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
