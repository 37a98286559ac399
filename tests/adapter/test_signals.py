"""Every signal of the decision step against an independent computation, and what taking it must never change."""

import sys
import threading
from concurrent import futures
from pathlib import Path

import pytest

for package in ("torch", "diffusers", "transformers"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np  # noqa: E402
import torch  # noqa: E402
import watched_session  # noqa: E402
from rollouts import PROMPTS, encode, meet_the_tracker, sample  # noqa: E402
from watched_rollouts import (  # noqa: E402
    ROWS, STEP, apart, apart_or_once, attach, fingerprint, guide, host, jpeg, look_ahead, one_thread, pipeline,
    undisturbed,
)

from grpo_accel.lookahead import points  # noqa: E402

KEPT = [0, 3, 4, 7, 8, 11]
ALL = watched_session.INPUTS
__all__ = ["attach", "one_thread", "pipeline"]  # fixtures


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_features_are_what_the_host_computed(pipeline, attach, guidance):
    _, session = attach(["attention", "x0", "cfg", "hidden", "prompt"])
    _, (kwargs, output), blocks = undisturbed(pipeline, guidance)
    sample(host()[0], pipeline, encode(pipeline), guidance)
    (batch,) = session.batches
    sigma = float(pipeline.scheduler.sigmas[STEP])
    latent, velocity, seen_sigma = batch.latent
    assert torch.equal(latent, kwargs["hidden_states"][:ROWS]) and seen_sigma == sigma
    assert torch.equal(velocity, guide(output, guidance))
    conditional = slice(-ROWS, None)
    assert torch.equal(batch.vectors["prompt"], kwargs["pooled_projections"][conditional])
    hidden = blocks[len(blocks) // 2][conditional]
    assert torch.allclose(batch.vectors["hidden"][:, : hidden.shape[2]], hidden.mean(1), atol=1e-6)
    assert torch.allclose(batch.vectors["hidden"][:, hidden.shape[2]:], hidden.var(1, unbiased=False).sqrt(), atol=1e-5)
    assert batch.options["hidden_values"] == batch.vectors["hidden"].shape[1]
    assert batch.options["prompt_values"] == batch.vectors["prompt"].shape[1]
    assert [entry[0] for entry in batch.attention] == [0, 1] and batch.attention[0][1].shape[0] == ROWS
    if guidance == 1.0:
        assert batch.guidance is None
    else:
        assert torch.equal(torch.cat(batch.guidance[::-1]), output)


def test_a_host_without_guidance_is_told_that_there_is_no_difference(pipeline, attach, capfd):
    attach(["cfg"])
    sample(host()[0], pipeline, encode(pipeline), 1.0)
    sample(host()[0], pipeline, encode(pipeline), 1.0)
    assert capfd.readouterr().err.count("samples without guidance") == 1


def test_a_block_can_be_named_and_a_wrong_name_says_which_there_are(pipeline, attach, capfd):
    _, session = attach(["hidden"], hidden_block=b"transformer_blocks.1.attn")
    _, _, blocks = undisturbed(pipeline, 1.0)
    sample(host()[0], pipeline, encode(pipeline), 1.0)
    width = blocks[1].shape[2]
    assert torch.allclose(session.batches[0].vectors["hidden"][:, :width], blocks[1].mean(1), atol=1e-6)
    _, session = attach(["hidden", "x0"], hidden_block=b"blocks.99")
    sample(host()[0], pipeline, encode(pipeline), 1.0)
    assert session.batches[0].vectors == {} and session.batches[0].latent is not None
    assert "transformer_blocks.0 to transformer_blocks.5" in capfd.readouterr().err


def test_points_of_the_look_ahead():
    sigmas = [1.0, 0.9, 0.7, 0.4, 0.0]
    for step in range(4):
        for evaluations in (1, 2, 3):
            ends = points(sigmas, step, evaluations)
            assert ends[0] == sigmas[step] and ends[-1] == 0.0
            assert len(ends) == min(evaluations, 3 - step) + 2, "never more forwards than the host itself would take"
            assert all(there < here for here, there in zip(ends, ends[1:]))
    widths = np.diff([10 - end for end in points(list(range(10, -1, -1)), 0, 3)])
    assert (np.diff(widths) > 0).all(), "without a shift the steps grow towards the end"


@pytest.mark.parametrize("guidance, guided, evaluations", [(1.0, 1, 1), (2.5, 1, 1), (2.5, 1, 3), (2.5, 0, 2)])
def test_scores_of_previews_and_of_the_look_ahead(pipeline, attach, guidance, guided, evaluations):
    _, session = attach(["preview", "lookahead"], lookahead_steps=evaluations, lookahead_guided=guided)
    _, (kwargs, output), _ = undisturbed(pipeline, guidance)
    sample(host()[0], pipeline, encode(pipeline), guidance)
    (batch,) = session.batches
    sigma = float(pipeline.scheduler.sigmas[STEP])
    x0 = kwargs["hidden_states"][:ROWS] - sigma * guide(output, guidance)
    assert np.allclose(batch.scores["preview"][:, 0], 2.0 * jpeg(pipeline, x0))
    end = look_ahead(pipeline, kwargs, output, guidance, guided, evaluations)
    assert np.allclose(batch.scores["lookahead"][:, 0], 2.0 * jpeg(pipeline, end))
    assert not np.array_equal(batch.scores["lookahead"], batch.scores["preview"])
    assert batch.options["scores_per_preview"] == batch.scores["lookahead"].shape[1] == 1
    assert 0 < batch.phases[3] + batch.phases[4] == pytest.approx(batch.phases[1])
    assert batch.phases[0] > 0 and batch.phases[5] == 0


@pytest.mark.parametrize("kept", [None, KEPT])
def test_a_host_that_asks_twice_a_step(pipeline, attach, kept):
    attachment, session = attach(["cfg", "hidden", "attention", "preview", "lookahead"], kept=kept and [kept], finals=1)
    embeds = encode(pipeline)
    host()
    plain = sample(apart, pipeline, embeds, 2.5)
    watched = sample(attachment.wrap_pipeline(apart), pipeline, embeds, 2.5)
    (batch,) = session.batches
    rows = kept or list(range(ROWS))
    for ours, theirs in zip(watched[1], plain[1]):
        assert torch.allclose(ours[rows], theirs[rows], atol=1e-5) and torch.isfinite(ours).all()
    assert len(batch.attention) == 2, "only the call with the prompt is tapped"
    sigma = float(pipeline.scheduler.sigmas[STEP])
    conditional, unconditional = batch.guidance
    velocity = unconditional + 2.5 * (conditional - unconditional)
    assert np.allclose(batch.scores["preview"][:, 0], 2.0 * jpeg(pipeline, plain[1][STEP] - sigma * velocity))
    after = plain[1][STEP] + float(pipeline.scheduler.sigmas[STEP + 1] - sigma) * velocity
    assert torch.allclose(plain[1][STEP + 1], after, atol=1e-5)
    assert batch.final_seen[0] == rows
    assert torch.allclose(batch.final_seen[1], plain[1][-1][rows], atol=1e-4)


def test_a_host_whose_guidance_is_only_a_number_is_met_at_its_one_call(pipeline, attach):
    """Its pipeline says that it is guided and its calls have B rows: the first step shows that there is one a step."""

    def once(pipeline, **arguments):
        return apart_or_once(pipeline, branches=1, **arguments)

    attachment, session = attach(["x0", "hidden"])
    embeds = encode(pipeline)
    host()
    latents = sample(attachment.wrap_pipeline(once), pipeline, embeds, 2.5)[1]
    (batch,) = session.batches
    state, velocity, sigma = batch.latent
    assert torch.equal(state, latents[STEP]) and "hidden" in batch.vectors
    following = float(pipeline.scheduler.sigmas[STEP + 1])
    assert torch.allclose(state + (following - sigma) * velocity, latents[STEP + 1], atol=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_no_signal_changes_a_bit_of_the_host(pipeline, attach, guidance, tmp_path):
    """Kept rows, random streams, scheduler, parameters, gradients and modules: with all signals as with one feature."""
    seen = []
    for inputs in (["x0"], ALL):
        attachment, session = attach(inputs, kept=[KEPT])
        function, _ = host()
        sample(function, pipeline, encode(pipeline), guidance)
        meet_the_tracker()  # the distilled adapter learns here
        before = fingerprint(pipeline.transformer), list(pipeline.transformer.modules())
        result = sample(function, pipeline, encode(pipeline), guidance)
        streams = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
        scheduler = pipeline.scheduler._step_index, pipeline.scheduler.timesteps.tolist()
        assert (fingerprint(pipeline.transformer), list(pipeline.transformer.modules())) == before
        seen.append((result, streams, scheduler, before[0]))
        if "distilled" in inputs:
            assert attachment.distilled.speaks()
            batch = session.batches[1]
            assert not np.array_equal(batch.scores["distilled"], batch.scores["preview"])
    for module in pipeline.transformer.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in pipeline.transformer.parameters())
    (images, latents, log_probs), streams, *rest = seen[0]
    (our_images, our_latents, our_log_probs), our_streams, *our_rest = seen[1]
    assert torch.equal(our_images, images)
    assert all(torch.equal(a, b) for a, b in zip(our_latents + our_log_probs, latents + log_probs))
    assert torch.equal(our_streams[0], streams[0]) and our_streams[1] == streams[1] and our_rest == rest


def test_a_list_of_unknown_scorers_calls_none(pipeline, attach, capfd):
    _, session = attach(["preview", "x0"], preview_scorers=b"beauty")
    sample(host()[0], pipeline, encode(pipeline), 1.0)
    (batch,) = session.batches
    assert batch.scores == {} and batch.latent is not None and batch.options["scores_per_preview"] == 1
    assert "none of the scorers in probe.preview.scorers" in capfd.readouterr().err


def test_listed_scorers_of_the_training_reward(pipeline, attach, capfd):
    _, session = attach(["preview"], preview_scorers=b"shapes,jpeg_compressibility,beauty")
    from flow_grpo import rewards
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    calls = []

    def slow(device):
        return lambda images, prompts, metadata: (calls.append(len(images)) or np.zeros(len(images)), {})

    rewards.SCORERS["slow"] = slow
    score = rewards.multi_score("cpu", {"slow": 1.0, "jpeg_compressibility": 0.5, "shapes": 2.0})
    images = sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0)[0]
    (batch,) = session.batches
    assert calls == [] and batch.options["scores_per_preview"] == 3
    combined, shapes, size = batch.scores["preview"].T
    assert np.allclose(combined, 2.0 * shapes + 0.5 * size) and (size < 0).all()
    assert capfd.readouterr().err.count("has no scorer beauty (it has slow, jpeg_compressibility, shapes)") == 1
    score(images, PROMPTS, [{}] * ROWS)
    assert calls == [ROWS] and set(batch.rewards) == {"avg", "slow", "shapes", "jpeg_compressibility"}


def test_a_tiny_decoder_is_used_where_one_is_named(pipeline, attach, tmp_path):
    from diffusers import AutoencoderTiny

    torch.manual_seed(3)
    tiny = AutoencoderTiny(
        latent_channels=8, encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1), scaling_factor=0.5, shift_factor=0.25,
    )
    tiny.save_pretrained(tmp_path / "tiny")
    _, session = attach(["preview"], preview_decoder=str(tmp_path / "tiny").encode())
    _, (kwargs, output), _ = undisturbed(pipeline, 1.0)
    sample(host()[0], pipeline, encode(pipeline), 1.0)
    x0 = kwargs["hidden_states"] - float(pipeline.scheduler.sigmas[STEP]) * output
    from flow_grpo.rewards import SCORERS

    with torch.no_grad():
        images = (tiny.decode(x0 / 0.5 + 0.25).sample / 2 + 0.5).clamp(0, 1)
    wanted = 2.0 * SCORERS["jpeg_compressibility"]("cpu")(images, PROMPTS, None)[0]
    assert np.allclose(session.batches[0].scores["preview"][:, 0], wanted)


@pytest.mark.parametrize("workers, busy", [(2, False), (1, True)])
def test_previews_are_scored_in_the_hosts_executor(pipeline, attach, workers, busy):
    _, session = attach(["preview", "lookahead"])
    from flow_grpo import rewards
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    threads = []

    def named(device):
        def score(images, prompts, metadata):
            threads.append(threading.current_thread())
            return np.arange(len(images)), {}

        return score

    rewards.SCORERS["named"] = named
    score = rewards.multi_score("cpu", {"named": 1.0})
    release = threading.Event()
    with futures.ThreadPoolExecutor(max_workers=workers) as executor:
        images = sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0)[0]
        assert threads == [threading.current_thread()] * 2, "no executor is known before the first reward"
        executor.submit(score, images, PROMPTS, [{}] * ROWS).result()
        blocker = executor.submit(release.wait) if busy else None
        sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0)
        release.set()
        if busy:
            assert blocker.result() and threads[3:] == [threading.current_thread()] * 2
        else:
            assert len(threads) == 5 and threading.current_thread() not in threads[2:]
    assert np.array_equal(session.batches[1].scores["preview"][:, 0], np.arange(ROWS))
    sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0)
    assert len(threads) == 7, "an executor that was shut down is done without"


def test_what_fails_is_missing_and_the_host_goes_on(pipeline, attach, capfd):
    _, session = attach(["x0", "preview", "lookahead"])
    from flow_grpo import rewards
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob

    def ill(device):
        def score(images, prompts, metadata):
            raise RuntimeError("this scorer is ill")

        return score

    rewards.SCORERS["ill"] = ill
    rewards.multi_score("cpu", {"ill": 1.0})
    plain = sample(pipeline_with_logprob.__wrapped__, pipeline, encode(pipeline), 1.0)
    ours = sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(ours[1], plain[1]))
    assert session.batches[0].scores == {} and session.batches[0].latent is not None
    assert capfd.readouterr().err.count("this scorer is ill") == 2, "one warning for each signal"


@pytest.mark.parametrize("finals", [1, 2])
def test_ends_of_kept_rows(pipeline, attach, finals):
    _, session = attach(["x0"], kept=[KEPT], finals=finals)
    images, latents, _ = sample(host()[0], pipeline, encode(pipeline), 2.5)
    (batch,) = session.batches
    assert batch.final_seen[0] == KEPT
    if finals == 1:
        assert torch.allclose(batch.final_seen[1], latents[-1][KEPT], atol=1e-5)
        assert torch.equal(batch.state_seen, latents[STEP])
    else:
        assert torch.equal(batch.final_seen[1], images[KEPT]) and batch.state_seen is None


def test_the_step_is_the_batchs_own_and_the_noise_window_is_passed_on(pipeline, attach):
    _, session = attach(["x0"], steps=[4])
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob_fast import pipeline_with_logprob

    latents = sample(host()[0], pipeline, encode(pipeline), 1.0)[1]
    assert torch.equal(session.batches[0].latent[0], latents[4])
    assert session.batches[0].options["noise_window"] == (-1, -1)
    sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0, sde_window_size=2, sde_window_range=(1, 4))
    sample(pipeline_with_logprob, pipeline, encode(pipeline), 1.0, sde_window_size=0)
    assert [batch.options["noise_window"] for batch in session.batches[1:]] == [(1, 4), (-1, -1)]


def test_distilled_speaks_once_it_has_learned(pipeline, attach, tmp_path, capfd):
    attachment, session = attach(["distilled"], finals=0, distilled_every_updates=2)
    function, _ = host()
    for update in range(3):
        sample(function, pipeline, encode(pipeline), 1.0)
        scores = session.batches[-1].scores
        assert set(scores) == {"distilled"}
        assert attachment.distilled.speaks() == (update == 2)
        assert (session.batches[-1].phases[5] > 0) == (update == 2) and session.batches[-1].phases[3] > 0
        meet_the_tracker()
    assert len(attachment.distilled.pairs) == 3 * ROWS
    lines = capfd.readouterr().err
    assert "distilled: " in lines and lines.count("speaks for itself") == 1
    assert (tmp_path / "distilled" / "adapter_model.safetensors").is_file()


CONTEXTS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_under_the_hosts_own_modes(pipeline, attach, context, capfd):
    """All signals inside autocast, inference mode, or with gradients on: no warning, no bit of the rollout changed."""
    attachment, session = attach(ALL, finals=1, distilled_seconds=1.0)
    function, _ = host()
    embeds = encode(pipeline)
    with CONTEXTS[context]():
        plain = sample(function.__wrapped__, pipeline, embeds, 2.5)
    for _ in range(2):
        with CONTEXTS[context]():
            result = sample(function, pipeline, embeds, 2.5)
        assert all(torch.equal(a, b) for a, b in zip(result[1], plain[1]))
        meet_the_tracker()
    assert attachment.distilled.speaks() and "warning" not in capfd.readouterr().err
    first, second = session.batches
    assert set(second.scores) == {"preview", "lookahead", "distilled"} and np.isfinite(second.scores["distilled"]).all()
    assert np.array_equal(first.scores["distilled"], first.scores["preview"])
    assert not np.array_equal(second.scores["distilled"], second.scores["preview"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the same test on tensors of the device")
def test_signals_on_a_device(pipeline, attach, capfd):
    import copy

    on_device = copy.copy(pipeline)
    on_device.to("cuda")
    try:
        attachment, session = attach(ALL, kept=[KEPT], finals=1)
        for _ in range(2):
            with torch.autocast("cuda", dtype=torch.float16):
                result = sample(host()[0], on_device, encode(on_device), 2.5)
            meet_the_tracker()
        assert "warning" not in capfd.readouterr().err and attachment.distilled.speaks()
        assert all(torch.isfinite(latents).all() for latents in result[1])
        assert session.batches[1].phases[4] > 0
    finally:
        pipeline.to("cpu")
