"""Seed selection on a small model: survivors, refusals, and that nothing stays behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import grpo_accel
from grpo_accel import early as early_module
from grpo_accel.early import EarlyRuns
from grpo_accel.learn import batches_of, gain_share
from grpo_accel import GrpoAccelError
from grpo_accel.probe_file import ProbeFile

CALL = {"num_inference_steps": 6, "guidance_scale": 1.0, "max_sequence_length": 16, "height": 32, "width": 32, "output_type": "pt"}
PROMPTS = ["a red circle", "two blue squares"]
ROUNDING = 2e-5
SHAPES = Path(__file__).resolve().parents[2] / "experiments" / "shapes" / "models" / "sd3"


def score(images, prompts):
    return [float(image[0].mean() - image[2].mean()) for image in images]


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusion3Pipeline

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline = StableDiffusion3Pipeline.from_pretrained(SHAPES, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline
    torch.set_num_threads(threads)


def plain(pipeline, prompt, seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(prompt=[prompt], num_images_per_prompt=len(seeds), generator=generators, **CALL).images


def traces(pipeline):
    """Everything that could be left: hooks, attributes, what the call looks up."""
    hooks = [len(getattr(module, name)) for module in (*pipeline.transformer.modules(), *pipeline.vae.modules())
             for name in ("_forward_hooks", "_forward_pre_hooks")]
    return sum(hooks), type(pipeline.transformer).__name__, type(pipeline.vae).__name__, "__call__" in vars(pipeline)


def early(pipeline, **settings):
    return EarlyRuns(pipeline, **{"steps": 2, "keep": 1, "scorer": score, "lookahead_steps": 1, **settings})


def outcome(runs):
    return [[(run.seed, run.stopped_step, run.finished, dict(run.predictions)) for run in some] for some in runs]


def test_survivors_are_the_images_of_their_seeds(pipeline):
    runs = early(pipeline, keep=4).run(PROMPTS, range(6), **CALL)
    for prompt, some in zip(PROMPTS, runs):
        images = plain(pipeline, prompt, range(6))
        finished = [run for run in some if run.finished]
        assert len(finished) == 4 and min(run.prediction for run in finished) >= max(
            run.prediction for run in some if not run.finished)
        for run in finished:
            assert torch.allclose(run.image, images[run.seed], atol=ROUNDING), run.seed
        stopped = [run for run in some if not run.finished]
        assert all(run.stopped_step == 2 and run.steps_run == 3 and run.image is None for run in stopped)


def test_the_same_seeds_give_the_same_selection(pipeline):
    both = [early(pipeline).run(PROMPTS, [5, 1, 9, 4], **CALL) for _ in range(2)]
    assert outcome(both[0]) == outcome(both[1])
    for one, other in zip(both[0], both[1]):
        for a, b in zip(one, other):
            assert (a.image is None) == (b.image is None)
            assert a.image is None or torch.equal(a.image, b.image)


def test_halving_stops_in_two_goes_and_counts_its_steps(pipeline):
    runs = early(pipeline, steps=[1, 3], keep=[3, 1])
    some = runs.run(PROMPTS[:1], range(5), **CALL)[0]
    stops = sorted(run.stopped_step or 0 for run in some)
    assert stops == [0, 1, 1, 3, 3]
    assert [len(run.predictions) for run in some if run.stopped_step == 1] == [1, 1]
    # 5 rows 2 steps and a look-ahead, 3 rows 2 further steps and another, 1 row the last 2
    assert runs.row_steps == 5 * 2 + 5 + 3 * 2 + 3 + 2


def test_a_prompt_that_fits_no_batch_is_run_in_parts(pipeline):
    whole = early(pipeline, steps=[1, 3], keep=[3, 1]).run(PROMPTS, range(5), **CALL)
    parts = early(pipeline, steps=[1, 3], keep=[3, 1], max_rows=2)
    found = parts.run(PROMPTS, range(5), **CALL)
    assert [[(a, b, c) for a, b, c, _ in some] for some in outcome(found)] == [
        [(a, b, c) for a, b, c, _ in some] for some in outcome(whole)]
    for one, other in zip(whole, found):
        for a, b in zip(one, other):
            assert a.image is None or torch.allclose(a.image, b.image, atol=ROUNDING)
    assert parts.row_steps == 2 * (5 * 2 + 5 + 3 * 2 + 3 + 2), "no step was paid twice"


def test_out_of_memory_halves_the_batch(pipeline, monkeypatch):
    forward, rows = pipeline.transformer.forward, []

    def small(*args, **kwargs):
        rows.append(len(kwargs["hidden_states"]))
        if rows[-1] > 4:
            raise early_module.OutOfMemory("no memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(pipeline.transformer, "forward", small)
    runs = early(pipeline, max_rows=16)
    found = runs.run(PROMPTS, range(4), **CALL)
    assert runs.max_rows == 4 and rows[0] == 8 and max(rows[1:]) == 4
    assert [sum(run.finished for run in some) for some in found] == [1, 1]


def test_early_only_is_resumed_bit_for_bit(pipeline):
    runs = early(pipeline)
    before = traces(pipeline)
    first = runs.run(PROMPTS[:1], range(3), only_early=True, **CALL)[0]
    assert traces(pipeline) == before
    assert all(not run.finished and run.steps_run == 3 for run in first)
    spent = runs.row_steps
    assert spent == 3 * 3 + 3
    done = runs.resume([(PROMPTS[0], seed) for seed in range(3)], **CALL)
    assert runs.row_steps == spent + 3 * 3
    images = plain(pipeline, PROMPTS[0], range(3))
    assert all(torch.equal(run.image, images[run.seed]) for run in done)


def test_nothing_stays_behind_an_exception(pipeline, monkeypatch):
    before = traces(pipeline)

    class Own(Exception):
        pass

    def fails(images, prompts):
        raise Own("the scorer's own words")

    with pytest.raises(Own, match="own words"):
        early(pipeline, scorer=fails).run(PROMPTS[:1], range(3), **CALL)
    assert traces(pipeline) == before
    forward, calls = pipeline.transformer.forward, []

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise Own("the model's own words")
        return forward(*args, **kwargs)

    monkeypatch.setattr(pipeline.transformer, "forward", breaks)
    with pytest.raises(Own, match="model's own"):
        early(pipeline).run(PROMPTS[:1], range(3), **CALL)
    monkeypatch.undo()
    assert traces(pipeline) == before
    with pytest.raises(TypeError, match="no_such_argument"):
        early(pipeline).run(PROMPTS[:1], range(3), no_such_argument=1, **CALL)
    assert early(pipeline).run(PROMPTS[:1], range(3), **CALL)


def test_wrong_arguments_are_named(pipeline):
    for settings, words in (({"keep": [2, 1]}, "keep"), ({"keep": 0}, "keep"), ({"scorer": None}, "scorer"), ({"max_rows": 0}, "max_rows")):
        with pytest.raises(GrpoAccelError, match=words):
            early(pipeline, **settings)
    for prompts, seeds, extra, words in ((["a", "a"], [1], {}, "twice"), (["a"], [1, 1], {}, "twice"), (["a"], [], {}, "no seeds"),
                                         (["a"], [1], {"latents": 0}, "latents")):
        with pytest.raises(GrpoAccelError, match=words):
            early(pipeline).run(prompts, seeds, **{**CALL, **extra})
    with pytest.raises(GrpoAccelError, match="keep: 1|keep: 5"):
        early(pipeline, keep=5).run(["a"], [1, 2], **CALL)


def probe_for(model, steps=(2,), total=6):
    return ProbeFile(path="p.safetensors", model=model, inputs=("x0",), steps=steps, steps_total=total,
                     spearman=(0.5, 0.4, 0.6), held_groups=3, settings={})


def test_a_probe_of_something_else_is_refused_by_name():
    probe = probe_for("Pipe/aaa/bbb/8x8x8")
    probe.check_model("Pipe/aaa/bbb/8x8x8")
    for name, word in (("Other/aaa/bbb/8x8x8", "pipeline"), ("Pipe/xxx/bbb/8x8x8", "denoiser"),
                       ("Pipe/aaa/xxx/8x8x8", "scheduler"), ("Pipe/aaa/bbb/8x16x16", "resolution")):
        with pytest.raises(GrpoAccelError, match=f"another {word}"):
            probe.check_model(name)
    with pytest.raises(GrpoAccelError, match="not after step 3"):
        probe.check_steps([3])
    with pytest.raises(GrpoAccelError, match="of 6 steps, this one has 8"):
        probe.check_steps_total(8)


def test_selection_and_its_folder(pipeline, tmp_path):
    selection = grpo_accel.select_seeds(
        pipeline, PROMPTS, n=4, keep=2, step=2, scorer=score, lookahead_steps=1, out=tmp_path, progress=False, **CALL)
    assert selection.prompts == [prompt for prompt in PROMPTS for _ in range(2)]
    assert selection.scores[0] >= selection.scores[1] and selection.scores[2] >= selection.scores[3]
    assert np.allclose(selection.scores, score(selection.images, None), atol=1e-6)
    assert selection.row_steps_full == 2 * 4 * 6 and selection.row_steps_run == 8 * 3 + 8 + 4 * 3
    index = json.loads((tmp_path / "index.json").read_text())
    assert [entry["prompt"] for entry in index["prompts"]] == PROMPTS
    for entry in index["prompts"]:
        for seed in entry["seeds"]:
            assert seed["finished"] == ("image" in seed) == (seed["score"] is not None)
            assert (tmp_path / seed["preview"]).is_file() and list(seed["predictions"]) == ["2"]
            assert "image" not in seed or (tmp_path / seed["image"]).is_file()
    from PIL import Image

    assert Image.open(tmp_path / "sheet.png").width > 4 * 96


@pytest.mark.parametrize("count, largest, sizes", [(2, 6, [2]), (15, 6, [5, 5, 5]), (17, 6, [5, 5, 5]), (12, 6, [6, 6]), (3, 1, [1, 1, 1])])
def test_prompts_to_learn_from_are_shared_out_evenly(count, largest, sizes):
    prompts = [f"prompt {number}" for number in range(count)]
    batches = batches_of(prompts, largest)
    assert [len(batch) for batch in batches] == sizes
    assert [prompt for batch in batches for prompt in batch] == prompts[: sum(sizes)]


def test_chance_has_no_share_of_the_gain():
    random = np.random.RandomState(0)
    groups = [(random.rand(10), random.rand(10)) for _ in range(200)]
    share, low, high = gain_share(groups)
    assert low < 0.05 and high > -0.05 and abs(share) < 0.15
    assert gain_share([(reward, reward) for _, reward in groups])[0] == 1.0
