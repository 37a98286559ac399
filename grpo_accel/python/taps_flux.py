"""FLUX.1 and FLUX.1 Kontext: names and layouts only.

Transformer call: keyword arguments, rows along dimension 0; the guidance of the distilled model is an argument, so a
step is one call without a second branch. A plain pipeline with `true_cfg_scale` above 1 and a negative prompt makes
two calls a step, with the prompt first. The state is packed: a token holds a patch of 2×2 latents. `img_ids` say where
each token lies: its first column is 0 for the image and 1 for the tokens of a Kontext reference, which stand behind it.

Joint attention over [text, image, reference], rotary embedding after the normalisation, no mask. Double blocks have
projections of their own for the text; single blocks get both streams in one row of tokens. Up to diffusers 0.34 a
single block also returns one tensor of both, later the pair (text, image).
"""

from __future__ import annotations

from . import projections, refusals
from .taps import Geometry, own_words
from .taps_packed import PackedTaps


class Flux(PackedTaps):
    PIPELINES = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxKontextPipeline")
    ROWS = ("hidden_states", "timestep", "guidance", "pooled_projections", "encoder_hidden_states")
    LORA_TARGETS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2", "proj_mlp")
    TIME_DIVISOR = 1000.0

    def why_not(self, pipeline):
        config = pipeline.transformer.config
        answered = getattr(config, "out_channels", None)
        return refusals.first(
            refusals.of_channels(pipeline.transformer, config.in_channels, answered),
            refusals.of_processors(pipeline.transformer), refusals.of_scheduler(self, pipeline))

    def geometry(self, denoiser, kwargs):
        places = kwargs["img_ids"]
        places = places[0] if places.dim() == 3 else places
        own = places[places[:, 0] == 0]
        width = int(own[:, 2].max()) + 1
        height = own.shape[0] // width
        return Geometry(kwargs["hidden_states"].shape[-1] // 4, 2 * height, 2 * width, (height, width))

    def query_and_keys(self, attention, kwargs, rows, layout):
        query, key = projections.of_own_tokens(attention, kwargs["hidden_states"][rows])
        if kwargs.get("encoder_hidden_states") is None:  # a single block: the text stands before the image
            key_text, key_image = key[:, :, : layout.text_tokens], key[:, :, layout.text_tokens :]
            query = query[:, :, layout.text_tokens :]
        else:
            key_text, key_image = projections.key_of_text(attention, kwargs["encoder_hidden_states"][rows]), key
        query = query[:, :, : layout.geometry.image_tokens]
        if kwargs.get("image_rotary_emb") is None:
            return query, key_image, key_text
        cosine, sine = kwargs["image_rotary_emb"]
        text, image = slice(0, layout.text_tokens), slice(layout.text_tokens, None)
        own = slice(layout.text_tokens, layout.text_tokens + layout.geometry.image_tokens)
        return (
            projections.turned(query, cosine[own], sine[own]),
            projections.turned(key_image, cosine[image], sine[image]),
            projections.turned(key_text, cosine[text], sine[text]),
        )

    def hidden_blocks(self, denoiser):
        double = [(f"transformer_blocks.{i}", block) for i, block in enumerate(denoiser.transformer_blocks)]
        single = enumerate(denoiser.single_transformer_blocks)
        return double + [(f"single_transformer_blocks.{i}", block) for i, block in single]

    def hidden_state(self, output, layout):
        image = output[1] if isinstance(output, tuple) else output[:, layout.text_tokens :]
        return image[:, : layout.geometry.image_tokens]

    def content(self, pipeline, prompt, text_tokens, longest, valid):
        return own_words(pipeline.tokenizer_2, prompt, text_tokens)  # T5's; CLIP gives the pooled vector alone

    def pooled(self, kwargs):
        return kwargs["pooled_projections"].float()

    def guided(self, pipeline, conditional, unconditional, arguments):
        return unconditional + arguments["true_cfg_scale"] * (conditional - unconditional)
