"""Qwen-Image and Qwen-Image-Edit: names and layouts only.

Transformer call: keyword arguments, rows along dimension 0 (`img_shapes` is a list with a row's entry each). flow-grpo
doubles the batch with the prompt's rows first; the plain pipelines make two calls a step, the prompt's first. Both join
the branches with a scale of their own argument and then give every token the conditional prediction's norm: two
branches must not both be zero. The state is packed like Flux's; tokens of an edit's references stand behind it.

Joint attention over [text, image, reference], normalised per head, then turned, the text after the largest image
coordinate. The text is padded to the longest of the call. Up to diffusers 0.36 padding is attended to, since 0.37 it is
not. `txt_seq_lens` (up to 0.38) is left alone: its maximum must stay the padded length. The decoder's latents are 5-D
with one frame, standardised per channel.
"""

from __future__ import annotations

import sys

import torch

from . import latents, projections, refusals
from .taps import Geometry
from .taps_packed import PackedTaps

MODEL_MODULE = "diffusers.models.transformers.transformer_qwenimage"
MASK_FUNCTION = "compute_text_seq_len_from_mask"  # came with the attention that leaves padding out


class QwenImage(PackedTaps):
    PIPELINES = (
        "QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline",
    )
    ROWS = (
        "hidden_states", "timestep", "guidance", "encoder_hidden_states", "encoder_hidden_states_mask", "img_shapes",
        "additional_t_cond",
    )
    CONDITIONAL_HALF = 0
    PROMPTS_ONCE = False  # with num_images_per_prompt rows get the text mask of another prompt (seen up to diffusers 0.42)
    LORA_TARGETS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "img_mlp.net.0.proj", "img_mlp.net.2")
    TIME_DIVISOR = 1000.0

    def why_not(self, pipeline):
        config = pipeline.transformer.config
        return refusals.first(
            refusals.of_channels(pipeline.transformer, config.in_channels, config.out_channels * config.patch_size**2),
            refusals.of_processors(pipeline.transformer), refusals.of_scheduler(self, pipeline))

    def geometry(self, denoiser, kwargs):
        own = kwargs["img_shapes"][0]
        frames, height, width = own[0] if isinstance(own[0], (list, tuple)) else own
        if frames != 1:
            raise ValueError(f"Qwen-Image denoises {frames} layers at once; one was expected")
        return Geometry(kwargs["hidden_states"].shape[-1] // 4, 2 * height, 2 * width, (height, width))

    def query_and_keys(self, attention, kwargs, rows, layout):
        query, key_image = projections.of_own_tokens(attention, kwargs["hidden_states"][rows])
        key_text = projections.key_of_text(attention, kwargs["encoder_hidden_states"][rows])
        query = query[:, :, : layout.geometry.image_tokens]
        if kwargs.get("image_rotary_emb") is None:
            return query, key_image, key_text
        image, text = kwargs["image_rotary_emb"]
        return (
            projections.turned_complex(query, image[: layout.geometry.image_tokens]),
            projections.turned_complex(key_image, image),
            projections.turned_complex(key_text, text),
        )

    def hidden_blocks(self, denoiser):
        return [(f"transformer_blocks.{i}", block) for i, block in enumerate(denoiser.transformer_blocks)]

    def hidden_state(self, output, layout):
        return output[1][:, : layout.geometry.image_tokens]  # (text, image)

    def attended(self, kwargs):
        mask = kwargs.get("encoder_hidden_states_mask")
        if mask is None or not hasattr(sys.modules.get(MODEL_MODULE), MASK_FUNCTION):
            return None
        return mask.bool()

    def valid_tokens(self, kwargs):
        mask = kwargs.get("encoder_hidden_states_mask")
        return None if mask is None else mask.bool().sum(dim=1)

    def content(self, pipeline, prompt, text_tokens, longest, valid):
        before, _, after = pipeline.prompt_template_encode.partition("{}")
        filled = text_tokens if valid is None else valid
        words = _count(pipeline.tokenizer, prompt)
        if getattr(pipeline, "processor", None) is None:
            first = _count(pipeline.tokenizer, before) - pipeline.prompt_template_encode_start_idx
        else:  # an edit: the reference's tokens stand between the template and the prompt
            first = filled - _count(pipeline.tokenizer, after) - words
        return [int(first <= place < min(first + words, filled)) for place in range(text_tokens)]

    def guided(self, pipeline, conditional, unconditional, arguments):
        joined = unconditional + arguments["true_cfg_scale"] * (conditional - unconditional)
        length = torch.norm(conditional, dim=-1, keepdim=True)
        return joined * (length / torch.norm(joined, dim=-1, keepdim=True))

    def decoder_input(self, vae, state, geometry):
        return latents.destandardised(vae, self.map_of(state, geometry)[:, :, None].to(vae.dtype))

    def state_of_decoder_input(self, vae, decoded, geometry):
        return self.state_of(latents.standardised(vae, decoded.float())[:, :, 0], geometry)

    def images(self, pipeline, decoded):
        return pipeline.image_processor.postprocess(decoded[:, :, 0], output_type="pt")


def _count(tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
