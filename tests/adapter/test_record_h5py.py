"""What the record writes, h5py reads, without any code of ours; and what others make, we refuse."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

BUILT = Path(__file__).resolve().parents[2] / "build" / "tests" / "unit" / "write_record"
WRITE_RECORD = os.environ.get("GA_WRITE_RECORD", str(BUILT))
if not os.path.exists(WRITE_RECORD):
    pytest.skip(f"no {WRITE_RECORD}: build it, or name it in GA_WRITE_RECORD", allow_module_level=True)


def run(*arguments):
    done = subprocess.run([WRITE_RECORD, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "record"
    run(folder)
    return folder


@pytest.fixture
def record(written, tmp_path):
    shutil.copytree(written, tmp_path / "record")
    return tmp_path / "record"


def segments(folder, rank):
    return sorted((folder / f"rank-{rank:05d}").glob("segment-*.h5"))


@pytest.mark.parametrize("rank", [0, 1])
def test_every_row_is_there(written, rank):
    files = segments(written, rank)
    assert [f.name for f in files] == [f"segment-{i:06d}.h5" for i in range(3)]
    number = 0
    for path in files:
        with h5py.File(path, "r") as file:
            rows = len(file["row_id"])
            n = np.arange(number, number + rows)
            kept = n % 2 == 0
            np.testing.assert_array_equal(file["row_id"][:], (rank << 40) + n)
            np.testing.assert_array_equal(file["batch"][:], n // 10)
            np.testing.assert_array_equal(file["group"][:], n // 5)
            np.testing.assert_array_equal(file["prompt_hash"][:, 0], n)
            assert file["prompt_hash"].shape == (rows, 16)
            np.testing.assert_array_equal(file["rank"][:], rank)
            np.testing.assert_array_equal(file["index"][:], n % 10)
            np.testing.assert_array_equal(file["update"][:], n // 20)
            np.testing.assert_array_equal(file["step"][:], 2)
            np.testing.assert_array_equal(file["steps_total"][:], 10)
            np.testing.assert_array_equal(file["probe_version"][:], 3)
            np.testing.assert_array_equal(file["prediction"][:, 0], n)
            assert np.isnan(file["prediction"][:, 1]).all() and np.isnan(file["variance"][:, 1]).all()
            np.testing.assert_array_equal(file["inclusion"][:], 0.5)
            np.testing.assert_array_equal(file["kept"][:], kept)
            np.testing.assert_array_equal(file["audit"][:], n < 10)
            np.testing.assert_array_equal(file["advantage"][:], np.where(kept, 1.5, 0))
            for name in ("reward/shapes", "reward/combined"):
                np.testing.assert_array_equal(file[name][:], np.where(kept, n / 8, np.nan).astype("f4"))
            attention = file["features/attention"]
            assert attention.dtype == np.float16 and attention.shape == (rows, 2, 2, 3, 6)
            bits = attention[:].view(np.uint16).reshape(rows, 2, 36)
            np.testing.assert_array_equal(bits[:, 0], 0x3C00 + n[:, None] + np.arange(36))
            np.testing.assert_array_equal(
                bits[:, 1], np.where(kept[:, None], 0x3C00 + 100 + n[:, None] + np.arange(36), 0x7E00))
            assert file["features/preview"].shape == (rows, 2, 4)
            assert file["prompt"].asstr()[0] == f"{number} röte Kreise"
            present = n % 5 != 4
            np.testing.assert_array_equal(file["final"][:, 1, 1, 2], np.where(present, n + 11, 0))
            np.testing.assert_array_equal(file["final_present"][:], present)
            assert "state" not in file  # images have none
            number += rows
    assert number == 50


@pytest.mark.parametrize("name, dtype", [
    ("row_id", "u8"), ("batch", "u8"), ("group", "u8"), ("prompt_hash", "u1"), ("rank", "i4"), ("index", "i4"),
    ("update", "u4"), ("step", "u2"), ("steps_total", "u2"), ("probe_version", "u4"), ("prediction", "f4"),
    ("variance", "f4"), ("inclusion", "f4"), ("kept", "u1"), ("audit", "u1"), ("advantage", "f4"),
    ("reward/shapes", "f4"), ("reward/combined", "f4"), ("features/attention", "f2"), ("features/preview", "f2"),
    ("batches/batch", "u8"), ("batches/update", "u4"), ("batches/rows", "u4"), ("batches/rank", "i4"),
    ("batches/mode", "u1"), ("batches/audited", "u1"), ("batches/seconds_denoise", "f8"), ("final", "u1"),
    ("final_present", "u1"), ("batches/seconds_features", "f8"),
])
def test_types_checksums_fill(written, name, dtype):
    with h5py.File(segments(written, 0)[0], "r") as file:
        assert file[name].dtype == np.dtype(dtype)
        assert file[name].fletcher32 and file[name].compression is None
        if dtype in ("f2", "f4", "f8") and name != "final":
            assert np.isnan(file[name].fillvalue)


def test_attributes_and_batches(written):
    with h5py.File(segments(written, 1)[0], "r") as file:
        assert file.attrs["schema_version"] == 2
        assert file.attrs["run_id"] == "h5py" or file.attrs["run_id"] == b"h5py"
        assert file.attrs["rank"] == 1 and file.attrs["world_size"] == 2
        assert file.attrs["config_fingerprint"] == 0xFEDCBA9876543210
        assert file.attrs["candidate_steps"].tolist() == [2, 4]
        assert file.attrs["candidate_sigmas"].tolist() == [0.875, 0.625]
        assert len(file.attrs["created_utc"]) == 20
    with h5py.File(segments(written, 1)[2], "r") as file:
        assert file["batches/batch"][:].tolist() == [3, 4]  # batch 3 was booked after its last row was sealed
        assert file["batches/rank"][:].tolist() == [1, 1]
        assert file["batches/seconds_own"][:].tolist() == [39.0, 49.0]
        assert file["batches/seconds_lookahead"][:].tolist() == [0.75, 0.75]


def test_manifest(written):
    lines = [json.loads(line) for line in (written / "rank-00001" / "manifest.jsonl").read_text().splitlines()]
    assert [line["rows"] for line in lines] == [20, 20, 10]
    assert [line["sequence"] for line in lines] == [0, 1, 2]
    assert [line["first_row_id"] - (1 << 40) for line in lines] == [0, 20, 40]
    assert [line["last_batch"] for line in lines] == [1, 3, 4]
    assert [line["first_update"] for line in lines] == [0, 0, 1]
    for line, path in zip(lines, segments(written, 1)):
        assert line["file"] == path.name and line["bytes"] == path.stat().st_size
        assert len(line["checksum"]) == 16
    assert run("--verify", written).startswith("ok 0 0 0")


def foreign(record, change):
    """One segment alone, changed by h5py, without a manifest that would give it away."""
    path = record.parent / "foreign.h5"
    shutil.copy(segments(record, 0)[0], path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(name, make):
    def change(file):
        del file[name]
        make(file)
    return change


def external_storage(file):
    file.create_dataset("kept", (20,), "u1", external=[("/etc/hostname", 0, 20)])


def virtual(file):
    layout = h5py.VirtualLayout((20,), "u1")
    layout[:] = h5py.VirtualSource("/etc/hostname", "kept", (20,))
    file.create_virtual_dataset("kept", layout)


HARMFUL = {
    "external link": (replace("kept", lambda f: f.__setitem__("kept", h5py.ExternalLink("/etc/x.h5", "/a"))), "link"),
    "soft link": (replace("kept", lambda f: f.__setitem__("kept", h5py.SoftLink("/audit"))), "link"),
    "link in the middle": (replace("features", lambda f: f.__setitem__("features", h5py.SoftLink("/reward"))), "ok"),
    "external storage": (replace("kept", external_storage), "outside the file"),
    "virtual": (replace("kept", virtual), "outside the file"),
    "filter": (replace("kept", lambda f: f.create_dataset(
        "kept", data=np.zeros(20, "u1"), chunks=(20,), compression="lzf")), "filter"),
    "bomb": (replace("prediction", lambda f: f.create_dataset(
        "prediction", (1 << 28, 2), "f4", chunks=(1024, 2))), "not possible"),
    "shape": (replace("kept", lambda f: f.create_dataset("kept", data=np.zeros(19, "u1"))), "shape"),
    "text for numbers": (replace("kept", lambda f: f.create_dataset("kept", data=["a"] * 20)), "refused"),
    "missing": (lambda f: f.__delitem__("inclusion"), "inclusion"),
    "newer": (lambda f: f.attrs.__setitem__("schema_version", np.uint32(99)), "schema version 99"),
    "no version": (lambda f: f.attrs.__delitem__("schema_version"), "schema_version"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_files_made_to_do_harm(record, name):
    change, words = HARMFUL[name]
    answer = run("--read", foreign(record, change))
    if words == "ok":  # a link is not followed: the inputs are simply not there
        assert answer.startswith("ok 20 0")
    else:
        assert answer.startswith("file 0 0") and words in answer, answer


def test_gzip_is_read(record):
    def change(file):
        data = file["features/attention"][:]
        del file["features/attention"]
        file.create_dataset("features/attention", data=data, chunks=True, compression="gzip", shuffle=True,
                            fletcher32=True)
    assert run("--read", foreign(record, change)).startswith("ok 20 0")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5 at all\n" * 100)
    assert run("--read", tmp_path / "text.h5").startswith("file 0 0")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(5)
    assert "schema_version" in run("--read", tmp_path / "other.h5")
    os.symlink(tmp_path / "other.h5", tmp_path / "link.h5")
    assert run("--read", tmp_path / "link.h5").startswith("file 0 0")


def test_damage_is_found(record):
    path = segments(record, 0)[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    answer = run("--verify", record)
    assert answer.split()[3] == "1" and "checksum" in answer
    assert run("--read", record).startswith("ok 80 1")
