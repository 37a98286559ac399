"""The shapes world: prompts, drawer, detector and reward."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from experiments.shapes import world
from experiments.shapes.detector import detect
from experiments.shapes.draw import GROUND, PALETTE, Placed, draw, place, render
from experiments.shapes.scorer import score
from experiments.shapes.world import COLOURS, KINDS, RELATIONS, SHAPES, Spec, load_prompts, parse, to_prompt


@pytest.fixture(scope="module")
def truths() -> tuple[list[str], np.ndarray]:
    """Every held-out prompt and a third of the training prompts, drawn once."""
    prompts = load_prompts("test") + load_prompts("train")[::3]
    return prompts, draw([parse(prompt) for prompt in prompts], seed=5)


def one(colour: str, shape: str, x: float = 16, y: float = 16, radius: float = 5.5) -> Placed:
    return Placed(COLOURS.index(colour), SHAPES.index(shape), x, y, radius)


def reward(scene: list[Placed], prompt: str) -> float:
    return score(render([scene]), [prompt])[0]


def test_prompt_lists_are_fixed_and_disjoint():
    train, held_out = load_prompts("train"), load_prompts("test")
    assert (train, held_out) == world.split_prompts()
    assert len(set(train) | set(held_out)) == len(train) + len(held_out) == 1264
    assert len(held_out) == 96
    assert {parse(prompt).kind for prompt in held_out} == set(KINDS)
    digest = hashlib.sha256("\n".join(train + held_out).encode()).hexdigest()
    assert digest.startswith("d9cf274588622285")


def test_every_prompt_is_parsed_back():
    for kind in KINDS:
        for spec in world.all_specs(kind):
            assert parse(to_prompt(spec)) == spec


@pytest.mark.parametrize("prompt", ["", "a cat", "a red", "five red circles", "a red circle beside a blue square"])
def test_other_sentences_are_refused(prompt):
    with pytest.raises(ValueError, match="not a prompt"):
        parse(prompt)


def test_drawings_repeat_and_differ_by_seed():
    specs = [parse(prompt) for prompt in load_prompts("test")[:8]]
    assert np.array_equal(draw(specs, 3), draw(specs, 3))
    assert not np.array_equal(draw(specs, 3), draw(specs, 4))
    pictures = draw(specs, 3)
    assert pictures.shape == (8, 32, 32, 3) and pictures.dtype == np.float32
    assert pictures.min() >= 0.0 and pictures.max() <= 1.0


def test_objects_keep_apart_and_inside():
    rng = np.random.default_rng(0)
    for prompt in load_prompts("train")[::11]:
        scene = place(parse(prompt), rng)
        for index, a in enumerate(scene):
            assert a.radius < a.x < 32 - a.radius and a.radius < a.y < 32 - a.radius
            for b in scene[index + 1 :]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + 2


def test_detector_finds_what_was_drawn(truths):
    prompts, pictures = truths
    found = detect(pictures)
    for index, prompt in enumerate(prompts):
        rows = found.image == index
        seen = sorted(zip(found.colour[rows], found.overlap[rows].argmax(1)))
        assert seen == sorted(parse(prompt).objects), prompt


def test_detector_locates_to_a_fraction_of_a_pixel():
    found = detect(render([[one("green", "circle", 9.3, 20.8)], [one("blue", "square", 21.5, 8.0)]]))
    assert np.allclose(found.x, [9.3, 21.5], atol=0.2) and np.allclose(found.y, [20.8, 8.0], atol=0.2)


def test_drawn_truth_scores_almost_one(truths):
    prompts, pictures = truths
    rewards = np.array(score(pictures, prompts))
    assert rewards.mean() >= 0.99 and rewards.min() >= 0.9 and rewards.max() <= 1.0


def test_another_prompt_scores_low(truths):
    prompts, pictures = truths
    assert np.mean(score(pictures, prompts[7:] + prompts[:7])) < 0.3


def test_wrong_colour_and_wrong_shape_cost_most_of_the_reward():
    assert reward([one("red", "circle")], "a red circle") > 0.99
    assert reward([one("blue", "circle")], "a red circle") < 0.35
    assert reward([one("red", "square")], "a red circle") < 0.45
    assert reward([one("blue", "square")], "a red circle") < 0.1


@pytest.mark.parametrize("shown", [1, 2, 4])
def test_wrong_count_scores_lower(shown):
    corners = [(7, 7), (24, 7), (7, 24), (24, 24)]
    scenes = {count: [one("green", "triangle", x, y, 4.5) for x, y in corners[:count]] for count in (shown, 3)}
    assert reward(scenes[3], "three green triangles") > 0.97
    assert reward(scenes[shown], "three green triangles") < 0.8


@pytest.mark.parametrize("relation", RELATIONS)
def test_swapped_relation_scores_lower(relation):
    first, second = one("red", "circle", 8, 16), one("blue", "square", 24, 16)
    if relation in ("above", "below"):
        first, second = one("red", "circle", 16, 8), one("blue", "square", 16, 24)
    prompt = f"a red circle {relation} a blue square"
    swapped = [one("red", "circle", second.x, second.y), one("blue", "square", first.x, first.y)]
    right, wrong = ([first, second], swapped) if relation in ("left of", "above") else (swapped, [first, second])
    assert reward(right, prompt) > 0.97
    assert reward(wrong, prompt) < 0.55
    assert reward(wrong[:1], prompt) < 0.3


def test_swapped_colours_score_low():
    scene = [one("blue", "circle", 8, 16), one("red", "square", 24, 16)]
    assert reward(scene, "a red circle and a blue square") < 0.45


def test_empty_and_noise_pictures_score_almost_nothing():
    empty = np.broadcast_to(GROUND, (1, 32, 32, 3))
    noise = np.random.default_rng(0).random((4, 32, 32, 3))
    grey = np.full((1, 32, 32, 3), 0.7)
    assert score(empty, ["a red circle"]) == [0.0]
    assert max(score(noise, ["two red circles"] * 4)) < 0.2
    assert score(grey, ["a red circle"]) == [0.0]
    assert score(np.zeros((0, 32, 32, 3)), []) == []


def test_extra_object_lowers_the_reward():
    scene = [one("red", "circle", 8, 8), one("yellow", "cross", 23, 22)]
    assert 0.4 < reward(scene, "a red circle") < 0.8


def test_reward_moves_smoothly_with_the_picture():
    """Fading an object in never jumps: the reward grows in small steps."""
    full = render([[one("red", "circle")]])[0]
    mixes = np.linspace(0.0, 1.0, 41)[:, None, None, None]
    rewards = np.array(score(GROUND + mixes * (full - GROUND), ["a red circle"] * 41))
    assert rewards[0] == 0.0 and rewards[-1] > 0.99
    assert np.abs(np.diff(rewards)).max() < 0.35
    assert ((rewards > 0.05) & (rewards < 0.95)).sum() >= 5


def test_picture_layouts_agree():
    prompts = load_prompts("test")[:16]
    pictures = draw([parse(prompt) for prompt in prompts], seed=0)
    by_float = score(pictures, prompts)
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    assert np.allclose(score(tensor, prompts), by_float)
    assert np.allclose(score((pictures * 255).round().astype(np.uint8), prompts), by_float, atol=0.01)
    assert np.allclose(score(np.kron(pictures, np.ones((1, 2, 2, 1))), prompts), by_float, atol=0.01)
    assert np.allclose([score(pictures[i : i + 1], prompts[i : i + 1])[0] for i in range(16)], by_float)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="2 images for 1 prompts"):
        score(np.zeros((2, 32, 32, 3), np.uint8), ["a red circle"])
    with pytest.raises(ValueError, match="square RGB"):
        score(np.zeros((1, 30, 30, 3), np.uint8), ["a red circle"])


def test_palette_is_separable():
    directions = (PALETTE - GROUND) / np.linalg.norm(PALETTE - GROUND, axis=1, keepdims=True)
    assert (directions @ directions.T - np.eye(4)).max() < 0.85


def test_specs_of_unknown_kind_are_refused():
    with pytest.raises(ValueError, match="unknown kind"):
        world.all_specs("texture")
    assert Spec("one", ((0, 0),)) in world.all_specs("one")
