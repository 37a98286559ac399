"""Stable Diffusion 3 and 3.5: names and layouts only.

Transformer call: keyword arguments, rows along dimension 0; under classifier-free guidance the batch is doubled,
unconditional rows first. Joint attention over [image tokens, text tokens], text = 77 CLIP then T5, no mask.
q and k are normalised per head; there is no rotary embedding (diffusers 0.33 to 0.42). The first blocks of SD3.5-M have
a second attention of the image alone (`attn2`): it sees no text and is not tapped.
"""

from __future__ import annotations

from . import projections, refusals
from .taps import Geometry, Taps, own_words


class StableDiffusion3(Taps):
    PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    ROWS = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections")
    LORA_TARGETS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")

    def why_not(self, pipeline):
        config = pipeline.transformer.config
        return refusals.first(
            refusals.of_channels(pipeline.transformer, config.in_channels, config.out_channels),
            refusals.of_processors(pipeline.transformer), refusals.of_scheduler(self, pipeline))

    def geometry(self, denoiser, kwargs):
        channels, height, width = kwargs["hidden_states"].shape[1:]
        patch = denoiser.config.patch_size
        return Geometry(channels, height, width, (height // patch, width // patch))

    def blocks(self, denoiser):
        return [(f"transformer_blocks.{i}.attn", block.attn) for i, block in enumerate(denoiser.transformer_blocks)]

    def query_and_keys(self, attention, kwargs, rows, layout):
        norms = not projections.is_fused(attention)  # diffusers' fused attention of SD3 leaves normalisation out
        query, key_image = projections.of_own_tokens(attention, kwargs["hidden_states"][rows], norms)
        return query, key_image, projections.key_of_text(attention, kwargs["encoder_hidden_states"][rows], norms)

    def hidden_blocks(self, denoiser):
        return [(f"transformer_blocks.{i}", block) for i, block in enumerate(denoiser.transformer_blocks)]

    def hidden_state(self, output, layout):
        return output[1]  # (text, image)

    def hidden_width(self, denoiser, block):
        return denoiser.config.num_attention_heads * denoiser.config.attention_head_dim

    def content(self, pipeline, prompt, text_tokens, longest, valid):
        clip_tokens = text_tokens - longest
        mask = own_words(pipeline.tokenizer, prompt, clip_tokens)
        return mask + own_words(pipeline.tokenizer_3, prompt, longest) if longest > 0 else mask

    def pooled(self, kwargs):
        return kwargs["pooled_projections"].float()

    def is_guided(self, pipeline):
        return bool(pipeline.do_classifier_free_guidance)
