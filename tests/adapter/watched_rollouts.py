"""Rollouts whose session only watches, and plain computations of what it must have been shown."""

import hashlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np  # noqa: E402
import rollouts  # noqa: E402
import torch  # noqa: E402
import watched_session  # noqa: E402
from rollouts import PROMPTS, STEPS, encode, sample  # noqa: E402

grpo_accel = pytest.importorskip("grpo_accel")
from grpo_accel.lookahead import SPACING  # noqa: E402

ROWS = len(PROMPTS)
STEP = 2


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
    """attach(inputs, **fields) → (attachment, its watched session), flow_grpo imported anew behind it."""
    opened = []

    def make(inputs, **fields):
        session = watched_session.Session(tmp_path, inputs, **fields)
        monkeypatch.setattr(sys.modules["grpo_accel.attach"], "Session", lambda *_: session)
        monkeypatch.setattr(sys.modules["grpo_accel.attach"], "_provider_overrides", list)
        rollouts.forget_host()
        opened.append(grpo_accel.attach("unused"))
        return opened[-1], session

    yield make
    for attachment in opened:
        attachment.detach()
    rollouts.forget_host()


def host(names=None):
    """(sampling function, reward function) of the host; the reward is of `names` with their weights."""
    from flow_grpo.diffusers_patch.sd3_pipeline_with_logprob import pipeline_with_logprob
    from flow_grpo.rewards import multi_score

    return pipeline_with_logprob, multi_score("cpu", names or {"jpeg_compressibility": 2.0})


def undisturbed(pipeline, guidance, step=STEP):
    """The host alone: what it returns; arguments, output and all blocks' outputs of its call at a step."""
    function, _ = host()
    calls = []
    blocks = []

    def seen(module, args, kwargs, output):
        calls.append((dict(kwargs), output[0].clone()))

    handle = pipeline.transformer.register_forward_hook(seen, with_kwargs=True)
    inner = [
        block.register_forward_hook(lambda module, args, output: blocks.append(output[1].clone()))
        for block in pipeline.transformer.transformer_blocks
    ]
    result = sample(function.__wrapped__, pipeline, encode(pipeline), guidance)
    for each in (handle, *inner):
        each.remove()
    depth = len(pipeline.transformer.transformer_blocks)
    return result, calls[step], blocks[step * depth: (step + 1) * depth]


def guide(output, guidance):
    if guidance == 1.0:
        return output
    unconditional, conditional = output.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def jpeg(pipeline, latents):
    """The scorer's own values of latents that the host's decoder would decode."""
    from flow_grpo.rewards import SCORERS

    config = pipeline.vae.config
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    images = pipeline.image_processor.postprocess(decoded, output_type="pt")
    return np.asarray(SCORERS["jpeg_compressibility"]("cpu")(images, PROMPTS[: len(images)], None)[0])


def look_ahead(pipeline, kwargs, output, guidance, guided, evaluations, step=STEP):
    """Big Euler steps by plain calls of the transformer, of the rows in a call of the host's."""
    rows = len(output) if guidance == 1.0 else len(output) // 2
    sigmas = [float(sigma) for sigma in pipeline.scheduler.sigmas]
    ends = np.interp(
        step + (STEPS - step) * (np.arange(evaluations + 2) / (evaluations + 1)) ** SPACING, np.arange(STEPS + 1), sigmas
    ).tolist()
    state = kwargs["hidden_states"][:rows]
    velocity = guide(output, guidance)
    both = guided and guidance != 1.0
    part = slice(None) if both else slice(-rows, None)
    for position, (here, there) in enumerate(zip(ends, ends[1:])):
        if position:
            with torch.no_grad():
                said = pipeline.transformer(
                    hidden_states=torch.cat([state] * 2) if both else state,
                    timestep=torch.full((2 * rows if both else rows,), here * 1000),
                    encoder_hidden_states=kwargs["encoder_hidden_states"][part],
                    pooled_projections=kwargs["pooled_projections"][part], return_dict=False,
                )[0]
            velocity = guide(said, guidance) if both else said
        state = state + (there - here) * velocity
    return state


def apart_or_once(pipeline, prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds,
                  negative_pooled_prompt_embeds, num_inference_steps, guidance_scale, branches, **_):
    """A host that asks for each branch of guidance in a call of its own, the prompt's first; or for that one alone."""
    pipeline._guidance_scale = guidance_scale
    pipeline.scheduler.set_timesteps(num_inference_steps)
    state = torch.randn((ROWS, 8, 8, 8))
    latents = [state]
    texts = ((prompt_embeds, pooled_prompt_embeds), (negative_prompt_embeds, negative_pooled_prompt_embeds))
    with torch.no_grad():
        for step, time in enumerate(pipeline.scheduler.timesteps):
            said = [
                pipeline.transformer(
                    hidden_states=state, timestep=time.expand(ROWS), encoder_hidden_states=text,
                    pooled_projections=pooled, return_dict=False,
                )[0]
                for text, pooled in texts[:branches]
            ]
            velocity = said[-1] + guidance_scale * (said[0] - said[-1])
            noise = 0.1 * torch.randn_like(state) if step < 2 else 0.0
            state = state + (pipeline.scheduler.sigmas[step + 1] - pipeline.scheduler.sigmas[step]) * velocity + noise
            latents.append(state)
        config = pipeline.vae.config
        decoded = pipeline.vae.decode(state / config.scaling_factor + config.shift_factor, return_dict=False)[0]
    return pipeline.image_processor.postprocess(decoded, output_type="pt"), latents, []


def apart(pipeline, noise_level=0.7, **arguments):
    return apart_or_once(pipeline, branches=2, **arguments)


def fingerprint(module):
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
