"""One step of the reverse SDE of a flow-matching model, with the log-probability of the step.

Flow-GRPO (arXiv 2505.05470) turns the sampler's ODE dx = v dt into an SDE with the same marginals. With
t = sigma falling from 1 to 0, dt = sigma_next - sigma < 0 and std = a * sqrt(sigma / (1 - sigma)):

    mean   = x * (1 + std^2 / (2 sigma) * dt) + v * (1 + std^2 (1 - sigma) / (2 sigma)) * dt
    x_next ~ Normal(mean, std^2 * |dt|)

``a`` is the noise level; at a = 0 this is the Euler step of the ODE.
"""

import math

import torch
from diffusers.utils.torch_utils import randn_tensor


def step_indices(scheduler, timestep):
    """Positions of ``timestep`` [n] in the scheduler's current schedule; int64 [n]."""
    return (scheduler.timesteps[None, :] - timestep[:, None]).abs().argmin(dim=1)


def sde_step_with_logprob(
    scheduler, model_output, timestep, sample, noise_level=0.7, prev_sample=None, generator=None
):
    """Takes one step, or scores a step that was taken.

    Args:
        scheduler: flow-matching Euler scheduler whose ``sigmas`` and ``timesteps`` are set.
        model_output: velocity, float [B, C, H, W].
        timestep: float [1] or [B].
        sample: state before the step, [B, C, H, W].
        prev_sample: state after the step, same shape; None draws it.

    Returns:
        (prev_sample [B, C, H, W], log_prob [B], mean [B, C, H, W], std_dev_t [1 or B, 1, 1, 1]), fp32.
        ``log_prob`` is the mean over the elements of a row, zero where the step has no noise.
    """
    model_output, sample = model_output.float(), sample.float()
    index = step_indices(scheduler, timestep)
    shape = (-1,) + (1,) * (sample.ndim - 1)
    sigma = scheduler.sigmas[index].view(shape)
    dt = scheduler.sigmas[index + 1].view(shape) - sigma

    if noise_level == 0:
        mean = sample + model_output * dt
        drawn = mean if prev_sample is None else prev_sample.float()
        return drawn, sample.new_zeros(sample.shape[0]), mean, torch.zeros_like(sigma)

    # At sigma = 1 the diffusion coefficient is infinite; the next sigma of the schedule bounds it.
    bounded = torch.where(sigma == 1, scheduler.sigmas[1], sigma)
    std_dev_t = noise_level * torch.sqrt(sigma / (1 - bounded))
    drift = std_dev_t**2 / (2 * sigma) * dt
    mean = sample * (1 + drift) + model_output * (dt + drift * (1 - sigma))
    step_std = std_dev_t * torch.sqrt(-dt)

    if prev_sample is None:
        noise = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        prev_sample = mean + step_std * noise
    prev_sample = prev_sample.float()
    log_prob = (
        -((prev_sample.detach() - mean) ** 2) / (2 * step_std**2)
        - torch.log(step_std)
        - 0.5 * math.log(2 * math.pi)
    )
    return prev_sample, log_prob.flatten(1).mean(dim=1), mean, std_dev_t
