"""States, predictions and noise levels against one step of diffusers' own schedulers."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from grpo_accel.calls import Call  # noqa: E402
from grpo_accel.policy import Policy  # noqa: E402
from grpo_accel.process import Flow, VariancePreserving  # noqa: E402
from grpo_accel.taps import Geometry  # noqa: E402
from grpo_accel.taps_unet import UNet  # noqa: E402

STEPS = 10
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def noise(seed):
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def close(found, expected, relative=1e-4):
    assert (found - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("settings", [dict(shift=3.0), dict(use_dynamic_shifting=True)])
def test_flow_matching(settings):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(STEPS, **({"mu": 0.8} if "use_dynamic_shifting" in settings else {}))
    process = Flow(scheduler)
    levels = process.levels()
    assert len(levels) == STEPS + 1 and levels[-1] == 0.0
    state, prediction = noise(1), noise(2)
    for step, time in enumerate(scheduler.timesteps):
        stepped = scheduler.step(prediction, time, state).prev_sample
        close(process.move(state, prediction, levels[step], levels[step + 1]), stepped)
        close(process.x0(state, prediction, levels[step]), process.move(state, prediction, levels[step], 0.0))
        assert process.time(levels[step]) == pytest.approx(float(time), abs=1e-3)
        state = stepped
    close(state, process.x0(state, prediction, 0.0))


def ddim(kind, **more):
    return diffusers.DDIMScheduler(clip_sample=False, prediction_type=kind, **{**BETAS, **more})


def test_levels_of_flow_matching_lead_to_the_image():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    process, clean, pure = Flow(scheduler), noise(1), noise(2)
    for level in process.levels()[:-1]:
        close(process.x0((1 - level) * clean + level * pure, pure - clean, level), clean)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("more", [
    {}, dict(set_alpha_to_one=False, steps_offset=1), dict(timestep_spacing="trailing"),
], ids=["plain", "offset", "trailing"])
def test_ddim_without_noise(kind, more):
    scheduler = ddim(kind, **more)
    scheduler.set_timesteps(STEPS)
    process = VariancePreserving(scheduler)
    levels = process.levels()
    assert len(levels) == STEPS + 1 and levels == sorted(levels, reverse=True)
    state, prediction = noise(1), noise(2)
    for step, time in enumerate(scheduler.timesteps):
        stepped = scheduler.step(prediction, time, state, eta=0.0)
        close(process.x0(state, prediction, levels[step]), stepped.pred_original_sample)
        close(process.move(state, prediction, levels[step], levels[step + 1]), stepped.prev_sample)
        assert process.time(levels[step]) == pytest.approx(float(time), abs=1e-3)
        state = stepped.prev_sample


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("more", [
    dict(timestep_spacing="linspace"), dict(timestep_spacing="leading", steps_offset=1), dict(use_karras_sigmas=True),
], ids=["linspace", "leading", "karras"])
def test_euler_in_the_state_that_the_denoiser_sees(kind, more):
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=kind, **BETAS, **more)
    scheduler.set_timesteps(STEPS)
    process = VariancePreserving(scheduler)
    levels = process.levels()
    assert len(levels) == STEPS + 1 and levels == sorted(levels, reverse=True)
    kept, prediction = noise(1) * scheduler.init_noise_sigma, noise(2)
    state = scheduler.scale_model_input(kept, scheduler.timesteps[0])
    for step, time in enumerate(scheduler.timesteps):
        stepped = scheduler.step(prediction, time, kept)
        kept = stepped.prev_sample
        close(process.x0(state, prediction, levels[step]), stepped.pred_original_sample)
        last = step + 1 == STEPS
        following = kept if last else scheduler.scale_model_input(kept, scheduler.timesteps[step + 1])
        close(process.move(state, prediction, levels[step], levels[step + 1]), following)
        assert process.time(levels[step]) == pytest.approx(float(time), abs=1.0)
        state = following


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_known_image_is_found_from_any_level(kind):
    process, clean, pure = VariancePreserving(ddim(kind)), noise(1), noise(2)
    for level in (0.05, 0.5, 0.95):
        kept = (1.0 - level**2) ** 0.5
        told = {"epsilon": pure, "v_prediction": kept * pure - level * clean, "sample": clean}[kind]
        state = kept * clean + level * pure
        close(process.x0(state, told, level), clean)
        close(process.move(state, told, level, 0.3), (1 - 0.09) ** 0.5 * clean + 0.3 * pure)


def test_a_level_and_its_time_belong_together_between_steps_too():
    process = VariancePreserving(ddim("epsilon"))
    for time in (0.0, 12.25, 499.5, 998.9):
        level = (1.0 - process._between(time)) ** 0.5
        assert process.time(level) == pytest.approx(time, abs=1e-3)
    assert process.time(0.0) == 0.0 and process.time(1.0) == 999.0


def test_predictions_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="flow_prediction"):
        VariancePreserving(diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True))
    with pytest.raises(ValueError, match="epsilon"):
        Flow(ddim("epsilon"))


def test_flow_matching_with_the_scheduler_that_wan_comes_with():
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(STEPS)
    process = Flow(scheduler)
    levels = process.levels()
    assert len(levels) == STEPS + 1 and levels == sorted(levels, reverse=True) and levels[-1] == 0.0
    for level, time in zip(levels, scheduler.timesteps):
        assert process.time(level) == pytest.approx(float(time), abs=1.0)
    state, prediction = noise(1), noise(2)
    stepped = scheduler.step(prediction, scheduler.timesteps[0], state).prev_sample  # the first step is Euler's
    close(process.move(state, prediction, levels[0], levels[1]), stepped)


@pytest.mark.parametrize("time, kind", [(torch.tensor(901), torch.float32), (torch.tensor(901.0).half(), torch.float16)])
def test_the_look_ahead_asks_between_whole_steps(time, kind):
    """DDIM counts in whole steps; a level between two of them is not rounded to one."""
    asked = []

    def denoiser(sample, timestep):
        asked.append(timestep)
        return (sample,)

    scheduler = ddim("epsilon")
    scheduler.set_timesteps(STEPS)
    call = Call(denoiser, dict(sample=noise(1), timestep=time), noise(2))
    policy = Policy(UNet(), SimpleNamespace(scheduler=scheduler), Geometry(4, 8, 8, (8, 8)), 2, 1, [call], {})
    level = (policy.levels[1] + policy.levels[2]) / 2
    policy.prediction_at(policy.state, level, guided=False)
    wanted = policy.process.time(level)
    assert abs(wanted - round(wanted)) > 0.01 and asked[0].dtype == kind and asked[0].shape == time.shape
    assert float(asked[0]) == pytest.approx(wanted, abs=0.3 if kind == torch.float16 else 1e-3)
