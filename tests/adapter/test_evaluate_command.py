"""`grpo-accel evaluate` and `grpo-accel rollback`: figures, the report's page, and which probe a run uses."""

import json
import re
import shutil
import sys
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import written_record  # noqa: E402
from test_command_line import answer, must  # noqa: E402

h5py = pytest.importorskip("h5py")

QUICK = ("--seed", "3", "--set", "probe.network.architecture=none")  # what judges is tested here, not what learns
WITHIN = {"value", "ci95", "n_rows", "n_groups"}
MEMBERS = {
    "probe", "kind", "n_rows", "n_groups", "audited_only", "in_sample", "n_rows_learned", "n_rows_left_out", "gate", "above_gate", "within", "pooled", "baselines",
    "kept_energy", "calibration", "by_step", "by_input", "by_scorer", "training", "comparisons", "distribution",
    "worst_groups", "top_quarter", "bottom_quarter", "best_of_group", "energy", "reliability", "drift",
}


def replace(file, name, values):
    if name in file:
        del file[name]
    file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)


def segments(run):
    return sorted(run.glob("record/rank-*/segment-*.h5"))


def add_prompts(run):
    """Prompts as text, with the hash that the session gives them, so that categories can be named by text."""
    for path in segments(run):
        with h5py.File(path, "a") as file:
            texts = [f"a <b>{'red' if hash_[0] % 2 else 'blue'}</b> & \"round\" thing {hash_[0]}".encode()
                     for hash_ in file["prompt_hash"][:]]
            file.create_dataset("prompt", data=texts, dtype=h5py.string_dtype("utf-8", 64), chunks=(len(texts),))


def add_retest(run, share=0.6, seed=5):
    """A second reward of each row that has `share` of the first one's variance in common, inside groups."""
    generator = np.random.default_rng(seed)
    for path in segments(run):
        with h5py.File(path, "a") as file:
            reward = file["reward/combined"][:].astype("f8")
            noise = generator.normal(size=reward.shape)
            replace(file, "reward/retest", (share * reward + np.sqrt(1 - share**2) * noise).astype("f4"))


def add_step(run, noise=2.0, seed=6):
    """An earlier candidate step, whose preview says less and whose maps say nothing."""
    generator = np.random.default_rng(seed)
    for path in segments(run):
        with h5py.File(path, "a") as file:
            file.attrs["candidate_steps"] = np.array([2, written_record.STEP], "i4")
            file.attrs["candidate_sigmas"] = np.array([0.8, written_record.SIGMA], "f8")
            for name in ("prediction", "variance"):
                replace(file, name, np.repeat(file[name][:], 2, axis=1))
            preview = file["features/preview"][:].astype("f4")
            early = preview + noise * generator.normal(size=preview.shape)
            replace(file, "features/preview", np.concatenate([early, preview], axis=1).astype("f2"))
            maps = file["features/attention"][:]
            blank = generator.normal(size=maps.shape).astype("f2")
            replace(file, "features/attention", np.concatenate([blank, maps], axis=1))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A record to learn from, a newer one to judge on, a probe and a worse probe."""
    folder = tmp_path_factory.mktemp("evaluated")
    old = written_record.write_record(folder / "old", updates=24, skill=0.8, seed=1)
    new = written_record.write_record(folder / "new", updates=24, skill=0.8, seed=2)
    poor = written_record.write_record(folder / "poor", updates=24, skill=0.0, seed=3)
    good, worse = folder / "good.safetensors", folder / "worse.safetensors"
    must(0, "train", "--data", old, "--out", good, *QUICK)
    must(0, "train", "--data", poor, "--out", worse, *QUICK)
    return folder, new, good, worse


def page_of(folder):
    """The page as a tree: it must be well formed, SVG included."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "http://" not in text and "https://" not in text and "<script" not in text  # needs nothing else
    return text, xml.etree.ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))


def check_within(figure):
    assert set(figure) == WITHIN
    if figure["n_groups"] > 0:
        assert figure["ci95"][0] <= figure["value"] <= figure["ci95"][1]


def test_the_answer_has_all_members(world):
    _, new, good, _ = world
    found = answer("evaluate", "--probe", good, "--data", new)
    assert set(found) == MEMBERS
    groups = found["n_groups"]
    for figure in (*found["within"].values(), found["top_quarter"]["auc"], found["bottom_quarter"]["average_precision"],
                   found["reliability"]["slope"], *found["by_scorer"].values()):
        check_within(figure)
        assert figure["n_groups"] == groups
    assert found["top_quarter"]["auc"] == found["within"]["auc_top_quarter"]
    spread = found["distribution"]
    assert sum(spread["histogram"]) == spread["n_groups"] == groups
    assert spread["deciles"] == sorted(spread["deciles"]) and len(spread["deciles"]) == 11
    assert len(found["worst_groups"]) == 10
    worst = [group["spearman"] for group in found["worst_groups"]]
    assert worst == sorted(worst)
    assert found["worst_groups"][0]["spearman"] == pytest.approx(spread["deciles"][0])
    assert all(len(group["prompt_hash"]) == 32 and group["prompt"] is None for group in found["worst_groups"])


def test_rows_that_the_probe_has_learned_from_are_left_out(world, tmp_path):
    folder, new, good, worse = world
    old = folder / "old"
    trained = answer("train", "--data", old, "--out", tmp_path / "again.safetensors", *QUICK)
    found = answer("evaluate", "--probe", tmp_path / "again.safetensors", "--data", old)
    # what is left are the audited rows of the prompts that the training held out
    assert found["in_sample"] is False and found["n_rows_learned"] == 0
    assert found["n_rows"] * trained["train_rows"] == found["n_rows_left_out"] * trained["held_rows"] > 0
    assert found["n_groups"] * 2 == trained["held_groups"]  # every other update is audited
    every = answer("evaluate", "--probe", tmp_path / "again.safetensors", "--data", old, "--all-rows")
    assert every["in_sample"] is True and every["n_rows_left_out"] == 0
    assert every["n_rows_learned"] == found["n_rows_left_out"]
    assert every["n_rows"] == found["n_rows"] + found["n_rows_left_out"]
    assert every["within"]["spearman"]["value"] > found["within"]["spearman"]["value"]  # it flatters
    assert "IN SAMPLE" in must(0, "evaluate", "--probe", good, "--data", old, "--all-rows").stdout
    assert f"{found['n_rows_left_out']} more rows are left out" in must(0, "evaluate", "--probe", good, "--data", old).stdout
    # another run of the same configuration has the same name and other rows
    other = answer("evaluate", "--probe", good, "--data", new, "--against", worse)
    assert (other["in_sample"], other["n_rows_left_out"], other["n_rows_learned"]) == (False, 0, 0)
    against = [c for c in other["comparisons"] if c["key"] == "against"]
    assert against[0]["in_sample"] is False
    against = answer("evaluate", "--probe", worse, "--data", old, "--against", good)["comparisons"]
    assert [c["in_sample"] for c in against if c["key"] == "against"] == [True]


def strip_learned(path, other):
    """The file as earlier programs wrote it."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:8 + length]), raw[8 + length:]
    start, end = header.pop("learned.held")["data_offsets"]
    header["__metadata__"] = {k: v for k, v in header["__metadata__"].items() if not k.startswith("learned")}
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [at - (end - start) for at in entry["data_offsets"]]
    text = json.dumps(header).encode()
    other.write_bytes(len(text).to_bytes(8, "little") + text + data[:start] + data[end:])


def test_a_file_that_does_not_say_what_it_learned_from_is_judged_on_all(world, tmp_path):
    folder, _, good, _ = world
    strip_learned(good, tmp_path / "early.safetensors")
    found = answer("evaluate", "--probe", tmp_path / "early.safetensors", "--data", folder / "old")
    assert found["in_sample"] is None and found["n_rows_left_out"] == found["n_rows_learned"] == 0
    assert found["n_rows"] > answer("evaluate", "--probe", good, "--data", folder / "old")["n_rows"]
    assert "does not say which rows" in must(0, "evaluate", "--probe", tmp_path / "early.safetensors", "--data", folder / "old").stdout


def test_energy_rises_from_chance_to_the_oracle(world):
    _, new, good, _ = world
    found = answer("evaluate", "--probe", good, "--data", new)
    for points in found["energy"].values():
        assert [point["keep"] for point in points] == [0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        values = [point["probe"]["value"] for point in points]
        assert values == sorted(values)
        for point in points:
            assert point["random"] < point["probe"]["value"] <= point["oracle"] + 1e-12
    assert found["kept_energy"]["0.5"] == found["energy"]["global"][5]["probe"]["value"]


def test_rivals_are_compared_in_pairs(world):
    _, new, good, worse = world
    found = answer("evaluate", "--probe", good, "--data", new, "--against", worse)
    rivals = {rival["key"]: rival for rival in found["comparisons"]}
    assert list(rivals) == ["ridge", "preview", "against", "random", "prompt_mean"]
    own = found["within"]["spearman"]["value"]
    for rival in rivals.values():
        check_within(rival["probe_minus_it"])
        assert rival["probe_minus_it"]["value"] == pytest.approx(own - rival["within_spearman"]["value"], abs=1e-9)
    assert rivals["against"]["probe_minus_it"]["ci95"][0] > 0
    assert rivals["random"]["probe_minus_it"]["ci95"][0] > 0.5
    assert abs(rivals["prompt_mean"]["within_spearman"]["value"]) < 1e-9
    assert rivals["prompt_mean"]["pooled_spearman"] > 0.5  # why pooled figures prove nothing
    assert found["by_input"]["preview"] == rivals["preview"]["within_spearman"]
    same = answer("evaluate", "--probe", good, "--data", new, "--against", good)
    pair = {rival["key"]: rival for rival in same["comparisons"]}["against"]["probe_minus_it"]
    assert pair["value"] == 0 and pair["ci95"] == [0, 0]


def test_a_subset_probe_is_compared_with_inputs_that_it_does_not_take(world, tmp_path):
    folder, new, _, _ = world
    probe = tmp_path / "maps.safetensors"
    must(0, "train", "--data", folder / "old", "--out", probe, "--inputs", "attention", *QUICK)
    found = answer("evaluate", "--probe", probe, "--data", new)
    assert set(found["by_input"]) == {"preview"}


def test_predictions_are_judged_as_numbers(world):
    _, new, good, _ = world
    found = answer("evaluate", "--probe", good, "--data", new)["reliability"]
    assert found["slope"]["value"] == pytest.approx(1, abs=0.15)
    assert len(found["within"]) == len(found["pooled"]) == 10
    assert [level["level"] for level in found["coverage_reward"]] == [0.5, 0.8, 0.9, 0.95]
    for level in (*found["coverage_reward"], *found["coverage_within"]):
        check_within(level["covered"])
        assert level["covered"]["value"] == pytest.approx(level["level"], abs=0.1)


def test_drift_spans_cover_all_rows(world):
    _, new, good, _ = world
    found = answer("evaluate", "--probe", good, "--data", new)
    assert sum(span["n_rows"] for span in found["drift"]) == found["n_rows"]
    assert len(found["drift"]) == 10 and found["drift"][0]["stability_index"] == 0
    updates = [update for span in found["drift"] for update in span["updates"]]
    assert updates == sorted(updates)


def test_a_retest_gives_the_ceiling(world, tmp_path):
    _, new, good, _ = world
    run = shutil.copytree(new, tmp_path / "again")
    add_retest(run)
    found = answer("evaluate", "--probe", good, "--data", run)
    assert found["ceiling"]["retest_pearson"]["value"] == pytest.approx(0.6, abs=0.06)
    retest = found["ceiling"]["retest_pearson"]["value"]
    assert found["ceiling"]["pearson_max"]["value"] == pytest.approx(np.sqrt(retest))
    assert "retest" not in found["by_scorer"]  # nothing to predict


def test_categories_by_text_or_hash(world, tmp_path):
    _, new, good, _ = world
    hashes = {bytes(row).hex() for path in segments(new) for row in h5py.File(path)["prompt_hash"][:]}
    lines = [f"{name},{'even' if int(name[:2], 16) % 2 == 0 else 'odd'}" for name in sorted(hashes)][1:]
    table = tmp_path / "categories.csv"
    table.write_text("prompt_hash,category\n" + "\n".join(lines) + "\n\"a prompt, with a comma\",other\n")
    found = answer("evaluate", "--probe", good, "--data", new, "--categories", table)["by_category"]
    assert set(found) == {"even", "odd", "(no category)"}
    all_groups = answer("evaluate", "--probe", good, "--data", new)["n_groups"]
    assert sum(figure["n_groups"] for figure in found.values()) == all_groups
    table.write_text("prompt,category\nabc\n")
    assert f"{table}:2: expected 'prompt,category'" in must(
        3, "evaluate", "--probe", good, "--data", new, "--categories", table).stderr
    must(3, "evaluate", "--probe", good, "--data", new, "--categories", tmp_path / "none.csv")


def test_steps_are_judged_each_and_together(tmp_path):
    run = written_record.write_record(tmp_path / "run", updates=24, skill=0.9, seed=4)
    add_step(run)
    probe = tmp_path / "probe.safetensors"
    must(0, "train", "--data", run, "--out", probe, "--step", "2,3", *QUICK)
    found = answer("evaluate", "--probe", probe, "--data", run)
    assert set(found["by_step"]) == {"2", "3"}
    assert found["by_step"]["3"]["value"] > found["by_step"]["2"]["value"] + 0.1
    assert found["n_groups"] == sum(figure["n_groups"] for figure in found["by_step"].values())
    late = answer("evaluate", "--probe", probe, "--data", run, "--step", "3")
    assert set(late["by_step"]) == {"3"}
    assert late["within"]["spearman"]["value"] == pytest.approx(found["by_step"]["3"]["value"], abs=1e-9)
    must(3, "evaluate", "--probe", probe, "--data", run, "--step", "9")


def test_each_scorer_has_its_own_head(world, tmp_path):
    folder, new, _, _ = world
    probe, judged = tmp_path / "heads.safetensors", shutil.copytree(new, tmp_path / "new")
    learned = shutil.copytree(folder / "old", tmp_path / "old")
    for run in (learned, judged):  # a scorer that wants the opposite
        for path in segments(run):
            with h5py.File(path, "a") as file:
                replace(file, "reward/opposite", -file["reward/combined"][:])
    must(0, "train", "--data", learned, "--out", probe, "--targets", "all", *QUICK)
    found = answer("evaluate", "--probe", probe, "--data", judged, "--report", tmp_path / "report")
    assert set(found["by_scorer"]) == {"combined", "opposite", "shapes"}
    assert set(found["by_head"]) == {"opposite", "shapes"}
    assert found["by_scorer"]["opposite"]["value"] < -0.6 and found["by_head"]["opposite"]["value"] > 0.6
    assert "By scorer, with its own head" in page_of(tmp_path / "report")[0]


def test_the_report_is_a_page_and_the_same_figures(world, tmp_path):
    _, new, good, worse = world
    run = shutil.copytree(new, tmp_path / "named")
    add_prompts(run)
    add_retest(run)
    found = answer("evaluate", "--probe", good, "--data", run, "--against", worse, "--report", tmp_path / "report")
    assert json.loads((tmp_path / "report/metrics.json").read_text()) == found
    text, tree = page_of(tmp_path / "report")
    pictures = tree.findall(".//svg")
    assert len(pictures) >= 8
    assert all(picture.find("title").text and picture.get("viewBox") for picture in pictures)
    headings = [heading.text for heading in tree.findall(".//h2")]
    for heading in ("Order within groups", "Against other predictors", "Signal kept when rows are dropped",
                    "Are predictions right as numbers?", "Drift with the policy", "Worst groups"):
        assert heading in headings
    assert f"{found['within']['spearman']['value']:.3f}" in text
    assert "&lt;b&gt;" in text and "<b>red</b>" not in text  # prompts are text, whatever they hold
    assert not [word for word in re.findall(r"[a-z]+", text) if word in ("nan", "inf")]
    # a pooled figure stands in a row that has the one within groups, too
    rows = [["".join(cell.itertext()) for cell in row] for row in tree.findall(".//table")[0].findall("tr")]
    assert rows[0] == ["figure", "within groups", "95 %", "groups", "pooled"]
    assert all(row[1] != "–" for row in rows[1:])
    assert not list((tmp_path / "report").glob("*.tmp"))


def test_a_report_that_cannot_be_written_is_said(world, tmp_path):
    _, new, good, _ = world
    (tmp_path / "file").write_text("")
    assert "can't write the report" in must(
        3, "evaluate", "--probe", good, "--data", new, "--report", tmp_path / "file").stderr


def test_the_learning_curve_rises_with_rows(world, tmp_path):
    _, new, good, _ = world
    found = answer("evaluate", "--probe", good, "--data", new, "--curve", "--report", tmp_path / "report")
    curve = found["learning_curve"]
    assert [point["share"] for point in curve] == [0.25, 0.5, 0.75, 1.0]
    rows = [point["n_rows"] for point in curve]
    assert rows == sorted(rows) and rows[0] < 0.5 * rows[-1]
    judged = {point["spearman"]["ridge"]["n_groups"] for point in curve}
    assert len(judged) == 1  # the same prompts judge
    assert all(point["residual_sd"] > 0 for point in curve)
    assert "With how many rows?" in page_of(tmp_path / "report")[0]


# ---- rollback


@pytest.fixture
def run_with_probes(world, tmp_path):
    _, _, good, worse = world
    probes = tmp_path / "run/probes"
    probes.mkdir(parents=True)
    for version, probe in ((1, good), (2, worse), (4, good)):
        shutil.copy(probe, probes / f"probe-{version:06d}.safetensors")
    return tmp_path / "run"


def journal(run):
    return [json.loads(line) for line in (run / "probes/journal.jsonl").read_text().splitlines()]


def test_rollback_goes_back_one_by_one(run_with_probes):
    run = run_with_probes
    found = answer("rollback", run)
    assert (found["version"], found["previous"], found["versions"]) == (2, 4, [1, 2, 4])
    assert Path(found["probe"]).samefile(run / "probes/probe-000002.safetensors")
    assert (run / "probes/current").read_text() == "2\n"
    assert "probe 1 is in use (it was 2)" in must(0, "rollback", run).stdout
    assert "none is older" in must(2, "rollback", run).stderr
    assert (run / "probes/current").read_text() == "1\n"
    assert [line["rollback"] for line in journal(run)] == [{"from": 4, "to": 2}, {"from": 2, "to": 1}]
    assert must(0, "rollback", run, "--to", "4", "--quiet").stdout == ""
    assert (run / "probes/current").read_text() == "4\n"


def test_rollback_refuses_what_is_not_there(run_with_probes, tmp_path):
    run = run_with_probes
    refused = must(2, "rollback", run, "--to", "3").stderr
    assert "no probe version 3; it has 1, 2, 4" in refused
    must(2, "rollback", run, "--to", "zwei")
    must(2, "rollback")
    must(3, "rollback", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "has no probes" in must(3, "rollback", tmp_path / "empty").stderr
    broken = run / "probes/probe-000002.safetensors"
    broken.write_bytes(broken.read_bytes()[:-9])
    must(3, "rollback", run, "--to", "2")
    assert not (run / "probes/current").exists()
    assert answer("rollback", run, "--to", "9", code=2)["error"]["status"] == "argument"
