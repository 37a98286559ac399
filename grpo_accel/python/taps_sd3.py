"""Stable Diffusion 3 and 3.5: names and layouts only.

Transformer call: keyword arguments, rows along dimension 0; under classifier-free guidance the batch is doubled,
unconditional rows first. Joint attention over [image tokens, text tokens], text = 77 CLIP then T5, no mask.
q and k are normalised per head; there is no rotary embedding (diffusers 0.33 to 0.42).
"""

from __future__ import annotations

PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
DENOISER = "transformer"
ROW_ARGUMENTS = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections")
STATE_ARGUMENT = "hidden_states"
TEXT_ARGUMENT = "encoder_hidden_states"
CONDITIONAL_HALF = 1  # under guidance rows [B, 2B) carry the prompt


def blocks(denoiser) -> list:
    """(name, attention module) of every joint block, in order of depth; works through a PEFT wrapper."""
    return [(f"transformer_blocks.{i}.attn", block.attn) for i, block in enumerate(denoiser.transformer_blocks)]


def token_shape(denoiser, latent_height: int, latent_width: int) -> tuple:
    patch = denoiser.config.patch_size
    return latent_height // patch, latent_width // patch


def _heads(tensor, heads: int):
    """[rows, tokens, heads·d] → [rows, heads, tokens, d], a view."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def query_and_keys(attention, kwargs: dict, rows: slice) -> tuple:
    """What the module itself will attend with, for `rows`: query and key of the image, key of the text."""
    image = kwargs["hidden_states"][rows]
    text = kwargs["encoder_hidden_states"][rows]
    query = _heads(attention.to_q(image), attention.heads)
    key_image = _heads(attention.to_k(image), attention.heads)
    key_text = _heads(attention.add_k_proj(text), attention.heads)
    if attention.norm_q is not None:
        query = attention.norm_q(query)
    if attention.norm_k is not None:
        key_image = attention.norm_k(key_image)
    if attention.norm_added_k is not None:
        key_text = attention.norm_added_k(key_text)
    return query, key_image, key_text


def content_mask(pipeline, prompt: str, text_tokens: int, t5_tokens: int) -> list:
    """1 for tokens of the prompt's own words, 0 for padding and special tokens; length text_tokens."""
    clip_tokens = text_tokens - t5_tokens
    mask = _content(pipeline.tokenizer, prompt, clip_tokens)
    if t5_tokens > 0:
        mask += _content(pipeline.tokenizer_3, prompt, t5_tokens)
    return mask


def _content(tokenizer, prompt: str, length: int) -> list:
    if tokenizer is None:
        return [0] * length
    encoded = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_special_tokens_mask=True)
    padding_or_special = encoded["special_tokens_mask"]
    return [int(real and not special) for real, special in zip(encoded["attention_mask"], padding_or_special)]
