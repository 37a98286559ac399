"""Group-relative policy optimisation of a Stable Diffusion XL pipeline, a loop of its own around DDPO's sampling.

    mpirun -np 2 python experiments/mini_flow_grpo/train_sdxl.py --accel accel.yaml --accel_set run_dir=runs/sdxl \
        --config experiments/mini_flow_grpo/config.py:shapes_sdxl

It has none of flow-grpo's functions that grpo_accel would find: it attaches by itself and calls ``rollout``, ``rewards``
and ``advantages``. MASTER_ADDR and MASTER_PORT are needed with more ranks than one.
"""

import os
import sys
from pathlib import Path

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
for ours, theirs in (("RANK", "RANK"), ("WORLD_SIZE", "SIZE"), ("LOCAL_RANK", "LOCAL_RANK")):
    if f"OMPI_COMM_WORLD_{theirs}" in os.environ:  # before accelerate looks
        os.environ.setdefault(ours, os.environ[f"OMPI_COMM_WORLD_{theirs}"])

import numpy as np
import sdxl_sampling
import torch
import trainer
from absl import flags
from diffusers import StableDiffusionXLPipeline

import grpo_accel

flags.DEFINE_string("accel", None, "Configuration of grpo_accel.", required=True)
flags.DEFINE_multi_string("accel_set", [], "key=value that overrides it.")
TEXT = ("prompt_embeds", "pooled_prompt_embeds")


class Trainer(trainer.Trainer):
    PIPELINE = StableDiffusionXLPipeline
    DENOISER = "unet"
    LORA_TARGETS = ("to_k", "to_q", "to_v", "to_out.0")

    def __init__(self, config):
        super().__init__(config)
        self.accel = grpo_accel.attach(trainer.FLAGS.accel, trainer.FLAGS.accel_set, scorer=self.score)
        self.seen = set()

    def score(self, images, prompts):
        return self.reward_fn(images, prompts, [{}] * len(prompts))[0]["avg"]

    @torch.no_grad()
    def encode(self, prompts):
        """prompt_embeds [n, L, D], pooled_prompt_embeds [n, P]; the empty prompt is zeros."""
        told, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False
        )
        said = torch.tensor([float(bool(prompt)) for prompt in prompts], device=self.device)
        return {"prompt_embeds": told * said[:, None, None], "pooled_prompt_embeds": pooled * said[:, None]}

    def without(self, rows):
        return {name: self.repeated(name, rows) for name in TEXT}

    def rollout(self, prompts, num_steps, noise_level, generator=None, pipeline=None):
        """``pipeline`` stands in for the trainer's own."""
        arguments = self.sampler_arguments(num_steps, noise_level, generator)
        text, resolution = self.encode(prompts), arguments.pop("height")
        del arguments["width"], arguments["output_type"]
        images, latents, log_probs, timesteps = sdxl_sampling.sample(
            self.pipeline if pipeline is None else pipeline, text, self.without(len(prompts)),
            guidance_scale=self.config.sample.guidance_scale, resolution=resolution, **arguments,
        )
        return images, torch.stack(latents, dim=1), torch.stack(log_probs, dim=1), torch.stack(timesteps), text

    def sample_batch(self, epoch, i):
        sample = self.config.sample
        self.train_sampler.set_epoch(epoch * sample.num_batches_per_epoch + i)
        prompts, metadata = next(self.train_iter)
        window = tuple(sample.sde_window_range) if sample.sde_window_size else (-1, -1)
        guidance = {"guidance_scale": sample.guidance_scale}
        with self.accel.rollout(self.pipeline, prompts, arguments=guidance, noise_window=window) as rollout:
            images, latents, log_probs, timesteps, text = self.rollout(
                prompts, sample.num_steps, sample.noise_level, pipeline=rollout.pipeline
            )
        kept = rollout.kept
        future = self.executor.submit(
            self.reward_fn, images[kept], [prompts[row] for row in kept], [metadata[row] for row in kept])
        return {
            "prompt_index": torch.tensor([m["index"] for m in metadata], device=self.device),
            **text,
            "timesteps": timesteps.repeat(len(prompts), 1),
            "latents": latents[:, :-1],
            "next_latents": latents[:, 1:],
            "log_probs": log_probs,
            "rewards": (rollout, future),
        }

    def collate(self, batches):
        """Rewards are of kept rows; predictions stand in for the others in what the trainer reports."""
        self.own_rewards, reported = [], []
        for batch in batches:
            rollout, future = batch.pop("rewards")
            rewards = np.array(rollout.rewards(future.result()[0]["avg"]))
            self.own_rewards += rewards.tolist()
            reported.append(np.where(np.isnan(rewards), rollout.prediction, rewards))
        samples = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        reported = torch.as_tensor(np.nan_to_num(np.concatenate(reported)), device=self.device).float()
        return samples | {"rewards": {"avg": reported}}

    def assign_advantages(self, samples):
        index = samples.pop("prompt_index")
        prompts = [self.train_dataset.prompts[i] for i in index.tolist()]
        sample = self.config.sample
        own = self.accel.advantages(prompts, self.own_rewards, "global" if sample.global_std else "group")
        columns = torch.as_tensor(own, device=self.device, dtype=torch.float32)
        samples["advantages"] = columns[:, None].repeat(1, self.num_train_timesteps)
        self.seen.update(self.accelerator.gather(index).tolist())
        self.group_stats = sample.num_image_per_prompt, len(self.seen)
        rewards = samples.pop("rewards")
        return {name: self.accelerator.gather(values).cpu().numpy() for name, values in rewards.items()}

    def step_log_prob(self, sample, j):
        return sdxl_sampling.ancestral_step(
            self.pipeline.scheduler, self.velocity(sample, j), sample["timesteps"][:, j], sample["latents"][:, j],
            self.config.sample.noise_level, prev_sample=sample["next_latents"][:, j],
        )[1]

    def velocity(self, sample, j):
        latents = sample["latents"][:, j]
        return sdxl_sampling.predict(
            self.transformer, self.pipeline.scheduler, latents, sample["timesteps"][:, j],
            {name: sample[name] for name in TEXT}, self.without(len(latents)), self.config.sample.guidance_scale,
            self.config.resolution,
        )

    def finish(self):
        self.accel.detach()
        super().finish()


if __name__ == "__main__":
    trainer.start(Trainer)
