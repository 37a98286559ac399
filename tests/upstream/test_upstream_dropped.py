"""`advantage.drop_stopped_rows`: scripts without a mask train as if they had train_sd3.py's.

The other run is of the same script into whose text, in a copy made for the run, train_sd3.py's mask is put.
"""

import numpy as np
import pytest
import running
from scripts import SCRIPTS

unmasked = pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if not script.mask])
BEGIN = "        # Get the mask for samples"
END = '        total_batch_size, num_timesteps = samples["timesteps"].shape\n'


def with_mask(text):
    """A script's text, and train_sd3.py's lines that leave rows without advantage out of training."""
    masked = (running.checkout() / "scripts" / "train_sd3.py").read_text()
    lines = masked[masked.index(BEGIN): masked.index(END)]
    if "accelerator" not in text:
        lines = lines.replace("accelerator.is_main_process", "rank == 0")
    assert text.count(END) == 1
    return text.replace(END, lines + END)


@unmasked
def test_training_is_that_of_kept_rows_only(runs, name):
    dropped, masked = runs(name, "drop"), runs(name, "prune", "masked", edit=with_mask)
    for mine, yours in zip(dropped, masked, strict=True):
        assert mine.trained_rows == yours.trained_rows
        assert mine.trained_rows[1] < mine.trained_rows[0]
        assert mine.weights == yours.weights
        for update, expected in zip(mine.updates, yours.updates, strict=True):
            np.testing.assert_array_equal(update["reward_avg"], expected["reward_avg"])


@unmasked
def test_it_is_said(runs, name):
    errors = runs(name, "drop")[0].errors
    assert "stopped rows are taken out of the script's samples" in errors
    assert "this script trains on every row" not in errors
