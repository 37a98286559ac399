"""Stopped rows and what the host has for each row: its samples, its advantages, its scorer's further arguments."""

import sys
from types import SimpleNamespace

import numpy as np
import torch

from grpo_accel import rewards, samples


def test_micro_batches_stay_of_one_size():
    assert samples.trained_rows([True, False, True, False, True, True], 2) == [0, 2, 4, 5]
    assert samples.trained_rows([True, False, True, False, True, False], 2) == [0, 1, 2, 4]  # a stopped row fills up
    assert samples.trained_rows([False] * 4, 2) == [0, 1]  # each micro-batch has something
    assert samples.trained_rows([True] * 3, 2) == [0, 1, 2]  # nothing to fill up with: the host's own affair


def test_rows_leave_everything_that_has_rows():
    held = {
        "timesteps": torch.arange(8).reshape(4, 2), "latents": torch.arange(4.0), "rewards": {"avg": torch.arange(4)},
        "scale": torch.tensor(3.0), "shared": torch.arange(5), "name": "x",
    }
    samples.drop(held, [0, 3], 4)
    assert held["timesteps"].tolist() == [[0, 1], [6, 7]]
    assert held["latents"].tolist() == [0.0, 3.0] and held["rewards"]["avg"].tolist() == [0, 3]
    assert held["scale"] == 3.0 and held["shared"].tolist() == [0, 1, 2, 3, 4] and held["name"] == "x"


def test_advantages_have_as_many_rows_of_each_rank():
    every = np.array([[1.0], [0.0], [2.0], [0.0], [0.0], [3.0], [0.0], [4.0]])  # two ranks
    for rank, rows in ((0, [0, 2]), (1, [1, 3])):
        picked = samples.advantages_of(every, rows, rank, 2)
        assert picked.reshape(2, -1, 1)[rank].tolist() == every.reshape(2, 4, 1)[rank, rows].tolist()
        assert len(picked) == 4


def test_the_hosts_samples_are_found_by_name_and_by_their_rows():
    def host(count):
        samples_of_host = {"timesteps": torch.zeros(count, 2)}
        return caller(samples_of_host)

    def caller(samples):  # the host's name for it
        return sys._getframe()

    frame = host(4)
    assert samples.of_frame(frame, 4) is not None
    assert samples.of_frame(host(4), 5) is None
    assert samples.of_frame(sys._getframe(), 4) is None


def test_a_scorers_further_arguments_are_of_the_rows_it_scores():
    """An edit's reference images come as a list beside the images."""
    rollout = SimpleNamespace(
        rows=4, kept=lambda: [1, 3], decision=SimpleNamespace(prediction=np.array([5.0, 0.0, np.nan, 0.0])),
        batch=SimpleNamespace(seconds=lambda *_: None, reward=lambda *_: None))
    seen = {}

    def scorer(images, prompts, metadata, ref_images, only_strict, **options):
        seen.update(images=images.tolist(), ref_images=ref_images, only_strict=only_strict, **options)
        return {"avg": [float(value) for value in images]}, {}

    named, _ = rewards.score_rollout(
        SimpleNamespace(degrade=None), rollout, scorer, torch.arange(4.0), list("abcd"), [{}] * 4, ["r0", "r1", "r2", "r3"],
        only_strict=True, weights=[1, 2])
    assert seen == {"images": [1.0, 3.0], "ref_images": ["r1", "r3"], "only_strict": True, "weights": [1, 2]}
    assert named["avg"] == [5.0, 1.0, 2.0, 3.0]  # its prediction; the scored mean where there is none
