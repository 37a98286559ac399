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
POOLED_ARGUMENT = "pooled_projections"
CONDITIONAL_HALF = 1  # under guidance rows [B, 2B) carry the prompt
CONDITIONAL_CALL = 0  # of a host that asks for both branches apart
LORA_TARGETS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")


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
    encoded = tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_special_tokens_mask=True
    )
    padding_or_special = encoded["special_tokens_mask"]
    return [int(real and not special) for real, special in zip(encoded["attention_mask"], padding_or_special)]


def is_guided(pipeline) -> bool:
    return bool(pipeline.do_classifier_free_guidance)


def guided(pipeline, conditional, unconditional):
    """The velocity that the host steps with, from both branches; same shape."""
    return unconditional + pipeline.guidance_scale * (conditional - unconditional)


def timestep(pipeline, sigma: float) -> float:
    """What the denoiser is told of a σ."""
    return sigma * pipeline.scheduler.config.num_train_timesteps


def hidden_block(denoiser, name: str):
    """The block whose hidden state is taken: "middle", or a block by the name of it or of its attention."""
    found = denoiser.transformer_blocks
    if name == "middle":
        return found[len(found) // 2]
    names = [f"transformer_blocks.{index}" for index in range(len(found))]
    wanted = name.removesuffix(".attn")
    if wanted not in names:
        raise ValueError(f"there is no block {name}: probe.hidden_block is middle or one of {names[0]} to {names[-1]}")
    return found[names.index(wanted)]


def hidden_width(denoiser) -> int:
    return denoiser.config.num_attention_heads * denoiser.config.attention_head_dim


def hidden_state(output):
    """The image's hidden state [rows, tokens, width] in what a block returns: (text, image)."""
    return output[1]
