"""Tokenizers and frozen text encoders of the world, in the classes that Stable Diffusion 3 uses.

The encoders are constructed, not trained:

* Two CLIP text models give every word a fixed random vector plus a fixed vector for its position (the text
  stream of SD3 has no positions of its own; without these a prompt would be a bag of words). The hidden
  state that SD3 reads is the embedding itself. The single layer attends evenly to all tokens so far, so the
  pooled vector, read at the end token, is a random projection of the mean of the prompt's words.
* The T5 encoder attends to fixed distances through its relative position bias: its heads copy the one, two
  and three tokens before. A T5 vector therefore knows a word and what stands before it ("red circle").
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from .world import words

CLIP_WIDTH = 48
T5_WIDTH = 2 * CLIP_WIDTH
TEXT_LENGTH = 16
CLIP_POSITIONS = 77
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"


def byte_alphabet() -> list[str]:
    """The printable stand-ins of the 256 bytes that CLIP's byte-level BPE starts from."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(spellings: list[list[str]]) -> list[tuple[str, str]]:
    """BPE merges, most frequent pair first, until each of the ``spellings``, lists of symbols, is a single token."""
    spellings = [[*symbols] for symbols in spellings]
    merges = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for symbols in spellings:
            for pair in zip(symbols, symbols[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return merges
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for symbols in spellings:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = ["".join(best)]
                at += 1


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = learn_merges([[*word[:-1], word[-1] + "</w>"] for word in words()])
    letters = byte_alphabet()
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    return {token: index for index, token in enumerate([*tokens, PAD, START, END])}, merges


def write_clip_tokenizer(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt`` with their configuration, readable by every ``CLIPTokenizer``."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = clip_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": PAD}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_LENGTH, "do_lower_case": True}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**settings, **special})


def write_t5_tokenizer(folder: Path) -> None:
    """A Unigram ``tokenizer.json`` over the world's words (and single letters for anything else)."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -1.0) for word in words()]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {**settings, **special, "additional_special_tokens": []})


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """A random [rows, columns] matrix with orthonormal rows or columns."""
    normal = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    basis = torch.linalg.qr(normal).Q
    return basis if rows >= columns else basis.T


@torch.no_grad()
def make_clip_encoder(seed: int, cls=CLIPTextModelWithProjection, layers: int = 1, heads: int = 1):
    """Hidden states [N, L, CLIP_WIDTH] = word + position; pooled [N, CLIP_WIDTH] = projected mean, in either class."""
    vocabulary, _ = clip_vocabulary()
    model = cls(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=CLIP_WIDTH,
            projection_dim=CLIP_WIDTH,
            intermediate_size=16,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=CLIP_POSITIONS,
            hidden_act="gelu",
            bos_token_id=vocabulary[START],
            eos_token_id=vocabulary[END],
            pad_token_id=vocabulary[PAD],
        )
    )
    generator = torch.Generator().manual_seed(seed)
    weights = {name: parameter for name, parameter in model.named_parameters()}
    for name, weight in weights.items():
        if name.endswith("token_embedding.weight"):
            weight.copy_(torch.randn(weight.shape, generator=generator))
        elif name.endswith("position_embedding.weight"):
            weight.copy_(0.7 * torch.randn(weight.shape, generator=generator))
        elif "norm" in name and name.endswith("weight"):
            weight.fill_(1.0)
        elif name.endswith("v_proj.weight"):
            weight.copy_(orthogonal(*weight.shape, generator))
        elif name.endswith("out_proj.weight"):
            # The mean of n words shrinks as 1/sqrt(n): the factor lets it outweigh the end token's own vector.
            weight.copy_(4.0 * orthogonal(*weight.shape, generator))
        elif name.endswith("text_projection.weight"):
            weight.copy_(orthogonal(*weight.shape, generator))
        else:  # queries, keys, the feed-forward branch and all biases
            weight.zero_()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def make_copying_clip_encoder(seed: int) -> CLIPTextModelWithProjection:
    """Hidden state before the last layer [N, L, CLIP_WIDTH] = word + position + the three words before.

    Two thirds of the width hold the word, the rest its position as cosines and sines of eight frequencies. Turning
    those by d places makes a query that meets the key d places before, so that the first layer's three heads copy
    the words one, two and three places before; the second layer takes the mean that the pooled vector is read from.
    """
    model = make_clip_encoder(seed, layers=2, heads=3)
    words_width, head = CLIP_WIDTH * 2 // 3, CLIP_WIDTH // 3
    frequency = 4.0 ** (-torch.arange(head // 2) / (head // 2))
    angle = torch.arange(CLIP_POSITIONS)[:, None] * frequency
    weights = dict(model.named_parameters())
    by_end = {name.split("text_model.")[-1]: weight for name, weight in weights.items()}
    by_end["embeddings.token_embedding.weight"][:, words_width:] = 0.0
    position = by_end["embeddings.position_embedding.weight"]
    position.zero_()
    position[:, words_width:] = torch.cat([angle.cos(), angle.sin()], 1)
    first = "encoder.layers.0.self_attn"
    for index in range(3):
        rows = slice(index * head, (index + 1) * head)
        turn = (index + 1) * frequency
        cosine, sine = torch.diag(turn.cos()), torch.diag(turn.sin())
        back = torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])
        by_end[f"{first}.q_proj.weight"][rows, words_width:] = 4.0 * back
        by_end[f"{first}.k_proj.weight"][rows, words_width:] = 4.0 * torch.eye(head)
    by_end[f"{first}.v_proj.weight"][:, words_width:] = 0.0
    by_end[f"{first}.out_proj.weight"].div_(4.0)
    return model


@torch.no_grad()
def make_t5_encoder(seed: int) -> T5EncoderModel:
    """Hidden states [N, L, T5_WIDTH] = word + (rotated) words one, two and three tokens before."""
    heads, head_width = 3, 32
    model = T5EncoderModel(
        T5Config(
            vocab_size=4 + len(words()) + 26,
            d_model=T5_WIDTH,
            d_kv=head_width,
            d_ff=16,
            num_layers=1,
            num_heads=heads,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            feed_forward_proj="relu",
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith(("shared.weight", "embed_tokens.weight")):
            weight.copy_(torch.randn(weight.shape, generator=generator))
        elif "layer_norm" in name:
            weight.fill_(1.0)
        elif name.endswith("relative_attention_bias.weight"):
            weight.zero_()
            for head in range(heads):  # bucket d holds the tokens d before
                weight[head + 1, head] = 20.0
        elif name.endswith("SelfAttention.v.weight"):
            weight.copy_(orthogonal(*weight.shape, generator))
        elif name.endswith("SelfAttention.o.weight"):
            weight.copy_(orthogonal(*weight.shape, generator))
        else:  # queries, keys and the feed-forward branch
            weight.zero_()
    return model.eval().requires_grad_(False)
