"""The demo's report on a made-up run whose figures are known beforehand."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from scipy import stats

from experiments.demo import charts, figures, load, report

RANKS, BATCHES, GROUPS, GROUP_ROWS = 2, 2, 6, 8
UPDATES, SHADOW_UPDATES, STEP, STEPS = 12, 5, 3, 10
SUMMARY_KEYS = {
    "ranks": None,
    "updates": None,
    "rows_total": None,
    "rows_pruned": None,
    "row_steps_run": None,
    "row_steps_full": None,
    "seconds": {mode: dict.fromkeys(("rollout", "signal", "reward", "train", "accel")) for mode in ("shadow", "prune")},
    "reward": {"start": None, "end": None},
    "probe": dict.fromkeys(
        ("step", "version", "within_spearman", "within_ci95", "pooled_spearman", "auc", "n_groups")
    ),
    "record": dict.fromkeys(("rows", "segments", "bytes", "verified")),
    "overhead_fraction": None,
}


def keys_of(value):
    """Nested key structure of a dict, lists and numbers as None."""
    return {k: keys_of(v) for k, v in value.items()} if isinstance(value, dict) else None


# ------------------------------------------------------------------------------------------- a made-up run


def make_batch(rng, update, number):
    """Rows of a batch of all ranks; prompts differ in level, predictions follow rewards inside groups."""
    rows = GROUPS * GROUP_ROWS
    group = np.repeat(np.arange(GROUPS), GROUP_ROWS)
    level = rng.normal(0, 1, GROUPS)[group]
    skill = rng.normal(0, 1, rows)
    reward = level + skill
    prediction = level + 0.7 * skill + 0.7 * rng.normal(0, 1, rows)
    pruning = update >= SHADOW_UPDATES
    audit = pruning and number % BATCHES == 0 and update % 2 == 0
    kept = np.ones(rows, bool)
    if pruning:
        kept = np.zeros(rows, bool)
        chosen = rng.permutation(rows) if audit else np.argsort(-np.abs(prediction - level))
        kept[chosen[: rows // 2]] = True
    order = rng.permutation(rows)
    return {
        "group": (np.uint64(number) * np.uint64(1000) + group.astype(np.uint64))[order],
        "reward": np.where(kept, reward, np.nan)[order],
        "prediction": prediction[order],
        "kept": kept[order],
        "audit": np.full(rows, audit),
        "mode": 2 if pruning else 1,
    }


def write_segment(path, rank, batches):
    """One rank's share of (update, number, batch) as docs/record.md lays it out."""
    columns = {name: [] for name in ("update", "batch", "group", "reward", "prediction", "kept", "audit")}
    for update, number, batch in batches:
        mine = slice(rank, None, RANKS)
        count = len(batch["group"][mine])
        columns["update"].append(np.full(count, update, np.uint32))
        columns["batch"].append(np.full(count, number, np.uint64))
        for name in ("group", "reward", "prediction", "kept", "audit"):
            columns[name].append(batch[name][mine])
    columns = {name: np.concatenate(parts) for name, parts in columns.items()}
    rows = len(columns["update"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            schema_version=1, run_id="made-up", rank=rank, world_size=RANKS, config_fingerprint=7, model="none",
            created_utc="2026-01-01T00:00:00Z", candidate_steps=np.array([2, STEP], np.int32))
        for name in ("update", "batch", "group"):
            file[name] = columns[name]
        for name in ("kept", "audit"):
            file[name] = columns[name].astype(np.uint8)
        file["rank"] = np.full(rows, rank, np.int32)
        file["step"] = np.full(rows, STEP, np.uint16)
        file["steps_total"] = np.full(rows, STEPS, np.uint16)
        file["probe_version"] = np.full(rows, 4, np.uint32)
        file["inclusion"] = np.full(rows, 0.5, np.float32)
        wrong = np.full(rows, np.nan)  # the other candidate step must not be read
        file["prediction"] = np.stack([wrong, columns["prediction"]], axis=1).astype(np.float32)
        file["reward/combined"] = columns["reward"].astype(np.float32)
        table = {
            "batch": [number for _, number, _ in batches],
            "update": [update for update, _, _ in batches],
            "mode": np.array([batch["mode"] for _, _, batch in batches], np.uint8),
            "audited": np.array([batch["audit"][0] for _, _, batch in batches], np.uint8),
            "seconds_denoise": np.full(len(batches), 2.0),
            "seconds_signal": np.full(len(batches), 0.25),
            "seconds_reward": np.full(len(batches), 0.1),
            "seconds_own": np.full(len(batches), 0.05),
        }
        for name, values in table.items():
            file[f"batches/{name}"] = values


def write_progress(path):
    lines = []
    for update in range(UPDATES + 1):
        pruning = update >= SHADOW_UPDATES
        line = {"update": update, "elapsed": 10.0 * (update + 1), "seconds": {}}
        if update % 4 == 0:
            line["eval_reward"] = 0.5 + 0.01 * update
        if update < UPDATES:
            line["reward"] = 0.4 + 0.01 * update
            line["seconds"] = {"rollout": 3.6 if pruning else 6.6, "reward": 0.4, "train": 2.0 if pruning else 4.0}
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")


def write_previews(folder):
    folder.mkdir()
    rng = np.random.default_rng(5)
    np.savez_compressed(
        folder / "update-000009-batch-000.npz",
        images=rng.integers(0, 255, (8, 3, 32, 32), dtype=np.uint8),
        prompts=np.array(["two <red> circles & a square"] * 6 + ["one blue triangle"] * 2),
        prediction=np.linspace(0.1, 0.8, 8, dtype=np.float32),
        kept=np.array([1, 0, 0, 0, 1, 1, 1, 1], bool),
        update=9,
    )
    (folder / "update-000010-batch-000.npz").write_bytes(b"PK cut off")


def write_metrics(path):
    """The runtime's lines: the first two before it could judge its prediction."""
    lines = []
    for update in range(UPDATES):
        value = None if update < 2 else 0.5 + 0.02 * update
        lines.append({
            "prune/update": update, "prune/mode": "shadow", "probe/spearman_group": value,
            "probe/spearman_group_low": value and value - 0.2, "probe/spearman_group_high": value and value + 0.15,
            "comm/late_batches": 1, "record/dropped": 3})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run_folder(tmp_path):
    rng = np.random.default_rng(1)
    batches = [
        (update, update * BATCHES + i, make_batch(rng, update, update * BATCHES + i))
        for update in range(UPDATES)
        for i in range(BATCHES)
    ]
    half = len(batches) // 2
    for rank in range(RANKS):
        for number, part in enumerate((batches[:half], batches[half:])):
            write_segment(tmp_path / f"record/rank-{rank:05d}/segment-{number:06d}.h5", rank, part)
    write_progress(tmp_path / "progress.jsonl")
    write_previews(tmp_path / "previews")
    write_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "evaluations").mkdir()
    evaluation = {
        "n_groups": 31, "within": {"spearman": {"value": 0.33, "ci95": [0.2, 0.4]}},
        "pooled": {"spearman": 0.81, "auc": 0.9}}
    (tmp_path / "evaluations/ridge.json").write_text(json.dumps(evaluation))
    return tmp_path, batches


def summary_of(folder, *arguments):
    assert report.main([str(folder), "--quiet", *arguments]) == 0
    return json.loads((folder / "summary.json").read_text())


# -------------------------------------------------------------------------------------------------- summary


def test_summary_has_the_contract_s_keys(run_folder):
    folder, _ = run_folder
    summary = summary_of(folder, "--verified", "yes")
    assert keys_of(summary) == SUMMARY_KEYS
    assert summary["record"]["verified"] is True
    assert summary_of(folder)["record"]["verified"] is None


def test_counts(run_folder):
    folder, batches = run_folder
    summary = summary_of(folder)
    kept = np.concatenate([batch["kept"] for _, _, batch in batches])
    assert summary["ranks"] == RANKS
    assert summary["updates"] == UPDATES
    assert summary["rows_total"] == summary["record"]["rows"] == kept.size
    assert summary["rows_pruned"] == (~kept).sum() > 0
    assert summary["row_steps_full"] == kept.size * STEPS
    assert summary["row_steps_run"] == kept.sum() * STEPS + (~kept).sum() * (STEP + 1)
    assert summary["record"]["segments"] == 2 * RANKS


def test_within_group_figures_use_audited_rows_only(run_folder):
    folder, batches = run_folder
    expected, rewards, predictions = [], [], []
    for _, _, batch in batches:
        if not batch["audit"][0]:
            continue
        rewards.append(batch["reward"][batch["kept"]])
        predictions.append(batch["prediction"][batch["kept"]])
        for group in np.unique(batch["group"]):
            chosen = batch["kept"] & (batch["group"] == group)
            if chosen.sum() >= figures.MIN_GROUP_ROWS:
                expected.append(stats.spearmanr(batch["prediction"][chosen], batch["reward"][chosen]).statistic)
    probe = summary_of(folder)["probe"]
    assert probe["n_groups"] == len(expected) >= figures.MIN_GROUPS
    assert probe["within_spearman"] == pytest.approx(np.mean(expected), abs=1e-6)
    low, high = probe["within_ci95"]
    assert low < probe["within_spearman"] < high
    pooled = stats.spearmanr(np.concatenate(predictions), np.concatenate(rewards)).statistic
    assert probe["pooled_spearman"] == pytest.approx(pooled, abs=1e-6)
    assert probe["pooled_spearman"] > probe["within_spearman"]  # prompts differ in level
    assert (probe["step"], probe["version"]) == (STEP, 4)


def test_shadow_rows_join_while_few_groups_are_audited(run_folder):
    folder, _ = run_folder
    run = load.read_run(folder)
    run.record.rows["audit"][:] = False
    judged = figures.kept_by_chance(run.record)
    shadow_rows = SHADOW_UPDATES * BATCHES * GROUPS * GROUP_ROWS
    assert len(judged.reward) == shadow_rows
    assert "shadow" in judged.source


def test_auc_is_one_half_without_skill_and_one_with_all():
    reward = np.arange(100.0)
    assert figures.top_quarter_auc(reward, reward) == 1.0
    assert figures.top_quarter_auc(-reward, reward) == 0.0
    assert figures.top_quarter_auc(np.zeros(100), reward) == 0.5
    assert figures.top_quarter_auc(reward, np.zeros(100)) is None


def test_seconds_add_up_to_the_trainer_s(run_folder):
    folder, _ = run_folder
    summary = summary_of(folder)
    shadow, prune = summary["seconds"]["shadow"], summary["seconds"]["prune"]
    assert shadow["rollout"] + shadow["signal"] + shadow["accel"] == pytest.approx(6.6)
    assert prune["rollout"] + prune["signal"] + prune["accel"] == pytest.approx(3.6)
    assert prune["signal"] == pytest.approx(BATCHES * 0.25)
    assert (shadow["train"], prune["train"]) == (4.0, 2.0)
    assert summary["overhead_fraction"] == pytest.approx(prune["accel"] / prune["rollout"])


def test_reward_is_the_held_out_one(run_folder):
    folder, _ = run_folder
    assert summary_of(folder)["reward"] == {"start": 0.5, "end": pytest.approx(0.5 + 0.01 * UPDATES)}


# --------------------------------------------------------------------------------------------------- report


class TagBalance(HTMLParser):
    VOID = {"meta", "img", "br", "rect", "circle", "line", "polyline"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_report_stands_alone_and_is_well_formed(run_folder):
    folder, _ = run_folder
    summary_of(folder)
    html = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=(?!["']data:)""", html)
    assert "http" not in html and "<script" not in html and "@import" not in html
    parser = TagBalance()
    parser.feed(html)
    assert parser.open == []
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing


def test_report_shows_both_sides_and_escapes_prompts(run_folder):
    folder, _ = run_folder
    summary_of(folder)
    html = (folder / "report.html").read_text()
    assert "two &lt;red&gt; circles &amp; a square" in html and "<red>" not in html
    assert html.count("data:image/png;base64,") == 6  # the other prompt has no stopped row beside its kept ones
    assert "went on" in html and "stopped here" in html
    assert "predicted 0.60" in html
    assert "update-000010-batch-000.npz" in html  # what was left out is said
    assert "ridge" in html and "0.33" in html


def test_wall_clock_is_shaded_where_pruning_was_in_force(run_folder):
    folder, _ = run_folder
    summary_of(folder)
    html = (folder / "report.html").read_text()
    (band,) = re.findall(r'<rect class="band-prune" x="([\d.]+)"', html)
    chart = charts.Chart((0, 10.0 * (UPDATES + 1) * 1.02), (0, 1), "", "", "")
    assert float(band) == pytest.approx(chart.x(10.0 * SHADOW_UPDATES), abs=0.1)


def test_runtime_s_own_figures_are_shown(run_folder):
    folder, _ = run_folder
    summary_of(folder)
    html = (folder / "report.html").read_text()
    (area,) = re.findall(r'<polygon class="spread" points="([^"]+)"', html)
    assert len(area.split()) == 2 * (UPDATES - 2)
    assert f"<td>late batches, rank 0</td><td>{UPDATES}</td>" in html
    assert "<td>rows the record had to drop</td><td>3</td>" in html
    (folder / "metrics.jsonl").unlink()
    summary_of(folder)
    html = (folder / "report.html").read_text()
    assert 'class="spread"' not in html and "<td>rows the record had to drop</td><td>–</td>" in html


# -------------------------------------------------------------------------------------------- damaged input


def test_damaged_segment_is_left_out_and_named(run_folder):
    folder, _ = run_folder
    victim = folder / "record/rank-00001/segment-000001.h5"
    victim.write_bytes(victim.read_bytes()[:3000])
    summary = summary_of(folder)
    assert summary["record"]["segments"] == 2 * RANKS - 1
    assert "rank-00001/segment-000001.h5" in (folder / "report.html").read_text()


def test_line_cut_off_by_a_kill_is_left_out(run_folder):
    folder, _ = run_folder
    path = folder / "progress.jsonl"
    path.write_text(path.read_text() + '{"update": 13, "rew')
    assert summary_of(folder)["updates"] == UPDATES
    assert f"progress.jsonl:{UPDATES + 2}" in (folder / "report.html").read_text()


@pytest.mark.parametrize("lost", ["progress.jsonl", "record"])
def test_without_its_files_the_answer_is_3(run_folder, capsys, lost):
    folder, _ = run_folder
    (folder / lost).rename(folder / "elsewhere")
    assert report.main([str(folder)]) == 3
    assert lost in capsys.readouterr().err
    assert not (folder / "summary.json").exists()


def test_run_that_only_watched(run_folder):
    folder, _ = run_folder
    for path in folder.glob("record/rank-*/segment-000001.h5"):
        path.unlink()
    run = load.read_run(folder)
    run.record.rows["audit"][:] = False
    run.record.rows["kept"][:] = True
    run.record.batches["mode"][:] = "shadow"
    summary, _ = figures.summarise(run)
    assert summary["seconds"]["prune"] is None
    assert summary["overhead_fraction"] is None
    assert summary["rows_pruned"] == 0
    assert summary["row_steps_run"] == summary["row_steps_full"]


def test_ticks_are_round_and_inside():
    assert charts.nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.nice_ticks(-0.3, 0.31)[0] == pytest.approx(-0.2)
    assert charts.nice_ticks(5, 5) == [5]
    assert charts.label(-0.5) == "−0.5"
