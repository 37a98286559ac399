"""Group-relative policy optimisation of a Stable Diffusion 3 pipeline.

    mpirun -np 2 <launcher> experiments/mini_flow_grpo/train_sd3.py \
        --config experiments/mini_flow_grpo/config.py:shapes_window

The launcher exports RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT on every rank; without
them the script trains in one process. Module names, call order and signatures of the rollout are those of
flow-grpo's scripts/train_sd3.py and train_sd3_fast.py, so whatever attaches there attaches here.
"""

import sys
from pathlib import Path

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import trainer
from absl import app
from diffusers import StableDiffusion3Pipeline
from trainer import FLAGS, DistributedKRepeatSampler, clipped_policy_loss, rows_per_rank, trained_rows

from flow_grpo.diffusers_patch import sd3_pipeline_with_logprob, sd3_pipeline_with_logprob_fast
from flow_grpo.diffusers_patch.train_dreambooth_lora_sd3 import encode_prompt

__all__ = ["DistributedKRepeatSampler", "Trainer", "clipped_policy_loss", "rows_per_rank", "trained_rows"]


class Trainer(trainer.Trainer):
    PIPELINE = StableDiffusion3Pipeline
    LORA_TARGETS = (
        "attn.add_k_proj",
        "attn.add_q_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "attn.to_k",
        "attn.to_out.0",
        "attn.to_q",
        "attn.to_v",
    )

    @torch.no_grad()
    def encode(self, prompts):
        """prompt_embeds [n, L, D], pooled_prompt_embeds [n, P]."""
        pipeline = self.pipeline
        embeds, pooled = encode_prompt(
            [pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3],
            [pipeline.tokenizer, pipeline.tokenizer_2, pipeline.tokenizer_3],
            prompts,
            self.config.max_sequence_length,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def rollout(self, prompts, num_steps, noise_level, generator=None):
        text = self.encode(prompts)
        arguments = {
            **text,
            "negative_prompt_embeds": self.repeated("prompt_embeds", len(prompts)),
            "negative_pooled_prompt_embeds": self.repeated("pooled_prompt_embeds", len(prompts)),
            "guidance_scale": self.config.sample.guidance_scale,
            **self.sampler_arguments(num_steps, noise_level, generator),
        }
        if self.config.sample.sde_window_size:
            images, latents, log_probs, timesteps = sd3_pipeline_with_logprob_fast.pipeline_with_logprob(
                self.pipeline, **arguments
            )
            timesteps = torch.stack(timesteps)
        else:
            images, latents, log_probs = sd3_pipeline_with_logprob.pipeline_with_logprob(
                self.pipeline, **arguments
            )
            timesteps = self.pipeline.scheduler.timesteps
        return images, torch.stack(latents, dim=1), torch.stack(log_probs, dim=1), timesteps, text

    def velocity(self, sample, j):
        scale = self.config.sample.guidance_scale
        copies = 2 if scale > 1 else 1
        text = {name: sample[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
        if scale > 1:
            text = {name: torch.cat([self.repeated(name, len(told)), told]) for name, told in text.items()}
        velocity = self.transformer(
            hidden_states=torch.cat([sample["latents"][:, j]] * copies),
            timestep=torch.cat([sample["timesteps"][:, j]] * copies),
            encoder_hidden_states=text["prompt_embeds"],
            pooled_projections=text["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        if scale > 1:
            unconditional, conditional = velocity.chunk(2)
            velocity = unconditional + scale * (conditional - unconditional)
        return velocity


def main(_):
    Trainer(FLAGS.config).run()


if __name__ == "__main__":
    app.run(main)
