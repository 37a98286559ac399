"""`grpo-accel simulate`: synthetic groups, where pruning pays, and the recipe against what was measured on FLUX."""

import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_command_line import answer, must  # noqa: E402

# FLUX.1-dev, ImageReward, measured on the public TTSnap matrices: 16 batches of 12 groups of 24 on 32 ranks x 9 rows.
# signal, std, kept of 9 → energy of extremes, baseline rmse (shrunk, difference, survivors), energy of topk, random
MEASURED = {
    ("plain", "global", 2): (0.45, (0.63, 0.81, 0.82), 0.22, 0.22),
    ("plain", "global", 3): (0.56, (0.44, 0.50, 0.51), 0.28, 0.35),
    ("plain", "global", 5): (0.74, (0.22, 0.23, 0.23), 0.41, 0.56),
    ("plain", "group", 2): (0.39, (0.58, 0.71, 0.61), 0.20, 0.23),
    ("plain", "group", 3): (0.50, (0.44, 0.49, 0.42), 0.26, 0.35),
    ("plain", "group", 5): (0.69, (0.18, 0.20, 0.18), 0.41, 0.57),
    ("after 6", "global", 2): (0.59, (0.25, 0.60, 0.96), 0.28, 0.22),
    ("after 6", "global", 3): (0.71, (0.20, 0.38, 0.66), 0.34, 0.35),
    ("after 6", "global", 5): (0.85, (0.20, 0.38, 0.29), 0.41, 0.56),
    ("after 6", "group", 2): (0.49, (0.27, 0.58, 0.90), 0.23, 0.23),
    ("after 6", "group", 3): (0.61, (0.21, 0.44, 0.56), 0.30, 0.35),
    ("after 6", "group", 5): (0.77, (0.13, 0.21, 0.18), 0.41, 0.57),
    ("after 8", "global", 2): (0.65, (0.22, 0.44, 1.15), 0.30, 0.22),
    ("after 8", "global", 3): (0.76, (0.17, 0.32, 0.70), 0.35, 0.35),
    ("after 8", "global", 5): (0.89, (0.16, 0.40, 0.35), 0.41, 0.56),
    ("after 8", "group", 2): (0.54, (0.25, 0.52, 0.99), 0.25, 0.23),
    ("after 8", "group", 3): (0.66, (0.19, 0.44, 0.69), 0.31, 0.35),
    ("after 8", "group", 5): (0.82, (0.10, 0.16, 0.19), 0.40, 0.57),
}
RHO = {"plain": 0.49, "after 6": 0.70, "after 8": 0.79}


def signal_of(result):
    return "plain" if result["signal"].startswith("plain") else result["signal"][-7:]


@pytest.fixture(scope="module")
def recipe():
    found = answer("simulate", "--recipe", "flux-imagereward")
    return {(signal_of(r), r["std"], r["keep_per_rank"], r["policy"]): r for r in found["results"]}


def test_the_recipe_has_the_energies_that_were_measured(recipe):
    assert len(recipe) == len(MEASURED) * 3
    for (signal, std, keep), (extremes, _, topk, random) in MEASURED.items():
        for policy, energy in (("extremes", extremes), ("topk", topk), ("random", random)):
            found = recipe[signal, std, keep, policy]
            assert found["kept_energy"] == pytest.approx(energy, abs=0.04), (signal, std, keep, policy)
            assert found["rho_within"]["value"] == pytest.approx(RHO[signal], abs=0.015)


def test_the_recipe_has_the_baseline_errors_that_were_measured(recipe):
    for (signal, std, keep), (_, errors, _, _) in MEASURED.items():
        found = recipe[signal, std, keep, "extremes"]["baseline_rmse_sigma"]
        for name, error in zip(("shrunk", "difference", "survivors"), errors):
            assert found[name] == pytest.approx(error, abs=0.1), (signal, std, keep, name)


def test_the_energies_are_no_lucky_draw():
    """Errors of baselines have heavy tails and belong to a draw; energies hold in the mean over worlds."""
    found = answer("simulate", "--recipe", "flux-imagereward", "--repeat", 8, "--seed", 1000)
    for r in found["results"]:
        extremes, _, topk, random = MEASURED[signal_of(r), r["std"], r["keep_per_rank"]]
        measured = {"extremes": extremes, "topk": topk, "random": random}[r["policy"]]
        assert r["kept_energy"] == pytest.approx(measured, abs=0.05), (r["signal"], r["std"], r["keep_per_rank"])
        assert r["rho_within"]["value"] == pytest.approx(RHO[signal_of(r)], abs=0.02)


def test_a_sweep_says_where_pruning_pays(tmp_path):
    picture = tmp_path / "pays.svg"
    found = answer("simulate", "--rho", "0.05,.8", "--keep", ".2,.5", "--policy", "extremes,random", "--repeat", 2,
                   "--costs", "after=.2", "--plot", picture)
    results = {(r["rho_asked"][0], r["policy"], r["keep_per_rank"]): r for r in found["results"]}
    assert {key[2] for key in results} == {2, 5}  # of 9 rows
    assert all(r["pays"] == "no" for (rho, policy, _), r in results.items() if policy == "random" or rho == 0.05)
    assert all(r["pays"] == "yes" for (rho, policy, _), r in results.items() if policy == "extremes" and rho == 0.8)
    for (rho, _, _), r in results.items():
        assert r["rho_within"]["value"] == pytest.approx(rho, abs=0.03)
        assert r["cost_ratio"] < 1
    best = found["best"]["global"]["one_decision"][0]
    assert best["speed_up"]["value"] == max(r["speed_up"]["value"] for r in found["results"])
    svg = "{http://www.w3.org/2000/svg}"
    assert len(xml.etree.ElementTree.parse(picture).getroot().findall(f".//{svg}polyline")) == 4


def test_two_decisions_beat_one():
    """A signal that grows with the steps, as those of real models do: an early cut, then a surer one."""
    found = answer("simulate", "--steps", "4,6,8", "--rho", ".5,.7,.79", "--policy", "extremes", "--keep", "1,2,3,4,5",
                   "--sd-spread", ".46", "--racing", "--repeat", 4, "--costs", "after=.5")
    one, two = (found["best"]["global"][name][0]["speed_up"]["value"] for name in ("one_decision", "two_decisions"))
    assert two > 1.01 * one
    pairs = [r for r in found["results"] if isinstance(r["keep_per_rank"], list)]
    assert len(pairs) == 3 * 10 and all(r["keep_per_rank"][0] > r["keep_per_rank"][1] for r in pairs)


def test_shapes():
    found = answer("simulate", "--shape", "gaussian,skewed,binary", "--rho", ".6", "--keep", "3",
                   "--policy", "topk,extremes")
    energy = {(r["shape"], r["policy"]): r["kept_energy"] for r in found["results"]}
    assert len(energy) == 6
    # rewards with a tail to the left: what teaches is at the bottom, where topk does not look
    assert energy["skewed", "topk"] < energy["gaussian", "topk"] - 0.02
    assert all(energy[shape, "extremes"] > energy[shape, "topk"] for shape in ("gaussian", "skewed", "binary"))


def test_a_call_can_be_repeated():
    arguments = ("simulate", "--rho", ".5", "--keep", "2", "--repeat", 1)
    assert answer(*arguments, "--seed", 4) == answer(*arguments, "--seed", 4)
    assert answer(*arguments, "--seed", 4) != answer(*arguments, "--seed", 5)


def test_people_get_a_table():
    text = must(0, "simulate", "--rho", ".5", "--keep", "2", "--repeat", 1).stdout
    assert "extremes" in text and "best with std global" in text
    assert must(0, "simulate", "--rho", ".5", "--keep", "2", "--repeat", 1, "--quiet").stdout == ""
    assert "--recipe flux-imagereward" in must(0, "simulate", "--help").stdout


@pytest.mark.parametrize("arguments", [
    ("--recipe", "nowhere"), ("--rho", "2"), ("--rho", ".1,.2", "--steps", "1,2,3"), ("--keep", "10"),
    ("--shape", "round"),
    ("--keep", "5:2"), ("--ranks", "1000"), ("--steps", "30"), ("--policy", "best"),
])
def test_wrong_usage(arguments):
    must(2, "simulate", *arguments)
