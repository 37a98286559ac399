"""A batch that stops to look at several steps, or at none: signals of the rows that still run, and what they cost."""

import sys
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np  # noqa: E402
import torch  # noqa: E402
import watched_session  # noqa: E402
from rollouts import PROMPTS, STEPS, encode, meet_the_tracker, sample  # noqa: E402
from watched_rollouts import (  # noqa: E402
    ROWS, apart, attach, guide, host, jpeg, look_ahead, one_thread, pipeline, undisturbed,
)

from grpo_accel.taps_sd3 import StableDiffusion3  # noqa: E402

__all__ = ["attach", "one_thread", "pipeline"]  # fixtures
LOOKS = (2, 4)
FIRST, LAST = [0, 3, 4, 7, 8, 11], [3, 8, 11]
UNTRAINED = [name for name in watched_session.INPUTS if name != "distilled"]
SIGNAL_PHASES = (1, 3, 4, 6)


def conditional(values, rows):
    """These rows of a call's last ROWS rows, which carry the prompt."""
    return values[-ROWS:][rows]


def of_rows(kwargs, output, rows, guidance):
    """A call of the whole batch, as a call of these rows alone."""
    copies = 1 if guidance == 1.0 else 2
    index = [copy * ROWS + row for copy in range(copies) for row in rows]
    return {name: kwargs[name][index] for name in StableDiffusion3.ROWS}, output[index]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_second_look_sees_the_rows_that_still_run(pipeline, attach, guidance):
    """All signals from the compact call, against the same rows of the host's undisturbed whole batch."""
    _, session = attach(UNTRAINED, steps=LOOKS, kept=[FIRST, LAST], finals=1, lookahead_steps=1)
    plain, (kwargs, output), blocks = undisturbed(pipeline, guidance, step=LOOKS[1])
    images, latents, _ = sample(host()[0], pipeline, encode(pipeline), guidance)
    (batch,) = session.batches
    first, second = batch.looks
    assert torch.equal(first.latent[0], plain[1][LOOKS[0]]) and first.latent[2] > second.latent[2]
    state, velocity, sigma = second.latent
    assert sigma == float(pipeline.scheduler.sigmas[LOOKS[1]])
    assert torch.allclose(state, plain[1][LOOKS[1]][FIRST], atol=1e-5)
    assert torch.allclose(velocity, guide(output, guidance)[FIRST], atol=1e-4)
    assert torch.equal(second.vectors["prompt"], conditional(kwargs["pooled_projections"], FIRST))
    hidden = conditional(blocks[len(blocks) // 2], FIRST)
    assert torch.allclose(second.vectors["hidden"][:, : hidden.shape[2]], hidden.mean(1), atol=1e-4)
    assert [entry[0] for entry in second.attention] == [0, 1]
    assert (second.attention[0][4] == first.attention[0][4][FIRST]).all(), "content tokens of the same prompts"
    if guidance != 1.0:
        assert torch.allclose(second.guidance[0], conditional(output, FIRST), atol=1e-4)
    x0 = state - sigma * velocity
    assert np.allclose(second.scores["preview"][:, 0], 2.0 * jpeg(pipeline, x0))
    call, said = of_rows(kwargs, output, FIRST, guidance)
    end = look_ahead(pipeline, call, said, guidance, True, 1, step=LOOKS[1])
    assert np.allclose(second.scores["lookahead"][:, 0], 2.0 * jpeg(pipeline, end), rtol=1e-2)
    assert torch.equal(second.state_seen, state)
    assert batch.final_seen[0] == LAST and torch.allclose(batch.final_seen[1], plain[1][-1][LAST], atol=1e-4)
    assert all(torch.isfinite(each).all() for each in latents)
    stopped = [row for row in range(ROWS) if row not in LAST]
    assert (images[stopped] - 0.5).abs().max() < 1e-6 and torch.allclose(images[LAST], plain[0][LAST], atol=1e-4)


def test_attention_of_the_second_look_is_that_of_the_whole_batch(pipeline, attach):
    """Queries and keys of a tapped block, recomputed from what the host gave the block in its undisturbed call."""
    _, session = attach(["attention"], steps=LOOKS, kept=[FIRST, LAST])
    caught = []
    block = StableDiffusion3().blocks(pipeline.transformer)[0][1]
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(
            StableDiffusion3().query_and_keys(module, kwargs, slice(ROWS, 2 * ROWS), None)),
        with_kwargs=True,
    )
    sample(host()[0].__wrapped__, pipeline, encode(pipeline), 2.5)
    handle.remove()
    sample(host()[0], pipeline, encode(pipeline), 2.5)
    for look, step, rows in zip(session.batches[0].looks, LOOKS, (list(range(ROWS)), FIRST)):
        for ours, theirs in zip(look.attention[0][1:4], caught[step]):
            assert torch.allclose(ours, theirs[rows], atol=1e-4)


def test_the_denoiser_runs_only_the_rows_that_still_run(pipeline, attach):
    _, session = attach(["x0"], steps=LOOKS, kept=[FIRST, LAST])
    seen, kwargs_seen = [], []

    def count(module, args, kwargs):
        seen.append(len(kwargs["hidden_states"]))
        kwargs_seen.append(kwargs)

    handle = pipeline.transformer.register_forward_pre_hook(count, with_kwargs=True)
    latents = sample(host()[0], pipeline, encode(pipeline), 2.5)[1]
    handle.remove()
    first, last = len(FIRST), len(LAST)
    assert seen == [2 * rows for rows in (ROWS, ROWS, ROWS, first, first, last)]
    for step in (3, 4):  # the steps before the second decision has its effect
        assert torch.equal(kwargs_seen[step]["hidden_states"][first:], latents[step][FIRST])
    assert torch.equal(kwargs_seen[5]["hidden_states"][last:], latents[5][LAST])
    assert session.batches[0].decided == 2


def test_stopped_rows_get_the_denoisers_input_back(pipeline, attach):
    """From the decision's own step on: the host's Euler steps of such a row then are x ← x · (1 + σ' − σ)."""
    attachment, _ = attach(["x0"], steps=LOOKS, kept=[FIRST, LAST])
    host()
    latents = sample(attachment.wrap_pipeline(apart), pipeline, encode(pipeline), 2.5)[1]
    sigmas = pipeline.scheduler.sigmas
    at_once = [row for row in range(ROWS) if row not in FIRST]
    later = [row for row in FIRST if row not in LAST]
    for rows, since in ((at_once, LOOKS[0]), (later, LOOKS[1])):
        for step in range(since, STEPS):
            expected = latents[step][rows] * (1 + sigmas[step + 1] - sigmas[step])
            assert torch.allclose(latents[step + 1][rows], expected, atol=1e-5), (step, rows)


def test_two_looks_at_a_host_that_asks_twice_a_step(pipeline, attach):
    attachment, session = attach(UNTRAINED, steps=LOOKS, kept=[FIRST, LAST], finals=1)
    embeds = encode(pipeline)
    host()
    plain = sample(apart, pipeline, embeds, 2.5)
    ours = sample(attachment.wrap_pipeline(apart), pipeline, embeds, 2.5)
    (batch,) = session.batches
    for step, (seen, wanted) in enumerate(zip(ours[1], plain[1])):
        assert torch.allclose(seen[LAST], wanted[LAST], atol=1e-5) and torch.isfinite(seen).all(), step
    second = batch.looks[1]
    assert len(second.attention) == 2, "only the call with the prompt is tapped"
    there, away = second.guidance
    sigma = float(pipeline.scheduler.sigmas[LOOKS[1]])
    following = float(pipeline.scheduler.sigmas[LOOKS[1] + 1])
    after = plain[1][LOOKS[1]][FIRST] + (following - sigma) * (away + 2.5 * (there - away))
    assert torch.allclose(plain[1][LOOKS[1] + 1][FIRST], after, atol=1e-4)
    assert batch.final_seen[0] == LAST


def test_seconds_are_reported_before_the_decision_that_they_are_for(pipeline, attach):
    _, session = attach(UNTRAINED, steps=LOOKS, kept=[FIRST, LAST])
    sample(host()[0], pipeline, encode(pipeline), 1.0)
    (batch,) = session.batches
    first, second = batch.looks
    for phase in SIGNAL_PHASES:
        assert 0 < first.phases[phase] < second.phases[phase] == batch.phases[phase]
    assert 0 not in second.phases and batch.phases[0] > 0
    assert batch.phases[1] == pytest.approx(batch.phases[3] + batch.phases[4] + batch.phases[5])


def test_candidates_watched_in_shadow_change_nothing(pipeline, attach, capfd):
    attachment, session = attach(watched_session.INPUTS, steps=(1, 2, 4), finals=1, mode=1, distilled_seconds=1.0)
    function, _ = host()
    embeds = encode(pipeline)
    plain = sample(function.__wrapped__, pipeline, embeds, 2.5)
    streams = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    scheduler = pipeline.scheduler._step_index, pipeline.scheduler.timesteps.tolist()
    for update in range(2):
        result = sample(function, pipeline, embeds, 2.5)
        assert torch.equal(torch.random.get_rng_state(), streams[0])
        assert np.random.get_state()[1].tolist() == streams[1]
        assert (pipeline.scheduler._step_index, pipeline.scheduler.timesteps.tolist()) == scheduler
        assert torch.equal(result[0], plain[0])
        assert all(torch.equal(a, b) for a, b in zip(result[1] + result[2], plain[1] + plain[2]))
        looks = session.batches[-1].looks
        assert [look.latent[2] for look in looks] == [float(pipeline.scheduler.sigmas[step]) for step in (1, 2, 4)]
        assert all(set(look.scores) == {"preview", "lookahead", "distilled"} for look in looks)
        assert attachment.distilled.speaks() == (update == 1)
        meet_the_tracker()
    assert "warning" not in capfd.readouterr().err
    for module in pipeline.transformer.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_batch_that_rests_is_not_touched(pipeline, attach, capfd):
    attachment, session = attach(watched_session.INPUTS, steps=(), finals=2)
    function, score = host()
    embeds = encode(pipeline)
    plain = sample(function.__wrapped__, pipeline, embeds, 2.5)
    calls = []

    def seen(module, args, kwargs):
        calls.append(len(kwargs["hidden_states"]))
        parts = [part for part in module.modules() if part is not module]
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)

    handle = pipeline.transformer.register_forward_pre_hook(seen, with_kwargs=True)
    result = sample(function, pipeline, embeds, 2.5)
    handle.remove()
    assert torch.equal(result[0], plain[0]) and all(torch.equal(a, b) for a, b in zip(result[1], plain[1]))
    (batch,) = session.batches
    assert calls == [2 * ROWS] * STEPS and batch.decided == 0
    look = batch.looks[0]
    assert look.latent is None and not (look.attention or look.vectors or look.scores)
    assert batch.phases[0] > 0 and all(batch.phases[phase] == 0 for phase in SIGNAL_PHASES)
    assert batch.final_seen[0] == list(range(ROWS)), "ends are free of cost, and were asked for"
    rewards, _ = score(result[0], PROMPTS, [{}] * ROWS)
    assert list(batch.rewards["avg"].values()) == list(rewards["avg"])
    meet_the_tracker()
    assert len(attachment.distilled.pairs) == 0 and session.missed == 0
    assert "warning" not in capfd.readouterr().err


def test_every_decision_is_made_whatever_the_host_does(pipeline, attach, monkeypatch, capfd):
    """Other ranks wait for a rank that never gets to a step, or whose look fails: it decides without signals."""
    _, session = attach(["x0"], steps=(2, STEPS + 3), kept=[FIRST, LAST])
    images, _, _ = sample(host()[0], pipeline, encode(pipeline), 1.0)
    (batch,) = session.batches
    assert batch.decided == 2 and (images[LAST[0]] - 0.5).abs().max() > 1e-3
    attachment, session = attach(["x0"], steps=LOOKS, kept=[FIRST, LAST])
    function, _ = host()

    asked, original = [], watched_session.Batch.decide

    def decide(batch):
        asked.append(batch)
        if len(asked) == 1:
            raise RuntimeError("this decision is ill")
        return original(batch)

    monkeypatch.setattr(watched_session.Batch, "decide", decide)
    sample(function, pipeline, encode(pipeline), 1.0)
    assert len(asked) == 2, "a decision that failed is not repeated, the next one is made"
    assert len(attachment.open_rollouts[0].stopped()) == ROWS - len(FIRST)
    assert "this decision is ill" in capfd.readouterr().err


def test_the_distilled_signal_learns_from_every_look(pipeline, attach):
    attachment, session = attach(["distilled"], steps=LOOKS, kept=[FIRST, LAST], distilled_seconds=1.0)
    function, score = host()
    for update in range(2):
        images = sample(function, pipeline, encode(pipeline), 1.0)[0]
        (rollout,) = attachment.open_rollouts
        audited = rollout.signals.audited_scores()
        assert np.isfinite(audited).all() == (update == 1) and audited.shape == (ROWS, 2)
        looks = session.batches[-1].looks
        assert [len(look.scores["distilled"]) for look in looks] == [ROWS, len(FIRST)]
        meet_the_tracker(score(images, PROMPTS, [{}] * ROWS)[0]["avg"])
        pairs = list(attachment.distilled.pairs._pairs)
        assert len(pairs) == (update + 1) * len(LOOKS) * len(LAST)
        assert {pair.sigma for pair in pairs} == {float(pipeline.scheduler.sigmas[step]) for step in LOOKS}
        for one, other in zip(pairs[::2], pairs[1::2]):
            assert one.held == other.held and torch.equal(one.final, other.final) and one.sigma > other.sigma
            assert one.arguments is other.arguments and not torch.equal(one.state, other.state)
    assert np.allclose(audited[:, 0], looks[0].scores["distilled"][:, 0]), "judged where all rows still ran"


def test_kept_previews_show_each_row_as_it_was_last_seen(pipeline, attach, tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_ACCEL_SAVE_PREVIEWS", "1")
    _, session = attach(["preview", "x0"], steps=LOOKS, kept=[FIRST, LAST])
    for _ in range(2):  # the second batch of an update is not kept
        sample(host()[0], pipeline, encode(pipeline), 1.0)
    (path,) = (tmp_path / "previews").iterdir()
    saved = np.load(path)
    assert np.flatnonzero(saved["kept"]).tolist() == LAST and len(saved["images"]) == ROWS
    first, second = session.batches[0].looks
    scores = first.scores["preview"][:, 0]
    scores[FIRST] = second.scores["preview"][:, 0]
    assert np.allclose(saved["preview_score"], scores)


def test_a_scorer_that_can_not_be_made_is_tried_once(pipeline, attach, capfd):
    _, session = attach(["preview", "x0"], preview_scorers=b"jpeg_compressibility", steps=LOOKS)
    from flow_grpo import rewards
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    made = []

    def expensive(device):
        made.append(device)
        if len(made) > 1:
            raise MemoryError("no room for a second model")
        return rewards.SCORERS["shapes"](device)

    score = rewards.SCORERS["jpeg_compressibility"]
    try:
        rewards.SCORERS["jpeg_compressibility"] = expensive
        rewards.multi_score("cpu", {"jpeg_compressibility": 1.0, "shapes": 1.0})
        for _ in range(2):
            sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0)
    finally:
        rewards.SCORERS["jpeg_compressibility"] = score
    assert len(made) == 2, "the host's own, and one attempt"
    assert all(not look.scores and look.latent for batch in session.batches for look in batch.looks)
    found = [line for line in capfd.readouterr().err.splitlines() if "no room for a second model" in line]
    assert len(found) == 1 and "makes no scorer of jpeg_compressibility alone" in found[0]
