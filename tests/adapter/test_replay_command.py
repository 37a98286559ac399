"""`grpo-accel replay` against a small implementation of its definitions that shares no code with it."""

import itertools
import json
import math
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import written_record  # noqa: E402
from test_command_line import answer, must  # noqa: E402

h5py = pytest.importorskip("h5py")

CONTRACT = {
    "policy", "std", "ranks", "keep_per_rank", "min_group", "rows", "groups", "batches", "rho_within", "kept_energy",
    "snr2", "baseline_rmse_sigma", "baseline_shift_sigma", "kept_top_quarter", "kept_bottom_quarter",
}
ESTIMATORS = ("shrunk", "difference", "survivors")


def make_table(seed=1, batches=6, groups=4, size=6, ranks=4, noise=0.7):
    """Rows with a rank column: groups of unequal spread, scores that tell the reward in part."""
    generator = np.random.default_rng(seed)
    columns = {name: [] for name in ("batch", "group", "rank", "score", "reward")}
    for batch in range(batches):
        rank = generator.permutation(np.repeat(np.arange(ranks), groups * size // ranks))
        for group in range(groups):
            spread, level = np.exp(0.5 * generator.normal()), generator.normal()
            inside = generator.normal(size=size)
            columns["reward"] += list(level + spread * inside)
            columns["score"] += list(level + spread * (inside + noise * generator.normal(size=size)))
            columns["batch"] += [batch] * size
            columns["group"] += [batch * 100 + group] * size
        columns["rank"] += list(rank)
    return {name: np.array(values) for name, values in columns.items()}


def write_csv(path, table, leave_out=()):
    names = [name for name in table if name not in leave_out]
    lines = [",".join(names)]
    for i in range(len(table["reward"])):
        lines.append(",".join(repr(table[name][i].item()) for name in names))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_hdf5(path, table):
    with h5py.File(path, "w") as file:
        for name, values in table.items():
            file[name] = values
    return path


# ---- the definitions once more, in numpy


def ranks_of(values):
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values))
    for value in np.unique(values):
        ranks[values == value] = ranks[values == value].mean()
    return ranks


def spearman_within(table):
    found = []
    for key in np.unique(table["group"]):
        rows = table["group"] == key
        found.append(np.corrcoef(ranks_of(table["score"][rows]), ranks_of(table["reward"][rows]))[0, 1])
    return float(np.mean(found))


def centred(values, groups):
    result = np.array(values, dtype=float)
    for key in np.unique(groups):
        result[groups == key] -= result[groups == key].mean()
    return result


def predictions(table, batch):
    """m, τ², σ_r² for a batch from the others."""
    others = table["batch"] != batch
    score, reward, groups = (table[name][others] for name in ("score", "reward", "group"))
    s, r = centred(score, groups), centred(reward, groups)
    b = (s * r).sum() / (s * s).sum()
    a = reward.mean() - b * score.mean()
    residual = reward - a - b * score
    keys = np.unique(groups)
    inner = centred(residual, groups)
    sigma_r2 = (inner**2).sum() / (len(residual) - len(keys))
    offsets = sum((groups == key).sum() * residual[groups == key].mean() ** 2 for key in keys)
    tau2 = max(0.0, (offsets - len(keys) * sigma_r2) / len(residual))
    return a + b * table["score"][table["batch"] == batch], tau2, sigma_r2


def values_of(m, groups, sigma_r2, std):
    size = np.array([(groups == key).sum() for key in groups])
    square, sigma_r2 = centred(m, groups) ** 2, sigma_r2 * (1 - 1 / size)  # the group's mean is made of its rows
    if std == "global":
        return square + sigma_r2
    value = np.empty(len(m))
    for key in np.unique(groups):
        rows = groups == key
        value[rows] = (square[rows] + sigma_r2[rows]) / (square[rows] + sigma_r2[rows]).mean()
    return value


def best_of_each_rank(weight, rank, keep):
    kept = np.zeros(len(weight), bool)
    for number in np.unique(rank):
        rows = np.flatnonzero(rank == number)
        kept[rows[np.argsort(-weight[rows])[:keep]]] = True
    return kept


def best_set_by_trying_all(weight, rank, groups, keep, min_group):
    """The set of largest weight with `keep` rows of each rank and min_group rows of each group."""
    choices = [list(itertools.combinations(np.flatnonzero(rank == number), keep)) for number in np.unique(rank)]
    best, best_weight = None, -math.inf
    for choice in itertools.product(*choices):
        rows = np.array([row for part in choice for row in part])
        if all((groups[rows] == key).sum() >= min_group for key in np.unique(groups)):
            total = weight[rows].sum()
            if total > best_weight:
                best, best_weight = rows, total
    kept = np.zeros(len(weight), bool)
    kept[best] = True
    return kept


def figures_of_batch(reward, groups, kept, m, tau2, sigma_r2, std):
    spread = np.array([reward[groups == key].std() for key in groups])
    truth = centred(reward, groups) / (spread if std == "group" else 1.0)
    figures = {"kept_energy": (truth[kept] ** 2).sum() / (truth**2).sum()}
    baselines = {name: {} for name in ESTIMATORS}
    for key in np.unique(groups):
        rows, n = groups == key, int((kept & (groups == key)).sum())
        size = int(rows.sum())
        if n == 0:
            continue
        offset = (reward - m)[rows & kept].mean()
        shrink = 1.0 if n == size else (tau2 + sigma_r2 / size) / (tau2 + sigma_r2 / n)
        baselines["survivors"][key] = reward[rows & kept].mean()
        baselines["difference"][key] = m[rows].mean() + offset
        baselines["shrunk"][key] = m[rows].mean() + shrink * offset
    for name in ESTIMATORS:
        mean = np.array([baselines[name].get(key, 0.0) for key in groups])
        estimate = ((reward - mean) / (spread if std == "group" else 1.0))[kept]
        figures[f"snr2 {name}"] = (estimate * truth[kept]).sum() ** 2 / (estimate**2).sum() / (truth**2).sum()
        errors = np.array([(baselines[name][key] - reward[groups == key].mean()) / reward[groups == key].std()
                           for key in baselines[name]])
        figures[f"rmse {name}"], figures[f"shift {name}"] = np.sqrt((errors**2).mean()), errors.mean()
    return figures


def expected(table, choose, std):
    rows = []
    for batch in np.unique(table["batch"]):
        here = table["batch"] == batch
        reward, groups, rank = (table[name][here] for name in ("reward", "group", "rank"))
        m, tau2, sigma_r2 = predictions(table, batch)
        kept = choose(m, groups, rank, sigma_r2)
        rows.append(figures_of_batch(reward, groups, kept, m, tau2, sigma_r2, std))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def compare(found, wanted, tolerance=2e-3):
    assert found["kept_energy"] == pytest.approx(wanted["kept_energy"], abs=tolerance)
    for name in ESTIMATORS:
        assert found["snr2"][name] == pytest.approx(wanted[f"snr2 {name}"], abs=tolerance)
        assert found["baseline_rmse_sigma"][name] == pytest.approx(wanted[f"rmse {name}"], abs=tolerance)
        assert found["baseline_shift_sigma"][name] == pytest.approx(wanted[f"shift {name}"], abs=tolerance)


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module")
def csv(table, tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("tables") / "table.csv", table)


@pytest.mark.parametrize("std", ["global", "group"])
@pytest.mark.parametrize("policy", ["extremes", "topk"])
def test_figures_are_those_of_another_implementation(csv, table, policy, std):
    def choose(m, groups, rank, sigma_r2):
        weight = values_of(m, groups, sigma_r2, std) if policy == "extremes" else centred(m, groups)
        return best_of_each_rank(weight, rank, 2)

    found = answer("replay", csv, "--policy", policy, "--keep-per-rank", 2, "--ranks", 4, "--std", std)
    assert set(found) >= CONTRACT
    assert (found["policy"], found["std"], found["ranks"], found["keep_per_rank"]) == (policy, std, 4, 2)
    assert (found["rows"], found["groups"], found["batches"], found["min_group"]) == (144, 24, 6, 0)
    assert found["calibrated_on"] == "other batches"
    assert found["rho_within"]["value"] == pytest.approx(spearman_within(table), abs=1e-6)
    compare(found, expected(table, choose, std))
    assert found["snr2"]["inverse"] == pytest.approx(found["snr2"]["shrunk"], abs=1e-9)  # π is 1 for kept rows


def make_rough_table():
    """Groups of 1, 2, 3 and 10 rows, one without spread, rewards in halves, rows without a score."""
    table = make_table(seed=8, batches=5, groups=4, size=4, ranks=4)
    generator = np.random.default_rng(9)
    sizes = np.repeat(np.arange(4), (1, 2, 3, 10))
    for batch in range(5):
        rows = np.flatnonzero(table["batch"] == batch)
        table["group"][rows] = batch * 100 + sizes
        table["reward"][rows] = np.round(2 * generator.normal(size=16)) / 2
        table["reward"][rows[3:6]] = 1.0
        table["score"][rows] = table["reward"][rows] + 0.8 * generator.normal(size=16)
    return table


def quarters(reward, groups, kept):
    counts = np.zeros(4)
    for key in np.unique(groups):
        rows = groups == key
        if reward[rows].std() > 0:
            ordered, quarter = np.sort(reward[rows]), math.ceil(rows.sum() / 4)
            for place, good in enumerate((reward[rows] >= ordered[-quarter], reward[rows] <= ordered[quarter - 1])):
                counts[2 * place] += (good & kept[rows]).sum()
                counts[2 * place + 1] += good.sum()
    return counts[0] / counts[1], counts[2] / counts[3]


def test_rough_tables_have_the_figures_of_the_definitions(tmp_path):
    table = make_rough_table()
    csv = write_csv(tmp_path / "rough.csv", table)
    found = answer("replay", csv, "--policy", "topk", "--keep-per-rank", 2)
    energy, best, worst = [], [], []
    for batch in np.unique(table["batch"]):
        here = table["batch"] == batch
        reward, groups, rank = (table[name][here] for name in ("reward", "group", "rank"))
        m, _, _ = predictions(table, batch)
        kept = best_of_each_rank(centred(m, groups), rank, 2)
        truth = centred(reward, groups) ** 2
        energy.append(truth[kept].sum() / truth.sum())
        top, bottom = quarters(reward, groups, kept)
        best.append(top)
        worst.append(bottom)
    assert found["kept_energy"] == pytest.approx(np.mean(energy), abs=1e-5)
    assert found["kept_top_quarter"] == pytest.approx(np.mean(best), abs=1e-9)
    assert found["kept_bottom_quarter"] == pytest.approx(np.mean(worst), abs=1e-9)


def test_rows_without_a_score_are_kept(tmp_path, table):
    holes = dict(table, score=table["score"].copy())
    holes["score"][[np.flatnonzero(table["batch"] == b)[0] for b in range(6)]] = np.nan
    csv = write_csv(tmp_path / "holes.csv", holes)
    found = answer("replay", csv, "--policy", "topk", "--keep-per-rank", 1)
    assert found["rows_unscored"] == 6
    kept_energy = found["kept_energy"]
    assert 0 < kept_energy < 1 and found["keep_share"] == pytest.approx(1 / 6)


def inverse_snr2_by_trying(table, audit, keep, draws, seed):
    """Mean of snr2 `inverse`, audits drawn by numpy: w = 1/π, shrunk baseline with the same weights in its mean."""
    generator, found = np.random.default_rng(seed), []
    for batch in np.unique(table["batch"]):
        here = table["batch"] == batch
        reward, groups, rank = (table[name][here] for name in ("reward", "group", "rank"))
        m, tau2, sigma_r2 = predictions(table, batch)
        chosen = best_of_each_rank(values_of(m, groups, sigma_r2, "global"), rank, keep)
        size = len(reward) / len(np.unique(rank))
        inclusion = (1 - audit) * chosen + audit * keep / size
        truth = centred(reward, groups)
        for _ in range(draws):
            by_chance = best_of_each_rank(generator.random(len(reward)), rank, keep)
            kept = by_chance if generator.random() < audit else chosen
            mean = np.zeros(len(reward))
            for key in np.unique(groups):
                rows, weight = groups == key, kept / inclusion * (groups == key)
                if weight.sum() > 0:
                    n, total = kept[rows].sum(), rows.sum()
                    shrink = 1.0 if kept[rows].all() else (tau2 + sigma_r2 / total) / (tau2 + sigma_r2 / n)
                    mean[rows] = m[rows].mean() + shrink * (weight * (reward - m)).sum() / weight.sum()
            estimate = (kept / inclusion) * (reward - mean)
            found.append((estimate * truth).sum() ** 2 / (estimate**2).sum() / (truth**2).sum())
    return float(np.mean(found))


def test_inverse_weights_under_audits_are_those_of_the_definition(csv, table):
    found = answer("replay", csv, "--keep-per-rank", 2, "--audit", 0.4, "--repeat", 400, "--seed", 2)["snr2"]
    wanted = inverse_snr2_by_trying(table, 0.4, 2, 400, 4)
    assert found["inverse"] == pytest.approx(wanted, abs=0.015)
    assert abs(found["inverse"] - found["shrunk"]) > 0.03  # the weights count


def test_floors_are_kept_at_the_least_price(tmp_path):
    table = make_table(seed=3, batches=3, groups=3, size=4, ranks=3)
    csv = write_csv(tmp_path / "small.csv", table)

    def choose(m, groups, rank, sigma_r2):
        return best_set_by_trying_all(values_of(m, groups, sigma_r2, "group"), rank, groups, 2, 1)

    found = answer("replay", csv, "--keep-per-rank", 2, "--std", "group", "--min-group", 1)
    compare(found, expected(table, choose, "group"))


def test_chance_keeps_its_share(csv):
    found = answer("replay", csv, "--policy", "random", "--keep-per-rank", 2, "--repeat", 400, "--seed", 3)
    assert found["kept_energy"] == pytest.approx(2 / 6, abs=0.01)
    assert found["kept_top_quarter"] == pytest.approx(2 / 6, abs=0.01)
    for name in ("difference", "survivors"):  # the shrunk one leans to the prediction, which is off in each group
        assert found["baseline_shift_sigma"][name] == pytest.approx(0, abs=0.03)


def test_everything_kept_is_the_host(csv):
    found = answer("replay", csv, "--keep-per-rank", 6)
    assert found["kept_energy"] == pytest.approx(1, abs=1e-12)
    assert all(value == pytest.approx(1, abs=1e-6) for value in found["snr2"].values())
    assert all(value < 1e-6 for value in found["baseline_rmse_sigma"].values())


def test_one_batch_is_calibrated_on_itself(tmp_path, table):
    csv = write_csv(tmp_path / "one.csv", table, leave_out=("batch",))
    found = answer("replay", csv, "--keep-per-rank", 10)
    assert found["batches"] == 1 and found["calibrated_on"] == "itself"


def test_hdf5_is_the_same_as_csv(tmp_path, csv, table):
    hdf5 = write_hdf5(tmp_path / "table.h5", table)
    for policy in ("extremes", "neyman", "random"):
        arguments = ("--policy", policy, "--keep-per-rank", 2, "--seed", 5)
        one, other = answer("replay", csv, *arguments), answer("replay", hdf5, *arguments)
        assert one.pop("table") != other.pop("table")
        assert one == other


def test_rows_are_dealt_by_the_seed(tmp_path, table, csv):
    bare = write_csv(tmp_path / "bare.csv", table, leave_out=("rank",))
    assert "--ranks" in must(2, "replay", bare, "--keep-per-rank", 2).stderr
    arguments = ("--ranks", 4, "--keep-per-rank", 2, "--repeat", 200)
    dealt = answer("replay", bare, *arguments)
    again = answer("replay", csv, "--deal", *arguments)
    del dealt["table"], again["table"]
    assert dealt == again
    # the column was dealt by chance, too: one deal among many
    column = answer("replay", csv, "--keep-per-rank", 2)
    assert dealt["kept_energy"] == pytest.approx(column["kept_energy"], abs=0.06)
    first, second = (answer("replay", bare, "--ranks", 4, "--keep-per-rank", 2, "--seed", s) for s in (1, 2))
    assert first["kept_energy"] != second["kept_energy"]


def test_a_call_can_be_repeated(csv):
    arguments = ("replay", csv, "--policy", "neyman", "--keep-per-rank", 2, "--audit", 0.3, "--repeat", 7, "--seed", 9)
    assert answer(*arguments) == answer(*arguments)


def test_audits_dilute(csv):
    shares = [answer("replay", csv, "--keep-per-rank", 2, "--audit", e, "--repeat", 100)["kept_energy"]
              for e in (0, 0.5, 1)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] == pytest.approx(2 / 6, abs=0.02)


def test_lists_and_the_picture(tmp_path, csv):
    picture, page = tmp_path / "kept.svg", tmp_path / "kept.html"
    arguments = ("--policy", "all", "--keep-per-rank", "1,2,.5", "--std", "global,group")
    found = answer("replay", csv, *arguments, "--plot", picture)
    assert len(found["results"]) == 5 * 3 * 2
    for result in found["results"]:
        assert set(result) >= CONTRACT
        low, high = result["intervals"]["kept_energy"]
        assert low <= result["kept_energy"] <= high
        assert result["speed_up"]["value"] == pytest.approx(
            (result["snr2"] if result["std"] == "global" else result["snr2_host_sigma"])["shrunk"]
            / result["cost_ratio"])
    svg = "{http://www.w3.org/2000/svg}"
    root = xml.etree.ElementTree.parse(picture).getroot()
    assert root.tag == f"{svg}svg" and len(root.findall(f".//{svg}polyline")) == 5 * 2
    assert root.findall(f".//{svg}line[@class='guide']")
    must(0, "replay", csv, *arguments, "--plot", page, "--quiet")
    assert "<polyline" in page.read_text()
    assert "--plot" in must(2, "replay", csv, "--keep-per-rank", 1, "--plot", tmp_path / "kept.jpg").stderr


def test_costs_are_the_formula(csv):
    found = answer("replay", csv, "--keep-per-rank", 3, "--costs", "before=.25,signal=.02,after=.6")
    assert found["cost_ratio"] == pytest.approx(0.4 * (0.25 + 0.75 * 0.5 + 0.02) + 0.6 * 0.5, abs=1e-5)
    assert found["break_even"]["kept_energy"] == found["cost_ratio"]
    stepped = answer("replay", csv, "--keep-per-rank", 3, "--step", 5, "--steps-total", 20)
    assert stepped["costs"]["before"] == [0.25]


def test_two_decisions(tmp_path, table):
    both = dict(table)
    both["score2"] = (table["score"] + table["reward"]) / 2
    csv = write_csv(tmp_path / "two.csv", both)
    found = answer("replay", csv, "--keep-per-rank", "4:2", "--step", "4:8")
    assert found["keep_per_rank"] == [4, 2] and found["keep_share"] == pytest.approx(2 / 6)
    assert found["rho_by_decision"][0]["value"] < found["rho_by_decision"][1]["value"]
    late = answer("replay", csv, "--keep-per-rank", 2, "--step", "4:8")
    assert late["costs"]["before"] == [0.4] and late["rho_within"] == found["rho_by_decision"][1]
    assert found["cost_ratio"] < late["cost_ratio"] and found["kept_energy"] <= late["kept_energy"] + 0.02
    assert "--step" in must(2, "replay", csv, "--keep-per-rank", "4:2").stderr


def test_steps_belong_to_decisions_or_to_scores(tmp_path, table):
    three = dict(table, score2=table["score"] + table["reward"], score3=table["reward"])
    csv = write_csv(tmp_path / "three.csv", three)
    last_two = answer("replay", csv, "--keep-per-rank", "4:2", "--step", "5:8")
    assert last_two["costs"]["before"] == [0.25, 0.4]
    of_three = answer("replay", csv, "--keep-per-rank", "4:2", "--step", "3:5:8", "--costs", "signal=.1:.2:.3")
    assert of_three["costs"]["before"] == [0.25, 0.4] and of_three["costs"]["signal"] == [0.2, 0.3]
    assert "decisions" in must(2, "replay", csv, "--keep-per-rank", 2, "--step", "5:8").stderr


def test_options_that_can_not_count_are_refused(csv):
    assert "record" in must(2, "replay", csv, "--keep-per-rank", 2, "--at", 4).stderr
    assert "record" in must(2, "replay", csv, "--keep-per-rank", 2, "--score", "preview").stderr
    assert "--deal" in must(2, "replay", csv, "--keep-per-rank", 2, "--ranks", 5).stderr
    assert "--step" in must(2, "replay", csv, "--keep-per-rank", 2, "--steps-total", 30).stderr
    for keep in ("1.0", "2.0", "1e0", "3,1.0"):
        assert "shares" in must(2, "replay", csv, "--keep-per-rank", keep).stderr


def test_a_threshold_says_what_it_kept(csv):
    found = answer("replay", csv, "--policy", "threshold", "--threshold", "quantile:.5", "--keep-per-rank", 1)
    assert found["keep_per_rank"] == pytest.approx(6 * found["keep_share"]) and found["keep_per_rank"] > 2


def test_short_batches_are_counted(tmp_path, table):
    rows = (table["batch"] > 0) | (np.cumsum(table["batch"] == 0) <= 8)  # two rows a rank of the first batch at most
    short = {name: values[rows] for name, values in table.items()}
    short["rank"][:8] = np.repeat(np.arange(4), 2)
    csv = write_csv(tmp_path / "short.csv", short)
    assert answer("replay", csv, "--keep-per-rank", 2)["batches_short"] == 1
    assert answer("replay", csv, "--keep-per-rank", 1)["batches_short"] == 0
    assert "nothing of them is stopped" in must(0, "replay", csv, "--keep-per-rank", 2).stdout


def test_pairs_are_in_order_or_not(tmp_path):
    table = make_table(groups=12, size=2)
    rho = answer("replay", write_csv(tmp_path / "pairs.csv", table), "--keep-per-rank", 2)["rho_within"]
    right = {}
    for key in set(zip(table["batch"], table["group"])):
        rows = [i for i, k in enumerate(zip(table["batch"], table["group"])) if k == key]
        right[key] = np.sign((table["score"][rows[1]] - table["score"][rows[0]])
                             * (table["reward"][rows[1]] - table["reward"][rows[0]]))
    assert rho["value"] == pytest.approx(np.mean(list(right.values())), abs=1e-9)
    assert rho["ci95"][0] < rho["value"] < rho["ci95"][1] and "ci95_missing" not in rho


def test_one_group_has_no_interval(tmp_path):
    one = {name: values[:6] for name, values in make_table(groups=12, size=6).items() if name != "rank"}
    rho = answer("replay", write_csv(tmp_path / "one.csv", one), "--ranks", 1, "--keep-per-rank", 2)["rho_within"]
    assert rho["value"] is not None and rho["ci95"] == [None, None] and "one group" in rho["ci95_missing"]
    equal = dict(one, reward=np.zeros(6))
    csv = write_csv(tmp_path / "equal.csv", equal)
    assert answer("replay", csv, "--ranks", 1, "--keep-per-rank", 2)["rho_within"]["value"] is None
    assert "no Spearman" in must(0, "replay", csv, "--ranks", 1, "--keep-per-rank", 2).stdout


def test_a_level_that_all_rewards_share_is_no_matter(tmp_path, csv, table):
    lifted = write_csv(tmp_path / "lifted.csv", dict(table, reward=table["reward"] + 1e8))
    plain, found = (answer("replay", path, "--keep-per-rank", 2) for path in (csv, lifted))
    assert found["kept_energy"] == pytest.approx(plain["kept_energy"], abs=1e-6)
    for name in ESTIMATORS:
        assert found["snr2"][name] == pytest.approx(plain["snr2"][name], abs=1e-5)


BAD = {
    "no header": ("1,2,3\n", 1),
    "no reward": ("group,score\n1,2\n", 1),
    "text": ("group,score,reward\n1,2,3\n1,2,three\n", 3),
    "short": ("group,score,reward\n1,2\n", 2),
    "infinite": ("group,score,reward\n1,inf,3\n", 2),
    "empty": ("group,score,reward\n", 2),
    "huge": ("group,score,reward\n1,2,3\n1,2,-1e308\n", 3),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_with_the_place(tmp_path, name):
    text, line = BAD[name]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert f"{path}:{line}:" in must(3, "replay", path, "--ranks", 1, "--keep-per-rank", 1).stderr


def test_bad_files_are_refused(tmp_path, table):
    missing = dict(table)
    del missing["reward"]
    assert "reward" in must(3, "replay", write_hdf5(tmp_path / "a.h5", missing), "--keep-per-rank", 1).stderr
    short = dict(table, score=table["score"][:-1])
    assert "score" in must(3, "replay", write_hdf5(tmp_path / "b.h5", short), "--keep-per-rank", 1).stderr
    matrix = dict(table, score=np.zeros((144, 2)))
    assert "score" in must(3, "replay", write_hdf5(tmp_path / "c.h5", matrix), "--keep-per-rank", 1).stderr
    broken = tmp_path / "d.h5"
    broken.write_bytes(write_hdf5(tmp_path / "e.h5", table).read_bytes()[:700])
    must(3, "replay", broken, "--keep-per-rank", 1)
    must(3, "replay", tmp_path / "nowhere.csv", "--keep-per-rank", 1)
    must(3, "replay", tmp_path, "--keep-per-rank", 1)
    document = json.loads(must(3, "replay", tmp_path / "nowhere.csv", "--keep-per-rank", 1, "--json").stdout)
    assert document["error"]["exit_code"] == 3


def test_wrong_usage(csv):
    assert "--keep-per-rank" in must(2, "replay", csv).stderr
    assert "policy" in must(2, "replay", csv, "--keep-per-rank", 1, "--policy", "best").stderr
    must(2, "replay", csv, "--keep-per-rank", 7)
    must(2, "replay", csv, "--keep-per-rank", 2, "--costs", "later=1")
    must(2, "replay", csv, "--keep-per-rank", 2, "--std", "both")
    assert "--deal" in must(3, "replay", csv, "--keep-per-rank", 2, "--ranks", 3).stderr


def test_a_record(tmp_path):
    run = written_record.write_record(tmp_path / "run", updates=6, skill=0.8, seed=1)
    assert "shadow" in must(3, "replay", run, "--keep-per-rank", 12).stderr  # no predictions in this one
    found = answer("replay", run, "--score", "preview", "--keep-per-rank", 12)
    assert found["score"] == "preview" and found["batches_skipped"] == 1  # the first update lost rows
    assert found["costs"]["from"] == {"before": "record", "signal": "record", "reward": "record", "after": "default"}
    step = written_record.STEP
    assert found["costs"]["before"] == [pytest.approx((step + 1) / written_record.STEPS_TOTAL)]
    assert found["costs"]["signal"] == [pytest.approx(2.0)]  # as many seconds as denoising, and as many of our own
    assert "step" in must(2, "replay", run, "--score", "preview", "--at", 7, "--keep-per-rank", 12).stderr


def test_a_large_table_is_quick(tmp_path):
    csv = write_csv(tmp_path / "large.csv", make_table(batches=16, groups=12, size=24, ranks=32))
    begin = time.monotonic()
    found = answer("replay", csv, "--keep-per-rank", 3)
    print(f"4,608 rows: {time.monotonic() - begin:.2f} s")
    assert found["rows"] == 4608 and found["batches"] == 16


def test_one_group_a_batch_has_intervals_of_batches_or_none(tmp_path):
    many = write_csv(tmp_path / "many.csv", make_table(seed=3, batches=16, groups=1, size=12, ranks=2))
    found = answer("replay", many, "--ranks", "2", "--keep-per-rank", "2")
    low, high = found["intervals"]["kept_energy"]
    assert low < found["kept_energy"] < high and high - low > 0.02
    single = write_csv(tmp_path / "single.csv", make_table(seed=3, batches=1, groups=1, size=12, ranks=2))
    found = answer("replay", single, "--ranks", "2", "--keep-per-rank", "2")
    assert found["intervals"]["kept_energy"] == [None, None] and found["pays"] != "yes"
