"""A small record written by h5py from the contract alone, so that the commands read what others may write."""

import numpy as np

H5_ROWS = 48  # rows of one rank and update: 6 groups of 8 in one batch
GROUPS, GROUP_ROWS = 6, 8
STEPS_TOTAL, STEP, SIGMA = 10, 3, 0.6


def columns(rank, update, skill, generator):
    """Columns of one segment. The preview tells the reward inside a group as well as `skill` (0 … 1) says."""
    count = GROUPS * GROUP_ROWS
    group = np.repeat(np.arange(GROUPS), GROUP_ROWS)
    offset = generator.normal(size=GROUPS)[group]
    inside = generator.normal(size=count)
    noise = generator.normal(size=count)
    reward = (offset + inside).astype("f4")
    preview = offset + skill * inside + np.sqrt(1 - skill**2) * noise
    kept = np.ones(count, "u1")
    kept[::4] = update > 0  # the first update loses a quarter of its rows
    reward[kept == 0] = np.nan
    maps = generator.normal(size=(count, 1, 2, 4, 4)) + 0.3 * inside[:, None, None, None, None]
    return {
        "row_id": (np.uint64((rank * 1000 + update) * count) + np.arange(count)).astype("u8"),
        "batch": np.full(count, update, "u8"),
        "group": (np.uint64(update * 1000 + rank * 100) + group).astype("u8"),
        "prompt_hash": np.tile((group + rank * GROUPS)[:, None], (1, 16)).astype("u1"),
        "rank": np.full(count, rank, "i4"),
        "index": np.arange(count, dtype="i4"),
        "update": np.full(count, update, "u4"),
        "step": np.full(count, STEP, "u2"),
        "steps_total": np.full(count, STEPS_TOTAL, "u2"),
        "probe_version": np.zeros(count, "u4"),
        "prediction": np.full((count, 1), np.nan, "f4"),
        "variance": np.full((count, 1), np.nan, "f4"),
        "inclusion": np.where(update == 0, 0.75, 1.0) * np.ones(count, "f4"),
        "kept": kept,
        "audit": np.full(count, update % 2, "u1"),
        "advantage": np.zeros(count, "f4"),
        "reward/combined": reward,
        "reward/shapes": reward,
        "features/attention": maps.astype("f2"),
        "features/preview": preview.astype("f2")[:, None, None],
        "batches/batch": np.array([update], "u8"),
        "batches/update": np.array([update], "u4"),
        "batches/rows": np.array([count], "u4"),
        "batches/rank": np.array([rank], "i4"),
        "batches/mode": np.array([1], "u1"),
        "batches/audited": np.array([update % 2], "u1"),
        **{f"batches/seconds_{part}": np.array([1.5]) for part in ("denoise", "signal", "reward", "own")},
    }


def write_segment(path, rank, ranks, update, skill, generator):
    import h5py

    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs["schema_version"] = np.uint32(1)
        for name, text in (("run_id", "run-1"), ("model", "sd3"), ("created_utc", "2026-11-24T06:00:00Z")):
            file.attrs[name] = np.array(text.encode(), dtype=f"S{len(text)}")
        file.attrs["rank"], file.attrs["world_size"] = np.int32(rank), np.int32(ranks)
        file.attrs["config_fingerprint"] = np.uint64(0xABC)
        file.attrs["candidate_steps"] = np.array([STEP], "i4")
        file.attrs["candidate_sigmas"] = np.array([SIGMA], "f8")
        file.attrs["feature_schema_id"] = np.uint64(77)
        for name, values in columns(rank, update, skill, generator).items():
            values = values.astype("f4") if name == "inclusion" else values
            file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)


def write_record(run, ranks=2, updates=6, skill=0.8, seed=0):
    """<run>/record/rank-0000r/segment-00000u.h5; gives the run folder."""
    generator = np.random.default_rng(seed)
    for rank in range(ranks):
        folder = run / "record" / f"rank-{rank:05d}"
        folder.mkdir(parents=True)
        for update in range(updates):
            write_segment(folder / f"segment-{update:06d}.h5", rank, ranks, update, skill, generator)
    return run
