"""Stable Diffusion XL and 1.x/2.x, whose denoiser is a UNet: names and layouts only.

UNet call: state and timestep by position in most hosts, the timestep a scalar for all rows; under classifier-free
guidance the batch is doubled, unconditional rows first. True cross attention (`attn2`) in the blocks of the way down,
of the middle and of the way up, each at its own resolution; no rotary embedding, no mask. Text: 77 CLIP tokens, in SDXL
of two tokenizers that place their tokens alike.

Schedulers here belong to variance preserving diffusion. Those that keep another state scale it before they ask
(`scale_model_input`), so what the UNet gets is always the variance preserving one.
"""

from __future__ import annotations

import torch

from . import projections, refusals
from .process import VariancePreserving
from .taps import Geometry, Taps, heads, own_words

LAYER = "attn2"


class UNet(Taps):
    PIPELINES = (
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline",
    )
    DENOISER = "unet"
    POSITIONAL = ("sample", "timestep", "encoder_hidden_states")
    STATE = "sample"
    ROWS = (
        "sample", "timestep", "encoder_hidden_states", "encoder_attention_mask", "timestep_cond",
        "added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids",
    )
    LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
    PROCESS = VariancePreserving

    def why_not(self, pipeline):
        unet = pipeline.unet
        kind = getattr(unet.config, "addition_embed_type", None)
        image_prompt = f"its UNet is asked with {kind}" if kind not in (None, "text_time", "text") else None
        blocks = None if self.blocks(unet) else f"its {type(unet).__name__} has no cross attention named {LAYER}"
        return refusals.first(
            refusals.of_channels(unet, unet.config.in_channels, unet.config.out_channels), image_prompt, blocks,
            refusals.of_processors(unet), refusals.of_scheduler(self, pipeline))

    def geometry(self, denoiser, kwargs):
        channels, height, width = kwargs["sample"].shape[1:]
        grid = tokens = (height, width)
        for block in denoiser.down_blocks:
            tokens = grid if hasattr(block, "attentions") else tokens
            if block.downsamplers is not None:
                grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        if hasattr(denoiser.mid_block, "attentions"):
            tokens = grid
        return Geometry(channels, height, width, tokens)

    def blocks(self, denoiser):
        found = []
        for place, block in self.hidden_blocks(denoiser):
            for name, module in block.named_modules():
                if name.rpartition(".")[2] == LAYER:
                    found.append((f"{place}.{name}", module))
        return found

    def query_and_keys(self, attention, kwargs, rows, layout):
        text = kwargs["encoder_hidden_states"][rows]
        if attention.norm_cross:
            text = attention.norm_encoder_hidden_states(text)
        query = heads(attention.to_q(kwargs["hidden_states"][rows]), attention.heads)
        key = attention.to_kv(text).chunk(2, dim=-1)[0] if projections.is_fused(attention) else attention.to_k(text)
        key = heads(key, attention.heads)
        query = projections.normalised(attention, "norm_q", query)
        return query, None, projections.normalised(attention, "norm_k", key)

    def hidden_blocks(self, denoiser):
        down = [(f"down_blocks.{i}", block) for i, block in enumerate(denoiser.down_blocks)]
        middle = [("mid_block", denoiser.mid_block)] if denoiser.mid_block is not None else []
        return down + middle + [(f"up_blocks.{i}", block) for i, block in enumerate(denoiser.up_blocks)]

    def hidden_state(self, output, layout):
        image = output[0] if isinstance(output, tuple) else output  # on the way down: (state, residuals)
        return image.flatten(2).transpose(1, 2)

    def hidden_width(self, denoiser, block):
        return block.resnets[-1].out_channels

    def attended(self, kwargs):
        mask = kwargs.get("encoder_attention_mask")
        return None if mask is None else mask.bool()

    def content(self, pipeline, prompt, text_tokens, longest, valid):
        tokenizer = pipeline.tokenizer or getattr(pipeline, "tokenizer_2", None)
        return own_words(tokenizer, prompt, text_tokens)

    def pooled(self, kwargs):
        added = kwargs.get("added_cond_kwargs") or {}
        embeddings = added.get("text_embeds")
        return super().pooled(kwargs) if embeddings is None else embeddings.float()

    def is_guided(self, pipeline):
        return getattr(pipeline, "do_classifier_free_guidance", None)

    def guided(self, pipeline, conditional, unconditional, arguments):
        scale = arguments.get("guidance_scale")
        scale = pipeline.guidance_scale if scale is None else scale
        joined = unconditional + scale * (conditional - unconditional)
        rescale = arguments.get("guidance_rescale") or 0.0
        if rescale <= 0.0:
            return joined
        rest = tuple(range(1, joined.dim()))
        narrowed = joined * (conditional.std(dim=rest, keepdim=True) / joined.std(dim=rest, keepdim=True))
        return rescale * narrowed + (1.0 - rescale) * joined

    def decoder_input(self, vae, state, geometry):
        mean, deviation = _moments(vae, state)
        if mean is None:
            return state / vae.config.scaling_factor
        return state * deviation / vae.config.scaling_factor + mean

    def state_of_decoder_input(self, vae, decoded, geometry):
        decoded = decoded.float()
        mean, deviation = _moments(vae, decoded)
        if mean is None:
            return decoded * vae.config.scaling_factor
        return (decoded - mean) * vae.config.scaling_factor / deviation

    def decode(self, pipeline, vae, state, geometry):
        if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
            return super().decode(pipeline, vae, state, geometry)
        vae.to(dtype=torch.float32)  # as the host does with a decoder that overflows in fp16
        try:
            return super().decode(pipeline, vae, state.float(), geometry)
        finally:
            vae.to(dtype=torch.float16)


def _moments(vae, like):
    """(mean, standard deviation) of the decoder's channels, [1, channels, 1, 1]; (None, None) where it has none."""
    mean, deviation = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or deviation is None:
        return None, None
    shape = (1, len(mean), 1, 1)
    return tuple(torch.tensor(values).view(shape).to(like.device, like.dtype) for values in (mean, deviation))
