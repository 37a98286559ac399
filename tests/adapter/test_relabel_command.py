"""relabel end to end: labels of final images under other prompts, and a training that learns from them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_train_command import CLEAN, PROGRAM, ROOT  # noqa: E402

PROMPTS = 16
GROUP, GROUPS = 8, 6  # rows of a group, groups of a segment
SIDE = 4
TOY = """
import numpy as np
calls = []
def score(images, prompts):
    assert images.dtype == np.uint8 and images.shape[1:] == (4, 4, 3) and len(images) == len(prompts)
    return [float(image[..., int(prompt.split()[1]) % 3].mean()) / 255 for image, prompt in zip(images, prompts)]
def broken(images, prompts):
    raise RuntimeError("the scorer's own words")
def short(images, prompts):
    return [0.0]
"""


def prompt_hash(number):
    return np.frombuffer(number.to_bytes(16, "little"), np.uint8)


def image_segment(path, update, finals, text=True, generator=np.random.default_rng(3)):
    """Rows whose final latent (or image) has three channels; the prompt says which of them is the reward."""
    count = GROUP * GROUPS
    prompt = np.repeat(generator.permutation(PROMPTS)[:GROUPS], GROUP)
    final = generator.uniform(-1, 1, size=(count, 3)).astype("f4")
    reward = final[np.arange(count), prompt % 3]
    x0 = final + 0.3 * generator.normal(size=final.shape)
    spread = np.repeat(np.repeat(x0[:, None, :, None, None], SIDE, 3), SIDE, 4)
    vector = np.eye(3)[prompt % 3] + 0.05 * generator.normal(size=(count, 3))
    columns = {
        "row_id": (np.uint64(update * 1000) + np.arange(count)).astype("u8"), "batch": np.full(count, update, "u8"),
        "group": (np.uint64(update * 1000) + prompt).astype("u8"),
        "prompt_hash": np.stack([prompt_hash(int(p)) for p in prompt]), "rank": np.zeros(count, "i4"),
        "index": np.arange(count, dtype="i4"), "update": np.full(count, update, "u4"), "step": np.full(count, 3, "u2"),
        "steps_total": np.full(count, 10, "u2"), "probe_version": np.zeros(count, "u4"),
        "prediction": np.full((count, 1), np.nan, "f4"), "variance": np.full((count, 1), np.nan, "f4"),
        "inclusion": np.ones(count, "f4"), "kept": np.ones(count, "u1"), "audit": np.zeros(count, "u1"),
        "advantage": np.zeros(count, "f4"), "reward/combined": reward.astype("f4"), "reward/toy": reward.astype("f4"),
        "features/x0": spread.astype("f2"), "features/prompt": vector[:, None].astype("f2"),
        "final_present": np.ones(count, "u1"), "batches/batch": np.array([update], "u8"),
        "batches/update": np.array([update], "u4"), "batches/rows": np.array([count], "u4"), "batches/rank": np.zeros(1, "i4"),
        "batches/mode": np.ones(1, "u1"), "batches/audited": np.zeros(1, "u1"),
        **{f"batches/seconds_{part}": np.array([1.5]) for part in (
            "denoise", "signal", "reward", "own", "preview", "lookahead", "distilled", "features")},
    }
    whole = np.repeat(np.repeat(final[:, :, None, None], SIDE, 2), SIDE, 3)
    if finals == "latent":
        columns["final"] = columns["state"] = whole.astype("f2")
    elif finals == "image":
        columns["final"] = np.round((whole.transpose(0, 2, 3, 1) / 2 + 0.5) * 255).astype("u1")
    else:
        del columns["final_present"]
    if text:
        columns["prompt"] = np.array([f"prompt {p}".encode() for p in prompt], dtype=h5py.string_dtype("utf-8", 12))
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs["schema_version"] = np.uint32(2 if finals else 1)
        for name, words in (("run_id", "run-1"), ("model", "sd3"), ("created_utc", "2026-11-24T06:00:00Z")):
            file.attrs[name] = np.array(words.encode(), dtype=f"S{len(words)}")
        file.attrs["rank"], file.attrs["world_size"] = np.int32(0), np.int32(1)
        file.attrs["config_fingerprint"], file.attrs["feature_schema_id"] = np.uint64(1), np.uint64(77)
        file.attrs["candidate_steps"], file.attrs["candidate_sigmas"] = np.array([3], "i4"), np.array([0.7], "f8")
        for name, values in columns.items():
            file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)


def write_run(folder, finals, updates=6, text=True):
    record = folder / "record/rank-00000"
    record.mkdir(parents=True)
    for update in range(updates):
        image_segment(record / f"segment-{update:06d}.h5", update, finals, text)
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorer")
    (folder / "toy_scorer.py").write_text(TOY)
    return folder


def call(*arguments, path, code=0):
    variables = {"GRPO_ACCEL_PYTHON": sys.executable, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=300, env=CLEAN | variables)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def answer(*arguments, path):
    return json.loads(call(*arguments, "--json", path=path).stdout)


def relabels(run):
    parts = []
    for name in sorted((run / "relabels").glob("rank-*/segment-*.h5")):
        with h5py.File(name) as file:
            parts.append({key: file[key][()] for key in file})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_labels_are_the_scorers_under_other_prompts(tmp_path, toy):
    run = write_run(tmp_path / "run", "image")
    done = answer("relabel", run, "--scorer", "toy_scorer:score", "--prompts", 3, path=toy)
    assert done["segments"] == 6 and done["labels"] == 6 * GROUP * GROUPS * 3 and done["interrupted"] is False
    labels = relabels(run)
    rows, images = {}, {}
    for name in sorted((run / "record").glob("rank-*/segment-*.h5")):
        with h5py.File(name) as file:
            for row_id, digest, image in zip(file["row_id"][()], file["prompt_hash"][()], file["final"][()]):
                rows[int(row_id)], images[int(row_id)] = digest.tobytes(), image
    for row_id, digest, donor, reward in zip(*(labels[key] for key in ("row_id", "prompt_hash", "donor_row_id", "reward"))):
        assert rows[int(row_id)] != digest.tobytes() == rows[int(donor)]
        number = int.from_bytes(digest.tobytes(), "little")
        assert reward == pytest.approx(images[int(row_id)][..., number % 3].mean() / 255, abs=1e-6)
    pairs = {(int(r), d.tobytes()) for r, d in zip(labels["row_id"], labels["prompt_hash"])}
    assert len(pairs) == len(labels["row_id"])  # never the same twice


def test_a_second_call_does_what_is_missing_and_the_same_seed_gives_the_same(tmp_path, toy):
    run = write_run(tmp_path / "run", "image")
    answer("relabel", run, "--scorer", "toy_scorer:score", path=toy)
    first = relabels(run)
    files = sorted((run / "relabels").glob("rank-*/*.h5"))
    files[2].unlink()
    files[3].write_bytes(files[3].read_bytes()[:100])
    again = answer("relabel", run / "record", "--scorer", "toy_scorer:score", path=toy)
    assert (again["segments"], again["segments_there"]) == (2, 4)
    second = relabels(run)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    other = answer("relabel", run, "--scorer", "toy_scorer:score", "--seed", 1, path=toy)
    assert other["segments"] == 6 and not np.array_equal(relabels(run)["prompt_hash"], first["prompt_hash"])
    assert not list((run / "relabels").rglob("*.tmp"))


def test_what_a_run_must_have_logged_is_said(tmp_path, toy):
    no_text = write_run(tmp_path / "a", "image", updates=1, text=False)
    assert "record.prompts: text" in call("relabel", no_text, "--scorer", "toy_scorer:score", path=toy, code=3).stderr
    no_finals = write_run(tmp_path / "b", None, updates=1)
    assert "record.finals: image" in call("relabel", no_finals, "--scorer", "toy_scorer:score", path=toy, code=3).stderr
    latents = write_run(tmp_path / "c", "latent", updates=1)
    assert "--decoder" in call("relabel", latents, "--scorer", "toy_scorer:score", path=toy, code=3).stderr
    assert "no run folder" in call("relabel", tmp_path, "--scorer", "toy_scorer:score", path=toy, code=3).stderr


def test_scorers_that_are_wrong_are_named(tmp_path, toy):
    run = write_run(tmp_path / "run", "image", updates=1)
    assert "toy_scorer:missing" in call("relabel", run, "--scorer", "toy_scorer:missing", path=toy, code=2).stderr
    assert "the scorer's own words" in call("relabel", run, "--scorer", "toy_scorer:broken", path=toy, code=3).stderr
    assert "gave 1 numbers" in call("relabel", run, "--scorer", "toy_scorer:short", path=toy, code=3).stderr
    assert "--scorer" in call("relabel", run, path=toy, code=2).stderr
    assert not (run / "relabels").exists()


def test_a_training_learns_from_labels_in_two_phases(tmp_path, toy):
    run = write_run(tmp_path / "run", "latent", updates=16)
    make_labels(run)
    small = ("--set", "probe.network.channels=[8,8]", "--set", "probe.network.hidden=16", "--set", "training.rounds_max=20")
    plain = answer("train", "--data", run, "--out", tmp_path / "plain", *small, path=toy)
    assert plain["labels_under_other_prompts"] == 0 and plain["rounds_on_finals"] == 0
    more = answer("train", "--data", run, "--out", tmp_path / "more", "--relabels", 4, *small, path=toy)
    assert more["labels_under_other_prompts"] > 0 and more["rounds_on_finals"] > 0
    assert more["train_rows"] == plain["train_rows"] and more["held_rows"] == plain["held_rows"]
    again = answer("train", "--data", run, "--out", tmp_path / "again", "--relabels", 4, *small, path=toy)
    assert [p["loss"] for p in again["curve"]] == [p["loss"] for p in more["curve"]]
    assert more["candidates"]["network"]["held"]["value"] > 0.5


def make_labels(run, per_row=4):
    """As relabel would, of latents: what the other prompt's channel is worth."""
    generator = np.random.default_rng(5)
    donors, segments = {}, sorted((run / "record").glob("rank-*/segment-*.h5"))
    for name in segments:
        with h5py.File(name) as file:
            for row_id, digest in zip(file["row_id"][()], file["prompt_hash"][()]):
                donors.setdefault(digest.tobytes(), int(row_id))
    for name in segments:
        target = run / "relabels" / name.parent.name / name.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(name) as file, h5py.File(target, "w") as out:
            own, final, row_id = file["prompt_hash"][()], file["final"][()], file["row_id"][()]
            chosen = [generator.permutation([d for d in sorted(donors) if d != own[i].tobytes()])[:per_row] for i in range(len(own))]
            digests = [bytes(d) for some in chosen for d in some]
            out["row_id"] = np.repeat(row_id, per_row)
            out["donor_row_id"] = np.array([donors[d.ljust(16, b"\0")] for d in digests], "u8")
            out["prompt_hash"] = np.stack([np.frombuffer(d.ljust(16, b"\0"), np.uint8) for d in digests])
            numbers = np.array([int.from_bytes(d, "little") for d in digests])
            out["reward"] = np.repeat(final, per_row, 0)[np.arange(len(numbers)), numbers % 3].mean((1, 2)).astype("f4")


def test_a_training_says_what_labels_need(tmp_path, toy):
    run = write_run(tmp_path / "run", "latent", updates=8)
    none = call("train", "--data", run, "--out", tmp_path / "p", "--relabels", 2, path=toy, code=3)
    assert "grpo-accel relabel" in none.stderr
    make_labels(run)
    narrow = call("train", "--data", run, "--out", tmp_path / "p", "--relabels", 2, "--inputs", "x0", path=toy, code=3)
    assert "input" in narrow.stderr and "prompt" in narrow.stderr
