"""Wan2.1 text to video: names and layouts only.

Transformer call: keyword arguments, rows along dimension 0, two calls a step with the same timestep, the prompt's
first. The state is 5-D; in maps and token grids the frames are stacked along the height. True cross attention (`attn2`)
to all 512 text tokens: padding is zero embeddings, and attended to. q and k are normalised across the heads, before the
split; only the attention of the video to itself is turned. Newer diffusers call the blocks' attention by position.
"""

from __future__ import annotations

from . import latents, projections, refusals
from .taps import Geometry, Taps, heads, own_words


class Wan(Taps):
    PIPELINES = ("WanPipeline",)
    ROWS = ("hidden_states", "timestep", "encoder_hidden_states")
    LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")

    def why_not(self, pipeline):
        config = pipeline.transformer.config
        second = getattr(pipeline, "transformer_2", None) is not None
        image = getattr(config, "added_kv_proj_dim", None) is not None
        return refusals.first(
            "it denoises with two transformers in turn (Wan2.2)" if second else None,
            "its blocks also attend to an image" if image else None,
            refusals.of_channels(pipeline.transformer, config.in_channels, config.out_channels),
            refusals.of_processors(pipeline.transformer), refusals.of_scheduler(self, pipeline))

    def geometry(self, denoiser, kwargs):
        channels, frames, height, width = kwargs["hidden_states"].shape[1:]
        deep, high, wide = denoiser.config.patch_size
        return Geometry(channels, frames * height, width, (frames // deep * (height // high), width // wide), frames)

    def map_of(self, state, geometry):
        return state.flatten(2, 3)

    def state_of(self, latent, geometry):
        return latent.unflatten(2, (geometry.frames, -1))

    def blocks(self, denoiser):
        return [(f"blocks.{i}.attn2", block.attn2) for i, block in enumerate(denoiser.blocks)]

    def query_and_keys(self, attention, kwargs, rows, layout):
        text = kwargs["encoder_hidden_states"][rows]
        query = attention.to_q(kwargs["hidden_states"][rows])
        key = attention.to_kv(text).chunk(2, dim=-1)[0] if projections.is_fused(attention) else attention.to_k(text)
        query = projections.normalised(attention, "norm_q", query)
        key = projections.normalised(attention, "norm_k", key)
        return heads(query, attention.heads), None, heads(key, attention.heads)

    def hidden_blocks(self, denoiser):
        return [(f"blocks.{i}", block) for i, block in enumerate(denoiser.blocks)]

    def hidden_state(self, output, layout):
        return output

    def hidden_width(self, denoiser, block):
        return denoiser.config.num_attention_heads * denoiser.config.attention_head_dim

    def valid_tokens(self, kwargs):
        return (kwargs["encoder_hidden_states"] != 0).any(dim=-1).sum(dim=1)  # the rest is zeros

    def content(self, pipeline, prompt, text_tokens, longest, valid):
        return own_words(pipeline.tokenizer, prompt, text_tokens)

    def is_guided(self, pipeline):
        return bool(pipeline.do_classifier_free_guidance)

    def guided(self, pipeline, conditional, unconditional, arguments):
        scale = arguments.get("guidance_scale")
        return unconditional + (pipeline.guidance_scale if scale is None else scale) * (conditional - unconditional)

    def decoder_input(self, vae, state, geometry):
        return latents.destandardised(vae, state.to(vae.dtype))

    def state_of_decoder_input(self, vae, decoded, geometry):
        return latents.standardised(vae, decoded.float())

    def images(self, pipeline, decoded):
        return pipeline.video_processor.postprocess_video(decoded, output_type="pt")
