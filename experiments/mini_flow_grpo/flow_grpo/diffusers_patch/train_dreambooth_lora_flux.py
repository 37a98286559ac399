"""Text to the two tensors that a FLUX transformer reads."""

import torch

CLIP_LENGTH_MAX = 77


def _tokenize(tokenizer, prompts, length, device):
    """Token ids, int64 [n, length]."""
    return tokenizer(
        prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids.to(device)


def encode_prompt(text_encoders, tokenizers, prompt, max_sequence_length):
    """Encodes n prompts with a CLIP model, for the pooled vector alone, and a T5 encoder.

    Args:
        text_encoders, tokenizers: CLIP, T5, in this order.
        prompt: a string or a list of n strings; a prompt that occurs often is encoded once.

    Returns:
        (prompt_embeds [n, max_sequence_length, D], pooled_prompt_embeds [n, P], text_ids
        [max_sequence_length, 3], zeros: text has no place in the image).
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    unique = list(dict.fromkeys(prompts))
    clip, t5 = text_encoders
    rows = torch.tensor([unique.index(text) for text in prompts], device=t5.device)
    length = min(tokenizers[0].model_max_length, CLIP_LENGTH_MAX)
    pooled = clip(_tokenize(tokenizers[0], unique, length, clip.device)).pooler_output
    embeds = t5(_tokenize(tokenizers[1], unique, max_sequence_length, t5.device))[0]
    return embeds[rows], pooled[rows], torch.zeros(embeds.shape[1], 3, device=embeds.device)
