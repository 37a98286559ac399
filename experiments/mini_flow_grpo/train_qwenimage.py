"""Group-relative policy optimisation of a Qwen-Image pipeline under classifier-free guidance.

    mpirun -np 2 <launcher> experiments/mini_flow_grpo/train_qwenimage.py \
        --config experiments/mini_flow_grpo/config.py:shapes_qwen

Module names, call order and signatures of the rollout are those of flow-grpo's scripts/train_qwenimage.py. Unlike it,
rows without an advantage leave training.
"""

import sys
from pathlib import Path

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import trainer
from diffusers import QwenImagePipeline

from flow_grpo.diffusers_patch.qwenimage_pipeline_with_logprob import predict_velocity
from flow_grpo.diffusers_patch import qwenimage_pipeline_with_logprob

TEXT = ("prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds", "negative_prompt_embeds_mask")


class Trainer(trainer.Trainer):
    PIPELINE = QwenImagePipeline
    LORA_TARGETS = ("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "attn.add_q_proj",
                    "attn.add_v_proj", "attn.to_add_out")

    def rollout(self, prompts, num_steps, noise_level, generator=None):
        found = qwenimage_pipeline_with_logprob.pipeline_with_logprob(
            self.pipeline,
            prompt=list(prompts),
            negative_prompt=[" "] * len(prompts),
            true_cfg_scale=self.config.sample.guidance_scale,
            **self.sampler_arguments(num_steps, noise_level, generator),
        )
        latents, log_probs = (torch.stack(found[name], dim=1) for name in ("all_latents", "all_log_probs"))
        timesteps = torch.stack(found["all_timesteps"])
        return found["images"], latents, log_probs, timesteps, {name: found[name] for name in TEXT}

    def collate(self, batches):
        """A batch's text is as long as its longest prompt: all are padded to the longest of the update."""
        length = max(batch["prompt_embeds"].shape[1] for batch in batches)
        for batch in batches:
            for name in TEXT:
                missing = length - batch[name].shape[1]
                sides = (0, missing) if batch[name].dim() == 2 else (0, 0, 0, missing)
                batch[name] = torch.nn.functional.pad(batch[name], sides)
        return super().collate(batches)

    def velocity(self, sample, j):
        text = {name: sample[name] for name in TEXT}
        return predict_velocity(
            self.pipeline, sample["latents"][:, j], sample["timesteps"][:, j], text,
            self.config.sample.guidance_scale, self.config.resolution, transformer=self.transformer,
        )


if __name__ == "__main__":
    trainer.start(Trainer)
