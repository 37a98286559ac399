"""The Qwen-Image-like family: dual-stream blocks over packed latents, a video autoencoder, guidance by two calls."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler

from .. import qwen_text
from ..steps import Settings
from .family import Family, channel_statistics, from_files, pack, unpack

LATENT_CHANNELS = 4
LATENT_SIZE = 16
TRANSFORMER = {
    "patch_size": 2,
    "in_channels": 4 * LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_layers": 5,
    "attention_head_dim": 32,
    "num_attention_heads": 3,
    "joint_attention_dim": qwen_text.WIDTH,
    "axes_dims_rope": (8, 12, 12),
}


class Qwen(Family):
    """The classes are imported where they are needed: older diffusers has none of them."""

    name = "qwen"
    pipeline_name = "QwenImagePipeline"
    latent_shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    settings = Settings(guidance_scale=3.0)
    train_guidance = 3.0
    vae_steps, vae_batch = 900, 16
    vae_muon = True
    latents_of = "flux"
    flow_steps = 800

    def make_vae(self):
        """Images [N, 3, 32, 32] in -1..1, each a video of one frame, to latents [N, 4, 16, 16]."""
        from diffusers import AutoencoderKLQwenImage

        vae = AutoencoderKLQwenImage(
            base_dim=16,
            z_dim=LATENT_CHANNELS,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * LATENT_CHANNELS,
            latents_std=[1.0] * LATENT_CHANNELS,
        )
        with torch.no_grad():  # the latents' own deviation, which is not trained, is small
            vae.quant_conv.weight[LATENT_CHANNELS:] = 0.0
            vae.quant_conv.bias[LATENT_CHANNELS:] = -6.0
        return vae

    def make_network(self):
        from diffusers import QwenImageTransformer2DModel

        return QwenImageTransformer2DModel(**TRANSFORMER)

    def make_pipeline(self, vae, network):
        from diffusers import QwenImagePipeline
        from transformers import Qwen2Tokenizer

        return QwenImagePipeline(
            transformer=network,
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
            vae=vae,
            text_encoder=qwen_text.make_encoder(seed=4),
            tokenizer=from_files([(Qwen2Tokenizer, qwen_text.write_tokenizer)])[0],
        )

    def write_tokenizers(self, folder: Path) -> None:
        qwen_text.write_tokenizer(folder / "tokenizer")

    def conditions(self, pipeline, prompts):
        """text [N, L, 96] and mask [N, L]; as the pipeline does, the empty prompt is one space."""
        told, mask = pipeline.encode_prompt([prompt or " " for prompt in prompts], device="cpu")
        return {"text": told, "mask": torch.ones(told.shape[:2], dtype=torch.long) if mask is None else mask}

    def run(self, network, latents, level, conditions, guidance=None):
        height, width = latents.shape[2:]
        tokens = network(
            hidden_states=pack(latents),
            timestep=level,
            encoder_hidden_states=conditions["text"],
            encoder_hidden_states_mask=conditions["mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * len(latents),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def combine(self, unguided, prompted, scale):
        """Guidance whose result has, token by token, the norm of the prompted output."""
        height, width = prompted.shape[2:]
        asked = pack(prompted)
        mixed = pack(unguided + scale * (prompted - unguided))
        mixed = mixed * (asked.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True))
        return unpack(mixed, height, width)

    def quickened(self, vae):
        for module in vae.modules():
            if type(module).__name__ == "QwenImageCausalConv3d":
                module.forward = partial(single_frame, module)
        return vae

    def posterior(self, vae, images):
        posterior = vae.encode(images[:, :, None]).latent_dist
        return type(posterior)(posterior.parameters[:, :, 0])

    def decoded(self, vae, raw):
        return vae.decode(raw[:, :, None]).sample[:, :, 0]

    def statistics(self, vae):
        return channel_statistics(vae)


def single_frame(convolution, frames: torch.Tensor, cache=None) -> torch.Tensor:
    """A causal convolution of a video of one frame: only the last slice of its kernel meets anything but padding."""
    weight, stride = convolution.weight[:, :, -1], convolution.stride[1:]
    across, _, down, *_ = convolution._padding
    image = F.pad(frames[:, :, 0], (across, across, down, down))
    return F.conv2d(image, weight, convolution.bias, stride)[:, :, None]
