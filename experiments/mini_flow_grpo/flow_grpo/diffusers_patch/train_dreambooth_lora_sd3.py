"""Text to the two tensors that a Stable Diffusion 3 transformer reads."""

import torch

CLIP_LENGTH_MAX = 77


def _tokenize(tokenizer, prompts, length, device):
    """Token ids, int64 [n, length]."""
    return tokenizer(
        prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids.to(device)


def _encode_clip(text_encoder, tokenizer, prompts):
    """(hidden states before the last layer [n, L, D], pooled projection [n, P])."""
    length = min(tokenizer.model_max_length, CLIP_LENGTH_MAX)
    output = text_encoder(
        _tokenize(tokenizer, prompts, length, text_encoder.device), output_hidden_states=True
    )
    return output.hidden_states[-2], output[0]


def encode_prompt(text_encoders, tokenizers, prompt, max_sequence_length):
    """Encodes n prompts with two CLIP models and a T5 encoder.

    Args:
        text_encoders, tokenizers: CLIP, CLIP, T5, in this order.
        prompt: a string or a list of n strings; a prompt that occurs often is encoded once.
        max_sequence_length: length of the T5 part.

    Returns:
        (prompt_embeds [n, L_clip + max_sequence_length, D_t5], pooled_prompt_embeds [n, P_1 + P_2]).
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    unique = list(dict.fromkeys(prompts))
    rows = torch.tensor([unique.index(text) for text in prompts])

    hidden, pooled = zip(
        *(_encode_clip(text_encoders[i], tokenizers[i], unique) for i in range(2))
    )
    t5 = text_encoders[2]
    t5_hidden = t5(_tokenize(tokenizers[2], unique, max_sequence_length, t5.device))[0]

    clip_hidden = torch.cat(hidden, dim=-1)
    # The two CLIP models side by side are narrower than T5: zeros fill the rest.
    clip_hidden = torch.nn.functional.pad(
        clip_hidden, (0, t5_hidden.shape[-1] - clip_hidden.shape[-1])
    )
    prompt_embeds = torch.cat([clip_hidden, t5_hidden], dim=1)
    pooled_prompt_embeds = torch.cat(pooled, dim=-1)
    rows = rows.to(prompt_embeds.device)
    return prompt_embeds[rows], pooled_prompt_embeds[rows]
