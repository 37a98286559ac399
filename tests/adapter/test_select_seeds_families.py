"""Seed selection on the shipped model of each family: survivors are the images that their prompt and seed give alone."""

from pathlib import Path

import pytest
import torch

import grpo_accel

MODELS = Path(__file__).resolve().parents[2] / "experiments" / "shapes" / "models"
CALL = {"height": 32, "width": 32, "num_inference_steps": 6, "output_type": "pt"}
PROMPTS = ["a red circle", "a blue square left of a red cross"]  # of different lengths
ROUNDING = 2e-5
HOSTS = {
    "flux": ("flux", {"guidance_scale": 2.0, "max_sequence_length": 16}),
    "qwen": ("qwen", {"max_sequence_length": 16, "true_cfg_scale": 1.0}),
    "qwen-guided": ("qwen", {"max_sequence_length": 16, "true_cfg_scale": 2.0, "negative_prompt": " "}),
    "sdxl": ("sdxl", {"guidance_scale": 1.0}),
    "sdxl-guided": ("sdxl", {"guidance_scale": 3.0}),
}


def brightness(images, prompts):
    return [float(image.mean()) for image in images]


@pytest.fixture(scope="module", params=HOSTS)
def host(request):
    diffusers = pytest.importorskip("diffusers")
    name, arguments = HOSTS[request.param]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(MODELS / name)
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline, {**CALL, **arguments}
    torch.set_num_threads(threads)


def alone(pipeline, prompt, seed, arguments):
    return pipeline(prompt=[prompt], generator=[torch.Generator().manual_seed(seed)], **arguments).images[0]


@pytest.mark.parametrize("max_rows", [8, 3], ids=["one batch", "in parts"])
def test_survivors_are_what_their_seed_gives_alone(host, max_rows):
    pipeline, arguments = host
    found = grpo_accel.select_seeds(
        pipeline, PROMPTS, n=4, keep=1, step=2, scorer=brightness, lookahead_steps=1, max_rows=max_rows, **arguments)
    assert found.prompts == PROMPTS
    for prompt, seed, image, runs in zip(found.prompts, found.seeds, found.images, found.runs):
        assert seed == max(runs, key=lambda run: run.prediction).seed
        assert (image - alone(pipeline, prompt, seed, arguments)).abs().max() <= ROUNDING


def test_wordings_are_finished_from_where_they_were_left(host):
    pipeline, arguments = host
    found = grpo_accel.optimize_prompt(
        pipeline, PROMPTS[0], lambda prompt, tried: PROMPTS[1], 9.0, rounds=1, step=2, scorer=brightness, lookahead_steps=1,
        **arguments)
    assert [one.prompt for one in found.tries] == PROMPTS
    assert (found.image - alone(pipeline, found.prompt, found.seed, arguments)).abs().max() <= ROUNDING
