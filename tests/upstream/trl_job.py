"""A very small run of TRL's DDPOTrainer: ``python trl_job.py MODEL FOLDER``. What it did goes to FOLDER/seen.npz."""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline

PROMPTS = ["a red circle", "two blue squares"]
STEPS, ROWS, BATCHES, EPOCHS = 5, 8, 2, 2


def sizes(images, prompts, metadata):
    """Size of each image as JPEG, in thousands of bytes."""
    Seen.scored[-1] += len(images)
    assert len(images) == len(prompts) == len(metadata) and all(m["of"] == p for m, p in zip(metadata, prompts))
    found = []
    for image in (images * 255).round().clamp(0, 255).to(torch.uint8).numpy().transpose(0, 2, 3, 1):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
        found.append(-buffer.tell() / 1000)
    return torch.tensor(found), {}


class Seen:
    asked = 0
    scored, sampled, trained, advantages, latents = [0], [0], [0], [], []


def next_prompt():
    Seen.asked += 1
    prompt = PROMPTS[Seen.asked % 2]
    return prompt, {"of": prompt}


def watch(trainer):
    unet, train = trainer.sd_pipeline.unet, trainer._train_batched_samples

    def count(_, args, kwargs):
        counts = Seen.trained if torch.is_grad_enabled() else Seen.sampled
        counts[-1] += len(args[0] if args else kwargs["sample"])

    def observed(inner_epoch, epoch, global_step, batches):
        Seen.advantages.append(torch.cat([batch["advantages"] for batch in batches]).numpy())
        Seen.latents.append(torch.cat([batch["latents"] for batch in batches]).numpy())
        step = train(inner_epoch, epoch, global_step, batches)
        for counts in (Seen.scored, Seen.sampled, Seen.trained):
            counts.append(0)
        return step

    unet.register_forward_pre_hook(count, with_kwargs=True)
    trainer._train_batched_samples = observed


def main(model, folder):
    PartialState(cpu=True)  # TRL logs through accelerate before it makes any state of its own
    config = DDPOConfig(
        num_epochs=EPOCHS, sample_num_steps=STEPS, sample_batch_size=ROWS, sample_num_batches_per_epoch=BATCHES,
        train_batch_size=4, train_gradient_accumulation_steps=1, per_prompt_stat_tracking=True, log_with=None,
        per_prompt_stat_tracking_buffer_size=32, per_prompt_stat_tracking_min_count=4, mixed_precision="no", seed=1,
        save_freq=100,
    )
    trainer = DDPOTrainer(config, sizes, next_prompt, DefaultDDPOStableDiffusionPipeline(model))
    watch(trainer)
    trainer.train()
    weights = [p.detach().numpy().ravel() for p in trainer.sd_pipeline.unet.parameters() if p.requires_grad]
    np.savez(Path(folder) / "seen.npz", weights=np.concatenate(weights), scored=Seen.scored[:EPOCHS],
             sampled=Seen.sampled[:EPOCHS], trained=Seen.trained[:EPOCHS], advantages=np.stack(Seen.advantages),
             latents=np.stack(Seen.latents))


if __name__ == "__main__":
    main(*sys.argv[1:])
