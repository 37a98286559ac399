"""What models of packed latents share (FLUX.1, Qwen-Image): a token of the state holds a patch of 2×2 latents, the
tokens of references stand behind the image's own, and attention of every block is joint."""

from __future__ import annotations

import torch

from . import latents
from .taps import Taps


class PackedTaps(Taps):
    def map_of(self, state, geometry):
        return latents.unpacked(state, geometry.tokens)

    def state_of(self, latent, geometry):
        return latents.packed(latent)

    def image_part(self, state, geometry):
        return state[:, : geometry.image_tokens]

    def with_image_part(self, state, part, geometry):
        return torch.cat([part, state[:, geometry.image_tokens :]], dim=1)

    def blocks(self, denoiser):
        return [(name + ".attn", block.attn) for name, block in self.hidden_blocks(denoiser)]

    def hidden_width(self, denoiser, block):
        return denoiser.config.num_attention_heads * denoiser.config.attention_head_dim
