"""Trains the small world's tiny decoder, ``models/tiny``: an AutoencoderTiny that decodes as the VAE does, faster.

    python -m experiments.shapes.tiny_decoder [--updates 1200] [--out FOLDER]

Learns from latents that the shipped model passes through, half of them final ones and half x0 previews, and from what
its VAE makes of them. Only the decoder is trained; the encoder is there because the class has one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from .contact_sheet import MODEL
from .families import load
from .sampler import SD3, SETTINGS, decode, sigmas, step, velocity
from .world import load_prompts

CHANNELS = (16, 16, 16)
PREVIEW_STEPS = (2, 3, 5)


@torch.no_grad()
def latents(pipeline, prompts: list[str], seed: int) -> torch.Tensor:
    """Final latents and x0 previews [2 × prompts, 8, 8, 8] of one rollout a prompt."""
    text, pooled = SD3.conditions(pipeline, prompts).values()
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn((len(prompts), 8, 8, 8), generator=generator)
    schedule = sigmas(SETTINGS.steps).tolist()
    previews = []
    for index, (sigma, following) in enumerate(zip(schedule, schedule[1:])):
        output = velocity(pipeline.transformer, state, sigma, text, pooled)
        if index in PREVIEW_STEPS:
            previews.append((state - sigma * output)[PREVIEW_STEPS.index(index) :: len(PREVIEW_STEPS)])
        level = SETTINGS.noise_level if SETTINGS.window[0] <= index < SETTINGS.window[1] else 0.0
        noise = torch.randn(state.shape, generator=generator) if level else None
        state = step(state, output, sigma, following, level, noise, schedule[1])
    return torch.cat([state, *previews])


def new_decoder():
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        in_channels=3, out_channels=3, encoder_block_out_channels=CHANNELS, decoder_block_out_channels=CHANNELS,
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(2, 1, 1), latent_channels=8, upsampling_scaling_factor=2,
        scaling_factor=1.0, shift_factor=0.0,
    )


def train(network, inputs: torch.Tensor, images: torch.Tensor, updates: int, rows=64, rate=3e-3) -> float:
    """Squared error against the VAE's images; returns that of the last update."""
    optimiser = torch.optim.AdamW(network.decoder.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=updates)
    started = time.perf_counter()
    for update in range(updates):
        chosen = torch.randint(len(inputs), (rows,))
        loss = ((network.decode(inputs[chosen]).sample * 0.5 + 0.5 - images[chosen]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if update % 100 == 0:
            print(f"update {update} error {loss.item():.5f} {time.perf_counter() - started:.0f} s", flush=True)
    return loss.item()


def drop_derived(path: Path) -> None:
    """Without the value that the class derives itself and warns of when it is given."""
    config = json.loads(path.read_text())
    config.pop("block_out_channels", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--out", default=str(Path(MODEL).parent / "tiny"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pipeline = load(MODEL)
    prompts = load_prompts("train")
    starts = range(0, len(prompts), 128)
    inputs = torch.cat([latents(pipeline, prompts[start : start + 128], seed=start) for start in starts])
    with torch.no_grad():
        images = decode(pipeline.vae, inputs)
    network = new_decoder()
    print(f"{len(inputs)} latents, {sum(p.numel() for p in network.decoder.parameters())} parameters", flush=True)
    error = train(network, inputs, images, options.updates)
    network.half().save_pretrained(options.out)
    drop_derived(Path(options.out) / "config.json")
    print(f"error {error:.5f}")


if __name__ == "__main__":
    main()
