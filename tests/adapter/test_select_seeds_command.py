"""`grpo-accel select-seeds`: what its options mean, what it refuses, and a small selection and learning through it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.shapes import world
from grpo_accel import seed_command
from grpo_accel import GrpoAccelError

SHAPES = Path(__file__).resolve().parents[2] / "experiments" / "shapes" / "models" / "sd3"
CALL = ["--inference-steps", "4", "--argument", "guidance_scale=1.0", "--argument", "max_sequence_length=16",
        "--argument", "height=32", "--argument", "width=32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def answer(capsys, *arguments, code=0):
    assert seed_command.main([*map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_seeds_prompts_and_arguments_in_words(tmp_path):
    assert seed_command.seeds_of("3") == [0, 1, 2] and seed_command.seeds_of("3,9") == [3, 9] and seed_command.seeds_of("7,") == [7]
    assert seed_command.pairs_of("argument", ["a=1.5", "b=text", "c=[1, 2]", "d=true"]) == {
        "a": 1.5, "b": "text", "c": [1, 2], "d": True}
    with pytest.raises(GrpoAccelError, match="--seeds x"):
        seed_command.seeds_of("x")
    with pytest.raises(GrpoAccelError, match="NAME=VALUE"):
        seed_command.pairs_of("argument", ["a"])
    file = tmp_path / "prompts.txt"
    file.write_text("a\n\nb\na\n")
    options = seed_command.parse(["--model", "m", "--out", "o", "--prompts", str(file), "--prompt", "c"])
    assert seed_command.prompts_of(options) == ["c", "a", "b"]


def test_a_command_scores_files(tmp_path):
    program = tmp_path / "score.py"
    program.write_text(
        "import json, sys\nfrom PIL import Image\n"
        "for line in sys.stdin:\n    one = json.loads(line)\n"
        "    print(Image.open(one['image']).getpixel((0, 0))[0] + len(one['prompt']))\n")
    pixels = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = [5, 6, 7]
    assert seed_command.run_command(f"{sys.executable} {program}", pixels, ["", "a", "bb"]) == [5.0, 7.0, 9.0]
    with pytest.raises(seed_command.ScorerFailed, match="gave 0 numbers for 1"):
        seed_command.run_command("true", pixels[:1], [""])
    with pytest.raises(seed_command.ScorerFailed, match="ended with 3"):
        seed_command.run_command("sh -c 'exit 3'", pixels[:1], [""])
    with pytest.raises(seed_command.ScorerFailed, match="no-such-program"):
        seed_command.run_command("no-such-program", pixels[:1], [""])


@pytest.mark.parametrize("more, code, words", [
    (["--scorer", "no_module:f"], 2, "no_module"),
    (["--scorer", "a:b", "--scorer-command", "c"], 2, "one of them"),
    (["--seeds", "x"], 2, "--seeds"),
    (["--keep", "0", "--scorer", "experiments.shapes.scorer:score"], 2, "keep"),
    (["--probe", "no-such.safetensors"], 3, "no-such.safetensors"),
    ([], 2, "scorer"),
])
def test_what_is_wrong_is_said_with_an_exit_code(capsys, tmp_path, monkeypatch, more, code, words):
    class Pipeline:
        def __call__(self, num_inference_steps=8):
            raise AssertionError("nothing runs before the arguments are right")

    monkeypatch.setattr(seed_command, "pipeline_of", lambda options: Pipeline())
    found = answer(capsys, "--model", "m", "--prompt", "a red circle", "--out", tmp_path, *more, code=code)
    assert words in found["error"]["message"] and found["error"]["exit_code"] == code


def test_a_folder_without_a_model_is_an_input_error(capsys, tmp_path):
    found = answer(capsys, "--model", tmp_path / "none", "--prompt", "a", "--out", tmp_path / "out", code=3)
    assert "none" in found["error"]["message"]


def test_a_selection(capsys, tmp_path):
    found = answer(
        capsys, "--model", SHAPES, "--prompt", "a red circle", "--seeds", "3", "--steps", "1", "--lookahead-steps", "1", "--scorer",
        "experiments.shapes.scorer:score", "--out", tmp_path, *CALL)
    assert found == {**json.loads((tmp_path / "index.json").read_text()), "out": str(tmp_path)}
    seeds = found["prompts"][0]["seeds"]
    assert [seed["seed"] for seed in seeds] == [0, 1, 2] and sum(seed["finished"] for seed in seeds) == 1
    assert found["row_steps_run"] == 3 * 2 + 3 + 2 and found["row_steps_full"] == 12


def test_learning_a_probe_says_what_it_is_worth(capsys, tmp_path):
    """A tiny budget: whether the probe is of use is not asserted, but that answer, figures and exit code agree."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(world.load_prompts("train")[:15]))
    code = seed_command.main([
        "--learn", "--model", str(SHAPES), "--prompts", str(prompts), "--seeds", "4", "--steps", "1", "--inputs", "x0,lookahead",
        "--lookahead-steps", "1", "--max-rows", "12", "--scorer", "experiments.shapes.scorer:score", "--out", str(tmp_path / "out"),
        "--json", *CALL])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["gain_share_ci95"][0] > 0 else 1) and report["useful"] == (code == 0)
    assert report["prompts_judged"] == 3 and report["step"] == 1 and report["steps_total"] == 4
    assert json.loads((tmp_path / "out" / "probe.json").read_text())["settings"]["probe.lookahead.steps"] == 1
    common = ["--model", SHAPES, "--prompt", "a red circle", "--seeds", "3", "--scorer", "experiments.shapes.scorer:score",
              "--probe", report["probe"], "--out", tmp_path / "chosen"]
    chosen = answer(capsys, *common, *CALL)
    assert chosen["steps"] == [1] and sum(seed["finished"] for seed in chosen["prompts"][0]["seeds"]) == 1
    other = ["6" if word == "4" else word for word in CALL]
    assert "of 4 steps, this one has 6" in answer(capsys, *common, *other, code=3)["error"]["message"]
    assert "not after step 2" in answer(capsys, *common, "--steps", "2", *CALL, code=3)["error"]["message"]
