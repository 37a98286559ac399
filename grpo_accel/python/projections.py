"""From a block's tokens to what it attends with: projections (fused or apart), normalisation, rotary embedding.

Every function reads the modules that the block itself runs, LoRA layers included; tokens are [rows, tokens, width],
results [rows, heads, tokens, head size].
"""

from __future__ import annotations

from typing import Any

import torch

from .taps import heads


def is_fused(attention: Any) -> bool:
    """Did the host join the projections to one (`fuse_qkv_projections`)? Then the separate ones are out of use.

    diffusers' older class keeps its mark when the host takes that back: there the processor tells.
    """
    if not getattr(attention, "fused_projections", False):
        return False
    return hasattr(attention, "_default_processor_cls") or "Fused" in type(attention.processor).__name__


def of_own_tokens(attention: Any, tokens: torch.Tensor, norms: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """(query, key) of the tokens that the block's `to_q` and `to_k` are for."""
    if is_fused(attention):
        query, key, _ = attention.to_qkv(tokens).chunk(3, dim=-1)
    else:
        query, key = attention.to_q(tokens), attention.to_k(tokens)
    query, key = heads(query, attention.heads), heads(key, attention.heads)
    if not norms:
        return query, key
    return normalised(attention, "norm_q", query), normalised(attention, "norm_k", key)


def key_of_text(attention: Any, text: torch.Tensor, norms: bool = True) -> torch.Tensor:
    """Key of the text in a joint block, where the text has projections of its own."""
    if is_fused(attention) and hasattr(attention, "to_added_qkv"):
        key = attention.to_added_qkv(text).chunk(3, dim=-1)[1]
    else:
        key = attention.add_k_proj(text)
    key = heads(key, attention.heads)
    return normalised(attention, "norm_added_k", key) if norms else key


def normalised(attention: Any, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Through the block's normalisation of that name, where it has one."""
    norm = getattr(attention, name, None)
    return tensor if norm is None else norm(tensor)


def turned(tensor: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of neighbouring pairs, cosine and sine [tokens, head size], computed in fp32."""
    first, second = tensor.float().unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack((-second, first), dim=-1).flatten(-2)
    return (tensor.float() * cosine.to(tensor.device) + crossed * sine.to(tensor.device)).to(tensor.dtype)


def turned_complex(tensor: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The same for turns given as complex numbers, [tokens, head size / 2]."""
    pairs = torch.view_as_complex(tensor.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns.to(tensor.device)).flatten(-2).to(tensor.dtype)
