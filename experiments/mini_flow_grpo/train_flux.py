"""Group-relative policy optimisation of a FLUX pipeline, with guidance as an argument of the transformer.

    mpirun -np 2 <launcher> experiments/mini_flow_grpo/train_flux.py \
        --config experiments/mini_flow_grpo/config.py:shapes_flux

Module names, call order and signatures of the rollout are those of flow-grpo's scripts/train_flux.py and
train_flux_fast.py. Unlike these, rows without an advantage leave training.
"""

import sys
from pathlib import Path

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import trainer
from diffusers import FluxPipeline

from flow_grpo.diffusers_patch import flux_pipeline_with_logprob, flux_pipeline_with_logprob_fast
from flow_grpo.diffusers_patch.train_dreambooth_lora_flux import encode_prompt


class Trainer(trainer.Trainer):
    PIPELINE = FluxPipeline
    LORA_TARGETS = ("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "attn.add_q_proj",
                    "attn.add_v_proj", "attn.to_add_out")

    @torch.no_grad()
    def encode(self, prompts):
        """prompt_embeds [n, L, D], pooled_prompt_embeds [n, P]."""
        pipeline = self.pipeline
        embeds, pooled, _ = encode_prompt(
            [pipeline.text_encoder, pipeline.text_encoder_2],
            [pipeline.tokenizer, pipeline.tokenizer_2],
            prompts,
            self.config.max_sequence_length,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def rollout(self, prompts, num_steps, noise_level, generator=None):
        text = self.encode(prompts)
        arguments = {
            **text,
            "guidance_scale": self.config.sample.guidance_scale,
            **self.sampler_arguments(num_steps, noise_level, generator),
        }
        if self.config.sample.sde_window_size:
            images, latents, image_ids, _, log_probs, timesteps = flux_pipeline_with_logprob_fast.pipeline_with_logprob(
                self.pipeline, **arguments
            )
            timesteps = torch.stack(timesteps)
        else:
            images, latents, image_ids, _, log_probs = flux_pipeline_with_logprob.pipeline_with_logprob(
                self.pipeline, **arguments
            )
            timesteps = self.pipeline.scheduler.timesteps
        self.image_ids = image_ids  # the same for all images of a size
        return images, torch.stack(latents, dim=1), torch.stack(log_probs, dim=1), timesteps, text

    def velocity(self, sample, j):
        latents = sample["latents"][:, j]
        text = sample["prompt_embeds"]
        guidance = None
        if self.pipeline.transformer.config.guidance_embeds:
            guidance = torch.full((len(latents),), float(self.config.sample.guidance_scale), device=self.device)
        return self.transformer(
            hidden_states=latents,
            timestep=sample["timesteps"][:, j] / 1000,
            guidance=guidance,
            pooled_projections=sample["pooled_prompt_embeds"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=self.device),
            img_ids=self.image_ids,
            return_dict=False,
        )[0]


if __name__ == "__main__":
    trainer.start(Trainer)
