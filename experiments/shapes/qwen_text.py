"""Tokenizer and frozen text encoder of the Qwen-Image-like family, in the classes that Qwen-Image uses.

The pipeline puts a prompt into a template and drops the template's first 34 tokens from the hidden states. Every
word of the world and of the templates is one token here, as in the large vocabulary, so that the count is the same.

The encoder is constructed, not trained: one layer whose queries and keys are biases only. Rotary positions turn them
into attention to fixed distances, so that its three heads copy the tokens one, two and three places before.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .text import byte_alphabet, learn_merges, orthogonal, write_json
from .world import words

WIDTH, HEADS, HEAD_WIDTH = 96, 3, 32
ROPE_THETA = 4.0  # every frequency is high enough to tell neighbours apart
TEMPLATE_WORDS = (
    "system user assistant Describe the image by detailing color shape size texture quantity text spatial "
    "relationships of objects and background key features input then explain how should alter or modify "
    "instruction Generate a new that meets requirements while maintaining consistency with original where appropriate"
).split()
TEMPLATE_SIGNS = ("'s", "Ġ(", "),")  # the tokens of the editing template that are more than one sign
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, START, STOP, "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token numbers and merges: single bytes, then the words alone and after a space (spelt Ġ)."""
    known = sorted({*words(), *TEMPLATE_WORDS})
    spellings = [spelling for word in known for spelling in (word, "Ġ" + word)] + [*TEMPLATE_SIGNS]
    merges = learn_merges([[*spelling] for spelling in spellings])
    tokens = [*byte_alphabet(), *("".join(pair) for pair in merges)]
    return {token: index for index, token in enumerate([*tokens, *SPECIAL])}, merges


def write_tokenizer(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt`` with their configuration, as ``Qwen2Tokenizer`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, merges = vocabulary()
    plain = {token: index for token, index in numbers.items() if token not in SPECIAL}
    (folder / "vocab.json").write_text(json.dumps(plain, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in merges))
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    special = {"eos_token": STOP, "pad_token": END, "unk_token": END}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 1024,
        "add_prefix_space": False,
        "bos_token": None,
        "added_tokens_decoder": {str(numbers[token]): {"content": token, **flags} for token in SPECIAL},
        "additional_special_tokens": list(SPECIAL[1:]),
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**settings, **special})


def make_config():
    from transformers import Qwen2_5_VLConfig

    numbers, _ = vocabulary()
    language = {
        "vocab_size": len(numbers),
        "hidden_size": WIDTH,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 2048,
        "rope_theta": ROPE_THETA,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "bos_token_id": numbers[END],
        "eos_token_id": numbers[STOP],
        "pad_token_id": numbers[END],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLConfig(
        text_config=language,
        vision_config=vision,
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def turned(vector: torch.Tensor, distance: float) -> torch.Tensor:
    """``vector`` [HEAD_WIDTH] after the rotation that rotary positions give a token ``distance`` places on."""
    half = HEAD_WIDTH // 2
    angle = distance * ROPE_THETA ** (-torch.arange(half) / half)
    first, second = vector[:half], vector[half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])


@torch.no_grad()
def make_encoder(seed: int):
    """A ``Qwen2_5_VLForConditionalGeneration`` whose last hidden state is a word and the words before it."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration(make_config())
    generator = torch.Generator().manual_seed(seed)
    # The key k and the query R(-d) k meet at distance d; elsewhere their frequencies fall out of step.
    key = torch.cat([torch.full((HEAD_WIDTH // 2,), 3.5), torch.zeros(HEAD_WIDTH // 2)])
    for name, weight in model.named_parameters():
        if "visual" in name:
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
            elif not name.endswith("bias"):
                weight.fill_(1.0)
            else:
                weight.zero_()
        elif name.endswith("embed_tokens.weight"):
            weight.copy_(torch.randn(weight.shape, generator=generator))
        elif name.endswith("norm.weight"):
            weight.fill_(1.0)
        elif name.endswith("k_proj.bias"):
            weight.copy_(key.repeat(HEADS))
        elif name.endswith("q_proj.bias"):
            weight.copy_(torch.cat([turned(key, -distance) for distance in range(1, HEADS + 1)]))
        elif name.endswith(("v_proj.weight", "o_proj.weight")):
            weight.copy_(orthogonal(*weight.shape, generator))
        elif not name.endswith("lm_head.weight"):  # tied to the embeddings; the rest is queries, keys, feed-forward
            weight.zero_()
    return model.eval().requires_grad_(False)
