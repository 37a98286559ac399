"""What the host's tracker is given back: once or several times an update, for kinds that can be pruned and others."""

import sys
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import attached  # noqa: E402
import numpy as np  # noqa: E402
import rollouts  # noqa: E402
import torch  # noqa: E402
from rollouts import PROMPTS, encode, sample  # noqa: E402

grpo_accel = pytest.importorskip("grpo_accel")
ROWS = len(PROMPTS)
STEP = 2
DECISION = f"{{step: {STEP}, keep: 0.5, policy: random, audit: 0.0}}"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return rollouts.make_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def attach(tmp_path, monkeypatch):
    """attach(section=…, …) → the attachment, with flow_grpo imported anew behind it."""
    for name in ("OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    opened = []

    def make(**sections):
        sections = {"mode": "prune", "decision": DECISION, "probe": "{inputs: [x0]}", **sections}
        config = attached.write_config(tmp_path / "accel.yaml", run_dir=str(tmp_path / "run"), **sections)
        rollouts.forget_host()
        opened.append(grpo_accel.attach(str(config)))
        return opened[-1]

    yield make
    for attachment in opened:
        attachment.detach()
    rollouts.forget_host()


def brightness(device):
    """A second scorer, with a mind of its own."""
    return lambda images, prompts, metadata: (np.asarray(images.float().mean(dim=(1, 2, 3)).cpu(), dtype=np.float64), {})


class Host:
    """Samples, scores by two scorers that disagree, and hands everything to trackers as flow-grpo does."""

    def __init__(self, pipeline):
        import flow_grpo.rewards
        from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob
        from flow_grpo.stat_tracking import PerPromptStatTracker

        self.pipeline, self.embeds = pipeline, encode(pipeline)
        self.sample, self.tracker = pipeline_with_logprob, PerPromptStatTracker
        flow_grpo.rewards.SCORERS["brightness"] = brightness
        self.score = flow_grpo.rewards.multi_score("cpu", {"jpeg_compressibility": 1.0, "brightness": 0.3})

    def roll(self):
        """Rewards of one batch by scorer."""
        images = sample(self.sample, self.pipeline, self.embeds, 1.0)[0]
        rewards, _ = self.score(images, PROMPTS, [{}] * ROWS)
        return {name: np.asarray(values, dtype=np.float64) for name, values in rewards.items()}

    def update(self, rewards):
        return self.tracker(True).update(PROMPTS, rewards[:, None])[:, 0]

    def own(self, rewards):
        """What the host computes without us."""
        return self.tracker.update.__wrapped__(self.tracker(True), PROMPTS, rewards[:, None])[:, 0]


def kept_of(attachment):
    (rollout,) = attachment.open_rollouts
    kept = np.zeros(ROWS, dtype=bool)
    kept[rollout.kept()] = True
    return kept


def survivors(rewards, kept):
    """Distance from the mean of the group's kept rows, over one standard deviation of the kept."""
    groups = np.array([PROMPTS.index(prompt) for prompt in PROMPTS])
    means = np.array([rewards[kept & (groups == group)].mean() for group in groups])
    distance = np.where(kept, rewards - means, 0.0)
    centre = (means[kept]).mean()
    return distance / (np.sqrt(((rewards[kept] - centre) ** 2).mean()) + 1e-4)


def test_a_tracker_a_scorer(pipeline, attach, capfd):
    """Without a probe the mean is the survivors': the same for the call that ends the update and all others."""
    attachment = attach(advantage="{estimator: survivors}")
    host = Host(pipeline)
    rewards = host.roll()
    names = [name for name in rewards if name != "avg"]
    assert len(names) == 2
    for name in (*names, "avg"):  # everything is kept: the host's own
        assert (host.update(rewards[name]) == host.own(rewards[name])).all()
    rewards = host.roll()
    kept = kept_of(attachment)
    assert kept.sum() == ROWS // 2
    for name, factor in ((names[0], 1.0), (names[1], 1.0), ("avg", 1.0), ("avg", 0.25)):
        advantages = host.update(factor * rewards[name])
        expected = survivors(factor * rewards[name], kept)
        assert (advantages[~kept] == 0).all(), name
        assert np.allclose(advantages, expected, atol=1e-6), name
    assert attachment.open_rollouts == []
    lines = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1 and names[0] in lines[0], lines


def test_calls_about_other_rows_pass(pipeline, attach):
    attachment = attach()
    host = Host(pipeline)
    for _ in range(2):
        rewards = host.roll()
        stopped = ~kept_of(attachment)
        host.update(rewards["avg"])
    assert stopped.any()
    others = PROMPTS[:6]
    ours = host.tracker(True).update(others, rewards["avg"][:6, None])
    theirs = host.tracker.update.__wrapped__(host.tracker(True), others, rewards["avg"][:6, None])
    assert (ours == theirs).all()


def test_strange_rewards_keep_the_hosts_advantages_and_our_zeros(pipeline, attach, capfd):
    """The first call, and a later one, with rewards that no scorer gave."""
    attachment = attach()
    host = Host(pipeline)
    host.update(host.roll()["avg"])
    for first in (True, False):
        rewards = host.roll()
        kept = kept_of(attachment)
        strange = np.linspace(3, 5, ROWS) ** 2
        if not first:
            host.update(rewards["avg"])
        assert (host.update(strange) == np.where(kept, host.own(strange), 0.0)).all()
    assert "no scorer that was seen" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["rwr", "sft", "dpo"])
def test_other_kinds_are_refused_by_name(pipeline, attach, kind, capfd):
    """Nothing is pruned, and the host gets what it computes itself."""
    from grpo_accel.rewards import wrap_tracker_update

    attachment = attach()
    host = Host(pipeline)
    update = wrap_tracker_update(attachment, lambda tracker, prompts, rewards, type: rewards * len(type))
    for _ in range(3):
        rewards = host.roll()["avg"][:, None]
        assert kept_of(attachment).all()
        assert (update(host.tracker(True), PROMPTS, rewards, type=kind) == 3 * rewards).all()
    lines = [line for line in capfd.readouterr().err.splitlines() if f"'{kind}'" in line]
    assert len(lines) == 1, lines


def test_steps_before_the_decision_are_true_for_stopped_rows(pipeline, attach):
    """States and log-probabilities that prefix credit teaches by are those of a run without us, bit for bit."""
    attachment = attach(probe="{inputs: [attention, x0]}")
    host = Host(pipeline)
    host.update(host.roll()["avg"])
    _, states, log_probs = sample(host.sample.__wrapped__, pipeline, host.embeds, 1.0)[:3]
    _, our_states, our_log_probs = sample(host.sample, pipeline, host.embeds, 1.0)[:3]
    stopped = np.flatnonzero(~kept_of(attachment)).tolist()
    assert len(stopped) == ROWS // 2
    for step in range(STEP + 1):
        assert (our_states[step][stopped] == states[step][stopped]).all(), step
    for step in range(STEP):
        assert (our_log_probs[step][stopped] == log_probs[step][stopped]).all(), step
    assert (our_states[STEP + 1][stopped] != states[STEP + 1][stopped]).any(), "the decision's own step is not theirs"


def test_an_update_that_nobody_followed_is_the_hosts_own(pipeline, attach):
    """Once everything passes through, an update with the last one's prompts is not taken for a further call of it."""
    attachment = attach()
    host = Host(pipeline)
    host.update(host.roll()["avg"])
    rewards = host.roll()["avg"]
    assert not kept_of(attachment).all()
    host.update(rewards)
    attachment._give_up("a test says so")
    rewards = host.roll()["avg"]
    assert attachment.open_rollouts == []
    assert (host.update(rewards) == host.own(rewards)).all()


def test_a_session_that_passes_through_leaves_new_updates_alone(pipeline, attach, monkeypatch):
    attachment = attach()
    host = Host(pipeline)
    host.update(host.roll()["avg"])
    rewards = host.roll()["avg"]
    stopped = ~kept_of(attachment)
    assert stopped.any() and (host.update(rewards)[stopped] == 0).all()
    monkeypatch.setattr(attachment, "is_active", lambda: False)
    rewards = host.roll()["avg"]
    assert (host.update(rewards) == host.own(rewards)).all()


def test_an_update_ends_whatever_fails(pipeline, attach, monkeypatch, capfd):
    """Our part of the tracker fails before the session hears of it: batches end, and the next update is as ever."""
    from grpo_accel import rewards as ours

    attachment = attach()
    host = Host(pipeline)
    host.update(host.roll()["avg"])
    with monkeypatch.context() as patched:
        def fail(*_):
            raise RuntimeError("a test says so")

        patched.setattr(ours, "_is_prunable", fail)
        rewards = host.roll()["avg"]
        kept = kept_of(attachment)
        assert (host.update(rewards) == np.where(kept, host.own(rewards), 0.0)).all()
    assert attachment.session.info().updates == 2
    assert "a test says so" in capfd.readouterr().err
    rewards = host.roll()["avg"]
    kept = kept_of(attachment)
    assert kept.sum() == ROWS // 2
    advantages = host.update(rewards)
    assert (advantages[~kept] == 0).all() and (advantages != host.own(rewards)).any()
