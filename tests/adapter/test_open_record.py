"""grpo_accel.open_record: segments of all ranks joined, and only the columns that were asked for."""

import sys
from pathlib import Path

import pytest

h5py = pytest.importorskip("h5py")
grpo_accel = pytest.importorskip("grpo_accel")
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np  # noqa: E402
import written_record  # noqa: E402


@pytest.fixture
def run(tmp_path):
    run = written_record.write_record(tmp_path / "run", ranks=2, updates=3)
    for path in sorted((run / "record").glob("*/segment-*.h5")):
        with h5py.File(path, "r+") as file:
            rows = len(file["row_id"])
            file["final"] = np.full((rows, 3, 4, 4), rows, "u1")
            file["final_present"] = file["kept"][()]
            if path.name != "segment-000001.h5":
                file["state"] = np.zeros((rows, 2, 4, 4), "f2")
    return run


def test_all_columns_of_all_ranks_in_order(run):
    record = grpo_accel.open_record(run)
    rows = 2 * 3 * written_record.H5_ROWS
    assert len(record["row_id"]) == rows and (np.diff(record["rank"]) >= 0).all()
    assert record["final"].shape == (rows, 3, 4, 4) and record["final"].dtype == np.uint8
    assert np.array_equal(record["final_present"], record["kept"])
    assert "state" not in record, "a column that a segment lacks can't be joined"
    one_rank = grpo_accel.open_record(run / "record" / "rank-00001")
    assert np.array_equal(one_rank["row_id"], record["row_id"][rows // 2:])


def test_named_columns_alone(run):
    record = grpo_accel.open_record(run, columns=["kept", "features/", "reward/combined", "not there"])
    assert set(record) == {"kept", "features/attention", "features/preview", "reward/combined"}


def test_a_folder_without_segments_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no segments below"):
        grpo_accel.open_record(tmp_path)
