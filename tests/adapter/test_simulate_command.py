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
# The same in the mean over 40 other draws of 192 of the 200 prompts and 24 of their 200 images, of the same matrices.
REDRAWN = {
    ("plain", "global", 2): (0.464, (0.658, 0.827, 0.725), 0.235, 0.220),
    ("plain", "global", 3): (0.578, (0.479, 0.555, 0.485), 0.297, 0.334),
    ("plain", "global", 5): (0.749, (0.233, 0.249, 0.226), 0.418, 0.556),
    ("plain", "group", 2): (0.371, (0.620, 0.763, 0.641), 0.193, 0.222),
    ("plain", "group", 3): (0.493, (0.463, 0.538, 0.443), 0.268, 0.332),
    ("plain", "group", 5): (0.691, (0.269, 0.299, 0.257), 0.426, 0.557),
    ("after 6", "global", 2): (0.595, (0.276, 0.651, 0.980), 0.293, 0.220),
    ("after 6", "global", 3): (0.708, (0.254, 0.538, 0.721), 0.346, 0.334),
    ("after 6", "global", 5): (0.849, (0.199, 0.277, 0.342), 0.422, 0.556),
    ("after 6", "group", 2): (0.484, (0.282, 0.550, 0.917), 0.221, 0.222),
    ("after 6", "group", 3): (0.602, (0.214, 0.381, 0.650), 0.291, 0.332),
    ("after 6", "group", 5): (0.772, (0.137, 0.199, 0.320), 0.415, 0.557),
    ("after 8", "global", 2): (0.639, (0.231, 0.552, 1.079), 0.306, 0.220),
    ("after 8", "global", 3): (0.752, (0.210, 0.444, 0.802), 0.354, 0.334),
    ("after 8", "global", 5): (0.881, (0.170, 0.247, 0.375), 0.417, 0.556),
    ("after 8", "group", 2): (0.529, (0.232, 0.423, 1.001), 0.232, 0.222),
    ("after 8", "group", 3): (0.652, (0.176, 0.287, 0.690), 0.297, 0.332),
    ("after 8", "group", 5): (0.814, (0.116, 0.165, 0.317), 0.406, 0.557),
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


def test_the_mean_of_worlds_is_that_of_redrawn_matrices():
    """What a draw has of luck is not in it: every figure, the errors with their heavy tails included."""
    found = answer("simulate", "--recipe", "flux-imagereward", "--repeat", 32, "--seed", 1000)
    assert len(found["results"]) == len(REDRAWN) * 3
    for r in found["results"]:
        extremes, errors, topk, random = REDRAWN[signal_of(r), r["std"], r["keep_per_rank"]]
        expected = {"extremes": extremes, "topk": topk, "random": random}[r["policy"]]
        where = r["signal"], r["std"], r["keep_per_rank"], r["policy"]
        assert r["kept_energy"] == pytest.approx(expected, abs=0.04), where
        assert r["rho_within"]["value"] == pytest.approx(RHO[signal_of(r)], abs=0.02), where
        if r["policy"] == "extremes":
            assert list(r["baseline_rmse_sigma"].values()) == pytest.approx(errors, abs=0.1), where


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


def test_one_and_two_decisions_are_compared_on_the_same_worlds():
    asked = ("simulate", "--steps", "4,6,8", "--rho", ".5,.7,.79", "--policy", "extremes", "--keep", "2,4", "--repeat", 1)
    alone, raced = answer(*asked), answer(*asked, "--racing")
    assert [r for r in raced["results"] if not isinstance(r["keep_per_rank"], list)] == alone["results"]
    # the first look of a race is that of the one decision: its correlation comes from the same scores
    rho = {r["costs"]["before"][0]: r["rho_within"] for r in alone["results"]}
    for r in raced["results"]:
        if isinstance(r["keep_per_rank"], list):
            assert r["rho_by_decision"] == [rho[before] for before in r["costs"]["before"]]


def test_more_rhos_leave_rewards_alone():
    """Random pruning sees rewards only: what it keeps does not depend on who else is asked about."""
    asked = ("simulate", "--policy", "random", "--keep", "2", "--repeat", 1)
    one = answer(*asked, "--rho", ".5")["results"][0]
    three = answer(*asked, "--rho", ".2,.5,.7")["results"]
    assert {r["kept_energy"] for r in three} == {one["kept_energy"]}


def costs_of(*arguments):
    found = answer("simulate", "--policy", "extremes", "--keep", "2", "--std", "global", *arguments)
    return [(r["costs"]["before"], r["costs"]["signal"], r["costs"]["from"]["before"]) for r in found["results"]]


def test_costs_count_whatever_else_is_given():
    recipe = ("--recipe", "flux-imagereward")
    assert costs_of(*recipe) == [([0.3], [0.01], "recipe"), ([0.3], [0.01], "recipe"), ([0.4], [0.01], "recipe")]
    assert costs_of(*recipe, "--costs", "before=.2,signal=.05") == [([0.2], [0.05], "given")] * 3
    # the recipe decides after 6 and after 8 steps: two shares
    assert [c[0] for c in costs_of(*recipe, "--costs", "before=.15:.25")] == [[0.15], [0.15], [0.25]]
    assert [c[1] for c in costs_of(*recipe, "--costs", "signal=.02:.03")] == [[0.02], [0.02], [0.03]]
    assert [c[0] for c in costs_of(*recipe, "--step", "4")] == [[0.2]] * 3
    assert [c[0] for c in costs_of("--rho", ".3,.5", "--costs", "before=.2:.4")] == [[0.2], [0.4]]
    assert [c[1] for c in costs_of("--rho", ".3,.5", "--steps", "4,6", "--costs", "signal=0:.02")] == [[0], [0.02]]


def test_a_recipe_races_on_one_world():
    found = answer("simulate", "--recipe", "flux-imagereward", "--racing", "--policy", "extremes", "--repeat", 2)
    pairs = [r for r in found["results"] if isinstance(r["keep_per_rank"], list)]
    assert len(pairs) == 2 * 3 * 2  # signals after 6 then after 8 steps; 5:3, 5:2, 3:2; both standard deviations
    assert len({r["seed"] for r in found["results"]}) == 1
    assert found["best"]["global"]["two_decisions"]


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
    ("--recipe", "flux-imagereward", "--costs", "before=.1:.2:.3"), ("--rho", ".3,.5,.7", "--costs", "signal=.1:.2"),
    ("--steps", "4,6", "--rho", ".3,.5", "--costs", "before=.2"),
    ("--steps", "4", "--step", "6"),
])
def test_wrong_usage(arguments):
    must(2, "simulate", *arguments)
